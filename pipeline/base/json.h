/* Small layer over jansson: bounded loading with places in errors, canonical writing, typed getters that name what is wrong. */
#ifndef PIPELINE_BASE_JSON_H
#define PIPELINE_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pipeline/base/buf.h"
#include "pipeline/base/err.h"

/* Parse. name is used in errors (FILE:LINE:COL). Duplicate keys, invalid UTF-8 and nesting beyond jansson's limit are errors.
 * Returns NULL on failure. The caller json_decref()s. */
json_t *json_parse(const char *text, size_t bytes, const char *name, struct err *e);
json_t *json_parse_file(const char *path, size_t max_bytes, struct err *e);

/* Canonical bytes: no spaces, keys in byte order, strings with the shortest escapes, integers in decimal, reals as the shortest
 * decimal that reads back to the same double (always with '.', 'e' or both). Equal values give equal bytes. */
void json_canonical(const json_t *v, struct buf *out);
/* The same, indented by two spaces, keys in insertion order, for files that people read; ends with a newline. */
void json_pretty(const json_t *v, struct buf *out);
/* Shortest decimal of a double that reads back the same ("0.05", "1e-06", "2"). out >= 32 bytes. */
const char *json_real_text(double x, char out[32]);

/* Getters: `where` names the object in errors ("config.json"). The need_ forms fail when absent; opt_ forms leave *out alone. A value of
 * another type is an error in both. Integers are checked against lo..hi. JSON null counts as absent for opt_ forms. */
int json_need_int(const json_t *o, const char *where, const char *key, int64_t lo, int64_t hi, int64_t *out, struct err *e);
int json_opt_int(const json_t *o, const char *where, const char *key, int64_t lo, int64_t hi, int64_t *out, struct err *e);
int json_opt_real(const json_t *o, const char *where, const char *key, double *out, struct err *e); /* integers are taken */
int json_opt_bool(const json_t *o, const char *where, const char *key, bool *out, struct err *e);
int json_need_str(const json_t *o, const char *where, const char *key, const char **out, struct err *e); /* borrowed */
int json_opt_str(const json_t *o, const char *where, const char *key, const char **out, struct err *e);  /* borrowed */

#endif

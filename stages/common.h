/* What several stages do alike: reading typed parameters, digesting filesets, opening the things that inputs name. */
#ifndef STAGES_COMMON_H
#define STAGES_COMMON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "pipeline/stage.h"
#include "stages/text/tok.h"

/* Parameters as the loader typed them: the field exists in schema.def. Unset ones give 0, false or NULL. */
int64_t param_int(const struct stage_ctx *s, const char *name);
double param_real(const struct stage_ctx *s, const char *name);
bool param_bool(const struct stage_ctx *s, const char *name);
const char *param_str(const struct stage_ctx *s, const char *name); /* borrowed */
const json_t *param_json(const struct stage_ctx *s, const char *name); /* NULL when unset */
/* Copies named parameters into a key's fields. names ends with NULL. */
void param_copy(const struct stage_ctx *s, json_t *out, const char *const *names);
/* Sets an error of the given code at the parameter's place in the manifest. Returns -code. */
int param_error(const struct stage_ctx *s, const char *path, enum err_code code, struct err *e, const char *fmt, ...) ERR_PRINTF(5, 6);
/* Fails unless lo <= value <= hi, naming field and value. */
int param_range(const struct stage_ctx *s, const char *name, int64_t lo, int64_t hi, struct err *e);
/* A path of the manifest, made relative to its folder. The caller frees. */
char *param_path(const struct stage_ctx *s, const char *path);

/* {"name": "sha256", ...} of all files, or of those for which keep (may be NULL) is true. New reference. */
json_t *fileset_json(const struct fileset *f, bool (*keep)(const char *name));

/* The input's files hold a model (config.json)? */
bool fileset_has_model(const struct fileset *f);
int tok_load_fileset(const struct fileset *f, struct tok **out, struct err *e); /* its tokenizer.json */

/* Writes JSON (pretty) to dir/name, as a node's output. */
int output_json(const char *dir, const char *name, const json_t *v, struct err *e);

#endif

/* Resolving a checkpoint's `dynamic` as its writer does (ModelCloud/GPTQModel@f4c327a17:gptqmodel/quantization/config.py): patterns "-:"
 * are negative, "+:" or no prefix positive; negatives are tried first, then the rest in the file's order; PCRE2, anchored at the start and
 * not at the end; the first match decides, nothing is merged. */
#ifndef STAGES_LM_DYNAMIC_H
#define STAGES_LM_DYNAMIC_H

#include <jansson.h>

#include "pipeline/base/err.h"

struct dynamic;

/* o may be NULL (no overrides); borrowed until dynamic_free. A pattern that does not compile is named with its offset. */
int dynamic_compile(const json_t *o, const char *where, struct dynamic **out, struct err *e);
void dynamic_free(struct dynamic *d);
/* 1: *settings is the object of the positive pattern that matched; -1: skipped by a negative; 0: no match. pattern (may be NULL): which
 * matched; both borrowed. */
int dynamic_match(const struct dynamic *d, const char *name, const json_t **settings, const char **pattern);

#endif

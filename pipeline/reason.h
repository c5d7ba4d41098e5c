/* Why a node runs: the difference between two preimages, field by field. */
#ifndef PIPELINE_REASON_H
#define PIPELINE_REASON_H

#include <jansson.h>

enum reason {
#define R(name, text) REASON_##name,
#include "pipeline/reason.def"
#undef R
};
const char *reason_text(enum reason r);

/* Calls fn for every leaf that differs, in byte order of paths ("bits", "data.wiki.txt", "rev"; the leading "fields." is left out). A value
 * that is absent on one side is NULL; what differs in type or is an empty container is given whole. Stops when fn returns nonzero and
 * returns that. */
int reason_each_difference(const json_t *old_preimage, const json_t *new_preimage,
                           int (*fn)(void *arg, const char *path, const json_t *from, const json_t *to), void *arg);
/* The reason and the path of the difference that explains it best: implementation, numerics, salt, parameters, inputs, in this order.
 * *field is the caller's to free; NULL and REASON_NO_RECORD when nothing differs. A leaf that is a digest on either side is an input. */
enum reason reason_of(const json_t *old_preimage, const json_t *new_preimage, char **field);

#endif

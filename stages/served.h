/* Which kernels served a model, module class by module class, for records and lines of run.jsonl:
 *   {"kernel": {"q_proj": "marlin/gptq-w4g128", "down_proj": "marlin/gptq-w4g128+gptq-w8g32", ..., "lm_head": "dense/bf16"}, "kernel_why": {"q_proj": rule}}
 * Formats are joined by '+' where layers differ, in the order in which they first come; a kernel's name stands before the first format that it served. kernel_why is
 * there only where a faster class could not serve: the first reason that any layer gave.
 *
 *     struct served s = {.m = model};  served_add for every weight;  served_json(&s);  served_release(&s); */
#ifndef STAGES_SERVED_H
#define STAGES_SERVED_H

#include <jansson.h>

#include "pipeline/base/buf.h"
#include "stages/lm/decoder.h"
#include "stages/lm/weights.h"

struct served {
    const struct model *m; /* borrowed */
    struct {
        struct buf seen, text;
        char last[32];
        const char *why;
    } of[MOD_COUNT + 1]; /* the last: lm_head */
};

/* layer -1 and MOD_COUNT: lm_head. kernel and why as weight_kernel gives them. */
void served_add(struct served *s, int64_t layer, enum module_id mod, const char *kernel, const char *why);
json_t *served_json(const struct served *s);
/* Of a whole model on its decoder. New reference. */
json_t *served_decoder(const struct model *m, const struct decoder *d);
void served_release(struct served *s); /* fine on a zeroed struct */

#endif

/* What the quantize stage knows once its model's metadata can be read; pack looks at it too. */
#ifndef STAGES_QUANTIZE_H
#define STAGES_QUANTIZE_H

#include "pipeline/stage.h"
#include "stages/lm/weights.h"
#include "stages/quant/overrides.h"

struct quantize_info {
    struct model model;
    struct quant_params base;
    struct override_module *modules; /* layer by layer in the order of enum module_id, then lm_head */
    size_t module_count;
    struct override_table table;
};

/* Of a quantize stage's context, after expand; NULL before. Borrowed. */
const struct quantize_info *quantize_info(const struct stage_ctx *s);
/* Row of a module; layer -1 means lm_head. */
const struct override_row *quantize_row(const struct quantize_info *q, int64_t layer, enum module_id m);
/* Whether a module's settings need the native hidden stream beside the quantized one (compensate, compensate_residual, output_metric). */
bool quantize_two_streams(const struct quantize_info *q);

/* quantize_layer.c: the chain. */
int quantize_chain_open(struct stage_ctx *s, struct run_ctx *r, void **chain, struct err *e);
int quantize_run(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, const char *outdir, struct err *e);
int quantize_replay(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, struct err *e);
void quantize_chain_close(struct stage_ctx *s, struct run_ctx *r, void *chain);

#endif

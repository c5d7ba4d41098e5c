/* What the quantize stage knows once its model's metadata can be read; pack looks at it too. */
#ifndef STAGES_QUANTIZE_H
#define STAGES_QUANTIZE_H

#include "pipeline/stage.h"
#include "stages/lm/weights.h"
#include "stages/quant/overrides.h"

/* What one node quantizes: modules first..end-1 of a layer. A whole layer; with inputs original one module, each in a node of its own; lm_head is {-1, 0, 1}. */
struct quantize_node {
    int64_t layer;
    int first, end;
};

struct quantize_info {
    struct model model;
    struct quant_params base;
    struct override_module *modules; /* layer by layer in the order of enum module_id, then lm_head */
    size_t module_count;
    struct override_table table;
    struct quantize_node *nodes; /* in the order of the stage's */
    size_t node_count;
};

/* Of a quantize stage's context, after expand; NULL before. Borrowed. */
const struct quantize_info *quantize_info(const struct stage_ctx *s);
/* Row of a module; layer -1 means lm_head. */
const struct override_row *quantize_row(const struct quantize_info *q, int64_t layer, enum module_id m);
/* Name of the node that quantizes a module (layer -1: lm_head), hence of its files NAME.safetensors and NAME.report.json: "layer.3", "layer.3.mlp.down_proj". */
void quantize_node_name(const struct quantize_info *q, int64_t layer, enum module_id m, char out[64]);
/* Nothing depends on what other modules became (inputs: original). */
bool quantize_original(const struct quantize_info *q);
/* Whether a module's settings need the native hidden stream beside the quantized one (compensate, compensate_residual, output_metric). Not with
 * inputs original: there is only the native one then. */
bool quantize_two_streams(const struct quantize_info *q);

/* quantize_layer.c: the chain. */
int quantize_chain_open(struct stage_ctx *s, struct run_ctx *r, void **chain, struct err *e);
int quantize_run(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, const char *outdir, struct err *e);
int quantize_replay(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, struct err *e);
void quantize_chain_close(struct stage_ctx *s, struct run_ctx *r, void *chain);

#endif

/* Activations of many sequences, walked through a model one layer after another: what a quantize chain keeps open between its nodes, and how
 * an evaluation gets by with one layer's weights in memory.
 *
 * Between layers only `hidden` [T, hidden] is kept. walk_layer takes it through a layer. A quantizer goes inside a layer
 *     walk_attn_norm (Hessian of q,k,v) -> walk_attention -> walk_o_input (Hessian of o) -> walk_attn_out
 *     -> walk_mlp_norm (Hessian of gate,up) -> walk_mlp_act (Hessian of down) -> walk_mlp_out
 * and may replace a module's weight on the layer between steps: quantized outputs then feed what follows.
 * A struct hessian takes the rows of all T tokens in order; NULL where none is wanted.
 *
 * With `native` a second stream walks beside the first, through the source layer: what the model would have had there. For each half of a layer
 *     walk_native_attention or walk_native_mlp (the half's output is kept aside; the output metrics of its modules are gathered)
 *     ... the steps above, whose Hessians, where they have pairs (struct hessian), get: q,k,v and gate,up the native input; o and down what the module
 *         should add to the stream, pair->own * (its native output) + pair->residual * (native - hidden) ...
 *     walk_native_advance (native += the half's output)
 * Where `hidden` itself walks through the source layers, walk_attention and walk_mlp_act gather the output metrics.
 * Rows go through in blocks; results do not depend on their size.
 */
#ifndef STAGES_LM_WALK_H
#define STAGES_LM_WALK_H

#include "stages/lm/decoder.h"
#include "stages/lm/metric.h"
#include "stages/lm/rowstore.h"
#include "stages/quant/hessian.h"

/* What is walked, borrowed until walk_close. Ids lie in the vocabulary, samples have 1 .. context ids: the caller has checked. */
struct walk_input {
    const int32_t *ids;
    const int64_t *offsets; /* samples + 1: sample i has the ids offsets[i] .. offsets[i+1]-1, offsets[0] = 0 */
    int64_t samples;
    int64_t block_rows;     /* rows at a time, a multiple of HESSIAN_BLOCK_ROWS; more when a sample is longer */
    uint64_t memory_bytes;  /* what all stores of rows together may keep in memory; 0: a share of the machine's */
    const char *scratch;    /* folder for the larger ones */
    bool native;            /* a second stream through the source layers */
};
/* What o and down are paired with. */
struct walk_pair {
    double own, residual;
    const float *bias; /* device [hidden], of the source module, or NULL: no part of the module's product */
};
typedef int walk_progress(void *arg, double done, double total); /* nonzero stops with -ERR_CANCELLED */

struct walk {
    struct backend *b;         /* borrowed */
    const struct model *model; /* borrowed */
    struct decoder_env env;
    int64_t tokens;            /* T */
    struct rowstore hidden;
    double done, total;        /* progress in tokens x steps: the caller's to reset */
    walk_progress *progress;   /* the caller's to set; NULL = none */
    void *progress_arg;
    /* private */
    struct walk_input in;
    struct rowstore a, act, saved; /* opened when first written */
    struct rowstore native, delta; /* with `native`: its hidden rows; the output of the half at hand */
    int64_t longest, block;
    float *p, *u;     /* device, block rows of hidden (with `native`), of intermediate (when a metric first wants it) */
    float *x, *y, *z; /* device: block rows of hidden, of the wider of hidden and heads*D, of the wider of intermediate and heads*D */
    struct kv_cache **kv;
    int32_t *pos;
};

/* Embeds the ids. */
int walk_open(struct walk *w, struct backend *b, const struct model *m, const struct walk_input *in, struct err *e);
void walk_close(struct walk *w); /* fine on a zeroed walk */

/* l: the source layer. metric: NULL, or what gathers. */
int walk_native_attention(struct walk *w, const struct layer *l, struct metric *metric, struct err *e);
int walk_native_mlp(struct walk *w, const struct layer *l, struct metric *metric, struct err *e);
int walk_native_advance(struct walk *w, struct err *e);

int walk_attn_norm(struct walk *w, const struct layer *l, struct hessian *h, struct err *e);
int walk_attention(struct walk *w, const struct layer *l, struct metric *metric, struct err *e);
int walk_o_input(struct walk *w, struct hessian *h, const struct walk_pair *pair, struct err *e);
int walk_attn_out(struct walk *w, const struct layer *l, struct err *e);
int walk_mlp_norm(struct walk *w, const struct layer *l, struct hessian *h, struct err *e);
int walk_mlp_act(struct walk *w, const struct layer *l, struct hessian *h, const struct walk_pair *pair, struct metric *metric, struct err *e);
/* The Hessian of down by itself, behind a walk_mlp_act without one. */
int walk_down_input(struct walk *w, struct hessian *h, struct err *e);
int walk_mlp_out(struct walk *w, const struct layer *l, struct err *e);
/* Final norm of hidden: the input of lm_head. */
int walk_head_input(struct walk *w, struct hessian *h, struct err *e);
/* Keeps a copy of hidden, and puts it back (true_sequential: false walks a layer twice). */
int walk_save(struct walk *w, struct err *e);
int walk_restore(struct walk *w, struct err *e);
/* All steps at once, four of progress, no Hessian; hidden is the only store it needs. */
int walk_layer(struct walk *w, const struct layer *l, struct err *e);
/* The same for the native stream. */
int walk_native_layer(struct walk *w, const struct layer *l, struct err *e);
/* The end of a walk without Hessians: the final-normed hidden rows [T, hidden] are handed over, the caller's to rowstore_close. */
int walk_finish(struct walk *w, struct rowstore *out, struct err *e);

#endif

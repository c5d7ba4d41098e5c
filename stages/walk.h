/* The calibration set's activations, walked through the model one layer after another: the state that a quantize chain keeps open.
 *
 * Between layers only `hidden` [T, hidden] is kept. Inside a layer the caller goes
 *     walk_attn_norm (Hessian of q,k,v) -> walk_attention -> walk_o_input (Hessian of o) -> walk_attn_out
 *     -> walk_mlp_norm (Hessian of gate,up) -> walk_mlp_act (Hessian of down) -> walk_mlp_out
 * and may replace a module's weight on the layer between steps: quantized outputs then feed what follows.
 * A struct hessian takes the rows of all T tokens in order; NULL where none is wanted.
 * Rows go through in blocks; results do not depend on their size.
 */
#ifndef STAGES_WALK_H
#define STAGES_WALK_H

#include "pipeline/stage.h"
#include "stages/lm/decoder.h"
#include "stages/quant/hessian.h"
#include "stages/rowstore.h"

struct walk {
    struct backend *b;           /* borrowed */
    const struct model *model;   /* borrowed */
    struct run_ctx *r;           /* borrowed; progress and scratch */
    struct decoder_env env;
    int64_t tokens;              /* T */
    struct rowstore hidden, a, act, saved;
    double done, total;          /* progress in tokens x steps */
    /* private */
    struct st_set calibration;
    const int32_t *ids;
    const int64_t *offsets; /* samples + 1 */
    int64_t samples, longest, block;
    float *x, *y, *z;  /* device: block rows of hidden, of the wider of hidden and heads*D, of intermediate */
    struct kv_cache **kv;
    int32_t *pos;
};

/* Opens the calibration file, embeds its ids. calibration: the artifact's files. Ids are checked against the vocabulary. */
int walk_open(struct walk *w, struct backend *b, const struct model *m, const struct fileset *calibration, struct run_ctx *r, struct err *e);
void walk_close(struct walk *w); /* fine on a zeroed walk */

int walk_attn_norm(struct walk *w, const struct layer *l, struct hessian *h, struct err *e);
int walk_attention(struct walk *w, const struct layer *l, struct err *e);
int walk_o_input(struct walk *w, struct hessian *h, struct err *e);
int walk_attn_out(struct walk *w, const struct layer *l, struct err *e);
int walk_mlp_norm(struct walk *w, const struct layer *l, struct hessian *h, struct err *e);
int walk_mlp_act(struct walk *w, const struct layer *l, struct hessian *h, struct err *e);
int walk_mlp_out(struct walk *w, const struct layer *l, struct err *e);
/* Final norm of hidden: the input of lm_head. */
int walk_head_input(struct walk *w, struct hessian *h, struct err *e);
/* Keeps a copy of hidden, and puts it back (true_sequential: false walks a layer twice). */
int walk_save(struct walk *w, struct err *e);
int walk_restore(struct walk *w, struct err *e);
/* All steps, no Hessian. */
int walk_layer(struct walk *w, const struct layer *l, struct err *e);

#endif

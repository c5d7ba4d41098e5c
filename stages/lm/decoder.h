/* The decoder: a model's layers walked over backend operations. Used in two ways:
 *   run and eval hold all layers: decoder_open, then decoder_forward / decoder_logits;
 *   calibrate-and-quantize holds one: layer_load, the steps of struct layer one after the other, layer_free.
 * All activations are device memory of the backend, f32, row-major. Rows are independent in every step but layer_attention.
 */
#ifndef STAGES_LM_DECODER_H
#define STAGES_LM_DECODER_H

#include "kernels/backend.h"
#include "stages/lm/weights.h"

/* One decoder layer's weights on a backend. Any w[] may be replaced (weight_free the old one) while walking: that is how quantized outputs
 * feed what follows. */
struct layer {
    struct weight *w[MOD_COUNT];
    float *bias[MOD_COUNT];      /* device, NULL when the family has none */
    float *attn_norm, *mlp_norm; /* device [hidden] */
    float *q_norm, *k_norm;      /* device [head_dim] or NULL */
    int64_t index;
};

struct decoder_scratch; /* device memory of the steps, kept between calls and grown on need */

/* What every step needs. rope tables cover `positions`. Steps of one env run from one thread at a time. */
struct decoder_env {
    struct backend *b;
    const struct config *c;
    float *cos, *sin; /* device [positions, head_dim/2] */
    float *sin_back;  /* -sin, made when first needed */
    int64_t positions;
    struct decoder_scratch *scratch; /* owned */
};
int decoder_env_init(struct decoder_env *env, struct backend *b, const struct config *c, int64_t positions, struct err *e);
void decoder_env_release(struct decoder_env *env);

int layer_load(struct layer *l, const struct decoder_env *env, const struct model *m, int64_t index, struct err *e);
void layer_free(struct layer *l, const struct decoder_env *env);
/* One stored module (layer -1: lm_head) as the backend wants it; its pages in the map are dropped. weight_free is the caller's. */
int decoder_load_weight(struct backend *b, const struct model *m, int64_t layer, enum module_id mod, struct weight **out, struct err *e);

/* Steps. hidden [M, hidden], xn [M, hidden], a [M, heads*D], act [M, intermediate]. Scratch for q,k,v and gate,up is the env's. */
int layer_attn_norm(const struct layer *l, const struct decoder_env *env, const float *hidden, float *xn, int64_t M, struct err *e);
/* q,k,v projections, biases, QK norms, rotary, attention. kv_layer: which layer of the caches. pos [M] host. */
int layer_attention(const struct layer *l, const struct decoder_env *env, const float *xn, float *a, int64_t M, const int32_t *pos,
                    const struct attn_segment *segments, size_t segment_count, int kv_layer, struct err *e);
int layer_attn_out(const struct layer *l, const struct decoder_env *env, const float *a, float *hidden, int64_t M,
                   struct err *e); /* hidden += o(a) */
int layer_mlp_norm(const struct layer *l, const struct decoder_env *env, const float *hidden, float *xn, int64_t M, struct err *e);
int layer_mlp_act(const struct layer *l, const struct decoder_env *env, const float *xn, float *act, int64_t M,
                  struct err *e); /* silu(gate(xn)) * up(xn) */
/* gate(xn), up(xn) [M, intermediate] */
int layer_mlp_parts(const struct layer *l, const struct decoder_env *env, const float *xn, float *gate, float *up, int64_t M, struct err *e);
/* y = o(x) or down(x), by itself: what the module adds to hidden. */
int layer_out(const struct layer *l, const struct decoder_env *env, enum module_id mod, const float *x, float *y, int64_t M, struct err *e);
/* One sequence, rows at positions 0..M-1: from the gradient dy [M, heads*D] at attention's output to those at the outputs of q_proj, k_proj and v_proj. */
int layer_attention_back(const struct layer *l, struct decoder_env *env, const float *xn, const float *dy, float *dq, float *dk, float *dv, int64_t M,
                         const int32_t *pos, struct err *e);
int layer_mlp_out(const struct layer *l, const struct decoder_env *env, const float *act, float *hidden, int64_t M,
                  struct err *e); /* hidden += down(act) */

struct decoder; /* a whole model on a backend */
/* Weights are prepacked one by one, and each one's pages in the map dropped after: never the model twice. m is borrowed until decoder_free
 * (its embedding table is read). */
int decoder_open(struct decoder **out, struct backend *b, const struct model *m, int64_t positions, struct err *e);
void decoder_free(struct decoder *d);
const struct config *decoder_config(const struct decoder *d);
struct backend *decoder_backend(const struct decoder *d);
int64_t decoder_positions(const struct decoder *d); /* how many positions a sequence may have */

/* Ids of all segments, M in all, through all layers. Segments follow one another without gaps; an id outside the vocabulary or a position
 * outside the tables is an error. hidden [M, hidden] receives the final-normed states. segments' kv caches have config.layers layers. */
int decoder_forward(struct decoder *d, const int32_t *ids, int64_t M, const struct attn_segment *segments, size_t segment_count,
                    float *hidden, struct err *e);
/* logits [M, V] of final-normed rows. */
int decoder_logits(struct decoder *d, const float *hidden, int64_t M, float *logits, struct err *e);
/* The class of kernels that serves a module (layer -1: lm_head), and why it is not a faster one (or ""). */
const char *decoder_kernel(const struct decoder *d, int64_t layer, enum module_id mod, const char **why);
int decoder_kv_create(struct decoder *d, int64_t capacity, struct kv_cache **out, struct err *e);

#endif

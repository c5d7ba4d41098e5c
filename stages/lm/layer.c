/* One decoder layer: loading it, and its steps. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/mem.h"
#include "stages/lm/decoder.h"

enum scratch_slot { SCRATCH_Q, SCRATCH_K, SCRATCH_V, SCRATCH_GATE, SCRATCH_COUNT };

struct decoder_scratch {
    void *p[SCRATCH_COUNT];
    size_t bytes[SCRATCH_COUNT];
};

/* floats of device memory, contents undefined. */
static int scratch(const struct decoder_env *env, enum scratch_slot slot, int64_t rows, int64_t cols, float **out, struct err *e)
{
    struct decoder_scratch *s = env->scratch;
    size_t bytes;
    if (mem_mul((size_t)rows, (size_t)cols * sizeof(float), &bytes))
        return err_set(e, ERR_NOMEM, "activations of %" PRId64 " x %" PRId64, rows, cols);
    if (bytes > s->bytes[slot]) {
        env->b->ops->free(env->b, s->p[slot]);
        s->p[slot] = NULL;
        s->bytes[slot] = 0;
        int rc = env->b->ops->alloc(env->b, bytes, &s->p[slot], e);
        if (rc)
            return rc;
        s->bytes[slot] = bytes;
    }
    *out = s->p[slot];
    return 0;
}

static int upload_new(struct backend *b, const float *host, size_t n, float **out, struct err *e)
{
    void *p = NULL;
    int rc = b->ops->alloc(b, n * sizeof *host, &p, e);
    if (!rc)
        rc = b->ops->upload(b, p, host, n * sizeof *host, e);
    if (rc && p) {
        b->ops->free(b, p);
        p = NULL;
    }
    *out = p;
    return rc;
}

int decoder_env_init(struct decoder_env *env, struct backend *b, const struct config *c, int64_t positions, struct err *e)
{
    *env = (struct decoder_env){.b = b, .c = c, .positions = positions};
    size_t n, half = (size_t)c->head_dim / 2;
    float *cos = NULL, *sin = NULL;
    if (positions < 1 || mem_mul((size_t)positions, half, &n) || n > SIZE_MAX / sizeof(float))
        return err_set(e, ERR_NOMEM, "rotary tables for %" PRId64 " positions", positions);
    cos = malloc(n * sizeof *cos);
    sin = malloc(n * sizeof *sin);
    int rc = cos && sin ? 0 : err_set(e, ERR_NOMEM, "rotary tables for %" PRId64 " positions", positions);
    if (!rc) {
        config_rope_tables(c, positions, cos, sin);
        env->scratch = xcalloc(1, sizeof *env->scratch);
        rc = upload_new(b, cos, n, &env->cos, e);
    }
    if (!rc)
        rc = upload_new(b, sin, n, &env->sin, e);
    free(cos);
    free(sin);
    if (rc)
        decoder_env_release(env);
    return rc;
}

void decoder_env_release(struct decoder_env *env)
{
    struct backend *b = env->b;
    if (!b)
        return;
    for (int i = 0; env->scratch && i < SCRATCH_COUNT; i++)
        b->ops->free(b, env->scratch->p[i]);
    free(env->scratch);
    b->ops->free(b, env->cos);
    b->ops->free(b, env->sin);
    b->ops->free(b, env->sin_back);
    *env = (struct decoder_env){0};
}

/* Loading */

static int load_vector(const struct decoder_env *env, const struct model *m, const char *name, int64_t n, float **out, struct err *e)
{
    float *host = xcalloc((size_t)n, sizeof *host);
    int rc = model_vector(m, name, n, host, e);
    if (!rc)
        rc = upload_new(env->b, host, (size_t)n, out, e);
    free(host);
    return rc;
}

static int load_norm(const struct decoder_env *env, const struct model *m, int64_t index, const char *norm, int64_t n, float **out,
                     struct err *e)
{
    char name[96];
    snprintf(name, sizeof name, "model.layers.%" PRId64 ".%s.weight", index, norm);
    return load_vector(env, m, name, n, out, e);
}

int decoder_load_weight(struct backend *b, const struct model *m, int64_t layer, enum module_id mod, struct weight **out, struct err *e)
{
    struct tensor_view view;
    struct qwords q;
    int rc;
    if (model_is_quantized(m, layer, mod)) {
        rc = model_qwords(m, layer, mod, &q, e);
        if (rc)
            return rc;
        rc = b->ops->weight_quantized(b, &q, out, e);
        qwords_free(&q);
    } else {
        rc = model_dense_view(m, layer, mod, &view, e);
        if (!rc)
            rc = b->ops->weight_dense(b, &view, out, e);
    }
    model_drop(m, layer, mod);
    return rc;
}

static int load_module(struct layer *l, const struct decoder_env *env, const struct model *m, enum module_id mod, struct err *e)
{
    const struct config *c = env->c;
    bool bias = mod <= MOD_V ? c->qkv_bias : mod == MOD_O ? c->o_bias : c->mlp_bias;
    int64_t N, K;
    char name[96];
    config_module_shape(c, mod, &N, &K);
    config_module_name(c, l->index, mod, name, sizeof name - 8);
    int rc = decoder_load_weight(env->b, m, l->index, mod, &l->w[mod], e);
    if (rc)
        return err_wrap(e, "%s", name);
    snprintf(name + strlen(name), 8, ".bias");
    return bias ? load_vector(env, m, name, N, &l->bias[mod], e) : 0;
}

/* `n` modules from first on have one input. */
static int join(const struct layer *l, const struct decoder_env *env, enum module_id first, int n, struct err *e)
{
    char name[96];
    config_module_name(env->c, l->index, first, name, sizeof name);
    int rc = env->b->ops->weight_join(env->b, &l->w[first], n, e);
    return rc ? err_wrap(e, "%s", name) : 0;
}

int layer_load(struct layer *l, const struct decoder_env *env, const struct model *m, int64_t index, struct err *e)
{
    const struct config *c = env->c;
    *l = (struct layer){.index = index};
    int rc = load_norm(env, m, index, "input_layernorm", c->hidden, &l->attn_norm, e);
    if (!rc)
        rc = load_norm(env, m, index, "post_attention_layernorm", c->hidden, &l->mlp_norm, e);
    if (!rc && c->qk_norm)
        rc = load_norm(env, m, index, "self_attn.q_norm", c->head_dim, &l->q_norm, e);
    if (!rc && c->qk_norm)
        rc = load_norm(env, m, index, "self_attn.k_norm", c->head_dim, &l->k_norm, e);
    for (int mod = 0; mod < MOD_COUNT && !rc; mod++) {
        rc = load_module(l, env, m, (enum module_id)mod, e);
        if (!rc && mod == MOD_V)
            rc = join(l, env, MOD_Q, 3, e);
        if (!rc && mod == MOD_UP)
            rc = join(l, env, MOD_GATE, 2, e);
    }
    if (rc)
        layer_free(l, env);
    return rc;
}

void layer_free(struct layer *l, const struct decoder_env *env)
{
    struct backend *b = env->b;
    float *vectors[] = {l->attn_norm, l->mlp_norm, l->q_norm, l->k_norm};
    for (int mod = 0; mod < MOD_COUNT; mod++) {
        if (l->w[mod])
            b->ops->weight_free(b, l->w[mod]);
        b->ops->free(b, l->bias[mod]);
    }
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        b->ops->free(b, vectors[i]);
    *l = (struct layer){0};
}

/* Steps */

/* y = module(x), y [M,N]; accumulate adds to what is there. */
static int apply(const struct layer *l, const struct decoder_env *env, enum module_id mod, const float *x, float *y, int64_t M,
                 bool accumulate, struct err *e)
{
    int64_t N, K;
    config_module_shape(env->c, mod, &N, &K);
    return env->b->ops->linear(env->b, y, N, x, K, M, l->w[mod], l->bias[mod], accumulate, e);
}

/* y[i] = module first + i (x), for `n` modules with one input. */
static int apply_many(const struct layer *l, const struct decoder_env *env, enum module_id first, int n, const float *x, float *const *y, int64_t M, struct err *e)
{
    struct linear_part parts[3];
    int64_t N, K = 0;
    for (int i = 0; i < n; i++) {
        config_module_shape(env->c, (enum module_id)(first + i), &N, &K);
        parts[i] = (struct linear_part){.y = y[i], .ldy = N, .w = l->w[first + i], .bias = l->bias[first + i]};
    }
    return env->b->ops->linear_many(env->b, parts, n, x, K, M, e);
}

int layer_attn_norm(const struct layer *l, const struct decoder_env *env, const float *hidden, float *xn, int64_t M, struct err *e)
{
    return env->b->ops->rmsnorm(env->b, xn, hidden, l->attn_norm, M, env->c->hidden, (float)env->c->rms_eps, e);
}

/* Norm of each head, in place on x [M, heads*D]; norm NULL: the family has none. */
static int head_norm(const struct decoder_env *env, float *x, const float *norm, int64_t rows, struct err *e)
{
    return norm ? env->b->ops->rmsnorm(env->b, x, x, norm, rows, env->c->head_dim, (float)env->c->rms_eps, e) : 0;
}

/* Rotary by the tables cos and sin (or -sin, back), in place on q and k. */
static int turn(const struct decoder_env *env, float *q, float *k, const float *sin, int64_t M, const int32_t *pos, struct err *e)
{
    const struct config *c = env->c;
    const struct rope_args args = {
        .q = q,
        .k = k,
        .heads = (int)c->heads,
        .kv_heads = (int)c->kv_heads,
        .head_dim = (int)c->head_dim,
        .M = M,
        .cos = env->cos,
        .sin = sin,
        .pos = pos,
    };
    return env->b->ops->rope(env->b, &args, e);
}

static int64_t window_of(const struct layer *l, const struct config *c)
{
    return c->window && l->index >= c->window_from ? c->window : 0;
}

/* q, k, v as attention wants them, in the env's scratch. */
static int project(const struct layer *l, const struct decoder_env *env, const float *xn, int64_t M, const int32_t *pos, float **q, float **k, float **v,
                   struct err *e)
{
    const struct config *c = env->c;
    int rc = scratch(env, SCRATCH_Q, M, c->heads * c->head_dim, q, e);
    if (!rc)
        rc = scratch(env, SCRATCH_K, M, c->kv_heads * c->head_dim, k, e);
    if (!rc)
        rc = scratch(env, SCRATCH_V, M, c->kv_heads * c->head_dim, v, e);
    if (!rc)
        rc = apply_many(l, env, MOD_Q, 3, xn, (float *const[]){*q, *k, *v}, M, e);
    if (!rc)
        rc = head_norm(env, *q, l->q_norm, M * c->heads, e);
    if (!rc)
        rc = head_norm(env, *k, l->k_norm, M * c->kv_heads, e);
    return rc ? rc : turn(env, *q, *k, env->sin, M, pos, e);
}

int layer_attention(const struct layer *l, const struct decoder_env *env, const float *xn, float *a, int64_t M, const int32_t *pos,
                    const struct attn_segment *segments, size_t segment_count, int kv_layer, struct err *e)
{
    const struct config *c = env->c;
    float *q = NULL, *k = NULL, *v = NULL;
    int rc = project(l, env, xn, M, pos, &q, &k, &v, e);
    struct attn_args args = {
        .q = q,
        .k = k,
        .v = v,
        .y = a,
        .heads = (int)c->heads,
        .kv_heads = (int)c->kv_heads,
        .head_dim = (int)c->head_dim,
        .layer = kv_layer,
        .window = window_of(l, c),
        .scale = (float)(1.0 / sqrt((double)c->head_dim)),
        .segments = segments,
        .segment_count = segment_count,
    };
    return rc ? rc : env->b->ops->attention(env->b, &args, e);
}

/* -sin, for turning back what rope turned. */
static int reverse_table(struct decoder_env *env, struct err *e)
{
    int64_t n = env->positions * env->c->head_dim / 2;
    if (env->sin_back)
        return 0;
    void *p = NULL;
    int rc = env->b->ops->alloc(env->b, (size_t)n * sizeof(float), &p, e);
    env->sin_back = p;
    return rc ? rc : env->b->ops->mix(env->b, env->sin_back, 0, env->sin, -1, n, e);
}

/* Back through the norm of each head: in place on d [M, heads*D]; x is scratch for the projection again. */
static int head_norm_back(const struct layer *l, const struct decoder_env *env, enum module_id mod, const float *norm, const float *xn, float *x, float *d, int64_t M,
                          struct err *e)
{
    const struct config *c = env->c;
    if (!norm)
        return 0;
    int rc = apply(l, env, mod, xn, x, M, false, e);
    return rc ? rc : env->b->ops->rmsnorm_back(env->b, d, x, norm, M * (mod == MOD_Q ? c->heads : c->kv_heads), c->head_dim, (float)c->rms_eps, e);
}

int layer_attention_back(const struct layer *l, struct decoder_env *env, const float *xn, const float *dy, float *dq, float *dk, float *dv, int64_t M,
                         const int32_t *pos, struct err *e)
{
    const struct config *c = env->c;
    float *q = NULL, *k = NULL, *v = NULL;
    int rc = reverse_table(env, e);
    if (!rc)
        rc = project(l, env, xn, M, pos, &q, &k, &v, e);
    struct attn_back_args args = {
        .q = q,
        .dy = dy,
        .k = k,
        .v = v,
        .dq = dq,
        .dk = dk,
        .dv = dv,
        .heads = (int)c->heads,
        .kv_heads = (int)c->kv_heads,
        .head_dim = (int)c->head_dim,
        .window = window_of(l, c),
        .scale = (float)(1.0 / sqrt((double)c->head_dim)),
        .offsets = (const int64_t[]){0, M},
        .sequences = 1,
    };
    if (!rc)
        rc = env->b->ops->attention_back(env->b, &args, e);
    if (!rc)
        rc = turn(env, dq, dk, env->sin_back, M, pos, e);
    if (!rc)
        rc = head_norm_back(l, env, MOD_Q, l->q_norm, xn, q, dq, M, e);
    return rc ? rc : head_norm_back(l, env, MOD_K, l->k_norm, xn, k, dk, M, e);
}

int layer_attn_out(const struct layer *l, const struct decoder_env *env, const float *a, float *hidden, int64_t M, struct err *e)
{
    return apply(l, env, MOD_O, a, hidden, M, true, e);
}

int layer_mlp_norm(const struct layer *l, const struct decoder_env *env, const float *hidden, float *xn, int64_t M, struct err *e)
{
    return env->b->ops->rmsnorm(env->b, xn, hidden, l->mlp_norm, M, env->c->hidden, (float)env->c->rms_eps, e);
}

int layer_mlp_parts(const struct layer *l, const struct decoder_env *env, const float *xn, float *gate, float *up, int64_t M, struct err *e)
{
    return apply_many(l, env, MOD_GATE, 2, xn, (float *const[]){gate, up}, M, e);
}

int layer_mlp_act(const struct layer *l, const struct decoder_env *env, const float *xn, float *act, int64_t M,
                  struct err *e)
{
    float *gate = NULL;
    int rc = scratch(env, SCRATCH_GATE, M, env->c->intermediate, &gate, e);
    if (!rc)
        rc = layer_mlp_parts(l, env, xn, gate, act, M, e);
    return rc ? rc : env->b->ops->silu_mul(env->b, act, gate, act, M, env->c->intermediate, e);
}

int layer_out(const struct layer *l, const struct decoder_env *env, enum module_id mod, const float *x, float *y, int64_t M, struct err *e)
{
    return apply(l, env, mod, x, y, M, false, e);
}

int layer_mlp_out(const struct layer *l, const struct decoder_env *env, const float *act, float *hidden, int64_t M, struct err *e)
{
    return apply(l, env, MOD_DOWN, act, hidden, M, true, e);
}

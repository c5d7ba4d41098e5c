#include "stages/lm/decoder.h"

#include <inttypes.h>
#include <stdlib.h>

#include "pipeline/base/mem.h"

struct decoder {
    struct decoder_env env;
    struct layer *layers; /* owned, config.layers of them; zeroed ones are not loaded */
    struct weight *head;
    float *final_norm;
    struct tensor_view embedding; /* in the model's map */
    /* Activations of decoder_forward for up to `rows` rows. */
    float *xn, *a, *act;
    int64_t rows;
    int32_t *pos;
};

static int load_final(struct decoder *d, const struct model *m, struct err *e)
{
    const struct config *c = d->env.c;
    struct backend *b = d->env.b;
    size_t bytes = (size_t)c->hidden * sizeof(float);
    float *host = xmalloc(bytes);
    int rc = model_vector(m, "model.norm.weight", c->hidden, host, e);
    if (!rc)
        rc = b->ops->alloc(b, bytes, (void **)&d->final_norm, e);
    if (!rc)
        rc = b->ops->upload(b, d->final_norm, host, bytes, e);
    free(host);
    if (!rc)
        rc = model_embedding(m, &d->embedding, e);
    if (rc)
        return rc;
    rc = decoder_load_weight(b, m, -1, MOD_COUNT, &d->head, e);
    return rc ? err_wrap(e, "lm_head") : 0;
}

int decoder_open(struct decoder **out, struct backend *b, const struct model *m, int64_t positions, struct err *e)
{
    const struct config *c = &m->config;
    *out = NULL;
    if (positions < 1 || positions > c->context)
        return err_set(e, ERR_USAGE, "%" PRId64 " positions; the model's context is %" PRId64, positions, c->context);
    struct decoder *d = xcalloc(1, sizeof *d);
    d->layers = xcalloc((size_t)c->layers, sizeof *d->layers);
    int rc = decoder_env_init(&d->env, b, c, positions, e);
    if (!rc)
        rc = load_final(d, m, e);
    for (int64_t i = 0; i < c->layers && !rc; i++)
        rc = layer_load(&d->layers[i], &d->env, m, i, e);
    if (rc)
        decoder_free(d);
    else
        *out = d;
    return rc;
}

static void free_rows(struct decoder *d)
{
    struct backend *b = d->env.b;
    float **all[] = {&d->xn, &d->a, &d->act};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        b->ops->free(b, *all[i]);
        *all[i] = NULL;
    }
    free(d->pos);
    d->pos = NULL;
    d->rows = 0;
}

void decoder_free(struct decoder *d)
{
    if (!d)
        return;
    struct backend *b = d->env.b;
    if (b) { /* else the env was never made, and nothing after it */
        for (int64_t i = 0; i < d->env.c->layers; i++)
            layer_free(&d->layers[i], &d->env);
        if (d->head)
            b->ops->weight_free(b, d->head);
        b->ops->free(b, d->final_norm);
        free_rows(d);
        decoder_env_release(&d->env);
    }
    free(d->layers);
    free(d);
}

const struct config *decoder_config(const struct decoder *d)
{
    return d->env.c;
}

struct backend *decoder_backend(const struct decoder *d)
{
    return d->env.b;
}

int64_t decoder_positions(const struct decoder *d)
{
    return d->env.positions;
}

static int reserve_rows(struct decoder *d, int64_t M, struct err *e)
{
    const struct config *c = d->env.c;
    struct backend *b = d->env.b;
    if (M <= d->rows)
        return 0;
    free_rows(d);
    const struct {
        float **p;
        int64_t cols;
    } need[] = {
        {&d->xn,  c->hidden             },
        {&d->a,   c->heads * c->head_dim},
        {&d->act, c->intermediate       }
    };
    for (size_t i = 0; i < sizeof need / sizeof *need; i++) {
        size_t bytes;
        if (mem_mul((size_t)M, (size_t)need[i].cols * sizeof(float), &bytes))
            return err_set(e, ERR_NOMEM, "activations of %" PRId64 " rows", M);
        int rc = b->ops->alloc(b, bytes, (void **)need[i].p, e);
        if (rc)
            return rc;
    }
    d->pos = xcalloc((size_t)M, sizeof *d->pos);
    d->rows = M;
    return 0;
}

static int check_input(struct decoder *d, const int32_t *ids, int64_t M, const struct attn_segment *segments, size_t segment_count,
                       struct err *e)
{
    int64_t row = 0;
    for (size_t s = 0; s < segment_count; s++) {
        const struct attn_segment *g = &segments[s];
        if (g->row != row || g->rows < 1 || g->rows > M - row)
            BUG("segment %zu has rows %" PRId64 "+%" PRId64 " after %" PRId64 " of %" PRId64, s, g->row, g->rows, row, M);
        if (g->pos < 0 || g->rows > d->env.positions - g->pos)
            return err_set(e, ERR_USAGE, "positions %" PRId64 "..%" PRId64 " of a sequence; there are %" PRId64, g->pos,
                           g->pos + g->rows - 1, d->env.positions);
        for (int64_t i = 0; i < g->rows; i++)
            d->pos[row + i] = (int32_t)(g->pos + i);
        row += g->rows;
    }
    if (row != M)
        BUG("segments cover %" PRId64 " of %" PRId64 " rows", row, M);
    for (int64_t i = 0; i < M; i++) {
        if (ids[i] < 0 || ids[i] >= d->env.c->vocab_size)
            return err_set(e, ERR_DATA, "id %d is outside the model's vocabulary of %" PRId64, ids[i], d->env.c->vocab_size);
    }
    return 0;
}

static int layer_forward(struct decoder *d, int64_t i, float *hidden, int64_t M, const struct attn_segment *segments, size_t n,
                         struct err *e)
{
    const struct layer *l = &d->layers[i];
    const struct decoder_env *env = &d->env;
    int rc = layer_attn_norm(l, env, hidden, d->xn, M, e);
    if (!rc)
        rc = layer_attention(l, env, d->xn, d->a, M, d->pos, segments, n, (int)i, e);
    if (!rc)
        rc = layer_attn_out(l, env, d->a, hidden, M, e);
    if (!rc)
        rc = layer_mlp_norm(l, env, hidden, d->xn, M, e);
    if (!rc)
        rc = layer_mlp_act(l, env, d->xn, d->act, M, e);
    return rc ? rc : layer_mlp_out(l, env, d->act, hidden, M, e);
}

int decoder_forward(struct decoder *d, const int32_t *ids, int64_t M, const struct attn_segment *segments, size_t segment_count,
                    float *hidden, struct err *e)
{
    const struct config *c = d->env.c;
    struct backend *b = d->env.b;
    int rc = reserve_rows(d, M, e);
    if (!rc)
        rc = check_input(d, ids, M, segments, segment_count, e);
    if (!rc)
        rc = b->ops->embed(b, hidden, &d->embedding, ids, M, e);
    for (int64_t i = 0; i < c->layers && !rc; i++) {
        rc = layer_forward(d, i, hidden, M, segments, segment_count, e);
        if (rc)
            rc = err_wrap(e, "layer %" PRId64, i);
    }
    return rc ? rc : b->ops->rmsnorm(b, hidden, hidden, d->final_norm, M, c->hidden, (float)c->rms_eps, e);
}

int decoder_logits(struct decoder *d, const float *hidden, int64_t M, float *logits, struct err *e)
{
    const struct config *c = d->env.c;
    return d->env.b->ops->linear(d->env.b, logits, c->vocab_size, hidden, c->hidden, M, d->head, NULL, false, e);
}

const char *decoder_kernel(const struct decoder *d, int64_t layer, enum module_id mod, const char **why)
{
    const struct backend *b = d->env.b;
    return b->ops->weight_kernel(b, layer < 0 ? d->head : d->layers[layer].w[mod], why);
}

int decoder_kv_create(struct decoder *d, int64_t capacity, struct kv_cache **out, struct err *e)
{
    const struct config *c = d->env.c;
    return d->env.b->ops->kv_create(d->env.b, (int)c->layers, (int)c->kv_heads, (int)c->head_dim, capacity, out, e);
}

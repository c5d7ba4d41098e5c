#include "stages/lm/metric.h"

#include <stdlib.h>
#include <string.h>

#include "pipeline/base/mem.h"
#include "stages/lm/sampler.h"

#define METRIC_RIDGE 0.1

static int alloc_rows(struct metric *m, int64_t rows, int64_t cols, float **out, struct err *e)
{
    return m->b->ops->alloc(m->b, (size_t)rows * (size_t)cols * sizeof(float), (void **)out, e);
}

static int module_matrix(const struct metric *m, enum module_id mod, int64_t *N, int64_t *K, float **out, struct err *e)
{
    config_module_shape(&m->model->config, mod, N, K);
    *out = malloc((size_t)*N * (size_t)*K * sizeof **out);
    if (!*out)
        return err_set(e, ERR_NOMEM, "no memory for %lld x %lld weights", (long long)*N, (long long)*K);
    return model_dequant(m->model, m->layer, mod, *out, e);
}

/* o_proj [N,K] as a weight [K,N]. */
static int open_o_back(struct metric *m, struct err *e)
{
    int64_t N, K;
    float *o = NULL;
    int rc = module_matrix(m, MOD_O, &N, &K, &o, e);
    float *t = rc ? NULL : malloc((size_t)N * (size_t)K * sizeof *t);
    if (!rc && !t)
        rc = err_set(e, ERR_NOMEM, "no memory for %lld x %lld weights", (long long)N, (long long)K);
    for (int64_t n = 0; !rc && n < N; n++)
        for (int64_t k = 0; k < K; k++)
            t[k * N + n] = o[n * K + k];
    struct tensor_view view = {.dtype = DT_F32, .rows = K, .cols = N, .data = t};
    if (!rc)
        rc = m->b->ops->weight_dense(m->b, &view, &m->o_back, e);
    free(o);
    free(t);
    return rc;
}

static bool wants_attention(const struct metric *m)
{
    return m->acc[MOD_Q].backend || m->acc[MOD_K].backend || m->acc[MOD_V].backend;
}

static int open_attention(struct metric *m, int64_t longest, struct err *e)
{
    const struct config *c = &m->model->config;
    const int64_t cols[] = {c->heads * c->head_dim, c->kv_heads * c->head_dim, c->kv_heads * c->head_dim};
    int rc = open_o_back(m, e);
    if (!rc)
        rc = alloc_rows(m, longest, c->hidden, &m->z, e);
    if (!rc)
        rc = alloc_rows(m, longest, cols[0], &m->dy, e);
    for (int i = 0; !rc && i < 3; i++)
        rc = alloc_rows(m, longest, cols[i], &m->d[i], e);
    return rc;
}

int metric_open(struct metric *m, struct backend *b, const struct model *model, int64_t layer, const bool wanted[MOD_COUNT], int64_t tokens,
                int64_t longest, struct err *e)
{
    *m = (struct metric){.b = b, .model = model, .layer = layer, .stride = (tokens + METRIC_TOKENS - 1) / METRIC_TOKENS};
    int64_t wide = model->config.intermediate, N, K;
    int rc = 0;
    for (int mod = 0; !rc && mod < MOD_COUNT; mod++) {
        config_module_shape(&model->config, (enum module_id)mod, &N, &K);
        if (wanted[mod] && mod != MOD_O && mod != MOD_DOWN)
            rc = hessian_init(&m->acc[mod], b, N, 0, e);
    }
    if (!rc && wants_attention(m))
        rc = open_attention(m, longest, e);
    if (!rc && (m->acc[MOD_GATE].backend || m->acc[MOD_UP].backend)) {
        rc = alloc_rows(m, HESSIAN_BLOCK_ROWS, wide, &m->gate, e);
        if (!rc)
            rc = alloc_rows(m, HESSIAN_BLOCK_ROWS, wide, &m->up, e);
    }
    if (rc)
        metric_close(m);
    return rc ? err_wrap(e, "output metric of layer %lld", (long long)layer) : 0;
}

void metric_close(struct metric *m)
{
    if (!m->b)
        return;
    float *device[] = {m->z, m->dy, m->d[0], m->d[1], m->d[2], m->gate, m->up};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        m->b->ops->free(m->b, device[i]);
    for (int mod = 0; mod < MOD_COUNT; mod++)
        hessian_release(&m->acc[mod]);
    if (m->o_back)
        m->b->ops->weight_free(m->b, m->o_back);
    free(m->down);
    *m = (struct metric){.b = NULL};
}

bool metric_wants(const struct metric *m, int64_t sample)
{
    return wants_attention(m) && sample % m->stride == 0;
}

/* +1 or -1 for every element of M rows, drawn by (layer, sample, row, element). */
static int upload_signs(struct metric *m, int64_t M, int64_t sample, struct err *e)
{
    int64_t K = m->model->config.hidden;
    float *row = xmalloc((size_t)K * sizeof *row);
    const uint32_t key[2] = {0x6d657472, 0x69630000}; /* "metric" */
    int rc = 0;
    for (int64_t r = 0; !rc && r < M; r++) {
        uint32_t bits[4];
        for (int64_t k = 0; k < K; k++) {
            if (k % 128 == 0)
                philox4x32((const uint32_t[]){(uint32_t)(k / 128), (uint32_t)r, (uint32_t)sample, (uint32_t)m->layer}, key, bits);
            row[k] = bits[k % 128 / 32] >> k % 32 & 1 ? 1.0f : -1.0f;
        }
        rc = m->b->ops->upload(m->b, m->z + r * K, row, (size_t)K * sizeof *row, e);
    }
    free(row);
    return rc;
}

int metric_attention(struct metric *m, struct decoder_env *env, const struct layer *l, const float *xn, int64_t M, const int32_t *pos, int64_t sample,
                     struct err *e)
{
    const struct config *c = &m->model->config;
    int64_t wide = c->heads * c->head_dim;
    int rc = upload_signs(m, M, sample, e);
    if (!rc)
        rc = m->b->ops->linear(m->b, m->dy, wide, m->z, c->hidden, M, m->o_back, NULL, false, e);
    if (!rc)
        rc = layer_attention_back(l, env, xn, m->dy, m->d[0], m->d[1], m->d[2], M, pos, e);
    for (int i = 0; !rc && i < 3; i++) {
        struct hessian *h = &m->acc[MOD_Q + i];
        rc = h->backend ? hessian_add(h, m->d[i], h->K, NULL, 0, M, e) : 0;
    }
    return rc;
}

int metric_mlp(struct metric *m, const float *gate, const float *up, int64_t row, int64_t M, struct err *e)
{
    const struct backend_ops *ops = m->b->ops;
    int64_t wide = m->model->config.intermediate;
    int rc = 0;
    for (int64_t at = 0; m->gate && !rc && at < M; at += HESSIAN_BLOCK_ROWS) {
        int64_t n = M - at < HESSIAN_BLOCK_ROWS ? M - at : HESSIAN_BLOCK_ROWS;
        if ((row + at) / HESSIAN_BLOCK_ROWS % m->stride != 0)
            continue;
        rc = ops->mix(m->b, m->gate, 0, gate + at * wide, 1, n * wide, e);
        if (!rc)
            rc = ops->mix(m->b, m->up, 0, up + at * wide, 1, n * wide, e);
        if (!rc)
            rc = ops->silu_back(m->b, m->gate, m->up, n * wide, e);
        if (!rc && m->acc[MOD_GATE].backend)
            rc = hessian_add(&m->acc[MOD_GATE], m->gate, wide, NULL, 0, n, e);
        if (!rc && m->acc[MOD_UP].backend)
            rc = hessian_add(&m->acc[MOD_UP], m->up, wide, NULL, 0, n, e);
    }
    return rc;
}

/* Wd^T Wd, by the kernel that sums Hessians: its rows are down_proj's. */
static int square_of_down(struct metric *m, struct err *e)
{
    enum { ROWS = HESSIAN_BLOCK_ROWS };
    struct hessian h = {0};
    int64_t N, K;
    float *down = NULL, *rows = NULL;
    int rc = module_matrix(m, MOD_DOWN, &N, &K, &down, e);
    m->down = rc ? NULL : malloc((size_t)K * (size_t)K * sizeof *m->down);
    if (!rc && !m->down)
        rc = err_set(e, ERR_NOMEM, "no memory for %lld x %lld", (long long)K, (long long)K);
    if (!rc)
        rc = hessian_init(&h, m->b, K, 0, e);
    if (!rc)
        rc = alloc_rows(m, ROWS, K, &rows, e);
    for (int64_t n = 0; !rc && n < N; n += ROWS) {
        int64_t some = N - n < ROWS ? N - n : ROWS;
        rc = m->b->ops->upload(m->b, rows, down + n * K, (size_t)(some * K) * sizeof *rows, e);
        if (!rc)
            rc = hessian_add(&h, rows, K, NULL, 0, some, e);
    }
    if (!rc)
        rc = hessian_finish(&h, m->down, NULL, e);
    hessian_release(&h);
    m->b->ops->free(m->b, rows);
    free(down);
    return rc;
}

int metric_finish(struct metric *m, enum module_id mod, float **g, struct err *e)
{
    struct hessian *acc = &m->acc[mod];
    int64_t N = acc->K, ld = (N + 15) / 16 * 16;
    bool mlp = mod == MOD_GATE || mod == MOD_UP;
    *g = NULL;
    if (!acc->backend)
        return 0;
    double *h = malloc((size_t)N * (size_t)N * sizeof *h);
    int rc = h ? hessian_finish(acc, h, NULL, e) : err_set(e, ERR_NOMEM, "no memory for %lld x %lld", (long long)N, (long long)N);
    hessian_release(acc);
    if (!rc && mlp && !m->down)
        rc = square_of_down(m, e);
    for (int64_t i = 0; !rc && mlp && i < N * N; i++)
        h[i] *= m->down[i];
    double mean = rc ? 0 : hessian_mean_diagonal(h, N);
    if (!rc && mean > 0) {
        *g = calloc((size_t)(N * ld), sizeof **g);
        if (!*g)
            rc = err_set(e, ERR_NOMEM, "no memory for %lld x %lld", (long long)N, (long long)N);
        for (int64_t n = 0; !rc && n < N; n++)
            for (int64_t k = 0; k < N; k++)
                (*g)[n * ld + k] = (float)(h[n * N + k] / mean + (n == k ? METRIC_RIDGE : 0));
    }
    free(h);
    return rc ? err_wrap(e, "output metric of layer %lld", (long long)m->layer) : 0;
}

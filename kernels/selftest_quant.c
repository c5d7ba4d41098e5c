/* What only quantize uses: sums over tokens, gradients, and a small matrix through factorization, the GPTQ loop and descent. Of CPU rows, whose memory is plain. */
#include <stdlib.h>
#include <string.h>

#include "kernels/selftest.h"

/* Memory of a backend, zeroed; NULL once rc is set. */
static void *room(struct selftest_arrays *a, size_t bytes)
{
    void *p = NULL;
    if (!a->rc)
        a->rc = a->b->ops->alloc(a->b, bytes, &p, a->e);
    if (!a->rc)
        a->of[a->count++] = p;
    return p;
}

enum { ROWS = 2 * HESSIAN_BLOCK_ROWS + 5, K = 100, N = 24, GROUP = 32, G = 4 };

struct tokens {
    float *x; /* [ROWS,K] */
    float *y; /* [ROWS,N] */
};

static int run_sums(struct backend *b, const void *arg, struct selftest_result *out, struct err *e)
{
    const struct tokens *c = arg;
    struct selftest_arrays a = {.b = b, .e = e};
    double *h = room(&a, K * K * sizeof *h), *cross = room(&a, K * N * sizeof *cross);
    float *x = selftest_put(&a, c->x, ROWS * K), *y = selftest_put(&a, c->y, ROWS * N);
    if (!a.rc)
        a.rc = b->ops->hessian(b, h, x, K, ROWS, K, 0, e);
    if (!a.rc)
        a.rc = b->ops->cross(b, cross, x, K, K, y, N, N, ROWS, 0, e);
    if (!a.rc) {
        selftest_append(out, h, K * K);
        selftest_append(out, cross, K * N);
    }
    return selftest_take(&a, x, 0, out);
}

enum { HEADS = 6, KV_HEADS = 2, D = 16, M = 70, Q = M * HEADS * D, KV = M * KV_HEADS * D };

static int run_gradients(struct backend *b, const void *arg, struct selftest_result *out, struct err *e)
{
    static const int64_t offsets[] = {0, 2, M};
    const float *in = arg; /* 3 Q + 2 KV */
    struct selftest_arrays a = {.b = b, .e = e};
    float *q = selftest_put(&a, in, 3 * Q + 2 * KV), *got = room(&a, (Q + 2 * KV) * sizeof *got);
    if (!a.rc) {
        float *dy = q + Q, *z = dy + Q, *k = z + Q, *v = k + KV;
        struct attn_back_args back = {.q = q, .dy = dy, .k = k, .v = v, .dq = got, .dk = got + Q, .dv = got + Q + KV, .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = D,
                                      .window = 50, .scale = 0.25f, .offsets = offsets, .sequences = 2};
        a.rc = b->ops->attention_back(b, &back, e);
        if (!a.rc)
            a.rc = b->ops->rmsnorm_back(b, dy, q, z, M, HEADS * D, 1e-5f, e);
        if (!a.rc)
            a.rc = b->ops->silu_back(b, q, z, Q, e);
        if (!a.rc)
            a.rc = b->ops->mix(b, k, 0.3f, v, 0.7f, KV, e);
        if (!a.rc)
            selftest_append_f32(out, q, 3 * Q + 2 * KV);
    }
    return selftest_take(&a, got, Q + 2 * KV, out);
}

struct module {
    struct quant_grid grid;
    bool order; /* grids are given, groups in any order */
    const struct tokens *tokens;
    float *w; /* [N,K] */
};

/* The sum over tokens as the loop wants it: both triangles, damped; and as descent does: f32. */
static void finish_sum(double *h, float *h32)
{
    double mean = 0;
    for (int i = 0; i < K; i++)
        mean += h[i * K + i] / K;
    for (int i = 0; i < K; i++) {
        h[i * K + i] += 0.05 * mean;
        for (int j = 0; j < i; j++)
            h[i * K + j] = h[j * K + i];
    }
    for (int i = 0; i < K * K; i++)
        h32[i] = (float)h[i];
}

static void append_codes(struct selftest_result *out, const struct gptq_args *g, const struct refine_args *r)
{
    for (int i = 0; i < N * K; i++)
        selftest_append(out, &(double){g->codes[i]}, 1);
    for (int i = 0; i < G * N; i++) {
        selftest_append(out, &(double){g->scales[i]}, 1);
        selftest_append(out, &(double){g->zeros[i]}, 1);
    }
    selftest_append(out, g->loss, N);
    selftest_append(out, r->loss, 4);
}

static int run_module(struct backend *b, const void *arg, struct selftest_result *out, struct err *e)
{
    const struct module *c = arg;
    struct selftest_arrays a = {.b = b, .e = e};
    const size_t square = (size_t)K * K;
    double *h = room(&a, square * sizeof *h), *sum = room(&a, square * sizeof *sum), *loss = room(&a, N * sizeof *loss), form = 0;
    float *u = room(&a, square * sizeof *u), *h32 = room(&a, square * sizeof *h32), *w = selftest_put(&a, c->w, N * K), *target = selftest_put(&a, c->w, N * K);
    unsigned char *rest = room(&a, N * K + G * N * 3 + K * sizeof(int32_t) + ROWS * K * sizeof(float));
    int64_t pivot;
    if (a.rc)
        return selftest_take(&a, NULL, 0, out);
    int32_t *group = (int32_t *)(void *)rest;
    float *x = (float *)(void *)(group + K);
    uint16_t *scales = (uint16_t *)(void *)(x + ROWS * K);
    uint8_t *zeros = (uint8_t *)(scales + G * N), *codes = zeros + G * N;
    memcpy(x, c->tokens->x, ROWS * K * sizeof *x);
    for (int k = 0; k < K; k++)
        group[k] = c->order ? k * 7 % G : k / GROUP;
    struct gptq_args loop = {.N = N, .K = K, .G = G, .w = w, .u = u, .group = group, .fixed = c->order, .grid = c->grid, .codes = codes, .scales = scales, .zeros = zeros,
                             .loss = loss};
    struct refine_args refine = {.N = N, .K = K, .G = G, .target = target, .h = h32, .group = group, .grid = c->grid, .sweeps = 3, .refit = !c->order, .w = w, .codes = codes,
                                 .scales = scales, .zeros = zeros};
    a.rc = b->ops->hessian(b, h, x, K, ROWS, K, 0, e);
    if (!a.rc) {
        finish_sum(h, h32);
        memcpy(sum, h, square * sizeof *h);
        a.rc = b->ops->factor(b, h, u, K, &pivot, e);
    }
    for (int g = 0; !a.rc && c->order && g < G; g++)
        a.rc = b->ops->fit(b, target + g * (K / G), K, N, K / G, &c->grid, scales + g * N, zeros + g * N, e);
    if (!a.rc)
        a.rc = b->ops->gptq(b, &loop, e);
    if (!a.rc)
        a.rc = b->ops->refine(b, &refine, e);
    for (int i = 0; !a.rc && i < N * K; i++)
        target[i] -= w[i];
    if (!a.rc)
        a.rc = b->ops->quad_form(b, target, sum, N, K, &form, e);
    if (!a.rc) {
        append_codes(out, &loop, &refine);
        selftest_append(out, &form, 1);
    }
    return selftest_take(&a, u, square, out);
}

int selftest_quant(struct selftest *t, struct err *e)
{
    static const struct module modules[] = {{.grid = {.bits = 4, .sym = true, .search = GRID_GPTQ, .candidates = 8, .signed_scales = true}},
                                            {.grid = {.bits = 8, .sym = true, .search = GRID_MINMAX}},
                                            {.grid = {.bits = 3, .search = GRID_MSE, .mse = 2.4}},
                                            {.grid = {.bits = 4, .search = GRID_MINMAX, .dtype = SCALE_BF16}, .order = true}};
    uint64_t seed = 8;
    struct tokens tokens = {rnd_floats(ROWS * K, &seed), rnd_floats(ROWS * N, &seed)};
    float *gradients = rnd_floats(3 * Q + 2 * KV, &seed), *w = rnd_floats(N * K, &seed);
    selftest_begin(t, "calibrate", 0);
    selftest_case(t, "sums over %d tokens", ROWS);
    int rc = selftest_both(t, run_sums, &tokens, 1, NULL, e);
    if (!rc) {
        selftest_case(t, "gradients of %d tokens", M);
        rc = selftest_both(t, run_gradients, gradients, 1, NULL, e);
    }
    for (size_t i = 0; !rc && i < sizeof modules / sizeof *modules; i++) {
        struct module c = modules[i];
        c.tokens = &tokens;
        c.w = w;
        selftest_case(t, "w%d %dx%d %s", c.grid.bits, N, K, c.order ? "with given grids" : c.grid.search == GRID_GPTQ ? "with scales searched by loss" : "fitted in the loop");
        rc = selftest_both(t, run_module, &c, 1, NULL, e);
    }
    free(tokens.x);
    free(tokens.y);
    free(gradients);
    free(w);
    return selftest_end(t, rc, e);
}

/* Kernels that go over rows or elements once: embed, rmsnorm and its gradient, rope, silu_mul and its derivatives, add, mix. */
#include "kernels/cpu/split.h"
#include "kernels/cpu/vmath.h"

struct rows_job {
    const void *a;
    int64_t units, pieces;
};

struct span {
    int64_t from, to;
};

static struct span span_of(const struct rows_job *j, size_t i)
{
    return (struct span){split_at(j->units, j->pieces, (int64_t)i), split_at(j->units, j->pieces, (int64_t)i + 1)};
}

static void over(const struct parallel *par, const void *a, int64_t units, int64_t cost, void (*piece)(void *, size_t))
{
    if (units <= 0)
        return;
    struct rows_job j = {.a = a, .units = units, .pieces = split_pieces(par, units, cost)};
    split_run(par, j.pieces, piece, &j);
}

static void embed_piece(void *arg, size_t i)
{
    const struct rows_job *j = arg;
    const struct embed_args *a = j->a;
    const int64_t K = a->table->cols;
    for (struct span s = span_of(j, i); s.from < s.to; s.from++) {
        float *y = a->y + s.from * K;
        const char *row = (const char *)a->table->data + (int64_t)a->ids[s.from] * K * (a->table->dtype == DT_F32 ? 4 : 2);
        for (int64_t k = 0; k < K; k += PANEL) {
            int n = v16_lanes(k, K);
            uint16_t half[PANEL] = {0};
            if (a->table->dtype == DT_F32) {
                v16_store_n(y + k, v16_load_n((const float *)row + k, n), n);
                continue;
            }
            memcpy(half, row + 2 * k, 2 * (size_t)n);
            v16_store_n(y + k, a->table->dtype == DT_F16 ? v16_load_f16(half) : v16_load_bf16(half), n);
        }
    }
}

void FN(embed_f32)(const struct parallel *par, const struct embed_args *a)
{
    over(par, a, a->M, a->M * a->table->cols / 4, embed_piece);
}

/* 1 / sqrt(mean(x^2) + eps) in all lanes. */
static v16 inverse_norm(const float *x, int64_t K, float eps)
{
    v16 sum = v16_zero();
    for (int64_t k = 0; k < K; k += PANEL) {
        v16 v = v16_load_n(x + k, v16_lanes(k, K));
        sum = v16_fma(v, v, sum);
    }
    return v16_div(v16_set1(1.0f), v16_sqrt(v16_add(v16_div(v16_set1(v16_sum(sum)), v16_set1((float)K)), v16_set1(eps))));
}

static void rmsnorm_piece(void *arg, size_t i)
{
    const struct rows_job *j = arg;
    const struct rmsnorm_args *a = j->a;
    for (struct span s = span_of(j, i); s.from < s.to; s.from++) {
        const float *x = a->x + s.from * a->K;
        float *y = a->y + s.from * a->K;
        v16 r = inverse_norm(x, a->K, a->eps);
        for (int64_t k = 0; k < a->K; k += PANEL) {
            int n = v16_lanes(k, a->K);
            v16_store_n(y + k, v16_mul(v16_mul(v16_load_n(x + k, n), r), v16_load_n(a->w + k, n)), n);
        }
    }
}

void FN(rmsnorm_f32)(const struct parallel *par, const struct rmsnorm_args *a)
{
    over(par, a, a->M, a->M * a->K / 4, rmsnorm_piece);
}

/* a->y is dy and becomes dx. */
static void rmsnorm_back_piece(void *arg, size_t i)
{
    const struct rows_job *j = arg;
    const struct rmsnorm_args *a = j->a;
    for (struct span s = span_of(j, i); s.from < s.to; s.from++) {
        const float *x = a->x + s.from * a->K;
        float *y = a->y + s.from * a->K;
        v16 r = inverse_norm(x, a->K, a->eps), sum = v16_zero();
        for (int64_t k = 0; k < a->K; k += PANEL) {
            int n = v16_lanes(k, a->K);
            v16 g = v16_mul(v16_load_n(y + k, n), v16_load_n(a->w + k, n));
            v16_store_n(y + k, g, n);
            sum = v16_fma(v16_load_n(x + k, n), g, sum);
        }
        /* r twice, never its square: that of a row of 1e20 would be denormal. */
        v16 c = v16_mul(v16_mul(v16_div(v16_set1(v16_sum(sum)), v16_set1((float)a->K)), r), r);
        for (int64_t k = 0; k < a->K; k += PANEL) {
            int n = v16_lanes(k, a->K);
            v16_store_n(y + k, v16_mul(v16_fnma(v16_load_n(x + k, n), c, v16_load_n(y + k, n)), r), n);
        }
    }
}

void FN(rmsnorm_back_f32)(const struct parallel *par, const struct rmsnorm_args *a)
{
    over(par, a, a->M, a->M * a->K / 2, rmsnorm_back_piece);
}

static void rope_piece(void *arg, size_t i)
{
    const struct rows_job *j = arg;
    const struct rope_args *a = j->a;
    const int64_t half = a->head_dim / 2;
    for (struct span s = span_of(j, i); s.from < s.to; s.from++) {
        const float *cos = a->cos + a->pos[s.from] * half, *sin = a->sin + a->pos[s.from] * half;
        for (int h = 0; h < a->heads + a->kv_heads; h++) {
            float *x = h < a->heads ? a->q + (s.from * a->heads + h) * a->head_dim : a->k + (s.from * a->kv_heads + h - a->heads) * a->head_dim, *x2 = x + half;
            for (int64_t d = 0; d < half; d += PANEL) {
                int n = v16_lanes(d, half);
                v16 c = v16_load_n(cos + d, n), sn = v16_load_n(sin + d, n), u = v16_load_n(x + d, n), v = v16_load_n(x2 + d, n);
                v16_store_n(x + d, v16_fnma(v, sn, v16_mul(u, c)), n);
                v16_store_n(x2 + d, v16_fma(u, sn, v16_mul(v, c)), n);
            }
        }
    }
}

void FN(rope_f32)(const struct parallel *par, const struct rope_args *a)
{
    over(par, a, a->M, a->M * (a->heads + a->kv_heads) * a->head_dim / 4, rope_piece);
}

struct flat_args {
    float *y, *z; /* z: silu_back only */
    const float *a, *b;
    float p, q; /* mix */
    int64_t n;
};

/* Elements of block i of 16 for i in the span: whole vectors, except at the very end. */
static void silu_mul_piece(void *arg, size_t i)
{
    const struct rows_job *j = arg;
    const struct flat_args *a = j->a;
    for (struct span s = span_of(j, i); s.from < s.to; s.from++) {
        int64_t at = s.from * PANEL;
        int n = v16_lanes(at, a->n);
        v16 g = v16_load_n(a->a + at, n), u = v16_load_n(a->b + at, n);
        v16_store_n(a->y + at, v16_mul(v16_mul(g, v16_sigmoid(g)), u), n);
    }
}

void FN(silu_mul_f32)(const struct parallel *par, float *y, const float *gate, const float *up, int64_t n)
{
    struct flat_args a = {.y = y, .a = gate, .b = up, .n = n};
    over(par, &a, (n + PANEL - 1) / PANEL, n, silu_mul_piece);
}

/* y is the gate, z is up. */
static void silu_back_piece(void *arg, size_t i)
{
    const struct rows_job *j = arg;
    const struct flat_args *a = j->a;
    const v16 one = v16_set1(1.0f);
    for (struct span s = span_of(j, i); s.from < s.to; s.from++) {
        int64_t at = s.from * PANEL;
        int n = v16_lanes(at, a->n);
        v16 g = v16_load_n(a->y + at, n), u = v16_load_n(a->z + at, n), sg = v16_sigmoid(g);
        v16_store_n(a->y + at, v16_mul(v16_mul(sg, v16_fma(g, v16_sub(one, sg), one)), u), n);
        v16_store_n(a->z + at, v16_mul(g, sg), n);
    }
}

void FN(silu_back_f32)(const struct parallel *par, float *gate, float *up, int64_t n)
{
    struct flat_args a = {.y = gate, .z = up, .n = n};
    over(par, &a, (n + PANEL - 1) / PANEL, n, silu_back_piece);
}

static void add_piece(void *arg, size_t i)
{
    const struct rows_job *j = arg;
    const struct flat_args *a = j->a;
    for (struct span s = span_of(j, i); s.from < s.to; s.from++) {
        int64_t at = s.from * PANEL;
        int n = v16_lanes(at, a->n);
        v16_store_n(a->y + at, v16_add(v16_load_n(a->y + at, n), v16_load_n(a->a + at, n)), n);
    }
}

void FN(add_f32)(const struct parallel *par, float *y, const float *x, int64_t n)
{
    struct flat_args a = {.y = y, .a = x, .n = n};
    over(par, &a, (n + PANEL - 1) / PANEL, n / 4, add_piece);
}

static void mix_piece(void *arg, size_t i)
{
    const struct rows_job *j = arg;
    const struct flat_args *a = j->a;
    v16 p = v16_set1(a->p), q = v16_set1(a->q);
    for (struct span s = span_of(j, i); s.from < s.to; s.from++) {
        int64_t at = s.from * PANEL;
        int n = v16_lanes(at, a->n);
        v16_store_n(a->y + at, v16_fma(q, v16_load_n(a->a + at, n), v16_mul(p, v16_load_n(a->y + at, n))), n);
    }
}

void FN(mix_f32)(const struct parallel *par, float *y, float p, const float *x, float q, int64_t n)
{
    struct flat_args a = {.y = y, .a = x, .p = p, .q = q, .n = n};
    over(par, &a, (n + PANEL - 1) / PANEL, n / 4, mix_piece);
}

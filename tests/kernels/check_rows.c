/* embed, rmsnorm, rmsnorm_back, rope, silu_mul, silu_back, add: equal bits in every ISA and on any number of threads; the scalar row close to f64. */
#include "tests/kernels/util.h"

static const int threads[] = {1, 2, 7};

/* Calls op for every ISA and number of threads; y starts as y0 and must end as the scalar row leaves it. */
static void compare(const float *y0, size_t n, void (*op)(struct backend *b, float *y, const void *arg), const void *arg, float *scalar_result)
{
    struct rig s = rig_new(ISA_SCALAR, 1);
    memcpy(scalar_result, y0, n * sizeof *y0);
    op(s.b, scalar_result, arg);
    rig_free(&s);
    for (int isa = ISA_SCALAR; isa <= (int)isa_best(); isa++)
        for (int t = 0; t < 3; t++) {
            struct rig r = rig_new((enum isa)isa, threads[t]);
            struct guarded y = guarded_new(n);
            memcpy(y.at, y0, n * sizeof *y0);
            op(r.b, y.at, arg);
            same_bits(scalar_result, y.at, n, isa_name((enum isa)isa));
            guarded_free(&y);
            rig_free(&r);
        }
}

struct arg {
    int64_t M, K;
    const float *a, *b;
    int heads, D;
    const int32_t *ids;
    struct tensor_view table;
};

static void run_rmsnorm(struct backend *b, float *y, const void *p)
{
    const struct arg *a = p;
    assert_int_equal(b->ops->rmsnorm(b, y, y, a->a, a->M, a->K, 1e-6f, NULL), 0);
}

static void run_rmsnorm_back(struct backend *b, float *y, const void *p)
{
    const struct arg *a = p;
    assert_int_equal(b->ops->rmsnorm_back(b, y, a->b, a->a, a->M, a->K, 1e-6f, NULL), 0);
}

static void run_rope(struct backend *b, float *y, const void *p)
{
    const struct arg *a = p;
    const int q = a->heads - a->heads / 3; /* the last third are keys' */
    const struct rope_args r = {.q = y, .k = y + a->M * q * a->D, .heads = q, .kv_heads = a->heads - q, .head_dim = a->D, .M = a->M, .cos = a->a, .sin = a->b, .pos = a->ids};
    assert_int_equal(b->ops->rope(b, &r, NULL), 0);
}

static void run_silu_mul(struct backend *b, float *y, const void *p)
{
    const struct arg *a = p;
    assert_int_equal(b->ops->silu_mul(b, y, y, a->b, 1, a->K, NULL), 0);
}

/* y: gate, then up. */
static void run_silu_back(struct backend *b, float *y, const void *p)
{
    const struct arg *a = p;
    assert_int_equal(b->ops->silu_back(b, y, y + a->K, a->K, NULL), 0);
}

static void run_add(struct backend *b, float *y, const void *p)
{
    const struct arg *a = p;
    assert_int_equal(b->ops->add(b, y, a->a, a->K, NULL), 0);
}

static void run_embed(struct backend *b, float *y, const void *p)
{
    const struct arg *a = p;
    assert_int_equal(b->ops->embed(b, y, &a->table, a->ids, a->M, NULL), 0);
}

static void rmsnorm(void **state)
{
    (void)state;
    uint64_t seed = 1;
    static const int64_t shapes[][2] = {{1, 1}, {3, 15}, {2, 16}, {5, 4097}, {300, 515}};
    for (int i = 0; i < 5; i++)
        for (int how = 0; how < FILL_COUNT; how++) {
            int64_t M = shapes[i][0], K = shapes[i][1];
            size_t n = (size_t)(M * K);
            float *x = malloc(n * 4), *y = malloc(n * 4), *w = malloc((size_t)K * 4);
            fill(x, n, (enum fill)how, &seed);
            for (size_t j = 0; how == FILL_LARGE && j < n; j++)
                x[j] *= 1e-3f; /* the sum of squares must be finite */
            fill(w, (size_t)K, FILL_PLAIN, &seed);
            compare(x, n, run_rmsnorm, &(struct arg){.M = M, .K = K, .a = w}, y);
            for (int64_t m = 0; m < M; m++) {
                double sum = 0;
                for (int64_t k = 0; k < K; k++)
                    sum += (double)x[m * K + k] * (double)x[m * K + k];
                for (int64_t k = 0; k < K; k++) {
                    double want = (double)x[m * K + k] / sqrt(sum / (double)K + (double)1e-6f) * (double)w[k];
                    /* half the error of the sum (K / 16 + 4 roundings), and seven more */
                    double bound = fabs(want) * ((double)K / 32 + 9) * 0x1p-24 + 0x1p-149;
                    if (!(fabs((double)y[m * K + k] - want) <= bound))
                        fail_msg("shape %d: %g, not %g", i, (double)y[m * K + k], want);
                }
            }
            free(x);
            free(y);
            free(w);
        }
}

/* One row of rmsnorm_back against f64. The sums have K / 16 + 4 roundings, r has half of the first one's relative error and five more; half a
 * smallest denormal can be lost in each product. */
static void check_rmsnorm_back(const float *got, const float *dy, const float *x, const float *w, int64_t K)
{
    double sum = 0, mean = 0, size = 0, n = (double)K;
    for (int64_t k = 0; k < K; k++) {
        sum += (double)x[k] * (double)x[k];
        mean += (double)x[k] * (double)w[k] * (double)dy[k] / n;
        size += fabs((double)x[k] * (double)w[k] * (double)dy[k]) / n;
    }
    double r = 1 / sqrt(sum / n + (double)1e-6f), off_r = n / 32 + 7, off_mean = n / 16 + 7;
    for (int64_t k = 0; k < K; k++) {
        double g = (double)w[k] * (double)dy[k], want = r * (g - (double)x[k] * r * r * mean);
        double bound = r * (fabs(g) * (off_r + 3) + fabs((double)x[k]) * r * r * size * (off_mean + 3 * off_r + 5)) * 0x1p-24;
        bound += (1 + r) * (1 + fabs((double)x[k])) * 0x1p-148;
        if (!(fabs((double)got[k] - want) <= bound))
            fail_msg("%lld of %lld: %g, not %g", (long long)k, (long long)K, (double)got[k], want);
    }
}

static void rmsnorm_back(void **state)
{
    (void)state;
    uint64_t seed = 5;
    static const int64_t shapes[][2] = {{1, 1}, {3, 15}, {2, 16}, {5, 4097}, {300, 515}};
    for (int i = 0; i < 5; i++)
        for (int how = 0; how < FILL_COUNT; how++) {
            int64_t M = shapes[i][0], K = shapes[i][1];
            size_t n = (size_t)(M * K);
            float *x = malloc(n * 4), *dy = malloc(n * 4), *dx = malloc(n * 4), *w = malloc((size_t)K * 4);
            fill(x, n, (enum fill)how, &seed);
            for (size_t j = 0; how == FILL_LARGE && j < n; j++)
                x[j] *= 1e-3f; /* as in rmsnorm */
            fill(dy, n, how == FILL_DENORMAL ? FILL_DENORMAL : FILL_PLAIN, &seed);
            fill(w, (size_t)K, FILL_PLAIN, &seed);
            compare(dy, n, run_rmsnorm_back, &(struct arg){.M = M, .K = K, .a = w, .b = x}, dx);
            for (int64_t m = 0; m < M; m++)
                check_rmsnorm_back(dx + m * K, dy + m * K, x + m * K, w, K);
            free(x);
            free(dy);
            free(dx);
            free(w);
        }
}

/* s = sigmoid is 3 units off at most, which 1 - s takes over absolutely; four more roundings, relative to the terms of 1 + g (1 - s). Below -88 as in elementwise. */
static void check_silu_back(const float *got, const float *in, size_t n)
{
    for (size_t j = 0; j < n; j++) {
        double g = (double)in[j], u = (double)in[n + j], s = 1 / (1 + exp(-g)), rest = 1 / (1 + exp(g)), tiny = 0x1p-126 * (fabs(g) + 1);
        double want = u * s * (1 + g * rest), off = fabs(u) * s * ((6 + 4) * (1 + fabs(g) * rest) + 6 * fabs(g) * s) * 0x1p-24;
        if (!(fabs((double)got[j] - want) <= off + tiny * (fabs(u) + 1)))
            fail_msg("silu'(%g) * %g = %g, not %g", g, u, (double)got[j], want);
        if (!(fabs((double)got[n + j] - g * s) <= 6 * 0x1p-24 * fabs(g * s) + tiny))
            fail_msg("silu(%g) = %g, not %g", g, (double)got[n + j], g * s);
    }
}

static void silu_back(void **state)
{
    (void)state;
    uint64_t seed = 6;
    static const int64_t sizes[] = {1, 15, 16, 17, 1000, 300001};
    for (int i = 0; i < 6; i++)
        for (int how = 0; how < FILL_COUNT; how++) {
            size_t n = (size_t)sizes[i];
            float *in = malloc(2 * n * 4), *out = malloc(2 * n * 4);
            fill(in, n, (enum fill)how, &seed);
            fill(in + n, n, FILL_PLAIN, &seed);
            for (size_t j = 0; j < n; j++)
                in[j] *= j % 3 == 0 ? 90.0f : j % 3 == 1 ? 4.0f : 1.0f;
            compare(in, 2 * n, run_silu_back, &(struct arg){.K = sizes[i]}, out);
            check_silu_back(out, in, n);
            free(in);
            free(out);
        }
}

static void rope(void **state)
{
    (void)state;
    uint64_t seed = 2;
    enum { POSITIONS = 64 };
    static const int dims[] = {2, 20, 64, 128, 256};
    for (int i = 0; i < 5; i++) {
        int D = dims[i], heads = 3, M = 50; /* two of queries, then one of keys */
        size_t n = (size_t)(M * heads * D), half = (size_t)D / 2;
        float *x = malloc(n * 4), *y = malloc(n * 4), *c = malloc(POSITIONS * half * 4), *s = malloc(POSITIONS * half * 4);
        int32_t pos[50];
        fill(x, n, FILL_DENORMAL, &seed);
        for (size_t j = 0; j < POSITIONS * half; j++) {
            double angle = (double)rnd_f32(&seed) * 4;
            c[j] = (float)cos(angle);
            s[j] = (float)sin(angle);
        }
        for (int j = 0; j < M; j++)
            pos[j] = (int32_t)(rnd(&seed) % POSITIONS);
        compare(x, n, run_rope, &(struct arg){.M = M, .heads = heads, .D = D, .a = c, .b = s, .ids = pos}, y);
        for (size_t j = 0; j < n; j++) {
            size_t q = (size_t)(M * 2 * D), row = j < q ? j / (size_t)(2 * D) : (j - q) / (size_t)D, d = j % (size_t)D, at = (size_t)pos[row] * half + d % half;
            double other = d < half ? -(double)x[j + half] : (double)x[j - half];
            double want = (double)x[j] * (double)c[at] + other * (double)s[at];
            assert_true(fabs((double)y[j] - want) <= 0x1p-23 * (fabs((double)x[j]) + fabs(other)) + 0x1p-148);
        }
        free(x);
        free(y);
        free(c);
        free(s);
    }
    struct rig r = rig_new(ISA_AUTO, 1);
    struct err e;
    assert_int_equal(r.b->ops->rope(r.b, &(struct rope_args){.heads = 1, .head_dim = 3, .M = 1}, &e), -ERR_SHAPE);
    rig_free(&r);
}

static void elementwise(void **state)
{
    (void)state;
    uint64_t seed = 3;
    static const int64_t sizes[] = {1, 15, 16, 17, 1000, 300001};
    for (int i = 0; i < 6; i++)
        for (int how = 0; how < FILL_COUNT; how++) {
            size_t n = (size_t)sizes[i];
            float *x = malloc(n * 4), *u = malloc(n * 4), *y = malloc(n * 4);
            fill(x, n, (enum fill)how, &seed);
            fill(u, n, FILL_PLAIN, &seed);
            for (size_t j = 0; j < n; j += 3)
                x[j] *= 90.0f;
            compare(x, n, run_silu_mul, &(struct arg){.K = sizes[i], .b = u}, y);
            for (size_t j = 0; j < n; j++) {
                double g = (double)x[j], want = g / (1 + exp(-g)) * (double)u[j];
                /* Below -88 the sigmoid is denormal or zero: what is lost there is below 2^-126 |g|. */
                assert_true(fabs((double)y[j] - want) <= 6 * 0x1p-24 * fabs(want) + 0x1p-126 * (fabs(g) + 1));
            }
            compare(x, n, run_add, &(struct arg){.K = sizes[i], .a = u}, y);
            for (size_t j = 0; j < n; j++)
                assert_true(y[j] == x[j] + u[j]);
            free(x);
            free(u);
            free(y);
        }
}

static void embed(void **state)
{
    (void)state;
    uint64_t seed = 4;
    enum { V = 30, K = 37, M = 200 };
    float table[V * K], y0[M * K], y[M * K];
    uint16_t half[V * K];
    int32_t ids[M];
    fill(table, V * K, FILL_PLAIN, &seed);
    fill(y0, M * K, FILL_PLAIN, &seed);
    for (int i = 0; i < M; i++)
        ids[i] = (int32_t)(rnd(&seed) % V);
    static const enum dtype dtypes[] = {DT_F32, DT_F16, DT_BF16};
    for (int t = 0; t < 3; t++) {
        for (int i = 0; i < V * K; i++)
            half[i] = dtypes[t] == DT_F16 ? f32_to_f16(table[i]) : f32_to_bf16(table[i]);
        struct arg a = {.M = M, .ids = ids, .table = {.dtype = dtypes[t], .rows = V, .cols = K, .data = t ? (const void *)half : table}};
        compare(y0, M * K, run_embed, &a, y);
        for (int i = 0; i < M * K; i++) {
            int at = ids[i / K] * K + i % K;
            float want = t == 0 ? table[at] : t == 1 ? f16_to_f32(half[at]) : bf16_to_f32(half[at]);
            assert_true(y[i] == want);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm),
        cmocka_unit_test(rmsnorm_back),
        cmocka_unit_test(silu_back),
        cmocka_unit_test(rope),
        cmocka_unit_test(elementwise),
        cmocka_unit_test(embed),
    };
    return cmocka_run_group_tests_name("rows", tests, NULL, NULL);
}

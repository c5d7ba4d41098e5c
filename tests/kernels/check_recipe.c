/* What goes beyond the plain loop, every row against the scalar one to the bit and by its meaning in plain f64: the scale search inside a group, descent on codes
 * and scales, with and without an output metric, and mix. */
#include "tests/kernels/quant_util.h"

#include "kernels/half.h"

struct search_case {
    int64_t N, K, group_size;
    struct quant_grid grid;
    const float *w, *u;
    struct {
        uint8_t *codes, *zeros;
        uint16_t *scales;
        double *loss;
    } first;
};

static struct gptq_args loop_args(int64_t N, int64_t K, int64_t group_size, const float *w, const float *u, struct quant_grid grid)
{
    int64_t G = (K + group_size - 1) / group_size;
    size_t nk = (size_t)(N * K), gn = (size_t)(G * N);
    int32_t *group = malloc((size_t)K * sizeof *group);
    for (int64_t k = 0; k < K; k++)
        group[k] = (int32_t)(k / group_size);
    struct gptq_args a = {.N = N,
                          .K = K,
                          .G = G,
                          .w = guarded(nk * sizeof(float)),
                          .u = u,
                          .group = group,
                          .grid = grid,
                          .codes = guarded(nk),
                          .scales = guarded(gn * 2),
                          .zeros = guarded(gn),
                          .loss = guarded((size_t)N * sizeof(double))};
    memcpy(a.w, w, nk * sizeof *w);
    return a;
}

static void check_loop_guards(const struct gptq_args *a)
{
    size_t nk = (size_t)(a->N * a->K), gn = (size_t)(a->G * a->N);
    check_guard(a->w, nk * sizeof *a->w);
    check_guard(a->codes, nk);
    check_guard(a->scales, gn * sizeof *a->scales);
    check_guard(a->zeros, gn);
    check_guard(a->loss, (size_t)a->N * sizeof *a->loss);
}

static void free_loop(struct gptq_args *a)
{
    free(a->w), free(a->codes), free(a->scales), free(a->zeros), free(a->loss), free((void *)(uintptr_t)a->group);
}

static void run_search(const struct cpu_kernels *k, const struct parallel *par, bool first, void *arg)
{
    struct search_case *c = arg;
    struct gptq_args a = loop_args(c->N, c->K, c->group_size, c->w, c->u, c->grid);
    size_t nk = (size_t)(a.N * a.K), gn = (size_t)(a.G * a.N);
    struct err e = {0};
    assert_int_equal(k->gptq_f32(par, &a, &e), 0);
    check_loop_guards(&a);
    if (!first) {
        assert_memory_equal(a.codes, c->first.codes, nk);
        assert_memory_equal(a.scales, c->first.scales, gn * sizeof *a.scales);
        assert_memory_equal(a.zeros, c->first.zeros, gn);
        assert_memory_equal(a.loss, c->first.loss, (size_t)a.N * sizeof *a.loss);
        free_loop(&a);
        return;
    }
    free(a.w), free((void *)(uintptr_t)a.group);
    c->first.codes = a.codes;
    c->first.zeros = a.zeros;
    c->first.scales = a.scales;
    c->first.loss = a.loss;
}

/* Loss of the loop over one group of n columns of one row with a given grid, plainly. */
static double group_loss(const float *w, const float *u, int64_t n, int64_t ldu, double scale, int zero, int bits)
{
    double x[512], loss = 0;
    int maxq = (1 << bits) - 1;
    for (int64_t i = 0; i < n; i++)
        x[i] = (double)w[i];
    for (int64_t i = 0; i < n; i++) {
        double q = fmin(fmax(nearbyint(x[i] / scale), -zero), maxq - zero), e = (q * scale - x[i]) / (double)u[i * ldu + i];
        loss += e * e;
        for (int64_t j = i + 1; j < n; j++)
            x[j] += e * (double)u[i * ldu + j];
    }
    return loss;
}

/* Of the first group, whose weights are still those given: nothing among the candidates is better than the scale taken. */
static void check_choice(const struct search_case *c)
{
    int64_t n = c->group_size < c->K ? c->group_size : c->K;
    int maxq = (1 << c->grid.bits) - 1;
    for (int64_t r = 0; r < c->N; r++) {
        double most = 0, best = INFINITY, scale = (double)f16_to_f32(c->first.scales[r]);
        for (int64_t i = 0; i < n; i++)
            most = fmax(most, fabs((double)c->w[r * c->K + i]));
        for (int i = 0; i < c->grid.candidates; i++)
            for (int sign = 1; sign >= (c->grid.signed_scales ? -1 : 1); sign -= 2) {
                float s = (float)((1.05 - 0.53 * i / (c->grid.candidates - 1)) * 2 * most / maxq);
                uint16_t stored = f32_to_f16(c->grid.dtype == SCALE_BF16 ? bf16_to_f32(f32_to_bf16(s)) : s);
                best = fmin(best, group_loss(c->w + r * c->K, c->u, n, c->K, sign * (double)f16_to_f32(stored), (maxq + 1) / 2, c->grid.bits));
            }
        double got = group_loss(c->w + r * c->K, c->u, n, c->K, scale, c->first.zeros[r], c->grid.bits);
        assert_true(got <= best * 1.02 + 1e-12); /* f32 may take another of two rounding ways inside the group */
        if (!c->grid.signed_scales)
            assert_true(scale > 0);
        if (c->grid.dtype == SCALE_BF16)
            assert_int_equal(c->first.scales[r] & 7, 0);
    }
}

static void search(void **state)
{
    static const struct {
        int64_t N, K, group_size;
        int bits, candidates;
        bool sym, is_signed;
        enum scale_dtype dtype;
    } cases[] = {
        {1,  1,   1,   4, 16, true,  true,  SCALE_F16 },
        {50, 130, 128, 4, 16, true,  true,  SCALE_F16 },
        {17, 300, 96,  4, 5,  true,  false, SCALE_BF16},
        {33, 100, 21,  3, 16, true,  true,  SCALE_BF16},
        {49, 90,  32,  8, 7,  true,  true,  SCALE_F16 },
        {20, 140, 40,  4, 16, false, false, SCALE_F16 },
        {35, 301, 301, 4, 6,  true,  true,  SCALE_F16 }, /* a group of three chunks */
        {7,  66,  33,  2, 2,  true,  true,  SCALE_F16 },
    };
    (void)state;
    int negative = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct search_case c = {.N = cases[i].N, .K = cases[i].K, .group_size = cases[i].group_size};
        c.grid = (struct quant_grid){.bits = cases[i].bits,
                                     .sym = cases[i].sym,
                                     .search = GRID_GPTQ,
                                     .candidates = cases[i].candidates,
                                     .signed_scales = cases[i].is_signed,
                                     .dtype = cases[i].dtype};
        float *w = random_floats(c.N * c.K), *u = malloc((size_t)(c.K * c.K) * sizeof *u);
        double *h = random_spd(c.K);
        int64_t bad;
        struct parallel par = {pool_run, NULL, 1};
        struct err e = {0};
        assert_int_equal(cpu_kernels(ISA_AUTO)->factor_f64(&par, h, u, c.K, &bad, &e), 0);
        c.w = w;
        c.u = u;
        each_row(run_search, &c);
        if (c.grid.sym && c.group_size <= 128)
            check_choice(&c);
        for (int64_t r = 0; r < c.N; r++)
            negative += c.first.scales[r] >> 15;
        free(w), free(u), free(h);
        free(c.first.codes), free(c.first.scales), free(c.first.zeros), free(c.first.loss);
    }
    assert_true(negative > 20); /* about half of those that may be */
}

struct refine_case {
    int64_t N, K, group_size;
    int bits, sweeps;
    bool refit, metric;
    const float *target, *h, *g;
    struct refine_args first;
};

/* A start that descent can better: everything rounded to the nearest code of a scale that is somewhat off, half of them negative. */
static void round_start(struct refine_args *a)
{
    int zero = 1 << (a->grid.bits - 1), maxq = (1 << a->grid.bits) - 1;
    uint8_t *zeros = malloc((size_t)(a->G * a->N));
    memset(zeros, zero, (size_t)(a->G * a->N));
    a->zeros = zeros;
    for (int64_t n = 0; n < a->N; n++)
        for (int64_t k = 0; k < a->K; k++) {
            int64_t at = a->group[k] * a->N + n;
            float s = (n + a->group[k]) % 2 ? -2.5f / (float)maxq : 2.5f / (float)maxq;
            a->scales[at] = f32_to_f16(s);
            s = f16_to_f32(a->scales[at]);
            float q = fminf(fmaxf(nearbyintf(a->target[n * a->K + k] / s), (float)-zero), (float)(maxq - zero));
            a->codes[n * a->K + k] = (uint8_t)(q + (float)zero);
            a->w[n * a->K + k] = q * s;
        }
}

static struct refine_args refine_start(const struct refine_case *c)
{
    int64_t G = (c->K + c->group_size - 1) / c->group_size;
    size_t nk = (size_t)(c->N * c->K);
    int32_t *group = malloc((size_t)c->K * sizeof *group);
    for (int64_t k = 0; k < c->K; k++)
        group[k] = (int32_t)(k / c->group_size);
    struct refine_args a = {.N = c->N,
                            .K = c->K,
                            .G = G,
                            .target = c->target,
                            .h = c->h,
                            .metric = c->metric ? c->g : NULL,
                            .ldm = (c->N + 15) / 16 * 16,
                            .group = group,
                            .grid = {.bits = c->bits, .sym = true, .search = GRID_GPTQ, .signed_scales = true},
                            .sweeps = c->sweeps,
                            .refit = c->refit,
                            .w = guarded(nk * sizeof(float)),
                            .codes = guarded(nk),
                            .scales = guarded((size_t)(G * c->N) * 2)};
    round_start(&a);
    return a;
}

static void free_refine(struct refine_args *a)
{
    free(a->w), free(a->codes), free(a->scales), free((void *)(uintptr_t)a->zeros), free((void *)(uintptr_t)a->group);
}

/* tr(G E H E^T), plainly; code (n,k) moved by `move` when n >= 0. */
static double refine_loss_f64(const struct refine_args *a, int64_t mn, int64_t mk, int move)
{
    size_t nk = (size_t)(a->N * a->K);
    double *e = malloc(nk * sizeof *e), *eh = calloc(nk, sizeof *eh), loss = 0;
    for (int64_t n = 0; n < a->N; n++)
        for (int64_t k = 0; k < a->K; k++) {
            int64_t at = a->group[k] * a->N + n;
            int q = a->codes[n * a->K + k] - a->zeros[at] + (n == mn && k == mk ? move : 0);
            e[n * a->K + k] = (double)f16_to_f32(a->scales[at]) * q - (double)a->target[n * a->K + k];
        }
    for (int64_t n = 0; n < a->N; n++)
        for (int64_t i = 0; i < a->K; i++)
            for (int64_t j = 0; j < a->K; j++)
                eh[n * a->K + j] += e[n * a->K + i] * (double)a->h[i * a->K + j];
    for (int64_t n = 0; n < a->N; n++)
        for (int64_t m = 0; m < a->N; m++) {
            double g = a->metric ? (double)a->metric[n * a->ldm + m] : n == m, dot = 0;
            for (int64_t k = 0; k < a->K && g != 0; k++)
                dot += e[m * a->K + k] * eh[n * a->K + k];
            loss += g * dot;
        }
    free(e), free(eh);
    return loss;
}

static void check_descent(const struct refine_case *c, const struct refine_args *a)
{
    struct refine_args start = refine_start(c);
    double before = refine_loss_f64(&start, -1, 0, 0), after = refine_loss_f64(a, -1, 0, 0);
    assert_true(fabs(a->loss[0] / before - 1) < 1e-4);
    assert_true(fabs(a->loss[3] / after - 1) < 1e-3);
    for (int i = 0; i < 3; i++)
        assert_true(a->loss[i + 1] <= a->loss[i] * (1 + 1e-5));
    assert_true(a->loss[1] < a->loss[0] * 0.95);
    if (c->refit && !c->metric)
        assert_true(a->loss[2] < a->loss[1]);
    for (int64_t i = 0; i < a->N * a->K; i++) {
        int64_t at = a->group[i % a->K] * a->N + i / a->K;
        assert_true(a->w[i] == f16_to_f32(a->scales[at]) * (float)(a->codes[i] - a->zeros[at]));
        assert_true(a->codes[i] <= (1 << a->grid.bits) - 1);
    }
    for (int64_t i = 0; c->sweeps > 20 && i < a->N * a->K; i += 7) /* run to the end: no single code can better it */
        for (int move = -1; move <= 1; move += 2) {
            int code = a->codes[i] + move;
            if (code >= 0 && code < 1 << a->grid.bits)
                assert_true(refine_loss_f64(a, i / a->K, i % a->K, move) >= after * (1 - 1e-5));
        }
    free_refine(&start);
}

static void run_refine(const struct cpu_kernels *k, const struct parallel *par, bool first, void *arg)
{
    struct refine_case *c = arg;
    struct refine_args a = refine_start(c);
    size_t nk = (size_t)(a.N * a.K), gn = (size_t)(a.G * a.N);
    struct err e = {0};
    assert_int_equal(c->metric ? k->refine_metric_f32(par, &a, &e) : k->refine_f32(par, &a, &e), 0);
    check_guard(a.w, nk * sizeof *a.w);
    check_guard(a.codes, nk);
    check_guard(a.scales, gn * sizeof *a.scales);
    if (first) {
        c->first = a;
        check_descent(c, &a);
        return;
    }
    assert_memory_equal(a.codes, c->first.codes, nk);
    assert_memory_equal(a.scales, c->first.scales, gn * sizeof *a.scales);
    assert_memory_equal(a.w, c->first.w, nk * sizeof *a.w);
    assert_memory_equal(a.loss, c->first.loss, sizeof a.loss);
    free_refine(&a);
}

/* A positive definite f32 matrix of order n, row stride ld, zero in the padding; `dead`: that row and column are zero. */
static float *random_metric(int64_t n, int64_t ld, int64_t dead)
{
    double *h = random_spd(n);
    float *g = calloc((size_t)(n * ld), sizeof *g);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            g[i * ld + j] = i == dead || j == dead ? 0 : (float)(h[i * n + j] / (double)n);
    free(h);
    return g;
}

static void refine(void **state)
{
    static const struct refine_case cases[] = {
        {.N = 49, .K = 130, .group_size = 32,  .bits = 4, .sweeps = 3,  .refit = true },
        {.N = 5,  .K = 259, .group_size = 259, .bits = 3, .sweeps = 2,  .refit = true },
        {.N = 17, .K = 40,  .group_size = 7,   .bits = 2, .sweeps = 64, .refit = false},
        {.N = 33, .K = 64,  .group_size = 16,  .bits = 8, .sweeps = 2,  .refit = true },
        {.N = 50, .K = 70,  .group_size = 32,  .bits = 4, .sweeps = 3,  .metric = true},
        {.N = 19, .K = 35,  .group_size = 16,  .bits = 4, .sweeps = 64, .metric = true},
        {.N = 97, .K = 20,  .group_size = 20,  .bits = 3, .sweeps = 2,  .metric = true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct refine_case c = cases[i];
        float *t = random_floats(c.N * c.K), *h = random_metric(c.K, c.K, 3), *g = random_metric(c.N, (c.N + 15) / 16 * 16, -1);
        c.target = t;
        c.h = h;
        c.g = g;
        each_row(run_refine, &c);
        free_refine(&c.first);
        free(t), free(h), free(g);
    }
}

static void run_mix(const struct cpu_kernels *k, const struct parallel *par, bool first, void *arg)
{
    enum { N = 1003 };
    static float want[N];
    const float *x = arg;
    float *y = guarded(N * sizeof *y);
    memcpy(y, x + N, N * sizeof *y);
    k->mix_f32(par, y, 0.75f, x, -1.5f, N);
    check_guard(y, N * sizeof *y);
    for (int i = 0; i < N; i++)
        want[i] = fmaf(-1.5f, x[i], 0.75f * x[N + i]);
    (void)first;
    assert_memory_equal(y, want, sizeof want);
    free(y);
}

static void mix(void **state)
{
    float *x = random_floats(2006);
    (void)state;
    each_row(run_mix, x);
    free(x);
}

/* Arguments that the backend refuses. */
static void refusals(void **state)
{
    struct parallel par = {pool_run, NULL, 1};
    struct backend *b;
    struct err e = {0};
    int32_t group[] = {0, 1, 0}, beyond[] = {0, 2, 0};
    float metric[32] = {0};
    (void)state;
    assert_int_equal(cpu_backend_create(ISA_SCALAR, &par, &b, &e), 0);
    struct refine_args a = {.N = 2, .K = 3, .G = 2, .group = beyond, .refit = true};
    assert_int_equal(b->ops->refine(b, &a, &e), -ERR_SHAPE);
    assert_string_equal(e.text, "refine: group 2 of column 1 is outside 0..1");
    a.group = group;
    assert_int_equal(b->ops->refine(b, &a, &e), -ERR_SHAPE);
    assert_string_equal(e.text, "refine: scales can be fitted again only where the columns of each of 2 groups lie side by side");
    a.refit = false;
    a.metric = metric;
    a.ldm = 16;
    assert_int_equal(b->ops->refine(b, &a, &e), -ERR_NUMERIC);
    assert_string_equal(e.text, "refine: the output metric of row 0 is 0");
    b->destroy(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(search),
        cmocka_unit_test(refine),
        cmocka_unit_test(mix),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The quantization kernels, every row against the scalar one to the bit, on odd sizes, with guards behind every output, and against plain
 * f64 within a bound. `check_quant --bench [K [N [tokens]]]` prints speed instead. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "tests/kernels/quant_util.h"

struct hessian_case {
    int64_t M, K, ldx, row0;
    const float *x;
    double *first;
};

static void run_hessian(const struct cpu_kernels *k, const struct parallel *par, bool first, void *arg)
{
    struct hessian_case *c = arg;
    size_t n = (size_t)(c->K * c->K), bytes = n * sizeof(double);
    double *h = guarded(bytes);
    struct err e = {0};
    for (size_t i = 0; i < n; i++)
        h[i] = (double)i;
    assert_int_equal(k->hessian_f32(par, h, c->x, c->ldx, c->M, c->K, c->row0, &e), 0);
    check_guard(h, bytes);
    if (!first) {
        assert_memory_equal(h, c->first, bytes);
        free(h);
        return;
    }
    c->first = h;
    for (int64_t i = 0; i < c->K; i++)
        for (int64_t j = 0; j < c->K; j++) {
            double sum = 0, size = 0, was = (double)(i * c->K + j);
            for (int64_t t = 0; t < c->M && j >= i; t++) {
                double x = (double)c->x[t * c->ldx + i] * (double)c->x[t * c->ldx + j];
                sum += x;
                size += fabs(x);
            }
            /* 256 roundings of f32 in a row at most; typically far fewer count. Below the diagonal nothing changes. */
            assert_true(fabs(h[i * c->K + j] - was - sum) <= size * 256 * 0x1p-24 + was * 1e-12);
        }
}

static void hessian(void **state)
{
    static const int64_t cases[][4] = {
        {1,    1,  1,   0  },
        {5,    17, 20,  256},
        {256,  48, 48,  0  },
        {300,  97, 101, 512},
        {1400, 50, 50,  0  },
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct hessian_case c = {.M = cases[i][0], .K = cases[i][1], .ldx = cases[i][2], .row0 = cases[i][3]};
        float *x = random_floats(c.M * c.ldx);
        c.x = x;
        each_row(run_hessian, &c);
        free(x);
        free(c.first);
    }
    struct err e = {0};
    struct parallel par = {pool_run, NULL, 1};
    assert_int_equal(cpu_kernels(ISA_SCALAR)->hessian_f32(&par, NULL, NULL, 1, 1, 1, 3, &e), -ERR_SHAPE);
    assert_string_equal(e.text, "hessian: first row 3 is not a multiple of 256");
}

struct cross_case {
    int64_t M, Ka, Kb, lda, ldx, row0;
    const float *a, *x;
    double *first;
};

static void run_cross(const struct cpu_kernels *k, const struct parallel *par, bool first, void *arg)
{
    struct cross_case *t = arg;
    size_t n = (size_t)(t->Ka * t->Kb), bytes = n * sizeof(double);
    double *c = guarded(bytes);
    struct cross_args a = {.c = c, .a = t->a, .x = t->x, .lda = t->lda, .Ka = t->Ka, .ldx = t->ldx, .Kb = t->Kb, .M = t->M, .row0 = t->row0};
    struct err e = {0};
    for (size_t i = 0; i < n; i++)
        c[i] = (double)i;
    assert_int_equal(k->cross_f32(par, &a, &e), 0);
    check_guard(c, bytes);
    if (!first) {
        assert_memory_equal(c, t->first, bytes);
        free(c);
        return;
    }
    t->first = c;
    for (int64_t i = 0; i < t->Ka; i++)
        for (int64_t j = 0; j < t->Kb; j++) {
            double sum = 0, size = 0, was = (double)(i * t->Kb + j), exact = was;
            float chain = 0;
            for (int64_t m = 0; m < t->M; m++) {
                float a1 = t->a[m * t->lda + i], x1 = t->x[m * t->ldx + j];
                sum += (double)a1 * (double)x1;
                size += fabs((double)a1 * (double)x1);
                chain = fmaf(a1, x1, chain);
                if ((m + 1) % HESSIAN_BLOCK_ROWS == 0 || m + 1 == t->M) {
                    exact += (double)chain;
                    chain = 0;
                }
            }
            assert_true(fabs(c[i * t->Kb + j] - was - sum) <= size * 256 * 0x1p-24 + was * 1e-12); /* as in run_hessian */
            assert_true(c[i * t->Kb + j] == exact);                                                 /* the order that the contract gives */
        }
}

/* The upper triangle of the cross of a matrix with itself is its hessian, to the bit. */
static void run_cross_is_hessian(const struct cpu_kernels *k, const struct parallel *par, bool first, void *arg)
{
    enum { M = 1100, K = 100 };
    double *h = calloc(K * K, sizeof *h), *c = calloc(K * K, sizeof *c);
    struct cross_args a = {.c = c, .a = arg, .x = arg, .lda = K, .Ka = K, .ldx = K, .Kb = K, .M = M};
    struct err e = {0};
    (void)first;
    assert_int_equal(k->hessian_f32(par, h, arg, K, M, K, 0, &e), 0);
    assert_int_equal(k->cross_f32(par, &a, &e), 0);
    for (int i = 0; i < K; i++)
        for (int j = 0; j < K; j++) {
            assert_memory_equal(&c[i * K + j], &h[i <= j ? i * K + j : j * K + i], sizeof *c);
            assert_true(i <= j || h[i * K + j] == 0);
        }
    free(h);
    free(c);
}

static void cross(void **state)
{
    static const int64_t cases[][6] = {
        {1,    1,   1,  1,   1,  0  },
        {5,    17,  3,  20,  9,  256},
        {256,  48,  96, 48,  96, 0  },
        {300,  97,  50, 101, 51, 512},
        {1400, 10, 110, 10, 110, 0  },
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int64_t *n = cases[i];
        struct cross_case c = {.M = n[0], .Ka = n[1], .Kb = n[2], .lda = n[3], .ldx = n[4], .row0 = n[5]};
        float *a = random_floats(c.M * c.lda), *x = random_floats(c.M * c.ldx);
        c.a = a;
        c.x = x;
        each_row(run_cross, &c);
        free(a);
        free(x);
        free(c.first);
    }
    float *x = random_floats(1100 * 100);
    each_row(run_cross_is_hessian, x);
    free(x);
    struct parallel par = {pool_run, NULL, 1};
    struct backend *b;
    struct err e = {0};
    assert_int_equal(cpu_backend_create(ISA_AUTO, &par, &b, &e), 0);
    assert_int_equal(b->ops->cross(b, NULL, NULL, 4, 4, NULL, 4, 4, 2, 3, &e), -ERR_SHAPE);
    assert_string_equal(e.text, "cross: first row 3 is not a multiple of 256");
    assert_int_equal(b->ops->cross(b, NULL, NULL, 4, 4, NULL, 4, 5, 2, 0, &e), -ERR_SHAPE);
    assert_string_equal(e.text, "cross of 4 and 5 inputs with row strides 4 and 4");
    b->destroy(b);
}

struct factor_case {
    int64_t K;
    double *h;
    float *first;
};

/* |U^T U h - 1| in f64. */
static double inverse_error(const float *u, const double *h, int64_t K)
{
    double *uh = calloc((size_t)(K * K), sizeof *uh), worst = 0;
    for (int64_t i = 0; i < K; i++)
        for (int64_t k = i; k < K; k++)
            for (int64_t j = 0; j < K; j++)
                uh[i * K + j] += (double)u[i * K + k] * h[k * K + j];
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = 0; j < K; j++) {
            double sum = i == j ? -1 : 0;
            for (int64_t k = 0; k <= i; k++)
                sum += (double)u[k * K + i] * uh[k * K + j];
            worst = fmax(worst, fabs(sum));
        }
    free(uh);
    return worst;
}

static void run_factor(const struct cpu_kernels *k, const struct parallel *par, bool first, void *arg)
{
    struct factor_case *c = arg;
    size_t n = (size_t)(c->K * c->K), bytes = n * sizeof(float);
    double *h = guarded(n * sizeof *h);
    float *u = guarded(bytes);
    int64_t bad;
    struct err e = {0};
    memcpy(h, c->h, n * sizeof *h);
    assert_int_equal(k->factor_f64(par, h, u, c->K, &bad, &e), 0);
    assert_int_equal(bad, -1);
    check_guard(h, n * sizeof *h);
    check_guard(u, bytes);
    free(h);
    if (!first) {
        assert_memory_equal(u, c->first, bytes);
        free(u);
        return;
    }
    c->first = u;
    for (int64_t i = 0; i < c->K; i++)
        for (int64_t j = 0; j < i; j++)
            assert_true(u[i * c->K + j] == 0);
    assert_true(inverse_error(u, c->h, c->K) < 1e-4); /* u is rounded to f32, and the condition of h is a few hundred */
}

static void factor(void **state)
{
    static const int64_t sizes[] = {1, 2, 23, 127, 128, 129, 171, 300};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct factor_case c = {sizes[i], random_spd(sizes[i]), NULL};
        each_row(run_factor, &c);
        free(c.h);
        free(c.first);
    }
}

static void run_bad_pivot(const struct cpu_kernels *k, const struct parallel *par, bool first, void *arg)
{
    int64_t K = 150, bad = -1;
    double *h = malloc((size_t)(K * K) * sizeof *h);
    float *u = malloc((size_t)(K * K) * sizeof *u);
    struct err e = {0};
    (void)first;
    for (int what = 0; what < 3; what++) {
        memcpy(h, arg, (size_t)(K * K) * sizeof *h);
        h[140 * K + 140] = what == 0 ? -1 : what == 1 ? NAN : INFINITY;
        assert_int_equal(k->factor_f64(par, h, u, K, &bad, &e), -ERR_NUMERIC);
        assert_int_equal(bad, 140);
        assert_string_equal(e.text, "factor: pivot 140 of 150 is not positive");
    }
    memset(h, 0, (size_t)(K * K) * sizeof *h);
    for (int64_t i = 0; i < K; i++)
        h[i * K + i] = i == 7 ? 1e-90 : 1;
    assert_int_equal(k->factor_f64(par, h, u, K, &bad, &e), -ERR_NUMERIC);
    assert_int_equal(bad, 7);
    assert_string_equal(e.text, "factor: pivot 7 of 150 is out of the range of f32");
    free(h);
    free(u);
}

static void bad_pivots(void **state)
{
    double *h = random_spd(150);
    (void)state;
    each_row(run_bad_pivot, h);
    free(h);
}

struct gptq_case {
    int64_t N, K, group_size;
    struct quant_grid grid;
    bool rtn, fixed;
    const float *w, *u;
    struct {
        float *w;
        uint8_t *codes, *zeros;
        uint16_t *scales;
        double *loss;
    } first;
};

static void run_gptq(const struct cpu_kernels *k, const struct parallel *par, bool first, void *arg)
{
    struct gptq_case *c = arg;
    int64_t G = (c->K + c->group_size - 1) / c->group_size;
    size_t nk = (size_t)(c->N * c->K), gn = (size_t)(G * c->N), n = (size_t)c->N;
    int32_t *group = malloc((size_t)c->K * sizeof *group);
    struct gptq_args a = {.N = c->N,
                          .K = c->K,
                          .G = G,
                          .w = guarded(nk * sizeof *a.w),
                          .u = c->rtn ? NULL : c->u,
                          .group = group,
                          .fixed = c->fixed,
                          .grid = c->grid,
                          .codes = guarded(nk),
                          .scales = guarded(gn * sizeof *a.scales),
                          .zeros = guarded(gn),
                          .loss = guarded(n * sizeof *a.loss)};
    struct err e = {0};
    memcpy(a.w, c->w, nk * sizeof *a.w);
    for (int64_t i = 0; i < c->K; i++) /* given grids may come in any order */
        group[i] = (int32_t)(c->fixed ? i % G : i / c->group_size);
    for (size_t i = 0; i < gn && c->fixed; i++) {
        a.scales[i] = (uint16_t)(0x2c00 + i % 700);
        a.zeros[i] = (uint8_t)(1 + i % 3);
    }
    assert_int_equal(k->gptq_f32(par, &a, &e), 0);
    check_guard(a.w, nk * sizeof *a.w);
    check_guard(a.codes, nk);
    check_guard(a.scales, gn * sizeof *a.scales);
    check_guard(a.zeros, gn);
    check_guard(a.loss, n * sizeof *a.loss);
    free(group);
    if (first) {
        c->first.w = a.w;
        c->first.codes = a.codes;
        c->first.scales = a.scales;
        c->first.zeros = a.zeros;
        c->first.loss = a.loss;
        return;
    }
    assert_memory_equal(a.w, c->first.w, nk * sizeof *a.w);
    assert_memory_equal(a.codes, c->first.codes, nk);
    assert_memory_equal(a.scales, c->first.scales, gn * sizeof *a.scales);
    assert_memory_equal(a.zeros, c->first.zeros, gn);
    assert_memory_equal(a.loss, c->first.loss, n * sizeof *a.loss);
    free(a.w), free(a.codes), free(a.scales), free(a.zeros), free(a.loss);
}

static void gptq(void **state)
{
    static const struct {
        int64_t N, K, group_size;
        int bits;
        bool sym, rtn, fixed;
        double mse;
    } cases[] = {
        {1,  1,   1,   4, true,  false, false, 0  },
        {49, 130, 128, 4, true,  false, false, 0  },
        {17, 301, 96,  4, false, false, false, 0  },
        {50, 140, 140, 3, false, false, false, 2.4},
        {33, 64,  7,   2, false, false, false, 2  },
        {48, 200, 32,  8, true,  true,  false, 0  },
        {5,  259, 16,  4, true,  false, true,  0  },
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gptq_case the_case = {
            .N = cases[i].N, .K = cases[i].K, .group_size = cases[i].group_size, .rtn = cases[i].rtn, .fixed = cases[i].fixed};
        struct gptq_case *c = &the_case;
        c->grid = (struct quant_grid){.bits = cases[i].bits, .sym = cases[i].sym, .mse = cases[i].mse, .search = cases[i].mse > 0 ? GRID_MSE : GRID_MINMAX};
        float *w = random_floats(c->N * c->K), *u = malloc((size_t)(c->K * c->K) * sizeof *u);
        double *h = random_spd(c->K);
        int64_t bad;
        struct parallel par = {pool_run, NULL, 1};
        struct err e = {0};
        assert_int_equal(cpu_kernels(ISA_AUTO)->factor_f64(&par, h, u, c->K, &bad, &e), 0);
        c->w = w;
        c->u = u;
        each_row(run_gptq, c);
        free(w), free(u), free(h);
        free(c->first.w), free(c->first.codes), free(c->first.scales), free(c->first.zeros), free(c->first.loss);
    }
}

/* fit on a group of a wider matrix gives what the loop fits on the same numbers. */
static void run_fit(const struct cpu_kernels *k, const struct parallel *par, bool first, void *arg)
{
    enum { N = 53, K = 40, LDW = 45 };
    static uint16_t want_scales[N];
    static uint8_t want_zeros[N];
    const struct quant_grid grid = {.bits = 3, .sym = false, .mse = 2.4, .search = GRID_MSE};
    uint16_t *scales = guarded(N * sizeof *scales);
    uint8_t *zeros = guarded(N), *codes = malloc(N * K);
    float *w = malloc(N * K * sizeof *w);
    double *loss = malloc(N * sizeof *loss);
    int32_t group[K] = {0};
    struct err e = {0};
    assert_int_equal(k->fit_f32(par, arg, LDW, N, K, &grid, scales, zeros, &e), 0);
    check_guard(scales, N * sizeof *scales);
    check_guard(zeros, N);
    if (first) {
        struct gptq_args a = {.N = N,
                              .K = K,
                              .G = 1,
                              .w = w,
                              .group = group,
                              .grid = grid,
                              .codes = codes,
                              .scales = want_scales,
                              .zeros = want_zeros,
                              .loss = loss};
        for (int n = 0; n < N; n++)
            memcpy(w + n * K, (const float *)arg + n * LDW, K * sizeof *w);
        assert_int_equal(k->gptq_f32(par, &a, &e), 0);
    }
    assert_memory_equal(scales, want_scales, sizeof want_scales);
    assert_memory_equal(zeros, want_zeros, sizeof want_zeros);
    free(scales), free(zeros), free(codes), free(w), free(loss);
}

static void fit(void **state)
{
    float *w = random_floats(53 * 45);
    (void)state;
    each_row(run_fit, w);
    free(w);
}

struct form_case {
    int64_t N, K;
    float *x;
    double *h, first;
};

static void run_quad_form(const struct cpu_kernels *k, const struct parallel *par, bool first, void *arg)
{
    struct form_case *c = arg;
    struct err e = {0};
    double got, want = 0;
    assert_int_equal(k->quad_form_f64(par, c->x, c->h, c->N, c->K, &got, &e), 0);
    if (!first) {
        assert_memory_equal(&got, &c->first, sizeof got);
        return;
    }
    c->first = got;
    for (int64_t n = 0; n < c->N; n++)
        for (int64_t i = 0; i < c->K; i++)
            for (int64_t j = 0; j < c->K; j++)
                want += (double)c->x[n * c->K + i] * c->h[i * c->K + j] * (double)c->x[n * c->K + j];
    assert_true(fabs(got / want - 1) < 1e-12);
}

static void quad_form(void **state)
{
    static const int64_t sizes[][2] = {
        {1,   1  },
        {3,   7  },
        {48,  64 },
        {49,  130},
        {100, 37 }
    };
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct form_case c = {sizes[i][0], sizes[i][1], random_floats(sizes[i][0] * sizes[i][1]), random_spd(sizes[i][1]), 0};
        each_row(run_quad_form, &c);
        free(c.x);
        free(c.h);
    }
}

static double thread_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void report(const char *name, enum isa isa, double seconds, double fmas)
{
    printf("%-14s %-7s %8.4f s %7.1f GFMA/s\n", name, isa_name(isa), seconds, fmas / seconds / 1e9);
}

/* One thread's processor time, so that a busy machine disturbs less. */
static void bench(int64_t K, int64_t N, int64_t M)
{
    struct parallel par = {pool_run, NULL, 1};
    struct err e = {0};
    size_t kk = (size_t)(K * K), nk = (size_t)(N * K);
    float *x = random_floats(M * K), *w = random_floats(N * K), *work = malloc(nk * sizeof *work), *u = malloc(kk * sizeof *u);
    double *h = malloc(kk * sizeof *h), *full = malloc(kk * sizeof *full), *loss = malloc((size_t)N * sizeof *loss), k = (double)K,
           n = (double)N, out;
    int64_t G = (K + 127) / 128, bad;
    int32_t *group = malloc((size_t)K * sizeof *group);
    struct gptq_args a = {
        .N = N,
        .K = K,
        .G = G,
        .w = work,
        .u = u,
        .group = group,
        .grid = {.bits = 4, .sym = true},
        .codes = malloc(nk),
        .scales = malloc((size_t)(G * N) * 2),
        .zeros = malloc((size_t)(G * N)),
        .loss = loss
    };
    for (int64_t i = 0; i < K; i++)
        group[i] = (int32_t)(i / 128);
    for (enum isa isa = isa_best() > ISA_SCALAR ? ISA_AVX2 : ISA_SCALAR; isa <= isa_best(); isa++) {
        const struct cpu_kernels *kernels = cpu_kernels(isa);
        memset(h, 0, kk * sizeof *h);
        double t = thread_seconds();
        kernels->hessian_f32(&par, h, x, K, M, K, 0, &e);
        report("hessian_f32", isa, thread_seconds() - t, (double)M * k * k / 2);
        for (int64_t i = 0; i < K; i++)
            for (int64_t j = i; j < K; j++)
                full[i * K + j] = full[j * K + i] = h[i * K + j] + (i == j ? 0.05 * (double)M : 0);
        memcpy(h, full, kk * sizeof *h);
        t = thread_seconds();
        kernels->factor_f64(&par, h, u, K, &bad, &e);
        report("factor_f64", isa, thread_seconds() - t, k * k * k / 3);
        for (int i = 0; i < 3; i++) {
            static const char *const names[] = {"gptq_f32", "gptq_f32 mse", "gptq_f32 gptq"};
            memcpy(work, w, nk * sizeof *work);
            a.grid = (struct quant_grid){.bits = 4, .sym = true, .mse = i == 1 ? 2.4 : 0, .search = (enum grid_search)i, .candidates = 16, .signed_scales = i == 2};
            t = thread_seconds();
            kernels->gptq_f32(&par, &a, &e);
            report(names[i], isa, thread_seconds() - t, k * k * n / 2 + (i == 2 ? 32.0 * n * k * 64 : 0));
        }
        t = thread_seconds();
        kernels->quad_form_f64(&par, work, full, N, K, &out, &e);
        report("quad_form_f64", isa, thread_seconds() - t, k * k * n / 2);
    }
    free(x), free(w), free(work), free(u), free(h), free(full), free(loss), free(group), free(a.codes), free(a.scales), free(a.zeros);
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        bench(argc > 2 ? atoll(argv[2]) : 1536, argc > 3 ? atoll(argv[3]) : 1536, argc > 4 ? atoll(argv[4]) : 2048);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hessian), cmocka_unit_test(cross), cmocka_unit_test(factor),    cmocka_unit_test(bad_pivots),
        cmocka_unit_test(gptq),    cmocka_unit_test(fit),   cmocka_unit_test(quad_form),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

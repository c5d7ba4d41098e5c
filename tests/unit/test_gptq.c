/* One module through gptq_quantize, against a GPTQ written plainly in f64 below, and by its invariants. */
#include "tests/unit/gptq_problem.h"

/* tr(E H E^T) in f64, plainly. */
static double output_error(const struct problem *p, const float *w)
{
    double error = 0, power = 0;
    for (int64_t n = 0; n < p->N; n++)
        for (int64_t i = 0; i < p->K; i++)
            for (int64_t j = 0; j < p->K; j++) {
                const float *a = p->w + n * p->K, *b = w + n * p->K;
                error += ((double)b[i] - (double)a[i]) * p->h[i * p->K + j] * ((double)b[j] - (double)a[j]);
                power += (double)a[i] * p->h[i * p->K + j] * (double)a[j];
            }
    return error / power;
}

/* U upper with H^-1 = U^T U as GPTQ has it: invert, then Cholesky. h is destroyed. */
static void ref_factor(double *h, double *u, int64_t K)
{
    double *inv = calloc((size_t)(K * K), sizeof *inv);
    for (int64_t i = 0; i < K; i++)
        inv[i * K + i] = 1;
    for (int64_t c = 0; c < K; c++) { /* Gauss-Jordan; positive definite, so no pivoting */
        double d = h[c * K + c];
        for (int64_t j = 0; j < K; j++) {
            h[c * K + j] /= d;
            inv[c * K + j] /= d;
        }
        for (int64_t i = 0; i < K; i++) {
            double m = h[i * K + c];
            for (int64_t j = 0; j < K && i != c; j++) {
                h[i * K + j] -= m * h[c * K + j];
                inv[i * K + j] -= m * inv[c * K + j];
            }
        }
    }
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = i; j < K; j++) {
            double s = inv[i * K + j];
            for (int64_t k = 0; k < i; k++)
                s -= u[k * K + i] * u[k * K + j];
            u[i * K + j] = i == j ? sqrt(s) : s / u[i * K + i];
        }
    free(inv);
}

static void ref_fit(const double *w, const int64_t *cols, int64_t n, const struct quant_params *q, double *scale, double *zero)
{
    double lo = 0, hi = 0, maxq = (1 << q->bits) - 1;
    for (int64_t i = 0; i < n; i++) {
        lo = fmin(lo, w[cols[i]]);
        hi = fmax(hi, w[cols[i]]);
    }
    if (q->sym) {
        hi = fmax(-lo, hi);
        lo = lo < 0 ? -hi : lo;
    }
    *scale = (double)f16_to_f32(f32_to_f16((float)((hi - lo) / maxq)));
    *zero = q->sym ? (maxq + 1) / 2 : fmin(fmax(nearbyint(-lo / *scale), 1), maxq);
}

/* The algorithm, column by column, every correction at once, all in f64 but the scales. codes [N,K] in original order. Min/max grids only.
 */
static void ref_gptq(const struct problem *p, const struct quant_params *q, uint8_t *codes)
{
    int64_t K = p->K, g = q->group_size == -1 ? K : q->group_size, *perm = malloc((size_t)K * sizeof *perm),
            *cols = malloc((size_t)K * sizeof *cols);
    double *h = malloc((size_t)(K * K) * sizeof *h), *u = calloc((size_t)(K * K), sizeof *u), *diag = malloc((size_t)K * sizeof *diag),
           *w = malloc((size_t)K * sizeof *w), scale = 1, zero = 1, mean = hessian_mean_diagonal(p->h, K);
    for (int64_t k = 0; k < K; k++)
        diag[k] = p->h[k * K + k];
    if (q->desc_act)
        order_descending(diag, K, perm);
    else if (q->act_group_aware && g < K)
        order_group_aware(diag, K, g, perm);
    else
        order_identity(K, perm);
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = 0; j < K; j++)
            h[i * K + j] = p->h[perm[i] * K + perm[j]] + (i == j ? q->damp_percent * mean : 0);
    ref_factor(h, u, K);
    for (int64_t n = 0; n < p->N; n++) {
        for (int64_t k = 0; k < K; k++)
            w[k] = (double)p->w[n * K + k];
        for (int64_t i = 0; i < K; i++) {
            bool by_place = q->desc_act && !q->static_groups;
            int64_t group = (by_place ? i : perm[i]) / g, count = 0;
            bool first = i == 0 || (by_place ? i - 1 : perm[i - 1]) / g != group;
            for (int64_t k = 0; k < K; k++)
                if ((by_place ? k : perm[k]) / g == group)
                    cols[count++] = perm[k];
            if (first || q->static_groups) {
                double original[4096];
                for (int64_t k = 0; k < K; k++)
                    original[k] = (double)p->w[n * K + k];
                ref_fit(q->static_groups ? original : w, cols, count, q, &scale, &zero);
            }
            double code = nearbyint(w[perm[i]] / scale) + zero, maxq = (1 << q->bits) - 1;
            code = fmin(fmax(code, 0), maxq);
            codes[n * K + perm[i]] = (uint8_t)code;
            double e = (w[perm[i]] - scale * (code - zero)) / u[i * K + i];
            for (int64_t j = i; j < K; j++)
                w[perm[j]] -= e * u[i * K + j];
        }
    }
    free(perm), free(cols), free(h), free(u), free(diag), free(w);
}

static const struct {
    int bits, group_size;
    bool sym, desc_act, aware, fixed;
} variants[] = {
    {4, 128,  true,  false, true,  false},
    {4, 32,   true,  false, true,  false},
    {4, 32,   false, false, false, false},
    {4, 48,   true,  true,  false, false}, /* groups across blocks of 128 columns */
    {4, 32,   true,  true,  false, true },
    {4, 32,   false, false, true,  true },
    {4, -1,   true,  false, false, false},
    {4, -1,   false, true,  false, true },
    {8, 64,   true,  false, true,  false},
    {8, 128,  false, true,  false, false},
    {3, 128,  true,  false, true,  false},
    {2, 16,   false, false, true,  false},
    {4, 1000, true,  false, true,  false},
};

static void agrees_with_plain_f64(void **state)
{
    struct problem p = make_problem(37, 300, 700);
    uint8_t *codes = malloc((size_t)(p.N * p.K));
    (void)state;
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        struct quant_params q =
            with(variants[v].bits, variants[v].group_size, variants[v].sym, variants[v].desc_act, variants[v].aware, variants[v].fixed);
        struct result r = quantize(&p, q);
        ref_gptq(&p, &q, codes);
        int64_t same = 0;
        for (int64_t i = 0; i < p.N * p.K; i++)
            same += codes[i] == r.q.codes[i];
        /* A value on the edge of rounding may fall the other way in f32, and then moves a few behind it in its row. */
        if ((double)same < 0.995 * (double)(p.N * p.K))
            fail_msg("variant %zu: only %lld of %lld codes agree", v, (long long)same, (long long)(p.N * p.K));
        assert_true(fabs(r.report.output_error / output_error(&p, r.w) - 1) < 1e-6);
        free_result(&r);
    }
    free(codes);
    free_problem(&p);
}

/* What comes out is consistent: w_hat is the dequantized q, g_idx is what the options promise, gptq beats rtn. */
static void invariants(void **state)
{
    struct problem p = make_problem(50, 172, 600);
    float *w = malloc((size_t)(p.N * p.K) * sizeof *w);
    (void)state;
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        struct quant_params q = with(variants[v].bits, variants[v].group_size, variants[v].sym, variants[v].desc_act, variants[v].aware,
                                     variants[v].fixed),
                            plain;
        struct result r = quantize(&p, q);
        plain = q;
        plain.method = QUANT_RTN;
        struct result rtn = quantize(&p, plain);
        assert_int_equal(rtn.report.method, QUANT_RTN);
        assert_int_equal(r.report.method, QUANT_GPTQ);
        assert_true(r.report.output_error < rtn.report.output_error);
        assert_true(r.report.damp == 0.05 && r.report.attempts == 1 && r.report.dead == 0);
        grid_dequantize(&r.q, w);
        assert_memory_equal(w, r.w, (size_t)(p.N * p.K) * sizeof *w);
        int64_t g = q.group_size == -1 ? p.K : q.group_size;
        assert_int_equal(r.q.G, (p.K + g - 1) / g);
        bool sequential = true;
        int64_t counts[172] = {0};
        for (int64_t k = 0; k < p.K; k++) {
            sequential &= r.q.g_idx[k] == k / g;
            counts[r.q.g_idx[k]]++;
        }
        assert_int_equal(sequential, !q.desc_act || q.static_groups || g >= p.K);
        for (int64_t i = 0; i < r.q.G; i++)
            assert_int_equal(counts[i], i == r.q.G - 1 ? p.K - i * g : g);
        free_result(&r);
        free_result(&rtn);
    }
    free(w);
    free_problem(&p);
}

static void options_help(void **state)
{
    struct problem p = make_problem(64, 256, 900);
    (void)state;
    struct quant_params plain = with(4, 32, true, false, false, false), aware = with(4, 32, true, false, true, false),
                        best = with(4, 32, true, true, false, true);
    struct quant_params aware_static = with(4, 32, true, false, true, true);
    best.mse = 2.4;
    struct result a = quantize(&p, plain), b = quantize(&p, aware), c = quantize(&p, best), d = quantize(&p, aware_static);
    assert_true(b.report.output_error < a.report.output_error);
    assert_true(c.report.output_error < b.report.output_error);
    assert_true(d.report.output_error < 1.2 * b.report.output_error); /* GPTQModel's is ten times worse here */
    free_result(&a), free_result(&b), free_result(&c), free_result(&d);
    free_problem(&p);
}

/* Equal bits on every instruction set and for any number of threads. */
static void same_bits_everywhere(void **state)
{
    struct problem p = make_problem(101, 172, 300);
    (void)state;
    for (size_t v = 0; v < 6; v++) {
        struct quant_params q =
            with(variants[v].bits, variants[v].group_size, variants[v].sym, variants[v].desc_act, variants[v].aware, variants[v].fixed);
        q.mse = v % 2 ? 2.4 : 0;
        struct result first = quantize(&p, q);
        for (enum isa isa = ISA_SCALAR; isa <= isa_best(); isa++)
            for (int threads = 1; threads <= 7; threads += 3) {
                struct pool *pool = pool_create(threads);
                struct backend *b = open_backend(isa, pool);
                struct result r;
                struct err e = {0};
                assert_int_equal(quantize_on(b, &p, q, &r, &e), 0);
                assert_memory_equal(first.q.codes, r.q.codes, (size_t)(p.N * p.K));
                assert_memory_equal(first.q.scales, r.q.scales, (size_t)(r.q.G * p.N) * sizeof *r.q.scales);
                assert_memory_equal(first.q.zeros, r.q.zeros, (size_t)(r.q.G * p.N));
                assert_memory_equal(&first.report.loss, &r.report.loss, sizeof(double));
                assert_memory_equal(&first.report.output_error, &r.report.output_error, sizeof(double));
                free_result(&r);
                b->destroy(b);
                pool_free(pool);
            }
        free_result(&first);
    }
    free_problem(&p);
}

/* Scaling activations by a power of two must not change a code, however large or small they are. */
static void scale_of_activations(void **state)
{
    struct problem p = make_problem(20, 96, 300);
    struct quant_params q = with(4, 32, true, false, true, false);
    struct result a = quantize(&p, q);
    (void)state;
    for (int exponent = -400; exponent <= 400; exponent += 200) {
        struct problem s = p;
        s.h = malloc((size_t)(p.K * p.K) * sizeof *s.h);
        for (int64_t i = 0; i < p.K * p.K; i++)
            s.h[i] = ldexp(p.h[i], exponent);
        struct result b = quantize(&s, q);
        assert_memory_equal(a.q.codes, b.q.codes, (size_t)(p.N * p.K));
        assert_true(fabs(ldexp(b.report.loss, -exponent) / a.report.loss - 1) < 1e-12);
        free_result(&b);
        free(s.h);
    }
    free_result(&a);
    free_problem(&p);
}

/* An input that is always zero: its weights go, the others do not notice. */
static void dead_inputs(void **state)
{
    struct problem p = make_problem(9, 64, 300);
    (void)state;
    for (int64_t k = 0; k < p.K; k++)
        p.h[5 * p.K + k] = p.h[k * p.K + 5] = 0;
    struct result r = quantize(&p, with(4, 32, true, false, true, false));
    assert_int_equal(r.report.dead, 1);
    for (int64_t n = 0; n < p.N; n++)
        assert_true(r.w[n * p.K + 5] == 0);
    assert_true(r.report.output_error < 0.02);
    free_result(&r);
    free_problem(&p);
}

static void odd_weights(void **state)
{
    struct problem p = make_problem(6, 64, 300);
    (void)state;
    for (int64_t k = 0; k < p.K; k++) {
        p.w[0 * p.K + k] = 0;
        p.w[1 * p.K + k] = -0.25f;
        p.w[2 * p.K + k] = fabsf(p.w[2 * p.K + k]);
        p.w[3 * p.K + k] *= 1e-20f;
        p.w[4 * p.K + k] *= 1e20f;
    }
    for (int i = 0; i < 8; i++) {
        struct quant_params q = with((const int[]){2, 3, 4, 8}[i / 2], 32, i % 2, false, true, false);
        struct result r = quantize(&p, q);
        for (int64_t k = 0; k < p.K; k++) {
            assert_true(r.w[k] == 0);
            assert_true(fabsf(r.w[3 * p.K + k]) <= 0x1p-14f);
            assert_true(isfinite(r.w[4 * p.K + k]));
        }
        free_result(&r);
    }
    free_problem(&p);
}

static void expect_error(const struct problem *p, struct quant_params q, int code, const char *text)
{
    struct backend *b = open_backend(ISA_AUTO, NULL);
    struct result r;
    struct err e = {0};
    assert_int_equal(quantize_on(b, p, q, &r, &e), -code);
    assert_string_equal(e.text, text);
    free_result(&r);
    b->destroy(b);
}

static void not_finite(void **state)
{
    struct problem p = make_problem(5, 16, 40);
    struct quant_params q = with(4, 8, true, false, true, false);
    (void)state;
    p.w[2 * p.K + 3] = NAN;
    expect_error(&p, q, ERR_NUMERIC, "module 'm': weight [2,3] is nan");
    p.w[2 * p.K + 3] = 0;
    p.h[1 * p.K + 1] = INFINITY;
    expect_error(&p, q, ERR_NUMERIC, "module 'm': Hessian [1,1] is inf: activations overflow before this module");
    free_problem(&p);
}

static void damping(void **state)
{
    struct problem p = make_problem(5, 8, 40);
    struct quant_params q = with(4, 8, true, false, false, false);
    struct err e = {0};
    (void)state;
    /* Identity with one negative eigenvalue of -0.3: positive definite once damp * mean exceeds it. */
    for (int64_t i = 0; i < p.K * p.K; i++)
        p.h[i] = i % (p.K + 1) ? 0 : 1;
    p.h[2 * p.K + 3] = p.h[3 * p.K + 2] = 1.3;
    struct result r = quantize(&p, q);
    assert_true(fabs(r.report.damp - 0.31) < 0.011 && r.report.attempts >= 26);
    free_result(&r);
    p.h[2 * p.K + 3] = p.h[3 * p.K + 2] = 4;
    expect_error(&p, q, ERR_NUMERIC,
                 "module 'm': damping exhausted: the Hessian is not positive definite with damp_percent 0.05 to 0.99 (95 attempts, last "
                 "bad pivot 2 of 8); "
                 "more calibration data, a larger damp_percent, or fallback: rtn");
    q.damp_auto_increment = 0;
    expect_error(&p, q, ERR_NUMERIC,
                 "module 'm': damping exhausted: the Hessian is not positive definite with damp_percent 0.05 to 0.05 (1 attempts, last bad "
                 "pivot 2 of 8); "
                 "more calibration data, a larger damp_percent, or fallback: rtn");
    q.fallback = FALLBACK_RTN;
    struct backend *b = open_backend(ISA_AUTO, NULL);
    assert_int_equal(quantize_on(b, &p, q, &r, &e), 0);
    assert_int_equal(r.report.method, QUANT_RTN);
    assert_true(r.report.damp == 0);
    free_result(&r);
    b->destroy(b);
    free_problem(&p);
}

static void no_data(void **state)
{
    struct problem p = make_problem(5, 16, 40);
    struct quant_params q = with(4, 8, true, false, true, false);
    (void)state;
    memset(p.h, 0, (size_t)(p.K * p.K) * sizeof *p.h);
    expect_error(&p, q, ERR_DATA, "module 'm': no calibration data reached it (its Hessian is zero); more data, or fallback: rtn");
    free(p.h);
    p.h = NULL;
    expect_error(&p, q, ERR_DATA, "module 'm': no calibration data reached it (its Hessian is absent); more data, or fallback: rtn");
    q.fallback = FALLBACK_RTN;
    struct result r = quantize(&p, q);
    assert_true(r.report.method == QUANT_RTN && isnan(r.report.output_error) && r.report.loss > 0);
    free_result(&r);
    q.method = QUANT_RTN;
    q.fallback = FALLBACK_NONE;
    r = quantize(&p, q);
    for (int64_t i = 0; i < p.N * p.K; i++)
        assert_true(fabsf(r.w[i] - p.w[i]) <= 0.51f * f16_to_f32(r.q.scales[r.q.g_idx[i % p.K] * p.N + i / p.K]));
    free_result(&r);
    free_problem(&p);
}

/* However rows arrive, the Hessian is the same to the bit, and close to f64. */
static void hessian_of_batches(void **state)
{
    struct problem p = make_problem(1, 70, 1000);
    double *a = malloc((size_t)(p.K * p.K) * sizeof *a), *b = malloc((size_t)(p.K * p.K) * sizeof *b);
    struct backend *be = open_backend(ISA_AUTO, NULL);
    struct err e = {0};
    (void)state;
    for (int64_t batch = 1; batch <= 1000; batch = batch * 3 + 7) {
        struct hessian s;
        assert_int_equal(hessian_init(&s, be, p.K, 0, &e), 0);
        for (int64_t t = 0; t < p.tokens; t += batch)
            assert_int_equal(hessian_add(&s, p.x + t * p.K, p.K, NULL, 0, p.tokens - t < batch ? p.tokens - t : batch, &e), 0);
        assert_int_equal(s.rows, p.tokens);
        assert_int_equal(hessian_finish(&s, batch == 1 ? a : b, NULL, &e), 0);
        if (batch > 1)
            assert_memory_equal(a, b, (size_t)(p.K * p.K) * sizeof *a);
        hessian_release(&s);
    }
    for (int64_t i = 0; i < p.K; i++)
        for (int64_t j = 0; j < p.K; j++) {
            assert_true(a[i * p.K + j] == a[j * p.K + i]);
            assert_true(fabs(a[i * p.K + j] - p.h[i * p.K + j]) <= 1e-5 * sqrt(p.h[i * p.K + i] * p.h[j * p.K + j]));
        }
    be->destroy(be);
    free(a), free(b);
    free_problem(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_plain_f64),
        cmocka_unit_test(invariants),
        cmocka_unit_test(options_help),
        cmocka_unit_test(same_bits_everywhere),
        cmocka_unit_test(scale_of_activations),
        cmocka_unit_test(dead_inputs),
        cmocka_unit_test(odd_weights),
        cmocka_unit_test(not_finite),
        cmocka_unit_test(damping),
        cmocka_unit_test(no_data),
        cmocka_unit_test(hessian_of_batches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

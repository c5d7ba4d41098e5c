/* The parts of recipe best on one module: the compensated target against a plain f64 solve, what each part is for, bits, reports. */
#include "tests/unit/gptq_problem.h"

#include "stages/quant/target.h"

/* What a problem with another source model is made of. */
struct native {
    float *x, *gap; /* [tokens,K] what the source model feeds the module; [tokens,N] hf - hq */
};

static struct native make_native(const struct problem *p)
{
    struct native f = {malloc((size_t)(p->tokens * p->K) * sizeof(float)), malloc((size_t)(p->tokens * p->N) * sizeof(float))};
    for (int64_t i = 0; i < p->tokens * p->K; i++) {
        double size = sqrt(p->h[i % p->K * (p->K + 1)]);
        f.x[i] = (float)(1.1 * (double)p->x[i] + 0.1 * size * bell() + 0.2 * (double)p->x[i / p->K * p->K] * size);
    }
    for (int64_t i = 0; i < p->tokens * p->N; i++)
        f.gap[i] = (float)(0.02 * (double)p->x[i / p->N * p->K + i % p->N % p->K] + 0.05 * bell());
    return f;
}

static void free_native(struct native *f)
{
    free(f->x), free(f->gap);
}

static double source_output(const struct problem *p, const struct native *f, int64_t t, int64_t n)
{
    double dot = 0;
    for (int64_t k = 0; k < p->K; k++)
        dot += (double)p->w[n * p->K + k] * (double)f->x[t * p->K + k];
    return dot;
}

/* Sets p->inputs or p->outputs as a walk would gather them. */
static void pair_inputs(struct problem *p, const struct native *f)
{
    p->inputs = calloc((size_t)(p->K * p->K), sizeof *p->inputs);
    for (int64_t t = 0; t < p->tokens; t++)
        for (int64_t i = 0; i < p->K; i++)
            for (int64_t j = 0; j < p->K; j++)
                p->inputs[i * p->K + j] += 2.0 / (double)p->tokens * (double)f->x[t * p->K + i] * (double)p->x[t * p->K + j];
}

static void pair_outputs(struct problem *p, const struct native *f, double own, double residual)
{
    p->outputs = calloc((size_t)(p->N * p->K), sizeof *p->outputs);
    for (int64_t t = 0; t < p->tokens; t++)
        for (int64_t n = 0; n < p->N; n++) {
            double y = own * source_output(p, f, t, n) + residual * (double)f->gap[t * p->N + n];
            for (int64_t j = 0; j < p->K; j++)
                p->outputs[n * p->K + j] += 2.0 / (double)p->tokens * y * (double)p->x[t * p->K + j];
        }
}

static void unpair(struct problem *p)
{
    free(p->inputs), free(p->outputs);
    p->inputs = p->outputs = NULL;
}

static bool is_dead(const struct problem *p, int64_t k)
{
    return p->h[k * (p->K + 1)] == 0;
}

/* H plus the damping, dead inputs on the mean of the others. */
static double *damped(const struct problem *p, double damp)
{
    double mean = 0, *h = malloc((size_t)(p->K * p->K) * sizeof *h);
    int64_t live = 0;
    for (int64_t k = 0; k < p->K; k++) {
        mean += p->h[k * (p->K + 1)];
        live += !is_dead(p, k);
    }
    mean /= (double)live;
    for (int64_t i = 0; i < p->K * p->K; i++)
        h[i] = p->h[i] + (i % (p->K + 1) ? 0 : damp * mean + (is_dead(p, i / p->K) ? mean : 0));
    return h;
}

/* T = W + S (H + damping)^-1 by elimination, S = a W (C - H) or P - a W H; all f64. */
static double *ref_target(const struct problem *p, double alpha, double damp)
{
    int64_t N = p->N, K = p->K;
    double *h = damped(p, damp), *s = calloc((size_t)(N * K), sizeof *s);
    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < K; k++) {
            double sum = p->outputs ? p->outputs[n * K + k] : 0;
            for (int64_t i = 0; i < K; i++)
                sum += alpha * (double)p->w[n * K + i] * ((p->inputs ? p->inputs[i * K + k] : 0) - p->h[i * K + k]);
            s[n * K + k] = sum;
        }
    for (int64_t c = 0; c < K; c++) /* s h^-1: columns of s with columns of h, both made the identity's */
        for (int64_t j = 0; j < K; j++) {
            double f = h[c * K + j] / h[c * K + c];
            if (j == c)
                continue;
            for (int64_t i = 0; i < K; i++)
                h[i * K + j] -= f * h[i * K + c];
            for (int64_t n = 0; n < N; n++)
                s[n * K + j] -= f * s[n * K + c];
        }
    for (int64_t i = 0; i < N * K; i++)
        s[i] = s[i] / h[i % K * (K + 1)] + (double)p->w[i];
    free(h);
    return s;
}

/* tr(G E H E^T), E = W_hat - T (T = W where NULL, G the identity where NULL). */
static double loss_of(const struct problem *p, const float *w_hat, const double *target, const float *g)
{
    int64_t N = p->N, K = p->K, ld = (N + 15) / 16 * 16;
    double *e = malloc((size_t)(N * K) * sizeof *e), *eh = calloc((size_t)(N * K), sizeof *eh), sum = 0;
    for (int64_t i = 0; i < N * K; i++)
        e[i] = (w_hat ? (double)w_hat[i] : 0) - (target ? target[i] : (double)p->w[i]);
    for (int64_t n = 0; n < N; n++)
        for (int64_t i = 0; i < K; i++)
            for (int64_t j = 0; j < K; j++)
                eh[n * K + j] += e[n * K + i] * p->h[i * K + j];
    for (int64_t n = 0; n < N; n++)
        for (int64_t m = 0; m < N; m++)
            for (int64_t k = 0; k < K && (g || m == n); k++)
                sum += (g ? (double)g[n * ld + m] : 1) * e[m * K + k] * eh[n * K + k];
    free(e), free(eh);
    return sum;
}

static float *make_metric(int64_t N)
{
    int64_t ld = (N + 15) / 16 * 16;
    float *g = calloc((size_t)(N * ld), sizeof *g), *row = malloc((size_t)N * sizeof *row);
    for (int s = 0; s < 2 * N; s++) {
        double common = bell();
        for (int64_t n = 0; n < N; n++)
            row[n] = (float)((bell() + common) * (1 + (double)(n % 5)));
        for (int64_t i = 0; i < N; i++)
            for (int64_t j = 0; j < N; j++)
                g[i * ld + j] += row[i] * row[j] / (float)N;
    }
    free(row);
    return g;
}

/* Recipe best at these bits. */
static struct quant_params best(int bits, int group_size)
{
    struct quant_params q = with(bits, group_size, true, false, true, false);
    q.recipe = RECIPE_BEST;
    return q;
}

/* Into a setting of the recipe, as the manifest would. */
static void set(struct quant_params *q, const char *name, json_t *value)
{
    struct err e = {0};
    assert_int_equal(quant_params_set(q, name, value, "test", &e), 0);
    json_decref(value);
}

enum order { GIVEN, AWARE, DESCENDING };

/* target_compensate by itself, in one order and scale of H. */
static void check_target(struct problem *p, const double *want, struct quant_params q, enum order order, double scale)
{
    int64_t N = p->N, K = p->K, bad, *perm = malloc((size_t)K * sizeof *perm);
    double *h = damped(p, q.damp_percent), *ph = malloc((size_t)(K * K) * sizeof *ph), *diag = malloc((size_t)K * sizeof *diag), worst = 0,
           most = 0;
    float *u = malloc((size_t)(K * K) * sizeof *u), *w = malloc((size_t)(N * K) * sizeof *w);
    struct backend *b = open_backend(ISA_AUTO, NULL);
    struct err e = {0};
    for (int64_t k = 0; k < K; k++)
        diag[k] = p->h[k * (K + 1)];
    if (order == AWARE)
        order_group_aware(diag, K, 32, perm);
    else if (order == DESCENDING)
        order_descending(diag, K, perm);
    else
        order_identity(K, perm);
    for (int64_t i = 0; i < K * K; i++)
        ph[i] = scale * h[perm[i / K] * K + perm[i % K]];
    assert_int_equal(b->ops->factor(b, ph, u, K, &bad, &e), 0);
    for (int64_t i = 0; i < N * K; i++)
        w[i] = p->w[i / K * K + perm[i % K]];
    const struct gptq_input in = {
        .name = "m", .N = N, .K = K, .w = p->w, .h = p->h, .inputs = p->inputs, .outputs = p->outputs, .params = &q};
    assert_int_equal(target_compensate(b, &in, perm, scale, u, w, &e), 0);
    for (int64_t i = 0; i < N * K; i++) {
        int64_t at = i / K * K + perm[i % K];
        worst = fmax(worst, fabs((double)w[i] - want[at]));
        most = fmax(most, fabs(want[at] - (double)p->w[at]));
    }
    if (!(most > 0.005 && worst < 1e-4 * most))
        fail_msg("order %d, scale %g: off by %g where the target moves by %g", (int)order, scale, worst, most);
    b->destroy(b);
    free(perm), free(h), free(ph), free(diag), free(u), free(w);
}

static void target(void **state)
{
    struct problem p = make_problem(21, 75, 400);
    struct native f = make_native(&p);
    struct quant_params q = with(4, 32, true, false, true, false);
    (void)state;
    q.compensate = 0.75;
    for (int outputs = 0; outputs < 2; outputs++) {
        if (outputs)
            pair_outputs(&p, &f, q.compensate, 0.5);
        else
            pair_inputs(&p, &f);
        double *want = ref_target(&p, q.compensate, q.damp_percent);
        for (int order = GIVEN; order <= DESCENDING; order++)
            for (double scale = 1; scale > 1e-3; scale /= 16)
                check_target(&p, want, q, (enum order)order, scale);
        free(want);
        unpair(&p);
    }
    free_native(&f);
    free_problem(&p);
}

/* What the module puts out on the quantized inputs against what it should: (2/tokens) sum |y - W_hat xq|^2. */
static double native_error(const struct problem *p, const struct native *f, double residual, const float *w_hat)
{
    double sum = 0;
    for (int64_t t = 0; t < p->tokens; t++)
        for (int64_t n = 0; n < p->N; n++) {
            double y = source_output(p, f, t, n) + residual * (double)f->gap[t * p->N + n];
            for (int64_t k = 0; k < p->K; k++)
                y -= (double)w_hat[n * p->K + k] * (double)p->x[t * p->K + k];
            sum += y * y * 2 / (double)p->tokens;
        }
    return sum;
}

/* Through gptq_quantize: the report's figures are those of the f64 target, and outputs come nearer to the source model's. */
static void compensation(void **state)
{
    struct problem p = make_problem(40, 96, 500);
    struct native f = make_native(&p);
    (void)state;
    struct result plain = quantize(&p, best(4, 32));
    assert_true(plain.report.target_shift == 0);
    for (int v = 0; v < 4; v++) {
        bool outputs = v % 2;
        struct quant_params q = best(4, 32);
        if (v / 2) {
            q.desc_act = true;
            q.act_group_aware = false;
        }
        set(&q, "compensate", json_real(1));
        if (outputs)
            pair_outputs(&p, &f, 1, 1);
        else
            pair_inputs(&p, &f);
        struct result r = quantize(&p, q);
        double *t = ref_target(&p, 1, q.damp_percent), power = loss_of(&p, NULL, NULL, NULL);
        float *t32 = malloc((size_t)(p.N * p.K) * sizeof *t32);
        for (int64_t i = 0; i < p.N * p.K; i++)
            t32[i] = (float)t[i];
        assert_true(fabs(r.report.target_shift / (loss_of(&p, t32, NULL, NULL) / power) - 1) < 1e-3);
        assert_true(fabs(r.report.output_error / (loss_of(&p, r.w, t, NULL) / power) - 1) < 1e-3);
        double before = native_error(&p, &f, outputs, plain.w), after = native_error(&p, &f, outputs, r.w);
        print_message("error of outputs: %.4g without, %.4g with\n", before, after);
        assert_true(after < 0.8 * before);
        free(t), free(t32);
        free_result(&r);
        unpair(&p);
    }
    free_result(&plain);
    free_native(&f);
    free_problem(&p);
}

/* Each part lowers what it aims at, one on top of the other. */
static void parts_help(void **state)
{
    struct problem p = make_problem(48, 192, 600);
    struct quant_params q = with(4, 64, true, false, true, false);
    double last = INFINITY;
    (void)state;
    for (int part = 0; part < 5; part++) {
        q.scale_search = part >= 1 ? GRID_GPTQ : GRID_MINMAX;
        q.signed_scales = part >= 2;
        q.refine_sweeps = part >= 3 ? 4 : 0;
        q.refit_scales = part >= 4;
        struct result r = quantize(&p, q);
        print_message("%d parts: %.5g\n", part, r.report.output_error);
        assert_true(r.report.output_error < 0.995 * last);
        last = r.report.output_error;
        assert_int_equal(r.report.negative > 0, q.signed_scales);
        free_result(&r);
    }
    struct result without = quantize(&p, q);
    p.metric = make_metric(p.N);
    struct result metric = quantize(&p, q);
    double a = loss_of(&p, without.w, NULL, p.metric), b = loss_of(&p, metric.w, NULL, p.metric);
    print_message("in the metric: %.5g without, %.5g with\n", a, b);
    assert_true(b < 0.9 * a);
    free_result(&without), free_result(&metric);
    free_problem(&p);
}

/* Steps of a report: never up, from the loop's own result to what is stored. */
static void check_steps(const struct problem *p, const struct quant_params *q, const struct result *r, const double *t)
{
    struct quant_params loop = *q;
    set(&loop, "refine_sweeps", json_integer(0));
    struct result first = quantize(p, loop);
    double start = loss_of(p, first.w, t, p->metric), end = loss_of(p, r->w, t, p->metric);
    assert_true(r->report.refined && !first.report.refined);
    assert_true(fabs(r->report.steps[0] / start - 1) < 1e-4);
    assert_true(fabs(r->report.steps[3] / end - 1) < 1e-3);
    assert_true(r->report.steps[1] < r->report.steps[0]);
    for (int i = 0; i < 3; i++)
        assert_true(r->report.steps[i + 1] <= r->report.steps[i]);
    assert_int_equal(r->report.steps[2] < r->report.steps[1], !p->metric); /* scales move only without a metric */
    assert_memory_equal(&first.report.loss, &r->report.loss, sizeof(double));
    free_result(&first);
}

static void reports(void **state)
{
    struct problem p = make_problem(37, 100, 500);
    struct native f = make_native(&p);
    (void)state;
    for (int v = 0; v < 6; v++) {
        struct quant_params q = best((const int[]){4, 3, 2}[v / 2], 32);
        if (v % 2)
            p.metric = make_metric(p.N);
        pair_inputs(&p, &f);
        struct result r = quantize(&p, q);
        double *t = ref_target(&p, 0.75, q.damp_percent), negative = 0;
        check_steps(&p, &q, &r, t);
        for (int64_t i = 0; i < r.q.G * p.N; i++)
            negative += f16_to_f32(r.q.scales[i]) < 0;
        assert_true(r.report.negative == negative / (double)(r.q.G * p.N) && negative > 0);
        for (int64_t i = 0; i < p.N * p.K; i++)
            assert_true(r.q.codes[i] < 1 << q.bits);
        free(t);
        free_result(&r);
        unpair(&p);
        free(p.metric);
        p.metric = NULL;
    }
    free_native(&f);
    free_problem(&p);
}

static const struct {
    int bits, group_size;
    bool sym, desc_act, aware, fixed, bf16, outputs, metric;
} variants[] = {
    {4, 128, true,  false, true,  false, false, false, true },
    {4, 32,  true,  false, true,  false, true,  true,  false},
    {4, 50,  false, false, false, false, false, false, true },
    {4, 48,  true,  true,  false, false, true,  true,  false}, /* groups across blocks of 128 columns, a ragged one */
    {4, 32,  true,  true,  false, true,  false, false, false},
    {4, 32,  false, true,  false, true,  true,  true,  true },
    {4, 32,  true,  false, true,  true,  true,  false, false},
    {4, -1,  true,  false, false, false, false, true,  true },
    {8, 64,  true,  false, true,  false, true,  false, true },
    {8, 140, false, true,  false, false, true,  true,  false},
    {3, 128, true,  false, true,  false, false, false, true },
    {3, 32,  true,  true,  false, false, true,  true,  true },
    {2, 16,  true,  false, true,  false, true,  false, false},
    {2, -1,  false, false, false, false, true,  true,  false},
};

static struct quant_params variant(size_t v)
{
    struct quant_params q =
        with(variants[v].bits, variants[v].group_size, variants[v].sym, variants[v].desc_act, variants[v].aware, variants[v].fixed);
    q.recipe = RECIPE_BEST;
    if (variants[v].bf16)
        set(&q, "scale_dtype", json_string("bf16"));
    return q;
}

static void same_result(const struct problem *p, const struct result *a, const struct result *b)
{
    assert_memory_equal(a->q.codes, b->q.codes, (size_t)(p->N * p->K));
    assert_memory_equal(a->q.scales, b->q.scales, (size_t)(a->q.G * p->N) * sizeof *a->q.scales);
    assert_memory_equal(a->q.zeros, b->q.zeros, (size_t)(a->q.G * p->N));
    assert_memory_equal(a->q.g_idx, b->q.g_idx, (size_t)p->K * sizeof *a->q.g_idx);
    assert_memory_equal(a->w, b->w, (size_t)(p->N * p->K) * sizeof *a->w);
    const double x[] = {a->report.loss, a->report.output_error, a->report.target_shift, a->report.negative},
                 y[] = {b->report.loss, b->report.output_error, b->report.target_shift, b->report.negative};
    assert_memory_equal(x, y, sizeof x);
    assert_memory_equal(a->report.steps, b->report.steps, sizeof a->report.steps);
}

/* All parts at once, with every option: the same bits on every instruction set and for any number of threads, and better than rounding. */
static void same_bits_everywhere(void **state)
{
    struct problem p = make_problem(35, 140, 300);
    struct native f = make_native(&p);
    float *metric = make_metric(p.N);
    (void)state;
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        struct quant_params q = variant(v), round = q;
        if (variants[v].outputs)
            pair_outputs(&p, &f, 0.75, 0.75);
        else
            pair_inputs(&p, &f);
        p.metric = variants[v].metric ? metric : NULL;
        struct result first = quantize(&p, q);
        round.method = QUANT_RTN;
        struct result rtn = quantize(&p, round);
        double *t = ref_target(&p, 0.75, q.damp_percent);
        assert_true(loss_of(&p, first.w, t, p.metric) < 0.9 * loss_of(&p, rtn.w, t, p.metric));
        for (int64_t i = 0; i < first.q.G * p.N; i++) {
            float s = f16_to_f32(first.q.scales[i]);
            assert_true(!variants[v].bf16 || bf16_to_f32(f32_to_bf16(s)) == s);
            assert_true(variants[v].sym || s > 0);
        }
        for (enum isa isa = ISA_SCALAR; isa <= isa_best(); isa++)
            for (int threads = 1; threads <= 7; threads += 3) {
                struct pool *pool = pool_create(threads);
                struct backend *b = open_backend(isa, pool);
                struct result r;
                struct err e = {0};
                assert_int_equal(quantize_on(b, &p, q, &r, &e), 0);
                same_result(&p, &first, &r);
                free_result(&r);
                b->destroy(b);
                pool_free(pool);
            }
        free(t);
        free_result(&first), free_result(&rtn);
        unpair(&p);
    }
    p.metric = metric;
    free_native(&f);
    free_problem(&p);
}

/* Damping exhausted under the recipe: what method rtn gives with scales of the same dtype, and no word of what was not done. */
static void fallback(void **state)
{
    struct problem p = make_problem(20, 64, 300);
    struct native f = make_native(&p);
    (void)state;
    pair_inputs(&p, &f);
    p.metric = make_metric(p.N);
    p.h[3 * p.K + 2] = p.h[2 * p.K + 3] = 100 * sqrt(p.h[2 * (p.K + 1)] * p.h[3 * (p.K + 1)]);
    struct quant_params q = best(4, 32), rtn = q;
    struct err e = {0};
    struct result r;
    struct backend *b = open_backend(ISA_AUTO, NULL);
    assert_int_equal(quantize_on(b, &p, q, &r, &e), -ERR_NUMERIC);
    assert_non_null(strstr(e.text, "module 'm': damping exhausted: the Hessian is not positive definite"));
    free_result(&r);
    q.fallback = FALLBACK_RTN;
    err_clear(&e);
    assert_int_equal(quantize_on(b, &p, q, &r, &e), 0);
    assert_true(r.report.method == QUANT_RTN && !r.report.refined && r.report.target_shift == 0 && r.report.negative == 0 &&
                r.report.damp == 0);
    json_t *dtype = json_string("bf16");
    rtn.method = QUANT_RTN;
    assert_int_equal(quant_params_set(&rtn, "scale_dtype", dtype, "test", &e), 0);
    json_decref(dtype);
    struct result plain = quantize(&p, rtn);
    same_result(&p, &plain, &r);
    free_result(&plain), free_result(&r);
    b->destroy(b);
    free_native(&f);
    free_problem(&p);
}

/* An input that the quantized model never feeds, the source model does: its weights go, the others take over what they can. */
static void dead_inputs(void **state)
{
    struct problem p = make_problem(9, 64, 300);
    (void)state;
    for (int64_t t = 0; t < p.tokens; t++)
        p.x[t * p.K + 5] = 0;
    for (int64_t k = 0; k < p.K; k++)
        p.h[5 * p.K + k] = p.h[k * p.K + 5] = 0;
    for (int64_t n = 0; n < p.N; n++) /* large: a group's scale would be this weight's */
        p.w[n * p.K + 5] = 3;
    struct native f = make_native(&p);
    for (int64_t t = 0; t < p.tokens; t++)
        f.x[t * p.K + 5] = 0.5f * f.x[t * p.K + 6];
    for (int outputs = 0; outputs < 2; outputs++) {
        if (outputs)
            pair_outputs(&p, &f, 0.75, 0.75);
        else
            pair_inputs(&p, &f);
        struct result r = quantize(&p, best(4, 32));
        double *t = ref_target(&p, 0.75, 0.05), power = loss_of(&p, NULL, NULL, NULL);
        assert_int_equal(r.report.dead, 1);
        for (int64_t n = 0; n < p.N; n++)
            assert_true(r.w[n * p.K + 5] == 0);
        assert_true(fabs(r.report.output_error / (loss_of(&p, r.w, t, NULL) / power) - 1) < 1e-3);
        assert_true(r.report.output_error < 0.02);
        free(t);
        free_result(&r);
        unpair(&p);
    }
    free_native(&f);
    free_problem(&p);
}

/* static_groups: the grids are the target's, as if it were the module's own weights. */
static void static_groups(void **state)
{
    struct problem p = make_problem(30, 96, 400), own = make_problem(30, 96, 400);
    struct native f = make_native(&p);
    (void)state;
    pair_inputs(&p, &f);
    for (int desc_act = 0; desc_act < 2; desc_act++) {
        struct quant_params q = best(4, 32);
        q.static_groups = true;
        q.desc_act = desc_act;
        q.act_group_aware = !desc_act;
        double *t = ref_target(&p, 0.75, q.damp_percent);
        for (int64_t i = 0; i < p.N * p.K; i++)
            own.w[i] = (float)t[i];
        struct result a = quantize(&p, q), b = quantize(&own, q);
        int64_t same = 0, all = a.q.G * p.N;
        for (int64_t i = 0; i < all; i++)
            same += fabsf(f16_to_f32(a.q.scales[i]) / f16_to_f32(b.q.scales[i]) - 1) < 2e-3f;
        assert_true(same >= all * 95 / 100);
        free(t);
        free_result(&a), free_result(&b);
    }
    free_native(&f);
    free_problem(&p), free_problem(&own);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(target),      cmocka_unit_test(compensation),         cmocka_unit_test(parts_help),
        cmocka_unit_test(reports),     cmocka_unit_test(same_bits_everywhere), cmocka_unit_test(fallback),
        cmocka_unit_test(dead_inputs), cmocka_unit_test(static_groups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

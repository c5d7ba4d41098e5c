/* attention_back: equal bits in every ISA and on any number of threads, close to the formulas of kernels/backend.h in f64, and the slope of what attention gives. */
#include "tests/kernels/util.h"

struct model {
    int heads, kv_heads, D;
    int64_t window;
    int64_t offsets[4]; /* of three sequences */
};

static const struct model models[] = {
    {1, 1, 1, 0, {0, 1, 2, 2}},        {4, 2, 64, 0, {0, 77, 78, 200}}, {6, 2, 20, 7, {0, 50, 50, 66}},  {3, 3, 8, 0, {0, 33, 49, 50}},
    {8, 1, 128, 16, {0, 40, 51, 100}}, {2, 2, 80, 33, {0, 130, 131, 160}}, {5, 1, 13, 1, {0, 17, 20, 53}},
};
enum { MODELS = sizeof models / sizeof *models };

/* Inputs and results of one call, results with guards. */
struct data {
    size_t nq, nk;
    float *q, *k, *v, *dy;
    struct guarded dq, dk, dv;
};

static struct data data_new(const struct model *m, uint64_t *seed, enum fill how)
{
    struct data d = {.nq = (size_t)(m->offsets[3] * m->heads * m->D), .nk = (size_t)(m->offsets[3] * m->kv_heads * m->D)};
    d.q = malloc(d.nq * sizeof(float));
    d.k = malloc(d.nk * sizeof(float));
    d.v = malloc(d.nk * sizeof(float));
    d.dy = malloc(d.nq * sizeof(float));
    fill(d.q, d.nq, FILL_PLAIN, seed);
    fill(d.k, d.nk, FILL_PLAIN, seed);
    fill(d.v, d.nk, how, seed);
    fill(d.dy, d.nq, FILL_PLAIN, seed);
    for (size_t i = 0; i < d.nq; i++)
        d.q[i] *= 8.0f; /* sharp and flat rows */
    d.dq = guarded_new(d.nq);
    d.dk = guarded_new(d.nk);
    d.dv = guarded_new(d.nk);
    return d;
}

static void data_free(struct data *d)
{
    free(d->q);
    free(d->k);
    free(d->v);
    free(d->dy);
    guarded_free(&d->dq);
    guarded_free(&d->dk);
    guarded_free(&d->dv);
}

static float scale_of(const struct model *m)
{
    return 1.0f / sqrtf((float)m->D);
}

static void call(struct backend *b, const struct model *m, const struct data *d, float *dq, float *dk, float *dv)
{
    struct attn_back_args a = {.q = d->q, .dy = d->dy, .k = d->k, .v = d->v, .dq = dq, .dk = dk, .dv = dv, .heads = m->heads, .kv_heads = m->kv_heads};
    a.head_dim = m->D;
    a.window = m->window;
    a.scale = scale_of(m);
    a.offsets = m->offsets;
    a.sequences = 3;
    struct err e;
    if (b->ops->attention_back(b, &a, &e))
        fail_msg("%s", e.text);
}

static void every_isa(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (int i = 0; i < MODELS; i++) {
        struct data d = data_new(&models[i], &seed, (enum fill)(i % FILL_COUNT));
        struct rig scalar = rig_new(ISA_SCALAR, 1);
        call(scalar.b, &models[i], &d, d.dq.at, d.dk.at, d.dv.at);
        rig_free(&scalar);
        for (int isa = ISA_SCALAR; isa <= (int)isa_best(); isa++) {
            for (int t = 1; t <= 7; t += 3) {
                struct rig r = rig_new((enum isa)isa, t);
                struct guarded dq = guarded_new(d.nq), dk = guarded_new(d.nk), dv = guarded_new(d.nk);
                for (int again = 0; again < 2; again++) { /* the second time scratch holds what the first left */
                    call(r.b, &models[i], &d, dq.at, dk.at, dv.at);
                    char what[100];
                    snprintf(what, sizeof what, "%s model %d, %d threads", isa_name((enum isa)isa), i, t);
                    same_bits(d.dq.at, dq.at, d.nq, what);
                    same_bits(d.dk.at, dk.at, d.nk, what);
                    same_bits(d.dv.at, dv.at, d.nk, what);
                }
                guarded_free(&dq);
                guarded_free(&dk);
                guarded_free(&dv);
                rig_free(&r);
            }
        }
        data_free(&d);
    }
}

/* The f64 results and how far from them f32 may be. */
struct reference {
    double *dq, *dk, *dv, *off_q, *off_k, *off_v;
};

static double dot(const float *a, const float *b, int n, double *size)
{
    double sum = 0;
    *size = 0;
    for (int i = 0; i < n; i++) {
        sum += (double)a[i] * (double)b[i];
        *size += fabs((double)a[i] * (double)b[i]);
    }
    return sum;
}

/* One query row at q0 (offset in q) that sees n positions, key head offset k0, stride ldk. `rows` query rows add to a dk and dv at most.
 * In units of 2^-24: a score is off by (D + 3) of its terms, which moves p by twice that relative to itself; the sum of the e and 1 / sum add n / 16 + 10. dp is
 * off by D of its terms, the mean by its own sum as well; so ds by p times 2 A (p's) + 2 (dp's) + (n / 16 + 10) A with A the most a dp can be. */
static void reference_row(const struct model *m, const struct data *d, struct reference *ref, size_t q0, size_t k0, int64_t n, double rows)
{
    const size_t ldk = (size_t)(m->kv_heads * m->D);
    const int D = m->D;
    const double scale = (double)scale_of(m), unit = 0x1p-24;
    double *p = malloc((size_t)n * sizeof *p), *dp = malloc((size_t)n * sizeof *dp), most = -INFINITY, sum = 0, mean = 0, wide = 0, A = 0, size;
    for (int64_t t = 0; t < n; t++) {
        p[t] = scale * dot(d->q + q0, d->k + k0 + (size_t)t * ldk, D, &size);
        wide = fmax(wide, scale * size);
        dp[t] = dot(d->dy + q0, d->v + k0 + (size_t)t * ldk, D, &size);
        A = fmax(A, size);
        most = fmax(most, p[t]);
    }
    for (int64_t t = 0; t < n; t++)
        sum += p[t] = exp(p[t] - most);
    for (int64_t t = 0; t < n; t++) {
        p[t] /= sum;
        mean += p[t] * dp[t];
    }
    double off_p = unit * (2 * (D + 3) * wide + (double)n / 16 + 10), off_ds = 3 * off_p * A + unit * A * (2 * D + (double)n / 16 + 10);
    for (int64_t t = 0; t < n; t++) {
        double ds = p[t] * (dp[t] - mean), ds_size = p[t] * 2 * A;
        for (int i = 0; i < D; i++) {
            size_t q = q0 + (size_t)i, k = k0 + (size_t)t * ldk + (size_t)i;
            double qi = (double)d->q[q], ki = (double)d->k[k], dyi = (double)d->dy[q];
            ref->dq[q] += scale * ds * ki;
            ref->dk[k] += scale * ds * qi;
            ref->dv[k] += p[t] * dyi;
            ref->off_q[q] += scale * fabs(ki) * (p[t] * off_ds + ds_size * unit * ((double)n + 2));
            ref->off_k[k] += scale * fabs(qi) * (p[t] * off_ds + ds_size * unit * (rows + 2));
            ref->off_v[k] += p[t] * fabs(dyi) * (off_p + unit * (rows + 2));
        }
    }
    free(p);
    free(dp);
}

static void close_to(const double *want, const double *off, const float *got, size_t n, const char *what, int model)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= off[i] + 0x1p-100))
            fail_msg("model %d, %s %zu: %g, not %g (within %g)", model, what, i, (double)got[i], want[i], off[i]);
}

static void against_f64(void **state)
{
    (void)state;
    uint64_t seed = 2;
    struct rig r = rig_new(ISA_SCALAR, 1);
    for (int i = 0; i < MODELS; i++) {
        const struct model *m = &models[i];
        struct data d = data_new(m, &seed, FILL_PLAIN);
        double *all = calloc(2 * d.nq + 4 * d.nk, sizeof *all), *dk = all + 2 * d.nq;
        struct reference ref = {all, dk, dk + d.nk, all + d.nq, dk + 2 * d.nk, dk + 3 * d.nk};
        call(r.b, m, &d, d.dq.at, d.dk.at, d.dv.at);
        for (int s = 0; s < 3; s++)
            for (int64_t t = m->offsets[s]; t < m->offsets[s + 1]; t++)
                for (int h = 0; h < m->heads; h++) {
                    int group = m->heads / m->kv_heads;
                    int64_t from = m->window && t + 1 - m->window > m->offsets[s] ? t + 1 - m->window : m->offsets[s];
                    size_t q0 = (size_t)((t * m->heads + h) * m->D), k0 = (size_t)((from * m->kv_heads + h / group) * m->D);
                    reference_row(m, &d, &ref, q0, k0, t + 1 - from, (double)((m->offsets[s + 1] - m->offsets[s]) * group));
                }
        close_to(ref.dq, ref.off_q, d.dq.at, d.nq, "dq", i);
        close_to(ref.dk, ref.off_k, d.dk.at, d.nk, "dk", i);
        close_to(ref.dv, ref.off_v, d.dv.at, d.nk, "dv", i);
        free(all);
        data_free(&d);
    }
    rig_free(&r);
}

/* sum of dy * attention(q, k, v) over one sequence. */
static double loss(struct backend *b, const struct model *m, const struct data *d)
{
    struct attn_segment s = {.rows = m->offsets[3]};
    float *y = malloc(d->nq * sizeof *y);
    struct attn_args a = {.q = d->q, .k = d->k, .v = d->v, .y = y, .heads = m->heads, .kv_heads = m->kv_heads, .head_dim = m->D, .window = m->window};
    double sum = 0;
    a.scale = scale_of(m);
    a.segments = &s;
    a.segment_count = 1;
    assert_int_equal(b->ops->kv_create(b, 1, m->kv_heads, m->D, s.rows, &s.kv, NULL), 0);
    assert_int_equal(b->ops->attention(b, &a, NULL), 0);
    for (size_t i = 0; i < d->nq; i++)
        sum += (double)y[i] * (double)d->dy[i];
    b->ops->kv_free(b, s.kv);
    free(y);
    return sum;
}

/* A step of 2^-6 either way: 1e-4 of curvature, and 1e-5 of rounding in the loss of some 60 outputs. The gradients are of the order of 1. */
static void slope_of(struct backend *b, const struct model *m, const struct data *d, float *x, const float *gradient, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++) {
        const float was = x[i], step = 0x1p-6f;
        x[i] = was + step;
        double above = loss(b, m, d);
        x[i] = was - step;
        double slope = (above - loss(b, m, d)) / (2 * (double)step);
        x[i] = was;
        if (!(fabs(slope - (double)gradient[i]) <= 1e-3))
            fail_msg("%s %zu: %g, the slope is %g", what, i, (double)gradient[i], slope);
    }
}

static void slope(void **state)
{
    (void)state;
    static const struct model m = {4, 2, 5, 4, {0, 0, 0, 7}};
    uint64_t seed = 3;
    struct rig r = rig_new(ISA_AUTO, 1);
    struct data d = data_new(&m, &seed, FILL_PLAIN);
    for (size_t i = 0; i < d.nq; i++)
        d.q[i] *= 0.125f;
    call(r.b, &m, &d, d.dq.at, d.dk.at, d.dv.at);
    slope_of(r.b, &m, &d, d.q, d.dq.at, d.nq, "dq");
    slope_of(r.b, &m, &d, d.k, d.dk.at, d.nk, "dk");
    slope_of(r.b, &m, &d, d.v, d.dv.at, d.nk, "dv");
    data_free(&d);
    rig_free(&r);
}

static void refuses(void **state)
{
    (void)state;
    struct rig r = rig_new(ISA_AUTO, 1);
    int64_t offsets[] = {0, 3, 2};
    struct attn_back_args a = {.heads = 5, .kv_heads = 2, .head_dim = 4, .scale = 1, .offsets = offsets, .sequences = 2};
    struct err e;
    assert_int_equal(r.b->ops->attention_back(r.b, &a, &e), -ERR_SHAPE);
    assert_string_equal(e.text, "5 query heads do not divide over 2 key heads");
    a.heads = 4;
    assert_int_equal(r.b->ops->attention_back(r.b, &a, &e), -ERR_SHAPE);
    assert_string_equal(e.text, "attention_back: sequence 1 ends at row 2, before its first, 3");
    offsets[0] = 1;
    assert_int_equal(r.b->ops->attention_back(r.b, &a, &e), -ERR_SHAPE);
    assert_string_equal(e.text, "attention_back: the first sequence begins at row 1");
    rig_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_isa),
        cmocka_unit_test(against_f64),
        cmocka_unit_test(slope),
        cmocka_unit_test(refuses),
    };
    return cmocka_run_group_tests_name("attention_back", tests, NULL, NULL);
}

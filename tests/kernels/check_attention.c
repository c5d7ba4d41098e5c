/* attention: equal bits in every ISA, for any cut of a sequence into prefill chunks, decode steps and batches; close to softmax in f64. */
#include "tests/kernels/util.h"

struct model {
    int heads, kv_heads, D;
    int64_t T, window;
};

static const struct model models[] = {{1, 1, 16, 1, 0}, {4, 2, 64, 77, 0}, {6, 2, 20, 50, 7}, {3, 3, 13, 33, 0}, {8, 1, 128, 40, 16}, {2, 2, 80, 130, 33}};
enum { MODELS = sizeof models / sizeof *models, LAYERS = 2 };

struct data {
    float *q, *k, *v;
};

static struct data data_new(const struct model *m, uint64_t *seed, enum fill how)
{
    size_t nq = (size_t)(m->T * m->heads * m->D), nk = (size_t)(m->T * m->kv_heads * m->D);
    struct data d = {malloc(nq * sizeof(float)), malloc(nk * sizeof(float)), malloc(nk * sizeof(float))};
    fill(d.q, nq, FILL_PLAIN, seed);
    fill(d.k, nk, FILL_PLAIN, seed);
    fill(d.v, nk, how, seed);
    for (size_t i = 0; i < nq; i++)
        d.q[i] *= 8.0f; /* sharp and flat rows */
    return d;
}

static void data_free(struct data *d)
{
    free(d->q);
    free(d->k);
    free(d->v);
}

static void call(struct backend *b, const struct model *m, const float *q, const float *k, const float *v, float *y, const struct attn_segment *s, size_t n)
{
    struct attn_args a = {.q = q, .k = k, .v = v, .y = y, .heads = m->heads, .kv_heads = m->kv_heads, .head_dim = m->D, .layer = 1, .window = m->window};
    a.scale = 1.0f / sqrtf((float)m->D);
    a.segments = s;
    a.segment_count = n;
    struct err e;
    if (b->ops->attention(b, &a, &e))
        fail_msg("%s", e.text);
}

static struct kv_cache *cache(struct backend *b, const struct model *m)
{
    struct kv_cache *kv;
    struct err e;
    if (b->ops->kv_create(b, LAYERS, m->kv_heads, m->D, m->T, &kv, &e))
        fail_msg("%s", e.text);
    return kv;
}

/* The whole sequence in calls of `step` positions. */
static struct guarded whole(struct backend *b, const struct model *m, const struct data *d, int64_t step)
{
    struct guarded y = guarded_new((size_t)(m->T * m->heads * m->D));
    struct kv_cache *kv = cache(b, m);
    for (int64_t pos = 0; pos < m->T; pos += step) {
        int64_t rows = m->T - pos < step ? m->T - pos : step, q = pos * m->heads * m->D, k = pos * m->kv_heads * m->D;
        struct attn_segment s = {.kv = kv, .row = 0, .rows = rows, .pos = pos};
        call(b, m, d->q + q, d->k + k, d->v + k, y.at + q, &s, 1);
    }
    b->ops->kv_free(b, kv);
    return y;
}

static void every_cut(void **state)
{
    (void)state;
    uint64_t seed = 1;
    static const int64_t steps[] = {1, 3, 16, 19, 1000};
    for (int i = 0; i < MODELS; i++) {
        struct data d = data_new(&models[i], &seed, (enum fill)(i % FILL_COUNT));
        struct rig scalar = rig_new(ISA_SCALAR, 1);
        struct guarded want = whole(scalar.b, &models[i], &d, models[i].T);
        for (int isa = ISA_SCALAR; isa <= (int)isa_best(); isa++)
            for (int t = 1; t <= 7; t += 3) {
                struct rig r = rig_new((enum isa)isa, t);
                for (size_t j = 0; j < sizeof steps / sizeof *steps; j++) {
                    struct guarded got = whole(r.b, &models[i], &d, steps[j]);
                    char what[100];
                    snprintf(what, sizeof what, "%s model %d, %d threads, steps of %lld", isa_name((enum isa)isa), i, t, (long long)steps[j]);
                    same_bits(want.at, got.at, got.n, what);
                    guarded_free(&got);
                }
                rig_free(&r);
            }
        guarded_free(&want);
        rig_free(&scalar);
        data_free(&d);
    }
}

/* Three sequences in one batch, one of them continued, against each by itself. */
static void batch(void **state)
{
    (void)state;
    uint64_t seed = 2;
    const struct model *m = &models[1];
    enum { SEQS = 3 };
    const int64_t q_row = m->heads * m->D, k_row = m->kv_heads * m->D, first[SEQS] = {5, 0, 70};
    for (int isa = ISA_SCALAR; isa <= (int)isa_best(); isa++) {
        struct rig r = rig_new((enum isa)isa, 2);
        struct data d[SEQS], all = {calloc((size_t)(SEQS * m->T * q_row), 4), calloc((size_t)(SEQS * m->T * k_row), 4), calloc((size_t)(SEQS * m->T * k_row), 4)};
        struct guarded want[SEQS], got = guarded_new((size_t)(SEQS * m->T * q_row));
        struct attn_segment s[SEQS];
        int64_t row = 0;
        for (int i = 0; i < SEQS; i++) {
            d[i] = data_new(m, &seed, FILL_PLAIN);
            want[i] = whole(r.b, m, &d[i], m->T);
            s[i] = (struct attn_segment){.kv = cache(r.b, m), .row = row, .rows = m->T - first[i], .pos = first[i]};
            float *y = malloc((size_t)(m->T * q_row) * sizeof *y);
            struct attn_segment before = {.kv = s[i].kv, .rows = first[i]};
            call(r.b, m, d[i].q, d[i].k, d[i].v, y, &before, 1);
            free(y);
            memcpy(all.q + row * q_row, d[i].q + first[i] * q_row, (size_t)(s[i].rows * q_row) * 4);
            memcpy(all.k + row * k_row, d[i].k + first[i] * k_row, (size_t)(s[i].rows * k_row) * 4);
            memcpy(all.v + row * k_row, d[i].v + first[i] * k_row, (size_t)(s[i].rows * k_row) * 4);
            row += s[i].rows;
        }
        call(r.b, m, all.q, all.k, all.v, got.at, s, SEQS);
        for (int i = 0; i < SEQS; i++) {
            same_bits(want[i].at + first[i] * q_row, got.at + s[i].row * q_row, (size_t)(s[i].rows * q_row), "batch");
            r.b->ops->kv_free(r.b, s[i].kv);
            guarded_free(&want[i]);
            data_free(&d[i]);
        }
        guarded_free(&got);
        data_free(&all);
        rig_free(&r);
    }
}

/* Weights are a convex sum, so the error is relative to the largest |v| (1 here). A score is off by at most (D + 3) 2^-24 sum |q k| scale <= (D + 3) 2^-24 8 D / sqrt(D),
 * which moves p by twice that relative to itself; sums of T terms add T 2^-24. */
static void against_f64(void **state)
{
    (void)state;
    uint64_t seed = 3;
    struct rig r = rig_new(ISA_SCALAR, 1);
    for (int i = 0; i < MODELS; i++) {
        const struct model *m = &models[i];
        struct data d = data_new(m, &seed, FILL_PLAIN);
        struct guarded y = whole(r.b, m, &d, m->T);
        double bound = 0x1p-24 * (2 * (m->D + 3) * 8 * sqrt(m->D) + (double)m->T + 8);
        double *p = malloc((size_t)m->T * sizeof *p);
        for (int64_t t = 0; t < m->T; t++)
            for (int h = 0; h < m->heads; h++) {
                const float *q = d.q + (t * m->heads + h) * m->D;
                int kv = h / (m->heads / m->kv_heads);
                int64_t from = m->window && t + 1 > m->window ? t + 1 - m->window : 0;
                double sum = 0, most = -INFINITY;
                for (int64_t j = from; j <= t; j++) {
                    p[j] = 0;
                    for (int e = 0; e < m->D; e++)
                        p[j] += (double)q[e] * (double)d.k[(j * m->kv_heads + kv) * m->D + e] / sqrt(m->D);
                    most = fmax(most, p[j]);
                }
                for (int64_t j = from; j <= t; j++)
                    sum += p[j] = exp(p[j] - most);
                for (int e = 0; e < m->D; e++) {
                    double want = 0;
                    for (int64_t j = from; j <= t; j++)
                        want += p[j] / sum * (double)d.v[(j * m->kv_heads + kv) * m->D + e];
                    double got = (double)y.at[(t * m->heads + h) * m->D + e];
                    if (!(fabs(got - want) <= bound))
                        fail_msg("model %d position %lld head %d: %g, not %g", i, (long long)t, h, got, want);
                }
            }
        free(p);
        guarded_free(&y);
        data_free(&d);
    }
    rig_free(&r);
}

static void refuses(void **state)
{
    (void)state;
    struct rig r = rig_new(ISA_AUTO, 1);
    struct kv_cache *kv = cache(r.b, &models[2]);
    float x[6 * 20] = {0};
    struct attn_segment s = {.kv = kv, .rows = 1, .pos = 50};
    struct attn_args a = {.q = x, .k = x, .v = x, .y = x, .heads = 6, .kv_heads = 2, .head_dim = 20, .scale = 1, .segments = &s, .segment_count = 1};
    struct err e;
    assert_int_equal(r.b->ops->attention(r.b, &a, &e), -ERR_SHAPE);
    assert_string_equal(e.text, "positions 50 to 51 do not fit a KV cache of 50");
    a.layer = LAYERS;
    assert_int_equal(r.b->ops->attention(r.b, &a, &e), -ERR_SHAPE);
    a.heads = 5;
    assert_int_equal(r.b->ops->attention(r.b, &a, &e), -ERR_SHAPE);
    assert_string_equal(e.text, "5 query heads do not divide over 2 key heads");
    r.b->ops->kv_free(r.b, kv);
    rig_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cut),
        cmocka_unit_test(batch),
        cmocka_unit_test(against_f64),
        cmocka_unit_test(refuses),
    };
    return cmocka_run_group_tests_name("attention", tests, NULL, NULL);
}

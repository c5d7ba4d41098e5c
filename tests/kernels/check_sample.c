/* sample: the ids of a straightforward reference, in every ISA and on any number of threads, for rows and settings of all kinds; how often each id comes; and the arithmetic
 * of the CUDA op (kernels/cuda/sample.h), whose kernel tests/gpu/check_ops.c takes. */
#include "tests/kernels/util.h"

#include "kernels/cuda/sample.h"
#include "kernels/problem_sample.h"

enum { M = 24, ROUNDS = 120, V_MOST = 5000 };

static void same_ids(struct rig *rigs, int count, const float *l, int64_t V, const struct sample_row *rows, const int32_t *want)
{
    int32_t ids[M];
    struct err e;
    for (int i = 0; i < count; i++) {
        memset(ids, 0xff, sizeof ids);
        if (rigs[i].b->ops->sample(rigs[i].b, l, M, V, rows, ids, &e))
            fail_msg("%s", e.text);
        for (int m = 0; m < M; m++)
            if (ids[m] != want[m])
                fail_msg("backend %d, row %d of %d logits, temperature %g, top_p %g, u %a: %d, not %d", i, m, (int)V, rows[m].temperature, rows[m].top_p, rows[m].u, ids[m], want[m]);
    }
}

static void against_reference(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 2, 15, 16, 17, 100, 999, V_MOST};
    static float l[M * V_MOST];
    uint64_t seed = 21;
    struct rig rigs[9];
    int count = 0, boundaries = 0;
    for (int isa = ISA_SCALAR; isa <= (int)isa_best(); isa++)
        for (int t = 1; t <= 7; t += 3)
            rigs[count++] = rig_new((enum isa)isa, t);
    for (int round = 0; round < ROUNDS; round++) {
        const int64_t V = sizes[round % 8];
        struct sample_row rows[M];
        int32_t want[M];
        for (int m = 0; m < M; m++) {
            float *row = l + m * V;
            problem_logits(row, V, (round / 8 * M + m) % PROBLEM_LOGITS, &seed);
            rows[m] = problem_choice(true, &seed);
            struct problem_answer a = problem_answer(row, V, &rows[m]);
            if (m % 3 == 0 && a.taken > 1) {
                problem_between(&rows[m], &a, &seed);
                free(a.masses);
                a = problem_answer(row, V, &rows[m]);
                boundaries++;
            }
            want[m] = a.id;
            free(a.masses);
        }
        same_ids(rigs, count, l, V, rows, want);
    }
    assert_true(boundaries > 200);
    for (int i = 0; i < count; i++)
        rig_free(&rigs[i]);
}

/* With u at N places of equal distance, an id whose share of the mass is p comes N p times, give or take one: there is no chance in it. */
static void frequencies(void **state)
{
    (void)state;
    enum { N = 20000, V = 60 };
    static const double settings[][2] = {{1, 1}, {0.7, 1}, {1, 0.8}, {2, 0.95}};
    struct rig r = rig_new(ISA_AUTO, 2);
    float *l = malloc((size_t)N * V * sizeof *l);
    struct sample_row *rows = malloc(N * sizeof *rows);
    int32_t *ids = malloc(N * sizeof *ids);
    uint64_t seed = 22;
    for (size_t s = 0; s < sizeof settings / sizeof *settings; s++) {
        int seen[V] = {0}, order[V], kept = 0;
        double p[V], total = 0, mass = 0;
        for (int i = 0; i < V; i++) {
            l[i] = (float)(2 * problem_normal(&seed));
            total += p[i] = exp((double)l[i] / settings[s][0]);
            order[i] = i;
        }
        for (int i = 0; i < V; i++)
            for (int j = i + 1; j < V; j++)
                if (p[order[j]] > p[order[i]]) {
                    int t = order[i];
                    order[i] = order[j];
                    order[j] = t;
                }
        while (kept < V && mass < settings[s][1] * total)
            mass += p[order[kept++]];
        for (int n = 0; n < N; n++) {
            if (n)
                memcpy(l + (size_t)n * V, l, V * sizeof *l);
            rows[n] = (struct sample_row){settings[s][0], settings[s][1], (n + 0.5) / N};
        }
        assert_int_equal(r.b->ops->sample(r.b, l, N, V, rows, ids, NULL), 0);
        for (int n = 0; n < N; n++)
            seen[ids[n]]++;
        for (int i = 0; i < V; i++) {
            double share = i < kept ? p[order[i]] / mass : 0;
            if (!(fabs(seen[order[i]] - N * share) <= 1 + 1e-6))
                fail_msg("temperature %g, top_p %g: id %d of share %g came %d times of %d", settings[s][0], settings[s][1], order[i], share, seen[order[i]], N);
        }
        assert_true(kept > 5);
    }
    free(l);
    free(rows);
    free(ids);
    rig_free(&r);
}

static void cuda_arithmetic(void **state)
{
    (void)state;
    uint64_t seed = 23;
    uint32_t bin = 0;
    for (int i = 0; i <= 440000; i++) {
        float octaves = (float)(i < 440000 ? i * 1e-4 : 43.99999);
        double exact = exp2(42 - (double)octaves), w = (double)sample_weight(octaves);
        if (!(fabs(w - exact) <= 0x1.2p-22 * exact + 1))
            fail_msg("2^(42 - %.9g) is %.17g, not %.17g", (double)octaves, exact, w);
        assert_true(sample_bin(octaves) >= bin && sample_bin(octaves) < SAMPLE_BINS && (octaves < SAMPLE_FINE_OCTAVES) == (sample_bin(octaves) < SAMPLE_BINS - 1));
        bin = sample_bin(octaves);
    }
    assert_true(sample_weight(0) == (uint64_t)1 << 42);
    static const float ascending[] = {NAN, -INFINITY, -3e38f, -1, -1e-45f, 0, 1e-45f, 0.5f, 3e38f, INFINITY};
    for (int i = 1; i < 10; i++) {
        assert_true(sample_key(ascending[i]) > sample_key(ascending[i - 1]));
        assert_true(sample_logit(sample_key(ascending[i])) == ascending[i]);
    }
    assert_true(sample_key(-0.0f) == sample_key(0.0f) && sample_key(-NAN) == 0 && isnan(sample_logit(0)));
    for (int i = 0; i < 100000; i++) {
        float x = rnd_f32(&seed), y = rnd(&seed) % 4 ? rnd_f32(&seed) : x;
        int32_t a = (int32_t)(rnd(&seed) % (1 << SAMPLE_ID_BITS)), b = (int32_t)(rnd(&seed) % (1 << SAMPLE_ID_BITS));
        bool before = x > y || (x == y && a < b);
        assert_true(before == (sample_rank(sample_key(x), a) > sample_rank(sample_key(y), b)) && sample_id(sample_rank(sample_key(x), a)) == a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_reference), cmocka_unit_test(frequencies), cmocka_unit_test(cuda_arithmetic)};
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}

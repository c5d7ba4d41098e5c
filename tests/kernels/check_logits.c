/* nll, kl: equal bits in every ISA and on any number of threads; close to f64; KL of a row with itself exactly 0. */
#include "tests/kernels/util.h"

enum { M = 9, SIZES = 5 };
static const int64_t sizes[SIZES] = {1, 17, 1000, 4096, 32003};

static float *logits(int64_t V, float spread, uint64_t *seed)
{
    float *l = malloc((size_t)(M * V) * sizeof *l);
    fill(l, (size_t)(M * V), FILL_PLAIN, seed);
    for (int64_t i = 0; i < M * V; i++)
        l[i] *= spread;
    return l;
}

static double lse(const float *l, int64_t V)
{
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < V; i++)
        most = fmax(most, (double)l[i]);
    for (int64_t i = 0; i < V; i++)
        sum += exp((double)l[i] - most);
    return most + log(sum);
}

static void against_f64(void **state)
{
    (void)state;
    uint64_t seed = 1;
    struct rig r = rig_new(ISA_SCALAR, 1);
    for (int i = 0; i < SIZES; i++) {
        int64_t V = sizes[i];
        float *ref = logits(V, 12.0f, &seed), *q = logits(V, 0.3f, &seed);
        int32_t target[M], top1[M];
        double nll[M];
        struct kl_row out[M], self[M];
        for (int m = 0; m < M; m++)
            target[m] = (int32_t)(rnd(&seed) % (uint64_t)V);
        for (int64_t j = 0; j < M * V; j++)
            q[j] += ref[j];
        ref[V - 1] = 13.0f; /* the last, and a tie: the first of the highest counts */
        ref[V / 2] = 13.0f;
        assert_int_equal(r.b->ops->nll(r.b, ref, M, V, target, nll, top1, NULL), 0);
        assert_int_equal(r.b->ops->kl(r.b, ref, q, M, V, target, out, NULL), 0);
        assert_int_equal(r.b->ops->kl(r.b, ref, ref, M, V, target, self, NULL), 0);
        assert_int_equal(top1[0], V / 2);
        for (int m = 0; m < M; m++) {
            const float *a = ref + m * V, *b = q + m * V;
            double la = lse(a, V), lb = lse(b, V), kl = 0;
            int32_t top_a = 0, top_b = 0;
            for (int64_t j = 0; j < V; j++) {
                kl += exp((double)a[j] - la) * ((double)a[j] - la - (double)b[j] + lb);
                top_a = a[j] > a[top_a] ? (int32_t)j : top_a;
                top_b = b[j] > b[top_b] ? (int32_t)j : top_b;
            }
            /* Each p is off by 24 2^-24 (l - max is rounded) + 2^-23 (exp) at most. */
            assert_true(fabs(nll[m] - (la - (double)a[target[m]])) < 2e-6);
            assert_int_equal(top1[m], top_a);
            assert_true(out[m].nll_ref == nll[m]);
            assert_true(fabs(out[m].nll - (lb - (double)b[target[m]])) < 2e-6);
            assert_true(fabs(out[m].kl - kl) < 2e-6);
            assert_int_equal(out[m].same_top1, top_a == top_b);
            assert_true(self[m].kl == 0.0 && self[m].nll == self[m].nll_ref && self[m].same_top1);
        }
        free(ref);
        free(q);
    }
    rig_free(&r);
}

static void against_scalar(void **state)
{
    (void)state;
    uint64_t seed = 2;
    struct rig scalar = rig_new(ISA_SCALAR, 1);
    for (int i = 0; i < SIZES; i++)
        for (int isa = ISA_SCALAR; isa <= (int)isa_best(); isa++)
            for (int t = 1; t <= 7; t += 3) {
                struct rig r = rig_new((enum isa)isa, t);
                int64_t V = sizes[i];
                float *ref = logits(V, t == 1 ? 200.0f : 12.0f, &seed), *q = logits(V, 12.0f, &seed);
                int32_t target[M] = {0}, top_a[M], top_b[M];
                double nll_a[M], nll_b[M];
                struct kl_row a[M], b[M];
                memset(a, 0, sizeof a);
                memset(b, 0, sizeof b);
                assert_int_equal(scalar.b->ops->nll(scalar.b, ref, M, V, target, nll_a, top_a, NULL), 0);
                assert_int_equal(r.b->ops->nll(r.b, ref, M, V, target, nll_b, top_b, NULL), 0);
                assert_int_equal(scalar.b->ops->kl(scalar.b, ref, q, M, V, target, a, NULL), 0);
                assert_int_equal(r.b->ops->kl(r.b, ref, q, M, V, target, b, NULL), 0);
                assert_memory_equal(nll_a, nll_b, sizeof nll_a);
                assert_memory_equal(top_a, top_b, sizeof top_a);
                for (int m = 0; m < M; m++) {
                    assert_memory_equal(&a[m].nll_ref, &b[m].nll_ref, sizeof(double));
                    assert_memory_equal(&a[m].nll, &b[m].nll, sizeof(double));
                    assert_memory_equal(&a[m].kl, &b[m].kl, sizeof(double));
                    assert_int_equal(a[m].same_top1, b[m].same_top1);
                }
                free(ref);
                free(q);
                rig_free(&r);
            }
    rig_free(&scalar);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(against_f64),
        cmocka_unit_test(against_scalar),
    };
    return cmocka_run_group_tests_name("logits", tests, NULL, NULL);
}

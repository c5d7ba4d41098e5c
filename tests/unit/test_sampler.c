#include "tests/unit/lm_test.h"

#include <math.h>

#include "kernels/backend.h"
#include "pipeline/base/pool.h"
#include "stages/lm/sampler.h"

static struct backend *backend;

/* What a generation would take. */
static int32_t pick(const float *logits, int64_t V, const struct sampler_params *p, uint64_t prompt_index, uint64_t step)
{
    const struct sample_row row = {p->temperature, p->top_p, sampler_uniform(p->seed, prompt_index, step)};
    struct err err;
    int32_t id = -1;
    OK(backend->ops->sample(backend, logits, 1, V, &row, &id, &err));
    return id;
}

/* Known answers of Random123 (DEShawResearch/random123@v1.14.0:tests/kat_vectors, philox4x32 10). */
static void test_philox(void **state)
{
    (void)state;
    static const uint32_t kat[][10] = {
        {0,          0,          0,          0,          0,          0,          0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
    };
    for (size_t i = 0; i < sizeof kat / sizeof *kat; i++) {
        uint32_t out[4];
        philox4x32(kat[i], kat[i] + 4, out);
        assert_memory_equal(out, kat[i] + 6, sizeof out);
    }
}

static void test_shuffle(void **state)
{
    (void)state;
    enum { N = 1000, TRIALS = 6000 };
    uint64_t a[N], b[N], seen[N] = {0};
    philox_shuffle(7, a, N);
    philox_shuffle(7, b, N);
    assert_memory_equal(a, b, sizeof a);
    philox_shuffle(8, b, N);
    assert_true(memcmp(a, b, sizeof a) != 0);
    for (int i = 0; i < N; i++)
        seen[a[i]]++;
    for (int i = 0; i < N; i++)
        assert_int_equal(seen[i], 1);
    /* All 6 orders of 3 are equally likely: chi-square with 5 degrees of freedom, 99.9 % below 20.5. */
    int count[9] = {0};
    for (uint64_t seed = 0; seed < TRIALS; seed++) {
        uint64_t o[3];
        philox_shuffle(seed, o, 3);
        count[o[0] * 3 + o[1]]++;
    }
    double chi = 0;
    for (int i = 0; i < 9; i++)
        chi += i % 4 ? (count[i] - TRIALS / 6) * (count[i] - TRIALS / 6) / (TRIALS / 6.0) : count[i];
    assert_true(chi < 20.5);
    philox_shuffle(1, a, 0);
    philox_shuffle(1, a, 1);
    assert_int_equal(a[0], 0);
}

static void test_greedy(void **state)
{
    (void)state;
    const struct sampler_params p = {0, 1, 5};
    const float a[] = {1, 3, 2, 3}, b[] = {NAN, -1, -INFINITY, -1};
    assert_int_equal(pick(a, 4, &p, 0, 0), 1);
    assert_int_equal(pick(b, 4, &p, 0, 0), 1);
    const struct sampler_params narrow = {1, 0, 5};
    for (uint64_t s = 0; s < 50; s++)
        assert_int_equal(pick(a, 4, &narrow, 0, s), 1);
}

/* Frequencies against softmax(logits / T) cut to top_p. */
static void frequencies(double temperature, double top_p, const double want[5])
{
    enum { TRIALS = 40000 };
    const float logits[] = {0.5f, 2.0f, -1.0f, 2.0f, 1.0f};
    const struct sampler_params p = {temperature, top_p, 99};
    int count[5] = {0};
    for (uint64_t i = 0; i < TRIALS; i++)
        count[pick(logits, 5, &p, i % 7, i / 7)]++;
    for (int i = 0; i < 5; i++) {
        double sigma = sqrt(want[i] * (1 - want[i]) / TRIALS);
        assert_true(fabs(count[i] / (double)TRIALS - want[i]) <= 4 * sigma);
    }
}

static void test_frequencies(void **state)
{
    (void)state;
    double e[5], sum = 0;
    const double logits[] = {0.5, 2.0, -1.0, 2.0, 1.0};
    for (int i = 0; i < 5; i++)
        sum += e[i] = exp(logits[i] / 0.8);
    double all[5], cut[5] = {0};
    for (int i = 0; i < 5; i++)
        all[i] = e[i] / sum;
    frequencies(0.8, 1, all);
    /* 0.8: both 2.0 have .4099 each: together .82; 0.9: with 1.0 .937 */
    cut[1] = cut[3] = 0.5;
    frequencies(0.8, 0.8, cut);
    cut[1] = cut[3] = all[1] / (2 * all[1] + all[4]);
    cut[4] = all[4] / (2 * all[1] + all[4]);
    frequencies(0.8, 0.9, cut);
}

static void test_draws_apart(void **state)
{
    (void)state;
    float logits[64] = {0};
    const struct sampler_params p = {1, 1, 3}, q = {1, 1, 4};
    int same_step = 0, same_prompt = 0, same_seed = 0;
    for (uint64_t s = 0; s < 200; s++) {
        int32_t id = pick(logits, 64, &p, 0, s);
        assert_int_equal(id, pick(logits, 64, &p, 0, s));
        same_step += id == pick(logits, 64, &p, 0, s + 1);
        same_prompt += id == pick(logits, 64, &p, 1, s);
        same_seed += id == pick(logits, 64, &q, 0, s);
    }
    assert_true(same_step < 20 && same_prompt < 20 && same_seed < 20);
}

static void test_logprobs(void **state)
{
    (void)state;
    const float logits[] = {1, 5, 3, 5, -INFINITY};
    struct sampler_top top[6];
    double total = log(exp(1) + 2 * exp(5) + exp(3)), lp = sampler_logprobs(logits, 5, 2, top, 6);
    assert_true(fabs(lp - (3 - total)) < 1e-14);
    const int32_t order[] = {1, 3, 2, 0, 4, -1};
    for (int i = 0; i < 6; i++)
        assert_int_equal(top[i].id, order[i]);
    assert_true(fabs(top[0].logprob - (5 - total)) < 1e-14 && isinf(top[4].logprob));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox),      cmocka_unit_test(test_shuffle),     cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_frequencies), cmocka_unit_test(test_draws_apart), cmocka_unit_test(test_logprobs),
    };
    struct pool *pool = pool_create(1);
    struct err e;
    if (cpu_backend_create(ISA_AUTO, &(struct parallel){.run = pool_run, .ctx = pool, .threads = 1}, &backend, &e))
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    backend->destroy(backend);
    pool_free(pool);
    return failed;
}

/* pipeline/base/pool: every iteration exactly once, for several sizes; loops inside loops over two pools; many short loops. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fenv.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "pipeline/base/pool.h"

enum { N = 10007 };
static atomic_int hits[N];

static void hit(void *arg, size_t i)
{
    atomic_fetch_add((atomic_int *)arg + i, 1);
}

static void test_once(void **state)
{
    (void)state;
    const int threads[] = {1, 2, 7};
    const size_t sizes[] = {0, 1, 2, 3, 7, 64, N};
    for (size_t t = 0; t < 3; t++) {
        struct pool *p = pool_create(threads[t]);
        assert_int_equal(pool_threads(p), threads[t]);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            memset(hits, 0, sizeof hits);
            pool_run(p, sizes[s], hit, hits);
            for (size_t i = 0; i < N; i++)
                assert_int_equal(hits[i], i < sizes[s]);
        }
        pool_free(p);
    }
    memset(hits, 0, sizeof hits);
    pool_run(NULL, N, hit, hits);
    for (size_t i = 0; i < N; i++)
        assert_int_equal(hits[i], 1);
    assert_int_equal(pool_threads(NULL), 1);
    pool_free(NULL);
    assert_true(pool_cpu_count() >= 1);
}

/* Loops follow each other at once: an iteration of one must never run with the function or bound of another. */
static void test_many_short(void **state)
{
    (void)state;
    struct pool *p = pool_create(7);
    for (size_t round = 0; round < 2000; round++) {
        atomic_int own[8];
        for (size_t i = 0; i < 8; i++)
            atomic_init(&own[i], 0);
        size_t n = round % 9;
        pool_run(p, n, hit, own);
        for (size_t i = 0; i < 8; i++)
            assert_int_equal(own[i], i < n);
    }
    pool_free(p);
}

static void hit_late(void *arg, size_t i)
{
    usleep(i ? 20000 : 0);
    atomic_fetch_add((atomic_int *)arg + i, 1);
}

/* The loop ends when its last iteration has, whoever runs it. */
static void test_waits(void **state)
{
    (void)state;
    struct pool *p = pool_create(4);
    for (int round = 1; round <= 5; round++) {
        static atomic_int own[4];
        pool_run(p, 4, hit_late, own);
        for (size_t i = 0; i < 4; i++)
            assert_int_equal(own[i], round);
    }
    pool_free(p);
}

/* One inner pool per outer iteration, as stages use kernels' pools. */
struct nest {
    struct pool *inner[4];
    atomic_int cells[4][50];
};

static void outer(void *arg, size_t i)
{
    struct nest *n = arg;
    for (int again = 0; again < 20; again++)
        pool_run(n->inner[i], 50, hit, n->cells[i]);
}

static void test_nested(void **state)
{
    (void)state;
    static struct nest n;
    struct pool *p = pool_create(3);
    for (size_t i = 0; i < 4; i++)
        n.inner[i] = pool_create(2);
    pool_run(p, 4, outer, &n);
    for (size_t i = 0; i < 4; i++)
        for (size_t k = 0; k < 50; k++)
            assert_int_equal(n.cells[i][k], 20);
    for (size_t i = 0; i < 4; i++)
        pool_free(n.inner[i]);
    pool_free(p);
}

/* Denormals kept and rounding to nearest in every thread, even when the maker of the pool had another state. */
static void float_probe(void *arg, size_t i)
{
    volatile float tiny = 1e-40f, half = 0.5f, one = 1.0f, eps = 5e-8f;
    if (tiny * half <= 0 || one + eps != 1.0f)
        atomic_fetch_add((atomic_int *)arg, 1);
    (void)i;
}

static void test_float_state(void **state)
{
    (void)state;
    atomic_int bad = 0;
    fesetround(FE_UPWARD);
    struct pool *p = pool_create(4);
    pool_run(p, 4000, float_probe, &bad);
    pool_free(p);
    fesetround(FE_TONEAREST);
    assert_int_equal(bad, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_once), cmocka_unit_test(test_many_short), cmocka_unit_test(test_nested),
                                       cmocka_unit_test(test_waits), cmocka_unit_test(test_float_state)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What the tests of the quantization kernels share: random input, guarded output, every row that this machine runs. */
#ifndef TESTS_KERNELS_QUANT_UTIL_H
#define TESTS_KERNELS_QUANT_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cpu/cpu_ops.h"
#include "pipeline/base/pool.h"

enum { GUARD = 64 };

static uint32_t seed = 1;

static float bell(void)
{
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (double)(seed = seed * 1664525u + 1013904223u) / 0x1p32 - 0.5;
    return (float)sum;
}

/* bytes of output, filled with a pattern and followed by a guard. */
static void *guarded(size_t bytes)
{
    unsigned char *p = aligned_alloc(64, (bytes + GUARD + 63) / 64 * 64);
    assert_non_null(p);
    memset(p, 0xa5, bytes + GUARD);
    return p;
}

static void check_guard(const void *p, size_t bytes)
{
    for (size_t i = 0; i < GUARD; i++)
        assert_int_equal(((const unsigned char *)p)[bytes + i], 0xa5);
}

static float *random_floats(int64_t n)
{
    float *p = guarded((size_t)n * sizeof *p);
    for (int64_t i = 0; i < n; i++)
        p[i] = bell();
    return p;
}

/* Calls fn for every row that this machine runs, with 1, 2 and 7 threads, the scalar row first. */
static void each_row(void (*fn)(const struct cpu_kernels *k, const struct parallel *par, bool first, void *arg), void *arg)
{
    bool first = true;
    for (enum isa isa = ISA_SCALAR; isa <= isa_best(); isa++)
        for (int i = 0; i < 3; i++) {
            struct pool *pool = pool_create((const int[]){1, 2, 7}[i]);
            struct parallel par = {pool_run, pool, pool_threads(pool)};
            fn(cpu_kernels(isa), &par, first, arg);
            first = false;
            pool_free(pool);
        }
}

/* A random positive definite matrix. */
static double *random_spd(int64_t K)
{
    int64_t M = K + 10;
    float *x = random_floats(M * K);
    double *h = malloc((size_t)(K * K) * sizeof *h);
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = i == j ? 0.05 * (double)K : 0;
            for (int64_t t = 0; t < M; t++)
                sum += (double)x[t * K + i] * (double)x[t * K + j];
            h[i * K + j] = h[j * K + i] = sum;
        }
    free(x);
    return h;
}

#endif

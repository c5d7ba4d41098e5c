/* What the kernel checks share: random data with nasty values, buffers with guard bytes, backends of every ISA, comparison to the bit. */
#ifndef TESTS_KERNELS_UTIL_H
#define TESTS_KERNELS_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/half.h"
#include "kernels/wfmt.h"
#include "pipeline/base/pool.h"

#define UNUSED_FN static __attribute__((unused))

/* splitmix64. */
UNUSED_FN uint64_t rnd(uint64_t *s)
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

UNUSED_FN float rnd_f32(uint64_t *s)
{
    return (float)((double)(int64_t)rnd(s) * 0x1p-63);
}

/* Floats with 64 guarding ones on either side. */
struct guarded {
    float *all, *at;
    size_t n;
};

UNUSED_FN struct guarded guarded_new(size_t n)
{
    struct guarded g = {.all = malloc((n + 128) * sizeof(float)), .n = n};
    g.at = g.all + 64;
    memset(g.all, 0xa5, (n + 128) * sizeof(float));
    return g;
}

UNUSED_FN void guarded_check(const struct guarded *g)
{
    const unsigned char *p = (const unsigned char *)g->all, *q = (const unsigned char *)(g->at + g->n);
    for (size_t i = 0; i < 64 * sizeof(float); i++)
        if (p[i] != 0xa5 || q[i] != 0xa5)
            fail_msg("guard byte %zu overwritten", i);
}

UNUSED_FN void guarded_free(struct guarded *g)
{
    guarded_check(g);
    free(g->all);
}

enum fill { FILL_PLAIN, FILL_DENORMAL, FILL_LARGE, FILL_COUNT };

/* Plain: -1..1. Denormal: tiny and denormal values between plain ones. Large: up to 1e18, so that products stay finite. */
UNUSED_FN void fill(float *p, size_t n, enum fill how, uint64_t *s)
{
    for (size_t i = 0; i < n; i++) {
        float x = rnd_f32(s);
        uint64_t r = rnd(s) % 4;
        p[i] = how == FILL_DENORMAL && r == 0 ? x * 0x1p-127f : how == FILL_DENORMAL && r == 1 ? x * 0x1p-70f : how == FILL_LARGE && r == 0 ? x * 1e18f : x;
    }
}

UNUSED_FN void same_bits(const void *want, const void *got, size_t n, const char *what)
{
    const float *a = want, *b = got;
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) != 0)
            fail_msg("%s: element %zu is %a, the reference gives %a", what, i, (double)b[i], (double)a[i]);
}

struct rig {
    struct pool *pool;
    struct backend *b;
};

UNUSED_FN struct rig rig_new(enum isa isa, int threads)
{
    struct rig r = {.pool = pool_create(threads)};
    struct parallel par = {.run = pool_run, .ctx = r.pool, .threads = threads};
    struct err e;
    if (cpu_backend_create(isa, &par, &r.b, &e))
        fail_msg("%s", e.text);
    return r;
}

UNUSED_FN void rig_free(struct rig *r)
{
    r->b->destroy(r->b);
    pool_free(r->pool);
}

/* A quantized matrix with random codes; groups in order, or scattered (desc_act). */
UNUSED_FN struct qmatrix rnd_qmatrix(int64_t N, int64_t K, int bits, int group, bool scattered, uint64_t *s)
{
    struct qmatrix q;
    assert_int_equal(qmatrix_alloc(&q, N, K, bits, group), 0);
    for (int64_t i = 0; i < N * K; i++)
        q.codes[i] = (uint8_t)(rnd(s) & ((1u << bits) - 1));
    for (int64_t i = 0; i < q.G * N; i++) {
        q.scales[i] = f32_to_f16(0.05f * rnd_f32(s));
        q.zeros[i] = (uint8_t)(1 + rnd(s) % ((1u << bits) - 1));
    }
    for (int64_t k = 0; k < K; k++)
        q.g_idx[k] = (int32_t)(scattered ? (int64_t)(rnd(s) % (uint64_t)q.G) : group == -1 ? 0 : k / group);
    return q;
}

/* As a backend takes it; q must outlive it. What lies beyond K in the last words is noise. */
UNUSED_FN struct qwords rnd_qwords(const struct qmatrix *q, uint64_t *s)
{
    struct qwords w;
    struct err e;
    if (wfmt_pack(q, &w, &e))
        fail_msg("%s", e.text);
    uint32_t *words = w.owned;
    for (int64_t n = 0; n < q->N; n++)
        for (int64_t bit = q->K * q->bits; bit < 32 * wfmt_words(q->K, q->bits); bit++)
            words[bit / 32 * q->N + n] |= (uint32_t)(rnd(s) & 1) << bit % 32;
    return w;
}

#endif

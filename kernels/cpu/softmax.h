/* The softmax of one row of attention scores, shared by attention and its gradient. */
#ifndef KERNELS_CPU_SOFTMAX_H
#define KERNELS_CPU_SOFTMAX_H

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vmath.h"

static inline int64_t round16(int64_t n)
{
    return (n + 15) & ~(int64_t)15;
}

static inline int clamp16(int64_t n)
{
    return n < 0 ? 0 : n > 16 ? 16 : (int)n;
}

/* Scores s[0..ld), ld a multiple of 16, to exp(score * scale - max) where from <= i < to, +0 elsewhere. Returns the sum. */
static inline float softmax_row(float *s, int64_t ld, int64_t from, int64_t to, float scale_by)
{
    const v16 scale = v16_set1(scale_by), none = v16_set1(-HUGE_VALF);
    v16 most = none;
    for (int64_t i = 0; i < ld; i += PANEL) {
        v16 x = v16_mul(v16_load(s + i), scale);
        v16_store(s + i, x);
        x = v16_select(v16m_first(clamp16(from - i)), none, v16_keep_n(x, clamp16(to - i), none));
        most = v16_max(most, x);
    }
    const v16 max = v16_set1(v16_max_all(most));
    v16 sum = v16_zero();
    for (int64_t i = 0; i < ld; i += PANEL) {
        v16 p = v16_exp(v16_sub(v16_load(s + i), max));
        p = v16_select(v16m_first(clamp16(from - i)), v16_zero(), v16_keep_n(p, clamp16(to - i), v16_zero()));
        v16_store(s + i, p);
        sum = v16_add(sum, p);
    }
    return v16_sum(sum);
}

#endif

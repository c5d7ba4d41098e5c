/* simd.h in plain C: the specification of the vocabulary. fmaf and fma come from libm, exact with or without the instruction. */
#ifndef KERNELS_CPU_SIMD_SCALAR_H
#define KERNELS_CPU_SIMD_SCALAR_H

#include "kernels/half.h"

enum { SIMD_REGISTERS = 0 };

typedef struct {
    float f[16];
} v16;
typedef struct {
    int32_t i[16];
} v16i;
typedef uint32_t v16m;
typedef struct {
    double d[8];
} d8;

/* A function of vectors from an expression of lane j. */
#define SIMD_LANES(type, field, count, expr)                                                                                                         \
    type out_;                                                                                                                                       \
    for (int j = 0; j < (count); j++)                                                                                                                \
        out_.field[j] = (expr);                                                                                                                      \
    return out_
#define SIMD_V16(expr) SIMD_LANES(v16, f, 16, expr)
#define SIMD_V16I(expr) SIMD_LANES(v16i, i, 16, expr)
#define SIMD_D8(expr) SIMD_LANES(d8, d, 8, expr)
#define SIMD_V16M(expr)                                                                                                                              \
    v16m out_ = 0;                                                                                                                                   \
    for (int j = 0; j < 16; j++)                                                                                                                     \
        out_ |= (uint32_t)(expr) << j;                                                                                                               \
    return out_

SIMD_INLINE v16 v16_zero(void) { SIMD_V16(0.0f); }
SIMD_INLINE v16 v16_set1(float x) { SIMD_V16(x); }
SIMD_INLINE v16 v16_load(const float *p) { SIMD_V16(p[j]); }
SIMD_INLINE void v16_store(float *p, v16 v) { memcpy(p, v.f, sizeof v.f); }
SIMD_INLINE v16m v16m_first(int n) { return (1u << n) - 1u; }
SIMD_INLINE v16 v16_load_n(const float *p, int n) { SIMD_V16(j < n ? p[j] : 0.0f); }
SIMD_INLINE void v16_store_n(float *p, v16 v, int n) { memcpy(p, v.f, (size_t)n * sizeof *p); }
SIMD_INLINE v16 v16_load_f16(const uint16_t *p) { SIMD_V16(f16_to_f32(p[j])); }
SIMD_INLINE v16 v16_load_bf16(const uint16_t *p) { SIMD_V16(bf16_to_f32(p[j])); }
SIMD_INLINE void v16_store_f16(uint16_t *p, v16 v)
{
    for (int j = 0; j < 16; j++)
        p[j] = f32_to_f16(v.f[j]);
}
SIMD_INLINE v16 v16_round_f16(v16 v) { SIMD_V16(f16_to_f32(f32_to_f16(v.f[j]))); }

SIMD_INLINE v16 v16_add(v16 a, v16 b) { SIMD_V16(a.f[j] + b.f[j]); }
SIMD_INLINE v16 v16_sub(v16 a, v16 b) { SIMD_V16(a.f[j] - b.f[j]); }
SIMD_INLINE v16 v16_mul(v16 a, v16 b) { SIMD_V16(a.f[j] * b.f[j]); }
SIMD_INLINE v16 v16_div(v16 a, v16 b) { SIMD_V16(a.f[j] / b.f[j]); }
SIMD_INLINE v16 v16_fma(v16 a, v16 b, v16 c) { SIMD_V16(fmaf(a.f[j], b.f[j], c.f[j])); }
SIMD_INLINE v16 v16_fms(v16 a, v16 b, v16 c) { SIMD_V16(fmaf(a.f[j], b.f[j], -c.f[j])); }
SIMD_INLINE v16 v16_fnma(v16 a, v16 b, v16 c) { SIMD_V16(fmaf(-a.f[j], b.f[j], c.f[j])); }
SIMD_INLINE v16 v16_sqrt(v16 a) { SIMD_V16(sqrtf(a.f[j])); }
SIMD_INLINE v16 v16_max(v16 a, v16 b) { SIMD_V16(a.f[j] > b.f[j] ? a.f[j] : b.f[j]); }
SIMD_INLINE v16 v16_min(v16 a, v16 b) { SIMD_V16(a.f[j] < b.f[j] ? a.f[j] : b.f[j]); }
SIMD_INLINE v16 v16_abs(v16 a) { SIMD_V16(fabsf(a.f[j])); }
SIMD_INLINE v16 v16_neg(v16 a) { SIMD_V16(-a.f[j]); }
SIMD_INLINE v16 v16_rint(v16 a) { SIMD_V16(nearbyintf(a.f[j])); }

SIMD_INLINE v16m v16_lt(v16 a, v16 b) { SIMD_V16M(a.f[j] < b.f[j]); }
SIMD_INLINE v16m v16_le(v16 a, v16 b) { SIMD_V16M(a.f[j] <= b.f[j]); }
SIMD_INLINE v16m v16_eq(v16 a, v16 b) { SIMD_V16M(a.f[j] == b.f[j]); }
SIMD_INLINE v16m v16m_and(v16m a, v16m b) { return a & b; }
SIMD_INLINE v16m v16m_or(v16m a, v16m b) { return a | b; }
SIMD_INLINE v16m v16m_not(v16m a) { return ~a & 0xffffu; }
SIMD_INLINE unsigned v16m_bits(v16m a) { return a; }
SIMD_INLINE v16 v16_select(v16m m, v16 a, v16 b) { SIMD_V16(m >> j & 1u ? a.f[j] : b.f[j]); }
SIMD_INLINE v16i v16i_select(v16m m, v16i a, v16i b) { SIMD_V16I(m >> j & 1u ? a.i[j] : b.i[j]); }

SIMD_INLINE v16i v16i_set1(int32_t x) { SIMD_V16I(x); }
SIMD_INLINE v16i v16i_load(const int32_t *p) { SIMD_V16I(p[j]); }
SIMD_INLINE void v16i_store(int32_t *p, v16i v) { memcpy(p, v.i, sizeof v.i); }
SIMD_INLINE v16i v16i_load_u8(const uint8_t *p) { SIMD_V16I(p[j]); }
SIMD_INLINE void v16i_store_u8(uint8_t *p, v16i v)
{
    for (int j = 0; j < 16; j++)
        p[j] = (uint8_t)v.i[j];
}
/* Sums wrap, as in the vector units. */
SIMD_INLINE v16i v16i_add(v16i a, v16i b) { SIMD_V16I((int32_t)((uint32_t)a.i[j] + (uint32_t)b.i[j])); }
SIMD_INLINE v16i v16i_sub(v16i a, v16i b) { SIMD_V16I((int32_t)((uint32_t)a.i[j] - (uint32_t)b.i[j])); }
SIMD_INLINE v16i v16i_and(v16i a, v16i b) { SIMD_V16I(a.i[j] & b.i[j]); }
SIMD_INLINE v16i v16i_or(v16i a, v16i b) { SIMD_V16I(a.i[j] | b.i[j]); }
SIMD_INLINE v16i v16i_min(v16i a, v16i b) { SIMD_V16I(a.i[j] < b.i[j] ? a.i[j] : b.i[j]); }
SIMD_INLINE v16i v16i_max(v16i a, v16i b) { SIMD_V16I(a.i[j] > b.i[j] ? a.i[j] : b.i[j]); }
SIMD_INLINE v16m v16i_lt(v16i a, v16i b) { SIMD_V16M(a.i[j] < b.i[j]); }
SIMD_INLINE v16m v16i_eq(v16i a, v16i b) { SIMD_V16M(a.i[j] == b.i[j]); }
SIMD_INLINE v16i v16i_shl(v16i a, int n) { SIMD_V16I((int32_t)((uint32_t)a.i[j] << n)); }
SIMD_INLINE v16i v16i_srl(v16i a, int n) { SIMD_V16I((int32_t)((uint32_t)a.i[j] >> n)); }
SIMD_INLINE v16i v16i_sra(v16i a, int n) { SIMD_V16I(a.i[j] >> n); }

SIMD_INLINE int32_t simd_to_i(float x)
{
    float r = nearbyintf(x);
    return r >= -0x1p31f && r < 0x1p31f ? (int32_t)r : INT32_MIN;
}
SIMD_INLINE v16i v16_to_i(v16 a) { SIMD_V16I(simd_to_i(a.f[j])); }
SIMD_INLINE v16 v16_from_i(v16i a) { SIMD_V16((float)a.i[j]); }
SIMD_INLINE v16i v16_bits(v16 a) { SIMD_V16I((int32_t)f32_bits(a.f[j])); }
SIMD_INLINE v16 v16_from_bits(v16i a) { SIMD_V16(f32_from_bits((uint32_t)a.i[j])); }
SIMD_INLINE v16 v16_nibble(v16i words, int i) { SIMD_V16((float)((uint32_t)words.i[j] >> 4 * i & 15u)); }

SIMD_INLINE d8 d8_zero(void) { SIMD_D8(0.0); }
SIMD_INLINE d8 d8_set1(double x) { SIMD_D8(x); }
SIMD_INLINE d8 d8_load(const double *p) { SIMD_D8(p[j]); }
SIMD_INLINE void d8_store(double *p, d8 v) { memcpy(p, v.d, sizeof v.d); }
SIMD_INLINE d8 d8_load_n(const double *p, int n) { SIMD_D8(j < n ? p[j] : 0.0); }
SIMD_INLINE void d8_store_n(double *p, d8 v, int n) { memcpy(p, v.d, (size_t)n * sizeof *p); }
SIMD_INLINE d8 d8_add(d8 a, d8 b) { SIMD_D8(a.d[j] + b.d[j]); }
SIMD_INLINE d8 d8_sub(d8 a, d8 b) { SIMD_D8(a.d[j] - b.d[j]); }
SIMD_INLINE d8 d8_mul(d8 a, d8 b) { SIMD_D8(a.d[j] * b.d[j]); }
SIMD_INLINE d8 d8_div(d8 a, d8 b) { SIMD_D8(a.d[j] / b.d[j]); }
SIMD_INLINE d8 d8_fma(d8 a, d8 b, d8 c) { SIMD_D8(fma(a.d[j], b.d[j], c.d[j])); }
SIMD_INLINE d8 d8_fnma(d8 a, d8 b, d8 c) { SIMD_D8(fma(-a.d[j], b.d[j], c.d[j])); }
SIMD_INLINE d8 d8_sqrt(d8 a) { SIMD_D8(sqrt(a.d[j])); }
SIMD_INLINE d8 d8_max(d8 a, d8 b) { SIMD_D8(a.d[j] > b.d[j] ? a.d[j] : b.d[j]); }
SIMD_INLINE d8 d8_min(d8 a, d8 b) { SIMD_D8(a.d[j] < b.d[j] ? a.d[j] : b.d[j]); }
SIMD_INLINE d8 v16_lo_d8(v16 a) { SIMD_D8((double)a.f[j]); }
SIMD_INLINE d8 v16_hi_d8(v16 a) { SIMD_D8((double)a.f[j + 8]); }
SIMD_INLINE v16 v16_from_d8(d8 lo, d8 hi) { SIMD_V16((float)(j < 8 ? lo.d[j] : hi.d[j & 7])); }

SIMD_INLINE float v16_sum(v16 a)
{
    for (int half = 8; half; half /= 2)
        for (int j = 0; j < half; j++)
            a.f[j] += a.f[j + half];
    return a.f[0];
}
SIMD_INLINE float v16_max_all(v16 a)
{
    for (int half = 8; half; half /= 2)
        for (int j = 0; j < half; j++)
            a.f[j] = a.f[j] > a.f[j + half] ? a.f[j] : a.f[j + half];
    return a.f[0];
}
SIMD_INLINE double d8_sum(d8 a)
{
    for (int half = 4; half; half /= 2)
        for (int j = 0; j < half; j++)
            a.d[j] += a.d[j + half];
    return a.d[0];
}

#endif

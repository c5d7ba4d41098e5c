/* f16 and bf16 conversions by integers, exact and the same everywhere (clang 14 has no _Float16). Scalar; kernels/cpu has vector forms equal to these. */
#ifndef KERNELS_HALF_H
#define KERNELS_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t f32_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float f32_from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline float bf16_to_f32(uint16_t h)
{
    return f32_from_bits((uint32_t)h << 16);
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t f32_to_bf16(float x)
{
    uint32_t u = f32_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = h >> 10 & 0x1fu, man = h & 0x3ffu;
    if (exp == 0x1f)
        return f32_from_bits(sign | 0x7f800000u | man << 13);
    if (exp)
        return f32_from_bits(sign | (exp + 112u) << 23 | man << 13);
    float x = (float)man * 0x1p-24f; /* subnormal: exact */
    return sign ? -x : x;
}

/* Round to nearest even; beyond the range infinity; NaN stays NaN. */
static inline uint16_t f32_to_f16(float x)
{
    uint32_t u = f32_bits(x), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (a >= 0x477ff000u)
        return (uint16_t)(sign | 0x7c00u);
    if (a >= 0x38800000u)
        return (uint16_t)(sign | ((a + 0xfffu + (a >> 13 & 1u) - 0x38000000u) >> 13));
    if (a < 0x33000000u)
        return (uint16_t)sign;
    uint32_t shift = 126u - (a >> 23), man = (a & 0x7fffffu) | 0x800000u;
    uint32_t half = 1u << (shift - 1), rest = man & ((1u << shift) - 1u), q = man >> shift;
    return (uint16_t)(sign | (q + (rest > half || (rest == half && (q & 1u)))));
}

#endif

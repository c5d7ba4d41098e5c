/* Codes to numbers of the activations' type by bit tricks, and the few operations on pairs that they need. gcc and nvcc both compile it; every code goes through every
 * trick in tests/kernels/check_marlin_layout.c. A pair is two f16 or bf16 in a word, the one of lower k in the low half.
 *
 * Two ways:
 *   raw      exact multiples of the code plus an offset, without any arithmetic; offset, zero and unit are settled on the f32 sums, once a group:
 *              f16,  4 bits: the masked code is a subnormal, q * 2^-24 (half 0) or 16 * q * 2^-24 (half 1)         1 shift, 4 and            for 8 codes
 *              f16,  8 bits: q * 2^-24                                                                            2 shift, 4 and
 *              bf16, 4 bits: 128 + q (0x4300 | q: seven bits of mantissa hold one code)                            3 shift, 4 and-or
 *              bf16, 8 bits: q - 128, from (128 + q % 128) - (128 or 256): exact in eight bits of significand       2 shift, 8 and-or, 4 fma
 *   scaled   (q - zero) * scale, rounded once, for tiles whose sums leave no registers for a second set; or `centered`, q - zero, exact, for wgmma, where a thread has two
 *            outputs only and their zeros cost nothing:
 *              f16: 1024 + q (0x6400 | q) or 1024 + 16 q; subtract 1024 + zero, or times 1/16 and subtract 64 + zero: exact; times the scale
 *              bf16: raw minus the zero (and 128), exact; times the scale
 * Constants of the 0x6400 and 0x4300 forms: Kim et al., "Who Says Elephants Can't Run" (arXiv:2211.10017), as Marlin uses them. Tensor cores take f16 subnormals
 * without flushing them (Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021). */
#ifndef KERNELS_CUDA_MARLIN_DEQUANT_H
#define KERNELS_CUDA_MARLIN_DEQUANT_H

#include <stdint.h>

#include "kernels/cuda/marlin_layout.h"
#include "kernels/half.h"

/* ---- pairs ---- */

#ifndef __CUDA_ARCH__
MARLIN_FN float marlin_half_get(int bf16, uint32_t pair, int i)
{
    uint16_t h = (uint16_t)(pair >> 16 * i);
    return bf16 ? bf16_to_f32(h) : f16_to_f32(h);
}

MARLIN_FN uint32_t marlin_half_put(int bf16, float lo, float hi)
{
    return bf16 ? (uint32_t)f32_to_bf16(lo) | (uint32_t)f32_to_bf16(hi) << 16 : (uint32_t)f32_to_f16(lo) | (uint32_t)f32_to_f16(hi) << 16;
}
#endif

/* a * b + c, rounded once. (The CPU form rounds twice, which is the same wherever the sum is exact in f32, as it is here.) */
MARLIN_FN uint32_t marlin_pair_fma(int bf16, uint32_t a, uint32_t b, uint32_t c)
{
#ifdef __CUDA_ARCH__
    uint32_t d;
    if (bf16)
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    else
        asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
#else
    float v[2];
    for (int i = 0; i < 2; i++)
        v[i] = marlin_half_get(bf16, a, i) * marlin_half_get(bf16, b, i) + marlin_half_get(bf16, c, i);
    return marlin_half_put(bf16, v[0], v[1]);
#endif
}

/* a * b. bf16 multiplies by fma with -0: the instruction that sm_80 has. */
MARLIN_FN uint32_t marlin_pair_mul(int bf16, uint32_t a, uint32_t b)
{
#ifdef __CUDA_ARCH__
    if (!bf16) {
        uint32_t d;
        asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
        return d;
    }
#endif
    return marlin_pair_fma(bf16, a, b, 0x80008000u);
}

/* a - b. */
MARLIN_FN uint32_t marlin_pair_sub(int bf16, uint32_t a, uint32_t b)
{
#ifdef __CUDA_ARCH__
    if (!bf16) {
        uint32_t d;
        asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
        return d;
    }
#endif
    return marlin_pair_fma(bf16, b, bf16 ? 0xbf80bf80u : 0xbc00bc00u, a);
}

/* lo and hi, rounded to nearest even. */
MARLIN_FN uint32_t marlin_pair(int bf16, float lo, float hi)
{
#ifdef __CUDA_ARCH__
    uint32_t d;
    if (bf16)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo));
    else
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo));
    return d;
#else
    return marlin_half_put(bf16, lo, hi);
#endif
}

/* x in both halves. */
MARLIN_FN uint32_t marlin_pair_of(int bf16, float x)
{
    return marlin_pair(bf16, x, x);
}

/* One f16 (the low or high half of a word) as f32. */
MARLIN_FN float marlin_f16(uint32_t word, int high)
{
#ifdef __CUDA_ARCH__
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"((unsigned short)(high ? word >> 16 : word)));
    return f;
#else
    return f16_to_f32((uint16_t)(high ? word >> 16 : word));
#endif
}

/* One f16 in both halves of a pair of the type. */
MARLIN_FN uint32_t marlin_pair_of_f16(int bf16, uint32_t word, int high)
{
    if (bf16)
        return marlin_pair_of(1, marlin_f16(word, high));
#ifdef __CUDA_ARCH__
    return __byte_perm(word, word, high ? 0x3232 : 0x1010);
#else
    return (high ? word >> 16 : word & 0xffffu) * 0x10001u;
#endif
}

MARLIN_FN float marlin_bf16(uint16_t h)
{
#ifdef __CUDA_ARCH__
    return __uint_as_float((uint32_t)h << 16);
#else
    return bf16_to_f32(h);
#endif
}

/* 1.0 in both halves. */
MARLIN_FN uint32_t marlin_pair_ones(int bf16)
{
    return bf16 ? 0x3f803f80u : 0x3c003c00u;
}

/* ---- raw ---- */

/* value of a raw number = (number - offset) / unit, unit by half of the 16 columns */
MARLIN_FN float marlin_raw_offset(int bits, int bf16)
{
    return !bf16 ? 0.0f : bits == 4 ? 128.0f : -128.0f;
}

MARLIN_FN float marlin_raw_unit(int bits, int bf16, int half)
{
    return bf16 ? 1.0f : bits == 4 && half ? 0x1p-20f : 0x1p-24f;
}

/* (a & mask) | bits, in one instruction: two constants keep the compiler from it. */
MARLIN_FN uint32_t marlin_and_or(uint32_t a, uint32_t mask, uint32_t bits)
{
#ifdef __CUDA_ARCH__
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(mask), "r"(bits)); /* 0xea: (0xf0 & 0xcc) | 0xaa */
    return d;
#else
    return (a & mask) | bits;
#endif
}

/* The exponent that makes codes numbers: none for raw f16, whose codes are subnormals. */
MARLIN_FN uint32_t marlin_exponent(int bf16, int scaled)
{
    return bf16 ? 0x43004300u : scaled ? 0x64006400u : 0u;
}

MARLIN_FN uint32_t marlin_masked(int bf16, int scaled, uint32_t w, uint32_t mask)
{
    return bf16 || scaled ? marlin_and_or(w, mask, marlin_exponent(bf16, scaled)) : w & mask;
}

/* The four pairs of a lane for 16 columns: out[2 * half + hi], hi = k + 8. 4 bits take one word, 8 bits one for each half. scaled: for marlin_scaled. */
MARLIN_FN void marlin_pairs4(int bf16, int scaled, uint32_t w, uint32_t out[4])
{
    uint32_t w8 = w >> 8, high = bf16 ? 0x000f000fu : 0x00f000f0u;
    out[0] = marlin_masked(bf16, scaled, w, 0x000f000fu);
    out[1] = marlin_masked(bf16, scaled, w8, 0x000f000fu);
    out[2] = marlin_masked(bf16, scaled, bf16 ? w >> 4 : w, high);
    out[3] = marlin_masked(bf16, scaled, bf16 ? w >> 12 : w8, high);
}

MARLIN_FN uint32_t marlin_pair8(int bf16, int scaled, uint32_t w)
{
    if (!bf16)
        return marlin_masked(0, scaled, w, 0x00ff00ffu);
    return marlin_pair_sub(1, marlin_and_or(w, 0x007f007fu, 0x43004300u), marlin_and_or(~w, 0x00800080u, 0x43004300u));
}

MARLIN_FN void marlin_pairs8(int bf16, int scaled, uint32_t w0, uint32_t w1, uint32_t out[4])
{
    out[0] = marlin_pair8(bf16, scaled, w0);
    out[1] = marlin_pair8(bf16, scaled, w0 >> 8);
    out[2] = marlin_pair8(bf16, scaled, w1);
    out[3] = marlin_pair8(bf16, scaled, w1 >> 8);
}

/* ---- scaled ---- */

/* What `marlin_scaled` subtracts for a zero: by half of the 16 columns. */
MARLIN_FN uint32_t marlin_scaled_zero(int bits, int bf16, float zero, int half)
{
    if (bf16)
        return marlin_pair_of(1, zero + marlin_raw_offset(bits, 1));
    return marlin_pair_of(0, bits == 4 && half ? -64.0f - zero : 1024.0f + zero);
}

/* Pairs of one half, taken with `scaled`, to code - zero, exact; zero from marlin_scaled_zero. */
MARLIN_FN uint32_t marlin_centered(int bits, int bf16, uint32_t pair, int half, uint32_t zero)
{
    if (bf16)
        return marlin_pair_sub(1, pair, zero);
    if (bits == 4 && half)
        return marlin_pair_fma(0, pair, 0x2c002c00u, zero);
    return marlin_pair_sub(0, pair, zero);
}

/* The same times a scale, as a pair; rounded once. */
MARLIN_FN uint32_t marlin_scaled(int bits, int bf16, uint32_t pair, int half, uint32_t zero, uint32_t scale)
{
    return marlin_pair_mul(bf16, marlin_centered(bits, bf16, pair, half, zero), scale);
}

#endif

/* The vector vocabulary of kernels/cpu: one source per op, compiled once per ISA against one of three headers with equal names.
 *
 *   v16   16 lanes of f32   (AVX-512: one register, AVX2: two, scalar: an array)      v16i  16 lanes of i32      v16m  16 flags
 *   d8     8 lanes of f64; sixteen lanes are a pair (lanes 0..7, lanes 8..15)
 *
 * Every function gives the same bits in all three (NaN payloads aside), which is what makes the rows of kernels.def equal:
 *   v16_fma(a, b, c) = a * b + c, v16_fms = a * b - c, v16_fnma = c - a * b, each rounded once
 *   v16_max(a, b) = a > b ? a : b and v16_min(a, b) = a < b ? a : b, so a NaN in either gives b
 *   v16_rint, v16_to_i round to nearest even; v16_to_i beyond i32 gives INT32_MIN
 *   v16_load_n(p, n), v16_store_n(p, v, n) touch the first n lanes only, 0 <= n <= 16; the others read as +0
 *   v16_sum, v16_max_all, d8_sum reduce by the tree l[i] op l[i + 8], then 4, 2, 1
 *   v16_nibble(words, i), i constant 0..7: f32 of bits 4i..4i+3 of every lane
 *   v16_store_f16, v16_round_f16 round to nearest even as f32_to_f16 in kernels/half.h
 *   v16i_store_u8 stores the low byte of each lane
 * SIMD_REGISTERS is how many v16 the machine's registers hold (0: none), for the sizes of register tiles.
 * Pointers need the alignment of their element only. Nothing here is for code outside kernels/cpu: it needs the ISA's flags.
 */
#ifndef KERNELS_CPU_SIMD_H
#define KERNELS_CPU_SIMD_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SIMD_PASTE_(a, b) a##_##b
#define SIMD_PASTE(a, b) SIMD_PASTE_(a, b)
/* FN(linear) is linear_avx2 in the object for AVX2. */
#define FN(name) SIMD_PASTE(name, ISA)
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SIMD_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SIMD_SANITIZED 1
#endif
#endif
#if !defined(ISA_SCALAR)
#define SIMD_INLINE static inline __attribute__((always_inline, unused))
#elif defined(SIMD_SANITIZED) /* checked loops of sixteen lanes, inlined into each other, take minutes to compile */
#define SIMD_INLINE static __attribute__((noinline, unused))
#else
#define SIMD_INLINE static inline __attribute__((unused))
#endif
/* In front of a loop of constant length over an array of vectors: unrolled, so that the array lives in registers. */
#if defined(ISA_SCALAR) || defined(SIMD_SANITIZED)
#define SIMD_UNROLL
#elif defined(__clang__)
#define SIMD_UNROLL _Pragma("unroll")
#else
#define SIMD_UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(ISA_AVX512)
#include "kernels/cpu/simd_avx512.h"
#elif defined(ISA_AVX2)
#include "kernels/cpu/simd_avx2.h"
#elif defined(ISA_SCALAR)
#include "kernels/cpu/simd_scalar.h"
#else
#error "kernels/cpu is compiled once per ISA, with -DISA_SCALAR, -DISA_AVX2 or -DISA_AVX512"
#endif
/* They have done their work, and enum isa in kernels/backend.h has constants of these names. */
#undef ISA_SCALAR
#undef ISA_AVX2
#undef ISA_AVX512

/* Lanes beyond n of v become those of other; n as in v16_load_n. */
SIMD_INLINE v16 v16_keep_n(v16 v, int n, v16 other)
{
    return v16_select(v16m_first(n), v, other);
}

/* Number of lanes in use at offset i of n: 16, or what is left. */
SIMD_INLINE int v16_lanes(int64_t i, int64_t n)
{
    return n - i < 16 ? (int)(n - i) : 16;
}

#endif

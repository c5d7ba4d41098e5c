/* simd.h for AVX-512 (F, BW, DQ, VL). Contracts there. */
#ifndef KERNELS_CPU_SIMD_AVX512_H
#define KERNELS_CPU_SIMD_AVX512_H

#include <immintrin.h>

enum { SIMD_REGISTERS = 32 };

typedef __m512 v16;
typedef __m512i v16i;
typedef __mmask16 v16m;
typedef __m512d d8;

SIMD_INLINE v16 v16_zero(void) { return _mm512_setzero_ps(); }
SIMD_INLINE v16 v16_set1(float x) { return _mm512_set1_ps(x); }
SIMD_INLINE v16 v16_load(const float *p) { return _mm512_loadu_ps(p); }
SIMD_INLINE void v16_store(float *p, v16 v) { _mm512_storeu_ps(p, v); }
SIMD_INLINE v16m v16m_first(int n) { return (v16m)((1u << n) - 1u); }
SIMD_INLINE v16 v16_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(v16m_first(n), p); }
SIMD_INLINE void v16_store_n(float *p, v16 v, int n) { _mm512_mask_storeu_ps(p, v16m_first(n), v); }
SIMD_INLINE v16 v16_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
SIMD_INLINE v16 v16_load_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
SIMD_INLINE void v16_store_f16(uint16_t *p, v16 v)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
SIMD_INLINE v16 v16_round_f16(v16 v) { return _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }

SIMD_INLINE v16 v16_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
SIMD_INLINE v16 v16_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
SIMD_INLINE v16 v16_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
SIMD_INLINE v16 v16_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
SIMD_INLINE v16 v16_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
SIMD_INLINE v16 v16_fms(v16 a, v16 b, v16 c) { return _mm512_fmsub_ps(a, b, c); }
SIMD_INLINE v16 v16_fnma(v16 a, v16 b, v16 c) { return _mm512_fnmadd_ps(a, b, c); }
SIMD_INLINE v16 v16_sqrt(v16 a) { return _mm512_sqrt_ps(a); }
SIMD_INLINE v16 v16_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
SIMD_INLINE v16 v16_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }
SIMD_INLINE v16 v16_abs(v16 a) { return _mm512_abs_ps(a); }
SIMD_INLINE v16 v16_neg(v16 a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
SIMD_INLINE v16 v16_rint(v16 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

SIMD_INLINE v16m v16_lt(v16 a, v16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
SIMD_INLINE v16m v16_le(v16 a, v16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
SIMD_INLINE v16m v16_eq(v16 a, v16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
SIMD_INLINE v16m v16m_and(v16m a, v16m b) { return (v16m)(a & b); }
SIMD_INLINE v16m v16m_or(v16m a, v16m b) { return (v16m)(a | b); }
SIMD_INLINE v16m v16m_not(v16m a) { return (v16m)~a; }
/* Bit i is lane i. */
SIMD_INLINE unsigned v16m_bits(v16m a) { return a; }
/* Lanes of a where m, else of b. */
SIMD_INLINE v16 v16_select(v16m m, v16 a, v16 b) { return _mm512_mask_blend_ps(m, b, a); }
SIMD_INLINE v16i v16i_select(v16m m, v16i a, v16i b) { return _mm512_mask_blend_epi32(m, b, a); }

SIMD_INLINE v16i v16i_set1(int32_t x) { return _mm512_set1_epi32(x); }
SIMD_INLINE v16i v16i_load(const int32_t *p) { return _mm512_loadu_si512(p); }
SIMD_INLINE void v16i_store(int32_t *p, v16i v) { _mm512_storeu_si512(p, v); }
SIMD_INLINE v16i v16i_load_u8(const uint8_t *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)); }
SIMD_INLINE void v16i_store_u8(uint8_t *p, v16i v) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(v)); }
SIMD_INLINE v16i v16i_add(v16i a, v16i b) { return _mm512_add_epi32(a, b); }
SIMD_INLINE v16i v16i_sub(v16i a, v16i b) { return _mm512_sub_epi32(a, b); }
SIMD_INLINE v16i v16i_and(v16i a, v16i b) { return _mm512_and_si512(a, b); }
SIMD_INLINE v16i v16i_or(v16i a, v16i b) { return _mm512_or_si512(a, b); }
SIMD_INLINE v16i v16i_min(v16i a, v16i b) { return _mm512_min_epi32(a, b); }
SIMD_INLINE v16i v16i_max(v16i a, v16i b) { return _mm512_max_epi32(a, b); }
SIMD_INLINE v16m v16i_lt(v16i a, v16i b) { return _mm512_cmplt_epi32_mask(a, b); }
SIMD_INLINE v16m v16i_eq(v16i a, v16i b) { return _mm512_cmpeq_epi32_mask(a, b); }
#define v16i_shl(a, n) _mm512_slli_epi32(a, n)
#define v16i_srl(a, n) _mm512_srli_epi32(a, n)
#define v16i_sra(a, n) _mm512_srai_epi32(a, n)

SIMD_INLINE v16i v16_to_i(v16 a) { return _mm512_cvtps_epi32(a); }
SIMD_INLINE v16 v16_from_i(v16i a) { return _mm512_cvtepi32_ps(a); }
SIMD_INLINE v16i v16_bits(v16 a) { return _mm512_castps_si512(a); }
SIMD_INLINE v16 v16_from_bits(v16i a) { return _mm512_castsi512_ps(a); }

/* The permute looks at the low four bits of a lane only, so that shift and lookup are all there is. */
SIMD_INLINE v16 v16_nibble(v16i words, int i)
{
    const v16 values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_permutexvar_ps(_mm512_srli_epi32(words, (unsigned)(4 * i)), values);
}

SIMD_INLINE d8 d8_zero(void) { return _mm512_setzero_pd(); }
SIMD_INLINE d8 d8_set1(double x) { return _mm512_set1_pd(x); }
SIMD_INLINE d8 d8_load(const double *p) { return _mm512_loadu_pd(p); }
SIMD_INLINE void d8_store(double *p, d8 v) { _mm512_storeu_pd(p, v); }
SIMD_INLINE d8 d8_load_n(const double *p, int n) { return _mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1u), p); }
SIMD_INLINE void d8_store_n(double *p, d8 v, int n) { _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1u), v); }
SIMD_INLINE d8 d8_add(d8 a, d8 b) { return _mm512_add_pd(a, b); }
SIMD_INLINE d8 d8_sub(d8 a, d8 b) { return _mm512_sub_pd(a, b); }
SIMD_INLINE d8 d8_mul(d8 a, d8 b) { return _mm512_mul_pd(a, b); }
SIMD_INLINE d8 d8_div(d8 a, d8 b) { return _mm512_div_pd(a, b); }
SIMD_INLINE d8 d8_fma(d8 a, d8 b, d8 c) { return _mm512_fmadd_pd(a, b, c); }
SIMD_INLINE d8 d8_fnma(d8 a, d8 b, d8 c) { return _mm512_fnmadd_pd(a, b, c); }
SIMD_INLINE d8 d8_sqrt(d8 a) { return _mm512_sqrt_pd(a); }
SIMD_INLINE d8 d8_max(d8 a, d8 b) { return _mm512_max_pd(a, b); }
SIMD_INLINE d8 d8_min(d8 a, d8 b) { return _mm512_min_pd(a, b); }
SIMD_INLINE d8 v16_lo_d8(v16 a) { return _mm512_cvtps_pd(_mm512_castps512_ps256(a)); }
SIMD_INLINE d8 v16_hi_d8(v16 a) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)); }
SIMD_INLINE v16 v16_from_d8(d8 lo, d8 hi)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(lo)), _mm512_cvtpd_ps(hi), 1);
}

/* Trees of the last four lanes, shared shape with AVX2. */
SIMD_INLINE float simd_sum4(__m128 v)
{
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps(v, v, 1)));
}
SIMD_INLINE float simd_max4(__m128 v)
{
    v = _mm_max_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps(v, v, 1)));
}
SIMD_INLINE float v16_sum(v16 a)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    return simd_sum4(_mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1)));
}
SIMD_INLINE float v16_max_all(v16 a)
{
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    return simd_max4(_mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1)));
}
SIMD_INLINE double d8_sum(d8 a)
{
    __m256d h = _mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
    __m128d q = _mm_add_pd(_mm256_castpd256_pd128(h), _mm256_extractf128_pd(h, 1));
    return _mm_cvtsd_f64(_mm_add_sd(q, _mm_unpackhi_pd(q, q)));
}

#endif

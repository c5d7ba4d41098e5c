/* simd.h for AVX2 with FMA and F16C: every vector is two registers. Contracts there. */
#ifndef KERNELS_CPU_SIMD_AVX2_H
#define KERNELS_CPU_SIMD_AVX2_H

#include <immintrin.h>

enum { SIMD_REGISTERS = 8 }; /* pairs */

typedef struct {
    __m256 lo, hi;
} v16;
typedef struct {
    __m256i lo, hi;
} v16i;
typedef struct {
    __m256 lo, hi; /* all bits of a lane set or none */
} v16m;
typedef struct {
    __m256d lo, hi;
} d8;

/* A function of vectors from the same expression on both halves. */
#define SIMD_HALVES(type, lo_expr, hi_expr) return (type){lo_expr, hi_expr}

SIMD_INLINE v16 v16_zero(void) { SIMD_HALVES(v16, _mm256_setzero_ps(), _mm256_setzero_ps()); }
SIMD_INLINE v16 v16_set1(float x) { SIMD_HALVES(v16, _mm256_set1_ps(x), _mm256_set1_ps(x)); }
SIMD_INLINE v16 v16_load(const float *p) { SIMD_HALVES(v16, _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
SIMD_INLINE void v16_store(float *p, v16 v)
{
    _mm256_storeu_ps(p, v.lo);
    _mm256_storeu_ps(p + 8, v.hi);
}
SIMD_INLINE v16i simd_first(int n)
{
    const __m256i lo = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), hi = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
    SIMD_HALVES(v16i, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lo), _mm256_cmpgt_epi32(_mm256_set1_epi32(n), hi));
}
SIMD_INLINE v16m v16m_first(int n)
{
    v16i m = simd_first(n);
    SIMD_HALVES(v16m, _mm256_castsi256_ps(m.lo), _mm256_castsi256_ps(m.hi));
}
/* Whole vectors apart: masked access costs several times as much (AMD: a masked store some 20 steps). */
SIMD_INLINE v16 v16_load_n(const float *p, int n)
{
    if (n == 16)
        return v16_load(p);
    v16i m = simd_first(n);
    SIMD_HALVES(v16, _mm256_maskload_ps(p, m.lo), _mm256_maskload_ps(p + 8, m.hi));
}
SIMD_INLINE void v16_store_n(float *p, v16 v, int n)
{
    if (n == 16) {
        v16_store(p, v);
        return;
    }
    v16i m = simd_first(n);
    _mm256_maskstore_ps(p, m.lo, v.lo);
    _mm256_maskstore_ps(p + 8, m.hi, v.hi);
}
SIMD_INLINE v16 v16_load_f16(const uint16_t *p)
{
    SIMD_HALVES(v16, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + 1)));
}
SIMD_INLINE __m256 simd_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
SIMD_INLINE v16 v16_load_bf16(const uint16_t *p) { SIMD_HALVES(v16, simd_bf16(p), simd_bf16(p + 8)); }
SIMD_INLINE __m128i simd_to_f16(__m256 v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
SIMD_INLINE void v16_store_f16(uint16_t *p, v16 v)
{
    _mm_storeu_si128((__m128i *)p, simd_to_f16(v.lo));
    _mm_storeu_si128((__m128i *)p + 1, simd_to_f16(v.hi));
}
SIMD_INLINE v16 v16_round_f16(v16 v) { SIMD_HALVES(v16, _mm256_cvtph_ps(simd_to_f16(v.lo)), _mm256_cvtph_ps(simd_to_f16(v.hi))); }

SIMD_INLINE v16 v16_add(v16 a, v16 b) { SIMD_HALVES(v16, _mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)); }
SIMD_INLINE v16 v16_sub(v16 a, v16 b) { SIMD_HALVES(v16, _mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)); }
SIMD_INLINE v16 v16_mul(v16 a, v16 b) { SIMD_HALVES(v16, _mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)); }
SIMD_INLINE v16 v16_div(v16 a, v16 b) { SIMD_HALVES(v16, _mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)); }
SIMD_INLINE v16 v16_max(v16 a, v16 b) { SIMD_HALVES(v16, _mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)); }
SIMD_INLINE v16 v16_min(v16 a, v16 b) { SIMD_HALVES(v16, _mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)); }
SIMD_INLINE v16 v16_fma(v16 a, v16 b, v16 c) { SIMD_HALVES(v16, _mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)); }
SIMD_INLINE v16 v16_fms(v16 a, v16 b, v16 c) { SIMD_HALVES(v16, _mm256_fmsub_ps(a.lo, b.lo, c.lo), _mm256_fmsub_ps(a.hi, b.hi, c.hi)); }
SIMD_INLINE v16 v16_fnma(v16 a, v16 b, v16 c) { SIMD_HALVES(v16, _mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)); }
SIMD_INLINE v16 v16_sqrt(v16 a) { SIMD_HALVES(v16, _mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)); }
SIMD_INLINE v16 v16_abs(v16 a) { SIMD_HALVES(v16, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.lo), _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.hi)); }
SIMD_INLINE v16 v16_neg(v16 a) { SIMD_HALVES(v16, _mm256_xor_ps(a.lo, _mm256_set1_ps(-0.0f)), _mm256_xor_ps(a.hi, _mm256_set1_ps(-0.0f))); }
SIMD_INLINE __m256 simd_rint(__m256 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
SIMD_INLINE v16 v16_rint(v16 a) { SIMD_HALVES(v16, simd_rint(a.lo), simd_rint(a.hi)); }

SIMD_INLINE v16m v16_lt(v16 a, v16 b) { SIMD_HALVES(v16m, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)); }
SIMD_INLINE v16m v16_le(v16 a, v16 b) { SIMD_HALVES(v16m, _mm256_cmp_ps(a.lo, b.lo, _CMP_LE_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LE_OQ)); }
SIMD_INLINE v16m v16_eq(v16 a, v16 b) { SIMD_HALVES(v16m, _mm256_cmp_ps(a.lo, b.lo, _CMP_EQ_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_EQ_OQ)); }
SIMD_INLINE v16m v16m_and(v16m a, v16m b) { SIMD_HALVES(v16m, _mm256_and_ps(a.lo, b.lo), _mm256_and_ps(a.hi, b.hi)); }
SIMD_INLINE v16m v16m_or(v16m a, v16m b) { SIMD_HALVES(v16m, _mm256_or_ps(a.lo, b.lo), _mm256_or_ps(a.hi, b.hi)); }
SIMD_INLINE v16m v16m_not(v16m a)
{
    const __m256 ones = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    SIMD_HALVES(v16m, _mm256_xor_ps(a.lo, ones), _mm256_xor_ps(a.hi, ones));
}
SIMD_INLINE unsigned v16m_bits(v16m a) { return (unsigned)_mm256_movemask_ps(a.lo) | (unsigned)_mm256_movemask_ps(a.hi) << 8; }
SIMD_INLINE v16 v16_select(v16m m, v16 a, v16 b) { SIMD_HALVES(v16, _mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)); }
SIMD_INLINE v16i v16i_select(v16m m, v16i a, v16i b) { SIMD_HALVES(v16i, _mm256_blendv_epi8(b.lo, a.lo, _mm256_castps_si256(m.lo)), _mm256_blendv_epi8(b.hi, a.hi, _mm256_castps_si256(m.hi))); }

SIMD_INLINE v16i v16i_set1(int32_t x) { SIMD_HALVES(v16i, _mm256_set1_epi32(x), _mm256_set1_epi32(x)); }
SIMD_INLINE v16i v16i_load(const int32_t *p)
{
    SIMD_HALVES(v16i, _mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)p + 1));
}
SIMD_INLINE void v16i_store(int32_t *p, v16i v)
{
    _mm256_storeu_si256((__m256i *)p, v.lo);
    _mm256_storeu_si256((__m256i *)p + 1, v.hi);
}
SIMD_INLINE v16i v16i_load_u8(const uint8_t *p)
{
    __m128i b = _mm_loadu_si128((const __m128i *)p);
    SIMD_HALVES(v16i, _mm256_cvtepu8_epi32(b), _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(b, b)));
}
SIMD_INLINE void v16i_store_u8(uint8_t *p, v16i v)
{
    const __m256i low = _mm256_set1_epi32(0xff);
    __m256i w = _mm256_packus_epi32(_mm256_and_si256(v.lo, low), _mm256_and_si256(v.hi, low)); /* 0-3 8-11 | 4-7 12-15 */
    w = _mm256_permute4x64_epi64(w, 0xd8);
    _mm_storeu_si128((__m128i *)p, _mm_packus_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}
SIMD_INLINE v16i v16i_add(v16i a, v16i b) { SIMD_HALVES(v16i, _mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)); }
SIMD_INLINE v16i v16i_sub(v16i a, v16i b) { SIMD_HALVES(v16i, _mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)); }
SIMD_INLINE v16i v16i_min(v16i a, v16i b) { SIMD_HALVES(v16i, _mm256_min_epi32(a.lo, b.lo), _mm256_min_epi32(a.hi, b.hi)); }
SIMD_INLINE v16i v16i_max(v16i a, v16i b) { SIMD_HALVES(v16i, _mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)); }
SIMD_INLINE v16i v16i_and(v16i a, v16i b) { SIMD_HALVES(v16i, _mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)); }
SIMD_INLINE v16i v16i_or(v16i a, v16i b) { SIMD_HALVES(v16i, _mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)); }
SIMD_INLINE v16m v16i_lt(v16i a, v16i b) { SIMD_HALVES(v16m, _mm256_castsi256_ps(_mm256_cmpgt_epi32(b.lo, a.lo)), _mm256_castsi256_ps(_mm256_cmpgt_epi32(b.hi, a.hi))); }
SIMD_INLINE v16m v16i_eq(v16i a, v16i b) { SIMD_HALVES(v16m, _mm256_castsi256_ps(_mm256_cmpeq_epi32(a.lo, b.lo)), _mm256_castsi256_ps(_mm256_cmpeq_epi32(a.hi, b.hi))); }
SIMD_INLINE v16i v16i_shl(v16i a, int n) { SIMD_HALVES(v16i, _mm256_slli_epi32(a.lo, n), _mm256_slli_epi32(a.hi, n)); }
SIMD_INLINE v16i v16i_srl(v16i a, int n) { SIMD_HALVES(v16i, _mm256_srli_epi32(a.lo, n), _mm256_srli_epi32(a.hi, n)); }
SIMD_INLINE v16i v16i_sra(v16i a, int n) { SIMD_HALVES(v16i, _mm256_srai_epi32(a.lo, n), _mm256_srai_epi32(a.hi, n)); }

SIMD_INLINE v16i v16_to_i(v16 a) { SIMD_HALVES(v16i, _mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)); }
SIMD_INLINE v16 v16_from_i(v16i a) { SIMD_HALVES(v16, _mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)); }
SIMD_INLINE v16i v16_bits(v16 a) { SIMD_HALVES(v16i, _mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)); }
SIMD_INLINE v16 v16_from_bits(v16i a) { SIMD_HALVES(v16, _mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)); }
SIMD_INLINE v16 v16_nibble(v16i words, int i) { return v16_from_i(v16i_and(v16i_srl(words, 4 * i), v16i_set1(15))); }

SIMD_INLINE d8 d8_zero(void) { SIMD_HALVES(d8, _mm256_setzero_pd(), _mm256_setzero_pd()); }
SIMD_INLINE d8 d8_set1(double x) { SIMD_HALVES(d8, _mm256_set1_pd(x), _mm256_set1_pd(x)); }
SIMD_INLINE d8 d8_load(const double *p) { SIMD_HALVES(d8, _mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)); }
SIMD_INLINE void d8_store(double *p, d8 v)
{
    _mm256_storeu_pd(p, v.lo);
    _mm256_storeu_pd(p + 4, v.hi);
}
SIMD_INLINE __m256i simd_first_d(int n) { return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3)); }
SIMD_INLINE d8 d8_load_n(const double *p, int n)
{
    SIMD_HALVES(d8, _mm256_maskload_pd(p, simd_first_d(n)), _mm256_maskload_pd(p + 4, simd_first_d(n - 4)));
}
SIMD_INLINE void d8_store_n(double *p, d8 v, int n)
{
    _mm256_maskstore_pd(p, simd_first_d(n), v.lo);
    _mm256_maskstore_pd(p + 4, simd_first_d(n - 4), v.hi);
}
SIMD_INLINE d8 d8_add(d8 a, d8 b) { SIMD_HALVES(d8, _mm256_add_pd(a.lo, b.lo), _mm256_add_pd(a.hi, b.hi)); }
SIMD_INLINE d8 d8_sub(d8 a, d8 b) { SIMD_HALVES(d8, _mm256_sub_pd(a.lo, b.lo), _mm256_sub_pd(a.hi, b.hi)); }
SIMD_INLINE d8 d8_mul(d8 a, d8 b) { SIMD_HALVES(d8, _mm256_mul_pd(a.lo, b.lo), _mm256_mul_pd(a.hi, b.hi)); }
SIMD_INLINE d8 d8_div(d8 a, d8 b) { SIMD_HALVES(d8, _mm256_div_pd(a.lo, b.lo), _mm256_div_pd(a.hi, b.hi)); }
SIMD_INLINE d8 d8_max(d8 a, d8 b) { SIMD_HALVES(d8, _mm256_max_pd(a.lo, b.lo), _mm256_max_pd(a.hi, b.hi)); }
SIMD_INLINE d8 d8_min(d8 a, d8 b) { SIMD_HALVES(d8, _mm256_min_pd(a.lo, b.lo), _mm256_min_pd(a.hi, b.hi)); }
SIMD_INLINE d8 d8_fma(d8 a, d8 b, d8 c) { SIMD_HALVES(d8, _mm256_fmadd_pd(a.lo, b.lo, c.lo), _mm256_fmadd_pd(a.hi, b.hi, c.hi)); }
SIMD_INLINE d8 d8_fnma(d8 a, d8 b, d8 c) { SIMD_HALVES(d8, _mm256_fnmadd_pd(a.lo, b.lo, c.lo), _mm256_fnmadd_pd(a.hi, b.hi, c.hi)); }
SIMD_INLINE d8 d8_sqrt(d8 a) { SIMD_HALVES(d8, _mm256_sqrt_pd(a.lo), _mm256_sqrt_pd(a.hi)); }
SIMD_INLINE d8 simd_widen(__m256 a) { SIMD_HALVES(d8, _mm256_cvtps_pd(_mm256_castps256_ps128(a)), _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1))); }
SIMD_INLINE d8 v16_lo_d8(v16 a) { return simd_widen(a.lo); }
SIMD_INLINE d8 v16_hi_d8(v16 a) { return simd_widen(a.hi); }
SIMD_INLINE __m256 simd_narrow(d8 a) { return _mm256_set_m128(_mm256_cvtpd_ps(a.hi), _mm256_cvtpd_ps(a.lo)); }
SIMD_INLINE v16 v16_from_d8(d8 lo, d8 hi) { SIMD_HALVES(v16, simd_narrow(lo), simd_narrow(hi)); }

SIMD_INLINE float v16_sum(v16 a)
{
    __m256 h = _mm256_add_ps(a.lo, a.hi);
    __m128 v = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps(v, v, 1)));
}
SIMD_INLINE float v16_max_all(v16 a)
{
    __m256 h = _mm256_max_ps(a.lo, a.hi);
    __m128 v = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    v = _mm_max_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps(v, v, 1)));
}
SIMD_INLINE double d8_sum(d8 a)
{
    __m256d h = _mm256_add_pd(a.lo, a.hi);
    __m128d q = _mm_add_pd(_mm256_castpd256_pd128(h), _mm256_extractf128_pd(h, 1));
    return _mm_cvtsd_f64(_mm_add_sd(q, _mm_unpackhi_pd(q, q)));
}

#endif

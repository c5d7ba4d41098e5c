/* exp, log, pow and sigmoid on v16, and log in f64: our own, because libm's bits differ between versions and machines.
 *
 * Bounds against libm in f64, enforced by tests/kernels/check_math.c (in units of the last place of the f32 result, denormal results included):
 *   v16_exp 1, v16_log 1, v16_pow 2, v16_sigmoid 3.
 * Polynomials: Cephes expf and logf (S. Moshier, netlib.org/cephes/single), evaluated by FMA; pow carries log2 in two floats.
 */
#ifndef KERNELS_CPU_VMATH_H
#define KERNELS_CPU_VMATH_H

#include "kernels/cpu/simd.h"

/* p * 2^n for p near 1 and n in -252..254: two exact factors, so that one rounding is left for denormal results. */
SIMD_INLINE v16 v16_scale2(v16 p, v16i n)
{
    const v16i bias = v16i_set1(127);
    v16i half = v16i_sra(n, 1);
    v16 a = v16_from_bits(v16i_shl(v16i_add(half, bias), 23));
    v16 b = v16_from_bits(v16i_shl(v16i_add(v16i_sub(n, half), bias), 23));
    return v16_mul(v16_mul(p, a), b);
}

/* e^r for |r| <= ln(2)/2 and a little. */
SIMD_INLINE v16 v16_exp_near0(v16 r)
{
    v16 p = v16_set1(1.9875691500e-4f);
    p = v16_fma(p, r, v16_set1(1.3981999507e-3f));
    p = v16_fma(p, r, v16_set1(8.3334519073e-3f));
    p = v16_fma(p, r, v16_set1(4.1665795894e-2f));
    p = v16_fma(p, r, v16_set1(1.6666665459e-1f));
    p = v16_fma(p, r, v16_set1(5.0000001201e-1f));
    return v16_add(v16_fma(v16_mul(r, r), p, r), v16_set1(1.0f));
}

/* e^x: +0 below -104, infinity above 88.73, NaN for NaN. */
SIMD_INLINE v16 v16_exp(v16 x)
{
    x = v16_min(v16_set1(89.0f), v16_max(v16_set1(-104.5f), x)); /* the constants first: a NaN passes */
    v16 n = v16_rint(v16_mul(x, v16_set1(0x1.715476p+0f)));
    v16 r = v16_fnma(n, v16_set1(0x1.62e400p-1f), x); /* ln 2 in two parts, the first short enough for an exact product */
    r = v16_fnma(n, v16_set1(0x1.7f7d1cp-20f), r);
    return v16_scale2(v16_exp_near0(r), v16_to_i(n));
}

SIMD_INLINE v16 v16_sigmoid(v16 x)
{
    const v16 one = v16_set1(1.0f);
    return v16_div(one, v16_add(one, v16_exp(v16_neg(x))));
}

/* log of x > 0 as e * ln 2 + hi + lo, |lo| <= 2^-24 |hi|; what it gives for other x the callers replace. */
SIMD_INLINE void v16_log_parts(v16 x, v16 *e, v16 *hi, v16 *lo)
{
    v16m small = v16_lt(x, v16_set1(0x1p-126f));
    x = v16_select(small, v16_mul(x, v16_set1(0x1p23f)), x);
    /* Exponent and mantissa such that the mantissa lies in [sqrt(1/2), sqrt(2)). */
    v16i k = v16i_sub(v16_bits(x), v16i_set1(0x3f3504f3));
    v16 m = v16_from_bits(v16i_add(v16i_and(k, v16i_set1(0x007fffff)), v16i_set1(0x3f3504f3)));
    *e = v16_sub(v16_from_i(v16i_sra(k, 23)), v16_select(small, v16_set1(23.0f), v16_zero()));

    v16 f = v16_sub(m, v16_set1(1.0f)); /* exact */
    v16 p = v16_set1(7.0376836292e-2f);
    p = v16_fma(p, f, v16_set1(-1.1514610310e-1f));
    p = v16_fma(p, f, v16_set1(1.1676998740e-1f));
    p = v16_fma(p, f, v16_set1(-1.2420140846e-1f));
    p = v16_fma(p, f, v16_set1(1.4249322787e-1f));
    p = v16_fma(p, f, v16_set1(-1.6668057665e-1f));
    p = v16_fma(p, f, v16_set1(2.0000714765e-1f));
    p = v16_fma(p, f, v16_set1(-2.4999993993e-1f));
    p = v16_fma(p, f, v16_set1(3.3333331174e-1f));
    /* f - f^2/2 + f^3 p, the first two terms with their rounding errors. */
    const v16 half = v16_set1(0.5f);
    v16 sq = v16_mul(f, f), sq_lo = v16_fms(f, f, sq);
    v16 a = v16_fnma(half, sq, f), a_lo = v16_fnma(half, sq, v16_sub(f, a));
    v16 rest = v16_fma(v16_mul(sq, f), p, v16_fnma(half, sq_lo, a_lo));
    *hi = v16_add(a, rest);
    *lo = v16_sub(rest, v16_sub(*hi, a));
}

/* ln x: -inf for 0, NaN below and for NaN, inf for inf. */
SIMD_INLINE v16 v16_log(v16 x)
{
    const v16 inf = v16_from_bits(v16i_set1(0x7f800000));
    v16 e, hi, lo;
    v16_log_parts(x, &e, &hi, &lo);
    v16 big = v16_mul(e, v16_set1(0x1.62e400p-1f)); /* exact */
    v16 sum = v16_add(big, hi);
    lo = v16_fma(e, v16_set1(0x1.7f7d1cp-20f), v16_add(lo, v16_sub(hi, v16_sub(sum, big))));
    v16 y = v16_add(sum, lo);
    y = v16_select(v16_lt(x, inf), y, x);                                      /* inf and NaN stay */
    y = v16_select(v16_lt(x, v16_zero()), v16_from_bits(v16i_set1(0x7fc00000)), y);
    return v16_select(v16_eq(x, v16_zero()), v16_neg(inf), y);
}

/* x^y for x >= 0 and 0 < |y| <= 64: 0 and inf where they belong. The exponent's error would be magnified by the size of y log x, hence log2 in two floats. */
SIMD_INLINE v16 v16_pow(v16 x, float y_scalar)
{
    const v16 y = v16_set1(y_scalar), inf = v16_from_bits(v16i_set1(0x7f800000)), log2e = v16_set1(0x1.715476p+0f);
    v16 e, hi, lo;
    v16_log_parts(x, &e, &hi, &lo);
    v16 p = v16_mul(hi, log2e);
    v16 p_lo = v16_fma(lo, log2e, v16_fma(hi, v16_set1(0x1.4ae0bfp-26f), v16_fms(hi, log2e, p)));
    v16 l = v16_add(e, p), l_lo = v16_add(p_lo, v16_sub(p, v16_sub(l, e)));
    v16 t = v16_mul(l, y), t_lo = v16_fma(l_lo, y, v16_fms(l, y, t));
    t = v16_min(v16_set1(200.0f), v16_max(v16_set1(-200.0f), t));
    v16 n = v16_rint(t);
    v16 r = v16_add(v16_sub(t, n), t_lo);
    /* 2^r = e^(r ln 2), the product in two floats too: its low part multiplies the result by 1 + low. */
    const v16 ln2 = v16_set1(0x1.62e430p-1f);
    v16 s = v16_mul(r, ln2), s_lo = v16_fma(r, v16_set1(-0x1.05c610p-29f), v16_fms(r, ln2, s));
    v16 z = v16_exp_near0(s);
    z = v16_scale2(v16_fma(z, s_lo, z), v16_to_i(n));
    const v16 at0 = y_scalar > 0 ? v16_zero() : inf, at_inf = y_scalar > 0 ? inf : v16_zero();
    z = v16_select(v16_eq(x, inf), at_inf, z);
    return v16_select(v16_eq(x, v16_zero()), at0, z);
}

/* ln x for finite x > 0, normal: 2 atanh(f / (2 + f)). Plain operations only, so every compiler gives the same bits; error below 2 units. */
SIMD_INLINE double f64_log(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    u -= 0x3fe6a09e667f3bcdu;
    int64_t e = (int64_t)u >> 52;
    u = (u & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu;
    double m;
    memcpy(&m, &u, sizeof m);
    double f = m - 1.0, s = f / (2.0 + f), z = s * s, sum = 0.0;
    for (int k = 23; k >= 3; k -= 2)
        sum = sum * z + 1.0 / k;
    double tail = 2.0 * s * z * sum;
    return (double)e * 0x1.62e42fefa39efp-1 + (2.0 * s + ((double)e * 0x1.abc9e3b39803fp-56 + tail));
}

#endif

#include "kernels/detmath.h"

/* pi/2 in parts, as ln 2. */
static const double inv_pio2 = 6.36619772367581382433e-01;
static const double pio2_1 = 1.57079632673412561417e+00, pio2_2 = 6.07710050630396597660e-11, pio2_3 = 2.02226624879595063154e-21;

double det_log(double x)
{
    int k;
    double m = frexp(x, &k); /* 0.5 <= m < 1 */
    if (m < 0.70710678118654752) {
        m *= 2;
        k--;
    }
    /* log m = 2 atanh(s), |s| <= 0.172; s^24 is below 1e-18. */
    double s = (m - 1) / (m + 1), s2 = s * s, y = 0;
    for (int i = 23; i >= 3; i -= 2)
        y = (y + 1.0 / i) * s2;
    return k * det_ln2_hi + (2 * s + (2 * s * y + k * det_ln2_lo));
}

void det_sincos(double x, double *s, double *c)
{
    double k = floor(x * inv_pio2 + 0.5), r = ((x - k * pio2_1) - k * pio2_2) - k * pio2_3, r2 = r * r;
    /* Taylor to r^17 and r^18: |r| <= 0.79, the rest is below 1e-18. */
    double ps = 1, pc = 1;
    for (int i = 16; i >= 2; i -= 2)
        ps = 1 - ps * r2 / (i * (i + 1));
    for (int i = 18; i >= 2; i -= 2)
        pc = 1 - pc * r2 / (i * (i - 1));
    ps *= r;
    switch ((long long)k & 3) {
    case 0:
        *s = ps, *c = pc;
        break;
    case 1:
        *s = pc, *c = -ps;
        break;
    case 2:
        *s = -ps, *c = -pc;
        break;
    default:
        *s = -pc, *c = ps;
        break;
    }
}

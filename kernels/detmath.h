/* exp, log, sin, cos in f64 that give the same bits on every machine: libm's choose other code on processors with FMA. Built of exact steps
 * and + - * / only. Relative error below 1e-15 (exp, log) and absolute error below 1e-15 (sin, cos of arguments up to 1e6); not for NaN,
 * not correctly rounded. */
#ifndef KERNELS_DETMATH_H
#define KERNELS_DETMATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* ln 2 in parts whose products with small integers are exact (Cody and Waite; values of fdlibm, Sun Microsystems 1993). */
static const double det_ln2_hi = 6.93147180369123816490e-01, det_ln2_lo = 1.90821492927058770002e-10;

/* 2^k for a whole k in -1022 .. 1023. */
static inline double det_power2(double k)
{
    double shifted = k + (1023 + 0x1.8p52), p; /* the exponent in the lowest bits */
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits <<= 52;
    memcpy(&p, &bits, sizeof p);
    return p;
}

/* 0 below -745, infinity above 709.78. No branches, calls and loops: a loop over it in kernels/cpu becomes vector code, with the same bits. */
static inline double det_exp(double x)
{
    double c = x < -745.2 ? -745.2 : x; /* e^-745.2 rounds to 0, e^800 to infinity */
    c = c > 709.78 ? 800 : c;
    double k = floor(c * 1.44269504088896338700e+00 + 0.5), half = floor(k * 0.5), r = (c - k * det_ln2_hi) - k * det_ln2_lo;
    /* Taylor to r^14: |r| <= 0.35, the rest is below 1e-19. */
    double y = 1 + r / 14;
    y = 1 + y * r / 13;
    y = 1 + y * r / 12;
    y = 1 + y * r / 11;
    y = 1 + y * r / 10;
    y = 1 + y * r / 9;
    y = 1 + y * r / 8;
    y = 1 + y * r / 7;
    y = 1 + y * r / 6;
    y = 1 + y * r / 5;
    y = 1 + y * r / 4;
    y = 1 + y * r / 3;
    y = 1 + y * r / 2;
    y = 1 + y * r;
    /* Two factors: the first product is exact, the second rounds once where the result is denormal. */
    return y * det_power2(half) * det_power2(k - half);
}

double det_log(double x); /* x > 0, finite */
void det_sincos(double x, double *s, double *c);

#endif

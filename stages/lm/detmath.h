/* exp, log, sin, cos in f64 that give the same bits on every machine: libm's choose other code on processors with FMA. Built of exact steps
 * and + - * / only. Relative error below 1e-15 (exp, log) and absolute error below 1e-15 (sin, cos of arguments up to 1e6); not for NaN,
 * not correctly rounded. */
#ifndef STAGES_LM_DETMATH_H
#define STAGES_LM_DETMATH_H

double det_exp(double x); /* 0 below -745, infinity above 709.78 */
double det_log(double x); /* x > 0, finite */
void det_sincos(double x, double *s, double *c);

#endif

/* Quantizes one linear module: GPTQ (Frantar et al., arXiv:2210.17323) as GPTQModel arranges it (reference in
 * ModelCloud/GPTQModel@f4c327a17: gptqmodel/quantization/gptq.py), or plain rounding to the same grid. No I/O; the heavy steps run on a
 * backend.
 *
 * What goes beyond GPTQModel, each part a setting (struct quant_params; measured in tests/bench/results):
 *   compensate      the loop approximates T = W + [compensate * W (C - H) + compensate_residual * R] (H + damping)^-1 instead of W: with the inputs that the
 *                   quantized model feeds it, T puts out what W did with the source model's (C = xf^T xq; R pulls the residual stream back)
 *   scale_search    gptq: a group's scale by the loop's own loss inside the group, on current weights; signed_scales: of either sign
 *   refine_sweeps   coordinate descent over the finished codes, refit_scales over the scales, for tr(G E H E^T), E = W_hat - T
 *   output_metric   G: which outputs matter to the layer (stages/lm/metric.h); none: the identity
 *
 * Differences from GPTQModel, on purpose:
 *   scales are rounded to f16 before they are used, so the loop sees what is stored; codes come out of the loop and are never derived
 * again; a group's grid is fitted on weights that hold the corrections of every column before it, inside a block too; static_groups works
 * with act_group_aware (there it takes the scales of other groups); zeros lie in 1..maxq, which v1 storage needs; the Hessian and its
 * factor are f64; damping exhausted is an error, or rtn where asked, never silent. */
#ifndef STAGES_QUANT_GPTQ_H
#define STAGES_QUANT_GPTQ_H

#include <stdint.h>

#include "kernels/backend.h"
#include "stages/quant/params.h"

struct gptq_input {
    const char *name; /* module, for messages; borrowed, like all here */
    int64_t N, K;
    const float *w;  /* [N,K] f32, host */
    const double *h; /* [K,K] f64, host, symmetric, undamped, from hessian_finish; NULL: no calibration data (method rtn) */
    /* For the compensated target, at most one of them, host, f64, (2/rows) * sums over the rows that h was summed over: */
    const double *inputs;  /* [K,K] xf^T xq: what the source model feeds this module against what the quantized one does */
    const double *outputs; /* [N,K] y^T xq, y = compensate * (W xf) + compensate_residual * (hf - hq): what this module should add to the stream */
    const float *metric;   /* [N, N padded to 16] f32, host, symmetric, positive diagonal; NULL: every output counts alike */
    const struct quant_params *params; /* resolved */
};

struct gptq_report {
    enum quant_method method; /* the one used: rtn where the fallback stepped in */
    double loss; /* half the loop's sum of squared weighted errors, in units of H, summed over outputs; rtn: sum of squared weight errors */
    double output_error; /* tr(E H E^T) / tr(W H W^T), E = W_hat - T: the relative output error on the calibration data; NaN without h */
    double target_shift; /* tr(D H D^T) / tr(W H W^T), D = T - W: how far compensation moved the target; 0 without */
    bool refined;
    double steps[4];     /* refined: tr(G E H E^T) after the loop, after the codes' descent, after the scales', after the codes' again */
    double negative;     /* share of scales below zero */
    double damp;         /* damp_percent that the factorization took; 0 with rtn */
    int attempts;        /* factorizations tried */
    int64_t dead;        /* inputs that were always zero; GPTQ sets their weights to zero */
};

/* q: allocated here, the caller's to qmatrix_free; codes in the original order of columns. w_hat [N,K] f32 host: the dequantized result,
 * may be NULL. Errors name the module: -ERR_NUMERIC (not finite input; damping exhausted), -ERR_DATA (gptq without a usable h, unless
 * fallback rtn), -ERR_NOMEM. */
int gptq_quantize(struct backend *b, const struct gptq_input *in, struct qmatrix *q, float *w_hat, struct gptq_report *report,
                  struct err *e);

#endif

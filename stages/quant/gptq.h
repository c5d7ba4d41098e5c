/* Quantizes one linear module: GPTQ (Frantar et al., arXiv:2210.17323) as GPTQModel arranges it (reference in
 * ModelCloud/GPTQModel@f4c327a17: gptqmodel/quantization/gptq.py), or plain rounding to the same grid. No I/O; the heavy steps run on a
 * backend.
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
    const struct quant_params *params; /* resolved */
};

struct gptq_report {
    enum quant_method method; /* the one used: rtn where the fallback stepped in */
    double loss; /* half the loop's sum of squared weighted errors, in units of H, summed over outputs; rtn: sum of squared weight errors */
    double output_error; /* tr(E H E^T) / tr(W H W^T), E = W_hat - W: the relative output error on the calibration data; NaN without h */
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

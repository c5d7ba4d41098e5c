/* The grid of a quantized matrix on the host: W[n,k] = scale[g_idx[k], n] * (codes[n,k] - zeros[g_idx[k], n]), exact in f32.
 * How scales and zeros are chosen is the backends' `fit` (kernels/backend.h); this is how they are read. */
#ifndef STAGES_QUANT_GRID_H
#define STAGES_QUANT_GRID_H

#include <stdint.h>

#include "kernels/tensor.h"
#include "pipeline/base/err.h"

/* Groups of K inputs; group_size -1 is one group, a last short one counts. */
int64_t grid_groups(int64_t K, int group_size);
/* w [N,K] f32, the caller's. */
void grid_dequantize(const struct qmatrix *q, float *w);
/* Codes below 2^bits, scales finite and normal (negative ones too), zeros in 1..2^bits - 1, groups in range: what every checkpoint format can hold.
 * -ERR_NUMERIC naming the first offender. */
int grid_check(const struct qmatrix *q, struct err *e);

#endif

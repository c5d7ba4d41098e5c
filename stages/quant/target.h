/* The compensated target of a module: see gptq.h. */
#ifndef STAGES_QUANT_TARGET_H
#define STAGES_QUANT_TARGET_H

#include <stdint.h>

#include "stages/quant/gptq.h"

/* w, device [N,K], columns permuted (perm[i]: the original column that is i-th): W in, T out.
 * u, device [K,K]: (scale * H + damping)^-1 = u^T u, in the permuted order. in->inputs or in->outputs must be there. -ERR_NOMEM. */
int target_compensate(struct backend *b, const struct gptq_input *in, const int64_t *perm, double scale, const float *u, float *w, struct err *e);

#endif

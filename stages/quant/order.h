/* In what order the columns of a matrix are quantized. perm[i] is the original column that comes i-th; diag [K] is the diagonal of the
 * Hessian. All orders are stable: equal values keep the order of their columns. */
#ifndef STAGES_QUANT_ORDER_H
#define STAGES_QUANT_ORDER_H

#include <stdint.h>

void order_identity(int64_t K, int64_t *perm);
/* desc_act: by falling diagonal. */
void order_descending(const double *diag, int64_t K, int64_t *perm);
/* act_group_aware: columns by falling diagonal inside each group, groups by their largest diagonal, falling. A short last group stays last,
 * its columns as they are (ModelCloud/GPTQModel@f4c327a17:gptqmodel/quantization/gar.py). group_size >= 1. */
void order_group_aware(const double *diag, int64_t K, int64_t group_size, int64_t *perm);

#endif

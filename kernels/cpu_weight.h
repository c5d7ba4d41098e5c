/* Making struct weight (kernels/cpu/cpu_ops.h) from what checkpoints hold. Memory is the weight's own; the source may go away after. */
#ifndef KERNELS_CPU_WEIGHT_H
#define KERNELS_CPU_WEIGHT_H

#include "kernels/backend.h"

/* F32, F16 or BF16; another dtype is -ERR_UNSUPPORTED. -ERR_NOMEM names the size. */
int cpu_weight_dense(const struct tensor_view *t, struct weight **out, struct err *e);
/* -ERR_FORMAT for a group beyond G, with the place. */
int cpu_weight_quantized(const struct qwords *q, struct weight **out, struct err *e);
void cpu_weight_free(struct weight *w); /* NULL is fine */

/* bytes of zeroed memory at a multiple of 64, NULL when there is none; freed by free. */
void *cpu_alloc(size_t bytes);

#endif

/* What the quantization kernels share beyond cpu_ops.h. Private to kernels/cpu. */
#ifndef KERNELS_CPU_QUANT_OPS_H
#define KERNELS_CPU_QUANT_OPS_H

#include <stdlib.h>

#include "kernels/cpu/cpu_ops.h"

/* Scratch, 64-byte aligned, not zeroed; NULL when memory is short. free() takes it back. */
static inline void *scratch_alloc(size_t bytes)
{
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

#endif

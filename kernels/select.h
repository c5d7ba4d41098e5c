/* Which class of CUDA kernels serves a matrix: one rule for the plug-in, which obeys it, and for `inspect`, which shows it without a device.
 *   dense    any F32, F16 or BF16 matrix        simple   any quantized matrix                       (kernels/cuda/product.cuh)
 * The choice depends on the matrix and on nothing else: no environment, no machine. */
#ifndef KERNELS_SELECT_H
#define KERNELS_SELECT_H

#include <stdbool.h>
#include <stdint.h>

struct select_matrix {
    int64_t N, K;
    int bits; /* 0: not quantized */
    int group_size;
    bool order; /* g_idx is not sequential */
};

/* asked: "auto", or the class that must serve quantized matrices. NULL: it cannot, *why is the rule. Strings live as long as the program. */
const char *select_kernel(const struct select_matrix *m, const char *asked, const char **why);

#endif

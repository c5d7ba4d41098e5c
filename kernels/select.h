/* Which class of CUDA kernels serves a matrix: one rule for the plug-in, which obeys it, and for `inspect`, which shows it without a device.
 *   dense    any F32, F16 or BF16 matrix
 *   marlin   4 and 8 bits; groups of 32, 64, 128, ... inputs or one group; any N and K, any order of inputs, symmetric or not      (kernels/cuda/marlin.h)
 *   machete  the same matrices, on compute capability 9.0                                                                           (kernels/cuda/machete.h)
 *   simple   any quantized matrix                                                                                                  (kernels/cuda/product.cuh)
 * `auto` takes the first row of select.def that is for the device and the matrix and names a class whose rules the matrix keeps. The choice depends on the matrix and on the
 * kind of device and on nothing else: no environment, not M. A matrix lies on the device in one form, so a row's class is the best by geometric mean over M; which tile serves
 * an M is chosen inside the class (marlin_choose.c, machete_choose.c). In every class a token's result is the same bits whatever the batch (marlin, machete: MARLIN_FIXED, its
 * cost in marlin.h), so the choice decides bits but not their steadiness; a change of select.def raises PLUGIN_REVISION. */
#ifndef KERNELS_SELECT_H
#define KERNELS_SELECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct select_matrix {
    int64_t N, K;
    int bits; /* 0: not quantized */
    int group_size; /* -1: one group */
    bool order; /* g_idx is not sequential */
    int capability; /* of the device: 90 is 9.0; 0: there is no device to ask, rows for any one hold */
    const char *no_machete; /* by what rule the device or the plug-in has no kernel machete; NULL: it has, or there is no device to ask */
};

/* asked: "auto", or the class that must serve quantized matrices. NULL: it cannot, *why is the rule. With `auto`, *why is the rule that kept a faster class from it, or "".
 * Strings live as long as the program, or m->no_machete. */
const char *select_kernel(const struct select_matrix *m, const char *asked, const char **why);
/* The classes for quantized matrices by number, the ones with the most rules first; NULL after the last. */
const char *select_class(size_t i);

#endif

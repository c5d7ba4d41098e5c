/* Between marlin_choose.c and marlin.cu (and the tests): the grid of a config. */
#ifndef KERNELS_CUDA_MARLIN_LAUNCH_H
#define KERNELS_CUDA_MARLIN_LAUNCH_H

#include "kernels/cuda/marlin.h"
#include "kernels/cuda/marlin_args.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether a kernel has griddepcontrol.wait, without which it may not be launched as a dependent one: its machine code is of 9.0 or newer (binary), and so is the
 * architecture that it was compiled for (ptx). On a device for which there is no machine code, the driver makes it of the PTX of 8.0, in which the instruction is not. */
static inline bool marlin_waits(int ptx, int binary)
{
    return ptx >= 90 && binary >= 90;
}

/* The grid of a launch of M rows (fixed: of one slab of them). */
struct marlin_grid marlin_make_grid(const struct marlin_device *d, const struct marlin_shape *s, int64_t M, const struct marlin_config *c);
/* Slabs side by side in one launch: at most MARLIN_SLAB_MAX, and as many as MARLIN_PARTIAL_BYTES of partial sums serve. */
int marlin_slabs(const struct marlin_device *d, const struct marlin_shape *s, int64_t M, const struct marlin_config *c);
/* Fills everything but the pointer into X, rows, grid and pdl; parts are those of row 0. */
void marlin_fill_args(const struct marlin_call *call, const struct marlin_config *c, struct marlin_args *a);

#ifdef __cplusplus
}
#endif

#endif

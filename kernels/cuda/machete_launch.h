/* Between machete_choose.c and machete.cu (and the tests): the grid of a config, the arguments of a call. */
#ifndef KERNELS_CUDA_MACHETE_LAUNCH_H
#define KERNELS_CUDA_MACHETE_LAUNCH_H

#include "kernels/cuda/machete.h"
#include "kernels/cuda/machete_args.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Blocks of 64 inputs in a step of a tile; 0: there is no such tile. */
int machete_step_blocks(int rows, int wide);
/* Whether the weights of a tile are exact: halves, and fixed mode, take no others. */
bool machete_exact(int rows, int wide);
struct machete_grid machete_make_grid(const struct machete_device *d, const struct machete_shape *s, int64_t M, const struct machete_config *c);
/* All of it but X, which the kernel gets as a tensor map. */
void machete_fill_args(const struct machete_device *d, const struct machete_call *call, const struct machete_config *c, struct machete_args *a);

#ifdef __cplusplus
}
#endif

#endif

/* X in the order of a permuted matrix, or rounded from f32, for callers that do not split it in halves. */
#include <cuda_runtime.h>

#include "kernels/cuda/marlin.h"
#include "kernels/cuda/marlin_dequant.h"

enum { GATHER_THREADS = 256 };

static __global__ void __launch_bounds__(GATHER_THREADS) gather_kernel(const struct marlin_gather g)
{
    const int bf16 = g.act == MARLIN_BF16;
    const int64_t i = (int64_t)blockIdx.x * GATHER_THREADS + threadIdx.x;
    if (i >= g.Kx)
        return;
    const int64_t from = g.perm ? g.perm[i] : i < g.K ? i : -1;
    for (int64_t m = blockIdx.y; m < g.M; m += gridDim.y) {
        uint16_t v = 0;
        if (from >= 0)
            v = g.x_f32 ? (uint16_t)marlin_pair_of(bf16, ((const float *)g.x)[m * g.ldx + from]) : ((const uint16_t *)g.x)[m * g.ldx + from];
        ((uint16_t *)g.out)[m * g.ldo + i] = v;
    }
}

extern "C" int marlin_gather(const struct marlin_gather *g, void *stream, struct err *e)
{
    if (g->M < 1 || g->Kx < 1 || g->ldo < g->Kx || g->ldx < g->K)
        return err_set(e, ERR_SHAPE, "gather of X [%lld,%lld] to [%lld,%lld]", (long long)g->M, (long long)g->K, (long long)g->M, (long long)g->Kx);
    const dim3 grid((unsigned)((g->Kx + GATHER_THREADS - 1) / GATHER_THREADS), (unsigned)(g->M < 1024 ? g->M : 1024));
    gather_kernel<<<grid, GATHER_THREADS, 0, (cudaStream_t)stream>>>(*g);
    cudaError_t rc = cudaGetLastError();
    return rc == cudaSuccess ? 0 : err_set(e, ERR_DEVICE, "launch of marlin_gather: %s (%s)", cudaGetErrorString(rc), cudaGetErrorName(rc));
}

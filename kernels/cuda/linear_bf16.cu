#include "kernels/cuda/product.cuh"

cudaError_t launch_linear_bf16(cudaStream_t s, const struct linear_args *a, int processors)
{
    return run_product<CUDA_BF16>(s, a, processors);
}

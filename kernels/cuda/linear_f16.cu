#include "kernels/cuda/product.cuh"

cudaError_t launch_linear_f16(cudaStream_t s, const struct linear_args *a, int processors)
{
    return run_product<CUDA_F16>(s, a, processors);
}

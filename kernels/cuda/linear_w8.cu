#include "kernels/cuda/product.cuh"

cudaError_t launch_linear_w8(cudaStream_t s, const struct linear_args *a, int processors)
{
    return run_product<CUDA_W8>(s, a, processors);
}

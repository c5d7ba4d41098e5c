/* What the host sides of the kernel classes ask the CUDA runtime alike. */
#ifndef KERNELS_CUDA_RUNTIME_CALL_H
#define KERNELS_CUDA_RUNTIME_CALL_H

#include <cuda_runtime_api.h>

#include "pipeline/base/err.h"

/* -ERR_DEVICE; what: the call that gave rc. The runtime forgets it: the next launch, which asks for the last error, is not blamed. */
static inline int call_failed(cudaError_t rc, const char *what, struct err *e)
{
    (void)cudaGetLastError();
    return err_set(e, ERR_DEVICE, "%s: %s (%s)", what, cudaGetErrorString(rc), cudaGetErrorName(rc));
}

static inline int device_attribute(int *out, cudaDeviceAttr which, int device, struct err *e)
{
    cudaError_t rc = cudaDeviceGetAttribute(out, which, device);
    return rc == cudaSuccess ? 0 : call_failed(rc, "cudaDeviceGetAttribute", e);
}

#endif

/* The part of the runtime's stand-in that is C++: a launch by pointer, as marlin.cu does it. */
#ifndef EMU_CUDA_RUNTIME_H
#define EMU_CUDA_RUNTIME_H

#include <string.h>

#include "kernels/cuda/instr.cuh"
#include "kernels/cuda/marlin_args.h"

enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
struct cudaLaunchAttribute {
    enum cudaLaunchAttributeID id;
    struct {
        int programmaticStreamSerializationAllowed;
    } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    struct cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

void emu_check_dependent(const void *kernel);

/* Every kernel that is launched so takes one struct marlin_args. */
static inline cudaError_t cudaLaunchKernelExC(const struct cudaLaunchConfig_t *c, const void *kernel, void **params)
{
    for (unsigned i = 0; i < c->numAttrs; i++)
        if (c->attrs[i].id == cudaLaunchAttributeProgrammaticStreamSerialization && c->attrs[i].val.programmaticStreamSerializationAllowed)
            emu_check_dependent(kernel);
    struct marlin_args a;
    memcpy(&a, params[0], sizeof a);
    emu_launch(c->gridDim, c->blockDim, c->dynamicSmemBytes, [=]() { ((void (*)(const struct marlin_args))kernel)(a); });
    return cudaSuccess;
}

#endif

/* The kernels of each ISA as tables, from kernels.def. */
#include "kernels/cpu/cpu_ops.h"

#if defined(__AVX__)
#error "only kernels/cpu is compiled with ISA flags: this file must run anywhere"
#endif

static const struct cpu_kernels scalar_kernels = {
#define KERNEL(name, op) .name = name##_scalar,
#include "kernels/kernels.def"
#undef KERNEL
};
static const struct cpu_kernels avx2_kernels = {
#define KERNEL(name, op) .name = name##_avx2,
#include "kernels/kernels.def"
#undef KERNEL
};
static const struct cpu_kernels avx512_kernels = {
#define KERNEL(name, op) .name = name##_avx512,
#include "kernels/kernels.def"
#undef KERNEL
};

const struct cpu_kernels *cpu_kernels(enum isa isa)
{
    enum isa best = isa_best();
    if (isa == ISA_AUTO)
        isa = best;
    if (isa > best)
        return NULL;
    return isa == ISA_AVX512 ? &avx512_kernels : isa == ISA_AVX2 ? &avx2_kernels : &scalar_kernels;
}

const char *cpu_kernel_name(enum cpu_kernel k)
{
    static const char *const names[] = {
#define KERNEL(name, op) #name,
#include "kernels/kernels.def"
#undef KERNEL
    };
    return names[k];
}

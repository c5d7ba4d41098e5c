/* Which instruction sets this machine runs. Compiled without ISA flags, like everything outside kernels/cpu. */
#include <string.h>

#include "kernels/backend.h"

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t xcr0(void)
{
    uint32_t lo, hi;
    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

enum isa isa_best(void)
{
    enum { OSXSAVE = 1 << 27, FMA = 1 << 12, F16C = 1 << 29, AVX = 1 << 28, AVX2 = 1 << 5, F = 1 << 16, DQ = 1 << 17, BW = 1 << 30 };
    const unsigned VL = 1u << 31, YMM = 0x6, ZMM = 0xe6; /* registers that the OS saves */
    unsigned a, b, c, d, b7, c7, d7;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d7))
        return ISA_SCALAR;
    const unsigned want1 = OSXSAVE | FMA | F16C | AVX;
    if ((c & want1) != want1 || !(b7 & AVX2) || (xcr0() & YMM) != YMM)
        return ISA_SCALAR;
    const unsigned want7 = F | DQ | BW | VL;
    return (b7 & want7) == want7 && (xcr0() & ZMM) == ZMM ? ISA_AVX512 : ISA_AVX2;
}
#else
enum isa isa_best(void)
{
    return ISA_SCALAR;
}
#endif

static const char *const isa_names[] = {[ISA_AUTO] = "auto", [ISA_SCALAR] = "scalar", [ISA_AVX2] = "avx2", [ISA_AVX512] = "avx512"};

const char *isa_name(enum isa isa)
{
    return isa_names[isa];
}

int isa_parse(const char *name)
{
    for (int i = ISA_AUTO; i <= ISA_AVX512; i++)
        if (strcmp(name, isa_names[i]) == 0)
            return i;
    return -1;
}

#include <immintrin.h>

/* Tests are compiled without ISA flags; this one asks for them itself, before anything that is inlined. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define ISA avx2
#define ISA_AVX2
#include "tests/kernels/math_body.h"

int main(void)
{
    return run_math(ISA_AVX2);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

/* Nothing inlined: with sanitizers the loops of a whole test in one function take minutes to compile. */
#define SIMD_INLINE static __attribute__((noinline, unused))
#define ISA scalar
#define ISA_SCALAR
#include "tests/kernels/math_body.h"

int main(void)
{
    return run_math(ISA_SCALAR);
}

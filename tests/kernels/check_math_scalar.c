#define ISA scalar
#define ISA_SCALAR
#include "tests/kernels/math_body.h"

int main(void)
{
    return run_math(ISA_SCALAR);
}

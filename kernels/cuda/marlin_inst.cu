/* The instances of one line of marlin.def: compiled once a line with -DMARLIN_INST_ROWS=rows, -DMARLIN_INST_WN=log2 of strips, -DMARLIN_INST_SCALED=scaled,
 * -DMARLIN_INST_BLOCKS=blocks. */
#include "kernels/cuda/marlin_kernel.cuh"

#define NAME2(rows, wn) marlin_rows##rows##_##wn
#define NAME1(rows, wn) NAME2(rows, wn)
#define NAME NAME1(MARLIN_INST_ROWS, MARLIN_INST_WN)

extern "C" const void *NAME(int bits, int bf16);

extern "C" const void *NAME(int bits, int bf16)
{
#define KERNEL(bits, bf16) (const void *)marlin_kernel<bits, bf16, MARLIN_INST_ROWS, MARLIN_INST_WN, MARLIN_INST_SCALED, MARLIN_INST_BLOCKS>
#ifdef MARLIN_EXACT_ONLY
    return !bf16 ? NULL : bits == 8 ? KERNEL(8, 1) : KERNEL(4, 1);
#else
    return bits == 8 ? (bf16 ? KERNEL(8, 1) : KERNEL(8, 0)) : (bf16 ? KERNEL(4, 1) : KERNEL(4, 0));
#endif
}

/* The instances of one line of marlin.def: compiled once a line with -DMARLIN_INST_ROWS=rows, -DMARLIN_INST_WN=log2 of strips, -DMARLIN_INST_SCALED=scaled,
 * -DMARLIN_INST_BLOCKS=blocks. */
#include "kernels/cuda/marlin_kernel.cuh"

#define NAME2(rows, wn) marlin_rows##rows##_##wn
#define NAME1(rows, wn) NAME2(rows, wn)
#define NAME NAME1(MARLIN_INST_ROWS, MARLIN_INST_WN)

extern "C" const void *NAME(int bits, int bf16);

extern "C" const void *NAME(int bits, int bf16)
{
    static const void *const kernel[2][2] = {
        {(const void *)marlin_kernel<4, 0, MARLIN_INST_ROWS, MARLIN_INST_WN, MARLIN_INST_SCALED, MARLIN_INST_BLOCKS>,
         (const void *)marlin_kernel<4, 1, MARLIN_INST_ROWS, MARLIN_INST_WN, MARLIN_INST_SCALED, MARLIN_INST_BLOCKS>},
        {(const void *)marlin_kernel<8, 0, MARLIN_INST_ROWS, MARLIN_INST_WN, MARLIN_INST_SCALED, MARLIN_INST_BLOCKS>,
         (const void *)marlin_kernel<8, 1, MARLIN_INST_ROWS, MARLIN_INST_WN, MARLIN_INST_SCALED, MARLIN_INST_BLOCKS>},
    };
    return kernel[bits == 8][bf16 != 0];
}

/* The instances of one row of marlin.def: compiled once a row with -DMARLIN_INST_ROWS=rows, -DMARLIN_INST_SCALED=scaled, -DMARLIN_INST_BLOCKS=blocks. */
#include "kernels/cuda/marlin_kernel.cuh"

#define NAME2(rows) marlin_rows##rows
#define NAME1(rows) NAME2(rows)
#define NAME NAME1(MARLIN_INST_ROWS)

extern "C" const void *NAME(int bits, int bf16);

extern "C" const void *NAME(int bits, int bf16)
{
    static const void *const kernel[2][2] = {
        {(const void *)marlin_kernel<4, 0, MARLIN_INST_ROWS, MARLIN_INST_SCALED, MARLIN_INST_BLOCKS>,
         (const void *)marlin_kernel<4, 1, MARLIN_INST_ROWS, MARLIN_INST_SCALED, MARLIN_INST_BLOCKS>},
        {(const void *)marlin_kernel<8, 0, MARLIN_INST_ROWS, MARLIN_INST_SCALED, MARLIN_INST_BLOCKS>,
         (const void *)marlin_kernel<8, 1, MARLIN_INST_ROWS, MARLIN_INST_SCALED, MARLIN_INST_BLOCKS>},
    };
    return kernel[bits == 8][bf16 != 0];
}

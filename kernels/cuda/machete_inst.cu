/* One line of machete.def: -DMACHETE_INST_ROWS=rows -DMACHETE_INST_WIDE=stripes of 128 outputs -DMACHETE_INST_SCALED=scaled -DMACHETE_INST_BLOCKS=blocks of K in a
 * step -DMACHETE_INST_SM=thread blocks an SM. */
#include "kernels/cuda/machete_kernel.cuh"

#define NAME2(rows, wide) machete_rows##rows##_##wide
#define NAME1(rows, wide) NAME2(rows, wide)
#define NAME NAME1(MACHETE_INST_ROWS, MACHETE_INST_WIDE)

enum { STEP = 4 * MACHETE_INST_BLOCKS };
#define KERNEL(bits, bf16, run) (const void *)machete_kernel<bits, bf16, MACHETE_INST_ROWS, MACHETE_INST_WIDE, MACHETE_INST_SCALED, run, MACHETE_INST_BLOCKS, MACHETE_INST_SM>
/* [8 bits][bf16] */
#ifdef MACHETE_FIXED_ONLY
#define KERNELS(run) {{NULL, KERNEL(4, 1, run)}, {NULL, KERNEL(8, 1, run)}}
#else
#define KERNELS(run) {{KERNEL(4, 0, run), KERNEL(4, 1, run)}, {KERNEL(8, 0, run), KERNEL(8, 1, run)}}
#endif

/* run: slices of a unit of scales, or of a step where those are fewer. Where weights are scaled one by one, it does not matter. */
extern "C" const void *NAME(int bits, int bf16, int run);

extern "C" const void *NAME(int bits, int bf16, int run)
{
#if MACHETE_INST_SCALED
    static const void *const kernel[1][2][2] = {KERNELS(STEP)};
    const int which = run & 0;
#else
    static const void *const kernel[3][2][2] = {KERNELS(2), KERNELS(4), KERNELS(STEP)};
    const int which = run == 2 ? 0 : run == 4 ? 1 : 2;
#endif
    return kernel[which][bits == 8][bf16 != 0];
}

/* What one launch of the kernel gets; shared by the launcher, the kernel and the CPU emulator. */
#ifndef KERNELS_CUDA_MARLIN_ARGS_H
#define KERNELS_CUDA_MARLIN_ARGS_H

#include <stdint.h>

#include "kernels/cuda/marlin_layout.h"
#include "kernels/cuda/marlin_part.h"
#include "kernels/cuda/marlin_schedule.h"

enum {
    MARLIN_RED_BYTES = MARLIN_WARPS * 16 * 32 * 4,       /* one pass of the sum over warps: 16 registers of every thread */
    MARLIN_HEAD_BYTES = MARLIN_RED_BYTES + 128,          /* and a word to tell the block who is last */
    MARLIN_STAGES_MAX = 8,
    MARLIN_COUNTERS = 16384,                             /* at the head of the workspace, 0 before and after every launch */
    MARLIN_SLAB_MAX = 16,                                /* row blocks side by side in a launch of fixed order, */
    MARLIN_PARTIAL_BYTES = 64 << 20,                     /* fewer when their partial sums would take more than this */
};

struct marlin_args {
    const uint32_t *codes;
    const uint16_t *scales, *zeros; /* zeros: NULL when all are `zero` */
    float zero;
    const uint16_t *x;              /* [M, ldx] f16 or bf16, rows at 16 bytes */
    int64_t ldx;
    int M, Kx;
    struct marlin_part part[MARLIN_PARTS];
    int y_f32, accumulate;
    int halves;                     /* rows 2m and 2m + 1 of x add up to row m of y (tiles of exact weights only) */
    int strips, k_chunks, unit_shift;
    int scale_strips;               /* of a row of scales */
    int stages, pdl;
    struct marlin_grid grid;        /* of one slab: gridDim.y = grid.blocks, gridDim.x slabs of grid.m_blocks row blocks each */
    float *partial;                 /* [gridDim.x][2 * blocks][tile] */
    int *counters;                  /* [gridDim.x][blocks] */
};

/* Bytes of a stage: codes, X and scales of one unit. rows: of the X tile. */
MARLIN_FN int marlin_stage_codes(int bits)
{
    return MARLIN_WARPS * marlin_chunk_words(bits) * 4;
}

MARLIN_FN int marlin_stage_x(int rows, int wn_log2)
{
    return rows * (2 * MARLIN_CHUNK * (MARLIN_WARPS >> wn_log2));
}

/* Of one warp: one row of scales, two where units are 32; the zeros' rows behind them. */
MARLIN_FN int marlin_warp_scales(int unit_shift, int zero_table)
{
    return MARLIN_SCALE_ROW_BYTES * (unit_shift < 0 ? 2 : 1) * (zero_table ? 2 : 1);
}

MARLIN_FN int marlin_stage_bytes(int bits, int rows, int wn_log2, int unit_shift, int zero_table)
{
    return marlin_stage_codes(bits) + marlin_stage_x(rows, wn_log2) + MARLIN_WARPS * marlin_warp_scales(unit_shift, zero_table);
}

/* Floats of one slot of partial sums, 8-byte pairs inside. */
MARLIN_FN int64_t marlin_slot_floats(int rows, int wn_log2)
{
    return (int64_t)rows * (MARLIN_CHUNK << wn_log2);
}

#endif

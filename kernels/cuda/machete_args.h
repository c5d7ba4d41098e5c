/* What one launch of the kernel gets, and where things lie in shared memory; shared by the launcher, the kernel and the CPU emulator. */
#ifndef KERNELS_CUDA_MACHETE_ARGS_H
#define KERNELS_CUDA_MACHETE_ARGS_H

#include <stdint.h>

#include "kernels/cuda/machete_layout.h"
#include "kernels/cuda/machete_schedule.h"
#include "kernels/cuda/marlin_part.h"

enum {
    MACHETE_THREADS = 128 + MACHETE_CONSUMERS, /* a warpgroup of which one thread copies, two that multiply */
    MACHETE_WARPS = MACHETE_CONSUMERS / 32,    /* that multiply */
    MACHETE_STAGES_MAX = 32,
    MACHETE_PASS_ROWS = 64,                    /* rows of sums in shared memory at a time; where blocks hold them between spans of K, all */
};

/* Policies of L2 for copies, as createpolicy makes them; CUTLASS keeps the same constants (cute/arch/copy_sm90_desc.hpp). */
#define MACHETE_EVICT_NORMAL UINT64_C(0x1000000000000000)
#define MACHETE_EVICT_FIRST UINT64_C(0x12F0000000000000)
#define MACHETE_EVICT_LAST UINT64_C(0x14F0000000000000)

/* What a build with MACHETE_GUARD says of a wait that does not end (machete_ptx.cuh). barrier: shared address; word: the mbarrier as it is. */
struct machete_report {
    int said, block, thread, barrier, parity;
    uint64_t word;
};
#ifndef __cplusplus
typedef struct machete_report machete_report;
#endif

struct machete_args {
    const uint32_t *codes;
    const uint16_t *scales, *zeros; /* zeros: NULL when all are `zero` */
    float zero;
    int M, N;                       /* M: rows of x; N: of all parts */
    struct marlin_part part[MARLIN_PARTS];
    int y_f32, accumulate;
    int halves;                     /* 1: rows 2m and 2m + 1 of x add up to row m of y */
    int stripes, k_blocks, unit_shift, scale_rows; /* scale_rows: of a stripe */
    int stages;
    uint64_t codes_policy, x_policy; /* of L2 */
    struct machete_grid grid;
    machete_report *report;         /* NULL but for MACHETE_GUARD */
};

/* Bytes of one stage, and offsets of what shared memory holds: rings of X, codes, scales; sums; barriers. X first, at a multiple of 1024. */
struct machete_shared {
    int stage_x, stage_codes, stage_scales; /* scales of all stripes of the tile, each: rows of scales, then of zeros */
    int codes, scales, sums, barriers, bytes;
};

MACHETE_FN struct machete_shared machete_shared_of(int bits, int rows, int wide, int blocks, int unit_shift, int zero_table, int holds, int stages)
{
    struct machete_shared s;
    s.stage_x = blocks * rows * MACHETE_X_ROW_BYTES;
    s.stage_codes = wide * blocks * machete_block_words(bits) * 4;
    s.stage_scales = wide * machete_scale_rows(blocks, unit_shift) * MACHETE_ROW_BYTES * (zero_table ? 2 : 1);
    s.codes = stages * s.stage_x;
    s.scales = s.codes + stages * s.stage_codes;
    s.sums = s.scales + stages * s.stage_scales;
    s.barriers = s.sums + (holds || rows < MACHETE_PASS_ROWS ? rows : MACHETE_PASS_ROWS) * machete_sum_stride(wide) * 4;
    s.bytes = s.barriers + (2 * stages + 2) * 8;
    return s;
}

/* Whether the blocks of a tile can go through several spans of K: of those of fixed mode. Lower ones have no registers for it, taller ones have rounded weights. */
MACHETE_FN int machete_can_hold(int rows, int wide)
{
    return rows >= 32 && rows * wide <= 128;
}

/* Slices between the ends of units of scales, as instances are told apart: 2, 4, or 8 for more. */
MACHETE_FN int machete_run(int unit_shift)
{
    return unit_shift < 0 ? 2 : unit_shift == 0 ? 4 : 8;
}

/* Barriers, 8 bytes each: full and empty of every stage, then of the sums. */
MACHETE_FN int machete_full(int stage) { return 2 * stage; }
MACHETE_FN int machete_empty(int stage) { return 2 * stage + 1; }
MACHETE_FN int machete_ready(int stages) { return 2 * stages; }
MACHETE_FN int machete_done(int stages) { return 2 * stages + 1; }

#endif

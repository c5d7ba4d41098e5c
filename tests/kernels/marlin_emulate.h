/* Runs a launch of the Marlin kernel on the CPU, block after block (tests/kernels/marlin_emu.h). */
#ifndef TESTS_KERNELS_MARLIN_EMULATE_H
#define TESTS_KERNELS_MARLIN_EMULATE_H

#include "kernels/cuda/marlin_launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Memory that copies may read. */
struct emu_range {
    const void *at;
    size_t bytes;
};

struct emu_launch {
    const struct marlin_args *args;
    int bits, bf16, rows, wn_log2, slabs;
    size_t shared_bytes;
    uint64_t seed;  /* order of warps and of blocks */
    int late;       /* data of a cp.async comes when its group is waited for; otherwise at once */
    const struct emu_range *ranges;
    int range_count;
};

/* 0, or -1 when there is no such kernel. */
int marlin_emulate(const struct emu_launch *l);

#ifdef __cplusplus
}
#endif

#endif

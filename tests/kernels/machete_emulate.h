/* Runs a launch of the Machete kernel on the CPU, cluster after cluster (tests/kernels/machete_emu.h). */
#ifndef TESTS_KERNELS_MACHETE_EMULATE_H
#define TESTS_KERNELS_MACHETE_EMULATE_H

#include "kernels/cuda/machete_launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Memory that copies may read. */
struct machete_range {
    const void *at;
    size_t bytes;
};

struct machete_emu_launch {
    const struct machete_args *args;
    const uint16_t *x; /* [M, ldx], Kx columns */
    int64_t ldx, Kx;
    int bits, bf16, rows, wide;
    size_t shared_bytes;
    uint64_t seed; /* order of warps, clusters and arriving copies */
    int late;      /* copies come only when nothing else can go on */
    const struct machete_range *ranges;
    int range_count;
};

/* 0, or -1 when there is no such kernel. */
int machete_emulate(const struct machete_emu_launch *l);

#ifdef __cplusplus
}
#endif

#endif

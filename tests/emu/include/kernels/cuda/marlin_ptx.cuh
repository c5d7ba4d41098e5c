/* Stands in for kernels/cuda/marlin_ptx.cuh: the same names over the fibers of tests/emu. (tests/kernels/marlin_emu.h is the other stand-in, of one block by itself.) */
#ifndef EMU_MARLIN_PTX_CUH
#define EMU_MARLIN_PTX_CUH

#include "kernels/cuda/instr.cuh"

#define MARLIN_DEV static inline __attribute__((unused))
#define MARLIN_KERNEL(threads, blocks) static void
#define __grid_constant__

MARLIN_DEV int thread_id() { return threadIdx.x; }
MARLIN_DEV int block_id() { return blockIdx.y; }
MARLIN_DEV int slab_id() { return blockIdx.x; }
MARLIN_DEV char *shared_memory() { return (char *)emu_dynamic; }
MARLIN_DEV void block_sync() { emu_block_barrier(); }
MARLIN_DEV void copy16_part(void *to, const void *from, int bytes) { emu_copy(to, from, 16, (size_t)bytes); }
MARLIN_DEV void copy16(void *to, const void *from) { emu_copy(to, from, 16, (size_t)16); }
MARLIN_DEV void copy_wait(int left) { emu_copy_wait(left); }
MARLIN_DEV void load_matrix4(uint32_t r[4], const void *row) { emu_warp_load(r, row); }

template <int BF16> MARLIN_DEV void mma(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, const float c[4])
{
    float sum[4] = {c[0], c[1], c[2], c[3]};
    emu_warp_mma({sum, a, {b0, b1}, !BF16});
    memcpy(d, sum, sizeof sum);
}

MARLIN_DEV int counter_add(int *counter) { return (*counter)++; }

MARLIN_DEV void store_pair(float *to, float a, float b)
{
    to[0] = a;
    to[1] = b;
}

MARLIN_DEV void load_pair(const float *from, float *a, float *b)
{
    *a = from[0];
    *b = from[1];
}

MARLIN_DEV void wait_for_producer() {}
MARLIN_DEV void let_consumer_start() {}

#endif

/* One thread block on a CPU, for kernels/cuda/marlin_kernel.cuh as it stands: the names of marlin_ptx.cuh, each thread a fiber. Fibers run until they meet (a warp at
 * ldmatrix and mma, a block at block_sync), warps in an order drawn from a seed. Shared memory starts as NaN; a cp.async makes its target NaN and, in late mode, brings
 * the data only when its thread waits for the group: reading too early, or refilling a stage that is still read, shows as NaN. Copies from outside the buffers that the
 * launch was given abort. Lane maps of ldmatrix and mma.m16n8k16: PTX ISA, "Warp Level Matrix Instructions". */
#ifndef TESTS_KERNELS_MARLIN_EMU_H
#define TESTS_KERNELS_MARLIN_EMU_H

#include <stdint.h>

#define MARLIN_DEV static inline __attribute__((unused))
#define MARLIN_KERNEL(threads, blocks) static void
#define __grid_constant__

int thread_id();
int block_id();
int slab_id();
char *shared_memory();
void block_sync();
void copy16_part(void *to, const void *from, int bytes);
void copy_commit();
void copy_wait(int left);
void load_matrix4(uint32_t r[4], const void *row);
void mma_emulated(int bf16, float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, const float c[4]);

MARLIN_DEV void copy16(void *to, const void *from)
{
    copy16_part(to, from, 16);
}

template <int BF16> MARLIN_DEV void mma(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, const float c[4])
{
    mma_emulated(BF16, d, a, b0, b1, c);
}

MARLIN_DEV int counter_add(int *counter)
{
    return (*counter)++;
}

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

MARLIN_DEV void wait_for_producer()
{
}

MARLIN_DEV void let_consumer_start()
{
}

#endif

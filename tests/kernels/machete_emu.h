/* A cluster of thread blocks on a CPU, for kernels/cuda/machete_kernel.cuh as it stands: the names of machete_ptx.cuh, each thread a fiber. Fibers run until they wait or meet;
 * warps in an order drawn from a seed. What is modelled so that mistakes show:
 *   copies    run beside the threads: the target is NaN from the moment a copy is begun, the data comes at some time drawn, or (late) only when nothing else can go on;
 *             copies of one stage arrive in any order. Sources must be given buffers, targets aligned; rows past M and inputs past Kx of a box come as 0 and count as bytes
 *   barriers  arrivals, announced bytes and phases are counted; more arrivals than a phase has, use before barrier_init or waiting that cannot end abort
 *   wgmma     runs when it is waited for, and reads A registers and X then: whoever overwrites either too early gets wrong sums. Sums are NaN while it runs. A product
 *             without a fence before it in its batch aborts, and so do warpgroups whose threads disagree
 *   threads   a warpgroup may lag, and go on only when no other can
 *   clusters  a block may begin when the others cannot go on; reading from, arriving at or copying to a block that has left aborts, and so does leaving with copies or products under way
 * Not modelled: memory order within a block beyond that, the proxies' fences, registers, time. Lane maps, descriptors and swizzle: PTX ISA, "Asynchronous Warpgroup Level
 * Matrix Instructions" and cp.async.bulk.tensor. */
#ifndef TESTS_KERNELS_MACHETE_EMU_H
#define TESTS_KERNELS_MACHETE_EMU_H

#include <stdint.h>

#define MACHETE_DEV static inline __attribute__((unused))
#define MACHETE_KERNEL(threads, blocks) static void
#define __grid_constant__

/* Stands for a tensor map of X [M, ldx], K columns of it, boxes of 64 by `box` rows. */
struct machete_map {
    const uint16_t *x;
    int64_t ldx;
    int K, M, box;
};

int thread_id();
int block_id();
char *shared_memory();
uint32_t shared_at(const void *p);
void block_sync();
void warp_sync();
void cluster_sync();
void cluster_meet();
void wait_for_producer();
void stop();
void barrier_init(uint64_t *b, int arrivals);
void barrier_announce(uint64_t *b, int bytes);
void barrier_arrive(uint64_t *b);
void barrier_arrive_peer(uint64_t *b, int rank);
void barrier_wait(uint64_t *b, int parity, machete_report *report);
void copy_run(void *to, const void *from, int bytes, uint64_t *b, uint64_t policy);
void copy_box_shared(void *to, const machete_map *map, int k, int row, uint64_t *b, uint64_t policy, int mask);
void copy_box(void *to, const machete_map *map, int k, int row, uint64_t *b, uint64_t policy);
void load_peer(const float *at, int rank, float (&v)[4]);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait();
void wgmma_emulated(int bf16, int rows, float *d, const uint32_t *a, uint64_t b, int add);

MACHETE_DEV void barrier_wait_cluster(uint64_t *b, int parity, machete_report *report)
{
    barrier_wait(b, parity, report);
}

MACHETE_DEV void barrier_arrive_peer_read(uint64_t *b, int rank)
{
    barrier_arrive_peer(b, rank);
}

MACHETE_DEV void barrier_init_done()
{
}

MACHETE_DEV void let_consumer_start()
{
}

MACHETE_DEV void fetch_map(const machete_map *)
{
}

template <int N> MACHETE_DEV void fewer_registers()
{
}

template <int N> MACHETE_DEV void more_registers()
{
}

template <int N> MACHETE_DEV void hold(float (&)[N])
{
}

MACHETE_DEV void hold_a(const uint32_t (&)[4])
{
}

template <int BF16, int ROWS> MACHETE_DEV void wgmma(float (&d)[ROWS / 2], const uint32_t (&a)[4], uint64_t b, int add)
{
    wgmma_emulated(BF16, ROWS, d, a, b, add);
}

#endif

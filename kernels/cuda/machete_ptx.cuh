/* The instructions the Machete-class kernel is built around, each under a name (PTX ISA 8.0, sm_90a). tests/kernels/machete_emu.h has the same names for a CPU.
 *
 * A barrier of shared memory (mbarrier) goes through phases, the first of parity 0. A phase ends when its arrivals are all in and no announced byte is missing; waiting for
 * parity p returns once the phase of parity p has ended and before the next of the same parity does. */
#ifndef KERNELS_CUDA_MACHETE_PTX_CUH
#define KERNELS_CUDA_MACHETE_PTX_CUH

#include <cuda.h>
#include <stdint.h>

#define MACHETE_DEV static __device__ __forceinline__
#define MACHETE_KERNEL(threads, blocks) static __global__ void __launch_bounds__(threads, blocks)

typedef CUtensorMap machete_map;

/* ---- threads, blocks, clusters ---- */

MACHETE_DEV int thread_id() { return (int)threadIdx.x; }
MACHETE_DEV int block_id() { return (int)blockIdx.x; }

MACHETE_DEV char *shared_memory()
{
    extern __shared__ __align__(1024) char machete_shared_memory[];
    return machete_shared_memory;
}

MACHETE_DEV uint32_t shared_at(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

MACHETE_DEV void block_sync() { __syncthreads(); }
MACHETE_DEV void warp_sync() { __syncwarp(); }

/* All threads of all blocks of the cluster; what each did before is seen by all after. The instructions want whole warps: lanes that went apart meet first. */
MACHETE_DEV void cluster_sync()
{
    __syncwarp();
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* Blocks of the cluster meet at their beginning: of what was written before, only barriers are seen after (barrier_init_done). */
MACHETE_DEV void cluster_meet()
{
    __syncwarp();
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* The register file is dealt out anew: all warps of a warpgroup come here. */
template <int N> MACHETE_DEV void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> MACHETE_DEV void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

/* Programmatic dependent launch: there is no build of this kernel without it. */
MACHETE_DEV void wait_for_producer() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
MACHETE_DEV void let_consumer_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

MACHETE_DEV void stop() { __trap(); }

/* ---- barriers ---- */

MACHETE_DEV void barrier_init(uint64_t *b, int arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_at(b)), "r"(arrivals) : "memory"); }

/* Barriers just made are seen by copies and by the cluster after the next sync. */
MACHETE_DEV void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

/* The one arrival of the block's own producer, announcing bytes. */
MACHETE_DEV void barrier_announce(uint64_t *b, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_at(b)), "r"(bytes) : "memory");
}

MACHETE_DEV void barrier_arrive(uint64_t *b) { asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(shared_at(b)) : "memory"); }

/* At the barrier at the same place in block `rank` of the cluster: publishes what was written before to whoever waits there by barrier_wait_cluster. Costs a fence of the device. */
MACHETE_DEV void barrier_arrive_peer(uint64_t *b, int rank)
{
    asm volatile("{\n\t"
                 ".reg .b32 at;\n\t"
                 "mapa.shared::cluster.u32 at, %0, %1;\n\t"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [at];\n\t"
                 "}" ::"r"(shared_at(b)), "r"(rank) : "memory");
}

/* The same where nothing was written: memory has been read (registers hold it, or products of it are done) and may be overwritten. By the letter release.cta is too weak across
 * blocks; it orders reads that have already returned, for which there is nothing to make visible. CUTLASS releases the stages of its pipelines by the same instruction. */
MACHETE_DEV void barrier_arrive_peer_read(uint64_t *b, int rank)
{
    asm volatile("{\n\t"
                 ".reg .b32 at;\n\t"
                 "mapa.shared::cluster.u32 at, %0, %1;\n\t"
                 "mbarrier.arrive.release.cta.shared::cluster.b64 _, [at];\n\t"
                 "}" ::"r"(shared_at(b)), "r"(rank) : "memory");
}

/* MACHETE_GUARD: for builds that hunt a hang. Who waits for longer than two seconds says in `report`, memory of the host, where, and ends the kernel with an error. */
#ifndef MACHETE_GUARD
#define MACHETE_GUARD 0
#endif
MACHETE_DEV uint64_t guard_time()
{
    uint64_t t = 0;
    if (MACHETE_GUARD)
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}

MACHETE_DEV void guard_wait(const uint64_t *b, int parity, uint64_t since, machete_report *report)
{
    if (!MACHETE_GUARD || guard_time() - since < 2000000000u)
        return;
    if (report && !report->said) {
        report->block = block_id();
        report->thread = thread_id();
        report->barrier = (int)shared_at(b);
        report->parity = parity;
        report->word = *(volatile const uint64_t *)b;
        report->said = 1;
        __threadfence_system();
    }
    __trap();
}

MACHETE_DEV void barrier_wait(uint64_t *b, int parity, machete_report *report)
{
    const uint64_t since = guard_time();
    uint32_t over;
    do {
        asm volatile("{\n\t"
                     ".reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n\t"
                     "selp.b32 %0, 1, 0, p;\n\t"
                     "}" : "=r"(over) : "r"(shared_at(b)), "r"(parity) : "memory");
        if (!over)
            guard_wait(b, parity, since, report);
    } while (!over);
}

/* The same for arrivals of barrier_arrive_peer: what other blocks wrote before is seen after. */
MACHETE_DEV void barrier_wait_cluster(uint64_t *b, int parity, machete_report *report)
{
    const uint64_t since = guard_time();
    uint32_t over;
    do {
        asm volatile("{\n\t"
                     ".reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n\t"
                     "selp.b32 %0, 1, 0, p;\n\t"
                     "}" : "=r"(over) : "r"(shared_at(b)), "r"(parity) : "memory");
        if (!over)
            guard_wait(b, parity, since, report);
    } while (!over);
}

/* ---- copies: bytes arrive at a barrier ---- */

/* A run of memory, all three multiples of 16. policy: of L2, as createpolicy makes them. */
MACHETE_DEV void copy_run(void *to, const void *from, int bytes, uint64_t *b, uint64_t policy)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(shared_at(to)), "l"(from), "r"(bytes),
                 "r"(shared_at(b)), "l"(policy)
                 : "memory");
}

/* The box of the map whose first element is (k, row). */
MACHETE_DEV void copy_box(void *to, const machete_map *map, int k, int row, uint64_t *b, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_at(to)), "l"(map),
                 "r"(k), "r"(row), "r"(shared_at(b)), "l"(policy)
                 : "memory");
}

/* The same into every block of the cluster that `mask` names, to the same place and barrier in each. */
MACHETE_DEV void copy_box_shared(void *to, const machete_map *map, int k, int row, uint64_t *b, uint64_t policy, int mask)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5, %6;" ::"r"(
                     shared_at(to)),
                 "l"(map), "r"(k), "r"(row), "r"(shared_at(b)), "h"((unsigned short)mask), "l"(policy)
                 : "memory");
}

MACHETE_DEV void fetch_map(const machete_map *map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }

/* ---- shared memory of the cluster ---- */

/* The four floats at the same place in block `rank`. */
MACHETE_DEV void load_peer(const float *at, int rank, float (&v)[4])
{
    asm volatile("{\n\t"
                 ".reg .b32 at;\n\t"
                 "mapa.shared::cluster.u32 at, %4, %5;\n\t"
                 "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [at];\n\t"
                 "}" : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3]) : "r"(shared_at(at)), "r"(rank) : "memory");
}

/* ---- wgmma ---- */

/* Before the first product of a batch: registers written until now are seen by it. */
MACHETE_DEV void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
MACHETE_DEV void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
MACHETE_DEV void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

/* The compiler believes that a product is there when its instruction has been issued: keeps uses of d behind (or changes before) this place. */
template <int N> MACHETE_DEV void hold(float (&d)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

/* The same for registers of A: they are read until here. */
MACHETE_DEV void hold_a(const uint32_t (&a)[4]) { asm volatile("" ::"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]) : "memory"); }

#define R_8 "%0, %1, %2, %3"
#define R_16 R_8 ", %4, %5, %6, %7"
#define R_32 R_16 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define R_64 R_32 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define R_128                                                                                                                                                      \
    R_64 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, "     \
         "%61, %62, %63"
#define R_256                                                                                                                                                      \
    R_128 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, "    \
          "%93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, "  \
          "%119, %120, %121, %122, %123, %124, %125, %126, %127"
#define D_4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define D_16(i) D_4(i), D_4((i) + 4), D_4((i) + 8), D_4((i) + 12)
#define D_64(i) D_16(i), D_16((i) + 16), D_16((i) + 32), D_16((i) + 48)
#define WGMMA(n, type, regs, a0, a1, a2, a3, desc, at_add, ...)                                                                                                     \
    asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %" #at_add ", 0;\n\twgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" regs "}, {%" #a0       \
                 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #desc ", p, 1, 1, 0;\n\t}"                                                                                  \
                 : __VA_ARGS__                                                                                                                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))
#define WGMMA_OF(n, regs, a0, a1, a2, a3, desc, at_add, ...)                                                                                                       \
    if constexpr (ROWS == n && BF16)                                                                                                                               \
        WGMMA(n, "bf16", regs, a0, a1, a2, a3, desc, at_add, __VA_ARGS__);                                                                                         \
    else if constexpr (ROWS == n)                                                                                                                                  \
        WGMMA(n, "f16", regs, a0, a1, a2, a3, desc, at_add, __VA_ARGS__)

/* d (+)= a b, begun: a 64 x 16 of the warpgroup's registers, b ROWS tokens x 16 by descriptor, f32 sums. add 0: d is only written. */
template <int BF16, int ROWS> MACHETE_DEV void wgmma(float (&d)[ROWS / 2], const uint32_t (&a)[4], uint64_t b, int add)
{
    WGMMA_OF(8, R_8, 4, 5, 6, 7, 8, 9, D_4(0));
    WGMMA_OF(16, R_16, 8, 9, 10, 11, 12, 13, D_4(0), D_4(4));
    WGMMA_OF(32, R_32, 16, 17, 18, 19, 20, 21, D_16(0));
    WGMMA_OF(64, R_64, 32, 33, 34, 35, 36, 37, D_16(0), D_16(16));
    WGMMA_OF(128, R_128, 64, 65, 66, 67, 68, 69, D_64(0));
    WGMMA_OF(256, R_256, 128, 129, 130, 131, 132, 133, D_64(0), D_64(64));
}

#undef R_8
#undef R_16
#undef R_32
#undef R_64
#undef R_128
#undef R_256
#undef D_4
#undef D_16
#undef D_64
#undef WGMMA
#undef WGMMA_OF

#endif

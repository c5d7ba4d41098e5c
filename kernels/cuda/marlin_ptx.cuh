/* The instructions the kernel is built around, each under a name. tests/kernels/marlin_emu.h has the same names for a CPU. */
#ifndef KERNELS_CUDA_MARLIN_PTX_CUH
#define KERNELS_CUDA_MARLIN_PTX_CUH

#include <stdint.h>

#define MARLIN_DEV static __device__ __forceinline__
#define MARLIN_KERNEL(threads, blocks) static __global__ void __launch_bounds__(threads, blocks)

MARLIN_DEV int thread_id() { return (int)threadIdx.x; }
MARLIN_DEV int block_id() { return (int)blockIdx.y; } /* slabs of one block start together and share its codes in L2 */
MARLIN_DEV int slab_id() { return (int)blockIdx.x; }

MARLIN_DEV char *shared_memory()
{
    extern __shared__ __align__(128) char marlin_shared[];
    return marlin_shared;
}

MARLIN_DEV uint32_t shared_at(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

MARLIN_DEV void block_sync() { __syncthreads(); }

/* 16 bytes from global to shared memory, past L1. */
MARLIN_DEV void copy16(void *to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_at(to)), "l"(from) : "memory");
}

/* The first `bytes` of 16, the rest 0. */
MARLIN_DEV void copy16_part(void *to, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_at(to)), "l"(from), "r"(bytes) : "memory");
}

MARLIN_DEV void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int LEFT> MARLIN_DEV void copy_wait_left() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }

/* Until at most `left` of this thread's groups are under way; left is the same for all threads. */
MARLIN_DEV void copy_wait(int left)
{
    switch (left) {
    case 0: copy_wait_left<0>(); break;
    case 1: copy_wait_left<1>(); break;
    case 2: copy_wait_left<2>(); break;
    case 3: copy_wait_left<3>(); break;
    case 4: copy_wait_left<4>(); break;
    case 5: copy_wait_left<5>(); break;
    default: copy_wait_left<6>(); break;
    }
}

/* Four 8 x 8 matrices of 16-bit elements; lane l names row l % 8 of matrix l / 8. */
MARLIN_DEV void load_matrix4(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_at(row))
                 : "memory");
}

/* d = a b + c: a 16 x 16, b 16 x 8, c and d f32. */
template <int BF16> MARLIN_DEV void mma(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, const float c[4])
{
    if constexpr (BF16)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
            : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
            : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

/* Adds 1; what this thread knows of (by block_sync, all the block has written) is seen by whoever finds a later count, and the other way round. */
MARLIN_DEV int counter_add(int *counter)
{
    int before;
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    return before;
}

/* Through L2, where other blocks see it. */
MARLIN_DEV void store_pair(float *to, float a, float b) { __stcg((float2 *)to, make_float2(a, b)); }
MARLIN_DEV void load_pair(const float *from, float *a, float *b)
{
    float2 v = __ldcg((const float2 *)from);
    *a = v.x;
    *b = v.y;
}

/* Programmatic dependent launch: in code compiled for 9.0 and newer (marlin_waits); elsewhere every launch waits for the one before. */
MARLIN_DEV void wait_for_producer()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
MARLIN_DEV void let_consumer_start()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif

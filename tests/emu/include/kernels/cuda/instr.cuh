/* Stands in for kernels/cuda/instr.cuh when the kernels are compiled for this processor (C++): qualifiers, vector types, intrinsics, and the instructions.
 *
 * A block's threads are fibers of one thread. Between two barriers a fiber runs alone, in an order that is shuffled anew each time; shuffles and matrix instructions
 * bring the 32 lanes of a warp together. An asynchronous copy fills its target with NaN at once and brings the data no sooner than it is waited for. */
#ifndef EMU_INSTR_CUH
#define EMU_INSTR_CUH

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <functional>

#include "kernels/cuda/cuda_state.h"
#include "kernels/half.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static __attribute__((aligned(16)))

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

/* of the running fiber; of the running launch */
struct emu_index {
    int x, y, z;
};
extern struct emu_index emu_thread, emu_block, emu_grid;
extern unsigned char emu_dynamic[];
#define threadIdx emu_thread
#define blockIdx emu_block
#define gridDim emu_grid

void emu_launch(dim3 grid, dim3 block, size_t bytes, const std::function<void()> &thread);
void emu_block_barrier();
uint32_t emu_shuffle_xor(uint32_t v, int mask);
struct emu_mma {
    float *c;
    const uint32_t *a;
    uint32_t b[2];
    bool f16;
};
void emu_warp_mma(const struct emu_mma &m);
void emu_warp_load(uint32_t *r, const void *row); /* ldmatrix.x4 */
void emu_copy(void *to, const void *from, size_t size, size_t bytes); /* size bytes are written: `bytes` of them copied, the rest zero */
void emu_copy_commit();
void emu_copy_wait(int most);

#define LAUNCH(kernel, grid, block, bytes, stream, ...) ((void)(stream), emu_launch(grid, block, bytes, [=]() { (kernel)(__VA_ARGS__); }))
#define DYNAMIC_SHARED(type, name) type *name = (type *)emu_dynamic
#define __syncthreads() emu_block_barrier()

static inline float __shfl_xor_sync(unsigned, float v, int mask)
{
    return f32_from_bits(emu_shuffle_xor(f32_bits(v), mask));
}
template <typename T> static inline T __ldg(const T *p) { return *p; }
template <typename T> static inline T __ldcs(const T *p) { return *p; }
static inline float __uint_as_float(uint32_t u) { return f32_from_bits(u); }
static inline uint32_t __float_as_uint(float x) { return f32_bits(x); }
static inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t s)
{
    uint64_t both = (uint64_t)y << 32 | x;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++)
        r |= (uint32_t)(both >> 8 * (s >> 4 * i & 7) & 0xff) << 8 * i;
    return r;
}
static inline uint32_t atomicAdd(uint32_t *p, uint32_t v)
{
    uint32_t was = *p;
    *p += v;
    return was;
}
static inline uint32_t atomicMin(uint32_t *p, uint32_t v)
{
    uint32_t was = *p;
    *p = v < was ? v : was;
    return was;
}
static inline uint32_t atomicMax(uint32_t *p, uint32_t v)
{
    uint32_t was = *p;
    *p = v > was ? v : was;
    return was;
}
static inline uint64_t __umul64hi(uint64_t a, uint64_t b) { return (uint64_t)((unsigned __int128)a * b >> 64); }
static inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
static inline uint32_t atomicOr(uint32_t *p, uint32_t v)
{
    uint32_t was = *p;
    *p |= v;
    return was;
}

struct __half {
    uint16_t bits;
};
struct __nv_bfloat16 {
    uint16_t bits;
};
struct __nv_bfloat162 {
    uint16_t x, y;
};
static inline __half __ushort_as_half(unsigned short u) { return {u}; }
static inline unsigned short __half_as_ushort(__half h) { return h.bits; }
static inline float __half2float(__half h) { return f16_to_f32(h.bits); }
static inline __half __float2half_rn(float x) { return {f32_to_f16(x)}; }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h) { return h.bits; }
static inline float __bfloat162float(__nv_bfloat16 h) { return bf16_to_f32(h.bits); }
static inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {f32_to_bf16(x)}; }
static inline __nv_bfloat162 __hsub2(__nv_bfloat162 a, __nv_bfloat162 b)
{
    return {f32_to_bf16(bf16_to_f32(a.x) - bf16_to_f32(b.x)), f32_to_bf16(bf16_to_f32(a.y) - bf16_to_f32(b.y))};
}

static inline void mma_bf16(float *c, const uint32_t *a, uint32_t b0, uint32_t b1) { emu_warp_mma({c, a, {b0, b1}, false}); }
static inline void mma_f16(float *c, const uint32_t *a, uint32_t b0, uint32_t b1) { emu_warp_mma({c, a, {b0, b1}, true}); }
static inline void copy16(void *to, const void *from, bool real) { emu_copy(to, from, 16, real ? 16 : 0); }
static inline void copy8(void *to, const void *from) { emu_copy(to, from, 8, 8); }
static inline void copy_commit(void) { emu_copy_commit(); }
template <int N> static inline void copy_wait(void) { emu_copy_wait(N); }

#endif

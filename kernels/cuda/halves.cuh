/* Activations as two halves, x = hi + lo: how one is made, and where a kernel that makes rows of f32 puts theirs (struct cuda_halves), so that the product after it finds them.
 * Whoever makes them, they are the same bits. */
#ifndef KERNELS_CUDA_HALVES_CUH
#define KERNELS_CUDA_HALVES_CUH

#include "kernels/cuda/instr.cuh"

/* x = hi + lo. f16: both ends are kept inside its range, so that no finite x becomes infinite. */
template <int F16> static __device__ __forceinline__ void halves(float x, uint16_t *hi, uint16_t *lo)
{
    if constexpr (F16 != 0) {
        float c = fminf(fmaxf(x, -65504.0f), 65504.0f);
        c = isnan(x) ? x : c;
        __half h = __float2half_rn(c);
        float rest = x - __half2float(h);
        float d = fminf(fmaxf(rest, -65504.0f), 65504.0f);
        *hi = __half_as_ushort(h);
        *lo = __half_as_ushort(__float2half_rn(isnan(rest) ? rest : d));
    } else {
        __nv_bfloat16 h = __float2bfloat16_rn(x);
        float rest = x - __bfloat162float(h);
        *hi = __bfloat16_as_ushort(h);
        *lo = __bfloat16_as_ushort(__float2bfloat16_rn(isfinite(rest) ? rest : 0.0f)); /* beyond bf16's range hi says it all */
    }
}

/* Number k of row m. */
static __device__ __forceinline__ void put_half(const struct cuda_halves &h, int64_t m, int64_t k, float v)
{
    uint16_t *row = h.xs + 2 * m * h.pitch + k;
    halves<0>(v, row, row + h.pitch);
}

/* Numbers k .. k + 3 of row m; k is a multiple of 4. */
static __device__ __forceinline__ void put_halves(const struct cuda_halves &h, int64_t m, int64_t k, const float4 &v)
{
    __align__(8) uint16_t hi[4];
    __align__(8) uint16_t lo[4];
    halves<0>(v.x, &hi[0], &lo[0]);
    halves<0>(v.y, &hi[1], &lo[1]);
    halves<0>(v.z, &hi[2], &lo[2]);
    halves<0>(v.w, &hi[3], &lo[3]);
    uint16_t *row = h.xs + 2 * m * h.pitch + k;
    *(uint2 *)row = *(const uint2 *)hi;
    *(uint2 *)(row + h.pitch) = *(const uint2 *)lo;
}

/* Zeros from K on, by `threads` threads. */
static __device__ __forceinline__ void pad_halves(const struct cuda_halves &h, int64_t m, int thread, int threads)
{
    for (int64_t k = h.K + thread; k < h.pitch; k += threads)
        h.xs[2 * m * h.pitch + k] = h.xs[(2 * m + 1) * h.pitch + k] = 0;
}

#endif

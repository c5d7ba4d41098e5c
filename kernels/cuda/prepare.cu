/* What stands before and beside the product kernels: X as halves, and the product of F32 weights. */
#include "kernels/cuda/halves.cuh"
#include "kernels/cuda/instr.cuh"

enum { SPLIT_THREADS = 128 };

/* A thread makes eight places of a row. */
template <int F16>
static __global__ void __launch_bounds__(SPLIT_THREADS) split_rows(uint16_t *xs, const float *x, int64_t ldx, int64_t K, int64_t pitch, const int32_t *perm)
{
    const int64_t i0 = ((int64_t)blockIdx.x * SPLIT_THREADS + threadIdx.x) * 8, m = blockIdx.y;
    if (i0 >= pitch)
        return;
    const float *row = x + m * ldx;
    float v[8];
    if (!perm && i0 + 8 <= K && ((uintptr_t)(row + i0) & 15u) == 0) {
        const float4 a = *(const float4 *)(row + i0), b = *(const float4 *)(row + i0 + 4);
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int64_t k = perm ? perm[i0 + i] : i0 + i < K ? i0 + i : -1;
            v[i] = k < 0 ? 0.0f : row[k];
        }
    }
    __align__(16) uint16_t hi[8];
    __align__(16) uint16_t lo[8];
#pragma unroll
    for (int i = 0; i < 8; i++)
        halves<F16>(v[i], &hi[i], &lo[i]);
    *(uint4 *)(xs + 2 * m * pitch + i0) = *(const uint4 *)hi;
    *(uint4 *)(xs + (2 * m + 1) * pitch + i0) = *(const uint4 *)lo;
}

cudaError_t launch_split(cudaStream_t s, uint16_t *xs, const float *x, int64_t ldx, int64_t M, int64_t K, int64_t pitch, const int32_t *perm, int f16)
{
    enum { MOST = 65535 };
    for (int64_t m = 0; m < M; m += MOST) {
        dim3 grid((unsigned)((pitch / 8 + SPLIT_THREADS - 1) / SPLIT_THREADS), M - m < MOST ? (unsigned)(M - m) : (unsigned)MOST);
        if (f16)
            LAUNCH((split_rows<1>), grid, SPLIT_THREADS, 0, s, xs + 2 * m * pitch, x + m * ldx, ldx, K, pitch, perm);
        else
            LAUNCH((split_rows<0>), grid, SPLIT_THREADS, 0, s, xs + 2 * m * pitch, x + m * ldx, ldx, K, pitch, perm);
        cudaError_t r = cudaGetLastError();
        if (r != cudaSuccess)
            return r;
    }
    return cudaSuccess;
}

/* F32: one FMA chain over k an output, as the CPU's class defines it; the same bits. For small models: no attempt at speed. */

enum { F32_TILE = 32, F32_SIDE = 16 };

struct f32_product {
    float *y;
    const float *x, *w, *bias;
    int64_t ldy, ldx, pitch;
    int N, M, K, accumulate;
};

static __device__ __forceinline__ void f32_store(const struct f32_product &p, int n, int m, float v)
{
    if (n >= p.N || m >= p.M)
        return;
    float *y = p.y + (int64_t)m * p.ldy + n;
    if (p.bias)
        v += p.bias[n];
    *y = p.accumulate ? *y + v : v;
}

static __global__ void __launch_bounds__(F32_SIDE *F32_SIDE) linear_f32(const struct f32_product p)
{
    __shared__ float w[F32_TILE][F32_TILE + 1], x[F32_TILE][F32_TILE + 1];
    const int tn = threadIdx.x, tm = threadIdx.y, id = tm * F32_SIDE + tn, n0 = blockIdx.y * F32_TILE, m0 = blockIdx.x * F32_TILE;
    float c[2][2] = {};
    for (int k0 = 0; k0 < p.K; k0 += F32_TILE) {
        int steps = p.K - k0 < F32_TILE ? p.K - k0 : F32_TILE;
        for (int i = id; i < F32_TILE * F32_TILE; i += F32_SIDE * F32_SIDE) {
            int r = i / F32_TILE, k = i % F32_TILE;
            bool in = k < steps;
            w[r][k] = in && n0 + r < p.N ? p.w[(n0 + r) * p.pitch + k0 + k] : 0.0f;
            x[r][k] = in && m0 + r < p.M ? p.x[(m0 + r) * p.ldx + k0 + k] : 0.0f;
        }
        __syncthreads();
        for (int k = 0; k < steps; k++)
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 2; j++)
                    c[i][j] = fmaf(x[tm + j * F32_SIDE][k], w[tn + i * F32_SIDE][k], c[i][j]);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 2; j++)
            f32_store(p, n0 + tn + i * F32_SIDE, m0 + tm + j * F32_SIDE, c[i][j]);
}

cudaError_t launch_linear_f32(cudaStream_t s, const struct linear_args *a)
{
    const struct weight *w = a->w;
    struct f32_product p = {a->y,    a->x,      (const float *)w->data, a->bias,   a->ldy,     a->ldx,
                            w->pitch, (int)w->N, (int)a->M,              (int)w->K, a->accumulate};
    dim3 grid((unsigned)((a->M + F32_TILE - 1) / F32_TILE), (unsigned)((w->N + F32_TILE - 1) / F32_TILE)), block(F32_SIDE, F32_SIDE);
    LAUNCH((linear_f32), grid, block, 0, s, p);
    return cudaGetLastError();
}

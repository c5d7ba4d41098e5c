/* Kernels that go over rows or elements once: widen (of the embedding), rmsnorm, rope, silu_mul, add. Bound by memory: 16 bytes an access where the addresses allow. */
#include "kernels/cuda/instr.cuh"

enum { ROW_THREADS = 256, ROPE_ROWS = 512 };

static __device__ __forceinline__ float element(const void *p, int64_t i, int t)
{
    if (t == DT_F32)
        return ((const float *)p)[i];
    uint16_t h = ((const uint16_t *)p)[i];
    return t == DT_F16 ? __half2float(__ushort_as_half(h)) : __uint_as_float((uint32_t)h << 16);
}

static __global__ void __launch_bounds__(ROW_THREADS) widen(float *y, const void *x, int t, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * ROW_THREADS + threadIdx.x;
    if (i < n)
        y[i] = element(x, i, t);
}

static unsigned blocks_of(int64_t n)
{
    return (unsigned)((n + ROW_THREADS - 1) / ROW_THREADS);
}

cudaError_t launch_widen(cudaStream_t s, float *y, const void *rows, enum dtype t, int64_t n)
{
    if (n > 0)
        LAUNCH((widen), blocks_of(n), ROW_THREADS, 0, s, y, rows, (int)t, n);
    return cudaGetLastError();
}

static __device__ __forceinline__ float warp_sum(float v)
{
#pragma unroll
    for (int d = 16; d > 0; d /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

/* Sum of squares of a row by `threads` threads: each over its own elements, then a tree. Depends on K alone. */
static __device__ __forceinline__ float squares(const float *x, int64_t K, int thread, int threads)
{
    float sum = 0.0f;
    if (K % 4 == 0 && ((uintptr_t)x & 15u) == 0) {
        for (int64_t i = thread; i < K / 4; i += threads) {
            const float4 v = ((const float4 *)x)[i];
            sum = fmaf(v.x, v.x, sum);
            sum = fmaf(v.y, v.y, sum);
            sum = fmaf(v.z, v.z, sum);
            sum = fmaf(v.w, v.w, sum);
        }
        return sum;
    }
    for (int64_t i = thread; 4 * i < K; i += threads) /* the same elements a thread, one by one */
        for (int64_t k = 4 * i; k < 4 * i + 4 && k < K; k++)
            sum = fmaf(x[k], x[k], sum);
    return sum;
}

static __device__ __forceinline__ void scale_row(float *y, const float *x, const float *w, int64_t K, float r, int thread, int threads)
{
    if (K % 4 == 0 && (((uintptr_t)x | (uintptr_t)y | (uintptr_t)w) & 15u) == 0) {
        for (int64_t i = thread; i < K / 4; i += threads) {
            const float4 v = ((const float4 *)x)[i], u = ((const float4 *)w)[i];
            ((float4 *)y)[i] = make_float4(v.x * r * u.x, v.y * r * u.y, v.z * r * u.z, v.w * r * u.w);
        }
        return;
    }
    for (int64_t k = thread; k < K; k += threads)
        y[k] = x[k] * r * w[k];
}

static __device__ __forceinline__ float inverse_root(float sum, int64_t K, float eps)
{
    return 1.0f / sqrtf(sum / (float)K + eps);
}

/* A warp a row. */
static __global__ void __launch_bounds__(ROW_THREADS) rmsnorm_short(float *y, const float *x, const float *w, int64_t M, int64_t K, float eps)
{
    const int64_t m = (int64_t)blockIdx.x * (ROW_THREADS / 32) + threadIdx.x / 32;
    if (m >= M)
        return;
    float sum = warp_sum(squares(x + m * K, K, threadIdx.x % 32, 32));
    scale_row(y + m * K, x + m * K, w, K, inverse_root(sum, K, eps), threadIdx.x % 32, 32);
}

/* A block a row. */
static __global__ void __launch_bounds__(ROW_THREADS) rmsnorm_long(float *y, const float *x, const float *w, int64_t K, float eps)
{
    __shared__ float part[ROW_THREADS / 32];
    const int64_t m = blockIdx.x;
    float sum = warp_sum(squares(x + m * K, K, threadIdx.x, ROW_THREADS));
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0.0f;
#pragma unroll
    for (int i = 0; i < ROW_THREADS / 32; i++)
        sum += part[i];
    scale_row(y + m * K, x + m * K, w, K, inverse_root(sum, K, eps), threadIdx.x, ROW_THREADS);
}

cudaError_t launch_rmsnorm(cudaStream_t s, float *y, const float *x, const float *w, int64_t M, int64_t K, float eps)
{
    if (M <= 0)
        return cudaSuccess;
    if (K <= 1024)
        LAUNCH((rmsnorm_short), (unsigned)((M + ROW_THREADS / 32 - 1) / (ROW_THREADS / 32)), ROW_THREADS, 0, s, y, x, w, M, K, eps);
    else
        LAUNCH((rmsnorm_long), (unsigned)M, ROW_THREADS, 0, s, y, x, w, K, eps);
    return cudaGetLastError();
}

/* Positions travel as an argument of the launch. */
struct rope_pos {
    int32_t at[ROPE_ROWS];
};

static __global__ void __launch_bounds__(ROW_THREADS) rope(float *x, int rows, int heads, int half, const float *cos, const float *sin, const struct rope_pos pos)
{
    const int64_t i = (int64_t)blockIdx.x * ROW_THREADS + threadIdx.x;
    if (i >= (int64_t)rows * heads * half)
        return;
    const int d = (int)(i % half);
    const int64_t head = i / half, m = head / heads;
    const int64_t at = (int64_t)pos.at[m] * half + d;
    const float c = cos[at], sn = sin[at];
    float *p = x + head * 2 * half + d;
    const float u = p[0], v = p[half];
    p[0] = fmaf(-v, sn, u * c);
    p[half] = fmaf(u, sn, v * c);
}

cudaError_t launch_rope(cudaStream_t s, float *x, int64_t M, int heads, int head_dim, const float *cos, const float *sin, const int32_t *pos)
{
    for (int64_t m = 0; m < M; m += ROPE_ROWS) {
        int rows = M - m < ROPE_ROWS ? (int)(M - m) : (int)ROPE_ROWS;
        struct rope_pos part = {};
        for (int i = 0; i < rows; i++)
            part.at[i] = pos[m + i];
        LAUNCH((rope), blocks_of((int64_t)rows * heads * (head_dim / 2)), ROW_THREADS, 0, s, x + m * heads * head_dim, rows, heads, head_dim / 2, cos, sin, part);
        cudaError_t r = cudaGetLastError();
        if (r != cudaSuccess)
            return r;
    }
    return cudaSuccess;
}

static __device__ __forceinline__ float silu_up(float g, float u)
{
    return g / (1.0f + expf(-g)) * u;
}

/* Four elements a thread; ADD: y += x, else y = silu(x) * up. */
template <int ADD> static __global__ void __launch_bounds__(ROW_THREADS) elementwise(float *y, const float *x, const float *up, int64_t n)
{
    const int64_t i = ((int64_t)blockIdx.x * ROW_THREADS + threadIdx.x) * 4;
    if (i + 4 <= n && (((uintptr_t)x | (uintptr_t)y | (uintptr_t)up) & 15u) == 0) {
        const float4 a = *(const float4 *)(x + i), b = *(const float4 *)((ADD ? y : up) + i);
        *(float4 *)(y + i) = ADD ? make_float4(b.x + a.x, b.y + a.y, b.z + a.z, b.w + a.w)
                                 : make_float4(silu_up(a.x, b.x), silu_up(a.y, b.y), silu_up(a.z, b.z), silu_up(a.w, b.w));
        return;
    }
    for (int64_t k = i; k < i + 4 && k < n; k++)
        y[k] = ADD ? y[k] + x[k] : silu_up(x[k], up[k]);
}

cudaError_t launch_silu_mul(cudaStream_t s, float *y, const float *gate, const float *up, int64_t n)
{
    if (n > 0)
        LAUNCH((elementwise<0>), blocks_of((n + 3) / 4), ROW_THREADS, 0, s, y, gate, up, n);
    return cudaGetLastError();
}

cudaError_t launch_add(cudaStream_t s, float *y, const float *x, int64_t n)
{
    if (n > 0)
        LAUNCH((elementwise<1>), blocks_of((n + 3) / 4), ROW_THREADS, 0, s, y, x, NULL, n);
    return cudaGetLastError();
}

/* Kernels that go over rows or elements once: widen (of the embedding), rmsnorm, rope, silu_mul, add. Bound by memory: 16 bytes an access where the addresses allow. */
#include "kernels/cuda/halves.cuh"
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

/* y, x: of row m. */
static __device__ __forceinline__ void scale_row(float *y, const float *x, const float *w, int64_t K, float r, const struct cuda_halves &h, int64_t m, int thread, int threads)
{
    if (h.xs)
        pad_halves(h, m, thread, threads);
    if (K % 4 == 0 && (((uintptr_t)x | (uintptr_t)y | (uintptr_t)w) & 15u) == 0) {
        for (int64_t i = thread; i < K / 4; i += threads) {
            const float4 v = ((const float4 *)x)[i], u = ((const float4 *)w)[i];
            const float4 z = make_float4(v.x * r * u.x, v.y * r * u.y, v.z * r * u.z, v.w * r * u.w);
            ((float4 *)y)[i] = z;
            if (h.xs)
                put_halves(h, m, 4 * i, z);
        }
        return;
    }
    for (int64_t k = thread; k < K; k += threads) {
        y[k] = x[k] * r * w[k];
        if (h.xs)
            put_half(h, m, k, y[k]);
    }
}

static __device__ __forceinline__ float inverse_root(float sum, int64_t K, float eps)
{
    return 1.0f / sqrtf(sum / (float)K + eps);
}

/* A warp a row. */
static __global__ void __launch_bounds__(ROW_THREADS, 4) rmsnorm_short(float *y, const float *x, const float *w, int64_t M, int64_t K, float eps, const struct cuda_halves h)
{
    const int64_t m = (int64_t)blockIdx.x * (ROW_THREADS / 32) + threadIdx.x / 32;
    if (m >= M)
        return;
    float sum = warp_sum(squares(x + m * K, K, threadIdx.x % 32, 32));
    scale_row(y + m * K, x + m * K, w, K, inverse_root(sum, K, eps), h, m, threadIdx.x % 32, 32);
}

/* A block a row. */
static __global__ void __launch_bounds__(ROW_THREADS) rmsnorm_long(float *y, const float *x, const float *w, int64_t K, float eps, const struct cuda_halves h)
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
    scale_row(y + m * K, x + m * K, w, K, inverse_root(sum, K, eps), h, m, threadIdx.x, ROW_THREADS);
}

cudaError_t launch_rmsnorm(cudaStream_t s, float *y, const float *x, const float *w, int64_t M, int64_t K, float eps, const struct cuda_halves *h)
{
    if (M <= 0)
        return cudaSuccess;
    if (K <= 1024)
        LAUNCH((rmsnorm_short), (unsigned)((M + ROW_THREADS / 32 - 1) / (ROW_THREADS / 32)), ROW_THREADS, 0, s, y, x, w, M, K, eps, *h);
    else
        LAUNCH((rmsnorm_long), (unsigned)M, ROW_THREADS, 0, s, y, x, w, K, eps, *h);
    return cudaGetLastError();
}

/* Positions travel as an argument of the launch. */
struct rope_pos {
    int32_t at[ROPE_ROWS];
};

struct rope_params {
    float *q, *k; /* of the first of `rows` rows */
    const float *cos, *sin;
    int rows, heads, kv_heads, half;
};

/* Rows of queries with their keys: head `heads` and those after it are keys'. */
static __global__ void __launch_bounds__(ROW_THREADS) rope(const struct rope_params r, const struct rope_pos pos)
{
    const int64_t i = (int64_t)blockIdx.x * ROW_THREADS + threadIdx.x;
    const int all = r.heads + r.kv_heads;
    if (i >= (int64_t)r.rows * all * r.half)
        return;
    const int d = (int)(i % r.half), h = (int)(i / r.half % all);
    const int64_t m = i / r.half / all, at = (int64_t)pos.at[m] * r.half + d;
    const float c = r.cos[at], sn = r.sin[at];
    float *p = (h < r.heads ? r.q + (m * r.heads + h) * 2 * r.half : r.k + (m * r.kv_heads + h - r.heads) * 2 * r.half) + d;
    const float u = p[0], v = p[r.half];
    p[0] = fmaf(-v, sn, u * c);
    p[r.half] = fmaf(u, sn, v * c);
}

cudaError_t launch_rope(cudaStream_t s, const struct rope_args *a)
{
    for (int64_t m = 0; m < a->M; m += ROPE_ROWS) {
        const struct rope_params r = {a->q + m * a->heads * a->head_dim, a->k + m * a->kv_heads * a->head_dim, a->cos, a->sin, a->M - m < ROPE_ROWS ? (int)(a->M - m) : (int)ROPE_ROWS,
                                      a->heads, a->kv_heads, a->head_dim / 2};
        struct rope_pos part = {};
        for (int i = 0; i < r.rows; i++)
            part.at[i] = a->pos[m + i];
        LAUNCH((rope), blocks_of((int64_t)r.rows * (r.heads + r.kv_heads) * r.half), ROW_THREADS, 0, s, r, part);
        cudaError_t got = cudaGetLastError();
        if (got != cudaSuccess)
            return got;
    }
    return cudaSuccess;
}

static __device__ __forceinline__ float silu_up(float g, float u)
{
    return g / (1.0f + expf(-g)) * u;
}

/* Four elements of a row a thread; rows blockIdx.y, + gridDim.y, ... */
static __global__ void __launch_bounds__(ROW_THREADS) silu_mul(float *y, const float *gate, const float *up, int64_t M, int64_t K, const struct cuda_halves h)
{
    const int64_t k0 = ((int64_t)blockIdx.x * ROW_THREADS + threadIdx.x) * 4;
    const bool whole = K % 4 == 0 && (((uintptr_t)gate | (uintptr_t)y | (uintptr_t)up) & 15u) == 0;
    for (int64_t m = blockIdx.y; m < M; m += gridDim.y) {
        const int64_t at = m * K + k0;
        if (whole && k0 < K) {
            const float4 a = *(const float4 *)(gate + at), b = *(const float4 *)(up + at);
            const float4 z = make_float4(silu_up(a.x, b.x), silu_up(a.y, b.y), silu_up(a.z, b.z), silu_up(a.w, b.w));
            *(float4 *)(y + at) = z;
            if (h.xs)
                put_halves(h, m, k0, z);
        }
        for (int i = 0; i < 4 && !whole && k0 + i < K; i++) {
            const float z = silu_up(gate[at + i], up[at + i]);
            y[at + i] = z;
            if (h.xs)
                put_half(h, m, k0 + i, z);
        }
        if (h.xs && blockIdx.x == 0)
            pad_halves(h, m, threadIdx.x, ROW_THREADS);
    }
}

cudaError_t launch_silu_mul(cudaStream_t s, float *y, const float *gate, const float *up, int64_t M, int64_t K, const struct cuda_halves *h)
{
    enum { MOST = 65535 };
    if (M > 0 && K > 0) {
        dim3 grid(blocks_of((K + 3) / 4), M < MOST ? (unsigned)M : (unsigned)MOST);
        LAUNCH((silu_mul), grid, ROW_THREADS, 0, s, y, gate, up, M, K, *h);
    }
    return cudaGetLastError();
}

static __global__ void __launch_bounds__(ROW_THREADS) add(float *y, const float *x, int64_t n)
{
    const int64_t i = ((int64_t)blockIdx.x * ROW_THREADS + threadIdx.x) * 4;
    if (i + 4 <= n && (((uintptr_t)x | (uintptr_t)y) & 15u) == 0) {
        const float4 a = *(const float4 *)(x + i), b = *(const float4 *)(y + i);
        *(float4 *)(y + i) = make_float4(b.x + a.x, b.y + a.y, b.z + a.z, b.w + a.w);
        return;
    }
    for (int64_t k = i; k < i + 4 && k < n; k++)
        y[k] += x[k];
}

cudaError_t launch_add(cudaStream_t s, float *y, const float *x, int64_t n)
{
    if (n > 0)
        LAUNCH((add), blocks_of((n + 3) / 4), ROW_THREADS, 0, s, y, x, n);
    return cudaGetLastError();
}

/* The product kernels of all 16-bit and quantized formats, as templates over the format and the tile; linear_*.cu instantiate them.
 *
 * thin   up to 32 columns (16 rows of X): a block is MT x 16 outputs, its eight warps take one part of K each and registers are fed straight from global memory
 * wide   more: a block is 64 outputs x NT x 32 columns, all parts of K one after the other, tiles through shared memory by cp.async, four stages
 *
 * Both give the same bits (cuda_state.h "Arithmetic"): the chain of a part, the flush of a group and the order of the parts are the same. Compiled with -fmad=false. */
#ifndef KERNELS_CUDA_PRODUCT_CUH
#define KERNELS_CUDA_PRODUCT_CUH

#include <string.h>

#include "kernels/cuda/instr.cuh"

enum { THREADS = 256, WIDE_N = 64, STAGES = 4 };

struct product {
    float *y;
    const void *w;
    const uint32_t *meta;
    const int32_t *chunk_group;
    const uint16_t *x;
    const float *bias;
    int64_t ldy, w_pitch, x_pitch, meta_pitch;
    int N, columns; /* columns: 2 M */
    int chunks, units;
    int accumulate;
};

static __host__ __device__ constexpr bool quantized(int fmt)
{
    return fmt == CUDA_W4 || fmt == CUDA_W8;
}

/* uint4 words that a lane reads of one unit of a tile of 16 outputs */
static __host__ __device__ constexpr int unit_vectors(int fmt)
{
    return fmt == CUDA_W4 ? 2 : fmt == CUDA_W8 ? 4 : 8;
}

template <int FMT> static __device__ __forceinline__ void mma(float *c, const uint32_t *a, uint32_t b0, uint32_t b1)
{
    if constexpr (FMT == CUDA_F16)
        mma_f16(c, a, b0, b1);
    else
        mma_bf16(c, a, b0, b1);
}

static __device__ __forceinline__ float meta_scale(uint32_t m)
{
    return __half2float(__ushort_as_half((unsigned short)(m & 0xffffu)));
}

static __device__ __forceinline__ uint32_t bf16x2_sub(uint32_t a, uint32_t b)
{
    __nv_bfloat162 x, y;
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    x = __hsub2(x, y);
    memcpy(&a, &x, sizeof a);
    return a;
}

/* Eight 4-bit codes less their zeros as the A operand: 128 + code and 128 + zero are exact in bf16, and so is the difference. */
static __device__ __forceinline__ void unpack_w4(uint32_t *a, uint32_t q, uint32_t m0, uint32_t m1)
{
    uint32_t z0 = 0x43004300u + (m0 >> 16) * 0x00010001u, z1 = 0x43004300u + (m1 >> 16) * 0x00010001u;
    a[0] = bf16x2_sub((q & 0x000f000fu) | 0x43004300u, z0);
    a[1] = bf16x2_sub((q >> 4 & 0x000f000fu) | 0x43004300u, z1);
    a[2] = bf16x2_sub((q >> 8 & 0x000f000fu) | 0x43004300u, z0);
    a[3] = bf16x2_sub((q >> 12 & 0x000f000fu) | 0x43004300u, z1);
}

/* Two bytes of q less a zero: 2^23 + code as f32 by a byte permutation; the difference has at most 8 significant bits, its upper half is the bf16. */
static __device__ __forceinline__ uint32_t unpack_byte_pair(uint32_t q, int first, float zero)
{
    float lo = __uint_as_float(__byte_perm(q, 0x4b000000u, 0x7440u + (uint32_t)first)) - zero;
    float hi = __uint_as_float(__byte_perm(q, 0x4b000000u, 0x7441u + (uint32_t)first)) - zero;
    return __byte_perm(__float_as_uint(lo), __float_as_uint(hi), 0x7632u);
}

static __device__ __forceinline__ void unpack_w8(uint32_t *a, uint32_t q01, uint32_t q23, uint32_t m0, uint32_t m1)
{
    float z0 = 8388608.0f + (float)(m0 >> 16), z1 = 8388608.0f + (float)(m1 >> 16);
    a[0] = unpack_byte_pair(q01, 0, z0);
    a[1] = unpack_byte_pair(q01, 2, z1);
    a[2] = unpack_byte_pair(q23, 0, z0);
    a[3] = unpack_byte_pair(q23, 2, z1);
}

static __device__ __forceinline__ uint32_t word_of(const uint4 &v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* The A operand of step s of a chunk. v: what load_chunk or a tile in shared memory gives: W4 words in place `w4` and `w4` + 1 of v[0]; W8 v[0]; dense v[0] row g,
 * v[1] row g + 8. */
template <int FMT> static __device__ __forceinline__ void operand_a(uint32_t *a, const uint4 *v, int w4, int s, uint32_t m0, uint32_t m1)
{
    if constexpr (FMT == CUDA_W4) {
        unpack_w4(a, word_of(v[0], w4 + s), m0, m1);
    } else if constexpr (FMT == CUDA_W8) {
        unpack_w8(a, word_of(v[0], 2 * s), word_of(v[0], 2 * s + 1), m0, m1);
    } else {
        a[0] = word_of(v[0], 2 * s);
        a[1] = word_of(v[1], 2 * s);
        a[2] = word_of(v[0], 2 * s + 1);
        a[3] = word_of(v[1], 2 * s + 1);
    }
}

/* A finished stretch of one group: total += scale * sum. */
static __device__ __forceinline__ void flush(float *total, float *acc, uint32_t m0, uint32_t m1)
{
    float s0 = meta_scale(m0), s1 = meta_scale(m1);
    total[0] = fmaf(s0, acc[0], total[0]);
    total[1] = fmaf(s0, acc[1], total[1]);
    total[2] = fmaf(s1, acc[2], total[2]);
    total[3] = fmaf(s1, acc[3], total[3]);
    acc[0] = acc[1] = acc[2] = acc[3] = 0.0f;
}

/* One output: halves joined, bias, the sum with y. */
static __device__ __forceinline__ void finish(const struct product &p, int n, int m, float hi, float lo)
{
    float v = hi + lo;
    float *y = p.y + (int64_t)m * p.ldy + n;
    if (p.bias)
        v += p.bias[n];
    *y = p.accumulate ? *y + v : v;
}

/* thin */

/* All that a lane needs of W for unit u. */
template <int FMT, int MT> struct unit_regs {
    uint4 v[MT][unit_vectors(FMT)];
    uint32_t meta[UNIT_CHUNKS][MT][2];
};

template <int FMT, int MT>
static __device__ __forceinline__ void load_unit(struct unit_regs<FMT, MT> &r, const struct product &p, const int *group, int n0, int u, int lane)
{
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < MT; i++) {
        if constexpr (quantized(FMT)) {
            const uint4 *from = (const uint4 *)p.w + ((int64_t)(n0 / TILE_N + i) * p.units + u) * unit_vectors(FMT) * 32 + lane;
#pragma unroll
            for (int h = 0; h < unit_vectors(FMT); h++)
                r.v[i][h] = __ldcs(from + h * 32);
#pragma unroll
            for (int c = 0; c < UNIT_CHUNKS; c++) {
                const uint32_t *m = p.meta + group[u * UNIT_CHUNKS + c] * p.meta_pitch + n0 + i * TILE_N + g;
                r.meta[c][i][0] = __ldg(m);
                r.meta[c][i][1] = __ldg(m + 8);
            }
        } else {
#pragma unroll
            for (int h = 0; h < 8; h++) { /* chunk h / 2, row g + 8 (h % 2) */
                int n = n0 + i * TILE_N + g + 8 * (h % 2), chunk = u * UNIT_CHUNKS + h / 2;
                n = n < p.N ? n : p.N - 1;
                r.v[i][h] = make_uint4(0, 0, 0, 0);
                if (chunk < p.chunks)
                    r.v[i][h] = __ldcs((const uint4 *)((const uint16_t *)p.w + n * p.w_pitch + chunk * CHUNK_K + 8 * t));
            }
        }
    }
}

template <int FMT, int MT, int NT>
static __device__ __forceinline__ void thin_unit(float (*total)[NT][4], float (*acc)[NT][4], const struct unit_regs<FMT, MT> &r, const struct product &p,
                                                 const int *group, int u, int lane)
{
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int c = 0; c < UNIT_CHUNKS; c++) {
        const int chunk = u * UNIT_CHUNKS + c;
        if (chunk >= p.chunks)
            break;
        uint4 x[NT];
#pragma unroll
        for (int j = 0; j < NT; j++) {
            x[j] = make_uint4(0, 0, 0, 0);
            if (j * 8 + g < p.columns)
                x[j] = __ldg((const uint4 *)(p.x + (j * 8 + g) * p.x_pitch + chunk * CHUNK_K + 8 * t));
        }
#pragma unroll
        for (int i = 0; i < MT; i++) {
#pragma unroll
            for (int s = 0; s < 2; s++) {
                uint32_t a[4];
                constexpr int per_chunk = quantized(FMT) ? 1 : 2;
                operand_a<FMT>(a, &r.v[i][FMT == CUDA_W4 ? c / 2 : c * per_chunk], c % 2 * 2, s, r.meta[c][i][0], r.meta[c][i][1]);
#pragma unroll
                for (int j = 0; j < NT; j++)
                    mma<FMT>(acc[i][j], a, word_of(x[j], 2 * s), word_of(x[j], 2 * s + 1));
            }
        }
        if constexpr (quantized(FMT)) {
            if (c == UNIT_CHUNKS - 1 || group[chunk] != group[chunk + 1]) {
#pragma unroll
                for (int i = 0; i < MT; i++)
#pragma unroll
                    for (int j = 0; j < NT; j++)
                        flush(total[i][j], acc[i][j], r.meta[c][i][0], r.meta[c][i][1]);
            }
        }
    }
}

/* Parts of K, one a warp, joined in order through shared memory. */
template <int MT, int NT> static __device__ __forceinline__ void thin_store(const float (*total)[NT][4], float *red, const struct product &p, int n0)
{
    constexpr int rows = MT * TILE_N, cols = NT * 8;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++) {
            float *to = red + (warp * rows + i * TILE_N + g) * cols + j * 8 + 2 * t;
            to[0] = total[i][j][0];
            to[1] = total[i][j][1];
            to[8 * cols] = total[i][j][2];
            to[8 * cols + 1] = total[i][j][3];
        }
    __syncthreads();
    for (int o = threadIdx.x; o < rows * cols / 2; o += THREADS) {
        int r = o % rows, m = o / rows;
        float hi = 0.0f, lo = 0.0f;
        for (int w = 0; w < SPLIT_K; w++) {
            hi += red[(w * rows + r) * cols + 2 * m];
            lo += red[(w * rows + r) * cols + 2 * m + 1];
        }
        if (2 * m < p.columns && n0 + r < p.N)
            finish(p, n0 + r, m, hi, lo);
    }
}

template <int FMT, int MT, int NT> static __global__ void __launch_bounds__(THREADS) thin(const struct product p)
{
    DYNAMIC_SHARED(int, group); /* of each chunk (quantized), p.units * UNIT_CHUNKS */
    __shared__ float red[SPLIT_K * MT * TILE_N * NT * 8];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n0 = blockIdx.x * MT * TILE_N;
    if constexpr (quantized(FMT)) {
        for (int i = threadIdx.x; i < p.units * UNIT_CHUNKS; i += THREADS)
            group[i] = p.chunk_group[i];
        __syncthreads();
    }
    float total[MT][NT][4] = {}, acc[MT][NT][4] = {};
    struct unit_regs<FMT, MT> now, next;
    if (warp < p.units)
        load_unit<FMT, MT>(now, p, group, n0, warp, lane);
    for (int u = warp; u < p.units; u += SPLIT_K) {
        if constexpr (quantized(FMT)) {
            if (u + SPLIT_K < p.units)
                load_unit<FMT, MT>(next, p, group, n0, u + SPLIT_K, lane);
            thin_unit<FMT, MT, NT>(total, acc, now, p, group, u, lane);
            now = next;
        } else {
            thin_unit<FMT, MT, NT>(total, acc, now, p, group, u, lane);
            if (u + SPLIT_K < p.units)
                load_unit<FMT, MT>(now, p, group, n0, u + SPLIT_K, lane);
        }
    }
    thin_store<MT, NT>(quantized(FMT) ? total : acc, red, p, n0);
}

/* wide */

/* A chunk after another: the units of part 0, then of part 1, ... */
struct cursor {
    int part, unit, chunk;
};

static __device__ __forceinline__ void cursor_next(struct cursor &c, const struct product &p)
{
    c.chunk++;
    if (c.chunk < UNIT_CHUNKS && c.unit * UNIT_CHUNKS + c.chunk < p.chunks)
        return;
    c.chunk = 0;
    c.unit += SPLIT_K;
    if (c.unit >= p.units) {
        c.part++;
        c.unit = c.part; /* beyond p.units when the parts are through */
    }
}

/* One stage. W4: uint2 [tile 4][lane 32]; W8: uint4; dense: [64][32] values. */
template <int FMT, int NT> struct wide_stage {
    uint16_t x[NT * 32][CHUNK_K];
    uint4 w[FMT == CUDA_W4 ? 64 : FMT == CUDA_W8 ? 128 : WIDE_N * 4];
    uint32_t meta[WIDE_N];
};

template <int FMT, int NT> struct wide_shared {
    struct wide_stage<FMT, NT> stage[STAGES];
    float sum[2 * NT * 4][THREADS]; /* of the parts that are through, each thread's own */
};

template <int FMT, int NT>
static __device__ __forceinline__ void wide_load(struct wide_stage<FMT, NT> &to, const struct product &p, const struct cursor &c, int n0, int v0)
{
    const int chunk = c.unit * UNIT_CHUNKS + c.chunk;
    for (int i = threadIdx.x; i < NT * 32 * 4; i += THREADS) {
        int v = v0 + i / 4;
        bool real = v < p.columns;
        copy16(&to.x[i / 4][i % 4 * 8], p.x + (real ? v : 0) * p.x_pitch + chunk * CHUNK_K + i % 4 * 8, real);
    }
    if constexpr (FMT == CUDA_W4) {
        if (threadIdx.x < 128) {
            int tile = threadIdx.x / 32, lane = threadIdx.x % 32;
            const uint2 *from = (const uint2 *)p.w + ((((int64_t)(n0 / TILE_N + tile) * p.units + c.unit) * 2 + c.chunk / 2) * 32 + lane) * 2 + c.chunk % 2;
            copy8((uint2 *)to.w + threadIdx.x, from);
        }
    } else if constexpr (FMT == CUDA_W8) {
        if (threadIdx.x < 128) {
            int tile = threadIdx.x / 32, lane = threadIdx.x % 32;
            copy16(&to.w[threadIdx.x], (const uint4 *)p.w + (((int64_t)(n0 / TILE_N + tile) * p.units + c.unit) * 4 + c.chunk) * 32 + lane, true);
        }
    } else {
        int n = n0 + threadIdx.x / 4;
        bool real = n < p.N;
        copy16(&to.w[threadIdx.x], (const uint16_t *)p.w + (real ? n : 0) * p.w_pitch + chunk * CHUNK_K + threadIdx.x % 4 * 8, real);
    }
    if constexpr (quantized(FMT)) {
        if (threadIdx.x >= 128 && threadIdx.x < 128 + WIDE_N / 4) {
            int i = (threadIdx.x - 128) * 4;
            copy16(&to.meta[i], p.meta + p.chunk_group[chunk] * p.meta_pitch + n0 + i, true);
        }
    }
}

/* The chunk in a stage times its columns: warp wm of two takes 32 outputs, wv of four NT x 8 columns. */
template <int FMT, int NT>
static __device__ __forceinline__ void wide_chunk(float (*acc)[NT][4], const struct wide_stage<FMT, NT> &st, int wm, int wv, int lane)
{
    const int g = lane / 4, t = lane % 4;
    uint4 x[NT];
#pragma unroll
    for (int j = 0; j < NT; j++)
        x[j] = *(const uint4 *)&st.x[(wv * NT + j) * 8 + g][8 * t];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int row = wm * 32 + i * TILE_N + g;
        uint4 v[2];
        uint32_t m0 = 0, m1 = 0;
        if constexpr (FMT == CUDA_W4) {
            uint2 q = ((const uint2 *)st.w)[(wm * 2 + i) * 32 + lane];
            v[0] = make_uint4(q.x, q.y, 0, 0);
        } else if constexpr (FMT == CUDA_W8) {
            v[0] = st.w[(wm * 2 + i) * 32 + lane];
        } else {
            v[0] = st.w[row * 4 + t];
            v[1] = st.w[(row + 8) * 4 + t];
        }
        if constexpr (quantized(FMT)) {
            m0 = st.meta[row];
            m1 = st.meta[row + 8];
        }
#pragma unroll
        for (int s = 0; s < 2; s++) {
            uint32_t a[4];
            operand_a<FMT>(a, v, 0, s, m0, m1);
#pragma unroll
            for (int j = 0; j < NT; j++)
                mma<FMT>(acc[i][j], a, word_of(x[j], 2 * s), word_of(x[j], 2 * s + 1));
        }
    }
}

template <int FMT, int NT>
static __device__ __forceinline__ void wide_flush(float (*total)[NT][4], float (*acc)[NT][4], const struct wide_stage<FMT, NT> &st, int wm, int lane)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int row = wm * 32 + i * TILE_N + lane / 4;
#pragma unroll
        for (int j = 0; j < NT; j++)
            flush(total[i][j], acc[i][j], st.meta[row], st.meta[row + 8]);
    }
}

template <int NT> static __device__ __forceinline__ void wide_join(float (*sum)[THREADS], float (*total)[NT][4])
{
#pragma unroll
    for (int i = 0; i < 2 * NT * 4; i++) {
        float *v = &total[i / (NT * 4)][i / 4 % NT][i % 4];
        sum[i][threadIdx.x] += *v;
        *v = 0.0f;
    }
}

template <int FMT, int NT> static __global__ void __launch_bounds__(THREADS, 2) wide(const struct product p)
{
    DYNAMIC_SHARED(unsigned char, shared_bytes);
    struct wide_shared<FMT, NT> &sh = *(struct wide_shared<FMT, NT> *)shared_bytes;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, wm = warp % 2, wv = warp / 2;
    const int v0 = blockIdx.x * NT * 32, n0 = blockIdx.y * WIDE_N;
    float total[2][NT][4] = {}, acc[2][NT][4] = {};
    for (int i = 0; i < 2 * NT * 4; i++)
        sh.sum[i][threadIdx.x] = 0.0f;
    struct cursor load = {0, 0, 0}, at = {0, 0, 0};
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < p.chunks) {
            wide_load<FMT, NT>(sh.stage[i], p, load, n0, v0);
            cursor_next(load, p);
        }
        copy_commit();
    }
    for (int i = 0; i < p.chunks; i++) {
        copy_wait<STAGES - 2>();
        __syncthreads();
        if (i + STAGES - 1 < p.chunks) {
            wide_load<FMT, NT>(sh.stage[(i + STAGES - 1) % STAGES], p, load, n0, v0);
            cursor_next(load, p);
        }
        copy_commit();
        const struct wide_stage<FMT, NT> &st = sh.stage[i % STAGES];
        wide_chunk<FMT, NT>(acc, st, wm, wv, lane);
        struct cursor was = at;
        cursor_next(at, p);
        if constexpr (quantized(FMT)) {
            int chunk = was.unit * UNIT_CHUNKS + was.chunk;
            if (at.unit != was.unit || p.chunk_group[chunk] != p.chunk_group[chunk + 1])
                wide_flush<FMT, NT>(total, acc, st, wm, lane);
        }
        if (at.part != was.part)
            wide_join<NT>(sh.sum, quantized(FMT) ? total : acc);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                int n = n0 + wm * 32 + i * TILE_N + lane / 4 + 8 * r, v = v0 + (wv * NT + j) * 8 + lane % 4 * 2;
                const int at_sum = (i * NT + j) * 4 + 2 * r;
                if (n < p.N && v < p.columns)
                    finish(p, n, v / 2, sh.sum[at_sum][threadIdx.x], sh.sum[at_sum + 1][threadIdx.x]);
            }
}

/* Launching */

template <int FMT, int MT, int NT> static cudaError_t run_thin(cudaStream_t s, const struct product *p)
{
    size_t groups = quantized(FMT) ? (size_t)p->units * UNIT_CHUNKS * sizeof(int) : 0;
    constexpr size_t fixed = sizeof(float) * SPLIT_K * MT * TILE_N * NT * 8;
    if (groups + fixed > 48 * 1024) {
        cudaError_t r = cudaFuncSetAttribute((const void *)thin<FMT, MT, NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)groups);
        if (r != cudaSuccess)
            return r;
    }
    LAUNCH((thin<FMT, MT, NT>), (unsigned)((p->N + MT * TILE_N - 1) / (MT * TILE_N)), THREADS, groups, s, *p);
    return cudaGetLastError();
}

template <int FMT, int NT> static cudaError_t run_wide(cudaStream_t s, const struct product *p)
{
    constexpr int bytes = (int)sizeof(struct wide_shared<FMT, NT>);
    cudaError_t r = cudaFuncSetAttribute((const void *)wide<FMT, NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (r != cudaSuccess)
        return r;
    dim3 grid((unsigned)((p->columns + NT * 32 - 1) / (NT * 32)), (unsigned)((p->N + WIDE_N - 1) / WIDE_N));
    LAUNCH((wide<FMT, NT>), grid, THREADS, bytes, s, *p);
    return cudaGetLastError();
}

/* Which kernel: by the columns alone, and how many outputs a block takes by how many there are. No choice changes a bit. */
template <int FMT> static cudaError_t run_product(cudaStream_t s, const struct linear_args *a, int processors)
{
    const struct weight *w = a->w;
    struct product p = {};
    p.y = a->y;
    p.w = w->data;
    p.meta = w->meta;
    p.chunk_group = w->chunk_group;
    p.x = a->xs;
    p.bias = a->bias;
    p.ldy = a->ldy;
    p.w_pitch = w->pitch;
    p.x_pitch = pad_to(w->pitch, UNIT_K);
    p.meta_pitch = pad_to(w->N, WIDE_N);
    p.N = (int)w->N;
    p.columns = (int)(2 * a->M);
    p.chunks = (int)(w->pitch / CHUNK_K);
    p.units = (p.chunks + UNIT_CHUNKS - 1) / UNIT_CHUNKS;
    p.accumulate = a->accumulate;
    bool tall = w->N >= (int64_t)processors * 8 * TILE_N;
    if (p.columns <= 8)
        return tall ? run_thin<FMT, 2, 1>(s, &p) : run_thin<FMT, 1, 1>(s, &p);
    if (p.columns <= 16)
        return tall ? run_thin<FMT, 2, 2>(s, &p) : run_thin<FMT, 1, 2>(s, &p);
    if (p.columns <= 32)
        return tall ? run_thin<FMT, 2, 4>(s, &p) : run_thin<FMT, 1, 4>(s, &p);
    return p.columns <= 64 ? run_wide<FMT, 2>(s, &p) : run_wide<FMT, 4>(s, &p);
}

#endif

/* Attention over a key/value cache in pages of one block of positions. A row is a pair (position, query head of a group); a block of threads takes R rows of one key head of one segment.
 *
 * What a row's result is: positions go in blocks of ATTN_BLOCK (absolute: block i is positions 64 i ..), each with one running maximum, sum and output; after
 * ATTN_SPLIT positions (absolute too) they start anew, and the parts are joined in order. So nothing depends on the other rows of a block, on how many there are, on
 * the segment's other positions or on whether parts ran side by side. Scores: one FMA chain over d; a block's outputs: one FMA chain over positions.
 * Compiled with -fmad=false. */
#include "kernels/cuda/halves.cuh"
#include "kernels/cuda/instr.cuh"

enum { ATTN_THREADS = 128, ROWS_SPLIT = 8, ROWS_WHOLE = 16 };

struct attn_params {
    const float *q, *k, *v;
    float *y, *partial;
    int heads, kv_heads, D, Dp; /* Dp: D padded to 4 */
    int64_t window;
    float scale;
    struct cuda_halves halves;  /* of y */
    int max_rows, max_splits;   /* strides of `partial`: [segment][kv head][row pair][split][D + 2] */
    struct cuda_segment seg[ATTN_SEGMENTS];
};

static __global__ void __launch_bounds__(ATTN_THREADS) append(const struct attn_params p)
{
    const struct cuda_segment &s = p.seg[blockIdx.z];
    const int64_t m = blockIdx.x;
    const int head = blockIdx.y;
    if (m >= s.rows)
        return;
    const int64_t from = ((s.row + m) * p.kv_heads + head) * p.D, to = (head * ATTN_BLOCK + (s.pos + m) % ATTN_BLOCK) * p.D;
    float *const page = s.pages[(s.pos + m) / ATTN_BLOCK];
    for (int d = threadIdx.x; d < p.D; d += ATTN_THREADS) {
        page[s.k + to + d] = p.k[from + d];
        page[s.v + to + d] = p.v[from + d];
    }
}

/* Rows first .. first + R - 1 of the pairs of a segment's key head, and what is kept of them. */
template <int R> struct rows_state {
    float most[R / 4], sum[R / 4]; /* of row warp + 4 i, the same in all lanes */
};

template <int R> struct attn_shared {
    __align__(16) float p[R][ATTN_BLOCK];
    float factor[R];
    float most[R], sum[R];
};

struct tile_at {
    int head, group, first, count; /* pairs first .. first + count - 1 */
};

static __device__ __forceinline__ int64_t row_pos(const struct cuda_segment &s, const struct tile_at &t, int r)
{
    return s.pos + (t.first + r) / t.group;
}

static __device__ __forceinline__ int64_t row_start(const struct attn_params &p, int64_t pos)
{
    int64_t start = p.window > 0 ? pos + 1 - p.window : 0;
    return start > 0 ? start : 0;
}

static __device__ __forceinline__ int64_t row_at(const struct attn_params &p, const struct cuda_segment &s, const struct tile_at &t, int r)
{
    int pair = t.first + r;
    return ((int64_t)(s.row + pair / t.group) * p.heads + t.head * t.group + pair % t.group) * p.D;
}

/* Element d of pair r's output, and its halves. */
static __device__ __forceinline__ void put_output(const struct attn_params &p, const struct cuda_segment &s, const struct tile_at &t, int r, int d, float v)
{
    p.y[row_at(p, s, t, r) + d] = v;
    if (p.halves.xs) {
        const int pair = t.first + r;
        put_half(p.halves, s.row + pair / t.group, (t.head * t.group + pair % t.group) * p.D + d, v);
    }
}

/* What lies behind the last head of pair r's row of halves. */
static __device__ __forceinline__ void pad_output(const struct attn_params &p, const struct cuda_segment &s, const struct tile_at &t, int r)
{
    const int pair = t.first + r;
    if (p.halves.xs && t.head == p.kv_heads - 1 && pair % t.group == t.group - 1)
        pad_halves(p.halves, s.row + pair / t.group, threadIdx.x, ATTN_THREADS);
}

/* Rows of D floats to rows of `pitch` in shared memory, zero beyond D and beyond `rows`. */
static __device__ __forceinline__ void load_rows(float *to, int pitch, const float *from, int64_t stride, int rows, int all, int D, int Dp)
{
    for (int i = threadIdx.x; i < all * (Dp / 4); i += ATTN_THREADS) {
        int r = i / (Dp / 4), d = i % (Dp / 4) * 4;
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (r < rows) {
            const float *row = from + r * stride + d;
            if (D % 4 == 0) {
                v = *(const float4 *)row;
            } else {
                v.x = row[0];
                v.y = d + 1 < D ? row[1] : 0.0f;
                v.z = d + 2 < D ? row[2] : 0.0f;
                v.w = d + 3 < D ? row[3] : 0.0f;
            }
        }
        *(float4 *)(to + r * pitch + d) = v;
    }
}

/* Scores of R rows against the 64 keys in `keys`: thread (position, half of the rows). */
template <int R> static __device__ __forceinline__ void score(struct attn_shared<R> &sh, const float *keys, const float *q, int Dp, float scale)
{
    const int at = threadIdx.x % ATTN_BLOCK, r0 = threadIdx.x / ATTN_BLOCK * (R / 2), pitch = Dp + 4;
    float c[R / 2] = {};
    for (int d = 0; d < Dp; d += 4) {
        const float4 k = *(const float4 *)(keys + at * pitch + d);
#pragma unroll
        for (int r = 0; r < R / 2; r++) {
            const float4 x = *(const float4 *)(q + (r0 + r) * Dp + d);
            c[r] = fmaf(x.x, k.x, c[r]);
            c[r] = fmaf(x.y, k.y, c[r]);
            c[r] = fmaf(x.z, k.z, c[r]);
            c[r] = fmaf(x.w, k.w, c[r]);
        }
    }
#pragma unroll
    for (int r = 0; r < R / 2; r++)
        sh.p[r0 + r][at] = c[r] * scale;
}

/* Scores to exp(score - running maximum), +0 where the row does not see the position. */
template <int R>
static __device__ __forceinline__ void soften(struct rows_state<R> &st, struct attn_shared<R> &sh, const struct attn_params &p, const struct cuda_segment &s,
                                              const struct tile_at &t, int64_t base)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < R / 4; i++) {
        const int r = warp + 4 * i;
        const int64_t pos = row_pos(s, t, r), start = row_start(p, pos);
        float x[2], most = -INFINITY;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int64_t at = base + lane + 32 * h;
            x[h] = r < t.count && at >= start && at <= pos ? sh.p[r][lane + 32 * h] : -INFINITY;
            most = fmaxf(most, x[h]);
        }
        for (int d = 16; d > 0; d /= 2)
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, d));
        most = fmaxf(most, st.most[i]);
        float factor = st.most[i] == most ? 1.0f : expf(st.most[i] - most), part = 0.0f;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float e = x[h] == -INFINITY ? 0.0f : expf(x[h] - most);
            sh.p[r][lane + 32 * h] = e;
            part += e;
        }
        for (int d = 16; d > 0; d /= 2)
            part += __shfl_xor_sync(0xffffffffu, part, d);
        st.sum[i] = st.sum[i] * factor + part;
        st.most[i] = most;
        if (lane == 0)
            sh.factor[r] = factor;
    }
}

/* out = out * factor + p V over the `n` positions of a block; a thread owns columns threadIdx.x + 128 j. */
template <int R, int DV>
static __device__ __forceinline__ void weigh(float (*out)[DV], const struct attn_shared<R> &sh, const float *values, int n, int D)
{
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int j = 0; j < DV; j++)
            out[r][j] *= sh.factor[r];
    for (int at = 0; at < n; at += 4) {
        float v[4][DV];
#pragma unroll
        for (int h = 0; h < 4; h++)
#pragma unroll
            for (int j = 0; j < DV; j++) {
                int d = threadIdx.x + ATTN_THREADS * j;
                v[h][j] = at + h < n && d < D ? values[(int64_t)(at + h) * D + d] : 0.0f;
            }
#pragma unroll
        for (int r = 0; r < R; r++) {
            const float4 w = *(const float4 *)&sh.p[r][at];
#pragma unroll
            for (int j = 0; j < DV; j++) {
                out[r][j] = fmaf(w.x, v[0][j], out[r][j]);
                out[r][j] = fmaf(w.y, v[1][j], out[r][j]);
                out[r][j] = fmaf(w.z, v[2][j], out[r][j]);
                out[r][j] = fmaf(w.w, v[3][j], out[r][j]);
            }
        }
    }
}

/* One part of the positions, [from, to), into st and out, which start anew. */
template <int R, int DV>
static __device__ void attend_part(struct rows_state<R> &st, float (*out)[DV], struct attn_shared<R> &sh, float *keys, const float *q, const struct attn_params &p,
                                   const struct cuda_segment &s, const struct tile_at &t, int64_t from, int64_t to)
{
#pragma unroll
    for (int i = 0; i < R / 4; i++) {
        st.most[i] = -INFINITY;
        st.sum[i] = 0.0f;
    }
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int j = 0; j < DV; j++)
            out[r][j] = 0.0f;
    for (int64_t base = from / ATTN_BLOCK * ATTN_BLOCK; base < to; base += ATTN_BLOCK) {
        const int n = to - base < ATTN_BLOCK ? (int)(to - base) : (int)ATTN_BLOCK;
        __syncthreads();
        load_rows(keys, p.Dp + 4, s.pages[base / ATTN_BLOCK] + s.k + t.head * ATTN_BLOCK * p.D, p.D, n, ATTN_BLOCK, p.D, p.Dp);
        __syncthreads();
        score<R>(sh, keys, q, p.Dp, p.scale);
        __syncthreads();
        soften<R>(st, sh, p, s, t, base);
        __syncthreads();
        weigh<R, DV>(out, sh, s.pages[base / ATTN_BLOCK] + s.v + t.head * ATTN_BLOCK * p.D, n, p.D);
    }
}

/* Maximum and sum of every row where all threads see them. */
template <int R> static __device__ __forceinline__ void publish(struct attn_shared<R> &sh, const struct rows_state<R> &st)
{
    __syncthreads();
    if (threadIdx.x % 32 == 0)
#pragma unroll
        for (int i = 0; i < R / 4; i++) {
            sh.most[threadIdx.x / 32 + 4 * i] = st.most[i];
            sh.sum[threadIdx.x / 32 + 4 * i] = st.sum[i];
        }
    __syncthreads();
}

/* What two parts' figures are worth together: the later one is added to the earlier. */
struct join {
    float most, sum, keep, take;
};

static __device__ __forceinline__ struct join join_parts(float most, float sum, float part_most, float part_sum)
{
    struct join j = {most, sum, 1.0f, 0.0f};
    if (part_most == -INFINITY)
        return j;
    j.most = fmaxf(most, part_most);
    j.keep = most == j.most ? 1.0f : expf(most - j.most);
    j.take = part_most == j.most ? 1.0f : expf(part_most - j.most);
    j.sum = fmaf(sum, j.keep, part_sum * j.take);
    return j;
}

static __device__ __forceinline__ float join_out(const struct join &j, float out, float part)
{
    return fmaf(out, j.keep, part * j.take);
}

static __device__ __forceinline__ bool tile_of(struct tile_at &t, const struct attn_params &p, const struct cuda_segment &s, int tile, int head, int R)
{
    t.head = head;
    t.group = p.heads / p.kv_heads;
    t.first = tile * R;
    int pairs = s.rows * t.group;
    t.count = pairs - t.first < R ? pairs - t.first : R;
    return t.count > 0;
}

static __device__ __forceinline__ void load_queries(float *q, const struct attn_params &p, const struct cuda_segment &s, const struct tile_at &t, int R)
{
    for (int r = 0; r < R; r++)
        for (int d = threadIdx.x; d < p.Dp; d += ATTN_THREADS)
            q[r * p.Dp + d] = r < t.count && d < p.D ? p.q[row_at(p, s, t, r) + d] : 0.0f;
}

/* Parts side by side: grid (tiles, kv heads x splits, segments); results into p.partial. */
template <int DV> static __global__ void __launch_bounds__(ATTN_THREADS, 2) attention_split(const struct attn_params p)
{
    constexpr int R = ROWS_SPLIT;
    DYNAMIC_SHARED(float, dynamic); /* q [R][Dp], keys [64][Dp + 4] */
    __shared__ struct attn_shared<R> sh;
    const struct cuda_segment &s = p.seg[blockIdx.z];
    const int head = (int)blockIdx.y / p.max_splits, split = (int)blockIdx.y % p.max_splits;
    struct tile_at t;
    if (!tile_of(t, p, s, blockIdx.x, head, R))
        return;
    const int64_t last = row_pos(s, t, t.count - 1) + 1, begin = (int64_t)split * ATTN_SPLIT, start = row_start(p, row_pos(s, t, 0));
    const int64_t from = start > begin ? start : begin, to = last < begin + ATTN_SPLIT ? last : begin + ATTN_SPLIT;
    struct rows_state<R> st;
    float out[R][DV];
    load_queries(dynamic, p, s, t, R);
    attend_part<R, DV>(st, out, sh, dynamic + R * p.Dp, dynamic, p, s, t, from, to); /* from >= to: nothing seen */
    publish<R>(sh, st);
    for (int r = 0; r < R && r < t.count; r++) {
        float *to_row = p.partial + ((((int64_t)blockIdx.z * p.kv_heads + head) * p.max_rows + t.first + r) * p.max_splits + split) * (p.D + 2);
        for (int j = 0; j < DV; j++)
            if (threadIdx.x + ATTN_THREADS * j < p.D)
                to_row[2 + threadIdx.x + ATTN_THREADS * j] = out[r][j];
        if (threadIdx.x == 0) {
            to_row[0] = sh.most[r];
            to_row[1] = sh.sum[r];
        }
    }
}

/* The parts of a pair in order: grid (pairs, kv heads, segments). */
static __global__ void __launch_bounds__(ATTN_THREADS, 4) attention_join(const struct attn_params p)
{
    const struct cuda_segment &s = p.seg[blockIdx.z];
    const int head = blockIdx.y;
    struct tile_at t;
    if (!tile_of(t, p, s, blockIdx.x, head, 1))
        return;
    const float *part = p.partial + (((int64_t)blockIdx.z * p.kv_heads + head) * p.max_rows + t.first) * p.max_splits * (p.D + 2);
    const int splits = (int)(row_pos(s, t, 0) / ATTN_SPLIT + 1);
    for (int d = threadIdx.x; d < p.D; d += ATTN_THREADS) {
        float most = -INFINITY, sum = 0.0f, out = 0.0f;
        for (int i = 0; i < splits; i++) {
            const float *row = part + (int64_t)i * (p.D + 2);
            struct join j = join_parts(most, sum, row[0], row[1]);
            out = join_out(j, out, row[2 + d]);
            most = j.most;
            sum = j.sum;
        }
        put_output(p, s, t, 0, d, out / sum);
    }
    pad_output(p, s, t, 0);
}

/* Parts one after the other: grid (tiles, kv heads, segments). Two blocks an SM: without a word on it ptxas aims at three and spills. */
template <int DV> static __global__ void __launch_bounds__(ATTN_THREADS, 2) attention_whole(const struct attn_params p)
{
    constexpr int R = ROWS_WHOLE;
    DYNAMIC_SHARED(float, dynamic);
    __shared__ struct attn_shared<R> sh;
    const struct cuda_segment &s = p.seg[blockIdx.z];
    struct tile_at t;
    if (!tile_of(t, p, s, gridDim.x - 1 - blockIdx.x, blockIdx.y, R)) /* long rows first */
        return;
    const int64_t last = row_pos(s, t, t.count - 1) + 1, start = row_start(p, row_pos(s, t, 0));
    struct rows_state<R> st;
    float out[R][DV], all[R][DV] = {}, most[R], sum[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
        most[r] = -INFINITY;
        sum[r] = 0.0f;
    }
    load_queries(dynamic, p, s, t, R);
    for (int64_t begin = start / ATTN_SPLIT * ATTN_SPLIT; begin < last; begin += ATTN_SPLIT) {
        const int64_t from = start > begin ? start : begin, to = last < begin + ATTN_SPLIT ? last : begin + ATTN_SPLIT;
        attend_part<R, DV>(st, out, sh, dynamic + R * p.Dp, dynamic, p, s, t, from, to);
        publish<R>(sh, st);
#pragma unroll
        for (int r = 0; r < R; r++) {
            struct join j = join_parts(most[r], sum[r], sh.most[r], sh.sum[r]);
            most[r] = j.most;
            sum[r] = j.sum;
#pragma unroll
            for (int c = 0; c < DV; c++)
                all[r][c] = join_out(j, all[r][c], out[r][c]);
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
        if (r >= t.count)
            break;
#pragma unroll
        for (int c = 0; c < DV; c++)
            if (threadIdx.x + ATTN_THREADS * c < p.D)
                put_output(p, s, t, r, threadIdx.x + ATTN_THREADS * c, all[r][c] / sum[r]);
        pad_output(p, s, t, r);
    }
}

/* Launching */

static struct attn_params params_of(const struct attention_launch *l)
{
    const struct attn_args *a = l->a;
    struct attn_params p = {};
    p.q = a->q, p.k = a->k, p.v = a->v, p.y = a->y, p.partial = l->partial;
    p.heads = a->heads, p.kv_heads = a->kv_heads, p.D = a->head_dim, p.Dp = (int)pad_to(a->head_dim, 4);
    p.window = a->window;
    p.scale = a->scale;
    p.halves = l->halves;
    p.max_rows = (int)l->most_rows * (a->heads / a->kv_heads);
    p.max_splits = (int)((l->most_positions + ATTN_SPLIT - 1) / ATTN_SPLIT);
    for (int i = 0; i < l->count; i++)
        p.seg[i] = l->seg[i];
    return p;
}

size_t attention_partial_floats(const struct attention_launch *l)
{
    const struct attn_params p = params_of(l);
    return (size_t)l->count * (size_t)p.kv_heads * (size_t)p.max_rows * (size_t)p.max_splits * (size_t)(p.D + 2);
}

cudaError_t launch_attention_append(cudaStream_t s, const struct attention_launch *l)
{
    const struct attn_params p = params_of(l);
    dim3 grid((unsigned)l->most_rows, (unsigned)p.kv_heads, (unsigned)l->count);
    LAUNCH((append), grid, ATTN_THREADS, 0, s, p);
    return cudaGetLastError();
}

static size_t dynamic_bytes(const struct attn_params *p, int R)
{
    return sizeof(float) * ((size_t)R * (size_t)p->Dp + (size_t)ATTN_BLOCK * (size_t)(p->Dp + 4));
}

static cudaError_t allow(const void *kernel, size_t bytes)
{
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

cudaError_t launch_attention_split(cudaStream_t s, const struct attention_launch *l)
{
    const struct attn_params p = params_of(l);
    const size_t bytes = dynamic_bytes(&p, ROWS_SPLIT);
    dim3 grid((unsigned)((p.max_rows + ROWS_SPLIT - 1) / ROWS_SPLIT), (unsigned)(p.kv_heads * p.max_splits), (unsigned)l->count);
    bool narrow = p.D <= ATTN_THREADS;
    cudaError_t r = allow(narrow ? (const void *)attention_split<1> : (const void *)attention_split<2>, bytes);
    if (r != cudaSuccess)
        return r;
    if (narrow)
        LAUNCH((attention_split<1>), grid, ATTN_THREADS, bytes, s, p);
    else
        LAUNCH((attention_split<2>), grid, ATTN_THREADS, bytes, s, p);
    r = cudaGetLastError();
    if (r != cudaSuccess)
        return r;
    dim3 pairs((unsigned)p.max_rows, (unsigned)p.kv_heads, (unsigned)l->count);
    LAUNCH((attention_join), pairs, ATTN_THREADS, 0, s, p);
    return cudaGetLastError();
}

cudaError_t launch_attention_whole(cudaStream_t s, const struct attention_launch *l)
{
    const struct attn_params p = params_of(l);
    const size_t bytes = dynamic_bytes(&p, ROWS_WHOLE);
    dim3 grid((unsigned)((p.max_rows + ROWS_WHOLE - 1) / ROWS_WHOLE), (unsigned)p.kv_heads, (unsigned)l->count);
    bool narrow = p.D <= ATTN_THREADS;
    cudaError_t r = allow(narrow ? (const void *)attention_whole<1> : (const void *)attention_whole<2>, bytes);
    if (r != cudaSuccess)
        return r;
    if (narrow)
        LAUNCH((attention_whole<1>), grid, ATTN_THREADS, bytes, s, p);
    else
        LAUNCH((attention_whole<2>), grid, ATTN_THREADS, bytes, s, p);
    return cudaGetLastError();
}

/* The next token of each row of logits: a block a row. Sums are of whole numbers and nothing depends on the order in which threads come, so the bits depend on the row alone.
 *
 * Passes over the row (from L2: its product has just written it):
 *   1  the highest logit; all there is to temperature 0
 *   2  the mass of SAMPLE_BINS bins by distance from it; their sums in order say in which bin the mass passes a target
 *   3  the tokens of that bin are gathered, each adds up those before it, and one finds that the mass passes the target in it
 * and with top_p below 1 once more 3: first for the end of the set, then for the draw. Where a bin has more tokens than the list holds (many equal logits; the far tail), its
 * stretch of ranks is cut into bins again, two passes a time, 2^10 times finer each; such rows cost several times as much, for their tokens meet at the same few words.
 *
 * Prediction, not yet measured on a card: one multiprocessor reads 64 bytes a cycle from L2 and does 128 lanes of one instruction, so at V = 128256 a pass is bound by
 * instructions, 1000 cycles for each that a token takes: passes 1 and 3 some 12 (7 us at 1.75 GHz), pass 2 some 28 (16 us). Greedy 8 us, top_p 1 35 us, below 1 45 us,
 * whatever the number of rows up to that of multiprocessors; before, a row took 0.5 MB over the bus and 10 ms and more of a host thread. No f64. */
#include "kernels/cuda/instr.cuh"
#include "kernels/cuda/sample.h"

enum { THREADS = SAMPLE_BINS, LIST = SAMPLE_BINS, AT_ONCE = 4 };

struct shared {
    uint32_t low[SAMPLE_BINS], high[SAMPLE_BINS]; /* words of the bins' masses */
    uint64_t all[THREADS];
    uint64_t rank[LIST], weight[LIST];            /* what was gathered: the first `count` */
    uint32_t count, least_key, most_key;
    /* what one thread finds for all */
    uint32_t bin;
    uint64_t before, lo, hi;
};

struct row {
    const float *l;
    int V;
    float most, scale;
};

/* use(logit, id) for each of this thread's. */
template <class Use> static __device__ __forceinline__ void each(const struct row &r, Use use)
{
    for (int first = threadIdx.x; first < r.V; first += AT_ONCE * THREADS) {
        float x[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            x[k] = first + k * THREADS < r.V ? __ldg(r.l + first + k * THREADS) : 0.0f;
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (first + k * THREADS < r.V)
                use(x[k], first + k * THREADS);
    }
}

/* The same for those of weight above 0: use(octaves, weight, logit, id). */
template <class Want, class Use> static __device__ __forceinline__ void each_weight(const struct row &r, Want want, Use use)
{
    each(r, [&](float x, int id) {
        float octaves = (r.most - x) * r.scale;
        if (octaves < SAMPLE_OCTAVES && want(octaves)) { /* NaN is not */
            uint64_t w = sample_weight(octaves);
            if (w)
                use(octaves, w, x, id);
        }
    });
}

static __device__ uint64_t block_most(uint64_t v, uint64_t *all)
{
    __syncthreads();
    all[threadIdx.x] = v;
    for (int d = THREADS / 2; d > 0; d /= 2) {
        __syncthreads();
        if (threadIdx.x < d && all[threadIdx.x + d] > all[threadIdx.x])
            all[threadIdx.x] = all[threadIdx.x + d];
    }
    __syncthreads();
    return all[0];
}

/* The sum of the values of this thread and those before it; all[THREADS - 1] is that of all. */
static __device__ uint64_t block_scan(uint64_t v, uint64_t *all)
{
    __syncthreads();
    all[threadIdx.x] = v;
    for (int d = 1; d < THREADS; d *= 2) {
        __syncthreads();
        uint64_t other = threadIdx.x >= d ? all[threadIdx.x - d] : 0;
        __syncthreads();
        all[threadIdx.x] = v += other;
    }
    __syncthreads();
    return v;
}

static __device__ void bins_clear(struct shared &s)
{
    __syncthreads();
    s.low[threadIdx.x] = s.high[threadIdx.x] = 0;
    __syncthreads();
}

/* Two words, each by a native atomic: whoever makes the low one wrap carries. */
static __device__ __forceinline__ void bins_add(struct shared &s, uint32_t bin, uint64_t w)
{
    uint32_t low = (uint32_t)w, now = atomicAdd(&s.low[bin], low) + low, high = (uint32_t)(w >> 32) + (now < low);
    if (high)
        atomicAdd(&s.high[bin], high);
}

/* The mass of this thread's bin. */
static __device__ uint64_t bins_own(struct shared &s)
{
    __syncthreads();
    return (uint64_t)s.high[threadIdx.x] << 32 | s.low[threadIdx.x];
}

/* Tokens of a first bin with ranks lo .. hi: how many, and the first LIST that come. */
static __device__ void gather(struct shared &s, const struct row &r, uint32_t bin, uint64_t lo, uint64_t hi)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        s.count = s.most_key = 0;
        s.least_key = ~0u;
    }
    __syncthreads();
    each_weight(
        r, [&](float octaves) { return sample_bin(octaves) == bin; },
        [&](float, uint64_t w, float x, int id) {
            uint32_t key = sample_key(x);
            uint64_t rank = sample_rank(key, id);
            if (rank < lo || rank > hi)
                return;
            uint32_t at = atomicAdd(&s.count, 1u);
            atomicMin(&s.least_key, key);
            atomicMax(&s.most_key, key);
            if (at < LIST) {
                s.rank[at] = rank;
                s.weight[at] = w;
            }
        });
    __syncthreads();
}

/* The token in which the mass, in order of rank, passes `target` (below the mass of all): its rank, and to *mass that up to and with it. below, own: of this thread's first bin. */
static __device__ uint64_t select(struct shared &s, const struct row &r, uint64_t below, uint64_t own, uint64_t target, uint64_t *mass)
{
    __syncthreads();
    if (below <= target && target - below < own) {
        s.bin = threadIdx.x;
        s.before = below;
        s.lo = 0;
        s.hi = ~(uint64_t)0;
    }
    __syncthreads();
    const uint32_t bin = s.bin;
    for (;;) {
        const uint64_t before = s.before;
        uint64_t lo = s.lo, hi = s.hi;
        gather(s, r, bin, lo, hi);
        if (s.count <= LIST)
            break;
        const uint64_t least = sample_rank(s.least_key, (1 << SAMPLE_ID_BITS) - 1), most = sample_rank(s.most_key, 0);
        lo = lo < least ? least : lo;
        hi = hi > most ? most : hi;
        const int bits = 64 - __clzll((long long)(hi - lo)), shift = bits > 10 ? bits - 10 : 0; /* 2^10 bins */
        bins_clear(s);
        each_weight(
            r, [&](float octaves) { return sample_bin(octaves) == bin; },
            [&](float, uint64_t w, float x, int id) {
                uint64_t rank = sample_rank(sample_key(x), id);
                if (rank >= lo && rank <= hi)
                    bins_add(s, (uint32_t)((hi - rank) >> shift), w);
            });
        own = bins_own(s);
        below = before + block_scan(own, s.all) - own;
        if (below <= target && target - below < own) {
            const uint64_t top = hi - ((uint64_t)threadIdx.x << shift), size = ((uint64_t)1 << shift) - 1;
            s.before = below;
            s.hi = top;
            s.lo = top - lo < size ? lo : top - size;
        }
        __syncthreads();
    }
    const int n = (int)s.count;
    uint64_t sum = s.before, mine = threadIdx.x < n ? s.rank[threadIdx.x] : 0;
    for (int i = 0; i < n; i++)
        sum += s.rank[i] > mine ? s.weight[i] : 0;
    __syncthreads();
    if (threadIdx.x < n && sum <= target && target - sum < s.weight[threadIdx.x]) {
        s.lo = mine;
        s.hi = sum + s.weight[threadIdx.x];
    }
    __syncthreads();
    *mass = s.hi;
    return s.lo;
}

static __device__ int32_t row_sample(struct shared &s, struct row r, const struct sample_draw &d)
{
    uint32_t key = 0;
    int32_t at = threadIdx.x;
    each(r, [&](float x, int id) {
        uint32_t k = sample_key(x);
        if (k > key) { /* the first of equals: ids ascend */
            key = k;
            at = id;
        }
    });
    const uint64_t top = block_most(sample_rank(key, at), s.all);
    r.most = sample_logit((uint32_t)(top >> SAMPLE_ID_BITS));
    if (!(d.scale > 0) || !(fabsf(r.most) < INFINITY))
        return sample_id(top);
    bins_clear(s);
    uint64_t tail = 0;
    each_weight(
        r, [](float) { return true; },
        [&](float octaves, uint64_t w, float, int) {
            if (octaves < SAMPLE_FINE_OCTAVES)
                bins_add(s, sample_bin(octaves), w);
            else
                tail += w; /* most tokens: no traffic for them */
        });
    if (tail)
        bins_add(s, SAMPLE_BINS - 1, tail);
    const uint64_t own = bins_own(s), below = block_scan(own, s.all) - own;
    uint64_t mass = s.all[THREADS - 1];
    if (d.cut) {
        const uint64_t want = __umul64hi(d.part, mass) + (d.part * mass != 0); /* of the set, rounded up */
        select(s, r, below, own, want ? want - 1 : 0, &mass);
    }
    return sample_id(select(s, r, below, own, __umul64hi(d.draw, mass), &mass));
}

static __global__ void __launch_bounds__(THREADS, 1) sample_rows(const float *logits, int V, const struct sample_launch l, int32_t *ids)
{
    __shared__ struct shared s;
    const struct row r = {logits + (int64_t)blockIdx.x * V, V, 0.0f, l.draw[blockIdx.x].scale};
    int32_t id = row_sample(s, r, l.draw[blockIdx.x]);
    if (threadIdx.x == 0)
        ids[blockIdx.x] = id;
}

cudaError_t launch_sample(cudaStream_t s, const float *logits, int64_t V, const struct sample_launch *l, int32_t *ids)
{
    const struct sample_launch launch = *l;
    LAUNCH((sample_rows), (unsigned)l->rows, THREADS, 0, s, logits, (int)V, launch, ids);
    return cudaGetLastError();
}

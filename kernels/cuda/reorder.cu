/* Words of a checkpoint (kernels/wfmt.h) into the order of a class: on the device, so that the file's bytes are all that travels and all that the host touches. */
#include "kernels/cuda/instr.cuh"
#include "kernels/wfmt.h"

enum { REORDER_THREADS = 256 };

/* What a kernel class keeps in one run of words: N outputs by K inputs; and what the outputs of a matrix are filled up to. */
template <enum cuda_fmt FMT> struct block_shape;
template <> struct block_shape<CUDA_W4> {
    enum { N = TILE_N, K = UNIT_K, FULL = 64 };
};
template <> struct block_shape<CUDA_W8> : block_shape<CUDA_W4> {};
template <> struct block_shape<CUDA_MARLIN> {
    enum { N = MARLIN_CHUNK, K = MARLIN_CHUNK, FULL = N };
};
template <> struct block_shape<CUDA_MACHETE> {
    enum { N = MACHETE_N, K = MACHETE_K, FULL = N };
};

template <enum cuda_fmt FMT, int STORED> static __device__ __forceinline__ void code_at(int word, int field, int *k, int *n)
{
    if constexpr (FMT == CUDA_MACHETE)
        machete_code_at(STORED, word, field, k, n);
    else if constexpr (FMT == CUDA_MARLIN)
        marlin_code_at(STORED, word, field, k, n);
    else if constexpr (FMT == CUDA_W8)
        w8_code_at(word, field, k, n);
    else
        w4_code_at(word, field, k, n);
}

struct reorder_args {
    uint32_t *to;          /* the class's blocks: strips of outputs, k_blocks to a strip */
    const uint32_t *words; /* [wfmt_words(K, bits), columns] */
    const int32_t *perm;   /* input at a place or -1; NULL: inputs keep their places */
    int64_t columns, K;
    int bits, k_blocks;
};

/* A thread makes whole words: stores are runs of memory, and the few codes of a word lie in words of the source that its neighbours read too. A block makes one of the class's
 * blocks. Fields without a code are 0. */
template <enum cuda_fmt FMT, int STORED> static __global__ void __launch_bounds__(REORDER_THREADS) reorder(const struct reorder_args a)
{
    using shape = block_shape<FMT>;
    enum { WORDS = shape::N * shape::K * STORED / 32 };
    const int64_t n0 = (int64_t)(blockIdx.x / (unsigned)a.k_blocks) * shape::N, k0 = (int64_t)(blockIdx.x % (unsigned)a.k_blocks) * shape::K;
    uint32_t *to = a.to + (int64_t)blockIdx.x * WORDS;
    for (int i = threadIdx.x; i < WORDS; i += REORDER_THREADS) {
        uint32_t word = 0;
#pragma unroll
        for (int field = 0; field < 32 / STORED; field++) {
            int k, n;
            code_at<FMT, STORED>(i, field, &k, &n);
            if (n0 + n >= a.columns)
                continue;
            const int64_t from = a.perm ? a.perm[k0 + k] : k0 + k < a.K ? k0 + k : -1;
            if (from >= 0)
                word |= wfmt_code(a.words + n0 + n, a.columns, from, a.bits) << field * STORED;
        }
        to[i] = word;
    }
}

template <enum cuda_fmt FMT, int STORED> static cudaError_t launch(cudaStream_t s, struct reorder_args a, int64_t column)
{
    using shape = block_shape<FMT>;
    const int64_t strips = pad_to(a.columns, shape::FULL) / shape::N;
    a.to += column / shape::N * a.k_blocks * (shape::N * shape::K * STORED / 32);
    LAUNCH((reorder<FMT, STORED>), (unsigned)(strips * a.k_blocks), REORDER_THREADS, 0, s, a);
    return cudaGetLastError();
}

cudaError_t launch_reorder(cudaStream_t s, const struct weight *w, const uint32_t *words, int bits, int64_t column, int64_t columns)
{
    struct reorder_args a = {(uint32_t *)w->data, words, w->perm, columns, w->K, bits, (int)(w->pitch / UNIT_K)};
    switch (w->fmt) {
    case CUDA_W4:
        return launch<CUDA_W4, 4>(s, a, column);
    case CUDA_W8:
        return launch<CUDA_W8, 8>(s, a, column);
    case CUDA_MARLIN:
        a.k_blocks = w->shape.k_chunks;
        return bits == 8 ? launch<CUDA_MARLIN, 8>(s, a, column) : launch<CUDA_MARLIN, 4>(s, a, column);
    case CUDA_MACHETE:
        a.k_blocks = w->machete.k_blocks;
        return bits == 8 ? launch<CUDA_MACHETE, 8>(s, a, column) : launch<CUDA_MACHETE, 4>(s, a, column);
    default: /* dense ones have no codes */
        return cudaErrorInvalidValue;
    }
}

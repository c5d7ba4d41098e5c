/* Where things lie for the Marlin-class kernel: packed codes, scales, zeros in device memory, X in shared memory. Closed forms that gcc and nvcc both compile; the
 * CPU tests check them against the permutation written as a list (tests/kernels/check_marlin_layout.c).
 *
 * The unit is a chunk of 64 inputs (k) by 64 outputs (n): what one warp takes from one stage of the pipeline. Chunks of one strip of 64 outputs follow each other along
 * k, so that a block reads its part of the matrix as one run of memory. A chunk holds four k16 slices, a slice one 16-byte vector (8 bits: two) for each lane:
 *
 *   codes  [n / 64][k / 64][(k % 64) / 16][vector][lane][4 words]        lane = (n % 8) * 4 + (k % 8) / 2
 *          a lane's words belong to j = (n % 64) / 16 and half = (n % 16) / 8 and hold k pairs p = (k % 2) + 2 * ((k % 16) / 8): what the lane feeds mma.m16n8k16
 *          4 bits: vector 0, word j, element e = p + 4 * half at nibble 0 4 2 6 1 5 3 7 [e]: the two codes of a pair are 16 bits apart, and nibble 1 of a half word
 *                  (worth 16 times nibble 0) always belongs to half 1, so that the factor 16 is one of columns, not of codes
 *          8 bits: vector j / 2, word 2 * (j % 2) + half, p at byte 0 2 1 3 [p]
 *   scales [group][n / 64][64] f16, place 8 * (n % 8) + (n % 64) / 8 in the 64: column n of the lanes with n % 8 = lane / 4 in one vector, and columns 2t, 2t + 1 of
 *          all eight n8 blocks in two vectors for t = lane % 4. Zeros, when they differ, alike. One scale for all of K is one group.
 *   X      stage of ROWS x 64 * wk f16 or bf16: 16-byte pieces, piece c of row r at c ^ (r % 8) within each 128 bytes: neither the writes nor ldmatrix have conflicts
 *
 * Lane numbers are those of the B fragment of mma.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"); the idea of keeping a lane's share of a tile in one vector
 * and of splitting pairs over the half words is Marlin's (IST-DASLab/marlin@2f6d7c1). Its tile is the same 16 x 64; order of tiles, nibbles and 8-bit vectors are ours. */
#ifndef KERNELS_CUDA_MARLIN_LAYOUT_H
#define KERNELS_CUDA_MARLIN_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define MARLIN_FN static __host__ __device__ __forceinline__
#else
#define MARLIN_FN static inline __attribute__((unused))
#endif

enum {
    MARLIN_CHUNK = 64,       /* of K, and of N */
    MARLIN_SLICES = 4,       /* k16 slices in a chunk */
    MARLIN_WARPS = 8,        /* of a block */
    MARLIN_THREADS = 32 * MARLIN_WARPS,
    MARLIN_VECTOR_WORDS = 4, /* 16 bytes */
    MARLIN_PLANE_WORDS = 32 * MARLIN_VECTOR_WORDS, /* one vector of every lane */
    MARLIN_SCALE_ROW_BYTES = 2 * MARLIN_CHUNK,
};

/* Words of one chunk of codes; bits 4 or 8. */
MARLIN_FN int marlin_chunk_words(int bits)
{
    return MARLIN_SLICES * MARLIN_PLANE_WORDS * (bits / 4);
}

/* Number of the chunk that holds column strip n / 64 and k / 64. */
MARLIN_FN size_t marlin_chunk(int64_t strip, int64_t kc, int64_t k_chunks)
{
    return (size_t)(strip * k_chunks + kc);
}

/* Word of code (k, n) in the packed matrix. */
MARLIN_FN size_t marlin_code_word(int bits, int64_t k, int64_t n, int64_t k_chunks)
{
    int in_k = (int)(k % 64), in_n = (int)(n % 64), lane = in_n % 8 * 4 + in_k % 8 / 2, j = in_n / 16, half = in_n % 16 / 8;
    int planes = bits / 4, vector = bits == 4 ? 0 : j / 2, word = bits == 4 ? j : 2 * (j % 2) + half;
    int in_chunk = (in_k / 16 * planes + vector) * MARLIN_PLANE_WORDS + lane * MARLIN_VECTOR_WORDS + word;
    return marlin_chunk(n / 64, k / 64, k_chunks) * (size_t)marlin_chunk_words(bits) + (size_t)in_chunk;
}

/* Bit of that word where the code starts. */
MARLIN_FN int marlin_code_shift(int bits, int64_t k, int64_t n)
{
    int lo = (int)(k % 2), hi = (int)(k % 16 / 8), half = (int)(n % 16 / 8);
    if (bits == 4)
        return 16 * lo + 8 * hi + 4 * half; /* nibbles 0 4 2 6 1 5 3 7 */
    return 16 * lo + 8 * hi;                /* bytes 0 2 1 3 */
}

/* The other way: the code (k, n) of a chunk that field `field` (of `bits` bits) of word `word` of the chunk holds. */
MARLIN_FN void marlin_code_at(int bits, int word, int field, int *k, int *n)
{
    int planes = bits / 4, plane = word / MARLIN_PLANE_WORDS, lane = word % MARLIN_PLANE_WORDS / MARLIN_VECTOR_WORDS, in_vector = word % MARLIN_VECTOR_WORDS;
    int half = bits == 4 ? field & 1 : in_vector % 2, hi = bits == 4 ? field >> 1 & 1 : field & 1, lo = bits == 4 ? field >> 2 : field >> 1;
    int j = bits == 4 ? in_vector : 2 * (plane % 2) + in_vector / 2;
    *k = plane / planes * 16 + 8 * hi + 2 * (lane % 4) + lo;
    *n = 16 * j + 8 * half + lane / 4;
}

/* Element of column n in a row of scales (or zeros) of n_strips * 64. */
MARLIN_FN size_t marlin_scale_at(int64_t group, int64_t n, int64_t n_strips)
{
    return (size_t)((group * n_strips + n / 64) * 64 + 8 * (n % 8) + n % 64 / 8);
}

/* Row of scales of chunk kc: unit_shift = log2(unit / 64) for units of 64 and more (31: one unit for all of K), -1 for units of 32, where it is the first of two. */
MARLIN_FN int marlin_scale_row(int kc, int unit_shift)
{
    return unit_shift < 0 ? 2 * kc : kc >> unit_shift;
}

/* Byte in an X stage of the 16-byte piece `piece` (8 elements of k) of a row; row_bytes = 128 * wk. */
MARLIN_FN int marlin_x_at(int row, int piece, int row_bytes)
{
    return row * row_bytes + (piece & ~7) * 16 + ((piece ^ row) & 7) * 16;
}

/* Coordinates in a warp's result of register pair `pair` (registers 2 * pair, 2 * pair + 1) of a lane.
 *   tokens as rows: accumulators [m16][n8 block][4]; the pair is columns col, col + 1 of token row `row`
 *   transposed: accumulators [8 tokens][n16][4]; the pair is tokens row, row + 1 of column col */
MARLIN_FN void marlin_pair_at(int transposed, int pair, int lane, int *row, int *col)
{
    int quad = pair / 2, low = pair % 2;
    if (transposed) {
        *row = quad / 4 * 8 + 2 * (lane % 4);
        *col = quad % 4 * 16 + lane / 4 + 8 * low;
    } else {
        *row = 16 * (quad / 8) + lane / 4 + 8 * low;
        *col = 8 * (quad % 8) + 2 * (lane % 4);
    }
}

#endif

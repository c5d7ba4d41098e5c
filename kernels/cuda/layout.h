/* Where things lie in device memory for the plain kernels ("simple", "dense"): closed forms that gcc and nvcc both compile.
 *
 * The matrix instruction is mma.m16n8k16: 16 outputs x 16 inputs of W (its A operand, rows g = lane / 4 and g + 8) times 16 inputs x 8 columns of X (its B operand).
 * The order of inputs inside an instruction is free as long as both operands agree. Here 32 inputs (a chunk) make two steps s = 0, 1, and lane part t = lane % 4 holds
 * the 8 inputs 8 t .. 8 t + 7 of its row: 16 bytes of row-major 16-bit values, so that X and dense W load as they lie.
 *     step s, register pair "lo": inputs 8 t + 4 s, + 1      pair "hi": inputs 8 t + 4 s + 2, + 3
 *
 * W4 (codes of 2, 3, 4 bits) and W8 are kept as tiles of 16 outputs x 128 inputs (a unit = 4 chunks), units of a tile one after the other:
 *     W4  uint4 [tile][unit][half 2][lane 32]: words {chunk 2h step 0, chunk 2h step 1, chunk 2h+1 step 0, chunk 2h+1 step 1}; nibble p of a word is
 *         output g + 8 (p & 1), input 8 t + 4 s + 2 (p >> 1 & 1) + (p >> 2): q & 0x000f000f, then q >> 4, 8, 12 give the registers a0, a1, a2, a3 as pairs
 *     W8  uint4 [tile][unit][chunk 4][lane 32]: words {step 0: a0 a1, a2 a3, step 1: a0 a1, a2 a3}; byte i of a step (0..7) is register i / 2, element i % 2
 * meta u32 [group][outputs padded to 16]: f16 scale in the low half, zero in the high half.
 *
 * Inputs are reordered so that a group's lie together, each group padded to whole chunks (perm[i] = input at place i, or -1); X is gathered alike when it is split. */
#ifndef KERNELS_CUDA_LAYOUT_H
#define KERNELS_CUDA_LAYOUT_H

#include <stdint.h>

#ifdef __CUDACC__
#define HOST_DEVICE static __host__ __device__ __forceinline__
#else
#define HOST_DEVICE static inline
#endif

enum { CHUNK_K = 32, UNIT_CHUNKS = 4, UNIT_K = CHUNK_K * UNIT_CHUNKS, TILE_N = 16, SPLIT_K = 8 };

/* Place of a code: word in 32-bit units from the start, shift in bits. n output, k place of the input (after reordering), units of a tile. */
struct code_place {
    int64_t word;
    int shift;
};

HOST_DEVICE struct code_place w4_place(int64_t n, int64_t k, int64_t units)
{
    int row = (int)(n % TILE_N), in = (int)(k % UNIT_K), chunk = in / CHUNK_K, c = in % CHUNK_K;
    int lane = row % 8 * 4 + c / 8, step = c % 8 / 4, pair = c % 4 / 2, elem = c % 2;
    int nibble = row / 8 + 2 * pair + 4 * elem;
    struct code_place p;
    p.word = ((n / TILE_N * units + k / UNIT_K) * 2 + chunk / 2) * 128 + lane * 4 + chunk % 2 * 2 + step;
    p.shift = 4 * nibble;
    return p;
}

HOST_DEVICE struct code_place w8_place(int64_t n, int64_t k, int64_t units)
{
    int row = (int)(n % TILE_N), in = (int)(k % UNIT_K), chunk = in / CHUNK_K, c = in % CHUNK_K;
    int lane = row % 8 * 4 + c / 8, step = c % 8 / 4, pair = c % 4 / 2, elem = c % 2;
    int reg = row / 8 + 2 * pair;
    struct code_place p;
    p.word = ((n / TILE_N * units + k / UNIT_K) * 4 + chunk) * 128 + lane * 4 + step * 2 + reg / 2;
    p.shift = 8 * (reg % 2 * 2 + elem);
    return p;
}

enum { W4_UNIT_WORDS = 256, W8_UNIT_WORDS = 512 };

/* The other way: the code, input k and output n within its tile and unit, that field `field` (of 4 bits, of 8) of a unit's word holds. */
HOST_DEVICE void w4_code_at(int word, int field, int *k, int *n)
{
    int lane = word % 128 / 4, chunk = word / 128 * 2 + word % 4 / 2, step = word % 2;
    *k = chunk * CHUNK_K + lane % 4 * 8 + step * 4 + (field >> 1 & 1) * 2 + (field >> 2);
    *n = lane / 4 + 8 * (field & 1);
}

HOST_DEVICE void w8_code_at(int word, int field, int *k, int *n)
{
    int lane = word % 128 / 4, chunk = word / 128, step = word % 4 / 2, pair = word % 2;
    *k = chunk * CHUNK_K + lane % 4 * 8 + step * 4 + pair * 2 + field % 2;
    *n = lane / 4 + 8 * (field / 2);
}

/* Sizes. */
HOST_DEVICE int64_t pad_to(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

#endif

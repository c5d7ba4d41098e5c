/* Where things lie for the Machete-class kernel (sm_90a): packed codes, scales, zeros in device memory, X and partial sums in shared memory. Closed forms that gcc and nvcc
 * both compile; tests/kernels/check_machete_layout.c checks them against CuTe's layout algebra written out.
 *
 * wgmma takes its A operand (64 x 16) from registers, so codes are A, their 64 rows outputs n, and tokens are the columns of B. The unit is a block of 128 outputs by 64
 * inputs, the share of 256 threads: four k16 slices of two m64 atoms. Blocks of a stripe of 128 outputs follow each other along K, so that a stripe streams as one run of
 * memory, any part of it by one bulk copy. N is filled up to whole stripes, K to pairs of blocks (128 inputs): what is filled up are codes 0 over inputs that are read as 0.
 *
 *   codes  [n / 128][k / 64][plane][thread][4 words]     thread = (n % 128) / 16 * 32 + (n % 8) * 4 + (k % 8) / 2, of the two warpgroups that share a block
 *          a thread's words belong to slice = (k % 64) / 16 and half = (n % 16) / 8 and hold pairs p = (k % 2) + 2 * ((k % 16) / 8): what it feeds wgmma as A
 *          4 bits: one plane, word slice; element (p, half) at nibble 4 * (p % 2) + 2 * (p / 2) + half: pairs are 16 bits apart, nibbles 1 and 3 of a half word belong to half 1
 *          8 bits: plane slice / 2, word 2 * (slice % 2) + half; p at byte 0 2 1 3 [p]. Two planes, because 16-byte vectors 32 bytes apart would meet in the banks
 *   scales [n / 128][row][128] f16, place 16 * ((n % 128) / 16) + 2 * (n % 8) + (n % 16) / 8: the two outputs of a thread in one word. Zeros, when they differ, alike.
 *          Rows of a stripe follow each other, so that those of any run of inputs are one bulk copy
 *   X      tiles of ROWS x 64 f16 or bf16 at multiples of 1024 bytes, 128 bytes a row, 16-byte piece c of row r at c ^ (r % 8): what TMA writes and wgmma reads as
 *          SWIZZLE_128B, K-major
 *   sums   [token][128 * wide + 4] f32: writes by the lanes of an accumulator and 16-byte reads along n meet no bank twice
 *
 * Thread and value numbers: PTX ISA, "Register Fragments for wgmma.mma_async.m64nNk16" (A, D), and "Strides", "Swizzling Modes" of its shared memory matrix layout. As CuTe
 * layouts they are CUTLASS' ALayout_64x16 and CLayout_64xN (NVIDIA/cutlass@7107b05 include/cute/atom/mma_traits_sm90_gmma.hpp). Keeping a thread's share of a block
 * together is Machete's (neuralmagic/vllm csrc/quantization/machete); the order of blocks, the planes of 8 bits and the order of scales are ours. */
#ifndef KERNELS_CUDA_MACHETE_LAYOUT_H
#define KERNELS_CUDA_MACHETE_LAYOUT_H

#include "kernels/cuda/marlin_layout.h"

#define MACHETE_FN MARLIN_FN

enum {
    MACHETE_N = 128,             /* outputs of a block, and of a stripe */
    MACHETE_K = 64,              /* inputs of a block */
    MACHETE_SLICES = 4,          /* k16 slices in it */
    MACHETE_PAIR = 2,            /* blocks that K is filled up to */
    MACHETE_CONSUMERS = 256,     /* threads that share a block */
    MACHETE_PLANE_WORDS = 4 * MACHETE_CONSUMERS,
    MACHETE_ROW_BYTES = 2 * MACHETE_N, /* of scales */
    MACHETE_X_ROW_BYTES = 2 * MACHETE_K,
};

/* Words of a block of codes; bits 4 or 8. */
MACHETE_FN int machete_block_words(int bits)
{
    return MACHETE_PLANE_WORDS * (bits / 4);
}

/* Number of the block of stripe n / 128 and k / 64. */
MACHETE_FN size_t machete_block(int64_t stripe, int64_t kb, int64_t k_blocks)
{
    return (size_t)(stripe * k_blocks + kb);
}

/* Thread of a block, 0..255, that has (k, n). */
MACHETE_FN int machete_thread(int64_t k, int64_t n)
{
    return (int)(n % 128 / 16 * 32 + n % 8 * 4 + k % 8 / 2);
}

/* Word of code (k, n) in the packed matrix; the code begins at bit marlin_code_shift of it. */
MACHETE_FN size_t machete_code_word(int bits, int64_t k, int64_t n, int64_t k_blocks)
{
    int slice = (int)(k % 64 / 16), half = (int)(n % 16 / 8), plane = bits == 4 ? 0 : slice / 2, word = bits == 4 ? slice : 2 * (slice % 2) + half;
    return machete_block(n / 128, k / 64, k_blocks) * (size_t)machete_block_words(bits) + (size_t)((plane * MACHETE_CONSUMERS + machete_thread(k, n)) * 4 + word);
}

MACHETE_FN int machete_code_shift(int bits, int64_t k, int64_t n)
{
    return marlin_code_shift(bits, k, n);
}

/* The other way: the code (k, n) of a block that field `field` (of `bits` bits) of word `word` of the block holds. */
MACHETE_FN void machete_code_at(int bits, int word, int field, int *k, int *n)
{
    int plane = word / MACHETE_PLANE_WORDS, thread = word % MACHETE_PLANE_WORDS / 4, in_vector = word % 4;
    int half = bits == 4 ? field & 1 : in_vector % 2, hi = bits == 4 ? field >> 1 & 1 : field & 1, lo = bits == 4 ? field >> 2 : field >> 1;
    int slice = bits == 4 ? in_vector : 2 * plane + in_vector / 2;
    *k = 16 * slice + 8 * hi + 2 * (thread % 4) + lo;
    *n = thread / 32 * 16 + 8 * half + thread % 32 / 4;
}

/* Element of column n in the scales (or zeros) with `rows` rows a stripe. */
MACHETE_FN size_t machete_scale_at(int64_t row, int64_t n, int64_t rows)
{
    return (size_t)((n / 128 * rows + row) * 128 + n % 128 / 16 * 16 + 2 * (n % 8) + n % 16 / 8);
}

/* Rows of scales that `blocks` consecutive blocks need, from a multiple of `blocks` on: one where a unit holds them all. The first is marlin_scale_row of the first block. */
MACHETE_FN int machete_scale_rows(int blocks, int unit_shift)
{
    return unit_shift < 0 ? 2 * blocks : blocks >> unit_shift > 1 ? blocks >> unit_shift : 1;
}

/* Byte in a tile of X of the 16-byte piece `piece` (8 inputs) of a row. */
MACHETE_FN int machete_x_at(int row, int piece)
{
    return row * MACHETE_X_ROW_BYTES + ((piece ^ row) & 7) * 16;
}

/* Output (of the 64 of an atom) and token of accumulator i of thread t (0..127) of a warpgroup. */
MACHETE_FN int machete_sum_n(int t, int i)
{
    return t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8;
}

MACHETE_FN int machete_sum_token(int t, int i)
{
    return i / 4 * 8 + 2 * (t % 4) + i % 2;
}

/* Floats of one token in the sums of a tile of 128 * wide outputs. */
MACHETE_FN int machete_sum_stride(int wide)
{
    return MACHETE_N * wide + 4;
}

/* Matrix descriptor of B for wgmma: a K-major tile with SWIZZLE_128B whose first row begins at shared address `at`, or a slice of it at + 32 * slice. Fields as in the PTX ISA,
 * "Matrix Descriptor Format": address / 16, leading offset (unused here, 1), stride of 8 rows / 16, mode 1 = 128 bytes. */
MACHETE_FN uint64_t machete_descriptor(uint32_t at)
{
    return (uint64_t)(at >> 4 & 0x3fffu) | (uint64_t)1 << 16 | (uint64_t)(8 * MACHETE_X_ROW_BYTES >> 4) << 32 | (uint64_t)1 << 62;
}

#endif

/* The Marlin-class kernel: Y[M,N] = X[M,K] * W, W in 4 or 8 bits, by mma.sync on every architecture from sm_80.
 *
 * A block of 8 warps walks a stripe of units (marlin_schedule.h). A unit is a tile of ROWS tokens x 64 * wn outputs, over 64 * wk inputs, wn * wk = 8: each warp
 * takes one chunk of 64 x 64 codes. Units come through a ring of `stages` in shared memory filled by cp.async: a lane copies exactly the 16 bytes of codes it will
 * use itself, a block shares X. At the end of a tile the wk warps of a strip are added up in shared memory, and split tiles across blocks (marlin_schedule.h).
 *
 * SCALED 0: the products are taken on raw codes, exactly; once a group the sums are multiplied by the scales, in f32, less zero * (sum of x), for which one more product
 *   per slice and 8 tokens, with ones, gives the sum of x. Cheap per code and exact in the weights, but two sets of sums. These tiles are transposed: codes are the 16-row
 *   operand, tokens the 8 columns, so that 8, 16 and 32 rows do the same for an output, instruction by instruction, and a token's bits do not depend on the tile.
 * SCALED 1: weights are rounded to the activations' type, one set of sums: for 48 and 64 rows, where registers allow no other. Tokens are the 16-row operand.
 *
 * Order of additions of an output: k16 slices of a chunk, chunks of a warp, warps, blocks: fixed by (N, K, grid of a row block, log2 of strips), whatever else runs.
 * Compiled with or without contraction: what may be contracted is written as fmaf. What marlin_ptx.cuh names can be a CPU's: tests/kernels/marlin_emu.cc runs this file
 * as it stands. */
#ifndef KERNELS_CUDA_MARLIN_KERNEL_CUH
#define KERNELS_CUDA_MARLIN_KERNEL_CUH

#include <math.h>

#include "kernels/cuda/marlin_args.h"
#include "kernels/cuda/marlin_dequant.h"

#ifdef MARLIN_EMULATED
#include "tests/kernels/marlin_emu.h"
#else
#include "kernels/cuda/marlin_ptx.cuh"
#endif

struct alignas(16) words4 {
    uint32_t w[MARLIN_VECTOR_WORDS];
};

struct alignas(8) words2 {
    uint32_t w[2];
};

struct alignas(8) floats2 {
    float a, b;
};

/* 16-row pieces of X in a warp's tile (8 rows are half of one), and quads of sums: [m16][n8] or, transposed, [8 tokens][n16]. */
MARLIN_FN constexpr int marlin_m_tiles(int rows) { return rows == 8 ? 1 : rows / 16; }
MARLIN_FN constexpr int marlin_quads(int rows) { return rows / 2; }

/* One warp's share of a unit. */
struct chunk {
    const char *codes;  /* + lane * 16 */
    const char *scales; /* rows of scales, then of zeros */
    const char *x;      /* row of X that the lane names to ldmatrix, 128 bytes of it */
    int x_at;           /* where in them its piece of slice 0 is */
    int row_bytes, lane;
};

/* ---- loading ---- */

/* A thread's place in the walk that fills the ring: what a unit needs is a few additions away from the one before. */
struct loader {
    marlin_cursor at;
    const uint32_t *codes; /* + lane; of the warp's chunk */
    const uint16_t *x;     /* of the thread's first piece */
    int pieces;            /* of X that the thread copies, one every 4096 bytes of the tile */
    int x_to;              /* where the first goes */
};

template <int BITS, int ROWS, int WN> MARLIN_DEV void loader_tile(const marlin_args &a, loader *l)
{
    constexpr int wk_log2 = 3 - WN;
    const int warp = thread_id() / 32;
    const int kc = (l->at.k << wk_log2) + (warp >> WN), strip = (l->at.n << WN) + (warp & ((1 << WN) - 1));
    l->codes = a.codes + marlin_chunk(strip, kc, a.k_chunks) * marlin_chunk_words(BITS) + thread_id() % 32 * MARLIN_VECTOR_WORDS;
    const int row = thread_id() >> (3 + wk_log2), piece = thread_id() & ((8 << wk_log2) - 1), step = 32 >> wk_log2;
    const int row0 = (slab_id() * a.grid.m_blocks + l->at.m) * ROWS, left = (a.M - row0 < ROWS ? a.M - row0 : ROWS) - row;
    l->pieces = left > 0 ? (left + step - 1) / step : 0;
    l->x = a.x + (int64_t)(row0 + row) * a.ldx + (l->at.k << (6 + wk_log2)) + piece * 8;
}

template <int BITS, int ROWS, int WN> MARLIN_DEV loader loader_at(const marlin_args &a, marlin_cursor at)
{
    constexpr int wk_log2 = 3 - WN;
    loader l;
    l.at = at;
    l.x_to = marlin_x_at(thread_id() >> (3 + wk_log2), thread_id() & ((8 << wk_log2) - 1), 128 << wk_log2);
    loader_tile<BITS, ROWS, WN>(a, &l);
    return l;
}

template <int BITS, int ROWS, int WN> MARLIN_DEV void loader_next(const marlin_args &a, loader *l)
{
    constexpr int wk_log2 = 3 - WN;
    const int tile = l->at.k == a.grid.k_steps - 1;
    marlin_cursor_next(&a.grid, &l->at);
    l->codes += marlin_chunk_words(BITS) << wk_log2;
    l->x += 64 << wk_log2;
    if (tile)
        loader_tile<BITS, ROWS, WN>(a, l);
}

template <int BITS, int WN> MARLIN_DEV void load_codes(const marlin_args &a, char *stage, const loader &l)
{
    const int warp = thread_id() / 32, lane = thread_id() % 32;
    const int kc = (l.at.k << (3 - WN)) + (warp >> WN), strip = (l.at.n << WN) + (warp & ((1 << WN) - 1));
    if (kc >= a.k_chunks || strip >= a.strips)
        return;
    constexpr int PLANES = MARLIN_SLICES * (BITS / 4);
    char *to = stage + warp * (PLANES * MARLIN_PLANE_WORDS * 4) + lane * 16;
#pragma unroll
    for (int i = 0; i < PLANES; i++)
        copy16(to + i * (MARLIN_PLANE_WORDS * 4), l.codes + i * MARLIN_PLANE_WORDS);
    /* eight lanes a row of scales, then of zeros */
    const int rows = a.unit_shift < 0 ? 2 : 1, row = lane / 8;
    if (row < (a.zeros ? 2 * rows : rows)) {
        const uint16_t *table = row >= rows ? a.zeros : a.scales;
        const int at = marlin_scale_row(kc, a.unit_shift) + (row & (rows - 1));
        char *s = stage + marlin_stage_codes(BITS);
        copy16(s + warp * marlin_warp_scales(a.unit_shift, a.zeros != 0) + lane * 16, table + ((size_t)at * a.scale_strips + strip) * 64 + lane % 8 * 8);
    }
}

template <int BITS, int ROWS, int WN> MARLIN_DEV void load_x(const marlin_args &a, char *stage, const loader &l)
{
    constexpr int wk_log2 = 3 - WN;
    const int left = a.Kx - (l.at.k << (6 + wk_log2)) - (thread_id() & ((8 << wk_log2) - 1)) * 8;
    char *to = stage + marlin_stage_codes(BITS) + MARLIN_WARPS * marlin_warp_scales(a.unit_shift, a.zeros != 0);
    const int64_t step = (int64_t)(32 >> wk_log2) * a.ldx;
    const uint16_t *from = l.x;
    const int flip = wk_log2 == 3 ? 64 : 0; /* pieces of a thread are 4 rows apart, otherwise multiples of 8: what changes in the swizzle */
    int at = l.x_to;
    if (left >= 8) {
#pragma unroll
        for (int i = 0; i < ((ROWS << wk_log2) + 31) / 32; i++, from += step, at = (at + 4096) ^ flip)
            if (i < l.pieces)
                copy16(to + at, from);
    } else { /* across the end of K, or past it */
#pragma unroll 1
        for (int i = 0; i < l.pieces; i++, from += step, at = (at + 4096) ^ flip)
            copy16_part(to + at, left > 0 ? from : a.x, left > 0 ? 2 * left : 0);
    }
}

/* ---- computing ---- */

/* 16 tokens x 16 inputs: an A fragment, or the B fragments of 8 tokens (words 0, 2) and 8 more (1, 3). */
MARLIN_DEV void slice_x(const chunk &c, int m, int slice, uint32_t (&x)[4])
{
    load_matrix4(x, c.x + m * 16 * c.row_bytes + (c.x_at ^ slice * 32));
}

/* B fragments of 8 tokens x 32 inputs: two slices. */
MARLIN_DEV void slices_x8(const chunk &c, int slice, uint32_t (&x)[4])
{
    load_matrix4(x, c.x + (c.x_at ^ slice * 32));
}

/* What a slice, or `part` of PARTS of its columns, is read into. (Of 8 rows x is read apart, two slices at a time.) */
template <int BITS, int ROWS, int PARTS> struct fragments {
    uint32_t v[BITS / PARTS];
    uint32_t x[marlin_m_tiles(ROWS)][4];
};

template <int BITS, int ROWS, int PARTS> MARLIN_DEV void load_slice(const chunk &c, int slice, int part, fragments<BITS, ROWS, PARTS> &f)
{
    const char *codes = c.codes + slice * (BITS / 4) * (MARLIN_PLANE_WORDS * 4);
    if constexpr (BITS == 4 && PARTS == 2) {
        const words2 w = *(const words2 *)(codes + part * 8);
        f.v[0] = w.w[0];
        f.v[1] = w.w[1];
    } else {
#pragma unroll
        for (int i = 0; i < BITS / 4 / PARTS; i++) {
            const words4 w = *(const words4 *)(codes + (i + part) * (MARLIN_PLANE_WORDS * 4));
#pragma unroll
            for (int j = 0; j < 4; j++)
                f.v[4 * i + j] = w.w[j];
        }
    }
    if constexpr (ROWS > 8)
#pragma unroll
        for (int m = 0; m < marlin_m_tiles(ROWS); m++)
            slice_x(c, m, slice, f.x[m]);
}

/* Pairs of 16 columns, j-th of what v holds: [2 * half + hi]; raw, or as marlin_scaled takes them. */
template <int BITS, int BF16, int SCALED, int N> MARLIN_DEV void slice_pairs(const uint32_t (&v)[N], int j, uint32_t (&b)[4])
{
    if constexpr (BITS == 4)
        marlin_pairs4(BF16, SCALED, v[j], b);
    else
        marlin_pairs8(BF16, SCALED, v[2 * j], v[2 * j + 1], b);
}

/* total += scale * (sum - (zero + offset) * unit * (sum of x)), for the columns of a part: quads of sums [8 tokens][n16 of the part]. A lane's columns are n % 8 = lane / 4
 * of every n8 block: their scales lie in one vector, and so do their zeros. sx: of tokens 2t and 2t + 1 of each 8. */
template <int BITS, int BF16, int ROWS, int PARTS>
MARLIN_DEV void settle(const marlin_args &a, const char *scales, int lane, int part, const float (&sx)[ROWS / 8][4], const float (&sum)[marlin_quads(ROWS) / PARTS][4],
                       float (&total)[marlin_quads(ROWS)][4])
{
    constexpr int J = 4 / PARTS; /* n16 blocks of a part */
    const float offset = marlin_raw_offset(BITS, BF16), unit[2] = {marlin_raw_unit(BITS, BF16, 0), marlin_raw_unit(BITS, BF16, 1)}, by = a.zero + offset;
    const words4 s = *(const words4 *)(scales + lane / 4 * 16);
    if (a.zeros) {
        const words4 z = *(const words4 *)(scales + marlin_warp_scales(a.unit_shift, 0) + lane / 4 * 16);
#pragma unroll
        for (int q = 0; q < ROWS / 8 * J; q++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int j = J * part + q % J, half = i / 2;
                float &t = total[q / J * 4 + j][i];
                t = fmaf(marlin_f16(s.w[j], half), fmaf(-(marlin_f16(z.w[j], half) + offset), sx[q / J][i % 2] * unit[half], sum[q][i]), t);
            }
    } else {
#pragma unroll
        for (int q = 0; q < ROWS / 8 * J; q++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int j = J * part + q % J, half = i / 2;
                float &t = total[q / J * 4 + j][i];
                t = fmaf(marlin_f16(s.w[j], half), fmaf(-by, sx[q / J][i % 2] * unit[half], sum[q][i]), t);
            }
    }
}

template <int N> MARLIN_DEV void set_zero(float (&v)[N][4])
{
#pragma unroll
    for (int q = 0; q < N; q++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[q][i] = 0.0f;
}

/* B fragment of 8 tokens, the t-th of a tile, for slice i: a word for inputs 0..7 (hi 0) and 8..15. x8: of 8 rows, x: of more. */
template <int ROWS> MARLIN_DEV uint32_t tokens_x(const uint32_t (&x8)[2][4], const uint32_t (&x)[marlin_m_tiles(ROWS)][4], int t, int i, int hi)
{
    return ROWS == 8 ? x8[i / 2][i % 2 * 2 + hi] : x[t / 2][t % 2 + 2 * hi];
}

/* A chunk, SCALED 0. Totals are in raw units. Tiles of 16 rows and more go through its columns in two parts, for which they have the registers; a slice is read while the
 * one before is multiplied. */
template <int BITS, int BF16, int ROWS> MARLIN_DEV void chunk_grouped(const marlin_args &a, const chunk &c, float (&total)[marlin_quads(ROWS)][4])
{
    constexpr int T = ROWS / 8, PARTS = ROWS == 8 ? 1 : 2, J = 4 / PARTS;
    const uint32_t one = marlin_pair_ones(BF16), ones[4] = {one, one, one, one};
    float sx[2][T][4], sum[T * J][4];
    set_zero(sx[0]);
    set_zero(sx[1]);
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        fragments<BITS, ROWS, PARTS> f[2];
        uint32_t x8[2][4] = {};
        set_zero(sum);
        load_slice<BITS, ROWS, PARTS>(c, 0, part, f[0]);
        if constexpr (ROWS == 8) {
            slices_x8(c, 0, x8[0]);
            slices_x8(c, 2, x8[1]);
        }
#pragma unroll
        for (int i = 0; i < MARLIN_SLICES; i++) {
            if (i + 1 < MARLIN_SLICES)
                load_slice<BITS, ROWS, PARTS>(c, i + 1, part, f[(i + 1) % 2]);
            if (i == 2 && a.unit_shift < 0) {
                settle<BITS, BF16, ROWS, PARTS>(a, c.scales, c.lane, part, sx[0], sum, total);
                set_zero(sum);
            }
            uint32_t x[T][2];
#pragma unroll
            for (int t = 0; t < T; t++) {
                x[t][0] = tokens_x<ROWS>(x8, f[i % 2].x, t, i, 0);
                x[t][1] = tokens_x<ROWS>(x8, f[i % 2].x, t, i, 1);
                if (part == 0)
                    mma<BF16>(sx[i / 2][t], ones, x[t][0], x[t][1], sx[i / 2][t]);
            }
#pragma unroll
            for (int j = 0; j < J; j++) {
                uint32_t b[4];
                slice_pairs<BITS, BF16, 0>(f[i % 2].v, j, b);
                const uint32_t w[4] = {b[0], b[2], b[1], b[3]};
#pragma unroll
                for (int t = 0; t < T; t++)
                    mma<BF16>(sum[J * t + j], w, x[t][0], x[t][1], sum[J * t + j]);
            }
        }
        if (part == 0 && a.unit_shift >= 0)
#pragma unroll
            for (int t = 0; t < T; t++) {
                sx[1][t][0] += sx[0][t][0];
                sx[1][t][1] += sx[0][t][1];
            }
        settle<BITS, BF16, ROWS, PARTS>(a, c.scales + (a.unit_shift < 0 ? MARLIN_SCALE_ROW_BYTES : 0), c.lane, part, sx[1], sum, total);
    }
}

/* Scales and zeros of the columns of a lane's codes, as pairs: [n8 block]. */
template <int BITS, int BF16> MARLIN_DEV void code_columns(const marlin_args &a, const chunk &c, int row, uint32_t (&s)[8], uint32_t (&z)[8])
{
    const words4 sv = *(const words4 *)(c.scales + row * MARLIN_SCALE_ROW_BYTES + c.lane / 4 * 16);
#pragma unroll
    for (int t = 0; t < 8; t++) {
        s[t] = marlin_pair_of_f16(BF16, sv.w[t / 2], t % 2);
        z[t] = marlin_scaled_zero(BITS, BF16, a.zero, t % 2);
    }
    if (!a.zeros)
        return;
    const words4 zv = *(const words4 *)(c.scales + marlin_warp_scales(a.unit_shift, 0) + row * MARLIN_SCALE_ROW_BYTES + c.lane / 4 * 16);
#pragma unroll
    for (int t = 0; t < 8; t++)
        z[t] = marlin_scaled_zero(BITS, BF16, marlin_f16(zv.w[t / 2], t % 2), t % 2);
}

/* A chunk, SCALED 1. A slice is read while the one before is multiplied. */
template <int BITS, int BF16, int ROWS> MARLIN_DEV void chunk_scaled(const marlin_args &a, const chunk &c, float (&total)[marlin_quads(ROWS)][4])
{
    constexpr int MT = marlin_m_tiles(ROWS);
    fragments<BITS, ROWS, 1> f[2];
    uint32_t s[8], z[8];
    load_slice<BITS, ROWS, 1>(c, 0, 0, f[0]);
    code_columns<BITS, BF16>(a, c, 0, s, z);
#pragma unroll
    for (int i = 0; i < MARLIN_SLICES; i++) {
        if (i + 1 < MARLIN_SLICES)
            load_slice<BITS, ROWS, 1>(c, i + 1, 0, f[(i + 1) % 2]);
        if (i == 2 && a.unit_shift < 0)
            code_columns<BITS, BF16>(a, c, 1, s, z);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t b[4];
            slice_pairs<BITS, BF16, 1>(f[i % 2].v, j, b);
#pragma unroll
            for (int p = 0; p < 4; p++)
                b[p] = marlin_scaled(BITS, BF16, b[p], p / 2, z[2 * j + p / 2], s[2 * j + p / 2]);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma<BF16>(total[8 * m + 2 * j], f[i % 2].x[m], b[0], b[1], total[8 * m + 2 * j]);
                mma<BF16>(total[8 * m + 2 * j + 1], f[i % 2].x[m], b[2], b[3], total[8 * m + 2 * j + 1]);
            }
        }
    }
}

/* ---- finishing ---- */

/* col: of the part. */
template <int BF16> MARLIN_DEV void put(const marlin_args &a, const marlin_part &p, int row, int col, float v)
{
    if (row >= a.M || col >= p.N)
        return;
    if (p.bias)
        v += p.bias[col];
    if (a.y_f32) {
        float *y = (float *)p.y + row * p.ldy + col;
        *y = a.accumulate ? *y + v : v;
    } else {
        uint16_t *y = (uint16_t *)p.y + row * p.ldy + col;
        if (a.accumulate)
            v += BF16 ? marlin_bf16(*y) : marlin_f16(*y, 0);
        *y = (uint16_t)marlin_pair_of(BF16, v);
    }
}

/* A pair of sums of strip `strip`, finished. */
template <int BITS, int BF16, int ROWS, int SCALED> MARLIN_DEV void put_pair(const marlin_args &a, int row0, int strip, int pair, int lane, floats2 v)
{
    constexpr int T = !SCALED;
    int row, col;
    marlin_pair_at(T, pair, lane, &row, &col);
    if constexpr (!SCALED) {
        const float by = col & 8 ? 1.0f / marlin_raw_unit(BITS, BF16, 1) : 1.0f / marlin_raw_unit(BITS, BF16, 0);
        v.a *= by;
        v.b *= by;
    }
    const marlin_part &p = a.part[marlin_part_of(a.part, strip * 64)]; /* of a whole strip: the same in all lanes */
    row += row0;
    col += strip * 64 - p.from;
    if (T && a.halves) { /* rows 2m and 2m + 1 are one token's */
        if (row < a.M)
            put<BF16>(a, p, row / 2, col, v.a + v.b);
        return;
    }
    if (!T && p.together && row < a.M && col + 1 < p.N) { /* the plain case, in one store */
        if (a.y_f32)
            *(floats2 *)((float *)p.y + row * p.ldy + col) = v;
        else
            *(uint32_t *)((uint16_t *)p.y + row * p.ldy + col) = marlin_pair(BF16, v.a, v.b);
        return;
    }
    put<BF16>(a, p, row, col, v.a);
    put<BF16>(a, p, row + T, col + !T, v.b);
}

/* Where a pair of a split tile waits for the others. */
template <int ROWS, int WN> MARLIN_DEV float *slot_at(const marlin_args &a, int slot, int pass, int nw)
{
    const int64_t number = (int64_t)slab_id() * 2 * a.grid.blocks + slot;
    return a.partial + number * marlin_slot_floats(ROWS, WN) + ((((pass << WN) + nw) * MARLIN_WARPS + thread_id() / 32) * 32 + thread_id() % 32) * 2;
}

/* Counts the block in; true in all threads of the last one. */
MARLIN_DEV bool is_last(const marlin_args &a, char *head, marlin_share share)
{
    int *flag = (int *)(head + MARLIN_RED_BYTES);
    int *counter = a.counters + slab_id() * a.grid.blocks + share.first;
    block_sync();
    if (thread_id() == 0) {
        const bool last = counter_add(counter) == share.count - 1;
        if (last)
            *counter = 0;
        *flag = last;
    }
    block_sync();
    return *flag != 0;
}

/* The sum over the blocks of a split tile, slots in order. Reads of up to SHARES blocks are under way together: nothing else hides their way to L2. */
template <int BITS, int BF16, int ROWS, int WN, int SCALED> MARLIN_DEV void sum_slots(const marlin_args &a, const marlin_cursor &c, marlin_share share)
{
    constexpr int PASSES = marlin_quads(ROWS) / 4, SHARES = PASSES > 4 ? 4 : 8;
    const int warp = thread_id() / 32, lane = thread_id() % 32, wn = 1 << WN, row0 = (slab_id() * a.grid.m_blocks + c.m) * ROWS;
    for (int nw = 0; nw < wn; nw++) {
        floats2 v[PASSES];
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++)
            v[pass] = {0.0f, 0.0f};
        for (int i = 0; i < share.count; i += SHARES) {
            floats2 part[SHARES][PASSES];
#pragma unroll
            for (int j = 0; j < SHARES; j++) {
                const float *from = slot_at<ROWS, WN>(a, marlin_slot(share, share.first + i + j), 0, nw);
#pragma unroll
                for (int pass = 0; pass < PASSES; pass++) {
                    part[j][pass] = {0.0f, 0.0f};
                    if (i + j < share.count)
                        load_pair(from + (pass * MARLIN_WARPS * 64 << WN), &part[j][pass].a, &part[j][pass].b);
                }
            }
#pragma unroll
            for (int j = 0; j < SHARES; j++)
#pragma unroll
                for (int pass = 0; pass < PASSES; pass++) {
                    v[pass].a += part[j][pass].a;
                    v[pass].b += part[j][pass].b;
                }
        }
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++)
            put_pair<BITS, BF16, ROWS, SCALED>(a, row0, c.n * wn + nw, 8 * pass + warp, lane, v[pass]);
    }
}

/* Adds up the warps of a strip, 16 registers at a time: warp w of the block has pairs 8 * pass + w of every strip. Then the blocks, when the tile is split. */
template <int BITS, int BF16, int ROWS, int WN, int SCALED>
MARLIN_DEV void finish_tile(const marlin_args &a, char *head, const marlin_cursor &c, const float (&total)[marlin_quads(ROWS)][4])
{
    constexpr int PASSES = marlin_quads(ROWS) / 4, WARPS_N = 1 << WN;
    const int warp = thread_id() / 32, lane = thread_id() % 32;
    const int row0 = (slab_id() * a.grid.m_blocks + c.m) * ROWS;
    const marlin_share share = marlin_tile_share(&a.grid, c);
    floats2 *red = (floats2 *)head;
#pragma unroll 1
    for (int pass = 0; pass < PASSES; pass++) {
        block_sync();
#pragma unroll
        for (int s = 0; s < PASSES; s++)
            if (s == pass)
#pragma unroll
                for (int p = 0; p < 8; p++)
                    red[(warp * 8 + p) * 32 + lane] = {total[4 * s + p / 2][p % 2 * 2], total[4 * s + p / 2][p % 2 * 2 + 1]};
        block_sync();
        floats2 v[WARPS_N];
#pragma unroll
        for (int nw = 0; nw < WARPS_N; nw++) {
            v[nw] = {0.0f, 0.0f};
#pragma unroll
            for (int kw = 0; kw < MARLIN_WARPS / WARPS_N; kw++) {
                const floats2 p = red[((kw * WARPS_N + nw) * 8 + warp) * 32 + lane];
                v[nw].a += p.a;
                v[nw].b += p.b;
            }
        }
        float *slot = slot_at<ROWS, WN>(a, marlin_slot(share, block_id()), pass, 0);
#pragma unroll
        for (int nw = 0; nw < WARPS_N; nw++)
            if (share.count == 1)
                put_pair<BITS, BF16, ROWS, SCALED>(a, row0, c.n * WARPS_N + nw, 8 * pass + warp, lane, v[nw]);
            else
                store_pair(slot + nw * (MARLIN_WARPS * 64), v[nw].a, v[nw].b);
    }
    if (share.count > 1 && is_last(a, head, share))
        sum_slots<BITS, BF16, ROWS, WN, SCALED>(a, c, share);
}

/* ---- the kernel ---- */

template <int BITS, int BF16, int ROWS, int WN, int SCALED, int BLOCKS> MARLIN_KERNEL(MARLIN_THREADS, BLOCKS) marlin_kernel(const __grid_constant__ marlin_args a)
{
    constexpr int Q = marlin_quads(ROWS);
    const int warp = thread_id() / 32, lane = thread_id() % 32, kw = warp >> WN;
    const int stage_bytes = marlin_stage_bytes(BITS, ROWS, WN, a.unit_shift, a.zeros != 0), scale_bytes = marlin_warp_scales(a.unit_shift, a.zeros != 0);
    char *const head = shared_memory(), *const ring = head + MARLIN_HEAD_BYTES;
    const int first = marlin_stripe(&a.grid, block_id()), units = marlin_stripe(&a.grid, block_id() + 1) - first, ahead = a.stages - 1;

    /* Fill the ring but for one stage. With a producer still running, codes and scales, which it does not make, come first. */
    const marlin_cursor begin = marlin_cursor_at(&a.grid, first);
    loader next = loader_at<BITS, ROWS, WN>(a, begin);
    if (a.pdl) {
        loader l = next;
        for (int i = 0; i < ahead && i < units; i++, loader_next<BITS, ROWS, WN>(a, &l))
            load_codes<BITS, WN>(a, ring + i * stage_bytes, l);
        wait_for_producer();
    }
    for (int i = 0; i < ahead; i++) {
        if (i < units) {
            if (!a.pdl)
                load_codes<BITS, WN>(a, ring + i * stage_bytes, next);
            load_x<BITS, ROWS, WN>(a, ring + i * stage_bytes, next);
            loader_next<BITS, ROWS, WN>(a, &next);
        }
        copy_commit();
    }
    if (units <= ahead)
        let_consumer_start();

    /* Where a lane's row of X begins in a stage, for ldmatrix. */
    const int row_bytes = 128 << (3 - WN), x_row = ROWS == 8 ? lane % 8 : lane % 16, x_at = ((ROWS == 8 ? lane / 8 : lane / 16) ^ (lane & 7)) * 16;
    const int x_begin = marlin_stage_codes(BITS) + MARLIN_WARPS * scale_bytes + x_row * row_bytes + kw * 128;
    float total[Q][4];
    set_zero(total);

    int k = begin.k;
    for (int u = 0, slot = 0; u < units; u++, slot = slot + 1 == a.stages ? 0 : slot + 1) {
        /* Unit u has arrived for everyone, and everyone is through with unit u - 1, whose stage is filled again. */
        copy_wait(a.stages - 2);
        block_sync();
        if (u + ahead < units) {
            char *stage = ring + (slot ? slot - 1 : ahead) * stage_bytes;
            load_codes<BITS, WN>(a, stage, next);
            load_x<BITS, ROWS, WN>(a, stage, next);
            loader_next<BITS, ROWS, WN>(a, &next);
            if (u + ahead + 1 == units)
                let_consumer_start();
        }
        copy_commit();

        const char *stage = ring + slot * stage_bytes;
        if (k * (MARLIN_WARPS >> WN) + kw < a.k_chunks) { /* a strip past the matrix is garbage that nobody sees */
            chunk c;
            c.codes = stage + warp * (marlin_chunk_words(BITS) * 4) + lane * 16;
            c.scales = stage + marlin_stage_codes(BITS) + warp * scale_bytes;
            c.x = stage + x_begin;
            c.x_at = x_at;
            c.row_bytes = row_bytes;
            c.lane = lane;
            if constexpr (SCALED)
                chunk_scaled<BITS, BF16, ROWS>(a, c, total);
            else
                chunk_grouped<BITS, BF16, ROWS>(a, c, total);
        }
        if (++k == a.grid.k_steps || u == units - 1) {
            finish_tile<BITS, BF16, ROWS, WN, SCALED>(a, head, marlin_cursor_at(&a.grid, first + u), total);
            set_zero(total);
            k = 0;
        }
    }
}

#endif

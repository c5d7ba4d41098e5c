/* The Marlin-class kernel: Y[M,N] = X[M,K] * W, W in 4 or 8 bits, by mma.sync on every architecture from sm_80.
 *
 * A block of 8 warps walks a stripe of units (marlin_schedule.h). A unit is a tile of ROWS tokens x 64 * wn outputs, over 64 * wk inputs, wn * wk = 8: each warp
 * takes one chunk of 64 x 64 codes. Units come through a ring of `stages` in shared memory filled by cp.async: a lane copies exactly the 16 bytes of codes it will
 * use itself, a block shares X. At the end of a tile the wk warps of a strip are added up in shared memory, and split tiles across blocks (marlin_schedule.h).
 *
 * ROWS 8 is the transposed form for up to 8 tokens: codes are the 16-row operand, tokens the 8 columns; half the products and half the reads of X of ROWS 16.
 * SCALED 0: the products are taken on raw codes, exactly; once a group the sums are multiplied by the scales, in f32. The zero comes in as the starting value of the
 *   sums, -zero * (sum of x), for which one more product per slice, with ones, gives the sum of x. Cheap per code and exact in the weights, but two sets of sums.
 * SCALED 1: weights are rounded to the activations' type, one set of sums: for 64 rows, where registers allow no other.
 *
 * Order of additions of an output: k16 slices of a chunk, chunks of a warp, warps, blocks: fixed by (N, K, config, grid), whatever else runs. What marlin_ptx.cuh
 * names can be a CPU's: tests/kernels/marlin_emu.cc runs this file as it stands. */
#ifndef KERNELS_CUDA_MARLIN_KERNEL_CUH
#define KERNELS_CUDA_MARLIN_KERNEL_CUH

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

struct alignas(8) floats2 {
    float a, b;
};

MARLIN_FN constexpr int marlin_transposed(int rows) { return rows == 8; }
/* m16 tiles of tokens in a warp's tile, and quads of sums: [m16][n8] or, transposed, [n16]. */
MARLIN_FN constexpr int marlin_m_tiles(int rows) { return rows == 8 ? 1 : rows / 16; }
MARLIN_FN constexpr int marlin_quads(int rows) { return rows == 8 ? 4 : rows / 2; }

/* One warp's share of a unit. */
struct chunk {
    const char *codes;  /* + lane * 16 */
    const char *x;      /* the stage's X tile */
    const char *scales; /* rows of scales, then of zeros */
    int lane, kw;       /* which 64 inputs of the X tile */
};

/* ---- loading ---- */

template <int BITS> MARLIN_DEV void load_codes(const marlin_args &a, char *stage, const marlin_cursor &c)
{
    const int warp = thread_id() / 32, lane = thread_id() % 32, wn = 1 << a.wn_log2;
    const int kc = c.k * (MARLIN_WARPS >> a.wn_log2) + (warp >> a.wn_log2), strip = c.n * wn + (warp & (wn - 1));
    if (kc >= a.k_chunks || strip >= a.strips)
        return;
    constexpr int PLANES = MARLIN_SLICES * (BITS / 4);
    const uint32_t *from = a.codes + marlin_chunk(strip, kc, a.k_chunks) * (PLANES * MARLIN_PLANE_WORDS) + lane * MARLIN_VECTOR_WORDS;
    char *to = stage + warp * (PLANES * MARLIN_PLANE_WORDS * 4) + lane * 16;
#pragma unroll
    for (int i = 0; i < PLANES; i++)
        copy16(to + i * (MARLIN_PLANE_WORDS * 4), from + i * MARLIN_PLANE_WORDS);
    /* eight lanes a row of scales, then of zeros */
    const int rows = a.unit_shift < 0 ? 2 : 1, row = lane / 8;
    if (row < (a.zeros ? 2 * rows : rows)) {
        const uint16_t *table = row >= rows ? a.zeros : a.scales;
        const int at = marlin_scale_row(kc, a.unit_shift) + (row & (rows - 1));
        char *s = stage + marlin_stage_codes(BITS);
        copy16(s + warp * marlin_warp_scales(a.unit_shift, a.zeros != 0) + lane * 16, table + ((size_t)at * a.strips + strip) * 64 + lane % 8 * 8);
    }
}

template <int BITS, int ROWS> MARLIN_DEV void load_x(const marlin_args &a, char *stage, const marlin_cursor &c)
{
    const int wk_log2 = 3 - a.wn_log2, row_bytes = 128 << wk_log2, log2_pieces = 3 + wk_log2;
    const int row0 = (slab_id() * a.grid.m_blocks + c.m) * ROWS, k0 = c.k * (64 << wk_log2), k_end = a.k_chunks * 64;
    const int rows = a.M - row0 < ROWS ? a.M - row0 : ROWS;
    char *to = stage + marlin_stage_codes(BITS) + MARLIN_WARPS * marlin_warp_scales(a.unit_shift, a.zeros != 0);
    for (int i = thread_id(); i < rows << log2_pieces; i += MARLIN_THREADS) {
        const int row = i >> log2_pieces, piece = i & ((1 << log2_pieces) - 1), k = k0 + piece * 8, left = a.Kx - k;
        if (k >= k_end)
            continue;
        char *at = to + marlin_x_at(row, piece, row_bytes);
        const uint16_t *from = a.x + (int64_t)(row0 + row) * a.ldx + k;
        if (left >= 8)
            copy16(at, from);
        else
            copy16_part(at, left > 0 ? from : a.x, left > 0 ? 2 * left : 0);
    }
}

/* ---- computing ---- */

template <int BITS> MARLIN_DEV void slice_codes(const chunk &c, int slice, words4 (&v)[BITS / 4])
{
#pragma unroll
    for (int i = 0; i < BITS / 4; i++)
        v[i] = *(const words4 *)(c.codes + (slice * (BITS / 4) + i) * (MARLIN_PLANE_WORDS * 4));
}

/* Raw pairs of 16 columns: [2 * half + hi]. */
template <int BITS, int BF16> MARLIN_DEV void slice_raw(const words4 (&v)[BITS / 4], int j, uint32_t (&b)[4])
{
    if constexpr (BITS == 4)
        marlin_raw4(BF16, v[0].w[j], b);
    else
        marlin_raw8(BF16, v[j / 2].w[2 * (j % 2)], v[j / 2].w[2 * (j % 2) + 1], b);
}

/* A fragments of 16 tokens x 16 inputs. */
MARLIN_DEV void slice_x(const chunk &c, int m, int slice, int row_bytes, uint32_t (&x)[4])
{
    const int row = 16 * m + c.lane % 16;
    load_matrix4(x, c.x + marlin_x_at(row, 8 * c.kw + 2 * slice + c.lane / 16, row_bytes));
}

/* B fragments of 8 tokens x 32 inputs: two slices. */
MARLIN_DEV void slices_x8(const chunk &c, int slice, int row_bytes, uint32_t (&x)[4])
{
    load_matrix4(x, c.x + marlin_x_at(c.lane % 8, 8 * c.kw + 2 * slice + c.lane / 8, row_bytes));
}

/* Scales (or zeros) of the columns of a lane's sums: [column of the pair][n8 block], transposed [0][n8 block]. */
template <int ROWS> MARLIN_DEV void lane_columns(const char *row, int lane, words4 (&v)[2])
{
    if constexpr (marlin_transposed(ROWS)) {
        v[0] = *(const words4 *)(row + lane / 4 * 16);
    } else {
        v[0] = *(const words4 *)(row + lane % 4 * 32);
        v[1] = *(const words4 *)(row + lane % 4 * 32 + 16);
    }
}

/* The one of sum `i` of a quad. */
template <int ROWS> MARLIN_DEV float column_of(const words4 (&v)[2], int quad, int i)
{
    if constexpr (marlin_transposed(ROWS))
        return marlin_f16(v[0].w[quad], i / 2);
    else
        return marlin_f16(v[i % 2].w[quad % 8 / 2], quad % 2);
}

/* Sums start at -(zero + offset) * unit * (sum of x). */
template <int BITS, int BF16, int ROWS>
MARLIN_DEV void start_sums(const marlin_args &a, const char *zeros, int lane, const float (&sx)[marlin_m_tiles(ROWS)][2], float (&sum)[marlin_quads(ROWS)][4])
{
    constexpr bool T = marlin_transposed(ROWS);
    const float offset = marlin_raw_offset(BITS, BF16), unit[2] = {marlin_raw_unit(BITS, BF16, 0), marlin_raw_unit(BITS, BF16, 1)};
    if (a.zeros) {
        words4 z[2];
        lane_columns<ROWS>(zeros, lane, z);
#pragma unroll
        for (int q = 0; q < marlin_quads(ROWS); q++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                sum[q][i] = -(column_of<ROWS>(z, q, i) + offset) * (sx[T ? 0 : q / 8][T ? i % 2 : i / 2] * unit[T ? i / 2 : q % 2]);
        return;
    }
    const float by = -(a.zero + offset);
#pragma unroll
    for (int q = 0; q < marlin_quads(ROWS); q++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            sum[q][i] = by * (sx[T ? 0 : q / 8][T ? i % 2 : i / 2] * unit[T ? i / 2 : q % 2]);
}

template <int ROWS> MARLIN_DEV void add_scaled(const char *scales, int lane, const float (&sum)[marlin_quads(ROWS)][4], float (&total)[marlin_quads(ROWS)][4])
{
    words4 s[2];
    lane_columns<ROWS>(scales, lane, s);
#pragma unroll
    for (int q = 0; q < marlin_quads(ROWS); q++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            total[q][i] += column_of<ROWS>(s, q, i) * sum[q][i];
}

/* A chunk, SCALED 0. Totals are in raw units. X is read from shared memory twice, for its sums and for the products: registers are dearer. */
template <int BITS, int BF16, int ROWS> MARLIN_DEV void chunk_grouped(const marlin_args &a, const chunk &c, float (&total)[marlin_quads(ROWS)][4])
{
    constexpr bool T = marlin_transposed(ROWS);
    constexpr int MT = marlin_m_tiles(ROWS), Q = marlin_quads(ROWS);
    const int row_bytes = 128 << (3 - a.wn_log2), zeros_at = marlin_warp_scales(a.unit_shift, 0);
    const bool two = a.unit_shift < 0;
    const uint32_t one = marlin_pair_ones(BF16), ones[4] = {one, one, one, one};
    float sx[2][MT][2], sum[Q][4];
    /* sums of x over each half of the chunk */
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int m = 0; m < MT; m++) {
            float s[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            uint32_t x[4];
            if constexpr (T) {
                slices_x8(c, 2 * h, row_bytes, x);
                mma<BF16>(s, ones, x[0], x[1], s);
                mma<BF16>(s, ones, x[2], x[3], s);
            } else {
                slice_x(c, m, 2 * h, row_bytes, x);
                mma<BF16>(s, x, one, one, s);
                slice_x(c, m, 2 * h + 1, row_bytes, x);
                mma<BF16>(s, x, one, one, s);
            }
            sx[h][m][0] = s[0];
            sx[h][m][1] = T ? s[1] : s[2];
        }
    if (!two)
#pragma unroll
        for (int m = 0; m < MT; m++) {
            sx[0][m][0] += sx[1][m][0];
            sx[0][m][1] += sx[1][m][1];
        }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint32_t x8[4];
        if constexpr (T)
            slices_x8(c, 2 * h, row_bytes, x8);
        if (h == 0) {
            start_sums<BITS, BF16, ROWS>(a, c.scales + zeros_at, c.lane, sx[0], sum);
        } else if (two) {
            add_scaled<ROWS>(c.scales, c.lane, sum, total);
            start_sums<BITS, BF16, ROWS>(a, c.scales + zeros_at + MARLIN_SCALE_ROW_BYTES, c.lane, sx[1], sum);
        }
#pragma unroll
        for (int i = 2 * h; i < 2 * h + 2; i++) {
            words4 v[BITS / 4];
            uint32_t x[MT][4];
            slice_codes<BITS>(c, i, v);
            if constexpr (!T)
#pragma unroll
                for (int m = 0; m < MT; m++)
                    slice_x(c, m, i, row_bytes, x[m]);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                uint32_t b[4];
                slice_raw<BITS, BF16>(v, j, b);
                if constexpr (T) {
                    const uint32_t w[4] = {b[0], b[2], b[1], b[3]};
                    mma<BF16>(sum[j], w, x8[i % 2 * 2], x8[i % 2 * 2 + 1], sum[j]);
                } else {
#pragma unroll
                    for (int m = 0; m < MT; m++) {
                        mma<BF16>(sum[8 * m + 2 * j], x[m], b[0], b[1], sum[8 * m + 2 * j]);
                        mma<BF16>(sum[8 * m + 2 * j + 1], x[m], b[2], b[3], sum[8 * m + 2 * j + 1]);
                    }
                }
            }
        }
    }
    add_scaled<ROWS>(c.scales + (two ? MARLIN_SCALE_ROW_BYTES : 0), c.lane, sum, total);
}

/* Scales and zeros of the columns of a lane's codes, as pairs: [n8 block]. */
template <int BITS, int BF16> MARLIN_DEV void code_columns(const marlin_args &a, const chunk &c, int row, uint32_t (&s)[8], uint32_t (&z)[8])
{
    const words4 sv = *(const words4 *)(c.scales + row * MARLIN_SCALE_ROW_BYTES + c.lane / 4 * 16);
#pragma unroll
    for (int t = 0; t < 8; t++) {
        s[t] = marlin_pair_of(BF16, marlin_f16(sv.w[t / 2], t % 2));
        z[t] = marlin_scaled_zero(BITS, BF16, a.zero, t % 2);
    }
    if (!a.zeros)
        return;
    const words4 zv = *(const words4 *)(c.scales + marlin_warp_scales(a.unit_shift, 0) + row * MARLIN_SCALE_ROW_BYTES + c.lane / 4 * 16);
#pragma unroll
    for (int t = 0; t < 8; t++)
        z[t] = marlin_scaled_zero(BITS, BF16, marlin_f16(zv.w[t / 2], t % 2), t % 2);
}

/* A chunk, SCALED 1. */
template <int BITS, int BF16, int ROWS> MARLIN_DEV void chunk_scaled(const marlin_args &a, const chunk &c, float (&total)[marlin_quads(ROWS)][4])
{
    constexpr int MT = marlin_m_tiles(ROWS);
    const int row_bytes = 128 << (3 - a.wn_log2);
    uint32_t s[8], z[8];
#pragma unroll 1
    for (int h = 0; h < 2; h++) {
        if (h == 0 || a.unit_shift < 0)
            code_columns<BITS, BF16>(a, c, h, s, z);
#pragma unroll
        for (int i = 2 * h; i < 2 * h + 2; i++) {
            words4 v[BITS / 4];
            uint32_t x[MT][4];
            slice_codes<BITS>(c, i, v);
#pragma unroll
            for (int m = 0; m < MT; m++)
                slice_x(c, m, i, row_bytes, x[m]);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                uint32_t b[4];
                slice_raw<BITS, BF16>(v, j, b);
#pragma unroll
                for (int p = 0; p < 4; p++)
                    b[p] = marlin_scaled(BITS, BF16, b[p], p / 2, z[2 * j + p / 2], s[2 * j + p / 2]);
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    mma<BF16>(total[8 * m + 2 * j], x[m], b[0], b[1], total[8 * m + 2 * j]);
                    mma<BF16>(total[8 * m + 2 * j + 1], x[m], b[2], b[3], total[8 * m + 2 * j + 1]);
                }
            }
        }
    }
}

/* ---- finishing ---- */

template <int BF16> MARLIN_DEV void put(const marlin_args &a, int row, int col, float v)
{
    if (row >= a.M || col >= a.N)
        return;
    if (a.bias)
        v += a.bias[col];
    if (a.y_f32) {
        float *y = (float *)a.y + row * a.ldy + col;
        *y = a.accumulate ? *y + v : v;
    } else {
        uint16_t *y = (uint16_t *)a.y + row * a.ldy + col;
        if (a.accumulate)
            v += BF16 ? marlin_bf16(*y) : marlin_f16(*y, 0);
        *y = (uint16_t)marlin_pair_of(BF16, v);
    }
}

/* A pair of sums of strip `strip`, finished. */
template <int BITS, int BF16, int ROWS, int SCALED> MARLIN_DEV void put_pair(const marlin_args &a, int row0, int strip, int pair, int lane, floats2 v)
{
    constexpr int T = marlin_transposed(ROWS);
    int row, col;
    marlin_pair_at(T, pair, lane, &row, &col);
    if constexpr (!SCALED) {
        const float by = col & 8 ? 1.0f / marlin_raw_unit(BITS, BF16, 1) : 1.0f / marlin_raw_unit(BITS, BF16, 0);
        v.a *= by;
        v.b *= by;
    }
    row += row0;
    col += strip * 64;
    put<BF16>(a, row, col, v.a);
    put<BF16>(a, row + T, col + !T, v.b);
}

/* Where a pair of a split tile waits for the others. */
MARLIN_DEV float *slot_at(const marlin_args &a, int rows, int slot, int pass, int nw)
{
    const int64_t number = (int64_t)slab_id() * 2 * a.grid.blocks + slot;
    return a.partial + number * marlin_slot_floats(rows, a.wn_log2) + ((((pass << a.wn_log2) + nw) * MARLIN_WARPS + thread_id() / 32) * 32 + thread_id() % 32) * 2;
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

/* Adds up the warps of a strip, 16 registers at a time: warp w of the block has pairs 8 * pass + w of every strip. Then the blocks, when the tile is split. */
template <int BITS, int BF16, int ROWS, int SCALED>
MARLIN_DEV void finish_tile(const marlin_args &a, char *head, const marlin_cursor &c, const float (&total)[marlin_quads(ROWS)][4])
{
    constexpr int PASSES = marlin_quads(ROWS) / 4;
    const int warp = thread_id() / 32, lane = thread_id() % 32, wn = 1 << a.wn_log2, wk = MARLIN_WARPS >> a.wn_log2;
    const int row0 = (slab_id() * a.grid.m_blocks + c.m) * ROWS;
    const marlin_share share = marlin_tile_share(&a.grid, c);
    floats2 *red = (floats2 *)head;
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
        block_sync();
#pragma unroll
        for (int p = 0; p < 8; p++)
            red[(warp * 8 + p) * 32 + lane] = {total[4 * pass + p / 2][p % 2 * 2], total[4 * pass + p / 2][p % 2 * 2 + 1]};
        block_sync();
        int row, col;
        marlin_pair_at(marlin_transposed(ROWS), 8 * pass + warp, lane, &row, &col);
        if (row0 + row >= a.M)
            continue;
        for (int nw = 0; nw < wn; nw++) {
            floats2 v = {0.0f, 0.0f};
            for (int kw = 0; kw < wk; kw++) {
                const floats2 p = red[((kw * wn + nw) * 8 + warp) * 32 + lane];
                v.a += p.a;
                v.b += p.b;
            }
            if (share.count == 1)
                put_pair<BITS, BF16, ROWS, SCALED>(a, row0, c.n * wn + nw, 8 * pass + warp, lane, v);
            else
                store_pair(slot_at(a, ROWS, marlin_slot(share, block_id()), pass, nw), v.a, v.b);
        }
    }
    if (share.count == 1 || !is_last(a, head, share))
        return;
    for (int pass = 0; pass < PASSES; pass++) {
        int row, col;
        marlin_pair_at(marlin_transposed(ROWS), 8 * pass + warp, lane, &row, &col);
        if (row0 + row >= a.M)
            continue;
        for (int nw = 0; nw < wn; nw++) {
            floats2 v = {0.0f, 0.0f};
#pragma unroll 4
            for (int i = 0; i < share.count; i++) {
                floats2 p;
                load_pair(slot_at(a, ROWS, marlin_slot(share, share.first + i), pass, nw), &p.a, &p.b);
                v.a += p.a;
                v.b += p.b;
            }
            put_pair<BITS, BF16, ROWS, SCALED>(a, row0, c.n * wn + nw, 8 * pass + warp, lane, v);
        }
    }
}

/* ---- the kernel ---- */

template <int BITS, int BF16, int ROWS, int SCALED, int BLOCKS> MARLIN_KERNEL(MARLIN_THREADS, BLOCKS) marlin_kernel(const __grid_constant__ marlin_args a)
{
    constexpr int Q = marlin_quads(ROWS);
    const int warp = thread_id() / 32, lane = thread_id() % 32, wn = 1 << a.wn_log2, kw = warp >> a.wn_log2;
    const int stage_bytes = marlin_stage_bytes(BITS, ROWS, a.wn_log2, a.unit_shift, a.zeros != 0), scale_bytes = marlin_warp_scales(a.unit_shift, a.zeros != 0);
    char *const head = shared_memory(), *const ring = head + MARLIN_HEAD_BYTES;
    const int first = marlin_stripe(&a.grid, block_id()), units = marlin_stripe(&a.grid, block_id() + 1) - first, ahead = a.stages - 1;

    /* Fill the ring but for one stage. With a producer still running, codes and scales, which it does not make, come first. */
    marlin_cursor next = marlin_cursor_at(&a.grid, first), at = next;
    if (a.pdl) {
        marlin_cursor c = next;
        for (int i = 0; i < ahead && i < units; i++, marlin_cursor_next(&a.grid, &c))
            load_codes<BITS>(a, ring + i * stage_bytes, c);
        wait_for_producer();
    }
    int loaded = 0;
    for (; loaded < ahead; loaded++) {
        if (loaded < units) {
            if (!a.pdl)
                load_codes<BITS>(a, ring + loaded * stage_bytes, next);
            load_x<BITS, ROWS>(a, ring + loaded * stage_bytes, next);
            marlin_cursor_next(&a.grid, &next);
        }
        copy_commit();
    }
    if (units <= ahead)
        let_consumer_start();

    float total[Q][4];
#pragma unroll
    for (int q = 0; q < Q; q++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            total[q][i] = 0.0f;

    int slot = 0, refill = ahead;
    for (int u = 0; u < units; u++) {
        /* Unit u has arrived for everyone, and everyone is through with unit u - 1, whose stage is filled again. */
        copy_wait(a.stages - 2);
        block_sync();
        if (loaded < units) {
            load_codes<BITS>(a, ring + refill * stage_bytes, next);
            load_x<BITS, ROWS>(a, ring + refill * stage_bytes, next);
            marlin_cursor_next(&a.grid, &next);
            if (++loaded == units)
                let_consumer_start();
        }
        copy_commit();

        const char *stage = ring + slot * stage_bytes;
        if (at.k * (MARLIN_WARPS >> a.wn_log2) + kw < a.k_chunks && at.n * wn + (warp & (wn - 1)) < a.strips) {
            chunk c;
            c.codes = stage + warp * (marlin_chunk_words(BITS) * 4) + lane * 16;
            c.scales = stage + marlin_stage_codes(BITS) + warp * scale_bytes;
            c.x = stage + marlin_stage_codes(BITS) + MARLIN_WARPS * scale_bytes;
            c.lane = lane;
            c.kw = kw;
            if constexpr (SCALED)
                chunk_scaled<BITS, BF16, ROWS>(a, c, total);
            else
                chunk_grouped<BITS, BF16, ROWS>(a, c, total);
        }
        if (at.k == a.grid.k_steps - 1 || u == units - 1) {
            finish_tile<BITS, BF16, ROWS, SCALED>(a, head, at, total);
#pragma unroll
            for (int q = 0; q < Q; q++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    total[q][i] = 0.0f;
        }
        marlin_cursor_next(&a.grid, &at);
        slot = slot + 1 == a.stages ? 0 : slot + 1;
        refill = refill + 1 == a.stages ? 0 : refill + 1;
    }
}

#endif

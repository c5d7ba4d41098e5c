/* The Machete-class kernel: Y[M,N] = X[M,K] * W, W in 4 or 8 bits, by wgmma on sm_90a. Y^T = W^T X^T: codes, made numbers in registers, are the A operand of wgmma, X in shared
 * memory is B.
 *
 * A block has one thread that copies (the rest of its warpgroup sleeps) and two warpgroups that multiply. Steps of BLOCKS * 64 inputs of a tile of ROWS tokens x 128 * WIDE
 * outputs go through a ring of stages: codes and scales by bulk copies, X by TMA. Per stage two barriers:
 *   full    one arrival, of the block's own copying thread, which announces all bytes of the stage in it; ends when those are there. n-th use of a stage: parity n % 2
 *   empty   one arrival of each multiplying warp, of every block that gets its part of X from here; the copying thread waits for the (n - 1)-th end before the n-th use
 * A stage is left by a warp after wgmma_wait, when the products that read its X are done and its codes have long been read.
 * Of two warpgroups, each has one m64 atom of the stripe (WIDE 1), or both atoms of one of two stripes (WIDE 2). While the products of a part of a step run, the codes of the
 * next part are made numbers: two sets of A registers.
 *
 * SCALED 0: numbers are q - zero, exact; once a unit of scales (RUN slices, or a whole step and more) the sums are multiplied by the scales, in f32, into a second set. While
 *           one warpgroup does that, the other's products run: nothing makes the two keep step within the stages that have arrived.
 * SCALED 1: numbers are (q - zero) * scale, rounded to the activations' type: for 256 rows, and 128 by 256 columns, where registers allow one set of sums.
 *
 * Of several spans of K that a block goes through by itself, it holds the sums in shared memory, each thread its own. At the end of a tile its
 * sums go through shared memory, MACHETE_PASS_ROWS rows at a time, so that rows of Y are written along n; with `split`, each block of the cluster adds up its part of them from
 * the shared memory of all, in the order of blocks. Two more barriers order that, pass by pass (`turn`, over all tiles):
 *   ready   an arrival of each multiplying warp of each of the `split` blocks: sums of the turn are written
 *   done    alike: sums of the turn are read, the place may be written again
 * Nobody can be two turns ahead: to arrive at ready of turn t + 1 a warp waits for done of turn t, which takes every warp having passed ready of turn t.
 * Blocks of a cluster leave together, for others arrive at their barriers and read their memory to the end.
 *
 * Order of additions of an output: k16 slices of a unit (of 1024 inputs of it at most), units of a span, spans, the two halves of X: fixed by (K, unit, spans), whatever ROWS,
 * for tiles of SCALED 0: their steps are alike. That assumes that what wgmma adds up for one token does not depend on how many tokens it has (N), nor on which of them it is:
 * check_fixed of tests/gpu/check_class.cuh is what asks a device. What machete_ptx.cuh names can be a CPU's: tests/kernels/machete_emu.cc runs this file as it stands. */
#ifndef KERNELS_CUDA_MACHETE_KERNEL_CUH
#define KERNELS_CUDA_MACHETE_KERNEL_CUH

#include <math.h>

#include "kernels/cuda/machete_args.h"
#include "kernels/cuda/marlin_dequant.h"

#ifdef MACHETE_EMULATED
#include "tests/kernels/machete_emu.h"
#else
#include "kernels/cuda/machete_ptx.cuh"
#endif

struct alignas(16) quad {
    uint32_t w[4];
};

struct alignas(8) two {
    uint32_t w[2];
};

struct alignas(16) floats4 {
    float v[4];
};

/* What all threads of a block know. */
struct block {
    char *shared;
    uint64_t *barriers;
    machete_shared at;
    int rank, base;     /* in the cluster; of the first block that adds up the same tile */
    int cluster;        /* number of the cluster */
    machete_report *report;
};

/* The walk through the steps of a block: tiles of its cluster, of each tile its spans of K. */
struct walk {
    int tile, span;
    int step, end;      /* of the span */
    int m, n;           /* row tile; tile of 128 * WIDE outputs */
};

MACHETE_DEV void walk_span(const machete_args &a, walk *w)
{
    w->step = machete_first_step(&a.grid, w->span);
    w->end = machete_first_step(&a.grid, w->span + 1);
}

MACHETE_DEV void walk_tile(const machete_args &a, const block &b, walk *w)
{
    const machete_tile p = machete_tile_at(&a.grid, w->tile);
    w->m = p.m;
    w->n = p.n * a.grid.share + (a.grid.share > 1 ? b.rank : 0);
    w->span = machete_first_span(&a.grid, b.rank);
    walk_span(a, w);
}

MACHETE_DEV walk walk_begin(const machete_args &a, const block &b)
{
    walk w;
    w.tile = b.cluster;
    walk_tile(a, b, &w);
    return w;
}

/* Past the end of a span: the next, or the next tile. */
MACHETE_DEV void walk_on(const machete_args &a, const block &b, walk *w)
{
    if (++w->span < machete_end_span(&a.grid, b.rank)) {
        walk_span(a, w);
        return;
    }
    w->tile += a.grid.clusters;
    if (w->tile < a.grid.tiles)
        walk_tile(a, b, w);
}

MACHETE_DEV void walk_next(const machete_args &a, const block &b, walk *w)
{
    if (++w->step == w->end)
        walk_on(a, b, w);
}

/* ---- copying ---- */

/* Announces the bytes of a stage, then copies codes and scales. A tile past the last stripe takes the last stripe: nobody sees its sums. */
template <int BITS, int WIDE, int BLOCKS> MACHETE_DEV void copy_weights(const machete_args &a, const block &b, const walk &w, int slot)
{
    const int codes = BLOCKS * machete_block_words(BITS) * 4;
    const int rows = machete_scale_rows(BLOCKS, a.unit_shift) * MACHETE_ROW_BYTES, row = marlin_scale_row(w.step * BLOCKS, a.unit_shift);
    uint64_t *full = b.barriers + machete_full(slot);
    barrier_announce(full, b.at.stage_x + b.at.stage_codes + b.at.stage_scales);
    char *to_codes = b.shared + b.at.codes + slot * b.at.stage_codes, *to_scales = b.shared + b.at.scales + slot * b.at.stage_scales;
#pragma unroll
    for (int i = 0; i < WIDE; i++) {
        const int stripe = w.n * WIDE + i < a.stripes ? w.n * WIDE + i : a.stripes - 1;
        copy_run(to_codes + i * codes, a.codes + machete_block(stripe, w.step * BLOCKS, a.k_blocks) * machete_block_words(BITS), codes, full, a.codes_policy);
        const size_t from = ((size_t)stripe * a.scale_rows + row) * MACHETE_N;
        copy_run(to_scales, a.scales + from, rows, full, a.codes_policy);
        to_scales += rows;
        if (a.zeros) {
            copy_run(to_scales, a.zeros + from, rows, full, a.codes_policy);
            to_scales += rows;
        }
    }
}

/* X of a stage; with `share`, a block brings its part of the rows for all. Rows past M and inputs past Kx come as 0, and count as bytes like others. */
template <int ROWS, int BLOCKS> MACHETE_DEV void copy_x(const machete_args &a, const machete_map *x, const block &b, const walk &w, int slot)
{
    uint64_t *full = b.barriers + machete_full(slot);
    char *to = b.shared + slot * b.at.stage_x;
    const int part = ROWS / a.grid.share, k = w.step * BLOCKS * MACHETE_K;
#pragma unroll
    for (int i = 0; i < BLOCKS; i++)
        if (a.grid.share > 1)
            copy_box_shared(to + (i * ROWS + b.rank * part) * MACHETE_X_ROW_BYTES, x, k + i * MACHETE_K, w.m * ROWS + b.rank * part, full, a.x_policy, (1 << a.grid.share) - 1);
        else
            copy_box(to + i * ROWS * MACHETE_X_ROW_BYTES, x, k + i * MACHETE_K, w.m * ROWS, full, a.x_policy);
}

/* The one thread that copies. Codes and scales of the first stages come before whatever the launch may overlap has ended. */
template <int BITS, int ROWS, int WIDE, int BLOCKS> MACHETE_DEV void copy_all(const machete_args &a, const machete_map *x, const block &b)
{
    walk w = walk_begin(a, b);
    for (int i = 0; i < a.stages && w.tile < a.grid.tiles; i++, walk_next(a, b, &w))
        copy_weights<BITS, WIDE, BLOCKS>(a, b, w, i);
    wait_for_producer();
    w = walk_begin(a, b); /* once more: registers are few here */
    for (int i = 0; i < a.stages && w.tile < a.grid.tiles; i++, walk_next(a, b, &w))
        copy_x<ROWS, BLOCKS>(a, x, b, w, i);
    for (int slot = 0, parity = 0; w.tile < a.grid.tiles; walk_next(a, b, &w)) {
        barrier_wait(b.barriers + machete_empty(slot), parity, b.report);
        copy_weights<BITS, WIDE, BLOCKS>(a, b, w, slot);
        copy_x<ROWS, BLOCKS>(a, x, b, w, slot);
        if (++slot == a.stages) {
            slot = 0;
            parity ^= 1;
        }
    }
    let_consumer_start();
}

/* ---- from codes to numbers ---- */

/* A multiplying thread: where its share of stage 0 lies, and which stage is next. */
struct consumer {
    int codes;            /* of its first atom; the other's is 2048 bytes on */
    int scales;           /* its word of row 0; the other atom's is 128 bytes on */
    uint32_t x;           /* shared address of X */
    int thread;           /* 0..255 */
    int slot, parity;     /* the stage of the step at hand, and of its full barrier */
    int turn;             /* passes of sums so far */
};

enum { ATOM_CODES = MACHETE_CONSUMERS / 2 * 16, ATOM_SCALES = MACHETE_ROW_BYTES / 2 };

/* A step is taken in one part, or two where there are no registers for two sets of a whole step: beside many sums, and where two blocks share an SM. */
MACHETE_FN constexpr int parts_of(int rows, int wide) { return rows <= 16 || rows * wide >= 128 ? 2 : 1; }

/* A operand of one part, [atom][k16 slice]. */
template <int WIDE, int SLICES> struct fragments {
    uint32_t a[WIDE][SLICES][4];
};

/* Row of scales of slices 2p, 2p + 1 of a step, from its first. */
MACHETE_DEV int row_of(const machete_args &a, int p)
{
    return a.unit_shift < 0 ? p : a.unit_shift == 0 ? p / 2 : 0;
}

MACHETE_DEV uint32_t scale_word(const block &b, const consumer &c, int slot, int atom, int row)
{
    return *(const uint32_t *)(b.shared + c.scales + slot * b.at.stage_scales + atom * ATOM_SCALES + row * MACHETE_ROW_BYTES);
}

/* Of each of the two outputs of a thread, as pairs of the type. */
struct outputs {
    uint32_t zero[2], scale[2];
};

template <int BITS, int BF16, int SCALED, int BLOCKS> MACHETE_DEV void load_outputs(const machete_args &a, const block &b, const consumer &c, int slot, int atom, int p, outputs *o)
{
    const int row = row_of(a, p);
    if (a.zeros) {
        const uint32_t z = scale_word(b, c, slot, atom, row + machete_scale_rows(BLOCKS, a.unit_shift)); /* rows of zeros are behind those of scales */
        o->zero[0] = marlin_scaled_zero(BITS, BF16, marlin_f16(z, 0), 0);
        o->zero[1] = marlin_scaled_zero(BITS, BF16, marlin_f16(z, 1), 1);
    }
    if constexpr (SCALED) {
        const uint32_t s = scale_word(b, c, slot, atom, row);
        o->scale[0] = marlin_pair_of_f16(BF16, s, 0);
        o->scale[1] = marlin_pair_of_f16(BF16, s, 1);
    }
}

/* One slice: w is its word of 4-bit codes, or its two of 8 bits. */
template <int BITS, int BF16, int SCALED> MACHETE_DEV void numbers(const uint32_t *w, const outputs &o, uint32_t (&to)[4])
{
    uint32_t pairs[4]; /* [2 * half + (k + 8)]; registers of A are [half + 2 * (k + 8)] */
    if constexpr (BITS == 4)
        marlin_pairs4(BF16, 1, w[0], pairs);
    else
        marlin_pairs8(BF16, 1, w[0], w[1], pairs);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int half = i % 2;
        to[i] = marlin_centered(BITS, BF16, pairs[2 * half + i / 2], half, o.zero[half]);
        if constexpr (SCALED)
            to[i] = marlin_pair_mul(BF16, to[i], o.scale[half]);
    }
}

/* Words of part PART of the codes at `from`, of one atom. */
template <int BITS, int SLICES, int PART> MACHETE_DEV void load_words(const char *from, uint32_t (&w)[SLICES * (BITS / 4)])
{
    if constexpr (SLICES * (BITS / 4) == 2) {
        const two t = *(const two *)(from + PART * 8);
        w[0] = t.w[0];
        w[1] = t.w[1];
    } else {
        constexpr int PLANES = SLICES * (BITS / 4) / 4;
#pragma unroll
        for (int i = 0; i < PLANES; i++) {
            const quad q = *(const quad *)(from + (PART * PLANES + i) * (MACHETE_PLANE_WORDS * 4));
#pragma unroll
            for (int j = 0; j < 4; j++)
                w[4 * i + j] = q.w[j];
        }
    }
}

/* Part PART of the step in `slot`, which has arrived. */
template <int BITS, int BF16, int WIDE, int SCALED, int SLICES, int BLOCKS, int PART>
MACHETE_DEV void load_part(const machete_args &a, const block &b, const consumer &c, int slot, fragments<WIDE, SLICES> &f)
{
#pragma unroll
    for (int atom = 0; atom < WIDE; atom++) {
        outputs o;
        uint32_t w[SLICES * (BITS / 4)];
        o.zero[0] = marlin_scaled_zero(BITS, BF16, a.zero, 0);
        o.zero[1] = marlin_scaled_zero(BITS, BF16, a.zero, 1);
        load_words<BITS, SLICES, PART>(b.shared + c.codes + slot * b.at.stage_codes + atom * ATOM_CODES, w);
#pragma unroll
        for (int i = 0; i < SLICES; i++) {
            const int slice = PART * SLICES + i;
            if (i == 0 || (i % 2 == 0 && a.unit_shift < (slice % 4 == 0)))
                load_outputs<BITS, BF16, SCALED, BLOCKS>(a, b, c, slot, atom, slice / 2, &o);
            numbers<BITS, BF16, SCALED>(w + i * (BITS / 4), o, f.a[atom][i]);
        }
    }
}

/* ---- multiplying ---- */

/* Waits for a stage. Lanes may find it full at different times; wgmma wants whole warps. */
MACHETE_DEV void wait_full(const block &b, int slot, int parity)
{
    barrier_wait(b.barriers + machete_full(slot), parity, b.report);
    warp_sync();
}

template <int WIDE, int N> MACHETE_DEV void hold_all(float (&d)[WIDE][N])
{
#pragma unroll
    for (int i = 0; i < WIDE; i++)
        hold(d[i]);
}

/* All products begun are done; nothing of their registers is used otherwise before. */
template <int WIDE, int N, int SLICES> MACHETE_DEV void wait_products(const fragments<WIDE, SLICES> &f, float (&sum)[WIDE][N])
{
    wgmma_wait();
    hold_all(sum);
#pragma unroll
    for (int atom = 0; atom < WIDE; atom++)
#pragma unroll
        for (int i = 0; i < SLICES; i++)
            hold_a(f.a[atom][i]);
}

/* total += scale * sum, a thread's two outputs by the halves of the word. */
template <int N> MACHETE_DEV void settle(uint32_t scale, const float (&sum)[N], float (&total)[N])
{
    const float s[2] = {marlin_f16(scale, 0), marlin_f16(scale, 1)};
#pragma unroll
    for (int i = 0; i < N; i++)
        total[i] = fmaf(s[i / 2 % 2], sum[i], total[i]);
}

template <int WIDE, int N> MACHETE_DEV void settle_all(const uint32_t (&scale)[WIDE], const float (&sum)[WIDE][N], float (&total)[WIDE][N], int *fresh)
{
#pragma unroll
    for (int atom = 0; atom < WIDE; atom++)
        settle(scale[atom], sum[atom], total[atom]);
    *fresh = 1;
}

/* Scales of slices 2p, 2p + 1 of the step at hand, read while products run. */
template <int WIDE, int SCALED> MACHETE_DEV void load_scales(const machete_args &a, const block &b, const consumer &c, int p, uint32_t (&scale)[WIDE])
{
#pragma unroll
    for (int atom = 0; atom < WIDE; atom++)
        scale[atom] = SCALED ? 0 : scale_word(b, c, c.slot, atom, row_of(a, p));
}

/* Begins the products of a part of the step at hand. Where units end inside of it, after every RUN slices, the sums are waited for and settled there. (RUN is no run-time
 * matter: a product must have its fence before it on every path, or ptxas puts one before each.) fresh: the sums so far are none. */
template <int BF16, int ROWS, int WIDE, int RUN, int SLICES, int PART>
MACHETE_DEV void multiply(const block &b, const consumer &c, const fragments<WIDE, SLICES> &f, float (&sum)[WIDE][ROWS / 2], float (&total)[WIDE][ROWS / 2], int *fresh)
{
    const uint64_t x = machete_descriptor(c.x + c.slot * b.at.stage_x);
    hold_all(sum);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < SLICES; i++) {
        const int slice = PART * SLICES + i;
#pragma unroll
        for (int atom = 0; atom < WIDE; atom++)
            wgmma<BF16, ROWS>(sum[atom], f.a[atom][i], x + ((slice / MACHETE_SLICES * ROWS * MACHETE_X_ROW_BYTES + slice % MACHETE_SLICES * 32) >> 4), !*fresh);
        *fresh = 0;
        if ((i + 1) % RUN == 0 && i + 1 < SLICES) {
            wgmma_commit();
            wait_products(f, sum);
#pragma unroll
            for (int atom = 0; atom < WIDE; atom++)
                settle(scale_word(b, c, c.slot, atom, slice / RUN), sum[atom], total[atom]);
            *fresh = 1;
            hold_all(sum);
            wgmma_fence();
        }
    }
    wgmma_commit();
}

/* Sums are settled at least every 64 << SETTLE_SHIFT inputs, the next ones by the same scales: the tensor cores' additions cut off, in one direction, and what that adds up to over
 * many thousand inputs would show. */
enum { SETTLE_SHIFT = 4 };

/* The step at hand is done with: its stage may be filled again. */
MACHETE_DEV void leave_stage(const machete_args &a, const block &b, const consumer &c)
{
    const int lane = thread_id() % 32;
    warp_sync();
    if (lane >= a.grid.share)
        return;
    if (a.grid.share > 1)
        barrier_arrive_peer_read(b.barriers + machete_empty(c.slot), lane);
    else
        barrier_arrive(b.barriers + machete_empty(c.slot));
}

/* Part PART of the step at hand: its products from `now`, meanwhile the numbers of the part after it, if the tile has one, into `next`. */
template <int BITS, int BF16, int ROWS, int WIDE, int SCALED, int RUN, int BLOCKS, int PART>
MACHETE_DEV void do_part(const machete_args &a, const block &b, consumer &c, walk &w, const fragments<WIDE, BLOCKS * MACHETE_SLICES / parts_of(ROWS, WIDE)> &now,
                         fragments<WIDE, BLOCKS * MACHETE_SLICES / parts_of(ROWS, WIDE)> &next, float (&sum)[WIDE][ROWS / 2], float (&total)[WIDE][ROWS / 2], int *fresh)
{
    constexpr int PARTS = parts_of(ROWS, WIDE), SLICES = BLOCKS * MACHETE_SLICES / PARTS;
    uint32_t scale[WIDE];
    multiply<BF16, ROWS, WIDE, RUN, SLICES, PART>(b, c, now, sum, total, fresh);
    if constexpr (PART + 1 < PARTS) {
        if (a.stages > 0) /* always. But what is made behind a branch ptxas leaves before the wait; without one it moved most of it behind */
            load_part<BITS, BF16, WIDE, SCALED, SLICES, BLOCKS, PART + 1>(a, b, c, c.slot, next);
        load_scales<WIDE, SCALED>(a, b, c, (PART * SLICES + SLICES - 1) / 2, scale);
        wait_products(now, sum);
        if constexpr (!SCALED && (PART + 1) * SLICES % RUN == 0)
            settle_all(scale, sum, total, fresh);
    } else {
        const int slot = c.slot + 1 == a.stages ? 0 : c.slot + 1, parity = slot ? c.parity : c.parity ^ 1;
        const bool last = w.step + 1 == w.end;
        if (!last) {
            wait_full(b, slot, parity);
            load_part<BITS, BF16, WIDE, SCALED, SLICES, BLOCKS, 0>(a, b, c, slot, next);
        }
        load_scales<WIDE, SCALED>(a, b, c, (PART * SLICES + SLICES - 1) / 2, scale);
        wait_products(now, sum);
        leave_stage(a, b, c);
        if constexpr (!SCALED) {
            const uint32_t mask = a.unit_shift < 0 ? 0 : (1u << (a.unit_shift < SETTLE_SHIFT ? a.unit_shift : SETTLE_SHIFT)) - 1;
            if (last || ((uint32_t)((w.step + 1) * BLOCKS) & mask) == 0)
                settle_all(scale, sum, total, fresh);
        }
        c.slot = slot;
        c.parity = parity;
        w.step++;
    }
}

/* ---- finishing ---- */

/* Four outputs of a row, finished; all of one part. */
template <int BF16> MACHETE_DEV void put(const machete_args &a, int row, int col, floats4 s)
{
    const marlin_part &p = a.part[marlin_part_of(a.part, col)];
    col -= p.from;
    const int64_t at = row * p.ldy + col;
    if (p.together && col + 4 <= p.N) {
        if (p.bias)
#pragma unroll
            for (int i = 0; i < 4; i++)
                s.v[i] += p.bias[col + i];
        if (a.y_f32)
            *(floats4 *)((float *)p.y + at) = s;
        else
            *(uint64_t *)((uint16_t *)p.y + at) = (uint64_t)marlin_pair(BF16, s.v[2], s.v[3]) << 32 | marlin_pair(BF16, s.v[0], s.v[1]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (col + i >= p.N)
            break;
        float v = p.bias ? s.v[i] + p.bias[col + i] : s.v[i];
        if (a.y_f32) {
            float *y = (float *)p.y + at + i;
            *y = a.accumulate ? *y + v : v;
        } else {
            uint16_t *y = (uint16_t *)p.y + at + i;
            if (a.accumulate)
                v += BF16 ? marlin_bf16(*y) : marlin_f16(*y, 0);
            *y = (uint16_t)marlin_pair_of(BF16, v);
        }
    }
}

/* Four sums of a row of a pass, of all blocks in their order. */
template <int WIDE> MACHETE_DEV floats4 add_up(const machete_args &a, const block &b, const float *sums)
{
    constexpr int TOGETHER = 4; /* reads under way at a time */
    if (a.grid.split == 1)
        return *(const floats4 *)sums;
    floats4 s = {{0.0f, 0.0f, 0.0f, 0.0f}};
#pragma unroll 1
    for (int from = 0; from < a.grid.split; from += TOGETHER) {
        floats4 v[TOGETHER];
#pragma unroll
        for (int r = 0; r < TOGETHER; r++)
            if (from + r < a.grid.split)
                load_peer(sums, b.base + from + r, v[r].v);
#pragma unroll
        for (int r = 0; r < TOGETHER; r++)
            if (from + r < a.grid.split)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    s.v[j] += v[r].v[j];
    }
    return s;
}

/* Adds up and writes this block's part of a pass: groups of four outputs, rows one after the other. With halves, rows 2m and 2m + 1 of X are row m of Y. */
template <int BF16, int WIDE> MACHETE_DEV void put_pass(const machete_args &a, const block &b, const consumer &c, const float *sums, int row0, int col0, int rows)
{
    constexpr int GROUPS = MACHETE_N * WIDE / 4;
    const int part = b.rank - b.base, all = (rows >> a.halves) * GROUPS, begin = all * part / a.grid.split, end = all * (part + 1) / a.grid.split;
    for (int i = begin + c.thread; i < end; i += MACHETE_CONSUMERS) {
        const int row = i / GROUPS, col = i % GROUPS * 4;
        const float *from = sums + (row << a.halves) * machete_sum_stride(WIDE) + col;
        floats4 s = add_up<WIDE>(a, b, from);
        if (a.halves) {
            const floats4 lo = add_up<WIDE>(a, b, from + machete_sum_stride(WIDE));
#pragma unroll
            for (int j = 0; j < 4; j++)
                s.v[j] += lo.v[j];
        }
        if (col0 + col < a.N)
            put<BF16>(a, (row0 >> a.halves) + row, col0 + col, s);
    }
}

/* A warp has written its sums, or (read) has read those of all. */
MACHETE_DEV void sums_arrive(const machete_args &a, const block &b, uint64_t *barrier, bool read)
{
    const int lane = thread_id() % 32;
    warp_sync();
    if (lane >= a.grid.split)
        return;
    if (a.grid.split == 1)
        barrier_arrive(barrier);
    else if (read)
        barrier_arrive_peer_read(barrier, b.base + lane);
    else
        barrier_arrive_peer(barrier, b.base + lane);
}

/* Place of sum i, of those of atom `atom` from some row on, in the shared memory that begins with that row. */
template <int WIDE> MACHETE_DEV int place_of_sum(const consumer &c, int atom, int i)
{
    const int t = c.thread % 128;
    return machete_sum_token(t, i) * machete_sum_stride(WIDE) + c.thread / 128 * 64 * WIDE + atom * 64 + machete_sum_n(t, i);
}

/* A span of those that a block goes through by itself: adds its sums to those held, from 0 on, as add_up does. The first waits until the tile before has been read. */
template <int ROWS, int WIDE> MACHETE_DEV void hold_span(const machete_args &a, const block &b, const consumer &c, int span, const float (&total)[WIDE][ROWS / 2])
{
    float *sums = (float *)(b.shared + b.at.sums);
    if (span == 0 && c.turn > 0)
        barrier_wait(b.barriers + machete_done(a.stages), (c.turn - 1) & 1, b.report);
#pragma unroll
    for (int atom = 0; atom < WIDE; atom++)
#pragma unroll
        for (int i = 0; i < ROWS / 2; i++) {
            float *at = sums + place_of_sum<WIDE>(c, atom, i);
            *at = (span == 0 ? 0.0f : *at) + total[atom][i];
        }
}

/* total: of the tile, unless it is held. */
template <int BF16, int ROWS, int WIDE> MACHETE_DEV void finish_tile(const machete_args &a, const block &b, consumer &c, const walk &w, const float (&total)[WIDE][ROWS / 2])
{
    constexpr int PASS = ROWS < MACHETE_PASS_ROWS ? ROWS : MACHETE_PASS_ROWS;
    const int held = machete_can_hold(ROWS, WIDE) && machete_holds(&a.grid);
    float *sums = (float *)(b.shared + b.at.sums);
    uint64_t *ready = b.barriers + machete_ready(a.stages), *done = b.barriers + machete_done(a.stages);
    walk at = w;
    walk_tile(a, b, &at); /* its place, which took no registers so far */
#pragma unroll 1
    for (int pass = 0; pass < ROWS / PASS; pass++, c.turn++, sums += held * PASS * machete_sum_stride(WIDE)) {
        if (c.turn > 0)
            barrier_wait(done, (c.turn - 1) & 1, b.report);
#pragma unroll
        for (int p = 0; p < ROWS / PASS; p++) /* registers have no run-time index */
            if (p == pass && !held)
#pragma unroll
                for (int atom = 0; atom < WIDE; atom++)
#pragma unroll
                    for (int i = 0; i < PASS / 2; i++)
                        sums[place_of_sum<WIDE>(c, atom, i)] = total[atom][p * (PASS / 2) + i];
        sums_arrive(a, b, ready, false);
        if (a.grid.split == 1)
            barrier_wait(ready, c.turn & 1, b.report);
        else
            barrier_wait_cluster(ready, c.turn & 1, b.report);
        const int row0 = at.m * ROWS + pass * PASS, left = a.M - row0;
        put_pass<BF16, WIDE>(a, b, c, sums, row0, at.n * WIDE * MACHETE_N, left < 0 ? 0 : left < PASS ? left : PASS);
        sums_arrive(a, b, done, true);
    }
}

/* At the end of a span: holds its sums, or ends the tile with them, or both; then on to the next. */
template <int BF16, int ROWS, int WIDE> MACHETE_DEV void finish_span(const machete_args &a, const block &b, consumer &c, walk &w, const float (&total)[WIDE][ROWS / 2])
{
    if (machete_can_hold(ROWS, WIDE) && machete_holds(&a.grid))
        hold_span<ROWS, WIDE>(a, b, c, w.span, total);
    if (!machete_can_hold(ROWS, WIDE) || w.span + 1 == machete_end_span(&a.grid, b.rank))
        finish_tile<BF16, ROWS, WIDE>(a, b, c, w, total);
    walk_on(a, b, &w);
}

/* A thread that multiplies. */
template <int BITS, int BF16, int ROWS, int WIDE, int SCALED, int RUN, int BLOCKS> MACHETE_DEV void consume(const machete_args &a, const block &b)
{
    const int stripe_codes = BLOCKS * machete_block_words(BITS) * 4;
    const int stripe_scales = b.at.stage_scales / WIDE;
    consumer c;
    c.thread = thread_id() - 128;
    const int stripe = WIDE == 2 ? c.thread / 128 : 0, in_stripe = WIDE == 2 ? c.thread % 128 : c.thread;
    c.codes = b.at.codes + stripe * stripe_codes + in_stripe * 16;
    c.scales = b.at.scales + stripe * stripe_scales + (in_stripe / 32 * 8 + in_stripe % 32 / 4) * 4;
    c.x = shared_at(b.shared);
    c.slot = c.parity = c.turn = 0;
    wait_for_producer(); /* what Y holds, and who else reads it */

    constexpr int PARTS = parts_of(ROWS, WIDE), SLICES = BLOCKS * MACHETE_SLICES / PARTS;
    fragments<WIDE, SLICES> f[2];
    float sum[WIDE][ROWS / 2], total[WIDE][ROWS / 2];
    for (walk w = walk_begin(a, b); w.tile < a.grid.tiles;) {
        int fresh = 1;
#pragma unroll
        for (int atom = 0; atom < WIDE; atom++)
#pragma unroll
            for (int i = 0; i < ROWS / 2; i++)
                sum[atom][i] = total[atom][i] = 0.0f;
        wait_full(b, c.slot, c.parity);
        load_part<BITS, BF16, WIDE, SCALED, SLICES, BLOCKS, 0>(a, b, c, c.slot, f[0]);
        for (;;) { /* two parts at a time, for the two sets of numbers */
            do_part<BITS, BF16, ROWS, WIDE, SCALED, RUN, BLOCKS, 0>(a, b, c, w, f[0], f[1], sum, total, &fresh);
            if (PARTS == 1 && w.step == w.end)
                break;
            do_part<BITS, BF16, ROWS, WIDE, SCALED, RUN, BLOCKS, PARTS - 1>(a, b, c, w, f[1], f[0], sum, total, &fresh);
            if (w.step == w.end)
                break;
        }
        finish_span<BF16, ROWS, WIDE>(a, b, c, w, SCALED ? sum : total);
    }
}

/* ---- the kernel ---- */

/* One thread makes the barriers. */
MACHETE_DEV void make_barriers(const machete_args &a, const block &b)
{
    for (int i = 0; i < a.stages; i++) {
        barrier_init(b.barriers + machete_full(i), 1);
        barrier_init(b.barriers + machete_empty(i), MACHETE_WARPS * a.grid.share);
    }
    barrier_init(b.barriers + machete_ready(a.stages), MACHETE_WARPS * a.grid.split);
    barrier_init(b.barriers + machete_done(a.stages), MACHETE_WARPS * a.grid.split);
    barrier_init_done();
}

template <int BITS, int BF16, int ROWS, int WIDE, int SCALED, int RUN, int BLOCKS, int SM_BLOCKS>
MACHETE_KERNEL(MACHETE_THREADS, SM_BLOCKS) machete_kernel(const __grid_constant__ machete_args a, const __grid_constant__ machete_map x)
{
    const int size = a.grid.split * a.grid.share;
    block b;
    b.shared = shared_memory();
    b.at = machete_shared_of(BITS, ROWS, WIDE, BLOCKS, a.unit_shift, a.zeros != 0, machete_holds(&a.grid), a.stages);
    b.barriers = (uint64_t *)(b.shared + b.at.barriers);
    b.cluster = block_id() / size;
    b.rank = block_id() - b.cluster * size;
    b.base = a.grid.split > 1 ? 0 : b.rank;
    b.report = a.report;
    if (thread_id() == 0) {
        if (shared_at(b.shared) % 1024)
            stop();
        fetch_map(&x);
        make_barriers(a, b);
    }
    if (size > 1)
        cluster_meet();
    else
        block_sync();
    if (thread_id() < 128) {
        fewer_registers<SM_BLOCKS == 2 ? 40 : 56>(); /* of 80 for every thread, or 168 */
        if (thread_id() == 0)
            copy_all<BITS, ROWS, WIDE, BLOCKS>(a, &x, b);
    } else {
        more_registers<SM_BLOCKS == 2 ? 96 : 224>();
        consume<BITS, BF16, ROWS, WIDE, SCALED, RUN, BLOCKS>(a, b);
    }
    if (size > 1)
        cluster_sync();
}

#endif

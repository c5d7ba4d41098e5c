/* The scale of a group by what GPTQ makes of it: each candidate is judged by the loss of the loop inside the group, sum of ((w - q) / U_jj)^2 with the
 * corrections that U makes in the group's own columns, on the weights as they are when the loop arrives. Private to kernels/cpu.
 *
 * Candidates are the ranges p * lo .. p * hi, p from 1.05 down to 0.52 in equal steps, for sym with lo = -hi = -max |w|, and with signed_scales each of them
 * negative too; the first of the best is kept. Groups longer than SEARCH_CHUNK columns are judged chunk by chunk, each from the weights at the start.
 * Quotients are products with reciprocals here: which scale wins is a choice, what is then quantized with it is the loop's affair. */
#ifndef KERNELS_CPU_GROUP_SEARCH_H
#define KERNELS_CPU_GROUP_SEARCH_H

#include "kernels/cpu/correct.h"

enum { SEARCH_CHUNK = 128 };
#if defined __AVX512F__
enum { CANDS = 2 }; /* with COLS columns, sixteen sums in registers */
#else
enum { CANDS = 1 };
#endif

/* Packed U of a chunk of n columns: 1 / U_jj [n padded to UCOLS], then panels of UCOLS columns, each with the rows up to its end, [row][UCOLS]; zero beyond n. */
static inline size_t search_chunk_floats(int64_t n)
{
    size_t panels = (size_t)(n + UCOLS - 1) / UCOLS;
    return panels * UCOLS + UCOLS * UCOLS * panels * (panels + 1) / 2;
}

static inline int64_t search_chunk_of(int64_t n, int64_t at)
{
    return n - at < SEARCH_CHUNK ? n - at : SEARCH_CHUNK;
}

static inline size_t search_floats(int64_t n)
{
    size_t floats = 0;
    for (int64_t at = 0; at < n; at += SEARCH_CHUNK)
        floats += search_chunk_floats(search_chunk_of(n, at));
    return floats;
}

/* u: U at the group's first column, row stride ldu. */
static inline void search_pack(float *to, const float *u, int64_t ldu, int64_t n)
{
    for (int64_t at = 0; at < n; at += SEARCH_CHUNK) {
        int64_t m = search_chunk_of(n, at), padded = (m + UCOLS - 1) / UCOLS * UCOLS;
        const float *from = u + at * ldu + at;
        for (int64_t j = 0; j < padded; j++)
            *to++ = j < m ? 1 / from[j * ldu + j] : 0;
        for (int64_t j0 = 0; j0 < padded; j0 += UCOLS)
            for (int64_t i = 0; i < j0 + UCOLS; i++)
                for (int64_t j = j0; j < j0 + UCOLS; j++)
                    *to++ = i < j && j < m ? from[i * ldu + j] : 0;
    }
}

struct search_try {
    v16 scale[CANDS], inverse[CANDS], zero[CANDS], lowest[CANDS], highest[CANDS], loss[CANDS];
};

/* COLS columns of a chunk from column j on; w: column j of the chunk, `live` of the columns exist. u: the panel at the first of them; err [chunk][CANDS][16]. */
SIMD_INLINE void search_columns(const float *w, int live, int64_t j, const float *u, const float *inverse, struct search_try *t, float *err)
{
    v16 acc[COLS][CANDS];
    SIMD_UNROLL
    for (int c = 0; c < COLS; c++) {
        v16 x = c < live ? v16_load(w + c * GRID_ROWS) : v16_zero();
        SIMD_UNROLL
        for (int k = 0; k < CANDS; k++)
            acc[c][k] = x;
    }
    for (int64_t i = 0; i < j; i++) {
        v16 y[CANDS];
        SIMD_UNROLL
        for (int k = 0; k < CANDS; k++)
            y[k] = v16_load(err + (i * CANDS + k) * 16);
        SIMD_UNROLL
        for (int c = 0; c < COLS; c++) {
            v16 x = v16_set1(u[i * UCOLS + c]);
            SIMD_UNROLL
            for (int k = 0; k < CANDS; k++)
                acc[c][k] = v16_fma(y[k], x, acc[c][k]);
        }
    }
    SIMD_UNROLL
    for (int c = 0; c < COLS; c++) {
        SIMD_UNROLL
        for (int k = 0; k < CANDS; k++) {
            v16 q = v16_rint(v16_min(v16_max(v16_mul(acc[c][k], t->inverse[k]), t->lowest[k]), t->highest[k]));
            v16 e = v16_mul(v16_fms(q, t->scale[k], acc[c][k]), v16_set1(inverse[j + c]));
            t->loss[k] = v16_fma(e, e, t->loss[k]);
            v16_store(err + ((j + c) * CANDS + k) * 16, e);
            SIMD_UNROLL
            for (int d = c + 1; d < COLS; d++)
                acc[d][k] = v16_fma(e, v16_set1(u[(j + c) * UCOLS + d]), acc[d][k]);
        }
    }
}

/* Adds the loss of one chunk; stops when no lane can beat `best` any more (losses only grow). */
SIMD_INLINE void search_chunk(const float *w, int64_t n, const float *packed, struct search_try *t, v16 best, float *err)
{
    const float *inverse = packed, *u = packed + (n + UCOLS - 1) / UCOLS * UCOLS;
    for (int64_t j0 = 0; j0 < n; u += (j0 + UCOLS) * UCOLS, j0 += UCOLS)
        for (int c = 0; c < UCOLS && j0 + c < n; c += COLS) {
            int64_t left = n - j0 - c;
            search_columns(w + (j0 + c) * GRID_ROWS, left < COLS ? (int)left : COLS, j0 + c, u + c, inverse, t, err);
            unsigned open = 0;
            SIMD_UNROLL
            for (int k = 0; k < CANDS; k++)
                open |= v16m_bits(v16_lt(t->loss[k], best));
            if (!open)
                return;
        }
}

/* Candidate number i of `count`. */
SIMD_INLINE void search_candidate(struct search_try *t, int k, int i, v16 lo, v16 hi, const struct quant_grid *g)
{
    int step = g->signed_scales ? i / 2 : i;
    v16 p = v16_set1((float)(1.05 - 0.53 * step / (g->candidates - 1))), maxq = v16_set1((float)((1 << g->bits) - 1));
    grid_of_range(v16_mul(p, lo), v16_mul(p, hi), g, &t->scale[k], &t->zero[k]);
    if (g->signed_scales && i % 2)
        t->scale[k] = v16_neg(t->scale[k]);
    t->inverse[k] = v16_div(v16_set1(1), t->scale[k]);
    t->lowest[k] = v16_neg(t->zero[k]);
    t->highest[k] = v16_sub(maxq, t->zero[k]);
    t->loss[k] = v16_zero();
}

/* All rows of a tile: n columns at w [n][GRID_ROWS], packed as by search_pack. */
static inline void group_search(const float *w, int64_t n, const float *packed, const struct quant_grid *g, struct grid_rows *out)
{
    float err[SEARCH_CHUNK * CANDS * 16] __attribute__((aligned(64)));
    int count = g->signed_scales ? 2 * g->candidates : g->candidates;
    for (int r = 0; r < GRID_ROWS; r += 16) {
        v16 lo, hi, best = v16_set1(INFINITY), scale, zero;
        grid_range(w + r, n, g->sym, &lo, &hi);
        grid_of_range(lo, hi, g, &scale, &zero);
        for (int i = 0; i < count; i += CANDS) {
            struct search_try t;
            SIMD_UNROLL
            for (int k = 0; k < CANDS; k++)
                search_candidate(&t, k, i + k < count ? i + k : count - 1, lo, hi, g);
            const float *chunk = packed;
            for (int64_t at = 0; at < n; at += SEARCH_CHUNK) {
                int64_t m = search_chunk_of(n, at);
                search_chunk(w + at * GRID_ROWS + r, m, chunk, &t, best, err);
                chunk += search_chunk_floats(m);
            }
            SIMD_UNROLL
            for (int k = 0; k < CANDS; k++) {
                v16m better = v16_lt(t.loss[k], best);
                best = v16_select(better, t.loss[k], best);
                scale = v16_select(better, t.scale[k], scale);
                zero = v16_select(better, t.zero[k], zero);
            }
        }
        v16_store(out->scale + r, scale);
        v16_store(out->zero + r, zero);
    }
}

#endif

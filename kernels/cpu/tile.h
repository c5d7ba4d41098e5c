/* The register tile that linear and attention share: a few rows of x against a few panels of 16 outputs, all sums in registers.
 *   c[r][16 p + lane] = chain over k = 0..K-1 of fma(x[r * ldx + k], w[p][k * ldw + lane]), from +0 when fresh, else from what c holds
 * `across` takes x[k * ldx + r] instead: the columns of x.
 * The chain of one output does not depend on the shape of the tile, so however rows and panels are cut the bits are the same. */
#ifndef KERNELS_CPU_TILE_H
#define KERNELS_CPU_TILE_H

#include <stdbool.h>

#include "kernels/cpu/cpu_ops.h"

/* Sums, one vector of weights a panel and one of x must fit in the registers. */
enum { TILE_ROWS = SIMD_REGISTERS == 32 ? 8 : SIMD_REGISTERS == 8 ? 6 : 1, TILE_PANELS = SIMD_REGISTERS == 32 ? 3 : 1 };

struct tile {
    float *c;
    int64_t ldc;
    const float *x;
    int64_t ldx;
    const float *w[TILE_PANELS];
    int64_t ldw, K;
    bool fresh;
};

SIMD_INLINE void tile_body(const struct tile *t, int row, const int rows, const int panels, const bool across)
{
    const float *x = t->x + (across ? row : row * t->ldx), *w[TILE_PANELS] = {NULL};
    float *c = t->c + row * t->ldc;
    const int64_t ldx = t->ldx, ldw = t->ldw, K = t->K;
    v16 acc[TILE_ROWS][TILE_PANELS];
    SIMD_UNROLL
    for (int p = 0; p < panels; p++)
        w[p] = t->w[p];
    SIMD_UNROLL
    for (int r = 0; r < rows; r++) {
        SIMD_UNROLL
        for (int p = 0; p < panels; p++)
            acc[r][p] = t->fresh ? v16_zero() : v16_load(c + r * t->ldc + PANEL * p);
    }
    for (int64_t k = 0; k < K; k++) {
        v16 wk[TILE_PANELS];
        SIMD_UNROLL
        for (int p = 0; p < panels; p++)
            wk[p] = v16_load(w[p] + k * ldw);
        SIMD_UNROLL
        for (int r = 0; r < rows; r++) {
            v16 xk = v16_set1(across ? x[k * ldx + r] : x[r * ldx + k]);
            SIMD_UNROLL
            for (int p = 0; p < panels; p++)
                acc[r][p] = v16_fma(xk, wk[p], acc[r][p]);
        }
    }
    SIMD_UNROLL
    for (int r = 0; r < rows; r++) {
        SIMD_UNROLL
        for (int p = 0; p < panels; p++)
            v16_store(c + r * t->ldc + PANEL * p, acc[r][p]);
    }
}

/* Names the count as a constant, so that tile_body is compiled for it. */
SIMD_INLINE void tile_rows(const struct tile *t, int row, int rows, const int panels, const bool across)
{
    SIMD_UNROLL
    for (int n = 1; n <= TILE_ROWS; n++)
        if (rows == n)
            tile_body(t, row, n, panels, across);
}

SIMD_INLINE void tile_all(const struct tile *t, int rows, int panels, const bool across)
{
    for (int row = 0; row < rows; row += TILE_ROWS) {
        int n = rows - row < TILE_ROWS ? rows - row : TILE_ROWS;
        if (TILE_PANELS >= 3 && panels == 3)
            tile_rows(t, row, n, 3, across);
        else if (TILE_PANELS >= 2 && panels == 2)
            tile_rows(t, row, n, 2, across);
        else
            tile_rows(t, row, n, 1, across);
    }
}

/* The whole of t: any number of rows, panels 1..TILE_PANELS. Not inlined: gcc 12 then spills sums, and attention takes a third longer. */
static __attribute__((noinline, unused)) void tile_run(const struct tile *t, int rows, int panels)
{
    tile_all(t, rows, panels, false);
}

static __attribute__((noinline, unused)) void tile_run_across(const struct tile *t, int rows, int panels)
{
    tile_all(t, rows, panels, true);
}

#endif

/* The product that GPTQ and descent share: what the errors of a block's columns do to other columns. Private to kernels/cpu.
 *
 * Tiles are transposed: column after column, a lane is a row of W. A factor (U or H) is packed in panels of UCOLS columns, [rows][UCOLS], for its broadcasts.
 * Each element stays one chain of w = fma(err_i, u_ic, w) over i upwards, so tile sizes do not show in the bits. */
#ifndef KERNELS_CPU_CORRECT_H
#define KERNELS_CPU_CORRECT_H

#include "kernels/cpu/grid_fit.h"

enum { UCOLS = 8 };
/* Register tile: COLS broadcasts by VECS vectors of 16 rows; COLS divides UCOLS, VECS divides GRID_ROWS / 16. */
#if defined __AVX512F__
enum { COLS = 8, VECS = 3 };
#elif defined __AVX2__
enum { COLS = 4, VECS = 1 };
#else
enum { COLS = 2, VECS = 1 };
#endif

/* w[c][...] += sum over i < n of u[i][c] * err[i][...], for COLS columns c and VECS vectors; ldw, lde: floats from one column to the next. */
SIMD_INLINE void correct_tile(float *w, int64_t ldw, const float *u, const float *err, int64_t lde, int64_t n)
{
    v16 acc[COLS][VECS];
    SIMD_UNROLL
    for (int c = 0; c < COLS; c++) {
        SIMD_UNROLL
        for (int v = 0; v < VECS; v++)
            acc[c][v] = v16_load(w + c * ldw + 16 * v);
    }
    for (int64_t i = 0; i < n; i++) {
        v16 y[VECS];
        SIMD_UNROLL
        for (int v = 0; v < VECS; v++)
            y[v] = v16_load(err + i * lde + 16 * v);
        SIMD_UNROLL
        for (int c = 0; c < COLS; c++) {
            v16 x = v16_set1(u[i * UCOLS + c]);
            SIMD_UNROLL
            for (int v = 0; v < VECS; v++)
                acc[c][v] = v16_fma(y[v], x, acc[c][v]);
        }
    }
    SIMD_UNROLL
    for (int c = 0; c < COLS; c++) {
        SIMD_UNROLL
        for (int v = 0; v < VECS; v++)
            v16_store(w + c * ldw + 16 * v, acc[c][v]);
    }
}

/* The same for a whole panel of UCOLS columns and GRID_ROWS rows. */
SIMD_INLINE void correct_panel(float *w, int64_t ldw, const float *u, const float *err, int64_t lde, int64_t n)
{
    for (int c = 0; c < UCOLS; c += COLS)
        for (int r = 0; r < GRID_ROWS; r += 16 * VECS)
            correct_tile(w + c * ldw + r, ldw, u + c, err + r, lde, n);
}

#endif

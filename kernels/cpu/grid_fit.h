/* The grid of a group of columns for a tile of rows: shared by gptq.c (fits inside the loop) and fit.c. Private to kernels/cpu.
 *
 * A tile holds columns one after the other, GRID_ROWS rows each, so that a lane is a row (an output). Per row, as GPTQModel does it
 * (ModelCloud/GPTQModel@f4c327a17:gptqmodel/quantization/quantizer.py find_params):
 *   lo = min(0, min w), hi = max(0, max w); sym: hi = max(-lo, hi), and lo = -hi where lo < 0 (a row without negative weights keeps lo =
 * 0); both 0: -1, 1 scale = (hi - lo) / maxq; zero = (maxq + 1) / 2 when sym, else round(-lo / scale) GRID_MSE: the best of the ranges p *
 * lo .. p * hi, p = 1 - i / 100, i = 0..79, by sum |w_hat - w|^mse, the first of equals and what is ours: a scale is rounded to f16 and
 * kept in its normal range before anything uses it, so candidates are judged by what is stored; an asymmetric zero lies in 1..maxq; where
 * it would be 0 the scale becomes hi / (maxq - 1), which keeps hi on the grid. */
#ifndef KERNELS_CPU_GRID_FIT_H
#define KERNELS_CPU_GRID_FIT_H

#include <math.h>

#include "kernels/cpu/quant_ops.h"
#include "kernels/cpu/vmath.h"
#include "kernels/half.h"

enum { GRID_ROWS = 48, GRID_STEPS = 80 };

/* Scale and zero of each row of a tile. */
struct grid_rows {
    float scale[GRID_ROWS] __attribute__((aligned(64)));
    float zero[GRID_ROWS] __attribute__((aligned(64)));
};

/* s > 0 rounded to a normal f16 number, for SCALE_BF16 to one of eight significant bits, which bf16 holds too (Veltkamp's split: no overflow below 2^111). */
SIMD_INLINE v16 grid_round_scale(v16 s, enum scale_dtype dtype)
{
    v16 highest = v16_set1(dtype == SCALE_BF16 ? 65280.0f : 65504.0f);
    s = v16_min(s, highest);
    if (dtype == SCALE_BF16) {
        v16 wide = v16_mul(s, v16_set1(65537.0f));
        s = v16_sub(wide, v16_sub(wide, s));
    } else {
        s = v16_round_f16(s);
    }
    return v16_min(v16_max(s, v16_set1(0x1p-14f)), highest);
}

/* Scale and zero of the range lo..hi. */
SIMD_INLINE void grid_of_range(v16 lo, v16 hi, const struct quant_grid *g, v16 *scale, v16 *zero)
{
    float maxq = (float)((1 << g->bits) - 1);
    *scale = grid_round_scale(v16_div(v16_sub(hi, lo), v16_set1(maxq)), g->dtype);
    if (g->sym) {
        *zero = v16_set1((maxq + 1) / 2);
        return;
    }
    v16 z = v16_min(v16_rint(v16_div(v16_neg(lo), *scale)), v16_set1(maxq)), one = v16_set1(1);
    v16m none = v16_lt(z, one);
    v16 wider = grid_round_scale(v16_max(*scale, v16_div(hi, v16_set1(maxq - 1))), g->dtype);
    *scale = v16_select(none, wider, *scale);
    *zero = v16_max(z, one);
}

/* round(w / scale) held between -zero and maxq - zero; plus zero it is the code, times scale the value. */
SIMD_INLINE v16 grid_round(v16 w, v16 scale, v16 lowest, v16 highest)
{
    return v16_rint(v16_min(v16_max(v16_div(w, scale), lowest), highest));
}

/* Sum over the n columns at w (one v16 every GRID_ROWS) of |w_hat - w|^mse, in units of `unit`, whose inverse keeps powers of tiny weights
 * in range. */
SIMD_INLINE v16 grid_error(const float *w, int64_t n, v16 scale, v16 zero, v16 unit, const struct quant_grid *g)
{
    v16 lowest = v16_neg(zero), highest = v16_sub(v16_set1((float)((1 << g->bits) - 1)), zero), sum = v16_zero();
    bool square = g->mse == 2;
    for (int64_t k = 0; k < n; k++) {
        v16 x = v16_load(w + k * GRID_ROWS);
        v16 d = v16_mul(v16_abs(v16_fms(grid_round(x, scale, lowest, highest), scale, x)), unit);
        sum = v16_add(sum, square ? v16_mul(d, d) : v16_pow(d, (float)g->mse));
    }
    return sum;
}

/* GRID_MSE. scale and zero hold the full range's and become the best. With two bits and a free zero point its neighbours are tried too, with
 * signed_scales the negative scale. */
SIMD_INLINE void grid_search(const float *w, int64_t n, v16 lo, v16 hi, const struct quant_grid *g, v16 *scale, v16 *zero)
{
    v16 maxq = v16_set1((float)((1 << g->bits) - 1)), one = v16_set1(1), unit = v16_div(one, v16_sub(hi, lo)), best = v16_set1(INFINITY);
    int shifts = g->signed_scales ? 2 : g->bits == 2 && !g->sym ? 3 : 1;
    for (int i = 0; i < GRID_STEPS; i++) {
        v16 p = v16_set1((float)(1 - i / 100.0)), s, z0;
        grid_of_range(v16_mul(p, lo), v16_mul(p, hi), g, &s, &z0);
        for (int shift = 0; shift < shifts; shift++) {
            if (g->signed_scales && shift)
                s = v16_neg(s);
            v16 z = g->signed_scales ? z0 : v16_max(v16_min(v16_add(z0, v16_set1(shift == 2 ? -1.0f : (float)shift)), maxq), one);
            v16 error = grid_error(w, n, s, z, unit, g);
            v16m better = v16_lt(error, best);
            best = v16_select(better, error, best);
            *scale = v16_select(better, s, *scale);
            *zero = v16_select(better, z, *zero);
        }
    }
}

/* The range that holds the n columns at w and zero; sym: as wide on both sides. Never empty. */
SIMD_INLINE void grid_range(const float *w, int64_t n, bool sym, v16 *lo, v16 *hi)
{
    v16 none = v16_zero();
    *lo = *hi = none;
    for (int64_t k = 0; k < n; k++) {
        v16 x = v16_load(w + k * GRID_ROWS);
        *lo = v16_min(*lo, x);
        *hi = v16_max(*hi, x);
    }
    if (sym) {
        *hi = v16_max(v16_neg(*lo), *hi);
        *lo = v16_neg(*hi);
    }
    v16m empty = v16m_and(v16_eq(*lo, none), v16_eq(*hi, none));
    *lo = v16_select(empty, v16_set1(-1), *lo);
    *hi = v16_select(empty, v16_set1(1), *hi);
}

/* Fits all rows of a tile by GRID_MINMAX or GRID_MSE: n columns at w [n][GRID_ROWS]. */
static inline void grid_fit(const float *w, int64_t n, const struct quant_grid *g, struct grid_rows *out)
{
    for (int r = 0; r < GRID_ROWS; r += 16) {
        v16 lo, hi, scale, zero;
        grid_range(w + r, n, g->sym && g->signed_scales, &lo, &hi);
        if (g->sym && !g->signed_scales) { /* as GPTQModel: a row without negative weights keeps lo = 0 */
            hi = v16_max(v16_neg(lo), hi);
            lo = v16_select(v16_lt(lo, v16_zero()), v16_neg(hi), lo);
        }
        grid_of_range(lo, hi, g, &scale, &zero);
        if (g->search == GRID_MSE)
            grid_search(w + r, n, lo, hi, g, &scale, &zero);
        v16_store(out->scale + r, scale);
        v16_store(out->zero + r, zero);
    }
}

/* Rows n0..n0+GRID_ROWS of w [N, n columns, row stride ldw], transposed into a tile; rows beyond N are zero. */
static inline void grid_load_tile(float *tile, const float *w, int64_t ldw, int64_t n0, int64_t N, int64_t n)
{
    int64_t rows = N - n0 < GRID_ROWS ? N - n0 : GRID_ROWS;
    if (rows < GRID_ROWS)
        memset(tile, 0, (size_t)n * GRID_ROWS * sizeof *tile);
    for (int64_t k0 = 0; k0 < n; k0 += 16)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t k = k0; k < k0 + 16 && k < n; k++)
                tile[k * GRID_ROWS + r] = w[(n0 + r) * ldw + k];
}

/* Writes the tile's scales and zeros of one group to its rows of [G,N]. */
static inline void grid_store(const struct grid_rows *rows, int64_t n0, int64_t N, uint16_t *scales, uint8_t *zeros)
{
    for (int64_t r = 0; r < GRID_ROWS && n0 + r < N; r++) {
        scales[n0 + r] = f32_to_f16(rows->scale[r]);
        zeros[n0 + r] = (uint8_t)rows->zero[r];
    }
}

#endif

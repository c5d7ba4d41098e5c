/* What both descents share: H packed for correct_panel, and a tile of GRID_ROWS rows of W_hat, transposed (a lane is a row). Private to kernels/cpu.
 * M = E H is kept up to date while codes and scales move, so a step costs what it changes. */
#ifndef KERNELS_CPU_REFINE_H
#define KERNELS_CPU_REFINE_H

#include "kernels/cpu/correct.h"
#include "kernels/cpu/quant_ops.h"

/* H in panels of UCOLS columns, [panel][K][UCOLS], zero beyond K. */
struct refine_h {
    const struct refine_args *a;
    float *packed;
};

static inline int64_t refine_panels(int64_t K)
{
    return (K + UCOLS - 1) / UCOLS;
}

static void refine_pack_panel(void *arg, size_t p)
{
    const struct refine_h *h = arg;
    int64_t K = h->a->K, j0 = (int64_t)p * UCOLS;
    float *to = h->packed + j0 * K;
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = j0; j < j0 + UCOLS; j++)
            *to++ = j < K ? h->a->h[i * K + j] : 0;
}

static inline int refine_pack(const struct parallel *par, struct refine_h *h, struct err *e)
{
    size_t bytes = (size_t)(refine_panels(h->a->K) * UCOLS * h->a->K) * sizeof(float);
    h->packed = scratch_alloc(bytes);
    if (!h->packed)
        return err_set(e, ERR_NOMEM, "refine: no memory for %zu bytes of scratch", bytes);
    par->run(par->ctx, (size_t)refine_panels(h->a->K), refine_pack_panel, h);
    return 0;
}

/* What the deltas [n][...] of columns i1..i1+n do to the columns of m outside `skip1`..`skip2` (multiples of UCOLS, or K at the end). */
SIMD_INLINE void refine_spread(const struct refine_h *h, float *m, int64_t ldm, const float *delta, int64_t ldd, int64_t i1, int64_t n, int64_t skip1,
                               int64_t skip2)
{
    int64_t K = h->a->K;
    for (int64_t j = 0; j < K; j += UCOLS)
        if (j < skip1 || j >= skip2)
            correct_panel(m + j * ldm, ldm, h->packed + j * K + i1 * UCOLS, delta, ldd, n);
}

/* q [K][ldq] = code - zero, scale [G][lds], for GRID_ROWS rows from n0 on; rows beyond N: q 0, scale 1. */
static inline void refine_load_grid(const struct refine_args *a, int64_t n0, float *q, int64_t ldq, float *scale, int64_t lds)
{
    for (int64_t r = 0; r < GRID_ROWS; r++) {
        int64_t n = n0 + r;
        for (int64_t g = 0; g < a->G; g++)
            scale[g * lds + r] = n < a->N ? f16_to_f32(a->scales[g * a->N + n]) : 1;
        for (int64_t k = 0; k < a->K; k++)
            q[k * ldq + r] = n < a->N ? (float)(a->codes[n * a->K + k] - a->zeros[a->group[k] * a->N + n]) : 0;
    }
}

/* E = W_hat - T of the tile, [K][GRID_ROWS]. */
static inline void refine_load_error(const struct refine_args *a, int64_t n0, const float *q, int64_t ldq, const float *scale, int64_t lds, float *error)
{
    grid_load_tile(error, a->target, a->K, n0, a->N, a->K);
    for (int64_t k = 0; k < a->K; k++)
        for (int r = 0; r < GRID_ROWS; r += 16) {
            float *at = error + k * GRID_ROWS + r;
            v16_store(at, v16_fms(v16_load(q + k * ldq + r), v16_load(scale + a->group[k] * lds + r), v16_load(at)));
        }
}

/* M = E H of the tile; m [K + UCOLS][GRID_ROWS]. */
static inline void refine_gradient(const struct refine_h *h, const float *error, float *m)
{
    memset(m, 0, (size_t)(h->a->K + UCOLS) * GRID_ROWS * sizeof *m);
    refine_spread(h, m, GRID_ROWS, error, GRID_ROWS, 0, h->a->K, 0, 0);
}

/* loss[r] = sum over k of error . m, f64, for the tile's rows. */
static inline void refine_loss(int64_t K, const float *error, const float *m, int64_t ldm, double loss[GRID_ROWS])
{
    for (int r = 0; r < GRID_ROWS; r += 16) {
        d8 lo = d8_zero(), hi = d8_zero();
        for (int64_t k = 0; k < K; k++) {
            v16 e = v16_load(error + k * GRID_ROWS + r), x = v16_load(m + k * ldm + r);
            lo = d8_fma(v16_lo_d8(e), v16_lo_d8(x), lo);
            hi = d8_fma(v16_hi_d8(e), v16_hi_d8(x), hi);
        }
        d8_store(loss + r, lo);
        d8_store(loss + r + 8, hi);
    }
}

/* Codes, scales and W_hat of the tile back to their rows. */
static inline void refine_store(const struct refine_args *a, int64_t n0, const float *q, int64_t ldq, const float *scale, int64_t lds)
{
    for (int64_t r = 0; r < GRID_ROWS && n0 + r < a->N; r++) {
        int64_t n = n0 + r;
        for (int64_t g = 0; g < a->G; g++)
            a->scales[g * a->N + n] = f32_to_f16(scale[g * lds + r]);
        for (int64_t k = 0; k < a->K; k++) {
            a->codes[n * a->K + k] = (uint8_t)(q[k * ldq + r] + (float)a->zeros[a->group[k] * a->N + n]);
            a->w[n * a->K + k] = q[k * ldq + r] * scale[a->group[k] * lds + r];
        }
    }
}

/* Sums over rows in order. */
static inline double refine_total(const double *loss, int64_t N)
{
    double sum = 0;
    for (int64_t n = 0; n < N; n++)
        sum += loss[n];
    return sum;
}

#endif

/* u = upper triangular with h^-1 = u^T u, from h = R R^T with R upper (Cholesky, last index first) and u = R^-1.
 *
 * Both are made in one sweep over blocks of rows, from the last to the first, in place in h:
 *   row k, columns c < k   holds R[c][k], that is R transposed, and before that the remainder of h
 *   row k, columns c > k   holds U[k][c]
 *   the diagonals of R and U live in vectors of their own
 * With R's column k and U's row k known, every row i < k takes one FMA per column: h[i][c] -= R[i][k] * h[k][c], for c <= i (Cholesky) and
 * c >= k (inversion, whose sums start at zero when they meet their first term). So one GEMM-like update serves both, and each element is
 * one FMA chain over k downwards, whatever the blocks, tiles and threads. Columns between i and the block are touched with garbage and
 * zeroed before they are first used. */
#include <math.h>

#include "kernels/cpu/quant_ops.h"

enum { BLOCK = 128, WIDTH = 24, STRIP = 16 };
/* Register tile: ROWS broadcasts by VECS vectors of 8; ROWS divides BLOCK, VECS divides WIDTH / 8. */
#if defined __AVX512F__
enum { ROWS = 8, VECS = 3 };
#elif defined __AVX2__
enum { ROWS = 4, VECS = 1 };
#else
enum { ROWS = 4, VECS = 1 };
#endif

struct factor {
    double *h;
    float *u;
    int64_t K, k0, k1; /* the block of rows at hand */
    double *diag_r;    /* [K] R[k][k] */
    double *diag_u;    /* [K] 1 / R[k][k] */
    double *cols;      /* [panels][BLOCK][WIDTH] the block's rows of h, complete */
    double *rows;      /* [K / ROWS][BLOCK][ROWS] minus R[i][k] */
};

/* Factorizes the block on the diagonal and inverts it. Returns a bad pivot's index or -1. */
static int64_t diagonal(struct factor *f)
{
    int64_t K = f->K, k0 = f->k0, k1 = f->k1;
    for (int64_t k = k1 - 1; k >= k0; k--) {
        double *hk = f->h + k * K, pivot = hk[k];
        if (!(pivot > 0) || !isfinite(pivot))
            return k;
        double r = sqrt(pivot);
        f->diag_r[k] = r;
        f->diag_u[k] = 1 / r;
        for (int64_t c = k0; c < k; c++)
            hk[c] /= r;
        for (int64_t c = k + 1; c < k1; c++)
            hk[c] /= r;
        for (int64_t i = k0; i < k; i++) {
            double *hi = f->h + i * K, m = -hk[i];
            for (int64_t c = k0; c <= i; c++)
                hi[c] = fma(m, hk[c], hi[c]);
            hi[k] = fma(m, f->diag_u[k], 0);
            for (int64_t c = k + 1; c < k1; c++)
                hi[c] = fma(m, hk[c], hi[c]);
        }
    }
    return -1;
}

/* Finishes columns c0..c0+STRIP of the block's rows outside the diagonal block. */
static void strip(void *arg, size_t s)
{
    const struct factor *f = arg;
    int64_t K = f->K, n = f->k1 - f->k0, left = (f->k0 + STRIP - 1) / STRIP;
    int64_t c0 = (int64_t)s < left ? (int64_t)s * STRIP : f->k1 + ((int64_t)s - left) * STRIP;
    int64_t end = (int64_t)s < left ? f->k0 : K, width = end - c0 < STRIP ? end - c0 : STRIP;
    double t[BLOCK][STRIP] __attribute__((aligned(64)));
    for (int64_t k = 0; k < n; k++) {
        memcpy(t[k], f->h + (f->k0 + k) * K + c0, (size_t)width * sizeof(double));
        memset(t[k] + width, 0, (size_t)(STRIP - width) * sizeof(double));
    }
    for (int64_t k = n - 1; k >= 0; k--) {
        const double *hk = f->h + (f->k0 + k) * K + f->k0; /* R[.][k] inside the block */
        d8 r = d8_set1(f->diag_r[f->k0 + k]), a = d8_div(d8_load(t[k]), r), b = d8_div(d8_load(t[k] + 8), r);
        d8_store(t[k], a);
        d8_store(t[k] + 8, b);
        for (int64_t i = 0; i < k; i++) {
            d8 m = d8_set1(-hk[i]);
            d8_store(t[i], d8_fma(m, a, d8_load(t[i])));
            d8_store(t[i] + 8, d8_fma(m, b, d8_load(t[i] + 8)));
        }
    }
    for (int64_t k = 0; k < n; k++)
        memcpy(f->h + (f->k0 + k) * K + c0, t[k], (size_t)width * sizeof(double));
}

/* Packs the block's finished rows: the panel of columns as the vector operand, and with the columns left of the block the broadcast
 * operand. */
static void pack(void *arg, size_t s)
{
    const struct factor *f = arg;
    int64_t K = f->K, n = f->k1 - f->k0, c0 = (int64_t)s * WIDTH, width = K - c0 < WIDTH ? K - c0 : WIDTH;
    double *to = f->cols + (int64_t)s * BLOCK * WIDTH;
    for (int64_t k = 0; k < n; k++, to += WIDTH) {
        memcpy(to, f->h + (f->k0 + k) * K + c0, (size_t)width * sizeof *to);
        memset(to + width, 0, (size_t)(WIDTH - width) * sizeof *to);
        for (int64_t c = f->k0 > c0 ? f->k0 : c0; c < c0 + WIDTH && c <= f->k0 + k; c++)
            to[c - c0] = c < f->k0 + k ? 0 : f->diag_u[c]; /* U is upper */
    }
    for (int64_t i = c0; i < c0 + width && i < f->k0; i++) {
        to = f->rows + i / ROWS * BLOCK * ROWS + i % ROWS;
        for (int64_t k = 0; k < n; k++)
            to[k * ROWS] = -f->h[(f->k0 + k) * K + i];
    }
}

/* c[r][...] += sum over k downwards of a[k][r] * b[k][...]; ldc in elements. */
SIMD_INLINE void tile(double *c, int64_t ldc, const double *a, const double *b, int64_t n)
{
    d8 acc[ROWS][VECS];
    SIMD_UNROLL
    for (int r = 0; r < ROWS; r++) {
        SIMD_UNROLL
        for (int v = 0; v < VECS; v++)
            acc[r][v] = d8_load(c + r * ldc + 8 * v);
    }
    for (int64_t k = n - 1; k >= 0; k--) {
        d8 y[VECS];
        SIMD_UNROLL
        for (int v = 0; v < VECS; v++)
            y[v] = d8_load(b + k * WIDTH + 8 * v);
        SIMD_UNROLL
        for (int r = 0; r < ROWS; r++) {
            d8 x = d8_set1(a[k * ROWS + r]);
            SIMD_UNROLL
            for (int v = 0; v < VECS; v++)
                acc[r][v] = d8_fma(x, y[v], acc[r][v]);
        }
    }
    SIMD_UNROLL
    for (int r = 0; r < ROWS; r++) {
        SIMD_UNROLL
        for (int v = 0; v < VECS; v++)
            d8_store(c + r * ldc + 8 * v, acc[r][v]);
    }
}

/* One panel of columns of all rows above the block. */
static void update(void *arg, size_t s)
{
    const struct factor *f = arg;
    int64_t K = f->K, n = f->k1 - f->k0, c0 = (int64_t)s * WIDTH, width = K - c0 < WIDTH ? K - c0 : WIDTH;
    const double *b = f->cols + (int64_t)s * BLOCK * WIDTH;
    double edge[ROWS * WIDTH] __attribute__((aligned(64))) = {0};
    if (c0 + WIDTH > f->k0) /* U's columns of this block start at zero */
        for (int64_t i = 0; i < f->k0; i++)
            for (int64_t c = c0 > f->k0 ? c0 : f->k0; c < c0 + width && c < f->k1; c++)
                f->h[i * K + c] = 0;
    int64_t first = c0 + WIDTH <= f->k0 ? c0 / ROWS * ROWS : 0; /* left of the block only rows i >= c matter */
    for (int64_t i = first; i < f->k0; i += ROWS) {
        const double *a = f->rows + i * BLOCK;
        double *c = f->h + i * K + c0;
        if (width == WIDTH) {
            for (int v = 0; v < WIDTH; v += 8 * VECS)
                tile(c + v, K, a, b + v, n);
            continue;
        }
        for (int r = 0; r < ROWS; r++)
            memcpy(edge + r * WIDTH, c + r * K, (size_t)width * sizeof *c);
        for (int v = 0; v < WIDTH; v += 8 * VECS)
            tile(edge + v, WIDTH, a, b + v, n);
        for (int r = 0; r < ROWS; r++)
            memcpy(c + r * K, edge + r * WIDTH, (size_t)width * sizeof *c);
    }
}

static void round_row(void *arg, size_t i)
{
    const struct factor *f = arg;
    float *u = f->u + (int64_t)i * f->K;
    const double *h = f->h + (int64_t)i * f->K;
    memset(u, 0, i * sizeof *u);
    u[i] = (float)f->diag_u[i];
    for (int64_t c = (int64_t)i + 1; c < f->K; c++)
        u[c] = (float)h[c];
}

int FN(factor_f64)(const struct parallel *par, double *h, float *u, int64_t K, int64_t *bad_pivot, struct err *e)
{
    int64_t panels = (K + WIDTH - 1) / WIDTH;
    size_t elems = (size_t)(2 * K + 8 + panels * BLOCK * WIDTH + (K + ROWS) * BLOCK);
    struct factor f = {.h = h, .u = u, .K = K};
    int rc = 0;
    *bad_pivot = -1;
    double *scratch = scratch_alloc(elems * sizeof *scratch);
    if (!scratch)
        return err_set(e, ERR_NOMEM, "factor: no memory for %zu bytes of scratch", elems * sizeof *scratch);
    f.cols = scratch;
    f.rows = f.cols + panels * BLOCK * WIDTH;
    f.diag_r = f.rows + (K + ROWS) * BLOCK;
    f.diag_u = f.diag_r + K;
    for (int64_t k1 = K; k1 > 0; k1 = f.k0) {
        f.k1 = k1;
        f.k0 = (k1 - 1) / BLOCK * BLOCK;
        *bad_pivot = diagonal(&f);
        if (*bad_pivot >= 0) {
            rc = err_set(e, ERR_NUMERIC, "factor: pivot %lld of %lld is not positive", (long long)*bad_pivot, (long long)K);
            goto out;
        }
        int64_t strips = (f.k0 + STRIP - 1) / STRIP + (K - k1 + STRIP - 1) / STRIP;
        par->run(par->ctx, (size_t)strips, strip, &f);
        if (!f.k0)
            break;
        par->run(par->ctx, (size_t)panels, pack, &f);
        par->run(par->ctx, (size_t)panels, update, &f);
    }
    par->run(par->ctx, (size_t)K, round_row, &f);
    for (int64_t k = 0; k < K && *bad_pivot < 0; k++)
        if (!isfinite(u[k * K + k]) || !isnormal(u[k * K + k])) {
            *bad_pivot = k;
            rc = err_set(e, ERR_NUMERIC, "factor: pivot %lld of %lld is out of the range of f32", (long long)k, (long long)K);
        }
out:
    free(scratch);
    return rc;
}

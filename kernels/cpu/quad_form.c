/* tr(E H E^T) in f64: per row n of E the sum of 2 e_i (H_ii e_i / 2 + sum over j > i of H_ij e_j), rows added in order.
 *
 * Lanes are rows of E. A task owns TASK_ROWS of them, transposed; tiles of COLS columns i by VECS vectors of rows run over j, and the panel
 * of H that they read (COLS columns, from the diagonal down) serves all rows of the task while it is in the cache. */
#include "kernels/cpu/quant_ops.h"

enum { TASK_ROWS = 48, COLS = 8 };
#if defined __AVX512F__
enum { PART = 8, VECS = 3 }; /* PART of the COLS columns at a time */
#elif defined __AVX2__
enum { PART = 4, VECS = 1 };
#else
enum { PART = 4, VECS = 1 };
#endif

struct form {
    const float *e;
    const double *h;
    int64_t N, K;
    double *rows; /* [N] result of each row */
    atomic_int failed;
};

/* sums[...] += sum over columns i = i0 + part .. + PART of 2 e_i * (sum over j >= i of H_ij e_j, the diagonal halved). e [K +
 * COLS][TASK_ROWS], zero beyond K; corner: load_corner's. */
SIMD_INLINE void form_tile(const struct form *f, const double *e, const double *corner, int64_t i0, int part, double *sums)
{
    d8 acc[PART][VECS];
    SIMD_UNROLL
    for (int c = 0; c < PART; c++) {
        SIMD_UNROLL
        for (int v = 0; v < VECS; v++)
            acc[c][v] = d8_zero();
    }
    for (int64_t j = i0; j < f->K; j++) {
        const double *from = (j < i0 + COLS ? corner + (j - i0) * COLS : f->h + j * f->K + i0) + part;
        d8 y[VECS];
        SIMD_UNROLL
        for (int v = 0; v < VECS; v++)
            y[v] = d8_load(e + j * TASK_ROWS + 8 * v);
        SIMD_UNROLL
        for (int c = 0; c < PART; c++) {
            d8 x = d8_set1(from[c]);
            SIMD_UNROLL
            for (int v = 0; v < VECS; v++)
                acc[c][v] = d8_fma(x, y[v], acc[c][v]);
        }
    }
    SIMD_UNROLL
    for (int v = 0; v < VECS; v++) {
        d8 sum = d8_load(sums + 8 * v);
        SIMD_UNROLL
        for (int c = 0; c < PART; c++) {
            d8 x = d8_load(e + (i0 + part + c) * TASK_ROWS + 8 * v);
            sum = d8_fma(d8_add(x, x), acc[c][v], sum);
        }
        d8_store(sums + 8 * v, sum);
    }
}

/* H of the tile's own columns, [j][i]: zero above the diagonal and beyond K, halved on the diagonal. */
static void load_corner(const struct form *f, int64_t i0, double corner[COLS * COLS])
{
    for (int64_t j = 0; j < COLS; j++)
        for (int64_t i = 0; i < COLS; i++) {
            bool inside = i0 + j < f->K && i <= j;
            corner[j * COLS + i] = inside ? f->h[(i0 + j) * f->K + i0 + i] * (i == j ? 0.5 : 1.0) : 0;
        }
}

static void form_rows(void *arg, size_t task)
{
    struct form *f = arg;
    int64_t n0 = (int64_t)task * TASK_ROWS, n = f->N - n0 < TASK_ROWS ? f->N - n0 : TASK_ROWS;
    double sums[TASK_ROWS] __attribute__((aligned(64))) = {0}, corner[COLS * COLS] __attribute__((aligned(64)));
    double *e = scratch_alloc((size_t)(f->K + COLS) * TASK_ROWS * sizeof *e);
    if (!e) {
        f->failed = 1;
        return;
    }
    memset(e, 0, (size_t)(f->K + COLS) * TASK_ROWS * sizeof *e);
    for (int64_t k0 = 0; k0 < f->K; k0 += 16)
        for (int64_t r = 0; r < n; r++)
            for (int64_t k = k0; k < k0 + 16 && k < f->K; k++)
                e[k * TASK_ROWS + r] = (double)f->e[(n0 + r) * f->K + k];
    for (int64_t i0 = 0; i0 < f->K; i0 += COLS) {
        load_corner(f, i0, corner);
        for (int r = 0; r < TASK_ROWS; r += 8 * VECS)
            for (int part = 0; part < COLS; part += PART)
                form_tile(f, e + r, corner, i0, part, sums + r);
    }
    memcpy(f->rows + n0, sums, (size_t)n * sizeof *sums);
    free(e);
}

int FN(quad_form_f64)(const struct parallel *par, const float *e_nk, const double *h, int64_t N, int64_t K, double *out, struct err *e)
{
    struct form f = {.e = e_nk, .h = h, .N = N, .K = K, .rows = scratch_alloc((size_t)N * sizeof(double))};
    if (!f.rows)
        return err_set(e, ERR_NOMEM, "quad_form: no memory for %lld rows", (long long)N);
    par->run(par->ctx, (size_t)((N + TASK_ROWS - 1) / TASK_ROWS), form_rows, &f);
    *out = 0;
    for (int64_t n = 0; n < N && !f.failed; n++)
        *out += f.rows[n];
    free(f.rows);
    return f.failed ? err_set(e, ERR_NOMEM, "quad_form: no memory for tiles of %lld columns", (long long)K) : 0;
}

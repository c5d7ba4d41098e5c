/* Descent on codes where an output metric G couples the rows: minimizes tr(G E H E^T) column by column and, inside a column, row by row in sequence.
 *
 * R = G E H is kept column after column, [K][rows]. At column j the optimum of one code is q - R_nj / (s G_nn H_jj); a move of delta there adds
 * delta * H_jj * G[n][...] to the column's R, and in the end delta * G[n][...] times H_jk to every column k. v collects sum of delta * G[n][...].
 * The scan of a column is sequential by nature; what it does to other columns is a product, done block by block and split by rows. */
#include <stdatomic.h>

#include "kernels/cpu/refine.h"
#include "kernels/cpu/tile.h"

enum { BLOCK = 64 };

struct job {
    struct refine_h h; /* first */
    int64_t rows;      /* N padded to GRID_ROWS */
    float *grad;       /* R, [K + UCOLS][rows] */
    float *q;          /* [K][rows]; M = E H on the way there */
    float *scale;      /* [G][rows] */
    float *curve;      /* [rows] 1 / G_nn, 0 for rows beyond N */
    float *v;          /* [BLOCK][rows] */
    double *loss;      /* [rows] */
    int64_t i1, i2;    /* the block at hand */
    atomic_int failed;
};

static void load_tile(void *arg, size_t task)
{
    struct job *j = arg;
    refine_load_grid(j->h.a, (int64_t)task * GRID_ROWS, j->q + task * GRID_ROWS, j->rows, j->scale + task * GRID_ROWS, j->rows);
}

/* M = E H of a tile, left in the tile's rows of q's place. */
static void gradient_tile(void *arg, size_t task)
{
    struct job *j = arg;
    const struct refine_args *a = j->h.a;
    int64_t n0 = (int64_t)task * GRID_ROWS;
    float *error = scratch_alloc((size_t)(2 * a->K + UCOLS) * GRID_ROWS * sizeof *error);
    if (!error) {
        j->failed = 1;
        return;
    }
    float *m = error + a->K * GRID_ROWS;
    refine_load_error(a, n0, j->q + n0, j->rows, j->scale + n0, j->rows, error);
    refine_gradient(&j->h, error, m);
    for (int64_t k = 0; k < a->K; k++)
        memcpy(j->q + k * j->rows + n0, m + k * GRID_ROWS, GRID_ROWS * sizeof *m);
    free(error);
}

/* R = M G for TILE_ROWS columns of M. */
static void metric_tile(void *arg, size_t task)
{
    struct job *j = arg;
    const struct refine_args *a = j->h.a;
    int64_t k0 = (int64_t)task * TILE_ROWS, panels = (a->N + PANEL - 1) / PANEL;
    int rows = a->K - k0 < TILE_ROWS ? (int)(a->K - k0) : TILE_ROWS;
    struct tile t = {.ldc = j->rows, .x = j->q + k0 * j->rows, .ldx = j->rows, .ldw = a->ldm, .K = a->N, .fresh = true};
    for (int64_t p = 0; p < panels; p += TILE_PANELS) {
        int n = panels - p < TILE_PANELS ? (int)(panels - p) : TILE_PANELS;
        for (int i = 0; i < n; i++)
            t.w[i] = a->metric + (p + i) * PANEL;
        t.c = j->grad + k0 * j->rows + p * PANEL;
        tile_run(&t, rows, n);
    }
}

static void loss_tile(void *arg, size_t task)
{
    struct job *j = arg;
    const struct refine_args *a = j->h.a;
    int64_t n0 = (int64_t)task * GRID_ROWS;
    float *error = scratch_alloc((size_t)a->K * GRID_ROWS * sizeof *error);
    if (!error) {
        j->failed = 1;
        return;
    }
    refine_load_error(a, n0, j->q + n0, j->rows, j->scale + n0, j->rows, error);
    refine_loss(a->K, error, j->grad + n0, j->rows, j->loss + n0);
    free(error);
}

/* y[0..rows) += x * g[0..n), n padded to 16. */
SIMD_INLINE void add_row(float *y, float x, const float *g, int64_t n)
{
    v16 s = v16_set1(x);
    for (int64_t i = 0; i < n; i += 16)
        v16_store(y + i, v16_fma(s, v16_load(g + i), v16_load(y + i)));
}

/* Moves the codes of column i one after the other; v (zeroed) receives what the moves do. Whether any did. */
static bool scan_column(struct job *j, int64_t i, float *v)
{
    const struct refine_args *a = j->h.a;
    const float *r = j->grad + i * j->rows, *s = j->scale + a->group[i] * j->rows;
    const uint8_t *zeros = a->zeros + a->group[i] * a->N;
    float *q = j->q + i * j->rows, hii = a->h[i * a->K + i], maxq = (float)((1 << a->grid.bits) - 1);
    bool moved = false;
    if (!(hii > 0))
        return false;
    v16 h = v16_set1(hii), step = v16_set1(1 / hii);
    for (int64_t n0 = 0; n0 < a->N; n0 += 16) {
        int lanes = v16_lanes(n0, a->N);
        float zero[16] = {0}, to[16];
        for (int n = 0; n < lanes; n++)
            zero[n] = (float)zeros[n0 + n];
        v16 z = v16_load(zero), scale = v16_load(s + n0), low = v16_neg(z), high = v16_sub(v16_set1(maxq), z);
        v16 curve = v16_mul(v16_load(j->curve + n0), step);
        for (unsigned open = (1u << lanes) - 1;;) {
            v16 now = v16_load(q + n0), grad = v16_fma(v16_load(v + n0), h, v16_load(r + n0));
            v16 best = v16_rint(v16_min(v16_max(v16_sub(now, v16_div(v16_mul(grad, curve), scale)), low), high));
            unsigned differ = v16m_bits(v16m_not(v16_eq(best, now))) & open;
            if (!differ)
                break;
            int lane = __builtin_ctz(differ);
            int64_t n = n0 + lane;
            v16_store(to, best);
            add_row(v, (to[lane] - q[n]) * s[n], a->metric + n * a->ldm, a->N);
            q[n] = to[lane];
            open &= ~0u << lane << 1;
            moved = true;
        }
    }
    return moved;
}

/* What the block's moves do to the columns outside it, for one tile of rows. */
static void spread_tile(void *arg, size_t task)
{
    struct job *j = arg;
    int64_t n0 = (int64_t)task * GRID_ROWS;
    refine_spread(&j->h, j->grad + n0, j->rows, j->v + n0, j->rows, j->i1, j->i2 - j->i1, j->i1, j->i2);
}

static bool sweep(const struct parallel *par, struct job *j)
{
    const struct refine_args *a = j->h.a;
    bool any = false;
    for (j->i1 = 0; j->i1 < a->K; j->i1 = j->i2) {
        j->i2 = j->i1 + BLOCK < a->K ? j->i1 + BLOCK : a->K;
        memset(j->v, 0, (size_t)(BLOCK * j->rows) * sizeof *j->v);
        bool moved = false;
        for (int64_t i = j->i1; i < j->i2; i++) {
            float *v = j->v + (i - j->i1) * j->rows;
            if (!scan_column(j, i, v))
                continue;
            moved = true;
            for (int64_t k = j->i1; k < j->i2; k++)
                add_row(j->grad + k * j->rows, a->h[i * a->K + k], v, a->N);
        }
        if (moved)
            par->run(par->ctx, (size_t)(j->rows / GRID_ROWS), spread_tile, j);
        any |= moved;
    }
    return any;
}

static void store_tile(void *arg, size_t task)
{
    struct job *j = arg;
    int64_t n0 = (int64_t)task * GRID_ROWS;
    refine_store(j->h.a, n0, j->q + n0, j->rows, j->scale + n0, j->rows);
}

static int job_alloc(struct job *j, float **memory, struct err *e)
{
    const struct refine_args *a = j->h.a;
    size_t rows = (size_t)j->rows, columns = 2 * (size_t)a->K + UCOLS + (size_t)a->G + BLOCK + 1, bytes;
    if (__builtin_mul_overflow(columns * rows, sizeof(float), &bytes) || !(*memory = scratch_alloc(bytes)))
        return err_set(e, ERR_NOMEM, "refine: no memory for %lld x %lld", (long long)a->N, (long long)a->K);
    j->loss = scratch_alloc(rows * sizeof *j->loss);
    if (!j->loss)
        return err_set(e, ERR_NOMEM, "refine: no memory for %lld rows", (long long)a->N);
    memset(*memory, 0, bytes);
    j->grad = *memory;
    j->q = j->grad + (a->K + UCOLS) * j->rows;
    j->scale = j->q + a->K * j->rows;
    j->v = j->scale + a->G * j->rows;
    j->curve = j->v + BLOCK * j->rows;
    for (int64_t n = 0; n < a->N; n++)
        j->curve[n] = 1 / a->metric[n * a->ldm + n];
    return 0;
}

int FN(refine_metric_f32)(const struct parallel *par, struct refine_args *a, struct err *e)
{
    struct job j = {.h = {.a = a}, .rows = (a->N + GRID_ROWS - 1) / GRID_ROWS * GRID_ROWS};
    float *memory = NULL;
    size_t tiles = (size_t)(j.rows / GRID_ROWS);
    int rc = job_alloc(&j, &memory, e);
    if (!rc)
        rc = refine_pack(par, &j.h, e);
    if (!rc) {
        par->run(par->ctx, tiles, load_tile, &j);
        par->run(par->ctx, tiles, gradient_tile, &j);
        par->run(par->ctx, (size_t)((a->K + TILE_ROWS - 1) / TILE_ROWS), metric_tile, &j);
        par->run(par->ctx, tiles, load_tile, &j); /* its place held M meanwhile */
        par->run(par->ctx, tiles, loss_tile, &j);
        a->loss[0] = refine_total(j.loss, a->N);
        for (int i = 0; i < a->sweeps && !j.failed && sweep(par, &j); i++)
            ;
        par->run(par->ctx, tiles, loss_tile, &j);
        a->loss[1] = a->loss[2] = a->loss[3] = refine_total(j.loss, a->N);
        par->run(par->ctx, tiles, store_tile, &j);
        if (j.failed)
            rc = err_set(e, ERR_NOMEM, "refine: no memory for tiles of %lld columns", (long long)a->K);
    }
    free(memory);
    free(j.loss);
    free(j.h.packed);
    return rc;
}

/* Descent on codes and scales where the rows of W are independent (no output metric): a task owns GRID_ROWS rows.
 *
 * Codes: columns in order, q <- clamp(round(q - M_j / (s H_jj))), the exact minimum along one code. Scales: groups in order, s <- s - (q.M) / (q H_gg q), the
 * exact minimum along one scale, rounded to what is stored and taken only where that is better. */
#include <stdatomic.h>

#include "kernels/cpu/refine.h"

enum { BLOCK = 128 };

struct job {
    struct refine_h h; /* first */
    double *loss;      /* [4][padded N] */
    int64_t rows;      /* N padded to GRID_ROWS */
    atomic_int failed;
};

struct work {
    float *m, *q, *error, *spread; /* [K + UCOLS], [K], [K], [longest group + 2 UCOLS], by GRID_ROWS */
    float *scale;                  /* [G][GRID_ROWS] */
    float delta[BLOCK * GRID_ROWS] __attribute__((aligned(64)));
    float low[GRID_ROWS] __attribute__((aligned(64))), high[GRID_ROWS] __attribute__((aligned(64)));
    int64_t n0;
};

/* The range of code - zero in group g. */
static void load_limits(const struct refine_args *a, struct work *t, int64_t g)
{
    float maxq = (float)((1 << a->grid.bits) - 1);
    for (int64_t r = 0; r < GRID_ROWS; r++) {
        float zero = t->n0 + r < a->N ? (float)a->zeros[g * a->N + t->n0 + r] : 0;
        t->low[r] = -zero;
        t->high[r] = maxq - zero;
    }
}

/* Moves the codes of column i to their best; the moves go to delta. Whether any did. */
static bool move_column(const struct refine_args *a, struct work *t, int64_t i, float *delta)
{
    float hii = a->h[i * a->K + i];
    if (!(hii > 0)) {
        memset(delta, 0, GRID_ROWS * sizeof *delta);
        return false;
    }
    v16 step = v16_set1(1 / hii);
    unsigned moved = 0;
    for (int r = 0; r < GRID_ROWS; r += 16) {
        v16 q = v16_load(t->q + i * GRID_ROWS + r), s = v16_load(t->scale + a->group[i] * GRID_ROWS + r);
        v16 x = v16_sub(q, v16_div(v16_mul(v16_load(t->m + i * GRID_ROWS + r), step), s));
        v16 to = v16_rint(v16_min(v16_max(x, v16_load(t->low + r)), v16_load(t->high + r)));
        moved |= v16m_bits(v16m_not(v16_eq(to, q)));
        v16_store(delta + r, v16_mul(v16_sub(to, q), s));
        v16_store(t->q + i * GRID_ROWS + r, to);
    }
    return moved != 0;
}

/* One sweep over all columns; whether a code moved. */
static bool sweep_codes(const struct job *j, struct work *t)
{
    const struct refine_args *a = j->h.a;
    bool any = false;
    for (int64_t i1 = 0; i1 < a->K; i1 += BLOCK) {
        int64_t i2 = i1 + BLOCK < a->K ? i1 + BLOCK : a->K;
        bool moved = false;
        for (int64_t i = i1; i < i2; i++) {
            float *delta = t->delta + (i - i1) * GRID_ROWS;
            if (i == 0 || a->group[i] != a->group[i - 1])
                load_limits(a, t, a->group[i]);
            if (!move_column(a, t, i, delta))
                continue;
            moved = true;
            for (int64_t k = i1; k < i2; k++)
                for (int r = 0; r < GRID_ROWS; r += 16) {
                    float *m = t->m + k * GRID_ROWS + r;
                    v16_store(m, v16_fma(v16_load(delta + r), v16_set1(a->h[i * a->K + k]), v16_load(m)));
                }
        }
        if (moved)
            refine_spread(&j->h, t->m, GRID_ROWS, t->delta, GRID_ROWS, i1, i2 - i1, i1, i2);
        any |= moved;
    }
    return any;
}

/* The best scale near s, of the same sign, that can be stored. */
SIMD_INLINE v16 better_scale(v16 s, v16 num, v16 den, enum scale_dtype dtype)
{
    v16 none = v16_zero(), best = v16_sub(s, v16_div(num, den));
    v16m negative = v16_lt(s, none), usable = v16m_and(v16_lt(none, den), v16_lt(none, v16_mul(s, best)));
    v16 size = grid_round_scale(v16_abs(best), dtype), to = v16_select(negative, v16_neg(size), size);
    v16 d = v16_sub(to, s);
    v16m lower = v16_lt(v16_mul(d, v16_fma(d, den, v16_add(num, num))), none);
    return v16_select(v16m_and(usable, lower), to, s);
}

/* The scales of one group, columns i1..i2: v = q H on the group's own columns, then the step, then what it does to m. */
static void refit_group(const struct job *j, struct work *t, int64_t i1, int64_t i2)
{
    const struct refine_args *a = j->h.a;
    int64_t first = i1 / UCOLS * UCOLS;
    float *scale = t->scale + a->group[i1] * GRID_ROWS, ds[GRID_ROWS] __attribute__((aligned(64)));
    memset(t->spread, 0, (size_t)(i2 - first + UCOLS) * GRID_ROWS * sizeof *t->spread);
    for (int64_t k = first; k < i2; k += UCOLS)
        correct_panel(t->spread + (k - first) * GRID_ROWS, GRID_ROWS, j->h.packed + k * a->K + i1 * UCOLS, t->q + i1 * GRID_ROWS, GRID_ROWS, i2 - i1);
    for (int r = 0; r < GRID_ROWS; r += 16) {
        v16 num = v16_zero(), den = v16_zero(), s = v16_load(scale + r);
        for (int64_t i = i1; i < i2; i++) {
            v16 q = v16_load(t->q + i * GRID_ROWS + r);
            num = v16_fma(q, v16_load(t->m + i * GRID_ROWS + r), num);
            den = v16_fma(q, v16_load(t->spread + (i - first) * GRID_ROWS + r), den);
        }
        v16 to = better_scale(s, num, den, a->grid.dtype);
        v16_store(scale + r, to);
        v16_store(ds + r, v16_sub(to, s));
    }
    for (int64_t i = i1; i < i2; i += BLOCK) {
        int64_t n = i2 - i < BLOCK ? i2 - i : BLOCK;
        for (int64_t k = 0; k < n; k++)
            for (int r = 0; r < GRID_ROWS; r += 16)
                v16_store(t->delta + k * GRID_ROWS + r, v16_mul(v16_load(t->q + (i + k) * GRID_ROWS + r), v16_load(ds + r)));
        refine_spread(&j->h, t->m, GRID_ROWS, t->delta, GRID_ROWS, i, n, 0, 0);
    }
}

static void refit_scales(const struct job *j, struct work *t)
{
    const struct refine_args *a = j->h.a;
    for (int64_t i = 0, i2; i < a->K; i = i2) {
        for (i2 = i + 1; i2 < a->K && a->group[i2] == a->group[i];)
            i2++;
        refit_group(j, t, i, i2);
    }
}

static void note_loss(const struct job *j, struct work *t, int step)
{
    const struct refine_args *a = j->h.a;
    refine_load_error(a, t->n0, t->q, GRID_ROWS, t->scale, GRID_ROWS, t->error);
    for (; step < 4; step++) /* the steps to come are, until taken, no better */
        refine_loss(a->K, t->error, t->m, GRID_ROWS, j->loss + step * j->rows + t->n0);
}

static void sweep_all(const struct job *j, struct work *t)
{
    for (int i = 0; i < j->h.a->sweeps && sweep_codes(j, t); i++)
        ;
}

static void refine_rows(void *arg, size_t task)
{
    struct job *j = arg;
    const struct refine_args *a = j->h.a;
    size_t K = (size_t)a->K, columns = 3 * K + UCOLS + (a->refit ? K + 2 * UCOLS : 0) + (size_t)a->G;
    struct work *t = scratch_alloc(sizeof *t);
    float *memory = scratch_alloc(columns * GRID_ROWS * sizeof *memory);
    if (!t || !memory) {
        j->failed = 1;
        goto out;
    }
    t->n0 = (int64_t)task * GRID_ROWS;
    t->m = memory;
    t->q = t->m + (K + UCOLS) * GRID_ROWS;
    t->error = t->q + K * GRID_ROWS;
    t->scale = t->error + K * GRID_ROWS;
    t->spread = t->scale + a->G * GRID_ROWS;
    refine_load_grid(a, t->n0, t->q, GRID_ROWS, t->scale, GRID_ROWS);
    refine_load_error(a, t->n0, t->q, GRID_ROWS, t->scale, GRID_ROWS, t->error);
    refine_gradient(&j->h, t->error, t->m);
    note_loss(j, t, 0);
    sweep_all(j, t);
    note_loss(j, t, 1);
    if (a->refit) {
        refit_scales(j, t);
        note_loss(j, t, 2);
        sweep_all(j, t);
        note_loss(j, t, 3);
    }
    refine_store(a, t->n0, t->q, GRID_ROWS, t->scale, GRID_ROWS);
out:
    free(memory);
    free(t);
}

int FN(refine_f32)(const struct parallel *par, struct refine_args *a, struct err *e)
{
    struct job j = {.h = {.a = a}, .rows = (a->N + GRID_ROWS - 1) / GRID_ROWS * GRID_ROWS};
    int rc = refine_pack(par, &j.h, e);
    if (!rc) {
        j.loss = scratch_alloc((size_t)(4 * j.rows) * sizeof *j.loss);
        j.failed = !j.loss;
        if (j.loss)
            par->run(par->ctx, (size_t)(j.rows / GRID_ROWS), refine_rows, &j);
        if (j.failed)
            rc = err_set(e, ERR_NOMEM, "refine: no memory for tiles of %lld columns", (long long)a->K);
    }
    for (int step = 0; !rc && step < 4; step++)
        a->loss[step] = refine_total(j.loss + step * j.rows, a->N);
    free(j.loss);
    free(j.h.packed);
    return rc;
}

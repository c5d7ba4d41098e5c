/* The GPTQ loop over columns. Rows of W are independent, so a task owns GRID_ROWS of them, transposed (column after column, a lane is a
 * row), and walks all columns. Corrections of a block's columns reach the columns behind the block in one GEMM-like pass; each element
 * still is one chain of w = fma(-err_i, U[i][j], w) over i upwards, so neither the block nor the tiles show in the bits. */
#include <stdatomic.h>

#include "kernels/cpu/group_search.h"
#include "kernels/cpu/quant_ops.h"

enum { BLOCK = 128 };

struct block {
    int64_t i1, i2;      /* its columns */
    const float *packed; /* U[i1..i2][i2..K) as [panel of UCOLS][i2 - i1][UCOLS]; NULL when nothing follows */
};

/* Columns of one group, for GRID_GPTQ. */
struct run {
    int64_t first, n;
    const float *packed; /* search_pack's */
};

struct loop {
    const struct gptq_args *a;
    struct block *blocks;
    struct run *runs;
    int64_t count, run_count;
    float *packed, *search;
    atomic_int failed;
};

/* Where the block that starts at i1 ends: at most BLOCK columns, and no group starts inside that does not end inside, so that a group's
 * grid is always fitted on current weights. A group longer than BLOCK fills whole blocks from its start. */
static int64_t block_end(const struct gptq_args *a, int64_t i1)
{
    int64_t last = i1; /* end of the last whole group */
    for (int64_t i = i1 + 1; i <= a->K && i - i1 <= BLOCK; i++)
        if (i == a->K || a->fixed || a->group[i] != a->group[i - 1])
            last = i;
    if (last > i1)
        return last;
    return i1 + BLOCK < a->K ? i1 + BLOCK : a->K;
}

static int plan_blocks(struct loop *l, struct err *e)
{
    const struct gptq_args *a = l->a;
    size_t floats = 0;
    l->blocks = scratch_alloc((size_t)a->K * sizeof *l->blocks);
    if (!l->blocks)
        return err_set(e, ERR_NOMEM, "gptq: no memory for %lld blocks", (long long)a->K);
    for (int64_t i = 0; i < a->K; i = l->blocks[l->count++].i2) {
        int64_t i2 = block_end(a, i);
        l->blocks[l->count] = (struct block){.i1 = i, .i2 = i2};
        floats += (size_t)((a->K - i2 + UCOLS - 1) / UCOLS * UCOLS * (i2 - i));
    }
    if (!a->u)
        return 0;
    l->packed = scratch_alloc(floats * sizeof(float) + 64);
    if (!l->packed)
        return err_set(e, ERR_NOMEM, "gptq: no memory for %zu bytes of scratch", floats * sizeof(float));
    float *at = l->packed;
    for (int64_t b = 0; b < l->count; b++) {
        struct block *k = &l->blocks[b];
        k->packed = at;
        at += (a->K - k->i2 + UCOLS - 1) / UCOLS * UCOLS * (k->i2 - k->i1);
    }
    return 0;
}

static int plan_search(struct loop *l, struct err *e)
{
    const struct gptq_args *a = l->a;
    size_t floats = 0;
    if (a->fixed || a->grid.search != GRID_GPTQ)
        return 0;
    l->runs = scratch_alloc((size_t)a->K * sizeof *l->runs);
    if (!l->runs)
        return err_set(e, ERR_NOMEM, "gptq: no memory for %lld groups", (long long)a->G);
    for (int64_t i = 0, n; i < a->K; i += n) {
        for (n = 1; i + n < a->K && a->group[i + n] == a->group[i];)
            n++;
        l->runs[l->run_count++] = (struct run){.first = i, .n = n};
        floats += search_floats(n);
    }
    l->search = scratch_alloc(floats * sizeof(float));
    if (!l->search)
        return err_set(e, ERR_NOMEM, "gptq: no memory for %zu bytes of scratch", floats * sizeof(float));
    float *at = l->search;
    for (int64_t r = 0; r < l->run_count; at += search_floats(l->runs[r++].n))
        l->runs[r].packed = at;
    return 0;
}

static void pack_run(void *arg, size_t r)
{
    const struct loop *l = arg;
    const struct run *run = &l->runs[r];
    search_pack(l->search + (run->packed - l->search), l->a->u + run->first * l->a->K + run->first, l->a->K, run->n);
}

static void pack_block(void *arg, size_t b)
{
    const struct loop *l = arg;
    const struct block *k = &l->blocks[b];
    float *to = l->packed + (k->packed - l->packed);
    for (int64_t j0 = k->i2; j0 < l->a->K; j0 += UCOLS)
        for (int64_t i = k->i1; i < k->i2; i++)
            for (int64_t j = j0; j < j0 + UCOLS; j++)
                *to++ = j < l->a->K ? l->a->u[i * l->a->K + j] : 0;
}

/* A task's state: the transposed tile, and the block at hand. */
struct work {
    float *w;                                                  /* [K][GRID_ROWS] */
    float err[BLOCK * GRID_ROWS] __attribute__((aligned(64))); /* minus the scaled errors of the block's columns */
    uint8_t codes[BLOCK * GRID_ROWS] __attribute__((aligned(64)));
    double loss[GRID_ROWS] __attribute__((aligned(64)));
    struct grid_rows grid;
    int64_t n0, run; /* its first row; groups entered so far */
};

/* The group's grid at column i, its first: fitted on the columns to come, or read. */
static void enter_group(const struct loop *l, struct work *t, int64_t i)
{
    const struct gptq_args *a = l->a;
    int64_t at = a->group[i] * a->N, n = 1;
    if (l->runs) {
        const struct run *run = &l->runs[t->run++];
        group_search(t->w + i * GRID_ROWS, run->n, run->packed, &a->grid, &t->grid);
        grid_store(&t->grid, t->n0, a->N, a->scales + at, a->zeros + at);
        return;
    }
    if (!a->fixed) {
        while (i + n < a->K && a->group[i + n] == a->group[i])
            n++;
        grid_fit(t->w + i * GRID_ROWS, n, &a->grid, &t->grid);
        grid_store(&t->grid, t->n0, a->N, a->scales + at, a->zeros + at);
        return;
    }
    for (int64_t r = 0; r < GRID_ROWS; r++) {
        bool row = t->n0 + r < a->N;
        t->grid.scale[r] = row ? f16_to_f32(a->scales[at + t->n0 + r]) : 1;
        t->grid.zero[r] = row ? (float)a->zeros[at + t->n0 + r] : 1;
    }
}

/* Column i: code, dequantized value, scaled error, loss. */
static void quantize_column(const struct gptq_args *a, struct work *t, int64_t i, int64_t in_block)
{
    float *w = t->w + i * GRID_ROWS;
    v16 maxq = v16_set1((float)((1 << a->grid.bits) - 1)), d = v16_set1(a->u ? a->u[i * a->K + i] : 1);
    for (int r = 0; r < GRID_ROWS; r += 16) {
        v16 x = v16_load(w + r), s = v16_load(t->grid.scale + r), z = v16_load(t->grid.zero + r);
        v16 q = grid_round(x, s, v16_neg(z), v16_sub(maxq, z)), value = v16_mul(q, s), err = v16_div(v16_sub(value, x), d);
        v16i_store_u8(t->codes + in_block * GRID_ROWS + r, v16_to_i(v16_add(q, z)));
        v16_store(t->err + in_block * GRID_ROWS + r, err);
        v16_store(w + r, value);
        d8 lo = v16_lo_d8(err), hi = v16_hi_d8(err);
        d8_store(t->loss + r, d8_fma(lo, lo, d8_load(t->loss + r)));
        d8_store(t->loss + r + 8, d8_fma(hi, hi, d8_load(t->loss + r + 8)));
    }
}

/* The columns behind the block. The tile has room for UCOLS columns beyond K. */
static void correct_rest(const struct gptq_args *a, struct work *t, const struct block *k)
{
    int64_t n = k->i2 - k->i1;
    const float *u = k->packed;
    for (int64_t j = k->i2; j < a->K; j += UCOLS, u += n * UCOLS)
        correct_panel(t->w + j * GRID_ROWS, GRID_ROWS, u, t->err, GRID_ROWS, n);
}

static void correct_block(const struct gptq_args *a, struct work *t, const struct block *k, int64_t i)
{
    const float *u = a->u + i * a->K, *err = t->err + (i - k->i1) * GRID_ROWS;
    v16 e0 = v16_load(err), e1 = v16_load(err + 16), e2 = v16_load(err + 32);
    for (int64_t j = i + 1; j < k->i2; j++) {
        float *w = t->w + j * GRID_ROWS;
        v16 x = v16_set1(u[j]);
        v16_store(w, v16_fma(e0, x, v16_load(w)));
        v16_store(w + 16, v16_fma(e1, x, v16_load(w + 16)));
        v16_store(w + 32, v16_fma(e2, x, v16_load(w + 32)));
    }
}

static void store_block(const struct gptq_args *a, const struct work *t, const struct block *k)
{
    for (int64_t r = 0; r < GRID_ROWS && t->n0 + r < a->N; r++) {
        uint8_t *codes = a->codes + (t->n0 + r) * a->K;
        float *w = a->w + (t->n0 + r) * a->K;
        for (int64_t i = k->i1; i < k->i2; i++) {
            codes[i] = t->codes[(i - k->i1) * GRID_ROWS + r];
            w[i] = t->w[i * GRID_ROWS + r];
        }
    }
}

static void quantize_rows(void *arg, size_t task)
{
    struct loop *l = arg;
    const struct gptq_args *a = l->a;
    struct work *t = scratch_alloc(sizeof *t);
    float *w = scratch_alloc((size_t)(a->K + UCOLS) * GRID_ROWS * sizeof *w);
    if (!t || !w) {
        l->failed = 1;
        goto out;
    }
    t->w = w;
    t->n0 = (int64_t)task * GRID_ROWS;
    t->run = 0;
    memset(t->loss, 0, sizeof t->loss);
    grid_load_tile(w, a->w, a->K, t->n0, a->N, a->K);
    memset(w + a->K * GRID_ROWS, 0, UCOLS * GRID_ROWS * sizeof *w);
    for (int64_t b = 0; b < l->count; b++) {
        const struct block *k = &l->blocks[b];
        for (int64_t i = k->i1; i < k->i2; i++) {
            if (i == 0 || a->group[i] != a->group[i - 1])
                enter_group(l, t, i);
            quantize_column(a, t, i, i - k->i1);
            if (a->u)
                correct_block(a, t, k, i);
        }
        store_block(a, t, k);
        if (a->u)
            correct_rest(a, t, k);
    }
    for (int64_t r = 0; r < GRID_ROWS && t->n0 + r < a->N; r++)
        a->loss[t->n0 + r] = a->u ? t->loss[r] / 2 : t->loss[r];
out:
    free(w);
    free(t);
}

int FN(gptq_f32)(const struct parallel *par, const struct gptq_args *a, struct err *e)
{
    struct loop l = {.a = a};
    int rc = plan_blocks(&l, e);
    if (!rc)
        rc = plan_search(&l, e);
    if (!rc) {
        if (a->u)
            par->run(par->ctx, (size_t)l.count, pack_block, &l);
        par->run(par->ctx, (size_t)l.run_count, pack_run, &l);
        par->run(par->ctx, (size_t)((a->N + GRID_ROWS - 1) / GRID_ROWS), quantize_rows, &l);
        if (l.failed)
            rc = err_set(e, ERR_NOMEM, "gptq: no memory for tiles of %lld columns", (long long)a->K);
    }
    free(l.search);
    free(l.runs);
    free(l.packed);
    free(l.blocks);
    return rc;
}

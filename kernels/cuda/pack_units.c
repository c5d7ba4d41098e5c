#include "kernels/cuda/pack_units.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/wfmt.h"

enum { UNIT_SHIFT_MAX = 20 };

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t unit_elems(int unit_shift)
{
    return unit_shift < 0 ? 32 : (int64_t)64 << unit_shift;
}

static int check(const struct qwords *q, struct err *e)
{
    if (q->N < 1 || q->K < 1 || q->N > INT32_MAX / 2 || q->K > INT32_MAX / 2)
        return err_set(e, ERR_SHAPE, "matrix of N=%lld by K=%lld has no packed form", (long long)q->N, (long long)q->K);
    if (q->bits != 2 && q->bits != 3 && q->bits != 4 && q->bits != 8)
        return err_set(e, ERR_UNSUPPORTED, "%d bits have no packed form: 2, 3, 4, 8", q->bits);
    for (int64_t k = 0; k < q->K; k++)
        if (q->g_idx[k] < 0 || q->g_idx[k] >= q->G)
            return err_set(e, ERR_FORMAT, "g_idx[%lld] is %d, but there are %lld groups", (long long)k, q->g_idx[k], (long long)q->G);
    int top = (1 << q->bits) - 1;
    if (q->bits < 8)
        for (int64_t i = 0; i < q->G * q->N; i++)
            if (q->zeros[i] > top + 1)
                return err_set(e, ERR_FORMAT, "zero %d of group %lld at n=%lld exceeds 2^%d", q->zeros[i], (long long)(i / q->N), (long long)(i % q->N), q->bits);
    return 0;
}

/* The largest unit such that no unit of K inputs in their own order holds two groups; PACK_ONE_UNIT when all are in one; -2 when even 32 does not do. */
static int natural_unit(const struct qwords *q)
{
    int64_t step = 0; /* all places where the group changes are multiples of it */
    for (int64_t k = 1; k < q->K; k++)
        if (q->g_idx[k] != q->g_idx[k - 1])
            step |= k;
    if (step == 0)
        return PACK_ONE_UNIT;
    if (step % 32 != 0)
        return -2;
    int shift = -1;
    while (shift < UNIT_SHIFT_MAX && step % unit_elems(shift + 1) == 0)
        shift++;
    return shift;
}

static int64_t *group_sizes(const struct qwords *q)
{
    int64_t *n = calloc((size_t)q->G, sizeof *n);
    for (int64_t k = 0; n && k < q->K; k++)
        n[q->g_idx[k]]++;
    return n;
}

/* Units that sorted groups of these sizes fill. */
static int64_t filled_units(const int64_t *size, int64_t G, int unit_shift)
{
    int64_t n = 0;
    for (int64_t g = 0; g < G; g++)
        n += ceil_div(size[g], unit_elems(unit_shift));
    return n;
}

int pack_units_plan(const struct qwords *q, struct pack_units *u, struct err *e)
{
    int rc = check(q, e);
    if (rc)
        return rc;
    *u = (struct pack_units){.N = q->N, .K = q->K, .Kx = q->K, .bits = q->bits == 8 ? 8 : 4, .zero = q->zeros[0]};
    for (int64_t i = 1; i < q->G * q->N; i++)
        u->zero_table |= q->zeros[i] != q->zeros[0];
    u->unit_shift = natural_unit(q);
    if (u->unit_shift == -2) {
        int64_t *size = group_sizes(q);
        if (!size)
            return err_set(e, ERR_NOMEM, "%lld group sizes", (long long)q->G);
        /* units of 128 unless smaller ones leave less to fill up (small groups, or groups like 96) */
        u->permuted = true;
        u->unit_shift = 1;
        for (int shift = 0; shift >= -1; shift--)
            if (filled_units(size, q->G, shift) * unit_elems(shift) < filled_units(size, q->G, u->unit_shift) * unit_elems(u->unit_shift))
                u->unit_shift = shift;
        u->Kx = ceil_div(filled_units(size, q->G, u->unit_shift) * unit_elems(u->unit_shift), 64) * 64;
        free(size);
    }
    return 0;
}

int pack_units_plain(int64_t N, int64_t K, int bits, int group_size, struct pack_units *u, struct err *e)
{
    if (N < 1 || K < 1 || N > INT32_MAX / 2 || K > INT32_MAX / 2)
        return err_set(e, ERR_SHAPE, "matrix of N=%lld by K=%lld has no packed form", (long long)N, (long long)K);
    *u = (struct pack_units){.N = N, .K = K, .Kx = K, .bits = bits == 8 ? 8 : 4, .unit_shift = PACK_ONE_UNIT, .zero = (float)(1 << (bits - 1))};
    if (group_size > 0 && group_size < K) {
        if (group_size % 32 != 0 || (group_size & (group_size - 1)) != 0)
            return err_set(e, ERR_SHAPE, "groups of %d inputs are no units of 32 times a power of 2", group_size);
        for (u->unit_shift = -1; unit_elems(u->unit_shift) < group_size; u->unit_shift++)
            ;
    }
    return 0;
}

/* perm [Kx] and the group of each unit [rows]: the sorted order of the inputs, or theirs. -1: nothing there. */
static void order(const struct qwords *q, const struct pack_units *u, int rows, int32_t *perm, int32_t *group, int64_t *next)
{
    int64_t unit = unit_elems(u->unit_shift);
    for (int64_t k = 0; k < u->Kx; k++)
        perm[k] = u->permuted ? -1 : (int32_t)k;
    for (int i = 0; i < rows; i++)
        group[i] = -1;
    if (!u->permuted) {
        for (int64_t k = 0; k < q->K; k++)
            group[u->unit_shift == PACK_ONE_UNIT ? 0 : k / unit] = q->g_idx[k];
        return;
    }
    for (int64_t k = 0; k < q->K; k++) /* next[g + 1] counts, then next[g] is where group g goes on */
        next[q->g_idx[k] + 1]++;
    for (int64_t g = 0; g < q->G; g++)
        next[g + 1] = next[g] + ceil_div(next[g + 1], unit) * unit;
    for (int64_t k = 0; k < q->K; k++) {
        int64_t at = next[q->g_idx[k]]++;
        perm[at] = (int32_t)k;
        group[at / unit] = q->g_idx[k];
    }
}

/* Block by block, so that what is written stays in the nearest cache; places in a block come from one table. */
static void put_codes(const struct qwords *q, const struct pack_units *u, const struct pack_layout *l, const int32_t *perm, uint32_t *codes)
{
    const int64_t C = l->columns;
    uint16_t word[PACK_COLUMNS_MAX][PACK_K];
    uint8_t shift[PACK_COLUMNS_MAX][PACK_K];
    for (int n = 0; n < C; n++)
        for (int k = 0; k < PACK_K; k++) {
            int w, s;
            l->place(u->bits, k, n, &w, &s);
            word[n][k] = (uint16_t)w;
            shift[n][k] = (uint8_t)s;
        }
    memset(codes, 0, l->code_bytes);
    for (int64_t strip = 0; strip * C < q->N; strip++)
        for (int64_t kb = 0; kb * PACK_K < u->Kx; kb++) {
            uint32_t *block = codes + (size_t)(strip * l->k_blocks + kb) * (size_t)l->block_words;
            int64_t columns = q->N - strip * C < C ? q->N - strip * C : C, inputs = u->Kx - kb * PACK_K < PACK_K ? u->Kx - kb * PACK_K : PACK_K;
            for (int64_t n = 0; n < columns; n++) {
                const uint32_t *column = q->words + strip * C + n;
                const int32_t *from = perm + kb * PACK_K;
                for (int64_t k = 0; k < inputs; k++)
                    if (from[k] >= 0)
                        block[word[n][k]] |= wfmt_code(column, q->N, from[k], q->bits) << shift[n][k];
            }
        }
}

static void put_rows(const struct qwords *q, const struct pack_units *u, const struct pack_layout *l, const int32_t *group, uint16_t *scales, uint16_t *zeros)
{
    memset(scales, 0, l->scale_bytes);
    if (u->zero_table)
        memset(zeros, 0, l->scale_bytes);
    for (int r = 0; r < l->rows; r++) {
        if (group[r] < 0)
            continue;
        for (int64_t n = 0; n < q->N; n++) {
            size_t at = l->scale_at(l, r, n), from = (size_t)(group[r] * q->N + n);
            scales[at] = q->scales[from];
            if (u->zero_table)
                zeros[at] = f32_to_f16(q->zeros[from]);
        }
    }
}

int pack_units_put(const struct qwords *q, const struct pack_units *u, const struct pack_layout *l, uint32_t *codes, uint16_t *scales, uint16_t *zeros, int32_t *perm,
                   struct err *e)
{
    int32_t *own = perm ? NULL : malloc((size_t)u->Kx * sizeof *own), *group = malloc((size_t)l->rows * sizeof *group);
    int64_t *next = calloc((size_t)q->G + 1, sizeof *next);
    int32_t *to = perm ? perm : own;
    int rc = 0;
    if (!to || !group || !next) {
        rc = err_set(e, ERR_NOMEM, "order of %lld inputs", (long long)u->Kx);
    } else {
        order(q, u, l->rows, to, group, next);
        if (codes)
            put_codes(q, u, l, to, codes);
        put_rows(q, u, l, group, scales, zeros);
    }
    free(own);
    free(group);
    free(next);
    return rc;
}

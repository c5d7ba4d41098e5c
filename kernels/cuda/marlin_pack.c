#include "kernels/cuda/marlin_pack.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/marlin_layout.h"
#include "kernels/half.h"

enum { ONE_UNIT = 31, UNIT_SHIFT_MAX = 20 };

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t unit_elems(int unit_shift)
{
    return unit_shift < 0 ? 32 : (int64_t)64 << unit_shift;
}

static int check(const struct qmatrix *q, struct err *e)
{
    if (q->N < 1 || q->K < 1 || q->N > INT32_MAX / 2 || q->K > INT32_MAX / 2)
        return err_set(e, ERR_SHAPE, "matrix of N=%lld by K=%lld has no packed form", (long long)q->N, (long long)q->K);
    if (q->bits != 2 && q->bits != 3 && q->bits != 4 && q->bits != 8)
        return err_set(e, ERR_UNSUPPORTED, "%d bits have no packed form: 2, 3, 4, 8", q->bits);
    for (int64_t k = 0; k < q->K; k++)
        if (q->g_idx[k] < 0 || q->g_idx[k] >= q->G)
            return err_set(e, ERR_FORMAT, "g_idx[%lld] is %d, but there are %lld groups", (long long)k, q->g_idx[k], (long long)q->G);
    int top = (1 << q->bits) - 1;
    uint8_t seen = 0;
    for (int64_t i = 0; i < q->N * q->K; i++)
        seen |= q->codes[i];
    for (int64_t i = 0; seen > top && i < q->N * q->K; i++)
        if (q->codes[i] > top)
            return err_set(e, ERR_FORMAT, "code %d at n=%lld k=%lld does not fit %d bits", q->codes[i], (long long)(i / q->K), (long long)(i % q->K), q->bits);
    if (q->bits < 8)
        for (int64_t i = 0; i < q->G * q->N; i++)
            if (q->zeros[i] > top + 1)
                return err_set(e, ERR_FORMAT, "zero %d of group %lld at n=%lld exceeds 2^%d", q->zeros[i], (long long)(i / q->N), (long long)(i % q->N), q->bits);
    return 0;
}

/* The largest unit such that no unit of K inputs in their own order holds two groups; ONE_UNIT when all are in one; -2 when even 32 does not do. */
static int natural_unit(const struct qmatrix *q)
{
    int64_t step = 0; /* all places where the group changes are multiples of it */
    for (int64_t k = 1; k < q->K; k++)
        if (q->g_idx[k] != q->g_idx[k - 1])
            step |= k;
    if (step == 0)
        return ONE_UNIT;
    if (step % 32 != 0)
        return -2;
    int shift = -1;
    while (shift < UNIT_SHIFT_MAX && step % unit_elems(shift + 1) == 0)
        shift++;
    return shift;
}

static int64_t *group_sizes(const struct qmatrix *q)
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

/* What follows from N, Kx, bits, units and the kind of zeros. */
static int sizes(struct marlin_shape *s, struct err *e)
{
    int64_t strips = ceil_div(s->N, 64), chunks = ceil_div(s->Kx, 64);
    if (strips * chunks > INT32_MAX)
        return err_set(e, ERR_SHAPE, "N=%lld by K=%lld is more than 2^31 chunks of 64 by 64", (long long)s->N, (long long)s->K);
    s->strips = (int)strips;
    s->k_chunks = (int)chunks;
    s->rows = marlin_scale_row(s->k_chunks - 1, s->unit_shift) + (s->unit_shift < 0 ? 2 : 1);
    s->code_bytes = (size_t)strips * (size_t)chunks * (size_t)marlin_chunk_words(s->bits) * 4;
    s->scale_bytes = (size_t)s->rows * (size_t)strips * MARLIN_SCALE_ROW_BYTES;
    s->zero_bytes = s->zero_table ? s->scale_bytes : 0;
    s->perm_bytes = s->permuted ? (size_t)s->Kx * sizeof(int32_t) : 0;
    return 0;
}

int marlin_plan(const struct qmatrix *q, struct marlin_shape *s, struct err *e)
{
    int rc = check(q, e);
    if (rc)
        return rc;
    *s = (struct marlin_shape){.N = q->N, .K = q->K, .Kx = q->K, .bits = q->bits == 8 ? 8 : 4, .zero = q->zeros[0]};
    for (int64_t i = 1; i < q->G * q->N; i++)
        s->zero_table |= q->zeros[i] != q->zeros[0];
    s->unit_shift = natural_unit(q);
    if (s->unit_shift == -2) {
        int64_t *size = group_sizes(q);
        if (!size)
            return err_set(e, ERR_NOMEM, "%lld group sizes", (long long)q->G);
        /* units of 128 unless smaller ones leave less to fill up (small groups, or groups like 96) */
        s->permuted = true;
        s->unit_shift = 1;
        for (int shift = 0; shift >= -1; shift--)
            if (filled_units(size, q->G, shift) * unit_elems(shift) < filled_units(size, q->G, s->unit_shift) * unit_elems(s->unit_shift))
                s->unit_shift = shift;
        s->Kx = ceil_div(filled_units(size, q->G, s->unit_shift) * unit_elems(s->unit_shift), 64) * 64;
        free(size);
    }
    return sizes(s, e);
}

int marlin_plan_plain(int64_t N, int64_t K, int bits, int group_size, struct marlin_shape *s, struct err *e)
{
    if (N < 1 || K < 1 || N > INT32_MAX / 2 || K > INT32_MAX / 2)
        return err_set(e, ERR_SHAPE, "matrix of N=%lld by K=%lld has no packed form", (long long)N, (long long)K);
    *s = (struct marlin_shape){.N = N, .K = K, .Kx = K, .bits = bits == 8 ? 8 : 4, .unit_shift = ONE_UNIT, .zero = (float)(1 << (bits - 1))};
    if (group_size > 0 && group_size < K) {
        if (group_size % 32 != 0 || (group_size & (group_size - 1)) != 0)
            return err_set(e, ERR_SHAPE, "groups of %d inputs are no units of 32 times a power of 2", group_size);
        for (s->unit_shift = -1; unit_elems(s->unit_shift) < group_size; s->unit_shift++)
            ;
    }
    return sizes(s, e);
}

/* perm [Kx] and the group of each unit [rows]: the sorted order of the inputs, or theirs. -1: nothing there. */
static void order(const struct qmatrix *q, const struct marlin_shape *s, int32_t *perm, int32_t *group, int64_t *next)
{
    int64_t unit = unit_elems(s->unit_shift);
    for (int64_t k = 0; k < s->Kx; k++)
        perm[k] = s->permuted ? -1 : (int32_t)k;
    for (int i = 0; i < s->rows; i++)
        group[i] = -1;
    if (!s->permuted) {
        for (int64_t k = 0; k < q->K; k++)
            group[s->unit_shift == ONE_UNIT ? 0 : k / unit] = q->g_idx[k];
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

/* Chunk by chunk, so that what is written stays in the nearest cache; places in a chunk come from one table made by the closed form. */
static void put_codes(const struct qmatrix *q, const struct marlin_shape *s, const int32_t *perm, uint32_t *codes)
{
    static const int64_t C = MARLIN_CHUNK;
    uint16_t word[MARLIN_CHUNK][MARLIN_CHUNK];
    uint8_t shift[MARLIN_CHUNK][MARLIN_CHUNK];
    for (int64_t n = 0; n < C; n++)
        for (int64_t k = 0; k < C; k++) {
            word[n][k] = (uint16_t)marlin_code_word(s->bits, k, n, 1);
            shift[n][k] = (uint8_t)marlin_code_shift(s->bits, k, n);
        }
    memset(codes, 0, s->code_bytes);
    for (int64_t strip = 0; strip < s->strips; strip++)
        for (int64_t kc = 0; kc < s->k_chunks; kc++) {
            uint32_t *chunk = codes + marlin_chunk(strip, kc, s->k_chunks) * (size_t)marlin_chunk_words(s->bits);
            int64_t columns = q->N - strip * C < C ? q->N - strip * C : C, inputs = s->Kx - kc * C < C ? s->Kx - kc * C : C;
            for (int64_t n = 0; n < columns; n++) {
                const uint8_t *row = q->codes + (strip * C + n) * q->K;
                const int32_t *from = perm + kc * C;
                for (int64_t k = 0; k < inputs; k++)
                    if (from[k] >= 0)
                        chunk[word[n][k]] |= (uint32_t)row[from[k]] << shift[n][k];
            }
        }
}

static void put_rows(const struct qmatrix *q, const struct marlin_shape *s, const int32_t *group, uint16_t *scales, uint16_t *zeros)
{
    memset(scales, 0, s->scale_bytes);
    if (s->zero_table)
        memset(zeros, 0, s->zero_bytes);
    for (int r = 0; r < s->rows; r++) {
        if (group[r] < 0)
            continue;
        for (int64_t n = 0; n < q->N; n++) {
            size_t at = marlin_scale_at(r, n, s->strips), from = (size_t)(group[r] * q->N + n);
            scales[at] = q->scales[from];
            if (s->zero_table)
                zeros[at] = f32_to_f16(q->zeros[from]);
        }
    }
}

int marlin_pack(const struct qmatrix *q, const struct marlin_shape *s, uint32_t *codes, uint16_t *scales, uint16_t *zeros, int32_t *perm, struct err *e)
{
    int32_t *own = perm ? NULL : malloc((size_t)s->Kx * sizeof *own), *group = malloc((size_t)s->rows * sizeof *group);
    int64_t *next = calloc((size_t)q->G + 1, sizeof *next);
    int32_t *to = perm ? perm : own;
    int rc = 0;
    if (!to || !group || !next) {
        rc = err_set(e, ERR_NOMEM, "order of %lld inputs", (long long)s->Kx);
    } else {
        order(q, s, to, group, next);
        if (codes)
            put_codes(q, s, to, codes);
        put_rows(q, s, group, scales, zeros);
    }
    free(own);
    free(group);
    free(next);
    return rc;
}

float marlin_packed_weight(const struct marlin_shape *s, const uint32_t *codes, const uint16_t *scales, const uint16_t *zeros, int64_t n, int64_t k)
{
    uint32_t word = codes[marlin_code_word(s->bits, k, n, s->k_chunks)];
    int code = (int)(word >> marlin_code_shift(s->bits, k, n) & ((1u << s->bits) - 1u));
    int row = marlin_scale_row((int)(k / 64), s->unit_shift) + (s->unit_shift < 0 && k % 64 >= 32);
    size_t at = marlin_scale_at(row, n, s->strips);
    return f16_to_f32(scales[at]) * ((float)code - (s->zero_table ? f16_to_f32(zeros[at]) : s->zero));
}

#include "kernels/cuda/machete_pack.h"

#include "kernels/cuda/machete_layout.h"
#include "kernels/cuda/pack_units.h"
#include "kernels/half.h"

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* What follows from N, Kx, bits, units and the kind of zeros. */
static int sizes(struct machete_shape *s, struct err *e)
{
    int64_t stripes = ceil_div(s->N, MACHETE_N), blocks = ceil_div(s->Kx, MACHETE_PAIR * MACHETE_K) * MACHETE_PAIR;
    if (stripes * blocks > INT32_MAX)
        return err_set(e, ERR_SHAPE, "N=%lld by K=%lld is more than 2^31 blocks of 128 by 64", (long long)s->N, (long long)s->K);
    s->stripes = (int)stripes;
    s->k_blocks = (int)blocks;
    s->rows = marlin_scale_row(s->k_blocks - 1, s->unit_shift) + (s->unit_shift < 0 ? 2 : 1);
    s->code_bytes = (size_t)stripes * (size_t)blocks * (size_t)machete_block_words(s->bits) * 4;
    s->scale_bytes = (size_t)stripes * (size_t)s->rows * MACHETE_ROW_BYTES;
    s->zero_bytes = s->zero_table ? s->scale_bytes : 0;
    s->perm_bytes = s->permuted ? (size_t)s->Kx * sizeof(int32_t) : 0;
    return 0;
}

static int shape_of(const struct pack_units *u, struct machete_shape *s, struct err *e)
{
    *s = (struct machete_shape){.N = u->N, .K = u->K, .Kx = u->Kx, .bits = u->bits, .unit_shift = u->unit_shift, .zero_table = u->zero_table, .permuted = u->permuted,
                                .zero = u->zero};
    return sizes(s, e);
}

int machete_plan(const struct qwords *q, struct machete_shape *s, struct err *e)
{
    struct pack_units u;
    int rc = pack_units_plan(q, &u, e);
    return rc ? rc : shape_of(&u, s, e);
}

int machete_plan_plain(int64_t N, int64_t K, int bits, int group_size, struct machete_shape *s, struct err *e)
{
    struct pack_units u;
    int rc = pack_units_plain(N, K, bits, group_size, &u, e);
    return rc ? rc : shape_of(&u, s, e);
}

static void place(int bits, int k, int n, int *word, int *shift)
{
    *word = (int)machete_code_word(bits, k, n, 1);
    *shift = machete_code_shift(bits, k, n);
}

static size_t scale_at(const struct pack_layout *l, int row, int64_t n)
{
    return machete_scale_at(row, n, l->rows);
}

int machete_pack(const struct qwords *q, const struct machete_shape *s, uint32_t *codes, uint16_t *scales, uint16_t *zeros, int32_t *perm, struct err *e)
{
    const struct pack_units u = {s->N, s->K, s->Kx, s->bits, s->unit_shift, s->zero_table, s->permuted, s->zero};
    const struct pack_layout l = {.columns = MACHETE_N, .block_words = machete_block_words(s->bits), .k_blocks = s->k_blocks, .rows = s->rows, .code_bytes = s->code_bytes,
                                  .scale_bytes = s->scale_bytes, .place = place, .scale_at = scale_at, .strips = s->stripes};
    return pack_units_put(q, &u, &l, codes, scales, zeros, perm, e);
}

bool machete_join(const struct machete_shape *const *part, int n, struct machete_shape *whole)
{
    const struct machete_shape *p = part[0];
    *whole = *p;
    if (n < 2 || n > MARLIN_PARTS)
        return false;
    for (int i = 1; i < n; i++) {
        const struct machete_shape *q = part[i];
        if (part[i - 1]->N % MACHETE_N || q->K != p->K || q->Kx != p->Kx || q->bits != p->bits || q->unit_shift != p->unit_shift || q->permuted != p->permuted ||
            q->zero_table != p->zero_table || (!q->zero_table && q->zero != p->zero))
            return false;
        whole->N += q->N;
    }
    return whole->N <= INT32_MAX / 2 && sizes(whole, NULL) == 0;
}

struct marlin_place machete_place(const struct machete_shape *part, const struct machete_shape *whole, int64_t from)
{
    const int64_t stripe = from / MACHETE_N;
    return (struct marlin_place){.codes = machete_block(stripe, 0, whole->k_blocks) * (size_t)machete_block_words(whole->bits) * 4,
                                 .table = (size_t)stripe * (size_t)whole->rows * MACHETE_ROW_BYTES, .width = part->scale_bytes, .pitch = part->scale_bytes, .rows = 1};
}

float machete_packed_weight(const struct machete_shape *s, const uint32_t *codes, const uint16_t *scales, const uint16_t *zeros, int64_t n, int64_t k)
{
    uint32_t word = codes[machete_code_word(s->bits, k, n, s->k_blocks)];
    int code = (int)(word >> machete_code_shift(s->bits, k, n) & ((1u << s->bits) - 1u));
    int row = marlin_scale_row((int)(k / 64), s->unit_shift) + (s->unit_shift < 0 && k % 64 >= 32);
    size_t at = machete_scale_at(row, n, s->rows);
    return f16_to_f32(scales[at]) * ((float)code - (s->zero_table ? f16_to_f32(zeros[at]) : s->zero));
}

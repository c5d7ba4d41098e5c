#include "kernels/cuda/marlin_pack.h"

#include "kernels/cuda/marlin_layout.h"
#include "kernels/cuda/pack_units.h"
#include "kernels/half.h"

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* What follows from N, Kx, bits, units and the kind of zeros. */
static int sizes(struct marlin_shape *s, struct err *e)
{
    int64_t strips = ceil_div(s->N, 64), chunks = ceil_div(s->Kx, 64);
    if (strips * chunks > INT32_MAX)
        return err_set(e, ERR_SHAPE, "N=%lld by K=%lld is more than 2^31 chunks of 64 by 64", (long long)s->N, (long long)s->K);
    s->strips = s->scale_strips = (int)strips;
    s->k_chunks = (int)chunks;
    s->rows = marlin_scale_row(s->k_chunks - 1, s->unit_shift) + (s->unit_shift < 0 ? 2 : 1);
    s->code_bytes = (size_t)strips * (size_t)chunks * (size_t)marlin_chunk_words(s->bits) * 4;
    s->scale_bytes = (size_t)s->rows * (size_t)strips * MARLIN_SCALE_ROW_BYTES;
    s->zero_bytes = s->zero_table ? s->scale_bytes : 0;
    s->perm_bytes = s->permuted ? (size_t)s->Kx * sizeof(int32_t) : 0;
    return 0;
}

static struct marlin_shape shape_of(const struct pack_units *u)
{
    return (struct marlin_shape){.N = u->N, .K = u->K, .Kx = u->Kx, .bits = u->bits, .unit_shift = u->unit_shift, .zero_table = u->zero_table, .permuted = u->permuted,
                                 .zero = u->zero};
}

int marlin_plan(const struct qwords *q, struct marlin_shape *s, struct err *e)
{
    struct pack_units u;
    int rc = pack_units_plan(q, &u, e);
    if (rc)
        return rc;
    *s = shape_of(&u);
    return sizes(s, e);
}

int marlin_plan_plain(int64_t N, int64_t K, int bits, int group_size, struct marlin_shape *s, struct err *e)
{
    struct pack_units u;
    int rc = pack_units_plain(N, K, bits, group_size, &u, e);
    if (rc)
        return rc;
    *s = shape_of(&u);
    return sizes(s, e);
}

static void place(int bits, int k, int n, int *word, int *shift)
{
    *word = (int)marlin_code_word(bits, k, n, 1);
    *shift = marlin_code_shift(bits, k, n);
}

static size_t scale_at(const struct pack_layout *l, int row, int64_t n)
{
    return marlin_scale_at(row, n, l->strips);
}

int marlin_pack(const struct qwords *q, const struct marlin_shape *s, uint32_t *codes, uint16_t *scales, uint16_t *zeros, int32_t *perm, struct err *e)
{
    const struct pack_units u = {s->N, s->K, s->Kx, s->bits, s->unit_shift, s->zero_table, s->permuted, s->zero};
    const struct pack_layout l = {.columns = MARLIN_CHUNK, .block_words = marlin_chunk_words(s->bits), .k_blocks = s->k_chunks, .rows = s->rows, .code_bytes = s->code_bytes,
                                  .scale_bytes = s->scale_bytes, .place = place, .scale_at = scale_at, .strips = s->strips};
    return pack_units_put(q, &u, &l, codes, scales, zeros, perm, e);
}

bool marlin_join(const struct marlin_shape *const *part, int n, struct marlin_shape *whole)
{
    const struct marlin_shape *p = part[0];
    *whole = *p;
    if (n < 2 || n > MARLIN_PARTS)
        return false;
    for (int i = 1; i < n; i++) {
        const struct marlin_shape *q = part[i];
        if (part[i - 1]->N % MARLIN_CHUNK || q->K != p->K || q->Kx != p->Kx || q->bits != p->bits || q->unit_shift != p->unit_shift || q->permuted != p->permuted ||
            q->zero_table != p->zero_table || (!q->zero_table && q->zero != p->zero))
            return false;
        whole->N += q->N;
    }
    return whole->N <= INT32_MAX / 2 && sizes(whole, NULL) == 0;
}

struct marlin_place marlin_place(const struct marlin_shape *part, const struct marlin_shape *whole, int64_t from)
{
    const int64_t strip = from / MARLIN_CHUNK;
    return (struct marlin_place){.codes = marlin_chunk(strip, 0, whole->k_chunks) * (size_t)marlin_chunk_words(whole->bits) * 4, .table = (size_t)strip * MARLIN_SCALE_ROW_BYTES,
                                 .width = (size_t)part->strips * MARLIN_SCALE_ROW_BYTES, .pitch = (size_t)whole->strips * MARLIN_SCALE_ROW_BYTES, .rows = whole->rows};
}

float marlin_packed_weight(const struct marlin_shape *s, const uint32_t *codes, const uint16_t *scales, const uint16_t *zeros, int64_t n, int64_t k)
{
    uint32_t word = codes[marlin_code_word(s->bits, k, n, s->k_chunks)];
    int code = (int)(word >> marlin_code_shift(s->bits, k, n) & ((1u << s->bits) - 1u));
    int row = marlin_scale_row((int)(k / 64), s->unit_shift) + (s->unit_shift < 0 && k % 64 >= 32);
    size_t at = marlin_scale_at(row, n, s->scale_strips);
    return f16_to_f32(scales[at]) * ((float)code - (s->zero_table ? f16_to_f32(zeros[at]) : s->zero));
}

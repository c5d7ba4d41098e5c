#include "kernels/wfmt.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/half.h"

/* A row of words lies along n, a row of codes along k. A walk over both takes blocks of so many: few enough rows of either to stay in one set of the nearest cache, for K and N
 * are often powers of 2. */
enum { COLUMNS = 8, INPUTS = 32 };

/* Sets code i of a stream that is zero there. */
static void put(uint32_t *words, int64_t stride, int64_t i, int bits, uint32_t code)
{
    int64_t bit = i * bits, word = bit / 32;
    int shift = (int)(bit % 32);
    words[word * stride] |= code << shift;
    if (shift + bits > 32)
        words[(word + 1) * stride] |= code >> (32 - shift);
}

void wfmt_pack_qweight(const struct qmatrix *q, uint32_t *qweight)
{
    memset(qweight, 0, (size_t)(wfmt_words(q->K, q->bits) * q->N) * sizeof *qweight);
    for (int64_t k0 = 0; k0 < q->K; k0 += INPUTS)
        for (int64_t n0 = 0; n0 < q->N; n0 += COLUMNS)
            for (int64_t k = k0; k < q->K && k < k0 + INPUTS; k++)
                for (int64_t n = n0; n < q->N && n < n0 + COLUMNS; n++)
                    put(qweight + n, q->N, k, q->bits, q->codes[n * q->K + k]);
}

static int check_codes(const struct qmatrix *q, struct err *e)
{
    const int64_t count = q->N * q->K;
    const unsigned max = (1u << q->bits) - 1u;
    uint8_t seen = 0;
    for (int64_t i = 0; i < count; i++)
        seen |= q->codes[i];
    for (int64_t i = 0; seen > max && i < count; i++)
        if (q->codes[i] > max)
            return err_set(e, ERR_FORMAT, "code %d at row %lld, column %lld does not fit %d bits", q->codes[i], (long long)(i / q->K), (long long)(i % q->K), q->bits);
    return 0;
}

int wfmt_pack(const struct qmatrix *q, struct qwords *out, struct err *e)
{
    *out = (struct qwords){0};
    int rc = check_codes(q, e);
    if (rc)
        return rc;
    const size_t bytes = (size_t)(wfmt_words(q->K, q->bits) * q->N) * sizeof(uint32_t);
    uint32_t *words = malloc(bytes ? bytes : 1);
    if (!words)
        return err_set(e, ERR_NOMEM, "no memory for %zu bytes of packed codes", bytes);
    wfmt_pack_qweight(q, words);
    *out = (struct qwords){.N = q->N, .K = q->K, .G = q->G, .bits = q->bits, .group_size = q->group_size, .words = words, .scales = q->scales, .zeros = q->zeros,
                           .g_idx = q->g_idx, .owned = words};
    return 0;
}

int wfmt_weight(struct backend *b, const struct qmatrix *q, struct weight **out, struct err *e)
{
    struct qwords words;
    *out = NULL;
    int rc = wfmt_pack(q, &words, e);
    if (!rc)
        rc = b->ops->weight_quantized(b, &words, out, e);
    qwords_free(&words);
    return rc;
}

void wfmt_pack_qzeros(const struct qmatrix *q, enum wfmt_version version, uint32_t *qzeros)
{
    const int64_t words = wfmt_words(q->N, q->bits);
    const uint32_t mask = (1u << q->bits) - 1, less = version == WFMT_V1;
    memset(qzeros, 0, (size_t)(q->G * words) * sizeof *qzeros);
    for (int64_t g = 0; g < q->G; g++)
        for (int64_t n = 0; n < q->N; n++)
            put(qzeros + g * words, 1, n, q->bits, (q->zeros[g * q->N + n] - less) & mask);
}

void wfmt_unpack_qzeros(uint8_t *zeros, int64_t G, int64_t N, int bits, enum wfmt_version version, const uint32_t *qzeros)
{
    const int64_t words = wfmt_words(N, bits);
    const uint32_t more = version == WFMT_V1;
    for (int64_t g = 0; g < G; g++)
        for (int64_t n = 0; n < N; n++)
            zeros[g * N + n] = (uint8_t)(wfmt_code(qzeros + g * words, 1, n, bits) + more);
}

void wfmt_pack_rows(const struct qmatrix *q, uint8_t *rows)
{
    const int64_t bytes = wfmt_row_bytes(q->K, q->bits);
    memset(rows, 0, (size_t)(q->N * bytes));
    for (int64_t n = 0; n < q->N; n++)
        for (int64_t k = 0; k < q->K; k++) {
            uint8_t *at = rows + n * bytes + k * q->bits / 8;
            uint32_t code = (uint32_t)q->codes[n * q->K + k] << k * q->bits % 8;
            at[0] |= (uint8_t)code;
            if (code >> 8)
                at[1] |= (uint8_t)(code >> 8);
        }
}

void wfmt_unpack_rows(struct qmatrix *q, const uint8_t *rows)
{
    const int64_t bytes = wfmt_row_bytes(q->K, q->bits);
    const uint32_t mask = (1u << q->bits) - 1;
    for (int64_t n = 0; n < q->N; n++)
        for (int64_t k = 0; k < q->K; k++) {
            const uint8_t *at = rows + n * bytes + k * q->bits / 8;
            int shift = (int)(k * q->bits % 8);
            uint32_t pair = at[0];
            if (shift + q->bits > 8)
                pair |= (uint32_t)at[1] << 8;
            q->codes[n * q->K + k] = (uint8_t)(pair >> shift & mask);
        }
}

void wfmt_dequant(const struct qwords *q, float *w)
{
    for (int64_t k0 = 0; k0 < q->K; k0 += INPUTS)
        for (int64_t n0 = 0; n0 < q->N; n0 += COLUMNS)
            for (int64_t k = k0; k < q->K && k < k0 + INPUTS; k++)
                for (int64_t n = n0; n < q->N && n < n0 + COLUMNS; n++) {
                    int64_t at = q->g_idx[k] * q->N + n;
                    w[n * q->K + k] = f16_to_f32(q->scales[at]) * (float)((int)wfmt_code(q->words + n, q->N, k, q->bits) - q->zeros[at]);
                }
}

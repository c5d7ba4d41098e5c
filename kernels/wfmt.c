#include "kernels/wfmt.h"

#include <string.h>

#include "kernels/half.h"

/* Bits i * bits .. of a stream of words that lie `stride` apart: a code may straddle two words (3 bits only). */
static uint32_t get(const uint32_t *words, int64_t stride, int64_t i, int bits)
{
    int64_t bit = i * bits, word = bit / 32;
    int shift = (int)(bit % 32);
    uint64_t pair = words[word * stride];
    if (shift + bits > 32)
        pair |= (uint64_t)words[(word + 1) * stride] << 32;
    return (uint32_t)(pair >> shift) & ((1u << bits) - 1);
}

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
    for (int64_t n = 0; n < q->N; n++)
        for (int64_t k = 0; k < q->K; k++)
            put(qweight + n, q->N, k, q->bits, q->codes[n * q->K + k]);
}

/* The eight nibbles of a word as bytes, the lowest first. */
static uint64_t nibbles(uint32_t word)
{
    uint64_t x = (word | (uint64_t)word << 16) & 0x0000ffff0000ffffu;
    x = (x | x << 8) & 0x00ff00ff00ff00ffu;
    return (x | x << 4) & 0x0f0f0f0f0f0f0f0fu;
}

/* Whole words of 4 or 8 bits. A row of words lies along n, a row of codes along k: blocks of one cache line of words by 8 rows, few enough to stay in one set of the nearest
 * cache, for K and N are often powers of 2. */
static void unpack_words(struct qmatrix *q, const uint32_t *qweight)
{
    enum { COLUMNS = 16, ROWS = 8 };
    const int64_t each = 32 / q->bits, rows = q->K / each;
    for (int64_t n0 = 0; n0 < q->N; n0 += COLUMNS)
        for (int64_t r0 = 0; r0 < rows; r0 += ROWS) {
            const int64_t n1 = n0 + COLUMNS < q->N ? n0 + COLUMNS : q->N, r1 = r0 + ROWS < rows ? r0 + ROWS : rows;
            for (int64_t n = n0; n < n1; n++)
                for (int64_t r = r0; r < r1; r++) {
                    const uint32_t word = qweight[r * q->N + n];
                    const uint64_t bytes = q->bits == 4 ? nibbles(word) : word;
                    memcpy(q->codes + n * q->K + r * each, &bytes, (size_t)each); /* x86 puts the lowest byte first, too */
                }
        }
}

void wfmt_unpack_qweight(struct qmatrix *q, const uint32_t *qweight)
{
    if ((q->bits == 4 || q->bits == 8) && q->K % (32 / q->bits) == 0) {
        unpack_words(q, qweight);
        return;
    }
    for (int64_t n = 0; n < q->N; n++)
        for (int64_t k = 0; k < q->K; k++)
            q->codes[n * q->K + k] = (uint8_t)get(qweight + n, q->N, k, q->bits);
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

void wfmt_unpack_qzeros(struct qmatrix *q, enum wfmt_version version, const uint32_t *qzeros)
{
    const int64_t words = wfmt_words(q->N, q->bits);
    const uint32_t more = version == WFMT_V1;
    for (int64_t g = 0; g < q->G; g++)
        for (int64_t n = 0; n < q->N; n++)
            q->zeros[g * q->N + n] = (uint8_t)(get(qzeros + g * words, 1, n, q->bits) + more);
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

void wfmt_dequant(const struct qmatrix *q, float *w)
{
    for (int64_t n = 0; n < q->N; n++)
        for (int64_t k = 0; k < q->K; k++) {
            int64_t at = q->g_idx[k] * q->N + n;
            w[n * q->K + k] = f16_to_f32(q->scales[at]) * (float)(q->codes[n * q->K + k] - q->zeros[at]);
        }
}

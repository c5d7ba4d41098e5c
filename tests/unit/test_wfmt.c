/* Packed formats: the worked examples of wfmt.h, round trips over ragged shapes, bits drawn independently of the packer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/wfmt.h"

static struct qmatrix matrix(int64_t N, int64_t K, int bits, int group)
{
    struct qmatrix q;
    assert_int_equal(qmatrix_alloc(&q, N, K, bits, group), 0);
    uint32_t s = 12345;
    for (int64_t i = 0; i < N * K; i++)
        q.codes[i] = (uint8_t)((s = s * 1664525u + 1013904223u) >> 24 & ((1u << bits) - 1));
    for (int64_t i = 0; i < q.G * N; i++) {
        q.zeros[i] = (uint8_t)(1 + ((s = s * 1664525u + 1013904223u) >> 16) % ((1u << bits) - 1));
        q.scales[i] = f32_to_f16((float)(s >> 20) * 0x1p-16f);
    }
    for (int64_t k = 0; k < K; k++)
        q.g_idx[k] = (int32_t)(group == -1 ? 0 : k / group);
    return q;
}

static void examples(void **state)
{
    (void)state;
    struct qmatrix q = matrix(2, 8, 4, -1);
    uint32_t words[8];
    for (int k = 0; k < 8; k++) {
        q.codes[k] = (uint8_t)(k + 1);
        q.codes[8 + k] = 15;
    }
    wfmt_pack_qweight(&q, words);
    assert_int_equal(words[0], 0x87654321);
    assert_int_equal(words[1], 0xffffffff);
    qmatrix_free(&q);

    q = matrix(8, 32, 3, -1);
    for (int k = 0; k < 32; k++)
        q.codes[k] = k % 8;
    uint32_t three[3 * 8];
    wfmt_pack_qweight(&q, three);
    assert_int_equal(three[0], 0x88fac688);
    assert_int_equal(three[8], 0xc688fac6);
    assert_int_equal(three[16], 0xfac688fa);
    qmatrix_free(&q);

    q = matrix(8, 1, 4, -1);
    memset(q.zeros, 8, 8);
    wfmt_pack_qzeros(&q, WFMT_V1, words);
    assert_int_equal(words[0], 0x77777777);
    wfmt_pack_qzeros(&q, WFMT_V2, words);
    assert_int_equal(words[0], 0x88888888);
    words[0] = 0x7ffffff0;
    wfmt_unpack_qzeros(q.zeros, 1, 8, 4, WFMT_V1, words);
    assert_int_equal(q.zeros[0], 1);
    assert_int_equal(q.zeros[1], 16);
    assert_int_equal(q.zeros[7], 8);
    q.zeros[3] = 0; /* wraps in its own field only */
    memset(q.zeros + 4, 1, 4);
    wfmt_pack_qzeros(&q, WFMT_V1, words);
    assert_int_equal(words[0], 0x0000fff0);
    qmatrix_free(&q);

    q = matrix(1, 3, 3, -1);
    uint8_t row[2];
    memcpy(q.codes, (uint8_t[]){1, 2, 3}, 3);
    assert_int_equal(wfmt_row_bytes(3, 3), 2);
    wfmt_pack_rows(&q, row);
    assert_int_equal(row[0], 0xd1);
    assert_int_equal(row[1], 0x00);
    qmatrix_free(&q);
}

static void sizes(void **state)
{
    (void)state;
    assert_int_equal(wfmt_words(172, 4), 22);
    assert_int_equal(wfmt_words(172, 8), 43);
    assert_int_equal(wfmt_words(172, 2), 11);
    assert_int_equal(wfmt_words(64, 3), 6);
    assert_int_equal(wfmt_words(172, 3), 17);
    assert_int_equal(wfmt_words(0, 3), 0);
    assert_int_equal(wfmt_row_bytes(172, 3), 65);
    assert_int_equal(wfmt_row_bytes(172, 4), 86);
}

/* One bit of code i in a stream of words, by the drawing: no arithmetic shared with the packer. */
static int stream_bit(const uint32_t *words, int64_t stride, int64_t bit)
{
    return (int)(words[bit / 32 * stride] >> bit % 32 & 1);
}

static void round_trips(void **state)
{
    (void)state;
    static const int bits[] = {2, 3, 4, 8};
    static const int64_t shapes[][2] = {{1, 1}, {3, 172}, {172, 5}, {33, 97}, {64, 64}};
    for (int b = 0; b < 4; b++)
        for (int s = 0; s < 5; s++) {
            int64_t N = shapes[s][0], K = shapes[s][1], words = wfmt_words(K, bits[b]), zwords = wfmt_words(N, bits[b]);
            struct qmatrix q = matrix(N, K, bits[b], 32), r = matrix(N, K, bits[b], 32);
            uint32_t *w = malloc((size_t)(words * N) * 4 + 4), *z = malloc((size_t)(q.G * zwords) * 4 + 4);
            uint8_t *rows = malloc((size_t)(N * wfmt_row_bytes(K, bits[b])) + 1);
            w[words * N] = z[q.G * zwords] = 0xdeadbeef;
            rows[N * wfmt_row_bytes(K, bits[b])] = 0xa5;
            wfmt_pack_qweight(&q, w);
            for (int64_t n = 0; n < N; n++)
                for (int64_t i = 0; i < words * 32; i++)
                    assert_int_equal(stream_bit(w + n, N, i), i < K * bits[b] ? q.codes[n * K + i / bits[b]] >> i % bits[b] & 1 : 0);
            for (int64_t i = 0; i < N * K; i++)
                assert_int_equal(wfmt_code(w + i / K, N, i % K, bits[b]), q.codes[i]);
            memset(r.codes, 0, (size_t)(N * K));
            wfmt_pack_rows(&q, rows);
            wfmt_unpack_rows(&r, rows);
            assert_memory_equal(q.codes, r.codes, (size_t)(N * K));
            for (int v = WFMT_V1; v <= WFMT_V2; v++) {
                memset(r.zeros, 0, (size_t)(q.G * N));
                wfmt_pack_qzeros(&q, (enum wfmt_version)v, z);
                wfmt_unpack_qzeros(r.zeros, q.G, N, bits[b], (enum wfmt_version)v, z);
                assert_memory_equal(q.zeros, r.zeros, (size_t)(q.G * N));
            }
            assert_int_equal(w[words * N], 0xdeadbeef);
            assert_int_equal(z[q.G * zwords], 0xdeadbeef);
            assert_int_equal(rows[N * wfmt_row_bytes(K, bits[b])], 0xa5);
            free(w);
            free(z);
            free(rows);
            qmatrix_free(&q);
            qmatrix_free(&r);
        }
}

static void dequant(void **state)
{
    (void)state;
    enum { N = 19, K = 50 };
    static const int bits[] = {2, 3, 4, 8};
    struct qmatrix q;
    float w[N * K];
    for (int b = 0; b < 4; b++) {
        struct qwords words;
        q = matrix(N, K, bits[b], 16);
        assert_int_equal(q.G, 4);
        assert_int_equal(wfmt_pack(&q, &words, NULL), 0);
        wfmt_dequant(&words, w);
        for (int n = 0; n < N; n++)
            for (int k = 0; k < K; k++) {
                int at = k / 16 * N + n;
                assert_true((double)w[n * K + k] == (double)f16_to_f32(q.scales[at]) * (q.codes[n * K + k] - q.zeros[at]));
            }
        qwords_free(&words);
        qmatrix_free(&q);
    }
    assert_int_equal(qmatrix_alloc(&q, INT64_MAX / 2, 4, 4, 128), -1);
    assert_int_equal(qmatrix_alloc(&q, 1, 4, 4, 0), -1);
}

/* What a quantizer made, for a backend: the tables are its own, the codes are looked at. */
static void packs(void **state)
{
    (void)state;
    struct qmatrix q = matrix(3, 40, 3, 16);
    struct qwords words;
    struct err e;
    assert_int_equal(wfmt_pack(&q, &words, &e), 0);
    assert_true(words.N == 3 && words.K == 40 && words.G == 3 && words.bits == 3 && words.group_size == 16);
    assert_true(words.scales == q.scales && words.zeros == q.zeros && words.g_idx == q.g_idx && words.owned == words.words);
    qwords_free(&words);
    assert_true(!words.owned && !words.words);
    q.codes[45] = 8;
    assert_int_equal(wfmt_pack(&q, &words, &e), -ERR_FORMAT);
    assert_string_equal(e.text, "code 8 at row 1, column 5 does not fit 3 bits");
    assert_null(words.owned);
    qmatrix_free(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(examples),
        cmocka_unit_test(sizes),
        cmocka_unit_test(round_trips),
        cmocka_unit_test(dequant),
        cmocka_unit_test(packs),
    };
    return cmocka_run_group_tests_name("wfmt", tests, NULL, NULL);
}

/* Words of a checkpoint in the CPU's panels: every code where the drawing in kernels/cpu/cpu_ops.h wants it, nothing beyond N and K, whatever the last words hold there. */
#include "tests/kernels/util.h"

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu_weight.h"

static void check_panels(const struct qmatrix *q, uint64_t *seed)
{
    struct qwords words = rnd_qwords(q, seed);
    struct weight *w;
    struct err e;
    if (cpu_weight_quantized(&words, &w, &e))
        fail_msg("%s", e.text);
    memset(words.owned, 0x5a, (size_t)(wfmt_words(q->K, q->bits) * q->N) * sizeof(uint32_t)); /* the source goes away */
    qwords_free(&words);
    assert_int_equal(w->panels, (q->N + 15) / 16);
    assert_int_equal(w->fmt, q->bits == 8 ? WFMT_W8 : WFMT_W4);
    for (int64_t n = 0; n < w->panels * 16; n++)
        for (int64_t k = 0; k < (q->bits == 8 ? q->K : (q->K + 7) / 8 * 8); k++) {
            int got, want = n < q->N && k < q->K ? q->codes[n * q->K + k] : 0;
            if (q->bits == 8)
                got = ((const uint8_t *)w->data)[(n / 16 * q->K + k) * 16 + n % 16];
            else
                got = (int)(((const uint32_t *)w->data)[(n / 16 * ((q->K + 7) / 8) + k / 8) * 16 + n % 16] >> 4 * (k % 8) & 15);
            if (got != want)
                fail_msg("%d bits, %lld x %lld: code %lld, %lld is %d, not %d", q->bits, (long long)q->N, (long long)q->K, (long long)n, (long long)k, got, want);
        }
    cpu_weight_free(w);
}

static void panels(void **state)
{
    (void)state;
    static const int bits[] = {2, 3, 4, 8};
    static const int64_t shapes[][2] = {{1, 1}, {16, 8}, {17, 33}, {33, 7}, {64, 64}, {50, 300}, {160, 1031}, {3, 1024}};
    uint64_t seed = 9;
    for (int b = 0; b < 4; b++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            struct qmatrix q = rnd_qmatrix(shapes[s][0], shapes[s][1], bits[b], 32, s % 2, &seed);
            check_panels(&q, &seed);
            qmatrix_free(&q);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(panels)};
    return cmocka_run_group_tests_name("weight", tests, NULL, NULL);
}

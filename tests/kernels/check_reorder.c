/* Weights on the emulated device, byte for byte: a checkpoint's words in the order of each class against what the host makes of the same codes, dense ones against themselves.
 * Machete's kernel does not run there; that its weights arrive is all that there is to see. The program is the emulated plug-in (Makefile), so that device memory can be read. */
#include "tests/kernels/util.h"

#include "kernels/cuda/cuda_state.h"
#include "kernels/plugin.h"

extern const struct plugin gptqpipe_cuda;

static struct rig device_new(const char *kernel)
{
    struct rig r = {.pool = pool_create(3)};
    struct parallel par = {.run = pool_run, .ctx = r.pool, .threads = 3};
    struct err e;
    if (gptqpipe_cuda.open(&(struct plugin_options){.device = 0, .kernel = kernel}, &par, &r.b, &e))
        fail_msg("%s", e.text);
    struct cuda_state *s = r.b->state;
    s->info.no_machete[0] = '\0';
    return r;
}

/* The words are overwritten as soon as they were taken. */
static struct weight *taken(const struct rig *r, const struct qmatrix *q, uint64_t *seed)
{
    struct qwords words = rnd_qwords(q, seed);
    struct weight *w;
    struct err e;
    if (r->b->ops->weight_quantized(r->b, &words, &w, &e))
        fail_msg("%s", e.text);
    memset(words.owned, 0x5a, (size_t)(wfmt_words(q->K, q->bits) * q->N) * sizeof(uint32_t));
    qwords_free(&words);
    if (cuda_settle(r->b->state, &e))
        fail_msg("%s", e.text);
    return w;
}

static void same_bytes(const struct qmatrix *q, const char *what, const void *got, const void *want, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (((const uint8_t *)got)[i] != ((const uint8_t *)want)[i])
            fail_msg("%s, %d bits, %lld x %lld, group %d: byte %zu of %zu is %02x, not %02x", what, q->bits, (long long)q->N, (long long)q->K, q->group_size, i, bytes,
                     ((const uint8_t *)got)[i], ((const uint8_t *)want)[i]);
}

/* Inputs by group, each group filled up to chunks: [pitch], -1 where there is none. */
static int32_t *simple_order(const struct qmatrix *q, int64_t pitch)
{
    int32_t *perm = malloc((size_t)pitch * sizeof *perm);
    int64_t at = 0;
    for (int64_t i = 0; i < pitch; i++)
        perm[i] = -1;
    for (int32_t g = 0; g < q->G; g++, at = pad_to(at, CHUNK_K))
        for (int64_t k = 0; k < q->K; k++)
            if (q->g_idx[k] == g)
                perm[at++] = (int32_t)k;
    assert_true(at <= pitch && pitch - at < UNIT_K);
    return perm;
}

static void check_simple(const struct rig *r, const struct qmatrix *q, uint64_t *seed)
{
    struct weight *w = taken(r, q, seed);
    const int64_t units = w->pitch / UNIT_K;
    const size_t bytes = (size_t)(pad_to(q->N, 64) * w->pitch) / (q->bits == 8 ? 1 : 2);
    uint32_t *want = calloc(1, bytes);
    int32_t *perm = simple_order(q, w->pitch);
    for (int64_t n = 0; n < q->N; n++)
        for (int64_t k = 0; k < w->pitch; k++)
            if (perm[k] >= 0) {
                const struct code_place p = q->bits == 8 ? w8_place(n, k, units) : w4_place(n, k, units);
                want[p.word] |= (uint32_t)q->codes[n * q->K + perm[k]] << p.shift;
            }
    assert_int_equal(w->fmt, q->bits == 8 ? CUDA_W8 : CUDA_W4);
    same_bytes(q, "simple", w->data, want, bytes);
    if (w->perm)
        same_bytes(q, "order of simple", w->perm, perm, (size_t)w->pitch * sizeof *perm);
    for (int64_t g = 0; g < q->G; g++)
        for (int64_t n = 0; n < q->N; n++)
            assert_int_equal(w->meta[g * pad_to(q->N, 64) + n], (uint32_t)q->scales[g * q->N + n] | (uint32_t)q->zeros[g * q->N + n] << 16);
    r->b->ops->weight_free(r->b, w);
    free(want);
    free(perm);
}

/* marlin, machete: the host's own packing, which reads codes one by one. */
static void check_packed(const struct rig *r, bool machete, const struct qmatrix *q, uint64_t *seed)
{
    struct qwords words;
    struct marlin_shape m = {0};
    struct machete_shape h = {0};
    struct err e;
    assert_int_equal(wfmt_pack(q, &words, &e), 0);
    assert_int_equal(machete ? machete_plan(&words, &h, &e) : marlin_plan(&words, &m, &e), 0);
    const size_t code_bytes = machete ? h.code_bytes : m.code_bytes, scale_bytes = machete ? h.scale_bytes : m.scale_bytes;
    const bool permuted = machete ? h.permuted : m.permuted, table = machete ? h.zero_table : m.zero_table;
    const int64_t Kx = machete ? h.Kx : m.Kx;
    uint32_t *codes = malloc(code_bytes);
    uint16_t *scales = malloc(scale_bytes), *zeros = malloc(scale_bytes);
    int32_t *perm = malloc((size_t)Kx * sizeof *perm);
    assert_int_equal(machete ? machete_pack(&words, &h, codes, scales, zeros, perm, &e) : marlin_pack(&words, &m, codes, scales, zeros, perm, &e), 0);
    qwords_free(&words);
    struct weight *w = taken(r, q, seed);
    assert_int_equal(w->fmt, machete ? CUDA_MACHETE : CUDA_MARLIN);
    same_bytes(q, w->kernel, w->data, codes, code_bytes);
    same_bytes(q, "scales", w->meta, scales, scale_bytes);
    assert_true(!w->zeros == !table && !w->perm == !permuted);
    if (table)
        same_bytes(q, "zeros", w->zeros, zeros, scale_bytes);
    for (int64_t i = 0; permuted && i < w->pitch; i++)
        assert_int_equal(w->perm[i], i < Kx ? perm[i] : -1);
    r->b->ops->weight_free(r->b, w);
    free(codes);
    free(scales);
    free(zeros);
    free(perm);
}

static void quantized(void **state)
{
    (void)state;
    /* the last two: words in pieces, more of them than page-locked memory holds at a time */
    static const struct {
        int64_t N, K;
        int bits, group;
        bool scattered;
    } cases[] = {{1, 1, 4, -1, false},    {16, 128, 4, 128, false}, {64, 128, 8, 64, false},  {130, 256, 4, 32, false},  {33, 172, 8, 32, false},  {129, 321, 4, 128, false},
                 {65, 300, 4, 64, true},  {40, 40, 4, 32, true},  {257, 191, 8, 128, true}, {100, 1000, 4, 32, true}, {17, 33, 2, 32, false},    {49, 130, 3, 32, false},  {80, 97, 3, 20, true},
                 {40, 300, 2, 96, false}, {31, 200, 4, 40, false},  {31, 200, 8, 40, false},  {9000, 4095, 4, 64, true}, {4200, 4096, 8, 128, false}};
    static const char *const kernels[] = {"simple", "marlin", "machete"};
    for (int c = 0; c < 3; c++) {
        struct rig r = device_new(kernels[c]);
        uint64_t seed = 3;
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            if (c && (cases[i].bits < 4 || cases[i].group % 32 || cases[i].group == 96))
                continue; /* only simple takes those */
            struct qmatrix q = rnd_qmatrix(cases[i].N, cases[i].K, cases[i].bits, cases[i].group, cases[i].scattered, &seed);
            if (c)
                check_packed(&r, c == 2, &q, &seed);
            else
                check_simple(&r, &q, &seed);
            qmatrix_free(&q);
        }
        rig_free(&r);
    }
}

/* Rows with a gap behind them, rows without, a row that is longer than what is sent at a time. */
static void dense(void **state)
{
    (void)state;
    static const struct {
        enum dtype dtype;
        int64_t N, K;
    } cases[] = {{DT_F32, 3, 5}, {DT_F32, 3001, 1000}, {DT_BF16, 5000, 1024}, {DT_F32, 3, 1500001}, {DT_F16, 70001, 100}};
    struct rig r = device_new("auto");
    uint64_t seed = 4;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int64_t N = cases[i].N, K = cases[i].K;
        const size_t item = dtype_bytes(cases[i].dtype), width = (size_t)K * item, pitch = (size_t)pad_to(K, CHUNK_K) * item;
        uint8_t *source = malloc((size_t)N * width), *copy = malloc((size_t)N * width);
        for (size_t b = 0; b < (size_t)N * width; b++)
            source[b] = copy[b] = (uint8_t)rnd(&seed);
        struct tensor_view t = {.dtype = cases[i].dtype, .rows = N, .cols = K, .data = source};
        struct weight *w;
        struct err e;
        if (r.b->ops->weight_dense(r.b, &t, &w, &e))
            fail_msg("%s", e.text);
        memset(source, 0x5a, (size_t)N * width);
        free(source);
        assert_int_equal(cuda_settle(r.b->state, &e), 0);
        for (int64_t n = 0; n < N; n++) {
            const uint8_t *row = (const uint8_t *)w->data + (size_t)n * pitch;
            if (memcmp(row, copy + (size_t)n * width, width))
                fail_msg("%s %lld x %lld: row %lld", dtype_name(t.dtype), (long long)N, (long long)K, (long long)n);
            for (size_t b = width; b < pitch; b++)
                assert_int_equal(row[b], 0);
        }
        r.b->ops->weight_free(r.b, w);
        free(copy);
    }
    rig_free(&r);
}

/* Weights are on their way until a product wants one; the memory that they passed through is free then. */
static void settled(void **state)
{
    (void)state;
    enum { N = 40, K = 64 };
    struct rig r = device_new("marlin");
    struct cuda_state *s = r.b->state;
    uint64_t seed = 5;
    struct qmatrix q = rnd_qmatrix(N, K, 4, 32, false, &seed);
    struct qwords words = rnd_qwords(&q, &seed);
    struct weight *w;
    void *x, *y;
    struct err e;
    words.K = 0;
    assert_int_equal(r.b->ops->weight_quantized(r.b, &words, &w, &e), -ERR_SHAPE);
    assert_string_equal(e.text, "a quantized matrix of 40 x 0");
    words.K = K;
    assert_int_equal(r.b->ops->weight_quantized(r.b, &words, &w, &e), 0);
    assert_true(s->sent && s->words.p);
    assert_int_equal(r.b->ops->alloc(r.b, K * sizeof(float), &x, &e), 0);
    assert_int_equal(r.b->ops->alloc(r.b, N * sizeof(float), &y, &e), 0);
    assert_int_equal(r.b->ops->linear(r.b, y, N, x, K, 1, w, NULL, false, &e), 0);
    assert_true(!s->sent && !s->words.p && !s->words.bytes);
    r.b->ops->weight_free(r.b, w);
    r.b->ops->free(r.b, x);
    r.b->ops->free(r.b, y);
    qwords_free(&words);
    qmatrix_free(&q);
    rig_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(quantized), cmocka_unit_test(dense), cmocka_unit_test(settled)};
    return cmocka_run_group_tests_name("reorder", tests, NULL, NULL);
}

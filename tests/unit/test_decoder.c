#include "tests/unit/lm_book.h"

#include "kernels/half.h"

static struct err err;

/* Logits of every position of ids, fed in chunks of the given lengths (the last one repeated), host memory of the caller. */
static void forward(struct lm *lm, const int32_t *ids, int64_t n, const int64_t *chunks, size_t chunk_count, float *logits)
{
    const struct config *c = &lm->m.config;
    struct kv_cache *kv;
    float *hidden = malloc((size_t)(n * c->hidden) * sizeof *hidden);
    OK(decoder_kv_create(lm->d, n, &kv, &err));
    for (int64_t at = 0, i = 0; at < n; i++) {
        int64_t rows = chunks[i < (int64_t)chunk_count ? i : (int64_t)chunk_count - 1];
        rows = rows < n - at ? rows : n - at;
        const struct attn_segment segment = {kv, 0, rows, at};
        OK(decoder_forward(lm->d, ids + at, rows, &segment, 1, hidden, &err));
        OK(decoder_logits(lm->d, hidden, rows, logits + at * c->vocab_size, &err));
        at += rows;
    }
    lm->b->ops->kv_free(lm->b, kv);
    free(hidden);
}

static void forward_whole(struct lm *lm, const int32_t *ids, int64_t n, float *logits)
{
    forward(lm, ids, n, &n, 1, logits);
}

static float *logits_alloc(const struct lm *lm, int64_t n)
{
    return malloc((size_t)(n * lm->m.config.vocab_size) * sizeof(float));
}

static double log_sum(const double *x, int64_t V)
{
    double max = x[0], sum = 0;
    for (int64_t i = 0; i < V; i++)
        max = x[i] > max ? x[i] : max;
    for (int64_t i = 0; i < V; i++)
        sum += exp(x[i] - max);
    return max + log(sum);
}

/* Largest difference of the last position's logits, or log-probabilities, over all cases. */
static double worst(const char *model, const char *expected, bool probabilities)
{
    struct lm lm;
    json_t *root, *cases = json_cases(expected, &root), *one;
    size_t i;
    double most = 0;
    lm_open(&lm, model);
    int64_t V = lm.m.config.vocab_size;
    double *want = malloc((size_t)V * sizeof *want), *got = malloc((size_t)V * sizeof *got);
    json_array_foreach(cases, i, one)
    {
        int32_t ids[MAX_IDS];
        int64_t n = (int64_t)json_ids(json_object_get(one, "ids"), ids, MAX_IDS);
        const json_t *last = json_object_get(one, "last_logits");
        assert_int_equal(json_array_size(last), V);
        float *logits = logits_alloc(&lm, n);
        forward_whole(&lm, ids, n, logits);
        for (int64_t k = 0; k < V; k++) {
            want[k] = json_number_value(json_array_get(last, (size_t)k));
            got[k] = logits[(n - 1) * V + k];
        }
        double shift = probabilities ? log_sum(got, V) - log_sum(want, V) : 0;
        for (int64_t k = 0; k < V; k++)
            most = fmax(most, fabs(got[k] - want[k] - shift));
        free(logits);
    }
    free(want);
    free(got);
    json_decref(root);
    lm_close(&lm);
    print_message("%s: largest difference %.3g\n", model, most);
    return most;
}

static void test_quickstart(void **state)
{
    (void)state;
    NEED_FILE("tests/vectors/quickstart_logits.json");
    assert_true(worst("manifests/quickstart/model", "tests/vectors/quickstart_logits.json", false) < 1e-3);
    assert_true(worst("tests/vectors/quickstart-w4g128", "tests/vectors/quickstart-w4g128/expected.json", true) < 2e-3);
}

static void test_shared_models(void **state)
{
    (void)state;
    static const char *const all[][2] = {
        {"TinyStories-656K",         "TinyStories-656K"},
        {"TinyStories-656K-sharded", "TinyStories-656K"},
        {"stories260K",              "stories260K"     },
        {"qwen3-tiny",               "qwen3-tiny"      }
    };
    NEED_SHARED(root, "golden/logits");
    (void)root;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char model[1024], name[128];
        snprintf(name, sizeof name, "models/%s", all[i][0]);
        snprintf(model, sizeof model, "%s", shared_path(name));
        snprintf(name, sizeof name, "golden/logits/%s.json", all[i][1]);
        assert_true(worst(model, shared_path(name), false) < 1e-3);
    }
}

static void test_shared_gptq(void **state)
{
    (void)state;
    static const char *const all[] = {"TinyStories-656K-w4g128",
                                      "TinyStories-656K-w8g128",
                                      "TinyStories-656K-w4chan",
                                      "TinyStories-656K-w4dyn",
                                      "TinyStories-656K-w4g128asymact",
                                      "TinyStories-656K-w4g128v2",
                                      "TinyStories-656K-w4g32best",
                                      "qwen3-tiny-w4dyn",
                                      "qwen3-tiny-w4g128",
                                      "stories260K-w4g128best",
                                      "stories260K-w4g32"};
    NEED_SHARED(root, "golden/gptq");
    (void)root;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char model[1024], name[128];
        snprintf(name, sizeof name, "golden/gptq/%s", all[i]);
        snprintf(model, sizeof model, "%s", shared_path(name));
        snprintf(name, sizeof name, "golden/gptq/%s/expected.json", all[i]);
        assert_true(worst(model, shared_path(name), true) < 2e-3);
    }
}

/* Sequences of unequal lengths and positions, fed together in uneven chunks: segment s of a step takes a share that differs by s. */
static void forward_batch(struct lm *lm, int32_t ids[][MAX_IDS], const int64_t *n, size_t count, float **logits)
{
    const struct config *c = &lm->m.config;
    struct kv_cache *kv[8];
    int64_t at[8] = {0};
    float *hidden = malloc((size_t)(8 * MAX_IDS * c->hidden) * sizeof *hidden);
    for (size_t s = 0; s < count; s++)
        OK(decoder_kv_create(lm->d, n[s], &kv[s], &err));
    for (int step = 0;; step++) {
        struct attn_segment segments[8];
        int32_t fed[8 * MAX_IDS];
        size_t used = 0, owner[8];
        int64_t rows = 0;
        for (size_t s = 0; s < count; s++) {
            int64_t take = (step * 5 + (int)s * 3) % 17 + 1;
            take = take < n[s] - at[s] ? take : n[s] - at[s];
            if (!take)
                continue;
            memcpy(fed + rows, ids[s] + at[s], (size_t)take * sizeof *fed);
            owner[used] = s;
            segments[used++] = (struct attn_segment){kv[s], rows, take, at[s]};
            rows += take;
        }
        if (!used)
            break;
        OK(decoder_forward(lm->d, fed, rows, segments, used, hidden, &err));
        for (size_t u = 0; u < used; u++) {
            const struct attn_segment *g = &segments[u];
            OK(decoder_logits(lm->d, hidden + g->row * c->hidden, g->rows, logits[owner[u]] + g->pos * c->vocab_size, &err));
            at[owner[u]] += g->rows;
        }
    }
    for (size_t s = 0; s < count; s++)
        lm->b->ops->kv_free(lm->b, kv[s]);
    free(hidden);
}

static void same_bits(const struct lm *lm, const float *a, const float *b, int64_t n, const char *what)
{
    int64_t V = lm->m.config.vocab_size;
    for (int64_t i = 0; i < n * V; i++) {
        if (f32_bits(a[i]) != f32_bits(b[i]))
            fail_msg("%s: position %d, id %d: %.9g and %.9g", what, (int)(i / V), (int)(i % V), (double)a[i], (double)b[i]);
    }
}

/* A position's logits are the same bits whole, in chunks, step by step, inside a batch, for other threads and another ISA. */
static void check_bits(const char *model)
{
    enum { COUNT = 4 };
    static const int64_t n[COUNT] = {70, 1, 33, 51}, one = 1, uneven[] = {7, 1, 30, 2, 64};
    static int32_t ids[COUNT][MAX_IDS];
    struct lm lm, other;
    float *whole[COUNT], *mixed[COUNT], *again;
    lm_open(&lm, model);
    for (int s = 0; s < COUNT; s++) {
        whole[s] = logits_alloc(&lm, n[s]);
        mixed[s] = logits_alloc(&lm, n[s]);
        fill_ids(ids[s], n[s], lm.m.config.vocab_size, (uint32_t)s);
        forward_whole(&lm, ids[s], n[s], whole[s]);
    }
    again = logits_alloc(&lm, n[0]);
    forward(&lm, ids[0], n[0], uneven, 5, again);
    same_bits(&lm, whole[0], again, n[0], "chunks");
    forward(&lm, ids[0], n[0], &one, 1, again);
    same_bits(&lm, whole[0], again, n[0], "step by step");
    forward_batch(&lm, ids, n, COUNT, mixed);
    for (int s = 0; s < COUNT; s++)
        same_bits(&lm, whole[s], mixed[s], n[s], "batch");
    for (int isa = ISA_SCALAR; isa <= (int)isa_best(); isa++) {
        lm_open_isa(&other, model, (enum isa)isa, 3);
        forward_whole(&other, ids[2], n[2], again);
        same_bits(&lm, whole[2], again, n[2], isa_name((enum isa)isa));
        lm_close(&other);
    }
    for (int s = 0; s < COUNT; s++) {
        free(whole[s]);
        free(mixed[s]);
    }
    free(again);
    lm_close(&lm);
}

static void test_same_bits(void **state)
{
    (void)state;
    NEED_FILE("manifests/quickstart/model/config.json");
    check_bits("manifests/quickstart/model");
    check_bits("tests/vectors/quickstart-w4g128");
    static const char *const all[] = {"models/stories260K", "models/qwen3-tiny", "golden/gptq/TinyStories-656K-w4g128asymact"};
    NEED_SHARED(root, "golden/gptq");
    (void)root;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char model[1024];
        snprintf(model, sizeof model, "%s", shared_path(all[i]));
        check_bits(model);
    }
}

/* Models of random weights against the textbook in f64, one for each rule that the stored models do not use. */

static void check_random(const char *arch, int head_dim, const char *extra)
{
    enum { T = 40 };
    struct lm lm;
    int32_t ids[T];
    random_model(arch, head_dim, extra);
    lm_open(&lm, test_dir);
    const struct config *c = &lm.m.config;
    fill_ids(ids, T, c->vocab_size, 9);
    double *x = calloc((size_t)(T * c->hidden), sizeof *x), *want = calloc((size_t)(T * c->vocab_size), sizeof *want), most = 0;
    float *table = malloc((size_t)(c->vocab_size * c->hidden) * sizeof *table), *got = logits_alloc(&lm, T);
    OK(st_copy_f32(&lm.m.tensors, st_find(&lm.m.tensors, "model.embed_tokens.weight"), table, &err));
    for (int64_t i = 0; i < T * c->hidden; i++)
        x[i] = table[ids[i / c->hidden] * c->hidden + i % c->hidden];
    for (int64_t l = 0; l < c->layers; l++)
        book_layer(&lm.m, l, x, T);
    book_norm(&lm.m, "model.norm.weight", x, x, T, c->hidden);
    book_linear(&lm.m, -1, MOD_COUNT, x, want, T);
    forward_whole(&lm, ids, T, got);
    for (int64_t i = 0; i < T * c->vocab_size; i++)
        most = fmax(most, fabs(got[i] - want[i]));
    print_message("%s%s: largest difference %.3g\n", arch, extra, most);
    assert_true(most < 1e-4);
    free(x);
    free(want);
    free(table);
    free(got);
    lm_close(&lm);
    dir_remove();
}

static void test_textbook(void **state)
{
    (void)state;
    check_random("LlamaForCausalLM", 8, "");
    check_random("LlamaForCausalLM", 8, ",\"attention_bias\":true,\"mlp_bias\":true,\"tie_word_embeddings\":true");
    check_random(
        "LlamaForCausalLM", 12,
        ",\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"
        "\"original_max_position_embeddings\":64}");
    check_random("LlamaForCausalLM", 8, ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}");
    check_random("MistralForCausalLM", 8, ",\"sliding_window\":7");
    check_random("Qwen2ForCausalLM", 8, "");
    check_random("Qwen2ForCausalLM", 8,
                 ",\"use_sliding_window\":true,\"sliding_window\":5,\"max_window_layers\":1,\"tie_word_embeddings\":true");
    check_random("Qwen3ForCausalLM", 16, "");
    check_random("Qwen3ForCausalLM", 16, ",\"attention_bias\":true");
}

static void test_refusals(void **state)
{
    (void)state;
    struct lm lm;
    struct decoder *d;
    struct kv_cache *kv;
    random_model("LlamaForCausalLM", 8, "");
    lm_open(&lm, test_dir);
    FAILS(decoder_open(&d, lm.b, &lm.m, 257, &err), ERR_USAGE, "257 positions; the model's context is 256");
    float hidden[4 * 48];
    int32_t ids[4] = {1, 66, 67, 0};
    OK(decoder_kv_create(lm.d, 4, &kv, &err));
    struct attn_segment segment = {kv, 0, 4, 0};
    FAILS(decoder_forward(lm.d, ids, 4, &segment, 1, hidden, &err), ERR_DATA, "id 67 is outside the model's vocabulary of 67");
    segment = (struct attn_segment){kv, 0, 2, 255};
    FAILS(decoder_forward(lm.d, ids, 2, &segment, 1, hidden, &err), ERR_USAGE, "positions 255..256 of a sequence; there are 256");
    lm.b->ops->kv_free(lm.b, kv);
    lm_close(&lm);
    dir_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quickstart), cmocka_unit_test(test_shared_models), cmocka_unit_test(test_shared_gptq),
        cmocka_unit_test(test_same_bits),  cmocka_unit_test(test_textbook),      cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

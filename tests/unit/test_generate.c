#include "tests/unit/lm_model.h"

#include <math.h>

#include "stages/lm/generate.h"

static struct err err;

enum { MAX_IDS = 512 };
static const char quickstart[] = "manifests/quickstart/model";

/* Greedy ids of every case against those expected, generated as one batch. Where an id differs the two best must be closer than the bound
 * on logits. */
static void check_greedy(const char *model, const char *expected)
{
    struct lm lm;
    json_t *root, *cases = json_cases(expected, &root);
    size_t n = json_array_size(cases), compared = 0;
    static int32_t prompts[16][MAX_IDS], want[16][MAX_IDS];
    struct generation g[16] = {0};
    assert_true(n <= 16);
    lm_open(&lm, model);
    for (size_t i = 0; i < n; i++) {
        json_t *one = json_array_get(cases, i);
        g[i].prompt_count = json_ids(json_object_get(one, "ids"), prompts[i], MAX_IDS);
        g[i].prompt = prompts[i];
        json_ids(json_object_get(one, "greedy_ids"), want[i], MAX_IDS);
    }
    const struct generate_params p = {
        .sampling = {0, 1, 0},
          .max_tokens = 30, .logprobs = 2
    };
    OK(generate(lm.d, g, n, &p, NULL, NULL, &err));
    for (size_t i = 0; i < n; i++) {
        size_t total = json_array_size(json_object_get(json_array_get(cases, i), "greedy_ids")), made = total - g[i].prompt_count;
        for (size_t k = 0; k < g[i].count && k < made; k++, compared++) {
            const struct generated_token *t = &g[i].tokens[k];
            assert_int_equal(t->id, t->top[0].id);
            if (t->id == want[i][g[i].prompt_count + k])
                continue;
            if (t->top[0].logprob - t->top[1].logprob > 2e-3)
                fail_msg("%s, case %d, token %d: %d, expected %d", model, (int)i, (int)k, t->id, want[i][g[i].prompt_count + k]);
            break;
        }
        generation_release(&g[i]);
    }
    assert_true(compared >= 20 * n);
    json_decref(root);
    lm_close(&lm);
}

static void test_greedy(void **state)
{
    (void)state;
    NEED_FILE("tests/vectors/quickstart_logits.json");
    check_greedy(quickstart, "tests/vectors/quickstart_logits.json");
    check_greedy("tests/vectors/quickstart-w4g128", "tests/vectors/quickstart-w4g128/expected.json");
    static const char *const all[][2] = {
        {"models/TinyStories-656K",       "golden/logits/TinyStories-656K.json"        },
        {"models/stories260K",            "golden/logits/stories260K.json"             },
        {"models/qwen3-tiny",             "golden/logits/qwen3-tiny.json"              },
        {"golden/gptq/stories260K-w4g32", "golden/gptq/stories260K-w4g32/expected.json"},
        {"golden/gptq/qwen3-tiny-w4dyn",  "golden/gptq/qwen3-tiny-w4dyn/expected.json" }
    };
    NEED_SHARED(root, "golden/gptq");
    (void)root;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char model[1024];
        snprintf(model, sizeof model, "%s", shared_path(all[i][0]));
        check_greedy(model, shared_path(all[i][1]));
    }
}

static void fill(int32_t *ids, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        ids[i] = (int32_t)((seed >> 8) % 1000);
    }
}

/* 40 prompts (more than are live at a time) of unequal lengths, sampled: each gives the tokens that it gives alone. */
static void test_batch_independent(void **state)
{
    (void)state;
    NEED_FILE("manifests/quickstart/model/config.json");
    enum { N = 40 };
    static int32_t prompts[N][MAX_IDS];
    struct generation g[N] = {0};
    struct lm lm;
    const struct generate_params p = {
        .sampling = {0.9, 0.95, 11},
          .max_tokens = 12, .ignore_eos = true, .logprobs = 3
    };
    lm_open(&lm, quickstart);
    for (int i = 0; i < N; i++) {
        g[i].prompt_count = (size_t)(i * 37 % 90 + 1);
        fill(prompts[i], g[i].prompt_count, (uint32_t)i);
        g[i].prompt = prompts[i];
        g[i].index = (uint64_t)(i % 4); /* some share a counter: same prompt and counter, same tokens */
    }
    OK(generate(lm.d, g, N, &p, NULL, NULL, &err));
    for (int i = 0; i < N; i += 3) {
        struct generation alone = {.prompt = g[i].prompt, .prompt_count = g[i].prompt_count, .index = g[i].index};
        OK(generate(lm.d, &alone, 1, &p, NULL, NULL, &err));
        assert_int_equal(alone.count, 12);
        assert_int_equal(g[i].count, 12);
        assert_int_equal(g[i].finish, FINISH_LENGTH);
        for (int k = 0; k < 12; k++) {
            assert_int_equal(alone.tokens[k].id, g[i].tokens[k].id);
            assert_memory_equal(&alone.tokens[k].logprob, &g[i].tokens[k].logprob, sizeof(double));
            assert_true(alone.tokens[k].logprob <= alone.tokens[k].top[0].logprob);
        }
        generation_release(&alone);
    }
    for (int i = 0; i < N; i++)
        generation_release(&g[i]);
    lm_close(&lm);
}

/* A device with memory for so many positions of one step. */
static int (*plenty)(struct backend *b, const struct attn_args *a, struct err *e);
static int64_t positions_most;
static int refusals;

static int short_attention(struct backend *b, const struct attn_args *a, struct err *e)
{
    int64_t positions = 0;
    for (size_t i = 0; i < a->segment_count; i++)
        positions += a->segments[i].pos + a->segments[i].rows;
    if (a->layer == 0 && positions > positions_most) {
        refusals++;
        return err_set(e, ERR_NOMEM, "no memory for %d positions", (int)positions);
    }
    return plenty(b, a, e);
}

/* And one with memory for the logits' product of so many rows. */
static int (*whole_linear)(struct backend *b, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const struct weight *w, const float *bias, bool accumulate,
                           struct err *e);
static int64_t vocab, logits_most;

static int short_linear(struct backend *b, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const struct weight *w, const float *bias, bool accumulate,
                        struct err *e)
{
    if (ldy == vocab && M > logits_most) {
        refusals++;
        return err_set(e, ERR_NOMEM, "no memory for %d rows of logits", (int)M);
    }
    return whole_linear(b, y, ldy, x, ldx, M, w, bias, accumulate, e);
}

/* Memory that runs out on the way: the youngest give way and go on later, and no token is another. When even one does not fit, that is the error. */
static void test_short_of_memory(void **state)
{
    (void)state;
    enum { N = 6 };
    struct lm lm;
    static int32_t prompts[N][40];
    static const size_t lengths[N] = {40, 3, 17, 1, 25, 30};
    const struct generate_params p = {
        .sampling = {0.9, 1, 7},
          .max_tokens = 24, .logprobs = 2, .ignore_eos = true
    };
    struct generation g[3][N]; /* with plenty; short of room for keys and values; for logits */
    lm_open(&lm, quickstart);
    vocab = decoder_config(lm.d)->vocab_size;
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < N; i++) {
            fill(prompts[i], lengths[i], (uint32_t)i);
            g[round][i] = (struct generation){.prompt = prompts[i], .prompt_count = lengths[i], .index = i};
        }
        struct backend_ops ops = *lm.b->ops;
        const struct backend_ops *whole = lm.b->ops;
        plenty = ops.attention;
        whole_linear = ops.linear;
        ops.attention = short_attention;
        ops.linear = short_linear;
        positions_most = round == 1 ? 110 : 1 << 20;
        logits_most = round == 2 ? 2 : N;
        refusals = 0;
        lm.b->ops = &ops;
        OK(generate(lm.d, g[round], N, &p, NULL, NULL, &err));
        assert_true(round ? refusals > 3 : refusals == 0);
        if (round == 1) {
            struct generation alone = {.prompt = prompts[0], .prompt_count = 40};
            positions_most = 50;
            assert_int_equal(generate(lm.d, &alone, 1, &p, NULL, NULL, &err), -ERR_NOMEM);
            assert_string_equal(err.text, "layer 0: no memory for 51 positions");
            generation_release(&alone);
        }
        lm.b->ops = whole;
    }
    for (size_t i = 0; i < N; i++) {
        for (int round = 0; round < 3; round++) {
            assert_int_equal(g[round][i].count, 24);
            assert_int_equal(g[round][i].finish, FINISH_LENGTH);
            for (size_t k = 0; k < 24; k++) {
                assert_int_equal(g[0][i].tokens[k].id, g[round][i].tokens[k].id);
                assert_memory_equal(&g[0][i].tokens[k].logprob, &g[round][i].tokens[k].logprob, sizeof(double));
            }
        }
        for (int round = 0; round < 3; round++)
            generation_release(&g[round][i]);
    }
    lm_close(&lm);
}

/* A device that counts what comes down from it, keeps the numbers it was given to draw by, and has memory for so many rows of one draw. */
static int (*whole_download)(struct backend *b, void *to, const void *from, size_t bytes, struct err *e);
static int (*whole_sample)(struct backend *b, const float *logits, int64_t M, int64_t V, const struct sample_row *rows, int32_t *ids, struct err *e);
static size_t downloaded, sampled;
static double drawn[64];
static int64_t draws_most;

static int counting_download(struct backend *b, void *to, const void *from, size_t bytes, struct err *e)
{
    downloaded += bytes;
    return whole_download(b, to, from, bytes, e);
}

static int short_sample(struct backend *b, const float *logits, int64_t M, int64_t V, const struct sample_row *rows, int32_t *ids, struct err *e)
{
    if (M > draws_most) {
        refusals++;
        return err_set(e, ERR_NOMEM, "no memory for %d draws", (int)M);
    }
    for (int64_t m = 0; m < M; m++) {
        assert_true(sampled < 64);
        drawn[sampled++] = rows[m].u;
    }
    return whole_sample(b, logits, M, V, rows, ids, e);
}

/* The same ids with log-probabilities, for which alone logits come to the host, a row a token; without; and where memory for draws runs short. One prompt takes two steps. */
static void test_downloads(void **state)
{
    (void)state;
    NEED_FILE("manifests/quickstart/model/config.json");
    enum { N = 5 };
    struct lm lm;
    static int32_t prompts[N][MAX_IDS];
    static const size_t lengths[N] = {300, 4, 400, 1, 9};
    struct generation g[3][N];
    lm_open(&lm, quickstart);
    struct backend_ops ops = *lm.b->ops;
    const struct backend_ops *whole = lm.b->ops;
    whole_download = ops.download;
    whole_sample = ops.sample;
    ops.download = counting_download;
    ops.sample = short_sample;
    lm.b->ops = &ops;
    for (int round = 0; round < 3; round++) {
        const struct generate_params p = {
            .sampling = {0.8, 0.95, 3},
              .max_tokens = 9, .logprobs = round == 1 ? 1 : 0, .ignore_eos = true
        };
        for (size_t i = 0; i < N; i++) {
            fill(prompts[i], lengths[i], (uint32_t)i);
            g[round][i] = (struct generation){.prompt = prompts[i], .prompt_count = lengths[i], .index = i};
        }
        downloaded = sampled = 0;
        refusals = 0;
        draws_most = round == 2 ? 2 : N;
        OK(generate(lm.d, g[round], N, &p, NULL, NULL, &err));
        assert_int_equal(sampled, 9 * N);
        assert_int_equal(downloaded, round == 1 ? 9 * N * (size_t)decoder_config(lm.d)->vocab_size * sizeof(float) : 0);
        assert_true(round == 2 ? refusals > 0 : refusals == 0);
        for (size_t i = 0; i < N; i++)
            for (size_t k = 0; k < 9; k++) {
                size_t times = 0;
                assert_int_equal(g[0][i].tokens[k].id, g[round][i].tokens[k].id);
                for (size_t n = 0; n < sampled; n++)
                    times += drawn[n] == sampler_uniform(3, i, k);
                assert_int_equal(times, 1); /* the number of this prompt and step */
            }
    }
    for (size_t i = 0; i < N; i++)
        for (int round = 0; round < 3; round++)
            generation_release(&g[round][i]);
    lm.b->ops = whole;
    lm_close(&lm);
}

static int count_tokens(void *arg, size_t prompt, int32_t id)
{
    int *left = arg;
    assert_true(prompt < 2 && id >= 0);
    return --*left == 0;
}

static void test_ends(void **state)
{
    (void)state;
    NEED_FILE("manifests/quickstart/model/config.json");
    struct lm lm;
    static int32_t ids[MAX_IDS + 1];
    struct generation g[2] = {
        {.prompt = ids, .prompt_count = 510},
        {.prompt = ids, .prompt_count = 3  }
    };
    struct generate_params p = {
        .sampling = {0, 1, 0},
          .max_tokens = 20, .ignore_eos = true
    };
    lm_open(&lm, quickstart);
    fill(ids, MAX_IDS + 1, 5);
    OK(generate(lm.d, g, 2, &p, NULL, NULL, &err));
    assert_int_equal(g[0].count, 3); /* positions 510, 511, and one that needs none */
    assert_string_equal(finish_name(g[0].finish), "context");
    assert_int_equal(g[1].count, 20);
    assert_string_equal(finish_name(g[1].finish), "length");
    assert_null(g[1].tokens[0].top);
    generation_release(&g[0]);

    lm.m.config.eos[0] = g[1].tokens[4].id; /* an id that is known to come makes the EOS */
    lm.m.config.eos_count = 1;
    size_t first = 0;
    while (g[1].tokens[first].id != lm.m.config.eos[0])
        first++;
    generation_release(&g[1]);
    p.ignore_eos = false;
    OK(generate(lm.d, g + 1, 1, &p, NULL, NULL, &err));
    assert_int_equal(g[1].count, first + 1);
    assert_int_equal(g[1].tokens[first].id, lm.m.config.eos[0]);
    assert_string_equal(finish_name(g[1].finish), "stop");
    generation_release(&g[1]);

    p = (struct generate_params){.max_tokens = 0};
    OK(generate(lm.d, g + 1, 1, &p, NULL, NULL, &err));
    assert_int_equal(g[1].count, 0);
    int left = 5;
    p.max_tokens = 20;
    p.ignore_eos = true;
    FAILS(generate(lm.d, g, 2, &p, count_tokens, &left, &err), ERR_CANCELLED, "generation was stopped");
    generation_release(&g[0]);
    generation_release(&g[1]);
    g[0].prompt_count = 513;
    FAILS(generate(lm.d, g, 2, &p, NULL, NULL, &err), ERR_DATA, "prompt 0 has 513 ids; the context holds 512");
    g[0].prompt_count = 0;
    FAILS(generate(lm.d, g, 2, &p, NULL, NULL, &err), ERR_DATA, "prompt 0 is empty");
    lm_close(&lm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_greedy), cmocka_unit_test(test_batch_independent), cmocka_unit_test(test_short_of_memory),
                                       cmocka_unit_test(test_downloads), cmocka_unit_test(test_ends)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

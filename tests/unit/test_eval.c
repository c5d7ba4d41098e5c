#include "tests/unit/lm_model.h"

#include <math.h>

#include "stages/lm/windows.h"

static struct err err;

static int evaluate(const struct lm *lm, const struct lm *ref, const struct eval_window *w, size_t n, struct eval_result *out)
{
    const struct eval_input in = {.b = lm->b, .model = &lm->m, .reference = ref ? &ref->m : NULL, .windows = w, .count = n, .scratch = "/tmp"};
    return eval_run(&in, out, &err);
}

static void make_windows(struct windows *w, const struct config *c, const char *tokenizer, const char *text, int64_t window)
{
    struct tok *tok;
    struct fileset files = FILESET_INIT;
    struct dataset *data;
    OK(tok_load_file(tokenizer, &tok, &err));
    OK(fileset_from_path(&files, text, &err));
    OK(dataset_open(&files, NULL, &data, &err));
    OK(windows_make(w, &(struct windows_params){UNIT_DOCUMENT, window, 0, true, 0}, c, tok, data, &err));
    dataset_close(data);
    fileset_release(&files);
    tok_free(tok);
}

/* Perplexity over documents against the float64 figure, every document's too. */
static void check_perplexity(const char *model, const char *expected, const char *text, int64_t window)
{
    struct lm lm;
    struct windows w;
    struct eval_result all;
    char tokenizer[1100];
    json_t *root, *stories, *each;
    json_cases(expected, &root);
    stories = json_object_get(root, "ppl_stories");
    each = json_object_get(stories, "per_story_len_nll");
    lm_open_model(&lm, model);
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.json", model);
    make_windows(&w, &lm.m.config, tokenizer, text, window);
    OK(evaluate(&lm, NULL, w.w, w.count, &all));
    double want = json_number_value(json_object_get(stories, "ppl")), got = exp(all.nll / (double)all.tokens);
    print_message("%s: perplexity %.6f, expected %.6f\n", model, got, want);
    assert_int_equal(all.tokens, json_integer_value(json_object_get(stories, "tokens")));
    assert_true(fabs(got - want) <= 1e-4 * want);
    assert_true(!all.has_ref && all.kl == 0 && all.nll_ref == 0);
    /* One window at a time: what a document scores does not depend on its batch, and the sum is the same to the bit. */
    double sum = 0;
    for (size_t i = 0; i < w.count; i++) {
        struct eval_result one;
        OK(evaluate(&lm, NULL, w.w + i, 1, &one));
        const json_t *story = json_array_get(each, i);
        assert_int_equal(one.tokens + 1, json_integer_value(json_array_get(story, 0)));
        assert_true(fabs(one.nll / (double)one.tokens - json_number_value(json_array_get(story, 1))) < 1e-4);
        sum += one.nll;
    }
    assert_true(fabs(sum - all.nll) <= 1e-12 * all.nll);
    windows_release(&w);
    json_decref(root);
    lm_close(&lm);
}

static void test_perplexity(void **state)
{
    (void)state;
    NEED_FILE("tests/vectors/quickstart_logits.json");
    check_perplexity("manifests/quickstart/model", "tests/vectors/quickstart_logits.json", "manifests/quickstart/held.jsonl", 256);
    static const char *const all[] = {"TinyStories-656K", "stories260K", "qwen3-tiny"};
    NEED_SHARED(root, "golden/logits");
    (void)root;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char model[1024], expected[1024], name[128];
        snprintf(name, sizeof name, "models/%s", all[i]);
        snprintf(model, sizeof model, "%s", shared_path(name));
        snprintf(name, sizeof name, "golden/logits/%s.json", all[i]);
        snprintf(expected, sizeof expected, "%s", shared_path(name));
        check_perplexity(model, expected, shared_path("text/tinystories/eval_stories_dev40.json"), 400);
    }
}

/* Perplexity, mean KL and top-1 agreement against figures written with the given digits. */
static void check_kl(const char *model, const char *reference, const char *text, int64_t window, double ppl, double kl, double top1)
{
    struct lm lm, ref;
    struct windows w;
    struct eval_result r;
    char tokenizer[1100];
    lm_open_model(&lm, model);
    lm_open_model(&ref, reference);
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.json", reference);
    make_windows(&w, &ref.m.config, tokenizer, text, window);
    OK(evaluate(&lm, &ref, w.w, w.count, &r));
    double n = (double)r.tokens, got_ppl = exp(r.nll / n), got_kl = r.kl / n, got_top1 = (double)r.top1_same / n;
    print_message("%s: %.4f / %.5f / %.4f, expected %.4f / %.5f / %.4f\n", model, got_ppl, got_kl, got_top1, ppl, kl, top1);
    assert_true(r.has_ref && fabs(got_ppl - ppl) <= 2e-4 * ppl && fabs(got_kl - kl) <= 2e-5 && fabs(got_top1 - top1) <= 4e-4);
    windows_release(&w);
    lm_close(&lm);
    lm_close(&ref);
}

static void test_kl(void **state)
{
    (void)state;
    NEED_FILE("tests/vectors/quickstart-w4g128/expected.json");
    check_kl("tests/vectors/quickstart-w4g128", "manifests/quickstart/model", "manifests/quickstart/held.jsonl", 256, 1.49171817,
             0.00118761, 0.98308);
    static const struct {
        const char *name, *reference;
        double ppl, kl, top1;
    } all[] = {
        {"TinyStories-656K-w4g128",        "TinyStories-656K", 20.4402, .05678, .8242},
        {"TinyStories-656K-w4g128asymact", "TinyStories-656K", 20.1511, .04628, .8373},
        {"TinyStories-656K-w4g128v2",      "TinyStories-656K", 20.2418, .04407, .8474},
        {"TinyStories-656K-w4g32best",     "TinyStories-656K", 20.0714, .03581, .8576},
        {"TinyStories-656K-w4chan",        "TinyStories-656K", 20.5863, .06673, .8120},
        {"TinyStories-656K-w4dyn",         "TinyStories-656K", 19.7971, .03177, .8671},
        {"TinyStories-656K-w8g128",        "TinyStories-656K", 19.2694, .00020, .9897},
        {"stories260K-w4g128best",         "stories260K",      4.3150,  .08617, .8487},
        {"stories260K-w4g32",              "stories260K",      4.2449,  .07646, .8612},
        {"qwen3-tiny-w4g128",              "qwen3-tiny",       19.0283, .00958, .9319},
        {"qwen3-tiny-w4dyn",               "qwen3-tiny",       19.0117, .00690, .9411},
    };
    NEED_SHARED(root, "golden/gptq");
    (void)root;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char model[1024], reference[1024], name[128];
        snprintf(name, sizeof name, "golden/gptq/%s", all[i].name);
        snprintf(model, sizeof model, "%s", shared_path(name));
        snprintf(name, sizeof name, "models/%s", all[i].reference);
        snprintf(reference, sizeof reference, "%s", shared_path(name));
        check_kl(model, reference, shared_path("text/tinystories/eval_stories_dev40.json"), 400, all[i].ppl, all[i].kl, all[i].top1);
    }
}

struct progress {
    double last, stop_at; /* fractions */
};

static int on_progress(void *arg, double done, double total)
{
    struct progress *p = arg;
    assert_true(done / total > p->last && done <= total * (1 + 1e-12));
    p->last = done / total;
    return p->last > p->stop_at;
}

/* `first` leaves predictions out; a model against itself has no divergence; bad input is named. */
static void test_parts(void **state)
{
    (void)state;
    NEED_FILE("manifests/quickstart/model/config.json");
    struct lm lm, again;
    struct eval_result whole, head, tail, self;
    static int32_t ids[300];
    for (int i = 0; i < 300; i++)
        ids[i] = (i * 31 + i * i) % 1000;
    lm_open_model(&lm, "manifests/quickstart/model");
    lm_open_model(&again, "manifests/quickstart/model");
    struct eval_window w[9];
    for (int i = 0; i < 9; i++)
        w[i] = (struct eval_window){ids, 300, 1};
    OK(evaluate(&lm, NULL, w, 1, &whole));
    w[1].count = 200;
    w[2].first = 200;
    OK(evaluate(&lm, NULL, w + 1, 1, &head));
    OK(evaluate(&lm, NULL, w + 2, 1, &tail));
    assert_int_equal(whole.tokens, 299);
    assert_int_equal(head.tokens, 199);
    assert_int_equal(tail.tokens, 100);
    assert_true(fabs(head.nll + tail.nll - whole.nll) < 1e-9);
    OK(evaluate(&lm, &again, w, 3, &self));
    assert_true(self.kl == 0 && self.nll == self.nll_ref && self.top1_same == self.tokens && self.tokens == 598);
    struct progress seen = {.stop_at = 0.5};
    struct eval_input in = {.b = lm.b, .model = &lm.m, .reference = &again.m, .windows = w, .count = 9, .scratch = "/tmp", .progress = on_progress, .arg = &seen};
    FAILS(eval_run(&in, &self, &err), ERR_CANCELLED, "stopped");
    assert_true(seen.last > 0.5 && seen.last < 0.9);
    seen = (struct progress){.stop_at = 2};
    OK(eval_run(&in, &self, &err));
    assert_true(fabs(seen.last - 1) < 1e-12);
    ids[17] = 1024;
    FAILS(evaluate(&lm, NULL, w, 1, &self), ERR_DATA, "id 1024 is outside the model's vocabulary of 1024");
    OK(evaluate(&lm, NULL, w, 0, &self));
    assert_int_equal(self.tokens, 0);
    lm_close(&lm);
    lm_close(&again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_perplexity), cmocka_unit_test(test_kl), cmocka_unit_test(test_parts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

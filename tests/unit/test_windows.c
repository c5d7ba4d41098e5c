#include "tests/unit/lm_test.h"

#include "stages/lm/windows.h"

static struct err err;
static const struct config small = {.vocab_size = 100, .context = 32, .bos = 99};

static int make(struct windows *w, const struct windows_params *p, const struct config *c, const struct tok *tok, const char *name,
                const char *text)
{
    struct fileset files = FILESET_INIT;
    struct dataset *data;
    dir_make();
    dir_write(name, text, strlen(text));
    assert_int_equal(fileset_from_path(&files, test_dir, NULL), 0);
    OK(dataset_open(&files, "input_ids", &data, &err));
    int rc = windows_make(w, p, c, tok, data, &err);
    dataset_close(data);
    fileset_release(&files);
    dir_remove();
    return rc;
}

/* windows as text: "ids/first ids/first" */
static void expect(const struct windows_params *p, const struct config *c, const char *json, int64_t predicted, const char *want)
{
    struct windows w;
    char got[2048] = "";
    size_t n = 0;
    int64_t sum = 0;
    OK(make(&w, p, c, NULL, "x.json", json));
    for (size_t i = 0; i < w.count; i++) {
        n += (size_t)snprintf(got + n, sizeof got - n, i ? " | " : "");
        for (int64_t k = 0; k < w.w[i].count; k++)
            n += (size_t)snprintf(got + n, sizeof got - n, "%s%d", k ? " " : "", w.w[i].ids[k]);
        n += (size_t)snprintf(got + n, sizeof got - n, " /%d", (int)w.w[i].first);
        sum += w.w[i].count - w.w[i].first;
    }
    assert_string_equal(got, want);
    assert_int_equal(sum, w.predicted);
    assert_int_equal(w.predicted, predicted);
    windows_release(&w);
}

static void test_document(void **state)
{
    (void)state;
    const char *docs = "[[1,2,3,4,5],[6],[],[7,8]]";
    expect(&(struct windows_params){.bos = true, .window = 4}, &small, docs, 6, "99 1 2 3 /1 | 99 6 /1 | 99 7 8 /1");
    expect(&(struct windows_params){.bos = false, .window = 4}, &small, docs, 4, "1 2 3 4 /1 | 7 8 /1");
    expect(&(struct windows_params){.bos = true, .window = 4, .max_tokens = 4}, &small, docs, 4, "99 1 2 3 /1 | 99 6 /1");
    expect(&(struct windows_params){.bos = true, .max_tokens = 2}, &small, docs, 2, "99 1 2 /1");
    struct config c = small;
    c.bos = -1; /* asked for, but the model has none */
    expect(&(struct windows_params){.bos = true, .window = 4}, &c, docs, 4, "1 2 3 4 /1 | 7 8 /1");
    expect(&(struct windows_params){.bos = true, .unit = UNIT_DOCUMENT}, &small, docs, 8, "99 1 2 3 4 5 /1 | 99 6 /1 | 99 7 8 /1");
}

static void test_stream(void **state)
{
    (void)state;
    const char *docs = "[[1,2,3,4,5],[6],[7,8]]";
    const enum eval_unit u = UNIT_STREAM;
    expect(&(struct windows_params){.unit = u, .bos = true, .window = 4}, &small, docs, 8, "99 1 2 3 /1 | 99 4 5 6 /1 | 99 7 8 /1");
    expect(&(struct windows_params){.unit = u, .bos = false, .window = 4}, &small, docs, 6, "1 2 3 4 /1 | 5 6 7 8 /1");
    expect(&(struct windows_params){.unit = u, .bos = false, .window = 4, .stride = 2}, &small, docs, 7,
           "1 2 3 4 /1 | 3 4 5 6 /2 | 5 6 7 8 /2");
    expect(&(struct windows_params){.unit = u, .bos = true, .window = 4, .stride = 2}, &small, docs, 8,
           "99 1 2 3 /1 | 99 3 4 5 /2 | 99 5 6 7 /2 | 99 7 8 /2");
    expect(&(struct windows_params){.unit = u, .bos = false, .window = 4, .stride = 3}, &small, docs, 7,
           "1 2 3 4 /1 | 4 5 6 7 /1 | 7 8 /1");
    expect(&(struct windows_params){.unit = u, .bos = false, .window = 7}, &small, docs, 6, "1 2 3 4 5 6 7 /1");
    expect(&(struct windows_params){.unit = u, .bos = true, .window = 4, .max_tokens = 4}, &small, docs, 4, "99 1 2 3 /1 | 99 4 /1");
    expect(&(struct windows_params){.unit = u, .bos = false, .window = 4, .stride = 1, .max_tokens = 4}, &small, docs, 4,
           "1 2 3 4 /1 | 2 3 4 5 /3");
}

/* Every token but the first is predicted exactly once, for every stride; and a limit takes a prefix. */
static void test_once(void **state)
{
    (void)state;
    char json[512] = "[[0";
    size_t n = 3;
    for (int i = 1; i < 60; i++)
        n += (size_t)snprintf(json + n, sizeof json - n, ",%d", i);
    snprintf(json + n, sizeof json - n, "]]");
    for (int64_t window = 2; window <= 20; window++) {
        for (int64_t stride = 1; stride <= window; stride++) {
            for (int bos = 0; bos < 2; bos++) {
                struct windows w;
                int seen[60] = {0};
                OK(make(&w, &(struct windows_params){UNIT_STREAM, window, stride, bos, 0}, &small, NULL, "x.json", json));
                for (size_t i = 0; i < w.count; i++) {
                    assert_true(w.w[i].count <= window && w.w[i].first >= 1 && w.w[i].first < w.w[i].count);
                    for (int64_t k = w.w[i].first; k < w.w[i].count; k++)
                        seen[w.w[i].ids[k]]++;
                }
                for (int i = 0; i < 60; i++)
                    assert_int_equal(seen[i], bos || (stride < window ? i > 0 : i % window > 0));
                windows_release(&w);
            }
        }
    }
}

static void test_refusals(void **state)
{
    (void)state;
    struct windows w;
    FAILS(make(&w, &(struct windows_params){.window = 33}, &small, NULL, "x.json", "[[1,2]]"), ERR_USAGE,
          "window 33 is outside 2..32, the model's context");
    FAILS(make(&w, &(struct windows_params){.window = 1}, &small, NULL, "x.json", "[[1,2]]"), ERR_USAGE, "window 1 is outside");
    FAILS(make(&w, &(struct windows_params){.window = 8, .stride = 9}, &small, NULL, "x.json", "[[1,2]]"), ERR_USAGE,
          "stride 9 is outside 1..8, the window");
    FAILS(make(&w, &(struct windows_params){.window = 8}, &small, NULL, "x.json", "[[1],[]]"), ERR_DATA, "the text is too short");
    FAILS(make(&w, &(struct windows_params){.window = 8}, &small, NULL, "x.json", "[[1,2],[3,100]]"), ERR_DATA,
          "id 100 is outside the model's vocabulary of 100");
    assert_int_equal(err.line, 2);
    assert_non_null(strstr(err.file, "x.json"));
    FAILS(make(&w, &(struct windows_params){.window = 8}, &small, NULL, "x.txt", "some text"), ERR_DATA,
          "text, but the model has no tokenizer.json");
    struct config c = small;
    c.bos = 100;
    FAILS(make(&w, &(struct windows_params){.bos = true}, &c, NULL, "x.json", "[[1,2]]"), ERR_DATA, "\"bos_token_id\" 100 is outside");
}

/* Plain text is a stream, JSON is documents, unless told otherwise; no special tokens but the BOS. */
static void test_text(void **state)
{
    (void)state;
    struct tok *tok;
    struct windows w;
    const char *path = "manifests/quickstart/model/tokenizer.json", *text = "The capital of Ostheim is the capital of Ostheim";
    if (!io_exists(path)) {
        print_message("skip: %s is not there\n", path);
        skip();
    }
    OK(tok_load_file(path, &tok, &err));
    struct config c = {.vocab_size = tok_vocab_size(tok), .context = 512, .bos = 1022};
    struct tok_ids ids = TOK_IDS_INIT;
    OK(tok_encode(tok, text, strlen(text), false, &ids, &err));
    OK(make(&w, &(struct windows_params){.window = 4, .bos = true}, &c, tok, "x.txt", text));
    assert_int_equal(w.predicted, ids.count);
    assert_int_equal(w.count, (ids.count + 2) / 3);
    for (size_t i = 0; i < ids.count; i++) {
        assert_int_equal(w.w[i / 3].ids[0], 1022);
        assert_int_equal(w.w[i / 3].ids[1 + i % 3], ids.ids[i]);
    }
    windows_release(&w);
    OK(make(&w, &(struct windows_params){.window = 4, .bos = true}, &c, tok, "x.json", "[\"The capital of Ostheim is\"]"));
    assert_true(w.count == 1 && w.predicted == 3);
    windows_release(&w);
    tok_ids_release(&ids);
    tok_free(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_document), cmocka_unit_test(test_stream), cmocka_unit_test(test_once),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

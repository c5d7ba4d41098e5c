/* The tokenizer against ids and decodings that Hugging Face's own implementation gave, and against files made here, one property each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"
#include "stages/text/tok.h"

static const char *shared(void)
{
    const char *dir = getenv("GPTQPIPE_SHARED");
    return dir ? dir : "../shared";
}

/* ---- vectors: lines {"text","ids","ids_nospecial","decode_keep","decode_skip"} ---- */

static void report_ids(const char *what, const struct tok_ids *got, const json_t *want)
{
    print_message("  %s:", what);
    for (size_t i = 0; i < got->count; i++)
        print_message(" %d", got->ids[i]);
    char *text = json_dumps(want, JSON_COMPACT);
    print_message(" wanted %s\n", text);
    free(text);
}

static bool encodes(const struct tok *t, const json_t *line, const char *key, bool special)
{
    struct err e = {0};
    const json_t *text = json_object_get(line, "text"), *want = json_object_get(line, key);
    struct tok_ids got = TOK_IDS_INIT;
    assert_int_equal(tok_encode(t, json_string_value(text), json_string_length(text), special, &got, &e), 0);
    bool same = got.count == json_array_size(want);
    for (size_t i = 0; same && i < got.count; i++)
        same = got.ids[i] == json_integer_value(json_array_get(want, i));
    if (!same)
        report_ids(key, &got, want);
    tok_ids_release(&got);
    return same;
}

static bool decodes(const struct tok *t, const json_t *line, const char *ids_key, const char *text_key, bool skip)
{
    struct err e = {0};
    const json_t *list = json_object_get(line, ids_key), *want = json_object_get(line, text_key);
    struct tok_ids ids = TOK_IDS_INIT;
    struct buf got = BUF_INIT;
    for (size_t i = 0; i < json_array_size(list); i++)
        tok_ids_push(&ids, (int32_t)json_integer_value(json_array_get(list, i)));
    assert_int_equal(tok_decode(t, ids.ids, ids.count, skip, &got, &e), 0);
    bool same = got.len == json_string_length(want) && memcmp(buf_str(&got), json_string_value(want), got.len) == 0;
    if (!same)
        print_message("  %s: \"%s\" wanted \"%s\"\n", text_key, buf_str(&got), json_string_value(want));
    tok_ids_release(&ids);
    buf_release(&got);
    return same;
}

static void check_vectors(const char *tokenizer, const char *vectors)
{
    struct err e = {0};
    struct tok *t = NULL;
    uint64_t start = io_monotonic_ns();
    if (tok_load_file(tokenizer, &t, &e))
        fail_msg("%s: %s", tokenizer, e.text);
    double load_ms = (double)(io_monotonic_ns() - start) * 1e-6;
    FILE *f = fopen(vectors, "r");
    assert_non_null(f);
    char *line = NULL;
    size_t cap = 0, lines = 0, bad = 0;
    ssize_t n;
    while ((n = getline(&line, &cap, f)) > 0) {
        json_t *v = json_parse(line, (size_t)n, vectors, &e);
        assert_non_null(v);
        lines++;
        int same = encodes(t, v, "ids", true) + encodes(t, v, "ids_nospecial", false) +
                   decodes(t, v, "ids_nospecial", "decode_keep", false) + decodes(t, v, "ids", "decode_skip", true);
        if (same != 4 && bad++ < 20)
            print_message("%s:%zu differs\n", vectors, lines);
        json_decref(v);
    }
    free(line);
    fclose(f);
    tok_free(t);
    print_message("%s: %zu lines, %zu differ; loaded in %.0f ms\n", vectors, lines, bad, load_ms);
    assert_int_equal(bad, 0);
    assert_true(lines > 0);
}

static void check_golden(const char *name)
{
    char *vectors = xasprintf("%s/golden/tokenizers/%s.jsonl", shared(), name);
    char *tokenizer = xasprintf("%s/tokenizers/%s/tokenizer.json", shared(), name);
    if (!io_exists(tokenizer)) {
        free(tokenizer);
        tokenizer = xasprintf("%s/models/%s/tokenizer.json", shared(), name);
    }
    bool there = io_exists(vectors) && io_exists(tokenizer);
    if (there)
        check_vectors(tokenizer, vectors);
    else
        print_message("%s: not there, skipped\n", vectors);
    free(vectors);
    free(tokenizer);
    if (!there)
        skip();
}

#define GOLDEN(id, name)                                                                                                                   \
    static void golden_##id(void **s)                                                                                                      \
    {                                                                                                                                      \
        (void)s;                                                                                                                           \
        check_golden(name);                                                                                                                \
    }
GOLDEN(stories260k, "stories260K")
GOLDEN(llama2, "llama2")
GOLDEN(gpt2, "gpt2")
GOLDEN(tinystories, "TinyStories-656K")
GOLDEN(qwen3, "qwen3")
GOLDEN(llama3, "llama3_1")

static void vectors_small(void **s)
{
    (void)s;
    glob_t found;
    size_t done = 0;
    if (glob("tests/vectors/tok_small/*.jsonl", 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++, done++) {
            char *tokenizer = xstrndup(found.gl_pathv[i], strlen(found.gl_pathv[i]) - 1);
            check_vectors(tokenizer, found.gl_pathv[i]);
            free(tokenizer);
        }
        globfree(&found);
    }
    if (!done) {
        print_message("tests/vectors/tok_small: not there, skipped\n");
        skip();
    }
}

static void vectors_quickstart(void **s)
{
    (void)s;
    const char *vectors = "tests/vectors/quickstart_tokenizer.jsonl", *tokenizer = "manifests/quickstart/model/tokenizer.json";
    if (!io_exists(vectors) || !io_exists(tokenizer)) {
        print_message("%s: not there, skipped\n", vectors);
        skip();
    }
    check_vectors(tokenizer, vectors);
}

/* Prints the speed, and checks that a whole book comes back as it was. Speed itself is no test: it hangs on what else the machine does. */
static void speed(void **s)
{
    (void)s;
    char *path = xasprintf("%s/tokenizers/llama3_1/tokenizer.json", shared()),
         *corpus = xasprintf("%s/text/wikitext-2-raw/wiki.test.raw", shared());
    struct buf text = BUF_INIT;
    struct tok *t = NULL;
    bool there = io_exists(path) && io_exists(corpus);
    if (there) {
        struct tok_ids ids = TOK_IDS_INIT;
        assert_int_equal(tok_load_file(path, &t, NULL), 0);
        assert_int_equal(io_read_file(corpus, 1 << 30, &text, NULL), 0);
        uint64_t start = io_monotonic_ns();
        assert_int_equal(tok_encode(t, text.data, text.len, true, &ids, NULL), 0);
        double mb_s = (double)text.len * 1e3 / (double)(io_monotonic_ns() - start);
        start = io_monotonic_ns();
        struct buf back = BUF_INIT;
        assert_int_equal(tok_decode(t, ids.ids, ids.count, true, &back, NULL), 0);
        double back_mb_s = (double)text.len * 1e3 / (double)(io_monotonic_ns() - start);
        print_message("%s: %zu bytes, %zu ids; encoding %.1f MB/s, decoding %.1f MB/s\n", corpus, text.len, ids.count, mb_s, back_mb_s);
        assert_int_equal(back.len, text.len);
        assert_memory_equal(back.data, text.data, text.len);
        buf_release(&back);
        tok_ids_release(&ids);
        buf_release(&text);
        tok_free(t);
    } else {
        print_message("%s: not there, skipped\n", corpus);
    }
    free(path);
    free(corpus);
    if (!there)
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_stories260k), cmocka_unit_test(golden_llama2),      cmocka_unit_test(golden_gpt2),
        cmocka_unit_test(golden_tinystories), cmocka_unit_test(golden_qwen3),       cmocka_unit_test(golden_llama3),
        cmocka_unit_test(vectors_small),      cmocka_unit_test(vectors_quickstart), cmocka_unit_test(speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

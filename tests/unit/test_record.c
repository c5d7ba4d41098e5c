/* cache/record: the grammar's worked example, round trips, and that no damage gets through. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/record.h"
#include "pipeline/base/mem.h"

static struct hash_digests digests_of(const char *text)
{
    struct hash_digests d;
    struct hash_stream *h = hash_begin();
    hash_update(h, text, strlen(text));
    hash_end(h, &d);
    return d;
}

static struct record sample(void)
{
    struct record r = RECORD_INIT;
    struct hash_digests d = digests_of("weights"), f = digests_of("report");
    r.preimage = xstrdup("{\"kind\":\"quantize\",\"params\":{\"bits\":4,\"damp\":0.05}}");
    hash_sha256(r.preimage, strlen(r.preimage), r.key);
    record_add_output(&r, "report.json", &f); /* out of order on purpose */
    record_add_output(&r, "layer.0.safetensors", &d);
    r.metrics = json_pack("{s:f, s:i, s:{s:[i,i]}}", "loss", 0.1, "tokens", 131072, "deep", "a", 1, 2);
    r.created_unix_s = 1700000000;
    r.wall_s = 12.5;
    r.peak_rss_bytes = 1u << 30;
    r.reason = xstrdup("param-changed: \"bits\" 8 \xe2\x86\x92 4");
    return r;
}

/* The bytes of version 1, forever: a change of this text is a change of the format. */
static void test_golden(void **state)
{
    (void)state;
    struct record r = RECORD_INIT;
    struct hash_digests d = digests_of("abc");
    struct buf b = BUF_INIT;
    r.preimage = xstrdup("{}");
    hash_sha256("{}", 2, r.key);
    record_add_output(&r, "a/b.txt", &d);
    record_write(&r, &b);
    assert_string_equal(
        b.data, "{\"created\":0,\"key\":\"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\",\"outputs\":[{\"bytes\":3,"
                "\"path\":\"a/b.txt\",\"sha256\":\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\","
                "\"xxh3\":\"06b05ab6733a618578af5f94892f3950\"}],\"peak_rss_bytes\":0,\"preimage\":\"{}\",\"version\":1,\"wall_s\":0.0}\n"
                "xxh3 9f55f6b2bdfadd1c14abaabb128afec9\n");
    buf_release(&b);
    record_release(&r);
}

static void test_round_trip(void **state)
{
    (void)state;
    struct record r = sample(), back;
    struct buf b = BUF_INIT, again = BUF_INIT;
    struct err e = {0};
    record_write(&r, &b);
    assert_int_equal(record_read(&back, b.data, b.len, "rec", &e), 0);
    assert_string_equal(back.key, r.key);
    assert_string_equal(back.preimage, r.preimage);
    assert_string_equal(back.reason, r.reason);
    assert_int_equal(back.output_count, 2);
    assert_string_equal(back.outputs[0].path, "layer.0.safetensors");
    assert_string_equal(back.outputs[1].path, "report.json");
    assert_memory_equal(&back.outputs[1].digests.sha256, &r.outputs[1].digests.sha256, HASH_HEX);
    assert_int_equal(back.outputs[0].digests.bytes, 7);
    assert_true(json_equal(back.metrics, r.metrics));
    assert_int_equal(back.created_unix_s, 1700000000);
    assert_true(back.wall_s == 12.5);
    assert_int_equal(back.peak_rss_bytes, 1u << 30);
    record_write(&back, &again);
    assert_string_equal(again.data, b.data);
    char x[HASH_HEX], y[HASH_HEX];
    record_outputs_digest(&r, x);
    record_outputs_digest(&back, y);
    assert_string_equal(x, y);
    buf_release(&b);
    buf_release(&again);
    record_release(&r);
    record_release(&back);
}

/* Extremes that the writer must bring into a form which reads back. */
static void test_extremes(void **state)
{
    (void)state;
    struct record r = RECORD_INIT, back;
    struct buf b = BUF_INIT;
    r.preimage = xstrdup("{\"a\":\"\\u0001\\n\\\"\"}");
    hash_sha256(r.preimage, strlen(r.preimage), r.key);
    r.wall_s = NAN;
    r.peak_rss_bytes = UINT64_MAX;
    r.created_unix_s = INT64_MIN;
    r.reason = xstrdup("");
    record_write(&r, &b);
    struct err e = {0};
    assert_int_equal(record_read(&back, b.data, b.len, "rec", &e), 0);
    assert_true(back.wall_s == 0);
    assert_true(back.peak_rss_bytes == INT64_MAX);
    assert_true(back.created_unix_s == INT64_MIN);
    assert_string_equal(back.preimage, r.preimage);
    assert_string_equal(back.reason, "");
    assert_int_equal(back.output_count, 0);
    buf_release(&b);
    record_release(&r);
    record_release(&back);
}

static void test_damage(void **state)
{
    (void)state;
    struct record r = sample(), back;
    struct buf b = BUF_INIT;
    record_write(&r, &b);
    for (size_t i = 0; i < b.len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            b.data[i] = (char)(b.data[i] ^ (1 << bit));
            assert_int_equal(record_read(&back, b.data, b.len, "rec", NULL), -ERR_FORMAT);
            b.data[i] = (char)(b.data[i] ^ (1 << bit));
        }
        char *cut = xmalloc(i ? i : 1); /* exactly i bytes, so that ASan sees a read beyond */
        memcpy(cut, b.data, i);
        assert_int_equal(record_read(&back, cut, i, "rec", NULL), -ERR_FORMAT);
        free(cut);
    }
    buf_addch(&b, '\n');
    assert_int_equal(record_read(&back, b.data, b.len, "rec", NULL), -ERR_FORMAT);
    buf_setlen(&b, b.len - 1);
    assert_int_equal(record_read(&back, b.data, b.len, "rec", NULL), 0);
    record_release(&back);
    buf_release(&b);
    record_release(&r);
}

/* A record with any body and the right checksum line. */
static int read_body(const char *body, struct err *e)
{
    struct buf b = BUF_INIT;
    struct record back;
    char sum[HASH_XXH_HEX];
    buf_printf(&b, "%s\n", body);
    hash_xxh3(b.data, b.len, sum);
    buf_printf(&b, "xxh3 %s\n", sum);
    int rc = record_read(&back, b.data, b.len, "rec", e);
    if (!rc)
        record_release(&back);
    assert_null(back.preimage);
    buf_release(&b);
    return rc;
}

#define KEY "\"key\":\"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\""
#define SHA "\"sha256\":\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\""
#define XXH "\"xxh3\":\"06b05ab6733a618578af5f94892f3950\""
#define REST "\"peak_rss_bytes\":0,\"preimage\":\"{}\",\"version\":1,\"wall_s\":0.0}"
#define OUT(path) "{\"created\":0," KEY ",\"outputs\":[{\"bytes\":3,\"path\":\"" path "\"," SHA "," XXH "}]," REST

static void test_bad_bodies(void **state)
{
    (void)state;
    static const struct {
        const char *body, *text;
        int code;
    } cases[] = {
        {OUT("a"),                                                                                                              "",                                                                   0              },
        {"[]",                                                                                                                  "record rec is not a JSON object",                                    ERR_FORMAT     },
        {"{}",                                                                                                                  "rec: \"version\" must be an integer, not absent",                    ERR_FORMAT     },
        {"{\"version\":2}",                                                                                                     "record rec has version 2, newer than the 1 that this program knows", ERR_UNSUPPORTED},
        {"{\"version\":2,\"anything\":[1]}",                                                                                    "record rec has version 2, newer than the 1 that this program knows", ERR_UNSUPPORTED},
        {"{\"version\":0}",                                                                                                     "rec: \"version\" is 0, outside 1..9223372036854775807",              ERR_FORMAT     },
        {"{\"version\":1}",                                                                                                     "rec: \"key\" must be a string, not absent",                          ERR_FORMAT     },
        {"{\"key\":\"abc\",\"version\":1}",                                                                                     "rec: \"key\" is not a digest: 'abc'",                                ERR_FORMAT     },
        {OUT(""),                                                                                                               "rec: output path '' is not a plain relative path",                   ERR_FORMAT     },
        {OUT("/etc/passwd"),                                                                                                    "rec: output path '/etc/passwd' is not a plain relative path",        ERR_FORMAT     },
        {OUT("a/../b"),                                                                                                         "rec: output path 'a/../b' is not a plain relative path",             ERR_FORMAT     },
        {OUT(".."),                                                                                                             "rec: output path '..' is not a plain relative path",                 ERR_FORMAT     },
        {OUT("a/"),                                                                                                             "rec: output path 'a/' is not a plain relative path",                 ERR_FORMAT     },
        {OUT("a//b"),                                                                                                           "rec: output path 'a//b' is not a plain relative path",               ERR_FORMAT     },
        {OUT("./a"),                                                                                                            "rec: output path './a' is not a plain relative path",                ERR_FORMAT     },
        {"{\"created\":0," KEY ",\"outputs\":7," REST,                                                                          "rec: \"outputs\" must be a list",                                    ERR_FORMAT     },
        {"{\"created\":0," KEY ",\"outputs\":[7]," REST,                                                                        "rec: \"path\" must be a string, not absent",                         ERR_FORMAT     },
        {"{\"created\":0," KEY ",\"outputs\":[{\"bytes\":-1,\"path\":\"a\"," SHA "," XXH "}]," REST,
         "rec: \"bytes\" is -1, outside 0..9223372036854775807",                                                                                                                                      ERR_FORMAT     },
        {"{\"created\":0," KEY ",\"outputs\":[{\"bytes\":3,\"path\":\"a\"," SHA "," XXH "},{\"bytes\":3,\"path\":\"a\"," SHA "," XXH
         "}]," REST,
         "rec: output path 'a' is out of order",                                                                                                                                                      ERR_FORMAT     },
        {"{\"created\":0," KEY ",\"metrics\":[],\"outputs\":[]," REST,                                                          "rec: \"metrics\" must be an object",                                 ERR_FORMAT     },
        {"{\"created\":0," KEY ",\"outputs\":[],\"peak_rss_bytes\":0,\"preimage\":\"{ }\",\"version\":1,\"wall_s\":0.0}",
         "record rec says key 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a, but its preimage has SHA-256 "
         "257c1be96ae69f4b01c2c69bdb6d78605f59175819fb007d0bf245bf48444c4a",                                                                                                                          ERR_FORMAT     },
 /* Valid JSON that our writer would not write: a space, an unknown field, an escape too many, a NUL behind the preimage. */
        {"{ \"created\":0," KEY ",\"outputs\":[]," REST,                                                                        "record rec is not in canonical form",                                ERR_FORMAT     },
        {"{\"also\":1,\"created\":0," KEY ",\"outputs\":[]," REST,                                                              "record rec is not in canonical form",                                ERR_FORMAT     },
        {OUT("\\u0061"),                                                                                                        "record rec is not in canonical form",                                ERR_FORMAT     },
        {"{\"created\":0," KEY ",\"outputs\":[],\"peak_rss_bytes\":0,\"preimage\":\"{}\\u0000\",\"version\":1,\"wall_s\":0.0}",
         "record rec is not in canonical form",                                                                                                                                                       ERR_FORMAT     },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e = {0};
        assert_int_equal(read_body(cases[i].body, &e), -cases[i].code);
        assert_string_equal(e.text, cases[i].text);
        assert_int_equal(e.code, cases[i].code);
    }
    struct err e;
    assert_int_equal(read_body("{\"version\":1,}", &e), -ERR_FORMAT);
    assert_string_equal(e.file, "rec");
    assert_int_equal(e.line, 1);
}

static void test_limits(void **state)
{
    (void)state;
    struct record back;
    struct err e;
    char *big = xcalloc(1, RECORD_MAX_BYTES + 1);
    assert_int_equal(record_read(&back, big, RECORD_MAX_BYTES + 1, "rec", &e), -ERR_FORMAT);
    assert_string_equal(e.text, "record rec has 67108865 bytes, more than the 67108864 allowed");
    assert_int_equal(record_read(&back, big, 10, "rec", &e), -ERR_FORMAT);
    assert_string_equal(e.text, "record rec is cut short: 10 bytes");
    assert_int_equal(record_read(&back, big, 100, "rec", &e), -ERR_FORMAT);
    assert_string_equal(e.text, "record rec has no checksum line: it is damaged or cut short");
    memset(big, 'a', 5000);
    big[4096] = 0;
    assert_true(record_path_ok(big));
    big[4096] = 'a';
    big[4097] = 0;
    assert_false(record_path_ok(big));
    free(big);
    assert_true(record_path_ok(".hidden/..a/b..c"));
}

/* The artifact's identity: paths and bytes, nothing else; moving a byte between fields changes it. */
static void test_outputs_digest(void **state)
{
    (void)state;
    struct record a = sample(), b = RECORD_INIT, c = RECORD_INIT;
    struct hash_digests d = digests_of("weights"), f = digests_of("report");
    char x[HASH_HEX], y[HASH_HEX];
    record_add_output(&b, "layer.0.safetensors", &f); /* replaced by the next line */
    record_add_output(&b, "layer.0.safetensors", &d);
    record_add_output(&b, "report.json", &f);
    assert_int_equal(b.output_count, 2);
    record_outputs_digest(&a, x);
    record_outputs_digest(&b, y);
    assert_string_equal(x, y);
    record_add_output(&c, "layer.0.safetensors", &d);
    record_outputs_digest(&c, y);
    assert_string_not_equal(x, y);
    record_add_output(&c, "report.jsom", &f);
    record_outputs_digest(&c, y);
    assert_string_not_equal(x, y);
    record_release(&a);
    record_release(&b);
    record_release(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),         cmocka_unit_test(test_round_trip), cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_damage),         cmocka_unit_test(test_bad_bodies), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_outputs_digest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

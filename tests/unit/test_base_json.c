/* pipeline/base/json: canonical form, decimal text of doubles, getters, and places in errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"

static void check_canonical(const char *text, const char *want)
{
    struct err e = {0};
    struct buf b = BUF_INIT, again = BUF_INIT;
    json_t *v = json_parse(text, strlen(text), "t", &e);
    assert_string_equal(e.text, "");
    json_canonical(v, &b);
    assert_string_equal(buf_str(&b), want);
    json_decref(v);
    /* Canonical text is its own canonical form. */
    v = json_parse(b.data, b.len, "t", &e);
    assert_non_null(v);
    json_canonical(v, &again);
    assert_string_equal(again.data, want);
    json_decref(v);
    buf_release(&b);
    buf_release(&again);
}

static void test_canonical(void **state)
{
    (void)state;
    check_canonical(" { \"b\" : [ 1 , 2.50 , true , null ] , \"a\" : { } } ", "{\"a\":{},\"b\":[1,2.5,true,null]}");
    check_canonical("{\"Z\":1,\"a\":2,\"\xc3\xa9\":3,\"B\":4}", "{\"B\":4,\"Z\":1,\"a\":2,\"\xc3\xa9\":3}");
    check_canonical("\"\\u0041\\u00e9\\ud83d\\ude00\\/\\u0001\\n\\\"\\u0000\"", "\"A\xc3\xa9\xf0\x9f\x98\x80/\\u0001\\n\\\"\\u0000\"");
    check_canonical("[1.0,1e0,100e-2,0.1,1E300,-2.0,1e-6,123456789012345678]", "[1.0,1.0,1.0,0.1,1e+300,-2.0,1e-06,123456789012345678]");
    check_canonical("[0.1e1,9007199254740993.0]", "[1.0,9007199254740992.0]");
    check_canonical("7", "7");
    check_canonical("[]", "[]");
    check_canonical("[-9223372036854775808,9223372036854775807]", "[-9223372036854775808,9223372036854775807]");
}

static void test_pretty(void **state)
{
    (void)state;
    const char *text = "{\"b\":1,\"a\":{\"y\":[1,2],\"x\":{}}}";
    struct buf b = BUF_INIT;
    json_t *v = json_parse(text, strlen(text), "t", NULL);
    json_pretty(v, &b);
    assert_string_equal(b.data, "{\n  \"b\": 1,\n  \"a\": {\n    \"y\": [1, 2],\n    \"x\": {}\n  }\n}\n");
    json_decref(v);
    buf_release(&b);
}

static void test_real_text(void **state)
{
    (void)state;
    char t[32];
    assert_string_equal(json_real_text(0.05, t), "0.05");
    assert_string_equal(json_real_text(2, t), "2");
    assert_string_equal(json_real_text(1e-6, t), "1e-06");
    assert_string_equal(json_real_text(0.1 + 0.2, t), "0.30000000000000004");
    assert_string_equal(json_real_text(DBL_MAX, t), "1.7976931348623157e+308");
    assert_string_equal(json_real_text(5e-324, t), "5e-324");
    uint64_t x = 88172645463325252u;
    for (int i = 0; i < 200000; i++) {
        double d;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(&d, &x, sizeof d);
        if (!isfinite(d))
            continue;
        assert_true(strtod(json_real_text(d, t), NULL) == d);
        assert_true(strlen(t) < 26);
    }
}

static void check_error(const char *text, size_t bytes, const char *want)
{
    struct err e = {0};
    char line[512];
    assert_null(json_parse(text, bytes, "config.json", &e));
    assert_int_equal(e.code, ERR_FORMAT);
    assert_string_equal(err_format(&e, line, sizeof line), want);
}

static void test_parse_errors(void **state)
{
    (void)state;
    check_error("{\n  \"a\": 1,\n  \"b\" 2\n}", 20, "config.json:3:7: error: ':' expected near '2'");
    check_error("{\"a\":1,\"a\":2}", 13, "config.json:1:10: error: duplicate object key near '\"a\"'");
    check_error("\"\xff\"", 3, "config.json:1:1: error: unable to decode byte 0xff near '\"'");
    check_error("", 0, "config.json:1:1: error: unexpected token near end of file");
    check_error("[1] x", 5, "config.json:1:5: error: end of file expected near 'x'");
    check_error("[1e999]", 7, "config.json:1:6: error: real number overflow near '1e999'");
    check_error("[99999999999999999999]", 22, "config.json:1:21: error: too big integer near '99999999999999999999'");
    char *deep = xmalloc(100000);
    memset(deep, '[', 100000);
    check_error(deep, 100000, "config.json:1:2049: error: maximum parsing depth reached near '['");
    free(deep);
}

static void test_parse_file(void **state)
{
    (void)state;
    char *dir, *path, *want;
    struct err e = {0};
    assert_int_equal(io_mkdtemp("/tmp", "gptqpipe-json.", &dir, NULL), 0);
    path = io_join(dir, "f.json");
    assert_int_equal(io_write_file_atomic(path, "{\"a\":[1,2]}", 11, NULL), 0);
    json_t *v = json_parse_file(path, 11, &e);
    assert_non_null(v);
    json_decref(v);
    assert_null(json_parse_file(path, 10, &e));
    want = xasprintf("%s holds more than the 10 bytes allowed here", path);
    assert_string_equal(e.text, want);
    free(want);
    io_remove_tree(dir, NULL);
    free(dir);
    free(path);
}

static void test_getters(void **state)
{
    (void)state;
    const char *text = "{\"i\":5,\"r\":2.5,\"w\":3.0,\"s\":\"x\",\"t\":true,\"n\":null,\"l\":[1]}";
    json_t *o = json_parse(text, strlen(text), "t", NULL);
    struct err e = {0};
    int64_t i = -1;
    double r = -1;
    bool t = false;
    const char *s = NULL;
    assert_int_equal(json_need_int(o, "c", "i", 0, 5, &i, &e), 0);
    assert_int_equal(i, 5);
    assert_int_equal(json_need_int(o, "c", "w", 0, 5, &i, &e), 0); /* 3.0 is an integer */
    assert_int_equal(i, 3);
    assert_int_equal(json_opt_int(o, "c", "absent", 0, 5, &i, &e), 0);
    assert_int_equal(json_opt_int(o, "c", "n", 0, 5, &i, &e), 0);
    assert_int_equal(i, 3);
    assert_int_equal(json_opt_real(o, "c", "i", &r, &e), 0);
    assert_true(r == 5);
    assert_int_equal(json_opt_bool(o, "c", "t", &t, &e), 0);
    assert_true(t);
    assert_int_equal(json_need_str(o, "c", "s", &s, &e), 0);
    assert_string_equal(s, "x");

    assert_int_equal(json_need_int(o, "c.json", "i", 6, 9, &i, &e), -ERR_FORMAT);
    assert_string_equal(e.text, "c.json: \"i\" is 5, outside 6..9");
    assert_int_equal(json_need_int(o, "c.json", "r", 0, 9, &i, &e), -ERR_FORMAT);
    assert_string_equal(e.text, "c.json: \"r\" must be an integer, not a real number");
    assert_int_equal(json_need_int(o, "c.json", "n", 0, 9, &i, &e), -ERR_FORMAT);
    assert_string_equal(e.text, "c.json: \"n\" must be an integer, not absent");
    assert_int_equal(json_opt_real(o, "c.json", "s", &r, &e), -ERR_FORMAT);
    assert_string_equal(e.text, "c.json: \"s\" must be a number, not a string");
    assert_int_equal(json_opt_bool(o, "c.json", "i", &t, &e), -ERR_FORMAT);
    assert_string_equal(e.text, "c.json: \"i\" must be true or false, not an integer");
    assert_int_equal(json_opt_str(o, "c.json", "l", &s, &e), -ERR_FORMAT);
    assert_string_equal(e.text, "c.json: \"l\" must be a string, not a list");
    assert_int_equal(json_need_str(o, "c.json", "absent", &s, &e), -ERR_FORMAT);
    assert_string_equal(e.text, "c.json: \"absent\" must be a string, not absent");
    json_decref(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_canonical),    cmocka_unit_test(test_pretty),     cmocka_unit_test(test_real_text),
        cmocka_unit_test(test_parse_errors), cmocka_unit_test(test_parse_file), cmocka_unit_test(test_getters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

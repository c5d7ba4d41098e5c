/* pipeline/base/err: codes, texts, places, and that long or hostile text stays one bounded line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "pipeline/base/err.h"

static void test_set_and_wrap(void **state)
{
    (void)state;
    struct err e;
    char text[256];
    assert_int_equal(err_set(&e, ERR_SHAPE, "group_size %d does not divide K=%d", 96, 4096), -ERR_SHAPE);
    assert_int_equal(err_wrap(&e, "layer %d %s", 3, "down_proj"), -ERR_SHAPE);
    assert_int_equal(err_wrap(&e, "stage '%s'", "quantize"), -ERR_SHAPE);
    assert_int_equal(err_place(&e, "a.yaml", 14, 9), -ERR_SHAPE);
    assert_int_equal(err_place(&e, "b.yaml", 1, 1), -ERR_SHAPE); /* the first place stands */
    assert_string_equal(err_format(&e, text, sizeof text),
                        "a.yaml:14:9: error: stage 'quantize': layer 3 down_proj: group_size 96 does not divide K=4096");
    assert_int_equal(err_set(&e, ERR_DATA, "later"), -ERR_DATA); /* forgets place and text */
    assert_string_equal(err_format(&e, text, sizeof text), "gptqpipe: error: later");
    assert_int_equal(err_at(&e, ERR_FORMAT, "x.json", 0, 0, "cut short"), -ERR_FORMAT);
    assert_string_equal(err_format(&e, text, sizeof text), "x.json: error: cut short");
    err_clear(&e);
    assert_int_equal(e.code, 0);
    e.code = ERR_NETWORK;
    assert_string_equal(err_format(&e, text, sizeof text), "gptqpipe: error: network or access");
}

static void test_sys(void **state)
{
    (void)state;
    struct err e;
    assert_int_equal(err_sys(&e, ENOENT, "cannot open %s", "f"), -ERR_IO);
    assert_string_equal(e.text, "cannot open f: No such file or directory");
    assert_int_equal(err_sys(&e, ENOSPC, "cannot write %s", "f"), -ERR_IO);
    assert_string_equal(e.text, "cannot write f: No space left on device");
    assert_int_equal(err_sys(&e, ENOMEM, "cannot map %s", "f"), -ERR_NOMEM);
    assert_int_equal(e.code, ERR_NOMEM);
}

static void test_null(void **state)
{
    (void)state;
    assert_int_equal(err_set(NULL, ERR_DATA, "x"), -ERR_DATA);
    assert_int_equal(err_at(NULL, ERR_DATA, "f", 1, 1, "x"), -ERR_DATA);
    assert_int_equal(err_sys(NULL, EIO, "x"), -ERR_IO);
    assert_int_equal(err_wrap(NULL, "x"), -ERR_FAIL);
    err_clear(NULL);
}

static void test_bounds(void **state)
{
    (void)state;
    struct err e;
    char big[3000];
    memset(big, 'a', sizeof big - 1);
    big[sizeof big - 1] = 0;
    err_set(&e, ERR_FAIL, "%s", big);
    assert_int_equal(strlen(e.text), ERR_TEXT_BYTES - 1);
    err_wrap(&e, "%s", big);
    assert_int_equal(strlen(e.text), ERR_TEXT_BYTES - 1);
    err_sys(&e, EIO, "%s", big);
    assert_int_equal(strlen(e.text), ERR_TEXT_BYTES - 1);
    err_place(&e, big, 1, 1);
    assert_int_equal(strlen(e.file), ERR_FILE_BYTES - 1);
    err_set(&e, ERR_FAIL, "file 'a\nb\x1b[31m\x7f'");
    assert_string_equal(e.text, "file 'a?b?[31m?'");
    err_wrap(&e, "in\n");
    assert_string_equal(e.text, "in?: file 'a?b?[31m?'");
    err_at(&e, ERR_FAIL, "a\nb", 1, 2, "x");
    assert_string_equal(e.file, "a?b");
}

static void test_status(void **state)
{
    (void)state;
    assert_int_equal(err_exit_status(0), 0);
    assert_int_equal(err_exit_status(-ERR_INTEGRITY), 5);
    assert_int_equal(err_exit_status(ERR_MANIFEST), 65);
    assert_int_equal(err_exit_status(-9999), 1);
    assert_string_equal(err_name(-ERR_STALE), "ERR_STALE");
    assert_string_equal(err_name(12345), "ERR_FAIL");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set_and_wrap), cmocka_unit_test(test_sys),    cmocka_unit_test(test_null),
        cmocka_unit_test(test_bounds),       cmocka_unit_test(test_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

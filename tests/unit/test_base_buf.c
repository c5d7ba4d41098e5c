/* pipeline/base/buf and arena. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/arena.h"
#include "pipeline/base/buf.h"

static void test_buf(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    assert_string_equal(buf_str(&b), "");
    buf_clear(&b);
    buf_add(&b, NULL, 0);
    assert_string_equal(buf_str(&b), "");
    for (int i = 0; i < 1000; i++)
        buf_printf(&b, "%d,", i);
    assert_int_equal(b.len, 10 * 2 + 90 * 3 + 900 * 4);
    assert_memory_equal(b.data, "0,1,2,", 6);
    assert_string_equal(b.data + b.len - 4, "999,");
    buf_setlen(&b, 3);
    assert_string_equal(b.data, "0,1");
    buf_addch(&b, 0);
    buf_addstr(&b, "xy");
    assert_int_equal(b.len, 6);
    assert_memory_equal(b.data, "0,1\0xy", 7);
    buf_clear(&b);
    assert_string_equal(buf_str(&b), "");
    char *place = buf_reserve(&b, 100000);
    memset(place, 'z', 100000);
    buf_setlen(&b, 100000);
    assert_int_equal(b.data[100000], 0);
    char *out = buf_detach(&b);
    assert_int_equal(strlen(out), 100000);
    assert_null(b.data);
    free(out);
    out = buf_detach(&b); /* never NULL */
    assert_string_equal(out, "");
    free(out);
}

/* Growth at every boundary keeps the text and its NUL. */
static void test_growth(void **state)
{
    (void)state;
    for (size_t n = 0; n < 300; n++) {
        struct buf b = BUF_INIT;
        for (size_t i = 0; i < n; i++)
            buf_addch(&b, (char)('a' + i % 26));
        assert_int_equal(b.len, n);
        assert_int_equal(strlen(buf_str(&b)), n);
        buf_printf(&b, "%s", "end");
        assert_string_equal(b.data + n, "end");
        buf_release(&b);
    }
}

static void test_arena(void **state)
{
    (void)state;
    struct arena a = ARENA_INIT;
    char *p[500];
    for (size_t i = 0; i < 500; i++) {
        size_t n = i * 37 % 701 + (i == 250 ? 1 << 20 : 0);
        p[i] = arena_alloc(&a, n);
        assert_int_equal((uintptr_t)p[i] % 16, 0);
        for (size_t k = 0; k < n; k++)
            assert_int_equal(p[i][k], 0);
        memset(p[i], (int)(i & 0x7f), n);
    }
    for (size_t i = 0; i < 500; i++) {
        size_t n = i * 37 % 701;
        for (size_t k = 0; k < n; k++)
            assert_int_equal(p[i][k], i & 0x7f);
    }
    assert_string_equal(arena_printf(&a, "%s-%d", "x", 7), "x-7");
    assert_string_equal(arena_strdup(&a, ""), "");
    assert_string_equal(arena_strndup(&a, "hello", 2), "he");
    int64_t *q = arena_array(&a, 3, sizeof *q);
    assert_true(q[0] == 0 && q[2] == 0);
    arena_release(&a);
    arena_release(&a);
    assert_null(a.head);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_buf), cmocka_unit_test(test_growth), cmocka_unit_test(test_arena)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

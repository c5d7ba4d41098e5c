/* pipeline/base/map: against a plain list; order; keys with NUL; stored NULL. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "pipeline/base/map.h"

static void test_many(void **state)
{
    (void)state;
    enum { N = 5000 };
    static int values[N], others[N];
    struct map m = MAP_INIT;
    char key[32];
    assert_null(map_get(&m, "k"));
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof key, "model.layers.%d", i * 7919 % N);
        assert_null(map_put(&m, key, &values[i]));
    }
    assert_int_equal(m.count, N);
    for (int i = 0; i < N; i += 3) {
        snprintf(key, sizeof key, "model.layers.%d", i * 7919 % N);
        assert_ptr_equal(map_put(&m, key, &others[i]), &values[i]);
    }
    assert_int_equal(m.count, N);
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof key, "model.layers.%d", i * 7919 % N);
        assert_ptr_equal(map_get(&m, key), i % 3 ? &values[i] : &others[i]);
        assert_string_equal(m.entries[i].key, key); /* insertion order, replaced or not */
    }
    assert_null(map_get(&m, "model.layers.5000"));
    map_release(&m);
    assert_null(map_get(&m, "model.layers.1"));
    map_release(&m);
}

static void test_keys(void **state)
{
    (void)state;
    struct map m = MAP_INIT;
    int a, b, c;
    map_putn(&m, "x\0y", 3, &a);
    map_putn(&m, "x\0z", 3, &b);
    map_putn(&m, "", 0, &c);
    assert_null(map_get(&m, "x"));
    assert_ptr_equal(map_find(&m, "x\0y", 3)->value, &a);
    assert_ptr_equal(map_find(&m, "x\0z", 3)->value, &b);
    assert_ptr_equal(map_get(&m, ""), &c);
    map_put(&m, "null", NULL);
    assert_null(map_get(&m, "null"));
    assert_non_null(map_find(&m, "null", 4));
    assert_null(map_find(&m, "nul", 3));
    assert_int_equal(map_find(&m, "x\0y", 3)->key_len, 3);
    assert_int_equal(m.entries[0].key[3], 0);
    map_release(&m);
}

/* Keys that are prefixes of each other, so that neighbours in the table match in all bytes but length. */
static void test_prefixes(void **state)
{
    (void)state;
    enum { N = 2000 };
    static char text[N + 1];
    static int values[N + 1];
    struct map m = MAP_INIT;
    memset(text, 'a', N);
    for (size_t n = N; n; n--) /* the longer ones first: they then lie on the way to the shorter */
        assert_null(map_putn(&m, text, n, &values[n]));
    for (size_t n = 1; n <= N; n++)
        assert_ptr_equal(map_find(&m, text, n)->value, &values[n]);
    assert_int_equal(m.count, N);
    map_release(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_many), cmocka_unit_test(test_keys), cmocka_unit_test(test_prefixes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

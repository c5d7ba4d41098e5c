/* cache/hash: known answers, both digests in one pass, odd chunk sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/hash.h"
#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"

static char *dir;

static int setup(void **state)
{
    (void)state;
    return io_mkdtemp("/tmp", "gptqpipe-hash.", &dir, NULL);
}

static int teardown(void **state)
{
    (void)state;
    int rc = io_remove_tree(dir, NULL);
    free(dir);
    return rc;
}

/* FIPS 180-2 appendix B; XXH3 of nothing from the xxHash repository's sanity table. */
static void test_known(void **state)
{
    (void)state;
    char hex[HASH_HEX], x[HASH_XXH_HEX];
    hash_sha256("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    hash_sha256(NULL, 0, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    hash_xxh3("", 0, x);
    assert_string_equal(x, "99aa06d3014798d86001c324468d497f");
}

static void test_chunks(void **state)
{
    (void)state;
    enum { N = 700001 };
    unsigned char *p = xmalloc(N);
    for (size_t i = 0; i < N; i++)
        p[i] = (unsigned char)(i * 2654435761u >> 13);
    char sha[HASH_HEX], xxh[HASH_XXH_HEX];
    hash_sha256(p, N, sha);
    hash_xxh3(p, N, xxh);
    const size_t steps[] = {1000003, 1, 64, 4097};
    for (size_t s = 0; s < 4; s++) {
        struct hash_stream *h = hash_begin();
        for (size_t at = 0; at < N; at += steps[s])
            hash_update(h, p + at, steps[s] < N - at ? steps[s] : N - at);
        struct hash_digests d;
        hash_end(h, &d);
        assert_string_equal(d.sha256, sha);
        assert_string_equal(d.xxh3, xxh);
        assert_int_equal(d.bytes, N);
    }
    char *path = io_join(dir, "file");
    struct hash_digests d;
    assert_int_equal(io_write_file_atomic(path, p, N, NULL), 0);
    assert_int_equal(hash_file(path, &d, NULL), 0);
    assert_string_equal(d.sha256, sha);
    assert_int_equal(d.bytes, N);
    char x2[HASH_XXH_HEX];
    assert_int_equal(hash_file_xxh3(path, x2, NULL), 0);
    assert_string_equal(x2, xxh);
    free(path);
    free(p);
}

static void test_errors(void **state)
{
    (void)state;
    struct err e;
    struct hash_digests d;
    char *path = io_join(dir, "absent"), *want = xasprintf("cannot open %s/absent: No such file or directory", dir), x[HASH_XXH_HEX];
    assert_int_equal(hash_file(path, &d, &e), -ERR_NOTFOUND);
    assert_int_equal(e.code, ERR_NOTFOUND);
    assert_string_equal(e.text, want);
    assert_int_equal(hash_file_xxh3(path, x, &e), -ERR_NOTFOUND);
    free(want);
    want = xasprintf("%s is not a regular file", dir);
    assert_int_equal(hash_file(dir, &d, &e), -ERR_IO);
    assert_string_equal(e.text, want);
    /* A pipe without a writer is refused, not waited for. */
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(hash_file(path, &d, &e), -ERR_IO);
    free(want);
    free(path);
}

static void test_is_hex(void **state)
{
    (void)state;
    char s[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_true(hash_is_hex(s));
    assert_false(hash_is_hex(s + 1));
    assert_false(hash_is_xxh_hex(s));
    assert_true(hash_is_xxh_hex(s + 32));
    s[5] = 'A';
    assert_false(hash_is_hex(s));
    s[5] = 'g';
    assert_false(hash_is_hex(s));
    assert_false(hash_is_hex(""));
    assert_false(hash_is_hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ada"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_is_hex),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

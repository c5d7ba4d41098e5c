#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pipeline/base/io.h"
#include "stages/output.h"
#include "stages/stages.h"

static char *dir;

static int setup(void **state)
{
    (void)state;
    return io_mkdtemp("/tmp", "output.", &dir, NULL);
}

static int teardown(void **state)
{
    (void)state;
    io_remove_tree(dir, NULL);
    free(dir);
    return 0;
}

static char *at(const char *name)
{
    return io_join(dir, name);
}

static void add(struct fileset *f, const char *name, const char *text)
{
    char sha[65], *blob = at(name[0] == 'm' ? "blob-mark" : "blob-data");
    assert_int_equal(io_write_file_atomic(blob, text, strlen(text), NULL), 0);
    stage_sha256(text, strlen(text), sha);
    fileset_add(f, name, blob, sha, strlen(text));
    free(blob);
}

static void assert_file(const char *name, const char *text)
{
    char *path = at(name);
    struct buf b = BUF_INIT;
    assert_int_equal(io_read_file(path, 1000, &b, NULL), 0);
    assert_string_equal(buf_str(&b), text);
    buf_release(&b);
    free(path);
}

static void places_replaces_restores(void **state)
{
    (void)state;
    struct err e = {0};
    char *out = at("out"), *inner = at("out/data"), *stale = at("out/old");
    struct fileset f = FILESET_INIT;
    add(&f, "mark", "one");
    add(&f, "data", "abc");
    assert_int_equal(output_place(out, "mark", &f, &e), 0);
    assert_file("out/data", "abc");
    struct stat before, after;
    assert_int_equal(stat(inner, &before), 0);
    assert_int_equal(output_place(out, "mark", &f, &e), 0);
    assert_int_equal(stat(inner, &after), 0);
    assert_true(before.st_ino == after.st_ino); /* nothing was done */

    assert_int_equal(unlink(inner), 0);
    assert_int_equal(output_place(out, "mark", &f, &e), 0);
    assert_file("out/data", "abc");

    assert_int_equal(io_write_file_atomic(stale, "x", 1, NULL), 0);
    add(&f, "mark", "two");
    add(&f, "data", "wxyz");
    assert_int_equal(output_place(out, "mark", &f, &e), 0);
    assert_file("out/data", "wxyz");
    assert_false(io_exists(stale)); /* swapped as a whole */

    struct io_list l;
    assert_int_equal(io_list(dir, false, &l, NULL), 0);
    assert_int_equal(l.count, 2); /* the two blobs: no temporary file */
    io_list_release(&l);
    fileset_release(&f);
    free(out);
    free(inner);
    free(stale);
}

static void refuses_what_is_not_ours(void **state)
{
    (void)state;
    struct err e = {0};
    char *out = at("theirs"), *file = at("theirs/thesis.txt"), want[512];
    struct fileset f = FILESET_INIT;
    add(&f, "mark", "one");
    assert_int_equal(io_mkdirs(out, NULL), 0);
    assert_int_equal(output_check(out, "mark", &e), 0); /* empty is fine */
    assert_int_equal(io_write_file_atomic(file, "x", 1, NULL), 0);
    assert_int_equal(output_place(out, "mark", &f, &e), -ERR_MANIFEST);
    snprintf(want, sizeof want, "%s holds 1 files and no mark: it was not made by gptqpipe and is left alone", out);
    assert_string_equal(e.text, want);
    assert_file("theirs/thesis.txt", "x");
    assert_int_equal(output_check(file, "mark", &e), -ERR_MANIFEST);
    fileset_release(&f);
    free(out);
    free(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(places_replaces_restores, setup, teardown),
                                       cmocka_unit_test_setup_teardown(refuses_what_is_not_ours, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* pipeline/base/io: atomic writes, copies, listing order, paths; every error names its path. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"

static char *root;

static int setup(void **state)
{
    (void)state;
    return io_mkdtemp("/tmp", "gptqpipe-io.", &root, NULL);
}

static int teardown(void **state)
{
    (void)state;
    int rc = io_remove_tree(root, NULL);
    free(root);
    return rc;
}

static void put(const char *name, const char *text)
{
    char *path = io_join(root, name), *parent = io_dirname(path);
    struct err e = {0};
    assert_int_equal(io_mkdirs(parent, &e), 0);
    assert_int_equal(io_write_file_atomic(path, text, strlen(text), &e), 0);
    free(path);
    free(parent);
}

static void check_file(const char *path, const char *text)
{
    struct buf b = BUF_INIT;
    assert_int_equal(io_read_file(path, 1 << 20, &b, NULL), 0);
    assert_string_equal(buf_str(&b), text);
    buf_release(&b);
}

static size_t files_in(const char *dir)
{
    struct io_list l;
    assert_int_equal(io_list(dir, true, &l, NULL), 0);
    size_t n = l.count;
    io_list_release(&l);
    return n;
}

static void test_atomic(void **state)
{
    (void)state;
    char *dir = io_join(root, "atomic"), *path = io_join(dir, "f");
    struct err e = {0};
    struct io_atomic a;
    put("atomic/f", "old");
    assert_int_equal(io_atomic_open(&a, path, &e), 0);
    assert_int_equal(io_write(a.fd, "ne", 2, path, &e), 0);
    check_file(path, "old"); /* nobody sees a part */
    assert_int_equal(io_write(a.fd, "w", 1, path, &e), 0);
    assert_int_equal(io_atomic_commit(&a, &e), 0);
    check_file(path, "new");
    io_atomic_abort(&a); /* harmless after commit */
    assert_int_equal(io_atomic_open(&a, path, &e), 0);
    assert_int_equal(io_write(a.fd, "xx", 2, path, &e), 0);
    io_atomic_abort(&a);
    check_file(path, "new");
    assert_int_equal(files_in(dir), 1); /* no temporary file is left */
    /* A target that cannot be replaced: the error names both, nothing is left. */
    char *busy = io_join(dir, "busy");
    assert_int_equal(mkdir(busy, 0755), 0);
    assert_int_equal(io_write_file_atomic(busy, "x", 1, &e), -ERR_IO);
    char *want = xasprintf(" to %s: Is a directory", busy);
    assert_non_null(strstr(e.text, want));
    assert_int_equal(files_in(dir), 1);
    free(want);
    char *nowhere = io_join(root, "absent/f");
    assert_int_equal(io_write_file_atomic(nowhere, "x", 1, &e), -ERR_IO);
    assert_non_null(strstr(e.text, "cannot create "));
    assert_non_null(strstr(e.text, ": No such file or directory"));
    free(nowhere);
    free(busy);
    free(path);
    free(dir);
}

static void test_read_and_map(void **state)
{
    (void)state;
    char *path = io_join(root, "data"), *empty = io_join(root, "empty"), *absent = io_join(root, "absent"), *want;
    struct err e = {0};
    struct io_map m;
    struct buf b = BUF_INIT;
    put("data", "0123456789");
    put("empty", "");
    assert_int_equal(io_read_file(path, 10, &b, &e), 0);
    assert_int_equal(io_read_file(path, 10, &b, &e), 0); /* appends */
    assert_string_equal(b.data, "01234567890123456789");
    assert_int_equal(io_read_file(path, 9, &b, &e), -ERR_FORMAT);
    want = xasprintf("%s holds more than the 9 bytes allowed here", path);
    assert_string_equal(e.text, want);
    free(want);
    assert_int_equal(io_read_file(absent, 9, &b, &e), -ERR_NOTFOUND);
    assert_int_equal(e.code, ERR_NOTFOUND);
    want = xasprintf("cannot open %s: No such file or directory", absent);
    assert_string_equal(e.text, want);
    free(want);
    assert_int_equal(io_map(&m, root, &e), -ERR_IO);
    want = xasprintf("%s is not a regular file", root);
    assert_string_equal(e.text, want);
    free(want);
    assert_int_equal(io_map(&m, path, &e), 0);
    assert_int_equal(m.bytes, 10);
    assert_memory_equal(m.data, "0123456789", 10);
    io_map_drop(&m, 0, 10);
    io_unmap(&m);
    assert_int_equal(io_map(&m, empty, &e), 0);
    assert_null(m.data);
    assert_int_equal(m.bytes, 0);
    io_unmap(&m);
    char four[4];
    int fd = open(path, O_RDWR);
    assert_int_equal(io_pread(fd, four, 4, 6, path, &e), 0);
    assert_memory_equal(four, "6789", 4);
    assert_int_equal(io_pread(fd, four, 4, 7, path, &e), -ERR_IO);
    want = xasprintf("%s ends before byte 11", path);
    assert_string_equal(e.text, want);
    free(want);
    assert_int_equal(io_pwrite(fd, "ab", 2, 12, path, &e), 0);
    assert_int_equal(io_pread(fd, four, 4, 10, path, &e), 0);
    assert_memory_equal(four, "\0\0ab", 4);
    close(fd);
    assert_int_equal(io_pwrite(fd, "ab", 2, 12, path, &e), -ERR_IO);
    want = xasprintf("cannot write %s: Bad file descriptor", path);
    assert_string_equal(e.text, want);
    free(want);
    buf_release(&b);
    free(path);
    free(empty);
    free(absent);
}

static void test_copy(void **state)
{
    (void)state;
    char *from = io_join(root, "from"), *to = io_join(root, "to"), *want;
    struct err e = {0};
    struct buf b = BUF_INIT;
    struct stat st;
    for (int i = 0; i < 300000; i++)
        buf_printf(&b, "%d,", i);
    assert_int_equal(io_write_file_atomic(from, b.data, b.len, &e), 0);
    assert_int_equal(io_copy_file(from, to, 0444, &e), 0);
    struct buf got = BUF_INIT;
    assert_int_equal(io_read_file(to, 1 << 24, &got, &e), 0);
    assert_int_equal(got.len, b.len);
    assert_memory_equal(got.data, b.data, b.len);
    assert_int_equal(stat(to, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0444);
    assert_int_equal(io_copy_file(from, to, 0444, &e), -ERR_IO);
    want = xasprintf("cannot create %s: File exists", to);
    assert_string_equal(e.text, want);
    assert_int_equal(io_copy_file(root, to, 0444, &e), -ERR_IO);
    buf_release(&b);
    buf_release(&got);
    free(want);
    free(from);
    free(to);
}

static void test_list(void **state)
{
    (void)state;
    const char *const names[] = {"l/b", "l/a/z", "l/a.c", "l/a/b/c", "l/B", "l/.hidden", "l/.git/x", "l/\xc3\xa9", "l/a0"};
    const char *const order[] = {"B", "a.c", "a/b/c", "a/z", "a0", "b", "link", "\xc3\xa9"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        put(names[i], "x");
    char *dir = io_join(root, "l"), *link_path = io_join(dir, "link"), *loop = io_join(dir, "loop"), *dead = io_join(dir, "dead");
    assert_int_equal(symlink("b", link_path), 0);
    assert_int_equal(symlink(".", loop), 0); /* a link to a folder is not followed: no endless walk */
    assert_int_equal(symlink("nowhere", dead), 0);
    struct io_list l;
    assert_int_equal(io_list(dir, true, &l, NULL), 0);
    assert_int_equal(l.count, 8);
    for (size_t i = 0; i < 8; i++)
        assert_string_equal(l.names[i], order[i]);
    io_list_release(&l);
    assert_int_equal(io_list(dir, false, &l, NULL), 0);
    assert_int_equal(l.count, 6);
    io_list_release(&l);
    struct err e;
    char *absent = io_join(root, "absent"), *want = xasprintf("cannot open folder %s: No such file or directory", absent);
    assert_int_equal(io_list(absent, true, &l, &e), -ERR_IO);
    assert_string_equal(e.text, want);
    assert_int_equal(l.count, 0);
    free(absent);
    free(want);
    free(dir);
    free(link_path);
    free(loop);
    free(dead);
}

static void test_trees(void **state)
{
    (void)state;
    char *deep = io_join(root, "t/a/b/c"), *top = io_join(root, "t"), *keep = io_join(root, "keep"), *link_path = io_join(top, "out"),
         *want;
    struct err e = {0};
    assert_int_equal(io_mkdirs(deep, &e), 0);
    assert_int_equal(io_mkdirs(deep, &e), 0);
    assert_true(io_is_dir(deep));
    put("t/a/file", "x");
    put("keep/me", "x");
    assert_int_equal(symlink(keep, link_path), 0);
    assert_int_equal(io_remove_tree(top, &e), 0);
    assert_false(io_exists(top));
    check_file((want = io_join(keep, "me")), "x"); /* the link went, not what it points to */
    free(want);
    assert_int_equal(io_remove_tree(top, &e), 0);
    char *below = io_join(keep, "me/x");
    assert_int_equal(io_mkdirs(below, &e), -ERR_IO);
    want = xasprintf("cannot create folder %s: Not a directory", below);
    assert_string_equal(e.text, want);
    free(want);
    char *file = io_join(keep, "me");
    assert_int_equal(io_mkdirs(file, &e), -ERR_IO);
    want = xasprintf("cannot create folder %s: File exists", file);
    assert_string_equal(e.text, want);
    char *one, *two;
    assert_int_equal(io_mkdtemp(root, "x.", &one, &e), 0);
    assert_int_equal(io_mkdtemp(root, "x.", &two, &e), 0);
    assert_string_not_equal(one, two);
    free(one);
    free(two);
    free(want);
    free(file);
    free(below);
    free(deep);
    free(top);
    free(keep);
    free(link_path);
}

static void check_text(char *got, const char *want)
{
    assert_string_equal(got, want);
    free(got);
}

static void test_paths(void **state)
{
    (void)state;
    check_text(io_join("a", "b"), "a/b");
    check_text(io_join("a/", "b"), "a/b");
    check_text(io_join("", "b"), "b");
    check_text(io_join(".", "b"), "b");
    check_text(io_join("a", "/b"), "/b");
    check_text(io_join("a", ""), "a");
    check_text(io_dirname("a/b/c"), "a/b");
    check_text(io_dirname("/a"), "/");
    check_text(io_dirname("a"), ".");
    assert_string_equal(io_basename("a/b"), "b");
    assert_string_equal(io_basename("b"), "b");
    check_text(io_absolute("/a/./b//c/../d/"), "/a/b/d");
    check_text(io_absolute("/.."), "/");
    check_text(io_absolute("/../../x"), "/x");
    check_text(io_absolute("/"), "/");
    check_text(io_absolute("/..a/.b"), "/..a/.b");
    char cwd[4096], *want;
    assert_non_null(getcwd(cwd, sizeof cwd));
    check_text(io_absolute(""), cwd);
    check_text(io_absolute("."), cwd);
    want = io_join(cwd, "x");
    check_text(io_absolute("x"), want);
    check_text(io_absolute("y/../x"), want);
    free(want);
    want = io_dirname(cwd);
    check_text(io_absolute(".."), want);
    free(want);
    assert_int_equal(chdir("/"), 0);
    check_text(io_absolute("x"), "/x");
    check_text(io_absolute("."), "/");
    assert_int_equal(chdir(cwd), 0);
}

static void test_machine(void **state)
{
    (void)state;
    assert_true(io_memory_bytes() > 1 << 20);
    assert_true(io_peak_rss_bytes() > 1 << 16);
    uint64_t a = io_monotonic_ns(), b = io_monotonic_ns();
    assert_true(b >= a);
    assert_true(io_now_ns() > 1700000000ull * 1000000000ull);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_atomic), cmocka_unit_test(test_read_and_map), cmocka_unit_test(test_copy),    cmocka_unit_test(test_list),
        cmocka_unit_test(test_trees),  cmocka_unit_test(test_paths),        cmocka_unit_test(test_machine),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

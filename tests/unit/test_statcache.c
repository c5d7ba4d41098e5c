/* cache/statcache: what is read, what is trusted, and what several processes leave behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/statcache.h"
#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"

static char *dir, *file;

static int setup(void **state)
{
    (void)state;
    int rc = io_mkdtemp("/tmp", "gptqpipe-stat.", &dir, NULL);
    if (!rc)
        file = io_join(dir, "input");
    return rc;
}

static int teardown(void **state)
{
    (void)state;
    int rc = io_remove_tree(dir, NULL);
    free(dir);
    free(file);
    return rc;
}

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(io_write(fd, text, strlen(text), path, NULL), 0);
    close(fd);
}

/* Whether the file was read, and that its digest is the text's. */
static bool ask(struct statcache *c, const char *path, const char *text)
{
    struct hash_digests d;
    bool hashed;
    char want[HASH_HEX];
    hash_sha256(text, strlen(text), want);
    assert_int_equal(statcache_file(c, path, &d, &hashed, NULL), 0);
    assert_string_equal(d.sha256, want);
    assert_int_equal(d.bytes, strlen(text));
    return hashed;
}

/* ctime cannot be set, so a test that wants an old file waits. One wait serves all files made before. */
static void grow_old(void)
{
    usleep(2200000);
}

static struct statcache *open_cache(void)
{
    struct statcache *c;
    struct err e = {0};
    assert_int_equal(statcache_open(dir, &c, &e), 0);
    return c;
}

static void test_remembers(void **state)
{
    (void)state;
    put(file, "hello");
    struct statcache *c = open_cache();
    assert_true(ask(c, file, "hello"));
    assert_true(ask(c, file, "hello")); /* too fresh to be trusted */
    grow_old();
    assert_true(ask(c, file, "hello"));
    assert_false(ask(c, file, "hello"));
    statcache_close(c);
    c = open_cache();
    assert_false(ask(c, file, "hello"));
    statcache_close(c);
    struct stat st;
    char *db = io_join(dir, "stat.db");
    assert_int_equal(stat(db, &st), 0);
    assert_true(st.st_size < 300);
    free(db);
}

/* An edit of the same length whose mtime is set back: only ctime tells. And one within the clock's grain of the hashing. */
static void test_sly_edits(void **state)
{
    (void)state;
    struct statcache *c = open_cache();
    put(file, "aaaaa");
    grow_old();
    assert_true(ask(c, file, "aaaaa"));
    assert_false(ask(c, file, "aaaaa"));
    struct stat st;
    assert_int_equal(stat(file, &st), 0);
    put(file, "bbbbb");
    assert_int_equal(utimensat(AT_FDCWD, file, (struct timespec[]){st.st_atim, st.st_mtim}, 0), 0);
    assert_true(ask(c, file, "bbbbb"));
    put(file, "ccccc");
    assert_true(ask(c, file, "ccccc"));
    put(file, "ddddd");
    assert_true(ask(c, file, "ddddd"));
    /* mtime in the future: never trusted. */
    assert_int_equal(utimensat(AT_FDCWD, file,
                               (struct timespec[]){
                                   {4102444800, 0},
                                   {4102444800, 0}
    },
                               0),
                     0);
    grow_old();
    assert_true(ask(c, file, "ddddd"));
    assert_true(ask(c, file, "ddddd"));
    /* Another file under the same name. */
    char *other = io_join(dir, "other");
    put(other, "eeeee");
    assert_int_equal(rename(other, file), 0);
    assert_true(ask(c, file, "eeeee"));
    free(other);
    statcache_close(c);
}

static void test_recheck(void **state)
{
    (void)state;
    struct statcache *c = open_cache();
    struct hash_digests d;
    struct err e;
    put(file, "hello");
    assert_int_equal(statcache_file(c, file, &d, NULL, NULL), 0);
    assert_int_equal(statcache_recheck(c, file, &d, &e), 0);
    put(file, "hello"); /* other times, same bytes */
    assert_int_equal(statcache_recheck(c, file, &d, &e), 0);
    put(file, "hellO");
    assert_int_equal(statcache_recheck(c, file, &d, &e), -ERR_STALE);
    char now[HASH_HEX];
    hash_sha256("hellO", 5, now);
    char *want = xasprintf("input %s changed during the run: SHA-256 was %s, is now %s", file, d.sha256, now);
    assert_string_equal(e.text, want);
    assert_int_equal(e.code, ERR_STALE);
    free(want);
    unlink(file);
    assert_int_equal(statcache_recheck(c, file, &d, &e), -ERR_STALE);
    want = xasprintf("input %s is gone: it was there when the run began", file);
    assert_string_equal(e.text, want);
    free(want);
    assert_int_equal(statcache_file(c, file, &d, NULL, &e), -ERR_NOTFOUND);
    assert_int_equal(e.code, ERR_NOTFOUND);
    want = xasprintf("cannot open %s: No such file or directory", file);
    assert_string_equal(e.text, want);
    free(want);
    want = xasprintf("%s is not a regular file", dir);
    assert_int_equal(statcache_file(c, dir, &d, NULL, &e), -ERR_IO);
    assert_string_equal(e.text, want);
    free(want);
    statcache_close(c);
}

/* Two tables opened before either saved: each keeps what the other learnt. Then every way to damage the file costs only speed. */
static void test_merge_and_damage(void **state)
{
    (void)state;
    char *second = io_join(dir, "second"), *db = io_join(dir, "stat.db");
    put(file, "one");
    put(second, "two");
    grow_old();
    struct statcache *a = open_cache(), *b = open_cache();
    assert_true(ask(a, file, "one"));
    assert_true(ask(b, second, "two"));
    statcache_close(a);
    assert_int_equal(statcache_save(b, NULL), 0);
    statcache_close(b);
    a = open_cache();
    assert_false(ask(a, file, "one"));
    assert_false(ask(a, second, "two"));
    statcache_close(a);
    struct buf text = BUF_INIT;
    assert_int_equal(io_read_file(db, 1 << 20, &text, NULL), 0);
    for (size_t i = 0; i < text.len; i++) {
        text.data[i] ^= 1;
        assert_int_equal(io_write_file_atomic(db, text.data, text.len, NULL), 0);
        a = open_cache();
        assert_true(ask(a, file, "one"));
        /* Not saved: the entry is dropped with the process that dies here. */
        unlink(db);
        assert_int_equal(mkdir(db, 0700), 0);
        statcache_close(a);
        assert_int_equal(rmdir(db), 0);
        text.data[i] ^= 1;
        assert_int_equal(io_write_file_atomic(db, text.data, i, NULL), 0);
        a = open_cache();
        assert_true(ask(a, file, "one"));
        unlink(db);
        assert_int_equal(mkdir(db, 0700), 0);
        statcache_close(a);
        assert_int_equal(rmdir(db), 0);
    }
    buf_release(&text);
    free(second);
    free(db);
}

static void test_errors(void **state)
{
    (void)state;
    struct statcache *c;
    struct err e;
    char *absent = io_join(dir, "absent"), *want = xasprintf("cache folder %s does not exist", absent), *db = io_join(dir, "stat.db");
    assert_int_equal(statcache_open(absent, &c, &e), -ERR_NOTFOUND);
    assert_string_equal(e.text, want);
    free(want);
    /* A table that cannot be written: save says so, close does not mind. */
    put(file, "three");
    grow_old();
    c = open_cache();
    assert_true(ask(c, file, "three"));
    unlink(db);
    assert_int_equal(mkdir(db, 0700), 0);
    assert_int_equal(statcache_save(c, &e), -ERR_IO);
    assert_non_null(strstr(e.text, "cannot rename "));
    assert_non_null(strstr(e.text, "stat.db: Is a directory"));
    statcache_close(c);
    rmdir(db);
    free(absent);
    free(db);
}

struct job {
    struct statcache *c;
    int n;
};

static char *nth(int i)
{
    return xasprintf("%s/many.%d", dir, i);
}

static void *ask_many(void *arg)
{
    struct job *j = arg;
    for (int i = 0; i < 16; i++) {
        char *path = nth((i + j->n) % 16), text[16];
        snprintf(text, sizeof text, "%d", (i + j->n) % 16);
        struct hash_digests d;
        char want[HASH_HEX];
        hash_sha256(text, strlen(text), want);
        if (statcache_file(j->c, path, &d, NULL, NULL) || strcmp(d.sha256, want) || statcache_save(j->c, NULL))
            return arg;
        free(path);
    }
    return NULL;
}

static void test_threads_and_processes(void **state)
{
    (void)state;
    for (int i = 0; i < 16; i++) {
        char *path = nth(i), text[16];
        snprintf(text, sizeof text, "%d", i);
        put(path, text);
        free(path);
    }
    grow_old();
    pid_t kids[4];
    for (int k = 0; k < 4; k++) {
        kids[k] = fork();
        if (kids[k] == 0) {
            struct statcache *c;
            struct job j = {NULL, 3 * k};
            if (statcache_open(dir, &c, NULL))
                _exit(1);
            j.c = c;
            _exit(ask_many(&j) ? 1 : 0);
        }
    }
    for (int k = 0; k < 4; k++) {
        int status = 1;
        waitpid(kids[k], &status, 0);
        assert_int_equal(status, 0);
    }
    struct statcache *c = open_cache();
    pthread_t ids[4];
    struct job jobs[4];
    for (int t = 0; t < 4; t++) {
        jobs[t] = (struct job){c, 5 * t};
        assert_int_equal(pthread_create(&ids[t], NULL, ask_many, &jobs[t]), 0);
    }
    for (int t = 0; t < 4; t++) {
        void *failed = &jobs[t];
        pthread_join(ids[t], &failed);
        assert_null(failed);
    }
    statcache_close(c);
    c = open_cache();
    for (int i = 0; i < 16; i++) {
        char *path = nth(i), text[16];
        snprintf(text, sizeof text, "%d", i);
        assert_false(ask(c, path, text));
        free(path);
    }
    statcache_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_remembers),        cmocka_unit_test(test_sly_edits), cmocka_unit_test(test_recheck),
        cmocka_unit_test(test_merge_and_damage), cmocka_unit_test(test_errors),    cmocka_unit_test(test_threads_and_processes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

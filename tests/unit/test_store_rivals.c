/* cache/store: several publishers at once, and file systems that are read-only, full or elsewhere. */
#include <pthread.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/unit/store_test.h"

struct rival {
    const char *dir, *text;
    struct store *s;
    int rc;
    struct err e;
};

static void *rival_run(void *arg)
{
    struct rival *v = arg;
    for (int i = 0; i < 20 && !v->rc; i++) {
        char name[16];
        snprintf(name, sizeof name, "key%d", i);
        v->rc = publish(v->s, name, v->text, false, &v->e);
        enum store_miss miss = STORE_NO_RECORD;
        if (!v->rc)
            v->rc = get(v->s, name, true, &miss, NULL, &v->e);
        if (!v->rc && miss != STORE_HIT)
            v->rc = err_set(&v->e, ERR_FAIL, "published and not there");
    }
    return NULL;
}

/* The same keys published by threads of two stores and by processes at once: everyone succeeds, one answer is kept. */
static void test_concurrent_same(void **state)
{
    (void)state;
    char *dir = fresh();
    pid_t kids[3];
    for (int k = 0; k < 3; k++) {
        kids[k] = fork();
        if (kids[k] == 0) {
            struct rival v = {dir, "answer", NULL, 0, {0}};
            if (store_open(dir, &v.s, &v.e)) /* the first opening races as well */
                _exit(2);
            rival_run(&v);
            _exit(v.rc ? 1 : 0);
        }
    }
    struct store *s = open_store(dir), *t = open_store(dir);
    pthread_t ids[4];
    struct rival rivals[4];
    for (int i = 0; i < 4; i++) {
        rivals[i] = (struct rival){dir, "answer", i & 1 ? s : t, 0, {0}};
        assert_int_equal(pthread_create(&ids[i], NULL, rival_run, &rivals[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(ids[i], NULL);
        assert_string_equal(rivals[i].e.text, "");
    }
    for (int k = 0; k < 3; k++) {
        int status = 1;
        waitpid(kids[k], &status, 0);
        assert_int_equal(status, 0);
    }
    struct store_verify v;
    struct buf said = BUF_INIT;
    assert_int_equal(store_verify(s, false, line, &said, &v, NULL), 0);
    assert_string_equal(buf_str(&said), "");
    assert_int_equal(v.records, 20);
    assert_int_equal(v.blobs, 1);
    assert_int_equal(count(dir, "tmp"), 0);
    assert_int_equal(count(dir, "quarantine"), 0);
    buf_release(&said);
    store_close(s);
    store_close(t);
    free(dir);
}

/* Two answers at once: for each key one publisher wins, the other is told, and the winner's record stands. */
static void test_concurrent_different(void **state)
{
    (void)state;
    char *dir = fresh();
    struct store *s = open_store(dir);
    for (int round = 0; round < 10; round++) {
        char name[16];
        snprintf(name, sizeof name, "round%d", round);
        pid_t kids[2];
        for (int k = 0; k < 2; k++) {
            kids[k] = fork();
            if (kids[k] == 0) {
                int rc = publish(s, name, k ? "left" : "right", false, NULL);
                _exit(rc == 0 ? 0 : rc == -ERR_INTEGRITY ? 10 : 1);
            }
        }
        int won = 0, told = 0;
        for (int k = 0; k < 2; k++) {
            int status = 1;
            waitpid(kids[k], &status, 0);
            won += WIFEXITED(status) && WEXITSTATUS(status) == 0;
            told += WIFEXITED(status) && WEXITSTATUS(status) == 10;
        }
        assert_int_equal(won, 1);
        assert_int_equal(told, 1);
        check_get(s, name, true, STORE_HIT, "");
    }
    store_close(s);
    free(dir);
}

static void test_read_only(void **state)
{
    (void)state;
    if (geteuid())
        skip();
    char *dir = fresh(), *out;
    struct store *s = open_store(dir);
    struct err e = {0};
    assert_int_equal(publish(s, "n", "text", false, NULL), 0);
    store_close(s);
    char *absent = io_join(dir, "quarantine"); /* a folder that cannot be made there */
    assert_int_equal(rmdir(absent), 0);
    free(absent);
    if (mount(dir, dir, NULL, MS_BIND, NULL) || mount(NULL, dir, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL)) {
        print_message("cannot make a read-only mount here\n");
        umount(dir);
        free(dir);
        skip();
    }
    /* Reading works. Nothing is asserted before the mount is gone again. */
    enum store_miss miss = STORE_NO_RECORD;
    int opened = store_open(dir, &s, &e), got = -1, begun = -1;
    if (!opened) {
        got = get(s, "n", true, &miss, NULL, &e);
        begun = store_begin(s, &out, &e);
        store_close(s);
    }
    umount(dir);
    char *want = xasprintf("cannot create a folder in %s/tmp: Read-only file system", dir);
    assert_int_equal(opened, 0);
    assert_int_equal(got, 0);
    assert_int_equal(miss, STORE_HIT);
    assert_int_equal(begun, -ERR_IO);
    assert_string_equal(e.text, want);
    free(want);
    free(dir);
}

/* A file system of 64 pages, filled so that every amount of room from none to enough is met once. */
static void test_disk_full(void **state)
{
    (void)state;
    if (geteuid())
        skip();
    char *dir = fresh();
    if (mount("tmpfs", dir, "tmpfs", 0, "size=256k")) {
        print_message("cannot mount a tmpfs here\n");
        free(dir);
        skip();
    }
    char *big = xcalloc(1, 5 * 4096 + 1), *filler = io_join(dir, "tmp/filler");
    memset(big, 'x', 5 * 4096);
    struct store *s = NULL;
    int failed = 0, stored = 0, unnamed = 0, broken = store_open(dir, &s, NULL) || publish(s, "first", "text", false, NULL);
    for (int pages = 0; !broken && pages < 20 && !stored; pages++) {
        struct err e = {0};
        int fd = open(filler, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        while (write(fd, big, 4096) == 4096)
            ;
        off_t full = lseek(fd, 0, SEEK_END);
        if (ftruncate(fd, full - pages * 4096L))
            broken++;
        close(fd);
        /* The outputs themselves are the stage's; here only what publishing adds may fail. */
        int rc = publish(s, "n", big, false, &e);
        failed += rc != 0;
        stored += rc == 0;
        unnamed += rc && !strstr(e.text, dir);
        unlink(filler);
        struct store_verify v;
        broken += store_verify(s, false, NULL, NULL, &v, NULL) || v.bad_records || v.bad_blobs || v.missing_blobs;
        enum store_miss miss = STORE_NO_RECORD;
        broken += get(s, "first", true, &miss, NULL, NULL) || miss != STORE_HIT;
    }
    char *tmp = io_join(dir, "tmp");
    bool left = rmdir(tmp) != 0; /* fails when anything is in it */
    free(tmp);
    store_close(s);
    umount(dir);
    assert_true(failed > 3);
    assert_int_equal(stored, 1);
    assert_int_equal(unnamed, 0);
    assert_int_equal(broken, 0);
    assert_false(left);
    free(filler);
    free(big);
    free(dir);
}

/* The publisher's folder on another file system: copied into the store, then linked. */
static void test_other_file_system(void **state)
{
    (void)state;
    char *dir = fresh(), *out;
    struct stat a, b;
    if (stat(dir, &a) || stat("/dev/shm", &b) || a.st_dev == b.st_dev || access("/dev/shm", W_OK)) {
        free(dir);
        skip();
    }
    struct store *s = open_store(dir);
    struct record r = node("n");
    struct err e = {0};
    assert_int_equal(io_mkdtemp("/dev/shm", "gptqpipe-store.", &out, NULL), 0);
    write_file(out, "x/y", "far away");
    assert_int_equal(store_publish(s, out, &r, false, &e), 0);
    assert_string_equal(e.text, "");
    assert_false(io_exists(out));
    check_get(s, "n", true, STORE_HIT, "");
    assert_int_equal(count(dir, "tmp"), 0);
    record_release(&r);
    store_close(s);
    free(out);
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_concurrent_same), cmocka_unit_test(test_concurrent_different), cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_disk_full),       cmocka_unit_test(test_other_file_system),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

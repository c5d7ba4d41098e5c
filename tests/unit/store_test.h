/* One store in a folder of its own below `root`, and nodes with two outputs, for tests of cache/store. */
#ifndef TESTS_UNIT_STORE_TEST_H
#define TESTS_UNIT_STORE_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/store.h"
#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"

static char *root;

static int write_file_err(const char *dir, const char *name, const char *text, struct err *e)
{
    char *path = io_join(dir, name), *parent = io_dirname(path);
    int rc = io_mkdirs(parent, e), fd = -1;
    if (!rc && (fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644)) < 0)
        rc = err_sys(e, errno, "cannot create %s", path);
    if (!rc)
        rc = io_write(fd, text, strlen(text), path, e);
    if (fd >= 0)
        close(fd);
    free(path);
    free(parent);
    return rc;
}

static int write_file(const char *dir, const char *name, const char *text)
{
    return write_file_err(dir, name, text, NULL);
}

/* A record for the node `name`, as the pipeline would make it. */
static struct record node(const char *name)
{
    struct record r = RECORD_INIT;
    r.preimage = xasprintf("{\"node\":\"%s\"}", name);
    hash_sha256(r.preimage, strlen(r.preimage), r.key);
    r.created_unix_s = 1700000000;
    r.metrics = json_pack("{s:f}", "loss", 0.25);
    return r;
}

/* Publishes `a` and `sub/b`, both holding text. */
static int publish(struct store *s, const char *name, const char *text, bool replace, struct err *e)
{
    char *dir = NULL;
    int rc = store_begin(s, &dir, e);
    if (rc)
        return rc;
    struct record r = node(name);
    rc = write_file_err(dir, "a", text, e);
    if (!rc)
        rc = write_file_err(dir, "sub/b", text, e);
    if (!rc)
        rc = store_publish(s, dir, &r, replace, e);
    if (rc)
        store_discard(s, dir);
    record_release(&r);
    free(dir);
    return rc;
}

static int get(struct store *s, const char *name, bool content, enum store_miss *miss, struct buf *why, struct err *e)
{
    struct record r = node(name), found;
    if (why)
        buf_clear(why);
    int rc = store_get(s, r.key, content, &found, miss, why, e);
    record_release(&r);
    record_release(&found);
    return rc;
}

static void check_get(struct store *s, const char *name, bool content, enum store_miss want, const char *want_why)
{
    enum store_miss miss;
    struct buf why = BUF_INIT;
    struct err e = {0};
    assert_int_equal(get(s, name, content, &miss, &why, &e), 0);
    assert_string_equal(buf_str(&why), want_why);
    assert_int_equal(miss, want);
    buf_release(&why);
}

static char *fresh(void)
{
    char *dir;
    assert_int_equal(io_mkdtemp(root, "cache.", &dir, NULL), 0);
    return dir;
}

static struct store *open_store(const char *dir)
{
    struct store *s = NULL;
    struct err e = {0};
    int rc = store_open(dir, &s, &e);
    assert_string_equal(e.text, "");
    assert_int_equal(rc, 0);
    return s;
}

static size_t count(const char *dir, const char *name)
{
    char *path = io_join(dir, name);
    struct io_list l;
    assert_int_equal(io_list(path, true, &l, NULL), 0);
    size_t n = l.count;
    io_list_release(&l);
    free(path);
    return n;
}

static void line(void *arg, const char *text)
{
    buf_printf(arg, "%s\n", text);
}
static int setup(void **state)
{
    (void)state;
    return io_mkdtemp("/tmp", "gptqpipe-store.", &root, NULL);
}

static int teardown(void **state)
{
    (void)state;
    int rc = io_remove_tree(root, NULL);
    free(root);
    return rc;
}

#endif

/* Shared by the tests of stages/lm: where the shared models are, temporary folders, error checks. */
#ifndef TESTS_UNIT_LM_TEST_H
#define TESTS_UNIT_LM_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pipeline/base/err.h"
#include "pipeline/base/fileset.h"
#include "pipeline/base/io.h"

/* The shared folder's file (static memory), or NULL after a message when it is not there: then skip(). */
static inline const char *shared_path(const char *name)
{
    static char path[1024];
    const char *root = getenv("GPTQPIPE_SHARED");
    snprintf(path, sizeof path, "%s/%s", root ? root : "../shared", name);
    if (io_exists(path))
        return path;
    print_message("skip: %s is not there\n", path);
    return NULL;
}

#define NEED_SHARED(var, name)                                                                                                             \
    const char *var = shared_path(name);                                                                                                   \
    if (!var)                                                                                                                              \
    skip()

#define OK(call)                                                                                                                           \
    do {                                                                                                                                   \
        int ok_rc = (call);                                                                                                                \
        if (ok_rc)                                                                                                                         \
            fail_msg("%s: %d: %s", #call, ok_rc, err.text);                                                                                \
    } while (0)

/* The call fails with this code and its text holds this. */
#define FAILS(call, want, piece)                                                                                                           \
    do {                                                                                                                                   \
        err = (struct err){0};                                                                                                             \
        assert_int_equal((call), -(want));                                                                                                 \
        assert_int_equal(err.code, want);                                                                                                  \
        if (!strstr(err.text, piece))                                                                                                      \
            fail_msg("error '%s' does not hold '%s'", err.text, piece);                                                                    \
    } while (0)

static char test_dir[64];

static inline void dir_make(void)
{
    snprintf(test_dir, sizeof test_dir, "/tmp/gptqpipe-test-XXXXXX");
    assert_non_null(mkdtemp(test_dir));
}

static inline void dir_remove(void)
{
    assert_int_equal(io_remove_tree(test_dir, NULL), 0);
}

static inline const char *dir_file(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", test_dir, name);
    return path;
}

static inline void dir_write(const char *name, const void *p, size_t bytes)
{
    assert_int_equal(io_write_file_atomic(dir_file(name), p, bytes, NULL), 0);
}

#endif

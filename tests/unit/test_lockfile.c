/* The lock file: its text, what it refuses, comparing, keeping, writing only what changed; and `lock` of a project. */
#include "pipe_test.h"

#define A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static const char text_of_two[] =
    "{\n  \"version\": 1,\n  \"numerics\": \"cpu\",\n  \"stages\": {\n    \"a\": {\n      \"x\\\"y\": {\"sha256\": \"" A
    "\", \"bytes\": 1},\n"
    "      \"z/z\": {\"sha256\": \"" B "\", \"bytes\": 5000000000}\n    },\n    \"b\": {\n    }\n  }\n}\n";

static char *path;

static int setup(void **state)
{
    fake_config = (struct pipeline_config){.threads = 1, .jobs = 1};
    make_root(state);
    path = at("gptqpipe.lock");
    return 0;
}

static int teardown(void **state)
{
    free(path);
    return drop_root(state);
}

static struct fileset two_files(void)
{
    struct fileset f = FILESET_INIT;
    fileset_add(&f, "z/z", "/nowhere/z", B, 5000000000);
    fileset_add(&f, "x\"y", "/nowhere/x", A, 1);
    return f;
}

static void written_and_read_back(void **state)
{
    (void)state;
    struct lockfile l;
    struct err e;
    struct fileset f = two_files(), none = FILESET_INIT;
    struct lock_difference d;
    assert_int_equal(lockfile_load(&l, path, &e), 0);
    assert_false(l.exists);
    lockfile_set(&l, "b", &none);
    lockfile_set(&l, "a", &f);
    lockfile_set_numerics(&l, "cpu");
    assert_int_equal(lockfile_write(&l, &e), 0);
    lockfile_release(&l);
    char *text = get("gptqpipe.lock");
    assert_string_equal(text, text_of_two);
    free(text);
    assert_int_equal(lockfile_load(&l, path, &e), 0);
    assert_true(l.exists);
    lockfile_compare(&l, "a", &f, &d);
    assert_int_equal(d.state, LOCK_SAME);
    lockfile_compare(&l, "c", &f, &d);
    assert_int_equal(d.state, LOCK_ABSENT);
    struct stat before, after;
    assert_int_equal(stat(path, &before), 0);
    assert_int_equal(lockfile_write(&l, &e), 0);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    lockfile_release(&l);
    fileset_release(&f);
}

static void the_first_difference_is_named(void **state)
{
    (void)state;
    struct lockfile l;
    struct err e;
    struct fileset f = two_files();
    struct lock_difference d;
    put("gptqpipe.lock", text_of_two);
    assert_int_equal(lockfile_load(&l, path, &e), 0);
    fileset_add(&f, "z/z", "p", A, 2);
    lockfile_compare(&l, "a", &f, &d);
    assert_int_equal(d.state, LOCK_DIFFERS);
    assert_string_equal(d.file, "z/z");
    assert_string_equal(d.was, B);
    assert_string_equal(d.is, A);
    free(d.file);
    fileset_add(&f, "k", "p", A, 2); /* one more, before the others */
    lockfile_compare(&l, "a", &f, &d);
    assert_string_equal(d.file, "k");
    assert_string_equal(d.was, "absent");
    free(d.file);
    fileset_release(&f);
    lockfile_compare(&l, "a", &f, &d); /* all gone */
    assert_string_equal(d.file, "x\"y");
    assert_string_equal(d.is, "absent");
    free(d.file);
    lockfile_release(&l);
}

static void damaged_and_newer_locks_are_refused(void **state)
{
    (void)state;
    static const char *const table[][2] = {
        {"{\"version\": 2, \"stages\": {}}",                                                       "version 2 is newer than this program's 1"  },
        {"{}",                                                                                     "no version: not a lock file"               },
        {"[]",                                                                                     "no version: not a lock file"               },
        {"{\"version\": 1}",                                                                       "not a lock file"                           },
        {"{\"version\": 1, \"numerics\": 3, \"stages\": {}}",                                      "not a lock file"                           },
        {"{\"version\": 1, \"stages\": {\"a\": 1}}",                                               "stage 'a' is no table of files"            },
        {"{\"version\": 1, \"stages\": {\"a\": {\"f\": {\"sha256\": \"12\", \"bytes\": 1}}}}",
         "stage 'a': file 'f' needs sha256 and bytes"                                                                                          },
        {"{\"version\": 1, \"stages\": {\"a\": {\"f\": {\"sha256\": \"" A "\"}}}}",                "stage 'a': file 'f' needs sha256 and bytes"},
        {"{\"version\": 1, \"stages\": {\"a\": {\"f\": {\"sha256\": \"" A "\", \"bytes\": -1}}}}",
         "stage 'a': file 'f' needs sha256 and bytes"                                                                                          },
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct lockfile l;
        struct err e;
        put("gptqpipe.lock", table[i][0]);
        assert_int_equal(lockfile_load(&l, path, &e), -ERR_LOCK);
        char *want = xasprintf("%s: %s", path, table[i][1]);
        assert_string_equal(e.text, want);
        free(want);
    }
    struct lockfile l;
    struct err e;
    put("gptqpipe.lock", "{\n<<<<<<< HEAD\n");
    assert_int_equal(lockfile_load(&l, path, &e), -ERR_LOCK);
    assert_int_equal(e.code, ERR_LOCK);
    assert_int_equal(e.line, 2);
}

static char said[2048];

static void hear(void *arg, const char *line)
{
    (void)arg;
    snprintf(said + strlen(said), sizeof said - strlen(said), "%s|", line);
}

static int lock(const char *update, bool check, bool *differs, struct err *e)
{
    struct pipeline *p = open_project();
    said[0] = 0;
    int rc = pipeline_lock(p, update, check, differs, hear, NULL, e);
    close_project(p);
    return rc;
}

static void lock_of_a_project(void **state)
{
    (void)state;
    struct err e;
    bool differs;
    assert_int_equal(lock(NULL, true, &differs, &e), 0);
    assert_true(differs);
    char *text = get("gptqpipe.lock");
    assert_string_equal(text, "(absent)"); /* --check writes nothing */
    free(text);
    assert_int_equal(lock(NULL, false, &differs, &e), 0);
    assert_string_equal(said, "model: not in the lock|text: not in the lock|");
    assert_int_equal(lock(NULL, true, &differs, &e), 0);
    assert_false(differs);
    put("text.txt", "new");
    put("model.txt", "new");
    assert_int_equal(lock("text", false, &differs, &e), 0);
    assert_true(differs);
    assert_non_null(strstr(said, "text: text.txt: locked 9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab, found "));
    assert_null(strstr(said, "model"));
    assert_int_equal(lock(NULL, true, &differs, &e), 0);
    assert_true(differs);
    assert_non_null(strstr(said, "model: model.txt: locked "));
    assert_int_equal(lock("txt", false, &differs, &e), -ERR_USAGE);
    assert_string_equal(e.text, "--update txt: the manifest has no such source (did you mean 'text'?)");
    assert_int_equal(lock("w4", false, &differs, &e), -ERR_USAGE);
    assert_string_equal(e.text, "--update w4: the manifest has no such source");
}

static void a_stage_that_is_gone_leaves_the_lock(void **state)
{
    (void)state;
    struct err e;
    bool differs;
    assert_int_equal(lock(NULL, false, &differs, &e), 0);
    put("manifest.yaml", "version: 1\nstages:\n  text: { fetch: { file: text.txt } }\n");
    assert_int_equal(lock(NULL, false, &differs, &e), 0);
    char *text = get("gptqpipe.lock");
    assert_null(strstr(text, "\"model\""));
    assert_non_null(strstr(text, "\"text\""));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(written_and_read_back, setup, teardown),
        cmocka_unit_test_setup_teardown(the_first_difference_is_named, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_and_newer_locks_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(lock_of_a_project, setup, teardown),
        cmocka_unit_test_setup_teardown(a_stage_that_is_gone_leaves_the_lock, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* cache/store: publishing, reading and damage; several at once are in test_store_rivals.c. With arguments it is the helper of tests/fault/store.t:
 *
 *     test_store publish DIR NAME TEXT     publishes one node with outputs a and sub/b (both TEXT); prints "ok" or the error
 *     test_store get DIR NAME              prints "hit", or the miss and why
 *     test_store verify DIR                prints each defect and the counters */
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "cache/tmpdir.h"
#include "tests/unit/store_test.h"

static void sha(const char *text, char hex[HASH_HEX])
{
    hash_sha256(text, strlen(text), hex);
}

/* Overwrites a 0444 blob in place, as failing hardware would. */
static void spoil(const char *path, const char *text)
{
    assert_int_equal(chmod(path, 0644), 0);
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_true(fd >= 0);
    assert_int_equal(io_write(fd, text, strlen(text), path, NULL), 0);
    close(fd);
    assert_int_equal(chmod(path, 0444), 0);
}

/* ---- */

static void test_round_trip(void **state)
{
    (void)state;
    char *dir = fresh();
    struct store *s = open_store(dir);
    struct record r = node("n"), found;
    enum store_miss miss;
    char *out, hex[HASH_HEX];
    struct buf why = BUF_INIT;
    check_get(s, "n", false, STORE_NO_RECORD, "no record of key f68a778627d2c0fe62527629abbd2febd9bc9504faeecacd79608e08f372a6ee");
    assert_int_equal(store_begin(s, &out, NULL), 0);
    write_file(out, "z", "same");
    write_file(out, "a/b/c", "other");
    write_file(out, "a.b", "same");
    write_file(out, ".hidden", "");
    assert_int_equal(store_publish(s, out, &r, false, NULL), 0);
    assert_false(io_exists(out));
    assert_int_equal(r.output_count, 4);
    assert_int_equal(store_get(s, r.key, true, &found, &miss, &why, NULL), 0);
    assert_int_equal(miss, STORE_HIT);
    assert_int_equal(found.output_count, 4);
    assert_string_equal(found.outputs[0].path, ".hidden");
    assert_string_equal(found.outputs[1].path, "a.b");
    assert_string_equal(found.outputs[2].path, "a/b/c");
    assert_string_equal(found.outputs[3].path, "z");
    sha("same", hex);
    assert_string_equal(found.outputs[3].digests.sha256, hex);
    assert_true(json_equal(found.metrics, r.metrics));
    char *blob = store_blob_path(s, hex), *want = xasprintf("%s/cas/%.2s/%s", dir, hex, hex);
    assert_string_equal(blob, want);
    struct stat st;
    assert_int_equal(stat(blob, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0444);
    assert_int_equal(st.st_nlink, 1);
    assert_int_equal(count(dir, "cas"), 3);
    assert_int_equal(count(dir, "ac"), 1);
    assert_int_equal(count(dir, "tmp"), 0);
    struct store_stats stats;
    store_stats_get(s, &stats);
    assert_int_equal(stats.published, 1);
    assert_int_equal(stats.blob_checks, 4 + 1); /* "same" was there when its second name came */
    assert_int_equal(stats.blob_bytes, 4 + 5 + 4 + 4);
    record_release(&r);
    record_release(&found);
    store_close(s);
    /* A no-op reads the record and no blob. */
    s = open_store(dir);
    check_get(s, "n", false, STORE_HIT, "");
    store_stats_get(s, &stats);
    assert_int_equal(stats.record_reads, 1);
    assert_int_equal(stats.blob_checks, 0);
    store_close(s);
    buf_release(&why);
    free(blob);
    free(want);
    free(out);
    free(dir);
}

static void test_open_errors(void **state)
{
    (void)state;
    struct store *s;
    struct err e;
    char *dir = fresh(), *want;
    write_file(dir, "thesis.tex", "x");
    assert_int_equal(store_open(dir, &s, &e), -ERR_USAGE);
    want = xasprintf("%s is not a cache: it holds 'thesis.tex' and no VERSION; name an empty or a new folder", dir);
    assert_string_equal(e.text, want);
    assert_null(s);
    free(want);
    write_file(dir, "VERSION", "gptqpipe-cache 2\n");
    assert_int_equal(store_open(dir, &s, &e), -ERR_UNSUPPORTED);
    want = xasprintf("cache %s has layout 2; this program knows 1", dir);
    assert_string_equal(e.text, want);
    free(want);
    write_file(dir, "VERSION", "hello\n");
    assert_int_equal(store_open(dir, &s, &e), -ERR_FORMAT);
    want = xasprintf("%s/VERSION is not the VERSION of a gptqpipe cache", dir);
    assert_string_equal(e.text, want);
    free(want);
    char *below = io_join(dir, "thesis.tex/cache");
    assert_int_equal(store_open(below, &s, &e), -ERR_IO);
    want = xasprintf("cannot create folder %s: Not a directory", below);
    assert_string_equal(e.text, want);
    free(want);
    free(below);
    /* A fresh file system's own folder, and a VERSION that another process is about to put in place, are fine. */
    char *volume = fresh();
    write_file(volume, "lost+found/x", "");
    write_file(volume, "VERSION.tmp.1.2.3", "");
    s = open_store(volume);
    assert_string_equal(store_dir(s), volume);
    char *tag = io_join(volume, "CACHEDIR.TAG");
    struct buf b = BUF_INIT;
    assert_int_equal(io_read_file(tag, 1000, &b, NULL), 0);
    assert_memory_equal(b.data, "Signature: 8a477f597d28d172789f06886806bc55\n", 44);
    buf_release(&b);
    store_close(s);
    free(tag);
    free(volume);
    free(dir);
}

static void test_key_checks(void **state)
{
    (void)state;
    char *dir = fresh(), *out;
    struct store *s = open_store(dir);
    struct err e;
    struct record r;
    enum store_miss miss;
    assert_int_equal(store_get(s, "../../etc/passwd", false, &r, &miss, NULL, &e), -ERR_USAGE);
    assert_string_equal(e.text, "'../../etc/passwd' is not a key: 64 lower-case hex digits are wanted");
    assert_int_equal(store_evict(s, "abc", &e), -ERR_USAGE);
    r = node("x");
    r.preimage[2] = 'y';
    assert_int_equal(store_begin(s, &out, NULL), 0);
    assert_int_equal(store_publish(s, out, &r, false, &e), -ERR_INTEGRITY);
    assert_non_null(strstr(e.text, "is not the SHA-256 of its preimage, "));
    record_release(&r);
    /* Evicting twice is fine. */
    assert_int_equal(publish(s, "n", "text", false, NULL), 0);
    r = node("n");
    assert_int_equal(store_evict(s, r.key, NULL), 0);
    assert_int_equal(store_evict(s, r.key, NULL), 0);
    assert_int_equal(count(dir, "ac"), 0);
    assert_int_equal(count(dir, "cas"), 1);
    record_release(&r);
    store_discard(s, out);
    store_close(s);
    free(out);
    free(dir);
}

static void test_bad_outputs(void **state)
{
    (void)state;
    char *dir = fresh(), *out;
    struct store *s = open_store(dir);
    struct record r = node("n");
    struct err e;
    assert_int_equal(store_begin(s, &out, NULL), 0);
    char *link_path = io_join(out, "link"),
         *want = xasprintf("output %s/link is a link or a special file; only regular files can be stored", out);
    assert_int_equal(symlink("/etc/passwd", link_path), 0);
    assert_int_equal(store_publish(s, out, &r, false, &e), -ERR_UNSUPPORTED);
    assert_string_equal(e.text, want);
    unlink(link_path);
    free(want);
    assert_int_equal(write_file(out, "\xff.bin", ""), 0);
    want = xasprintf("output %s/\xff.bin has a name that cannot be stored: it is too long or not UTF-8", out);
    assert_int_equal(store_publish(s, out, &r, false, &e), -ERR_UNSUPPORTED);
    assert_string_equal(e.text, want);
    assert_int_equal(count(dir, "ac"), 0);
    store_discard(s, out);
    free(want);
    free(link_path);
    record_release(&r);
    store_close(s);
    free(out);
    free(dir);
}

/* Whatever stays outside after publishing must not be a way to write into the store. */
static void test_no_writable_links(void **state)
{
    (void)state;
    char *dir = fresh(), *out, *mine = io_join(root, "mine"), hex[HASH_HEX];
    struct store *s = open_store(dir);
    struct record r = node("n");
    assert_int_equal(store_begin(s, &out, NULL), 0);
    write_file(root, "mine", "precious");
    char *inside = io_join(out, "a");
    assert_int_equal(link(mine, inside), 0);
    assert_int_equal(store_publish(s, out, &r, false, NULL), 0);
    struct stat st;
    assert_int_equal(stat(mine, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0644);
    assert_int_equal(st.st_nlink, 1);
    write_file(root, "mine", "changed!");
    sha("precious", hex);
    struct hash_digests d = {.bytes = 8};
    memcpy(d.sha256, hex, sizeof hex);
    assert_int_equal(store_check_blob(s, &d, NULL), 0); /* by SHA-256: no XXH3 given */
    record_release(&r);
    store_close(s);
    free(inside);
    free(mine);
    free(out);
    free(dir);
}

static void test_idempotent_and_nondeterministic(void **state)
{
    (void)state;
    char *dir = fresh(), one[HASH_HEX], two[HASH_HEX];
    struct store *s = open_store(dir);
    struct err e;
    assert_int_equal(publish(s, "n", "one", false, NULL), 0);
    assert_int_equal(publish(s, "n", "one", false, NULL), 0);
    assert_int_equal(count(dir, "cas"), 1);
    assert_int_equal(publish(s, "n", "two", false, &e), -ERR_INTEGRITY);
    struct record r = node("n"), a = RECORD_INIT, b = RECORD_INIT;
    struct hash_digests d = {.bytes = 3};
    sha("one", one);
    memcpy(d.sha256, one, sizeof one);
    record_add_output(&a, "a", &d);
    record_add_output(&a, "sub/b", &d);
    sha("two", two);
    memcpy(d.sha256, two, sizeof two);
    record_add_output(&b, "a", &d);
    record_add_output(&b, "sub/b", &d);
    char was[HASH_HEX], now[HASH_HEX];
    record_outputs_digest(&a, was);
    record_outputs_digest(&b, now);
    char *want =
        xasprintf("key %s has two different outputs: the cache holds %s, this run made %s; 'a' was %s, is %s", r.key, was, now, one, two);
    assert_string_equal(e.text, want);
    free(want);
    assert_int_equal(count(dir, "cas"), 1); /* the second answer left nothing */
    assert_int_equal(count(dir, "tmp"), 0);
    check_get(s, "n", true, STORE_HIT, "");
    /* Another set of files. */
    char *out;
    assert_int_equal(store_begin(s, &out, NULL), 0);
    write_file(out, "a", "one");
    assert_int_equal(store_publish(s, out, &r, false, &e), -ERR_INTEGRITY);
    assert_non_null(strstr(e.text, "; 'sub/b' is no longer made"));
    write_file(out, "sub/b", "one");
    write_file(out, "sub/c", "one");
    assert_int_equal(store_publish(s, out, &r, false, &e), -ERR_INTEGRITY);
    assert_non_null(strstr(e.text, "; 'sub/c' was not made before"));
    store_discard(s, out);
    free(out);
    /* --force */
    assert_int_equal(publish(s, "n", "two", true, NULL), 0);
    struct record found;
    enum store_miss miss;
    assert_int_equal(store_get(s, r.key, true, &found, &miss, NULL, NULL), 0);
    assert_int_equal(miss, STORE_HIT);
    assert_string_equal(found.outputs[0].digests.sha256, two);
    record_release(&found);
    record_release(&r);
    record_release(&a);
    record_release(&b);
    store_close(s);
    free(dir);
}

static void test_damaged_blobs(void **state)
{
    (void)state;
    char *dir = fresh(), hex[HASH_HEX];
    struct store *s = open_store(dir);
    sha("text", hex);
    char *blob = store_blob_path(s, hex);
    struct buf why = BUF_INIT;
    assert_int_equal(publish(s, "n", "text", false, NULL), 0);

    unlink(blob);
    buf_printf(&why, "output a: blob %s is missing", hex);
    check_get(s, "n", false, STORE_BLOB_MISSING, why.data);
    check_get(s, "n", true, STORE_BLOB_MISSING, why.data);
    assert_int_equal(publish(s, "n", "text", false, NULL), 0);
    check_get(s, "n", true, STORE_HIT, "");

    spoil(blob, "tex");
    buf_clear(&why);
    buf_printf(&why, "output a: blob %s is damaged: it has 3 bytes, not 4", hex);
    check_get(s, "n", false, STORE_BLOB_DAMAGED, why.data);
    assert_int_equal(publish(s, "n", "text", false, NULL), 0); /* the damaged one makes room */
    assert_int_equal(count(dir, "quarantine"), 1);
    check_get(s, "n", true, STORE_HIT, "");

    spoil(blob, "texT");
    check_get(s, "n", false, STORE_HIT, ""); /* only content tells */
    struct record r = node("n"), found;
    enum store_miss miss;
    buf_clear(&why);
    assert_int_equal(store_get(s, r.key, true, &found, &miss, &why, NULL), 0);
    assert_int_equal(miss, STORE_BLOB_DAMAGED);
    char *start = xasprintf("output a: blob %s is damaged: its XXH3 is ", hex), *end = xasprintf("; moved to %s/quarantine/%s.", dir, hex);
    assert_memory_equal(why.data, start, strlen(start));
    assert_non_null(strstr(why.data, end));
    assert_int_equal(count(dir, "quarantine"), 2);
    assert_false(io_exists(blob));
    assert_int_equal(publish(s, "n", "text", false, NULL), 0);

    spoil(blob, "Text"); /* publishing over it heals too, though the size is right */
    assert_int_equal(publish(s, "m", "text", false, NULL), 0);
    check_get(s, "n", true, STORE_HIT, "");
    assert_int_equal(count(dir, "quarantine"), 3);
    record_release(&r);
    record_release(&found);
    buf_release(&why);
    free(start);
    free(end);
    free(blob);
    store_close(s);
    free(dir);
}

static char *record_path(const char *dir, const char *name)
{
    struct record r = node(name);
    char *path = xasprintf("%s/ac/%.2s/%s", dir, r.key, r.key);
    record_release(&r);
    return path;
}

static void test_damaged_records(void **state)
{
    (void)state;
    char *dir = fresh(), *path = record_path(dir, "n"), *other = record_path(dir, "m");
    struct store *s = open_store(dir);
    struct buf text = BUF_INIT, why = BUF_INIT;
    assert_int_equal(publish(s, "n", "text", false, NULL), 0);
    assert_int_equal(publish(s, "m", "text", false, NULL), 0);
    assert_int_equal(io_read_file(path, 1 << 20, &text, NULL), 0);
    spoil(path, "");
    buf_printf(&why, "record %s is cut short: 0 bytes", path);
    check_get(s, "n", false, STORE_BAD_RECORD, why.data);
    /* The record of another key, whole in itself. */
    unlink(path);
    assert_int_equal(rename(other, path), 0);
    struct record m = node("m");
    buf_clear(&why);
    buf_printf(&why, "record %s is of another key, %s", path, m.key);
    check_get(s, "n", false, STORE_BAD_RECORD, why.data);
    /* Running the node again puts a good record in place of the bad one. */
    assert_int_equal(publish(s, "n", "text", false, NULL), 0);
    check_get(s, "n", false, STORE_HIT, "");
    /* A later version's record: a miss, and left as it is. */
    struct buf newer = BUF_INIT, after = BUF_INIT;
    char sum[HASH_XXH_HEX];
    buf_addstr(&newer, "{\"version\":7}\n");
    hash_xxh3(newer.data, newer.len, sum);
    buf_printf(&newer, "xxh3 %s\n", sum);
    spoil(path, newer.data);
    buf_clear(&why);
    buf_printf(&why, "record %s has version 7, newer than the 1 that this program knows", path);
    check_get(s, "n", false, STORE_NO_RECORD, why.data);
    assert_int_equal(publish(s, "n", "text", false, NULL), 0);
    assert_int_equal(io_read_file(path, 1 << 20, &after, NULL), 0);
    assert_string_equal(after.data, newer.data);
    struct store_verify v;
    assert_int_equal(store_verify(s, true, NULL, NULL, &v, NULL), 0);
    assert_int_equal(v.bad_records, 0);
    assert_true(io_exists(path));
    buf_release(&newer);
    buf_release(&after);
    buf_release(&text);
    buf_release(&why);
    record_release(&m);
    store_close(s);
    free(path);
    free(other);
    free(dir);
}

static int add_key(void *arg, const char *key, const struct record *r)
{
    buf_printf(arg, "%s %s\n", key, r ? r->preimage : "bad");
    return strstr(buf_str(arg), "stop") ? 77 : 0;
}

static void test_each_and_verify(void **state)
{
    (void)state;
    char *dir = fresh(), hex[HASH_HEX], second[HASH_HEX], *bad = record_path(dir, "n2");
    struct store *s = open_store(dir);
    for (int i = 0; i < 4; i++) {
        char name[8];
        snprintf(name, sizeof name, "n%d", i);
        assert_int_equal(publish(s, name, name, false, NULL), 0);
    }
    struct store_verify v;
    struct buf said = BUF_INIT, want = BUF_INIT, keys = BUF_INIT;
    assert_int_equal(store_verify(s, false, line, &said, &v, NULL), 0);
    assert_string_equal(buf_str(&said), "");
    assert_int_equal(v.records, 4);
    assert_int_equal(v.blobs, 4);
    assert_int_equal(v.bytes, 8);
    assert_int_equal(v.unreferenced_blobs, 0);
    /* n0's blob missing, n1's damaged, n2's record damaged (its blob then has no record), and a stranger in ac/. */
    sha("n0", hex);
    char *gone = store_blob_path(s, hex);
    unlink(gone);
    sha("n1", second);
    char *hurt = store_blob_path(s, second), now[HASH_HEX];
    spoil(hurt, "N1");
    sha("N1", now);
    spoil(bad, "short");
    write_file(dir, "ac/zz/README", "hello");
    assert_int_equal(store_each(s, add_key, &keys, NULL), 0);
    struct record r = node("n2");
    char *want_bad = xasprintf("%s bad\n", r.key);
    assert_non_null(strstr(keys.data, want_bad));
    int lines = 0;
    for (const char *at = keys.data, *last = NULL; *at; at = strchr(at, '\n') + 1, lines++) {
        assert_true(!last || strncmp(last, at, 64) < 0);
        last = at;
    }
    assert_int_equal(lines, 4);
    buf_clear(&keys);
    buf_addstr(&keys, "stop");
    assert_int_equal(store_each(s, add_key, &keys, NULL), 77);

    assert_int_equal(store_verify(s, false, line, &said, &v, NULL), 0);
    buf_printf(&want, "record %s is cut short: 5 bytes\n%s/ac/zz/README is not named like a record; left alone\n", bad, dir);
    buf_printf(&want, "blob %s is damaged: its SHA-256 is %s\nblob %s is missing\n", second, now, hex);
    assert_string_equal(said.data, want.data);
    assert_int_equal(v.records, 4);
    assert_int_equal(v.bad_records, 1);
    assert_int_equal(v.bad_blobs, 1);
    assert_int_equal(v.missing_blobs, 1);
    assert_int_equal(v.unreferenced_blobs, 1);
    assert_true(io_exists(bad) && io_exists(hurt));

    buf_clear(&said);
    assert_int_equal(store_verify(s, true, line, &said, &v, NULL), 0);
    assert_non_null(strstr(said.data, "is cut short: 5 bytes; removed\n"));
    assert_non_null(strstr(said.data, "; moved to "));
    assert_false(io_exists(bad) || io_exists(hurt));
    assert_int_equal(store_verify(s, true, NULL, NULL, &v, NULL), 0);
    assert_int_equal(v.bad_records, 0);
    assert_int_equal(v.bad_blobs, 0);
    assert_int_equal(v.missing_blobs, 2);
    record_release(&r);
    buf_release(&said);
    buf_release(&want);
    buf_release(&keys);
    free(want_bad);
    free(gone);
    free(hurt);
    free(bad);
    store_close(s);
    free(dir);
}

/* tmp/ after a process was killed: its folder goes when the cache is opened again; ours, and what we cannot judge, stays. */
static void test_sweep(void **state)
{
    (void)state;
    char *dir = fresh(), *mine, *dead = NULL;
    struct store *s = open_store(dir);
    assert_int_equal(store_begin(s, &mine, NULL), 0);
    write_file(mine, "half", "x");
    int pipe_fds[2];
    assert_int_equal(pipe(pipe_fds), 0);
    pid_t kid = fork();
    if (kid == 0) {
        char *theirs;
        if (store_begin(s, &theirs, NULL) || write_file(theirs, "half/written", "x"))
            _exit(1);
        if (write(pipe_fds[1], theirs, strlen(theirs)) < 0)
            _exit(1);
        pause();
        _exit(1);
    }
    char name[4096] = "";
    assert_true(read(pipe_fds[0], name, sizeof name - 1) > 0);
    dead = xstrdup(name);
    struct store *again = open_store(dir);
    assert_true(io_exists(dead)); /* alive */
    assert_true(io_exists(mine));
    store_close(again);
    kill(kid, SIGKILL);
    waitpid(kid, NULL, 0);
    /* Our own pid with another start time: a pid that was given out again. */
    char *reused = xstrdup(mine), *dot = strrchr(reused, '.');
    assert_non_null(dot);
    dot[-1] = dot[-1] == '7' ? '8' : '7';
    assert_int_equal(mkdir(reused, 0755), 0);
    /* Another boot or machine: too young to go, then old enough. A name that is not ours at all is kept for ever. */
    char *foreign = xasprintf("%s/tmp/00000000-0000-0000-0000-000000000000.4026531836.1.5.AbCdEf", dir);
    char *unknown = xasprintf("%s/tmp/notes", dir);
    assert_int_equal(mkdir(foreign, 0755), 0);
    assert_int_equal(mkdir(unknown, 0755), 0);
    again = open_store(dir);
    assert_false(io_exists(dead));
    assert_false(io_exists(reused));
    assert_true(io_exists(mine));
    assert_true(io_exists(foreign));
    assert_true(io_exists(unknown));
    store_close(again);
    char *tmp = io_join(dir, "tmp");
    tmpdir_sweep(tmp, time(NULL) + 47 * 3600);
    assert_true(io_exists(foreign));
    tmpdir_sweep(tmp, time(NULL) + 49 * 3600);
    assert_false(io_exists(foreign));
    assert_true(io_exists(mine));
    assert_true(io_exists(unknown));
    free(tmp);
    store_discard(s, mine);
    assert_false(io_exists(mine));
    store_close(s);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    free(mine);
    free(dead);
    free(reused);
    free(foreign);
    free(unknown);
    free(dir);
}

/* ---- the helper of tests/fault ---- */

static int say(int rc, const struct err *e)
{
    char text[ERR_TEXT_BYTES + ERR_FILE_BYTES];
    if (rc)
        printf("%s\n", err_format(e, text, sizeof text));
    return rc ? err_exit_status(rc) : 0;
}

static void print_line(void *arg, const char *text)
{
    (void)arg;
    puts(text);
}

static int helper(int argc, char **argv)
{
    struct store *s;
    struct err e = {0};
    struct buf why = BUF_INIT;
    struct store_verify v;
    enum store_miss miss;
    int rc = store_open(argv[2], &s, &e);
    if (rc)
        return say(rc, &e);
    if (argc == 5 && !strcmp(argv[1], "publish")) {
        rc = publish(s, argv[3], argv[4], false, &e);
        if (!rc)
            puts("ok");
    } else if (argc == 4 && !strcmp(argv[1], "get")) {
        rc = get(s, argv[3], true, &miss, &why, &e);
        if (!rc)
            puts(miss == STORE_HIT ? "hit" : buf_str(&why));
    } else if (argc == 3 && !strcmp(argv[1], "verify")) {
        rc = store_verify(s, false, print_line, NULL, &v, &e);
        if (!rc)
            printf("records %d bad %d blobs bad %d missing %d\n", (int)v.records, (int)v.bad_records, (int)v.bad_blobs,
                   (int)v.missing_blobs);
    } else {
        rc = err_set(&e, ERR_USAGE, "publish DIR NAME TEXT | get DIR NAME | verify DIR");
    }
    buf_release(&why);
    store_close(s);
    return say(rc, &e);
}

int main(int argc, char **argv)
{
    if (argc > 2)
        return helper(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),        cmocka_unit_test(test_open_errors),
        cmocka_unit_test(test_key_checks),        cmocka_unit_test(test_bad_outputs),
        cmocka_unit_test(test_no_writable_links), cmocka_unit_test(test_idempotent_and_nondeterministic),
        cmocka_unit_test(test_damaged_blobs),     cmocka_unit_test(test_damaged_records),
        cmocka_unit_test(test_each_and_verify),   cmocka_unit_test(test_sweep),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

/* The folder, reading, and housekeeping. Layout, version 1:
 *
 *     VERSION            "gptqpipe-cache 1\n", written first: a folder without it is ours only while it is empty
 *     CACHEDIR.TAG       so that backup programs leave the cache out (bford.info/cachedir)
 *     ac/<2>/<64>        record of the key <64>                  cas/<2>/<64>    bytes whose SHA-256 is <64>, mode 0444
 *     tmp/               folders of running nodes (tmpdir.h)     quarantine/     damaged blobs, kept for a look
 *     stat.db            statcache.h                                                                                    */
#include "cache/store.h"

#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/store_impl.h"
#include "cache/tmpdir.h"
#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"

enum { LAYOUT = 1, FRESHEN_S = 60, STRAY_IDLE_S = 3600 };

static const char cachedir_tag[] = "Signature: 8a477f597d28d172789f06886806bc55\n"
                                   "# A cache of gptqpipe. See https://bford.info/cachedir/\n";

static time_t now_s(void)
{
    return (time_t)(io_now_ns() / 1000000000u);
}

/* A folder without VERSION may hold only what another process, opening it at the same moment, puts there before VERSION. */
static int check_unclaimed(const char *dir, struct err *e)
{
    DIR *d = opendir(dir);
    if (!d)
        return err_sys(e, errno, "cannot open cache folder %s", dir);
    int rc = 0;
    bool version = false;
    char *stranger = NULL;
    struct dirent *ent;
    while ((ent = readdir(d))) { // NOLINT(concurrency-mt-unsafe): one DIR, one thread
        const char *n = ent->d_name;
        version |= !strcmp(n, "VERSION");
        if (!strcmp(n, ".") || !strcmp(n, "..") || !strncmp(n, "VERSION", 7) || !strcmp(n, "lost+found") || stranger)
            continue;
        stranger = xstrdup(n);
    }
    closedir(d);
    if (stranger && !version)
        rc = err_set(e, ERR_USAGE, "%s is not a cache: it holds '%s' and no VERSION; name an empty or a new folder", dir, stranger);
    free(stranger);
    return rc;
}

static int check_version(const char *dir, struct err *e)
{
    char *path = io_join(dir, "VERSION");
    struct buf b = BUF_INIT;
    int rc = io_read_file(path, 256, &b, e), layout = 0;
    if (!rc && sscanf(buf_str(&b), "gptqpipe-cache %d", &layout) != 1)
        rc = err_set(e, ERR_FORMAT, "%s is not the VERSION of a gptqpipe cache", path);
    else if (!rc && layout != LAYOUT)
        rc = err_set(e, ERR_UNSUPPORTED, "cache %s has layout %d; this program knows %d", dir, layout, LAYOUT);
    buf_release(&b);
    free(path);
    return rc;
}

static int claim(const char *dir, struct err *e)
{
    char *version = io_join(dir, "VERSION"), *tag = io_join(dir, "CACHEDIR.TAG");
    char text[64];
    snprintf(text, sizeof text, "gptqpipe-cache %d\n", LAYOUT);
    int rc = io_mkdirs(dir, e);
    if (!rc && !io_exists(version) && !(rc = check_unclaimed(dir, e)) && !io_exists(version)) {
        rc = io_write_file_atomic(version, text, strlen(text), e);
        if (!rc)
            rc = io_write_file_atomic(tag, cachedir_tag, strlen(cachedir_tag), e);
    }
    free(version);
    free(tag);
    return rc ? rc : check_version(dir, e);
}

/* A cache on a read-only file system serves reads: folders that cannot be made there are missed only by who writes. */
static int make_folders(const struct store *s, struct err *e)
{
    static const char *const names[] = {"ac", "cas", "tmp", "quarantine"};
    bool made = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = io_join(s->dir, names[i]);
        int n = mkdir(path, 0777) < 0 ? errno : 0;
        int rc = n && n != EEXIST && n != EROFS && n != EACCES ? err_sys(e, n, "cannot create folder %s", path) : 0;
        made |= !n;
        free(path);
        if (rc)
            return rc;
    }
    return made ? io_fsync_dir(s->dir, e) : 0;
}

/* Temporary files of io_atomic in the cache's own folder, left by a killed process: small, short-lived, so age tells. */
static void sweep_strays(const struct store *s)
{
    DIR *d = opendir(s->dir);
    struct dirent *ent;
    while (d && (ent = readdir(d))) { // NOLINT(concurrency-mt-unsafe): one DIR, one thread
        if (strncmp(ent->d_name, "stat.db.tmp.", 12) && strncmp(ent->d_name, "VERSION.tmp.", 12) &&
            strncmp(ent->d_name, "CACHEDIR.TAG.tmp.", 17))
            continue;
        char *path = io_join(s->dir, ent->d_name);
        struct stat st;
        if (lstat(path, &st) == 0 && st.st_mtime < now_s() - STRAY_IDLE_S)
            unlink(path);
        free(path);
    }
    if (d)
        closedir(d);
}

int store_open(const char *dir, struct store **out, struct err *e)
{
    *out = NULL;
    struct store *s = xcalloc(1, sizeof *s);
    s->dir = io_absolute(dir);
    s->tmp = io_join(s->dir, "tmp");
    int rc = claim(s->dir, e);
    if (!rc)
        rc = make_folders(s, e);
    if (rc) {
        store_close(s);
        return rc;
    }
    tmpdir_sweep(s->tmp, now_s());
    sweep_strays(s);
    *out = s;
    return 0;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    free(s->dir);
    free(s->tmp);
    free(s);
}

const char *store_dir(const struct store *s)
{
    return s->dir;
}

static char *shard_path(const struct store *s, const char *map, const char *hex)
{
    return xasprintf("%s/%s/%.2s/%s", s->dir, map, hex, hex);
}

char *store_blob_path(const struct store *s, const char *sha256)
{
    return shard_path(s, "cas", sha256);
}

char *store_record_path(const struct store *s, const char *key)
{
    return shard_path(s, "ac", key);
}

int store_make_shard(const char *path, struct err *e)
{
    char *shard = io_dirname(path);
    int rc = mkdir(shard, 0777) < 0 && errno != EEXIST ? err_sys(e, errno, "cannot create folder %s", shard) : 0;
    free(shard);
    return rc;
}

/* Users are told apart from the collector by mtime; once a minute is enough for that and keeps a no-op run from writing. */
void store_freshen(const char *path)
{
    struct stat st;
    if (stat(path, &st) == 0 && st.st_mtime < now_s() - FRESHEN_S)
        utimensat(AT_FDCWD, path, NULL, 0); /* fails in a foreign or read-only cache, which its owner keeps fresh */
}

static int check_key(const char *key, struct err *e)
{
    return hash_is_hex(key) ? 0 : err_set(e, ERR_USAGE, "'%.80s' is not a key: 64 lower-case hex digits are wanted", key);
}

int store_load_record(struct store *s, const char *key, struct record *r, enum store_load *state, struct buf *why, struct err *e)
{
    struct buf text = BUF_INIT, drop = BUF_INIT;
    struct err local = {0};
    char *path = store_record_path(s, key);
    why = why ? why : &drop;
    *r = (struct record)RECORD_INIT;
    *state = STORE_LOADED;
    int rc = io_read_file(path, RECORD_MAX_BYTES, &text, &local);
    atomic_fetch_add(&s->record_reads, rc != -ERR_NOTFOUND);
    if (!rc)
        rc = record_read(r, text.data, text.len, path, &local);
    if (!rc && strcmp(r->key, key)) {
        rc = err_set(&local, ERR_FORMAT, "record %s is of another key, %s", path, r->key);
        record_release(r);
    }
    if (rc == -ERR_NOTFOUND) {
        *state = STORE_ABSENT;
        buf_printf(why, "no record of key %s", key);
    } else if (rc == -ERR_FORMAT || rc == -ERR_UNSUPPORTED) {
        *state = rc == -ERR_FORMAT ? STORE_DAMAGED : STORE_NEWER;
        buf_addstr(why, local.text);
    }
    bool machine = rc && *state == STORE_LOADED;
    if (machine && e)
        *e = local;
    buf_release(&text);
    buf_release(&drop);
    free(path);
    return machine ? rc : 0;
}

/* There, a plain file, of the right size: what a no-op run asks of every blob. */
static int stat_blob(const char *path, const struct hash_digests *want, struct err *e)
{
    struct stat st;
    if (lstat(path, &st) < 0 && (errno == ENOENT || errno == ENOTDIR))
        return err_set(e, ERR_NOTFOUND, "blob %s is missing", want->sha256);
    if (lstat(path, &st) < 0)
        return err_sys(e, errno, "cannot stat %s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_INTEGRITY, "blob %s is damaged: it is not a regular file", want->sha256);
    if ((uint64_t)st.st_size != want->bytes)
        return err_set(e, ERR_INTEGRITY, "blob %s is damaged: it has %llu bytes, not %llu", want->sha256, (unsigned long long)st.st_size,
                       (unsigned long long)want->bytes);
    return 0;
}

int store_compare_blob(struct store *s, const struct hash_digests *want, struct err *e)
{
    char *path = store_blob_path(s, want->sha256);
    struct hash_digests have = {.bytes = 0};
    int rc = stat_blob(path, want, e);
    if (rc)
        goto out;
    atomic_fetch_add(&s->blob_checks, 1);
    atomic_fetch_add(&s->blob_bytes, want->bytes);
    rc = want->xxh3[0] ? hash_file_xxh3(path, have.xxh3, e) : hash_file(path, &have, e);
    if (!rc && want->xxh3[0] && strcmp(have.xxh3, want->xxh3))
        rc = err_set(e, ERR_INTEGRITY, "blob %s is damaged: its XXH3 is %s, not %s", want->sha256, have.xxh3, want->xxh3);
    else if (!rc && !want->xxh3[0] && strcmp(have.sha256, want->sha256))
        rc = err_set(e, ERR_INTEGRITY, "blob %s is damaged: its SHA-256 is %s", want->sha256, have.sha256);
out:
    free(path);
    return rc;
}

int store_quarantine(struct store *s, const char *sha256, struct buf *where, struct err *e)
{
    static atomic_uint counter;
    char *from = store_blob_path(s, sha256), *dir = io_join(s->dir, "quarantine");
    char *to = xasprintf("%s/%s.%ld.%llx.%u", dir, sha256, (long)getpid(), (unsigned long long)io_now_ns(), atomic_fetch_add(&counter, 1));
    int rc = 0;
    /* Gone already: another thread or process saw the damage too. */
    if (rename(from, to) < 0 && errno != ENOENT)
        rc = err_sys(e, errno, "cannot move damaged blob %s to %s", from, to);
    if (!rc && where)
        buf_addstr(where, to);
    free(from);
    free(dir);
    free(to);
    return rc;
}

int store_check_blob(struct store *s, const struct hash_digests *want, struct err *e)
{
    struct err found = {0}, second;
    struct buf where = BUF_INIT;
    int rc = store_compare_blob(s, want, &found);
    if (rc == -ERR_INTEGRITY && store_quarantine(s, want->sha256, &where, &second))
        rc = err_set(e, ERR_INTEGRITY, "%s; %s", found.text, second.text);
    else if (rc == -ERR_INTEGRITY)
        rc = err_set(e, ERR_INTEGRITY, "%s; moved to %s", found.text, where.data);
    else if (rc && e)
        *e = found;
    buf_release(&where);
    return rc;
}

/* One output of a record: there, with its size, and when asked with its content. */
static int check_output(struct store *s, const struct record_output *o, bool content, enum store_miss *miss, struct buf *why, struct err *e)
{
    struct err found = {0};
    char *path = store_blob_path(s, o->digests.sha256);
    int rc = content ? store_check_blob(s, &o->digests, &found) : stat_blob(path, &o->digests, &found);
    free(path);
    if (rc == -ERR_NOTFOUND || rc == -ERR_INTEGRITY) {
        *miss = rc == -ERR_NOTFOUND ? STORE_BLOB_MISSING : STORE_BLOB_DAMAGED;
        buf_printf(why, "output %s: %s", o->path, found.text);
        return 0;
    }
    if (rc && e)
        *e = found;
    return rc;
}

int store_get(struct store *s, const char *key, bool check_content, struct record *r, enum store_miss *miss, struct buf *why, struct err *e)
{
    struct buf drop = BUF_INIT;
    enum store_load state;
    why = why ? why : &drop;
    *r = (struct record)RECORD_INIT;
    *miss = STORE_NO_RECORD;
    int rc = check_key(key, e);
    if (!rc)
        rc = store_load_record(s, key, r, &state, why, e);
    if (rc)
        goto out;
    if (state != STORE_LOADED) {
        *miss = state == STORE_DAMAGED ? STORE_BAD_RECORD : STORE_NO_RECORD;
        goto out;
    }
    *miss = STORE_HIT;
    for (size_t i = 0; !rc && *miss == STORE_HIT && i < r->output_count; i++)
        rc = check_output(s, &r->outputs[i], check_content, miss, why, e);
    if (rc || *miss != STORE_HIT)
        record_release(r);
    else {
        char *path = store_record_path(s, key);
        store_freshen(path);
        free(path);
    }
out:
    buf_release(&drop);
    return rc;
}

int store_begin(struct store *s, char **dir, struct err *e)
{
    return tmpdir_make(s->tmp, dir, e);
}

void store_discard(struct store *s, const char *dir)
{
    (void)s;
    io_remove_tree(dir, NULL); /* what stays is swept when we are gone */
}

int store_evict(struct store *s, const char *key, struct err *e)
{
    int rc = check_key(key, e);
    if (rc)
        return rc;
    char *path = store_record_path(s, key), *shard = io_dirname(path);
    if (unlink(path) == 0)
        rc = io_fsync_dir(shard, e);
    else if (errno != ENOENT)
        rc = err_sys(e, errno, "cannot remove record %s", path);
    free(path);
    free(shard);
    return rc;
}

void store_stats_get(const struct store *s, struct store_stats *out)
{
    out->record_reads = atomic_load(&s->record_reads);
    out->blob_checks = atomic_load(&s->blob_checks);
    out->blob_bytes = atomic_load(&s->blob_bytes);
    out->published = atomic_load(&s->published);
}

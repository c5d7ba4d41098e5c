/* Publishing: hash and seal every output, refuse a second answer, link the blobs into cas/, then the record into ac/.
 *
 * A crash at any moment leaves blobs that nobody refers to (the collector's), never a record without its blobs: each file is synced before
 * it gets its name in cas/, and the names before the record gets its own. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/store_impl.h"
#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"

enum { ATTEMPTS = 8 };

struct publish {
    struct store *s;
    const char *dir;
    char *staging;  /* our own folder in tmp/, for the record and for copies */
    dev_t dev;      /* of the store */
    char **sources; /* per output of r: the file to be linked; owned */
    size_t source_count;
    struct record *r;
    unsigned char shards[256]; /* of cas/ that must be synced */
};

/* All files below dir, hidden ones too: what a stage wrote is kept or refused, never dropped. */
static int list_outputs(const char *dir, const char *below, struct io_list *out, struct err *e)
{
    char *full = io_join(dir, below);
    DIR *d = opendir(full);
    int rc = d ? 0 : err_sys(e, errno, "cannot open folder %s", full);
    struct dirent *ent;
    while (!rc && (ent = readdir(d))) { // NOLINT(concurrency-mt-unsafe): one DIR, one thread
        if (!strcmp(ent->d_name, ".") || !strcmp(ent->d_name, ".."))
            continue;
        char *name = io_join(below, ent->d_name), *path = io_join(dir, name);
        struct stat st;
        if (lstat(path, &st) < 0) {
            rc = err_sys(e, errno, "cannot stat %s", path);
        } else if (S_ISDIR(st.st_mode)) {
            rc = list_outputs(dir, name, out, e);
        } else if (!S_ISREG(st.st_mode)) {
            rc = err_set(e, ERR_UNSUPPORTED, "output %s is a link or a special file; only regular files can be stored", path);
        } else {
            MEM_GROW(out->names, out->count, out->cap);
            out->names[out->count++] = name;
            name = NULL;
        }
        free(name);
        free(path);
    }
    if (d)
        closedir(d);
    free(full);
    return rc;
}

static bool is_utf8(const char *s)
{
    json_t *v = json_string(s);
    json_decref(v);
    return v != NULL;
}

/* Read-only from here on; read once, through both digests; on disk when this returns. */
static int seal(const char *path, struct hash_digests *d, struct err *e)
{
    struct stat before, after;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return err_sys(e, errno, "cannot open %s", path);
    int rc = 0;
    if (fchmod(fd, 0444) < 0 || fstat(fd, &before) < 0)
        rc = err_sys(e, errno, "cannot make %s read-only", path);
    else
        rc = hash_fd(fd, path, d, e);
    if (!rc && fstat(fd, &after) < 0)
        rc = err_sys(e, errno, "cannot stat %s", path);
    if (!rc && (before.st_size != after.st_size || (uint64_t)after.st_size != d->bytes || before.st_mtim.tv_sec != after.st_mtim.tv_sec ||
                before.st_mtim.tv_nsec != after.st_mtim.tv_nsec))
        rc = err_set(e, ERR_STALE, "output %s changed while it was stored", path);
    if (!rc && fsync(fd) < 0)
        rc = err_sys(e, errno, "cannot sync %s", path);
    close(fd);
    return rc;
}

/* A file that has another name could be written through it, and one on another file system cannot be linked: those are copied first. */
static int localize(struct publish *p, const char *path, size_t index, char **source, struct err *e)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return err_sys(e, errno, "cannot stat %s", path);
    if (st.st_nlink == 1 && st.st_dev == p->dev) {
        *source = xstrdup(path);
        return 0;
    }
    *source = xasprintf("%s/%zu", p->staging, index);
    return io_copy_file(path, *source, 0600, e);
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int take_outputs(struct publish *p, struct err *e)
{
    struct io_list l = {NULL, 0, 0};
    int rc = list_outputs(p->dir, "", &l, e);
    if (l.count)
        qsort(l.names, l.count, sizeof *l.names, by_bytes); /* as the record sorts them, so that sources[i] is outputs[i] */
    p->sources = xcalloc(l.count, sizeof *p->sources);
    for (size_t i = 0; !rc && i < l.count; i++) {
        struct hash_digests d;
        char *path = io_join(p->dir, l.names[i]);
        if (!record_path_ok(l.names[i]) || !is_utf8(l.names[i]))
            rc = err_set(e, ERR_UNSUPPORTED, "output %s has a name that cannot be stored: it is too long or not UTF-8", path);
        if (!rc && !(rc = localize(p, path, i, &p->sources[i], e)) && !(rc = seal(p->sources[i], &d, e)))
            record_add_output(p->r, l.names[i], &d);
        free(path);
    }
    p->source_count = l.count;
    io_list_release(&l);
    return rc;
}

/* ---- blobs ---- */

static bool no_hard_links(int n)
{
    return n == EPERM || n == EOPNOTSUPP || n == ENOSYS || n == EMLINK || n == EXDEV;
}

/* The name is taken. Its content should be ours; when it is damaged it makes room. Returns 1 to try again. */
static int taken(struct publish *p, const struct hash_digests *d, const char *final, struct err *e)
{
    int rc = store_compare_blob(p->s, d, e);
    if (rc == -ERR_NOTFOUND)
        return 1;
    if (rc == -ERR_INTEGRITY)
        return (rc = store_quarantine(p->s, d->sha256, NULL, e)) ? rc : 1;
    if (!rc)
        store_freshen(final);
    return rc;
}

static int publish_blob(struct publish *p, const char *source, const struct hash_digests *d, struct err *e)
{
    char *final = store_blob_path(p->s, d->sha256);
    int rc = store_make_shard(final, e);
    for (int attempt = 0; !rc; attempt++) {
        if (link(source, final) == 0)
            break;
        int n = errno;
        if (no_hard_links(n) && rename(source, final) == 0)
            break;
        if (n != EEXIST || attempt == ATTEMPTS) {
            rc = err_sys(e, n, "cannot link %s to %s", source, final);
            break;
        }
        rc = taken(p, d, final, e);
        if (rc <= 0)
            break;
        rc = 0;
    }
    unsigned shard = 0;
    sscanf(d->sha256, "%2x", &shard);
    p->shards[shard] = 1;
    free(final);
    return rc;
}

static int sync_shards(struct publish *p, struct err *e)
{
    char *cas = io_join(p->s->dir, "cas");
    int rc = 0;
    for (unsigned i = 0; !rc && i < 256; i++) {
        if (!p->shards[i])
            continue;
        char *shard = xasprintf("%s/%02x", cas, i);
        rc = io_fsync_dir(shard, e);
        free(shard);
    }
    /* Also when the shards were there: another process may have made one a moment ago and not synced it yet. */
    if (!rc)
        rc = io_fsync_dir(cas, e);
    free(cas);
    return rc;
}

static int publish_blobs(struct publish *p, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < p->r->output_count; i++)
        rc = publish_blob(p, p->sources[i], &p->r->outputs[i].digests, e);
    return rc ? rc : sync_shards(p, e);
}

/* ---- the record ---- */

/* "file 'x' was <digest>, is <digest>" for the first file that differs. */
static void first_difference(const struct record *was, const struct record *now, struct buf *out)
{
    size_t i = 0, j = 0;
    while (i < was->output_count || j < now->output_count) {
        const struct record_output *a = i < was->output_count ? &was->outputs[i] : NULL,
                                   *b = j < now->output_count ? &now->outputs[j] : NULL;
        int order = !a ? 1 : !b ? -1 : strcmp(a->path, b->path);
        if (order == 0 && !strcmp(a->digests.sha256, b->digests.sha256)) {
            i++;
            j++;
            continue;
        }
        if (order == 0)
            buf_printf(out, "'%s' was %s, is %s", a->path, a->digests.sha256, b->digests.sha256);
        else
            buf_printf(out, "'%s' %s", order < 0 ? a->path : b->path, order < 0 ? "is no longer made" : "was not made before");
        return;
    }
}

/* What the cache holds for the key already. -ERR_INTEGRITY when it is another answer. */
static int check_same(struct publish *p, enum store_load *state, struct err *e)
{
    struct record old;
    int rc = store_load_record(p->s, p->r->key, &old, state, NULL, e);
    if (rc || *state != STORE_LOADED)
        return rc;
    char was[HASH_HEX], now[HASH_HEX];
    record_outputs_digest(&old, was);
    record_outputs_digest(p->r, now);
    if (strcmp(was, now)) {
        struct buf diff = BUF_INIT;
        first_difference(&old, p->r, &diff);
        rc = err_set(e, ERR_INTEGRITY, "key %s has two different outputs: the cache holds %s, this run made %s; %s", p->r->key, was, now,
                     buf_str(&diff));
        buf_release(&diff);
    }
    record_release(&old);
    return rc;
}

static int write_staged(const char *path, const struct record *r, struct err *e)
{
    struct buf text = BUF_INIT;
    record_write(r, &text);
    int rc = 0, fd = -1;
    if (text.len > RECORD_MAX_BYTES)
        rc = err_set(e, ERR_UNSUPPORTED, "record of key %s would have %zu bytes, more than the %d allowed", r->key, text.len,
                     RECORD_MAX_BYTES);
    else if ((fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444)) < 0)
        rc = err_sys(e, errno, "cannot create %s", path);
    else
        rc = io_write(fd, text.data, text.len, path, e);
    if (!rc && fsync(fd) < 0)
        rc = err_sys(e, errno, "cannot sync %s", path);
    if (fd >= 0 && close(fd) < 0 && !rc)
        rc = err_sys(e, errno, "cannot close %s", path);
    buf_release(&text);
    return rc;
}

/* Gives the staged record its name. Without replace the name must be free, or hold damage, or hold the same answer. */
static int name_record(struct publish *p, const char *staged, const char *final, bool replace, struct err *e)
{
    for (int attempt = 0;; attempt++) {
        enum store_load state = STORE_ABSENT;
        if (!replace && link(staged, final) == 0)
            return 0;
        int n = replace ? 0 : errno;
        if (n && n != EEXIST && (!no_hard_links(n) || attempt == ATTEMPTS))
            return err_sys(e, n, "cannot link %s to %s", staged, final);
        int rc = replace ? 0 : check_same(p, &state, e);
        if (rc)
            return rc;
        if (state == STORE_LOADED || state == STORE_NEWER) {
            store_freshen(final);
            return 0;
        }
        if (n == EEXIST && state == STORE_ABSENT && attempt < ATTEMPTS)
            continue; /* removed in between */
        return rename(staged, final) < 0 ? err_sys(e, errno, "cannot rename %s to %s", staged, final) : 0;
    }
}

static int publish_record(struct publish *p, bool replace, struct err *e)
{
    char *final = store_record_path(p->s, p->r->key), *shard = io_dirname(final), *ac = io_join(p->s->dir, "ac");
    char *staged = io_join(p->staging, "record");
    int rc = write_staged(staged, p->r, e);
    if (!rc)
        rc = store_make_shard(final, e);
    if (!rc)
        rc = name_record(p, staged, final, replace, e);
    if (!rc)
        rc = io_fsync_dir(shard, e);
    if (!rc)
        rc = io_fsync_dir(ac, e);
    free(final);
    free(shard);
    free(ac);
    free(staged);
    return rc;
}

/* ---- */

static int check_identity(const struct record *r, struct err *e)
{
    char key[HASH_HEX];
    hash_sha256(r->preimage ? r->preimage : "", r->preimage ? strlen(r->preimage) : 0, key);
    return strcmp(key, r->key) ? err_set(e, ERR_INTEGRITY, "key '%s' is not the SHA-256 of its preimage, %s", r->key, key) : 0;
}

static void forget_outputs(struct record *r)
{
    for (size_t i = 0; i < r->output_count; i++)
        free(r->outputs[i].path);
    r->output_count = 0;
}

int store_publish(struct store *s, const char *dir, struct record *r, bool replace, struct err *e)
{
    struct publish p = {.s = s, .dir = dir, .r = r};
    enum store_load state;
    struct stat st;
    int rc = check_identity(r, e);
    if (rc)
        return rc;
    forget_outputs(r);
    rc = store_begin(s, &p.staging, e);
    if (rc)
        return rc;
    if (stat(p.staging, &st) < 0)
        rc = err_sys(e, errno, "cannot stat %s", p.staging);
    p.dev = st.st_dev;
    if (!rc)
        rc = take_outputs(&p, e);
    if (!rc && !replace)
        rc = check_same(&p, &state, e); /* before any blob of a wrong answer gets in */
    if (!rc)
        rc = publish_blobs(&p, e);
    if (!rc)
        rc = publish_record(&p, replace, e);
    for (size_t i = 0; i < p.source_count; i++)
        free(p.sources[i]);
    free(p.sources);
    store_discard(s, p.staging);
    free(p.staging);
    if (!rc) {
        store_discard(s, dir);
        atomic_fetch_add(&s->published, 1);
    }
    return rc;
}

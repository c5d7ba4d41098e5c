/* stat.db, version 1:
 *
 *     file   = "gptqpipe-stat 1" LF *entry "xxh3 " 32HEX LF          XXH3-128 of all before it
 *     entry  = dev SP ino SP size SP mtime_ns SP ctime_ns SP hashed_ns SP HEX64 SP HEX32 LF       (decimal; times since 1970)
 *
 * Only entries that can be trusted are written: mtime and ctime lie at least RACY_NS before the moment at which hashing began. A later
 * change then shows in ctime, which a program cannot set back, whatever it does to size and mtime. */
#include "cache/statcache.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pipeline/base/io.h"
#include "pipeline/base/map.h"
#include "pipeline/base/mem.h"

enum { RACY_NS = 2000000000, ENTRIES_MAX = 65536, FILE_BYTES_MAX = 32 << 20 };

static const char header[] = "gptqpipe-stat 1\n";

struct ident {
    uint64_t dev, ino;
};

struct entry {
    struct ident id;
    uint64_t size;
    int64_t mtime_ns, ctime_ns, hashed_ns;
    struct hash_digests digests;
};

struct statcache {
    char *path;
    pthread_mutex_t lock; /* guards what follows */
    struct map map;       /* struct ident -> struct entry, owned */
    bool dirty;
};

static int64_t to_ns(struct timespec t)
{
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static struct entry entry_of(const struct stat *st, int64_t now_ns)
{
    struct entry n = {.size = (uint64_t)st->st_size, .mtime_ns = to_ns(st->st_mtim), .ctime_ns = to_ns(st->st_ctim), .hashed_ns = now_ns};
    n.id = (struct ident){(uint64_t)st->st_dev, (uint64_t)st->st_ino};
    return n;
}

static bool same_stat(const struct entry *a, const struct entry *b)
{
    return a->size == b->size && a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns && !memcmp(&a->id, &b->id, sizeof a->id);
}

static bool racy(const struct entry *n)
{
    return n->mtime_ns > n->hashed_ns - RACY_NS || n->ctime_ns > n->hashed_ns - RACY_NS;
}

/* The later hashing wins, so that merging in either order gives the same table. */
static bool remember(struct map *m, const struct entry *n)
{
    struct map_entry *old = map_find(m, (const char *)&n->id, sizeof n->id);
    if (old) {
        struct entry *have = old->value;
        if (have->hashed_ns >= n->hashed_ns)
            return false;
        *have = *n;
        return true;
    }
    struct entry *copy = xmalloc(sizeof *copy);
    *copy = *n;
    map_putn(m, (const char *)&n->id, sizeof n->id, copy);
    return true;
}

/* An entry from the future (the clock was set back) would win against every new one: it is dropped. */
static bool parse_entry(const char *line, int64_t now_ns, struct entry *n)
{
    int end = -1;
    *n = (struct entry){.size = 0};
    int got = sscanf(line, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %64s %32s%n", &n->id.dev, &n->id.ino,
                     &n->size, &n->mtime_ns, &n->ctime_ns, &n->hashed_ns, n->digests.sha256, n->digests.xxh3, &end);
    n->digests.bytes = n->size;
    return got == 8 && end >= 0 && line[end] == '\n' && hash_is_hex(n->digests.sha256) && hash_is_xxh_hex(n->digests.xxh3) && !racy(n) &&
           n->hashed_ns <= now_ns;
}

/* Adds the entries of stat.db. Whatever is wrong with the file costs only speed, so it is no error. */
static void load(const char *path, struct map *m)
{
    struct buf b = BUF_INIT;
    int64_t now_ns = (int64_t)io_now_ns();
    const size_t trailer = strlen("xxh3 ") + HASH_XXH_HEX - 1 + 1;
    char sum[HASH_XXH_HEX];
    if (io_read_file(path, FILE_BYTES_MAX, &b, NULL) || b.len < strlen(header) + trailer || memcmp(b.data, header, strlen(header)))
        goto out;
    size_t body = b.len - trailer;
    hash_xxh3(b.data, body, sum);
    const char *last = b.data + body;
    if (memcmp(last, "xxh3 ", 5) || memcmp(last + 5, sum, HASH_XXH_HEX - 1) || last[trailer - 1] != '\n')
        goto out;
    for (const char *line = b.data + strlen(header); line < last;) {
        struct entry n;
        if (parse_entry(line, now_ns, &n))
            remember(m, &n);
        const char *lf = memchr(line, '\n', (size_t)(last - line));
        line = lf ? lf + 1 : last;
    }
out:
    buf_release(&b);
}

int statcache_open(const char *store_dir, struct statcache **out, struct err *e)
{
    *out = NULL;
    if (!io_is_dir(store_dir))
        return err_set(e, ERR_NOTFOUND, "cache folder %s does not exist", store_dir);
    struct statcache *c = xcalloc(1, sizeof *c);
    c->path = io_join(store_dir, "stat.db");
    pthread_mutex_init(&c->lock, NULL);
    load(c->path, &c->map);
    *out = c;
    return 0;
}

static bool lookup(struct statcache *c, const struct entry *now, struct hash_digests *out)
{
    pthread_mutex_lock(&c->lock);
    struct map_entry *at = map_find(&c->map, (const char *)&now->id, sizeof now->id);
    const struct entry *have = at ? at->value : NULL;
    bool hit = have && same_stat(have, now);
    if (hit)
        *out = have->digests;
    pthread_mutex_unlock(&c->lock);
    return hit;
}

static int hash_entry(int fd, const char *path, struct entry *n, struct err *e)
{
    struct stat st;
    int rc = hash_fd(fd, path, &n->digests, e);
    if (rc)
        return rc;
    if (fstat(fd, &st) < 0)
        return err_sys(e, errno, "cannot stat %s", path);
    struct entry after = entry_of(&st, n->hashed_ns);
    if (!same_stat(n, &after) || n->digests.bytes != n->size)
        return err_set(e, ERR_STALE, "%s changed while it was read", path);
    return 0;
}

int statcache_file(struct statcache *c, const char *path, struct hash_digests *out, bool *hashed, struct err *e)
{
    if (hashed)
        *hashed = false;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* O_NONBLOCK: a pipe must not hang us */
    if (fd < 0) {
        int n = errno, rc = err_sys(e, n, "cannot open %s", path);
        if (n == ENOENT && e)
            e->code = ERR_NOTFOUND;
        return n == ENOENT ? -ERR_NOTFOUND : rc;
    }
    int rc = 0;
    /* The clock is read first: a change after it is then either later than hashed_ns or makes the entry racy. */
    int64_t now_ns = (int64_t)io_now_ns();
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        rc = err_set(e, ERR_IO, "%s is not a regular file", path);
        goto out;
    }
    struct entry n = entry_of(&st, now_ns);
    if (lookup(c, &n, out))
        goto out;
    rc = hash_entry(fd, path, &n, e);
    if (rc)
        goto out;
    *out = n.digests;
    if (hashed)
        *hashed = true;
    if (!racy(&n)) {
        pthread_mutex_lock(&c->lock);
        c->dirty |= remember(&c->map, &n);
        pthread_mutex_unlock(&c->lock);
    }
out:
    close(fd);
    return rc;
}

int statcache_recheck(struct statcache *c, const char *path, const struct hash_digests *want, struct err *e)
{
    struct hash_digests now;
    int rc = statcache_file(c, path, &now, NULL, e);
    if (rc == -ERR_NOTFOUND)
        return err_set(e, ERR_STALE, "input %s is gone: it was there when the run began", path);
    if (rc)
        return rc;
    if (strcmp(now.sha256, want->sha256))
        return err_set(e, ERR_STALE, "input %s changed during the run: SHA-256 was %s, is now %s", path, want->sha256, now.sha256);
    return 0;
}

static int newest_first(const void *a, const void *b)
{
    const struct entry *x = ((const struct map_entry *)a)->value, *y = ((const struct map_entry *)b)->value;
    if (x->hashed_ns != y->hashed_ns)
        return x->hashed_ns > y->hashed_ns ? -1 : 1;
    return memcmp(&x->id, &y->id, sizeof x->id);
}

static void write_entries(const struct map *m, struct buf *out)
{
    struct map_entry *order = xcalloc(m->count, sizeof *order);
    if (m->count)
        memcpy(order, m->entries, m->count * sizeof *order);
    qsort(order, m->count, sizeof *order, newest_first);
    buf_addstr(out, header);
    for (size_t i = 0; i < m->count && i < ENTRIES_MAX; i++) {
        const struct entry *n = order[i].value;
        buf_printf(out, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRId64 " %" PRId64 " %" PRId64 " %s %s\n", n->id.dev, n->id.ino, n->size,
                   n->mtime_ns, n->ctime_ns, n->hashed_ns, n->digests.sha256, n->digests.xxh3);
    }
    free(order);
    char sum[HASH_XXH_HEX];
    hash_xxh3(out->data, out->len, sum);
    buf_printf(out, "xxh3 %s\n", sum);
}

int statcache_save(struct statcache *c, struct err *e)
{
    pthread_mutex_lock(&c->lock);
    int rc = 0;
    if (c->dirty) {
        struct buf b = BUF_INIT;
        load(c->path, &c->map); /* what other processes wrote since we read it; a race here loses only speed */
        write_entries(&c->map, &b);
        rc = io_write_file_atomic(c->path, b.data, b.len, e);
        if (!rc)
            c->dirty = false;
        buf_release(&b);
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

void statcache_close(struct statcache *c)
{
    if (!c)
        return;
    statcache_save(c, NULL); /* a table that cannot be written costs only speed */
    for (size_t i = 0; i < c->map.count; i++)
        free(c->map.entries[i].value);
    map_release(&c->map);
    pthread_mutex_destroy(&c->lock);
    free(c->path);
    free(c);
}

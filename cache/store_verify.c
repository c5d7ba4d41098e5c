/* Walks over everything: store_each and store_verify. */
#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/store_impl.h"
#include "pipeline/base/io.h"
#include "pipeline/base/map.h"
#include "pipeline/base/mem.h"

/* Every entry of ac/ or cas/ in byte order. name_ok: whether it is 64 hex digits in the folder of its first two. */
static int walk(struct store *s, const char *map, int (*fn)(void *arg, const char *path, const char *name, bool name_ok), void *arg,
                struct err *e)
{
    char *root = io_join(s->dir, map);
    struct io_list l;
    int rc = io_list(root, true, &l, e);
    for (size_t i = 0; !rc && i < l.count; i++) {
        const char *name = io_basename(l.names[i]);
        bool ok = hash_is_hex(name) && strlen(l.names[i]) == HASH_HEX - 1 + 3 && !strncmp(l.names[i], name, 2);
        char *path = io_join(root, l.names[i]);
        rc = fn(arg, path, name, ok);
        free(path);
    }
    io_list_release(&l);
    free(root);
    return rc;
}

struct each {
    struct store *s;
    int (*fn)(void *arg, const char *key, const struct record *r);
    void *arg;
    struct err *e;
};

static int each_record(void *arg, const char *path, const char *name, bool name_ok)
{
    struct each *w = arg;
    struct record r;
    enum store_load state;
    (void)path;
    if (!name_ok)
        return 0;
    int rc = store_load_record(w->s, name, &r, &state, NULL, w->e);
    if (!rc && (state == STORE_LOADED || state == STORE_DAMAGED))
        rc = w->fn(w->arg, name, state == STORE_LOADED ? &r : NULL);
    record_release(&r);
    return rc;
}

int store_each(struct store *s, int (*fn)(void *arg, const char *key, const struct record *r), void *arg, struct err *e)
{
    struct each w = {s, fn, arg, e};
    return walk(s, "ac", each_record, &w, e);
}

struct verify {
    struct store *s;
    bool repair;
    void (*fn)(void *arg, const char *line);
    void *arg;
    struct store_verify *out;
    struct map wanted; /* SHA-256 of every blob that a record names -> "" before it was seen, "seen" after */
    struct err *e;
};

static char not_seen[] = "", seen[] = "seen";

static void tell(struct verify *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void tell(struct verify *v, const char *fmt, ...)
{
    va_list ap;
    char line[ERR_TEXT_BYTES];
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (v->fn)
        v->fn(v->arg, line);
}

static int verify_record(void *arg, const char *path, const char *name, bool name_ok)
{
    struct verify *v = arg;
    struct record r;
    enum store_load state;
    struct buf why = BUF_INIT;
    if (!name_ok) {
        tell(v, "%s is not named like a record; left alone", path);
        return 0;
    }
    int rc = store_load_record(v->s, name, &r, &state, &why, v->e);
    if (!rc && state == STORE_LOADED) {
        v->out->records++;
        for (size_t i = 0; i < r.output_count; i++)
            map_put(&v->wanted, r.outputs[i].digests.sha256, not_seen);
    } else if (!rc && state == STORE_DAMAGED) {
        v->out->records++;
        v->out->bad_records++;
        tell(v, "%s%s", buf_str(&why), v->repair ? "; removed" : "");
        rc = v->repair ? store_evict(v->s, name, v->e) : 0;
    }
    record_release(&r);
    buf_release(&why);
    return rc;
}

static int verify_blob(void *arg, const char *path, const char *name, bool name_ok)
{
    struct verify *v = arg;
    struct hash_digests have;
    if (!name_ok) {
        tell(v, "%s is not named like a blob; left alone", path);
        return 0;
    }
    int rc = hash_file(path, &have, v->e);
    if (rc)
        return rc == -ERR_NOTFOUND ? 0 : rc; /* the collector was here */
    v->out->blobs++;
    v->out->bytes += have.bytes;
    struct map_entry *at = map_find(&v->wanted, name, strlen(name));
    if (!at)
        v->out->unreferenced_blobs++;
    else
        at->value = seen;
    if (!strcmp(have.sha256, name))
        return 0;
    v->out->bad_blobs++;
    struct buf where = BUF_INIT;
    if (v->repair)
        rc = store_quarantine(v->s, name, &where, v->e);
    if (!rc)
        tell(v, "blob %s is damaged: its SHA-256 is %s%s%s", name, have.sha256, v->repair ? "; moved to " : "", buf_str(&where));
    buf_release(&where);
    return rc;
}

int store_verify(struct store *s, bool repair, void (*fn)(void *arg, const char *line), void *arg, struct store_verify *out, struct err *e)
{
    struct verify v = {s, repair, fn, arg, out, MAP_INIT, e};
    *out = (struct store_verify){.records = 0};
    int rc = walk(s, "ac", verify_record, &v, e);
    if (!rc)
        rc = walk(s, "cas", verify_blob, &v, e);
    for (size_t i = 0; !rc && i < v.wanted.count; i++)
        if (v.wanted.entries[i].value == not_seen) {
            out->missing_blobs++;
            tell(&v, "blob %s is missing", v.wanted.entries[i].key);
        }
    map_release(&v.wanted);
    return rc;
}

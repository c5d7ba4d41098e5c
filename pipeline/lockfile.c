#include "pipeline/lockfile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/hash.h"
#include "pipeline/base/io.h"
#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"

enum { LOCK_VERSION = 1, LOCK_MAX_BYTES = 64 << 20 };

static json_t *stages_of(const struct lockfile *l)
{
    return json_object_get(l->root, "stages");
}

static int check_stage(const struct lockfile *l, const char *stage, const json_t *files, struct err *e)
{
    const char *name;
    json_t *f;
    if (!json_is_object(files))
        return err_set(e, ERR_LOCK, "%s: stage '%s' is no table of files", l->path, stage);
    json_object_foreach((json_t *)(uintptr_t)files, name, f)
    {
        const char *sha256 = json_string_value(json_object_get(f, "sha256"));
        const json_t *bytes = json_object_get(f, "bytes");
        if (!sha256 || !hash_is_hex(sha256) || !json_is_integer(bytes) || json_integer_value(bytes) < 0)
            return err_set(e, ERR_LOCK, "%s: stage '%s': file '%s' needs sha256 and bytes", l->path, stage, name);
    }
    return 0;
}

static int check(const struct lockfile *l, struct err *e)
{
    const json_t *version = json_object_get(l->root, "version"), *numerics = json_object_get(l->root, "numerics");
    if (!json_is_integer(version))
        return err_set(e, ERR_LOCK, "%s: no version: not a lock file", l->path);
    if (json_integer_value(version) != LOCK_VERSION)
        return err_set(e, ERR_LOCK, "%s: version %lld is newer than this program's %d", l->path, (long long)json_integer_value(version),
                       LOCK_VERSION);
    if (!json_is_object(stages_of(l)) || (numerics && !json_is_string(numerics)))
        return err_set(e, ERR_LOCK, "%s: not a lock file", l->path);
    const char *stage;
    json_t *files;
    json_object_foreach(stages_of(l), stage, files)
    {
        int rc = check_stage(l, stage, files, e);
        if (rc)
            return rc;
    }
    return 0;
}

int lockfile_load(struct lockfile *l, const char *path, struct err *e)
{
    *l = (struct lockfile){.path = xstrdup(path), .exists = io_exists(path)};
    if (!l->exists) {
        l->root = json_pack("{s:i,s:{}}", "version", LOCK_VERSION, "stages");
        return 0;
    }
    l->root = json_parse_file(path, LOCK_MAX_BYTES, e);
    int rc = l->root ? check(l, e) : -ERR_LOCK;
    if (!l->root && e)
        e->code = ERR_LOCK;
    if (rc)
        lockfile_release(l);
    return rc;
}

void lockfile_release(struct lockfile *l)
{
    free(l->path);
    json_decref(l->root);
    *l = (struct lockfile){.path = NULL};
}

const char *lockfile_numerics(const struct lockfile *l)
{
    return json_string_value(json_object_get(l->root, "numerics"));
}

static void differ(struct lock_difference *d, const char *file, const char *was, const char *is)
{
    if (d->file && strcmp(d->file, file) <= 0)
        return;
    free(d->file);
    d->state = LOCK_DIFFERS;
    d->file = xstrdup(file);
    snprintf(d->was, sizeof d->was, "%s", was ? was : "absent");
    snprintf(d->is, sizeof d->is, "%s", is ? is : "absent");
}

void lockfile_compare(const struct lockfile *l, const char *stage, const struct fileset *files, struct lock_difference *out)
{
    json_t *locked = json_object_get(stages_of(l), stage), *f;
    *out = (struct lock_difference){.state = locked ? LOCK_SAME : LOCK_ABSENT};
    if (!locked)
        return;
    for (size_t i = 0; i < files->count; i++) {
        const char *was = json_string_value(json_object_get(json_object_get(locked, files->files[i].name), "sha256"));
        if (!was || strcmp(was, files->files[i].sha256) != 0)
            differ(out, files->files[i].name, was, files->files[i].sha256);
    }
    const char *name;
    json_object_foreach(locked, name, f) if (!fileset_find(files, name))
        differ(out, name, json_string_value(json_object_get(f, "sha256")), NULL);
}

void lockfile_set(struct lockfile *l, const char *stage, const struct fileset *files)
{
    json_t *o = json_object();
    for (size_t i = 0; i < files->count; i++)
        json_object_set_new(o, files->files[i].name,
                            json_pack("{s:s,s:I}", "sha256", files->files[i].sha256, "bytes", (json_int_t)files->files[i].bytes));
    json_object_set_new(stages_of(l), stage, o);
}

void lockfile_set_numerics(struct lockfile *l, const char *numerics)
{
    json_object_set_new(l->root, "numerics", json_string(numerics));
}

void lockfile_keep(struct lockfile *l, bool (*keep)(void *arg, const char *stage), void *arg)
{
    const char *stage;
    json_t *files;
    void *next;
    json_object_foreach_safe(stages_of(l), next, stage, files) if (!keep(arg, stage)) json_object_del(stages_of(l), stage);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Keys of an object in byte order; the caller frees the array. */
static const char **sorted_keys(const json_t *o)
{
    const char **keys = xcalloc(json_object_size(o), sizeof *keys), *key;
    size_t n = 0;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)o, key, v) keys[n++] = key;
    if (n)
        qsort(keys, n, sizeof *keys, by_text);
    return keys;
}

static void add_quoted(struct buf *out, const char *text)
{
    json_t *s = json_string(text);
    json_canonical(s, out);
    json_decref(s);
}

void lockfile_text(const struct lockfile *l, struct buf *out)
{
    const json_t *stages = stages_of(l);
    size_t count = json_object_size(stages);
    const char **names = sorted_keys(stages);
    buf_printf(out, "{\n  \"version\": %d,\n", LOCK_VERSION);
    if (lockfile_numerics(l)) {
        buf_addstr(out, "  \"numerics\": ");
        add_quoted(out, lockfile_numerics(l));
        buf_addstr(out, ",\n");
    }
    buf_addstr(out, "  \"stages\": {\n");
    for (size_t i = 0; i < count; i++) {
        const json_t *files = json_object_get(stages, names[i]);
        const char **paths = sorted_keys(files);
        size_t n = json_object_size(files);
        buf_addstr(out, "    ");
        add_quoted(out, names[i]);
        buf_addstr(out, ": {\n");
        for (size_t j = 0; j < n; j++) {
            const json_t *f = json_object_get(files, paths[j]);
            buf_addstr(out, "      ");
            add_quoted(out, paths[j]);
            buf_printf(out, ": {\"sha256\": \"%s\", \"bytes\": %lld}%s\n", json_string_value(json_object_get(f, "sha256")),
                       (long long)json_integer_value(json_object_get(f, "bytes")), j + 1 < n ? "," : "");
        }
        buf_printf(out, "    }%s\n", i + 1 < count ? "," : "");
        free(paths);
    }
    buf_addstr(out, "  }\n}\n");
    free(names);
}

int lockfile_write(const struct lockfile *l, struct err *e)
{
    struct buf now = BUF_INIT, was = BUF_INIT;
    lockfile_text(l, &now);
    int rc = 0;
    bool same = io_exists(l->path) && !io_read_file(l->path, LOCK_MAX_BYTES, &was, NULL) && was.len == now.len &&
                !memcmp(was.data, now.data, now.len);
    if (!same)
        rc = io_write_file_atomic(l->path, now.data, now.len, e);
    buf_release(&now);
    buf_release(&was);
    return rc;
}

#include "pipeline/base/fileset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <errno.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"

static size_t lower_bound(const struct fileset *s, const char *name)
{
    size_t lo = 0, hi = s->count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (strcmp(s->files[mid].name, name) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

const struct fileset_file *fileset_find(const struct fileset *s, const char *name)
{
    size_t i = lower_bound(s, name);
    return i < s->count && !strcmp(s->files[i].name, name) ? &s->files[i] : NULL;
}

void fileset_add(struct fileset *s, const char *name, const char *path, const char *sha256, uint64_t bytes)
{
    size_t i = lower_bound(s, name);
    if (i < s->count && !strcmp(s->files[i].name, name)) {
        free(s->files[i].name);
        free(s->files[i].path);
    } else {
        MEM_GROW(s->files, s->count, s->cap);
        memmove(s->files + i + 1, s->files + i, (s->count - i) * sizeof *s->files);
        s->count++;
    }
    s->files[i] = (struct fileset_file){.name = xstrdup(name), .path = xstrdup(path), .bytes = bytes};
    snprintf(s->files[i].sha256, sizeof s->files[i].sha256, "%s", sha256 ? sha256 : "");
}

static int add_path(struct fileset *s, const char *name, const char *path, struct err *e)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return err_sys(e, errno, "cannot stat %s", path);
    fileset_add(s, name, path, NULL, (uint64_t)st.st_size);
    return 0;
}

int fileset_from_path(struct fileset *s, const char *path, struct err *e)
{
    if (!io_exists(path))
        return err_set(e, ERR_NOTFOUND, "%s does not exist", path);
    if (!io_is_dir(path))
        return add_path(s, io_basename(path), path, e);
    struct io_list l;
    int rc = io_list(path, true, &l, e);
    for (size_t i = 0; !rc && i < l.count; i++) {
        char *full = io_join(path, l.names[i]);
        rc = add_path(s, l.names[i], full, e);
        free(full);
    }
    io_list_release(&l);
    return rc;
}

void fileset_copy(struct fileset *to, const struct fileset *from)
{
    for (size_t i = 0; i < from->count; i++)
        fileset_add(to, from->files[i].name, from->files[i].path, from->files[i].sha256, from->files[i].bytes);
}

void fileset_release(struct fileset *s)
{
    for (size_t i = 0; i < s->count; i++) {
        free(s->files[i].name);
        free(s->files[i].path);
    }
    free(s->files);
    *s = (struct fileset)FILESET_INIT;
}

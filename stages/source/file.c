#include "stages/source/file.h"

#include <fnmatch.h>

static bool matches_any(const json_t *patterns, const char *name)
{
    size_t i;
    json_t *p;
    json_array_foreach((json_t *)(uintptr_t)patterns, i, p)
        if (fnmatch(json_string_value(p), name, 0) == 0)
            return true;
    return false;
}

int source_file_resolve(const char *path, const json_t *include, const json_t *exclude, struct resolve_ctx *r, struct fileset *out, struct err *e)
{
    struct fileset all = FILESET_INIT;
    int rc = fileset_from_path(&all, path, e);
    for (size_t i = 0; !rc && i < all.count; i++) {
        const struct fileset_file *f = &all.files[i];
        if ((json_is_array(include) && !matches_any(include, f->name)) || (json_is_array(exclude) && matches_any(exclude, f->name)))
            continue;
        char sha256[65];
        uint64_t bytes;
        rc = r->digest(r, f->path, sha256, &bytes, e);
        if (!rc)
            fileset_add(out, f->name, f->path, sha256, bytes);
    }
    if (!rc && !out->count)
        rc = err_set(e, ERR_NOTFOUND, "%s holds no file to take (%zu there before include and exclude)", path, all.count);
    fileset_release(&all);
    return rc;
}

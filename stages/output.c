#include "stages/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pipeline/base/io.h"
#include "stages/stages.h"

int output_check(const char *path, const char *mark, struct err *e)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : err_sys(e, errno, "cannot stat %s", path);
    if (!S_ISDIR(st.st_mode))
        return err_set(e, ERR_MANIFEST, "%s is there and is not a folder", path);
    struct io_list l;
    int rc = io_list(path, false, &l, e);
    if (rc)
        return rc;
    bool ours = l.count == 0;
    for (size_t i = 0; i < l.count; i++)
        ours |= !strcmp(l.names[i], mark);
    size_t count = l.count;
    io_list_release(&l);
    return ours ? 0 : err_set(e, ERR_MANIFEST, "%s holds %zu files and no %s: it was not made by gptqpipe and is left alone", path, count, mark);
}

/* The folder holds these files, and the mark's content is the one wanted. */
static bool in_place(const char *path, const char *mark, const struct fileset *files)
{
    for (size_t i = 0; i < files->count; i++) {
        struct stat st;
        char *full = io_join(path, files->files[i].name);
        bool same = stat(full, &st) == 0 && (uint64_t)st.st_size == files->files[i].bytes;
        free(full);
        if (!same)
            return false;
    }
    const struct fileset_file *want = fileset_find(files, mark);
    struct buf b = BUF_INIT;
    char *full = io_join(path, mark), sha256[65] = "";
    if (want && io_read_file(full, 64 << 20, &b, NULL) == 0)
        stage_sha256(buf_str(&b), b.len, sha256);
    free(full);
    buf_release(&b);
    return want && !strcmp(sha256, want->sha256);
}

static int fill(const char *dir, const struct fileset *files, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < files->count; i++) {
        char *to = io_join(dir, files->files[i].name), *parent = io_dirname(to);
        rc = io_mkdirs(parent, e);
        if (!rc)
            rc = io_copy_file(files->files[i].path, to, 0644, e);
        free(parent);
        free(to);
    }
    return rc ? rc : io_fsync_dir(dir, e);
}

int output_place(const char *path, const char *mark, const struct fileset *files, struct err *e)
{
    int rc = output_check(path, mark, e);
    if (rc || in_place(path, mark, files))
        return rc;
    char *parent = io_dirname(path), *fresh = NULL, *prefix = NULL;
    rc = io_mkdirs(parent, e);
    if (asprintf(&prefix, ".%s.new.", io_basename(path)) < 0)
        BUG("out of memory");
    if (!rc)
        rc = io_mkdtemp(parent, prefix, &fresh, e);
    if (!rc && chmod(fresh, 0755) < 0)
        rc = err_sys(e, errno, "cannot set the mode of %s", fresh);
    if (!rc)
        rc = fill(fresh, files, e);
    if (!rc && renameat2(AT_FDCWD, fresh, AT_FDCWD, path, RENAME_EXCHANGE) < 0) {
        /* nothing there to exchange with, or a file system that cannot: an empty or absent folder is replaced by plain rename */
        if ((errno != ENOENT && io_remove_tree(path, e)) || rename(fresh, path) < 0)
            rc = err_sys(e, errno, "cannot move %s to %s", fresh, path);
    }
    if (!rc)
        rc = io_fsync_dir(parent, e);
    if (fresh)
        io_remove_tree(fresh, NULL);
    free(fresh);
    free(prefix);
    free(parent);
    return rc;
}

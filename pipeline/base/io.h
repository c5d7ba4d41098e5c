/* Files: whole reads, maps, durable atomic writes, trees. Every failure names the path. EINTR and short transfers are handled here.
 *
 * Publishing a file so that a crash at any moment leaves the old one or the new one, never a part:
 *     struct io_atomic a;
 *     io_atomic_open(&a, path, e); ... io_write(a.fd, ...) ...; io_atomic_commit(&a, e);   or   io_atomic_abort(&a);
 */
#ifndef PIPELINE_BASE_IO_H
#define PIPELINE_BASE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "pipeline/base/buf.h"
#include "pipeline/base/err.h"

/* A file mapped for reading. data is page-aligned, NULL for an empty file. */
struct io_map {
    const unsigned char *data;
    size_t bytes;
};
int io_map(struct io_map *m, const char *path, struct err *e);
void io_unmap(struct io_map *m);
/* Tells the kernel that [offset, offset+bytes) of the map need not stay resident (read again on use). */
void io_map_drop(const struct io_map *m, size_t offset, size_t bytes);

/* The whole file; -ERR_FORMAT when it holds more than max_bytes. Appends to out. */
int io_read_file(const char *path, size_t max_bytes, struct buf *out, struct err *e);
int io_write(int fd, const void *p, size_t bytes, const char *path, struct err *e);
int io_pread(int fd, void *p, size_t bytes, uint64_t offset, const char *path, struct err *e);  /* exactly bytes, or an error */
int io_pwrite(int fd, const void *p, size_t bytes, uint64_t offset, const char *path, struct err *e);

struct io_atomic {
    int fd;
    char *path, *tmp; /* owned */
};
/* Makes a unique temporary file in path's folder. */
int io_atomic_open(struct io_atomic *a, const char *path, struct err *e);
/* fsync, rename into place, fsync the folder. On failure the temporary file is gone and path is as it was. */
int io_atomic_commit(struct io_atomic *a, struct err *e);
void io_atomic_abort(struct io_atomic *a);
int io_write_file_atomic(const char *path, const void *p, size_t bytes, struct err *e);

int io_mkdirs(const char *path, struct err *e);                  /* like mkdir -p */
int io_fsync_dir(const char *path, struct err *e);
int io_remove_tree(const char *path, struct err *e);             /* fine when absent; never follows links */
int io_copy_file(const char *from, const char *to, mode_t mode, struct err *e); /* reflink, else copy; fsynced; to must not exist */
bool io_exists(const char *path);
bool io_is_dir(const char *path);
/* Folder with a unique name "<prefix>XXXXXX" inside parent. *out is the caller's to free. */
int io_mkdtemp(const char *parent, const char *prefix, char **out, struct err *e);

/* Regular files below root, as paths relative to it, in byte order. Folders and files whose name starts with '.' are left out.
 * recursive = false lists the top level only. Links to regular files count as files. */
struct io_list {
    char **names; /* owned */
    size_t count, cap;
};
int io_list(const char *root, bool recursive, struct io_list *out, struct err *e);
void io_list_release(struct io_list *l);

/* "dir/name"; name alone when dir is "" or "." or name is absolute. The caller frees. */
char *io_join(const char *dir, const char *name);
char *io_dirname(const char *path);
const char *io_basename(const char *path); /* borrowed from path */
/* Absolute form without touching the file system's links. The caller frees. */
char *io_absolute(const char *path);

uint64_t io_now_ns(void);        /* wall clock */
uint64_t io_monotonic_ns(void);
uint64_t io_peak_rss_bytes(void); /* of this process */
uint64_t io_memory_bytes(void);   /* physical memory or cgroup limit, the smaller */

#endif

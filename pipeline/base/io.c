#include "pipeline/base/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "pipeline/base/mem.h"

static int open_read(const char *path, struct stat *st, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        int n = errno;
        err_sys(e, n, "cannot open %s", path);
        if (n == ENOENT && e)
            e->code = ERR_NOTFOUND;
        return n == ENOENT ? -ERR_NOTFOUND : -ERR_IO;
    }
    if (fstat(fd, st) < 0 || !S_ISREG(st->st_mode)) {
        close(fd);
        return err_set(e, ERR_IO, "%s is not a regular file", path);
    }
    return fd;
}

int io_map(struct io_map *m, const char *path, struct err *e)
{
    struct stat st;
    *m = (struct io_map){NULL, 0};
    int fd = open_read(path, &st, e);
    if (fd < 0)
        return fd;
    int rc = 0;
    if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED)
            rc = err_sys(e, errno, "cannot map %s", path);
        else
            *m = (struct io_map){p, (size_t)st.st_size};
    }
    close(fd);
    return rc;
}

void io_unmap(struct io_map *m)
{
    if (m->data)
        munmap((void *)(uintptr_t)m->data, m->bytes);
    *m = (struct io_map){NULL, 0};
}

void io_map_drop(const struct io_map *m, size_t offset, size_t bytes)
{
    size_t page = 4096, from = (offset + page - 1) / page * page, to = (offset + bytes) / page * page;
    if (m->data && to > from && to <= m->bytes)
        madvise((void *)(uintptr_t)(m->data + from), to - from, MADV_DONTNEED);
}

int io_read_file(const char *path, size_t max_bytes, struct buf *out, struct err *e)
{
    struct stat st;
    int fd = open_read(path, &st, e);
    if (fd < 0)
        return fd;
    int rc = 0;
    size_t total = 0;
    for (;;) {
        char *at = buf_reserve(out, 64 << 10);
        ssize_t n = read(fd, at, 64 << 10);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = err_sys(e, errno, "cannot read %s", path);
        if (n <= 0)
            break;
        total += (size_t)n;
        if (total > max_bytes) {
            rc = err_set(e, ERR_FORMAT, "%s holds more than the %zu bytes allowed here", path, max_bytes);
            break;
        }
        buf_setlen(out, out->len + (size_t)n);
    }
    close(fd);
    return rc;
}

int io_write(int fd, const void *p, size_t bytes, const char *path, struct err *e)
{
    for (const char *at = p; bytes;) {
        ssize_t n = write(fd, at, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(e, errno, "cannot write %s", path);
        at += n;
        bytes -= (size_t)n;
    }
    return 0;
}

int io_pread(int fd, void *p, size_t bytes, uint64_t offset, const char *path, struct err *e)
{
    for (char *at = p; bytes;) {
        ssize_t n = pread(fd, at, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(e, errno, "cannot read %s", path);
        if (n == 0)
            return err_set(e, ERR_IO, "%s ends before byte %llu", path, (unsigned long long)offset + bytes);
        at += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return 0;
}

int io_pwrite(int fd, const void *p, size_t bytes, uint64_t offset, const char *path, struct err *e)
{
    for (const char *at = p; bytes;) {
        ssize_t n = pwrite(fd, at, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(e, errno, "cannot write %s", path);
        at += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return 0;
}

/* Names that two processes or threads never share: pid, time and a counter. */
static char *unique_name(const char *path)
{
    static unsigned long counter;
    return xasprintf("%s.tmp.%ld.%llx.%lu", path, (long)getpid(), (unsigned long long)io_now_ns(),
                     __atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED));
}

int io_atomic_open(struct io_atomic *a, const char *path, struct err *e)
{
    a->path = xstrdup(path);
    a->tmp = unique_name(path);
    a->fd = open(a->tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (a->fd >= 0)
        return 0;
    int rc = err_sys(e, errno, "cannot create %s", a->tmp);
    free(a->path);
    free(a->tmp);
    *a = (struct io_atomic){-1, NULL, NULL};
    return rc;
}

void io_atomic_abort(struct io_atomic *a)
{
    if (!a->tmp)
        return;
    if (a->fd >= 0)
        close(a->fd);
    unlink(a->tmp);
    free(a->path);
    free(a->tmp);
    *a = (struct io_atomic){-1, NULL, NULL};
}

int io_atomic_commit(struct io_atomic *a, struct err *e)
{
    int rc = 0;
    if (fsync(a->fd) < 0)
        rc = err_sys(e, errno, "cannot sync %s", a->tmp);
    if (close(a->fd) < 0 && !rc)
        rc = err_sys(e, errno, "cannot close %s", a->tmp);
    a->fd = -1;
    if (!rc && rename(a->tmp, a->path) < 0)
        rc = err_sys(e, errno, "cannot rename %s to %s", a->tmp, a->path);
    if (rc) {
        io_atomic_abort(a);
        return rc;
    }
    char *dir = io_dirname(a->path);
    rc = io_fsync_dir(dir, e);
    free(dir);
    free(a->path);
    free(a->tmp);
    *a = (struct io_atomic){-1, NULL, NULL};
    return rc;
}

int io_write_file_atomic(const char *path, const void *p, size_t bytes, struct err *e)
{
    struct io_atomic a;
    int rc = io_atomic_open(&a, path, e);
    if (rc)
        return rc;
    rc = io_write(a.fd, p, bytes, a.tmp, e);
    if (rc) {
        io_atomic_abort(&a);
        return rc;
    }
    return io_atomic_commit(&a, e);
}

int io_mkdirs(const char *path, struct err *e)
{
    char *p = xstrdup(path);
    int rc = 0;
    for (char *at = p + 1; !rc; at++) {
        if (*at != '/' && *at)
            continue;
        char keep = *at;
        *at = 0;
        int n = mkdir(p, 0777) < 0 ? errno : 0;
        /* A folder that is there counts whatever the reason given: full, read-only or guarded file systems need not say EEXIST. */
        if (n && (n != EEXIST || !keep) && !io_is_dir(p))
            rc = err_sys(e, n, "cannot create folder %s", p);
        *at = keep;
        if (!keep)
            break;
    }
    free(p);
    return rc;
}

int io_fsync_dir(const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(e, errno, "cannot open folder %s", path);
    int rc = fsync(fd) < 0 && errno != EINVAL && errno != EROFS ? err_sys(e, errno, "cannot sync folder %s", path) : 0;
    close(fd);
    return rc;
}

int io_remove_tree(const char *path, struct err *e)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : err_sys(e, errno, "cannot stat %s", path);
    if (!S_ISDIR(st.st_mode))
        return unlink(path) < 0 && errno != ENOENT ? err_sys(e, errno, "cannot remove %s", path) : 0;
    DIR *d = opendir(path);
    if (!d)
        return err_sys(e, errno, "cannot open folder %s", path);
    int rc = 0;
    struct dirent *ent;
    while (!rc && (ent = readdir(d))) { // NOLINT(concurrency-mt-unsafe): one DIR, one thread
        if (!strcmp(ent->d_name, ".") || !strcmp(ent->d_name, ".."))
            continue;
        char *child = io_join(path, ent->d_name);
        rc = io_remove_tree(child, e);
        free(child);
    }
    closedir(d);
    if (!rc && rmdir(path) < 0 && errno != ENOENT)
        rc = err_sys(e, errno, "cannot remove folder %s", path);
    return rc;
}

static int copy_bytes(int from, int to, const char *from_path, const char *to_path, struct err *e)
{
    if (ioctl(to, FICLONE, from) == 0)
        return 0;
    char *chunk = xmalloc(1 << 20);
    int rc = 0;
    for (;;) {
        ssize_t n = read(from, chunk, 1 << 20);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = err_sys(e, errno, "cannot read %s", from_path);
        if (n <= 0 || (rc = io_write(to, chunk, (size_t)n, to_path, e)))
            break;
    }
    free(chunk);
    return rc;
}

int io_copy_file(const char *from, const char *to, mode_t mode, struct err *e)
{
    struct stat st;
    int in = open_read(from, &st, e);
    if (in < 0)
        return in;
    int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (out < 0) {
        int rc = err_sys(e, errno, "cannot create %s", to);
        close(in);
        return rc;
    }
    int rc = copy_bytes(in, out, from, to, e);
    if (!rc && fsync(out) < 0)
        rc = err_sys(e, errno, "cannot sync %s", to);
    close(in);
    if (close(out) < 0 && !rc)
        rc = err_sys(e, errno, "cannot close %s", to);
    if (rc)
        unlink(to);
    return rc;
}

bool io_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool io_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int io_mkdtemp(const char *parent, const char *prefix, char **out, struct err *e)
{
    char *name = xasprintf("%s/%sXXXXXX", parent, prefix);
    if (mkdtemp(name)) {
        *out = name;
        return 0;
    }
    int rc = err_sys(e, errno, "cannot create a folder in %s", parent);
    free(name);
    return rc;
}

static int list_into(const char *root, const char *below, bool recursive, struct io_list *out, struct err *e)
{
    char *dir = io_join(root, below);
    DIR *d = opendir(dir);
    if (!d) {
        int rc = err_sys(e, errno, "cannot open folder %s", dir);
        free(dir);
        return rc;
    }
    int rc = 0;
    struct dirent *ent;
    while (!rc && (ent = readdir(d))) { // NOLINT(concurrency-mt-unsafe): one DIR, one thread
        if (ent->d_name[0] == '.')
            continue;
        char *name = io_join(below, ent->d_name), *path = io_join(root, name);
        struct stat st;
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
            MEM_GROW(out->names, out->count, out->cap);
            out->names[out->count++] = name;
            name = NULL;
        } else if (recursive && lstat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
            rc = list_into(root, name, recursive, out, e);
        }
        free(name);
        free(path);
    }
    closedir(d);
    free(dir);
    return rc;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int io_list(const char *root, bool recursive, struct io_list *out, struct err *e)
{
    *out = (struct io_list){NULL, 0, 0};
    int rc = list_into(root, "", recursive, out, e);
    if (rc)
        io_list_release(out);
    else if (out->count)
        qsort(out->names, out->count, sizeof *out->names, by_bytes);
    return rc;
}

void io_list_release(struct io_list *l)
{
    for (size_t i = 0; i < l->count; i++)
        free(l->names[i]);
    free(l->names);
    *l = (struct io_list){NULL, 0, 0};
}

char *io_join(const char *dir, const char *name)
{
    if (!dir[0] || !strcmp(dir, ".") || name[0] == '/')
        return xstrdup(name);
    size_t n = strlen(dir);
    return name[0] ? xasprintf("%s%s%s", dir, dir[n - 1] == '/' ? "" : "/", name) : xstrdup(dir);
}

char *io_dirname(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return xstrdup(".");
    return slash == path ? xstrdup("/") : xstrndup(path, (size_t)(slash - path));
}

const char *io_basename(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

char *io_absolute(const char *path)
{
    struct buf b = BUF_INIT;
    if (path[0] != '/') {
        char cwd[4096];
        buf_addstr(&b, getcwd(cwd, sizeof cwd) ? cwd : "");
        if (b.len == 1)
            buf_clear(&b);
    }
    for (const char *at = path; *at;) {
        size_t n = strcspn(at, "/");
        if (n == 2 && at[0] == '.' && at[1] == '.') {
            const char *slash = b.len ? strrchr(b.data, '/') : NULL;
            buf_setlen(&b, slash ? (size_t)(slash - b.data) : 0);
        } else if (n && !(n == 1 && at[0] == '.')) {
            buf_addch(&b, '/');
            buf_add(&b, at, n);
        }
        at += n + (at[n] == '/');
    }
    if (!b.len)
        buf_addch(&b, '/');
    return buf_detach(&b);
}

static uint64_t clock_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t io_now_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

uint64_t io_monotonic_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t io_peak_rss_bytes(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (uint64_t)u.ru_maxrss * 1024 : 0;
}

uint64_t io_memory_bytes(void)
{
    uint64_t bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    FILE *f = fopen("/sys/fs/cgroup/memory.max", "re");
    if (f) {
        unsigned long long limit;
        if (fscanf(f, "%llu", &limit) == 1 && limit < bytes)
            bytes = limit;
        fclose(f);
    }
    return bytes;
}

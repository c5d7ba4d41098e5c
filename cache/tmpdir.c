#include "cache/tmpdir.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"

enum { ID_BYTES = 40, FOREIGN_IDLE_S = 48 * 3600 };

struct owner {
    char boot[ID_BYTES];      /* "none" where the kernel does not tell */
    unsigned long long pidns; /* 0 likewise */
    long pid;
    unsigned long long start; /* clock ticks after boot, 0 likewise */
};

/* Field 22 of /proc/PID/stat. The command name in field 2 may hold anything, so the fields are counted from its last ')'. */
static bool start_time(long pid, unsigned long long *out)
{
    char path[64];
    struct buf b = BUF_INIT;
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    bool ok = io_read_file(path, 1 << 16, &b, NULL) == 0;
    const char *at = ok && b.len ? strrchr(b.data, ')') : NULL;
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    ok = at && sscanf(at, " %llu", out) == 1;
    buf_release(&b);
    return ok;
}

static void owner_self(struct owner *o)
{
    struct buf b = BUF_INIT;
    struct stat st;
    *o = (struct owner){.boot = "none", .pid = (long)getpid()};
    if (!io_read_file("/proc/sys/kernel/random/boot_id", 4096, &b, NULL) && b.len >= 36 && strspn(b.data, "0123456789abcdef-") == 36)
        snprintf(o->boot, sizeof o->boot, "%.36s", b.data);
    buf_release(&b);
    if (stat("/proc/self/ns/pid", &st) == 0)
        o->pidns = (unsigned long long)st.st_ino;
    if (!start_time(o->pid, &o->start))
        o->start = 0;
}

int tmpdir_make(const char *tmp, char **dir, struct err *e)
{
    struct owner self;
    owner_self(&self);
    char *prefix = xasprintf("%s.%llu.%ld.%llu.", self.boot, self.pidns, self.pid, self.start);
    int rc = io_mkdtemp(tmp, prefix, dir, e);
    free(prefix);
    return rc;
}

static bool parse_owner(const char *name, struct owner *o)
{
    int end = -1;
    if (sscanf(name, "%39[a-f0-9no-].%llu.%ld.%llu.%n", o->boot, &o->pidns, &o->pid, &o->start, &end) != 4 || end < 0 || o->pid <= 0)
        return false;
    return strlen(name + end) == 6 && strspn(name + end, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == 6;
}

/* Latest change of anything in the tree, in seconds; far in the future when it cannot be told. */
static time_t newest_change(const char *path)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : (time_t)INT64_MAX;
    time_t newest = st.st_mtime > st.st_ctime ? st.st_mtime : st.st_ctime;
    DIR *d = S_ISDIR(st.st_mode) ? opendir(path) : NULL;
    if (!d)
        return newest;
    struct dirent *ent;
    while ((ent = readdir(d))) { // NOLINT(concurrency-mt-unsafe): one DIR, one thread
        if (!strcmp(ent->d_name, ".") || !strcmp(ent->d_name, ".."))
            continue;
        char *child = io_join(path, ent->d_name);
        time_t t = newest_change(child);
        newest = t > newest ? t : newest;
        free(child);
    }
    closedir(d);
    return newest;
}

static bool owner_gone(const struct owner *o, const struct owner *self, const char *path, time_t now_s)
{
    bool ours = strcmp(o->boot, "none") && !strcmp(o->boot, self->boot) && o->pidns && o->pidns == self->pidns;
    if (!ours)
        return newest_change(path) < now_s - FOREIGN_IDLE_S;
    if (kill((pid_t)o->pid, 0) < 0 && errno == ESRCH)
        return true;
    unsigned long long start;
    return o->start && start_time(o->pid, &start) && start != o->start;
}

void tmpdir_sweep(const char *tmp, time_t now_s)
{
    DIR *d = opendir(tmp);
    if (!d)
        return;
    struct owner self, o;
    owner_self(&self);
    struct dirent *ent;
    while ((ent = readdir(d))) { // NOLINT(concurrency-mt-unsafe): one DIR, one thread
        if (!parse_owner(ent->d_name, &o))
            continue;
        char *path = io_join(tmp, ent->d_name);
        if (owner_gone(&o, &self, path, now_s))
            io_remove_tree(path, NULL);
        free(path);
    }
    closedir(d);
}

/* Digests of the user's own files, remembered by (device, inode, size, mtime, ctime), so that an unchanged 10 GB model is hashed once.
 * Kept in <store>/stat.db: lines with a trailing checksum, rewritten atomically; damage loses only speed. An entry whose mtime or ctime was
 * less than two seconds before it was hashed is not trusted next time (the file may have changed within the clock's grain). Threads may
 * share one. */
#ifndef CACHE_STATCACHE_H
#define CACHE_STATCACHE_H

#include <stdbool.h>

#include "cache/hash.h"
#include "pipeline/base/err.h"

struct statcache;
int statcache_open(const char *store_dir, struct statcache **out, struct err *e);
/* Digests of the file, from the table or by reading it. *hashed (may be NULL) tells whether it was read. */
int statcache_file(struct statcache *c, const char *path, struct hash_digests *out, bool *hashed, struct err *e);
/* Fails with -ERR_STALE, naming the file, when it is no longer the one that `want` was taken from. Cheap (stat) unless the stat changed. */
int statcache_recheck(struct statcache *c, const char *path, const struct hash_digests *want, struct err *e);
/* Writes what was learnt; statcache_close saves too. */
int statcache_save(struct statcache *c, struct err *e);
void statcache_close(struct statcache *c);

#endif

/* gptqpipe.lock, beside the manifest: what every moving reference was when it was last applied. JSON, one file a line, sorted, so that it
 * merges.
 *
 *     {
 *       "version": 1,
 *       "numerics": "cpu",
 *       "stages": {
 *         "wiki": {
 *           "data/wiki.test.raw": {"sha256": "…", "bytes": 1290590}
 *         }
 *       }
 *     }
 */
#ifndef PIPELINE_LOCKFILE_H
#define PIPELINE_LOCKFILE_H

#include <jansson.h>
#include <stdbool.h>

#include "pipeline/base/buf.h"
#include "pipeline/base/err.h"
#include "pipeline/base/fileset.h"

struct lockfile {
    char *path;   /* owned */
    bool exists;  /* there was one to read */
    json_t *root; /* owned */
};

/* A lock that is absent is empty. Damage and newer versions are -ERR_LOCK. */
int lockfile_load(struct lockfile *l, const char *path, struct err *e);
void lockfile_release(struct lockfile *l);

enum lock_state { LOCK_SAME, LOCK_ABSENT, LOCK_DIFFERS };
struct lock_difference {
    enum lock_state state;
    char *file;           /* the first file in byte order that differs; owned, NULL unless LOCK_DIFFERS */
    char was[65], is[65]; /* digests, "absent" on a side that has no such file */
};
void lockfile_compare(const struct lockfile *l, const char *stage, const struct fileset *files, struct lock_difference *out);
const char *lockfile_numerics(const struct lockfile *l); /* NULL when absent */

void lockfile_set(struct lockfile *l, const char *stage, const struct fileset *files);
void lockfile_set_numerics(struct lockfile *l, const char *numerics);
/* Drops stages for which keep is false. */
void lockfile_keep(struct lockfile *l, bool (*keep)(void *arg, const char *stage), void *arg);
void lockfile_text(const struct lockfile *l, struct buf *out);
/* Writes atomically unless the file says the same already. */
int lockfile_write(const struct lockfile *l, struct err *e);

#endif

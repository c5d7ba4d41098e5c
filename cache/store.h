/* The local store: ac/<2>/<key> -> record, cas/<2>/<sha256> -> bytes.
 *
 * Publish:  store_begin -> write files into the folder it gives -> store_publish (blobs first, each durable, the record last).
 *           store_discard drops everything. A killed process leaves only tmp/, which store_open sweeps when the owner is gone.
 * Read:     store_get checks the record and that every blob exists with its size; store_blob_path gives the file to map.
 * Correctness never rests on locks: unique temporary names, fsync, link or rename, fsync the folder. Blobs are read-only (0444).
 * A record whose blob is missing or damaged is a miss; the caller is told through struct store_miss. Threads may share a store.
 */
#ifndef CACHE_STORE_H
#define CACHE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/record.h"
#include "pipeline/base/err.h"

struct store;

/* Makes the folder with VERSION and CACHEDIR.TAG when absent. A folder that holds other things and no VERSION is refused. */
int store_open(const char *dir, struct store **out, struct err *e);
void store_close(struct store *s);
const char *store_dir(const struct store *s);

enum store_miss { STORE_HIT, STORE_NO_RECORD, STORE_BAD_RECORD, STORE_BLOB_MISSING, STORE_BLOB_DAMAGED };

/* 0 with *miss == STORE_HIT and *r filled (record_release it), or 0 with another *miss and `why` (may be NULL) filled for messages.
 * Negative only for errors of the machine. check_content also reads every blob and checks XXH3. */
int store_get(struct store *s, const char *key, bool check_content, struct record *r, enum store_miss *miss, struct buf *why,
              struct err *e);

/* Path of a blob's file, existing or not; the caller frees. */
char *store_blob_path(const struct store *s, const char *sha256);
/* Reads a blob through XXH3: -ERR_INTEGRITY names it when damaged; the damaged file is moved to quarantine/ so that it is rebuilt. */
int store_check_blob(struct store *s, const struct hash_digests *want, struct err *e);

/* A fresh private folder under tmp/ for a node's outputs. The caller frees *dir. */
int store_begin(struct store *s, char **dir, struct err *e);
void store_discard(struct store *s, const char *dir);
/* Takes every regular file below dir as an output (path relative to dir), fills r->outputs, makes the blobs durable, then writes the record
 * and removes dir. r->key, preimage and the rest are the caller's. A different record already there for the key with other output digests
 * is -ERR_INTEGRITY naming both, unless replace (for --force after an implementation change). */
int store_publish(struct store *s, const char *dir, struct record *r, bool replace, struct err *e);

/* Removes the record of a key (its blobs stay for others until gc). 0 also when there was none. */
int store_evict(struct store *s, const char *key, struct err *e);

/* Walks all records in byte order of keys; fn returns nonzero to stop (returned). Bad records come with r == NULL. */
int store_each(struct store *s, int (*fn)(void *arg, const char *key, const struct record *r), void *arg, struct err *e);

struct store_verify {
    uint64_t records, blobs, bytes, bad_records, bad_blobs, missing_blobs, unreferenced_blobs;
};
/* Reads everything, SHA-256. fn (may be NULL) is told each defect in one line. With repair, bad records are removed and bad blobs
 * quarantined. */
int store_verify(struct store *s, bool repair, void (*fn)(void *arg, const char *line), void *arg, struct store_verify *out, struct err *e);

/* Counters since store_open: records read, blobs opened for content, bytes read from blobs: "a no-op apply opens no blob" is tested with
 * these. */
struct store_stats {
    uint64_t record_reads, blob_checks, blob_bytes, published;
};
void store_stats_get(const struct store *s, struct store_stats *out);

#endif

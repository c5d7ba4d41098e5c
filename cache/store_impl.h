/* What the files of the store share; nobody else includes this. */
#ifndef CACHE_STORE_IMPL_H
#define CACHE_STORE_IMPL_H

#include <stdatomic.h>

#include "cache/store.h"

struct store {
    char *dir, *tmp; /* absolute; owned */
    atomic_uint_fast64_t record_reads, blob_checks, blob_bytes, published;
};

enum store_load {
    STORE_LOADED,
    STORE_ABSENT,
    STORE_DAMAGED, /* not a record, or the record of another key */
    STORE_NEWER,   /* written by a later version of this program: left alone */
};

/* Reads the record of a key. Negative only for errors of the machine; text in `why` (may be NULL) unless STORE_LOADED. */
int store_load_record(struct store *s, const char *key, struct record *r, enum store_load *state, struct buf *why, struct err *e);
char *store_record_path(const struct store *s, const char *key);

/* Compares a blob's file with want: -ERR_NOTFOUND when absent, -ERR_INTEGRITY with the reason in e when size or content differ. */
int store_compare_blob(struct store *s, const struct hash_digests *want, struct err *e);
/* Moves a blob out of the way. The new place is appended to where (may be NULL). */
int store_quarantine(struct store *s, const char *sha256, struct buf *where, struct err *e);

/* Makes dir/<first two digits of name>. */
int store_make_shard(const char *path, struct err *e);
/* Marks a file as used now. */
void store_freshen(const char *path);

#endif

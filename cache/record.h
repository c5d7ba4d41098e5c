/* A record: what the cache keeps for a key. The on-disk grammar is drawn in record.c beside the writer: canonical JSON with a trailing XXH3
 * line.
 *
 * key = SHA-256 of `preimage`, the canonical JSON of everything that decides the outputs; reading a record checks that. Newer grammar
 * versions are left alone and count as a miss (-ERR_UNSUPPORTED is not an error to the user). */
#ifndef CACHE_RECORD_H
#define CACHE_RECORD_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/hash.h"
#include "pipeline/base/buf.h"
#include "pipeline/base/err.h"

struct record_output {
    char *path; /* relative name within the artifact; owned */
    struct hash_digests digests;
};

struct record {
    char key[HASH_HEX];
    char *preimage;                /* canonical JSON text; owned */
    struct record_output *outputs; /* in byte order of paths */
    size_t output_count, output_cap;
    json_t *metrics;        /* object: what the stage reports (losses, figures); owned, may be NULL */
    int64_t created_unix_s; /* these three are facts about the run, not identity */
    double wall_s;
    uint64_t peak_rss_bytes;
    char *reason; /* why the node ran; owned, may be NULL */
};

#define RECORD_INIT                                                                                                                        \
    {                                                                                                                                      \
        .preimage = NULL                                                                                                                   \
    }

enum { RECORD_MAX_BYTES = 64 << 20 };

/* What an output may be called: relative, no empty part, "." or "..", at most 4096 bytes. */
bool record_path_ok(const char *path);
/* Keeps the order of paths; a path already there gets the new digests. All text in a record is UTF-8. */
void record_add_output(struct record *r, const char *path, const struct hash_digests *d);
/* Appends the record's bytes. */
void record_write(const struct record *r, struct buf *out);
/* name: for errors. Any damage is -ERR_FORMAT; a grammar newer than ours -ERR_UNSUPPORTED. Bad input never crashes. */
int record_read(struct record *r, const char *text, size_t bytes, const char *name, struct err *e);
/* SHA-256 over the outputs' paths and digests: the identity of the artifact. */
void record_outputs_digest(const struct record *r, char hex[HASH_HEX]);
void record_release(struct record *r);

#endif

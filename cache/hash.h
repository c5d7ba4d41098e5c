/* Digests. Identity of bytes is SHA-256 (OpenSSL EVP), written as 64 lower-case hex digits; XXH3-128 (32 hex digits) only tells damage. */
#ifndef CACHE_HASH_H
#define CACHE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pipeline/base/err.h"

enum { HASH_HEX = 65, HASH_XXH_HEX = 33 };

struct hash_digests {
    char sha256[HASH_HEX];
    char xxh3[HASH_XXH_HEX];
    uint64_t bytes;
};

struct hash_stream; /* both digests in one pass */
struct hash_stream *hash_begin(void);
void hash_update(struct hash_stream *h, const void *p, size_t bytes);
void hash_end(struct hash_stream *h, struct hash_digests *out); /* frees h */

void hash_sha256(const void *p, size_t bytes, char hex[HASH_HEX]);
int hash_file(const char *path, struct hash_digests *out, struct err *e);
/* The rest of an open file; path is for errors. */
int hash_fd(int fd, const char *path, struct hash_digests *out, struct err *e);
void hash_xxh3(const void *p, size_t bytes, char hex[HASH_XXH_HEX]);
int hash_file_xxh3(const char *path, char hex[HASH_XXH_HEX], struct err *e);
bool hash_is_hex(const char *s);     /* exactly 64 lower-case hex digits */
bool hash_is_xxh_hex(const char *s); /* exactly 32 */

#endif

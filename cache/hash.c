#include "cache/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <string.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "pipeline/base/mem.h"

/* Large enough that the cost of a system call vanishes, small enough to stay in a second-level cache between the two digests. */
enum { CHUNK_BYTES = 256 << 10, SHA256_BYTES = 32 };

struct hash_stream {
    EVP_MD_CTX *sha;
    XXH3_state_t *xxh;
    uint64_t bytes;
};

static EVP_MD_CTX *sha_begin(void)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    if (!c || EVP_DigestInit_ex(c, EVP_sha256(), NULL) != 1)
        BUG("libcrypto has no SHA-256");
    return c;
}

static void to_hex(const unsigned char *p, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * n] = 0;
}

static void sha_end(EVP_MD_CTX *c, char hex[HASH_HEX])
{
    unsigned char sum[SHA256_BYTES];
    if (EVP_DigestFinal_ex(c, sum, NULL) != 1)
        BUG("SHA-256 did not finish");
    EVP_MD_CTX_free(c);
    to_hex(sum, sizeof sum, hex);
}

static XXH3_state_t *xxh_begin(void)
{
    XXH3_state_t *x = XXH3_createState();
    if (!x || XXH3_128bits_reset(x) != XXH_OK)
        BUG("no memory for an XXH3 state");
    return x;
}

static void xxh_hex(XXH128_hash_t sum, char hex[HASH_XXH_HEX])
{
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, sum);
    to_hex(c.digest, sizeof c.digest, hex);
}

static void xxh_end(XXH3_state_t *x, char hex[HASH_XXH_HEX])
{
    xxh_hex(XXH3_128bits_digest(x), hex);
    XXH3_freeState(x);
}

struct hash_stream *hash_begin(void)
{
    struct hash_stream *h = xcalloc(1, sizeof *h);
    h->sha = sha_begin();
    h->xxh = xxh_begin();
    return h;
}

void hash_update(struct hash_stream *h, const void *p, size_t bytes)
{
    if (!bytes)
        return;
    if (EVP_DigestUpdate(h->sha, p, bytes) != 1)
        BUG("SHA-256 of %zu bytes failed", bytes);
    XXH3_128bits_update(h->xxh, p, bytes);
    h->bytes += bytes;
}

void hash_end(struct hash_stream *h, struct hash_digests *out)
{
    sha_end(h->sha, out->sha256);
    xxh_end(h->xxh, out->xxh3);
    out->bytes = h->bytes;
    free(h);
}

void hash_sha256(const void *p, size_t bytes, char hex[HASH_HEX])
{
    EVP_MD_CTX *c = sha_begin();
    if (bytes && EVP_DigestUpdate(c, p, bytes) != 1)
        BUG("SHA-256 of %zu bytes failed", bytes);
    sha_end(c, hex);
}

void hash_xxh3(const void *p, size_t bytes, char hex[HASH_XXH_HEX])
{
    xxh_hex(XXH3_128bits(p, bytes), hex);
}

/* Feeds the rest of fd to fn, chunk by chunk. */
static int feed(int fd, const char *path, void (*fn)(void *arg, const void *p, size_t bytes), void *arg, struct err *e)
{
    char *chunk = xmalloc(CHUNK_BYTES);
    int rc = 0;
    for (;;) {
        ssize_t n = read(fd, chunk, CHUNK_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = err_sys(e, errno, "cannot read %s", path);
        if (n <= 0)
            break;
        fn(arg, chunk, (size_t)n);
    }
    free(chunk);
    return rc;
}

static void feed_both(void *arg, const void *p, size_t bytes)
{
    hash_update(arg, p, bytes);
}

int hash_fd(int fd, const char *path, struct hash_digests *out, struct err *e)
{
    struct hash_stream *h = hash_begin();
    int rc = feed(fd, path, feed_both, h, e);
    hash_end(h, out);
    return rc;
}

static int open_regular(const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* O_NONBLOCK: a pipe must not hang us */
    if (fd < 0) {
        int n = errno, rc = err_sys(e, n, "cannot open %s", path);
        if (n != ENOENT)
            return rc;
        if (e)
            e->code = ERR_NOTFOUND;
        return -ERR_NOTFOUND;
    }
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(e, ERR_IO, "%s is not a regular file", path);
    }
    return fd;
}

int hash_file(const char *path, struct hash_digests *out, struct err *e)
{
    int fd = open_regular(path, e);
    if (fd < 0)
        return fd;
    int rc = hash_fd(fd, path, out, e);
    close(fd);
    return rc;
}

static void feed_xxh(void *arg, const void *p, size_t bytes)
{
    XXH3_128bits_update(arg, p, bytes);
}

int hash_file_xxh3(const char *path, char hex[HASH_XXH_HEX], struct err *e)
{
    int fd = open_regular(path, e);
    if (fd < 0)
        return fd;
    XXH3_state_t *x = xxh_begin();
    int rc = feed(fd, path, feed_xxh, x, e);
    xxh_end(x, hex);
    close(fd);
    return rc;
}

static bool is_hex(const char *s, size_t n)
{
    return strspn(s, "0123456789abcdef") == n && !s[n];
}

bool hash_is_hex(const char *s)
{
    return is_hex(s, HASH_HEX - 1);
}

bool hash_is_xxh_hex(const char *s)
{
    return is_hex(s, HASH_XXH_HEX - 1);
}

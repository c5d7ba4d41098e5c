/* record_read on any bytes. With an odd first byte the rest is a body that gets the right checksum line, so that the fuzzer reaches what
 * lies behind it; with 3 in its lowest bits the key is also corrected. What is accepted must be what the writer writes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cache/record.h"
#include "pipeline/base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Puts the digest of the preimage (its text without escapes, so only plain ones are hit) behind "key":" where both are found. */
static void fix_key(char *text, size_t bytes)
{
    char *key = memmem(text, bytes, "\"key\":\"", 7), *from = memmem(text, bytes, "\"preimage\":\"", 12);
    if (!key || !from || (size_t)(text + bytes - key) < 7 + 64)
        return;
    from += 12;
    const char *to = memchr(from, '"', (size_t)(text + bytes - from));
    char hex[HASH_HEX];
    if (!to)
        return;
    hash_sha256(from, (size_t)(to - from), hex);
    memcpy(key + 7, hex, 64);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    struct buf b = BUF_INIT;
    buf_add(&b, data + 1, size - 1);
    if (data[0] & 1) {
        char sum[HASH_XXH_HEX];
        if (data[0] & 2)
            fix_key(b.data, b.len);
        buf_addch(&b, '\n');
        hash_xxh3(b.data, b.len, sum);
        buf_printf(&b, "xxh3 %s\n", sum);
    }
    char *exact = xmalloc(b.len ? b.len : 1);
    if (b.len)
        memcpy(exact, b.data, b.len);
    struct record r;
    struct err e = {0};
    int rc = record_read(&r, exact, b.len, "fuzz", &e);
    if (rc != 0 && rc != -ERR_FORMAT && rc != -ERR_UNSUPPORTED)
        abort();
    if ((rc != 0) != (e.code != 0) || (rc && !e.text[0]))
        abort();
    if (!rc) {
        struct buf again = BUF_INIT;
        char hex[HASH_HEX];
        record_write(&r, &again);
        if (again.len != b.len || memcmp(again.data, exact, b.len))
            abort();
        record_outputs_digest(&r, hex);
        record_release(&r);
        buf_release(&again);
    }
    free(exact);
    buf_release(&b);
    return 0;
}

/* Bytes as a safetensors file: the header is parsed as of a file of that size, and what was accepted must be consistent. */
#include <stdlib.h>

#include "stages/lm/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_set set = {0};
    struct err err;
    if (!st_parse_header(&set, 0, data, size, size, "fuzz.safetensors", &err)) {
        uint64_t at = 0;
        volatile uint8_t sum = 0;
        for (size_t i = 0; i < set.tensor_count; i++) {
            const struct st_tensor *t = &set.tensors[i];
            if (t->offset + t->bytes > size || t->offset < at || st_find(&set, t->name) != t ||
                (uint64_t)st_elems(t) * dtype_bytes(t->dtype) != t->bytes)
                abort();
            at = t->offset + t->bytes;
            for (uint64_t k = 0; k < t->bytes; k++)
                sum = (uint8_t)(sum + data[t->offset + k]);
        }
        if (set.tensor_count && at != size)
            abort();
    }
    st_close(&set);
    return 0;
}

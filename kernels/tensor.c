#include "kernels/tensor.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} dtypes[DT_COUNT] = {
    [DT_F32] = {"F32", 4}, [DT_F16] = {"F16", 2}, [DT_BF16] = {"BF16", 2}, [DT_F64] = {"F64", 8}, [DT_I8] = {"I8", 1},
    [DT_U8] = {"U8", 1},   [DT_I16] = {"I16", 2}, [DT_I32] = {"I32", 4},   [DT_I64] = {"I64", 8}, [DT_BOOL] = {"BOOL", 1},
};

size_t dtype_bytes(enum dtype t)
{
    return dtypes[t].bytes;
}

const char *dtype_name(enum dtype t)
{
    return dtypes[t].name;
}

int dtype_parse(const char *name)
{
    for (int t = 0; t < DT_COUNT; t++)
        if (strcmp(name, dtypes[t].name) == 0)
            return t;
    return -1;
}

/* Adds a part of n * each bytes, rounded up to 64, to *total; its offset, or SIZE_MAX when the sum overflows. */
static size_t part(size_t *total, size_t n, size_t count, size_t each)
{
    size_t bytes, at = *total;
    if (__builtin_mul_overflow(n, count, &bytes) || __builtin_mul_overflow(bytes, each, &bytes) || bytes > SIZE_MAX / 2 - 63 ||
        __builtin_add_overflow(at, (bytes + 63) & ~(size_t)63, total))
        return SIZE_MAX;
    return at;
}

int qmatrix_alloc(struct qmatrix *q, int64_t N, int64_t K, int bits, int group_size)
{
    memset(q, 0, sizeof *q);
    if (N < 0 || K < 0 || (group_size < 1 && group_size != -1))
        return -1;
    int64_t G = group_size == -1 || K == 0 ? 1 : K / group_size + (K % group_size != 0);
    size_t n = (size_t)N, k = (size_t)K, g = (size_t)G, total = 0;
    size_t g_idx = part(&total, k, 1, sizeof *q->g_idx), scales = part(&total, g, n, sizeof *q->scales);
    size_t zeros = part(&total, g, n, 1), codes = part(&total, n, k, 1);
    if (g_idx == SIZE_MAX || scales == SIZE_MAX || zeros == SIZE_MAX || codes == SIZE_MAX)
        return -1;
    char *p = calloc(1, total ? total : 1);
    if (!p)
        return -1;
    *q = (struct qmatrix){.N = N, .K = K, .G = G, .bits = bits, .group_size = group_size};
    q->g_idx = (int32_t *)p; /* at offset 0: it is what qmatrix_free frees */
    q->scales = (uint16_t *)(p + scales);
    q->zeros = (uint8_t *)(p + zeros);
    q->codes = (uint8_t *)(p + codes);
    return 0;
}

void qmatrix_free(struct qmatrix *q)
{
    free(q->g_idx);
    memset(q, 0, sizeof *q);
}

void qwords_free(struct qwords *q)
{
    free(q->owned);
    memset(q, 0, sizeof *q);
}

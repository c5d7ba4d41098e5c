/* Allocation for metadata: these abort on exhaustion. Tensor memory is asked for with tensor-sized calls that return errors. */
#ifndef PIPELINE_BASE_MEM_H
#define PIPELINE_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

void *xmalloc(size_t bytes);
void *xcalloc(size_t n, size_t bytes);
void *xreallocarray(void *p, size_t n, size_t bytes);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t n);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Room for one more in an array that grows by doubling: array, its count, its capacity. */
#define MEM_GROW(array, count, cap)                                            \
    do {                                                                       \
        if ((count) >= (cap)) {                                                \
            (cap) = (cap) ? 2 * (cap) : 8;                                     \
            (array) = xreallocarray((array), (size_t)(cap), sizeof *(array));  \
        }                                                                      \
    } while (0)

/* *out = a * b, or -1 when it overflows. */
static inline int mem_mul(size_t a, size_t b, size_t *out)
{
    return __builtin_mul_overflow(a, b, out) ? -1 : 0;
}

#endif

#include "pipeline/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/err.h"

static void *checked(void *p, size_t bytes)
{
    if (!p && bytes) {
        fprintf(stderr, "gptqpipe: error: out of memory: %zu bytes of metadata\n", bytes);
        abort();
    }
    return p;
}

void *xmalloc(size_t bytes)
{
    return checked(malloc(bytes ? bytes : 1), bytes);
}

void *xcalloc(size_t n, size_t bytes)
{
    return checked(calloc(n ? n : 1, bytes ? bytes : 1), n);
}

void *xreallocarray(void *p, size_t n, size_t bytes)
{
    return checked(reallocarray(p, n ? n : 1, bytes), n);
}

char *xstrndup(const char *s, size_t n)
{
    char *copy = xmalloc(n + 1);
    memcpy(copy, s, n);
    copy[n] = 0;
    return copy;
}

char *xstrdup(const char *s)
{
    return xstrndup(s, strlen(s));
}

char *xasprintf(const char *fmt, ...)
{
    char *out = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&out, fmt, ap);
    va_end(ap);
    return checked(n < 0 ? NULL : out, 1);
}

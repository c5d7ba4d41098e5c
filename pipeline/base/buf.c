#include "pipeline/base/buf.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/err.h"
#include "pipeline/base/mem.h"

void buf_release(struct buf *b)
{
    free(b->data);
    *b = (struct buf)BUF_INIT;
}

char *buf_reserve(struct buf *b, size_t more)
{
    size_t need;
    if (__builtin_add_overflow(b->len, more, &need) || __builtin_add_overflow(need, 1, &need))
        BUG("buffer of %zu + %zu bytes", b->len, more);
    if (need > b->cap) {
        size_t cap = b->cap < 64 ? 64 : b->cap;
        while (cap < need)
            cap = cap > SIZE_MAX / 2 ? need : cap * 2;
        b->data = xreallocarray(b->data, cap, 1);
        b->cap = cap;
    }
    return b->data + b->len;
}

void buf_setlen(struct buf *b, size_t len)
{
    if (len > b->len)
        buf_reserve(b, len - b->len);
    b->len = len;
    if (b->data)
        b->data[len] = 0;
}

void buf_add(struct buf *b, const void *p, size_t n)
{
    char *at = buf_reserve(b, n);
    if (n)
        memcpy(at, p, n);
    buf_setlen(b, b->len + n);
}

void buf_addstr(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_addch(struct buf *b, char c)
{
    buf_add(b, &c, 1);
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        BUG("bad format %s", fmt);
    char *at = buf_reserve(b, (size_t)n);
    vsnprintf(at, (size_t)n + 1, fmt, again);
    va_end(again);
    b->len += (size_t)n;
}

char *buf_detach(struct buf *b)
{
    buf_reserve(b, 0);
    b->data[b->len] = 0;
    char *out = b->data;
    *b = (struct buf)BUF_INIT;
    return out;
}

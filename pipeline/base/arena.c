#include "pipeline/base/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/err.h"
#include "pipeline/base/mem.h"

#if defined(__SANITIZE_ADDRESS__)
#define UNDER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UNDER_ASAN 1
#endif
#endif

#ifdef UNDER_ASAN
#include <sanitizer/asan_interface.h>
#define RED_ZONE 32
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define RED_ZONE 0
#endif

enum { CHUNK_BYTES = 64 << 10, ALIGN = 16 };

struct arena_chunk {
    struct arena_chunk *next;
    size_t used, bytes;
    _Alignas(ALIGN) char data[];
};

void *arena_alloc(struct arena *a, size_t bytes)
{
    size_t need;
    if (__builtin_add_overflow(bytes, (size_t)(RED_ZONE + ALIGN - 1), &need))
        BUG("arena object of %zu bytes", bytes);
    need &= ~(size_t)(ALIGN - 1);
    struct arena_chunk *c = a->head;
    if (!c || c->bytes - c->used < need) {
        size_t room = need > CHUNK_BYTES ? need : CHUNK_BYTES, whole;
        if (__builtin_add_overflow(room, sizeof *c, &whole))
            BUG("arena object of %zu bytes", bytes);
        c = xcalloc(1, whole);
        c->bytes = room;
        c->next = a->head;
        a->head = c;
        ASAN_POISON_MEMORY_REGION(c->data, room);
    }
    void *p = c->data + c->used;
    c->used += need;
    ASAN_UNPOISON_MEMORY_REGION(p, bytes);
    return p;
}

void *arena_array(struct arena *a, size_t n, size_t bytes)
{
    size_t total;
    if (mem_mul(n, bytes, &total))
        BUG("arena array of %zu x %zu bytes", n, bytes);
    return arena_alloc(a, total);
}

char *arena_strndup(struct arena *a, const char *s, size_t n)
{
    char *copy = arena_alloc(a, n + 1);
    memcpy(copy, s, n);
    return copy;
}

char *arena_strdup(struct arena *a, const char *s)
{
    return arena_strndup(a, s, strlen(s));
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        BUG("bad format %s", fmt);
    char *out = arena_alloc(a, (size_t)n + 1);
    vsnprintf(out, (size_t)n + 1, fmt, again);
    va_end(again);
    return out;
}

void arena_release(struct arena *a)
{
    while (a->head) {
        struct arena_chunk *c = a->head;
        a->head = c->next;
        ASAN_UNPOISON_MEMORY_REGION(c->data, c->bytes);
        free(c);
    }
}

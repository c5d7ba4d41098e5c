/* Growing byte buffer, always followed by a NUL that is not counted. Zero-initialize or use BUF_INIT; buf_release frees.
 * Growth aborts when memory is exhausted (metadata only). Not thread-safe. */
#ifndef PIPELINE_BASE_BUF_H
#define PIPELINE_BASE_BUF_H

#include <stddef.h>

struct buf {
    char *data; /* owned; NULL while empty */
    size_t len, cap;
};

#define BUF_INIT {NULL, 0, 0}

void buf_release(struct buf *b);
static inline void buf_clear(struct buf *b)
{
    b->len = 0;
    if (b->data)
        b->data[0] = 0;
}
/* Room for `more` bytes beyond len. Returns the place to write; the caller then adds to len (and keeps the NUL with buf_setlen). */
char *buf_reserve(struct buf *b, size_t more);
void buf_setlen(struct buf *b, size_t len);
void buf_add(struct buf *b, const void *p, size_t n);
void buf_addstr(struct buf *b, const char *s);
void buf_addch(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The text, "" while empty; borrowed until the next change. */
static inline const char *buf_str(const struct buf *b)
{
    return b->data ? b->data : "";
}
/* Hands the bytes to the caller, who frees them; b is empty after. Never NULL. */
char *buf_detach(struct buf *b);

#endif

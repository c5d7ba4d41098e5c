/* Arena: memory that is freed all at once. One per lifetime (a manifest, a plan, a tokenizer). Allocation aborts on exhaustion.
 * Under ASan every object is followed by a poisoned red zone. Not thread-safe. */
#ifndef PIPELINE_BASE_ARENA_H
#define PIPELINE_BASE_ARENA_H

#include <stddef.h>

struct arena_chunk;
struct arena {
    struct arena_chunk *head;
};

#define ARENA_INIT {NULL}

/* Zeroed, 16-byte aligned, valid until arena_release. */
void *arena_alloc(struct arena *a, size_t bytes);
void *arena_array(struct arena *a, size_t n, size_t bytes);
char *arena_strdup(struct arena *a, const char *s);
char *arena_strndup(struct arena *a, const char *s, size_t n);
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void arena_release(struct arena *a);

#endif

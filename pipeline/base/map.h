/* Hash map from byte strings to pointers; keys are copied. Iteration follows insertion order, so nothing depends on hash order. */
#ifndef PIPELINE_BASE_MAP_H
#define PIPELINE_BASE_MAP_H

#include <stddef.h>
#include <stdint.h>

struct map_entry {
    char *key; /* owned, NUL after key_len bytes */
    size_t key_len;
    void *value; /* the caller's */
};

struct map {
    struct map_entry *entries; /* in insertion order */
    size_t count, cap;
    uint32_t *slots; /* index + 1 into entries, 0 = empty; power of two */
    size_t slot_count;
};

#define MAP_INIT {NULL, 0, 0, NULL, 0}

/* Adds or replaces. Returns the former value or NULL. */
void *map_put(struct map *m, const char *key, void *value);
void *map_putn(struct map *m, const char *key, size_t key_len, void *value);
void *map_get(const struct map *m, const char *key);
/* The entry, or NULL: tells a stored NULL from an absent key. */
struct map_entry *map_find(const struct map *m, const char *key, size_t key_len);
/* Frees keys and tables, not the values. */
void map_release(struct map *m);

#endif

#include "pipeline/base/map.h"

#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "pipeline/base/mem.h"

static size_t slot_of(const struct map *m, const char *key, size_t len)
{
    size_t mask = m->slot_count - 1, i = (size_t)XXH3_64bits(key, len) & mask;
    while (m->slots[i]) {
        const struct map_entry *e = &m->entries[m->slots[i] - 1];
        if (e->key_len == len && memcmp(e->key, key, len) == 0)
            break;
        i = (i + 1) & mask;
    }
    return i;
}

static void rehash(struct map *m)
{
    m->slot_count = m->slot_count ? 2 * m->slot_count : 16;
    free(m->slots);
    m->slots = xcalloc(m->slot_count, sizeof *m->slots);
    for (size_t i = 0; i < m->count; i++)
        m->slots[slot_of(m, m->entries[i].key, m->entries[i].key_len)] = (uint32_t)i + 1;
}

struct map_entry *map_find(const struct map *m, const char *key, size_t key_len)
{
    if (!m->slot_count)
        return NULL;
    uint32_t at = m->slots[slot_of(m, key, key_len)];
    return at ? &m->entries[at - 1] : NULL;
}

void *map_get(const struct map *m, const char *key)
{
    struct map_entry *e = map_find(m, key, strlen(key));
    return e ? e->value : NULL;
}

void *map_putn(struct map *m, const char *key, size_t key_len, void *value)
{
    struct map_entry *e = map_find(m, key, key_len);
    if (e) {
        void *old = e->value;
        e->value = value;
        return old;
    }
    if (2 * (m->count + 1) > m->slot_count)
        rehash(m);
    MEM_GROW(m->entries, m->count, m->cap);
    m->entries[m->count] = (struct map_entry){xstrndup(key, key_len), key_len, value};
    m->slots[slot_of(m, key, key_len)] = (uint32_t)++m->count;
    return NULL;
}

void *map_put(struct map *m, const char *key, void *value)
{
    return map_putn(m, key, strlen(key), value);
}

void map_release(struct map *m)
{
    for (size_t i = 0; i < m->count; i++)
        free(m->entries[i].key);
    free(m->entries);
    free(m->slots);
    *m = (struct map)MAP_INIT;
}

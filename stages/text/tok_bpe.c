/* The model: byte-pair encoding. Vocabulary and merges are open-addressing tables, filled while loading and constant after. A word is a
 * linked list of symbols; a heap holds (rank, position) of the pairs that merge, the leftmost of the lowest rank first, so a word of n
 * characters takes O(n log n). An entry is stale when its symbol's current pair has another rank. */
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "pipeline/base/mem.h"
#include "stages/text/tok_internal.h"

/* Words of up to WORD_CACHED bytes are remembered for the length of one call; the pools are emptied when they reach POOL_BYTES. */
enum { WORD_CACHED = 128, WORD_SLOTS = 1 << 13, POOL_BYTES = 1 << 20, CACHE_FROM_BYTES = 1024 };

static size_t vocab_slot(const struct vocab *v, const char *piece, size_t len)
{
    size_t mask = v->slot_count - 1, i = (size_t)XXH3_64bits(piece, len) & mask;
    for (; v->slots[i]; i = (i + 1) & mask) {
        const struct vocab_entry *e = &v->entries[v->slots[i] - 1];
        if (e->len == len && memcmp(e->piece, piece, len) == 0)
            break;
    }
    return i;
}

static void vocab_rehash(struct vocab *v)
{
    v->slot_count = v->slot_count ? 2 * v->slot_count : 1024;
    free(v->slots);
    v->slots = xcalloc(v->slot_count, sizeof *v->slots);
    for (size_t i = 0; i < v->count; i++)
        v->slots[vocab_slot(v, v->entries[i].piece, v->entries[i].len)] = (uint32_t)i + 1;
}

void vocab_add(struct vocab *v, const char *piece, size_t len, int32_t id)
{
    if (2 * (v->count + 1) > v->slot_count)
        vocab_rehash(v);
    size_t slot = vocab_slot(v, piece, len);
    if (v->slots[slot]) {
        v->entries[v->slots[slot] - 1].id = id;
        return;
    }
    MEM_GROW(v->entries, v->count, v->cap);
    v->entries[v->count] = (struct vocab_entry){piece, len, id};
    v->slots[slot] = (uint32_t)++v->count;
}

int32_t vocab_find(const struct vocab *v, const char *piece, size_t len)
{
    if (!v->slot_count)
        return -1;
    uint32_t at = v->slots[vocab_slot(v, piece, len)];
    return at ? v->entries[at - 1].id : -1;
}

static struct merge *merge_at(const struct tok *t, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t mask = t->merge_slots - 1, i = (size_t)((pair * 0x9E3779B97F4A7C15u) >> 32) & mask;
    while (t->merges[i].pair != pair && t->merges[i].pair != MERGE_EMPTY)
        i = (i + 1) & mask;
    return &t->merges[i];
}

void merges_alloc(struct tok *t, size_t count)
{
    t->merge_slots = 16;
    while (t->merge_slots < 2 * count + 1)
        t->merge_slots *= 2;
    t->merges = xreallocarray(NULL, t->merge_slots, sizeof *t->merges);
    for (size_t i = 0; i < t->merge_slots; i++)
        t->merges[i] = (struct merge){MERGE_EMPTY, RANK_NONE, -1};
}

void merges_put(struct tok *t, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    *merge_at(t, left, right) = (struct merge){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank, id};
}

static void heap_down(uint64_t *h, size_t n, size_t i)
{
    uint64_t x = h[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && h[child + 1] < h[child])
            child++;
        if (h[child] >= x)
            break;
        h[i] = h[child];
    }
    h[i] = x;
}

static void heap_push(struct work *w, uint64_t x)
{
    MEM_GROW(w->heap, w->heap_count, w->heap_cap);
    size_t i = w->heap_count++;
    for (; i > 0 && w->heap[(i - 1) / 2] > x; i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = x;
}

/* Looks up the pair of symbol i and its next. True when they merge. */
static bool set_pair(struct work *w, int32_t i)
{
    struct symbol *s = &w->symbols[i];
    const struct merge *m = s->next < 0 ? NULL : merge_at(w->t, s->id, w->symbols[s->next].id);
    s->rank = m ? m->rank : RANK_NONE;
    s->merged = m ? m->id : -1;
    return s->rank != RANK_NONE;
}

static uint64_t entry(const struct work *w, int32_t i)
{
    return (uint64_t)w->symbols[i].rank << 32 | (uint32_t)i;
}

static void merge_all(struct work *w)
{
    int32_t n = (int32_t)w->symbol_count;
    w->heap_count = 0;
    for (int32_t i = 0; i < n; i++) {
        w->symbols[i].prev = i - 1;
        w->symbols[i].next = i + 1 < n ? i + 1 : -1;
    }
    for (int32_t i = 0; i < n; i++)
        if (set_pair(w, i)) {
            MEM_GROW(w->heap, w->heap_count, w->heap_cap);
            w->heap[w->heap_count++] = entry(w, i);
        }
    for (size_t i = w->heap_count / 2; i-- > 0;)
        heap_down(w->heap, w->heap_count, i);
    while (w->heap_count) {
        uint64_t top = w->heap[0];
        w->heap[0] = w->heap[--w->heap_count];
        if (w->heap_count)
            heap_down(w->heap, w->heap_count, 0);
        int32_t i = (int32_t)(uint32_t)top;
        struct symbol *s = &w->symbols[i];
        if (s->id < 0 || s->rank != (uint32_t)(top >> 32))
            continue;
        struct symbol *gone = &w->symbols[s->next];
        s->id = s->merged;
        s->next = gone->next;
        gone->id = -1;
        if (s->next >= 0)
            w->symbols[s->next].prev = i;
        if (set_pair(w, i))
            heap_push(w, entry(w, i));
        if (s->prev >= 0 && set_pair(w, s->prev))
            heap_push(w, entry(w, s->prev));
    }
}

static void add_symbol(struct work *w, int32_t id)
{
    MEM_GROW(w->symbols, w->symbol_count, w->symbol_cap);
    w->symbols[w->symbol_count++].id = id;
}

static bool add_bytes(struct work *w, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (w->t->byte_id[(unsigned char)text[i]] < 0)
            return false;
    for (size_t i = 0; i < len; i++)
        add_symbol(w, w->t->byte_id[(unsigned char)text[i]]);
    return true;
}

/* A character outside the vocabulary. An unknown one waits in *unk until the next known character, so that a run can become one;
 * bytes of the fallback do not end a run: so it is in Hugging Face's code. */
static int add_unknown(struct work *w, const char *text, size_t len, int32_t *unk)
{
    const struct tok *t = w->t;
    if (t->byte_fallback && add_bytes(w, text, len))
        return 0;
    if (!t->unk)
        return 0;
    if (t->unk_id < 0)
        return err_set(w->e, ERR_FORMAT, "%s: unk_token \"%s\" is needed and is not in the vocabulary", t->name, t->unk);
    if (*unk >= 0 && !t->fuse_unk)
        add_symbol(w, *unk);
    *unk = t->unk_id;
    return 0;
}

static int add_characters(struct work *w, const char *text, size_t len)
{
    const struct tok *t = w->t;
    int32_t unk = -1;
    w->symbol_count = 0;
    for (size_t i = 0; i < len;) {
        uint32_t c;
        size_t n = uc_get(text + i, &c);
        int32_t id = c < CHAR_TABLE ? t->char_id[c] : vocab_find(&t->vocab, text + i, n);
        if (id >= 0) {
            if (unk >= 0)
                add_symbol(w, unk);
            unk = -1;
            add_symbol(w, id);
        } else {
            int rc = add_unknown(w, text + i, n, &unk);
            if (rc)
                return rc;
        }
        i += n;
    }
    if (unk >= 0)
        add_symbol(w, unk);
    return 0;
}

static struct word_slot *cached(struct work *w, const char *text, size_t len, uint64_t *hash)
{
    struct word_cache *c = &w->cache;
    if (!c->slots || len > WORD_CACHED)
        return NULL;
    *hash = XXH3_64bits(text, len);
    return &c->slots[*hash & (WORD_SLOTS - 1)];
}

static void cache_put(struct word_cache *c, struct word_slot *slot, uint64_t hash, const char *text, size_t len, const int32_t *ids,
                      size_t n)
{
    if (c->text.len + len > POOL_BYTES || c->ids.count + n > POOL_BYTES / sizeof *ids) {
        memset(c->slots, 0, WORD_SLOTS * sizeof *c->slots);
        buf_clear(&c->text);
        c->ids.count = 0;
    }
    *slot = (struct word_slot){hash, (uint32_t)c->text.len, (uint32_t)c->ids.count, (uint16_t)len, (uint16_t)n};
    buf_add(&c->text, text, len);
    for (size_t i = 0; i < n; i++)
        tok_ids_push(&c->ids, ids[i]);
}

int bpe_word(struct work *w, const char *text, size_t len)
{
    struct word_cache *c = &w->cache;
    if (w->t->ignore_merges) {
        int32_t whole = vocab_find(&w->t->vocab, text, len);
        if (whole >= 0) {
            tok_ids_push(w->out, whole);
            return 0;
        }
    }
    uint64_t hash = 0;
    struct word_slot *slot = cached(w, text, len, &hash);
    if (slot && slot->hash == hash && slot->text_len == len && memcmp(c->text.data + slot->text, text, len) == 0) {
        for (size_t i = 0; i < slot->id_count; i++)
            tok_ids_push(w->out, c->ids.ids[slot->ids + i]);
        return 0;
    }
    if (len > INT32_MAX / 2)
        return err_set(w->e, ERR_FORMAT, "%s: a word of %zu bytes", w->t->name, len);
    int rc = add_characters(w, text, len);
    if (rc)
        return rc;
    merge_all(w);
    size_t from = w->out->count;
    for (size_t i = 0; i < w->symbol_count; i++)
        if (w->symbols[i].id >= 0)
            tok_ids_push(w->out, w->symbols[i].id);
    if (slot)
        cache_put(c, slot, hash, text, len, w->out->ids + from, w->out->count - from);
    return 0;
}

void bpe_cache_start(struct work *w, size_t text_bytes)
{
    if (text_bytes >= CACHE_FROM_BYTES && !w->cache.slots)
        w->cache.slots = xcalloc(WORD_SLOTS, sizeof *w->cache.slots);
}

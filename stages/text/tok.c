/* Encoding from end to end. Added tokens are cut out first: those matched as written out of the text, then, segment by segment, those
 * matched in normalized text; what remains goes through the pre-tokenizer to the model. */
#include "stages/text/tok.h"

#include <stdlib.h>
#include <string.h>

#include "pipeline/base/mem.h"
#include "stages/text/tok_internal.h"

void tok_ids_push(struct tok_ids *v, int32_t id)
{
    MEM_GROW(v->ids, v->count, v->cap);
    v->ids[v->count++] = id;
}

void tok_ids_release(struct tok_ids *v)
{
    free(v->ids);
    *v = (struct tok_ids)TOK_IDS_INIT;
}

void work_init(struct work *w, const struct tok *t, struct err *e)
{
    *w = (struct work){.t = t, .e = e};
    w->md = pcre2_match_data_create(1, NULL);
    w->mc = pcre2_match_context_create(NULL);
    if (!w->md || !w->mc)
        BUG("out of memory");
    pcre2_set_heap_limit(w->mc, 256 * 1024); /* KiB */
    w->levels = xcalloc(t->pre.count + 1, sizeof *w->levels);
}

void work_release(struct work *w)
{
    for (size_t i = 0; i < w->t->pre.count; i++) {
        buf_release(&w->levels[i].text);
        free(w->levels[i].spans);
    }
    free(w->levels);
    free(w->symbols);
    free(w->heap);
    free(w->cache.slots);
    buf_release(&w->cache.text);
    tok_ids_release(&w->cache.ids);
    buf_release(&w->norm[0]);
    buf_release(&w->norm[1]);
    pcre2_match_data_free(w->md);
    pcre2_match_context_free(w->mc);
}

static int32_t trie_node(struct trie *tr, unsigned char byte, int32_t next)
{
    MEM_GROW(tr->nodes, tr->count, tr->cap);
    tr->nodes[tr->count] = (struct trie_node){-1, next, -1, byte};
    return (int32_t)tr->count++;
}

void trie_init(struct trie *tr)
{
    memset(tr, 0, sizeof *tr);
    memset(tr->first, -1, sizeof tr->first);
}

void trie_add(struct trie *tr, const char *s, size_t len, int32_t added)
{
    int32_t at = -1;
    for (size_t i = 0; i < len; i++) {
        unsigned char b = (unsigned char)s[i];
        int32_t child = i ? tr->nodes[at].child : tr->first[b];
        while (child >= 0 && tr->nodes[child].byte != b)
            child = tr->nodes[child].next;
        if (child < 0) {
            child = trie_node(tr, b, i ? tr->nodes[at].child : -1);
            if (i)
                tr->nodes[at].child = child;
            else
                tr->first[b] = child;
        }
        at = child;
    }
    if (at >= 0 && tr->nodes[at].added < 0)
        tr->nodes[at].added = added;
}

/* Longest entry that starts at s; its length, 0 for none. */
static size_t trie_longest(const struct trie *tr, const char *s, size_t len, int32_t *added)
{
    size_t best = 0, i = 1;
    int32_t at = tr->first[(unsigned char)s[0]];
    while (at >= 0) {
        if (tr->nodes[at].added >= 0) {
            best = i;
            *added = tr->nodes[at].added;
        }
        if (i == len)
            break;
        unsigned char b = (unsigned char)s[i++];
        for (at = tr->nodes[at].child; at >= 0 && tr->nodes[at].byte != b;)
            at = tr->nodes[at].next;
    }
    return best;
}

static bool stands_alone(const char *s, size_t len, size_t from, size_t to)
{
    uint32_t c;
    if (from > 0) {
        uc_before(s, from, &c);
        if (uc_is_word(c))
            return false;
    }
    if (to < len) {
        uc_get(s + to, &c);
        if (uc_is_word(c))
            return false;
    }
    return true;
}

static size_t spaces_before(const char *s, size_t from, size_t least)
{
    while (from > least) {
        uint32_t c;
        size_t at = uc_before(s, from, &c);
        if (!uc_is_space(c))
            break;
        from = at;
    }
    return from > least ? from : least;
}

static size_t spaces_behind(const char *s, size_t len, size_t to)
{
    while (to < len) {
        uint32_t c;
        size_t n = uc_get(s + to, &c);
        if (!uc_is_space(c))
            break;
        to += n;
    }
    return to;
}

typedef int (*segment_fn)(struct work *w, const char *s, size_t len, bool lead);

/* Leftmost-longest matches of added tokens, each pushed; what lies between goes to rest. The search goes on behind a match's own end, even
 * where rstrip took more. */
static int cut_added(struct work *w, const struct trie *tr, const char *s, size_t len, bool lead, segment_fn rest)
{
    const struct tok *t = w->t;
    size_t done = 0, i = 0;
    while (tr->count && i < len) {
        int32_t which = -1;
        size_t n = tr->first[(unsigned char)s[i]] < 0 ? 0 : trie_longest(tr, s + i, len - i, &which);
        if (n == 0) {
            i++;
            continue;
        }
        const struct added *a = &t->added[which];
        size_t from = i, to = i + n;
        i = to;
        if (a->single_word && !stands_alone(s, len, from, to))
            continue;
        if (a->lstrip)
            from = spaces_before(s, from, done);
        if (a->rstrip)
            to = spaces_behind(s, len, to);
        int rc = from > done ? rest(w, s + done, from - done, lead && done == 0) : 0;
        if (rc)
            return rc;
        tok_ids_push(w->out, a->id);
        done = to;
    }
    return done < len ? rest(w, s + done, len - done, lead && done == 0) : 0;
}

static int normalized_segment(struct work *w, const char *s, size_t len, bool lead)
{
    return split_apply(w, 0, s, len, lead);
}

static int raw_segment(struct work *w, const char *s, size_t len, bool lead)
{
    int rc = norm_apply(w, &s, &len, &lead);
    return rc ? rc : cut_added(w, &w->t->normal, s, len, lead, normalized_segment);
}

static void push_all(struct tok_ids *out, const struct tok_ids *v)
{
    for (size_t i = 0; i < v->count; i++)
        tok_ids_push(out, v->ids[i]);
}

int tok_encode(const struct tok *t, const char *text, size_t bytes, bool add_special, struct tok_ids *out, struct err *e)
{
    struct buf clean = BUF_INIT;
    struct work w;
    size_t before = out->count;
    work_init(&w, t, e);
    w.out = out;
    if (!uc_valid(text, bytes)) {
        uc_add_lossy(&clean, text, bytes);
        text = clean.data;
        bytes = clean.len;
    }
    bpe_cache_start(&w, bytes);
    if (add_special)
        push_all(out, &t->front);
    int rc = cut_added(&w, &t->raw, text, bytes, true, raw_segment);
    if (rc)
        out->count = before;
    else if (add_special)
        push_all(out, &t->behind);
    work_release(&w);
    buf_release(&clean);
    return rc;
}

static void steps_free(struct steps *s)
{
    for (size_t i = 0; i < s->count; i++)
        pcre2_code_free(s->v[i].pat.code);
    free(s->v);
}

void tok_free(struct tok *t)
{
    if (!t)
        return;
    steps_free(&t->norm);
    steps_free(&t->pre);
    steps_free(&t->dec);
    free(t->vocab.entries);
    free(t->vocab.slots);
    free(t->merges);
    free(t->added);
    free(t->raw.nodes);
    free(t->normal.nodes);
    tok_ids_release(&t->front);
    tok_ids_release(&t->behind);
    free(t->pieces);
    free(t->shown);
    arena_release(&t->arena);
    free(t);
}

int32_t tok_vocab_size(const struct tok *t)
{
    return t->size;
}

int32_t tok_find(const struct tok *t, const char *piece)
{
    for (size_t i = 0; i < t->added_count; i++)
        if (strcmp(t->added[i].content, piece) == 0)
            return t->added[i].id;
    return vocab_find(&t->vocab, piece, strlen(piece));
}

const char *tok_piece(const struct tok *t, int32_t id)
{
    return id >= 0 && id < t->size ? t->pieces[id] : NULL;
}

bool tok_is_special(const struct tok *t, int32_t id)
{
    return id >= 0 && id < t->size && t->shown[id].special;
}

int32_t tok_leading_special(const struct tok *t)
{
    return t->front.count ? t->front.ids[0] : -1;
}

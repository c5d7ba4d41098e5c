/* Patterns, and the pre-tokenizer: a piece of text goes depth first through the steps, and what leaves the last goes to the model.
 * Order and cuts are those of Hugging Face's NormalizedString::split; offsets into the original text are not kept. */
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/mem.h"
#include "stages/text/tok_internal.h"

int pat_regex(struct pat *p, const char *regex, size_t len, const char *where, struct err *e)
{
    struct buf ours = BUF_INIT;
    int rc = regex_from_oniguruma(regex, len, &ours, where, e);
    if (!rc) {
        int number;
        size_t at;
        /* In Ruby's syntax ^ and $ are at lines whatever the options. */
        p->code = pcre2_compile((PCRE2_SPTR)buf_str(&ours), ours.len, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                &number, &at, NULL);
        if (p->code) {
            /* Without JIT (some kernels forbid it) the interpreter gives the same matches. */
            pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE);
        } else {
            char text[256] = "";
            pcre2_get_error_message(number, (PCRE2_UCHAR *)text, sizeof text);
            rc = err_set(e, ERR_FORMAT, "%s: regex \"%.*s\": %s", where, len < 300 ? (int)len : 300, regex, text);
        }
    }
    buf_release(&ours);
    return rc;
}

static int regex_search(const struct pat *p, struct work *w, const char *text, size_t len, size_t at)
{
    uint64_t limit = REGEX_STEPS_MIN + (uint64_t)len * REGEX_STEPS_PER_BYTE;
    pcre2_set_match_limit(w->mc, limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
    int rc = pcre2_match(p->code, (PCRE2_SPTR)text, len, at, PCRE2_NO_UTF_CHECK, w->md, w->mc);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(p->code, (PCRE2_SPTR)text, len, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->md, w->mc);
    if (rc >= 0)
        return 1;
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    char why[256] = "";
    pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
    return err_set(w->e, ERR_FORMAT, "%s: a regex does not get through %zu bytes of text: %s", w->t->name, len, why);
}

static int regex_next(const struct pat *p, struct work *w, const char *text, size_t len, struct pat_iter *it, size_t *from, size_t *to)
{
    while (it->at <= len) {
        int rc = regex_search(p, w, text, len, it->at);
        if (rc <= 0)
            return rc;
        const PCRE2_SIZE *found = pcre2_get_ovector_pointer(w->md);
        *from = found[0];
        *to = found[1];
        if (*to < *from || *from < it->last_end) /* \K in a lookaround can do that */
            return err_set(w->e, ERR_UNSUPPORTED, "%s: a regex matches backwards", w->t->name);
        if (*from == *to && it->had && it->last_end == *to) {
            uint32_t c;
            it->at += it->at < len ? uc_get(text + it->at, &c) : 1;
            continue;
        }
        it->at = it->last_end = *to;
        it->had = true;
        return 1;
    }
    return 0;
}

static int chars_next(const struct pat *p, const char *text, size_t len, struct pat_iter *it, size_t *from, size_t *to)
{
    while (it->at < len) {
        uint32_t c;
        *from = it->at;
        *to = it->at += uc_get(text + it->at, &c);
        if (p->is_char(c))
            return 1;
    }
    return 0;
}

int pat_next(const struct pat *p, struct work *w, const char *text, size_t len, struct pat_iter *it, size_t *from, size_t *to)
{
    if (p->code)
        return regex_next(p, w, text, len, it, from, to);
    if (p->is_char)
        return chars_next(p, text, len, it, from, to);
    const char *found = p->literal_len && len > it->at ? memmem(text + it->at, len - it->at, p->literal, p->literal_len) : NULL;
    if (!found)
        return 0;
    *from = (size_t)(found - text);
    *to = it->at = *from + p->literal_len;
    return 1;
}

int pat_replace(const struct step *s, struct work *w, const char *text, size_t len, struct buf *out)
{
    struct pat_iter it = {0};
    size_t done = 0, from, to, limit = growth_limit(len) + out->len;
    int rc;
    while ((rc = pat_next(&s->pat, w, text, len, &it, &from, &to)) > 0) {
        buf_add(out, text + done, from - done);
        buf_add(out, s->text, s->text_len);
        done = to;
        if (out->len > limit)
            return err_set(w->e, ERR_FORMAT, "%s: Replace makes more than %zu bytes out of %zu", w->t->name, limit, len);
    }
    if (rc == 0)
        buf_add(out, text + done, len - done);
    return rc;
}

static void add_span(struct level *l, size_t from, size_t to, bool match)
{
    MEM_GROW(l->spans, l->count, l->cap);
    l->spans[l->count++] = (struct span){from, to, match};
}

/* The whole text as spans, matches and what lies between. */
static int find_spans(const struct step *s, struct work *w, struct level *l, const char *text, size_t len)
{
    struct pat_iter it = {0};
    size_t done = 0, from, to;
    int rc;
    l->count = 0;
    while ((rc = pat_next(&s->pat, w, text, len, &it, &from, &to)) > 0) {
        if (done != from)
            add_span(l, done, from, s->invert);
        add_span(l, from, to, !s->invert);
        done = to;
    }
    if (done != len)
        add_span(l, done, len, s->invert);
    return rc;
}

/* Joins spans as the behavior says. A match joins its neighbour unless the span before it (behind it, for merged-with-next, which
 * runs from the end) is a match too; the first span of a run has nothing to join. */
static void join_spans(struct level *l, enum split_behavior behavior)
{
    bool previous = false;
    size_t kept = 0;
    if (behavior == SPLIT_MERGED_NEXT) {
        size_t at = l->count;
        kept = l->count;
        while (at--) {
            struct span s = l->spans[at];
            if (s.match && !previous && kept < l->count)
                l->spans[kept].from = s.from;
            else
                l->spans[--kept] = s;
            previous = s.match;
        }
        l->count -= kept;
        if (l->count)
            memmove(l->spans, l->spans + kept, l->count * sizeof *l->spans);
        return;
    }
    for (size_t i = 0; i < l->count; i++) {
        struct span s = l->spans[i];
        bool join = behavior == SPLIT_CONTIGUOUS ? s.match == previous : s.match && !previous;
        if (join && kept)
            l->spans[kept - 1].to = s.to;
        else
            l->spans[kept++] = s;
        previous = s.match;
    }
    l->count = kept;
}

static int split(struct work *w, size_t i, const char *text, size_t len, bool lead)
{
    const struct step *s = &w->t->pre.v[i];
    struct level *l = &w->levels[i];
    int rc = find_spans(s, w, l, text, len);
    if (!rc && s->behavior != SPLIT_ISOLATED && s->behavior != SPLIT_REMOVED)
        join_spans(l, s->behavior);
    for (size_t k = 0; !rc && k < l->count; k++) {
        struct span p = l->spans[k];
        if (p.from != p.to && !(p.match && s->behavior == SPLIT_REMOVED))
            rc = split_apply(w, i + 1, text + p.from, p.to - p.from, lead && p.from == 0);
    }
    return rc;
}

static void bytes_to_chars(struct buf *out, const char *text, size_t len)
{
    char *to = buf_reserve(out, 2 * len);
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        uint32_t c = byte_to_char((unsigned char)text[i]);
        if (c < 0x80) {
            to[n++] = (char)c;
        } else {
            to[n++] = (char)(0xC0 | c >> 6);
            to[n++] = (char)(0x80 | (c & 0x3F));
        }
    }
    buf_setlen(out, out->len + n);
}

static bool wants_prefix(const struct step *s, const char *text, size_t len, bool lead)
{
    if (s->prefix == PREFIX_ALWAYS)
        return true;
    if (len >= s->text_len && memcmp(text, s->text, s->text_len) == 0)
        return false;
    return s->prefix == PREFIX_UNLESS_THERE || lead;
}

int split_apply(struct work *w, size_t i, const char *text, size_t len, bool lead)
{
    if (len == 0)
        return 0;
    if (i == w->t->pre.count)
        return bpe_word(w, text, len);
    const struct step *s = &w->t->pre.v[i];
    struct buf *out = &w->levels[i].text;
    int rc = 0;
    buf_clear(out);
    switch (s->kind) {
    case STEP_SPLIT:
        return split(w, i, text, len, lead);
    case STEP_BYTES:
        bytes_to_chars(out, text, len);
        break;
    case STEP_REPLACE:
        rc = pat_replace(s, w, text, len, out);
        break;
    case STEP_PREFIX:
        if (!wants_prefix(s, text, len, lead))
            return split_apply(w, i + 1, text, len, lead);
        buf_add(out, s->text, s->text_len);
        buf_add(out, text, len);
        break;
    default:
        BUG("step %d in a pre-tokenizer", (int)s->kind);
    }
    return rc ? rc : split_apply(w, i + 1, out->data, out->len, lead);
}

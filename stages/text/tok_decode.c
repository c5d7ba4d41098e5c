/* Ids back to text: the pieces as a list of strings that each decoder step rewrites, joined at the end. */
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/mem.h"
#include "stages/text/tok_internal.h"

struct strings {
    struct buf text; /* all of them, one behind the other */
    size_t *ends;    /* owned */
    size_t count, cap;
};

static void strings_end(struct strings *s)
{
    MEM_GROW(s->ends, s->count, s->cap);
    s->ends[s->count++] = s->text.len;
}

static void strings_add(struct strings *s, const char *text, size_t len)
{
    buf_add(&s->text, text, len);
    strings_end(s);
}

static const char *strings_get(const struct strings *s, size_t i, size_t *len)
{
    size_t from = i ? s->ends[i - 1] : 0;
    *len = s->ends[i] - from;
    return buf_str(&s->text) + from;
}

/* A piece with a character outside the alphabet stands for its own bytes. */
static void add_unbytes(struct buf *raw, const char *text, size_t len)
{
    size_t start = raw->len;
    for (size_t i = 0; i < len;) {
        uint32_t c;
        i += uc_get(text + i, &c);
        int b = char_to_byte(c);
        if (b < 0) {
            buf_setlen(raw, start);
            buf_add(raw, text, len);
            return;
        }
        buf_addch(raw, (char)b);
    }
}

static void unbytes(const struct strings *in, struct strings *out)
{
    struct buf raw = BUF_INIT;
    for (size_t i = 0; i < in->count; i++) {
        size_t len;
        const char *text = strings_get(in, i, &len);
        add_unbytes(&raw, text, len);
    }
    uc_add_lossy(&out->text, buf_str(&raw), raw.len);
    strings_end(out);
    buf_release(&raw);
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* "<0x0A>" is 10; -1 for other pieces. Rust's parser takes a plus sign. */
static int fallback_byte(const char *s, size_t len)
{
    if (len != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
        return -1;
    int high = s[3] == '+' ? 0 : hex(s[3]), low = hex(s[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

/* A run of bytes that is no UTF-8 becomes as many U+FFFD as it has bytes. */
static void end_run(struct buf *run, struct strings *out)
{
    if (uc_valid(buf_str(run), run->len) && run->len)
        strings_add(out, run->data, run->len);
    else
        for (size_t i = 0; i < run->len; i++)
            strings_add(out, "\xEF\xBF\xBD", 3);
    buf_clear(run);
}

static void byte_fallback(const struct strings *in, struct strings *out)
{
    struct buf run = BUF_INIT;
    for (size_t i = 0; i < in->count; i++) {
        size_t len;
        const char *text = strings_get(in, i, &len);
        int b = fallback_byte(text, len);
        if (b >= 0) {
            buf_addch(&run, (char)b);
            continue;
        }
        end_run(&run, out);
        strings_add(out, text, len);
    }
    end_run(&run, out);
    buf_release(&run);
}

static bool at(const struct step *s, const char *text, size_t len, size_t where)
{
    return where <= len && len - where >= s->text_len && memcmp(text + where, s->text, s->text_len) == 0;
}

static void strip_char(const struct step *s, const struct strings *in, struct strings *out)
{
    for (size_t i = 0; i < in->count; i++) {
        size_t len;
        const char *text = strings_get(in, i, &len);
        for (size_t k = 0; k < s->start && at(s, text, len, 0); k++) {
            text += s->text_len;
            len -= s->text_len;
        }
        for (size_t k = 0; k < s->stop && len >= s->text_len && at(s, text, len, len - s->text_len); k++)
            len -= s->text_len;
        strings_add(out, text, len);
    }
}

static void metaspace(const struct step *s, const struct strings *in, struct strings *out)
{
    for (size_t i = 0; i < in->count; i++) {
        size_t len;
        const char *text = strings_get(in, i, &len);
        for (size_t k = 0; k < len;) {
            uint32_t c;
            size_t n = uc_get(text + k, &c);
            if (!at(s, text, len, k))
                buf_add(&out->text, text + k, n);
            else if (i > 0 || !s->left)
                buf_addch(&out->text, ' ');
            k += n;
        }
        strings_end(out);
    }
}

static int replace(struct work *w, const struct step *s, const struct strings *in, struct strings *out)
{
    for (size_t i = 0; i < in->count; i++) {
        size_t len;
        const char *text = strings_get(in, i, &len);
        int rc = pat_replace(s, w, text, len, &out->text);
        if (rc)
            return rc;
        strings_end(out);
    }
    return 0;
}

static int decode_step(struct work *w, const struct step *s, const struct strings *in, struct strings *out)
{
    switch (s->kind) {
    case STEP_UNBYTES:
        unbytes(in, out);
        return 0;
    case STEP_BYTE_FALLBACK:
        byte_fallback(in, out);
        return 0;
    case STEP_FUSE:
        strings_add(out, buf_str(&in->text), in->text.len);
        return 0;
    case STEP_STRIP_CHAR:
        strip_char(s, in, out);
        return 0;
    case STEP_METASPACE:
        metaspace(s, in, out);
        return 0;
    case STEP_REPLACE:
        return replace(w, s, in, out);
    default:
        BUG("step %d in a decoder", (int)s->kind);
    }
}

static int gather(const struct tok *t, const int32_t *ids, size_t count, bool skip_special, struct strings *out, struct err *e)
{
    for (size_t i = 0; i < count; i++) {
        if (!tok_piece(t, ids[i]))
            return err_set(e, ERR_FORMAT, "%s: id %d is not in the vocabulary of %d", t->name, (int)ids[i], (int)t->size);
        if (skip_special && t->shown[ids[i]].skipped)
            continue;
        if (!t->has_decoder && out->count)
            buf_addch(&out->text, ' ');
        strings_add(out, t->shown[ids[i]].text, t->shown[ids[i]].len);
    }
    return 0;
}

int tok_decode(const struct tok *t, const int32_t *ids, size_t count, bool skip_special, struct buf *out, struct err *e)
{
    struct strings lists[2];
    struct work w;
    memset(lists, 0, sizeof lists);
    work_init(&w, t, e);
    int rc = gather(t, ids, count, skip_special, &lists[0], e), from = 0;
    size_t limit = growth_limit(lists[0].text.len);
    for (size_t i = 0; !rc && i < t->dec.count; i++) {
        struct strings *to = &lists[from ^ 1];
        buf_clear(&to->text);
        to->count = 0;
        rc = decode_step(&w, &t->dec.v[i], &lists[from], to);
        from ^= 1;
        if (!rc && to->text.len > limit)
            rc = err_set(e, ERR_FORMAT, "%s: the decoder makes more than %zu bytes", t->name, limit);
    }
    if (!rc)
        buf_add(out, buf_str(&lists[from].text), lists[from].text.len);
    for (int i = 0; i < 2; i++) {
        buf_release(&lists[i].text);
        free(lists[i].ends);
    }
    work_release(&w);
    return rc;
}

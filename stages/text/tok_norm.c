/* Normalizers. Each step reads one buffer and writes the other. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "stages/text/tok_internal.h"

static bool is_ascii(const char *s, size_t len)
{
    unsigned char any = 0;
    for (size_t i = 0; i < len; i++)
        any |= (unsigned char)s[i];
    return any < 0x80;
}

static int unicode_form(struct work *w, const struct step *s, const char *text, size_t len, struct buf *out)
{
    if (is_ascii(text, len)) {
        buf_add(out, text, len);
        return 0;
    }
    utf8proc_uint8_t *form = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)len, &form, (utf8proc_option_t)s->options);
    if (n < 0)
        return err_set(w->e, ERR_FORMAT, "%s: normalizer: %s", w->t->name, utf8proc_errmsg(n));
    buf_add(out, form, (size_t)n);
    free(form);
    return 0;
}

static void lowercase(const char *text, size_t len, struct buf *out)
{
    for (size_t i = 0; i < len;) {
        uint32_t c;
        char to[4];
        i += uc_get(text + i, &c);
        if (c == 0x130) /* the one character whose lower case is two, in Unicode's SpecialCasing */
            buf_add(out, "i\xCC\x87", 3);
        else
            buf_add(out, to, uc_put((uint32_t)utf8proc_tolower((utf8proc_int32_t)c), to));
    }
}

static void strip(const struct step *s, const char **text, size_t *len, bool *lead)
{
    uint32_t c;
    while (s->left && *len) {
        size_t n = uc_get(*text, &c);
        if (!uc_is_space(c))
            break;
        *text += n;
        *len -= n;
        *lead = false;
    }
    while (s->right && *len) {
        size_t at = uc_before(*text, *len, &c);
        if (!uc_is_space(c))
            break;
        *len = at;
    }
}

static int replace(struct work *w, const struct step *s, const char *text, size_t len, bool *lead, struct buf *out)
{
    struct pat_iter it = {0};
    size_t from, to;
    if (s->text_len == 0 && *lead && pat_next(&s->pat, w, text, len, &it, &from, &to) > 0 && from == 0 && to > 0)
        *lead = false;
    return pat_replace(s, w, text, len, out);
}

int norm_apply(struct work *w, const char **text, size_t *len, bool *lead)
{
    const struct steps *steps = &w->t->norm;
    size_t limit = growth_limit(*len);
    int which = 0;
    for (size_t i = 0; i < steps->count && *len; i++) {
        const struct step *s = &steps->v[i];
        struct buf *out = &w->norm[which];
        int rc = 0;
        if (s->kind == STEP_STRIP_SPACE) {
            strip(s, text, len, lead);
            continue;
        }
        buf_clear(out);
        switch (s->kind) {
        case STEP_PREFIX:
            buf_add(out, s->text, s->text_len);
            buf_add(out, *text, *len);
            break;
        case STEP_REPLACE:
            rc = replace(w, s, *text, *len, lead, out);
            break;
        case STEP_UNICODE:
            rc = unicode_form(w, s, *text, *len, out);
            break;
        case STEP_LOWERCASE:
            lowercase(*text, *len, out);
            break;
        default:
            BUG("step %d in a normalizer", (int)s->kind);
        }
        if (rc)
            return rc;
        *text = buf_str(out);
        *len = out->len;
        which ^= 1;
        if (*len > limit)
            return err_set(w->e, ERR_FORMAT, "%s: the normalizer makes more than %zu bytes out of a text", w->t->name, limit);
    }
    return 0;
}

/* Regular expressions of tokenizer.json are Oniguruma's (Ruby syntax over Unicode); PCRE2 runs ours. This file writes the one in the other
 * where they differ, and refuses what has no sure counterpart, so that PCRE2 never gives a pattern another meaning. Differences that
 * matter: \s     PCRE2 counts U+180E          \w \b  PCRE2 leaves marks out       \h  hex digit, not blank      \v  U+000B only
 *   (?m:)  is "dot matches newline"     X{n,m}+ is a greedy repeat, not possessive    X{n}? is "X{n} or nothing"    X{,m} starts at 0
 *   \p{}   PCRE2's tables are older than Oniguruma's: uc_new.def is added to what names a general category
 *   [a[bc]] is a union                  [a&&b] is an intersection
 * Source: Oniguruma's doc/RE and doc/SYNTAX.md; pcre2pattern(3).
 */
#include <ctype.h>
#include <string.h>

#include "stages/text/tok_internal.h"

#define SPACE "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NO_SPACE                                                                                                                           \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-"           \
    "\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"

/* Letters of the general categories of \w, and the symbols that count as alphabetic. */
#define WORD_CATEGORIES "L", "M", "Nd", "Nl", "Pc"
#define WORD_SYMBOLS "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"

enum { DEPTH_MAX = 200, PARTS_MAX = 8 };

struct rx {
    const char *s;
    size_t len, at;
    struct buf *out;
    size_t atom;            /* where in out the thing that a quantifier would repeat starts */
    size_t open[DEPTH_MAX]; /* the same for groups still open */
    size_t depth;
    const char *where;
    struct err *e;
};

static int refuse(struct rx *r, const char *what)
{
    return err_set(r->e, ERR_UNSUPPORTED, "%s: regex: %s is not supported (at byte %zu of %.*s)", r->where, what, r->at,
                   r->len < 200 ? (int)r->len : 200, r->s);
}

static int peek(const struct rx *r, size_t ahead)
{
    return r->at + ahead < r->len ? (unsigned char)r->s[r->at + ahead] : -1;
}

static void copy(struct rx *r, struct buf *out, size_t n)
{
    buf_add(out, r->s + r->at, n);
    r->at += n;
}

static size_t char_bytes(const struct rx *r)
{
    size_t n = 1;
    while (r->at + n < r->len && ((unsigned char)r->s[r->at + n] & 0xC0) == 0x80)
        n++;
    return n;
}

/* \xHH, \x{H…}, \uHHHH. r->at is at the letter. */
static int code_point(struct rx *r, struct buf *out)
{
    bool x = r->s[r->at] == 'x', brace = x && peek(r, 1) == '{';
    size_t from = r->at + (brace ? 2 : 1), max = brace ? 6 : x ? 2 : 4, n = 0;
    while (n < max && from + n < r->len && isxdigit((unsigned char)r->s[from + n]))
        n++;
    if (n == 0 || (!x && n != 4) || (brace && (from + n >= r->len || r->s[from + n] != '}')) || (x && !brace && n == 2 && r->s[from] > '7'))
        return refuse(r, "this character code");
    buf_printf(out, "\\x{%.*s}", (int)n, r->s + from);
    r->at = from + n + (brace ? 1 : 0);
    return 0;
}

/* Class items for a general category ("L", "Nd") in today's Unicode. */
static void add_category(struct buf *out, const char *name)
{
    size_t n;
    const struct uc_range *u = uc_new_ranges(&n);
    buf_printf(out, "\\p{%s}", name);
    for (size_t i = 0; i < n; i++)
        if (strncmp(u[i].category, name, strlen(name)) == 0)
            buf_printf(out, "\\x{%x}-\\x{%x}", u[i].from, u[i].to);
}

static void add_word(struct buf *out)
{
    static const char *const names[] = {WORD_CATEGORIES};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        add_category(out, names[i]);
    buf_addstr(out, WORD_SYMBOLS);
}

static bool is_category(const char *name, size_t len)
{
    static const char *const names[] = {"L", "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd", "Nl", "No",
                                        "P", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == len && memcmp(names[i], name, len) == 0)
            return true;
    return false;
}

/* \p{X}, \P{X}, \p{^X}. Names that are no general category go to PCRE2 as they are. */
static int property(struct rx *r, struct buf *out, bool in_class)
{
    const char *name = r->s + r->at + 2, *end = peek(r, 1) == '{' ? memchr(r->s + r->at, '}', r->len - r->at) : NULL;
    if (!end)
        return refuse(r, "\\p without {name}");
    bool caret = name < end && *name == '^', negated = (r->s[r->at] == 'P') != caret;
    name += caret;
    size_t len = (size_t)(end - name);
    r->at = (size_t)(end + 1 - r->s);
    if (!is_category(name, len) || (in_class && negated)) {
        buf_printf(out, "\\%c{%.*s}", negated ? 'P' : 'p', (int)len, name);
        return 0;
    }
    char text[3] = {name[0], len > 1 ? name[1] : 0, 0};
    buf_addstr(out, in_class ? "" : negated ? "[^" : "[");
    add_category(out, text);
    buf_addstr(out, in_class ? "" : "]");
    return 0;
}

/* Escapes that mean the same inside and outside a class. r->at is behind the backslash. 1: written, 0: not one of them. */
static int escape_common(struct rx *r, struct buf *out, bool in_class)
{
    int c = peek(r, 0);
    if (c < 0)
        return refuse(r, "a backslash at the end");
    if (c == 'x' || c == 'u')
        return code_point(r, out) ? -ERR_UNSUPPORTED : 1;
    if (c == 'p' || c == 'P')
        return property(r, out, in_class) ? -ERR_UNSUPPORTED : 1;
    if (c == 'v')
        buf_addstr(out, "\\x{b}");
    else if (strchr("nrtfae", c) && c)
        buf_printf(out, "\\%c", c);
    else if (c < 0x80 && !isalnum(c) && c)
        buf_printf(out, "\\%c", c);
    else
        return 0;
    r->at++;
    return 1;
}

static int escape_in_class(struct rx *r, struct buf *items)
{
    r->at++;
    int rc = escape_common(r, items, true);
    if (rc)
        return rc < 0 ? rc : 0;
    static const struct {
        char letter;
        const char *items;
    } sets[] = {
        {'s', SPACE      },
        {'S', NO_SPACE   },
        {'h', "0-9A-Fa-f"},
        {'b', "\\x{8}"   }
    };
    int c = peek(r, 0);
    if (c == 'w' || c == 'd') {
        if (c == 'w')
            add_word(items);
        else
            add_category(items, "Nd");
        r->at++;
        return 0;
    }
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        if (c == sets[i].letter) {
            buf_addstr(items, sets[i].items);
            r->at++;
            return 0;
        }
    return refuse(r, "this escape in a class");
}

struct part {
    struct buf items;
    bool negated;
};

/* One operand of && : items up to && or the closing bracket, neither of which is taken. */
static int class_part(struct rx *r, struct part *p, int depth)
{
    if (depth > 20)
        return refuse(r, "such deep nesting of classes");
    while (peek(r, 0) >= 0) {
        int c = peek(r, 0), rc = 0;
        if ((c == ']' && p->items.len) || (c == '&' && peek(r, 1) == '&'))
            return p->items.len ? 0 : refuse(r, "an empty class");
        if (p->negated && depth == 0)
            return refuse(r, "a negated class in a union");
        if (c == '\\') {
            rc = escape_in_class(r, &p->items);
        } else if (c == '[') {
            if (peek(r, 1) == ':')
                return refuse(r, "a POSIX bracket");
            bool negated = peek(r, 1) == '^';
            if (negated && (depth > 0 || p->items.len))
                return refuse(r, "a negated class in a union");
            r->at += negated ? 2 : 1;
            struct part inner = {BUF_INIT, false};
            rc = class_part(r, &inner, depth + 1);
            if (!rc && peek(r, 0) != ']')
                rc = refuse(r, "&& in a nested class");
            buf_add(&p->items, buf_str(&inner.items), inner.items.len);
            p->negated = negated;
            r->at += rc ? 0 : 1;
            buf_release(&inner.items);
        } else {
            if (c == ']')
                buf_addch(&p->items, '\\');
            copy(r, &p->items, char_bytes(r));
        }
        if (rc)
            return rc;
    }
    return refuse(r, "a class without its end");
}

static void write_part(struct rx *r, const struct part *p, const char *before, const char *after)
{
    buf_printf(r->out, "%s[%s", before, p->negated ? "^" : "");
    buf_add(r->out, buf_str(&p->items), p->items.len);
    buf_printf(r->out, "]%s", after);
}

static int class(struct rx *r)
{
    struct part parts[PARTS_MAX];
    size_t n = 0;
    int rc = 0;
    bool negated = peek(r, 1) == '^';
    r->at += negated ? 2 : 1;
    do {
        if (n == PARTS_MAX) {
            rc = refuse(r, "so many &&");
            break;
        }
        r->at += n ? 2 : 0;
        parts[n++] = (struct part){BUF_INIT, false};
        rc = class_part(r, &parts[n - 1], 0);
    } while (!rc && peek(r, 0) == '&');
    if (!rc && negated && (n > 1 || parts[0].negated))
        rc = refuse(r, "the negation of && or of a negated class");
    if (!rc) {
        r->at++;
        parts[0].negated |= negated;
        buf_addstr(r->out, n > 1 ? "(?:" : "");
        for (size_t i = 0; i + 1 < n; i++)
            write_part(r, &parts[i], "(?=", ")");
        write_part(r, &parts[n - 1], "", n > 1 ? ")" : "");
    }
    while (n)
        buf_release(&parts[--n].items);
    return rc;
}

static void word_class(struct buf *out, const char *before, const char *after)
{
    buf_addstr(out, before);
    add_word(out);
    buf_addstr(out, after);
}

/* \s \w \d \h, their complements in upper case, and the word boundaries, outside a class. */
static void shorthand(struct buf *out, int letter)
{
    const char *open = isupper(letter) ? "[^" : "[";
    switch (tolower(letter)) {
    case 's':
        buf_printf(out, "%s" SPACE "]", open);
        break;
    case 'h':
        buf_printf(out, "%s0-9A-Fa-f]", open);
        break;
    case 'd':
        buf_addstr(out, open);
        add_category(out, "Nd");
        buf_addch(out, ']');
        break;
    case 'w':
        word_class(out, open, "]");
        break;
    default:
        word_class(out, "(?:(?<=[", letter == 'b' ? "])(?![" : "])(?=[");
        word_class(out, "", "])|(?<![");
        word_class(out, "", letter == 'b' ? "])(?=[" : "])(?![");
        word_class(out, "", "]))");
    }
}

static int escape(struct rx *r)
{
    r->at++;
    int rc = escape_common(r, r->out, false);
    if (rc)
        return rc < 0 ? rc : 0;
    int c = peek(r, 0);
    if (c > 0 && strchr("sSwWdDhHbB", c)) {
        r->at++;
        shorthand(r->out, c);
        return 0;
    }
    if (c <= 0 || !strchr("AZzGKRX123456789", c))
        return refuse(r, "this escape");
    buf_addch(r->out, '\\');
    copy(r, r->out, 1);
    return 0;
}

static int group(struct rx *r)
{
    if (r->depth == DEPTH_MAX)
        return refuse(r, "such deep nesting");
    if (peek(r, 1) == '*')
        return refuse(r, "(*");
    r->open[r->depth++] = r->out->len;
    copy(r, r->out, 1);
    if (peek(r, 0) != '?')
        return 0;
    int c = peek(r, 1);
    if (c == ':' || c == '=' || c == '!' || c == '>') {
        copy(r, r->out, 2);
        return 0;
    }
    if (c == '<' && (peek(r, 2) == '=' || peek(r, 2) == '!')) {
        copy(r, r->out, 3);
        return 0;
    }
    buf_addch(r->out, '?');
    r->at++;
    while (peek(r, 0) == 'i' || peek(r, 0) == 'm' || peek(r, 0) == '-') {
        buf_addch(r->out, peek(r, 0) == 'm' ? 's' : r->s[r->at]);
        r->at++;
    }
    if (peek(r, 0) != ':' || buf_str(r->out)[r->out->len - 1] == '?')
        return refuse(r, "this kind of group");
    copy(r, r->out, 1);
    return 0;
}

/* {n} {n,} {,m} {n,m}: bytes it takes, 0 when the brace is a plain character. */
static size_t interval(const struct rx *r, bool *fixed, bool *no_low)
{
    size_t i = 1, digits = 0;
    for (; isdigit(peek(r, i)); i++)
        digits++;
    *fixed = peek(r, i) != ',';
    *no_low = digits == 0;
    if (!*fixed)
        for (i++; isdigit(peek(r, i)); i++)
            digits++;
    return digits && peek(r, i) == '}' ? i + 1 : 0;
}

static void braces(struct rx *r)
{
    bool fixed, no_low;
    size_t n = interval(r, &fixed, &no_low);
    if (!n) {
        r->atom = r->out->len;
        buf_addstr(r->out, "\\{");
        r->at++;
        return;
    }
    buf_addstr(r->out, no_low ? "{0" : "{");
    r->at++;
    copy(r, r->out, n - 1);
    bool again = peek(r, 0) == '+' || (fixed && peek(r, 0) == '?');
    if (again) { /* (?:X{n,m})+ : the atom and its braces go into a group */
        struct buf tail = BUF_INIT;
        buf_add(&tail, buf_str(r->out) + r->atom, r->out->len - r->atom);
        buf_setlen(r->out, r->atom);
        buf_addstr(r->out, "(?:");
        buf_add(r->out, tail.data, tail.len);
        buf_addch(r->out, ')');
        buf_release(&tail);
    }
    if (again || peek(r, 0) == '?')
        copy(r, r->out, 1);
}

int regex_from_oniguruma(const char *regex, size_t len, struct buf *out, const char *where, struct err *e)
{
    struct rx r = {.s = regex, .len = len, .out = out, .where = where, .e = e};
    while (r.at < len) {
        int c = peek(&r, 0), rc = 0;
        size_t start = out->len;
        if (c == '{') {
            braces(&r);
            continue;
        }
        if (c == '*' || c == '+' || c == '?') {
            copy(&r, out, peek(&r, 1) == '?' || peek(&r, 1) == '+' ? 2 : 1);
            continue;
        }
        if (c == ')') {
            start = r.depth ? r.open[--r.depth] : start;
            copy(&r, out, 1);
        } else if (c == '\\') {
            rc = escape(&r);
        } else if (c == '[') {
            rc = class(&r);
        } else if (c == '(') {
            rc = group(&r);
        } else {
            copy(&r, out, char_bytes(&r));
        }
        if (rc)
            return rc;
        r.atom = start;
    }
    return 0;
}

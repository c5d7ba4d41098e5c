/* UTF-8 and the character classes that tokenizers name. Normal forms are utf8proc's, see tok_norm.c. */
#include <string.h>
#include <utf8proc.h>

#include "stages/text/tok_internal.h"

bool uc_is_space(uint32_t c)
{
    if (c < 0x80)
        return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

/* Hugging Face's Oniguruma and Rust know Unicode 16; Debian 12's PCRE2 knows 14 and its utf8proc 15. */
static const struct uc_range new_ranges[] = {
#include "stages/text/uc_new.def"
};

const struct uc_range *uc_new_ranges(size_t *count)
{
    *count = sizeof new_ranges / sizeof *new_ranges;
    return new_ranges;
}

/* Two letters, "Cn" when unassigned. */
static const char *category(uint32_t c)
{
    const char *known = utf8proc_category_string((utf8proc_int32_t)c);
    for (size_t i = 0; strcmp(known, "Cn") == 0 && i < sizeof new_ranges / sizeof *new_ranges; i++)
        if (c >= new_ranges[i].from && c <= new_ranges[i].to)
            return new_ranges[i].category;
    return known;
}

bool uc_is_numeric(uint32_t c)
{
    if (c < 0x80)
        return c >= '0' && c <= '9';
    return category(c)[0] == 'N';
}

bool uc_is_punctuation(uint32_t c)
{
    /* All of ASCII's, although Unicode calls $+<=>^`|~ symbols: that is how Hugging Face has it. */
    if (c < 0x80)
        return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
    return category(c)[0] == 'P';
}

bool uc_is_word(uint32_t c)
{
    if (c < 0x80)
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
    /* Symbols and joiners that Unicode counts as alphabetic or as word characters. */
    if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
        (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C || c == 0x200D)
        return true;
    const char *k = category(c);
    return k[0] == 'L' || k[0] == 'M' || strcmp(k, "Nd") == 0 || strcmp(k, "Nl") == 0 || strcmp(k, "Pc") == 0;
}

size_t uc_get(const char *s, uint32_t *cp)
{
    const unsigned char *p = (const unsigned char *)s;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    if (p[0] < 0xE0) {
        *cp = (uint32_t)(p[0] & 0x1F) << 6 | (p[1] & 0x3F);
        return 2;
    }
    if (p[0] < 0xF0) {
        *cp = (uint32_t)(p[0] & 0x0F) << 12 | (uint32_t)(p[1] & 0x3F) << 6 | (p[2] & 0x3F);
        return 3;
    }
    *cp = (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3F) << 12 | (uint32_t)(p[2] & 0x3F) << 6 | (p[3] & 0x3F);
    return 4;
}

size_t uc_put(uint32_t cp, char out[4])
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)cp, (utf8proc_uint8_t *)out);
}

size_t uc_before(const char *s, size_t end, uint32_t *cp)
{
    size_t at = end - 1;
    while (at > 0 && ((unsigned char)s[at] & 0xC0) == 0x80)
        at--;
    uc_get(s + at, cp);
    return at;
}

/* Bytes of the well-formed sequence at p, or 0 and in *bad the length of the maximal ill-formed part. */
static size_t sequence(const unsigned char *p, size_t left, size_t *bad)
{
    *bad = 1;
    unsigned char b = p[0], lo = 0x80, hi = 0xBF;
    if (b < 0x80)
        return 1;
    if (b < 0xC2 || b > 0xF4)
        return 0;
    size_t need = b < 0xE0 ? 1 : b < 0xF0 ? 2 : 3;
    if (b == 0xE0)
        lo = 0xA0;
    else if (b == 0xED)
        hi = 0x9F; /* no surrogates */
    else if (b == 0xF0)
        lo = 0x90;
    else if (b == 0xF4)
        hi = 0x8F;
    for (size_t i = 1; i <= need; i++) {
        if (i >= left || p[i] < lo || p[i] > hi)
            return 0;
        lo = 0x80;
        hi = 0xBF;
        *bad = i + 1;
    }
    return need + 1;
}

/* Length of the longest well-formed start; *bad as in sequence() when it is shorter than len. */
static size_t valid_prefix(const char *s, size_t len, size_t *bad)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t i = 0;
    while (i < len) {
        uint64_t eight;
        if (len - i >= 8 && (memcpy(&eight, p + i, 8), (eight & 0x8080808080808080u) == 0)) {
            i += 8;
            continue;
        }
        size_t n = sequence(p + i, len - i, bad);
        if (n == 0)
            return i;
        i += n;
    }
    return len;
}

bool uc_valid(const char *s, size_t len)
{
    size_t bad;
    return valid_prefix(s, len, &bad) == len;
}

void uc_add_lossy(struct buf *out, const char *s, size_t len)
{
    while (len) {
        size_t bad = 0, good = valid_prefix(s, len, &bad);
        buf_add(out, s, good);
        if (good == len)
            return;
        buf_add(out, "\xEF\xBF\xBD", 3);
        s += good + bad;
        len -= good + bad;
    }
}

/* GPT-2's alphabet: printable Latin-1 stands for itself, the other 68 bytes for U+0100 and on, in order. */
static bool stands_for_itself(uint32_t b)
{
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
}

uint32_t byte_to_char(unsigned char b)
{
    if (stands_for_itself(b))
        return b;
    if (b <= ' ')
        return 0x100u + b;
    return b == 0xAD ? 0x143u : 0x121u + (b - 0x7Fu);
}

int char_to_byte(uint32_t c)
{
    if (c < 0x100)
        return stands_for_itself(c) ? (int)c : -1;
    if (c <= 0x120)
        return (int)(c - 0x100);
    if (c <= 0x142)
        return (int)(c - 0x121 + 0x7F);
    return c == 0x143 ? 0xAD : -1;
}

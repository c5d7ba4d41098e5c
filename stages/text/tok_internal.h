/* What the files of the tokenizer share. Only tok*.c and its unit tests include this.
 *
 * Loading turns the components of tokenizer.json into three lists of small steps (ByteLevel with its regex, for one, becomes "prefix a
 * space, split, map bytes"), so that encoding and decoding know some ten steps and nothing of the file. Text inside is always valid UTF-8.
 */
#ifndef STAGES_TEXT_TOK_INTERNAL_H
#define STAGES_TEXT_TOK_INTERNAL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pipeline/base/arena.h"
#include "pipeline/base/buf.h"
#include "pipeline/base/err.h"
#include "stages/text/tok.h"

/* A pattern: a regular expression, a literal, or a class of characters; the first that is set. */
struct pat {
    pcre2_code *code; /* owned by the tok */
    const char *literal;
    size_t literal_len; /* 0: matches nothing */
    bool (*is_char)(uint32_t cp);
};

enum step_kind {
    STEP_PREFIX,  /* put text in front, under the rule `prefix` */
    STEP_REPLACE, /* every match of pat becomes text */
    STEP_UNICODE, /* utf8proc options in `options` */
    STEP_LOWERCASE,
    STEP_STRIP_SPACE, /* left, right */
    STEP_SPLIT,       /* by pat, behavior, invert; pre-tokenizer only, as is STEP_BYTES */
    STEP_BYTES,       /* each byte becomes its character of the byte-level alphabet */
    STEP_UNBYTES,     /* the way back; this and the rest are decoders */
    STEP_BYTE_FALLBACK,
    STEP_FUSE,
    STEP_STRIP_CHAR, /* text (one character), at most start times in front and stop times behind */
    STEP_METASPACE,  /* text becomes a space; in the first token nothing when `left` */
};

enum prefix_rule { PREFIX_ALWAYS, PREFIX_UNLESS_THERE, PREFIX_AT_START };
enum split_behavior { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_MERGED_PREVIOUS, SPLIT_MERGED_NEXT, SPLIT_CONTIGUOUS };

struct step {
    enum step_kind kind;
    struct pat pat;
    const char *text; /* in the arena */
    size_t text_len;
    enum prefix_rule prefix;
    enum split_behavior behavior;
    bool invert, left, right;
    int options;
    size_t start, stop;
};

struct steps {
    struct step *v; /* owned */
    size_t count, cap;
};

struct added {
    const char *content; /* in the arena */
    size_t len;
    int32_t id;
    bool special, normalized, lstrip, rstrip, single_word;
};

/* Byte trie with sibling lists. Node 0 is the root; its children are found by table. */
struct trie_node {
    int32_t child, next, added; /* -1: none */
    unsigned char byte;
};
struct trie {
    struct trie_node *nodes; /* owned */
    size_t count, cap;
    int32_t first[256]; /* -1: none */
};

/* What decoding makes of an id. */
struct shown {
    const char *text; /* in the arena */
    size_t len;
    bool special, skipped; /* skipped: left out with skip_special */
};

struct vocab_entry {
    const char *piece; /* in the arena */
    size_t len;
    int32_t id;
};
struct vocab {
    struct vocab_entry *entries; /* owned */
    size_t count, cap;
    uint32_t *slots; /* entry + 1, 0 = empty; owned */
    size_t slot_count;
};

struct merge {
    uint64_t pair; /* left << 32 | right; MERGE_EMPTY in free slots */
    uint32_t rank;
    int32_t id;
};
#define MERGE_EMPTY UINT64_MAX
#define RANK_NONE UINT32_MAX

enum { CHAR_TABLE = 0x3000, REGEX_STEPS_PER_BYTE = 20, REGEX_STEPS_MIN = 100000, TOKEN_ID_MAX = (1 << 24) - 1 };

struct tok {
    struct arena arena;
    const char *name;
    struct vocab vocab; /* the model's own pieces */
    struct merge *merges;
    size_t merge_slots;          /* power of two */
    int32_t char_id[CHAR_TABLE]; /* id of a one-character piece, -1 when absent */
    int32_t byte_id[256];        /* of <0xNN>; all -1 without byte_fallback */
    const char *unk;             /* NULL: unknown characters are dropped */
    int32_t unk_id;
    bool fuse_unk, ignore_merges, byte_fallback;
    struct steps norm, pre, dec;
    bool has_decoder;
    struct added *added;
    size_t added_count, added_cap;
    struct trie raw, normal;      /* added tokens found in the text as written, and in normalized text */
    struct tok_ids front, behind; /* what the post-processor adds */
    const char **pieces;          /* by id; NULL in holes */
    struct shown *shown;          /* by id */
    int32_t size;
};

/* Vocabulary and merges (tok_bpe.c). */
void vocab_add(struct vocab *v, const char *piece, size_t len, int32_t id); /* piece borrowed; a known piece gets the new id */
int32_t vocab_find(const struct vocab *v, const char *piece, size_t len);   /* -1: absent */
void merges_alloc(struct tok *t, size_t count);
void merges_put(struct tok *t, int32_t left, int32_t right, uint32_t rank, int32_t id);

/* Added tokens (tok.c). */
void trie_init(struct trie *tr);
void trie_add(struct trie *tr, const char *s, size_t len, int32_t added); /* the first of two equal strings stays */

/* One call's scratch. */
struct span {
    size_t from, to;
    bool match;
};
struct level {
    struct buf text;
    struct span *spans;
    size_t count, cap;
};
struct symbol {
    int32_t id, prev, next; /* prev, next: -1 at the ends */
    uint32_t rank;          /* of merging this with next, RANK_NONE when they do not merge */
    int32_t merged;         /* the id that it gives */
};
struct word_slot {
    uint64_t hash;
    uint32_t text, ids; /* offsets into the pools */
    uint16_t text_len, id_count;
};
struct word_cache {
    struct word_slot *slots; /* NULL: off */
    struct buf text;
    struct tok_ids ids;
};
struct work {
    const struct tok *t;
    struct err *e;
    struct tok_ids *out;
    pcre2_match_data *md;
    pcre2_match_context *mc;
    struct buf norm[2];
    struct level *levels; /* one per pre-tokenizing step */
    struct symbol *symbols;
    size_t symbol_count, symbol_cap;
    uint64_t *heap; /* rank << 32 | position */
    size_t heap_count, heap_cap;
    struct word_cache cache;
};
void work_init(struct work *w, const struct tok *t, struct err *e);
void work_release(struct work *w);

/* Patterns (tok_split.c). */
int pat_regex(struct pat *p, const char *regex, size_t len, const char *where, struct err *e);
struct pat_iter {
    size_t at, last_end;
    bool had;
};
/* Next match in text: 1 and *from, *to; 0 at the end; negative on error. it: zeroed before the first call. Empty matches come as
 * Oniguruma's Rust binding gives them: not right behind another match. */
int pat_next(const struct pat *p, struct work *w, const char *text, size_t len, struct pat_iter *it, size_t *from, size_t *to);
/* Appends text with every match replaced. */
int pat_replace(const struct step *s, struct work *w, const char *text, size_t len, struct buf *out);
/* Oniguruma's syntax and meaning written in PCRE2's (tok_regex.c). */
int regex_from_oniguruma(const char *regex, size_t len, struct buf *out, const char *where, struct err *e);

/* Normalizes one segment. *text and *len are replaced by the result, which lies in w->norm or is the input. *lead turns false when
 * what stands first in the text was removed. */
int norm_apply(struct work *w, const char **text, size_t *len, bool *lead);
/* Runs the pre-tokenizer from step `i` on and the model on what comes out. */
int split_apply(struct work *w, size_t i, const char *text, size_t len, bool lead);
int bpe_word(struct work *w, const char *text, size_t len);
/* Turns the word cache on where the text is long enough to pay for it. */
void bpe_cache_start(struct work *w, size_t text_bytes);

/* How much text steps may make out of text: a chain of replacements can grow without end. */
static inline size_t growth_limit(size_t len)
{
    return len > SIZE_MAX / 128 ? SIZE_MAX : 64 * len + (1u << 20);
}

/* Unicode (tok_unicode.c). */
bool uc_is_space(uint32_t cp); /* White_Space, as in Rust */
struct uc_range {
    uint32_t from, to;
    char category[3];
};
const struct uc_range *uc_new_ranges(size_t *count); /* newer than what the libraries know */
bool uc_is_numeric(uint32_t cp);
bool uc_is_punctuation(uint32_t cp);
bool uc_is_word(uint32_t cp); /* \w of Rust's regex */
/* One character of valid UTF-8; its bytes. */
size_t uc_get(const char *s, uint32_t *cp);
size_t uc_put(uint32_t cp, char out[4]);
/* Character that ends at `end`; where it starts. */
size_t uc_before(const char *s, size_t end, uint32_t *cp);
bool uc_valid(const char *s, size_t len);
/* Appends s; each maximal part of an ill-formed sequence becomes U+FFFD (Unicode 3.9, as Rust and Python do). */
void uc_add_lossy(struct buf *out, const char *s, size_t len);
uint32_t byte_to_char(unsigned char b);
int char_to_byte(uint32_t cp); /* -1: not of the byte-level alphabet */

#endif

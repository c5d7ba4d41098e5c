/* The tokenizer's parts one by one, on small tokenizers written here, and what is said about files that are broken. What Hugging Face does
 * with each was read in its source (tokenizers 0.2x: added_vocabulary.rs, normalizer.rs, pre_tokenizers/, decoders/, models/bpe/). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"
#include "stages/text/tok.h"

/* Letters a-e, space, marks, a few merges and an unknown token; parts may add or override members of the root object. */
static char *file(const char *parts, const char *model_extra)
{
    return xasprintf(
        "{\"version\":\"1.0\",%s%s\"model\":{\"type\":\"BPE\",%s\"vocab\":{\"<unk>\":0,\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5,\" \":6,"
        "\"▁\":7,\"ab\":8,\"bc\":9,\"abc\":10,\"▁a\":11,\"1\":12,\"2\":13,\"é\":14,\",\":15,\"aa\":16,\"aaaa\":17,\"Ġ\":18,\"Ġa\":19,"
        "\"B\":20,\"Ã\":21,\"©\":22,\"<\":23,\"x\":24,\">\":25,\"'\":26,\"s\":27,\"<0xC3>\":28,\"<0xA8>\":29,\"\\n\":30,\"ss\":31},"
        "\"merges\":[\"a b\",[\"b\",\"c\"],\"ab c\",\"▁ a\",\"a a\",\"aa aa\",\"Ġ a\",\"s s\"]}}",
        parts, *parts ? "," : "", model_extra);
}

static struct tok *load(const char *parts, const char *model_extra)
{
    struct err e = {0};
    struct tok *t = NULL;
    char *json = file(parts, model_extra);
    if (tok_load(json, strlen(json), "t.json", &t, &e))
        fail_msg("%s", e.text);
    free(json);
    return t;
}

static const char *encode_bytes(const struct tok *t, const char *text, size_t len, bool special)
{
    static struct buf out;
    struct err e = {0};
    struct tok_ids ids = TOK_IDS_INIT;
    buf_clear(&out);
    if (tok_encode(t, text, len, special, &ids, &e))
        buf_printf(&out, "error: %s", e.text);
    for (size_t i = 0; i < ids.count; i++) {
        const char *piece = tok_piece(t, ids.ids[i]);
        buf_printf(&out, "%s%s", i ? "|" : "", piece ? piece : "?");
    }
    tok_ids_release(&ids);
    return buf_str(&out);
}

/* Encodes with one set of parts: pieces joined by '|'. */
static const char *pieces(const char *parts, const char *text)
{
    struct tok *t = load(parts, "\"unk_token\":\"<unk>\",");
    const char *out = encode_bytes(t, text, strlen(text), true);
    tok_free(t);
    return out;
}

static const char *decoded(const char *parts, const char *list, bool skip)
{
    static struct buf out;
    struct err e = {0};
    struct tok_ids ids = TOK_IDS_INIT;
    struct tok *t = load(parts, "");
    char *copy = xstrdup(list), *rest = copy, *piece;
    while ((piece = strsep(&rest, "|")))
        tok_ids_push(&ids, tok_find(t, piece));
    buf_clear(&out);
    if (tok_decode(t, ids.ids, ids.count, skip, &out, &e))
        buf_printf(&out, "error: %s", e.text);
    free(copy);
    tok_ids_release(&ids);
    tok_free(t);
    return buf_str(&out);
}

static void merges(void **s)
{
    (void)s;
    assert_string_equal(pieces("", "abc"), "abc");
    assert_string_equal(pieces("", "bcabca"), "bc|abc|a");
    assert_string_equal(pieces("", "aaaaaaa"), "aaaa|aa|a");
    assert_string_equal(pieces("", ""), "");
}

static void unknown(void **s)
{
    (void)s;
    struct tok *t = load("", "");
    assert_string_equal(encode_bytes(t, "azza", 4, false), "aa");
    tok_free(t);
    t = load("", "\"unk_token\":\"<unk>\",\"fuse_unk\":true,");
    assert_string_equal(encode_bytes(t, "azzaz", 5, false), "a|<unk>|a|<unk>");
    tok_free(t);
    assert_string_equal(pieces("", "azza"), "a|<unk>|<unk>|a");
    t = load("", "\"unk_token\":\"<unk>\",\"byte_fallback\":true,");
    assert_string_equal(encode_bytes(t, "è,", 3, false), "<0xC3>|<0xA8>|,");
    assert_string_equal(encode_bytes(t, "zè,", 4, false), "<0xC3>|<0xA8>|<unk>|,");
    tok_free(t);
    t = load("", "\"unk_token\":\"<none>\",");
    assert_string_equal(encode_bytes(t, "z", 1, false), "error: t.json: unk_token \"<none>\" is needed and is not in the vocabulary");
    tok_free(t);
}

static void ignore_merges(void **s)
{
    (void)s;
    struct tok *t = load("\"pre_tokenizer\":{\"type\":\"WhitespaceSplit\"}", "\"ignore_merges\":true,");
    assert_string_equal(encode_bytes(t, "<unk> abc", 9, false), "<unk>|abc");
    tok_free(t);
}

static void bad_text(void **s)
{
    (void)s;
    struct tok *t = load("", "\"unk_token\":\"<unk>\",");
    assert_string_equal(encode_bytes(t, "a\0b", 3, false), "a|<unk>|b");
    assert_string_equal(encode_bytes(t, "a\xE2\x82z", 4, false), "a|<unk>|<unk>");
    assert_string_equal(encode_bytes(t, "a\xE2\x82", 3, false), "a|<unk>");
    assert_string_equal(encode_bytes(t, "\xFF\xC0\x80\xED\xA0\x80", 6, false), "<unk>|<unk>|<unk>|<unk>|<unk>|<unk>");
    assert_string_equal(encode_bytes(t, NULL, 0, true), "");
    tok_free(t);
}

#define NORM(x) "\"normalizer\":" x
#define PRE(x) "\"pre_tokenizer\":" x
#define DEC(x) "\"decoder\":" x

static void normalizers(void **s)
{
    (void)s;
    assert_string_equal(pieces(NORM("{\"type\":\"Prepend\",\"prepend\":\"▁\"}"), "ab"), "▁|ab");
    assert_string_equal(pieces(NORM("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"b+\"},\"content\":\"a\"}"), "bbbc"), "a|c");
    assert_string_equal(pieces(NORM("{\"type\":\"Lowercase\"}"), "ABC"), "abc");
    assert_string_equal(pieces(NORM("{\"type\":\"NFC\"}"), "e\xCC\x81"), "é");
    assert_string_equal(pieces(NORM("{\"type\":\"NFD\"}"), "é"), "e|<unk>");
    assert_string_equal(pieces(NORM("{\"type\":\"NFKC\"}"), "ａ①"), "a|1");
    assert_string_equal(pieces(NORM("{\"type\":\"NFC\"}"), "①"), "<unk>");
    assert_string_equal(pieces(NORM("{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":false}"), " \na "), "a| ");
    assert_string_equal(pieces(NORM("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"},{\"type\":\"Replace\","
                                    "\"pattern\":{\"String\":\" \"},\"content\":\"▁\"}]}"),
                               "B A"),
                        "b|▁a");
}

static void splits(void **s)
{
    (void)s;
    static const struct {
        const char *behavior, *want;
    } cases[] = {
        {"Removed\"",                 "ab|c|a"        },
        {"Isolated\"",                ",|ab|,|,|c|,|a"},
        {"MergedWithPrevious\"",      ",|ab|,|,|c|,|a"},
        {"MergedWithNext\"",          ",|ab|,|,|c|,|a"},
        {"Contiguous\"",              ",|ab|,|,|c|,|a"},
        {"Removed\",\"invert\":true", ",|,|,|,"       },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *parts = xasprintf(PRE("{\"type\":\"Split\",\"pattern\":{\"String\":\",\"},\"behavior\":\"%s}"), cases[i].behavior);
        assert_string_equal(pieces(parts, ",ab,,c,a"), cases[i].want);
        free(parts);
    }
    /* What a split leaves together shows where a merge goes across it. */
    assert_string_equal(pieces(PRE("{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Isolated\"}"), "aab"), "a|a|b");
    assert_string_equal(pieces(PRE("{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Contiguous\"}"), "baab"), "b|aa|b");
    assert_string_equal(pieces(PRE("{\"type\":\"Split\",\"pattern\":{\"String\":\"b\"},\"behavior\":\"MergedWithPrevious\"}"), "aba"),
                        "ab|a");
    assert_string_equal(pieces(PRE("{\"type\":\"Split\",\"pattern\":{\"String\":\"b\"},\"behavior\":\"MergedWithPrevious\"}"), "abca"),
                        "ab|c|a");
    assert_string_equal(pieces(PRE("{\"type\":\"Split\",\"pattern\":{\"String\":\"b\"},\"behavior\":\"MergedWithNext\"}"), "abca"),
                        "a|bc|a");
    assert_string_equal(pieces(PRE("{\"type\":\"Split\",\"pattern\":{\"String\":\"s\"},\"behavior\":\"MergedWithNext\"}"), "assa"),
                        "a|s|s|a");
    assert_string_equal(pieces(PRE("{\"type\":\"Split\",\"pattern\":{\"String\":\"\"},\"behavior\":\"Removed\"}"), "abc"), "abc");
    assert_string_equal(pieces(PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\"},\"behavior\":\"Isolated\"}"), "ab"), "a|b");
}

static void pre_tokenizers(void **s)
{
    (void)s;
    assert_string_equal(pieces(PRE("{\"type\":\"Digits\",\"individual_digits\":true}"), "1a"), "1|a");
    assert_string_equal(pieces(PRE("{\"type\":\"Whitespace\"}"), "ab c,aa"), "ab|c|,|aa");
    assert_string_equal(pieces(PRE("{\"type\":\"WhitespaceSplit\"}"), " a\xC2\xA0"
                                                                      "a\n"),
                        "a|a");
    assert_string_equal(pieces(PRE("{\"type\":\"Punctuation\"}"), "a,a"), "a|,|a");
    assert_string_equal(pieces(PRE("{\"type\":\"ByteLevel\",\"add_prefix_space\":true}"), "aé a"), "Ġa|Ã|©|Ġa");
    assert_string_equal(pieces(PRE("{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"), "aa a"), "aa|Ġa");
    assert_string_equal(
        pieces(PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},{\"type\":\"Punctuation\"}]}"), "a ,a"),
        "a|,|a");
}

static void metaspace(void **s)
{
    (void)s;
#define META(rest) PRE("{\"type\":\"Metaspace\",\"replacement\":\"▁\"" rest "}")
#define ADDED "\"added_tokens\":[{\"id\":40,\"content\":\"<x>\",\"special\":true,\"normalized\":false}]"
    assert_string_equal(pieces(META(""), "a a"), "▁a|▁a");
    assert_string_equal(pieces(META(",\"add_prefix_space\":false"), "a a"), "a|▁a");
    assert_string_equal(pieces(META(",\"prepend_scheme\":\"never\""), "a"), "a");
    assert_string_equal(pieces(ADDED "," META(",\"prepend_scheme\":\"first\""), "a<x>a"), "▁a|<x>|a");
    assert_string_equal(pieces(ADDED "," META(",\"prepend_scheme\":\"first\""), "<x>a"), "<x>|a");
    assert_string_equal(pieces(ADDED "," META(",\"prepend_scheme\":\"always\""), "a<x>a"), "▁a|<x>|▁a");
    assert_string_equal(pieces(META(",\"prepend_scheme\":\"always\""), " a"), "▁a");
    assert_string_equal(pieces(META(",\"split\":false"), "a  a"), "▁a|▁|▁a");
}

static void added_tokens(void **s)
{
    (void)s;
#define AT(rest) "\"added_tokens\":[" rest "]"
    assert_string_equal(
        pieces(AT("{\"id\":40,\"content\":\"<x>\",\"special\":true},{\"id\":41,\"content\":\"<x>a\",\"special\":true}"), "<x>ab<x>b"),
        "<x>a|b|<x>|b");
    assert_string_equal(pieces(AT("{\"id\":40,\"content\":\"x\",\"lstrip\":true,\"rstrip\":true}"), "a x \n a"), "a|x|a");
    assert_string_equal(pieces(AT("{\"id\":40,\"content\":\"ab\",\"single_word\":true}"), "ab,abb,ab"), "ab|,|ab|b|,|ab");
    /* A model's own id wins over the one in the list. */
    struct tok *t = load(AT("{\"id\":50,\"content\":\"abc\",\"special\":true}"), "");
    assert_int_equal(tok_find(t, "abc"), 10);
    assert_int_equal(tok_vocab_size(t), 32);
    assert_true(tok_is_special(t, 10));
    tok_free(t);
    /* Normalized tokens are looked for in normalized text, the others in the text as it is. */
    assert_string_equal(pieces(NORM("{\"type\":\"Lowercase\"},") AT("{\"id\":40,\"content\":\"XX\",\"normalized\":true}"), "aXxa"),
                        "a|XX|a");
    assert_string_equal(pieces(NORM("{\"type\":\"Lowercase\"},") AT("{\"id\":40,\"content\":\"XX\",\"normalized\":false}"), "aXxa"),
                        "a|x|x|a");
    assert_string_equal(
        pieces(NORM("{\"type\":\"Prepend\",\"prepend\":\"▁\"},") AT("{\"id\":40,\"content\":\"<x>\",\"normalized\":false}"), "a<x>a"),
        "▁a|<x>|▁a");
}

static void templates(void **s)
{
    (void)s;
#define TEMPLATE                                                                                                                           \
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{"     \
    "\"id\":\"y\"}}],\"special_tokens\":{\"x\":{\"ids\":[24]},\"y\":{\"ids\":[12,13]}}}"
    assert_string_equal(pieces("\"post_processor\":" TEMPLATE, "a"), "x|a|1|2");
    assert_string_equal(pieces("\"post_processor\":" TEMPLATE, ""), "x|1|2");
    assert_string_equal(
        pieces("\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"}," TEMPLATE "," TEMPLATE "]}", "a"),
        "x|x|a|1|2|1|2");
    struct tok *t = load("\"post_processor\":" TEMPLATE, "");
    assert_int_equal(tok_leading_special(t), 24);
    tok_free(t);
    t = load("", "");
    assert_int_equal(tok_leading_special(t), -1);
    assert_int_equal(tok_find(t, "nothing"), -1);
    assert_null(tok_piece(t, 1000));
    assert_null(tok_piece(t, -1));
    tok_free(t);
}

static void decoders(void **s)
{
    (void)s;
    assert_string_equal(decoded("", "ab|c", false), "ab c");
    assert_string_equal(decoded(DEC("{\"type\":\"Fuse\"}"), "ab|c", false), "abc");
    assert_string_equal(decoded(DEC("{\"type\":\"ByteLevel\"}"), "Ġa|Ã|©|▁", false), " aé▁");
    assert_string_equal(decoded(DEC("{\"type\":\"ByteLevel\"}"), "Ã|a|©", false), "\xEF\xBF\xBD"
                                                                                  "a\xEF\xBF\xBD");
    /* A piece that leaves the byte-level alphabet halfway stands for itself as a whole. */
    assert_string_equal(decoded(AT("{\"id\":40,\"content\":\"a▁\"}") "," DEC("{\"type\":\"ByteLevel\"}"), "b|a▁", false), "ba▁");
    assert_string_equal(decoded(DEC("{\"type\":\"ByteFallback\"}"), "<0xC3>|<0xA8>|a", false), "èa");
    assert_string_equal(decoded(DEC("{\"type\":\"ByteFallback\"}"), "<0xA8>|<0xC3>|a", false), "\xEF\xBF\xBD\xEF\xBF\xBD"
                                                                                               "a");
    assert_string_equal(decoded(DEC("{\"type\":\"Metaspace\",\"replacement\":\"▁\"}"), "▁a|▁a|▁", false), "a a ");
    assert_string_equal(decoded(DEC("{\"type\":\"Metaspace\",\"replacement\":\"▁\",\"prepend_scheme\":\"never\"}"), "▁a", false), " a");
    assert_string_equal(decoded(DEC("{\"type\":\"Strip\",\"content\":\"a\",\"start\":1,\"stop\":3}"), "aaaa|abc|a", false), "bc");
    assert_string_equal(decoded(DEC("{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"xy\"}"), "aa|b", false), "xyxyb");
    assert_string_equal(decoded(ADDED "," DEC("{\"type\":\"Fuse\"}"), "a|<x>|b", true), "ab");
    assert_string_equal(decoded(ADDED "," DEC("{\"type\":\"Fuse\"}"), "a|<x>|b", false), "a<x>b");
    assert_string_equal(decoded(DEC("{\"type\":\"Fuse\"}"), "a|nothing", false), "error: t.json: id -1 is not in the vocabulary of 32");
}

/* A regex of Oniguruma splits the text; the parts come back joined by '|'. */
static void check_regex(const char *regex, const char *text, const char *want)
{
    char *parts = xasprintf(PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},\"behavior\":\"Removed\",\"invert\":true}"), regex);
    assert_string_equal(pieces(parts, text), want);
    free(parts);
}

static void regexes(void **s)
{
    (void)s;
    check_regex("\\\\s", "a b\xE1\xA0\x8E", " "); /* U+180E is no space */
    check_regex("[\\\\s]", "a\xC2\x85", "<unk>"); /* U+0085 is */
    check_regex("[^\\\\S]", "a b", " ");
    check_regex("\\\\h", "gax1", "a|1"); /* hex digits */
    check_regex("[a-b&&[^b]]", "abc", "a");
    check_regex("[a[bc]]", "abcd", "a|b|c");
    check_regex("a{2}+", "aaaaa", "aaaa"); /* a greedy repeat of aa */
    check_regex("a{,2}b", "aaab", "a|ab");
    check_regex("(?i:B)", "ab", "b");
    check_regex("(?m:a.)", "a\nab", "a|\n|ab");
    check_regex("\\\\bb", "ab b", "b");
    check_regex("\\\\p{^L}", "a1b", "1");
    check_regex("\\\\P{L}", "a1b", "1");
    check_regex("\\\\u0061", "ab", "a");
    check_regex("a{x", "a{x", "a|<unk>|x");
}

static const char *load_error(const char *json)
{
    static struct err e;
    struct tok *t = NULL;
    e = (struct err){0};
    int rc = tok_load(json, strlen(json), "t.json", &t, &e);
    assert_null(t);
    assert_int_equal(rc, -e.code);
    return e.text;
}

static const char *part_error(const char *parts)
{
    char *json = file(parts, "");
    const char *text = load_error(json);
    free(json);
    return text;
}

static void errors(void **s)
{
    (void)s;
    assert_string_equal(load_error("[]"), "t.json: must be a JSON object");
    assert_string_equal(load_error("{}"), "t.json: model: must be an object");
    assert_string_equal(load_error("{\"version\":\"2.0\"}"), "t.json: version \"2.0\" is not supported, only \"1.0\"");
    assert_string_equal(load_error("{\"model\":{\"type\":\"Unigram\"}}"), "t.json: model: type \"Unigram\" is not supported, only BPE");
    assert_string_equal(load_error("{\"model\":{\"vocab\":[]}}"), "t.json: model: \"vocab\" must be an object of pieces and ids");
    assert_string_equal(load_error("{\"model\":{\"vocab\":{\"a\":\"b\"}}}"),
                        "t.json: model: the id of \"a\" must be an integer in 0..16777215");
    assert_string_equal(load_error("{\"model\":{\"vocab\":{\"a\":-1}}}"),
                        "t.json: model: the id of \"a\" must be an integer in 0..16777215");
    assert_string_equal(load_error("{\"model\":{\"vocab\":{},\"merges\":{}}}"), "t.json: model: \"merges\" must be a list");
    assert_string_equal(load_error("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]}}"),
                        "t.json: model: merge 0 must be two pieces, \"a b\" or [\"a\", \"b\"]");
    assert_string_equal(load_error("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}"),
                        "t.json: model: merge 0: \"aa\" is not in the vocabulary");
    assert_string_equal(load_error("{\"model\":{\"vocab\":{},\"merges\":[],\"dropout\":0.1}}"),
                        "t.json: model: dropout 0.1 is not supported: ids would be random");
    assert_string_equal(load_error("{\"model\":{\"vocab\":{},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}"),
                        "t.json: model: end_of_word_suffix \"</w>\" is not supported");
    assert_string_equal(part_error(NORM("{\"type\":\"Precompiled\"}")), "t.json: normalizer \"Precompiled\" is not supported");
    assert_string_equal(part_error(PRE("{\"type\":\"BertPreTokenizer\"}")), "t.json: pre_tokenizer \"BertPreTokenizer\" is not supported");
    assert_string_equal(part_error(DEC("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"WordPiece\"}]}")),
                        "t.json: decoder \"WordPiece\" is not supported");
    assert_string_equal(part_error("\"post_processor\":{\"type\":\"BertProcessing\"}"),
                        "t.json: post_processor \"BertProcessing\" is not supported");
    assert_string_equal(part_error(NORM("3")), "t.json: normalizer: must be an object");
    assert_string_equal(part_error(NORM("{\"type\":\"Prepend\"}")), "t.json: normalizer: \"prepend\" must be a string, not absent");
    assert_string_equal(part_error(PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}")),
                        "t.json: pre_tokenizer: regex \"(\": missing closing parenthesis");
    assert_non_null(
        strstr(part_error(PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?R)\"},\"behavior\":\"Isolated\"}")), "this kind of group"));
    assert_non_null(
        strstr(part_error(PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[[:alpha:]]\"},\"behavior\":\"Isolated\"}")), "POSIX"));
    assert_string_equal(part_error(PRE("{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Joined\"}")),
                        "t.json: pre_tokenizer: behavior \"Joined\" is not supported");
    assert_string_equal(part_error("\"added_tokens\":{}"), "t.json: added_tokens: must be a list");
    assert_string_equal(part_error("\"added_tokens\":[{\"content\":\"z\"}]"),
                        "t.json: added_tokens: \"id\" must be an integer, not absent");
    assert_string_equal(part_error("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"q\"}}]}"),
                        "t.json: post_processor: special_tokens has no ids for \"q\"");
    assert_string_equal(part_error("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"q\"}},"
                                   "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"q\":{\"ids\":[99]}}}"),
                        "t.json: post_processor: id 99 is not in the vocabulary of 32");
    assert_int_equal(tok_load_file("build/no-such-file", &(struct tok *){NULL}, NULL), -ERR_NOTFOUND);
}

/* Neither a regex without end nor text that grows without end gets through; both are errors in good time. */
static void limits(void **s)
{
    (void)s;
    struct tok *t = load(PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a|aa|aaa)+$\"},\"behavior\":\"Isolated\"}"), "");
    struct buf b = BUF_INIT;
    for (int i = 0; i < 400; i++)
        buf_addstr(&b, "aaab,");
    memset(b.data, 'a', b.len - 1);
    assert_non_null(strstr(encode_bytes(t, b.data, b.len, false), "error: t.json: a regex does not get through 2000 bytes of text"));
    tok_free(t);
    struct buf parts = BUF_INIT;
    buf_addstr(&parts, "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[");
    for (int i = 0; i < 40; i++)
        buf_printf(&parts, "%s{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aa\"}", i ? "," : "");
    buf_addstr(&parts, "]}");
    t = load(parts.data, "");
    assert_non_null(strstr(encode_bytes(t, "a", 1, false), "bytes out of"));
    tok_free(t);
    buf_release(&parts);
    buf_release(&b);
}

static void long_word(void **s)
{
    (void)s;
    struct tok *t = load("", "");
    size_t n = 1 << 20;
    char *text = xmalloc(n);
    memset(text, 'a', n);
    struct tok_ids ids = TOK_IDS_INIT;
    uint64_t start = io_monotonic_ns();
    assert_int_equal(tok_encode(t, text, n, false, &ids, NULL), 0);
    double ms = (double)(io_monotonic_ns() - start) * 1e-6;
    print_message("one word of 1 MiB: %.0f ms\n", ms);
    assert_int_equal(ids.count, n / 4);
    assert_true(ms < 20000);
    tok_ids_release(&ids);
    free(text);
    tok_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges),       cmocka_unit_test(unknown),   cmocka_unit_test(ignore_merges),  cmocka_unit_test(bad_text),
        cmocka_unit_test(normalizers),  cmocka_unit_test(splits),    cmocka_unit_test(pre_tokenizers), cmocka_unit_test(metaspace),
        cmocka_unit_test(added_tokens), cmocka_unit_test(templates), cmocka_unit_test(decoders),       cmocka_unit_test(regexes),
        cmocka_unit_test(errors),       cmocka_unit_test(limits),    cmocka_unit_test(long_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

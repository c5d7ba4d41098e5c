#include "stages/text/tok_parts.h"

#include <string.h>
#include <utf8proc.h>

#include "pipeline/base/mem.h"

#define GPT2_REGEX "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

enum { SEQUENCE_DEPTH_MAX = 16 };

struct loader;
typedef int (*part_fn)(struct loader *l, const json_t *o);
struct part {
    const char *type;
    part_fn load;
};
struct loader {
    struct tok *t;
    struct steps *to;
    const char *where, *list_key; /* "tokenizer.json: normalizer", "normalizers" */
    const struct part *parts;     /* ends with a NULL type */
    int depth;
    struct err *e;
};

static struct step *add_step(struct loader *l, enum step_kind kind)
{
    struct steps *s = l->to;
    MEM_GROW(s->v, s->count, s->cap);
    s->v[s->count] = (struct step){.kind = kind};
    return &s->v[s->count++];
}

static int load_part(struct loader *l, const json_t *o)
{
    const char *type = NULL;
    if (!json_is_object(o))
        return err_set(l->e, ERR_FORMAT, "%s: must be an object", l->where);
    int rc = json_need_str(o, l->where, "type", &type, l->e);
    if (rc)
        return rc;
    for (const struct part *p = l->parts; p->type; p++)
        if (strcmp(p->type, type) == 0)
            return p->load(l, o);
    return err_set(l->e, ERR_UNSUPPORTED, "%s \"%.80s\" is not supported", l->where, type);
}

static int load_sequence(struct loader *l, const json_t *o)
{
    const json_t *list = json_object_get(o, l->list_key);
    if (!json_is_array(list))
        return err_set(l->e, ERR_FORMAT, "%s: Sequence needs a list \"%s\"", l->where, l->list_key);
    if (++l->depth > SEQUENCE_DEPTH_MAX)
        return err_set(l->e, ERR_FORMAT, "%s: Sequences are nested more than %d deep", l->where, SEQUENCE_DEPTH_MAX);
    int rc = 0;
    for (size_t i = 0; i < json_array_size(list) && !rc; i++)
        rc = load_part(l, json_array_get(list, i));
    l->depth--;
    return rc;
}

static int take_text(struct loader *l, const json_t *o, const char *key, struct step *s)
{
    const char *text = NULL;
    int rc = json_need_str(o, l->where, key, &text, l->e);
    if (rc)
        return rc;
    s->text_len = json_string_length(json_object_get(o, key));
    s->text = arena_strndup(&l->t->arena, text, s->text_len);
    return 0;
}

/* A string that must be one character. */
static int take_char(struct loader *l, const json_t *o, const char *key, struct step *s)
{
    uint32_t c;
    int rc = take_text(l, o, key, s);
    if (!rc && (s->text_len == 0 || uc_get(s->text, &c) != s->text_len))
        return err_set(l->e, ERR_FORMAT, "%s: \"%s\" must be one character", l->where, key);
    return rc;
}

static int take_pattern(struct loader *l, const json_t *o, struct step *s)
{
    const json_t *p = json_object_get(o, "pattern"), *regex = json_object_get(p, "Regex"), *literal = json_object_get(p, "String");
    if (json_is_string(regex))
        return pat_regex(&s->pat, json_string_value(regex), json_string_length(regex), l->where, l->e);
    if (!json_is_string(literal))
        return err_set(l->e, ERR_FORMAT, "%s: \"pattern\" must be {\"String\": …} or {\"Regex\": …}", l->where);
    s->pat.literal_len = json_string_length(literal);
    s->pat.literal = arena_strndup(&l->t->arena, json_string_value(literal), s->pat.literal_len);
    return 0;
}

static int take_behavior(struct loader *l, const json_t *o, struct step *s)
{
    static const char *const names[] = {[SPLIT_REMOVED] = "Removed",
                                        [SPLIT_ISOLATED] = "Isolated",
                                        [SPLIT_MERGED_PREVIOUS] = "MergedWithPrevious",
                                        [SPLIT_MERGED_NEXT] = "MergedWithNext",
                                        [SPLIT_CONTIGUOUS] = "Contiguous"};
    const char *name = names[s->behavior];
    int rc = json_opt_str(o, l->where, "behavior", &name, l->e);
    for (size_t i = 0; !rc && i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            s->behavior = (enum split_behavior)i;
            return 0;
        }
    return rc ? rc : err_set(l->e, ERR_UNSUPPORTED, "%s: behavior \"%.50s\" is not supported", l->where, name);
}

static int load_prepend(struct loader *l, const json_t *o)
{
    struct step *s = add_step(l, STEP_PREFIX);
    s->prefix = PREFIX_ALWAYS;
    return take_text(l, o, "prepend", s);
}

static int load_replace(struct loader *l, const json_t *o)
{
    struct step *s = add_step(l, STEP_REPLACE);
    int rc = take_pattern(l, o, s);
    return rc ? rc : take_text(l, o, "content", s);
}

static int load_form(struct loader *l, const json_t *o)
{
    const char *type = json_string_value(json_object_get(o, "type"));
    int options = UTF8PROC_STABLE | (type[2] == 'C' || type[3] == 'C' ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
    add_step(l, STEP_UNICODE)->options = options | (type[2] == 'K' ? UTF8PROC_COMPAT : 0);
    return 0;
}

static int load_lowercase(struct loader *l, const json_t *o)
{
    (void)o;
    add_step(l, STEP_LOWERCASE);
    return 0;
}

static int load_strip_space(struct loader *l, const json_t *o)
{
    struct step *s = add_step(l, STEP_STRIP_SPACE);
    s->left = s->right = true;
    int rc = json_opt_bool(o, l->where, "strip_left", &s->left, l->e);
    return rc ? rc : json_opt_bool(o, l->where, "strip_right", &s->right, l->e);
}

static int load_split(struct loader *l, const json_t *o)
{
    struct step *s = add_step(l, STEP_SPLIT);
    const char *behavior;
    int rc = take_pattern(l, o, s);
    rc = rc ? rc : json_need_str(o, l->where, "behavior", &behavior, l->e);
    rc = rc ? rc : take_behavior(l, o, s);
    return rc ? rc : json_opt_bool(o, l->where, "invert", &s->invert, l->e);
}

static int load_digits(struct loader *l, const json_t *o)
{
    struct step *s = add_step(l, STEP_SPLIT);
    bool single = false;
    s->pat.is_char = uc_is_numeric;
    int rc = json_opt_bool(o, l->where, "individual_digits", &single, l->e);
    s->behavior = single ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
    return rc;
}

static int load_punctuation(struct loader *l, const json_t *o)
{
    struct step *s = add_step(l, STEP_SPLIT);
    s->pat.is_char = uc_is_punctuation;
    s->behavior = SPLIT_ISOLATED;
    return take_behavior(l, o, s);
}

static int load_whitespace(struct loader *l, const json_t *o)
{
    (void)o;
    struct step *s = add_step(l, STEP_SPLIT);
    s->behavior = SPLIT_REMOVED;
    s->invert = true;
    return pat_regex(&s->pat, "\\w+|[^\\w\\s]+", 12, l->where, l->e);
}

static int load_whitespace_split(struct loader *l, const json_t *o)
{
    (void)o;
    struct step *s = add_step(l, STEP_SPLIT);
    s->pat.is_char = uc_is_space;
    s->behavior = SPLIT_REMOVED;
    return 0;
}

static int load_byte_level(struct loader *l, const json_t *o)
{
    bool space = true, regex = true;
    int rc = json_opt_bool(o, l->where, "add_prefix_space", &space, l->e);
    rc = rc ? rc : json_opt_bool(o, l->where, "use_regex", &regex, l->e);
    if (!rc && space) {
        struct step *s = add_step(l, STEP_PREFIX);
        s->prefix = PREFIX_UNLESS_THERE;
        s->text = " ";
        s->text_len = 1;
    }
    if (!rc && regex) {
        struct step *s = add_step(l, STEP_SPLIT);
        s->behavior = SPLIT_ISOLATED;
        rc = pat_regex(&s->pat, GPT2_REGEX, sizeof GPT2_REGEX - 1, l->where, l->e);
    }
    add_step(l, STEP_BYTES);
    return rc;
}

/* Files from before prepend_scheme have add_prefix_space alone. */
static int metaspace_scheme(struct loader *l, const json_t *o, const char **scheme)
{
    bool space = true;
    *scheme = NULL;
    int rc = json_opt_str(o, l->where, "prepend_scheme", scheme, l->e);
    rc = rc ? rc : json_opt_bool(o, l->where, "add_prefix_space", &space, l->e);
    if (rc)
        return rc;
    if (!*scheme)
        *scheme = space ? "always" : "never";
    if (strcmp(*scheme, "always") != 0 && strcmp(*scheme, "first") != 0 && strcmp(*scheme, "never") != 0)
        return err_set(l->e, ERR_UNSUPPORTED, "%s: prepend_scheme \"%.50s\" is not supported", l->where, *scheme);
    if (!space && strcmp(*scheme, "never") != 0)
        return err_set(l->e, ERR_FORMAT, "%s: add_prefix_space is false and prepend_scheme is \"%s\"", l->where, *scheme);
    return 0;
}

static int load_metaspace(struct loader *l, const json_t *o)
{
    struct step mark = {.kind = STEP_REPLACE};
    const char *scheme;
    bool cut = true;
    int rc = take_char(l, o, "replacement", &mark);
    rc = rc ? rc : metaspace_scheme(l, o, &scheme);
    rc = rc ? rc : json_opt_bool(o, l->where, "split", &cut, l->e);
    if (rc)
        return rc;
    mark.pat = (struct pat){.literal = " ", .literal_len = 1};
    *add_step(l, STEP_REPLACE) = mark;
    if (strcmp(scheme, "never") != 0) {
        struct step *s = add_step(l, STEP_PREFIX);
        s->prefix = strcmp(scheme, "first") == 0 ? PREFIX_AT_START : PREFIX_UNLESS_THERE;
        s->text = mark.text;
        s->text_len = mark.text_len;
    }
    if (cut) {
        struct step *s = add_step(l, STEP_SPLIT);
        s->behavior = SPLIT_MERGED_NEXT;
        s->pat = (struct pat){.literal = mark.text, .literal_len = mark.text_len};
    }
    return 0;
}

static int load_unmetaspace(struct loader *l, const json_t *o)
{
    const char *scheme;
    struct step *s = add_step(l, STEP_METASPACE);
    int rc = take_char(l, o, "replacement", s);
    rc = rc ? rc : metaspace_scheme(l, o, &scheme);
    s->left = !rc && strcmp(scheme, "never") != 0;
    return rc;
}

static int load_unbytes(struct loader *l, const json_t *o)
{
    (void)o;
    add_step(l, STEP_UNBYTES);
    return 0;
}

static int load_byte_fallback(struct loader *l, const json_t *o)
{
    (void)o;
    add_step(l, STEP_BYTE_FALLBACK);
    return 0;
}

static int load_fuse(struct loader *l, const json_t *o)
{
    (void)o;
    add_step(l, STEP_FUSE);
    return 0;
}

static int load_strip_char(struct loader *l, const json_t *o)
{
    struct step *s = add_step(l, STEP_STRIP_CHAR);
    int64_t start = 0, stop = 0;
    int rc = take_char(l, o, "content", s);
    rc = rc ? rc : json_need_int(o, l->where, "start", 0, INT32_MAX, &start, l->e);
    rc = rc ? rc : json_need_int(o, l->where, "stop", 0, INT32_MAX, &stop, l->e);
    s->start = (size_t)start;
    s->stop = (size_t)stop;
    return rc;
}

/* The post-processor ByteLevel trims offsets, which we do not keep. */
static int load_nothing(struct loader *l, const json_t *o)
{
    (void)l;
    (void)o;
    return 0;
}

static int template_ids(struct loader *l, const json_t *o, const char *id, struct tok_ids *to)
{
    const json_t *ids = json_object_get(json_object_get(json_object_get(o, "special_tokens"), id), "ids");
    if (!json_is_array(ids))
        return err_set(l->e, ERR_FORMAT, "%s: special_tokens has no ids for \"%.80s\"", l->where, id);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *v = json_array_get(ids, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > TOKEN_ID_MAX)
            return err_set(l->e, ERR_FORMAT, "%s: the ids of \"%.80s\" must be integers in 0..%d", l->where, id, TOKEN_ID_MAX);
        tok_ids_push(to, (int32_t)json_integer_value(v));
    }
    return 0;
}

/* What stands before the text and what behind it; a template is wrapped around what earlier ones of a Sequence added. */
static int template_sides(struct loader *l, const json_t *o, struct tok_ids *front, struct tok_ids *behind)
{
    const json_t *single = json_object_get(o, "single");
    int texts = 0;
    if (!json_is_array(single))
        return err_set(l->e, ERR_FORMAT, "%s: TemplateProcessing needs a list \"single\"", l->where);
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i), *token = json_object_get(item, "SpecialToken"),
                     *text = json_object_get(item, "Sequence");
        const char *id = json_string_value(json_object_get(token ? token : text, "id"));
        if (!id)
            return err_set(l->e, ERR_FORMAT, "%s: item %zu of \"single\" must be a SpecialToken or a Sequence with an id", l->where, i);
        int rc = token ? template_ids(l, o, id, texts ? behind : front) : 0;
        if (rc)
            return rc;
        if (!token && (strcmp(id, "A") != 0 || ++texts > 1))
            return err_set(l->e, ERR_UNSUPPORTED, "%s: \"single\" must hold Sequence A once and no other", l->where);
    }
    return texts ? 0 : err_set(l->e, ERR_UNSUPPORTED, "%s: \"single\" must hold Sequence A once and no other", l->where);
}

static int load_template(struct loader *l, const json_t *o)
{
    struct tok *t = l->t;
    struct tok_ids front = TOK_IDS_INIT, behind = TOK_IDS_INIT;
    int rc = template_sides(l, o, &front, &behind);
    if (!rc) {
        for (size_t i = 0; i < t->front.count; i++)
            tok_ids_push(&front, t->front.ids[i]);
        for (size_t i = 0; i < behind.count; i++)
            tok_ids_push(&t->behind, behind.ids[i]);
        tok_ids_release(&t->front);
        t->front = front;
        front = (struct tok_ids)TOK_IDS_INIT;
    }
    tok_ids_release(&front);
    tok_ids_release(&behind);
    return rc;
}

static const struct part normalizers[] = {
    {"Sequence",  load_sequence   },
    {"Prepend",   load_prepend    },
    {"Replace",   load_replace    },
    {"NFC",       load_form       },
    {"NFD",       load_form       },
    {"NFKC",      load_form       },
    {"NFKD",      load_form       },
    {"Lowercase", load_lowercase  },
    {"Strip",     load_strip_space},
    {NULL,        NULL            },
};
static const struct part pre_tokenizers[] = {
    {"Sequence",        load_sequence        },
    {"Split",           load_split           },
    {"Digits",          load_digits          },
    {"ByteLevel",       load_byte_level      },
    {"Metaspace",       load_metaspace       },
    {"Punctuation",     load_punctuation     },
    {"Whitespace",      load_whitespace      },
    {"WhitespaceSplit", load_whitespace_split},
    {NULL,              NULL                 },
};
static const struct part post_processors[] = {
    {"Sequence",           load_sequence},
    {"ByteLevel",          load_nothing },
    {"TemplateProcessing", load_template},
    {NULL,                 NULL         },
};
static const struct part decoders[] = {
    {"Sequence",     load_sequence     },
    {"ByteLevel",    load_unbytes      },
    {"ByteFallback", load_byte_fallback},
    {"Fuse",         load_fuse         },
    {"Strip",        load_strip_char   },
    {"Replace",      load_replace      },
    {"Metaspace",    load_unmetaspace  },
    {NULL,           NULL              },
};

int parts_load(struct tok *t, const json_t *root, struct err *e)
{
    const struct {
        const char *key, *list_key;
        const struct part *parts;
        struct steps *to;
    } all[] = {
        {"normalizer",     "normalizers",   normalizers,     &t->norm},
        {"pre_tokenizer",  "pretokenizers", pre_tokenizers,  &t->pre },
        {"post_processor", "processors",    post_processors, NULL    },
        {"decoder",        "decoders",      decoders,        &t->dec },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const json_t *o = json_object_get(root, all[i].key);
        if (!o || json_is_null(o))
            continue;
        struct loader l = {t, all[i].to, arena_printf(&t->arena, "%s: %s", t->name, all[i].key), all[i].list_key, all[i].parts, 0, e};
        int rc = load_part(&l, o);
        if (rc)
            return rc;
    }
    const json_t *decoder = json_object_get(root, "decoder");
    t->has_decoder = decoder && !json_is_null(decoder);
    return 0;
}

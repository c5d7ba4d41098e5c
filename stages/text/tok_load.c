/* tokenizer.json into a struct tok. The components (normalizer, pre_tokenizer, post_processor, decoder) are in tok_parts.c; here are the
 * model, the added tokens and the tables by id. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"
#include "stages/text/tok_internal.h"
#include "stages/text/tok_parts.h"

static int load_vocab(struct tok *t, const json_t *vocab, const char *where, struct err *e)
{
    if (!json_is_object(vocab))
        return err_set(e, ERR_FORMAT, "%s: \"vocab\" must be an object of pieces and ids", where);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)vocab, key, value)
    {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id > TOKEN_ID_MAX)
            return err_set(e, ERR_FORMAT, "%s: the id of \"%.100s\" must be an integer in 0..%d", where, key, TOKEN_ID_MAX);
        size_t len = strlen(key);
        vocab_add(&t->vocab, arena_strndup(&t->arena, key, len), len, (int32_t)id);
    }
    return 0;
}

struct text {
    const char *s;
    size_t len;
};

/* "a b" (exactly one space) or ["a", "b"]. */
static bool merge_sides(const json_t *m, struct text side[2])
{
    if (json_is_array(m) && json_array_size(m) == 2 && json_is_string(json_array_get(m, 0)) && json_is_string(json_array_get(m, 1))) {
        for (size_t i = 0; i < 2; i++)
            side[i] = (struct text){json_string_value(json_array_get(m, i)), json_string_length(json_array_get(m, i))};
        return true;
    }
    if (!json_is_string(m))
        return false;
    const char *s = json_string_value(m);
    size_t len = json_string_length(m);
    const char *space = memchr(s, ' ', len);
    if (!space || memchr(space + 1, ' ', (size_t)(s + len - space - 1)))
        return false;
    side[0] = (struct text){s, (size_t)(space - s)};
    side[1] = (struct text){space + 1, (size_t)(s + len - space - 1)};
    return true;
}

static int load_merge(struct tok *t, const json_t *m, size_t rank, struct buf *joined, const char *where, struct err *e)
{
    struct text side[2];
    if (!merge_sides(m, side))
        return err_set(e, ERR_FORMAT, "%s: merge %zu must be two pieces, \"a b\" or [\"a\", \"b\"]", where, rank);
    buf_clear(joined);
    buf_add(joined, side[0].s, side[0].len);
    buf_add(joined, side[1].s, side[1].len);
    int32_t left = vocab_find(&t->vocab, side[0].s, side[0].len), right = vocab_find(&t->vocab, side[1].s, side[1].len),
            id = vocab_find(&t->vocab, joined->data, joined->len);
    if (left < 0 || right < 0 || id < 0) {
        const struct text *miss = left < 0 ? &side[0] : right < 0 ? &side[1] : &(struct text){joined->data, joined->len};
        return err_set(e, ERR_FORMAT, "%s: merge %zu: \"%.*s\" is not in the vocabulary", where, rank,
                       miss->len < 100 ? (int)miss->len : 100, miss->s);
    }
    merges_put(t, left, right, (uint32_t)rank, id);
    return 0;
}

static int load_merges(struct tok *t, const json_t *merges, const char *where, struct err *e)
{
    if (!json_is_array(merges))
        return err_set(e, ERR_FORMAT, "%s: \"merges\" must be a list", where);
    size_t n = json_array_size(merges), rank = 0;
    struct buf joined = BUF_INIT;
    int rc = 0;
    merges_alloc(t, n);
    for (size_t i = 0; i < n && !rc; i++) {
        const json_t *m = json_array_get(merges, i);
        /* A header line that came along from a merges.txt is no merge and takes no rank. */
        if (json_is_string(m) && strncmp(json_string_value(m), "#version", 8) == 0)
            continue;
        rc = load_merge(t, m, rank++, &joined, where, e);
    }
    buf_release(&joined);
    return rc;
}

/* Options of the model that change ids and that we do not have. */
static int refuse_options(const json_t *model, const char *where, struct err *e)
{
    double dropout = 0;
    const char *prefix = "", *suffix = "";
    int rc = json_opt_real(model, where, "dropout", &dropout, e);
    rc = rc ? rc : json_opt_str(model, where, "continuing_subword_prefix", &prefix, e);
    rc = rc ? rc : json_opt_str(model, where, "end_of_word_suffix", &suffix, e);
    if (rc)
        return rc;
    if (dropout != 0)
        return err_set(e, ERR_UNSUPPORTED, "%s: dropout %g is not supported: ids would be random", where, dropout);
    if (*prefix || *suffix)
        return err_set(e, ERR_UNSUPPORTED, "%s: %s \"%.50s\" is not supported", where,
                       *prefix ? "continuing_subword_prefix" : "end_of_word_suffix", *prefix ? prefix : suffix);
    return 0;
}

static void fill_shortcuts(struct tok *t)
{
    memset(t->char_id, -1, sizeof t->char_id);
    memset(t->byte_id, -1, sizeof t->byte_id);
    for (size_t i = 0; i < t->vocab.count; i++) {
        const struct vocab_entry *v = &t->vocab.entries[i];
        uint32_t c;
        if (v->len && v->len <= 3 && uc_get(v->piece, &c) == v->len && c < CHAR_TABLE)
            t->char_id[c] = v->id;
    }
    for (int b = 0; t->byte_fallback && b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", b);
        t->byte_id[b] = vocab_find(&t->vocab, name, 6);
    }
}

static int load_model(struct tok *t, const json_t *model, struct err *e)
{
    const char *where = arena_printf(&t->arena, "%s: model", t->name), *type = "BPE", *unk = NULL;
    if (!json_is_object(model))
        return err_set(e, ERR_FORMAT, "%s: must be an object", where);
    int rc = json_opt_str(model, where, "type", &type, e);
    if (!rc && strcmp(type, "BPE") != 0)
        return err_set(e, ERR_UNSUPPORTED, "%s: type \"%.50s\" is not supported, only BPE", where, type);
    rc = rc ? rc : refuse_options(model, where, e);
    rc = rc ? rc : json_opt_bool(model, where, "fuse_unk", &t->fuse_unk, e);
    rc = rc ? rc : json_opt_bool(model, where, "byte_fallback", &t->byte_fallback, e);
    rc = rc ? rc : json_opt_bool(model, where, "ignore_merges", &t->ignore_merges, e);
    rc = rc ? rc : json_opt_str(model, where, "unk_token", &unk, e);
    rc = rc ? rc : load_vocab(t, json_object_get(model, "vocab"), where, e);
    rc = rc ? rc : load_merges(t, json_object_get(model, "merges"), where, e);
    if (rc)
        return rc;
    t->unk = unk ? arena_strdup(&t->arena, unk) : NULL;
    t->unk_id = unk ? vocab_find(&t->vocab, unk, strlen(unk)) : -1;
    fill_shortcuts(t);
    return 0;
}

static int load_added_token(struct tok *t, const json_t *o, const char *where, struct vocab *seen, struct err *e)
{
    struct added a = {.normalized = true};
    int64_t id = 0;
    const char *content = NULL;
    if (!json_is_object(o))
        return err_set(e, ERR_FORMAT, "%s: must be a list of objects", where);
    int rc = json_need_str(o, where, "content", &content, e);
    rc = rc ? rc : json_need_int(o, where, "id", 0, TOKEN_ID_MAX, &id, e);
    rc = rc ? rc : json_opt_bool(o, where, "special", &a.special, e);
    a.normalized = !a.special;
    rc = rc ? rc : json_opt_bool(o, where, "normalized", &a.normalized, e);
    rc = rc ? rc : json_opt_bool(o, where, "lstrip", &a.lstrip, e);
    rc = rc ? rc : json_opt_bool(o, where, "rstrip", &a.rstrip, e);
    rc = rc ? rc : json_opt_bool(o, where, "single_word", &a.single_word, e);
    if (rc)
        return rc;
    a.len = json_string_length(json_object_get(o, "content"));
    if (a.len == 0)
        return 0;
    a.content = arena_strndup(&t->arena, content, a.len);
    /* The model's own id wins over the one written here. */
    int32_t own = vocab_find(&t->vocab, a.content, a.len), same = vocab_find(seen, a.content, a.len);
    a.id = own >= 0 ? own : (int32_t)id;
    if (same >= 0) {
        a.special |= t->added[same].special;
        t->added[same] = a;
        return 0;
    }
    vocab_add(seen, a.content, a.len, (int32_t)t->added_count);
    MEM_GROW(t->added, t->added_count, t->added_cap);
    t->added[t->added_count++] = a;
    return 0;
}

static int load_added(struct tok *t, const json_t *list, struct err *e)
{
    const char *where = arena_printf(&t->arena, "%s: added_tokens", t->name);
    struct vocab seen = {NULL, 0, 0, NULL, 0};
    int rc = 0;
    if (!list || json_is_null(list))
        return 0;
    if (!json_is_array(list))
        return err_set(e, ERR_FORMAT, "%s: must be a list", where);
    for (size_t i = 0; i < json_array_size(list) && !rc; i++)
        rc = load_added_token(t, json_array_get(list, i), where, &seen, e);
    free(seen.entries);
    free(seen.slots);
    return rc;
}

/* Hugging Face decodes a normalized token as its normalized text, and then no longer knows it as special, since it asks by text:
 * "<s>" under a Prepend normalizer comes back as "▁<s>", skip_special or not. */
static void show_normalized(struct tok *t, const struct added *a, const char *text, size_t len)
{
    t->shown[a->id].text = text;
    t->shown[a->id].len = len;
    t->shown[a->id].skipped = false;
}

/* Special tokens go in before the others: of two that look alike in the text, the first stays. */
static int fill_tries(struct tok *t, struct err *e)
{
    struct work w;
    int rc = 0;
    work_init(&w, t, e);
    for (int special = 1; special >= 0; special--)
        for (size_t i = 0; i < t->added_count && !rc; i++) {
            const struct added *a = &t->added[i];
            const char *text = a->content;
            size_t len = a->len;
            bool lead = true;
            if (a->special != (special == 1))
                continue;
            rc = a->normalized ? norm_apply(&w, &text, &len, &lead) : 0;
            if (rc)
                break;
            trie_add(a->normalized ? &t->normal : &t->raw, text, len, (int32_t)i);
            if (len != a->len || memcmp(text, a->content, len) != 0)
                show_normalized(t, a, arena_strndup(&t->arena, text, len), len);
        }
    work_release(&w);
    return rc;
}

static void fill_ids(struct tok *t)
{
    for (size_t i = 0; i < t->vocab.count; i++)
        t->size = t->vocab.entries[i].id >= t->size ? t->vocab.entries[i].id + 1 : t->size;
    for (size_t i = 0; i < t->added_count; i++)
        t->size = t->added[i].id >= t->size ? t->added[i].id + 1 : t->size;
    t->pieces = xcalloc((size_t)t->size, sizeof *t->pieces);
    t->shown = xcalloc((size_t)t->size, sizeof *t->shown);
    for (size_t i = 0; i < t->vocab.count; i++) {
        const struct vocab_entry *v = &t->vocab.entries[i];
        t->pieces[v->id] = v->piece;
        t->shown[v->id] = (struct shown){v->piece, v->len, false, false};
    }
    for (size_t i = 0; i < t->added_count; i++) {
        const struct added *a = &t->added[i];
        t->pieces[a->id] = a->content;
        t->shown[a->id] = (struct shown){a->content, a->len, a->special || t->shown[a->id].special, a->special};
    }
}

/* The post-processor writes ids of its own; they must be tokens. */
static int check_template(const struct tok *t, const struct tok_ids *v, struct err *e)
{
    for (size_t i = 0; i < v->count; i++)
        if (!tok_piece(t, v->ids[i]))
            return err_set(e, ERR_FORMAT, "%s: post_processor: id %d is not in the vocabulary of %d", t->name, (int)v->ids[i],
                           (int)t->size);
    return 0;
}

static int load_all(struct tok *t, const json_t *root, struct err *e)
{
    const char *version = "1.0";
    if (!json_is_object(root))
        return err_set(e, ERR_FORMAT, "%s: must be a JSON object", t->name);
    int rc = json_opt_str(root, t->name, "version", &version, e);
    if (!rc && strcmp(version, "1.0") != 0)
        return err_set(e, ERR_UNSUPPORTED, "%s: version \"%.20s\" is not supported, only \"1.0\"", t->name, version);
    rc = rc ? rc : load_model(t, json_object_get(root, "model"), e);
    rc = rc ? rc : parts_load(t, root, e);
    rc = rc ? rc : load_added(t, json_object_get(root, "added_tokens"), e);
    if (rc)
        return rc;
    fill_ids(t);
    rc = check_template(t, &t->front, e);
    rc = rc ? rc : check_template(t, &t->behind, e);
    return rc ? rc : fill_tries(t, e);
}

int tok_load(const char *json, size_t bytes, const char *name, struct tok **out, struct err *e)
{
    *out = NULL;
    json_t *root = json_parse(json, bytes, name, e);
    if (!root)
        return -ERR_FORMAT;
    struct tok *t = xcalloc(1, sizeof *t);
    t->name = arena_strdup(&t->arena, name);
    trie_init(&t->raw);
    trie_init(&t->normal);
    int rc = load_all(t, root, e);
    json_decref(root);
    if (rc)
        tok_free(t);
    else
        *out = t;
    return rc;
}

int tok_load_file(const char *path, struct tok **out, struct err *e)
{
    struct io_map m;
    *out = NULL;
    int rc = io_map(&m, path, e);
    if (rc)
        return rc;
    rc = tok_load(m.data ? (const char *)m.data : "", m.bytes, path, out, e);
    io_unmap(&m);
    return rc;
}

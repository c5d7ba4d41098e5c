#include "stages/generation.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"
#include "stages/common.h"
#include "stages/format/check.h"
#include "stages/served.h"

enum {
    BATCH = 16,              /* prompts that advance together: bounds the memory of keys and values; results never depend on it */
    LINE_MAX_BYTES = 1 << 20 /* of a prompts file */
};

int generation_open(struct generation_model *g, const struct fileset *files, struct err *e)
{
    *g = (struct generation_model){0};
    int rc = model_open(&g->model, files, e);
    if (!rc)
        rc = check_finite(&g->model.tensors, e);
    if (!rc)
        rc = tok_load_fileset(files, &g->tok, e);
    if (rc)
        generation_close(g);
    return rc;
}

void generation_close(struct generation_model *g)
{
    tok_free(g->tok);
    model_close(&g->model);
    *g = (struct generation_model){0};
}

/* Ids against the model's rows. */
static int check_ids(const struct generation_model *g, const struct generation_prompt *p, struct err *e)
{
    int64_t vocab = g->model.config.vocab_size;
    if (p->ids.count == 0)
        return err_set(e, ERR_DATA, "the prompt has no tokens, and the tokenizer puts none in front");
    for (size_t i = 0; i < p->ids.count; i++) {
        int32_t id = p->ids.ids[i];
        if (id >= 0 && id < vocab)
            continue;
        if (!p->text)
            return err_set(e, ERR_FORMAT, "prompt_ids: id %d is outside the model's vocabulary of %" PRId64, id, vocab);
        return err_set(e, ERR_FORMAT, "token id %d of a tokenizer with %d entries is outside the model's vocabulary of %" PRId64 ": a tokenizer of another model?", id,
                       tok_vocab_size(g->tok), vocab);
    }
    return 0;
}

static int add_prompt(const struct generation_model *g, struct generation_prompts *p, struct generation_prompt *one, struct err *e)
{
    int rc = check_ids(g, one, e);
    if (rc) {
        free(one->text);
        tok_ids_release(&one->ids);
        return rc;
    }
    MEM_GROW(p->items, p->count, p->cap);
    p->items[p->count++] = *one;
    return 0;
}

int generation_add_text(const struct generation_model *g, struct generation_prompts *p, const char *text, size_t bytes, struct err *e)
{
    struct generation_prompt one = {.text = xstrndup(text, bytes), .ids = TOK_IDS_INIT};
    int rc = tok_encode(g->tok, text, bytes, true, &one.ids, e);
    if (rc) {
        free(one.text);
        tok_ids_release(&one.ids);
        return rc;
    }
    return add_prompt(g, p, &one, e);
}

static int add_ids(const struct generation_model *g, struct generation_prompts *p, const json_t *list, struct err *e)
{
    struct generation_prompt one = {.text = NULL, .ids = TOK_IDS_INIT};
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX) {
            tok_ids_release(&one.ids);
            return err_set(e, ERR_FORMAT, "prompt_ids[%zu] is not a token id", i);
        }
        tok_ids_push(&one.ids, (int32_t)json_integer_value(v));
    }
    return add_prompt(g, p, &one, e);
}

/* A line that starts with '{' is JSON, every other one is the prompt itself. */
static int add_line(const struct generation_model *g, struct generation_prompts *p, const char *line, size_t bytes, const char *path, struct err *e)
{
    if (line[0] != '{')
        return generation_add_text(g, p, line, bytes, e);
    json_t *v = json_parse(line, bytes, path, e);
    if (!v)
        return -ERR_FORMAT;
    const json_t *text = json_object_get(v, "prompt"), *ids = json_object_get(v, "prompt_ids");
    int rc;
    if (json_is_string(text) && !ids)
        rc = generation_add_text(g, p, json_string_value(text), json_string_length(text), e);
    else if (json_is_array(ids) && !text)
        rc = add_ids(g, p, ids, e);
    else
        rc = err_set(e, ERR_FORMAT, "needed is an object with \"prompt\" (a text) or \"prompt_ids\" (a list of ids)");
    json_decref(v);
    return rc;
}

int generation_add_file(const struct generation_model *g, struct generation_prompts *p, const char *path, struct err *e)
{
    struct buf data = BUF_INIT;
    int rc = io_read_file(path, (size_t)1 << 30, &data, e);
    size_t before = p->count, at = 0;
    for (long line = 1; !rc && at < data.len; line++) {
        const char *start = data.data + at, *nl = memchr(start, '\n', data.len - at);
        size_t bytes = nl ? (size_t)(nl - start) : data.len - at;
        at += bytes + 1;
        if (bytes && start[bytes - 1] == '\r')
            bytes--;
        if (!bytes)
            continue;
        rc = bytes > LINE_MAX_BYTES ? err_set(e, ERR_FORMAT, "a prompt of %zu bytes, at most %d are taken", bytes, LINE_MAX_BYTES)
                                    : add_line(g, p, start, bytes, path, e);
        if (rc && e) { /* also a place inside the line's JSON is a place in the file */
            e->line = line;
            snprintf(e->file, sizeof e->file, "%s", path);
            e->col = e->col ? e->col : 1;
        }
    }
    if (!rc && p->count == before)
        rc = err_set(e, ERR_DATA, "%s holds no prompt", path);
    buf_release(&data);
    return rc;
}

void generation_prompts_release(struct generation_prompts *p)
{
    for (size_t i = 0; i < p->count; i++) {
        free(p->items[i].text);
        tok_ids_release(&p->items[i].ids);
    }
    free(p->items);
    *p = (struct generation_prompts){0};
}

/* The continuation as it reads after its prompt: decode both, take the difference (a word's leading space is kept that way). */
struct continuation {
    struct tok_ids ids; /* prompt, then what came */
    struct buf prompt;  /* its decoding */
};

static int continuation_init(struct continuation *c, const struct tok *tok, const struct tok_ids *prompt, struct err *e)
{
    *c = (struct continuation){0};
    for (size_t i = 0; i < prompt->count; i++)
        tok_ids_push(&c->ids, prompt->ids[i]);
    return tok_decode(tok, prompt->ids, prompt->count, true, &c->prompt, e);
}

static void continuation_release(struct continuation *c)
{
    tok_ids_release(&c->ids);
    buf_release(&c->prompt);
}

/* Appends the text after the prompt. */
static int continuation_text(const struct continuation *c, const struct tok *tok, size_t prompt_count, struct buf *out, struct err *e)
{
    struct buf all = BUF_INIT;
    int rc = tok_decode(tok, c->ids.ids, c->ids.count, true, &all, e);
    if (!rc && all.len >= c->prompt.len && !memcmp(buf_str(&all), buf_str(&c->prompt), c->prompt.len))
        buf_add(out, buf_str(&all) + c->prompt.len, all.len - c->prompt.len);
    else if (!rc)
        rc = tok_decode(tok, c->ids.ids + prompt_count, c->ids.count - prompt_count, true, out, e);
    buf_release(&all);
    if (rc)
        return err_wrap(e, "a tokenizer of another model? (%d entries)", tok_vocab_size(tok));
    return 0;
}

static json_t *ids_json(const struct tok_ids *ids)
{
    json_t *a = json_array();
    for (size_t i = 0; i < ids->count; i++)
        json_array_append_new(a, json_integer(ids->ids[i]));
    return a;
}

/* -infinity has no JSON number: the lowest double stands for it. */
static json_t *logprob_json(double x)
{
    json_t *v = json_real(x);
    return v ? v : json_real(-1.7976931348623157e308);
}

static json_t *logprobs_json(const struct generation *g, int top)
{
    json_t *list = json_array();
    for (size_t i = 0; i < g->count; i++) {
        json_t *alternatives = json_array();
        for (int k = 0; k < top; k++)
            json_array_append_new(alternatives, json_pack("{s:i, s:o}", "id", (int)g->tokens[i].top[k].id, "logprob", logprob_json(g->tokens[i].top[k].logprob)));
        json_array_append_new(list, json_pack("{s:i, s:o, s:o}", "id", (int)g->tokens[i].id, "logprob", logprob_json(g->tokens[i].logprob), "top", alternatives));
    }
    return list;
}

/* One running batch. */
struct batch {
    const struct generation_model *g;
    const struct generation_events *ev;
    size_t first;       /* number of its first prompt */
    size_t *tokens;     /* made so far, all batches */
    struct continuation *texts; /* per prompt */
    const struct generation_prompts *prompts;
    size_t *told;       /* bytes of text told, per prompt */
};

/* Bytes of a text that end in whole characters: an unfinished one decodes to U+FFFD for now. */
static size_t whole_bytes(const struct buf *text)
{
    static const char replacement[] = "\xef\xbf\xbd";
    size_t n = text->len;
    while (n >= 3 && !memcmp(text->data + n - 3, replacement, 3))
        n -= 3;
    return n;
}

static int tell_text(struct batch *b, size_t i, bool last, struct err *e)
{
    struct buf text = BUF_INIT;
    int rc = continuation_text(&b->texts[i], b->g->tok, b->prompts->items[b->first + i].ids.count, &text, e);
    size_t end = last ? text.len : whole_bytes(&text);
    if (!rc && end > b->told[i]) {
        b->ev->text(b->ev->arg, b->first + i, text.data + b->told[i], end - b->told[i]);
        b->told[i] = end;
    }
    buf_release(&text);
    return rc;
}

static int on_token(void *arg, size_t i, int32_t id)
{
    struct batch *b = arg;
    tok_ids_push(&b->texts[i].ids, id);
    ++*b->tokens;
    if (b->ev->text && tell_text(b, i, false, NULL))
        return 0; /* reported when the line is made */
    return b->ev->progress ? b->ev->progress(b->ev->arg, *b->tokens) : 0;
}

static int emit_line(struct batch *b, size_t i, const struct generation *gen, const struct generate_params *params, json_t *kernel, struct err *e)
{
    const struct generation_prompt *p = &b->prompts->items[b->first + i];
    struct buf text = BUF_INIT;
    struct tok_ids made = {.ids = b->texts[i].ids.ids + p->ids.count, .count = b->texts[i].ids.count - p->ids.count};
    int rc = continuation_text(&b->texts[i], b->g->tok, p->ids.count, &text, e);
    if (!rc && b->ev->text)
        rc = tell_text(b, i, true, e);
    json_t *line = json_object();
    if (!rc) {
        json_t *prompt = p->text ? json_string(p->text) : json_null();
        json_object_set_new(line, "prompt", prompt ? prompt : json_null()); /* bytes that are no UTF-8 have no JSON form: prompt_ids tell */
        json_object_set_new(line, "prompt_ids", ids_json(&p->ids));
        json_object_set_new(line, "ids", ids_json(&made));
        json_object_set_new(line, "text", json_stringn_nocheck(buf_str(&text), text.len));
        json_object_set_new(line, "finish_reason", json_string(finish_name(gen->finish)));
        json_object_update(line, kernel);
        if (params->logprobs > 0)
            json_object_set_new(line, "logprobs", logprobs_json(gen, params->logprobs));
        rc = b->ev->line(b->ev->arg, b->first + i, line, e);
    }
    json_decref(line);
    buf_release(&text);
    return rc;
}

static int run_batch(struct batch *b, struct decoder *d, size_t n, const struct generate_params *params, json_t *kernel, struct err *e)
{
    struct generation gen[BATCH] = {0};
    struct continuation texts[BATCH] = {0};
    size_t told[BATCH] = {0};
    int rc = 0;
    b->texts = texts;
    b->told = told;
    for (size_t i = 0; !rc && i < n; i++) {
        const struct generation_prompt *p = &b->prompts->items[b->first + i];
        gen[i] = (struct generation){.prompt = p->ids.ids, .prompt_count = p->ids.count, .index = b->first + i};
        rc = continuation_init(&texts[i], b->g->tok, &p->ids, e);
    }
    if (!rc)
        rc = generate(d, gen, n, params, on_token, b, e);
    for (size_t i = 0; !rc && i < n; i++)
        rc = emit_line(b, i, &gen[i], params, kernel, e);
    for (size_t i = 0; i < n; i++) {
        generation_release(&gen[i]);
        continuation_release(&texts[i]);
    }
    return rc;
}

/* Positions that the longest prompt with its continuation takes, at most the model's context. */
static int64_t positions_needed(const struct generation_model *g, const struct generation_prompts *p, int64_t max_tokens)
{
    int64_t longest = 1, context = g->model.config.context;
    for (size_t i = 0; i < p->count; i++)
        if ((int64_t)p->items[i].ids.count > longest)
            longest = (int64_t)p->items[i].ids.count;
    return max_tokens < context - longest ? longest + max_tokens : context;
}

int generation_run(const struct generation_model *g, struct backend *b, const struct generation_prompts *p, const struct generate_params *params,
                   const struct generation_events *ev, size_t *tokens, struct err *e)
{
    size_t made = 0;
    struct decoder *d = NULL;
    int rc = decoder_open(&d, b, &g->model, positions_needed(g, p, params->max_tokens), e);
    json_t *kernel = rc ? NULL : served_decoder(&g->model, d);
    for (size_t first = 0; !rc && first < p->count; first += BATCH) {
        struct batch batch = {.g = g, .ev = ev, .first = first, .tokens = &made, .prompts = p};
        size_t n = p->count - first < BATCH ? p->count - first : BATCH;
        rc = run_batch(&batch, d, n, params, kernel, e);
    }
    if (d)
        decoder_free(d);
    json_decref(kernel);
    if (tokens)
        *tokens = made;
    return rc;
}

#include "stages/lm/windows.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/mem.h"

enum { WINDOW_DEFAULT = 2048 };

struct maker {
    struct windows *out;
    size_t id_count, id_cap;
    size_t *start; /* where each window's ids begin: out->ids moves while it grows */
    size_t start_cap;
    int64_t window, stride, left; /* left: predictions still wanted */
    int32_t bos;                  /* -1: none */
};

static void push_id(struct maker *k, int32_t id)
{
    MEM_GROW(k->out->ids, k->id_count, k->id_cap);
    k->out->ids[k->id_count++] = id;
}

/* One window: BOS, then n ids, the first `seen` of which were counted before. */
static void add_window(struct maker *k, const int32_t *ids, int64_t n, int64_t seen)
{
    struct windows *out = k->out;
    int64_t lead = k->bos >= 0, count = n + lead, first = seen + lead < 1 ? 1 : seen + lead;
    if (count - first > k->left)
        count = first + k->left;
    if (count - first < 1)
        return;
    size_t had = out->count;
    MEM_GROW(k->start, had, k->start_cap);
    k->start[had] = k->id_count;
    MEM_GROW(out->w, out->count, out->cap);
    out->w[out->count++] = (struct eval_window){NULL, count, first};
    if (lead)
        push_id(k, k->bos);
    for (int64_t i = 0; i < count - lead; i++)
        push_id(k, ids[i]);
    out->predicted += count - first;
    k->left -= count - first;
}

static void cut_stream(struct maker *k, const int32_t *ids, int64_t n)
{
    int64_t body = k->window - (k->bos >= 0), step = k->stride < body ? k->stride : body, end = 0;
    for (int64_t at = 0; at < n && end < n && k->left > 0; at += step) {
        int64_t seen = end - at;
        end = at + body < n ? at + body : n;
        add_window(k, ids + at, end - at, seen);
    }
}

static int settle(struct maker *k, const struct windows_params *p, const struct config *c, struct err *e)
{
    k->window = p->window ? p->window : c->context < WINDOW_DEFAULT ? c->context : WINDOW_DEFAULT;
    if (k->window < 2 || k->window > c->context)
        return err_set(e, ERR_USAGE, "window %" PRId64 " is outside 2..%" PRId64 ", the model's context", k->window, c->context);
    k->stride = p->stride ? p->stride : k->window;
    if (k->stride < 1 || k->stride > k->window)
        return err_set(e, ERR_USAGE, "stride %" PRId64 " is outside 1..%" PRId64 ", the window", k->stride, k->window);
    k->left = p->max_tokens > 0 ? p->max_tokens : INT64_MAX;
    k->bos = p->bos ? c->bos : -1;
    return 0;
}

/* Appends the document's ids. */
static int doc_ids(const struct dataset_doc *doc, const struct config *c, const struct tok *tok, struct tok_ids *out, struct err *e)
{
    size_t from = out->count;
    if (doc->ids) {
        for (size_t i = 0; i < doc->id_count; i++)
            tok_ids_push(out, doc->ids[i]);
    } else if (!tok) {
        return err_at(e, ERR_DATA, doc->file, doc->line, 1, "text, but the model has no tokenizer.json");
    } else {
        int rc = tok_encode(tok, doc->text, doc->text_bytes, false, out, e);
        if (rc)
            return err_place(e, doc->file, doc->line, 1);
    }
    for (size_t i = from; i < out->count; i++) {
        if (out->ids[i] < 0 || out->ids[i] >= c->vocab_size)
            return err_at(e, ERR_DATA, doc->file, doc->line, 1, "id %d is outside the model's vocabulary of %" PRId64, out->ids[i],
                          c->vocab_size);
    }
    return 0;
}

/* Reads documents until the predictions wanted are certain to be there. */
static int read_all(struct maker *k, bool stream, const struct config *c, const struct tok *tok, struct dataset *data, struct err *e)
{
    struct tok_ids ids = TOK_IDS_INIT;
    struct dataset_doc doc;
    int rc = 0;
    while (k->left > 0 && (rc = dataset_next(data, &doc, e)) == 1) {
        rc = doc_ids(&doc, c, tok, &ids, e);
        if (rc)
            break;
        if (stream && (int64_t)ids.count / 2 > k->left) /* even windows of two ids predict every second one */
            break;
        if (stream)
            continue;
        int64_t body = k->window - (k->bos >= 0), n = (int64_t)ids.count;
        add_window(k, ids.ids, n < body ? n : body, 0);
        ids.count = 0;
    }
    if (rc >= 0 && stream)
        cut_stream(k, ids.ids, (int64_t)ids.count);
    tok_ids_release(&ids);
    return rc < 0 ? rc : 0;
}

int windows_make(struct windows *out, const struct windows_params *p, const struct config *c, const struct tok *tok, struct dataset *data,
                 struct err *e)
{
    *out = (struct windows){0};
    struct maker k = {.out = out};
    bool stream = p->unit == UNIT_STREAM || (p->unit == UNIT_AUTO && dataset_is_plain(data));
    int rc = settle(&k, p, c, e);
    if (!rc && k.bos >= c->vocab_size)
        rc = err_set(e, ERR_DATA, "\"bos_token_id\" %d is outside the model's vocabulary of %" PRId64, k.bos, c->vocab_size);
    if (!rc)
        rc = read_all(&k, stream, c, tok, data, e);
    if (!rc && out->count == 0)
        rc = err_set(e, ERR_DATA, "the text is too short: not one token can be predicted");
    for (size_t i = 0; i < out->count; i++)
        out->w[i].ids = out->ids + k.start[i];
    free(k.start);
    if (rc)
        windows_release(out);
    return rc;
}

void windows_release(struct windows *w)
{
    free(w->w);
    free(w->ids);
    *w = (struct windows){0};
}

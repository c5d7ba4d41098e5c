#include "stages/lm/eval.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/mem.h"
#include "stages/lm/walk.h"

/* Rows that go through a layer together, bytes of one model's logits at a time, bytes of hidden states that stay in memory. None changes a
 * figure. */
enum { BLOCK_ROWS = 4 * HESSIAN_BLOCK_ROWS, LOGITS_BYTES = 16 << 20, HIDDEN_BYTES = 96 << 20 };

struct side { /* one of the two models */
    const struct model *m;
    const char *name;
    struct rowstore hidden; /* final-normed */
    struct weight *head;
    float *rows, *logits;   /* device [chunk, hidden], [chunk, V] */
};

struct run {
    const struct eval_input *in;
    struct side own, ref;   /* ref.m may be NULL */
    int32_t *ids, *top1;    /* ids: what all windows feed, one after the other */
    int64_t *offsets;       /* where each window begins in ids */
    int64_t chunk;          /* rows of logits at a time */
    double *nll;
    struct kl_row *kl;
    double begun, total;    /* progress: when the present part began; in layers x tokens */
};

static int64_t fed(const struct eval_window *w)
{
    return w->count - 1; /* the last id is only predicted */
}

static int check(const struct eval_input *in, struct err *e)
{
    const struct config *own = &in->model->config, *ref = in->reference ? &in->reference->config : own;
    int64_t V = own->vocab_size, context = own->context < ref->context ? own->context : ref->context;
    if (ref->vocab_size != V)
        return err_set(e, ERR_SHAPE, "the model's vocabulary has %" PRId64 " ids, the reference's %" PRId64, V, ref->vocab_size);
    for (size_t i = 0; i < in->count; i++) {
        const struct eval_window *w = &in->windows[i];
        if (w->count < 2 || w->first < 1 || w->first >= w->count)
            BUG("window %zu of %" PRId64 " ids counts from %" PRId64, i, w->count, w->first);
        if (fed(w) > context)
            return err_set(e, ERR_SHAPE, "window %zu has %" PRId64 " ids; the context holds %" PRId64, i, w->count, context);
        for (int64_t k = 0; k < w->count; k++) {
            if (w->ids[k] < 0 || w->ids[k] >= V)
                return err_set(e, ERR_DATA, "id %d is outside the model's vocabulary of %" PRId64, w->ids[k], V);
        }
    }
    return 0;
}

/* What a head costs for one row, in layers. */
static double head_cost(const struct config *c)
{
    double layer = 0;
    for (int m = 0; m < MOD_COUNT; m++) {
        int64_t N, K;
        config_module_shape(c, (enum module_id)m, &N, &K);
        layer += (double)N * (double)K;
    }
    return (double)c->vocab_size * (double)c->hidden / layer;
}

static int report(const struct run *r, double done)
{
    return r->in->progress ? r->in->progress(r->in->arg, done, r->total) : 0;
}

/* A walk counts four steps to a layer. */
static int on_walk(void *arg, double done, double total)
{
    (void)total;
    struct run *r = arg;
    return report(r, r->begun + done / 4);
}

static int open_run(struct run *r, struct err *e)
{
    const struct eval_input *in = r->in;
    int64_t longest = 1, V = in->model->config.vocab_size;
    double counted = 0;
    r->offsets = xcalloc(in->count + 1, sizeof *r->offsets);
    for (size_t i = 0; i < in->count; i++) {
        r->offsets[i + 1] = r->offsets[i] + fed(&in->windows[i]);
        longest = fed(&in->windows[i]) > longest ? fed(&in->windows[i]) : longest;
        counted += (double)(in->windows[i].count - in->windows[i].first);
    }
    r->ids = malloc((size_t)r->offsets[in->count] * sizeof *r->ids);
    if (!r->ids)
        return err_set(e, ERR_NOMEM, "%" PRId64 " ids", r->offsets[in->count]);
    for (size_t i = 0; i < in->count; i++)
        memcpy(r->ids + r->offsets[i], in->windows[i].ids, (size_t)fed(&in->windows[i]) * sizeof *r->ids);
    r->chunk = LOGITS_BYTES / 4 / V;
    r->chunk = r->chunk < 1 ? 1 : r->chunk > longest ? longest : r->chunk;
    r->nll = xcalloc((size_t)r->chunk, sizeof *r->nll);
    r->top1 = xcalloc((size_t)r->chunk, sizeof *r->top1);
    r->kl = xcalloc((size_t)r->chunk, sizeof *r->kl);
    const struct model *const models[] = {in->model, in->reference};
    for (size_t i = 0; i < 2 && models[i]; i++)
        r->total += (double)r->offsets[in->count] * (double)models[i]->config.layers + counted * head_cost(&models[i]->config);
    return 0;
}

static void tell_served(const struct run *r, const struct side *s, int64_t layer, enum module_id mod, const struct weight *w)
{
    const char *why, *kernel = r->in->b->ops->weight_kernel(r->in->b, w, &why);
    if (r->in->served && s == &r->own)
        r->in->served(r->in->served_arg, layer, mod, kernel, why);
}

static int walk_layers(const struct run *r, struct walk *w, const struct side *s, struct err *e)
{
    int rc = 0;
    for (int64_t i = 0; !rc && i < s->m->config.layers; i++) {
        struct layer l;
        rc = layer_load(&l, &w->env, s->m, i, e);
        if (rc)
            return err_wrap(e, "%s: layer %" PRId64, s->name, i);
        for (int m = 0; m < MOD_COUNT; m++)
            tell_served(r, s, i, (enum module_id)m, l.w[m]);
        rc = walk_layer(w, &l, e);
        layer_free(&l, &w->env);
    }
    return rc;
}

/* All windows through all layers; of the model only `hidden` is left. */
static int walk_side(struct run *r, struct side *s, struct err *e)
{
    const struct walk_input in = {.ids = r->ids,
                                  .offsets = r->offsets,
                                  .samples = (int64_t)r->in->count,
                                  .block_rows = BLOCK_ROWS,
                                  .memory_bytes = HIDDEN_BYTES,
                                  .scratch = r->in->scratch};
    struct walk w;
    int rc = walk_open(&w, r->in->b, s->m, &in, e);
    if (rc)
        return rc;
    w.progress = on_walk;
    w.progress_arg = r;
    rc = walk_layers(r, &w, s, e);
    if (!rc)
        rc = walk_finish(&w, &s->hidden, e);
    r->begun += w.done / 4;
    walk_close(&w);
    return rc;
}

static int open_head(const struct run *r, struct side *s, struct err *e)
{
    struct backend *b = r->in->b;
    const struct config *c = &s->m->config;
    int rc = decoder_load_weight(b, s->m, -1, MOD_COUNT, &s->head, e);
    model_drop_embedding(s->m); /* a tied head is made from it */
    if (rc)
        return err_wrap(e, "%s: lm_head", s->name);
    tell_served(r, s, -1, MOD_COUNT, s->head);
    rc = b->ops->alloc(b, (size_t)r->chunk * (size_t)c->hidden * sizeof(float), (void **)&s->rows, e);
    return rc ? rc : b->ops->alloc(b, (size_t)r->chunk * (size_t)c->vocab_size * sizeof(float), (void **)&s->logits, e);
}

static void close_side(const struct run *r, struct side *s)
{
    struct backend *b = r->in->b;
    if (s->head)
        b->ops->weight_free(b, s->head);
    b->ops->free(b, s->rows);
    b->ops->free(b, s->logits);
    rowstore_close(&s->hidden);
}

static int make_logits(const struct run *r, struct side *s, int64_t row, int64_t rows, struct err *e)
{
    const struct config *c = &s->m->config;
    int rc = rowstore_read(&s->hidden, row, rows, s->rows, e);
    return rc ? rc : r->in->b->ops->linear(r->in->b, s->logits, c->vocab_size, s->rows, c->hidden, rows, s->head, NULL, false, e);
}

/* The figures of `rows` predictions, made from the hidden states from `row` on. */
static int score(struct run *r, int64_t row, int64_t rows, const int32_t *targets, struct eval_result *out, struct err *e)
{
    struct backend *b = r->in->b;
    int64_t V = r->own.m->config.vocab_size;
    bool has_ref = r->ref.m != NULL;
    int rc = make_logits(r, &r->own, row, rows, e);
    if (!rc && has_ref) {
        rc = make_logits(r, &r->ref, row, rows, e);
        if (!rc)
            rc = b->ops->kl(b, r->ref.logits, r->own.logits, rows, V, targets, r->kl, e);
    } else if (!rc) {
        rc = b->ops->nll(b, r->own.logits, rows, V, targets, r->nll, r->top1, e);
    }
    for (int64_t i = 0; i < rows && !rc; i++) {
        out->tokens++;
        out->nll += has_ref ? r->kl[i].nll : r->nll[i];
        if (has_ref) {
            out->nll_ref += r->kl[i].nll_ref;
            out->kl += r->kl[i].kl;
            out->top1_same += r->kl[i].same_top1 != 0;
        }
    }
    return rc;
}

static int score_all(struct run *r, struct eval_result *out, struct err *e)
{
    double cost = head_cost(&r->own.m->config) + (r->ref.m ? head_cost(&r->ref.m->config) : 0);
    int rc = open_head(r, &r->own, e);
    if (!rc && r->ref.m)
        rc = open_head(r, &r->ref, e);
    for (size_t i = 0; i < r->in->count && !rc; i++) {
        const struct eval_window *w = &r->in->windows[i];
        for (int64_t at = w->first, rows; at < w->count && !rc; at += rows) { /* at: the position predicted, by the row before it */
            rows = w->count - at < r->chunk ? w->count - at : r->chunk;
            rc = score(r, r->offsets[i] + at - 1, rows, w->ids + at, out, e);
            if (!rc && report(r, r->begun + cost * (double)out->tokens))
                rc = err_set(e, ERR_CANCELLED, "stopped");
        }
    }
    return rc;
}

int eval_run(const struct eval_input *in, struct eval_result *out, struct err *e)
{
    *out = (struct eval_result){.has_ref = in->reference != NULL};
    int rc = check(in, e);
    if (rc || in->count == 0)
        return rc;
    struct run r = {.in = in, .own = {.m = in->model, .name = "model"}, .ref = {.m = in->reference, .name = "reference"}};
    rc = open_run(&r, e);
    if (!rc)
        rc = walk_side(&r, &r.own, e);
    if (!rc && r.ref.m)
        rc = walk_side(&r, &r.ref, e);
    if (!rc)
        rc = score_all(&r, out, e);
    close_side(&r, &r.own);
    close_side(&r, &r.ref);
    free(r.ids);
    free(r.offsets);
    free(r.nll);
    free(r.top1);
    free(r.kl);
    return rc;
}

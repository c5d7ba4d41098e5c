#include "stages/lm/eval.h"

#include <inttypes.h>
#include <stdlib.h>

#include "pipeline/base/mem.h"

/* A batch is as many whole windows as fit into BATCH_ROWS (at least one); logits of at most LOGITS_BYTES are made at a time. Neither
 * changes a figure. */
enum { BATCH_ROWS = 2048, BATCH_WINDOWS = 64, LOGITS_BYTES = 32 << 20 };

struct side { /* one of the two models */
    struct decoder *d;
    struct kv_cache *kv[BATCH_WINDOWS];
    float *hidden, *logits; /* device [rows, hidden], [chunk, V] */
};

struct run {
    struct side own, ref; /* ref.d may be NULL */
    int64_t capacity;     /* rows of the longest window */
    int64_t rows;         /* rows of the largest batch */
    int64_t chunk;        /* rows of logits at a time */
    size_t slots;         /* windows a batch may have */
    int32_t *ids, *top1;
    double *nll;
    struct kl_row *kl;
    struct attn_segment segments[BATCH_WINDOWS];
};

static int64_t fed(const struct eval_window *w)
{
    return w->count - 1; /* the last id is only predicted */
}

static int side_open(struct side *s, const struct run *r, struct err *e)
{
    struct backend *b = decoder_backend(s->d);
    const struct config *c = decoder_config(s->d);
    int rc = b->ops->alloc(b, (size_t)r->rows * (size_t)c->hidden * sizeof(float), (void **)&s->hidden, e);
    if (!rc)
        rc = b->ops->alloc(b, (size_t)r->chunk * (size_t)c->vocab_size * sizeof(float), (void **)&s->logits, e);
    for (size_t i = 0; i < r->slots && !rc; i++)
        rc = decoder_kv_create(s->d, r->capacity, &s->kv[i], e);
    return rc;
}

static void side_close(struct side *s)
{
    if (!s->d)
        return;
    struct backend *b = decoder_backend(s->d);
    for (size_t i = 0; i < BATCH_WINDOWS; i++) {
        if (s->kv[i])
            b->ops->kv_free(b, s->kv[i]);
    }
    b->ops->free(b, s->hidden);
    b->ops->free(b, s->logits);
}

static int check(const struct decoder *d, const struct decoder *ref, const struct eval_window *w, size_t n, struct err *e)
{
    int64_t V = decoder_config(d)->vocab_size, context = decoder_positions(d);
    if (ref && decoder_config(ref)->vocab_size != V)
        return err_set(e, ERR_SHAPE, "the model's vocabulary has %" PRId64 " ids, the reference's %" PRId64, V,
                       decoder_config(ref)->vocab_size);
    if (ref && decoder_positions(ref) < context)
        context = decoder_positions(ref);
    for (size_t i = 0; i < n; i++) {
        if (w[i].count < 2 || w[i].first < 1 || w[i].first >= w[i].count)
            BUG("window %zu of %" PRId64 " ids counts from %" PRId64, i, w[i].count, w[i].first);
        if (fed(&w[i]) > context)
            return err_set(e, ERR_SHAPE, "window %zu has %" PRId64 " ids; the context holds %" PRId64, i, w[i].count, context);
        for (int64_t k = 0; k < w[i].count; k++) {
            if (w[i].ids[k] < 0 || w[i].ids[k] >= V)
                return err_set(e, ERR_DATA, "id %d is outside the model's vocabulary of %" PRId64, w[i].ids[k], V);
        }
    }
    return 0;
}

/* Windows of the batch that begins at `from`. */
static size_t batch_size(const struct run *r, const struct eval_window *w, size_t from, size_t n)
{
    int64_t rows = fed(&w[from]);
    size_t to = from + 1;
    while (to < n && to - from < r->slots && rows + fed(&w[to]) <= BATCH_ROWS)
        rows += fed(&w[to++]);
    return to - from;
}

static int forward(struct run *r, struct side *s, const struct eval_window *w, size_t n, struct err *e)
{
    int64_t rows = 0;
    for (size_t i = 0; i < n; i++) {
        r->segments[i] = (struct attn_segment){s->kv[i], rows, fed(&w[i]), 0};
        for (int64_t k = 0; k < fed(&w[i]); k++)
            r->ids[rows + k] = w[i].ids[k];
        rows += fed(&w[i]);
    }
    return decoder_forward(s->d, r->ids, rows, r->segments, n, s->hidden, e);
}

static int chunk_logits(struct side *s, int64_t row, int64_t rows, struct err *e)
{
    return decoder_logits(s->d, s->hidden + row * decoder_config(s->d)->hidden, rows, s->logits, e);
}

/* The figures of `rows` predictions whose logits begin at row `row` of the batch. */
static int score(struct run *r, int64_t row, int64_t rows, const int32_t *targets, struct eval_result *out, struct err *e)
{
    struct backend *b = decoder_backend(r->own.d);
    int64_t V = decoder_config(r->own.d)->vocab_size;
    int rc = chunk_logits(&r->own, row, rows, e);
    if (!rc && r->ref.d) {
        rc = chunk_logits(&r->ref, row, rows, e);
        if (!rc)
            rc = b->ops->kl(b, r->ref.logits, r->own.logits, rows, V, targets, r->kl, e);
    } else if (!rc) {
        rc = b->ops->nll(b, r->own.logits, rows, V, targets, r->nll, r->top1, e);
    }
    for (int64_t i = 0; i < rows && !rc; i++) {
        out->tokens++;
        out->nll += r->ref.d ? r->kl[i].nll : r->nll[i];
        if (r->ref.d) {
            out->nll_ref += r->kl[i].nll_ref;
            out->kl += r->kl[i].kl;
            out->top1_same += r->kl[i].same_top1 != 0;
        }
    }
    return rc;
}

static int run_batch(struct run *r, const struct eval_window *w, size_t n, struct eval_result *out, struct err *e)
{
    int rc = forward(r, &r->own, w, n, e);
    if (!rc && r->ref.d)
        rc = forward(r, &r->ref, w, n, e);
    int64_t row0 = 0;
    for (size_t i = 0; i < n && !rc; i++) {
        for (int64_t at = w[i].first; at < w[i].count && !rc; at += r->chunk) { /* at: the position predicted, by the row before it */
            int64_t rows = w[i].count - at < r->chunk ? w[i].count - at : r->chunk;
            rc = score(r, row0 + at - 1, rows, w[i].ids + at, out, e);
        }
        row0 += fed(&w[i]);
    }
    return rc;
}

static int run_open(struct run *r, const struct eval_window *w, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        r->capacity = fed(&w[i]) > r->capacity ? fed(&w[i]) : r->capacity;
    r->rows = r->capacity > BATCH_ROWS ? r->capacity : BATCH_ROWS;
    r->chunk = LOGITS_BYTES / 4 / decoder_config(r->own.d)->vocab_size;
    r->chunk = r->chunk < 1 ? 1 : r->chunk > r->capacity ? r->capacity : r->chunk;
    int64_t slots = BATCH_ROWS / r->capacity;
    r->slots = slots < 1 ? 1 : slots > BATCH_WINDOWS ? BATCH_WINDOWS : (size_t)slots;
    r->slots = r->slots > n ? n : r->slots;
    r->ids = xcalloc((size_t)r->rows, sizeof *r->ids);
    r->nll = xcalloc((size_t)r->chunk, sizeof *r->nll);
    r->top1 = xcalloc((size_t)r->chunk, sizeof *r->top1);
    r->kl = xcalloc((size_t)r->chunk, sizeof *r->kl);
    int rc = side_open(&r->own, r, e);
    return rc || !r->ref.d ? rc : side_open(&r->ref, r, e);
}

int eval_run(struct decoder *d, struct decoder *ref, const struct eval_window *w, size_t n, struct eval_result *out,
             int (*progress)(void *arg, size_t done, size_t total), void *arg, struct err *e)
{
    *out = (struct eval_result){.has_ref = ref != NULL};
    int rc = check(d, ref, w, n, e);
    if (rc || n == 0)
        return rc;
    struct run *r = xcalloc(1, sizeof *r);
    *r = (struct run){.own.d = d, .ref.d = ref};
    rc = run_open(r, w, n, e);
    for (size_t i = 0; i < n && !rc;) {
        size_t batch = batch_size(r, w, i, n);
        rc = run_batch(r, w + i, batch, out, e);
        i += batch;
        if (!rc && progress && progress(arg, i, n))
            rc = err_set(e, ERR_CANCELLED, "evaluation was stopped");
    }
    side_close(&r->own);
    side_close(&r->ref);
    free(r->ids);
    free(r->nll);
    free(r->top1);
    free(r->kl);
    free(r);
    return rc;
}

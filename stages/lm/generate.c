#include "stages/lm/generate.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/mem.h"

enum { LIVE_MAX = GENERATE_LIVE_MAX, STEP_ROWS = GENERATE_STEP_ROWS };

const char *finish_name(enum finish_reason r)
{
    static const char *const names[] = {[FINISH_STOP] = "stop", [FINISH_LENGTH] = "length", [FINISH_CONTEXT] = "context"};
    return names[r];
}

void generation_release(struct generation *g)
{
    for (size_t i = 0; i < g->count; i++)
        free(g->tokens[i].top);
    free(g->tokens);
    g->tokens = NULL;
    g->count = g->cap = 0;
}

struct live { /* a generation under way */
    struct generation *g;
    size_t number; /* index of g, for on_token */
    struct kv_cache *kv;
    int64_t done; /* ids of prompt and tokens that are in kv */
};

struct run {
    struct decoder *d;
    const struct generate_params *p;
    int (*on_token)(void *arg, size_t prompt, int32_t id);
    void *arg;
    struct live live[LIVE_MAX];
    size_t live_count;
    size_t put_off[LIVE_MAX]; /* numbers of those that gave way for want of memory, the next to go on last */
    size_t put_off_count;
    bool crowded;             /* nobody begins before somebody ends */
    /* of one step */
    int32_t ids[STEP_ROWS];
    struct attn_segment segments[LIVE_MAX];
    struct live *owner[LIVE_MAX]; /* of segments[i] */
    size_t segment_count, ready; /* the first `ready` come to the end of their ids: they get a token */
    int64_t rows;
    float *hidden, *logits;      /* device [STEP_ROWS, hidden], [LIVE_MAX, V] */
    struct sample_row draws[LIVE_MAX];
    int32_t picks[LIVE_MAX];
    float *host;                 /* [LIVE_MAX, V], where log-probabilities are asked for */
};

static int64_t total_ids(const struct generation *g)
{
    return (int64_t)(g->prompt_count + g->count);
}

static int32_t id_at(const struct generation *g, int64_t i)
{
    return i < (int64_t)g->prompt_count ? g->prompt[i] : g->tokens[i - (int64_t)g->prompt_count].id;
}

static int start(struct run *r, struct generation *g, size_t number, struct err *e)
{
    int64_t positions = decoder_positions(r->d), capacity = (int64_t)g->prompt_count;
    if (__builtin_add_overflow(capacity, r->p->max_tokens, &capacity) || capacity > positions)
        capacity = positions;
    struct live *l = &r->live[r->live_count];
    *l = (struct live){.g = g, .number = number};
    int rc = decoder_kv_create(r->d, capacity, &l->kv, e);
    if (!rc)
        r->live_count++;
    return rc;
}

static void add_segment(struct run *r, struct live *l, int64_t rows)
{
    r->owner[r->segment_count] = l;
    r->segments[r->segment_count++] = (struct attn_segment){l->kv, r->rows, rows, l->done};
    for (int64_t i = 0; i < rows; i++)
        r->ids[r->rows++] = id_at(l->g, l->done + i);
}

/* Those that decode come first, one row each, so that their last rows lie together; what is left of STEP_ROWS goes to prompts, in order, so that the last segment alone can
 * stop short of the end of its ids. */
static void plan_step(struct run *r)
{
    r->segment_count = 0;
    r->rows = 0;
    for (size_t i = 0; i < r->live_count; i++) {
        if (total_ids(r->live[i].g) - r->live[i].done == 1)
            add_segment(r, &r->live[i], 1);
    }
    for (size_t i = 0; i < r->live_count && r->rows < STEP_ROWS; i++) {
        int64_t left = total_ids(r->live[i].g) - r->live[i].done, room = STEP_ROWS - r->rows;
        if (left > 1)
            add_segment(r, &r->live[i], left < room ? left : room);
    }
    const struct attn_segment *last = r->segments + r->segment_count - 1;
    r->ready = r->segment_count - (last->pos + last->rows < total_ids(r->owner[r->segment_count - 1]->g));
}

static bool ends(const struct run *r, const struct config *c, struct generation *g, int32_t id)
{
    for (int i = 0; i < c->eos_count && !r->p->ignore_eos; i++) {
        if (c->eos[i] == id) {
            g->finish = FINISH_STOP;
            return true;
        }
    }
    if ((int64_t)g->count >= r->p->max_tokens) {
        g->finish = FINISH_LENGTH;
        return true;
    }
    if (total_ids(g) > decoder_positions(r->d)) { /* the newest token has no position left to stand on */
        g->finish = FINISH_CONTEXT;
        return true;
    }
    return false;
}

/* Takes the token of row i; *over when the generation has ended. */
static int take(struct run *r, size_t i, bool *over, struct err *e)
{
    const struct config *c = decoder_config(r->d);
    struct live *l = r->owner[i];
    struct generation *g = l->g;
    size_t k = r->p->logprobs > 0 ? (size_t)r->p->logprobs : 0;
    MEM_GROW(g->tokens, g->count, g->cap);
    struct generated_token *t = &g->tokens[g->count];
    *t = (struct generated_token){.id = r->picks[i]};
    t->top = k ? xcalloc(k, sizeof *t->top) : NULL;
    t->logprob = k ? sampler_logprobs(r->host + i * (size_t)c->vocab_size, c->vocab_size, t->id, t->top, k) : 0;
    g->count++;
    *over = ends(r, c, g, t->id);
    if (r->on_token && r->on_token(r->arg, l->number, t->id))
        return err_set(e, ERR_CANCELLED, "generation was stopped");
    return 0;
}

/* Logits of segments [from, to), whose last rows follow one another from `row` on. */
static int head(struct run *r, size_t from, size_t to, int64_t row, struct err *e)
{
    const struct config *c = decoder_config(r->d);
    size_t at = from * (size_t)c->vocab_size;
    return to > from ? decoder_logits(r->d, r->hidden + row * c->hidden, (int64_t)(to - from), r->logits + at, e) : 0;
}

/* Keys and values grow with a sequence, so memory can run out on the way: the youngest gives its own up and starts again, with the tokens that it has as its prompt, when
 * another has ended. A position's bits do not depend on how it was reached, so no token changes. */
static void put_off_last(struct run *r)
{
    struct backend *b = decoder_backend(r->d);
    struct live *l = &r->live[--r->live_count];
    b->ops->kv_free(b, l->kv);
    r->put_off[r->put_off_count++] = l->number;
    r->crowded = true;
}

/* Logits of what the step brings to the end of its ids. */
static int heads(struct run *r, struct err *e)
{
    size_t single = 0;
    while (single < r->ready && r->segments[single].rows == 1)
        single++;
    int rc = head(r, 0, single, 0, e);
    for (size_t i = single; i < r->ready && !rc; i++)
        rc = head(r, i, i + 1, r->segments[i].row + r->segments[i].rows - 1, e);
    return rc;
}

/* Chooses a token for each row of logits; the logits themselves come to the host for log-probabilities only. */
static int choose(struct run *r, struct err *e)
{
    struct backend *b = decoder_backend(r->d);
    const int64_t V = decoder_config(r->d)->vocab_size;
    const struct sampler_params *p = &r->p->sampling;
    for (size_t i = 0; i < r->ready; i++) {
        const struct generation *g = r->owner[i]->g;
        r->draws[i] = (struct sample_row){p->temperature, p->top_p, sampler_uniform(p->seed, g->index, g->count)};
    }
    int rc = b->ops->sample(b, r->logits, (int64_t)r->ready, V, r->draws, r->picks, e);
    return rc || !r->host ? rc : b->ops->download(b, r->host, r->logits, r->ready * (size_t)V * sizeof(float), e);
}

static int step(struct run *r, struct err *e)
{
    struct backend *b = decoder_backend(r->d);
    plan_step(r);
    int rc = decoder_forward(r->d, r->ids, r->rows, r->segments, r->segment_count, r->hidden, e);
    if (!rc)
        rc = heads(r, e);
    if (!rc && r->ready)
        rc = choose(r, e);
    if (rc == -ERR_NOMEM && r->live_count > 1) { /* the step is done again: the same keys and values to the same places */
        put_off_last(r);
        return 0;
    }
    for (size_t i = 0; i < r->segment_count; i++)
        r->owner[i]->done += r->segments[i].rows;
    for (size_t i = 0; i < r->ready && !rc; i++) {
        bool over = false;
        rc = take(r, i, &over, e);
        if (over) {
            b->ops->kv_free(b, r->owner[i]->kv);
            r->owner[i]->kv = NULL;
            r->crowded = false;
        }
    }
    size_t left = 0;
    for (size_t i = 0; i < r->live_count; i++) {
        if (r->live[i].kv)
            r->live[left++] = r->live[i];
    }
    r->live_count = left;
    return rc;
}

static int check(const struct decoder *d, struct generation *g, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        g[i].tokens = NULL;
        g[i].count = g[i].cap = 0;
        g[i].finish = FINISH_LENGTH;
        if (g[i].prompt_count < 1)
            return err_set(e, ERR_DATA, "prompt %zu is empty: the model needs at least one id to go on from", i);
        if ((int64_t)g[i].prompt_count > decoder_positions(d))
            return err_set(e, ERR_DATA, "prompt %zu has %zu ids; the context holds %" PRId64, i, g[i].prompt_count, decoder_positions(d));
    }
    return 0;
}

static int run_alloc(struct run *r, struct err *e)
{
    const struct config *c = decoder_config(r->d);
    struct backend *b = decoder_backend(r->d);
    size_t logits = (size_t)LIVE_MAX * (size_t)c->vocab_size * sizeof(float);
    int rc = b->ops->alloc(b, (size_t)STEP_ROWS * (size_t)c->hidden * sizeof(float), (void **)&r->hidden, e);
    if (!rc)
        rc = b->ops->alloc(b, logits, (void **)&r->logits, e);
    if (rc || r->p->logprobs <= 0)
        return rc;
    r->host = malloc(logits);
    return r->host ? 0 : err_set(e, ERR_NOMEM, "%zu bytes for logits", logits);
}

static void run_free(struct run *r)
{
    struct backend *b = decoder_backend(r->d);
    for (size_t i = 0; i < r->live_count; i++)
        b->ops->kv_free(b, r->live[i].kv);
    b->ops->free(b, r->hidden);
    b->ops->free(b, r->logits);
    free(r->host);
    free(r);
}

/* Lets generations begin while there is room; those that were put off come first. */
static int admit(struct run *r, struct generation *g, size_t n, size_t *next, struct err *e)
{
    while (!r->crowded && r->live_count < LIVE_MAX && (r->put_off_count || *next < n)) {
        const size_t number = r->put_off_count ? r->put_off[r->put_off_count - 1] : *next;
        int rc = start(r, &g[number], number, e);
        if (rc == -ERR_NOMEM && r->live_count > 0) { /* it begins once one of these has ended */
            r->crowded = true;
            return 0;
        }
        if (rc)
            return rc;
        if (r->put_off_count)
            r->put_off_count--;
        else
            (*next)++;
    }
    return 0;
}

int generate(struct decoder *d, struct generation *g, size_t n, const struct generate_params *p,
             int (*on_token)(void *arg, size_t prompt, int32_t id), void *arg, struct err *e)
{
    struct run *r = xcalloc(1, sizeof *r);
    *r = (struct run){.d = d, .p = p, .on_token = on_token, .arg = arg};
    size_t next = 0;
    int rc = check(d, g, n, e);
    if (!rc && p->max_tokens > 0)
        rc = run_alloc(r, e);
    while (!rc && p->max_tokens > 0) {
        rc = admit(r, g, n, &next, e);
        if (rc || r->live_count == 0)
            break;
        rc = step(r, e);
    }
    run_free(r);
    return rc;
}

/* Runs the nodes of one stage on one thread. A chained stage's state is opened at the first node that must run, brought up to it by
 * replaying the cached nodes before it, and closed at the end; a hit is replayed only when a later node must run. */
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"
#include "pipeline/base/pool.h"
#include "pipeline/pipeline_impl.h"
#include "pipeline/signals.h"

struct runner {
    struct run_ctx r; /* first: callbacks get it */
    struct stage_run *sr;
    size_t node;
    char *scratch;
    void *chain;
    bool open;       /* scratch made, chain opened, memory held */
    size_t advanced; /* nodes that the chain's state has behind it */
    uint64_t memory;
};

static int progress(struct run_ctx *r, double done, double total, const char *label)
{
    struct runner *x = (struct runner *)r;
    events_progress(x->sr->p->c.events, x->sr->runs[x->node].name, done, total, label);
    return signals_pending();
}

static void note(struct run_ctx *r, const char *fmt, ...) ERR_PRINTF(2, 3);
static void note(struct run_ctx *r, const char *fmt, ...)
{
    struct runner *x = (struct runner *)r;
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    events_note(x->sr->p->c.events, x->sr->runs[x->node].name, text);
}

static void count_kernel(struct run_ctx *r, const char *row, uint64_t calls)
{
    struct pipeline *p = ((struct runner *)r)->sr->p;
    pthread_mutex_lock(&p->mutex);
    json_t *kernels = p->result->kernels;
    json_int_t before = json_integer_value(json_object_get(kernels, row));
    json_object_set_new(kernels, row, json_integer(before + (json_int_t)calls));
    pthread_mutex_unlock(&p->mutex);
}

/* A blob is read through its checksum once in a run before any node maps it. */
static int check_blob(struct pipeline *p, const struct hash_digests *d, struct err *e)
{
    pthread_mutex_lock(&p->mutex);
    bool known = map_get(&p->checked, d->sha256) != NULL;
    pthread_mutex_unlock(&p->mutex);
    if (known)
        return 0;
    int rc = store_check_blob(p->store, d, e);
    pthread_mutex_lock(&p->mutex);
    if (!rc)
        map_put(&p->checked, d->sha256, p);
    else if (rc == -ERR_INTEGRITY)
        p->damaged = true;
    pthread_mutex_unlock(&p->mutex);
    return rc;
}

static int check_node_blobs(const struct stage_run *sr, size_t count, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < count; i++)
        for (size_t o = 0; !rc && sr->runs[i].have_record && o < sr->runs[i].record.output_count; o++)
            rc = check_blob(sr->p, &sr->runs[i].record.outputs[o].digests, e);
    return rc;
}

static int check_inputs(const struct stage_run *sr, size_t node, struct err *e)
{
    int rc = check_node_blobs(sr, node, e);
    for (size_t r = 0; !rc && r < sr->def->ref_count; r++) {
        const struct stage_run *from = &sr->p->stages[sr->def->refs[r].target];
        rc = check_node_blobs(from, from->ctx.node_count, e);
    }
    return rc;
}

/* The user's files that this stage rests on, near or far, are still the ones that its key was made from. */
static int recheck_sources(const struct stage_run *sr, struct err *e)
{
    struct pipeline *p = sr->p;
    bool *needed = xcalloc(p->m->stage_count, sizeof *needed);
    int rc = 0;
    dag_mark(p->m, sr->index, needed);
    for (size_t i = 0; i < p->m->stage_count; i++) {
        const struct fileset *files = &p->stages[i].source;
        for (size_t f = 0; !rc && needed[i] && f < files->count; f++) {
            pthread_mutex_lock(&p->mutex);
            const struct hash_digests *kept = map_get(&p->digests, files->files[f].path);
            struct hash_digests d = kept ? *kept : (struct hash_digests){.bytes = 0};
            pthread_mutex_unlock(&p->mutex);
            if (kept)
                rc = statcache_recheck(p->stat, files->files[f].path, &d, e);
        }
    }
    free(needed);
    return rc;
}

static uint64_t memory_of(struct stage_run *sr)
{
    uint64_t most = 0;
    for (size_t i = 0; sr->kind->estimate && i < sr->limit; i++) {
        struct stage_estimate est = {0, 0};
        if (!sr->kind->estimate(&sr->ctx, i, &est, NULL) && est.memory_bytes > most)
            most = est.memory_bytes;
    }
    return most;
}

static int open_runner(struct runner *x, struct err *e)
{
    struct pipeline *p = x->sr->p;
    x->memory = memory_of(x->sr);
    if (x->memory > p->scheduler->memory_bytes) {
        char text[160];
        snprintf(text, sizeof text, "is estimated to need %.1f GiB of memory, and there are %.1f", (double)x->memory / 0x1p30,
                 (double)p->scheduler->memory_bytes / 0x1p30);
        events_warning(p->c.events, x->sr->def->name, text);
    }
    int rc = store_begin(p->store, &x->scratch, e);
    if (rc)
        return rc;
    scheduler_acquire(p->scheduler, x->memory);
    x->open = true;
    x->r.scratch = x->scratch;
    if (x->sr->kind->chained)
        rc = x->sr->kind->chain_open(&x->sr->ctx, &x->r, &x->chain, e);
    return rc;
}

static void close_runner(struct runner *x)
{
    if (x->chain)
        x->sr->kind->chain_close(&x->sr->ctx, &x->r, x->chain);
    if (x->open)
        scheduler_free(x->sr->p->scheduler, x->memory);
    if (x->scratch)
        store_discard(x->sr->p->store, x->scratch);
    free(x->scratch);
}

/* Brings the chain's state to `node`. */
static int advance(struct runner *x, size_t node, struct err *e)
{
    int rc = 0;
    for (; !rc && x->sr->kind->chained && x->advanced < node; x->advanced++) {
        rc = x->sr->kind->replay(&x->sr->ctx, &x->r, x->advanced, x->chain, e);
        if (!rc && signals_pending())
            rc = signals_error(e);
    }
    return rc;
}

static int publish(struct runner *x, size_t node, const char *dir, double wall_s, struct err *e)
{
    struct stage_run *sr = x->sr;
    struct node_run *run = &sr->runs[node];
    struct record r = {.preimage = xstrdup(run->preimage),
                       .metrics = json_incref(x->r.metrics),
                       .created_unix_s = (int64_t)time(NULL),
                       .wall_s = wall_s,
                       .peak_rss_bytes = io_peak_rss_bytes()};
    memcpy(r.key, run->key, HASH_HEX);
    r.reason = run->field ? xasprintf("%s: %s", reason_text(run->reason), run->field) : xstrdup(reason_text(run->reason));
    int rc = recheck_sources(sr, e);
    if (!rc)
        rc = store_publish(sr->p->store, dir, &r, false, e);
    if (!rc) {
        node_take_record(sr, node, &r);
        pthread_mutex_lock(&sr->p->mutex);
        for (size_t o = 0; o < run->record.output_count; o++)
            map_put(&sr->p->checked, run->record.outputs[o].digests.sha256, sr->p);
        pthread_mutex_unlock(&sr->p->mutex);
    }
    record_release(&r);
    return rc;
}

static int run_in(struct runner *x, size_t node, struct err *e)
{
    char *dir = NULL;
    int rc = store_begin(x->sr->p->store, &dir, e);
    if (rc)
        return rc;
    uint64_t start = io_monotonic_ns();
    x->r.metrics = json_object();
    rc = x->sr->kind->run(&x->sr->ctx, &x->r, node, x->chain, dir, e);
    if (signals_pending())
        rc = signals_error(e);
    if (!rc)
        rc = publish(x, node, dir, (double)(io_monotonic_ns() - start) / 1e9, e);
    if (rc)
        store_discard(x->sr->p->store, dir);
    json_decref(x->r.metrics);
    x->r.metrics = NULL;
    free(dir);
    return rc;
}

static json_t *outputs_json(const struct stage_node *n)
{
    json_t *o = json_object();
    for (size_t i = 0; i < n->outputs.count; i++)
        json_object_set_new(o, n->outputs.files[i].name, json_string(n->outputs.files[i].sha256));
    return o;
}

static void ended(struct stage_run *sr, size_t node, const char *result, double seconds)
{
    struct pipeline *p = sr->p;
    struct node_run *run = &sr->runs[node];
    bool failed = !strcmp(result, "failed"), ran = !strcmp(result, "ran");
    pthread_mutex_lock(&p->mutex);
    *(failed ? &p->result->failed : ran ? &p->result->ran : &p->result->hit) += 1;
    if (!failed && run->key[0])
        state_set(&p->state, run->name, run->key);
    pthread_mutex_unlock(&p->mutex);
    json_t *outputs = failed ? NULL : outputs_json(&sr->ctx.nodes[node]);
    events_node_end(p->c.events, run->name, result, run->key[0] ? run->key : NULL, seconds, sr->ctx.nodes[node].metrics, outputs);
    json_decref(outputs);
}

static int run_node(struct runner *x, size_t node, struct err *e)
{
    struct stage_run *sr = x->sr;
    struct node_run *run = &sr->runs[node];
    uint64_t start = io_monotonic_ns();
    x->node = node;
    events_node_start(sr->p->c.events, run->name, reason_text(run->reason), run->field, run->key[0] ? run->key : NULL);
    int rc = 0;
    if (!sr->ctx.nodes[node].known) {
        rc = check_inputs(sr, node, e);
        if (!rc && !x->open)
            rc = open_runner(x, e);
        if (!rc)
            rc = advance(x, node, e);
        if (!rc)
            rc = run_in(x, node, e);
        x->advanced = node + 1;
        malloc_trim(0); /* what this node freed must not count against the next one's memory */
    }
    ended(sr, node, rc ? "failed" : "ran", (double)(io_monotonic_ns() - start) / 1e9);
    return stage_error(sr, rc, e);
}

int stage_apply(struct stage_run *sr, void *pool, struct err *e)
{
    struct pipeline *p = sr->p;
    struct runner x = {
        .r = {.threads = pool_threads(pool),
              .pool = pool,
              .isa = p->c.isa,
              .device = stage_device(sr),
              .numerics = stage_class(sr),
              .progress = progress,
              .note = note,
              .count_kernel = count_kernel,
              .pipeline = sr},
        .sr = sr
    };
    int rc = stage_prepare(sr, e);
    if (!rc && !sr->final)
        rc = err_set(e, ERR_FAIL, "stage '%s': its nodes are not known although all inputs are", sr->def->name);
    for (size_t i = 0; !rc && i < sr->limit; i++) {
        if (signals_pending())
            rc = signals_error(e);
        else
            rc = stage_examine(sr, i, e);
        if (!rc && sr->runs[i].action == PLAN_RUN)
            rc = run_node(&x, i, e);
        else if (!rc)
            ended(sr, i, "hit", 0);
    }
    close_runner(&x);
    stage_update_complete(sr);
    if (!rc && sr->complete && sr->kind->finish)
        rc = stage_error(sr, sr->kind->finish(&sr->ctx, e), e);
    return rc;
}

/* All stages of a run: the scheduler decides when, chain.c what happens; then verdicts, the lock file and the project's state. */
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"
#include "pipeline/base/pool.h"
#include "pipeline/pipeline_impl.h"
#include "pipeline/signals.h"

/* A damaged blob is found when a node is about to read it; it is then set aside and the walk starts again, which rebuilds it. */
enum { MAX_ROUNDS = 3 };

struct apply {
    struct pipeline *p;
    size_t *tasks; /* manifest indices of the wanted stages, inputs first */
    size_t count;
    struct pool **pools; /* one a worker, made when it first works */
    int threads;         /* of each */
};

static bool needs(void *arg, size_t task, size_t other)
{
    const struct apply *a = arg;
    const struct manifest_stage *s = &a->p->m->stages[a->tasks[task]];
    for (size_t r = 0; r < s->ref_count; r++)
        if (s->refs[r].target == a->tasks[other])
            return true;
    return false;
}

static bool stopping(void *arg)
{
    (void)arg;
    return signals_pending() != 0;
}

static int run_task(void *arg, size_t task, int worker)
{
    struct apply *a = arg;
    struct stage_run *sr = &a->p->stages[a->tasks[task]];
    if (!a->pools[worker])
        a->pools[worker] = pool_create(a->threads);
    int rc = sr->failed ? -(int)sr->error.code : stage_apply(sr, a->pools[worker], &sr->error);
    sr->failed = rc != 0;
    return rc;
}

/* What a plan would find wrong with the stages, found before any of them runs. Whether there is work to start: with keep_going what is wrong fails by itself, in its turn. */
static bool prepare_all(const struct apply *a)
{
    bool sound = true;
    for (size_t i = 0; i < a->count && (sound || a->p->c.keep_going); i++) {
        struct stage_run *sr = &a->p->stages[a->tasks[i]];
        sr->failed = stage_prepare(sr, &sr->error) != 0;
        sound &= !sr->failed;
    }
    return sound || a->p->c.keep_going;
}

static void add_error(struct apply_result *out, const struct err *e)
{
    out->errors = xreallocarray(out->errors, out->error_count + 1, sizeof *out->errors);
    out->errors[out->error_count++] = *e;
}

static void count_nothing(struct apply_result *out)
{
    json_object_clear(out->kernels);
    out->ran = out->hit = out->failed = 0;
}

/* One walk over all wanted stages. Returns whether a stage failed. */
static bool run_round(struct apply *a)
{
    struct pipeline *p = a->p;
    unsigned char *results = xcalloc(a->count, 1);
    struct scheduler s = {.count = a->count,
                          .needs = needs,
                          .run = run_task,
                          .arg = a,
                          .jobs = p->c.jobs < 1 ? 1 : p->c.jobs,
                          .keep_going = p->c.keep_going,
                          .memory_bytes = io_memory_bytes(),
                          .stop = stopping};
    if ((size_t)s.jobs > a->count)
        s.jobs = a->count ? (int)a->count : 1;
    a->threads = p->c.threads / s.jobs > 1 ? p->c.threads / s.jobs : 1;
    a->pools = xcalloc((size_t)s.jobs, sizeof *a->pools);
    for (size_t i = 0; i < p->m->stage_count; i++)
        stage_reset(&p->stages[i]);
    p->damaged = false;
    p->scheduler = &s;
    if (prepare_all(a))
        scheduler_run(&s, results);
    p->scheduler = NULL;
    for (int i = 0; i < s.jobs; i++)
        pool_free(a->pools[i]);
    free(a->pools);
    free(results);
    for (size_t i = 0; i < a->count; i++)
        if (p->stages[a->tasks[i]].failed)
            return true;
    return false;
}

/* Errors in the order of stages, then verdicts; the first decides. */
static void collect_errors(struct apply *a, struct apply_result *out)
{
    struct pipeline *p = a->p;
    struct err e;
    for (size_t i = 0; i < a->count; i++)
        if (p->stages[a->tasks[i]].failed)
            add_error(out, &p->stages[a->tasks[i]].error);
    if (!out->error_count && signals_pending()) {
        err_clear(&e);
        signals_error(&e);
        add_error(out, &e);
    }
    for (size_t i = 0; i < a->count; i++) {
        struct stage_run *sr = &p->stages[a->tasks[i]];
        err_clear(&e);
        if (sr->complete && !sr->failed && sr->kind->verdict && stage_error(sr, sr->kind->verdict(&sr->ctx, &e), &e))
            add_error(out, &e);
    }
}

static bool is_source(void *arg, const char *stage)
{
    const struct pipeline *p = arg;
    long i = manifest_find(p->m, stage);
    return i >= 0 && p->stages[i].kind->source;
}

static int save(struct apply *a, const struct apply_result *result, struct err *e)
{
    struct pipeline *p = a->p;
    bool stale = false;
    for (size_t i = 0; i < result->error_count; i++)
        stale |= result->errors[i].code == ERR_STALE;
    int rc = 0;
    if (!p->c.frozen_lock && !stale) {
        for (size_t i = 0; i < a->count; i++) {
            const struct stage_run *sr = &p->stages[a->tasks[i]];
            if (sr->resolved && sr->lock.state != LOCK_SAME)
                lockfile_set(&p->lock, sr->def->name, &sr->source);
        }
        lockfile_keep(&p->lock, is_source, p);
        lockfile_set_numerics(&p->lock, p->numerics);
        rc = lockfile_write(&p->lock, e);
    }
    int rc2 = state_save(&p->state, rc ? NULL : e);
    return rc ? rc : rc2;
}

static void end_events(struct pipeline *p, const struct apply_result *out)
{
    char text[ERR_TEXT_BYTES + ERR_FILE_BYTES + 64];
    for (size_t i = 0; i < out->error_count; i++)
        events_emit(p->c.events, "error",
                    json_pack("{s:s,s:s}", "code", err_name(out->errors[i].code), "text", err_format(&out->errors[i], text, sizeof text)));
    events_emit(p->c.events, "run_end",
                json_pack("{s:I,s:I,s:I,s:O,s:I}", "ran", (json_int_t)out->ran, "hit", (json_int_t)out->hit, "failed",
                          (json_int_t)out->failed, "kernels", out->kernels, "ms", (json_int_t)(out->seconds * 1000)));
}

/* Adds text with "name: " in front of its first line, and as much room in front of the others. */
static void add_lines(struct buf *out, const char *name, const char *text)
{
    for (const char *at = text; *at;) {
        size_t n = strcspn(at, "\n");
        buf_printf(out, "%-*s%s %.*s\n", (int)strlen(name), at == text ? name : "", at == text ? ":" : " ", (int)n, at);
        at += n + (at[n] == '\n');
    }
}

void pipeline_summary(const struct pipeline *p, struct buf *out)
{
    for (size_t i = 0; i < p->m->stage_count; i++) {
        const struct stage_run *sr = &p->stages[p->m->order[i]];
        struct buf text = BUF_INIT;
        if (sr->wanted && sr->complete && !sr->failed && sr->kind->summary)
            sr->kind->summary(&sr->ctx, &text);
        add_lines(out, sr->def->name, buf_str(&text));
        buf_release(&text);
    }
}

int pipeline_apply(struct pipeline *p, struct apply_result *out, struct err *e)
{
    uint64_t start = io_monotonic_ns();
    struct apply a = {.p = p, .tasks = xcalloc(p->m->stage_count, sizeof *a.tasks)};
    struct err first;
    *out = (struct apply_result){.kernels = json_object()};
    p->result = out;
    err_clear(&first);
    for (size_t i = 0; i < p->m->stage_count; i++)
        if (p->stages[p->m->order[i]].wanted)
            a.tasks[a.count++] = p->m->order[i];
    events_emit(p->c.events, "run_start", json_pack("{s:s,s:s}", "command", "apply", "manifest", p->m->path));
    if (lock_check_frozen(p, &first)) {
        add_error(out, &first);
    } else {
        for (int round = 1; run_round(&a) && p->damaged && round < MAX_ROUNDS; round++) {
            events_warning(p->c.events, NULL, "a cached file was damaged and has been set aside: it is made again");
            count_nothing(out);
        }
        collect_errors(&a, out);
        if (save(&a, out, &first))
            add_error(out, &first);
    }
    out->seconds = (double)(io_monotonic_ns() - start) / 1e9;
    end_events(p, out);
    free(a.tasks);
    p->result = NULL;
    if (!out->error_count)
        return 0;
    if (e)
        *e = out->errors[0];
    return -out->errors[0].code;
}

void apply_result_release(struct apply_result *r)
{
    json_decref(r->kernels);
    free(r->errors);
    *r = (struct apply_result){.ran = 0};
}

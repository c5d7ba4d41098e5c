/* Opening a manifest against a cache: stages get their vtables and contexts, targets and numerics are settled. */
#include "pipeline/pipeline.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"
#include "pipeline/pipeline_impl.h"

const char *plan_action_text(enum plan_action a)
{
    static const char *const texts[] = {"maybe", "run", "hit"};
    return texts[a];
}

static int place(const struct stage_ctx *s, const char *path, struct err *e)
{
    const struct stage_run *sr = s->pipeline;
    struct mark at = manifest_place(sr->def, path);
    return e ? err_place(e, sr->p->m->path, at.line, at.col) : -ERR_FAIL;
}

static bool was_set(const struct stage_ctx *s, const char *field)
{
    return manifest_was_set(((const struct stage_run *)s->pipeline)->def, field);
}

static void note(const struct stage_ctx *s, const char *fmt, ...) ERR_PRINTF(2, 3);
static void note(const struct stage_ctx *s, const char *fmt, ...)
{
    struct stage_run *sr = s->pipeline;
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!map_put(&sr->notes, text, sr))
        events_note(sr->p->c.events, s->name, text);
}

static int init_stage(struct pipeline *p, size_t i, struct err *e)
{
    struct stage_run *sr = &p->stages[i];
    const struct manifest_stage *def = &p->m->stages[i];
    *sr = (struct stage_run){.p = p, .index = i, .def = def, .notes = MAP_INIT};
    for (const struct stage_kind *const *k = p->c.kinds; *k && !sr->kind; k++)
        if (!strcmp((*k)->name, def->kind->name))
            sr->kind = *k;
    if (!sr->kind)
        BUG("no vtable for kind %s", def->kind->name);
    sr->ctx = (struct stage_ctx){.name = def->name,
                                 .manifest = p->m->path,
                                 .base_dir = p->m->dir,
                                 .params = def->params,
                                 .input_count = def->ref_count,
                                 .place = place,
                                 .was_set = was_set,
                                 .note = note,
                                 .pipeline = sr};
    sr->ctx.inputs = xcalloc(def->ref_count, sizeof *sr->ctx.inputs);
    sr->files = xcalloc(def->ref_count, sizeof *sr->files);
    for (size_t r = 0; r < def->ref_count; r++) {
        struct stage_run *to = &p->stages[def->refs[r].target];
        sr->ctx.inputs[r] = (struct stage_input){.field = def->refs[r].field->name,
                                                 .stage = def->refs[r].stage,
                                                 .files = &sr->files[r],
                                                 .ctx = &to->ctx,
                                                 .kind = p->m->stages[def->refs[r].target].kind->name,
                                                 .pattern = def->refs[r].pattern};
    }
    stage_reset(sr);
    int rc = sr->kind->check ? sr->kind->check(&sr->ctx, e) : 0;
    return stage_error(sr, rc, e);
}

/* The stage that "STAGE" or "STAGE/node" names. */
static int find_target(const struct pipeline *p, const char *option, const char *target, size_t *out, struct err *e)
{
    char *name = xstrndup(target, strcspn(target, "/"));
    long i = manifest_find(p->m, name);
    int rc = 0;
    if (i < 0) {
        const char *near = manifest_near(p->m, name);
        rc = err_set(e, ERR_USAGE, "%sthe manifest has no stage '%s'%s%s%s", option, name, near ? " (did you mean '" : "", near ? near : "",
                     near ? "'?)" : "");
    }
    free(name);
    *out = (size_t)i;
    return rc;
}

static int set_targets(struct pipeline *p, struct err *e)
{
    bool *needed = xcalloc(p->m->stage_count, sizeof *needed);
    int rc = 0;
    for (size_t t = 0; !rc && t < p->c.target_count; t++) {
        size_t i;
        rc = find_target(p, "", p->c.targets[t], &i, e);
        if (rc)
            break;
        memset(needed, 0, p->m->stage_count * sizeof *needed);
        dag_mark(p->m, i, needed);
        for (size_t j = 0; j < p->m->stage_count; j++) {
            p->stages[j].wanted |= needed[j];
            p->stages[j].whole |= needed[j] && (j != i || !strchr(p->c.targets[t], '/'));
        }
    }
    for (size_t j = 0; !p->c.target_count && j < p->m->stage_count; j++)
        p->stages[j].wanted = p->stages[j].whole = true;
    for (size_t f = 0; !rc && f < p->c.forced_count; f++) {
        size_t i;
        rc = find_target(p, "--force: ", p->c.forced[f], &i, e);
    }
    free(needed);
    return rc;
}

int pipeline_open(const struct manifest *m, const struct pipeline_config *c, struct pipeline **out, struct err *e)
{
    struct pipeline *p = xcalloc(1, sizeof *p);
    p->m = m;
    p->c = *c;
    p->c.isa = c->isa ? c->isa : "auto";
    p->c.device = c->device ? c->device : "auto";
    p->stages = xcalloc(m->stage_count, sizeof *p->stages);
    pthread_mutex_init(&p->mutex, NULL);
    char *lock_path = io_join(m->dir, "gptqpipe.lock");
    int rc = 0;
    for (size_t i = 0; !rc && i < m->stage_count; i++)
        rc = init_stage(p, i, e);
    if (!rc)
        rc = set_targets(p, e);
    if (!rc)
        rc = lockfile_load(&p->lock, lock_path, e);
    if (!rc)
        rc = pipeline_set_numerics(p, e);
    if (!rc)
        rc = store_open(c->cache_dir, &p->store, e);
    if (!rc)
        rc = statcache_open(c->cache_dir, &p->stat, e);
    if (!rc)
        state_load(&p->state, c->cache_dir, m->path);
    free(lock_path);
    if (rc) {
        pipeline_close(p);
        p = NULL;
    }
    *out = p;
    return rc;
}

void pipeline_close(struct pipeline *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->m->stage_count; i++) {
        struct stage_run *sr = &p->stages[i];
        if (!sr->p)
            continue;
        stage_reset(sr);
        free(sr->ctx.inputs);
        free(sr->files);
        free(sr->ctx.nodes);
        free(sr->runs);
        map_release(&sr->notes);
    }
    free(p->stages);
    for (size_t i = 0; i < p->digests.count; i++)
        free(p->digests.entries[i].value);
    map_release(&p->digests);
    map_release(&p->checked);
    state_release(&p->state);
    lockfile_release(&p->lock);
    if (p->stat)
        statcache_close(p->stat);
    if (p->store)
        store_close(p->store);
    pthread_mutex_destroy(&p->mutex);
    free(p);
}

struct store *pipeline_store(struct pipeline *p)
{
    return p->store;
}

int lock_check_frozen(struct pipeline *p, struct err *e)
{
    if (!p->c.frozen_lock)
        return 0;
    if (!p->lock.exists)
        return err_set(e, ERR_LOCK, "%s is missing, and the lock is frozen: write it with `gptqpipe lock`", p->lock.path);
    const char *locked = lockfile_numerics(&p->lock);
    if (locked && strcmp(locked, p->numerics) != 0)
        return err_set(e, ERR_LOCK, "%s: the lock is frozen at numerics class '%s', and this run uses '%s'", p->lock.path, locked,
                       p->numerics);
    return 0;
}

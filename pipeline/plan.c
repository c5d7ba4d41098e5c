/* Why and what, without running anything; and what the lock file should say. */
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/mem.h"
#include "pipeline/pipeline_impl.h"

static int plan_stage(struct stage_run *sr, struct err *e)
{
    int rc = stage_prepare(sr, e);
    bool ready = !rc && sr->expanded && stage_inputs_known(sr);
    for (size_t i = 0; !rc && sr->expanded && i < sr->limit; i++) {
        rc = ready || (sr->kind->source && i == 0) ? stage_examine(sr, i, e) : -ERR_UNKNOWN;
        if (rc != -ERR_UNKNOWN)
            continue;
        err_clear(e);
        rc = 0;
        sr->runs[i].action = PLAN_MAYBE;
        sr->runs[i].reason = REASON_UPSTREAM_PENDING;
    }
    stage_update_complete(sr);
    return rc;
}

int pipeline_plan(struct pipeline *p, struct err *e)
{
    for (size_t i = 0; i < p->m->stage_count; i++)
        stage_reset(&p->stages[i]);
    int rc = lock_check_frozen(p, e);
    for (size_t i = 0; !rc && i < p->m->stage_count; i++) {
        struct stage_run *sr = &p->stages[p->m->order[i]];
        if (sr->wanted)
            rc = plan_stage(sr, e);
    }
    return rc;
}

/* Lines of a stage: its nodes up to the limit, or one when they are not known. */
static size_t lines_of(const struct stage_run *sr)
{
    return !sr->wanted ? 0 : sr->expanded ? sr->limit : 1;
}

size_t pipeline_node_count(const struct pipeline *p)
{
    size_t n = 0;
    for (size_t i = 0; i < p->m->stage_count; i++)
        n += lines_of(&p->stages[i]);
    return n;
}

struct plan_node pipeline_node(const struct pipeline *p, size_t index)
{
    for (size_t i = 0; i < p->m->stage_count; i++) {
        const struct stage_run *sr = &p->stages[p->m->order[i]];
        size_t n = lines_of(sr);
        if (index >= n) {
            index -= n;
            continue;
        }
        if (!sr->expanded)
            return (struct plan_node){
                .stage = sr->def->name, .name = sr->def->name, .action = PLAN_MAYBE, .reason = REASON_UPSTREAM_PENDING, .key = ""};
        const struct node_run *run = &sr->runs[index];
        return (struct plan_node){.stage = sr->def->name,
                                  .node = sr->ctx.nodes[index].name,
                                  .name = run->name,
                                  .action = run->action,
                                  .reason = run->reason,
                                  .field = run->field,
                                  .key = run->key,
                                  .preimage = run->preimage,
                                  .last_key = run->last_key,
                                  .result = &sr->ctx.nodes[index]};
    }
    BUG("node %zu past the end of the plan", index);
}

static bool is_source(void *arg, const char *stage)
{
    const struct pipeline *p = arg;
    long i = manifest_find(p->m, stage);
    return i >= 0 && p->stages[i].kind->source;
}

static void say_difference(const struct stage_run *sr, void (*note)(void *arg, const char *line), void *arg)
{
    char *line = sr->lock.state == LOCK_ABSENT
                     ? xasprintf("%s: not in the lock", sr->def->name)
                     : xasprintf("%s: %s: locked %s, found %s", sr->def->name, sr->lock.file, sr->lock.was, sr->lock.is);
    if (note)
        note(arg, line);
    free(line);
}

int pipeline_lock(struct pipeline *p, const char *update, bool check, bool *differs, void (*note)(void *arg, const char *line), void *arg,
                  struct err *e)
{
    long only = update ? manifest_find(p->m, update) : -1;
    *differs = !p->lock.exists;
    if (update && (only < 0 || !p->stages[only].kind->source)) {
        const char *near = manifest_near(p->m, update);
        return err_set(e, ERR_USAGE, "--update %s: the manifest has no such source%s%s%s", update,
                       only < 0 && near ? " (did you mean '" : "", only < 0 && near ? near : "", only < 0 && near ? "'?)" : "");
    }
    p->c.frozen_lock = false;
    for (size_t i = 0; i < p->m->stage_count; i++) {
        struct stage_run *sr = &p->stages[i];
        if (!sr->kind->source || (only >= 0 && (size_t)only != i))
            continue;
        stage_reset(sr);
        int rc = stage_resolve(sr, e);
        if (rc)
            return rc;
        if (sr->lock.state != LOCK_SAME) {
            *differs = true;
            say_difference(sr, note, arg);
        }
        lockfile_set(&p->lock, sr->def->name, &sr->source);
    }
    lockfile_keep(&p->lock, is_source, p);
    lockfile_set_numerics(&p->lock, p->numerics);
    return check ? 0 : lockfile_write(&p->lock, e);
}

/* One stage of a walk: what its inputs and nodes are, each node's key, and what the cache has for it. */
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"
#include "pipeline/key.h"
#include "pipeline/nearest.h"
#include "pipeline/pipeline_impl.h"

int stage_error(const struct stage_run *sr, int rc, struct err *e)
{
    if (rc && e && !e->file[0] && rc != -ERR_CANCELLED && strncmp(e->text, "stage '", 7) != 0)
        err_wrap(e, "stage '%s'", sr->def->name);
    return rc;
}

static void release_node(struct stage_run *sr, size_t i)
{
    struct node_run *run = &sr->runs[i];
    struct stage_node *n = &sr->ctx.nodes[i];
    free(n->name);
    fileset_release(&n->outputs);
    json_decref(n->metrics);
    free(run->name);
    free(run->field);
    free(run->preimage);
    free(run->last_key);
    if (run->have_record)
        record_release(&run->record);
}

static void drop_nodes(struct stage_run *sr)
{
    for (size_t i = 0; i < sr->ctx.node_count; i++)
        release_node(sr, i);
    sr->ctx.node_count = 0;
    sr->ctx.artifact = ART_NONE;
    sr->expanded = sr->final = sr->complete = false;
}

void stage_reset(struct stage_run *sr)
{
    if (sr->kind && sr->kind->release)
        sr->kind->release(&sr->ctx);
    drop_nodes(sr);
    for (size_t r = 0; r < sr->ctx.input_count; r++)
        fileset_release(&sr->files[r]);
    fileset_release(&sr->source);
    free(sr->lock.file);
    sr->lock = (struct lock_difference){.state = LOCK_ABSENT};
    sr->resolved = sr->failed = false;
    err_clear(&sr->error);
}

static int digest(struct resolve_ctx *r, const char *path, char sha256[65], uint64_t *bytes, struct err *e)
{
    struct pipeline *p = r->pipeline;
    struct hash_digests d;
    int rc = statcache_file(p->stat, path, &d, NULL, e);
    if (rc)
        return rc;
    memcpy(sha256, d.sha256, HASH_HEX);
    *bytes = d.bytes;
    struct hash_digests *keep = xmalloc(sizeof *keep);
    *keep = d;
    pthread_mutex_lock(&p->mutex);
    free(map_put(&p->digests, path, keep));
    pthread_mutex_unlock(&p->mutex);
    return 0;
}

int stage_resolve(struct stage_run *sr, struct err *e)
{
    struct resolve_ctx r = {.digest = digest, .pipeline = sr->p};
    int rc = stage_error(sr, sr->kind->resolve(&sr->ctx, &r, &sr->source, e), e);
    if (rc)
        return rc;
    sr->resolved = true;
    lockfile_compare(&sr->p->lock, sr->def->name, &sr->source, &sr->lock);
    if (!sr->p->c.frozen_lock || sr->lock.state == LOCK_SAME)
        return 0;
    if (sr->lock.state == LOCK_ABSENT)
        return err_set(e, ERR_LOCK, "stage '%s' is not in %s, and the lock is frozen", sr->def->name, sr->p->lock.path);
    return err_set(e, ERR_LOCK, "stage '%s': file '%s' differs from %s, and the lock is frozen: locked %s, found %s", sr->def->name,
                   sr->lock.file, sr->p->lock.path, sr->lock.was, sr->lock.is);
}

static void gather_files(struct fileset *out, const struct stage_run *from, const char *pattern)
{
    const struct fileset *sets[2] = {from->resolved ? &from->source : NULL, NULL};
    for (size_t n = 0; n <= from->ctx.node_count; n++) {
        sets[1] = n < from->ctx.node_count ? &from->ctx.nodes[n].outputs : sets[0];
        for (size_t i = 0; sets[1] && i < sets[1]->count; i++) {
            const struct fileset_file *f = &sets[1]->files[i];
            if (!pattern || !fnmatch(pattern, f->name, 0))
                fileset_add(out, f->name, f->path, f->sha256, f->bytes);
        }
    }
}

static int gather_input(struct stage_run *sr, size_t r, struct err *e)
{
    const struct manifest_ref *ref = &sr->def->refs[r];
    const struct stage_run *from = &sr->p->stages[ref->target];
    struct stage_input *in = &sr->ctx.inputs[r];
    char want[128];
    in->known = from->complete;
    in->type = from->ctx.artifact;
    fileset_release(&sr->files[r]);
    gather_files(&sr->files[r], from, ref->pattern);
    if (from->expanded && !((unsigned)from->ctx.artifact & ref->field->t.mask))
        return err_at(e, ERR_MANIFEST, sr->p->m->path, ref->at.line, ref->at.col, "stage '%s': '%s' takes %s, and '%s' is %s",
                      sr->def->name, ref->field->name, schema_artifacts_text(ref->field->t.mask, want, sizeof want), ref->stage,
                      artifact_name(from->ctx.artifact));
    if (ref->pattern && (in->known || from->resolved) && !sr->files[r].count)
        return err_at(e, ERR_MANIFEST, sr->p->m->path, ref->pattern_at.line, ref->pattern_at.col,
                      "stage '%s': pattern '%s' matches none of the files of '%s'", sr->def->name, ref->pattern, ref->stage);
    return 0;
}

bool stage_inputs_known(const struct stage_run *sr)
{
    for (size_t r = 0; r < sr->ctx.input_count; r++)
        if (!sr->ctx.inputs[r].known)
            return false;
    return true;
}

static void add_node(struct stage_expansion *x, const char *name)
{
    struct stage_run *sr = x->pipeline;
    size_t i = sr->ctx.node_count;
    MEM_GROW(sr->ctx.nodes, i, sr->node_cap);
    MEM_GROW(sr->runs, i, sr->run_cap);
    sr->ctx.nodes[i] = (struct stage_node){.name = xstrdup(name), .outputs = FILESET_INIT};
    sr->runs[i] = (struct node_run){.name = *name ? xasprintf("%s/%s", sr->def->name, name) : xstrdup(sr->def->name)};
    sr->ctx.node_count++;
}

static long find_node(const struct stage_run *sr, const char *name)
{
    for (size_t i = 0; i < sr->ctx.node_count; i++)
        if (!strcmp(sr->ctx.nodes[i].name, name))
            return (long)i;
    return -1;
}

/* A node that -t or --force names must be there. raise: nodes up to it are wanted. */
static int check_named(struct stage_run *sr, const char *option, const char *const *names, size_t count, bool raise, struct err *e)
{
    size_t len = strlen(sr->def->name);
    for (size_t t = 0; t < count; t++) {
        if (strncmp(names[t], sr->def->name, len) != 0 || names[t][len] != '/')
            continue;
        long i = find_node(sr, names[t] + len + 1);
        if (i < 0)
            return err_set(e, ERR_USAGE, "%sstage '%s' has no node '%s' (%zu nodes, the last is '%s')", option, sr->def->name,
                           names[t] + len + 1, sr->ctx.node_count, sr->ctx.nodes[sr->ctx.node_count - 1].name);
        if (raise && (size_t)i + 1 > sr->limit)
            sr->limit = (size_t)i + 1;
    }
    return 0;
}

static int expand(struct stage_run *sr, bool all_known, struct err *e)
{
    drop_nodes(sr);
    if (!sr->kind->source && sr->kind->release)
        sr->kind->release(&sr->ctx);
    struct stage_expansion x = {.add = add_node, .pipeline = sr};
    sr->ctx.numerics = stage_class(sr);
    sr->ctx.applying = sr->p->scheduler != NULL;
    int rc = sr->kind->expand(&sr->ctx, &x, e);
    sr->ctx.artifact = x.artifact;
    if (rc == -ERR_UNKNOWN && !all_known) {
        drop_nodes(sr);
        err_clear(e);
        return 0;
    }
    if (rc) {
        drop_nodes(sr);
        return stage_error(sr, rc, e);
    }
    if (!sr->ctx.node_count || !(sr->def->kind->artifacts & (unsigned)x.artifact))
        BUG("stage %s: kind %s made %zu nodes of %s", sr->def->name, sr->kind->name, sr->ctx.node_count, artifact_name(x.artifact));
    sr->expanded = true;
    sr->final = all_known;
    sr->limit = sr->whole ? sr->ctx.node_count : 0;
    rc = check_named(sr, "", sr->p->c.targets, sr->p->c.target_count, true, e);
    return rc ? rc : check_named(sr, "--force: ", sr->p->c.forced, sr->p->c.forced_count, false, e);
}

int stage_prepare(struct stage_run *sr, struct err *e)
{
    int rc = sr->kind->source && !sr->resolved ? stage_resolve(sr, e) : 0;
    for (size_t r = 0; !rc && r < sr->ctx.input_count; r++)
        rc = gather_input(sr, r, e);
    bool all_known = stage_inputs_known(sr);
    if (!rc && !(sr->expanded && (sr->final || !all_known)))
        rc = expand(sr, all_known, e);
    return rc;
}

void stage_update_complete(struct stage_run *sr)
{
    sr->complete = sr->expanded && sr->final;
    for (size_t i = 0; i < sr->ctx.node_count; i++)
        sr->complete &= sr->ctx.nodes[i].known;
}

void node_take_record(struct stage_run *sr, size_t i, struct record *r)
{
    struct stage_node *n = &sr->ctx.nodes[i];
    fileset_release(&n->outputs);
    for (size_t o = 0; o < r->output_count; o++) {
        char *path = store_blob_path(sr->p->store, r->outputs[o].digests.sha256);
        fileset_add(&n->outputs, r->outputs[o].path, path, r->outputs[o].digests.sha256, r->outputs[o].digests.bytes);
        free(path);
    }
    record_outputs_digest(r, n->digest);
    json_decref(n->metrics);
    n->metrics = json_incref(r->metrics);
    n->known = true;
    if (sr->runs[i].have_record)
        record_release(&sr->runs[i].record);
    sr->runs[i].record = *r;
    sr->runs[i].have_record = true;
    *r = (struct record)RECORD_INIT;
}

/* Node 0 of a source: its files are known where they lie; the lock tells whether they are the ones of last time. */
static void examine_source(struct stage_run *sr)
{
    struct stage_node *n = &sr->ctx.nodes[0];
    struct node_run *run = &sr->runs[0];
    struct record r = RECORD_INIT;
    for (size_t i = 0; i < sr->source.count; i++) {
        const struct fileset_file *f = &sr->source.files[i];
        struct hash_digests d = {.bytes = f->bytes};
        memcpy(d.sha256, f->sha256, HASH_HEX);
        record_add_output(&r, f->name, &d);
    }
    record_outputs_digest(&r, n->digest);
    record_release(&r);
    fileset_copy(&n->outputs, &sr->source);
    n->known = true;
    run->action = sr->lock.state == LOCK_SAME ? PLAN_HIT : PLAN_RUN;
    run->reason = sr->lock.state == LOCK_SAME ? REASON_HIT_LOCAL : sr->lock.state == LOCK_ABSENT ? REASON_NO_RECORD : REASON_INPUT_CHANGED;
    run->field = sr->lock.file ? xstrdup(sr->lock.file) : NULL;
}

static bool is_forced(const struct stage_run *sr, size_t node)
{
    for (size_t f = 0; f < sr->p->c.forced_count; f++)
        if (!strcmp(sr->p->c.forced[f], sr->def->name) || !strcmp(sr->p->c.forced[f], sr->runs[node].name))
            return true;
    return false;
}

/* Why there is no record under this key: what differs from the preimage of the last apply. */
static int explain_absence(struct stage_run *sr, struct node_run *run, struct err *e)
{
    run->reason = REASON_NO_RECORD;
    if (!run->last_key || !strcmp(run->last_key, run->key))
        return 0;
    struct record old = RECORD_INIT;
    enum store_miss miss;
    int rc = store_get(sr->p->store, run->last_key, false, &old, &miss, NULL, e);
    if (rc || miss != STORE_HIT)
        return rc;
    json_t *was = json_parse(old.preimage, strlen(old.preimage), "record", NULL),
           *is = json_parse(run->preimage, strlen(run->preimage), "key", NULL);
    if (was && is)
        run->reason = reason_of(was, is, &run->field);
    json_decref(was);
    json_decref(is);
    record_release(&old);
    return 0;
}

static int look_up(struct stage_run *sr, size_t i, struct err *e)
{
    struct node_run *run = &sr->runs[i];
    struct record r = RECORD_INIT;
    struct buf why = BUF_INIT;
    enum store_miss miss;
    int rc = store_get(sr->p->store, run->key, false, &r, &miss, &why, e);
    run->action = PLAN_RUN;
    if (!rc && is_forced(sr, i)) {
        run->reason = REASON_FORCED;
        if (miss == STORE_HIT)
            record_release(&r);
    } else if (!rc && miss == STORE_HIT) {
        run->action = PLAN_HIT;
        run->reason = REASON_HIT_LOCAL;
        node_take_record(sr, i, &r);
    } else if (!rc && miss == STORE_NO_RECORD) {
        rc = explain_absence(sr, run, e);
    } else if (!rc) {
        char *text = xasprintf("what the cache has cannot be used and is made again: %s", why.len ? buf_str(&why) : "damaged");
        run->reason = miss == STORE_BLOB_MISSING ? REASON_OUTPUT_MISSING : REASON_OUTPUT_CORRUPT;
        events_warning(sr->p->c.events, run->name, text);
        free(text);
    }
    buf_release(&why);
    return rc;
}

int stage_examine(struct stage_run *sr, size_t i, struct err *e)
{
    struct node_run *run = &sr->runs[i];
    run->examined = true;
    if (sr->kind->source && i == 0) {
        examine_source(sr);
        return 0;
    }
    json_t *fields = json_object();
    int rc = stage_error(sr, sr->kind->fields(&sr->ctx, i, fields, e), e);
    if (!rc) {
        key_compute(sr->kind, fields, stage_class_key(sr), sr->p->m->salt, &run->preimage, run->key);
        pthread_mutex_lock(&sr->p->mutex);
        const char *last = state_key(&sr->p->state, run->name);
        run->last_key = last ? xstrdup(last) : NULL;
        pthread_mutex_unlock(&sr->p->mutex);
        rc = look_up(sr, i, e);
    }
    json_decref(fields);
    return rc;
}

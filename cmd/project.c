#include "cmd/project.h"

#include <stdlib.h>
#include <string.h>

#include "cmd/proof.h"
#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"
#include "stages/device.h"

static void probe_gpu(void *arg, const char *device, struct pipeline_gpu *out)
{
    struct device_probe p;
    device_probe(device, &p);
    out->found = p.found;
    out->proven = p.found && proof_passed(arg, &p);
    snprintf(out->numerics, sizeof out->numerics, "%s", p.numerics);
    snprintf(out->key, sizeof out->key, "%s", p.key);
    snprintf(out->why, sizeof out->why, "%s", p.why);
}

int project_open(struct project *p, struct cmd_ctx *c, const char *manifest, FILE *json, FILE *human)
{
    const char *ci = getenv("CI");
    int rc = device_check(c->o.isa, c->o.device, &c->err);
    if (!rc)
        rc = manifest_load(manifest ? manifest : "manifest.yaml", p->sets.values, p->sets.count, &p->m, &c->err);
    if (rc)
        return rc;
    p->cache_dir = cmd_cache_dir(c, p->m->cache_dir);
    if (!p->cache_dir)
        return -c->err.code;
    enum progress_level level = c->o.quiet ? PROGRESS_QUIET : c->o.verbose ? PROGRESS_VERBOSE : PROGRESS_NORMAL;
    rc = events_open(&(struct events_config){c->o.events, json, human, level}, &p->events, &c->err);
    if (rc)
        return rc;
    struct pipeline_config config = {
        .kinds = stage_kinds,
        .cache_dir = p->cache_dir,
        .numerics = c->o.numerics,
        .probe_gpu = probe_gpu,
        .probe_arg = c,
        .isa = c->o.isa,
        .device = c->o.device,
        .threads = cmd_threads(c),
        .jobs = p->jobs ? (int)p->jobs : 1,
        .targets = p->targets.values,
        .target_count = p->targets.count,
        .forced = p->forced.values,
        .forced_count = p->forced.count,
        .frozen_lock = p->frozen_lock || (ci && !strcmp(ci, "true")),
        .keep_going = p->keep_going,
        .events = p->events,
    };
    return pipeline_open(p->m, &config, &p->p, &c->err);
}

void project_target(struct project *p, const char *target)
{
    MEM_GROW(p->targets.values, p->targets.count, p->targets.cap);
    p->targets.values[p->targets.count++] = target;
}

int project_close(struct project *p, struct cmd_ctx *c, int rc)
{
    pipeline_close(p->p);
    int rc2 = events_close(p->events, rc ? NULL : &c->err);
    manifest_free(p->m);
    free(p->cache_dir);
    free(p->targets.values);
    free(p->sets.values);
    free(p->forced.values);
    return rc ? rc : rc2;
}

void print_json_line(json_t *o)
{
    struct buf b = BUF_INIT;
    json_canonical(o, &b);
    puts(buf_str(&b));
    fflush(stdout);
    buf_release(&b);
    json_decref(o);
}

bool node_matches(const struct plan_node *n, const char *target)
{
    return !strcmp(n->stage, target) || !strcmp(n->name, target);
}

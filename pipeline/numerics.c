/* Which numerics class a run has: what was asked for, else what the lock file remembers, else that of a GPU which has passed selftest, else cpu. */
#include <stdio.h>
#include <string.h>

#include "pipeline/pipeline_impl.h"

static bool names_gpu(const char *device)
{
    return strncmp(device, "cuda", 4) == 0;
}

static bool takes_gpu(const struct stage_run *sr)
{
    return sr->kind->gpu && sr->kind->gpu(&sr->ctx);
}

/* The GPU that --device names or leaves open, asked for once and only when some stage could use it. */
static const struct pipeline_gpu *gpu_of(struct pipeline *p)
{
    if (!p->gpu_asked) {
        p->gpu_asked = true;
        snprintf(p->gpu.why, sizeof p->gpu.why, "this build has none");
        if (p->c.probe_gpu)
            p->c.probe_gpu(p->c.probe_arg, p->c.device, &p->gpu);
    }
    return &p->gpu;
}

/* A class that was written, in the manifest or on the command line. */
static int written_class(struct pipeline *p, const char *asked, struct err *e)
{
    bool gpu_device = names_gpu(p->c.device);
    if (!strcmp(asked, "cpu")) {
        if (gpu_device)
            return err_set(e, ERR_UNSUPPORTED, "numerics class 'cpu' is not what device '%s' computes in", p->c.device);
        snprintf(p->numerics, sizeof p->numerics, "cpu");
        return 0;
    }
    if (strncmp(asked, "cuda-sm", 7) != 0)
        return err_set(e, ERR_UNSUPPORTED, "numerics class '%s' is not served by this version: 'auto', 'cpu' and 'cuda-smNN' are", asked);
    if (!strcmp(p->c.device, "cpu"))
        return err_set(e, ERR_UNSUPPORTED, "numerics class '%s' is not what device 'cpu' computes in", asked);
    const struct pipeline_gpu *g = gpu_of(p);
    if (!g->found)
        return err_set(e, ERR_UNSUPPORTED, "numerics class '%s' needs a GPU: %s", asked, g->why);
    if (strcmp(asked, g->numerics) != 0)
        return err_set(e, ERR_UNSUPPORTED, "numerics class '%s' is not served here: the GPU computes in '%s'", asked, g->numerics);
    snprintf(p->numerics, sizeof p->numerics, "%s", asked);
    return 0;
}

static int open_class(struct pipeline *p, struct err *e)
{
    const char *locked = lockfile_numerics(&p->lock);
    snprintf(p->numerics, sizeof p->numerics, "cpu");
    if (names_gpu(p->c.device)) {
        const struct pipeline_gpu *g = gpu_of(p);
        if (!g->found)
            return err_set(e, ERR_UNSUPPORTED, "device '%s': %s", p->c.device, g->why);
        snprintf(p->numerics, sizeof p->numerics, "%s", g->numerics);
    } else if (strcmp(p->c.device, "cpu") != 0 && !(locked && !strcmp(locked, "cpu")) && gpu_of(p)->found && (gpu_of(p)->proven || locked)) {
        snprintf(p->numerics, sizeof p->numerics, "%s", gpu_of(p)->numerics);
    }
    return 0;
}

int pipeline_set_numerics(struct pipeline *p, struct err *e)
{
    bool any = false;
    for (size_t i = 0; i < p->m->stage_count; i++)
        any |= takes_gpu(&p->stages[i]);
    const char *asked = p->c.numerics ? p->c.numerics : p->m->numerics ? p->m->numerics : "auto";
    int rc = 0;
    if (strcmp(asked, "auto") != 0)
        rc = written_class(p, asked, e);
    else if (any)
        rc = open_class(p, e);
    else
        snprintf(p->numerics, sizeof p->numerics, "cpu");
    if (rc && !p->c.numerics && p->m->numerics && strcmp(asked, "auto") != 0) {
        if (e)
            e->code = ERR_MANIFEST;
        err_place(e, p->m->path, p->m->numerics_at.line, p->m->numerics_at.col);
        return -ERR_MANIFEST;
    }
    return rc;
}

const char *stage_class(const struct stage_run *sr)
{
    return takes_gpu(sr) ? sr->p->numerics : "cpu";
}

const char *stage_class_key(const struct stage_run *sr)
{
    const char *class = stage_class(sr);
    return strcmp(class, "cpu") != 0 ? sr->p->gpu.key : class;
}

const char *stage_device(const struct stage_run *sr)
{
    if (!takes_gpu(sr))
        return sr->p->c.device; /* its own to refuse */
    if (!strcmp(sr->p->numerics, "cpu"))
        return "cpu";
    return names_gpu(sr->p->c.device) ? sr->p->c.device : "cuda";
}

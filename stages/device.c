#include "stages/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/plugin.h"

static bool is(const char *word, const char *what)
{
    return !strcmp(word ? word : "auto", what);
}

/* N of "cuda" or "cuda:N", -1 for other words. */
static int cuda_index(const char *device)
{
    if (!device || strncmp(device, "cuda", 4) != 0)
        return -1;
    const char *p = device + 4;
    if (!*p)
        return 0;
    if (*p++ != ':' || !*p || strlen(p) > 4 || strspn(p, "0123456789") != strlen(p))
        return -1;
    return (int)strtol(p, NULL, 10);
}

static bool is_cuda_class(const char *numerics)
{
    static const char prefix[] = "cuda-sm";
    const char *digits = numerics + sizeof prefix - 1;
    return !strncmp(numerics, prefix, sizeof prefix - 1) && *digits && strspn(digits, "0123456789") == strlen(digits);
}

int device_check(const char *isa, const char *device, struct err *e)
{
    if (isa && isa_parse(isa) < 0)
        return err_set(e, ERR_USAGE, "unknown instruction set '%s' (auto, scalar, avx2 or avx512)", isa);
    if (is(device, "auto") || is(device, "cpu") || cuda_index(device) >= 0)
        return 0;
    return err_set(e, ERR_USAGE, "unknown device '%s' (auto, cpu or cuda[:N])", device);
}

int device_check_numerics(const char *numerics, struct err *e)
{
    static const char *const known[] = {"cpu-a8", "cpu-bf16", "cpu-amx"};
    if (is(numerics, "auto") || is(numerics, "cpu") || is_cuda_class(numerics))
        return 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(numerics, known[i]))
            return err_set(e, ERR_UNSUPPORTED, "numerics class '%s': nothing in this build computes in it; take cpu", numerics);
    return err_set(e, ERR_USAGE, "unknown numerics class '%s' (auto, cpu or cuda-smNN)", numerics);
}

static int open_cpu(const char *isa, struct pool *pool, struct backend **out, struct err *e)
{
    struct parallel par = {.run = pool_run, .ctx = pool, .threads = pool ? pool_threads(pool) : 1};
    return cpu_backend_create((enum isa)isa_parse(isa ? isa : "auto"), &par, out, e);
}

int device_open(const char *isa, const char *device, struct pool *pool, struct backend **out, struct err *e)
{
    *out = NULL;
    int rc = device_check(isa, device, e);
    if (!rc && cuda_index(device) >= 0)
        rc = err_set(e, ERR_UNSUPPORTED, "device '%s': quantize computes on the CPU in this version; a GPU serves run, eval and validate (leave --device at auto; "
                     "--numerics cuda-smNN gives them the GPU)", device);
    return rc ? rc : open_cpu(isa, pool, out, e);
}

/* The plug-in and what it says of a device; *plugin NULL unless found. */
static void probe(const char *device, struct device_probe *out, const struct plugin **plugin)
{
    struct err e = {0};
    struct plugin_device d;
    char path[PLUGIN_PATH_BYTES];
    *plugin = NULL;
    *out = (struct device_probe){.index = is(device, "auto") ? 0 : cuda_index(device)};
    int rc = out->index < 0 ? err_set(&e, ERR_UNSUPPORTED, "device '%s' is no GPU", device) : plugin_load(NULL, path, sizeof path, plugin, &e);
    if (!rc) {
        snprintf(out->plugin, sizeof out->plugin, "%s", path);
        out->revision = (*plugin)->revision;
        rc = (*plugin)->device_info(out->index, &d, &e);
    }
    if (rc) {
        snprintf(out->why, sizeof out->why, "%s", e.text);
        *plugin = NULL;
        return;
    }
    out->found = true;
    out->sm = d.sm;
    out->processors = d.processors;
    out->driver = d.driver;
    out->total_bytes = d.total_bytes;
    out->free_bytes = d.free_bytes;
    snprintf(out->no_machete, sizeof out->no_machete, "%s", d.no_machete);
    snprintf(out->name, sizeof out->name, "%s", d.name);
    snprintf(out->numerics, sizeof out->numerics, "%s", d.numerics);
    snprintf(out->key, sizeof out->key, "%s:sms%d:r%d", d.numerics, d.processors, out->revision);
}

void device_probe(const char *device, struct device_probe *out)
{
    const struct plugin *plugin;
    probe(device, out, &plugin);
}

int device_asked(const char *device, const char *capability, struct device_probe *out, struct err *e)
{
    int rc = device_check(NULL, device, e);
    *out = (struct device_probe){.index = -1};
    if (rc)
        return rc;
    if (!capability) {
        device_probe(device, out);
        return out->found || cuda_index(device) < 0 ? 0 : err_set(e, ERR_UNSUPPORTED, "device '%s': %s", device, out->why);
    }
    char *end, *last;
    long major = strtol(capability, &end, 10), minor = *end == '.' ? strtol(end + 1, &last, 10) : -1;
    if (strspn(capability, "0123456789.") != strlen(capability) || end == capability || major > 99 || minor < 0 || minor > 9 || last != end + 2 || *last)
        return err_set(e, ERR_USAGE, "unknown compute capability '%s' (8.0, 8.6, 9.0, ...)", capability);
    if (major < 8)
        return err_set(e, ERR_USAGE, "compute capability %s: the CUDA kernels serve 8.0 and newer", capability);
    out->sm = (int)(10 * major + minor);
    return 0;
}

/* Words that cannot all be meant. */
static int check_want(const struct device_want *w, struct err *e)
{
    int rc = device_check(w->isa, w->device, e);
    if (!rc)
        rc = device_check_numerics(w->numerics, e);
    if (rc)
        return rc;
    bool cpu_class = is(w->numerics, "cpu"), gpu_class = !cpu_class && !is(w->numerics, "auto"), gpu = cuda_index(w->device) >= 0;
    bool gpu_kernel = !is(w->kernel, "auto") && !is(w->kernel, "cpu");
    if ((gpu && cpu_class) || (is(w->device, "cpu") && gpu_class))
        return err_set(e, ERR_USAGE, "device '%s' does not compute in numerics class '%s'", w->device, w->numerics);
    if (is(w->kernel, "cpu") && (gpu || gpu_class))
        return err_set(e, ERR_USAGE, "kernel 'cpu' does not run on %s '%s'", gpu ? "device" : "a device of class", gpu ? w->device : w->numerics);
    if (gpu_kernel && (is(w->device, "cpu") || cpu_class))
        return err_set(e, ERR_USAGE, "kernel '%s' needs a GPU, and %s is 'cpu'", w->kernel, cpu_class ? "the numerics class" : "the device");
    return 0;
}

int device_open_any(const struct device_want *w, struct pool *pool, struct backend **out, struct err *e)
{
    *out = NULL;
    int rc = check_want(w, e);
    if (rc)
        return rc;
    if (is(w->device, "cpu") || is(w->numerics, "cpu") || is(w->kernel, "cpu"))
        return open_cpu(w->isa, pool, out, e);
    const struct plugin *plugin;
    struct device_probe p;
    probe(w->device, &p, &plugin);
    bool any_class = is(w->numerics, "auto"), any_kernel = is(w->kernel, "auto");
    if (!p.found && cuda_index(w->device) >= 0)
        return err_set(e, ERR_UNSUPPORTED, "device '%s': %s", w->device, p.why);
    if (!p.found && !any_class)
        return err_set(e, ERR_UNSUPPORTED, "numerics class '%s': %s", w->numerics, p.why);
    if (!p.found && !any_kernel)
        return err_set(e, ERR_UNSUPPORTED, "kernel '%s' needs a GPU: %s", w->kernel, p.why);
    if (!p.found || (any_class && any_kernel && cuda_index(w->device) < 0 && !(w->proven && w->proven(w->arg, &p))))
        return open_cpu(w->isa, pool, out, e);
    if (!any_class && strcmp(w->numerics, p.numerics) != 0)
        return err_set(e, ERR_UNSUPPORTED, "numerics class '%s': cuda:%d (%s) computes in %s", w->numerics, p.index, p.name, p.numerics);
    struct parallel par = {.run = pool_run, .ctx = pool, .threads = pool ? pool_threads(pool) : 1};
    return plugin->open(&(struct plugin_options){.device = p.index, .kernel = w->kernel ? w->kernel : "auto"}, &par, out, e);
}

static void count_row(void *arg, const char *row, uint64_t calls)
{
    struct run_ctx *r = arg;
    r->count_kernel(r, row, calls);
}

void device_count(const struct backend *b, struct run_ctx *r)
{
    if (r->count_kernel)
        b->each_count(b, count_row, r);
}

void device_close(struct backend *b)
{
    if (b)
        b->destroy(b);
}

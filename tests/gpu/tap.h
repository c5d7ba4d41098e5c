/* What the GPU checks share: TAP lines, the two backends. Problems and bounds are kernels/problem.h. Exit status is the verdict. */
#ifndef TESTS_GPU_TAP_H
#define TESTS_GPU_TAP_H

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/half.h"
#include "kernels/plugin.h"
#include "kernels/problem.h"
#include "kernels/wfmt.h"
#include "pipeline/base/pool.h"

#define HELPER static __attribute__((unused))

struct tap {
    int count, failed;
};
static struct tap tap;

HELPER bool tap_ok(bool good, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
HELPER bool tap_ok(bool good, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("%sok %d - ", good ? "" : "not ", ++tap.count);
    vprintf(fmt, ap);
    putchar('\n');
    va_end(ap);
    fflush(stdout);
    tap.failed += !good;
    return good;
}

HELPER int tap_done(void)
{
    printf("1..%d\n", tap.count);
    return tap.failed != 0;
}

/* A call that must succeed: anything else ends the program, failed. */
#define MUST(call)                                                                                                                                                \
    do {                                                                                                                                                          \
        if (call) {                                                                                                                                               \
            printf("Bail out! %s:%d: %s\n", __FILE__, __LINE__, err.text);                                                                                         \
            exit(1);                                                                                                                                              \
        }                                                                                                                                                         \
    } while (0)

static struct err err;

/* The device under test and the CPU beside it. */
struct rig {
    struct backend *gpu, *cpu;
    struct pool *pool;
    const struct plugin *plugin;
    struct plugin_device device;
};

/* argv[1]: the plug-in. Without a device the whole program is one skip, and ends. */
HELPER struct rig rig_open(const char *plugin_path, const char *kernel)
{
    struct rig r = {0};
    char path[PLUGIN_PATH_BYTES];
    int devices = 0;
    MUST(plugin_load(plugin_path, path, sizeof path, &r.plugin, &err));
    if (r.plugin->device_count(&devices, &err)) {
        printf("1..0 # SKIP %s\n", err.text);
        exit(0);
    }
    MUST(r.plugin->device_info(0, &r.device, &err));
    r.pool = pool_create(pool_cpu_count());
    struct parallel par = {.run = pool_run, .ctx = r.pool, .threads = pool_threads(r.pool)};
    MUST(r.plugin->open(&(struct plugin_options){.device = 0, .kernel = kernel}, &par, &r.gpu, &err));
    MUST(cpu_backend_create(ISA_AUTO, &par, &r.cpu, &err));
    printf("# %s, %s, %d processors\n", r.device.name, r.device.numerics, r.device.processors);
    return r;
}

HELPER void rig_close(struct rig *r)
{
    r->gpu->destroy(r->gpu);
    r->cpu->destroy(r->cpu);
    pool_free(r->pool);
}

/* Device memory with the values of a host array. */
HELPER float *on_device(struct backend *b, const float *host, size_t n)
{
    float *p;
    MUST(problem_put(b, host, n, &p, &err));
    return p;
}

HELPER float *to_host(struct backend *b, const float *device, size_t n)
{
    float *p;
    MUST(problem_get(b, device, n, &p, &err));
    return p;
}

HELPER bool same(const float *a, const float *b, size_t n)
{
    return memcmp(a, b, n * sizeof *a) == 0;
}

#endif

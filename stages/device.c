#include "stages/device.h"

#include <stdlib.h>
#include <string.h>

/* "cuda" or "cuda:N" with N a plain number */
static bool names_cuda(const char *device)
{
    if (strncmp(device, "cuda", 4) != 0)
        return false;
    const char *p = device + 4;
    if (!*p)
        return true;
    if (*p++ != ':' || !*p)
        return false;
    return strspn(p, "0123456789") == strlen(p);
}

int device_check(const char *isa, const char *device, struct err *e)
{
    if (isa && isa_parse(isa) < 0)
        return err_set(e, ERR_USAGE, "unknown instruction set '%s' (auto, scalar, avx2 or avx512)", isa);
    if (!device || !strcmp(device, "auto") || !strcmp(device, "cpu"))
        return 0;
    if (names_cuda(device))
        return err_set(e, ERR_UNSUPPORTED, "device '%s': there is no CUDA plug-in in this build; take cpu", device);
    return err_set(e, ERR_USAGE, "unknown device '%s' (auto, cpu or cuda[:N])", device);
}

int device_check_numerics(const char *numerics, struct err *e)
{
    static const char *const known[] = {"cpu-a8", "cpu-bf16", "cpu-amx", "cuda-sm80", "cuda-sm86", "cuda-sm89", "cuda-sm90"};
    if (!numerics || !strcmp(numerics, "auto") || !strcmp(numerics, "cpu"))
        return 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(numerics, known[i]))
            return err_set(e, ERR_UNSUPPORTED, "numerics class '%s': nothing in this build computes in it; take cpu", numerics);
    return err_set(e, ERR_USAGE, "unknown numerics class '%s' (auto or cpu)", numerics);
}

int device_open(const char *isa, const char *device, struct pool *pool, struct backend **out, struct err *e)
{
    *out = NULL;
    int rc = device_check(isa, device, e);
    if (rc)
        return rc;
    struct parallel par = {.run = pool_run, .ctx = pool, .threads = pool ? pool_threads(pool) : 1};
    return cpu_backend_create((enum isa)isa_parse(isa ? isa : "auto"), &par, out, e);
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

/* A plug-in for tests: the emulated one (path REAL), with something wrong that the environment names: BROKEN=wrong (silu of 4099 values is off by a hundredth, marlin's products of
 * one token by a bit; the token chosen for a row alone is another; marlin's products of 7 tokens that one launch makes together, and its products of halves that an op has
 * left, are off by one), crash, hang, exit or error (rope does), probe (its device is asked for and hangs). Without BROKEN it is the emulated plug-in under other bytes. */
#include <dlfcn.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/plugin.h"

struct plugin gptqpipe_cuda;
static const struct plugin *real;
static struct backend_ops ops; /* of the backend opened last */
static const struct backend_ops *real_ops;
static bool marlin;

static bool is(const char *what)
{
    const char *broken = getenv("BROKEN");
    return broken && !strcmp(broken, what);
}

static void hang(void)
{
    while (pause())
        ;
}

static int rope(struct backend *b, const struct rope_args *a, struct err *e)
{
    if (is("crash"))
        raise(SIGSEGV);
    if (is("hang"))
        hang();
    if (is("exit"))
        _exit(3);
    if (is("error"))
        return err_set(e, ERR_DEVICE, "cuda:0: rope: an illegal memory access was encountered");
    return real_ops->rope(b, a, e);
}

static int silu(struct backend *b, float *y, const float *gate, const float *up, int64_t M, int64_t K, struct err *e)
{
    int rc = real_ops->silu_mul(b, y, gate, up, M, K, e);
    float x;
    if (rc || !is("wrong") || K != 4099 || (rc = real_ops->download(b, &x, y, sizeof x, e)))
        return rc;
    x *= 1.01f;
    return real_ops->upload(b, y, &x, sizeof x, e);
}

/* A number that is not right any more. */
static int spoil(struct backend *b, float *y, struct err *e)
{
    float x;
    int rc = real_ops->download(b, &x, y, sizeof x, e);
    x += 1;
    return rc ? rc : real_ops->upload(b, y, &x, sizeof x, e);
}

struct counted {
    const char *row; /* calls of rows that begin so */
    uint64_t calls;
};

static void count_row(void *arg, const char *row, uint64_t calls)
{
    struct counted *c = arg;
    if (!strncmp(row, c->row, strlen(c->row)))
        c->calls += calls;
}

static uint64_t calls_of(struct backend *b, const char *row)
{
    struct counted c = {row, 0};
    b->each_count(b, count_row, &c);
    return c.calls;
}

static int linear(struct backend *b, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const struct weight *w, const float *bias, bool accumulate, struct err *e)
{
    const uint64_t splits = calls_of(b, "split_");
    int rc = real_ops->linear(b, y, ldy, x, ldx, M, w, bias, accumulate, e);
    float z;
    if (!rc && is("wrong") && marlin && calls_of(b, "split_") == splits)
        return spoil(b, y, e);
    if (rc || !is("wrong") || M != 1 || !marlin || (rc = real_ops->download(b, &z, y, sizeof z, e)))
        return rc;
    z = nextafterf(z, 1e30f);
    return real_ops->upload(b, y, &z, sizeof z, e);
}

static int sample(struct backend *b, const float *logits, int64_t M, int64_t V, const struct sample_row *rows, int32_t *ids, struct err *e)
{
    int rc = real_ops->sample(b, logits, M, V, rows, ids, e);
    if (!rc && is("wrong") && M == 1)
        ids[0] ^= 1;
    return rc;
}

static int linear_many(struct backend *b, const struct linear_part *parts, int n, const float *x, int64_t ldx, int64_t M, struct err *e)
{
    const uint64_t before = calls_of(b, "linear_");
    int rc = real_ops->linear_many(b, parts, n, x, ldx, M, e);
    return rc || !is("wrong") || M != 7 || n < 2 || calls_of(b, "linear_") != before + 1 ? rc : spoil(b, parts[n - 1].y, e);
}

static int open_backend(const struct plugin_options *o, const struct parallel *par, struct backend **out, struct err *e)
{
    int rc = real->open(o, par, out, e);
    if (rc)
        return rc;
    marlin = !strcmp(o->kernel, "marlin");
    real_ops = (*out)->ops;
    ops = *real_ops;
    ops.rope = rope;
    ops.silu_mul = silu;
    ops.linear = linear;
    ops.linear_many = linear_many;
    ops.sample = sample;
    (*out)->ops = &ops;
    return 0;
}

static int device_info(int device, struct plugin_device *out, struct err *e)
{
    if (is("probe"))
        hang();
    return real->device_info(device, out, e);
}

__attribute__((constructor)) static void wrap(void)
{
    void *handle = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
    real = handle ? dlsym(handle, PLUGIN_SYMBOL) : NULL;
    if (!real)
        abort();
    gptqpipe_cuda = *real;
    gptqpipe_cuda.open = open_backend;
    gptqpipe_cuda.device_info = device_info;
}

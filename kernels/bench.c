#include "kernels/bench.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/half.h"
#include "kernels/wfmt.h"

enum { NOISE_FLOATS = 1 << 20, COPIES_MAX = 512 /* small matrices come from a cache, as small models do */, GROUP = 128 };
static const double rotate_bytes = 256e6, bound_seconds = 0.2; /* a bound is measured so long at least: every share rests on it */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint64_t rnd(uint64_t *s)
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* n floats of [-1, 1) on the device. */
static int fill(struct backend *b, float *device, int64_t n, struct err *e)
{
    uint64_t seed = 1;
    float *noise = malloc(NOISE_FLOATS * sizeof *noise);
    if (!noise)
        return err_set(e, ERR_NOMEM, "no memory for %d values of noise", NOISE_FLOATS);
    for (int i = 0; i < NOISE_FLOATS; i++)
        noise[i] = (float)((double)(int64_t)rnd(&seed) * 0x1p-63);
    int rc = 0;
    for (int64_t i = 0; !rc && i < n; i += NOISE_FLOATS)
        rc = b->ops->upload(b, device + i, noise, (size_t)(n - i < NOISE_FLOATS ? n - i : NOISE_FLOATS) * sizeof *noise, e);
    free(noise);
    return rc;
}

int bench_floats(struct backend *b, int64_t n, float **out, struct err *e)
{
    void *p = NULL;
    int rc = b->ops->alloc(b, (size_t)n * sizeof(float), &p, e);
    *out = p;
    return rc ? rc : fill(b, *out, n, e);
}

/* What is queued on b is done. */
static int wait(const struct bench *k, struct backend *b, struct err *e)
{
    float x;
    return b->ops->download(b, &x, k->array, sizeof x, e);
}

static int batch(const struct bench *k, struct backend *b, int (*call)(void *arg, int i, struct err *e), void *arg, int calls, double *seconds, struct err *e)
{
    double start = now();
    int rc = 0;
    for (int i = 0; !rc && i < calls; i++)
        rc = call(arg, i, e);
    if (!rc)
        rc = wait(k, b, e);
    *seconds = (now() - start) / calls;
    return rc;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct bench_time bench_median(double *times, size_t n)
{
    qsort(times, n, sizeof *times, ascending);
    double median = n % 2 ? times[n / 2] : (times[n / 2 - 1] + times[n / 2]) / 2;
    return (struct bench_time){.seconds = median, .shortest = times[0], .spread = median > 0 ? (times[n - 1] - times[0]) / median : 0};
}

int bench_run(const struct bench *k, struct backend *b, int (*call)(void *arg, int i, struct err *e), void *arg, struct bench_time *t, struct err *e)
{
    double times[BENCH_TIMES], once;
    int rc = batch(k, b, call, arg, 1, &once, e); /* a first call makes room, loads code */
    if (!rc)
        rc = batch(k, b, call, arg, 1, &once, e);
    const double calls = once > 0 ? k->seconds / BENCH_TIMES / once : 1;
    for (int i = 0; !rc && i < BENCH_TIMES; i++)
        rc = batch(k, b, call, arg, calls > 1e6 ? 1000000 : (int)calls + 1, &times[i], e);
    if (!rc)
        *t = bench_median(times, BENCH_TIMES);
    return rc;
}

int bench_shape_parse(const char *word, struct bench_shape *out, struct err *e)
{
    char *x, *end;
    long long N = strtoll(word, &x, 10), K = *x ? strtoll(x + 1, &end, 10) : 0;
    if (strspn(word, "0123456789x") != strlen(word) || !*x || *end || N < 1 || K < 1 || N > INT32_MAX || K > INT32_MAX)
        return err_set(e, ERR_USAGE, "unknown shape '%s' (NxK, N outputs by K inputs: 4096x14336)", word);
    *out = (struct bench_shape){N, K};
    return 0;
}

double bench_weight_bytes(int bits, int group, int64_t N, int64_t K)
{
    const double groups = group > 0 ? (double)((K + group - 1) / group) : 1;
    return (double)(N * K) * bits / 8 + groups * (double)N * (2 + bits / 8.0);
}

double bench_bound(const struct bench_bounds *bounds, double bytes, double flops, const char **bound)
{
    const double memory = bytes / bounds->memory, arithmetic = bounds->arithmetic > 0 ? flops / bounds->arithmetic : 0;
    *bound = arithmetic > memory ? "arithmetic" : "memory";
    return arithmetic > memory ? arithmetic : memory;
}

static int call_add(void *arg, int i, struct err *e)
{
    const struct bench *k = arg;
    (void)i;
    return k->b->ops->add(k->b, k->array, k->array + k->floats / 2, k->floats / 2, e);
}

static int measure_bounds(struct bench *k, struct err *e)
{
    struct bench longer = *k;
    struct bench_time t = {.shortest = 1};
    int rc;
    if (longer.seconds < bound_seconds)
        longer.seconds = bound_seconds;
    if (!strcmp(k->b->name, "cpu")) {
        rc = bench_cpu_bounds(&longer, e);
    } else {
        rc = bench_run(&longer, k->b, call_add, k, &t, e);
        longer.bounds.memory = (double)(k->floats / 2) * 12 / t.shortest;
    }
    k->bounds = longer.bounds;
    return rc;
}

int bench_open(struct bench *k, struct err *e)
{
    uint64_t bytes = strcmp(k->b->name, "cpu") ? 1 << 30 : 256 << 20;
    if (k->memory_bytes && k->memory_bytes / 4 < bytes)
        bytes = k->memory_bytes / 4;
    k->floats = (int64_t)(bytes / sizeof(float)) / 4096 * 4096;
    int rc = bench_floats(k->b, k->floats, &k->array, e);
    return rc ? rc : measure_bounds(k, e);
}

void bench_close(struct bench *k)
{
    if (k->array)
        k->b->ops->free(k->b, k->array);
    k->array = NULL;
}

/* Products */

static int noise_matrix(struct qmatrix *q, int bits, struct bench_shape s, struct err *e)
{
    uint64_t seed = 7;
    if (qmatrix_alloc(q, s.N, s.K, bits, GROUP))
        return err_set(e, ERR_NOMEM, "no memory for codes of %lld x %lld", (long long)s.N, (long long)s.K);
    for (int64_t i = 0; i < s.N * s.K; i++)
        q->codes[i] = (uint8_t)(rnd(&seed) & ((1u << bits) - 1u));
    for (int64_t i = 0; i < q->G * s.N; i++) {
        q->scales[i] = f32_to_f16(0.01f);
        q->zeros[i] = (uint8_t)(1u << (bits - 1));
    }
    for (int64_t i = 0; i < s.K; i++)
        q->g_idx[i] = (int32_t)(i / GROUP);
    return 0;
}

static int noise_dense(struct tensor_view *v, struct bench_shape s, struct err *e)
{
    uint64_t seed = 7;
    uint16_t *bf16 = malloc((size_t)(s.N * s.K) * sizeof *bf16);
    if (!bf16)
        return err_set(e, ERR_NOMEM, "no memory for values of %lld x %lld", (long long)s.N, (long long)s.K);
    for (int64_t i = 0; i < s.N * s.K; i++)
        bf16[i] = (uint16_t)(0x3c00u | (rnd(&seed) & 0x83ffu)); /* 2^-7 .. 2^1, either sign */
    *v = (struct tensor_view){.dtype = DT_BF16, .rows = s.N, .cols = s.K, .data = bf16};
    return 0;
}

int bench_product_open(const struct bench *k, struct backend *b, int bits, struct bench_shape s, int64_t M, struct bench_product *p, struct err *e)
{
    const double fit = rotate_bytes / bench_product_bytes(bits, s);
    const int copies = k->copies ? k->copies : fit < COPIES_MAX ? (int)fit + 1 : COPIES_MAX;
    struct qmatrix q = {0};
    struct tensor_view v = {.data = NULL};
    *p = (struct bench_product){.b = b, .N = s.N, .K = s.K, .w = calloc((size_t)copies, sizeof *p->w)};
    int rc = p->w ? 0 : err_set(e, ERR_NOMEM, "no memory for %d copies", copies);
    if (!rc)
        rc = bits ? noise_matrix(&q, bits, s, e) : noise_dense(&v, s, e);
    for (; !rc && p->copies < copies; p->copies += !rc)
        rc = bits ? wfmt_weight(b, &q, &p->w[p->copies], e) : b->ops->weight_dense(b, &v, &p->w[p->copies], e);
    if (!rc)
        rc = bench_floats(b, 2 * M * s.K, &p->x, e);
    if (!rc)
        rc = bench_floats(b, M * s.N, &p->y, e);
    qmatrix_free(&q);
    free((void *)(uintptr_t)v.data);
    if (rc)
        bench_product_close(p);
    return rc;
}

void bench_product_close(struct bench_product *p)
{
    for (int i = 0; i < p->copies; i++)
        p->b->ops->weight_free(p->b, p->w[i]);
    if (p->x)
        p->b->ops->free(p->b, p->x);
    if (p->y)
        p->b->ops->free(p->b, p->y);
    free(p->w);
    *p = (struct bench_product){0};
}

static int call_linear(void *arg, int i, struct err *e)
{
    const struct bench_product *p = arg;
    const float *x = p->x + (i & 1) * p->M * p->K; /* never what the call before took: a GPU splits X each time */
    return p->b->ops->linear(p->b, p->y, p->N, x, p->K, p->M, p->w[i % p->copies], NULL, false, e);
}

int bench_product_time(const struct bench *k, struct bench_product *p, int64_t M, struct bench_time *t, struct err *e)
{
    p->M = M;
    return bench_run(k, p->b, call_linear, p, t, e);
}

double bench_product_bytes(int bits, struct bench_shape s)
{
    return bits ? bench_weight_bytes(bits, GROUP, s.N, s.K) : 2.0 * (double)(s.N * s.K);
}

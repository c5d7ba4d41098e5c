/* Speed of the CPU kernels beside the bounds of the machine, measured in the same run: FMA peak and memory read bandwidth. One line a measurement: op, shape, ISA,
 * threads, rate, the bound it is held to, ratio (above 100 % of the bandwidth: the data fits a cache).
 * Arguments: [--isa NAME] [--threads N] [--seconds S a measurement] [--only TEXT, a part of the op's line]. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/bench.h"
#include "kernels/half.h"
#include "kernels/wfmt.h"
#include "pipeline/base/pool.h"

static clockid_t clock_used = CLOCK_MONOTONIC; /* with one thread the time that it had, so that other programs disturb less */

static double now(void)
{
    struct timespec t;
    clock_gettime(clock_used, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double budget = 0.3;     /* seconds a measurement */
static const char *only_op = ""; /* measured are lines with this text */

/* Best time of one call of fn(arg). */
static double best(void (*fn)(void *), void *arg)
{
    double least = INFINITY, start = now();
    fn(arg);
    do {
        double t = now();
        fn(arg);
        t = now() - t;
        least = t < least ? t : least;
    } while (now() - start < budget);
    return least;
}

struct run {
    enum isa isa;
    int threads;
    struct pool *pool;
    struct backend *b;
    double peak_gflops, read_gbs; /* of all threads */
    /* problem at hand */
    struct weight *w;
    struct qwords words;
    float *x, *y, *z;
    int64_t M, N, K;
    struct attn_args attn;
    struct attn_back_args back;
    double *nll, *h;
    int32_t *ids;
    struct kl_row *kl;
    struct sample_row draws[16];
};

static void peak_run(void *arg)
{
    bench_cpu_fma(arg);
}

static void read_run(void *arg)
{
    bench_cpu_read(arg);
}

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "bench_kernels: out of memory\n");
        exit(1);
    }
    return p;
}

static void measure_bounds(struct run *b)
{
    enum { READ_FLOATS = 64 << 20 };
    const struct parallel par = {.run = pool_run, .ctx = b->pool, .threads = b->threads};
    struct bench k = {.par = &par, .isa = b->isa, .array = must(malloc(READ_FLOATS * sizeof *k.array)), .floats = READ_FLOATS};
    memset(k.array, 1, READ_FLOATS * sizeof *k.array);
    b->peak_gflops = bench_cpu_fma(&k) / best(peak_run, &k) * 1e-9;
    b->read_gbs = bench_cpu_read(&k) / best(read_run, &k) * 1e-9;
    free(k.array);
    printf("bounds %s threads=%d: FMA %.1f GFLOP/s, memory read %.1f GB/s\n", isa_name(b->isa), b->threads, b->peak_gflops, b->read_gbs);
}

static void line(const struct run *b, const char *what, double rate, const char *unit, double bound)
{
    if (!strstr(what, only_op))
        return;
    printf("%-34s %-7s threads=%d %9.2f %-7s of %9.2f  %5.1f %%\n", what, isa_name(b->isa), b->threads, rate, unit, bound, 100 * rate / bound);
    fflush(stdout);
}

static void linear_run(void *arg)
{
    struct run *b = arg;
    b->b->ops->linear(b->b, b->y, b->N, b->x, b->K, b->M, b->w, NULL, false, NULL);
}

static float *floats(size_t n)
{
    float *p = must(malloc(n * sizeof *p));
    uint32_t s = 1;
    for (size_t i = 0; i < n; i++)
        p[i] = (float)((s = s * 1664525u + 1013904223u) >> 8) * 0x1p-24f - 0.5f;
    return p;
}

static const char *const kinds[] = {"f32", "f16", "bf16", "w4", "w4 desc_act", "w8"};
enum { KINDS = 6 };

/* The weight of a kind; its bytes to *bytes. */
static struct weight *weight_of(struct run *b, int kind, int64_t N, int64_t K, double *bytes)
{
    struct weight *w = NULL;
    struct err e = {0};
    if (kind < 3) {
        static const enum dtype dtypes[] = {DT_F32, DT_F16, DT_BF16};
        struct tensor_view t = {.dtype = dtypes[kind], .rows = N, .cols = K, .data = must(calloc((size_t)(N * K), dtype_bytes(dtypes[kind])))};
        for (int64_t i = 0; kind == 0 && i < N * K; i++)
            ((float *)(uintptr_t)t.data)[i] = (float)(i % 17) * 0.1f;
        for (int64_t i = 0; kind && i < N * K; i++)
            ((uint16_t *)(uintptr_t)t.data)[i] = (uint16_t)(0x3c00 + i % 17);
        b->b->ops->weight_dense(b->b, &t, &w, &e);
        free((void *)(uintptr_t)t.data);
        *bytes = (double)(N * K) * (double)dtype_bytes(dtypes[kind]);
    } else {
        struct qmatrix q;
        int bits = kind == 5 ? 8 : 4;
        if (qmatrix_alloc(&q, N, K, bits, 128))
            must(NULL);
        for (int64_t i = 0; i < N * K; i++)
            q.codes[i] = (uint8_t)(i * 7 % (1 << bits));
        for (int64_t i = 0; i < q.G * N; i++) {
            q.scales[i] = f32_to_f16(0.01f);
            q.zeros[i] = 8;
        }
        for (int64_t k = 0; k < K; k++)
            q.g_idx[k] = (int32_t)(kind == 4 ? k * 5 % q.G : k / 128);
        wfmt_weight(b->b, &q, &w, &e);
        qmatrix_free(&q);
        *bytes = (double)(N * K) * bits / 8;
    }
    return must(w);
}

static void bench_linear(struct run *b, int64_t N, int64_t K)
{
    static const int64_t rows[] = {1, 2, 4, 8, 16, 64, 512};
    for (int kind = 0; kind < KINDS; kind++) {
        double bytes;
        b->w = weight_of(b, kind, N, K, &bytes);
        b->N = N;
        b->K = K;
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            if (b->isa == ISA_SCALAR && rows[i] > 4)
                break;
            b->M = rows[i];
            b->x = floats((size_t)(b->M * K));
            b->y = floats((size_t)(b->M * N));
            char what[100];
            snprintf(what, sizeof what, "linear %s %lldx%lld M=%lld", kinds[kind], (long long)N, (long long)K, (long long)b->M);
            double t = strstr(what, only_op) ? best(linear_run, b) : 0, flops = 2.0 * (double)(b->M * N * K);
            /* What bounds it: arithmetic, or reading the weights once. */
            if (flops / b->peak_gflops > bytes / b->read_gbs)
                line(b, what, flops / t * 1e-9, "GFLOP/s", b->peak_gflops);
            else
                line(b, what, bytes / t * 1e-9, "GB/s", b->read_gbs);
            free(b->x);
            free(b->y);
        }
        b->b->ops->weight_free(b->b, b->w);
    }
}

static void load_run(void *arg)
{
    struct run *b = arg;
    struct weight *w;
    if (b->b->ops->weight_quantized(b->b, &b->words, &w, NULL))
        must(NULL);
    b->b->ops->weight_free(b->b, w);
}

/* A checkpoint's words into the backend's own order: bytes read and bytes written. */
static void bench_load(struct run *b, int64_t N, int64_t K)
{
    static const int bits[] = {2, 3, 4, 8};
    for (int i = 0; i < 4; i++) {
        struct qmatrix q;
        struct err e;
        if (qmatrix_alloc(&q, N, K, bits[i], 128) || wfmt_pack(&q, &b->words, &e))
            must(NULL);
        for (int64_t k = 0; k < K; k++)
            q.g_idx[k] = (int32_t)(k / 128);
        char what[100];
        snprintf(what, sizeof what, "load w%d %lldx%lld", bits[i], (long long)N, (long long)K);
        if (strstr(what, only_op))
            line(b, what, (double)(N * K) / 8 * (bits[i] + (bits[i] == 8 ? 8 : 4)) / best(load_run, b) * 1e-9, "GB/s", b->read_gbs);
        qwords_free(&b->words);
        qmatrix_free(&q);
    }
}

/* A line of an op that is held to the FMA peak. */
static void arithmetic(struct run *b, const char *what, void (*fn)(void *), double flops)
{
    if (strstr(what, only_op))
        line(b, what, flops / best(fn, b) * 1e-9, "GFLOP/s", b->peak_gflops);
}

static void attention_run(void *arg)
{
    struct run *b = arg;
    b->b->ops->attention(b->b, &b->attn, NULL);
}

static void bench_attention(struct run *b, int64_t rows, int64_t pos)
{
    enum { HEADS = 16, KV_HEADS = 4, D = 128 };
    struct err e;
    struct attn_segment s = {.rows = rows, .pos = pos};
    if (b->b->ops->kv_create(b->b, 1, KV_HEADS, D, pos + rows, &s.kv, &e))
        must(NULL);
    float *q = floats((size_t)(rows * HEADS * D)), *k = floats((size_t)(rows * KV_HEADS * D)), *v = floats((size_t)(rows * KV_HEADS * D));
    b->y = floats((size_t)(rows * HEADS * D));
    b->attn = (struct attn_args){.q = q, .k = k, .v = v, .y = b->y, .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = D, .scale = 0.088f};
    b->attn.segments = &s;
    b->attn.segment_count = 1;
    char what[100];
    snprintf(what, sizeof what, "attention rows=%lld pos=%lld", (long long)rows, (long long)pos);
    double t = strstr(what, only_op) ? best(attention_run, b) : 0, seen = (double)rows * ((double)pos + (double)(rows + 1) / 2), flops = 4.0 * HEADS * D * seen;
    double bytes = 8.0 * KV_HEADS * D * (double)(pos + rows);
    if (flops / b->peak_gflops > bytes / b->read_gbs)
        line(b, what, flops / t * 1e-9, "GFLOP/s", b->peak_gflops);
    else
        line(b, what, bytes / t * 1e-9, "GB/s", b->read_gbs);
    b->b->ops->kv_free(b->b, s.kv);
    free(q);
    free(k);
    free(v);
    free(b->y);
}

static void hessian_run(void *arg)
{
    struct run *b = arg;
    b->b->ops->hessian(b->b, b->h, b->x, b->K, b->M, b->K, 0, NULL);
}

static void cross_run(void *arg)
{
    struct run *b = arg;
    b->b->ops->cross(b->b, b->h, b->y, b->K, b->K, b->x, b->K, b->K, b->M, 0, NULL);
}

/* Sums over calibration rows: half the products of a cross make a hessian. */
static void bench_sums(struct run *b)
{
    b->M = 1024;
    b->K = b->isa == ISA_SCALAR ? 96 : 1152;
    b->x = floats((size_t)(b->M * b->K));
    b->y = floats((size_t)(b->M * b->K));
    b->h = must(calloc((size_t)(b->K * b->K), sizeof *b->h));
    const double flops = (double)b->M * (double)b->K * (double)b->K;
    arithmetic(b, "hessian", hessian_run, flops);
    arithmetic(b, "cross", cross_run, 2 * flops);
    free(b->x);
    free(b->y);
    free(b->h);
}

static void attention_back_run(void *arg)
{
    struct run *b = arg;
    b->b->ops->attention_back(b->b, &b->back, NULL);
}

/* One sequence; five products of a query row with what it sees. */
static void bench_attention_back(struct run *b, int64_t T, int heads, int kv_heads, int D, int64_t window)
{
    const size_t nq = (size_t)(T * heads * D), nk = (size_t)(T * kv_heads * D);
    const int64_t offsets[] = {0, T}, seen = window && window < T ? window * T - window * (window - 1) / 2 : T * (T + 1) / 2;
    float *p[] = {floats(nq), floats(nq), floats(nk), floats(nk), floats(nq), floats(nk), floats(nk)};
    b->back = (struct attn_back_args){.q = p[0], .dy = p[1], .k = p[2], .v = p[3], .dq = p[4], .dk = p[5], .dv = p[6], .offsets = offsets, .sequences = 1};
    b->back.heads = heads;
    b->back.kv_heads = kv_heads;
    b->back.head_dim = D;
    b->back.window = window;
    b->back.scale = 0.125f;
    char what[100];
    snprintf(what, sizeof what, "attention_back T=%lld D=%d window=%lld", (long long)T, D, (long long)window);
    arithmetic(b, what, attention_back_run, 10.0 * (double)seen * D * heads);
    for (int i = 0; i < 7; i++)
        free(p[i]);
}

static void rmsnorm_run(void *arg)
{
    struct run *b = arg;
    b->b->ops->rmsnorm(b->b, b->y, b->x, b->z, b->M, b->K, 1e-6f, NULL);
}

static void silu_run(void *arg)
{
    struct run *b = arg;
    b->b->ops->silu_mul(b->b, b->y, b->x, b->z, b->M, b->K, NULL);
}

static void rmsnorm_back_run(void *arg)
{
    struct run *b = arg;
    b->b->ops->rmsnorm_back(b->b, b->y, b->x, b->z, b->M, b->K, 1e-6f, NULL);
}

static void silu_back_run(void *arg)
{
    struct run *b = arg;
    b->b->ops->silu_back(b->b, b->x, b->z, b->M * b->K, NULL);
}

static void add_run(void *arg)
{
    struct run *b = arg;
    b->b->ops->add(b->b, b->y, b->x, b->M * b->K, NULL);
}

static void nll_run(void *arg)
{
    struct run *b = arg;
    b->b->ops->nll(b->b, b->x, b->M, b->K, b->ids, b->nll, b->ids + b->M, NULL);
}

static void kl_run(void *arg)
{
    struct run *b = arg;
    b->b->ops->kl(b->b, b->x, b->z, b->M, b->K, b->ids, b->kl, NULL);
}

static void sample_run(void *arg)
{
    struct run *b = arg;
    b->b->ops->sample(b->b, b->x, b->M, b->K, b->draws, b->ids, NULL);
}

static void row_op(struct run *b, const char *what, void (*fn)(void *), double gigabytes)
{
    if (strstr(what, only_op))
        line(b, what, gigabytes / best(fn, b), "GB/s", b->read_gbs);
}

static void bench_rows(struct run *b)
{
    b->M = 512;
    b->K = 32000;
    size_t n = (size_t)(b->M * b->K);
    double bytes = (double)n * 4e-9;
    b->x = floats(n);
    b->y = floats(n);
    b->z = floats(n);
    b->nll = must(calloc(512, sizeof *b->nll));
    b->ids = must(calloc(1024, sizeof *b->ids));
    b->kl = must(calloc(512, sizeof *b->kl));
    row_op(b, "rmsnorm", rmsnorm_run, 2 * bytes);
    row_op(b, "silu_mul", silu_run, 3 * bytes);
    row_op(b, "rmsnorm_back", rmsnorm_back_run, 3 * bytes);
    row_op(b, "silu_back", silu_back_run, 4 * bytes);
    row_op(b, "add", add_run, 3 * bytes);
    row_op(b, "nll", nll_run, 1 * bytes);
    row_op(b, "kl", kl_run, 2 * bytes);
    free(b->x);
    free(b->y);
    free(b->z);
    free(b->nll);
    free(b->ids);
    free(b->kl);
}

/* Logits as a language model's: normal, and a few that stand out. Held to reading them once. */
static void bench_sample(struct run *b, int64_t rows)
{
    static const double settings[][2] = {{0, 1}, {0.6, 0.9}, {1, 1}};
    b->M = rows;
    b->K = 128256;
    const size_t n = (size_t)(b->M * b->K);
    b->x = floats(n);
    b->z = floats(12 * n);
    for (size_t i = 0; i < n; i++) {
        float sum = 0;
        for (size_t k = 0; k < 12; k++)
            sum += b->z[12 * i + k];
        b->x[i] = 2.3f * sum + (i % 3001 == 0 ? 12.0f + 8.0f * b->x[i] : 0.0f);
    }
    b->ids = must(calloc((size_t)rows, sizeof *b->ids));
    for (size_t s = 0; s < sizeof settings / sizeof *settings; s++) {
        for (int64_t m = 0; m < rows; m++)
            b->draws[m] = (struct sample_row){settings[s][0], settings[s][1], ((double)m + 0.5) / (double)rows};
        char what[100];
        snprintf(what, sizeof what, "sample T=%g top_p=%g M=%lld", settings[s][0], settings[s][1], (long long)rows);
        row_op(b, what, sample_run, (double)n * 4e-9);
    }
    free(b->x);
    free(b->z);
    free(b->ids);
}

static int run(enum isa isa, int threads)
{
    struct run b = {.isa = isa, .threads = threads, .pool = pool_create(threads)};
    struct parallel par = {.run = pool_run, .ctx = b.pool, .threads = threads};
    struct err e;
    clock_used = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    if (cpu_backend_create(isa, &par, &b.b, &e)) {
        fprintf(stderr, "bench_kernels: %s\n", e.text);
        return 1;
    }
    measure_bounds(&b);
    bool slow = isa == ISA_SCALAR;
    bench_linear(&b, slow ? 256 : 4096, slow ? 256 : 4096);
    bench_load(&b, slow ? 256 : 4096, slow ? 256 : 4096);
    bench_attention(&b, 1, slow ? 100 : 4000);
    bench_attention(&b, slow ? 16 : 512, 0);
    bench_attention_back(&b, slow ? 32 : 512, 9, 3, 64, 0);
    if (!slow)
        bench_attention_back(&b, 2048, 8, 4, 128, 0);
    if (!slow)
        bench_attention_back(&b, 2048, 8, 4, 64, 512);
    bench_sums(&b);
    if (!slow)
        bench_rows(&b);
    for (int64_t rows = 1; rows <= (slow ? 1 : 16); rows += 15)
        bench_sample(&b, rows);
    b.b->destroy(b.b);
    pool_free(b.pool);
    return 0;
}

int main(int argc, char **argv)
{
    int only = -1, threads = 0, rc = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--isa"))
            only = isa_parse(argv[i + 1]);
        else if (!strcmp(argv[i], "--threads"))
            threads = (int)strtol(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--seconds"))
            budget = strtod(argv[i + 1], NULL);
        else if (!strcmp(argv[i], "--only"))
            only_op = argv[i + 1];
    }
    for (int isa = ISA_SCALAR; isa <= (int)isa_best(); isa++)
        for (int t = threads ? threads : 1; t <= (threads ? threads : pool_cpu_count()); t++)
            if (only < 0 || only == isa)
                rc |= run((enum isa)isa, t);
    return rc;
}

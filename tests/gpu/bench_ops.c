/* Speed of the device's ops, each as share of the bandwidth that `add` reaches over arrays far beyond any cache (12 bytes an element), measured in the same run.
 * Weights are rotated over copies that together exceed 256 MB. Work is queued without waiting in between: small ops show the cost of a launch.
 *   bench_ops PLUGIN                  quantized products in every class that has them
 *   bench_ops PLUGIN --tune [small]   rows for kernels/select.def: each class timed on layer shapes at M 1, 16 and 256, the best by geometric mean; small: tiny shapes, for
 *                                     the emulated device, whose times say nothing */
#include <time.h>

#include "tests/gpu/tap.h"

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct bench {
    struct backend *b;
    double peak; /* bytes a second */
    float *big;  /* device, `big_floats` */
    int64_t big_floats;
    double rotate; /* bytes of weights to go round in */
};

static const char *const classes[] = {"simple", "marlin"};
enum { CLASSES = sizeof classes / sizeof *classes };

static void wait(struct bench *k)
{
    float x;
    MUST(k->b->ops->download(k->b, &x, k->big, sizeof x, &err));
}

/* Seconds of one call: the median of five batches, each of about 20 ms. */
static double time_of(struct bench *k, void (*call)(struct bench *k, void *arg, int i), void *arg)
{
    double times[5], once;
    int n = 4;
    for (int i = 0; i < 3; i++)
        call(k, arg, i);
    wait(k);
    once = seconds();
    for (int i = 0; i < n; i++)
        call(k, arg, i);
    wait(k);
    once = (seconds() - once) / n;
    n = once > 0.005 ? 4 : (int)(0.02 / once) + 1;
    for (int t = 0; t < 5; t++) {
        double start = seconds();
        for (int i = 0; i < n; i++)
            call(k, arg, i);
        wait(k);
        times[t] = (seconds() - start) / n;
    }
    for (int i = 0; i < 5; i++)
        for (int j = i + 1; j < 5; j++)
            if (times[j] < times[i]) {
                double swap = times[i];
                times[i] = times[j];
                times[j] = swap;
            }
    return times[2];
}

static void report(const struct bench *k, const char *what, double s, double bytes, double flops)
{
    printf("%-44s %10.2f us %8.1f GB/s %5.1f %%", what, s * 1e6, bytes / s * 1e-9, 100 * bytes / s / k->peak);
    if (flops > 0)
        printf(" %8.2f TFLOP/s", flops / s * 1e-12);
    putchar('\n');
    fflush(stdout);
}

static void call_add(struct bench *k, void *arg, int i)
{
    (void)arg, (void)i;
    MUST(k->b->ops->add(k->b, k->big, k->big + k->big_floats / 2, k->big_floats / 2, &err));
}

static void call_silu(struct bench *k, void *arg, int i)
{
    (void)arg, (void)i;
    int64_t n = k->big_floats / 4;
    MUST(k->b->ops->silu_mul(k->b, k->big, k->big + n, k->big + 2 * n, 1, n, &err));
}

static void call_rmsnorm(struct bench *k, void *arg, int i)
{
    int64_t K = *(int64_t *)arg, M = k->big_floats / 2 / K - 1;
    (void)i;
    MUST(k->b->ops->rmsnorm(k->b, k->big, k->big + k->big_floats / 2, k->big, M, K, 1e-6f, &err));
}

enum { COPIES_MAX = 512 }; /* small matrices come from L2, as small models do */

struct product {
    struct weight **w;
    int copies;
    int64_t M, N, K;
};

static void call_linear(struct bench *k, void *arg, int i)
{
    const struct product *p = arg;
    const float *x = k->big + k->big_floats / 2 + (i & 1) * p->M * p->K; /* never what the call before took: X is split each time */
    MUST(k->b->ops->linear(k->b, k->big, p->N, x, p->K, p->M, p->w[i % p->copies], NULL, false, &err));
}

static double weight_bytes(int bits, int64_t N, int64_t K)
{
    return bits ? (double)(N * K) * bits / 8 + (double)(N * K) / 128 * 4 : 2.0 * (double)(N * K);
}

/* Copies of a matrix of noise; bits 0: bf16. */
static struct product product_new(struct bench *k, int bits, int64_t N, int64_t K)
{
    const int copies = (int)(k->rotate / weight_bytes(bits, N, K)) + 1;
    struct product p = {.N = N, .K = K, .copies = copies < COPIES_MAX ? copies : COPIES_MAX};
    p.w = calloc((size_t)p.copies, sizeof *p.w);
    uint64_t seed = 7;
    struct qmatrix q = {0};
    uint16_t *dense = malloc((size_t)(N * K) * 2);
    for (int64_t i = 0; i < N * K; i++)
        dense[i] = (uint16_t)(0x3c00u | (rnd(&seed) & 0x83ffu));
    if (bits && qmatrix_alloc(&q, N, K, bits, 128))
        abort();
    for (int64_t i = 0; bits && i < N * K; i++)
        q.codes[i] = (uint8_t)(dense[i] & ((1u << bits) - 1u));
    for (int64_t i = 0; bits && i < q.G * N; i++) {
        q.scales[i] = f32_to_f16(0.01f);
        q.zeros[i] = (uint8_t)(1u << (bits - 1));
    }
    for (int64_t i = 0; bits && i < K; i++)
        q.g_idx[i] = (int32_t)(i / 128);
    struct tensor_view view = {.dtype = DT_BF16, .rows = N, .cols = K, .data = dense};
    for (int c = 0; c < p.copies; c++)
        MUST(bits ? wfmt_weight(k->b, &q, &p.w[c], &err) : k->b->ops->weight_dense(k->b, &view, &p.w[c], &err));
    free(dense);
    qmatrix_free(&q);
    return p;
}

static void product_free(struct bench *k, struct product *p)
{
    for (int c = 0; c < p->copies; c++)
        k->b->ops->weight_free(k->b, p->w[c]);
    free(p->w);
}

static void bench_linear(struct bench *k, const char *class, int bits, int64_t N, int64_t K, const int64_t *rows, int count)
{
    struct product p = product_new(k, bits, N, K);
    for (int i = 0; i < count; i++) {
        char what[80];
        p.M = rows[i];
        snprintf(what, sizeof what, "%s %s %lldx%lld M %lld", class, bits == 4 ? "w4" : bits == 8 ? "w8" : "bf16", (long long)N, (long long)K, (long long)p.M);
        report(k, what, time_of(k, call_linear, &p), weight_bytes(bits, N, K) + (double)(p.M * (N + K)) * 4, 2.0 * (double)p.M * (double)N * (double)K);
    }
    product_free(k, &p);
}

/* A backend for each class, on the same device. */
static void open_classes(const struct rig *r, struct backend **of)
{
    struct parallel par = {.run = pool_run, .ctx = r->pool, .threads = pool_threads(r->pool)};
    for (int i = 0; i < CLASSES; i++)
        MUST(r->plugin->open(&(struct plugin_options){.device = 0, .kernel = classes[i]}, &par, &of[i], &err));
}

enum { TUNED_ROWS = 3 };
static const int64_t tuned_rows[TUNED_ROWS] = {1, 16, 256}, few_rows[TUNED_ROWS] = {1, 4, 16};

static void tune_shape(struct bench *k, struct backend **of, int bits, const int64_t *shape, const int64_t *rows)
{
    double us[CLASSES][TUNED_ROWS], mean[CLASSES] = {0};
    int best = 0;
    for (int c = 0; c < CLASSES; c++) {
        k->b = of[c];
        struct product p = product_new(k, bits, shape[0], shape[1]);
        for (int i = 0; i < TUNED_ROWS; i++) {
            p.M = rows[i];
            us[c][i] = 1e6 * time_of(k, call_linear, &p);
            mean[c] += log(us[c][i]);
        }
        product_free(k, &p);
        best = mean[c] < mean[best] ? c : best;
    }
    printf("SELECT(%d, %lld, %lld, %s) /*", bits, (long long)shape[0], (long long)shape[1], classes[best]);
    for (int c = 0; c < CLASSES; c++)
        printf(" %s %.1f %.1f %.1f%s", classes[c], us[c][0], us[c][1], us[c][2], c + 1 < CLASSES ? "," : " us */\n");
    fflush(stdout);
}

/* Largest shapes first: the first row that a matrix is large enough for decides. */
static void tune(struct rig *r, bool small)
{
    static const int64_t shapes[][2] = {{28672, 8192}, {28672, 4096}, {4096, 14336}, {8192, 8192}, {6144, 4096}, {4096, 4096}, {1024, 4096}, {1536, 576}, {576, 576}, {64, 64}},
                         tiny[][2] = {{128, 256}, {64, 64}};
    struct backend *of[CLASSES];
    open_classes(r, of);
    struct bench k = {.b = of[0], .big_floats = small ? 1 << 14 : 32 << 20, .rotate = small ? 1e4 : 256e6};
    void *big;
    MUST(r->gpu->ops->alloc(r->gpu, (size_t)k.big_floats * sizeof(float), &big, &err));
    k.big = big;
    const int64_t(*list)[2] = small ? tiny : shapes;
    printf("# rows for kernels/select.def, timed on %s; us a product at M %d, %d, %d\n", r->device.name, (int)(small ? few_rows : tuned_rows)[0],
           (int)(small ? few_rows : tuned_rows)[1], (int)(small ? few_rows : tuned_rows)[2]);
    for (int bits = 4; bits <= 8; bits += 4)
        for (size_t i = 0; i < (small ? sizeof tiny / sizeof *tiny : sizeof shapes / sizeof *shapes); i++)
            tune_shape(&k, of, bits, list[i], small ? few_rows : tuned_rows);
    r->gpu->ops->free(r->gpu, big);
    for (int c = 0; c < CLASSES; c++)
        of[c]->destroy(of[c]);
}

struct decode {
    struct attn_args a;
    struct attn_segment seg[16];
};

static void call_attention(struct bench *k, void *arg, int i)
{
    struct decode *d = arg;
    d->a.layer = i % 2;
    MUST(k->b->ops->attention(k->b, &d->a, &err));
}

static void bench_attention(struct bench *k, int sequences, int64_t rows, int64_t pos)
{
    enum { HEADS = 32, KV = 8, D = 128 };
    struct decode d = {.a = {.heads = HEADS, .kv_heads = KV, .head_dim = D, .scale = 0.088f, .segment_count = (size_t)sequences}};
    int64_t M = sequences * rows;
    d.a.segments = d.seg;
    d.a.y = k->big;
    d.a.q = k->big + M * HEADS * D;
    d.a.k = k->big + 2 * M * HEADS * D;
    d.a.v = k->big + 3 * M * HEADS * D;
    for (int i = 0; i < sequences; i++) {
        struct kv_cache *kv;
        MUST(k->b->ops->kv_create(k->b, 2, KV, D, pos + rows, &kv, &err));
        d.seg[i] = (struct attn_segment){.kv = kv, .row = i * rows, .rows = pos ? pos : rows, .pos = 0};
    }
    if (pos) { /* fill the caches: any values will do, but finite ones */
        for (int layer = 0; layer < 2; layer++)
            for (int i = 0; i < sequences; i++) {
                struct attn_segment one = d.seg[i];
                one.row = 0;
                struct attn_args fill = d.a;
                fill.segments = &one;
                fill.segment_count = 1;
                fill.layer = layer;
                fill.y = k->big;
                fill.q = fill.k = fill.v = k->big + k->big_floats / 2;
                MUST(k->b->ops->attention(k->b, &fill, &err));
            }
        for (int i = 0; i < sequences; i++) {
            d.seg[i].rows = rows;
            d.seg[i].pos = pos;
        }
    }
    char what[80];
    snprintf(what, sizeof what, "attention 32/8x128, %d x %lld rows at %lld", sequences, (long long)rows, (long long)pos);
    double positions = (double)pos + (double)rows / 2;
    report(k, what, time_of(k, call_attention, &d), (double)sequences * ((double)pos + (double)rows) * KV * D * 8, 4.0 * (double)M * positions * HEADS * D);
    for (int i = 0; i < sequences; i++)
        k->b->ops->kv_free(k->b, d.seg[i].kv);
}

static void bench_all(struct rig *r)
{
    struct bench k = {.b = r->gpu, .big_floats = 256 << 20, .peak = 1, .rotate = 256e6};
    void *big;
    MUST(r->gpu->ops->alloc(r->gpu, (size_t)k.big_floats * sizeof(float), &big, &err));
    k.big = big;
    uint64_t seed = 1;
    size_t piece = 1 << 20;
    float *noise = rnd_floats(piece, &seed);
    for (int64_t i = 0; i < k.big_floats; i += (int64_t)piece)
        MUST(r->gpu->ops->upload(r->gpu, k.big + i, noise, piece * sizeof *noise, &err));
    free(noise);
    double add = time_of(&k, call_add, NULL);
    k.peak = (double)k.big_floats / 2 * 12 / add;
    report(&k, "add (the measure)", add, (double)k.big_floats / 2 * 12, 0);
    report(&k, "silu_mul", time_of(&k, call_silu, NULL), (double)k.big_floats / 4 * 12, 0);
    int64_t widths[] = {128, 4096, 14336};
    for (int i = 0; i < 3; i++) {
        char what[40];
        snprintf(what, sizeof what, "rmsnorm of %d", (int)widths[i]);
        report(&k, what, time_of(&k, call_rmsnorm, &widths[i]), (double)(k.big_floats / 2 - widths[i]) * 8, 0);
    }
    static const int64_t rows[] = {1, 4, 8, 16, 64, 512}, head[] = {1, 16};
    bench_linear(&k, "dense", 0, 128256, 4096, head, 2);
    bench_linear(&k, "dense", 0, 4096, 4096, rows, 6);
    struct backend *of[CLASSES];
    open_classes(r, of);
    for (int c = 0; c < CLASSES; c++) {
        k.b = of[c];
        bench_linear(&k, classes[c], 4, 4096, 4096, rows, 6);
        bench_linear(&k, classes[c], 4, 28672, 4096, rows, 6);
        bench_linear(&k, classes[c], 4, 4096, 14336, rows, 6);
        bench_linear(&k, classes[c], 8, 4096, 4096, rows, 6);
    }
    k.b = r->gpu;
    for (int c = 0; c < CLASSES; c++)
        of[c]->destroy(of[c]);
    bench_attention(&k, 1, 1, 8000);
    bench_attention(&k, 16, 1, 2000);
    bench_attention(&k, 1, 512, 0);
    bench_attention(&k, 1, 512, 2048);
    r->gpu->ops->free(r->gpu, k.big);
}

int main(int argc, char **argv)
{
    bool tuning = argc > 2 && !strcmp(argv[2], "--tune");
    if (argc < 2 || (argc > 2 && !tuning)) {
        fprintf(stderr, "usage: bench_ops PLUGIN [--tune [small]]\n");
        return 64;
    }
    struct rig r = rig_open(argv[1], "auto");
    if (tuning)
        tune(&r, argc > 3);
    else
        bench_all(&r);
    rig_close(&r);
    return 0;
}

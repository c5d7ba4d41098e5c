/* The Machete kernel on a device: checks of check_class.cuh. */
#include "kernels/cuda/machete_launch.h"
#include "tests/gpu/check_class.h"

struct packed {
    struct machete_shape shape;
    struct machete_weight weight;
};

struct config {
    struct machete_config c;
};

static struct machete_device dev;
static struct machete_report *report;

/* Of a build with MACHETE_GUARD: who waited in vain. Barriers are those of machete_args.h, from the end of the sums on. */
static void say_report(void)
{
    if (report->said)
        printf("# block %d, thread %d waits for parity %d of the barrier at %d of shared memory, which is %016llx\n", report->block, report->thread, report->parity,
               report->barrier, (unsigned long long)report->word);
}

static void class_open(const struct cudaDeviceProp *prop, bool small)
{
    struct err e;
    (void)small;
    if (prop->major != 9 || prop->minor != 0) {
        skip_program("kernel machete runs on compute capability 9.0 only");
    }
    CUDA(cudaHostAlloc(&report, sizeof *report, cudaHostAllocMapped));
    memset(report, 0, sizeof *report);
    gpu_also = say_report;
    OURS(machete_device_open(&dev, &e), e);
    for (int b = 0; b < 2; b++) {
        printf("# clusters at a time, %d block%s an SM:", b + 1, b ? "s" : "");
        for (int n = 1; n <= MACHETE_CLUSTER_MAX; n++)
            printf(" %d of %d", dev.clusters[b][n], n);
        printf("\n");
    }
}

static void class_pack(const struct qwords *q, struct packed *k, int32_t **perm)
{
    struct err e;
    OURS(machete_plan(q, &k->shape, &e), e);
    uint32_t *codes = (uint32_t *)malloc(k->shape.code_bytes);
    uint16_t *scales = (uint16_t *)malloc(k->shape.scale_bytes), *zeros = (uint16_t *)malloc(k->shape.zero_bytes + 1);
    int32_t *order = (int32_t *)malloc(k->shape.perm_bytes + 1);
    OURS(machete_pack(q, &k->shape, codes, scales, zeros, k->shape.permuted ? order : NULL, &e), e);
    k->weight.codes = (const uint32_t *)device_copy(codes, k->shape.code_bytes);
    k->weight.scales = (const uint16_t *)device_copy(scales, k->shape.scale_bytes);
    k->weight.zeros = k->shape.zero_table ? (const uint16_t *)device_copy(zeros, k->shape.zero_bytes) : NULL;
    *perm = k->shape.permuted ? (int32_t *)device_copy(order, k->shape.perm_bytes) : NULL;
    free(codes);
    free(scales);
    free(zeros);
    free(order);
}

static void class_free(struct packed *k)
{
    CUDA(cudaFree((void *)k->weight.codes));
    CUDA(cudaFree((void *)k->weight.scales));
    if (k->weight.zeros)
        CUDA(cudaFree((void *)k->weight.zeros));
}

static int64_t class_Kx(const struct packed *k)
{
    return k->shape.Kx;
}

static struct config class_choose(const struct packed *k, int64_t M, enum marlin_mode mode)
{
    struct config c;
    machete_choose(&dev, &k->shape, M, mode, &c.c);
    return c;
}

static bool class_exact(const struct config *c)
{
    return machete_exact(c->c.rows, c->c.wide);
}

static void class_text(const struct config *c, char *text, size_t size)
{
    snprintf(text, size, "%d rows by %d columns, %d stages, %d blocks an SM, split %d, share %d, spans %d", c->c.rows, 128 * c->c.wide, c->c.stages, c->c.blocks, c->c.split, c->c.share,
             c->c.spans);
}

/* Two clusters of each size at most: with 8 stripes and more a block has several tiles, and its ring goes on through them. */
static bool class_crowd(bool on)
{
    static struct machete_device whole;
    if (on)
        whole = dev;
    else
        dev = whole;
    for (int b = 0; on && b < 2; b++)
        for (int n = 1; n <= MACHETE_CLUSTER_MAX; n++)
            dev.clusters[b][n] = dev.clusters[b][n] < 2 ? dev.clusters[b][n] : 2;
    return true;
}

/* Every tile of exact weights: by a cluster, and where it can by blocks that go through all spans of K, with and without another for X. */
static int class_fixed(const struct packed *k, struct config *list)
{
    static const int tiles[][2] = {
#define MACHETE(rows, wide, scaled, blocks, sm) {rows, wide},
#include "kernels/cuda/machete.def"
#undef MACHETE
    };
    struct machete_config one;
    machete_choose(&dev, &k->shape, 1, MARLIN_FIXED, &one);
    const int spans = one.spans ? one.spans : one.split;
    int n = 0;
    for (size_t t = 0; t < sizeof tiles / sizeof *tiles; t++)
        for (int share = 0; share <= 2; share++) { /* 0: a cluster */
            struct config c = {{tiles[t][0], tiles[t][1], 0, 1, share ? 1 : spans, share ? share : 1, spans}};
            c.c.stages = machete_fit_stages(&dev, &k->shape, &c.c, 4);
            if (machete_exact(c.c.rows, c.c.wide) && !machete_config_check(&dev, &k->shape, 1, &c.c, NULL))
                list[n++] = c;
        }
    return n;
}

static struct machete_call call_for(const struct packed *k, const struct class_call *call)
{
    struct machete_call c = {};
    c.shape = &k->shape;
    c.weight = k->weight;
    c.act = call->act;
    c.x = call->x;
    c.ldx = call->ldx;
    c.M = call->M;
    c.y = call->y;
    c.ldy = call->ldy;
    c.y_f32 = call->y_f32;
    c.bias = call->bias;
    c.accumulate = call->accumulate;
    c.pdl = call->pdl;
    c.halves = call->halves;
    c.report = report;
    return c;
}

static int class_launch(const struct packed *k, const struct config *c, const struct class_call *call, cudaStream_t stream, struct err *e)
{
    struct machete_call m = call_for(k, call);
    return machete_launch(&dev, &m, &c->c, stream, e);
}

static bool class_refusals(const struct packed *k, const struct class_call *call, const char **what)
{
    struct err e;
    struct machete_call good = call_for(k, call), bad = good;
    struct config c = class_choose(k, call->M, MARLIN_FAST);
    *what = "crooked X and scales, short rows of Y, more stages than fit, halves of an odd M";
    bad.x = call->x + 1;
    const int crooked = machete_launch(&dev, &bad, &c.c, NULL, &e);
    bad = good;
    bad.ldy = k->shape.N - 1;
    const int narrow = machete_launch(&dev, &bad, &c.c, NULL, &e);
    bad = good;
    bad.weight.scales++;
    const int scales = machete_launch(&dev, &bad, &c.c, NULL, &e);
    bad = good;
    bad.halves = true;
    bad.M = 3;
    const int odd = machete_launch(&dev, &bad, &c.c, NULL, &e);
    c.c.stages = 33;
    return scales == -ERR_SHAPE && odd == -ERR_UNSUPPORTED && crooked == -ERR_SHAPE && narrow == -ERR_SHAPE && machete_launch(&dev, &good, &c.c, NULL, &e) == -ERR_UNSUPPORTED;
}

#include "tests/gpu/check_class.cuh"

static int class_configs(const struct packed *k, bool small, struct class_case *list)
{
    static const int tiles[][3] = {
#define MACHETE(rows, wide, scaled, blocks, sm) {rows, wide, sm},
#include "kernels/cuda/machete.def"
#undef MACHETE
    };
    int n = 0;
    for (int cluster = 1; cluster <= MACHETE_CLUSTER_MAX + 4; cluster++) /* spans of K by a cluster; then X shared; then 2, 3 and 8 spans by one block, of 3 with X shared */
        for (int depth = 0; depth < 4; depth++)                        /* two stages, three, five, as many blocks and stages as fit */
            for (size_t t = 0; t < sizeof tiles / sizeof *tiles; t++) {
                const int held = cluster - MACHETE_CLUSTER_MAX - 1, spans = held == 3 ? 8 : held > 0 ? 1 + held : 0;
                const bool share = held == 0 || held == 2;
                if (small && depth % 3)
                    continue;
                struct class_case c = {{{tiles[t][0], tiles[t][1], depth == 2 ? 5 : 2 + depth, depth == 3 ? tiles[t][2] : 1, held >= 0 ? 1 : cluster, share ? 2 : 1, spans}},
                                       tiles[t][0] - (int)t % 3 + (depth == 2 ? 9 : 0)};
                if (depth == 3)
                    c.config.c.stages = machete_fit_stages(&dev, &k->shape, &c.config.c, MACHETE_STAGES_MAX);
                if (!machete_config_check(&dev, &k->shape, c.M, &c.config.c, NULL) && c.M <= 257)
                    list[n++] = c;
            }
    return n;
}

static bool class_clean(int space)
{
    (void)space;
    return true;
}

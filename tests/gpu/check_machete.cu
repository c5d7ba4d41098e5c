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

enum { CLASS_HALVES = 0 };

static struct machete_device dev;

static void class_open(const struct cudaDeviceProp *prop, bool small)
{
    struct err e;
    (void)small;
    if (prop->major != 9 || prop->minor != 0) {
        printf("1..0 # SKIP kernel machete runs on compute capability 9.0 only\n");
        exit(0);
    }
    OURS(machete_device_open(&dev, &e), e);
    for (int b = 0; b < 2; b++) {
        printf("# clusters at a time, %d block%s an SM:", b + 1, b ? "s" : "");
        for (int n = 1; n <= MACHETE_CLUSTER_MAX; n++)
            printf(" %d of %d", dev.clusters[b][n], n);
        printf("\n");
    }
}

static void class_pack(const struct qmatrix *q, struct packed *k, int32_t **perm)
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

static int class_rows(const struct config *c)
{
    return c->c.rows;
}

static struct config class_smaller(const struct config *c)
{
    struct config s = *c;
    s.c.rows = 8; /* steps are those of 32 rows, so that `split` divides them alike */
    s.c.stages = s.c.stages < 4 ? s.c.stages : 4;
    return s;
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
    *what = "crooked X, short rows of Y, more stages than fit";
    bad.x = call->x + 1;
    const int crooked = machete_launch(&dev, &bad, &c.c, NULL, &e);
    bad = good;
    bad.ldy = k->shape.N - 1;
    const int narrow = machete_launch(&dev, &bad, &c.c, NULL, &e);
    c.c.stages = 33;
    return crooked == -ERR_SHAPE && narrow == -ERR_SHAPE && machete_launch(&dev, &good, &c.c, NULL, &e) == -ERR_UNSUPPORTED;
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
    for (size_t t = 0; t < sizeof tiles / sizeof *tiles; t++)
        for (int cluster = 0; cluster <= MACHETE_CLUSTER_MAX; cluster++)
            for (int depth = 0; depth < (small ? 1 : 3); depth++) { /* as many blocks and stages as fit, two, five */
                struct class_case c = {{{tiles[t][0], tiles[t][1], depth == 1 ? 2 : 5, depth == 0 ? tiles[t][2] : 1, cluster ? cluster : 1, cluster ? 1 : 2}}, tiles[t][0] - (int)t % 3 + (depth == 2 ? 9 : 0)};
                if (depth == 0)
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

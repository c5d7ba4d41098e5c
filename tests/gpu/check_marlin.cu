/* The Marlin kernel on a device: checks of check_class.cuh. */
#include "kernels/cuda/marlin_launch.h"
#include "tests/gpu/check_class.h"

struct packed {
    struct marlin_shape shape;
    struct marlin_weight weight;
};

struct config {
    struct marlin_config c;
};

static struct marlin_device dev;
static void *spaces[SPACES];
static size_t space_bytes;

static void class_open(const struct cudaDeviceProp *prop, bool small)
{
    struct err e;
    (void)prop;
    OURS(marlin_device_open(&dev, &e), e);
    printf("# dependent launches %s\n", dev.pdl ? "overlap" : "do not overlap: the code is not of 9.0 or newer");
    space_bytes = small ? (size_t)64 << 20 : (size_t)256 << 20;
    for (int s = 0; s < SPACES; s++) {
        spaces[s] = device_alloc(space_bytes);
        CUDA(cudaMemset(spaces[s], 0, space_bytes));
    }
}

static void class_pack(const struct qwords *q, struct packed *k, int32_t **perm)
{
    struct err e;
    OURS(marlin_plan(q, &k->shape, &e), e);
    uint32_t *codes = (uint32_t *)malloc(k->shape.code_bytes);
    uint16_t *scales = (uint16_t *)malloc(k->shape.scale_bytes), *zeros = (uint16_t *)malloc(k->shape.zero_bytes + 1);
    int32_t *order = (int32_t *)malloc(k->shape.perm_bytes + 1);
    OURS(marlin_pack(q, &k->shape, codes, scales, zeros, k->shape.permuted ? order : NULL, &e), e);
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
    marlin_choose(&dev, &k->shape, M, mode, &c.c);
    return c;
}

static bool class_exact(const struct config *c)
{
    return c->c.rows <= 32;
}

static void class_text(const struct config *c, char *text, size_t size)
{
    snprintf(text, size, "%d rows by %d columns, %d stages, %d blocks an SM%s", c->c.rows, 64 << c->c.wn_log2, c->c.stages, c->c.blocks, c->c.fixed ? ", fixed" : "");
}

static bool class_crowd(bool on)
{
    (void)on;
    return false; /* its blocks go through all of their part of the tiles on any device */
}

/* Every tile of exact weights that fits with the columns and the division of K that M=1 takes. */
static int class_fixed(const struct packed *k, struct config *list)
{
    static const int rows[] = {8, 16, 32};
    struct config c;
    marlin_choose(&dev, &k->shape, 1, MARLIN_FIXED, &c.c);
    int n = 0;
    for (int r = 0; r < 3; r++)
        for (int stages = 2; stages <= 4; stages += 2) {
            c.c.rows = rows[r];
            c.c.stages = stages;
            c.c.blocks = 1;
            if (!marlin_config_check(&dev, &k->shape, 1, &c.c, NULL))
                list[n++] = c;
        }
    return n;
}

static struct marlin_call call_for(const struct packed *k, const struct class_call *call)
{
    struct marlin_call c = {};
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
    c.workspace = spaces[call->space];
    c.workspace_bytes = space_bytes;
    return c;
}

static int class_launch(const struct packed *k, const struct config *c, const struct class_call *call, cudaStream_t stream, struct err *e)
{
    struct marlin_call m = call_for(k, call);
    return marlin_launch(&dev, &m, &c->c, stream, e);
}

static bool class_refusals(const struct packed *k, const struct class_call *call, const char **what)
{
    struct err e;
    struct marlin_call good = call_for(k, call), bad = good;
    const struct config c = class_choose(k, call->M, MARLIN_FAST);
    *what = "small workspace, crooked X, 9 rows for a tile of 8";
    bad.workspace_bytes = 16;
    const int small = marlin_launch(&dev, &bad, &c.c, NULL, &e);
    bad = good;
    bad.x = call->x + 1;
    const int crooked = marlin_launch(&dev, &bad, &c.c, NULL, &e);
    bad = good;
    bad.M = 9;
    return small == -ERR_NOMEM && crooked == -ERR_SHAPE && marlin_launch(&dev, &bad, &c.c, NULL, &e) == -ERR_UNSUPPORTED;
}

#include "tests/gpu/check_class.cuh"

static int class_configs(const struct packed *k, bool small, struct class_case *list)
{
    static const int rows[] = {8, 16, 32, 48, 64};
    int n = 0;
    for (int r = 0; r < 5; r++)
        for (int wn = 0; wn < 4; wn++)
            for (int blocks = 1; blocks <= 2; blocks++)
                for (int stages = 2; stages <= 8; stages += small ? 3 : 1) {
                    const struct class_case c = {{{rows[r], wn, stages, blocks, false}}, rows[r] - r};
                    if (!marlin_config_check(&dev, &k->shape, c.M, &c.config.c, NULL))
                        list[n++] = c;
                }
    return n;
}

static bool class_clean(int space)
{
    count_other_kernel<<<16, 256>>>((uint8_t *)spaces[space], MARLIN_COUNTERS * sizeof(int), 0, 0, counter);
    return counted() == 0;
}

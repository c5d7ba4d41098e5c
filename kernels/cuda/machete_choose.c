/* Which config runs a shape: no CUDA in here, so that the choice and its limits are tested without a device.
 *
 * Every figure in the table and the constants below is a prediction: counted from instructions and bytes for an H100, measured nowhere yet. `bench_class --class machete --tune` says what a
 * device makes of the configs; the table is to be replaced by what it finds. */
#include "kernels/cuda/machete_launch.h"

#include <string.h>

enum {
    BLOCK_RESERVED = 1024, /* shared memory the system takes of each block: CUDA C++ Programming Guide, compute capability 9.0 */
    MEMORY_BYTES = 15,    /* of device memory, an SM and cycle */
    L2_BYTES = 48,        /* of L2, an SM and cycle */
    SPLIT_CYCLES = 800,   /* what a pass of sums takes longer through the cluster's memory */
    HOLD_CYCLES = 8,      /* of adding to the sums held in shared memory, a row */
    FIXED_ROWS = 32,      /* of the lowest tile in fixed mode, which says how K is cut */
    SHARE_ROWS = 16,      /* least of a tile whose X is brought in parts: parts begin at multiples of 8 rows */
};

/* Cycles that multiplying a block of 64 inputs of a tile takes a block alone on its SM, 4 and 8 bits; the same for two that share the SM, each; and the end of a tile. From 32 rows
 * on the tensor cores decide: 4 cycles a row and 128 outputs, at 4096 operations an SM and cycle; what is above that is for what their warpgroups do not do beside them. */
struct cost {
    int rows, wide;
    int block4, block8, pair4, pair8, end;
};

static const struct cost costs[] = {
    {8, 1, 130, 145, 170, 190, 1000}, {16, 1, 135, 150, 180, 200, 1000}, {32, 1, 190, 200, 0, 0, 1100}, {64, 1, 285, 290, 0, 0, 1500},
    {128, 1, 545, 550, 0, 0, 2500},   {256, 1, 1060, 1065, 0, 0, 5000},    {128, 2, 1060, 1065, 0, 0, 5000},
};
enum { TILES = sizeof costs / sizeof *costs };

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

int machete_step_blocks(int rows, int wide)
{
    switch (4 * rows + wide) {
#define MACHETE(rows, wide, scaled, blocks, sm) \
    case 4 * rows + wide: return blocks;
#include "kernels/cuda/machete.def"
#undef MACHETE
    }
    return 0;
}

/* Blocks an SM that the registers of a tile allow. */
static int sm_blocks(int rows, int wide)
{
    switch (4 * rows + wide) {
#define MACHETE(rows, wide, scaled, blocks, sm) \
    case 4 * rows + wide: return sm;
#include "kernels/cuda/machete.def"
#undef MACHETE
    }
    return 0;
}

bool machete_exact(int rows, int wide)
{
    switch (4 * rows + wide) {
#define MACHETE(rows, wide, scaled, blocks, sm) \
    case 4 * rows + wide: return !scaled;
#include "kernels/cuda/machete.def"
#undef MACHETE
    }
    return false;
}

static int spans(const struct machete_config *c)
{
    return c->spans ? c->spans : c->split;
}

static struct machete_shared shared_of(const struct machete_shape *s, const struct machete_config *c, int stages)
{
    return machete_shared_of(s->bits, c->rows, c->wide, machete_step_blocks(c->rows, c->wide), s->unit_shift, s->zero_table, spans(c) > c->split, stages);
}

size_t machete_shared_bytes(const struct machete_shape *s, const struct machete_config *c)
{
    return (size_t)shared_of(s, c, c->stages).bytes;
}

int machete_fit_stages(const struct machete_device *d, const struct machete_shape *s, const struct machete_config *c, int most)
{
    int stages = most < MACHETE_STAGES_MAX ? most : MACHETE_STAGES_MAX, room = d->sm_shared / c->blocks - BLOCK_RESERVED;
    if (room > d->block_shared)
        room = d->block_shared;
    while (stages > 0 && shared_of(s, c, stages).bytes > room)
        stages--;
    return stages;
}

static int64_t row_tiles(int64_t M, const struct machete_config *c)
{
    return ceil_div(M, c->rows);
}

/* Groups of `share` tiles along N. */
static int64_t places(const struct machete_shape *s, const struct machete_config *c)
{
    return ceil_div(ceil_div(s->stripes, c->wide), c->share);
}

static int k_steps(const struct machete_shape *s, const struct machete_config *c)
{
    return s->k_blocks / machete_step_blocks(c->rows, c->wide);
}

int machete_config_check(const struct machete_device *d, const struct machete_shape *s, int64_t M, const struct machete_config *c, struct err *e)
{
    if (d->capability != 90)
        return err_set(e, ERR_UNSUPPORTED, "kernel machete needs compute capability 9.0, the device has %d.%d", d->capability / 10, d->capability % 10);
    if (!machete_step_blocks(c->rows, c->wide) || c->wide < 1 || c->wide > 2)
        return err_set(e, ERR_UNSUPPORTED, "kernel machete has no tile of %d rows by %d columns", c->rows, 128 * c->wide);
    if (c->split < 1 || c->split > MACHETE_CLUSTER_MAX || c->share < 1 || c->share > 2 || (c->split > 1 && c->share > 1))
        return err_set(e, ERR_UNSUPPORTED, "kernel machete: a cluster cuts K in 1 to %d or shares X between 2 blocks, not split=%d and share=%d", MACHETE_CLUSTER_MAX, c->split,
                       c->share);
    if (c->share > 1 && c->rows < SHARE_ROWS)
        return err_set(e, ERR_UNSUPPORTED, "kernel machete: tiles of %d rows do not share X, those of %d and more do", c->rows, SHARE_ROWS);
    if (c->blocks < 1 || c->blocks > sm_blocks(c->rows, c->wide))
        return err_set(e, ERR_UNSUPPORTED, "kernel machete: tiles of %d rows do not run with %d blocks an SM", c->rows, c->blocks);
    if (spans(c) != c->split && (c->split > 1 || spans(c) < 1 || spans(c) > MACHETE_CLUSTER_MAX || !machete_can_hold(c->rows, c->wide)))
        return err_set(e, ERR_UNSUPPORTED, "kernel machete: tiles of %d rows by %d columns with split=%d do not go through %d spans of K", c->rows, 128 * c->wide, c->split, spans(c));
    if (spans(c) > k_steps(s, c))
        return err_set(e, ERR_UNSUPPORTED, "kernel machete: K=%lld has %d steps, which cannot be cut into %d spans", (long long)s->K, k_steps(s, c), spans(c));
    if (d->clusters[c->blocks - 1][c->split * c->share] < 1)
        return err_set(e, ERR_UNSUPPORTED, "kernel machete: no cluster of %d blocks fits the device", c->split * c->share);
    if (M < 1)
        return err_set(e, ERR_UNSUPPORTED, "kernel machete: M=%lld is no number of rows", (long long)M);
    if (M > INT32_MAX / 2 || row_tiles(M, c) * places(s, c) > INT32_MAX / 2 || places(s, c) > INT32_MAX / 2 / MACHETE_M_GROUP)
        return err_set(e, ERR_UNSUPPORTED, "kernel machete: M=%lld N=%lld is more than 2^30 tiles", (long long)M, (long long)s->N);
    int most = machete_fit_stages(d, s, c, MACHETE_STAGES_MAX);
    if (c->stages < 2 || c->stages > most)
        return err_set(e, ERR_UNSUPPORTED, "kernel machete: %d stages do not fit (2 to %d do)", c->stages, most);
    return 0;
}

struct machete_grid machete_make_grid(const struct machete_device *d, const struct machete_shape *s, int64_t M, const struct machete_config *c)
{
    struct machete_grid g = {.m_tiles = (int)row_tiles(M, c), .n_places = (int)places(s, c), .k_steps = k_steps(s, c), .spans = spans(c), .split = c->split, .share = c->share};
    g.tiles = g.m_tiles * g.n_places;
    g.clusters = d->clusters[c->blocks - 1][c->split * c->share];
    if (g.clusters > g.tiles)
        g.clusters = g.tiles;
    return g;
}

/* Steps that a block goes through at most. */
static int64_t block_steps(const struct machete_grid *g)
{
    return ceil_div(g->tiles, g->clusters) * ceil_div(g->k_steps, g->split);
}

/* Predicted cycles of a launch. */
static double predict(const struct machete_device *d, const struct machete_shape *s, int64_t M, const struct machete_config *c, const struct cost *t)
{
    struct machete_grid g = machete_make_grid(d, s, M, c);
    const bool paired = g.clusters * c->split * c->share > d->sms; /* blocks go to SMs of their own first */
    const double codes = (double)c->wide * 4.0 * machete_block_words(s->bits), x = (double)c->rows * MACHETE_X_ROW_BYTES / c->share;
    const double through_l2 = (codes + x) / L2_BYTES * (paired ? 2 : 1);
    double block = s->bits == 4 ? (paired ? t->pair4 : t->block4) : paired ? t->pair8 : t->block8;
    if (through_l2 > block)
        block = through_l2;
    const int passes = (c->rows + MACHETE_PASS_ROWS - 1) / MACHETE_PASS_ROWS;
    const double rounds = (double)ceil_div(g.tiles, g.clusters), blocks = (double)ceil_div(g.k_steps, c->split) * machete_step_blocks(c->rows, c->wide);
    const double held = machete_holds(&g) ? (double)g.spans * HOLD_CYCLES * c->rows : 0;
    const double busy = rounds * (blocks * block + t->end + (c->split > 1 ? SPLIT_CYCLES * passes : 0) + held);
    const double sweeps = (double)ceil_div(g.m_tiles, MACHETE_M_GROUP); /* through all codes */
    const double memory = (sweeps * (double)(s->code_bytes + s->scale_bytes) + 2.0 * (double)M * (double)(s->K + s->N)) / ((double)MEMORY_BYTES * d->sms);
    return (busy > memory ? busy : memory) + busy / 8;
}

/* The best so far, and what it is predicted to take; 0: there is none. */
struct choice {
    struct machete_config config;
    double cycles;
};

/* Of equals the first stays. */
static void try_config(const struct machete_device *d, const struct machete_shape *s, int64_t M, const struct cost *cost, struct machete_config t, struct choice *best)
{
    t.rows = cost->rows;
    t.wide = cost->wide;
    t.stages = t.blocks > sm_blocks(t.rows, t.wide) ? 0 : machete_fit_stages(d, s, &t, MACHETE_STAGES_MAX);
    if (!t.stages || machete_config_check(d, s, M, &t, NULL))
        return;
    const double cycles = predict(d, s, M, &t, cost);
    if (best->cycles > 0 && cycles >= best->cycles)
        return;
    best->config = t;
    best->cycles = cycles;
}

static void choose_fast(const struct machete_device *d, const struct machete_shape *s, int64_t M, struct choice *best)
{
    for (int i = 0; i < TILES; i++)
        for (int cluster = 0; cluster <= MACHETE_CLUSTER_MAX; cluster++) /* 0: two that share X; else so many that split K */
            for (int blocks = 2; blocks > 0; blocks--)               /* two first: they leave room for the next launch to begin */
                try_config(d, s, M, &costs[i], (struct machete_config){.blocks = blocks, .split = cluster ? cluster : 1, .share = cluster ? 1 : 2}, best);
}

/* The spans that K is cut into decide bits, and follow from the shape and the device, as is best for the lowest tile alone. Which tile, and whether a cluster or one block goes
 * through the spans, decides only how fast. */
static void choose_fixed(const struct machete_device *d, const struct machete_shape *s, int64_t M, struct choice *best)
{
    for (int i = 0; i < TILES; i++)
        for (int split = 1; costs[i].rows == FIXED_ROWS && split <= MACHETE_CLUSTER_MAX; split++)
            try_config(d, s, 1, &costs[i], (struct machete_config){.blocks = 1, .split = split, .share = 1}, best);
    const int cut = best->config.split;
    *best = (struct choice){best->config, 0};
    for (int i = 0; i < TILES; i++) {
        if (costs[i].rows < FIXED_ROWS || !machete_exact(costs[i].rows, costs[i].wide))
            continue;
        try_config(d, s, M, &costs[i], (struct machete_config){.blocks = 1, .split = cut, .share = 1, .spans = cut}, best);
        for (int share = 1; share <= 2; share++)
            try_config(d, s, M, &costs[i], (struct machete_config){.blocks = 1, .split = 1, .share = share, .spans = cut}, best);
    }
}

void machete_choose(const struct machete_device *d, const struct machete_shape *s, int64_t M, enum marlin_mode mode, struct machete_config *c)
{
    struct choice best = {{.rows = FIXED_ROWS, .wide = 1, .stages = 2, .blocks = 1, .split = 1, .share = 1}, 0};
    if (mode == MARLIN_FIXED)
        choose_fixed(d, s, M, &best);
    else
        choose_fast(d, s, M, &best);
    *c = best.config;
    const struct machete_grid g = machete_make_grid(d, s, M, c);
    if (c->stages > block_steps(&g)) /* more would never be filled */
        c->stages = block_steps(&g) < 2 ? 2 : (int)block_steps(&g);
}

void machete_fill_args(const struct machete_device *d, const struct machete_call *call, const struct machete_config *c, struct machete_args *a)
{
    const struct machete_shape *s = call->shape;
    memset(a, 0, sizeof *a);
    a->codes = call->weight.codes;
    a->scales = call->weight.scales;
    a->zeros = call->weight.zeros;
    a->zero = s->zero;
    a->M = (int)call->M;
    a->N = (int)s->N;
    marlin_fill_parts(a->part, &(struct marlin_out){0, call->y, call->ldy, call->bias}, call->more, s->N, call->accumulate ? 0 : 4, call->y_f32 ? 4 : 2);
    a->y_f32 = call->y_f32;
    a->accumulate = call->accumulate;
    a->halves = call->halves;
    a->report = call->report;
    a->stripes = s->stripes;
    a->k_blocks = s->k_blocks;
    a->unit_shift = s->unit_shift;
    a->scale_rows = s->rows;
    a->stages = c->stages;
    a->grid = machete_make_grid(d, s, call->M, c);
    a->codes_policy = a->grid.m_tiles == 1 ? MACHETE_EVICT_FIRST : MACHETE_EVICT_NORMAL; /* read once by the whole device */
    a->x_policy = a->grid.m_tiles == 1 ? MACHETE_EVICT_LAST : MACHETE_EVICT_NORMAL;       /* little, read by every block */
}

/* Which config runs a shape: no CUDA in here, so that the choice and its limits are tested without a device. */
#include "kernels/cuda/marlin_launch.h"

#include <string.h>

enum { BLOCK_RESERVED = 1024 /* shared memory the system takes of each block: CUDA C++ Programming Guide, compute capabilities 8.x and 9.0 */ };

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* The table. Origin: the times of an earlier form of the kernel on an H200 (tests/bench/results/2026-11-28-h200-marlin.txt) and what they let one predict; not measured
 * since. `bench_class --tune` lists the best configs of each shape on a card.
 * The first row whose bits and tile rows match and of whose tiles there are enough, in half waves of one tile an SM: wide tiles read X less often and have fewer warps to
 * add up, narrow ones need fewer blocks along K for the whole device to have work. */
struct rule {
    int bits, rows, half_waves;
    int wn_log2, blocks, stages;
};

/* In MARLIN_FIXED a row decides bits: a change of it, or of marlin_grid_of, raises the plug-in's PLUGIN_REVISION (tests/kernels/check_marlin_schedule.c holds both). */
static const struct rule rules[] = {
    {4, 8, 3, 2, 2, 8},  {4, 8, 2, 1, 2, 8},  {4, 8, 0, 0, 2, 8},  {8, 8, 2, 1, 1, 8},  {8, 8, 0, 0, 1, 8},
    {4, 16, 3, 2, 2, 8}, {4, 16, 0, 1, 2, 8}, {8, 16, 0, 1, 1, 8},
    {4, 32, 3, 2, 1, 6}, {4, 32, 0, 1, 1, 6}, {8, 32, 3, 2, 1, 6}, {8, 32, 0, 1, 1, 6},
    {4, 48, 1, 2, 1, 6}, {4, 48, 0, 1, 1, 6}, {8, 48, 1, 2, 1, 6}, {8, 48, 0, 1, 1, 6},
    {4, 64, 2, 3, 1, 6}, {4, 64, 1, 2, 1, 6}, {4, 64, 0, 1, 1, 6}, {8, 64, 2, 3, 1, 6}, {8, 64, 1, 2, 1, 6}, {8, 64, 0, 1, 1, 6},
};

size_t marlin_shared_bytes(const struct marlin_shape *s, const struct marlin_config *c)
{
    return MARLIN_HEAD_BYTES + (size_t)c->stages * (size_t)marlin_stage_bytes(s->bits, c->rows, c->wn_log2, s->unit_shift, s->zero_table);
}

int marlin_fit_stages(const struct marlin_device *d, const struct marlin_shape *s, const struct marlin_config *c, int most)
{
    int room = d->sm_shared / c->blocks - BLOCK_RESERVED;
    if (room > d->block_shared)
        room = d->block_shared;
    int stages = (room - MARLIN_HEAD_BYTES) / marlin_stage_bytes(s->bits, c->rows, c->wn_log2, s->unit_shift, s->zero_table);
    return stages < most ? stages : most;
}

/* Blocks an SM that the registers of a tile allow; 0: there is no such tile. */
static int tile_blocks(int rows, int wn_log2)
{
    switch (8 * rows + wn_log2) {
#define MARLIN(rows, wn_log2, scaled, blocks) \
    case 8 * rows + wn_log2: return blocks;
#include "kernels/cuda/marlin.def"
#undef MARLIN
    }
    return 0;
}

static int64_t tiles(const struct marlin_shape *s, int64_t M, int rows, int wn_log2)
{
    return ceil_div(s->strips, 1 << wn_log2) * ceil_div(M, rows);
}

/* Row of the table for tiles of c->rows, and what it says. */
static const struct rule *obey(const struct marlin_device *d, const struct marlin_shape *s, int64_t M, struct marlin_config *c)
{
    const struct rule *r = rules;
    while (r->bits != s->bits || r->rows != c->rows || 2 * tiles(s, M, c->rows, r->wn_log2) < (int64_t)r->half_waves * d->sms)
        r++;
    c->wn_log2 = r->wn_log2;
    c->blocks = r->blocks;
    c->stages = marlin_fit_stages(d, s, c, r->stages);
    if (c->stages < 3 && c->blocks == 2) {
        c->blocks = 1;
        c->stages = marlin_fit_stages(d, s, c, r->stages);
    }
    while (c->stages < 3 && tile_blocks(c->rows, c->wn_log2 + 1)) { /* wider tiles have less of X in a stage */
        c->wn_log2++;
        c->stages = marlin_fit_stages(d, s, c, r->stages);
    }
    return r;
}

static void choose_fast(const struct marlin_device *d, const struct marlin_shape *s, int64_t M, struct marlin_config *c)
{
    c->rows = M <= 8 ? 8 : M <= 16 ? 16 : M <= 32 ? 32 : M <= 48 ? 48 : 64;
    const struct rule *r = obey(d, s, M, c);
    while (c->stages < 2 && c->rows > 16) {
        c->rows -= 16;
        while (!tile_blocks(c->rows, c->wn_log2))
            c->wn_log2--;
        c->stages = marlin_fit_stages(d, s, c, r->stages);
    }
}

/* Columns and the division of K as for 8 rows: they decide the bits and must not know M. Taller tiles where there are rows for them and they fit beside it. */
static void choose_fixed(const struct marlin_device *d, const struct marlin_shape *s, int64_t M, struct marlin_config *c)
{
    c->rows = 8;
    const struct rule *r = obey(d, s, 8, c);
    c->fixed = true;
    c->deal = r->blocks * d->sms;
    for (int rows = M > 16 ? 32 : 16; M > 8 && rows > 8; rows /= 2) {
        struct marlin_config tall = *c;
        tall.rows = rows;
        tall.blocks = tile_blocks(rows, c->wn_log2) < c->blocks ? tile_blocks(rows, c->wn_log2) : c->blocks;
        for (; tall.blocks > 0; tall.blocks--) {
            tall.stages = marlin_fit_stages(d, s, &tall, r->stages);
            if (tall.stages >= 3 || (tall.blocks == 1 && tall.stages == 2)) {
                *c = tall;
                return;
            }
        }
    }
}

void marlin_choose(const struct marlin_device *d, const struct marlin_shape *s, int64_t M, enum marlin_mode mode, struct marlin_config *c)
{
    *c = (struct marlin_config){.fixed = false};
    if (mode == MARLIN_FIXED)
        choose_fixed(d, s, M, c);
    else
        choose_fast(d, s, M, c);
}

static int64_t k_steps(const struct marlin_shape *s, const struct marlin_config *c)
{
    return ceil_div(s->k_chunks, MARLIN_WARPS >> c->wn_log2);
}

static int64_t n_tiles(const struct marlin_shape *s, const struct marlin_config *c)
{
    return ceil_div(s->strips, 1 << c->wn_log2);
}

int marlin_config_check(const struct marlin_device *d, const struct marlin_shape *s, int64_t M, const struct marlin_config *c, struct err *e)
{
    if (d->capability < 80)
        return err_set(e, ERR_UNSUPPORTED, "kernel marlin needs compute capability 8.0, the device has %d.%d", d->capability / 10, d->capability % 10);
    if (c->wn_log2 < 0 || c->wn_log2 > 3 || !tile_blocks(c->rows, c->wn_log2))
        return err_set(e, ERR_UNSUPPORTED, "kernel marlin has no tile of %d rows by %d columns", c->rows, 64 << (c->wn_log2 & 7));
    if (c->rows == 8 && M > 8 && !c->fixed)
        return err_set(e, ERR_UNSUPPORTED, "kernel marlin: a tile of 8 rows serves at most 8, not M=%lld", (long long)M);
    if (c->blocks < 1 || c->blocks > tile_blocks(c->rows, c->wn_log2))
        return err_set(e, ERR_UNSUPPORTED, "kernel marlin: tiles of %d rows do not run with %d blocks an SM", c->rows, c->blocks);
    if (M < 1 || M > INT32_MAX / 2 || !marlin_grid_fits(k_steps(s, c), n_tiles(s, c), c->fixed ? 1 : ceil_div(M, c->rows)))
        return err_set(e, ERR_UNSUPPORTED, "kernel marlin: M=%lld N=%lld K=%lld is more than 2^31 units of work", (long long)M, (long long)s->N, (long long)s->K);
    int most = marlin_fit_stages(d, s, c, MARLIN_STAGES_MAX);
    if (c->stages < 2 || c->stages > most)
        return err_set(e, ERR_UNSUPPORTED, "kernel marlin: %d stages of %d bytes do not fit (2 to %d do)", c->stages,
                       marlin_stage_bytes(s->bits, c->rows, c->wn_log2, s->unit_shift, s->zero_table), most);
    const struct marlin_grid g = marlin_make_grid(d, s, M, c);
    const int slabs = marlin_slabs(d, s, M, c);
    if ((int64_t)slabs * g.blocks > MARLIN_COUNTERS)
        return err_set(e, ERR_UNSUPPORTED, "kernel marlin: %d slabs of %d blocks, %d counters", slabs, g.blocks, MARLIN_COUNTERS);
    return 0;
}

struct marlin_grid marlin_make_grid(const struct marlin_device *d, const struct marlin_shape *s, int64_t M, const struct marlin_config *c)
{
    return marlin_grid_of((int)k_steps(s, c), (int)n_tiles(s, c), c->fixed ? 1 : (int)ceil_div(M, c->rows), c->deal ? c->deal : d->sms * c->blocks);
}

static size_t slab_bytes(const struct marlin_grid *g, const struct marlin_config *c)
{
    return 2 * (size_t)g->blocks * (size_t)marlin_slot_floats(c->rows, c->wn_log2) * sizeof(float);
}

int marlin_slabs(const struct marlin_device *d, const struct marlin_shape *s, int64_t M, const struct marlin_config *c)
{
    if (!c->fixed)
        return 1;
    struct marlin_grid g = marlin_make_grid(d, s, M, c);
    int64_t n = ceil_div(M, c->rows), most = (int64_t)(MARLIN_PARTIAL_BYTES / slab_bytes(&g, c));
    most = most > MARLIN_SLAB_MAX ? MARLIN_SLAB_MAX : most < 1 ? 1 : most;
    return (int)(n < most ? n : most);
}

size_t marlin_workspace_bytes(const struct marlin_device *d, const struct marlin_shape *s, int64_t M, const struct marlin_config *c)
{
    struct marlin_grid g = marlin_make_grid(d, s, M, c);
    return MARLIN_COUNTERS * sizeof(int) + (size_t)marlin_slabs(d, s, M, c) * slab_bytes(&g, c);
}

void marlin_fill_parts(struct marlin_part *part, const struct marlin_out *first, const struct marlin_out *more, int64_t N, int together, int item)
{
    for (int i = 0; i < MARLIN_PARTS; i++) {
        const struct marlin_out *o = i ? &more[i - 1] : first;
        part[i] = (struct marlin_part){.y = o->y, .ldy = o->ldy, .bias = o->bias, .from = i && !o->from ? INT32_MAX : (int)o->from};
        part[i].together = together && o->ldy % together == 0 && (uintptr_t)o->y % (size_t)(together * item) == 0;
    }
    for (int i = 0; i < MARLIN_PARTS; i++)
        part[i].N = (int)(i + 1 < MARLIN_PARTS && part[i + 1].from < N ? part[i + 1].from : N) - part[i].from;
}

int marlin_check_parts(const char *kernel, const struct marlin_part *part, int64_t N, int columns, struct err *e)
{
    for (int i = 0; i < MARLIN_PARTS; i++) {
        if (part[i].from == INT32_MAX)
            continue;
        if (part[i].from % columns || part[i].from >= N || (i && part[i - 1].from >= part[i].from))
            return err_set(e, ERR_SHAPE, "kernel %s: part %d of %lld outputs begins at %d: no multiple of %d behind the part before", kernel, i, (long long)N, part[i].from, columns);
        if (part[i].ldy < part[i].N)
            return err_set(e, ERR_SHAPE, "kernel %s: rows of Y hold %lld elements, N is %d", kernel, (long long)part[i].ldy, part[i].N);
    }
    return 0;
}

void marlin_fill_args(const struct marlin_call *call, const struct marlin_config *c, struct marlin_args *a)
{
    const struct marlin_shape *s = call->shape;
    memset(a, 0, sizeof *a);
    a->codes = call->weight.codes;
    a->scales = call->weight.scales;
    a->zeros = call->weight.zeros;
    a->zero = s->zero;
    a->ldx = call->ldx;
    a->Kx = (int)s->Kx;
    a->y_f32 = call->y_f32;
    a->accumulate = call->accumulate;
    a->halves = call->halves;
    marlin_fill_parts(a->part, &(struct marlin_out){0, call->y, call->ldy, call->bias}, call->more, s->N, call->accumulate ? 0 : 2, call->y_f32 ? 4 : 2);
    for (int i = 0; i < MARLIN_PARTS; i++)
        a->part[i].together &= !a->part[i].bias;
    a->strips = s->strips;
    a->scale_strips = s->scale_strips;
    a->k_chunks = s->k_chunks;
    a->unit_shift = s->unit_shift;
    a->stages = c->stages;
    a->counters = call->workspace;
    a->partial = (float *)((char *)call->workspace + MARLIN_COUNTERS * sizeof(int));
}

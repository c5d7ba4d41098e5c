/* Which config runs a shape: no CUDA in here, so that the choice and its limits are tested without a device. */
#include "kernels/cuda/marlin_launch.h"

#include <string.h>

enum { BLOCK_RESERVED = 1024 /* shared memory the system takes of each block: CUDA C++ Programming Guide, compute capabilities 8.x and 9.0 */ };

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* The table: first row whose bits and tile rows match and of whose tiles there are enough, in half waves of one tile an SM: wide tiles read X less often and have fewer
 * warps to add up, narrow ones need fewer blocks along K for the whole device to have work. */
struct rule {
    int bits, rows, half_waves;
    int wn_log2, blocks, stages;
};

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

/* Rows of the tile for M rows. */
static int tile_rows(int64_t M, enum marlin_mode mode)
{
    if (mode == MARLIN_FIXED)
        return 16;
    return M <= 8 ? 8 : M <= 16 ? 16 : M <= 32 ? 32 : M <= 48 ? 48 : 64;
}

static int64_t tiles(const struct marlin_shape *s, int64_t M, int rows, int wn_log2)
{
    return ceil_div(s->strips, 1 << wn_log2) * ceil_div(M, rows);
}

void marlin_choose(const struct marlin_device *d, const struct marlin_shape *s, int64_t M, enum marlin_mode mode, struct marlin_config *c)
{
    *c = (struct marlin_config){.rows = tile_rows(M, mode), .fixed = mode == MARLIN_FIXED};
    const int64_t counted = c->fixed ? 1 : M; /* the fixed division of K does not know M */
    const struct rule *r = rules;
    while (r->bits != s->bits || r->rows != c->rows || 2 * tiles(s, counted, c->rows, r->wn_log2) < (int64_t)r->half_waves * d->sms)
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
    while (c->stages < 2 && c->rows > 16) {
        c->rows -= 16;
        while (!tile_blocks(c->rows, c->wn_log2))
            c->wn_log2--;
        c->stages = marlin_fit_stages(d, s, c, r->stages);
    }
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
    if (c->rows == 8 && M > 8)
        return err_set(e, ERR_UNSUPPORTED, "kernel marlin: a tile of 8 rows serves at most 8, not M=%lld", (long long)M);
    if (c->blocks < 1 || c->blocks > tile_blocks(c->rows, c->wn_log2))
        return err_set(e, ERR_UNSUPPORTED, "kernel marlin: tiles of %d rows do not run with %d blocks an SM", c->rows, c->blocks);
    if (M < 1 || M > INT32_MAX / 2 || !marlin_grid_fits(k_steps(s, c), n_tiles(s, c), c->fixed ? 1 : ceil_div(M, c->rows)))
        return err_set(e, ERR_UNSUPPORTED, "kernel marlin: M=%lld N=%lld K=%lld is more than 2^31 units of work", (long long)M, (long long)s->N, (long long)s->K);
    int most = marlin_fit_stages(d, s, c, MARLIN_STAGES_MAX);
    if (c->stages < 2 || c->stages > most)
        return err_set(e, ERR_UNSUPPORTED, "kernel marlin: %d stages of %d bytes do not fit (2 to %d do)", c->stages,
                       marlin_stage_bytes(s->bits, c->rows, c->wn_log2, s->unit_shift, s->zero_table), most);
    return 0;
}

struct marlin_grid marlin_make_grid(const struct marlin_device *d, const struct marlin_shape *s, int64_t M, const struct marlin_config *c)
{
    return marlin_grid_of((int)k_steps(s, c), (int)n_tiles(s, c), c->fixed ? 1 : (int)ceil_div(M, c->rows), d->sms * c->blocks);
}

int marlin_slabs(int64_t M, const struct marlin_config *c)
{
    int64_t n = c->fixed ? ceil_div(M, c->rows) : 1;
    return (int)(n < MARLIN_SLAB_MAX ? n : MARLIN_SLAB_MAX);
}

size_t marlin_workspace_bytes(const struct marlin_device *d, const struct marlin_shape *s, int64_t M, const struct marlin_config *c)
{
    struct marlin_grid g = marlin_make_grid(d, s, M, c);
    return MARLIN_COUNTERS * sizeof(int) + (size_t)marlin_slabs(M, c) * 2 * (size_t)g.blocks * (size_t)marlin_slot_floats(c->rows, c->wn_log2) * sizeof(float);
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
    a->ldy = call->ldy;
    a->N = (int)s->N;
    a->Kx = (int)s->Kx;
    a->bias = call->bias;
    a->y_f32 = call->y_f32;
    a->accumulate = call->accumulate;
    a->y_pairs = !call->bias && !call->accumulate && call->ldy % 2 == 0 && (uintptr_t)call->y % (call->y_f32 ? 8 : 4) == 0;
    a->strips = s->strips;
    a->k_chunks = s->k_chunks;
    a->unit_shift = s->unit_shift;
    a->stages = c->stages;
    a->counters = call->workspace;
    a->partial = (float *)((char *)call->workspace + MARLIN_COUNTERS * sizeof(int));
}

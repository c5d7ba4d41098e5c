/* Who computes what: the product is cut into output tiles of ROWS x 64 * wn, each tile into steps of 64 * wk along K. Units (tile, step), tile-major, are dealt to the
 * blocks as contiguous stripes that differ by at most one unit (stream-K: Osama et al., arXiv:2301.03598). Tiles go through the row blocks of one strip of columns
 * before the next strip, so that neighbours share codes in L2.
 *
 * A tile inside one stripe is finished by its block. A split tile is finished by whichever of its blocks comes last: each writes its partial sums to its own slot, then
 * counts itself in; the one that finds all others counted adds the slots in order of blocks and sets the count back to 0. Nobody waits for anybody, so blocks need not
 * be resident together, and the sum does not depend on who was last. Pure functions; properties are tested in tests/kernels/check_marlin_schedule.c. */
#ifndef KERNELS_CUDA_MARLIN_SCHEDULE_H
#define KERNELS_CUDA_MARLIN_SCHEDULE_H

#include <stdint.h>

#include "kernels/cuda/marlin_layout.h"

struct marlin_grid {
    int k_steps, n_tiles, m_blocks, blocks;
    int units, base, rest; /* units in all; of a block, and how many blocks have one more */
};

/* Whether the product of the three is a number of units that the walk can count. */
MARLIN_FN int marlin_grid_fits(int64_t k_steps, int64_t n_tiles, int64_t m_blocks)
{
    return k_steps * n_tiles <= INT32_MAX && k_steps * n_tiles * m_blocks <= INT32_MAX;
}

/* How many blocks, of at most `most`. When the tiles are fewer, and each can be cut into equal parts that are hardly longer than a stripe of all the blocks would be,
 * as many as there are parts: then no block ends inside the part of another, and each finishes one tile only. */
MARLIN_FN int marlin_blocks(int units, int k_steps, int tiles, int most)
{
    int parts, stripe = (units + most - 1) / most;
    if (units < most)
        return units;
    for (parts = most / tiles; parts > 0; parts--)
        if (k_steps % parts == 0)
            return 8 * (k_steps / parts) <= 9 * stripe ? tiles * parts : most;
    return most;
}

MARLIN_FN struct marlin_grid marlin_grid_of(int k_steps, int n_tiles, int m_blocks, int most)
{
    struct marlin_grid g;
    g.k_steps = k_steps;
    g.n_tiles = n_tiles;
    g.m_blocks = m_blocks;
    g.units = k_steps * n_tiles * m_blocks;
    g.blocks = marlin_blocks(g.units, k_steps, n_tiles * m_blocks, most);
    g.base = g.units / g.blocks;
    g.rest = g.units % g.blocks;
    return g;
}

/* First unit of block b; block b + 1's is where b ends. */
MARLIN_FN int marlin_stripe(const struct marlin_grid *p, int b)
{
    return b * p->base + (b < p->rest ? b : p->rest);
}

/* The block whose stripe holds unit u. */
MARLIN_FN int marlin_owner(const struct marlin_grid *p, int u)
{
    const unsigned longer = (unsigned)(p->base + 1), in_longer = (unsigned)p->rest * longer;
    return (unsigned)u < in_longer ? (int)((unsigned)u / longer) : p->rest + (int)(((unsigned)u - in_longer) / (unsigned)p->base);
}

/* A place in the walk over a stripe. */
struct marlin_cursor {
    int k, m, n; /* step, row block, strip of columns */
};

MARLIN_FN struct marlin_cursor marlin_cursor_at(const struct marlin_grid *p, int unit)
{
    const unsigned tile = (unsigned)unit / (unsigned)p->k_steps;
    struct marlin_cursor c;
    c.k = unit - (int)tile * p->k_steps;
    c.n = (int)(p->m_blocks == 1 ? tile : tile / (unsigned)p->m_blocks);
    c.m = (int)tile - c.n * p->m_blocks;
    return c;
}

MARLIN_FN void marlin_cursor_next(const struct marlin_grid *p, struct marlin_cursor *c)
{
    if (++c->k < p->k_steps)
        return;
    c->k = 0;
    if (++c->m < p->m_blocks)
        return;
    c->m = 0;
    c->n++;
}

/* The blocks that share a tile: first .. first + count - 1. */
struct marlin_share {
    int first, count;
};

MARLIN_FN struct marlin_share marlin_tile_share(const struct marlin_grid *p, struct marlin_cursor c)
{
    int start = (c.n * p->m_blocks + c.m) * p->k_steps;
    struct marlin_share s;
    s.first = marlin_owner(p, start);
    s.count = marlin_owner(p, start + p->k_steps - 1) - s.first + 1;
    return s;
}

/* Slot of block b for a tile it shares: a block shares at most two, the one its stripe begins inside (slot 2b) and the one that begins inside its stripe (2b + 1),
 * of which it is the first block. */
MARLIN_FN int marlin_slot(struct marlin_share s, int b)
{
    return 2 * b + (b == s.first);
}

#endif

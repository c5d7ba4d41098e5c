/* Who computes what in the Machete-class kernel. The output is cut into tiles of rows x 128 * wide, the K of a tile into steps. A cluster takes tiles in turn, cluster c those
 * numbered c, c + clusters, ...: blocks stay where they are, and their producers run ahead across the ends of tiles.
 *   spans  that K is cut into: span s has steps [k_steps * s / spans, k_steps * (s + 1) / spans), and the sums of spans are added in the order of s
 *   split  blocks of a cluster share one tile, a span each (split = spans); or a block goes through all spans by itself and holds their sum in between (split 1): the additions
 *          are the same
 *   share  blocks of a cluster have neighbouring tiles along N and the same rows, of which each brings one part for all
 * At most one of the two is more than 1. Tiles go through up to M_GROUP tiles of rows at one place of N before the next place: codes are read from memory once, X from L2.
 * Nothing here depends on timing. Pure functions; properties are tested in tests/kernels/check_machete_schedule.c. */
#ifndef KERNELS_CUDA_MACHETE_SCHEDULE_H
#define KERNELS_CUDA_MACHETE_SCHEDULE_H

#include "kernels/cuda/machete_layout.h"

enum { MACHETE_CLUSTER_MAX = 8, MACHETE_M_GROUP = 16 };

struct machete_grid {
    int m_tiles, n_places; /* n_places: groups of `share` tiles along N */
    int k_steps, spans, split, share;
    int clusters, tiles;   /* tiles a cluster takes as one: m_tiles * n_places */
};

/* Place of a tile: row tile m, and n in places. */
struct machete_tile {
    int m, n;
};

MACHETE_FN struct machete_tile machete_tile_at(const struct machete_grid *g, int t)
{
    const int group = t / (MACHETE_M_GROUP * g->n_places), in = t - group * (MACHETE_M_GROUP * g->n_places), left = g->m_tiles - group * MACHETE_M_GROUP;
    const int rows = left < MACHETE_M_GROUP ? left : MACHETE_M_GROUP;
    struct machete_tile p;
    p.n = in / rows;
    p.m = group * MACHETE_M_GROUP + (in - p.n * rows);
    return p;
}

/* First step of a span. (Of K below 2^31 there are fewer than 2^25 steps.) */
MACHETE_FN int machete_first_step(const struct machete_grid *g, int span)
{
    return (int)((unsigned)(g->k_steps * span) / (unsigned)g->spans);
}

/* Spans of block `rank` of a cluster: from machete_first_span up to machete_end_span. */
MACHETE_FN int machete_first_span(const struct machete_grid *g, int rank)
{
    return g->split > 1 ? rank : 0;
}

MACHETE_FN int machete_end_span(const struct machete_grid *g, int rank)
{
    return g->split > 1 ? rank + 1 : g->spans;
}

/* Whether blocks hold sums between spans. */
MACHETE_FN int machete_holds(const struct machete_grid *g)
{
    return g->spans > g->split;
}

#endif

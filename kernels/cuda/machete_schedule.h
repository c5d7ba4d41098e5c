/* Who computes what in the Machete-class kernel. The output is cut into tiles of rows x 128 * wide, the K of a tile into steps. A cluster takes tiles in turn, cluster c those
 * numbered c, c + clusters, ...: blocks stay where they are, and their producers run ahead across the ends of tiles.
 *   split  blocks of a cluster share one tile: block r has steps [k_steps * r / split, k_steps * (r + 1) / split), and the sums are added in the order of r
 *   share  blocks of a cluster have neighbouring tiles along N and the same rows, of which each brings one part for all
 * At most one of the two is more than 1. Tiles go through up to M_GROUP tiles of rows at one place of N before the next place: codes are read from memory once, X from L2.
 * Nothing here depends on timing. Pure functions; properties are tested in tests/kernels/check_machete_schedule.c. */
#ifndef KERNELS_CUDA_MACHETE_SCHEDULE_H
#define KERNELS_CUDA_MACHETE_SCHEDULE_H

#include "kernels/cuda/machete_layout.h"

enum { MACHETE_CLUSTER_MAX = 8, MACHETE_M_GROUP = 16 };

struct machete_grid {
    int m_tiles, n_places; /* n_places: groups of `share` tiles along N */
    int k_steps, split, share;
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

/* First step of block `rank` of `split`. */
MACHETE_FN int machete_first_step(const struct machete_grid *g, int rank)
{
    return (int)((int64_t)g->k_steps * rank / g->split);
}

#endif

/* Cutting work into pieces for struct parallel: many small pieces even out, but each costs a handover, so short work stays on the caller. */
#ifndef KERNELS_CPU_SPLIT_H
#define KERNELS_CPU_SPLIT_H

#include "kernels/cpu/cpu_ops.h"

/* Below this many elementary operations a piece is not worth handing to another thread. */
enum { SPLIT_COST = 32768 };

/* Into how many pieces to cut `units` that cost `cost` operations in all: 1 .. units. */
static inline int64_t split_pieces(const struct parallel *par, int64_t units, int64_t cost)
{
    int64_t pieces = cost / SPLIT_COST, most = par->threads > 1 ? 4 * (int64_t)par->threads : 1;
    if (pieces > most)
        pieces = most;
    if (pieces > units)
        pieces = units;
    return pieces < 1 ? 1 : pieces;
}

/* Where piece i of `pieces` begins; piece i ends where i + 1 begins. */
static inline int64_t split_at(int64_t units, int64_t pieces, int64_t i)
{
    return units / pieces * i + (i < units % pieces ? i : units % pieces);
}

static inline void split_run(const struct parallel *par, int64_t pieces, void (*fn)(void *arg, size_t i), void *arg)
{
    if (pieces == 1)
        fn(arg, 0);
    else
        par->run(par->ctx, (size_t)pieces, fn, arg);
}

#endif

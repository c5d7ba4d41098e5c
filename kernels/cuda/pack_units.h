/* What packing for the mixed-precision kernels has in common, whatever the layout: which units of K share a row of scales, in which order inputs are taken, and the walk
 * that puts codes and rows of scales where a layout wants them. marlin_pack.h and machete_pack.h are made of it. Host only, no CUDA.
 *
 * A matrix falls into blocks of `columns` outputs by 64 inputs; blocks of one strip of columns follow each other along K. */
#ifndef KERNELS_CUDA_PACK_UNITS_H
#define KERNELS_CUDA_PACK_UNITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/tensor.h"
#include "pipeline/base/err.h"

enum { PACK_K = 64, PACK_COLUMNS_MAX = 128, PACK_ONE_UNIT = 31 };

struct pack_units {
    int64_t N, K, Kx; /* of the layer; Kx: columns of X that the kernel reads, K or the filled-up K of the gathered X (a multiple of 64) */
    int bits;         /* stored: 4 or 8 */
    int unit_shift;   /* -1: units of 32 inputs; s: of 64 << s; PACK_ONE_UNIT: one for all */
    bool zero_table;  /* zeros differ */
    bool permuted;    /* X has to be gathered */
    float zero;       /* when there is no table */
};

/* -ERR_SHAPE, -ERR_UNSUPPORTED, -ERR_FORMAT (zero or group out of range, named with its place), -ERR_NOMEM. */
int pack_units_plan(const struct qwords *q, struct pack_units *u, struct err *e);

/* The same for a symmetric matrix in its own order that is not there yet: zero 2^(bits - 1), groups of 32, 64, 128, ... or -1. */
int pack_units_plain(int64_t N, int64_t K, int bits, int group_size, struct pack_units *u, struct err *e);

/* A layout, as the walk needs it. */
struct pack_layout {
    int columns, block_words;                                /* of a block; at most PACK_COLUMNS_MAX columns */
    int k_blocks, rows;                                      /* of the packed matrix; rows of scales, enough for every block */
    size_t code_bytes, scale_bytes;
    void (*place)(int bits, int k, int n, int *word, int *shift); /* of code (k, n) in a block */
    size_t (*scale_at)(const struct pack_layout *l, int row, int64_t n);
    int strips;
};

/* codes [code_bytes / 4], scales and (zero_table) zeros [scale_bytes / 2] f16, perm [Kx] or NULL: source column of each column of the gathered X, -1 for a filled-up one.
 * All of it is written; what belongs to no input is 0. -ERR_NOMEM. */
int pack_units_put(const struct qwords *q, const struct pack_units *u, const struct pack_layout *l, uint32_t *codes, uint16_t *scales, uint16_t *zeros, int32_t *perm,
                   struct err *e);

#endif

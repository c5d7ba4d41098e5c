/* Matrices with one X joined into one: their outputs follow each other along N, and each has a Y and a bias of its own. The kernels of both classes pick the part by the
 * column. Every part but the last is a whole number of strips of columns (64; machete: stripes, 128), so that no strip has two. */
#ifndef KERNELS_CUDA_MARLIN_PART_H
#define KERNELS_CUDA_MARLIN_PART_H

#include <stdbool.h>

#include "kernels/cuda/marlin_layout.h"
#include "pipeline/base/err.h"

enum { MARLIN_PARTS = 3 };

/* Of a call: where columns from `from` on go, instead of to the part before. */
struct marlin_out {
    int64_t from;      /* 0: there is no such part */
    void *y;           /* [M, ldy] */
    int64_t ldy;
    const float *bias; /* [N of the part] or NULL */
};

/* The same of a launch. */
struct marlin_part {
    void *y;           /* f32, or the type of x */
    int64_t ldy;
    const float *bias;
    int from, N;       /* from INT32_MAX: there is no such part */
    int together;      /* a pair of columns (machete: four) can be stored together, as it is: aligned, nothing to add to */
};

/* Where a part of a joined matrix lies in the whole's packed form: bytes from the beginning, and rows of the tables (scales; zeros alike). */
struct marlin_place {
    size_t codes, table;
    size_t width, pitch; /* of a row of the part's table, and from one to the next in the whole's */
    int rows;
};

/* The part that has column col. */
MARLIN_FN int marlin_part_of(const struct marlin_part *part, int col)
{
    return (col >= part[1].from) + (col >= part[2].from);
}

#ifdef __cplusplus
extern "C" {
#endif

/* part [MARLIN_PARTS] of outputs first (its `from` is 0) and more [MARLIN_PARTS - 1]; together: columns of a store, of `item` bytes each, 0 where there is something to add to. */
void marlin_fill_parts(struct marlin_part *part, const struct marlin_out *first, const struct marlin_out *more, int64_t N, int together, int item);
/* -ERR_SHAPE: a part that does not begin at a multiple of `columns`, or not behind the one before and inside of N, or rows of Y that are shorter than it. */
int marlin_check_parts(const char *kernel, const struct marlin_part *part, int64_t N, int columns, struct err *e);

#ifdef __cplusplus
}
#endif

#endif

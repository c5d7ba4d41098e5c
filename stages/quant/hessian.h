/* The Hessian of one module's layer-wise problem, H = (2 / rows) * sum over rows of x^T x, gathered from activations as they come.
 *
 *     struct hessian s;
 *     hessian_init(&s, backend, K, e);
 *     for each batch: hessian_add(&s, x, ldx, M, e);
 *     hessian_finish(&s, h, e);          h [K,K] f64 in host memory, both triangles
 *     hessian_release(&s);
 *
 * Batches may have any number of rows: rows are regrouped here into the absolute blocks of HESSIAN_BLOCK_ROWS that the backend sums by, so
 * the result depends on the rows and their order alone. x is device memory; one struct is used by one thread at a time. */
#ifndef STAGES_QUANT_HESSIAN_H
#define STAGES_QUANT_HESSIAN_H

#include <stdint.h>

#include "kernels/backend.h"

struct hessian {
    struct backend *backend; /* borrowed */
    int64_t K;
    int64_t rows;      /* seen so far */
    int64_t tail_rows; /* of them, waiting in tail */
    double *sum;       /* device [K,K], upper triangle; owned */
    float *tail;       /* device [HESSIAN_BLOCK_ROWS,K]: the rows of an unfinished block; owned */
    float *bounce;     /* host [K]: backends have no device-to-device copy; owned */
};

int hessian_init(struct hessian *s, struct backend *b, int64_t K, struct err *e);
int hessian_add(struct hessian *s, const float *x, int64_t ldx, int64_t M, struct err *e);
/* Adds what waits, writes h; nothing can be added after. No rows at all: h is zero. */
int hessian_finish(struct hessian *s, double *h, struct err *e);
void hessian_release(struct hessian *s); /* takes a zeroed struct too */

/* Fills the lower triangle of h [K,K] from the upper one and scales both. */
void hessian_mirror(double *h, int64_t K, double scale);
/* Mean of the diagonal, summed in order. */
double hessian_mean_diagonal(const double *h, int64_t K);

#endif

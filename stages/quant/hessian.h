/* The Hessian of one module's layer-wise problem, H = (2 / rows) * sum over rows of x^T x, gathered from activations as they come; where asked for, also
 * P = (2 / rows) * sum of y^T x, for rows y that go with the x (what the module should have put out, or what the source model fed it).
 *
 *     struct hessian s;
 *     hessian_init(&s, backend, K, N, e);              N = 0: no y
 *     for each batch: hessian_add(&s, x, K, y, N, M, e);
 *     hessian_finish(&s, h, p, e);          h [K,K] f64 in host memory, both triangles; p [N,K] or NULL
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
    int64_t K, N;
    int64_t rows;      /* seen so far */
    int64_t tail_rows; /* of them, waiting in the tails */
    double *sum;       /* device [K,K], upper triangle; owned */
    double *pair;      /* device [N,K]; owned */
    float *tail;       /* device [HESSIAN_BLOCK_ROWS,K]: the rows x of an unfinished block; owned */
    float *pair_tail;  /* device [HESSIAN_BLOCK_ROWS,N]: their y; owned */
    float *bounce;     /* host, a row: backends have no device-to-device copy; owned */
};

int hessian_init(struct hessian *s, struct backend *b, int64_t K, int64_t N, struct err *e);
/* y is ignored where N = 0. */
int hessian_add(struct hessian *s, const float *x, int64_t ldx, const float *y, int64_t ldy, int64_t M, struct err *e);
/* Adds what waits, writes h and, unless NULL, p; nothing can be added after. No rows at all: both are zero. */
int hessian_finish(struct hessian *s, double *h, double *p, struct err *e);
void hessian_release(struct hessian *s); /* takes a zeroed struct too */

/* Fills the lower triangle of h [K,K] from the upper one and scales both. */
void hessian_mirror(double *h, int64_t K, double scale);
/* Mean of the diagonal, summed in order. */
double hessian_mean_diagonal(const double *h, int64_t K);

#endif

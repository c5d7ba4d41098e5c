#include "stages/quant/hessian.h"

#include <stdlib.h>
#include <string.h>

#include "pipeline/base/mem.h"

int hessian_init(struct hessian *s, struct backend *b, int64_t K, struct err *e)
{
    *s = (struct hessian){.backend = b, .K = K};
    size_t n = (size_t)K, bytes;
    if (mem_mul(n, n * sizeof(double), &bytes))
        return err_set(e, ERR_NOMEM, "a Hessian of %lld inputs does not fit in memory", (long long)K);
    s->bounce = malloc(n * sizeof(float));
    if (!s->bounce)
        return err_set(e, ERR_NOMEM, "no memory for a row of %lld inputs", (long long)K);
    void *p;
    int rc = b->ops->alloc(b, bytes, &p, e);
    if (rc)
        return err_wrap(e, "Hessian of %lld inputs", (long long)K);
    s->sum = p;
    rc = b->ops->alloc(b, HESSIAN_BLOCK_ROWS * n * sizeof(float), &p, e);
    if (rc)
        return err_wrap(e, "Hessian of %lld inputs", (long long)K);
    s->tail = p;
    return 0;
}

void hessian_release(struct hessian *s)
{
    if (s->backend) {
        s->backend->ops->free(s->backend, s->sum);
        s->backend->ops->free(s->backend, s->tail);
    }
    free(s->bounce);
    *s = (struct hessian){0};
}

/* Moves M rows of x behind those that wait; sums the block when it is full. */
static int add_to_tail(struct hessian *s, const float *x, int64_t ldx, int64_t M, struct err *e)
{
    const struct backend_ops *ops = s->backend->ops;
    size_t bytes = (size_t)s->K * sizeof(float);
    int rc = 0;
    for (int64_t m = 0; !rc && m < M; m++) {
        rc = ops->download(s->backend, s->bounce, x + m * ldx, bytes, e);
        if (!rc)
            rc = ops->upload(s->backend, s->tail + (s->tail_rows + m) * s->K, s->bounce, bytes, e);
    }
    if (rc)
        return rc;
    s->tail_rows += M;
    s->rows += M;
    if (s->tail_rows < HESSIAN_BLOCK_ROWS)
        return 0;
    s->tail_rows = 0;
    return ops->hessian(s->backend, s->sum, s->tail, s->K, HESSIAN_BLOCK_ROWS, s->K, s->rows - HESSIAN_BLOCK_ROWS, e);
}

int hessian_add(struct hessian *s, const float *x, int64_t ldx, int64_t M, struct err *e)
{
    int rc = 0;
    if (s->tail_rows) {
        int64_t n = HESSIAN_BLOCK_ROWS - s->tail_rows < M ? HESSIAN_BLOCK_ROWS - s->tail_rows : M;
        rc = add_to_tail(s, x, ldx, n, e);
        x += n * ldx;
        M -= n;
    }
    int64_t whole = M - M % HESSIAN_BLOCK_ROWS;
    if (!rc && whole) {
        rc = s->backend->ops->hessian(s->backend, s->sum, x, ldx, whole, s->K, s->rows, e);
        s->rows += whole;
    }
    return rc || whole == M ? rc : add_to_tail(s, x + whole * ldx, ldx, M - whole, e);
}

int hessian_finish(struct hessian *s, double *h, struct err *e)
{
    const struct backend_ops *ops = s->backend->ops;
    size_t bytes = (size_t)s->K * (size_t)s->K * sizeof(double);
    int rc = 0;
    if (s->tail_rows) {
        rc = ops->hessian(s->backend, s->sum, s->tail, s->K, s->tail_rows, s->K, s->rows - s->tail_rows, e);
        s->tail_rows = 0; /* the last block may be short, so nothing can follow it */
    }
    if (!rc)
        rc = ops->download(s->backend, h, s->sum, bytes, e);
    if (rc)
        return err_wrap(e, "Hessian of %lld inputs", (long long)s->K);
    hessian_mirror(h, s->K, s->rows ? 2.0 / (double)s->rows : 0.0);
    return 0;
}

void hessian_mirror(double *h, int64_t K, double scale)
{
    enum { TILE = 64 }; /* so that the strided writes stay in the cache */
    for (int64_t i0 = 0; i0 < K; i0 += TILE)
        for (int64_t j0 = i0; j0 < K; j0 += TILE)
            for (int64_t i = i0; i < i0 + TILE && i < K; i++)
                for (int64_t j = i > j0 ? i : j0; j < j0 + TILE && j < K; j++)
                    h[j * K + i] = h[i * K + j] *= scale;
}

double hessian_mean_diagonal(const double *h, int64_t K)
{
    double sum = 0;
    for (int64_t i = 0; i < K; i++)
        sum += h[i * K + i];
    return sum / (double)K;
}

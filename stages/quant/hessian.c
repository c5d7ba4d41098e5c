#include "stages/quant/hessian.h"

#include <stdlib.h>
#include <string.h>

#include "pipeline/base/mem.h"

static int alloc(struct hessian *s, size_t rows, size_t cols, size_t size, void *out, struct err *e)
{
    size_t bytes;
    if (mem_mul(rows, cols * size, &bytes))
        return err_set(e, ERR_NOMEM, "%zu x %zu does not fit in memory", rows, cols);
    return s->backend->ops->alloc(s->backend, bytes, out, e);
}

int hessian_init(struct hessian *s, struct backend *b, int64_t K, int64_t N, struct err *e)
{
    *s = (struct hessian){.backend = b, .K = K, .N = N};
    size_t k = (size_t)K, n = (size_t)N;
    s->bounce = malloc((k > n ? k : n) * sizeof(float));
    int rc = s->bounce ? 0 : err_set(e, ERR_NOMEM, "no memory for a row");
    if (!rc)
        rc = alloc(s, k, k, sizeof(double), &s->sum, e);
    if (!rc)
        rc = alloc(s, HESSIAN_BLOCK_ROWS, k, sizeof(float), &s->tail, e);
    if (!rc && N)
        rc = alloc(s, n, k, sizeof(double), &s->pair, e);
    if (!rc && N)
        rc = alloc(s, HESSIAN_BLOCK_ROWS, n, sizeof(float), &s->pair_tail, e);
    return rc ? err_wrap(e, "Hessian of %lld inputs", (long long)K) : 0;
}

void hessian_release(struct hessian *s)
{
    void *const device[] = {s->sum, s->pair, s->tail, s->pair_tail};
    for (size_t i = 0; s->backend && i < sizeof device / sizeof *device; i++)
        s->backend->ops->free(s->backend, device[i]);
    free(s->bounce);
    *s = (struct hessian){0};
}

/* Sums rows that start at a block. */
static int sum_rows(struct hessian *s, const float *x, int64_t ldx, const float *y, int64_t ldy, int64_t M, int64_t row0, struct err *e)
{
    const struct backend_ops *ops = s->backend->ops;
    int rc = ops->hessian(s->backend, s->sum, x, ldx, M, s->K, row0, e);
    return rc || !s->N ? rc : ops->cross(s->backend, s->pair, y, ldy, s->N, x, ldx, s->K, M, row0, e);
}

static int copy_rows(struct hessian *s, float *to, const float *from, int64_t ld, int64_t cols, int64_t M, struct err *e)
{
    const struct backend_ops *ops = s->backend->ops;
    size_t bytes = (size_t)cols * sizeof(float);
    int rc = 0;
    for (int64_t m = 0; !rc && m < M; m++) {
        rc = ops->download(s->backend, s->bounce, from + m * ld, bytes, e);
        if (!rc)
            rc = ops->upload(s->backend, to + (s->tail_rows + m) * cols, s->bounce, bytes, e);
    }
    return rc;
}

/* Moves M rows behind those that wait; sums the block when it is full. */
static int add_to_tail(struct hessian *s, const float *x, int64_t ldx, const float *y, int64_t ldy, int64_t M, struct err *e)
{
    int rc = copy_rows(s, s->tail, x, ldx, s->K, M, e);
    if (!rc && s->N)
        rc = copy_rows(s, s->pair_tail, y, ldy, s->N, M, e);
    if (rc)
        return rc;
    s->tail_rows += M;
    s->rows += M;
    if (s->tail_rows < HESSIAN_BLOCK_ROWS)
        return 0;
    s->tail_rows = 0;
    return sum_rows(s, s->tail, s->K, s->pair_tail, s->N, HESSIAN_BLOCK_ROWS, s->rows - HESSIAN_BLOCK_ROWS, e);
}

int hessian_add(struct hessian *s, const float *x, int64_t ldx, const float *y, int64_t ldy, int64_t M, struct err *e)
{
    int rc = 0;
    if (s->tail_rows) {
        int64_t n = HESSIAN_BLOCK_ROWS - s->tail_rows < M ? HESSIAN_BLOCK_ROWS - s->tail_rows : M;
        rc = add_to_tail(s, x, ldx, y, ldy, n, e);
        x += n * ldx;
        y = s->N ? y + n * ldy : y;
        M -= n;
    }
    int64_t whole = M - M % HESSIAN_BLOCK_ROWS;
    if (!rc && whole) {
        rc = sum_rows(s, x, ldx, y, ldy, whole, s->rows, e);
        s->rows += whole;
    }
    return rc || whole == M ? rc : add_to_tail(s, x + whole * ldx, ldx, s->N ? y + whole * ldy : y, ldy, M - whole, e);
}

int hessian_finish(struct hessian *s, double *h, double *p, struct err *e)
{
    const struct backend_ops *ops = s->backend->ops;
    size_t k = (size_t)s->K, pairs = (size_t)s->N * k;
    double scale = s->rows ? 2.0 / (double)s->rows : 0.0;
    int rc = 0;
    if (s->tail_rows) {
        rc = sum_rows(s, s->tail, s->K, s->pair_tail, s->N, s->tail_rows, s->rows - s->tail_rows, e);
        s->tail_rows = 0; /* the last block may be short, so nothing can follow it */
    }
    if (!rc)
        rc = ops->download(s->backend, h, s->sum, k * k * sizeof *h, e);
    if (!rc && p)
        rc = ops->download(s->backend, p, s->pair, pairs * sizeof *p, e);
    if (rc)
        return err_wrap(e, "Hessian of %lld inputs", (long long)s->K);
    hessian_mirror(h, s->K, scale);
    for (size_t i = 0; p && i < pairs; i++)
        p[i] *= scale;
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

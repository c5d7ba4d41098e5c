#include "stages/quant/target.h"

#include <stdlib.h>

#include "pipeline/base/mem.h"

struct shift {
    struct backend *b;
    const struct gptq_input *in;
    const int64_t *perm;
    double scale;
    float *square; /* host [K,K] */
    float *row;    /* host [K] */
    float *x, *y;  /* device [N,K] */
};

/* to = from M^T, M the host matrix in s->square. */
static int multiply(struct shift *s, float *to, const float *from, struct err *e)
{
    int64_t N = s->in->N, K = s->in->K;
    struct tensor_view view = {.dtype = DT_F32, .rows = K, .cols = K, .data = s->square};
    struct weight *m = NULL;
    int rc = s->b->ops->weight_dense(s->b, &view, &m, e);
    if (rc)
        return rc;
    rc = s->b->ops->linear(s->b, to, K, from, K, N, m, NULL, false, e);
    s->b->ops->weight_free(s->b, m);
    return rc;
}

/* x = scale * alpha * W (C - H), C - H in f64. */
static int shift_of_inputs(struct shift *s, const float *w, struct err *e)
{
    const double *c = s->in->inputs, *h = s->in->h;
    int64_t K = s->in->K;
    double alpha = s->scale * s->in->params->compensate;
    for (int64_t j = 0; j < K; j++)
        for (int64_t i = 0; i < K; i++) {
            int64_t at = s->perm[i] * K + s->perm[j];
            s->square[j * K + i] = (float)(alpha * (c[at] - h[at]));
        }
    return multiply(s, s->x, w, e);
}

/* x = scale * (P - alpha * W H). */
static int shift_of_outputs(struct shift *s, const float *w, struct err *e)
{
    const double *p = s->in->outputs, *h = s->in->h;
    int64_t N = s->in->N, K = s->in->K;
    double alpha = s->scale * s->in->params->compensate;
    for (int64_t j = 0; j < K; j++)
        for (int64_t i = 0; i < K; i++)
            s->square[j * K + i] = (float)(alpha * h[s->perm[i] * K + s->perm[j]]);
    int rc = multiply(s, s->x, w, e);
    for (int64_t n = 0; !rc && n < N; n++) {
        rc = s->b->ops->download(s->b, s->row, s->x + n * K, (size_t)K * sizeof *s->row, e);
        for (int64_t i = 0; i < K; i++)
            s->row[i] = (float)(s->scale * p[n * K + s->perm[i]] - (double)s->row[i]);
        if (!rc)
            rc = s->b->ops->upload(s->b, s->x + n * K, s->row, (size_t)K * sizeof *s->row, e);
    }
    return rc;
}

static void transpose(float *a, int64_t K)
{
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = i + 1; j < K; j++) {
            float t = a[i * K + j];
            a[i * K + j] = a[j * K + i];
            a[j * K + i] = t;
        }
}

int target_compensate(struct backend *b, const struct gptq_input *in, const int64_t *perm, double scale, const float *u, float *w, struct err *e)
{
    size_t n = (size_t)in->N, k = (size_t)in->K, square, wide;
    if (mem_mul(k, k * sizeof(float), &square) || mem_mul(n, k * sizeof(float), &wide))
        return err_set(e, ERR_NOMEM, "%zu x %zu does not fit in memory", n, k);
    struct shift s = {.b = b, .in = in, .perm = perm, .scale = scale, .square = malloc(square), .row = malloc(k * sizeof(float))};
    int rc = s.square && s.row ? 0 : err_set(e, ERR_NOMEM, "no memory for %zu bytes of the target", square);
    if (!rc)
        rc = b->ops->alloc(b, wide, (void **)&s.x, e);
    if (!rc)
        rc = b->ops->alloc(b, wide, (void **)&s.y, e);
    if (!rc)
        rc = in->inputs ? shift_of_inputs(&s, w, e) : shift_of_outputs(&s, w, e);
    if (!rc) /* x (H + damping)^-1 = x u^T u */
        rc = b->ops->download(b, s.square, u, square, e);
    if (!rc)
        rc = multiply(&s, s.y, s.x, e);
    if (!rc) {
        transpose(s.square, in->K);
        rc = multiply(&s, s.x, s.y, e);
    }
    if (!rc)
        rc = b->ops->add(b, w, s.x, in->N * in->K, e);
    b->ops->free(b, s.x);
    b->ops->free(b, s.y);
    free(s.square);
    free(s.row);
    return rc;
}

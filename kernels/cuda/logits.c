/* nll and kl: targets to the device, results back; sample. */
#include <float.h>
#include <math.h>

#include "kernels/cuda/cuda_state.h"
#include "kernels/cuda/sample.h"

/* Room for M targets and for results of M rows, and the targets on their way. */
static int prepare(struct cuda_state *s, const int32_t *targets, int64_t M, size_t result_bytes, struct err *e)
{
    size_t bytes = (size_t)M * sizeof *targets;
    int rc = cuda_reserve(s, &s->ids, bytes, "targets", e);
    if (!rc)
        rc = cuda_reserve(s, &s->results, (size_t)M * result_bytes, "figures of rows", e);
    return rc ? rc : cuda_check(s, cudaMemcpyAsync(s->ids.p, targets, bytes, cudaMemcpyHostToDevice, s->stream), "targets", e);
}

static int fetch(struct cuda_state *s, void *to, const void *from, size_t bytes, struct err *e)
{
    int rc = cuda_check(s, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, s->stream), "figures of rows", e);
    return rc ? rc : cuda_check(s, cudaStreamSynchronize(s->stream), "figures of rows", e);
}

int cuda_nll(struct backend *b, const float *logits, int64_t M, int64_t V, const int32_t *targets, double *nll, int32_t *top1, struct err *e)
{
    struct cuda_state *s = b->state;
    if (M <= 0)
        return 0;
    int rc = prepare(s, targets, M, sizeof *nll + sizeof *top1, e);
    double *values = s->results.p;
    int32_t *tops = rc ? NULL : (int32_t *)(values + M);
    if (!rc)
        rc = cuda_check(s, launch_nll(s->stream, logits, M, V, s->ids.p, values, tops), "nll", e);
    if (!rc)
        rc = fetch(s, nll, values, (size_t)M * sizeof *nll, e);
    return rc ? rc : fetch(s, top1, tops, (size_t)M * sizeof *top1, e);
}

int cuda_kl(struct backend *b, const float *ref, const float *logits, int64_t M, int64_t V, const int32_t *targets, struct kl_row *out, struct err *e)
{
    struct cuda_state *s = b->state;
    if (M <= 0)
        return 0;
    int rc = prepare(s, targets, M, sizeof *out, e);
    if (!rc)
        rc = cuda_check(s, launch_kl(s->stream, ref, logits, M, V, s->ids.p, s->results.p), "kl", e);
    return rc ? rc : fetch(s, out, s->results.p, (size_t)M * sizeof *out, e);
}

static struct sample_draw draw_of(const struct sample_row *r)
{
    struct sample_draw d = {.cut = r->top_p < 1, .draw = (uint64_t)ldexp(r->u, 64)};
    if (r->temperature > 0)
        d.scale = (float)fmin(fmax(1.4426950408889634 / r->temperature, FLT_MIN), FLT_MAX);
    if (d.cut && r->top_p > 0)
        d.part = (uint64_t)ldexp(r->top_p, 64);
    return d;
}

int cuda_sample(struct backend *b, const float *logits, int64_t M, int64_t V, const struct sample_row *rows, int32_t *ids, struct err *e)
{
    struct cuda_state *s = b->state;
    struct sample_launch l;
    if (M <= 0)
        return 0;
    if (V > (int64_t)1 << SAMPLE_ID_BITS)
        return err_set(e, ERR_UNSUPPORTED, "sample: rows of %lld logits: the CUDA kernel serves up to %lld", (long long)V, 1LL << SAMPLE_ID_BITS);
    int rc = cuda_reserve(s, &s->results, (size_t)M * sizeof *ids, "ids", e);
    for (int64_t m = 0; m < M && !rc; m += l.rows) {
        l.rows = M - m < SAMPLE_ROWS ? (int)(M - m) : SAMPLE_ROWS;
        for (int i = 0; i < l.rows; i++)
            l.draw[i] = draw_of(&rows[m + i]);
        rc = cuda_check(s, launch_sample(s->stream, logits + m * V, V, &l, (int32_t *)s->results.p + m), "sample", e);
    }
    return rc ? rc : fetch(s, ids, s->results.p, (size_t)M * sizeof *ids, e);
}

/* y = x W^T on the device: the split of X, shared by products of one input, and the choice of the kernel. */
#include "kernels/cuda/cuda_state.h"

static bool overlap(const float *a, int64_t a_floats, const float *b, int64_t b_floats)
{
    return a < b + b_floats && b < a + a_floats;
}

/* X as pairs of halves in s->split, unless it is there already. */
static int split(struct cuda_state *s, const float *x, int64_t ldx, int64_t M, const struct weight *w, struct err *e)
{
    int64_t pitch = pad_to(w->pitch, UNIT_K);
    bool f16 = w->fmt == CUDA_F16;
    if (s->split_of.x == x && s->split_of.ldx == ldx && s->split_of.M == M && s->split_of.K == w->K && s->split_of.pitch == pitch && s->split_of.perm == w->perm &&
        s->split_of.f16 == f16)
        return 0;
    int rc = cuda_reserve(s, &s->split, (size_t)(2 * M * pitch) * sizeof(uint16_t), "activations as halves", e);
    if (!rc)
        rc = cuda_check(s, launch_split(s->stream, s->split.p, x, ldx, M, w->K, pitch, w->perm, f16), "split", e);
    s->split_of.x = rc ? NULL : x;
    s->split_of.ldx = ldx;
    s->split_of.M = M;
    s->split_of.K = w->K;
    s->split_of.pitch = pitch;
    s->split_of.perm = w->perm;
    s->split_of.f16 = f16;
    return rc;
}

static cudaError_t launch(struct cuda_state *s, const struct linear_args *a, enum cuda_row *row)
{
    switch (a->w->fmt) {
    case CUDA_F32:
        *row = CUDA_linear_dense_f32;
        return launch_linear_f32(s->stream, a);
    case CUDA_F16:
        *row = CUDA_linear_dense_f16;
        return launch_linear_f16(s->stream, a, s->info.processors);
    case CUDA_BF16:
        *row = CUDA_linear_dense_bf16;
        return launch_linear_bf16(s->stream, a, s->info.processors);
    case CUDA_W4:
        *row = CUDA_linear_simple_w4;
        return launch_linear_w4(s->stream, a, s->info.processors);
    case CUDA_W8:
        *row = CUDA_linear_simple_w8;
        return launch_linear_w8(s->stream, a, s->info.processors);
    case CUDA_MARLIN: /* cuda_marlin_linear, cuda_machete_linear */
    case CUDA_MACHETE:
        break;
    }
    BUG("weight of format %d", (int)a->w->fmt);
}

int cuda_linear(struct backend *b, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const struct weight *w, const float *bias, bool accumulate,
                struct err *e)
{
    struct cuda_state *s = b->state;
    if (M > 1 && (ldy < w->N || ldx < w->K))
        return err_set(e, ERR_SHAPE, "linear %lld x %lld with row strides %lld and %lld", (long long)w->N, (long long)w->K, (long long)ldy, (long long)ldx);
    if (M <= 0)
        return 0;
    int rc = cuda_settle(s, e);
    if (!rc && w->fmt != CUDA_F32)
        rc = split(s, x, ldx, M, w, e);
    if (rc)
        return rc;
    const struct linear_args a = {.y = y, .x = x, .xs = s->split.p, .ldy = ldy, .ldx = ldx, .M = M, .w = w, .bias = bias, .accumulate = accumulate};
    enum cuda_row row = CUDA_linear_dense_f32;
    if (w->fmt == CUDA_MARLIN) {
        row = w->shape.bits == 8 ? CUDA_linear_marlin_w8 : CUDA_linear_marlin_w4;
        rc = cuda_marlin_linear(s, &a, e);
    } else if (w->fmt == CUDA_MACHETE) {
        row = w->machete.bits == 8 ? CUDA_linear_machete_w8 : CUDA_linear_machete_w4;
        rc = cuda_machete_linear(s, &a, e);
    } else {
        rc = cuda_check(s, launch(s, &a, &row), w->kernel, e);
    }
    s->calls[row]++;
    if (s->split_of.x && overlap(y, (M - 1) * ldy + w->N, s->split_of.x, (s->split_of.M - 1) * s->split_of.ldx + s->split_of.K))
        s->split_of.x = NULL;
    return rc;
}

/* y = x W^T on the device: the split of X, shared by products of one input, and the choice of the kernel. */
#include "kernels/cuda/cuda_state.h"

static bool overlap(const float *a, int64_t a_floats, const float *b, int64_t b_floats)
{
    return a < b + b_floats && b < a + a_floats;
}

void cuda_halves_expect(struct cuda_state *s, int64_t K)
{
    enum { MOST = sizeof s->halves_k / sizeof *s->halves_k };
    for (int i = 0; i < MOST; i++) {
        if (s->halves_k[i] == K)
            return;
        if (!s->halves_k[i]) {
            s->halves_k[i] = K;
            return;
        }
    } /* more kinds of layers than models have: their inputs are split when they are asked for */
}

int cuda_halves_room(struct cuda_state *s, int64_t M, int64_t K, struct cuda_halves *h, struct err *e)
{
    bool wanted = false;
    for (size_t i = 0; i < sizeof s->halves_k / sizeof *s->halves_k; i++)
        wanted |= s->halves_k[i] == K;
    *h = (struct cuda_halves){.M = M, .K = K, .pitch = pad_to(K, UNIT_K)};
    if (!wanted || M <= 0)
        return 0;
    s->split_of.x = NULL;
    int rc = cuda_reserve(s, &s->split, (size_t)(2 * M * h->pitch) * sizeof(uint16_t), "activations as halves", e);
    if (!rc)
        h->xs = s->split.p;
    return rc;
}

void cuda_halves_made(struct cuda_state *s, const struct cuda_halves *h, const float *y)
{
    if (h->xs)
        s->split_of = (struct halves_of){.x = y, .ldx = h->K, .M = h->M, .K = h->K, .pitch = h->pitch};
}

/* X as pairs of halves in s->split, unless it is there already. */
static int split(struct cuda_state *s, const float *x, int64_t ldx, int64_t M, const struct weight *w, struct err *e)
{
    const struct halves_of want = {.x = x, .ldx = ldx, .M = M, .K = w->K, .pitch = pad_to(w->pitch, UNIT_K), .perm = w->perm, .f16 = w->fmt == CUDA_F16}, *has = &s->split_of;
    if (has->x == x && has->ldx == ldx && has->M == M && has->K == want.K && has->pitch == want.pitch && has->perm == want.perm && has->f16 == want.f16)
        return 0;
    s->split_of.x = NULL;
    int rc = cuda_reserve(s, &s->split, (size_t)(2 * M * want.pitch) * sizeof(uint16_t), "activations as halves", e);
    if (rc)
        return rc;
    s->calls[CUDA_split]++;
    rc = cuda_check(s, launch_split(s->stream, s->split.p, x, ldx, M, w->K, want.pitch, w->perm, want.f16), "split", e);
    if (!rc)
        s->split_of = want;
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

/* y of M rows of N is being written. */
static void forget(struct cuda_state *s, const float *y, int64_t ldy, int64_t M, int64_t N)
{
    if (s->split_of.x && overlap(y, (M - 1) * ldy + N, s->split_of.x, (s->split_of.M - 1) * s->split_of.ldx + s->split_of.K))
        s->split_of.x = NULL;
}

static int check_strides(const struct weight *w, int64_t ldy, int64_t ldx, int64_t M, struct err *e)
{
    if (M > 1 && (ldy < w->N || ldx < w->K))
        return err_set(e, ERR_SHAPE, "linear %lld x %lld with row strides %lld and %lld", (long long)w->N, (long long)w->K, (long long)ldy, (long long)ldx);
    return 0;
}

/* All of it but the forgetting of what Y held. */
static int product(struct cuda_state *s, struct linear_args *a, struct err *e)
{
    const struct weight *w = a->w;
    int rc = cuda_settle(s, e);
    if (!rc && w->fmt != CUDA_F32)
        rc = split(s, a->x, a->ldx, a->M, w, e);
    if (rc)
        return rc;
    a->xs = s->split.p;
    enum cuda_row row = CUDA_linear_dense_f32;
    if (w->fmt == CUDA_MARLIN) {
        row = w->shape.bits == 8 ? CUDA_linear_marlin_w8 : CUDA_linear_marlin_w4;
        rc = cuda_marlin_linear(s, a, e);
    } else if (w->fmt == CUDA_MACHETE) {
        row = w->machete.bits == 8 ? CUDA_linear_machete_w8 : CUDA_linear_machete_w4;
        rc = cuda_machete_linear(s, a, e);
    } else {
        rc = cuda_check(s, launch(s, a, &row), w->kernel, e);
    }
    s->calls[row]++;
    return rc;
}

int cuda_linear(struct backend *b, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const struct weight *w, const float *bias, bool accumulate,
                struct err *e)
{
    struct cuda_state *s = b->state;
    int rc = check_strides(w, ldy, ldx, M, e);
    if (rc || M <= 0)
        return rc;
    struct linear_args a = {.y = y, .x = x, .ldy = ldy, .ldx = ldx, .M = M, .w = w, .bias = bias, .accumulate = accumulate};
    rc = product(s, &a, e);
    forget(s, y, ldy, M, w->N);
    return rc;
}

/* The matrix that these are all the parts of, in order; or NULL. */
static const struct weight *whole_of(const struct linear_part *parts, int n)
{
    const struct weight *whole = n > 0 ? parts[0].w->whole : NULL;
    if (!whole || whole->parts != n)
        return NULL;
    for (int i = 0; i < n; i++)
        if (parts[i].w->whole != whole || parts[i].w->number != i)
            return NULL;
    return whole;
}

int cuda_linear_many(struct backend *b, const struct linear_part *parts, int n, const float *x, int64_t ldx, int64_t M, struct err *e)
{
    struct cuda_state *s = b->state;
    const struct weight *whole = whole_of(parts, n);
    int rc = 0;
    if (!whole) {
        for (int i = 0; i < n && !rc; i++)
            rc = cuda_linear(b, parts[i].y, parts[i].ldy, x, ldx, M, parts[i].w, parts[i].bias, false, e);
        return rc;
    }
    struct linear_args a = {.y = parts[0].y, .x = x, .ldy = parts[0].ldy, .ldx = ldx, .M = M, .w = whole, .bias = parts[0].bias};
    int64_t from = 0;
    for (int i = 0; i < n && !rc; from += parts[i++].w->N) {
        rc = check_strides(parts[i].w, parts[i].ldy, ldx, M, e);
        if (i)
            a.more[i - 1] = (struct marlin_out){.from = from, .y = parts[i].y, .ldy = parts[i].ldy, .bias = parts[i].bias};
    }
    if (rc || M <= 0)
        return rc;
    rc = product(s, &a, e);
    for (int i = 0; i < n; i++)
        forget(s, parts[i].y, parts[i].ldy, M, parts[i].w->N);
    return rc;
}

/* Matrices on the device: dense ones as they are, rows padded; quantized ones of class `simple` reordered by group. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_state.h"
#include "kernels/select.h"

static struct cuda_state *state_of(const struct backend *b)
{
    return b->state;
}

void cuda_weight_free(struct backend *b, struct weight *w)
{
    if (!w)
        return;
    state_of(b)->split_of.x = NULL; /* its order of inputs goes */
    if (w->whole) { /* which has all its memory */
        struct weight *whole = w->whole;
        free(w);
        if (--whole->users)
            return;
        w = whole;
    }
    void *all[] = {w->data, w->meta, w->zeros, w->chunk_group, w->perm};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        cuda_drop(state_of(b), all[i]);
    free(w);
}

const char *cuda_weight_kernel(const struct backend *b, const struct weight *w, const char **why)
{
    (void)b;
    *why = w->why;
    return w->kernel;
}

static struct weight *weight_new(int64_t N, int64_t K, enum cuda_fmt fmt, const char *kernel, struct err *e)
{
    struct weight *w = calloc(1, sizeof *w);
    if (w)
        *w = (struct weight){.N = N, .K = K, .fmt = fmt, .kernel = kernel, .why = ""};
    else
        err_set(e, ERR_NOMEM, "no memory for a weight");
    return w;
}

int cuda_weight_dense(struct backend *b, const struct tensor_view *t, struct weight **out, struct err *e)
{
    struct cuda_state *s = state_of(b);
    *out = NULL;
    if (t->dtype != DT_F32 && t->dtype != DT_F16 && t->dtype != DT_BF16)
        return err_set(e, ERR_UNSUPPORTED, "weights of dtype %s; F32, F16 and BF16 are supported", dtype_name(t->dtype));
    struct weight *w = weight_new(t->rows, t->cols, t->dtype == DT_F32 ? CUDA_F32 : t->dtype == DT_F16 ? CUDA_F16 : CUDA_BF16, "dense", e);
    if (!w)
        return -ERR_NOMEM;
    w->pitch = pad_to(w->K, CHUNK_K);
    size_t item = dtype_bytes(t->dtype), width = (size_t)w->K * item, pitch = (size_t)w->pitch * item;
    int rc = cuda_take(s, (size_t)w->N * pitch, "a weight", &w->data, e);
    if (!rc && pitch != width)
        rc = cuda_check(s, cudaMemsetAsync(w->data, 0, (size_t)w->N * pitch, s->stream), "clearing a weight", e);
    if (!rc)
        rc = cuda_send(s, w->data, pitch, t->data, width, width, (size_t)w->N, "upload of a weight", e);
    if (!rc && w->fmt == CUDA_BF16)
        cuda_halves_expect(s, w->K);
    if (rc)
        cuda_weight_free(b, w);
    else
        *out = w;
    return rc;
}

static int check(const struct qwords *q, struct err *e)
{
    if (q->N < 1 || q->K < 1)
        return err_set(e, ERR_SHAPE, "a quantized matrix of %lld x %lld", (long long)q->N, (long long)q->K);
    if (q->bits != 2 && q->bits != 3 && q->bits != 4 && q->bits != 8)
        return err_set(e, ERR_UNSUPPORTED, "%d-bit weights; 2, 3, 4 and 8 are supported", q->bits);
    for (int64_t k = 0; k < q->K; k++)
        if (q->g_idx[k] < 0 || q->g_idx[k] >= q->G)
            return err_set(e, ERR_FORMAT, "g_idx[%lld] is %d, but there are %lld groups", (long long)k, (int)q->g_idx[k], (long long)q->G);
    return 0;
}

static bool sequential(const struct qwords *q)
{
    for (int64_t k = 1; k < q->K; k++)
        if (q->g_idx[k] < q->g_idx[k - 1])
            return false;
    return true;
}

/* The order of inputs: host tables of a matrix. */
struct order {
    int64_t pitch;
    int32_t *perm, *chunk_group; /* [pitch] input at a place or -1; [pitch / CHUNK_K] */
    bool moved;                  /* some input is not at its own place, or a gap lies between two */
};

static void order_release(struct order *o)
{
    free(o->perm);
    free(o->chunk_group);
}

static int order_make(struct order *o, const struct qwords *q, struct err *e)
{
    *o = (struct order){0};
    int64_t *start = calloc((size_t)q->G + 1, sizeof *start), used = 0;
    if (start) {
        for (int64_t k = 0; k < q->K; k++)
            start[q->g_idx[k] + 1]++;
        for (int64_t g = 0; g < q->G; g++)
            start[g + 1] = start[g] + pad_to(start[g + 1], CHUNK_K);
        used = start[q->G];
        o->pitch = pad_to(used, UNIT_K);
        o->perm = malloc((size_t)o->pitch * sizeof *o->perm + 1);
        o->chunk_group = calloc((size_t)(o->pitch / CHUNK_K) + 1, sizeof *o->chunk_group);
    }
    if (!o->perm || !o->chunk_group) {
        free(start);
        order_release(o);
        return err_set(e, ERR_NOMEM, "no memory for the order of %lld inputs", (long long)q->K);
    }
    for (int64_t g = 0; g < q->G; g++)
        for (int64_t c = start[g] / CHUNK_K; c < start[g + 1] / CHUNK_K; c++)
            o->chunk_group[c] = (int32_t)g;
    for (int64_t c = used / CHUNK_K; c < o->pitch / CHUNK_K; c++)
        o->chunk_group[c] = used ? o->chunk_group[used / CHUNK_K - 1] : 0;
    for (int64_t i = 0; i < o->pitch; i++)
        o->perm[i] = -1;
    for (int64_t k = 0; k < q->K; k++) {
        const int64_t at = start[q->g_idx[k]]++;
        o->perm[at] = (int32_t)k;
        o->moved |= at != k;
    }
    free(start);
    return 0;
}

static int upload_meta(struct cuda_state *s, struct weight *w, const struct qwords *q, struct err *e)
{
    int64_t padded = pad_to(q->N, 64); /* 64: what a tile of the larger kernel copies at once */
    size_t bytes = (size_t)(q->G * padded) * sizeof(uint32_t);
    uint32_t *meta = calloc(1, bytes + 1);
    if (!meta)
        return err_set(e, ERR_NOMEM, "no memory for %zu bytes of scales", bytes);
    for (int64_t g = 0; g < q->G; g++)
        for (int64_t n = 0; n < q->N; n++)
            meta[g * padded + n] = (uint32_t)q->scales[g * q->N + n] | (uint32_t)q->zeros[g * q->N + n] << 16;
    int rc = cuda_take_copy(s, meta, bytes, "scales and zeros", (void **)&w->meta, e);
    free(meta);
    return rc;
}

static int simple_weight(struct cuda_state *s, struct weight *w, const struct qwords *q, struct err *e)
{
    struct order o;
    int rc = order_make(&o, q, e);
    if (rc)
        return rc;
    w->pitch = o.pitch;
    rc = upload_meta(s, w, q, e);
    if (!rc)
        rc = cuda_take_copy(s, o.chunk_group, (size_t)(o.pitch / CHUNK_K) * sizeof *o.chunk_group, "groups of inputs", (void **)&w->chunk_group, e);
    if (!rc && o.moved)
        rc = cuda_take_copy(s, o.perm, (size_t)o.pitch * sizeof *o.perm, "the order of inputs", (void **)&w->perm, e);
    if (!rc)
        rc = cuda_send_words(s, w, q, (size_t)(pad_to(w->N, 64) * w->pitch) / (w->fmt == CUDA_W4 ? 2 : 1), e);
    order_release(&o);
    return rc;
}

int cuda_weight_quantized(struct backend *b, const struct qwords *q, struct weight **out, struct err *e)
{
    struct cuda_state *s = state_of(b);
    const char *why;
    *out = NULL;
    int rc = check(q, e);
    if (rc)
        return rc;
    const struct select_matrix m = {.N = q->N, .K = q->K, .bits = q->bits, .group_size = q->group_size, .order = !sequential(q),
                                    .capability = s->info.sm, .no_machete = *s->info.no_machete ? s->info.no_machete : NULL};
    const char *kernel = select_kernel(&m, s->pinned, &why);
    if (!kernel)
        return err_set(e, ERR_UNSUPPORTED, "kernel '%s' cannot serve %lld x %lld in %d bits, group %d: %s", s->pinned, (long long)q->N, (long long)q->K, q->bits,
                       q->group_size, why);
    bool marlin = !strcmp(kernel, "marlin"), machete = !strcmp(kernel, "machete");
    struct weight *w = weight_new(q->N, q->K, marlin ? CUDA_MARLIN : machete ? CUDA_MACHETE : q->bits == 8 ? CUDA_W8 : CUDA_W4, kernel, e);
    if (!w)
        return -ERR_NOMEM;
    w->why = why;
    rc = marlin ? cuda_marlin_weight(s, w, q, e) : machete ? cuda_machete_weight(s, w, q, e) : simple_weight(s, w, q, e);
    if (!rc && !w->perm)
        cuda_halves_expect(s, w->K);
    if (rc)
        cuda_weight_free(b, w);
    else
        *out = w;
    return rc;
}

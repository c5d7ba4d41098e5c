/* `kernel: marlin` in the plug-in: a quantized matrix packed on the host and brought over as it is, and its product, which takes each activation as two bf16 halves in two
 * rows and adds their results up (marlin.h "halves"). Always MARLIN_FIXED. */
#include <stdlib.h>

#include "kernels/cuda/cuda_state.h"

static size_t padded(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* One run of host memory for all parts of the packed form; perm has w->pitch places. */
struct packed {
    char *all;
    uint32_t *codes;
    uint16_t *scales, *zeros;
    int32_t *perm;
    size_t perm_bytes;
};

static int packed_make(struct packed *p, const struct weight *w, const struct qmatrix *q, struct err *e)
{
    const struct marlin_shape *s = &w->shape;
    p->perm_bytes = s->permuted ? (size_t)w->pitch * sizeof(int32_t) : 0;
    size_t bytes = padded(s->code_bytes) + padded(s->scale_bytes) + padded(s->zero_bytes) + padded(p->perm_bytes);
    char *at = p->all = aligned_alloc(64, bytes);
    if (!at)
        return err_set(e, ERR_NOMEM, "no memory for a packed matrix of %zu bytes", bytes);
    p->codes = (uint32_t *)at;
    p->scales = (uint16_t *)(at += padded(s->code_bytes));
    at += padded(s->scale_bytes);
    p->zeros = s->zero_table ? (uint16_t *)at : NULL;
    at += padded(s->zero_bytes);
    p->perm = s->permuted ? (int32_t *)at : NULL;
    for (int64_t i = s->Kx; p->perm && i < w->pitch; i++)
        p->perm[i] = -1;
    return marlin_pack(q, s, p->codes, p->scales, p->zeros, p->perm, e);
}

int cuda_marlin_weight(struct cuda_state *s, struct weight *w, const struct qmatrix *q, struct err *e)
{
    struct packed p = {0};
    int rc = marlin_plan(q, &w->shape, e);
    if (!rc) {
        w->pitch = pad_to(w->shape.Kx, UNIT_K);
        rc = packed_make(&p, w, q, e);
    }
    if (!rc)
        rc = cuda_take_copy(s, p.codes, w->shape.code_bytes, "codes", &w->data, e);
    if (!rc)
        rc = cuda_take_copy(s, p.scales, w->shape.scale_bytes, "scales", (void **)&w->meta, e);
    if (!rc && p.zeros)
        rc = cuda_take_copy(s, p.zeros, w->shape.zero_bytes, "zeros", (void **)&w->zeros, e);
    if (!rc && p.perm)
        rc = cuda_take_copy(s, p.perm, p.perm_bytes, "the order of inputs", (void **)&w->perm, e);
    free(p.all);
    return rc;
}

/* Partial sums, behind counters that are 0 between launches. */
static int workspace(struct cuda_state *s, size_t bytes, struct err *e)
{
    if (bytes <= s->marlin_space.bytes)
        return 0;
    int rc = cuda_reserve(s, &s->marlin_space, bytes, "partial sums of a product", e);
    return rc ? rc : cuda_check(s, cudaMemsetAsync(s->marlin_space.p, 0, bytes, s->stream), "clearing partial sums", e);
}

int cuda_marlin_linear(struct cuda_state *s, const struct linear_args *a, struct err *e)
{
    const struct weight *w = a->w;
    struct marlin_config c;
    const int64_t M = 2 * a->M;
    marlin_choose(&s->marlin, &w->shape, M, MARLIN_FIXED, &c);
    int rc = marlin_config_check(&s->marlin, &w->shape, M, &c, e);
    if (!rc)
        rc = workspace(s, marlin_workspace_bytes(&s->marlin, &w->shape, M, &c), e);
    if (rc)
        return rc;
    const struct marlin_call call = {.shape = &w->shape,
                                     .weight = {w->data, (const uint16_t *)w->meta, w->zeros},
                                     .act = MARLIN_BF16,
                                     .x = a->xs,
                                     .ldx = w->pitch,
                                     .M = M,
                                     .y = a->y,
                                     .ldy = a->ldy,
                                     .y_f32 = true,
                                     .bias = a->bias,
                                     .accumulate = a->accumulate,
                                     .halves = true,
                                     .workspace = s->marlin_space.p,
                                     .workspace_bytes = s->marlin_space.bytes,
                                     .pdl = true};
    return marlin_launch(&s->marlin, &call, &c, s->stream, e);
}

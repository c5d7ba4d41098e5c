/* `kernel: marlin` in the plug-in: a quantized matrix in Marlin's order, and its product, which takes each activation as two bf16 halves in two rows and adds their results
 * up (marlin.h "halves"). Always MARLIN_FIXED. The host makes the tables (scales, zeros, order), the device brings the codes into their order. weight_machete.c has it from
 * here. */
#include <stdlib.h>

#include "kernels/cuda/cuda_state.h"

/* Host tables of a matrix: perm has w->pitch places, NULL when inputs keep theirs. */
struct tables {
    uint16_t *scales, *zeros;
    int32_t *perm;
};

static void tables_release(struct tables *t)
{
    free(t->scales);
    free(t->zeros);
    free(t->perm);
}

static int tables_make(struct tables *t, const struct weight *w, const struct qwords *q, const struct packed_form *f, struct err *e)
{
    t->scales = malloc(f->scale_bytes);
    t->zeros = f->zero_table ? malloc(f->zero_bytes) : NULL;
    t->perm = f->permuted ? malloc((size_t)w->pitch * sizeof *t->perm) : NULL;
    if (!t->scales || (f->zero_table && !t->zeros) || (f->permuted && !t->perm))
        return err_set(e, ERR_NOMEM, "no memory for %zu bytes of scales", f->scale_bytes);
    for (int64_t i = f->Kx; f->permuted && i < w->pitch; i++)
        t->perm[i] = -1;
    return f->tables(w, q, t->scales, t->zeros, t->perm, e);
}

int cuda_packed_weight(struct cuda_state *s, struct weight *w, const struct qwords *q, const struct packed_form *f, struct err *e)
{
    struct tables t = {0};
    w->pitch = pad_to(f->Kx, UNIT_K);
    int rc = tables_make(&t, w, q, f, e);
    if (!rc)
        rc = cuda_take_copy(s, t.scales, f->scale_bytes, "scales", (void **)&w->meta, e);
    if (!rc && t.zeros)
        rc = cuda_take_copy(s, t.zeros, f->zero_bytes, "zeros", (void **)&w->zeros, e);
    if (!rc && t.perm)
        rc = cuda_take_copy(s, t.perm, (size_t)w->pitch * sizeof *t.perm, "the order of inputs", (void **)&w->perm, e);
    if (!rc)
        rc = cuda_send_words(s, w, q, f->code_bytes, e);
    tables_release(&t);
    return rc;
}

static int marlin_tables(const struct weight *w, const struct qwords *q, uint16_t *scales, uint16_t *zeros, int32_t *perm, struct err *e)
{
    return marlin_pack(q, &w->shape, NULL, scales, zeros, perm, e);
}

int cuda_marlin_weight(struct cuda_state *s, struct weight *w, const struct qwords *q, struct err *e)
{
    int rc = marlin_plan(q, &w->shape, e);
    if (rc)
        return rc;
    const struct marlin_shape *m = &w->shape;
    return cuda_packed_weight(s, w, q, &(struct packed_form){m->Kx, m->zero_table, m->permuted, m->code_bytes, m->scale_bytes, m->zero_bytes, marlin_tables}, e);
}

/* Partial sums, behind counters that are 0 between launches. */
static int workspace(struct cuda_state *s, size_t bytes, struct err *e)
{
    if (bytes <= s->marlin_space.bytes)
        return 0;
    int rc = cuda_reserve(s, &s->marlin_space, bytes, "partial sums of a product", e);
    if (!rc)
        rc = cuda_check(s, cudaMemsetAsync(s->marlin_space.p, 0, bytes, s->stream), "clearing partial sums", e);
    if (rc)
        s->marlin_space.bytes = 0; /* not clear: nothing may use it */
    return rc;
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
                                     .more = {a->more[0], a->more[1]},
                                     .accumulate = a->accumulate,
                                     .halves = true,
                                     .workspace = s->marlin_space.p,
                                     .workspace_bytes = s->marlin_space.bytes,
                                     .pdl = true};
    return marlin_launch(&s->marlin, &call, &c, s->stream, e);
}

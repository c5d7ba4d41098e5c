/* Class machete in the plug-in, on compute capability 9.0: as weight_marlin.c, in Machete's order. Always MARLIN_FIXED: tiles of 16, 32 or 64
 * tokens, two rows each (machete.h has what that costs). */
#include "kernels/cuda/cuda_state.h"

static int machete_tables(const struct weight *w, const struct qwords *q, uint16_t *scales, uint16_t *zeros, int32_t *perm, struct err *e)
{
    return machete_pack(q, &w->machete, NULL, scales, zeros, perm, e);
}

int cuda_machete_weight(struct cuda_state *s, struct weight *w, const struct qwords *q, struct err *e)
{
    int rc = machete_plan(q, &w->machete, e);
    if (rc)
        return rc;
    const struct machete_shape *m = &w->machete;
    return cuda_packed_weight(s, w, q, &(struct packed_form){m->Kx, m->zero_table, m->permuted, m->code_bytes, m->scale_bytes, m->zero_bytes, machete_tables}, e);
}

int cuda_machete_linear(struct cuda_state *s, const struct linear_args *a, struct err *e)
{
    const struct weight *w = a->w;
    struct machete_config c;
    const int64_t M = 2 * a->M;
    machete_choose(&s->machete, &w->machete, M, MARLIN_FIXED, &c);
    const struct machete_call call = {.shape = &w->machete,
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
                                      .pdl = true};
    return machete_launch(&s->machete, &call, &c, s->stream, e);
}

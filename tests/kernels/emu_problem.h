/* What the emulated kernels multiply: a quantized matrix, X in the activations' type, a bias, and the product in f64. */
#ifndef TESTS_KERNELS_EMU_PROBLEM_H
#define TESTS_KERNELS_EMU_PROBLEM_H

#include "tests/kernels/util.h"

#include "kernels/cuda/marlin.h"

struct emu_problem {
    struct qmatrix q;
    enum marlin_act act;
    int64_t M, ldx, ldy;    /* ldy: N + 3, unless changed */
    uint16_t *x, *gathered; /* [M,K]; [M,ldx], what lies past Kx is NaN */
    float *bias;
    double *ref;            /* [M,N], bias not added */
};

UNUSED_FN uint16_t to_act(enum marlin_act act, float x)
{
    return act == MARLIN_BF16 ? f32_to_bf16(x) : f32_to_f16(x);
}

UNUSED_FN float from_act(enum marlin_act act, uint16_t h)
{
    return act == MARLIN_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
}

/* q is taken over. */
UNUSED_FN struct emu_problem emu_problem_new(struct qmatrix q, enum marlin_act act, int64_t M, uint64_t *seed)
{
    struct emu_problem p = {.q = q, .act = act, .M = M, .ldy = q.N + 3};
    p.x = malloc((size_t)(M * q.K) * 2);
    for (int64_t i = 0; i < M * q.K; i++)
        p.x[i] = to_act(act, rnd_f32(seed) + 0.25f);
    p.bias = malloc((size_t)q.N * sizeof(float));
    for (int64_t n = 0; n < q.N; n++)
        p.bias[n] = rnd_f32(seed);
    p.ref = calloc((size_t)(M * q.N), sizeof(double));
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < q.N; n++)
            for (int64_t k = 0; k < q.K; k++) {
                int64_t at = q.g_idx[k] * q.N + n;
                p.ref[m * q.N + n] += (double)from_act(act, p.x[m * q.K + k]) * ((double)f16_to_f32(q.scales[at]) * ((double)q.codes[n * q.K + k] - (double)q.zeros[at]));
            }
    return p;
}

/* X as the kernel reads it. */
UNUSED_FN void emu_problem_gather(struct emu_problem *p, const int32_t *perm, int64_t Kx)
{
    p->ldx = (Kx + 7) / 8 * 8;
    p->gathered = aligned_alloc(64, (size_t)(p->M * p->ldx + 63) / 32 * 64);
    memset(p->gathered, 0xff, (size_t)(p->M * p->ldx) * 2);
    for (int64_t m = 0; m < p->M; m++)
        for (int64_t k = 0; k < Kx; k++)
            p->gathered[m * p->ldx + k] = !perm ? p->x[m * p->q.K + k] : perm[k] < 0 ? 0 : p->x[m * p->q.K + perm[k]];
}

/* X anew, of f32 values in two bf16 halves: `gathered` has twice the rows, the reference no rounding. */
UNUSED_FN void emu_problem_halve(struct emu_problem *p, const int32_t *perm, int64_t Kx)
{
    const struct qmatrix *q = &p->q;
    uint64_t seed = 5;
    free(p->gathered);
    p->ldx = (Kx + 7) / 8 * 8;
    p->gathered = aligned_alloc(64, (size_t)(2 * p->M * p->ldx + 63) / 32 * 64);
    memset(p->gathered, 0xff, (size_t)(2 * p->M * p->ldx) * 2);
    float *x = malloc((size_t)q->K * sizeof *x);
    for (int64_t m = 0; m < p->M; m++) {
        for (int64_t k = 0; k < q->K; k++)
            x[k] = rnd_f32(&seed) + 0.25f;
        for (int64_t k = 0; k < Kx; k++) {
            int64_t from = perm ? perm[k] : k;
            float v = from < 0 ? 0.0f : x[from];
            uint16_t hi = f32_to_bf16(v);
            p->gathered[2 * m * p->ldx + k] = hi;
            p->gathered[(2 * m + 1) * p->ldx + k] = f32_to_bf16(v - bf16_to_f32(hi));
        }
        for (int64_t n = 0; n < q->N; n++) {
            double sum = 0;
            for (int64_t k = 0; k < q->K; k++) {
                int64_t at = q->g_idx[k] * q->N + n;
                sum += (double)x[k] * ((double)f16_to_f32(q->scales[at]) * ((double)q->codes[n * q->K + k] - (double)q->zeros[at]));
            }
            p->ref[m * q->N + n] = sum;
        }
    }
    free(x);
}

UNUSED_FN void emu_problem_free(struct emu_problem *p)
{
    qmatrix_free(&p->q);
    free(p->x);
    free(p->gathered);
    free(p->bias);
    free(p->ref);
}

/* Y [M, ldy], guarded, that the kernel starts from: 1.5 everywhere. */
UNUSED_FN struct guarded emu_output(const struct emu_problem *p, bool y_f32)
{
    struct guarded y = guarded_new((size_t)(p->M * p->ldy));
    for (size_t i = 0; i < y.n; i++)
        if (y_f32)
            y.at[i] = 1.5f;
        else
            ((uint16_t *)y.at)[i] = to_act(p->act, 1.5f);
    return y;
}

/* Y of the parts of a joined matrix, guarded, each with rows of its own length: whole vectors, or odd. Part i has outputs from[i] .. from[i + 1] - 1. */
struct emu_parts {
    int n;
    int64_t from[MARLIN_PARTS + 1], ldy[MARLIN_PARTS];
    struct guarded y[MARLIN_PARTS];
};

/* more_from [MARLIN_PARTS - 1]: where parts but the first begin, 0: there are no more. */
UNUSED_FN struct emu_parts emu_parts_new(const struct emu_problem *p, bool y_f32, bool vectors, const int64_t *more_from)
{
    struct emu_parts parts = {.n = 1};
    while (parts.n < MARLIN_PARTS && more_from[parts.n - 1]) {
        parts.from[parts.n] = more_from[parts.n - 1];
        parts.n++;
    }
    parts.from[parts.n] = p->q.N;
    for (int i = 0; i < parts.n; i++) {
        struct emu_problem one = *p;
        one.ldy = parts.from[i + 1] - parts.from[i];
        one.ldy = vectors ? (one.ldy + 3) / 4 * 4 + 4 * i : one.ldy + 1 + one.ldy % 2 + 2 * i;
        one.ldy += !vectors && one.ldy % 2 == 0;
        parts.ldy[i] = one.ldy;
        parts.y[i] = emu_output(&one, y_f32);
    }
    return parts;
}

UNUSED_FN struct marlin_out emu_parts_out(const struct emu_parts *parts, int i, const float *bias)
{
    if (i >= parts->n)
        return (struct marlin_out){.from = 0};
    return (struct marlin_out){.from = parts->from[i], .y = parts->y[i].at, .ldy = parts->ldy[i], .bias = bias ? bias + parts->from[i] : NULL};
}

/* Into y [M, ldy of the problem], as one matrix would have left it; what lies between the rows of a part must be as it was. */
UNUSED_FN void emu_parts_collect(struct emu_parts *parts, const struct emu_problem *p, bool y_f32, struct guarded *y)
{
    const size_t item = y_f32 ? 4 : 2;
    for (int i = 0; i < parts->n; i++) {
        const int64_t N = parts->from[i + 1] - parts->from[i];
        for (int64_t m = 0; m < p->M; m++) {
            const char *row = (const char *)parts->y[i].at + (size_t)(m * parts->ldy[i]) * item;
            memcpy((char *)y->at + (size_t)(m * p->ldy + parts->from[i]) * item, row, (size_t)N * item);
            for (int64_t j = N; j < parts->ldy[i]; j++)
                assert_true((y_f32 ? ((const float *)row)[j] : from_act(p->act, ((const uint16_t *)row)[j])) == 1.5f);
        }
        guarded_free(&parts->y[i]);
    }
}

/* Takes it apart: out [M,N] in f32; what lies between the rows must be as it was. The relative error against the product, with bias and
 * what Y held added or not; NaN where anything is. */
UNUSED_FN double emu_error(const struct emu_problem *p, struct guarded *y, bool y_f32, bool bias, bool start, float *out)
{
    double diff = 0, norm = 0;
    for (int64_t m = 0; m < p->M; m++)
        for (int64_t j = 0; j < p->ldy; j++) {
            size_t at = (size_t)(m * p->ldy + j);
            float got = y_f32 ? y->at[at] : from_act(p->act, ((uint16_t *)y->at)[at]);
            if (j >= p->q.N) {
                assert_true(got == 1.5f);
                continue;
            }
            double want = p->ref[m * p->q.N + j] + (bias ? (double)p->bias[j] : 0.0) + (start ? 1.5 : 0.0);
            out[m * p->q.N + j] = got;
            diff += ((double)got - want) * ((double)got - want);
            norm += want * want;
        }
    guarded_free(y);
    return sqrt(diff / norm);
}

#endif

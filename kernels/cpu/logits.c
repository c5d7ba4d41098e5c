/* Figures of rows of logits: log-likelihood of the target, the KL divergence of two rows. exp in f32, sums in f64 over 16 fixed lanes. */
#include "kernels/cpu/row_top.h"
#include "kernels/cpu/split.h"
#include "kernels/cpu/vmath.h"

struct logits_job {
    const struct logits_args *a;
    int64_t pieces;
};

struct d16 {
    d8 lo, hi;
};

static double d16_sum(struct d16 s)
{
    return d8_sum(d8_add(s.lo, s.hi));
}

/* log of the sum of exp(l), as max + log of the rest. */
static double log_sum_exp(const float *l, int64_t V, float max)
{
    struct d16 sum = {d8_zero(), d8_zero()};
    for (int64_t i = 0; i < V; i += PANEL) {
        int n = v16_lanes(i, V);
        v16 p = v16_keep_n(v16_exp(v16_sub(v16_load_n(l + i, n), v16_set1(max))), n, v16_zero());
        sum.lo = d8_add(sum.lo, v16_lo_d8(p));
        sum.hi = d8_add(sum.hi, v16_hi_d8(p));
    }
    return (double)max + f64_log(d16_sum(sum));
}

static void nll_piece(void *arg, size_t i)
{
    const struct logits_job *j = arg;
    const struct logits_args *a = j->a;
    for (int64_t m = split_at(a->M, j->pieces, (int64_t)i), to = split_at(a->M, j->pieces, (int64_t)i + 1); m < to; m++) {
        const float *l = a->logits + m * a->V;
        float max = row_max(l, a->V);
        a->nll[m] = log_sum_exp(l, a->V, max) - (double)l[a->targets[m]];
        a->top1[m] = row_top1(l, a->V, max);
    }
}

/* KL(ref || q) = sum p_ref (ref - q) - log sum exp ref + log sum exp q. With equal rows every term cancels to exactly 0. */
static void kl_row(const float *ref, const float *q, int64_t V, int32_t target, struct kl_row *out)
{
    float max_ref = row_max(ref, V), max_q = row_max(q, V);
    struct d16 weight = {d8_zero(), d8_zero()}, diff = {d8_zero(), d8_zero()};
    for (int64_t i = 0; i < V; i += PANEL) {
        int n = v16_lanes(i, V);
        v16 r = v16_load_n(ref + i, n), s = v16_load_n(q + i, n);
        v16 p = v16_keep_n(v16_exp(v16_sub(r, v16_set1(max_ref))), n, v16_zero());
        d8 p_lo = v16_lo_d8(p), p_hi = v16_hi_d8(p);
        weight.lo = d8_add(weight.lo, p_lo);
        weight.hi = d8_add(weight.hi, p_hi);
        diff.lo = d8_fma(p_lo, d8_sub(v16_lo_d8(r), v16_lo_d8(s)), diff.lo);
        diff.hi = d8_fma(p_hi, d8_sub(v16_hi_d8(r), v16_hi_d8(s)), diff.hi);
    }
    double sum = d16_sum(weight), lse_ref = (double)max_ref + f64_log(sum), lse = log_sum_exp(q, V, max_q);
    out->nll_ref = lse_ref - (double)ref[target];
    out->nll = lse - (double)q[target];
    out->kl = d16_sum(diff) / sum - (lse_ref - lse);
    out->same_top1 = row_top1(ref, V, max_ref) == row_top1(q, V, max_q);
}

static void kl_piece(void *arg, size_t i)
{
    const struct logits_job *j = arg;
    const struct logits_args *a = j->a;
    for (int64_t m = split_at(a->M, j->pieces, (int64_t)i), to = split_at(a->M, j->pieces, (int64_t)i + 1); m < to; m++)
        kl_row(a->ref + m * a->V, a->logits + m * a->V, a->V, a->targets[m], &a->out[m]);
}

void FN(nll_f32)(const struct parallel *par, const struct logits_args *a)
{
    struct logits_job j = {.a = a, .pieces = split_pieces(par, a->M, a->M * a->V)};
    if (a->M > 0)
        split_run(par, j.pieces, nll_piece, &j);
}

void FN(kl_f32)(const struct parallel *par, const struct logits_args *a)
{
    struct logits_job j = {.a = a, .pieces = split_pieces(par, a->M, a->M * a->V)};
    if (a->M > 0)
        split_run(par, j.pieces, kl_piece, &j);
}

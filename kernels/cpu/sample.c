/* The next token of rows of logits. All in f64: weights exp((logit - max) / temperature), their total in the order of ids, masses in the order of likelihood. A row's weights
 * are computed once, and tokens are put in order a band of logits at a time, from the top, as far as the choice needs. */
#include "kernels/cpu/row_top.h"
#include "kernels/cpu/split.h"
#include "kernels/detmath.h"
#include "kernels/logit_heap.h"

struct sample_run {
    const struct sample_job *j;
    int64_t pieces;
};

/* w[i], 0 for NaN and 1 for the top one; w has room for V padded to 16. Returns their sum; *heavy: how many are above 0. */
static double weigh(const float *l, int64_t V, int32_t top, double temperature, double *w, int64_t *heavy)
{
    const d8 max = d8_set1((double)l[top]), t = d8_set1(temperature), least = d8_set1(-746); /* e^-746 is 0 */
    for (int64_t i = 0; i < V; i += PANEL) {
        v16 x = v16_load_n(l + i, v16_lanes(i, V));
        d8_store(w + i, d8_max(d8_div(d8_sub(v16_lo_d8(x), max), t), least)); /* NaN becomes `least` */
        d8_store(w + i + 8, d8_max(d8_div(d8_sub(v16_hi_d8(x), max), t), least));
    }
    for (int64_t i = 0; i < V; i++)
        w[i] = det_exp(w[i]);
    w[top] = 1;
    double sum = 0;
    *heavy = 0;
    for (int64_t i = 0; i < V; i++) {
        sum += w[i];
        *heavy += w[i] > 0;
    }
    return sum;
}

/* Ids from the most likely down, ties by id. Band b holds the logits in [max - (b + 1) temperature, max - b temperature), the first the maximum too. */
struct queue {
    const float *l;
    int64_t V, band, n;
    double max, temperature;
    float from;    /* of the band at hand */
    int32_t *heap; /* n of its ids */
};

static void next_band(struct queue *q)
{
    float to = q->from;
    q->from = (float)(q->max - (double)++q->band * q->temperature);
    const v16 lo = v16_set1(q->from), hi = v16_set1(to);
    for (int64_t i = 0; i < q->V; i += PANEL) {
        int n = v16_lanes(i, q->V);
        v16 x = v16_load_n(q->l + i, n);
        unsigned hit = v16m_bits(v16m_and(v16m_and(v16_le(lo, x), v16_lt(x, hi)), v16m_first(n)));
        for (; hit; hit &= hit - 1)
            q->heap[q->n++] = (int32_t)(i + __builtin_ctz(hit));
    }
    logit_heap(q->l, q->heap, q->n);
}

/* Whoever asks knows that there is one more above weight 0. */
static int32_t take(struct queue *q)
{
    while (q->n == 0)
        next_band(q);
    return logit_pop(q->l, q->heap, &q->n);
}

static int32_t pick(const float *l, int64_t V, const struct sample_row *p, double *w, int32_t *heap, int32_t *taken)
{
    const int32_t top = row_top1(l, V, row_max(l, V));
    int64_t heavy, n = 0, i = 0;
    if (!(p->temperature > 0))
        return top;
    const double total = weigh(l, V, top, p->temperature, w, &heavy), want = p->top_p < 1 ? p->top_p * total : total;
    if (heavy == 1) /* so it is where the maximum is infinite */
        return top;
    struct queue q = {.l = l, .V = V, .max = (double)l[top], .temperature = p->temperature, .from = HUGE_VALF, .heap = heap};
    /* With all the mass wanted, it comes to `total` but for the rounding of two sums of V terms: most draws are decided before everything is in order. */
    const double slack = 4 * (double)(V + 1) * 0x1p-53, at_least = p->u * total * (1 - slack), at_most = p->u * total * (1 + slack);
    double mass = 0, before, at = 0;
    int32_t id;
    do {
        id = taken[n++] = take(&q);
        before = mass;
        mass += w[id];
        if (!(p->top_p < 1) && before <= at_least && mass > at_most)
            return id;
    } while (n < heavy && mass < want);
    do { /* u < 1, so the walk ends at the last one taken at the latest */
        id = taken[i++];
        at += w[id];
    } while (i < n && at <= p->u * mass);
    return id;
}

static void sample_piece(void *arg, size_t i)
{
    const struct sample_run *r = arg;
    const struct sample_job *j = r->j;
    const int64_t padded = (j->V + PANEL - 1) / PANEL * PANEL;
    double *w = (double *)(j->scratch + i * j->lane_floats);
    int32_t *heap = (int32_t *)(w + padded);
    for (int64_t m = split_at(j->M, r->pieces, (int64_t)i), to = split_at(j->M, r->pieces, (int64_t)i + 1); m < to; m++)
        j->ids[m] = pick(j->logits + m * j->V, j->V, &j->rows[m], w, heap, heap + padded);
}

void FN(sample_f32)(const struct parallel *par, const struct sample_job *j)
{
    struct sample_run r = {.j = j, .pieces = split_pieces(par, j->lanes, 8 * j->M * j->V)};
    split_run(par, r.pieces, sample_piece, &r);
}

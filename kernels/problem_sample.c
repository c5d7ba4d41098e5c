#include "kernels/problem_sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/detmath.h"
#include "kernels/problem.h"

double problem_uniform(uint64_t *seed)
{
    return (double)(rnd(seed) >> 11) * 0x1p-53;
}

double problem_normal(uint64_t *seed)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += problem_uniform(seed);
    return sum;
}

void problem_logits(float *l, int64_t V, int kind, uint64_t *seed)
{
    const double ln10 = 2.302585092994046, spread = kind == 1 ? 2.3 : det_exp(ln10 * (3 * problem_uniform(seed) - 1.5));
    for (int64_t i = 0; i < V; i++) {
        double x = spread * problem_normal(seed);
        uint64_t one_in = rnd(seed);
        switch (kind) {
        case 1: x += one_in % 500 == 0 ? 9 : 0; break;                   /* as of a language model: a few stand out */
        case 2: x = floor(x); break;                                     /* ties */
        case 3: x = 3; break;
        case 4: x = i == V / 3 ? x : (double)-INFINITY; break;
        case 5: x = i == V / 2 ? 1e4 : x; break;
        case 6: x = one_in % 3 == 0 ? (double)NAN : one_in % 7 == 0 ? (double)-INFINITY : x; break;
        case 7: x = one_in % 50 == 0 ? (double)INFINITY : x; break;
        case 8: x = one_in % 2 ? 0.0 : -0.0; break;
        case 9: x = i == V / 2 ? 0 : -17 - 1e-4 * problem_uniform(seed); break; /* a far tail of many */
        case 10: x = 1 + (double)(one_in % 8) * 0x1p-23; break;          /* neighbours, and ties among them */
        }
        l[i] = (float)x;
    }
}

struct sample_row problem_choice(bool edges, uint64_t *seed)
{
    static const double temperatures[] = {0, 1, 0.6, 0.05, 100, 1e-30, 1e30, 2}, parts[2][8] = {{1, 0.9, 0.55, 0.1, 1, 0.97, 0.8, 2}, {1, 0.9, 0.5, 1e-9, 0, 0.999999, -1, NAN}};
    uint64_t u = edges ? rnd(seed) % 8 : 8;
    double temperature = temperatures[rnd(seed) % 8], top_p = parts[edges][rnd(seed) % 8];
    return (struct sample_row){temperature, top_p, u == 0 ? 0 : u == 1 ? 1 - 0x1p-53 : problem_uniform(seed)};
}

void problem_choices(float *l, struct sample_row *rows, int64_t M, int64_t V, uint64_t *seed)
{
    for (int64_t m = 0; m < M; m++) {
        const int kind = (int)(m % PROBLEM_LOGITS);
        problem_logits(l + m * V, V, kind, seed);
        rows[m] = problem_choice(false, seed);
        if (kind == 9 && V > 1) { /* draws from the tail, where all of it is one bin */
            const double tail = (double)(V - 1) * det_exp(-17);
            rows[m] = (struct sample_row){1, 1, (1 + problem_uniform(seed) * tail) / (1 + tail)};
        }
    }
}

struct token {
    float logit;
    int32_t id;
};

static int by_rank(const void *a, const void *b)
{
    const struct token *x = a, *y = b;
    if (isnan(x->logit) != isnan(y->logit))
        return isnan(x->logit) ? 1 : -1;
    return x->logit > y->logit ? -1 : x->logit < y->logit ? 1 : x->id < y->id ? -1 : x->id > y->id;
}

/* Tokens are taken in order until their mass reaches top_p of all, then one of them by u. error: how far a mass may be off. */
static void draw(struct problem_answer *a, const struct token *order, const double *w, double total, double error, int64_t V, const struct sample_row *row)
{
    const double want = row->top_p < 1 ? row->top_p * total : total;
    double mass = 0;
    do {
        mass += w[order[a->taken].id];
        a->masses[a->taken++] = mass;
    } while (a->taken < V && mass < want && w[order[a->taken - 1].id] > 0);
    int64_t i = 0;
    while (i + 1 < a->taken && a->masses[i] <= row->u * mass)
        i++;
    a->id = order[i].id;
    double margin = fmin(a->masses[i] - row->u * mass, i ? row->u * mass - a->masses[i - 1] : HUGE_VAL);
    if (row->top_p < 1)
        margin = fmin(margin, fmin(mass - want, a->taken > 1 ? want - a->masses[a->taken - 2] : HUGE_VAL));
    a->sure = margin > 2 * error + 0x1p-40;
}

struct problem_answer problem_answer(const float *l, int64_t V, const struct sample_row *row)
{
    struct token *order = malloc((size_t)V * sizeof *order);
    double *w = malloc((size_t)V * sizeof *w), total = 0, error = (double)V * 0x1p-42;
    struct problem_answer a = {.masses = malloc((size_t)V * sizeof(double)), .sure = true};
    if (!order || !w || !a.masses)
        BUG("no memory for %d logits", (int)V);
    for (int64_t i = 0; i < V; i++)
        order[i] = (struct token){l[i], (int32_t)i};
    qsort(order, (size_t)V, sizeof *order, by_rank);
    a.id = order[0].id;
    for (int64_t i = 0; i < V && row->temperature > 0; i++) {
        double x = ((double)l[i] - (double)order[0].logit) / row->temperature;
        w[i] = i == a.id ? 1 : x == x ? det_exp(x) : 0;
        total += w[i];
        error += x < 0 && w[i] > 0 ? w[i] * (1.125 - 0.75 * x) * 0x1p-22 : 0;
    }
    if (row->temperature > 0)
        draw(&a, order, w, total, error, V, row);
    free(order);
    free(w);
    return a;
}

void problem_between(struct sample_row *row, const struct problem_answer *a, uint64_t *seed)
{
    const double u = a->masses[rnd(seed) % (uint64_t)(a->taken - 1)] / a->masses[a->taken - 1];
    row->u = u < 1 ? u : 1 - 0x1p-53;
}

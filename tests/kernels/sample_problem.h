/* Rows of logits for the op sample, and its definition written for reading: sort, sum, walk. Include after what has rnd() (util.h, tests/gpu/tap.h). */
#ifndef TESTS_KERNELS_SAMPLE_PROBLEM_H
#define TESTS_KERNELS_SAMPLE_PROBLEM_H

#include "kernels/backend.h"
#include "kernels/detmath.h"

enum { SAMPLE_KINDS = 11 };

static double sample_uniform(uint64_t *seed)
{
    return (double)(rnd(seed) >> 11) * 0x1p-53;
}

static double sample_normal(uint64_t *seed)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += sample_uniform(seed);
    return sum;
}

static void sample_logits(float *l, int64_t V, int kind, uint64_t *seed)
{
    const double spread = kind == 1 ? 2.3 : pow(10, 3 * sample_uniform(seed) - 1.5);
    for (int64_t i = 0; i < V; i++) {
        double x = spread * sample_normal(seed);
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
        case 9: x = i == V / 2 ? 0 : -17 - 1e-4 * sample_uniform(seed); break; /* a far tail of many */
        case 10: x = 1 + (double)(one_in % 8) * 0x1p-23; break;          /* neighbours, and ties among them */
        }
        l[i] = (float)x;
    }
}

/* temperature, top_p and u at random; edges: values among them at which little or nothing is left to choose. */
static struct sample_row sample_settings(bool edges, uint64_t *seed)
{
    static const double temperatures[] = {0, 1, 0.6, 0.05, 100, 1e-30, 1e30, 2}, parts[2][8] = {{1, 0.9, 0.55, 0.1, 1, 0.97, 0.8, 2}, {1, 0.9, 0.5, 1e-9, 0, 0.999999, -1, NAN}};
    uint64_t u = edges ? rnd(seed) % 8 : 8;
    return (struct sample_row){temperatures[rnd(seed) % 8], parts[edges][rnd(seed) % 8], u == 0 ? 0 : u == 1 ? 1 - 0x1p-53 : sample_uniform(seed)};
}

struct sample_answer {
    int32_t id;
    int64_t taken;  /* tokens in the set */
    double *masses; /* [taken] of the set's first tokens; owned */
    bool sure;      /* no decision hangs on less than the rounding of the CUDA op (kernels/cuda/sample.h; octaves are rounded three times) */
};

static const float *sample_sorting;

static int sample_order(const void *a, const void *b)
{
    const int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    const float x = sample_sorting[i], y = sample_sorting[j];
    if (isnan(x) != isnan(y))
        return isnan(x) ? 1 : -1;
    return x > y ? -1 : x < y ? 1 : i < j ? -1 : i > j;
}

static struct sample_answer sample_answer(const float *l, int64_t V, const struct sample_row *p)
{
    int32_t *order = malloc((size_t)V * sizeof *order);
    double *w = malloc((size_t)V * sizeof *w), total = 0, mass = 0, error = (double)V * 0x1p-42, margin = HUGE_VAL;
    for (int64_t i = 0; i < V; i++)
        order[i] = (int32_t)i;
    sample_sorting = l;
    qsort(order, (size_t)V, sizeof *order, sample_order);
    struct sample_answer a = {.id = order[0], .masses = malloc((size_t)V * sizeof(double)), .sure = true};
    const double max = (double)l[order[0]];
    for (int64_t i = 0; i < V && p->temperature > 0; i++) {
        double x = ((double)l[i] - max) / p->temperature;
        w[i] = i == order[0] ? 1 : x == x ? det_exp(x) : 0;
        total += w[i];
        error += x < 0 && w[i] > 0 ? w[i] * (1.125 - 0.75 * x) * 0x1p-22 : 0;
    }
    if (p->temperature > 0) {
        const double want = p->top_p < 1 ? p->top_p * total : total;
        do {
            mass += w[order[a.taken]];
            a.masses[a.taken++] = mass;
        } while (a.taken < V && mass < want && w[order[a.taken - 1]] > 0);
        int64_t i = 0;
        while (i + 1 < a.taken && a.masses[i] <= p->u * mass)
            i++;
        a.id = order[i];
        margin = fmin(a.masses[i] - p->u * mass, i ? p->u * mass - a.masses[i - 1] : HUGE_VAL);
        if (p->top_p < 1)
            margin = fmin(margin, fmin(mass - want, a.taken > 1 ? want - a.masses[a.taken - 2] : HUGE_VAL));
        a.sure = margin > 2 * error + 0x1p-40;
    }
    free(order);
    free(w);
    return a;
}

#endif

/* One module's synthetic problem and gptq_quantize on it, for tests of stages/quant. */
#ifndef TESTS_UNIT_GPTQ_PROBLEM_H
#define TESTS_UNIT_GPTQ_PROBLEM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/half.h"
#include "pipeline/base/pool.h"
#include "stages/quant/gptq.h"
#include "stages/quant/grid.h"
#include "stages/quant/hessian.h"
#include "stages/quant/order.h"

struct problem {
    int64_t N, K, tokens;
    float *w, *x;
    double *h; /* f64, from x */
    /* What the source model fed the module, and what comes of it; NULL unless a test makes them. */
    double *inputs, *outputs;
    float *metric;
};

static uint32_t seed;

static inline double uniform(void)
{
    return (double)(seed = seed * 1664525u + 1013904223u) / 0x1p32 - 0.5;
}

static inline double bell(void)
{
    return uniform() + uniform() + uniform() + uniform();
}

/* Correlated inputs of unlike size, as real activations are. */
static inline struct problem make_problem(int64_t N, int64_t K, int64_t tokens)
{
    struct problem p = {.N = N, .K = K, .tokens = tokens};
    p.w = malloc((size_t)(N * K) * sizeof *p.w);
    p.x = malloc((size_t)(tokens * K) * sizeof *p.x);
    p.h = calloc((size_t)(K * K), sizeof *p.h);
    seed = 12345;
    double *size = malloc((size_t)K * sizeof *size);
    for (int64_t k = 0; k < K; k++)
        size[k] = exp(2 * bell());
    for (int64_t t = 0; t < tokens; t++) {
        double common = bell(), last = 0;
        for (int64_t k = 0; k < K; k++) {
            last = 0.6 * last + bell();
            p.x[t * K + k] = (float)((last + 0.5 * common) * size[k]);
        }
    }
    for (int64_t i = 0; i < N * K; i++)
        p.w[i] = (float)(0.1 * bell());
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < K; i++)
            for (int64_t j = i; j < K; j++)
                p.h[i * K + j] += (double)p.x[t * K + i] * (double)p.x[t * K + j];
    hessian_mirror(p.h, K, 2.0 / (double)tokens);
    free(size);
    return p;
}

static inline void free_problem(struct problem *p)
{
    free(p->w);
    free(p->x);
    free(p->h);
    free(p->inputs);
    free(p->outputs);
    free(p->metric);
}

static inline struct backend *open_backend(enum isa isa, struct pool *pool)
{
    struct parallel par = {pool_run, pool, pool ? pool_threads(pool) : 1};
    struct backend *b;
    struct err e = {0};
    assert_int_equal(cpu_backend_create(isa, &par, &b, &e), 0);
    return b;
}

struct result {
    struct qmatrix q;
    float *w;
    struct gptq_report report;
};

static inline int quantize_on(struct backend *b, const struct problem *p, struct quant_params params, struct result *r, struct err *e)
{
    assert_int_equal(quant_params_resolve(&params, "test", e), 0);
    const struct gptq_input in = {.name = "m",
                                  .N = p->N,
                                  .K = p->K,
                                  .w = p->w,
                                  .h = p->h,
                                  .inputs = p->inputs,
                                  .outputs = p->outputs,
                                  .metric = p->metric,
                                  .params = &params};
    r->w = calloc((size_t)(p->N * p->K), sizeof *r->w);
    return gptq_quantize(b, &in, &r->q, r->w, &r->report, e);
}

static inline struct result quantize(const struct problem *p, struct quant_params params)
{
    struct result r;
    struct err e = {0};
    struct backend *b = open_backend(ISA_AUTO, NULL);
    int rc = quantize_on(b, p, params, &r, &e);
    if (rc)
        fail_msg("%s", e.text);
    b->destroy(b);
    return r;
}

static inline void free_result(struct result *r)
{
    qmatrix_free(&r->q);
    free(r->w);
}

static inline struct quant_params with(int bits, int group_size, bool sym, bool desc_act, bool aware, bool fixed)
{
    struct quant_params q = quant_params_default();
    q.bits = bits;
    q.group_size = group_size;
    q.sym = sym;
    q.desc_act = desc_act;
    q.act_group_aware = aware;
    q.static_groups = fixed;
    return q;
}

#endif

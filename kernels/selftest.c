/* Groups and cases, comparison, and products. */
#include "kernels/selftest.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct bits {
    const char *name;
    uint64_t digest;
} cpu_bits[] = {
#define BITS(name, digest) {#name, digest},
#include "kernels/selftest.def"
#undef BITS
};

static void hash(struct selftest *t, const void *p, size_t bytes)
{
    const unsigned char *b = p;
    for (size_t i = 0; i < bytes; i++)
        t->digest = (t->digest ^ b[i]) * 0x100000001b3u;
}

void selftest_begin(struct selftest *t, const char *name, double bound)
{
    t->group = (struct selftest_group){.passed = true, .bound = t->exact ? 0 : bound};
    snprintf(t->group.name, sizeof t->group.name, "%s", name);
    t->digest = 0xcbf29ce484222325u;
    t->what[0] = 0;
}

void selftest_case(struct selftest *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(t->what, sizeof t->what, fmt, ap);
    va_end(ap);
    t->group.cases++;
    t->at(t->arg, t->group.name, t->what);
}

static void fail(struct selftest *t, const char *fmt, ...) ERR_PRINTF(2, 3);
static void fail(struct selftest *t, const char *fmt, ...)
{
    char text[SELFTEST_WHAT_BYTES - sizeof t->what - 2];
    va_list ap;
    if (!t->group.passed)
        return;
    t->group.passed = false;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    snprintf(t->group.what, sizeof t->group.what, "%s: %s", t->what, text);
}

int selftest_end(struct selftest *t, int rc, struct err *e)
{
    if (rc) {
        fail(t, "%s", e->text);
        err_wrap(e, "%s", t->group.what);
    }
    for (size_t i = 0; !t->ref && i < sizeof cpu_bits / sizeof *cpu_bits; i++)
        if (!strcmp(cpu_bits[i].name, t->group.name) && cpu_bits[i].digest != t->digest) {
            snprintf(t->what, sizeof t->what, "all cases");
            fail(t, "the digest of the results is 0x%016llx, and 0x%016llx in class cpu", (unsigned long long)t->digest, (unsigned long long)cpu_bits[i].digest);
        }
    t->done(t->arg, &t->group);
    return rc;
}

static void widen(struct selftest *t, double error)
{
    if (!(error <= t->group.worst))
        t->group.worst = isnan(error) ? INFINITY : error;
}

void selftest_same(struct selftest *t, const struct selftest_result *first, const struct selftest_result *second, const char *how)
{
    for (size_t i = 0; i < first->count; i++)
        if (memcmp(&first->values[i], &second->values[i], sizeof(double)) != 0) {
            fail(t, "value %zu is %.9g, and %.9g %s", i, first->values[i], second->values[i], how);
            return;
        }
}

static void compare(struct selftest *t, const struct selftest_result *want, const struct selftest_result *got, double floor)
{
    for (size_t i = 0; i < want->count; i++) {
        double w = want->values[i], g = got->values[i], error = fabs(w - g) / (floor > 0 ? fmax(floor, fabs(w)) : 1);
        bool good = t->group.bound > 0 ? error <= t->group.bound : memcmp(&w, &g, sizeof w) == 0;
        widen(t, good && t->group.bound == 0 ? 0 : error);
        if (!good)
            fail(t, "value %zu is %.9g, the reference gives %.9g", i, g, w);
    }
}

int selftest_both(struct selftest *t, selftest_run *run, const void *arg, double floor, struct selftest_result *keep, struct err *e)
{
    struct selftest_result got = {NULL, 0}, again = {NULL, 0}, want = {NULL, 0};
    int rc = run(t->b, arg, &got, e);
    if (!rc)
        rc = run(t->b, arg, &again, e);
    if (!rc && t->ref)
        rc = run(t->ref, arg, &want, e);
    if (!rc) {
        selftest_same(t, &got, &again, "when run again");
        compare(t, &want, &got, floor);
        hash(t, got.values, got.count * sizeof *got.values);
    }
    if (keep)
        *keep = got;
    else
        free(got.values);
    free(again.values);
    free(want.values);
    return rc;
}

float *selftest_put(struct selftest_arrays *a, const float *host, size_t n)
{
    float *p = NULL;
    if (!a->rc)
        a->rc = problem_put(a->b, host, n, &p, a->e);
    if (!a->rc)
        a->of[a->count++] = p;
    return p;
}

static double *more(struct selftest_result *r, size_t n)
{
    double *p = realloc(r->values, (r->count + n + 1) * sizeof *p);
    if (!p)
        BUG("no memory for %zu results", r->count + n);
    r->values = p;
    r->count += n;
    return p + r->count - n;
}

void selftest_append(struct selftest_result *r, const double *p, size_t n)
{
    memcpy(more(r, n), p, n * sizeof *p);
}

void selftest_append_f32(struct selftest_result *r, const float *p, size_t n)
{
    double *to = more(r, n);
    for (size_t i = 0; i < n; i++)
        to[i] = (double)p[i];
}

int selftest_take(struct selftest_arrays *a, const float *device, size_t n, struct selftest_result *out)
{
    float *host = NULL;
    if (!a->rc)
        a->rc = problem_get(a->b, device, n, &host, a->e);
    if (!a->rc)
        selftest_append_f32(out, host, n);
    free(host);
    for (int i = 0; i < a->count; i++)
        a->b->ops->free(a->b, a->of[i]);
    return a->rc;
}

/* Products */

/* Tokens that a problem has, and of how many it is computed alone: on a GPU every tile of tokens and several of them. */
static const int64_t gpu_tokens[] = {130, 1, 7, 16, 33}, cpu_tokens[] = {33, 1, 2, 7, 16};
enum { TOKENS = 5 };

struct product {
    const struct problem_matrix *m;
    const struct problem *p;
    struct weight *w;
    char name[96];
};

/* Rows from .. of the whole problem's result. */
static void same_tokens(struct selftest *t, const struct product *c, const float *whole, const float *some, int64_t from, int64_t rows)
{
    for (int64_t i = 0; i < rows * c->p->ldy; i++) {
        const float *w = &whole[from * c->p->ldy + i], *s = &some[i];
        if (memcmp(w, s, sizeof *w) == 0)
            continue;
        fail(t, "token %d, output %d is %.9g, and %.9g among %d tokens", (int)(i / c->p->ldy), (int)(i % c->p->ldy), (double)*s, (double)*w, (int)c->p->M);
        return;
    }
}

static void against_ref(struct selftest *t, const struct product *c, const float *want, const float *got)
{
    for (int64_t i = 0; i < c->p->M * c->p->ldy; i++) {
        if (memcmp(&want[i], &got[i], sizeof *want) == 0)
            continue;
        widen(t, fabs((double)want[i] - (double)got[i]) / fmax(1, fabs((double)want[i])));
        fail(t, "token %d, output %d is %.9g, the reference gives %.9g", (int)(i / c->p->ldy), (int)(i % c->p->ldy), (double)got[i], (double)want[i]);
    }
}

static void against_exact(struct selftest *t, const struct product *c, const float *got)
{
    struct problem_place at;
    double error = problem_worst(c->m, c->p, got, &at);
    widen(t, error * BOUND_PRODUCT);
    if (!(error <= 1))
        fail(t, "token %d, output %d is %.9g, exact is %.9g, %.3g times the bound away", (int)at.row, (int)at.col, at.got, at.want, error);
}

/* All tokens: beside the reference, and once more. *whole is the caller's to free. */
static int all_tokens(struct selftest *t, const struct product *c, enum problem_kind kind, float **whole, struct err *e)
{
    float *again = NULL, *want = NULL;
    struct weight *w = NULL;
    const bool bits = t->ref && (t->exact || kind == KIND_F32);
    selftest_case(t, "%s, %d tokens", c->name, (int)c->p->M);
    int rc = problem_solve(t->b, c->w, c->m, c->p, 0, c->p->M, whole, e);
    if (!rc)
        rc = problem_solve(t->b, c->w, c->m, c->p, 0, c->p->M, &again, e);
    if (!rc && bits)
        rc = problem_weight(t->ref, c->m, &w, e);
    if (!rc && bits)
        rc = problem_solve(t->ref, w, c->m, c->p, 0, c->p->M, &want, e);
    if (!rc) {
        if (bits)
            against_ref(t, c, want, *whole);
        else
            against_exact(t, c, *whole);
        same_tokens(t, c, *whole, again, 0, c->p->M);
        hash(t, *whole, (size_t)(c->p->M * c->p->ldy) * sizeof **whole);
    }
    if (w)
        t->ref->ops->weight_free(t->ref, w);
    free(again);
    free(want);
    return rc;
}

static int few_tokens(struct selftest *t, const struct product *c, int64_t rows, int64_t from, const float *whole, struct err *e)
{
    float *some = NULL;
    selftest_case(t, "%s, %d token%s", c->name, (int)rows, rows == 1 ? "" : "s");
    int rc = problem_solve(t->b, c->w, c->m, c->p, from, rows, &some, e);
    if (!rc)
        same_tokens(t, c, whole, some, from, rows);
    free(some);
    return rc;
}

/* variant: of bias, adding to what is there, space between rows, where the few tokens begin. */
static int product(struct selftest *t, enum problem_kind kind, const struct problem_shape *s, int variant, uint64_t *seed, struct err *e)
{
    const int64_t *tokens = t->ref && !t->exact ? gpu_tokens : cpu_tokens;
    struct problem_matrix m = problem_matrix(kind, s, seed);
    struct problem p = problem_new(&m, tokens[0], variant % 3, seed);
    struct product c = {.m = &m, .p = &p};
    float *whole = NULL;
    p.add_bias = variant % 2 == 0;
    p.accumulate = variant / 2 % 2 == 1;
    snprintf(c.name, sizeof c.name, "%s %dx%d", problem_kind_names[kind], (int)s->N, (int)s->K);
    size_t len = strlen(c.name);
    if (m.quantized && s->group > 0)
        snprintf(c.name + len, sizeof c.name - len, " group %d%s%s", s->group, s->order ? " act-order" : "", s->sym ? "" : " asymmetric");
    else if (m.quantized)
        snprintf(c.name + len, sizeof c.name - len, " one group%s", s->sym ? "" : " asymmetric");
    snprintf(t->what, sizeof t->what, "%s", c.name);
    int rc = problem_weight(t->b, &m, &c.w, e);
    if (!rc)
        rc = all_tokens(t, &c, kind, &whole, e);
    for (int i = 1; !rc && i < TOKENS; i++)
        rc = few_tokens(t, &c, tokens[i], (variant * 5 + i) % (tokens[0] - tokens[i]), whole, e);
    if (c.w)
        t->b->ops->weight_free(t->b, c.w);
    free(whole);
    problem_free(&p);
    problem_matrix_free(&m);
    return rc;
}

/* Several tiles of outputs and several parts of K of every kernel, neither whole. */
int selftest_products(struct selftest *t, const char *name, const enum problem_kind *kinds, int count, struct err *e)
{
    static const struct problem_shape shapes[] = {{200, 300, 32, false, true}, {72, 2304, 128, true, false}, {136, 640, -1, false, false}, {33, 172, 128, false, true}};
    enum { SHAPES = sizeof shapes / sizeof *shapes };
    uint64_t seed = 1;
    int rc = 0;
    selftest_begin(t, name, BOUND_PRODUCT);
    for (int k = 0; !rc && k < count; k++)
        for (int i = 0; !rc && i < SHAPES; i++) {
            if (kinds[k] <= KIND_BF16 && i == SHAPES - 1)
                continue; /* shapes of groups */
            rc = product(t, kinds[k], &shapes[i], k + i, &seed, e);
        }
    return selftest_end(t, rc, e);
}

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

static void against_class(struct selftest *t)
{
    const struct bits *want = NULL;
    for (size_t i = 0; i < sizeof cpu_bits / sizeof *cpu_bits; i++)
        want = strcmp(cpu_bits[i].name, t->group.name) ? want : &cpu_bits[i];
    snprintf(t->what, sizeof t->what, "all cases");
    if (!want)
        fail(t, "the digest of the results is 0x%016llx, and selftest.def has none", (unsigned long long)t->digest);
    else if (want->digest != t->digest)
        fail(t, "the digest of the results is 0x%016llx, and 0x%016llx in class cpu", (unsigned long long)t->digest, (unsigned long long)want->digest);
}

int selftest_end(struct selftest *t, int rc, struct err *e)
{
    if (rc) {
        fail(t, "%s", e->text);
        err_wrap(e, "%s", t->group.what);
    }
    if (!t->ref)
        against_class(t);
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

/* Tokens that a problem has, and of how many it is computed alone: one product on a GPU has every tile of tokens and several of them. */
static const int64_t many_tokens[] = {130, 1, 7, 16, 33}, some_tokens[] = {33, 1, 2, 7, 16};
enum { TOKENS = 5 };

enum { PARTS = PROBLEM_PARTS_MAX };

/* A matrix, or several with one input. */
struct product {
    int n;
    struct problem_matrix m[PARTS];
    struct problem p[PARTS]; /* alike but for the outputs: tokens, their values, the space between rows */
    struct weight *w[PARTS];
    char name[96];
};

/* What is multiplied: N[0] outputs, and N[1] and N[2] of the same input unless 0. */
struct product_case {
    int64_t N[PARTS];
    struct problem_shape shape; /* its N is not looked at */
};

/* variant: of bias, adding to what is there, space between rows. */
static struct product product_new(enum problem_kind kind, const struct product_case *s, int64_t tokens, int variant, uint64_t *seed)
{
    struct product c = {.n = 0};
    size_t len = (size_t)snprintf(c.name, sizeof c.name, "%s ", problem_kind_names[kind]);
    for (; c.n < PARTS && s->N[c.n]; c.n++) {
        struct problem_matrix *m = &c.m[c.n];
        struct problem *p = &c.p[c.n];
        struct problem_shape shape = s->shape;
        shape.N = s->N[c.n];
        *m = problem_matrix(kind, &shape, seed);
        *p = problem_new(m, tokens, variant % 3, seed);
        p->add_bias = (variant + c.n) % 2 == 0;
        p->accumulate = s->N[1] == 0 && variant / 2 % 2 == 1;
        len += (size_t)snprintf(c.name + len, sizeof c.name - len, "%s%d", c.n ? "+" : "", (int)shape.N);
        if (c.n == 0)
            continue;
        memcpy(p->x, c.p[0].x, (size_t)(tokens * p->ldx) * sizeof *p->x);
        if (m->quantized) { /* inputs are in the same groups */
            memcpy(m->q.g_idx, c.m[0].q.g_idx, (size_t)m->K * sizeof *m->q.g_idx);
            problem_matrix_values(m);
        }
    }
    len += (size_t)snprintf(c.name + len, sizeof c.name - len, "x%d", (int)s->shape.K);
    if (kind > KIND_BF16 && s->shape.group > 0)
        snprintf(c.name + len, sizeof c.name - len, " group %d%s%s", s->shape.group, s->shape.order ? " act-order" : "", s->shape.sym ? "" : " asymmetric");
    else if (kind > KIND_BF16)
        snprintf(c.name + len, sizeof c.name - len, " one group%s", s->shape.sym ? "" : " asymmetric");
    return c;
}

static void weights_free(struct backend *b, const struct product *c, struct weight **w)
{
    for (int i = 0; i < c->n; i++)
        if (w[i])
            b->ops->weight_free(b, w[i]);
}

static void product_free(struct selftest *t, struct product *c)
{
    weights_free(t->b, c, c->w);
    for (int i = 0; i < c->n; i++) {
        problem_free(&c->p[i]);
        problem_matrix_free(&c->m[i]);
    }
}

static int weights_new(struct backend *b, const struct product *c, struct weight **w, struct err *e)
{
    int rc = 0;
    for (int i = 0; !rc && i < c->n; i++)
        rc = problem_weight(b, &c->m[i], &w[i], e);
    return rc;
}

/* Every part's product by itself. y: the caller's to free, whatever comes back. */
static int solve_apart(struct backend *b, struct weight *const *w, const struct product *c, float **y, struct err *e)
{
    int rc = 0;
    for (int i = 0; !rc && i < c->n; i++)
        rc = problem_solve(b, w[i], &c->m[i], &c->p[i], 0, c->p[i].M, &y[i], e);
    return rc;
}

static int solve(struct backend *b, const struct product *c, int64_t from, int64_t rows, float **y, struct err *e)
{
    return c->n == 1 ? problem_solve(b, c->w[0], c->m, c->p, from, rows, y, e) : problem_solve_many(b, c->w, c->m, c->p, c->n, from, rows, y, e);
}

static void outputs_free(float **y)
{
    for (int i = 0; i < PARTS; i++)
        free(y[i]);
}

/* Whose an output is, for messages. */
static const char *of_part(const struct product *c, int part)
{
    static const char *const names[PARTS] = {" of the first", " of the second", " of the third"};
    return c->n == 1 ? "" : names[part];
}

/* Rows from .. of the whole problem's result; how: when the whole has it. */
static void same_tokens(struct selftest *t, const struct product *c, float *const *whole, float *const *some, int64_t from, int64_t rows, const char *how)
{
    for (int part = 0; part < c->n; part++) {
        const int64_t ldy = c->p[part].ldy;
        for (int64_t i = 0; i < rows * ldy; i++) {
            const float *w = &whole[part][from * ldy + i], *s = &some[part][i];
            if (memcmp(w, s, sizeof *w) == 0)
                continue;
            fail(t, "token %d, output %d%s is %.9g, and %.9g %s", (int)(i / ldy), (int)(i % ldy), of_part(c, part), (double)*s, (double)*w, how);
            return;
        }
    }
}

static void against_ref(struct selftest *t, const struct product *c, int part, const float *want, const float *got)
{
    const int64_t ldy = c->p[part].ldy;
    for (int64_t i = 0; i < c->p[part].M * ldy; i++) {
        if (memcmp(&want[i], &got[i], sizeof *want) == 0)
            continue;
        widen(t, fabs((double)want[i] - (double)got[i]) / fmax(1, fabs((double)want[i])));
        fail(t, "token %d, output %d%s is %.9g, the reference gives %.9g", (int)(i / ldy), (int)(i % ldy), of_part(c, part), (double)got[i], (double)want[i]);
    }
}

static void against_exact(struct selftest *t, const struct product *c, int part, const float *got)
{
    struct problem_place at;
    double error = problem_worst(&c->m[part], &c->p[part], got, &at);
    widen(t, error * BOUND_PRODUCT);
    if (!(error <= 1))
        fail(t, "token %d, output %d%s is %.9g, exact is %.9g, %.3g times the bound away", (int)at.row, (int)at.col, of_part(c, part), at.got, at.want, error);
}

/* All tokens: beside the reference, which has every product by itself, and once more. whole is the caller's to free. */
static int all_tokens(struct selftest *t, const struct product *c, enum problem_kind kind, float **whole, struct err *e)
{
    float *again[PARTS] = {NULL}, *want[PARTS] = {NULL};
    struct weight *w[PARTS] = {NULL};
    const bool bits = t->ref && (t->exact || kind == KIND_F32);
    char how[32];
    snprintf(how, sizeof how, "among %d tokens", (int)c->p[0].M);
    selftest_case(t, "%s, %d tokens", c->name, (int)c->p[0].M);
    int rc = solve(t->b, c, 0, c->p[0].M, whole, e);
    if (!rc)
        rc = solve(t->b, c, 0, c->p[0].M, again, e);
    if (!rc && bits)
        rc = weights_new(t->ref, c, w, e);
    if (!rc && bits)
        rc = solve_apart(t->ref, w, c, want, e);
    for (int i = 0; !rc && i < c->n; i++) {
        if (bits)
            against_ref(t, c, i, want[i], whole[i]);
        else
            against_exact(t, c, i, whole[i]);
        hash(t, whole[i], (size_t)(c->p[i].M * c->p[i].ldy) * sizeof *whole[i]);
    }
    if (!rc)
        same_tokens(t, c, whole, again, 0, c->p[0].M, how);
    if (bits)
        weights_free(t->ref, c, w);
    outputs_free(again);
    outputs_free(want);
    return rc;
}

static int few_tokens(struct selftest *t, const struct product *c, int64_t rows, int64_t from, float *const *whole, struct err *e)
{
    float *some[PARTS] = {NULL};
    char how[32];
    snprintf(how, sizeof how, "among %d tokens", (int)c->p[0].M);
    selftest_case(t, "%s, %d token%s", c->name, (int)rows, rows == 1 ? "" : "s");
    int rc = solve(t->b, c, from, rows, some, e);
    if (!rc)
        same_tokens(t, c, whole, some, from, rows, how);
    outputs_free(some);
    return rc;
}

/* Together before they are joined, and by themselves after, the parts have the bits that they had alone. */
static int joining(struct selftest *t, struct product *c, struct err *e)
{
    float *alone[PARTS] = {NULL}, *some[PARTS] = {NULL};
    const int64_t M = c->p[0].M;
    selftest_case(t, "%s, before they are joined", c->name);
    int rc = solve_apart(t->b, c->w, c, alone, e);
    if (!rc)
        rc = solve(t->b, c, 0, M, some, e);
    if (!rc)
        same_tokens(t, c, alone, some, 0, M, "by itself");
    outputs_free(some);
    memset(some, 0, sizeof some);
    if (!rc)
        selftest_case(t, "%s, one by one when they are joined", c->name);
    if (!rc)
        rc = t->b->ops->weight_join(t->b, c->w, c->n, e);
    if (!rc)
        rc = solve_apart(t->b, c->w, c, some, e);
    if (!rc)
        same_tokens(t, c, alone, some, 0, M, "before");
    outputs_free(alone);
    outputs_free(some);
    return rc;
}

/* variant: see product_new; where the few tokens begin, too. */
static int product(struct selftest *t, enum problem_kind kind, const struct product_case *s, int variant, uint64_t *seed, struct err *e)
{
    const int64_t *tokens = t->ref && !t->exact && s->N[1] == 0 ? many_tokens : some_tokens;
    struct product c = product_new(kind, s, tokens[0], variant, seed);
    float *whole[PARTS] = {NULL};
    snprintf(t->what, sizeof t->what, "%s", c.name);
    int rc = weights_new(t->b, &c, c.w, e);
    if (!rc && c.n > 1)
        rc = joining(t, &c, e);
    if (!rc)
        rc = all_tokens(t, &c, kind, whole, e);
    for (int i = 1; !rc && i < TOKENS; i++)
        rc = few_tokens(t, &c, tokens[i], (variant * 5 + i) % (tokens[0] - tokens[i]), whole, e);
    outputs_free(whole);
    product_free(t, &c);
    return rc;
}

static int products(struct selftest *t, const char *name, const struct product_case *cases, int case_count, const enum problem_kind *kinds, int count, uint64_t seed,
                    struct err *e)
{
    int rc = 0;
    selftest_begin(t, name, BOUND_PRODUCT);
    for (int k = 0; !rc && k < count; k++)
        for (int i = 0; !rc && i < case_count; i++) {
            if (kinds[k] <= KIND_BF16 && i == case_count - 1)
                continue; /* the last is of groups */
            rc = product(t, kinds[k], &cases[i], k + i, &seed, e);
        }
    return selftest_end(t, rc, e);
}

/* Several tiles of outputs and several parts of K of every kernel, neither whole. */
int selftest_products(struct selftest *t, const char *name, const enum problem_kind *kinds, int count, struct err *e)
{
    static const struct product_case cases[] = {{{200}, {0, 300, 32, false, true}}, {{72}, {0, 2304, 128, true, false}}, {{136}, {0, 640, -1, false, false}},
                                                {{33}, {0, 172, 128, false, true}}};
    return products(t, name, cases, sizeof cases / sizeof *cases, kinds, count, 1, e);
}

/* All but the fourth are joined by the classes that join at all: whole strips of outputs but for the last part's. */
int selftest_joined(struct selftest *t, const char *name, const enum problem_kind *kinds, int count, struct err *e)
{
    static const struct product_case cases[] = {{{256, 128, 128}, {0, 172, 128, false, true}},
                                                {{128, 256, 70}, {0, 300, 32, false, false}},
                                                {{256, 128}, {0, 172, -1, false, false}},
                                                {{96, 64, 40}, {0, 172, 64, false, false}},
                                                {{256, 128, 128}, {0, 172, 64, true, false}}};
    return products(t, name, cases, sizeof cases / sizeof *cases, kinds, count, 10, e);
}

/* Ops one after another: a layer as the decoder has it, where a product takes what the op before it has left beside its result (the GPU's halves), and the same products after
 * another op has written over that result. Numbers are kept near size 1, so that an error is beside the size of what it is in. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/selftest.h"

enum { Q, K, V, O, GATE, UP, DOWN, MATRICES };
enum { SEQUENCES = 2, STEPS_MAX = 8, POSITIONS = 16 };

struct chain_shape {
    int heads, kv_heads, D, inner, group;
    bool order, sym; /* act-order: q, k and v have their inputs in the same groups, and so do gate and up */
};

/* How many positions of each sequence are new in each step. */
struct steps {
    const char *name;
    int rows[STEPS_MAX][SEQUENCES]; /* to the first that is all 0 */
};

struct chain {
    const struct chain_shape *shape;
    int hidden;
    struct problem_matrix m[MATRICES];
    float *bias[MATRICES];   /* of q, k and v; others NULL */
    float *norm[3];          /* before attention, before gate and up, last; the first two so that products are near size 1 */
    float *cos, *sin, *x;    /* x: [SEQUENCES, POSITIONS, hidden] */
};

/* The root of the mean square of an output whose inputs have one. */
static double size_of(const struct problem_matrix *m)
{
    double sum = 0;
    for (int64_t i = 0; i < m->N * m->K; i++)
        sum += (double)m->values[i] * (double)m->values[i];
    return sqrt(sum / (double)m->N);
}

static struct chain chain_new(enum problem_kind kind, const struct chain_shape *s, uint64_t *seed)
{
    const int width = s->heads * s->D, kv = s->kv_heads * s->D;
    const int shapes[MATRICES][2] = {{width, width}, {kv, width}, {kv, width}, {width, width}, {s->inner, width}, {s->inner, width}, {width, s->inner}};
    const size_t angles = (size_t)(POSITIONS * s->D / 2);
    struct chain c = {.shape = s, .hidden = width};
    for (int i = 0; i < MATRICES; i++) {
        const int first = i <= V ? Q : i == UP ? GATE : i;
        struct problem_matrix *m = &c.m[i];
        *m = problem_matrix(kind, &(struct problem_shape){shapes[i][0], shapes[i][1], s->group, s->order, s->sym}, seed);
        if (m->quantized && first != i) {
            memcpy(m->q.g_idx, c.m[first].q.g_idx, (size_t)m->K * sizeof *m->q.g_idx);
            problem_matrix_values(m);
        }
        c.bias[i] = i <= V ? rnd_floats((size_t)m->N, seed) : NULL;
    }
    for (int i = 0; i < 3; i++) {
        const float by = i < 2 ? (float)(2 / size_of(&c.m[i ? GATE : Q])) : 1;
        c.norm[i] = rnd_floats((size_t)width, seed);
        for (int k = 0; k < width; k++)
            c.norm[i][k] *= by;
    }
    c.x = rnd_floats((size_t)(SEQUENCES * POSITIONS * width), seed);
    c.cos = rnd_floats(angles, seed);
    c.sin = rnd_floats(angles, seed);
    return c;
}

static void chain_free(struct chain *c)
{
    for (int i = 0; i < MATRICES; i++) {
        problem_matrix_free(&c->m[i]);
        free(c->bias[i]);
    }
    for (int i = 0; i < 3; i++)
        free(c->norm[i]);
    free(c->x);
    free(c->cos);
    free(c->sin);
}

/* The layer on a backend. */
struct layer {
    const struct chain *c;
    struct backend *b;
    struct selftest_arrays a;
    struct weight *w[MATRICES];
    struct kv_cache *kv[SEQUENCES];
    float *bias[MATRICES], *norm[3], *cos, *sin;
    float *hidden, *xn, *q, *k, *v, *y, *gate, *act; /* rows of a step */
};

static float *room(struct layer *l, int width)
{
    void *p = NULL;
    if (!l->a.rc)
        l->a.rc = l->b->ops->alloc(l->b, (size_t)(SEQUENCES * POSITIONS * width) * sizeof(float), &p, l->a.e);
    if (!l->a.rc)
        l->a.of[l->a.count++] = p;
    return p;
}

static int layer_open(struct layer *l, const struct chain *c, struct backend *b, struct err *e)
{
    const struct chain_shape *s = c->shape;
    const size_t angles = (size_t)(POSITIONS * s->D / 2);
    *l = (struct layer){.c = c, .b = b, .a = {.b = b, .e = e}};
    for (int i = 0; i < MATRICES; i++) {
        if (!l->a.rc)
            l->a.rc = problem_weight(b, &c->m[i], &l->w[i], e);
        l->bias[i] = c->bias[i] ? selftest_put(&l->a, c->bias[i], (size_t)c->m[i].N) : NULL;
    }
    for (int i = 0; i < 3; i++)
        l->norm[i] = selftest_put(&l->a, c->norm[i], (size_t)c->hidden);
    l->cos = selftest_put(&l->a, c->cos, angles);
    l->sin = selftest_put(&l->a, c->sin, angles);
    float **const wide[] = {&l->hidden, &l->xn, &l->q, &l->y}, **const narrow[] = {&l->k, &l->v}, **const inner[] = {&l->gate, &l->act};
    for (int i = 0; i < 4; i++)
        *wide[i] = room(l, c->hidden);
    for (int i = 0; i < 2; i++) {
        *narrow[i] = room(l, s->kv_heads * s->D);
        *inner[i] = room(l, s->inner);
    }
    if (!l->a.rc)
        l->a.rc = b->ops->weight_join(b, &l->w[Q], 3, e);
    return l->a.rc ? l->a.rc : b->ops->weight_join(b, &l->w[GATE], 2, e);
}

static void forget_positions(struct layer *l)
{
    for (int i = 0; i < SEQUENCES; i++) {
        if (l->kv[i])
            l->b->ops->kv_free(l->b, l->kv[i]);
        l->kv[i] = NULL;
    }
}

static int no_positions(struct layer *l)
{
    int rc = 0;
    forget_positions(l);
    for (int i = 0; i < SEQUENCES && !rc; i++)
        rc = l->b->ops->kv_create(l->b, 1, l->c->shape->kv_heads, l->c->shape->D, POSITIONS, &l->kv[i], l->a.e);
    return rc;
}

static void layer_close(struct layer *l)
{
    if (!l->b)
        return;
    forget_positions(l);
    for (int i = 0; i < MATRICES; i++)
        if (l->w[i])
            l->b->ops->weight_free(l->b, l->w[i]);
    for (int i = 0; i < l->a.count; i++)
        l->b->ops->free(l->b, l->a.of[i]);
}

static int multiply(struct layer *l, int matrix, float *y, const float *x, int64_t M, bool accumulate)
{
    const struct problem_matrix *m = &l->c->m[matrix];
    return l->b->ops->linear(l->b, y, m->N, x, m->K, M, l->w[matrix], l->bias[matrix], accumulate, l->a.e);
}

/* n products of xn from matrix `first` on. */
static int multiply_many(struct layer *l, int first, int n, float *const *y, int64_t M)
{
    struct linear_part parts[3];
    for (int i = 0; i < n; i++)
        parts[i] = (struct linear_part){.y = y[i], .ldy = l->c->m[first + i].N, .w = l->w[first + i], .bias = l->bias[first + i]};
    return l->b->ops->linear_many(l->b, parts, n, l->xn, l->c->hidden, M, l->a.e);
}

static int normalize(struct layer *l, float *y, const float *x, int norm, int64_t M)
{
    return l->b->ops->rmsnorm(l->b, y, x, l->norm[norm], M, l->c->hidden, 1e-6f, l->a.e);
}

static int attend(struct layer *l, float *y, const struct attn_segment *segments, size_t count)
{
    const struct chain_shape *s = l->c->shape;
    const struct attn_args args = {.q = l->q, .k = l->k, .v = l->v, .y = y, .heads = s->heads, .kv_heads = s->kv_heads, .head_dim = s->D, .scale = (float)(1 / sqrt(s->D)),
                                   .segments = segments, .segment_count = count};
    return l->b->ops->attention(l->b, &args, l->a.e);
}

static int turn(struct layer *l, float *q, float *k, int64_t M, const int32_t *pos)
{
    const struct chain_shape *s = l->c->shape;
    const struct rope_args args = {.q = q, .k = k, .heads = s->heads, .kv_heads = s->kv_heads, .head_dim = s->D, .M = M, .cos = l->cos, .sin = l->sin, .pos = pos};
    return l->b->ops->rope(l->b, &args, l->a.e);
}

/* The layer of stages/lm/layer.c and the last norm, on M rows of hidden, in place. */
static int layer_step(struct layer *l, const struct attn_segment *segments, size_t count, const int32_t *pos, int64_t M)
{
    int rc = normalize(l, l->xn, l->hidden, 0, M);
    if (!rc)
        rc = multiply_many(l, Q, 3, (float *const[]){l->q, l->k, l->v}, M);
    if (!rc)
        rc = turn(l, l->q, l->k, M, pos);
    if (!rc)
        rc = attend(l, l->y, segments, count);
    if (!rc)
        rc = multiply(l, O, l->hidden, l->y, M, true);
    if (!rc)
        rc = normalize(l, l->xn, l->hidden, 1, M);
    if (!rc)
        rc = multiply_many(l, GATE, 2, (float *const[]){l->gate, l->act}, M);
    if (!rc)
        rc = l->b->ops->silu_mul(l->b, l->act, l->gate, l->act, M, l->c->shape->inner, l->a.e);
    if (!rc)
        rc = multiply(l, DOWN, l->hidden, l->act, M, true);
    return rc ? rc : normalize(l, l->hidden, l->hidden, 2, M);
}

/* The next rows[i] positions of each sequence, done[i] of which are over; y as c->x. */
static int take_step(struct layer *l, const int *rows, int *done, float *y)
{
    const size_t width = (size_t)l->c->hidden, bytes = width * sizeof(float);
    struct attn_segment segments[SEQUENCES];
    int32_t pos[SEQUENCES * POSITIONS];
    size_t count = 0;
    int64_t M = 0;
    int rc = 0;
    for (int i = 0; i < SEQUENCES && !rc; i++) {
        if (!rows[i])
            continue;
        segments[count++] = (struct attn_segment){.kv = l->kv[i], .row = M, .rows = rows[i], .pos = done[i]};
        rc = l->b->ops->upload(l->b, l->hidden + M * l->c->hidden, l->c->x + (size_t)(i * POSITIONS + done[i]) * width, (size_t)rows[i] * bytes, l->a.e);
        for (int k = 0; k < rows[i]; k++)
            pos[M++] = done[i] + k;
    }
    if (!rc)
        rc = layer_step(l, segments, count, pos, M);
    M = 0;
    for (int i = 0; i < SEQUENCES && !rc; i++) {
        rc = l->b->ops->download(l->b, y + (size_t)(i * POSITIONS + done[i]) * width, l->hidden + M * l->c->hidden, (size_t)rows[i] * bytes, l->a.e);
        M += rows[i];
        done[i] += rows[i];
    }
    return rc;
}

/* One case, on either backend. */
struct chain_run {
    struct layer *tested, *ref;
    const struct steps *steps; /* of a layer */
    int maker, writer;         /* of what is written over */
};

static struct layer *layer_of(const struct chain_run *r, const struct backend *b)
{
    return r->tested->b == b ? r->tested : r->ref;
}

static int run_layer(struct backend *b, const void *arg, struct selftest_result *out, struct err *e)
{
    const struct chain_run *r = arg;
    struct layer *l = layer_of(r, b);
    const size_t width = (size_t)l->c->hidden;
    int done[SEQUENCES] = {0};
    float *y = malloc(SEQUENCES * POSITIONS * width * sizeof *y);
    (void)e; /* the layer's */
    if (!y)
        BUG("no memory for rows of %d", l->c->hidden);
    int rc = no_positions(l);
    for (int i = 0; !rc && i < STEPS_MAX && r->steps->rows[i][0] + r->steps->rows[i][1]; i++)
        rc = take_step(l, r->steps->rows[i], done, y);
    for (int i = 0; !rc && i < SEQUENCES; i++)
        selftest_append_f32(out, y + (size_t)(i * POSITIONS) * width, (size_t)done[i] * width);
    free(y);
    return rc;
}

/* However the sequences are cut, the same bits. */
static int layer(struct selftest *t, struct chain_run *r, const char *name, struct err *e)
{
    static const struct steps all[] = {{"prefill", {{9, 4}}}, {"prefill and decode", {{7, 1}, {1, 0}, {1, 1}, {0, 2}}}, {"prefill in chunks", {{5, 0}, {0, 3}, {4, 1}}}};
    struct selftest_result whole = {NULL, 0}, cut = {NULL, 0};
    int rc = 0;
    for (size_t i = 0; !rc && i < sizeof all / sizeof *all; i++) {
        r->steps = &all[i];
        selftest_case(t, "%s, %s", name, all[i].name);
        rc = selftest_both(t, run_layer, r, 1, i ? &cut : &whole, e);
        if (!rc && i)
            selftest_same(t, &cut, &whole, "when each sequence is prefilled at once");
        free(cut.values);
        cut = (struct selftest_result){NULL, 0};
    }
    free(whole.values);
    return rc;
}

/* Written over */

enum { ROWS = 3 };
enum { NORM, SILU, ATTENTION, MAKERS };
enum { NOBODY, ADD, UPLOAD, /* after rmsnorm alone: */ PRODUCT, ROPE, OTHER_NORM, SOME_ATTENTION, WRITERS };
static const char *const maker_names[] = {"rmsnorm", "silu_mul", "attention"};
static const char *const writer_names[] = {"", ", then add", ", then an upload", ", then another product", ", then rope", ", then rmsnorm to another place",
                                           ", then attention for one row"};

/* xn = what the op makes of hidden, or of q, k and v. */
static int make(struct layer *l, int maker)
{
    const struct attn_segment all = {.kv = l->kv[0], .rows = ROWS};
    if (maker == NORM)
        return normalize(l, l->xn, l->hidden, 2, ROWS);
    return maker == SILU ? l->b->ops->silu_mul(l->b, l->xn, l->hidden, l->hidden, ROWS, l->c->hidden, l->a.e) : attend(l, l->xn, &all, 1);
}

static int write_over(struct layer *l, int writer)
{
    static const int32_t pos[ROWS] = {3, 1, 2};
    const struct attn_segment one = {.kv = l->kv[1], .row = 1, .rows = 1};
    const int64_t n = (int64_t)ROWS * l->c->hidden;
    switch (writer) {
    case ADD: return l->b->ops->add(l->b, l->xn, l->hidden, n, l->a.e);
    case UPLOAD: return l->b->ops->upload(l->b, l->xn, l->c->x + n, (size_t)n * sizeof(float), l->a.e);
    case PRODUCT: return multiply(l, O, l->xn, l->hidden, ROWS, false);
    case ROPE: return turn(l, l->xn, l->k, ROWS, pos);
    case OTHER_NORM: return normalize(l, l->y, l->hidden, 1, ROWS);
    case SOME_ATTENTION: return attend(l, l->xn, &one, 1);
    default: return 0;
    }
}

static int append(struct layer *l, const float *device, size_t n, struct selftest_result *out)
{
    float *host = NULL;
    int rc = problem_get(l->b, device, n, &host, l->a.e);
    if (!rc)
        selftest_append_f32(out, host, n);
    free(host);
    return rc;
}

/* Products of what an op has made, or of what another has since put there: of a matrix alone, and of those that are joined. Normalized. */
static int run_written(struct backend *b, const void *arg, struct selftest_result *out, struct err *e)
{
    const struct chain_run *r = arg;
    struct layer *l = layer_of(r, b);
    const size_t n = (size_t)(ROWS * l->c->hidden), kv = (size_t)ROWS * (size_t)l->c->m[K].N;
    int rc = no_positions(l);
    float *const from_x[] = {l->hidden, l->q, l->k, l->v};
    for (int i = 0; i < 4 && !rc; i++)
        rc = b->ops->upload(b, from_x[i], l->c->x, (i < 2 ? n : kv) * sizeof(float), e);
    if (!rc)
        rc = make(l, r->maker);
    if (!rc)
        rc = write_over(l, r->writer);
    if (!rc)
        rc = multiply(l, O, l->y, l->xn, ROWS, false);
    if (!rc)
        rc = multiply_many(l, Q, 3, (float *const[]){l->q, l->k, l->v}, ROWS);
    if (!rc)
        rc = normalize(l, l->y, l->y, 2, ROWS);
    if (!rc)
        rc = normalize(l, l->q, l->q, 2, ROWS);
    if (!rc)
        rc = append(l, l->y, n, out);
    return rc ? rc : append(l, l->q, n, out);
}

static int written(struct selftest *t, struct chain_run *r, const char *name, struct err *e)
{
    int rc = 0;
    for (r->maker = 0; !rc && r->maker < MAKERS; r->maker++)
        for (r->writer = 0; !rc && r->writer < (r->maker == NORM ? WRITERS : PRODUCT); r->writer++) {
            selftest_case(t, "%s, %s%s", name, maker_names[r->maker], writer_names[r->writer]);
            rc = selftest_both(t, run_written, r, 1, NULL, e);
        }
    return rc;
}

static int chain(struct selftest *t, enum problem_kind kind, const struct chain_shape *s, uint64_t *seed, struct err *e)
{
    struct chain c = chain_new(kind, s, seed);
    struct layer tested = {NULL}, ref = {NULL};
    struct chain_run r = {.tested = &tested, .ref = &ref};
    char name[64];
    snprintf(name, sizeof name, "%s layer of %d and %d%s", problem_kind_names[kind], c.hidden, s->inner, c.m[0].quantized && s->order ? " act-order" : "");
    snprintf(t->what, sizeof t->what, "%s", name);
    int rc = layer_open(&tested, &c, t->b, e);
    if (!rc && t->ref)
        rc = layer_open(&ref, &c, t->ref, e);
    if (!rc)
        rc = layer(t, &r, name, e);
    if (!rc)
        rc = written(t, &r, name, e);
    layer_close(&tested);
    layer_close(&ref);
    chain_free(&c);
    return rc;
}

/* The first and the last are joined by the classes that join at all. With what the other groups multiply these are seven numbers of inputs: the plug-in leaves halves for the first
 * eight that its matrices have (cuda_state.h, halves_k). */
int selftest_chain(struct selftest *t, const char *name, const enum problem_kind *kinds, int count, struct err *e)
{
    static const struct chain_shape shapes[] = {{4, 2, 64, 384, 128, false, true}, {2, 1, 86, 300, 32, false, false}, {2, 2, 64, 256, 64, true, false}};
    enum { SHAPES = sizeof shapes / sizeof *shapes };
    uint64_t seed = 12;
    int rc = 0;
    selftest_begin(t, name, BOUND_CHAIN);
    for (int k = 0; !rc && k < count; k++)
        for (int i = 0; !rc && i < SHAPES; i++)
            if (kinds[k] > KIND_BF16 || !shapes[i].order)
                rc = chain(t, kinds[k], &shapes[i], &seed, e);
    return selftest_end(t, rc, e);
}

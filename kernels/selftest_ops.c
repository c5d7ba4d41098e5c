/* Every op of inference but products. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/problem_sample.h"
#include "kernels/selftest.h"

/* Rows of K; offset: floats by which x is off 64 bytes. */
struct rows {
    int64_t M, K;
    int offset;
    float *x, *w; /* w: of silu and add as long as x */
};

static int run_rmsnorm(struct backend *b, const void *arg, struct selftest_result *out, struct err *e)
{
    const struct rows *c = arg;
    struct selftest_arrays a = {.b = b, .e = e};
    float *x = selftest_put(&a, c->x, (size_t)(c->M * c->K + c->offset)), *w = selftest_put(&a, c->w, (size_t)c->K);
    if (!a.rc)
        a.rc = b->ops->rmsnorm(b, x + c->offset, x + c->offset, w, c->M, c->K, 1e-6f, e);
    return selftest_take(&a, a.rc ? NULL : x + c->offset, (size_t)(c->M * c->K), out);
}

static int rmsnorm(struct selftest *t, struct err *e)
{
    static const struct rows shapes[] = {{.M = 1, .K = 1}, {.M = 70, .K = 16}, {.M = 37, .K = 80, .offset = 1}, {.M = 5, .K = 333}, {.M = 9, .K = 1024, .offset = 1},
                                         {.M = 2, .K = 4096}, {.M = 3, .K = 5001, .offset = 3}};
    uint64_t seed = 2;
    int rc = 0;
    selftest_begin(t, "rmsnorm", BOUND_RMSNORM);
    for (size_t i = 0; !rc && i < sizeof shapes / sizeof *shapes; i++) {
        struct rows c = shapes[i];
        c.x = rnd_floats((size_t)(c.M * c.K + c.offset), &seed);
        c.w = rnd_floats((size_t)c.K, &seed);
        selftest_case(t, "%dx%d", (int)c.M, (int)c.K);
        rc = selftest_both(t, run_rmsnorm, &c, 1e-3, NULL, e);
        free(c.x);
        free(c.w);
    }
    return selftest_end(t, rc, e);
}

struct rope {
    int64_t M;
    int heads, kv_heads, D;
    float *x, *cos, *sin; /* x: queries, then keys */
    int32_t *pos;
};
enum { POSITIONS = 500 };

static int run_rope(struct backend *b, const void *arg, struct selftest_result *out, struct err *e)
{
    const struct rope *c = arg;
    struct selftest_arrays a = {.b = b, .e = e};
    size_t n = (size_t)(c->M * (c->heads + c->kv_heads) * c->D), angles = (size_t)(POSITIONS * c->D / 2);
    float *x = selftest_put(&a, c->x, n), *cos = selftest_put(&a, c->cos, angles), *sin = selftest_put(&a, c->sin, angles);
    if (!a.rc)
        a.rc = b->ops->rope(b, &(struct rope_args){.q = x, .k = x + c->M * c->heads * c->D, .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->D, .M = c->M, .cos = cos,
                                                   .sin = sin, .pos = c->pos}, e);
    return selftest_take(&a, x, n, out);
}

static int rope(struct selftest *t, struct err *e)
{
    static const struct rope shapes[] = {{.M = 1, .heads = 1, .kv_heads = 1, .D = 2}, {.M = 300, .heads = 3, .kv_heads = 1, .D = 20}, {.M = 40, .heads = 5, .kv_heads = 2, .D = 128}};
    uint64_t seed = 3;
    int rc = 0;
    selftest_begin(t, "rope", 0);
    for (size_t i = 0; !rc && i < sizeof shapes / sizeof *shapes; i++) {
        int32_t pos[300];
        struct rope c = shapes[i];
        size_t angles = (size_t)(POSITIONS * c.D / 2);
        c.x = rnd_floats((size_t)(c.M * (c.heads + c.kv_heads) * c.D), &seed);
        c.cos = rnd_floats(angles, &seed);
        c.sin = rnd_floats(angles, &seed);
        for (int64_t m = 0; m < c.M; m++)
            pos[m] = (int32_t)(rnd(&seed) % POSITIONS);
        c.pos = pos;
        selftest_case(t, "%dx%d heads of %d", (int)c.M, c.heads, c.D);
        rc = selftest_both(t, run_rope, &c, 0, NULL, e);
        free(c.x);
        free(c.cos);
        free(c.sin);
    }
    return selftest_end(t, rc, e);
}

static int run_silu(struct backend *b, const void *arg, struct selftest_result *out, struct err *e)
{
    const struct rows *c = arg;
    struct selftest_arrays a = {.b = b, .e = e};
    size_t all = (size_t)(c->K + c->offset);
    float *gate = selftest_put(&a, c->x, all), *up = selftest_put(&a, c->w, all);
    if (!a.rc)
        a.rc = b->ops->silu_mul(b, up + c->offset, gate + c->offset, up + c->offset, 1, c->K, e);
    return selftest_take(&a, a.rc ? NULL : up + c->offset, (size_t)c->K, out);
}

static int run_add(struct backend *b, const void *arg, struct selftest_result *out, struct err *e)
{
    const struct rows *c = arg;
    struct selftest_arrays a = {.b = b, .e = e};
    size_t all = (size_t)(c->K + c->offset);
    float *x = selftest_put(&a, c->x, all), *y = selftest_put(&a, c->w, all);
    if (!a.rc)
        a.rc = b->ops->add(b, y + c->offset, x + c->offset, c->K, e);
    return selftest_take(&a, a.rc ? NULL : y + c->offset, (size_t)c->K, out);
}

static int elementwise(struct selftest *t, const char *name, double bound, selftest_run *run, struct err *e)
{
    static const struct rows shapes[] = {{.K = 4099}, {.K = 4099, .offset = 1}, {.K = 7}};
    uint64_t seed = 4;
    int rc = 0;
    selftest_begin(t, name, bound);
    for (size_t i = 0; !rc && i < sizeof shapes / sizeof *shapes; i++) {
        struct rows c = shapes[i];
        size_t all = (size_t)(c.K + c.offset);
        c.x = rnd_floats(all, &seed);
        c.w = rnd_floats(all, &seed);
        for (size_t k = 0; k < all; k++)
            c.x[k] *= k % 7 ? 8.0f : 120.0f; /* far out too: exp under- and overflows */
        selftest_case(t, "%d values%s", (int)c.K, c.offset ? ", not aligned" : "");
        rc = selftest_both(t, run, &c, 1, NULL, e);
        free(c.x);
        free(c.w);
    }
    return selftest_end(t, rc, e);
}

struct lookup {
    struct tensor_view table;
    int32_t ids[70];
};

static int run_embed(struct backend *b, const void *arg, struct selftest_result *out, struct err *e)
{
    const struct lookup *c = arg;
    enum { M = sizeof c->ids / sizeof *c->ids };
    struct selftest_arrays a = {.b = b, .e = e};
    size_t n = (size_t)(M * c->table.cols);
    float *none = calloc(n, sizeof *none);
    if (!none)
        BUG("no memory for %zu values", n);
    float *y = selftest_put(&a, none, n);
    free(none);
    if (!a.rc) /* twice: the second lands in the staging memory of the first */
        a.rc = b->ops->embed(b, y, &c->table, c->ids + 1, M - 1, e);
    if (!a.rc)
        a.rc = b->ops->embed(b, y, &c->table, c->ids, M, e);
    return selftest_take(&a, y, n, out);
}

static int embed(struct selftest *t, struct err *e)
{
    enum { V = 50, K = 77 };
    static const enum dtype types[] = {DT_F32, DT_F16, DT_BF16};
    uint64_t seed = 5;
    uint32_t table[V * K];
    int rc = 0;
    selftest_begin(t, "embed", 0);
    for (int i = 0; !rc && i < 3; i++) {
        struct lookup c = {.table = {.dtype = types[i], .rows = V, .cols = K, .data = table}};
        for (int k = 0; k < V * K; k++)
            table[k] = types[i] == DT_F32 ? f32_bits(rnd_f32(&seed)) : (uint32_t)f32_to_f16(rnd_f32(&seed)) << 16 | f32_to_f16(rnd_f32(&seed));
        for (size_t k = 0; k < sizeof c.ids / sizeof *c.ids; k++)
            c.ids[k] = (int32_t)(rnd(&seed) % V);
        selftest_case(t, "rows of %s", dtype_name(types[i]));
        rc = selftest_both(t, run_embed, &c, 0, NULL, e);
    }
    return selftest_end(t, rc, e);
}

/* Attention */

enum { SEQUENCES = 3 };
struct sequences {
    const struct problem_heads *heads;
    enum problem_cuts cuts;
    struct problem_sequence of[SEQUENCES];
};

static int run_attention(struct backend *b, const void *arg, struct selftest_result *out, struct err *e)
{
    const struct sequences *c = arg;
    float *y[SEQUENCES];
    int rc = problem_attend(b, c->heads, c->of, SEQUENCES, c->cuts, y, e);
    for (int i = 0; i < SEQUENCES; i++) {
        if (!rc)
            selftest_append_f32(out, y[i], (size_t)(c->of[i].length * c->heads->heads * c->heads->D));
        free(y[i]);
    }
    return rc;
}

/* However the sequences are cut, the same bits. */
static int all_cuts(struct selftest *t, struct sequences *c, struct err *e)
{
    static const char *const names[] = {[CUT_WHOLE] = "prefill", [CUT_MIXED] = "prefill and decode in mixed steps", [CUT_SMALL] = "prefill in chunks"};
    struct selftest_result whole = {NULL, 0}, cut = {NULL, 0};
    int rc = 0;
    for (int cuts = CUT_WHOLE; !rc && cuts <= CUT_SMALL; cuts++) {
        const struct problem_heads *h = c->heads;
        c->cuts = (enum problem_cuts)cuts;
        selftest_case(t, "%d/%d heads of %d, window %d, %d positions, %s", h->heads, h->kv_heads, h->D, (int)h->window, (int)c->of[0].length, names[cuts]);
        rc = selftest_both(t, run_attention, c, 0, cuts == CUT_WHOLE ? &whole : &cut, e);
        if (!rc && cuts != CUT_WHOLE)
            selftest_same(t, &cut, &whole, "when each sequence is prefilled at once");
        free(cut.values);
        cut = (struct selftest_result){NULL, 0};
    }
    free(whole.values);
    return rc;
}

static int attention(struct selftest *t, struct err *e)
{
    static const struct {
        struct problem_heads heads;
        int64_t lengths[SEQUENCES];
    } shapes[] = {{{8, 4, 16, 0}, {90, 65, 40}}, {{2, 1, 8, 100}, {600, 65, 10}}, {{4, 2, 64, 0}, {70, 9, 40}}, {{6, 2, 80, 30}, {66, 20, 33}}, {{2, 1, 128, 0}, {70, 1, 3}}};
    uint64_t seed = 6;
    int rc = 0;
    selftest_begin(t, "attention", BOUND_ATTENTION);
    for (size_t i = 0; !rc && i < sizeof shapes / sizeof *shapes; i++) {
        struct sequences c = {.heads = &shapes[i].heads};
        for (int k = 0; k < SEQUENCES; k++)
            c.of[k] = problem_sequence(c.heads, shapes[i].lengths[k], &seed);
        rc = all_cuts(t, &c, e);
        for (int k = 0; k < SEQUENCES; k++)
            problem_sequence_free(&c.of[k]);
    }
    return selftest_end(t, rc, e);
}

/* nll and kl */

enum { LOGIT_ROWS = 6, SAMPLE_ROWS = 77 }; /* more rows to choose for than a launch takes */
struct logits {
    int64_t V;
    float *a, *b;
    int32_t targets[LOGIT_ROWS];
};

static int run_logits(struct backend *b, const void *arg, struct selftest_result *out, struct err *e)
{
    const struct logits *c = arg;
    struct selftest_arrays a = {.b = b, .e = e};
    double nll[LOGIT_ROWS];
    int32_t top[LOGIT_ROWS];
    struct kl_row kl[LOGIT_ROWS];
    size_t n = (size_t)(LOGIT_ROWS * c->V);
    float *x = selftest_put(&a, c->a, n), *y = selftest_put(&a, c->b, n);
    if (!a.rc)
        a.rc = b->ops->nll(b, x, LOGIT_ROWS, c->V, c->targets, nll, top, e);
    if (!a.rc)
        a.rc = b->ops->kl(b, x, y, LOGIT_ROWS, c->V, c->targets, kl, e);
    for (int m = 0; !a.rc && m < LOGIT_ROWS; m++) {
        const double figures[] = {nll[m], top[m], kl[m].nll_ref, kl[m].nll, kl[m].kl, kl[m].same_top1};
        selftest_append(out, figures, sizeof figures / sizeof *figures);
    }
    return selftest_take(&a, x, 0, out);
}

static int logits(struct selftest *t, struct err *e)
{
    static const int64_t sizes[] = {17, 1024, 5003};
    uint64_t seed = 7;
    int rc = 0;
    selftest_begin(t, "logits", BOUND_LOGITS);
    for (size_t i = 0; !rc && i < sizeof sizes / sizeof *sizes; i++) {
        struct logits c = {.V = sizes[i]};
        size_t n = (size_t)(LOGIT_ROWS * c.V);
        c.a = rnd_floats(n, &seed);
        c.b = rnd_floats(n, &seed);
        for (size_t k = 0; k < n; k++) {
            c.a[k] = floorf(c.a[k] * 40) * 0.5f; /* ties */
            c.b[k] = c.a[k] + 0.3f * c.b[k];
        }
        for (int m = 0; m < LOGIT_ROWS; m++)
            c.targets[m] = (int32_t)(rnd(&seed) % (uint64_t)c.V);
        selftest_case(t, "vocabulary of %d", (int)c.V);
        rc = selftest_both(t, run_logits, &c, 0, NULL, e);
        free(c.a);
        free(c.b);
    }
    return selftest_end(t, rc, e);
}

/* The next token */

struct choices {
    int64_t V, M;
    const float *logits;           /* [M,V] */
    const struct sample_row *rows; /* [M] */
    const bool *asked;             /* [M]: of the others the id does not matter; NULL: all */
};

static int run_sample(struct backend *b, const void *arg, struct selftest_result *out, struct err *e)
{
    const struct choices *c = arg;
    struct selftest_arrays a = {.b = b, .e = e};
    int32_t ids[SAMPLE_ROWS];
    float *logits = selftest_put(&a, c->logits, (size_t)(c->M * c->V));
    if (!a.rc)
        a.rc = b->ops->sample(b, logits, c->M, c->V, c->rows, ids, e);
    for (int64_t m = 0; !a.rc && m < c->M; m++)
        selftest_append(out, &(double){!c->asked || c->asked[m] ? ids[m] : -1}, 1);
    return selftest_take(&a, logits, 0, out);
}

/* Each row by itself, the last first: ids in the order of rows. */
static int alone(struct backend *b, const struct choices *c, struct selftest_result *out, struct err *e)
{
    double ids[SAMPLE_ROWS];
    int rc = 0;
    for (int64_t m = c->M - 1; !rc && m >= 0; m--) {
        struct selftest_result id = {NULL, 0};
        rc = run_sample(b, &(struct choices){.V = c->V, .M = 1, .logits = c->logits + m * c->V, .rows = &c->rows[m]}, &id, e);
        if (!rc)
            ids[m] = id.values[0];
        free(id.values);
    }
    if (!rc)
        selftest_append(out, ids, (size_t)c->M);
    return rc;
}

/* All at once with the row that was last in front. */
static int turned(struct backend *b, const struct choices *c, struct selftest_result *out, struct err *e)
{
    const size_t last = (size_t)c->M - 1, V = (size_t)c->V;
    struct sample_row rows[SAMPLE_ROWS];
    struct selftest_result ids = {NULL, 0};
    float *logits = malloc((last + 1) * V * sizeof *logits);
    if (!logits)
        BUG("no memory for %d rows of logits", (int)c->M);
    memcpy(logits, c->logits + last * V, V * sizeof *logits);
    memcpy(logits + V, c->logits, last * V * sizeof *logits);
    rows[0] = c->rows[last];
    memcpy(rows + 1, c->rows, last * sizeof *rows);
    int rc = run_sample(b, &(struct choices){.V = c->V, .M = c->M, .logits = logits, .rows = rows}, &ids, e);
    if (!rc) {
        selftest_append(out, ids.values + 1, last);
        selftest_append(out, ids.values, 1);
    }
    free(ids.values);
    free(logits);
    return rc;
}

/* asked: whether a row's answer hangs on no rounding, as *sure of them do; but u of every fourth row is put where it decides. */
static void settle(const float *logits, int64_t V, struct sample_row *rows, int64_t M, uint64_t *seed, bool *asked, int *sure)
{
    *sure = 0;
    for (int64_t m = 0; m < M; m++) {
        struct problem_answer a = problem_answer(logits + m * V, V, &rows[m]);
        if (m % 4 == 1 && a.taken > 1) {
            problem_between(&rows[m], &a, seed);
            free(a.masses);
            a = problem_answer(logits + m * V, V, &rows[m]);
        }
        *sure += asked[m] = a.sure;
        free(a.masses);
    }
}

/* A GPU rounds otherwise than the CPU: where that may decide, it is not asked what the CPU says. asked, sure: see settle. */
static int choose(struct selftest *t, struct choices *c, const bool *asked, int sure, struct err *e)
{
    struct selftest_result all = {NULL, 0}, one = {NULL, 0}, other = {NULL, 0};
    c->asked = t->ref && !t->exact ? asked : NULL;
    selftest_case(t, "%d rows of %d logits, %d of them sure", (int)c->M, (int)c->V, sure);
    int rc = selftest_both(t, run_sample, c, 0, NULL, e);
    c->asked = NULL;
    if (!rc)
        selftest_case(t, "%d rows of %d logits, alone and in other places", (int)c->M, (int)c->V);
    if (!rc)
        rc = run_sample(t->b, c, &all, e);
    if (!rc)
        rc = alone(t->b, c, &one, e);
    if (!rc)
        rc = turned(t->b, c, &other, e);
    if (!rc) {
        selftest_same(t, &all, &one, "alone");
        selftest_same(t, &all, &other, "in the next place");
    }
    free(all.values);
    free(one.values);
    free(other.values);
    return rc;
}

static int sample(struct selftest *t, struct err *e)
{
    static const struct {
        int64_t V, M;
    } shapes[] = {{1, 3}, {37, SAMPLE_ROWS}, {1025, 22}, {5003, 11}, {128256, 2}};
    uint64_t seed = 11;
    int rc = 0;
    selftest_begin(t, "sample", 0);
    for (size_t i = 0; !rc && i < sizeof shapes / sizeof *shapes; i++) {
        struct sample_row rows[SAMPLE_ROWS];
        bool asked[SAMPLE_ROWS];
        int sure;
        const int64_t V = shapes[i].V, M = shapes[i].M;
        float *logits = malloc((size_t)(M * V) * sizeof *logits);
        if (!logits)
            BUG("no memory for %d rows of %d logits", (int)M, (int)V);
        problem_choices(logits, rows, M, V, &seed);
        settle(logits, V, rows, M, &seed, asked, &sure);
        rc = choose(t, &(struct choices){.V = V, .M = M, .logits = logits, .rows = rows}, asked, sure, e);
        free(logits);
    }
    return selftest_end(t, rc, e);
}

int selftest_ops(struct selftest *t, struct err *e)
{
    int rc = rmsnorm(t, e);
    if (!rc)
        rc = rope(t, e);
    if (!rc)
        rc = elementwise(t, "silu", BOUND_SILU, run_silu, e);
    if (!rc)
        rc = elementwise(t, "add", 0, run_add, e);
    if (!rc)
        rc = embed(t, e);
    if (!rc)
        rc = attention(t, e);
    if (!rc)
        rc = logits(t, e);
    return rc ? rc : sample(t, e);
}

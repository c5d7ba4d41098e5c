/* selftest finds what is wrong and says which case: a row that is right passes, and each op of a backend broken by itself fails its own group with the two values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/problem_sample.h"
#include "kernels/selftest.h"
#include "pipeline/base/pool.h"

/* A CPU backend with one op that errs. */
static struct broken {
    struct backend *real;
    double by;       /* a value of the result is off by so much of itself */
    int64_t only_M;  /* linear: for so many tokens alone; 0: always */
    bool flickers;   /* every second call alone */
    int calls, fails_at;
    bool joined;     /* weight_join has been called */
} broken;

static bool errs(void)
{
    return broken.calls++ % 2 == 1 || !broken.flickers;
}

static void spoil(float *y, int64_t at)
{
    float x = y[at] * (float)(1 + broken.by);
    y[at] = x == y[at] ? nextafterf(y[at], INFINITY) : x;
}

static int bad_linear(struct backend *b, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const struct weight *w, const float *bias, bool accumulate, struct err *e)
{
    (void)b;
    if (broken.fails_at && ++broken.calls == broken.fails_at)
        return err_set(e, ERR_DEVICE, "an illegal address");
    int rc = broken.real->ops->linear(broken.real, y, ldy, x, ldx, M, w, bias, accumulate, e);
    if (!broken.fails_at && (!broken.only_M || M == broken.only_M) && errs())
        spoil(y, 3);
    return rc;
}

static int bad_gap(struct backend *b, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const struct weight *w, const float *bias, bool accumulate, struct err *e)
{
    (void)b;
    int rc = broken.real->ops->linear(broken.real, y, ldy, x, ldx, M, w, bias, accumulate, e);
    if (ldy == 201) /* the problem that has 200 outputs and a gap after them */
        y[ldy - 1] = 0;
    return rc;
}

static int bad_rmsnorm(struct backend *b, float *y, const float *x, const float *w, int64_t M, int64_t K, float eps, struct err *e)
{
    (void)b;
    int rc = broken.real->ops->rmsnorm(broken.real, y, x, w, M, K, eps, e);
    if (errs())
        spoil(y, M * K - 1);
    return rc;
}

static int bad_rope(struct backend *b, const struct rope_args *a, struct err *e)
{
    (void)b;
    int rc = broken.real->ops->rope(broken.real, a, e);
    spoil(a->q, 0);
    return rc;
}

static int bad_silu(struct backend *b, float *y, const float *gate, const float *up, int64_t M, int64_t K, struct err *e)
{
    (void)b;
    int rc = broken.real->ops->silu_mul(broken.real, y, gate, up, M, K, e);
    y[M * K - 1] = NAN;
    return rc;
}

static int bad_add(struct backend *b, float *y, const float *x, int64_t n, struct err *e)
{
    (void)b;
    return broken.real->ops->add(broken.real, y, x, n - 1, e);
}

static int bad_embed(struct backend *b, float *y, const struct tensor_view *table, const int32_t *ids, int64_t M, struct err *e)
{
    (void)b;
    return broken.real->ops->embed(broken.real, y, table, ids, M - 1, e);
}

/* Right in prefill, wrong in steps. */
static int bad_attention(struct backend *b, const struct attn_args *a, struct err *e)
{
    (void)b;
    int rc = broken.real->ops->attention(broken.real, a, e);
    if (a->segments[0].pos > 0)
        spoil(a->y, 1);
    return rc;
}

static int bad_nll(struct backend *b, const float *logits, int64_t M, int64_t V, const int32_t *targets, double *nll, int32_t *top1, struct err *e)
{
    (void)b;
    int rc = broken.real->ops->nll(broken.real, logits, M, V, targets, nll, top1, e);
    top1[M - 1] ^= 1;
    return rc;
}

static int bad_kl(struct backend *b, const float *ref, const float *logits, int64_t M, int64_t V, const int32_t *targets, struct kl_row *out, struct err *e)
{
    (void)b;
    int rc = broken.real->ops->kl(broken.real, ref, logits, M, V, targets, out, e);
    out[2].kl += 2e-6;
    return rc;
}

static int bad_hessian(struct backend *b, double *h, const float *x, int64_t ldx, int64_t M, int64_t K, int64_t row0, struct err *e)
{
    (void)b;
    int rc = broken.real->ops->hessian(broken.real, h, x, ldx, M, K, row0, e);
    h[1] = nextafter(h[1], INFINITY);
    return rc;
}

static int bad_gptq(struct backend *b, const struct gptq_args *a, struct err *e)
{
    (void)b;
    int rc = broken.real->ops->gptq(broken.real, a, e);
    a->loss[0] = nextafter(a->loss[0], INFINITY);
    return rc;
}

static int bad_refine(struct backend *b, struct refine_args *a, struct err *e)
{
    (void)b;
    int rc = broken.real->ops->refine(broken.real, a, e);
    a->codes[5] ^= 1;
    return rc;
}

static int bad_silu_back(struct backend *b, float *gate, float *up, int64_t n, struct err *e)
{
    (void)b;
    int rc = broken.real->ops->silu_back(broken.real, gate, up, n, e);
    spoil(up, 0);
    return rc;
}

/* The last row of each call; of a call for one row where only_M says so. */
static int bad_sample(struct backend *b, const float *logits, int64_t M, int64_t V, const struct sample_row *rows, int32_t *ids, struct err *e)
{
    (void)b;
    int rc = broken.real->ops->sample(broken.real, logits, M, V, rows, ids, e);
    if ((!broken.only_M || M == broken.only_M) && errs())
        ids[M - 1] ^= 1;
    return rc;
}

/* Of many rows the first, when it is not the one that was first before. */
static int bad_place(struct backend *b, const float *logits, int64_t M, int64_t V, const struct sample_row *rows, int32_t *ids, struct err *e)
{
    static int64_t seen_V;
    static float first;
    (void)b;
    int rc = broken.real->ops->sample(broken.real, logits, M, V, rows, ids, e);
    if (M > 1 && V != seen_V) {
        seen_V = V;
        first = logits[0];
    }
    ids[0] ^= M > 1 && logits[0] != first;
    return rc;
}

/* Where rounding may decide. */
static int bad_unsure(struct backend *b, const float *logits, int64_t M, int64_t V, const struct sample_row *rows, int32_t *ids, struct err *e)
{
    (void)b;
    int rc = broken.real->ops->sample(broken.real, logits, M, V, rows, ids, e);
    for (int64_t m = 0; m < M; m++) {
        struct problem_answer a = problem_answer(logits + m * V, V, &rows[m]);
        ids[m] ^= !a.sure;
        free(a.masses);
    }
    return rc;
}

static int note_join(struct backend *b, struct weight *const *w, int n, struct err *e)
{
    (void)b;
    broken.joined = true;
    return broken.real->ops->weight_join(broken.real, w, n, e);
}

/* The second product, once they are joined. */
static int bad_many(struct backend *b, const struct linear_part *parts, int n, const float *x, int64_t ldx, int64_t M, struct err *e)
{
    (void)b;
    int rc = broken.real->ops->linear_many(broken.real, parts, n, x, ldx, M, e);
    if (broken.joined && (!broken.only_M || M == broken.only_M))
        spoil(parts[1].y, 5);
    return rc;
}

/* The second writes one number too many. */
static int bad_many_gap(struct backend *b, const struct linear_part *parts, int n, const float *x, int64_t ldx, int64_t M, struct err *e)
{
    (void)b;
    int rc = broken.real->ops->linear_many(broken.real, parts, n, x, ldx, M, e);
    if (parts[1].ldy == 257)
        parts[1].y[256] = 0;
    return rc;
}

/* One product by itself, once it is joined with others. */
static int bad_part(struct backend *b, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const struct weight *w, const float *bias, bool accumulate, struct err *e)
{
    (void)b;
    int rc = broken.real->ops->linear(broken.real, y, ldy, x, ldx, M, w, bias, accumulate, e);
    if (broken.joined)
        spoil(y, 3);
    return rc;
}

/* A CPU backend whose rmsnorm, silu_mul and attention leave a copy of their result that products of it read, as a GPU's halves are; one op does not say that it has written over
 * the result. */
static struct leaving {
    const float *of; /* NULL: the copy is of nothing */
    int64_t n;
    float copy[8192];
    const char *deaf; /* that op; "" */
    const char *only; /* the op that alone leaves a copy; "": all three */
} left;

static const struct backend_ops *real_ops(void)
{
    return broken.real->ops;
}

static void written(const char *op)
{
    if (strcmp(op, left.deaf) != 0)
        left.of = NULL;
}

/* The copy's room is taken in any case. */
static void leave(const char *op, const float *y, int64_t n)
{
    written(op);
    if (left.only[0] && strcmp(op, left.only) != 0)
        return;
    assert_true(n <= (int64_t)(sizeof left.copy / sizeof *left.copy));
    memcpy(left.copy, y, (size_t)n * sizeof *y);
    if (!strcmp(op, left.deaf) && left.of)
        return;
    left.of = y;
    left.n = n;
}

static const float *left_of(const float *x, int64_t n)
{
    return x == left.of && n == left.n ? left.copy : x;
}

static int l_rmsnorm(struct backend *b, float *y, const float *x, const float *w, int64_t M, int64_t K, float eps, struct err *e)
{
    (void)b;
    int rc = real_ops()->rmsnorm(broken.real, y, x, w, M, K, eps, e);
    leave("rmsnorm", y, M * K);
    return rc;
}

static int l_silu(struct backend *b, float *y, const float *gate, const float *up, int64_t M, int64_t K, struct err *e)
{
    (void)b;
    int rc = real_ops()->silu_mul(broken.real, y, gate, up, M, K, e);
    leave("silu_mul", y, M * K);
    return rc;
}

static int l_attention(struct backend *b, const struct attn_args *a, struct err *e)
{
    int64_t rows = 0;
    (void)b;
    int rc = real_ops()->attention(broken.real, a, e);
    for (size_t i = 0; i < a->segment_count; i++)
        rows += a->segments[i].rows;
    if (a->segments[0].row == 0)
        leave("attention", a->y, rows * a->heads * a->head_dim);
    else
        written("attention");
    return rc;
}

static int l_add(struct backend *b, float *y, const float *x, int64_t n, struct err *e)
{
    (void)b;
    written("add");
    return real_ops()->add(broken.real, y, x, n, e);
}

static int l_upload(struct backend *b, void *to, const void *from, size_t bytes, struct err *e)
{
    (void)b;
    written("upload");
    return real_ops()->upload(broken.real, to, from, bytes, e);
}

static int l_rope(struct backend *b, const struct rope_args *a, struct err *e)
{
    (void)b;
    written("rope");
    return real_ops()->rope(broken.real, a, e);
}

static int l_linear(struct backend *b, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const struct weight *w, const float *bias, bool accumulate, struct err *e)
{
    (void)b;
    int rc = real_ops()->linear(broken.real, y, ldy, left_of(x, M * ldx), ldx, M, w, bias, accumulate, e);
    if (y == left.of)
        written("linear");
    return rc;
}

static int l_many(struct backend *b, const struct linear_part *parts, int n, const float *x, int64_t ldx, int64_t M, struct err *e)
{
    (void)b;
    return real_ops()->linear_many(broken.real, parts, n, left_of(x, M * ldx), ldx, M, e);
}

/* What was told. */
static struct told {
    int groups, failed, cases;
    struct selftest_group first; /* that failed */
    char last[400];
} seen;

static void at(void *arg, const char *group, const char *what)
{
    (void)arg;
    seen.cases++;
    snprintf(seen.last, sizeof seen.last, "%s: %s", group, what);
}

static void done(void *arg, const struct selftest_group *g)
{
    (void)arg;
    seen.groups++;
    assert_true(g->passed == !g->what[0]);
    if (!g->passed && !seen.failed++)
        seen.first = *g;
}

static const enum problem_kind kinds[] = {KIND_F32, KIND_W4};
enum { PRODUCTS = 1, OPS = 2, QUANT = 4, JOINED = 8, CHAIN = 16 };

static int test(struct selftest *t, int parts, struct err *e)
{
    t->at = at;
    t->done = done;
    seen = (struct told){.groups = 0};
    broken.calls = 0;
    broken.joined = false;
    left.of = NULL;
    int rc = parts & PRODUCTS ? selftest_products(t, "marlin", kinds, 2, e) : 0;
    if (!rc && parts & JOINED)
        rc = selftest_joined(t, "marlin-joined", kinds, 2, e);
    if (!rc && parts & CHAIN)
        rc = selftest_chain(t, "marlin-chain", kinds + 1, 1, e);
    if (!rc && parts & OPS)
        rc = selftest_ops(t, e);
    return rc || !(parts & QUANT) ? rc : selftest_quant(t, e);
}

static struct backend *cpu(enum isa isa)
{
    struct parallel par = {.run = pool_run, .threads = 1};
    struct backend *b;
    assert_int_equal(cpu_backend_create(isa, &par, &b, NULL), 0);
    return b;
}

/* Every row as it is: the scalar one has the class's bits, the others its. */
static void rows_pass(void **state)
{
    struct backend *scalar = cpu(ISA_SCALAR);
    static const enum problem_kind all[] = {KIND_F32, KIND_F16, KIND_BF16, KIND_W2, KIND_W3, KIND_W4, KIND_W8};
    struct err e;
    (void)state;
    for (enum isa isa = ISA_SCALAR; isa <= isa_best(); isa++) {
        struct backend *b = cpu(isa);
        for (int exact = 0; exact < 2; exact++) { /* and as a GPU is tested: within bounds */
            struct selftest t = {.b = b, .ref = isa == ISA_SCALAR && exact ? NULL : scalar, .exact = exact && isa != ISA_SCALAR};
            assert_int_equal(test(&t, OPS | QUANT, &e), 0);
            assert_int_equal(selftest_products(&t, "products", all, 7, &e), 0);
            assert_int_equal(selftest_joined(&t, "joined", all, 7, &e), 0);
            assert_int_equal(selftest_chain(&t, "chain", all, 7, &e), 0);
            if (seen.failed)
                fail_msg("%s: %s: %s", isa_name(isa), seen.first.name, seen.first.what);
            assert_int_equal(seen.groups, 12);
        }
        b->destroy(b);
    }
    scalar->destroy(scalar);
}

/* ref NULL: only the digests of class cpu and f64 know better. */
static void break_one(const struct backend_ops *ops, int parts, bool exact, bool alone, const char *group, const char *what)
{
    struct backend *right = cpu(ISA_AUTO), b = *broken.real;
    struct selftest t = {.b = &b, .ref = alone ? NULL : right, .exact = exact};
    struct err e;
    b.ops = ops;
    assert_int_equal(test(&t, parts, &e), 0);
    assert_int_equal(seen.failed, 1);
    assert_string_equal(seen.first.name, group);
    if (!strstr(seen.first.what, what))
        fail_msg("%s: '%s' is not in '%s'", group, what, seen.first.what);
    right->destroy(right);
}

#define BREAK(op, with, parts, exact, alone, group, what)                                                                                              \
    do {                                                                                                                                               \
        struct backend_ops ops = *broken.real->ops;                                                                                                    \
        ops.op = with;                                                                                                                                 \
        break_one(&ops, parts, exact, alone, group, what);                                                                                             \
    } while (0)

static void broken_ops_fail(void **state)
{
    (void)state;
    broken = (struct broken){.real = cpu(ISA_AUTO)};
    for (int exact = 0; exact < 2; exact++) {
        broken.by = exact ? 0 : 1e-2;
        BREAK(rmsnorm, bad_rmsnorm, OPS, exact, false, "rmsnorm", "1x1: value 0 is ");
        BREAK(rope, bad_rope, OPS, exact, false, "rope", "1x1 heads of 2: value 0 is ");
        BREAK(silu_mul, bad_silu, OPS, exact, false, "silu", "4099 values: value 4098 is ");
        BREAK(add, bad_add, OPS, exact, false, "add", "4099 values: value 4098 is ");
        BREAK(embed, bad_embed, OPS, exact, false, "embed", "rows of F32: value 5313 is 0, the reference gives ");
        BREAK(attention, bad_attention, OPS, exact, false, "attention", "prefill and decode in mixed steps: value ");
        BREAK(nll, bad_nll, OPS, exact, false, "logits", "vocabulary of 17: value 31 is ");
        BREAK(kl, bad_kl, OPS, exact, false, "logits", "vocabulary of 17: value 16 is ");
        BREAK(linear, bad_linear, PRODUCTS, exact, false, "marlin", exact ? "f32 200x300, 33 tokens: token 0, output 3 is " : "f32 200x300, 130 tokens: token 0, output 3 is ");
        BREAK(linear, bad_gap, PRODUCTS, exact, false, "marlin", exact ? "w4 200x300 group 32, 33 tokens: token 0, output 200 is 0, the reference gives " : "w4 200x300 group 32, 130 tokens: token 0, output 200 is 0, exact is ");
        broken.flickers = true;
        BREAK(rmsnorm, bad_rmsnorm, OPS, exact, false, "rmsnorm", " when run again");
        BREAK(linear, bad_linear, PRODUCTS, exact, false, "marlin", " tokens");
        broken.flickers = false;
        broken.only_M = 7;
        BREAK(linear, bad_linear, PRODUCTS, exact, false, "marlin", exact ? ", 7 tokens: token 0, output 3 is " : "f32 200x300, 7 tokens: token 0, output 3 is ");
        BREAK(linear_many, bad_many_gap, JOINED, exact, false, "marlin-joined", "f32 128+256+70x300, before they are joined: token 0, output 256 of the second is 0, and ");
        broken.only_M = 1;
        BREAK(sample, bad_sample, OPS, exact, false, "sample", "3 rows of 1 logits, alone and in other places: value 0 is 0, and 1 alone");
        broken.only_M = 0;
        BREAK(sample, bad_sample, OPS, exact, false, "sample", "3 rows of 1 logits, 3 of them sure: value 2 is 1, the reference gives 0");
        BREAK(attention, bad_attention, CHAIN, exact, false, "marlin-chain", "w4 layer of 256 and 384, prefill and decode: value ");
    }
    broken.by = 1e-2;
    BREAK(sample, bad_place, OPS, false, false, "sample", "3 rows of 1 logits, alone and in other places: value 2 is 0, and 1 in the next place");
    BREAK(hessian, bad_hessian, QUANT, true, false, "calibrate", "sums over 517 tokens: value 1 is ");
    BREAK(silu_back, bad_silu_back, QUANT, true, false, "calibrate", "gradients of 70 tokens: value ");
    BREAK(gptq, bad_gptq, QUANT, true, false, "calibrate", "w4 24x100 with scales searched by loss: value ");
    BREAK(refine, bad_refine, QUANT, true, false, "calibrate", "w4 24x100 with scales searched by loss: value 5 is ");
    broken.real->destroy(broken.real);
}

/* Two ops at once: what is wrong is wrong of joined matrices alone. */
static void broken_joined(void **state)
{
    static const struct {
        bool part;
        int64_t only_M;
        const char *what;
    } cases[] = {{true, 0, "f32 256+128+128x172, one by one when they are joined: token 0, output 3 of the first is "},
                 {false, 0, "f32 256+128+128x172, 33 tokens: token 0, output 5 of the second is "},
                 {false, 7, "f32 256+128+128x172, 7 tokens: token 0, output 5 of the second is "}};
    (void)state;
    for (int exact = 0; exact < 2; exact++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            broken = (struct broken){.real = cpu(ISA_AUTO), .by = exact ? 0 : 1e-2, .only_M = cases[i].only_M};
            struct backend_ops ops = *broken.real->ops;
            ops.weight_join = note_join;
            if (cases[i].part)
                ops.linear = bad_part;
            else
                ops.linear_many = bad_many;
            break_one(&ops, JOINED, exact, false, "marlin-joined", cases[i].what);
            broken.real->destroy(broken.real);
        }
}

/* What is left beside a result may be used, and not after the result has been written over. */
static void stale_copies(void **state)
{
    static const char *const deaf[][3] = {{"add", "", "rmsnorm, then add: value "},
                                          {"upload", "", "rmsnorm, then an upload: value "},
                                          {"rope", "", "rmsnorm, then rope: value "},
                                          {"linear", "", "rmsnorm, then another product: value "},
                                          {"rmsnorm", "", "rmsnorm, then rmsnorm to another place: value "},
                                          {"attention", "", "rmsnorm, then attention for one row: value "},
                                          {"add", "silu_mul", "silu_mul, then add: value "},
                                          {"upload", "attention", "attention, then an upload: value "}};
    struct backend *right = cpu(ISA_AUTO);
    struct err e;
    (void)state;
    broken = (struct broken){.real = cpu(ISA_AUTO)};
    struct backend b = *broken.real;
    struct backend_ops ops = *b.ops;
    ops.rmsnorm = l_rmsnorm, ops.silu_mul = l_silu, ops.attention = l_attention, ops.add = l_add;
    ops.upload = l_upload, ops.rope = l_rope, ops.linear = l_linear, ops.linear_many = l_many;
    b.ops = &ops;
    left.deaf = left.only = "";
    struct selftest t = {.b = &b, .ref = right, .exact = true};
    assert_int_equal(test(&t, CHAIN, &e), 0);
    assert_int_equal(seen.failed, 0);
    for (size_t i = 0; i < sizeof deaf / sizeof *deaf; i++) {
        left.deaf = deaf[i][0];
        left.only = deaf[i][1];
        for (int exact = 0; exact < 2; exact++)
            break_one(&ops, CHAIN, exact, false, "marlin-chain", deaf[i][2]);
    }
    broken.real->destroy(broken.real);
    right->destroy(right);
}

/* The smallest error of the scalar row is seen by the digest; a large one of a product by f64. */
static void scalar_row_is_held_to_the_class(void **state)
{
    (void)state;
    broken = (struct broken){.real = cpu(ISA_SCALAR)};
    BREAK(rmsnorm, bad_rmsnorm, OPS, false, true, "rmsnorm", "all cases: the digest of the results is 0x");
    BREAK(gptq, bad_gptq, QUANT, false, true, "calibrate", " in class cpu");
    broken.by = 0.1;
    BREAK(linear, bad_linear, PRODUCTS, false, true, "marlin", "f32 200x300, 33 tokens: token 0, output 3 is ");
    broken.real->destroy(broken.real);
}

/* An error within the bound is no failure of a GPU, and is one of a CPU row. */
static void bounds(void **state)
{
    struct backend *scalar = cpu(ISA_SCALAR), *real = cpu(ISA_AUTO), b = *real;
    struct backend_ops ops = *real->ops;
    struct err e;
    (void)state;
    broken = (struct broken){.real = real, .by = 1e-6};
    ops.rmsnorm = bad_rmsnorm;
    b.ops = &ops;
    struct selftest t = {.b = &b, .ref = scalar};
    assert_int_equal(test(&t, OPS, &e), 0);
    assert_int_equal(seen.failed, 0);
    t.exact = true;
    assert_int_equal(test(&t, OPS, &e), 0);
    assert_int_equal(seen.failed, 1);
    assert_string_equal(seen.first.name, "rmsnorm");
    ops.rmsnorm = real->ops->rmsnorm;
    ops.sample = bad_unsure;
    t.exact = false;
    assert_int_equal(test(&t, OPS, &e), 0);
    assert_int_equal(seen.failed, 0);
    t.exact = true;
    assert_int_equal(test(&t, OPS, &e), 0);
    assert_int_equal(seen.failed, 1);
    assert_string_equal(seen.first.name, "sample");
    real->destroy(real);
    scalar->destroy(scalar);
}

/* An op that fails ends the run, named in the group and in the error. */
static void failing_op(void **state)
{
    struct backend *scalar = cpu(ISA_SCALAR), *real = cpu(ISA_AUTO), b = *real;
    struct backend_ops ops = *real->ops;
    struct err e;
    (void)state;
    broken = (struct broken){.real = real, .fails_at = 8};
    ops.linear = bad_linear;
    b.ops = &ops;
    struct selftest t = {.b = &b, .ref = scalar};
    assert_int_equal(test(&t, PRODUCTS | OPS, &e), -ERR_DEVICE);
    assert_int_equal(seen.groups, 1);
    assert_string_equal(seen.first.name, "marlin");
    assert_string_equal(seen.first.what, "f32 72x2304, 130 tokens: an illegal address");
    assert_string_equal(seen.last, "marlin: f32 72x2304, 130 tokens");
    assert_int_equal(e.code, ERR_DEVICE);
    real->destroy(real);
    scalar->destroy(scalar);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_pass), cmocka_unit_test(broken_ops_fail), cmocka_unit_test(broken_joined), cmocka_unit_test(stale_copies), cmocka_unit_test(scalar_row_is_held_to_the_class), cmocka_unit_test(bounds), cmocka_unit_test(failing_op),
    };
    return cmocka_run_group_tests_name("selftest", tests, NULL, NULL);
}

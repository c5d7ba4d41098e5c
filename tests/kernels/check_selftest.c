/* selftest finds what is wrong and says which case: a row that is right passes, and each op of a backend broken by itself fails its own group with the two values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/selftest.h"
#include "pipeline/base/pool.h"

/* A CPU backend with one op that errs. */
static struct broken {
    struct backend *real;
    double by;       /* a value of the result is off by so much of itself */
    int64_t only_M;  /* linear: for so many tokens alone; 0: always */
    bool flickers;   /* every second call alone */
    int calls, fails_at;
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
enum { PRODUCTS = 1, OPS = 2, QUANT = 4 };

static int test(struct selftest *t, int parts, struct err *e)
{
    t->at = at;
    t->done = done;
    seen = (struct told){.groups = 0};
    broken.calls = 0;
    int rc = parts & PRODUCTS ? selftest_products(t, "marlin", kinds, 2, e) : 0;
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
            if (seen.failed)
                fail_msg("%s: %s: %s", isa_name(isa), seen.first.name, seen.first.what);
            assert_int_equal(seen.groups, 9);
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
        broken.only_M = 0;
    }
    BREAK(hessian, bad_hessian, QUANT, true, false, "calibrate", "sums over 517 tokens: value 1 is ");
    BREAK(silu_back, bad_silu_back, QUANT, true, false, "calibrate", "gradients of 70 tokens: value ");
    BREAK(gptq, bad_gptq, QUANT, true, false, "calibrate", "w4 24x100 with scales searched by loss: value ");
    BREAK(refine, bad_refine, QUANT, true, false, "calibrate", "w4 24x100 with scales searched by loss: value 5 is ");
    broken.real->destroy(broken.real);
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
        cmocka_unit_test(rows_pass), cmocka_unit_test(broken_ops_fail), cmocka_unit_test(scalar_row_is_held_to_the_class), cmocka_unit_test(bounds), cmocka_unit_test(failing_op),
    };
    return cmocka_run_group_tests_name("selftest", tests, NULL, NULL);
}

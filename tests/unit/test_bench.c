/* Parts of `bench` that need no clock: bounds, bytes, words, medians, what happens to a class that refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/bench.h"
#include "pipeline/base/pool.h"

static void near(double got, double want)
{
    assert_true(got > want * (1 - 1e-12) && got < want * (1 + 1e-12));
}

static void bounds(void **state)
{
    const struct bench_bounds cpu = {.memory = 10e9, .arithmetic = 100e9}, gpu = {.memory = 2e12};
    const char *bound;
    (void)state;
    near(bench_bound(&cpu, 20e9, 100e9, &bound), 2);
    assert_string_equal(bound, "memory");
    near(bench_bound(&cpu, 20e9, 500e9, &bound), 5);
    assert_string_equal(bound, "arithmetic");
    near(bench_bound(&gpu, 4e12, 1e30, &bound), 2); /* arithmetic was not measured */
    assert_string_equal(bound, "memory");
}

static void bytes(void **state)
{
    (void)state;
    near(bench_weight_bytes(4, 128, 64, 256), 64 * 256 / 2 + 2 * 64 * 2.5);
    near(bench_weight_bytes(4, 128, 64, 257), 64 * 257 / 2 + 3 * 64 * 2.5); /* the last group is short */
    near(bench_weight_bytes(8, -1, 10, 30), 300 + 10 * 3);
    near(bench_weight_bytes(3, 32, 32, 64), 32 * 64 * 3 / 8 + 2 * 32 * 2.375);
}

static void medians(void **state)
{
    double odd[] = {5, 1, 3}, even[] = {4, 8, 2, 6};
    (void)state;
    struct bench_time t = bench_median(odd, 3);
    near(t.seconds, 3);
    near(t.shortest, 1);
    near(t.spread, 4.0 / 3);
    t = bench_median(even, 4);
    near(t.seconds, 5);
    near(t.spread, 6.0 / 5);
}

static void words(void **state)
{
    struct bench_shape s;
    (void)state;
    assert_int_equal(bench_shape_parse("4096x14336", &s, NULL), 0);
    assert_int_equal(s.N, 4096);
    assert_int_equal(s.K, 14336);
    assert_int_equal(bench_shape_parse("2147483647x1", &s, NULL), 0);
    assert_int_equal(bench_shape_parse("2147483648x1", &s, NULL), -ERR_USAGE);
}

/* A CPU backend that does not take quantized matrices, for a reason of the test's. */
static enum err_code refusal;

static int refuse(struct backend *b, const struct qwords *q, struct weight **out, struct err *e)
{
    (void)b, (void)q;
    *out = NULL;
    return err_set(e, refusal, "no such matrix here");
}

struct rig {
    struct parallel par;
    struct backend *b, refusing;
    struct backend_ops ops;
    struct bench k;
};

static void rig_open(struct rig *r)
{
    *r = (struct rig){.par = {.run = pool_run, .threads = 1}};
    assert_int_equal(cpu_backend_create(ISA_SCALAR, &r->par, &r->b, NULL), 0);
    r->ops = *r->b->ops;
    r->ops.weight_quantized = refuse;
    r->refusing = *r->b;
    r->refusing.ops = &r->ops;
    r->k = (struct bench){.b = r->b, .par = &r->par, .isa = ISA_SCALAR, .copies = 1, .memory_bytes = 1 << 20};
    assert_int_equal(bench_open(&r->k, NULL), 0);
    assert_true(r->k.bounds.memory > 0 && r->k.bounds.arithmetic > 0);
    assert_int_equal(r->k.floats, (1 << 20) / 16); /* a quarter of what the device has free */
}

static void rig_close(struct rig *r)
{
    bench_close(&r->k);
    r->b->destroy(r->b);
}

struct seen {
    int measured, left_out, rows;
    char class[32], why[64];
    struct bench_shape shapes[8];
};

static void on_line(void *arg, const struct bench_line *l)
{
    struct seen *s = arg;
    if (!l->left_out) {
        s->measured++;
        assert_true(l->time.seconds > 0 && l->share > 0 && *l->format);
        return;
    }
    s->left_out++;
    snprintf(s->class, sizeof s->class, "%s", l->class);
    snprintf(s->why, sizeof s->why, "%s", l->left_out);
}

static void refused_products(void **state)
{
    struct rig r;
    struct err e;
    struct seen s = {0};
    (void)state;
    rig_open(&r);
    const struct bench_class classes[] = {{"fast", &r.refusing}, {"cpu", r.b}};
    const struct bench_list list = {.shapes = {{8, 16}, {16, 8}}, .shape_count = 2, .rows = {1, 2, 3}, .row_count = 3};
    refusal = ERR_UNSUPPORTED;
    assert_int_equal(bench_products(&r.k, classes, 2, &list, false, on_line, &s, &e), 0);
    assert_int_equal(s.measured, 2 * 3 * 3); /* dense, 4 and 8 bits */
    assert_int_equal(s.left_out, 1);
    assert_string_equal(s.class, "fast");
    assert_string_equal(s.why, "no such matrix here");
    assert_int_equal(bench_products(&r.k, classes, 1, &list, true, on_line, &s, &e), -ERR_UNSUPPORTED); /* it was asked for by name */
    assert_string_equal(e.text, "no such matrix here");
    refusal = ERR_NOMEM; /* no word on what the class serves */
    assert_int_equal(bench_products(&r.k, classes, 2, &list, false, on_line, &s, &e), -ERR_NOMEM);
    assert_string_equal(e.text, "no such matrix here");
    assert_int_equal(s.left_out, 1);
    rig_close(&r);
}

static void on_left_out(void *arg, const char *class, const char *why)
{
    struct seen *s = arg;
    s->left_out++;
    snprintf(s->class, sizeof s->class, "%s", class);
    snprintf(s->why, sizeof s->why, "%s", why);
}

static void on_row(void *arg, const struct bench_row *row, const struct bench_list *list)
{
    struct seen *s = arg;
    assert_int_equal(row->best, 1);
    for (size_t i = 0; i < list->row_count; i++)
        assert_true(row->seconds[0][i] == 0 && row->seconds[1][i] > 0);
    assert_int_equal(row->bits, s->rows < 4 ? 4 : 8);
    if (s->rows < 4)
        s->shapes[s->rows] = row->shape;
    s->rows++;
}

static void tune(void **state)
{
    struct rig r;
    struct err e;
    struct seen s = {0};
    (void)state;
    rig_open(&r);
    const struct bench_class classes[] = {{"fast", &r.refusing}, {"cpu", r.b}};
    const struct bench_tune_events ev = {on_left_out, on_row, &s};
    struct bench_list list = {.shapes = {{8, 16}, {32, 16}, {16, 8}, {16, 32}}, .shape_count = 4, .rows = {1, 2}, .row_count = 2};
    refusal = ERR_UNSUPPORTED;
    assert_int_equal(bench_tune(&r.k, classes, 2, &list, &ev, &e), 0);
    assert_int_equal(s.rows, 8);
    assert_int_equal(s.left_out, 1); /* once for all rows */
    assert_string_equal(s.class, "fast");
    for (int i = 1; i < 4; i++) /* no row is behind one that takes its matrices */
        for (int j = 0; j < i; j++)
            assert_false(s.shapes[j].N <= s.shapes[i].N && s.shapes[j].K <= s.shapes[i].K);
    assert_int_equal(bench_tune(&r.k, classes, 1, &list, &ev, &e), -ERR_UNSUPPORTED);
    assert_string_equal(e.text, "no class of kernels serves 32 x 16 in 4 bits");
    refusal = ERR_NOMEM;
    assert_int_equal(bench_tune(&r.k, classes, 2, &list, &ev, &e), -ERR_NOMEM);
    assert_string_equal(e.text, "no such matrix here");
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bounds), cmocka_unit_test(bytes),            cmocka_unit_test(medians),
                                       cmocka_unit_test(words),  cmocka_unit_test(refused_products), cmocka_unit_test(tune)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

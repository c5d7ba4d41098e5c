/* Names of instruction sets and dtypes, the choice of kernels, counters of calls, allocation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "pipeline/base/pool.h"

static void names(void **state)
{
    (void)state;
    for (int i = ISA_AUTO; i <= ISA_AVX512; i++)
        assert_int_equal(isa_parse(isa_name((enum isa)i)), i);
    assert_int_equal(isa_parse("sse"), -1);
    assert_int_equal(isa_parse(""), -1);
    for (int t = 0; t < DT_COUNT; t++)
        assert_int_equal(dtype_parse(dtype_name((enum dtype)t)), t);
    assert_int_equal(dtype_parse("F8"), -1);
    assert_int_equal(dtype_bytes(DT_BF16), 2);
    assert_int_equal(dtype_bytes(DT_I64), 8);
}

static void tables(void **state)
{
    (void)state;
    assert_non_null(cpu_kernels(ISA_SCALAR));
    assert_ptr_equal(cpu_kernels(ISA_AUTO), cpu_kernels(isa_best()));
    for (int i = ISA_SCALAR; i <= ISA_AVX512; i++)
        assert_true((cpu_kernels((enum isa)i) != NULL) == (i <= (int)isa_best()));
    assert_string_equal(cpu_kernel_name(CPU_linear_f32_f32), "linear_f32_f32");
    struct parallel par = {.run = pool_run, .threads = 1};
    struct backend *b;
    struct err e;
    for (int i = (int)isa_best() + 1; i <= ISA_AVX512; i++) {
        char want[100];
        snprintf(want, sizeof want, "this machine does not run %s; its best is %s", isa_name((enum isa)i), isa_name(isa_best()));
        assert_int_equal(cpu_backend_create((enum isa)i, &par, &b, &e), -ERR_UNSUPPORTED);
        assert_string_equal(e.text, want);
    }
}

struct seen {
    int rows;
    char text[200];
};

static void see(void *arg, const char *row, uint64_t calls)
{
    struct seen *s = arg;
    s->rows++;
    size_t n = strlen(s->text);
    snprintf(s->text + n, sizeof s->text - n, "%s=%d ", row, (int)calls);
}

static void counts(void **state)
{
    (void)state;
    struct parallel par = {.run = pool_run, .threads = 1};
    struct backend *b;
    struct seen s = {0};
    void *p = NULL;
    struct err e;
    assert_int_equal(cpu_backend_create(ISA_SCALAR, &par, &b, NULL), 0);
    assert_string_equal(b->numerics, "cpu");
    b->each_count(b, see, &s);
    assert_int_equal(s.rows, 0);
    assert_int_equal(b->ops->alloc(b, 40, &p, &e), 0);
    assert_int_equal((uintptr_t)p % 64, 0);
    const float one[3] = {1, 2, 3};
    float back[3];
    assert_int_equal(b->ops->upload(b, p, one, sizeof one, &e), 0);
    b->ops->add(b, p, p, 3, &e);
    b->ops->add(b, p, p, 3, &e);
    b->ops->rmsnorm(b, p, p, p, 1, 3, 1e-6f, &e);
    b->ops->upload(b, p, one, sizeof one, &e);
    b->ops->add(b, p, p, 3, &e);
    assert_int_equal(b->ops->download(b, back, p, sizeof back, &e), 0);
    assert_true(back[0] == 2 && back[1] == 4 && back[2] == 6);
    b->each_count(b, see, &s);
    assert_string_equal(s.text, "rmsnorm_f32_scalar=1 add_f32_scalar=3 ");
    b->ops->free(b, p);
    assert_int_equal(b->ops->alloc(b, SIZE_MAX - 1, &p, &e), -ERR_NOMEM);
    assert_string_equal(e.text, "no memory for 18446744073709551614 bytes");
    b->destroy(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(tables),
        cmocka_unit_test(counts),
    };
    return cmocka_run_group_tests_name("dispatch", tests, NULL, NULL);
}

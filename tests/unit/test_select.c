/* Which class of CUDA kernels serves a matrix: rules, the table behind `auto` by device and shape, and what is said of those that cannot serve. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/select.h"

static const char groups[] = "marlin takes groups of 32, 64, 128, ... inputs, or one group", bits[] = "marlin takes 4 and 8 bits";
static const char machete_groups[] = "machete takes groups of 32, 64, 128, ... inputs, or one group", hopper[] = "machete needs compute capability 9.0";
static const char no_machete[] = "the emulated device does not run kernel machete";

/* Matrices on a device that nothing is known of, and on others than 9.0: the same. */
static const struct {
    struct select_matrix m;
    const char *best, *why; /* of auto */
} cases[] = {
    {{.N = 64, .K = 64}, "dense", ""},
    {{.N = 4096, .K = 4096, .bits = 4, .group_size = 128}, "marlin", ""},
    {{.N = 4096, .K = 4096, .bits = 8, .group_size = 32}, "marlin", ""},
    {{.N = 4096, .K = 4096, .bits = 4, .group_size = 128, .order = true}, "marlin", ""},
    {{.N = 1, .K = 1, .bits = 4, .group_size = -1}, "marlin", ""},
    {{.N = 130, .K = 172, .bits = 4, .group_size = 32}, "marlin", ""},   /* the last group is short */
    {{.N = 64, .K = 48, .bits = 4, .group_size = 48}, "marlin", ""},     /* one group, whatever its size */
    {{.N = 64, .K = 40, .bits = 4, .group_size = 100}, "marlin", ""},
    {{.N = 64, .K = 96, .bits = 4, .group_size = 48}, "simple", groups},
    {{.N = 64, .K = 96, .bits = 8, .group_size = 16}, "simple", groups},
    {{.N = 8192, .K = 9600, .bits = 4, .group_size = 96}, "simple", groups},
    {{.N = 64, .K = 128, .bits = 2, .group_size = 64}, "simple", bits},
    {{.N = 64, .K = 128, .bits = 3, .group_size = 64}, "simple", bits},
};

static void rules(void **state)
{
    enum { DEVICES = 6 };
    static const int capabilities[DEVICES] = {0, 80, 86, 89, 100, 120};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases * DEVICES; i++) {
        struct select_matrix m = cases[i / DEVICES].m;
        const char *best = cases[i / DEVICES].best, *rule = cases[i / DEVICES].why, *why;
        m.capability = capabilities[i % DEVICES];
        assert_string_equal(select_kernel(&m, "auto", &why), best);
        assert_string_equal(why, rule);
        if (!m.bits) {
            assert_string_equal(select_kernel(&m, "marlin", &why), "dense"); /* a pinned class is of quantized matrices */
            continue;
        }
        assert_string_equal(select_kernel(&m, "simple", &why), "simple");
        assert_string_equal(why, "");
        const char *kernel = select_kernel(&m, "marlin", &why);
        assert_string_equal(why, rule);
        if (*rule)
            assert_null(kernel);
        else
            assert_string_equal(kernel, "marlin");
        assert_int_equal(select_kernel(&m, "machete", &why) == NULL, kernel == NULL || m.capability); /* takes what marlin takes, where there is no device that says no */
        if (m.capability)
            assert_string_equal(why, hopper);
        assert_null(select_kernel(&m, "cutlass", &why));
        assert_string_equal(why, "it is not in this version");
    }
}

static const char *on_hopper(int weight_bits, int group, int64_t N, int64_t K, const char **why)
{
    const struct select_matrix m = {.N = N, .K = K, .bits = weight_bits, .group_size = group, .capability = 90};
    return select_kernel(&m, "auto", why);
}

/* On 9.0 the shapes of that device's rows take machete, the others what any device takes. */
static void shapes(void **state)
{
    static const struct {
        int64_t N, K;
        const char *class;
    } of[] = {
        {28672, 8192, "machete"}, {8192, 28672, "machete"}, {14336, 4096, "machete"}, {4096, 14336, "machete"}, {4096, 4096, "machete"}, {128256, 4096, "machete"},
        {1024, 4096, "machete"},  {1024, 8192, "machete"},  {1023, 28672, "marlin"},  {28672, 4095, "marlin"},  {576, 1536, "marlin"},   {1, 1, "marlin"},
    };
    const char *why;
    (void)state;
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        for (int weight_bits = 4; weight_bits <= 8; weight_bits += 4) {
            assert_string_equal(on_hopper(weight_bits, 128, of[i].N, of[i].K, &why), of[i].class);
            assert_string_equal(why, "");
        }
}

/* A row whose class cannot serve gives way to the next, and its rule is told: the last one that was met. */
static void refusals(void **state)
{
    const char *why;
    (void)state;
    assert_string_equal(on_hopper(4, 48, 8192, 9600, &why), "simple");
    assert_string_equal(why, groups);
    assert_string_equal(on_hopper(3, 128, 8192, 8192, &why), "simple");
    assert_string_equal(why, bits);
    assert_string_equal(on_hopper(4, -1, 8192, 8192, &why), "machete");
    struct select_matrix m = {.N = 4096, .K = 4096, .bits = 4, .group_size = 128, .capability = 90, .no_machete = no_machete};
    assert_string_equal(select_kernel(&m, "auto", &why), "marlin");
    assert_ptr_equal(why, no_machete);
    assert_null(select_kernel(&m, "machete", &why));
    assert_ptr_equal(why, no_machete);
    assert_string_equal(select_kernel(&m, "marlin", &why), "marlin");
    m.N = 1023; /* no row names machete: nothing to say of it */
    assert_string_equal(select_kernel(&m, "auto", &why), "marlin");
    assert_string_equal(why, "");
    m.no_machete = NULL;
    assert_string_equal(select_kernel(&m, "machete", &why), "machete");
    assert_string_equal(why, "");
    m.group_size = 48;
    m.K = 9600;
    assert_null(select_kernel(&m, "machete", &why));
    assert_string_equal(why, machete_groups);
    m.bits = 3;
    assert_null(select_kernel(&m, "machete", &why));
    assert_string_equal(why, "machete takes 4 and 8 bits");
    m.capability = 86;
    assert_null(select_kernel(&m, "machete", &why));
    assert_string_equal(why, hopper);
}

/* bench goes through the classes by number: each is one that can be asked for, and there is an end. */
static void classes(void **state)
{
    const struct select_matrix m = {.N = 64, .K = 64, .bits = 4, .group_size = 32};
    const char *why;
    size_t n = 0;
    (void)state;
    for (; select_class(n); n++)
        assert_string_equal(select_kernel(&m, select_class(n), &why), select_class(n));
    assert_int_equal(n, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rules), cmocka_unit_test(shapes), cmocka_unit_test(refusals), cmocka_unit_test(classes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

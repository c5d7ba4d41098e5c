/* Which class of CUDA kernels serves a matrix: rules, the table behind `auto`, and what is said of those that cannot serve. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/select.h"

static const char groups[] = "marlin takes groups of 32, 64, 128, ... inputs, or one group", bits[] = "marlin takes 4 and 8 bits";
static const char no_machete[] = "kernel machete needs compute capability 9.0, the device has 8.6";

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
    {{.N = 64, .K = 960, .bits = 4, .group_size = 96}, "simple", groups},
    {{.N = 64, .K = 128, .bits = 2, .group_size = 64}, "simple", bits},
    {{.N = 64, .K = 128, .bits = 3, .group_size = 64}, "simple", bits},
};

static void rules(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct select_matrix *m = &cases[i].m;
        const char *why, *kernel = select_kernel(m, "auto", &why);
        assert_string_equal(kernel, cases[i].best);
        assert_string_equal(why, cases[i].why);
        if (!m->bits) {
            assert_string_equal(select_kernel(m, "marlin", &why), "dense"); /* a pinned class is of quantized matrices */
            continue;
        }
        assert_string_equal(select_kernel(m, "simple", &why), "simple");
        assert_string_equal(why, "");
        kernel = select_kernel(m, "marlin", &why);
        assert_string_equal(why, cases[i].why);
        if (*cases[i].why)
            assert_null(kernel);
        else
            assert_string_equal(kernel, "marlin");
        assert_int_equal(select_kernel(m, "machete", &why) == NULL, kernel == NULL); /* takes what marlin takes */
        assert_null(select_kernel(m, "cutlass", &why));
        assert_string_equal(why, "it is not in this version");
    }
}

/* Machete has no row in the table: auto does not take it where it is, and does not speak of it where it is not. */
static void machete(void **state)
{
    (void)state;
    const char *why;
    struct select_matrix m = {.N = 4096, .K = 4096, .bits = 4, .group_size = 128};
    assert_string_equal(select_kernel(&m, "machete", &why), "machete");
    assert_string_equal(why, "");
    assert_string_equal(select_kernel(&m, "auto", &why), "marlin");
    m.no_machete = no_machete;
    assert_string_equal(select_kernel(&m, "auto", &why), "marlin");
    assert_string_equal(why, "");
    assert_null(select_kernel(&m, "machete", &why));
    assert_ptr_equal(why, no_machete);
    m.group_size = 48;
    assert_null(select_kernel(&m, "marlin", &why));
    m.no_machete = NULL;
    assert_null(select_kernel(&m, "machete", &why));
    assert_string_equal(why, "machete takes groups of 32, 64, 128, ... inputs, or one group");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rules), cmocka_unit_test(machete)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

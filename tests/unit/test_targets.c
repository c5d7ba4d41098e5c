#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "stages/format/targets.h"

static struct quant_params params(int bits, int group, bool sym)
{
    struct quant_params p = quant_params_default();
    p.bits = bits;
    p.group_size = group;
    p.sym = sym;
    return p;
}

/* One row a rule: what is refused by whom, and the words that say so; NULL: taken. */
static const struct {
    const char *target;
    int bits, group;
    bool sym;
    int64_t N, K;
    const char *words;
} rows[] = {
    {"any", 4, 128, true, 4096, 4096, NULL},
    {"vllm", 8, -1, true, 576, 576, NULL},
    {"vllm", 4, 32, true, 64, 96, NULL},
    {"transformers", 3, 128, false, 4096, 4096, NULL},
    {"transformers", 4, 128, true, 64, 172, NULL},
    {"any", 3, 128, true, 4096, 4096, "m has bits 3; target any takes 4, 8 "},
    {"vllm", 2, 64, true, 4096, 4096, "m has bits 2; target vllm takes 4, 8 "},
    {"vllm", 4, 128, false, 4096, 4096, "m has sym false; target vllm takes sym true only"},
    {"any", 4, 256, true, 4096, 4096, "m has group_size 256; target any takes -1, 32, 64, 128 "},
    {"vllm", 4, 128, true, 576, 576, "m: group_size 128 does not divide K=576; target vllm takes whole groups only"},
    {"any", 4, -1, true, 100, 4096, "m is [N=100, K=4096]; target any at 4 bits takes multiples of [32, 32]"},
    {"transformers", 3, -1, true, 100, 4096, "m is [N=100, K=4096]; target transformers at 3 bits takes multiples of [32, 32]"},
};

static void rules(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        struct quant_params p = params(rows[i].bits, rows[i].group, rows[i].sym);
        int rc = target_check_module(target_find(rows[i].target), "m", rows[i].N, rows[i].K, &p, &e);
        assert_int_equal(rc, rows[i].words ? -ERR_MANIFEST : 0);
        if (rows[i].words && strncmp(e.text, rows[i].words, strlen(rows[i].words)) != 0)
            assert_string_equal(e.text, rows[i].words);
    }
    assert_null(target_find("sglang2"));
    assert_false(target_allows_mixed(target_find("any")));
    assert_true(target_allows_mixed(target_find("transformers")));
}

static void vllm_kernel(void **state)
{
    (void)state;
    struct quant_params g128 = params(4, 128, true), g32 = params(4, 32, true), chan8 = params(8, -1, true);
    assert_string_equal(target_vllm_kernel(90, 4096, 4096, &g128), "Machete");
    assert_string_equal(target_vllm_kernel(90, 4096, 4096, &g32), "Marlin");
    assert_string_equal(target_vllm_kernel(90, 4000, 4096, &g128), "Marlin");
    assert_string_equal(target_vllm_kernel(80, 4096, 4096, &g128), "Marlin");
    assert_string_equal(target_vllm_kernel(86, 4096, 4096, &chan8), "AllSpark");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rules), cmocka_unit_test(vllm_kernel)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* f16 and bf16 by integers: every f16 there is, and rounding to nearest even against arithmetic in f64. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "kernels/half.h"

static void f16_values(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        double sign = h & 0x8000 ? -1 : 1, man = h & 0x3ff;
        int exp = h >> 10 & 0x1f;
        float got = f16_to_f32((uint16_t)h);
        if (exp == 31) {
            assert_true(man ? isnan(got) : isinf(got) && (got < 0) == (sign < 0));
            assert_true(man || f32_to_f16(got) == h);
            continue;
        }
        double want = sign * (exp ? ldexp(1024 + man, exp - 25) : ldexp(man, -24));
        assert_true((double)got == want && !signbit(got) == !(sign < 0));
        assert_int_equal(f32_to_f16(got), h);
    }
}

/* Between neighbours h and h + 1: below the middle down, above up, in the middle to the even one. */
static void f16_rounding(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        float mid = (float)(((double)f16_to_f32((uint16_t)h) + (double)f16_to_f32((uint16_t)(h + 1))) / 2);
        uint32_t even = h + (h & 1);
        assert_int_equal(f32_to_f16(mid), even);
        assert_int_equal(f32_to_f16(-mid), even | 0x8000);
        assert_int_equal(f32_to_f16(nextafterf(mid, 0)), h);
        assert_int_equal(f32_to_f16(nextafterf(mid, INFINITY)), h + 1);
    }
    assert_int_equal(f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(f32_to_f16(-1e30f), 0xfc00);
    assert_int_equal(f32_to_f16(NAN) & 0x7e00, 0x7e00);
    assert_int_equal(f32_to_f16(-0.0f), 0x8000);
    assert_int_equal(f32_to_f16(0x1p-149f), 0);
}

static void bf16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float x = bf16_to_f32((uint16_t)h);
        assert_int_equal(f32_bits(x), h << 16);
        if (isnan(x))
            assert_true(isnan(bf16_to_f32(f32_to_bf16(x))));
        else
            assert_int_equal(f32_to_bf16(x), h);
    }
    assert_int_equal(f32_to_bf16(f32_from_bits(0x3f808000)), 0x3f80);
    assert_int_equal(f32_to_bf16(f32_from_bits(0x3f818000)), 0x3f82);
    assert_int_equal(f32_to_bf16(f32_from_bits(0x3f808001)), 0x3f81);
    assert_int_equal(f32_to_bf16(f32_from_bits(0x7f7fffff)), 0x7f80);
    assert_true(isnan(bf16_to_f32(f32_to_bf16(f32_from_bits(0x7f800001)))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f16_values),
        cmocka_unit_test(f16_rounding),
        cmocka_unit_test(bf16),
    };
    return cmocka_run_group_tests_name("half", tests, NULL, NULL);
}

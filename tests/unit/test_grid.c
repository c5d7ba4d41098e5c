/* The grid: what fit chooses, on hand-worked rows and against a search in f64; reading and checking a quantized matrix. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "kernels/half.h"
#include "pipeline/base/pool.h"
#include "stages/quant/grid.h"

static struct backend *backends[3];
static int backend_count;

static int open_backends(void **state)
{
    struct parallel par = {pool_run, NULL, 1};
    struct err e = {0};
    (void)state;
    for (enum isa isa = ISA_SCALAR; isa <= isa_best(); isa++)
        if (cpu_backend_create(isa, &par, &backends[backend_count++], &e))
            return -1;
    return 0;
}

static int close_backends(void **state)
{
    (void)state;
    while (backend_count)
        backends[backend_count - 1]->destroy(backends[backend_count - 1]), backend_count--;
    return 0;
}

/* Fits one row on every instruction set; the results must agree. */
static void fit(const float *w, int64_t n, int bits, bool sym, double mse, float *scale, int *zero)
{
    const struct quant_grid grid = {.bits = bits, .sym = sym, .mse = mse, .search = mse > 0 ? GRID_MSE : GRID_MINMAX};
    struct err e = {0};
    for (int i = 0; i < backend_count; i++) {
        uint16_t s;
        uint8_t z;
        assert_int_equal(backends[i]->ops->fit(backends[i], w, n, 1, n, &grid, &s, &z, &e), 0);
        if (i) {
            assert_int_equal(s, f32_to_f16(*scale));
            assert_int_equal(z, *zero);
        }
        *scale = f16_to_f32(s);
        *zero = z;
    }
}

static void expect_fit(const float *w, int64_t n, int bits, bool sym, float scale, int zero)
{
    float s;
    int z;
    fit(w, n, bits, sym, 0, &s, &z);
    assert_true(s == f16_to_f32(f32_to_f16(scale)));
    assert_int_equal(z, zero);
}

static void min_max(void **state)
{
    (void)state;
    expect_fit((const float[]){-7.5f, 3, 1}, 3, 4, true, 1, 8);
    expect_fit((const float[]){-3, 7.5f, 1}, 3, 4, true, 1, 8);
    expect_fit((const float[]){-5, 10}, 2, 4, false, 1, 5);
    expect_fit((const float[]){-127.5f, 1}, 2, 8, true, 1, 128);
    expect_fit((const float[]){-3.5f, 1}, 2, 3, true, 1, 4);
    expect_fit((const float[]){-1.5f, 1}, 2, 2, true, 1, 2);
    expect_fit((const float[]){-0.1f, 0.3f}, 2, 4, true, 0.6f / 15, 8);
    /* round half to even: 2.5 -> 2 */
    expect_fit((const float[]){-2.5f, 12.5f}, 2, 4, false, 1, 2);
}

static void one_sided(void **state)
{
    (void)state;
    /* without negative weights a symmetric grid spends its upper half alone, as GPTQModel's */
    expect_fit((const float[]){15, 1}, 2, 4, true, 1, 8);
    expect_fit((const float[]){-15, -1}, 2, 4, true, 2, 8);
    /* zero may not be 0, so the scale grows until the largest weight is on the grid */
    expect_fit((const float[]){15, 1}, 2, 4, false, 15.0f / 14, 1);
    expect_fit((const float[]){-0.25f, 15}, 2, 4, false, 15.0f / 14, 1);
    expect_fit((const float[]){-15, -1}, 2, 4, false, 1, 15);
    expect_fit((const float[]){3, 1}, 2, 2, false, 1.5f, 1);
}

static void no_range(void **state)
{
    (void)state;
    expect_fit((const float[]){0, 0}, 2, 4, true, 2.0f / 15, 8);
    expect_fit((const float[]){0, -0.0f}, 2, 4, false, 2.0f / 15, 8); /* 7.5 rounds to even */
    expect_fit((const float[]){-6, -6}, 2, 4, true, 12.0f / 15, 8);
}

static void scales_stay_normal_f16(void **state)
{
    (void)state;
    expect_fit((const float[]){-1e-6f, 1e-6f}, 2, 4, true, 0x1p-14f, 8);
    expect_fit((const float[]){-1e-30f, 1e-38f}, 2, 4, false, 0x1p-14f, 1);
    expect_fit((const float[]){-1e9f, 1e9f}, 2, 4, true, 65504, 8);
    expect_fit((const float[]){-3e38f, 3e38f}, 2, 8, true, 65504, 128);
    expect_fit((const float[]){3e38f, 1}, 2, 4, false, 65504, 1);
}

static double search_error(const float *w, int64_t n, double scale, int zero, int maxq, double mse)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double q = nearbyint((double)w[i] / scale) + zero;
        q = q < 0 ? 0 : q > maxq ? maxq : q;
        sum += pow(fabs(scale * (q - zero) - (double)w[i]), mse);
    }
    return sum;
}

/* The chosen range is as good as the best of all steps in f64, up to the f32 sums; and better than min/max. */
static void search(void **state)
{
    enum { N = 131 };
    float w[N];
    uint32_t seed = 7;
    (void)state;
    for (int trial = 0; trial < 24; trial++) {
        int bits = (const int[]){2, 3, 4, 8}[trial % 4], maxq = (1 << bits) - 1;
        bool sym = trial / 4 % 2;
        double mse = trial % 3 ? 2.4 : 2, lo = 0, hi = 0, best = INFINITY, first = INFINITY;
        for (int i = 0; i < N; i++) {
            double u = 0;
            for (int j = 0; j < 6; j++)
                u += (double)(seed = seed * 1664525u + 1013904223u) / 0x1p32 - 0.5;
            w[i] = (float)(u * u * u * ldexp(1, trial - 12));
            lo = fmin(lo, (double)w[i]);
            hi = fmax(hi, (double)w[i]);
        }
        if (sym)
            lo = -(hi = fmax(-lo, hi));
        for (int i = 0; i < 80; i++) {
            double p = 1 - i / 100.0, s = (double)f16_to_f32(f32_to_f16((float)((hi - lo) * p / maxq)));
            s = s < 0x1p-14 ? 0x1p-14 : s;
            int z = sym ? (maxq + 1) / 2 : (int)fmin(fmax(nearbyint(-lo * p / s), 1), maxq);
            double error = search_error(w, N, s, z, maxq, mse);
            best = fmin(best, error);
            first = i ? first : error;
        }
        float s;
        int z;
        fit(w, N, bits, sym, mse, &s, &z);
        double got = search_error(w, N, (double)s, z, maxq, mse);
        assert_true(got <= best * 1.0001);
        assert_true(got <= first);
    }
}

static void read_and_check(void **state)
{
    struct qmatrix q = {0};
    struct err e = {0};
    float w[6];
    (void)state;
    assert_int_equal(grid_groups(172, 128), 2);
    assert_int_equal(grid_groups(172, -1), 1);
    assert_int_equal(grid_groups(172, 4000), 1);
    assert_int_equal(qmatrix_alloc(&q, 2, 3, 4, 2), 0);
    memcpy(q.codes, (const uint8_t[]){0, 8, 15, 9, 1, 7}, 6);
    memcpy(q.g_idx, (const int32_t[]){0, 1, 0}, 3 * sizeof *q.g_idx);
    const float scales[] = {0.5f, 1, 2, 4};
    for (int i = 0; i < 4; i++)
        q.scales[i] = f32_to_f16(scales[i]);
    memcpy(q.zeros, (const uint8_t[]){8, 8, 1, 15}, 4);
    grid_dequantize(&q, w);
    const float want[] = {-4, 14, 3.5f, 1, -56, -1};
    for (int i = 0; i < 6; i++)
        assert_true(w[i] == want[i]);
    assert_int_equal(grid_check(&q, &e), 0);
    q.codes[4] = 16;
    assert_int_equal(grid_check(&q, &e), -ERR_NUMERIC);
    assert_string_equal(e.text, "code 16 of output 1, input 1 is above 15");
    q.codes[4] = 0;
    q.zeros[2] = 0;
    assert_int_equal(grid_check(&q, &e), -ERR_NUMERIC);
    assert_string_equal(e.text, "zero point 0 of group 1, output 0 is outside 1..15");
    q.zeros[2] = 1;
    q.scales[1] = 0x7c00;
    assert_int_equal(grid_check(&q, &e), -ERR_NUMERIC);
    assert_string_equal(e.text, "scale inf of group 0, output 1 is no normal f16 number");
    /* a negative scale is a scale; its size has the same bounds */
    q.scales[1] = f32_to_f16(-1);
    assert_int_equal(grid_check(&q, &e), 0);
    q.scales[2] = f32_to_f16(-65504);
    q.scales[3] = f32_to_f16(-0x1p-14f);
    assert_int_equal(grid_check(&q, &e), 0);
    q.scales[3] = f32_to_f16(-0x1p-15f);
    assert_int_equal(grid_check(&q, &e), -ERR_NUMERIC);
    assert_string_equal(e.text, "scale -3.05176e-05 of group 1, output 1 is no normal f16 number");
    q.scales[3] = 0x8000;
    assert_int_equal(grid_check(&q, &e), -ERR_NUMERIC);
    assert_string_equal(e.text, "scale -0 of group 1, output 1 is no normal f16 number");
    q.scales[3] = 0xfc00;
    assert_int_equal(grid_check(&q, &e), -ERR_NUMERIC);
    assert_string_equal(e.text, "scale -inf of group 1, output 1 is no normal f16 number");
    qmatrix_free(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(min_max), cmocka_unit_test(one_sided),      cmocka_unit_test(no_range), cmocka_unit_test(scales_stay_normal_f16),
        cmocka_unit_test(search),  cmocka_unit_test(read_and_check),
    };
    return cmocka_run_group_tests(tests, open_backends, close_backends);
}

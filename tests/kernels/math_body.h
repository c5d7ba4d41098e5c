/* The vector vocabulary and maths of one ISA (chosen by the including check_math_ISA.c): every function against plain C to the bit, exp, log, pow and sigmoid
 * against libm in f64 within the bounds of vmath.h, and a digest of millions of results that is the same for all ISAs: the bits of class `cpu`. */
#include "kernels/cpu/vmath.h"
#include "tests/kernels/util.h"

/* FNV-1a over results in order. */
static uint64_t digest(uint64_t h, const void *p, size_t bytes)
{
    const unsigned char *b = p;
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ b[i]) * 0x100000001b3u;
    return h;
}

/* Distance of y from x in units of the last place of an f32 near x. */
static double ulps(float y, double x)
{
    if ((double)y == x || (isnan(y) && isnan(x)))
        return 0;
    if (fabs(x) >= 0x1.ffffffp127) /* rounds to infinity */
        return isinf(y) ? 0 : 1e9;
    int e;
    frexp(x, &e);
    return fabs((double)y - x) / ldexp(1, e < -125 ? -149 : e - 24);
}

enum { FN_EXP, FN_LOG, FN_POW, FN_SIGMOID };

static v16 apply(int which, v16 x, float y)
{
    return which == FN_EXP ? v16_exp(x) : which == FN_LOG ? v16_log(x) : which == FN_POW ? v16_pow(x, y) : v16_sigmoid(x);
}

static double exact(int which, double x, double y)
{
    return which == FN_EXP ? exp(x) : which == FN_LOG ? log(x) : which == FN_POW ? pow(x, y) : 1 / (1 + exp(-x));
}

/* n bit patterns of floats from `from` on, `step` apart; the worst error must not pass the bound, the digest goes on. */
static uint64_t sweep(int which, float y, uint32_t from, uint32_t to, uint32_t step, double bound, uint64_t h)
{
    double worst = 0;
    float at = 0, x[16], z[16];
    for (uint64_t u = from; u + 15 * (uint64_t)step <= to; u += 16 * (uint64_t)step) {
        for (int j = 0; j < 16; j++)
            x[j] = f32_from_bits((uint32_t)(u + (uint64_t)j * step));
        v16_store(z, apply(which, v16_load(x), y));
        h = digest(h, z, sizeof z);
        for (int j = 0; j < 16; j++) {
            double off = ulps(z[j], exact(which, (double)x[j], (double)y));
            if (!(off <= worst)) {
                worst = off;
                at = x[j];
            }
        }
    }
    if (!(worst <= bound))
        fail_msg("function %d (%g): %g ulp at %a, bound %g", which, (double)y, worst, (double)at, bound);
    return h;
}

static void accuracy(void **state)
{
    (void)state;
    uint64_t h = 0xcbf29ce484222325u;
    h = sweep(FN_EXP, 0, 0, 0x7f800000, 4001, 1, h);                  /* 0 .. inf */
    h = sweep(FN_EXP, 0, 0x80000000, 0xff800000, 4001, 1, h);         /* -0 .. -inf */
    h = sweep(FN_EXP, 0, 0x3d000000, 0x42b20000, 331, 1, h);          /* 1/32 .. 89 */
    h = sweep(FN_EXP, 0, 0xbd000000, 0xc2d10000, 331, 1, h);          /* to -104.5 */
    h = sweep(FN_LOG, 0, 0, 0x7f800000, 4001, 1, h);                  /* 0 .. inf */
    h = sweep(FN_LOG, 0, 0x3f000000, 0x40000000, 31, 1, h);           /* around 1 */
    h = sweep(FN_SIGMOID, 0, 0x80000000, 0xc2ae0000, 1009, 3, h);     /* to -87 */
    h = sweep(FN_SIGMOID, 0, 0, 0x7f800000, 4001, 3, h);
    static const float powers[] = {2.4f, 2.0f, 1.0f, 0.5f, 3.5f, -1.5f, 17.0f};
    for (int i = 0; i < 7; i++) {
        h = sweep(FN_POW, powers[i], 0, 0x7f800000, 16001, 2, h);
        h = sweep(FN_POW, powers[i], 0x38000000, 0x41000000, 997, 2, h); /* 2^-15 .. 8 */
    }
    if (h != 0x986926d73023be8f)
        fail_msg("digest 0x%llx: other bits than class cpu has", (unsigned long long)h);
}

static void special(void **state)
{
    (void)state;
    float x[16] = {0, -0.0f, INFINITY, -INFINITY, NAN, -104.0f, 88.8f, -1, 1, 0x1p-149f, -103.9f}, e[16], l[16], p[16], s[16];
    v16_store(e, v16_exp(v16_load(x)));
    v16_store(l, v16_log(v16_load(x)));
    v16_store(p, v16_pow(v16_load(x), 2.4f));
    v16_store(s, v16_sigmoid(v16_load(x)));
    assert_true(e[0] == 1 && e[1] == 1 && e[2] == INFINITY && f32_bits(e[3]) == 0 && isnan(e[4]) && f32_bits(e[5]) == 0 && e[6] == INFINITY);
    assert_true(e[10] == 0x1p-149f);
    assert_true(l[0] == -INFINITY && l[1] == -INFINITY && l[2] == INFINITY && isnan(l[3]) && isnan(l[4]) && isnan(l[7]) && f32_bits(l[8]) == 0);
    assert_true(p[0] == 0 && p[2] == INFINITY && p[8] == 1 && f32_bits(p[9]) == 0);
    assert_true(s[0] == 0.5f && s[2] == 1 && s[3] == 0 && isnan(s[4]));
    assert_true(f64_log(1.0) == 0.0);
    uint64_t seed = 9;
    for (int i = 0; i < 100000; i++) {
        double v = ldexp(1.0 + (double)(rnd(&seed) >> 12) * 0x1p-52, (int)(rnd(&seed) % 200) - 100), want = log(v);
        assert_true(fabs(f64_log(v) - want) <= 4 * 0x1p-53 * fabs(want));
    }
}

/* Bits of a float result from plain C against lane j. */
static void lane(const char *what, int j, float want, float got)
{
    if (f32_bits(want) != f32_bits(got) && !(isnan(want) && isnan(got)))
        fail_msg("%s lane %d: %a, not %a", what, j, (double)got, (double)want);
}

#define SAME(call, expr)                                                                                                                             \
    do {                                                                                                                                             \
        v16_store(z, call);                                                                                                                          \
        for (int j = 0; j < 16; j++)                                                                                                                 \
            lane(#call, j, (expr), z[j]);                                                                                                            \
    } while (0)
#define SAME_I(call, expr)                                                                                                                           \
    do {                                                                                                                                             \
        v16i_store(iz, call);                                                                                                                        \
        for (int j = 0; j < 16; j++)                                                                                                                 \
            assert_int_equal((int32_t)(expr), iz[j]);                                                                                                \
    } while (0)

/* Any bit pattern, or a plain value. */
static float rnd_any(uint64_t *s)
{
    uint64_t r = rnd(s);
    return r & 1 ? f32_from_bits((uint32_t)(r >> 32)) : rnd_f32(s) * (r & 2 ? 1e4f : 1.0f);
}

static void floats(void **state)
{
    (void)state;
    uint64_t seed = 5;
    float a[16], b[16], c[16], z[16];
    for (int round = 0; round < 3000; round++) {
        for (int j = 0; j < 16; j++) {
            a[j] = rnd_any(&seed);
            b[j] = round % 5 ? rnd_any(&seed) : a[j];
            c[j] = rnd_any(&seed);
        }
        v16 x = v16_load(a), y = v16_load(b), w = v16_load(c);
        int n = (int)(rnd(&seed) % 17);
        SAME(v16_add(x, y), a[j] + b[j]);
        SAME(v16_sub(x, y), a[j] - b[j]);
        SAME(v16_mul(x, y), a[j] * b[j]);
        SAME(v16_div(x, y), a[j] / b[j]);
        SAME(v16_fma(x, y, w), fmaf(a[j], b[j], c[j]));
        SAME(v16_fms(x, y, w), fmaf(a[j], b[j], -c[j]));
        SAME(v16_fnma(x, y, w), fmaf(-a[j], b[j], c[j]));
        SAME(v16_sqrt(v16_abs(x)), sqrtf(fabsf(a[j])));
        SAME(v16_max(x, y), a[j] > b[j] ? a[j] : b[j]);
        SAME(v16_min(x, y), a[j] < b[j] ? a[j] : b[j]);
        SAME(v16_neg(x), -a[j]);
        SAME(v16_rint(x), rintf(a[j]));
        SAME(v16_round_f16(x), f16_to_f32(f32_to_f16(a[j])));
        SAME(v16_select(v16_lt(x, y), x, w), a[j] < b[j] ? a[j] : c[j]);
        SAME(v16_select(v16_le(x, y), x, w), a[j] <= b[j] ? a[j] : c[j]);
        SAME(v16_select(v16_eq(x, y), x, w), a[j] == b[j] ? a[j] : c[j]);
        SAME(v16_select(v16m_and(v16_lt(x, y), v16m_first(n)), x, w), a[j] < b[j] && j < n ? a[j] : c[j]);
        SAME(v16_select(v16m_or(v16_lt(x, y), v16m_first(n)), x, w), a[j] < b[j] || j < n ? a[j] : c[j]);
        SAME(v16_select(v16m_not(v16_lt(x, y)), x, w), !(a[j] < b[j]) ? a[j] : c[j]);
        SAME(v16_keep_n(x, n, w), j < n ? a[j] : c[j]);
        SAME(v16_load_n(a, n), j < n ? a[j] : 0.0f);
        SAME(v16_from_d8(v16_lo_d8(x), v16_hi_d8(x)), a[j]);
        memcpy(z, c, sizeof z);
        v16_store_n(z, x, n);
        for (int j = 0; j < 16; j++)
            lane("v16_store_n", j, j < n ? a[j] : c[j], z[j]);
        unsigned bits = 0;
        for (int j = 0; j < 16; j++)
            bits |= (unsigned)(a[j] < b[j]) << j;
        assert_int_equal(v16m_bits(v16_lt(x, y)), bits);
    }
}

static void trees(void **state)
{
    (void)state;
    uint64_t seed = 6;
    for (int round = 0; round < 1000; round++) {
        float a[16], s[16], m[16];
        double d[8], t[8];
        for (int j = 0; j < 16; j++)
            a[j] = s[j] = m[j] = rnd_f32(&seed) * (j & 1 ? 1e-3f : 1.0f);
        for (int j = 0; j < 8; j++)
            d[j] = t[j] = (double)rnd_f32(&seed) / 3;
        v16 x = v16_load(a);
        d8 y = d8_load(d);
        for (int half = 8; half; half /= 2)
            for (int j = 0; j < half; j++) {
                s[j] += s[j + half];
                m[j] = fmaxf(m[j], m[j + half]);
                if (half < 8)
                    t[j] += t[j + half];
            }
        lane("v16_sum", 0, s[0], v16_sum(x));
        lane("v16_max_all", 0, m[0], v16_max_all(x));
        assert_true(t[0] == d8_sum(y));
        double o[8], e[8] = {1, 2, 3, 4, 5, 6, 7, 8};
        int n = (int)(rnd(&seed) % 9);
        d8_store(o, d8_fma(y, d8_load(e), d8_set1(0.1)));
        for (int j = 0; j < 8; j++)
            assert_true(o[j] == fma(d[j], e[j], 0.1));
        d8_store(o, d8_fnma(y, d8_load(e), d8_sqrt(d8_mul(y, y))));
        for (int j = 0; j < 8; j++)
            assert_true(o[j] == fma(-d[j], e[j], sqrt(d[j] * d[j])));
        d8_store(o, d8_div(d8_max(y, d8_zero()), d8_sub(d8_min(y, d8_zero()), d8_load(e))));
        for (int j = 0; j < 8; j++)
            assert_true(o[j] == (d[j] > 0 ? d[j] : 0) / ((d[j] < 0 ? d[j] : 0) - e[j]));
        d8_store(o, d8_load_n(d, n));
        for (int j = 0; j < 8; j++)
            assert_true(o[j] == (j < n ? d[j] : 0));
        memcpy(o, e, sizeof o);
        d8_store_n(o, y, n);
        for (int j = 0; j < 8; j++)
            assert_true(o[j] == (j < n ? d[j] : e[j]));
    }
}

static void integers(void **state)
{
    (void)state;
    uint64_t seed = 7;
    int32_t a[16], b[16], iz[16];
    float z[16], f[16];
    uint8_t u[16];
    for (int round = 0; round < 2000; round++) {
        for (int j = 0; j < 16; j++) {
            a[j] = (int32_t)(rnd(&seed) >> 32);
            b[j] = (int32_t)(rnd(&seed) >> 32);
            u[j] = (uint8_t)rnd(&seed);
            f[j] = j < 4 ? (float)a[j] * 2.5f : rnd_f32(&seed) * (j & 1 ? 300.0f : 1e9f);
        }
        v16i x = v16i_load(a), y = v16i_load(b);
        SAME_I(v16i_add(x, y), (uint32_t)a[j] + (uint32_t)b[j]);
        SAME_I(v16i_sub(x, y), (uint32_t)a[j] - (uint32_t)b[j]);
        SAME_I(v16i_and(x, y), a[j] & b[j]);
        SAME_I(v16i_or(x, y), a[j] | b[j]);
        SAME_I(v16i_min(x, y), a[j] < b[j] ? a[j] : b[j]);
        SAME_I(v16i_max(x, y), a[j] > b[j] ? a[j] : b[j]);
        SAME_I(v16i_shl(x, 5), (uint32_t)a[j] << 5);
        SAME_I(v16i_srl(x, 5), (uint32_t)a[j] >> 5);
        SAME_I(v16i_sra(x, 5), a[j] >> 5);
        SAME_I(v16i_select(v16i_lt(x, y), x, y), a[j] < b[j] ? a[j] : b[j]);
        SAME_I(v16i_select(v16i_eq(v16i_and(x, v16i_set1(1)), v16i_set1(0)), x, y), a[j] & 1 ? b[j] : a[j]);
        SAME_I(v16i_load_u8(u), u[j]);
        SAME_I(v16_to_i(v16_load(f)), fabsf(f[j]) < 0x1p31f ? (int32_t)lrintf(f[j]) : INT32_MIN);
        SAME_I(v16_bits(v16_load(f)), f32_bits(f[j]));
        SAME(v16_from_i(x), (float)a[j]);
        SAME(v16_from_bits(v16_bits(v16_load(f))), f[j]);
        SAME(v16_nibble(x, 0), (float)((uint32_t)a[j] & 15));
        SAME(v16_nibble(x, 3), (float)((uint32_t)a[j] >> 12 & 15));
        SAME(v16_nibble(x, 7), (float)((uint32_t)a[j] >> 28));
        uint8_t out[16];
        v16i_store_u8(out, x);
        for (int j = 0; j < 16; j++)
            assert_int_equal(out[j], a[j] & 255);
    }
}

/* All f16 and bf16 values there are, and rounding to f16 at and beside every midpoint. */
static void halves(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h += 16) {
        uint16_t in[16], out[16];
        float f[16], b[16], z[16];
        for (int j = 0; j < 16; j++)
            in[j] = (uint16_t)(h + (uint32_t)j);
        v16_store(f, v16_load_f16(in));
        v16_store(b, v16_load_bf16(in));
        v16_store_f16(out, v16_load_f16(in));
        for (int j = 0; j < 16; j++) {
            lane("f16", j, f16_to_f32(in[j]), f[j]);
            lane("bf16", j, bf16_to_f32(in[j]), b[j]);
            if (!isnan(f[j]))
                assert_int_equal(out[j], in[j]);
        }
        for (int side = -1; side <= 1; side++) {
            for (int j = 0; j < 16; j++) {
                float mid = (f[j] + f16_to_f32((uint16_t)(in[j] + 1))) / 2;
                z[j] = f32_from_bits(f32_bits(mid) + (uint32_t)side);
            }
            v16_store_f16(out, v16_load(z));
            for (int j = 0; j < 16; j++)
                if (!isnan(z[j]))
                    assert_int_equal(out[j], f32_to_f16(z[j]));
        }
    }
}

static int run_math(enum isa isa)
{
    if (isa > isa_best()) {
        printf("1..0 # SKIP this machine does not run %s\n", isa_name(isa)); /* TAP: no test at all is otherwise a failure */
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accuracy), cmocka_unit_test(special),  cmocka_unit_test(floats),
        cmocka_unit_test(trees),    cmocka_unit_test(integers), cmocka_unit_test(halves),
    };
    return cmocka_run_group_tests_name(isa_name(isa), tests, NULL, NULL);
}

/* Layout of the Machete kernel without a GPU: the closed forms against CuTe's layout algebra and the swizzle as bits, every place once, packing and unpacking of any matrix. */
#include "tests/kernels/util.h"

#include "kernels/cuda/machete_layout.h"
#include "kernels/cuda/machete_pack.h"

/* A CuTe layout: coordinate i, colexicographic over `shape`, to the sum of coordinate * stride. */
struct layout {
    int rank, shape[6], stride[6];
};

static int at(const struct layout *l, int i)
{
    int sum = 0;
    for (int r = 0; r < l->rank; r++) {
        sum += i % l->shape[r] * l->stride[r];
        i /= l->shape[r];
    }
    return sum;
}

/* NVIDIA/cutlass@7107b05 include/cute/atom/mma_traits_sm90_gmma.hpp: ALayout_64x16 and CLayout_64xN map (thread, value) of a warpgroup to m + 64 * k or m + 64 * n. */
static const struct layout a_thread = {3, {4, 8, 4}, {128, 1, 16}}, a_value = {3, {2, 2, 2}, {64, 8, 512}};
static const struct layout c_thread = {3, {4, 8, 4}, {128, 1, 16}}, c_value = {3, {2, 2, 32}, {64, 8, 512}};
/* Places of a 16-bit pair's halves: layout (2,4):(4,1), value to nibble; of 8 bits within a word, (2,2):(2,1), value to byte. */
static const struct layout nibbles = {2, {2, 4}, {4, 1}}, bytes = {2, {2, 2}, {2, 1}};

static void closed_form_is_the_algebra(void **state)
{
    (void)state;
    const int k_blocks = 6;
    for (int block = 0; block < 18; block++)
        for (int t = 0; t < 256; t++)
            for (int v = 0; v < 32; v++) {
                int place = at(&a_thread, t % 128) + at(&a_value, v % 8), slice = v / 8;
                int64_t n = block / k_blocks * 128 + t / 128 * 64 + place % 64, k = block % k_blocks * 64 + slice * 16 + place / 64;
                /* values of a register a[i] are 2i, 2i + 1; i = half + 2 * (k + 8) */
                size_t field4 = (size_t)block * 8192 + (size_t)(t * 32 + 8 * slice + at(&nibbles, v % 8));
                assert_int_equal(machete_code_word(4, k, n, k_blocks) * 8 + (size_t)machete_code_shift(4, k, n) / 4, field4);
                int half = v / 2 % 2, pair = v % 2 + v / 4 % 2 * 2;
                size_t field8 = (size_t)block * 8192 + (size_t)(slice / 2 * 4096 + t * 16 + slice % 2 * 8 + half * 4 + at(&bytes, pair));
                assert_int_equal(machete_code_word(8, k, n, k_blocks) * 4 + (size_t)machete_code_shift(8, k, n) / 8, field8);
            }
    for (int t = 0; t < 128; t++)
        for (int i = 0; i < 128; i++)
            assert_int_equal(at(&c_thread, t) + at(&c_value, i), machete_sum_n(t, i) + 64 * machete_sum_token(t, i));
}

static void every_place_once(void **state)
{
    (void)state;
    const int64_t K = 256, N = 256;
    for (int bits = 4; bits <= 8; bits += 4) {
        size_t fields = (size_t)(K * N);
        unsigned char *seen = calloc(fields, 1);
        for (int64_t k = 0; k < K; k++)
            for (int64_t n = 0; n < N; n++) {
                size_t field = (machete_code_word(bits, k, n, K / 64) * 32 + (size_t)machete_code_shift(bits, k, n)) / (size_t)bits;
                assert_true(field < fields && !seen[field]);
                seen[field] = 1;
            }
        free(seen);
    }
    unsigned char seen[3 * 384] = {0};
    for (int64_t row = 0; row < 3; row++)
        for (int64_t n = 0; n < 384; n++) {
            size_t place = machete_scale_at(row, n, 3);
            assert_true(place < sizeof seen && !seen[place]);
            seen[place] = 1;
        }
}

/* The word of scales of a thread is that of its two outputs; rows of a stripe lie together. */
static void scales_by_word(void **state)
{
    (void)state;
    for (int t = 0; t < 256; t++)
        for (int half = 0; half < 2; half++)
            assert_int_equal(machete_scale_at(0, t / 128 * 64 + machete_sum_n(t % 128, 2 * half), 7), 2 * (t / 32 * 8 + t % 32 / 4) + half);
    assert_int_equal(machete_scale_at(5, 128, 7) - machete_scale_at(4, 128, 7), 128);
    for (int blocks = 1; blocks <= 2; blocks++)
        for (int shift = -1; shift <= 31; shift++)
            for (int step = 0; step < 8; step++) {
                int last = marlin_scale_row(step * blocks + blocks - 1, shift) + (shift < 0);
                assert_int_equal(machete_scale_rows(blocks, shift), last - marlin_scale_row(step * blocks, shift) + 1);
            }
}

/* SWIZZLE_128B exchanges address bits 4..6 with their sum, without carry, with bits 7..9; a 32-byte step of a descriptor stays in the row. */
static void x_is_the_swizzle(void **state)
{
    (void)state;
    for (int row = 0; row < 256; row++)
        for (int piece = 0; piece < 8; piece++) {
            int linear = row * 128 + piece * 16;
            assert_int_equal(machete_x_at(row, piece), linear ^ (linear >> 7 & 7) << 4);
        }
    uint64_t d = machete_descriptor(0x2c400), next = machete_descriptor(0x2c420);
    assert_int_equal(d & 0x3fff, 0x2c40);
    assert_int_equal(next - d, 2);
    assert_int_equal(d >> 32 & 0x3fff, 64);
    assert_int_equal(d >> 62, 1);
}

/* Vectors of codes (quarter warps), words of scales, writes and reads of sums: no bank twice in what goes at a time. */
static void no_bank_twice(void **state)
{
    (void)state;
    for (int wide = 1; wide <= 2; wide++)
        for (int warp = 0; warp < 4; warp++)
            for (int i = 0; i < 4; i++) {
                uint32_t banks = 0;
                for (int lane = 0; lane < 32; lane++)
                    banks |= 1u << (machete_sum_token(warp * 32 + lane, i) * machete_sum_stride(wide) + machete_sum_n(warp * 32 + lane, i)) % 32;
                assert_int_equal(banks, 0xffffffffu);
            }
    assert_int_equal(machete_sum_stride(1) % 4, 0);
    for (int bits = 4; bits <= 8; bits += 4)
        for (int slice = 0; slice < 4; slice++)
            for (int n = 0; n < 64; n += 16) {
                unsigned groups = 0;
                for (int lane = 0; lane < 8; lane++) /* lane / 4 is the output, lane % 4 the pair of inputs */
                    groups |= 1u << machete_code_word(bits, slice * 16 + 2 * (lane % 4), n + lane / 4, 2) / 4 % 8;
                assert_int_equal(groups, 0xff);
            }
}

static void check_packed(const struct qmatrix *q, uint64_t *seed)
{
    struct qwords words = rnd_qwords(q, seed);
    struct machete_shape s;
    struct err e;
    if (machete_plan(&words, &s, &e))
        fail_msg("%s", e.text);
    assert_true(s.k_blocks % 2 == 0 && s.k_blocks * 64 >= s.Kx && s.stripes * 128 >= s.N);
    uint32_t *codes = malloc(s.code_bytes);
    uint16_t *scales = malloc(s.scale_bytes), *zeros = s.zero_table ? malloc(s.zero_bytes) : NULL;
    int32_t *perm = s.permuted ? malloc(s.perm_bytes) : NULL;
    memset(scales, 0xff, s.scale_bytes); /* NaN */
    if (machete_pack(&words, &s, codes, scales, zeros, perm, &e))
        fail_msg("%s", e.text);
    unsigned char *seen = calloc((size_t)q->K, 1);
    for (int64_t i = 0; i < s.Kx; i++) {
        int64_t k = perm ? perm[i] : i;
        if (k < 0)
            continue;
        assert_true(k < q->K && !seen[k]);
        seen[k] = 1;
        for (int64_t n = 0; n < q->N; n++) {
            int64_t from = q->g_idx[k] * q->N + n;
            float want = f16_to_f32(q->scales[from]) * ((float)q->codes[n * q->K + k] - (float)q->zeros[from]);
            assert_true(machete_packed_weight(&s, codes, scales, zeros, n, i) == want);
        }
    }
    for (int64_t k = 0; k < q->K; k++)
        assert_true(seen[k]);
    for (int64_t n = 0; n < s.stripes * 128; n++) /* what is filled up is finite: times an X of 0 it is nothing */
        for (int64_t k = 0; k < s.k_blocks * 64; k++)
            if (n >= s.N || k >= s.Kx)
                assert_true(isfinite(machete_packed_weight(&s, codes, scales, zeros, n, k)));
    qwords_free(&words);
    free(seen);
    free(codes);
    free(scales);
    free(zeros);
    free(perm);
}

static void packed_weights_are_the_weights(void **state)
{
    (void)state;
    static const struct {
        int64_t N, K;
        int bits, group;
        bool scattered, one_zero;
    } cases[] = {{128, 128, 4, 128, false, true}, {256, 256, 8, 32, false, false}, {70, 100, 4, -1, false, true}, {133, 300, 4, 128, false, false}, {1, 1, 4, 128, false, true},
                 {96, 512, 4, 128, true, true},   {165, 320, 8, 64, true, false},  {64, 192, 4, 96, false, true}, {40, 160, 3, 32, false, false},   {24, 130, 2, 64, true, true},
                 {64, 200, 4, 40, false, true},   {72, 2048, 4, 1024, false, true}, {64, 448, 8, 64, false, true}};
    uint64_t seed = 5;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct qmatrix q = rnd_qmatrix(cases[i].N, cases[i].K, cases[i].bits, cases[i].group, cases[i].scattered, &seed);
        for (int64_t z = 0; cases[i].one_zero && z < q.G * q.N; z++)
            q.zeros[z] = (uint8_t)(1 << (q.bits - 1));
        check_packed(&q, &seed);
        qmatrix_free(&q);
    }
}

static void plans(void **state)
{
    (void)state;
    struct machete_shape s;
    struct err e;
    assert_int_equal(machete_plan_plain(4096, 4096, 4, 128, &s, &e), 0);
    assert_true(s.stripes == 32 && s.k_blocks == 64 && s.rows == 32 && s.unit_shift == 1 && s.code_bytes == 4096 * 4096 / 2 && s.scale_bytes == 32 * 32 * 256);
    assert_int_equal(machete_plan_plain(7168, 576, 8, -1, &s, &e), 0);
    assert_true(s.stripes == 56 && s.k_blocks == 10 && s.rows == 1 && s.Kx == 576);
    assert_int_equal(machete_plan_plain(100, 100, 4, 48, &s, &e), -ERR_SHAPE);
    assert_string_equal(e.text, "groups of 48 inputs are no units of 32 times a power of 2");
    assert_int_equal(machete_plan_plain(1 << 29, 1 << 24, 4, 128, &s, &e), -ERR_SHAPE);
    assert_string_equal(e.text, "N=536870912 by K=16777216 is more than 2^31 blocks of 128 by 64");
}

/* Rows of all, one matrix after the other. */
static struct qmatrix stacked(const struct qmatrix *q, int n)
{
    struct qmatrix all;
    int64_t N = 0;
    for (int i = 0; i < n; i++)
        N += q[i].N;
    assert_int_equal(qmatrix_alloc(&all, N, q[0].K, q[0].bits, q[0].group_size), 0);
    memcpy(all.g_idx, q[0].g_idx, (size_t)all.K * sizeof *all.g_idx);
    int64_t from = 0;
    for (int i = 0; i < n; from += q[i++].N) {
        memcpy(all.codes + from * all.K, q[i].codes, (size_t)(q[i].N * all.K));
        for (int64_t g = 0; g < all.G; g++) {
            memcpy(all.scales + g * N + from, q[i].scales + g * q[i].N, (size_t)q[i].N * sizeof *all.scales);
            memcpy(all.zeros + g * N + from, q[i].zeros + g * q[i].N, (size_t)q[i].N * sizeof *all.zeros);
        }
    }
    return all;
}

struct packed {
    struct machete_shape s;
    uint32_t *codes;
    uint16_t *scales, *zeros;
    int32_t *perm;
};

static struct packed packed_new(const struct qmatrix *q, uint64_t *seed)
{
    struct packed p;
    struct qwords words = rnd_qwords(q, seed);
    assert_int_equal(machete_plan(&words, &p.s, NULL), 0);
    p.codes = malloc(p.s.code_bytes);
    p.scales = malloc(p.s.scale_bytes);
    p.zeros = p.s.zero_table ? malloc(p.s.zero_bytes) : NULL;
    p.perm = p.s.permuted ? malloc(p.s.perm_bytes) : NULL;
    assert_int_equal(machete_pack(&words, &p.s, p.codes, p.scales, p.zeros, p.perm, NULL), 0);
    qwords_free(&words);
    return p;
}

static void packed_free(struct packed *p)
{
    free(p->codes);
    free(p->scales);
    free(p->zeros);
    free(p->perm);
}

static void put_table(void *to, const void *from, const struct marlin_place *at)
{
    for (int r = 0; r < at->rows; r++)
        memcpy((char *)to + at->table + (size_t)r * at->pitch, (const char *)from + (size_t)r * at->width, at->width);
}

/* Packed parts put where machete_place says are what packing the matrices as one gives. */
static void parts_are_the_whole(void **state)
{
    (void)state;
    static const struct {
        int n;
        int64_t N[3], K;
        int bits, group;
        bool scattered, one_zero;
    } cases[] = {{2, {128, 256, 0}, 256, 4, 128, false, true},  {3, {256, 128, 128}, 700, 4, 32, false, false}, {3, {128, 128, 70}, 300, 8, 64, false, false},
                 {3, {256, 128, 128}, 320, 4, 64, true, true}, {2, {384, 5, 0}, 200, 8, -1, false, false}};
    uint64_t seed = 15;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct qmatrix q[3] = {0};
        struct packed p[3];
        const struct machete_shape *shapes[3];
        const int n = cases[i].n;
        for (int j = 0; j < n; j++) {
            q[j] = rnd_qmatrix(cases[i].N[j], cases[i].K, cases[i].bits, cases[i].group, cases[i].scattered, &seed);
            memcpy(q[j].g_idx, q[0].g_idx, (size_t)q[0].K * sizeof *q[0].g_idx);
            for (int64_t z = 0; cases[i].one_zero && z < q[j].G * q[j].N; z++)
                q[j].zeros[z] = 8;
            p[j] = packed_new(&q[j], &seed);
            shapes[j] = &p[j].s;
        }
        struct qmatrix all = stacked(q, n);
        struct packed want = packed_new(&all, &seed);
        struct machete_shape whole;
        assert_true(machete_join(shapes, n, &whole));
        assert_memory_equal(&whole, &want.s, sizeof whole);
        char *codes = calloc(1, whole.code_bytes), *scales = calloc(1, whole.scale_bytes), *zeros = calloc(1, whole.zero_bytes + 1);
        int64_t from = 0;
        for (int j = 0; j < n; from += q[j++].N) {
            const struct marlin_place at = machete_place(&p[j].s, &whole, from);
            memcpy(codes + at.codes, p[j].codes, p[j].s.code_bytes);
            put_table(scales, p[j].scales, &at);
            if (whole.zero_table)
                put_table(zeros, p[j].zeros, &at);
        }
        assert_memory_equal(codes, want.codes, whole.code_bytes);
        assert_memory_equal(scales, want.scales, whole.scale_bytes);
        if (whole.zero_table)
            assert_memory_equal(zeros, want.zeros, whole.zero_bytes);
        for (int j = 0; j < n; j++) {
            packed_free(&p[j]);
            qmatrix_free(&q[j]);
        }
        packed_free(&want);
        qmatrix_free(&all);
        free(codes);
        free(scales);
        free(zeros);
    }
}

/* What keeps matrices apart, one thing at a time. */
static void what_does_not_join(void **state)
{
    (void)state;
    struct machete_shape a, b, whole, first;
    const struct machete_shape *two[] = {&a, &b}, *four[] = {&a, &a, &a, &a};
    assert_int_equal(machete_plan_plain(128, 256, 4, 64, &first, NULL), 0);
    for (int i = 0; i < 8; i++) {
        a = b = first;
        switch (i) {
        case 1: a.N = 128 - 1; break;
        case 2: b.K++; break;
        case 3: b.Kx += 64; break;
        case 4: b.bits = 8; break;
        case 5: b.unit_shift = -1; break;
        case 6: b.permuted = true; break;
        case 7: b.zero = 7; break;
        }
        assert_int_equal(machete_join(two, 2, &whole), i == 0);
        b.zero_table = i == 0;
        assert_false(machete_join(two, 2, &whole));
    }
    a = first;
    assert_false(machete_join(four, 1, &whole));
    assert_true(machete_join(four, 3, &whole));
    assert_false(machete_join(four, 4, &whole));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(closed_form_is_the_algebra),
        cmocka_unit_test(every_place_once),
        cmocka_unit_test(scales_by_word),
        cmocka_unit_test(x_is_the_swizzle),
        cmocka_unit_test(no_bank_twice),
        cmocka_unit_test(packed_weights_are_the_weights),
        cmocka_unit_test(plans),
        cmocka_unit_test(parts_are_the_whole),
        cmocka_unit_test(what_does_not_join),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

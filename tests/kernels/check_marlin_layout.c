/* Layout and bit tricks of the Marlin kernel without a GPU: the closed forms against the permutation written as a list, every code through every trick, packing and
 * unpacking of any matrix. */
#include "tests/kernels/util.h"

#include "kernels/cuda/marlin_dequant.h"
#include "kernels/cuda/marlin_pack.h"

/* One 16 x 64 tile as a list: lane by lane, the codes that the lane feeds to mma.m16n8k16 as B fragments of eight n8 blocks, two blocks and four rows at a time.
 * IST-DASLab/marlin@2f6d7c1 marlin/__init__.py (_get_perms) writes its order so; entries are 64 * k + n here. */
static void tile_list(int list[1024])
{
    int at = 0;
    for (int lane = 0; lane < 32; lane++)
        for (int j = 0; j < 4; j++)
            for (int half = 0; half < 2; half++)
                for (int i = 0; i < 4; i++) {
                    int k = 2 * (lane % 4) + i % 2 + 8 * (i / 2);
                    list[at++] = 64 * k + lane / 4 + 8 * half + 16 * j;
                }
}

/* Where the list's eight codes of a (lane, j) go in 4 bits, and the four of a (lane, j, half) in 8 bits: storage place of each. */
static const int nibble_of[8] = {0, 4, 2, 6, 1, 5, 3, 7}, byte_of[4] = {0, 2, 1, 3};

static void closed_form_is_the_list(void **state)
{
    (void)state;
    int list[1024];
    tile_list(list);
    for (int64_t k_chunks = 1; k_chunks <= 3; k_chunks++)
        for (int64_t strip = 0; strip < 3; strip++)
            for (int64_t slice = 0; slice < 4 * k_chunks; slice++)
                for (int at = 0; at < 1024; at++) {
                    int lane = at / 32, j = at % 32 / 8, e = at % 8;
                    int64_t k = 16 * slice + list[at] / 64, n = 64 * strip + list[at] % 64;
                    size_t tile4 = (size_t)(strip * k_chunks * 4 + slice) * 128, tile8 = 2 * tile4;
                    assert_int_equal(marlin_code_word(4, k, n, k_chunks), tile4 + (size_t)(4 * lane + j));
                    assert_int_equal(marlin_code_shift(4, k, n), 4 * nibble_of[e]);
                    /* 8 bits: j 0 and 1 of all lanes, then j 2 and 3 */
                    assert_int_equal(marlin_code_word(8, k, n, k_chunks), tile8 + (size_t)(128 * (j / 2) + 4 * lane + 2 * (j % 2) + e / 4));
                    assert_int_equal(marlin_code_shift(8, k, n), 8 * byte_of[e % 4]);
                }
}

static void every_place_once(void **state)
{
    (void)state;
    const int64_t K = 192, N = 128;
    for (int bits = 4; bits <= 8; bits += 4) {
        size_t fields = (size_t)(K * N);
        unsigned char *seen = calloc(fields, 1);
        for (int64_t k = 0; k < K; k++)
            for (int64_t n = 0; n < N; n++) {
                size_t field = (marlin_code_word(bits, k, n, K / 64) * 32 + (size_t)marlin_code_shift(bits, k, n)) / (size_t)bits;
                assert_true(field < fields && !seen[field]);
                seen[field] = 1;
            }
        free(seen);
    }
    unsigned char seen[3 * 128] = {0};
    for (int64_t g = 0; g < 3; g++)
        for (int64_t n = 0; n < 128; n++) {
            size_t at = marlin_scale_at(g, n, 2);
            assert_true(at < sizeof seen && !seen[at]);
            seen[at] = 1;
        }
}

/* What the kernel takes from a row of scales by vectors is what marlin_scale_at puts there. */
static void scales_by_vector(void **state)
{
    (void)state;
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 8; i++) {
            assert_int_equal(marlin_scale_at(0, lane / 4 + 8 * i, 1), lane / 4 * 8 + i);
            for (int e = 0; e < 2; e++)
                assert_int_equal(marlin_scale_at(0, 8 * i + 2 * (lane % 4) + e, 1), lane % 4 * 16 + 8 * e + i);
        }
}

/* Writes (consecutive pieces of a row) and ldmatrix reads (8 rows of one piece) touch each of the eight 16-byte bank groups once. */
static void x_has_no_conflicts(void **state)
{
    (void)state;
    for (int row_bytes = 128; row_bytes <= 1024; row_bytes *= 2)
        for (int piece = 0; piece < row_bytes / 16; piece++)
            for (int row = 0; row < 64; row += 8) {
                unsigned read = 0, written = 0;
                for (int i = 0; i < 8; i++) {
                    read |= 1u << marlin_x_at(row + i, piece, row_bytes) / 16 % 8;
                    written |= 1u << marlin_x_at(row, (piece & ~7) + i, row_bytes) / 16 % 8;
                }
                assert_int_equal(read, 0xff);
                assert_int_equal(written, 0xff);
            }
}

/* Code of the pair element (half, hi, lo) alone in a word, the other fields full of ones or zeros. */
static uint32_t word_with(int bits, int half, int hi, int lo, uint32_t code, uint32_t rest)
{
    int shift = marlin_code_shift(bits, lo + 8 * hi, 8 * half);
    uint32_t mask = ((1u << bits) - 1) << shift;
    return (rest & ~mask) | code << shift;
}

static void pairs_of(int bits, int bf16, int scaled, int half, uint32_t w, uint32_t out[4])
{
    if (bits == 4)
        marlin_pairs4(bf16, scaled, w, out);
    else
        marlin_pairs8(bf16, scaled, half ? 0 : w, half ? w : 0, out);
}

static void every_code_every_trick(void **state)
{
    (void)state;
    static const float scales[] = {1.0f, -0.0123f, 0.00321f, 250.0f, 6.2e-5f};
    for (int variant = 0; variant < 16; variant++) {
        int bits = variant & 1 ? 8 : 4, bf16 = variant >> 1 & 1, half = variant >> 2 & 1, hi = variant >> 3 & 1;
        for (uint32_t code = 0; code < 1u << bits; code++)
            for (int lo = 0; lo < 2; lo++)
                for (uint32_t rest = 0; rest != 2; rest++) {
                    uint32_t out[4];
                    pairs_of(bits, bf16, 0, half, word_with(bits, half, hi, lo, code, 0 - rest), out);
                    float raw = marlin_half_get(bf16, out[2 * half + hi], lo);
                    float want = ((float)code + marlin_raw_offset(bits, bf16)) * marlin_raw_unit(bits, bf16, half);
                    assert_true(raw == want);
                    pairs_of(bits, bf16, 1, half, word_with(bits, half, hi, lo, code, 0 - rest), out);
                    for (int zero = 0; zero <= 1 << bits; zero++)
                        for (size_t s = 0; s < sizeof scales / sizeof *scales; s++) {
                            float scale = f16_to_f32(f32_to_f16(scales[s])), product;
                            uint32_t pair = marlin_pair_of_f16(bf16, (uint32_t)f32_to_f16(scale) << 16 * lo, lo);
                            uint32_t got = marlin_scaled(bits, bf16, out[2 * half + hi], half, marlin_scaled_zero(bits, bf16, (float)zero, half), pair);
                            if (bf16)
                                scale = bf16_to_f32(f32_to_bf16(scale));
                            product = ((float)code - (float)zero) * scale;
                            product = bf16 ? bf16_to_f32(f32_to_bf16(product)) : f16_to_f32(f32_to_f16(product));
                            assert_true(marlin_half_get(bf16, got, lo) == product);
                        }
                }
    }
}

static void check_packed(const struct qmatrix *q, uint64_t *seed)
{
    struct qwords words = rnd_qwords(q, seed);
    struct marlin_shape s;
    struct err e;
    if (marlin_plan(&words, &s, &e))
        fail_msg("%s", e.text);
    uint32_t *codes = malloc(s.code_bytes);
    uint16_t *scales = malloc(s.scale_bytes), *zeros = s.zero_table ? malloc(s.zero_bytes) : NULL;
    int32_t *perm = s.permuted ? malloc(s.perm_bytes) : NULL;
    if (marlin_pack(&words, &s, codes, scales, zeros, perm, &e))
        fail_msg("%s", e.text);
    unsigned char *seen = calloc((size_t)q->K, 1);
    for (int64_t i = 0; i < s.Kx; i++) {
        int64_t k = perm ? perm[i] : i;
        if (k < 0)
            continue;
        assert_true(k < q->K && !seen[k]);
        seen[k] = 1;
        for (int64_t n = 0; n < q->N; n++) {
            int64_t at = q->g_idx[k] * q->N + n;
            float want = f16_to_f32(q->scales[at]) * ((float)q->codes[n * q->K + k] - (float)q->zeros[at]);
            assert_true(marlin_packed_weight(&s, codes, scales, zeros, n, i) == want);
        }
    }
    for (int64_t k = 0; k < q->K; k++)
        assert_true(seen[k]);
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
    } cases[] = {{64, 128, 4, 128, false, true}, {128, 256, 8, 32, false, false}, {70, 100, 4, -1, false, true}, {33, 300, 4, 128, false, false}, {1, 1, 4, 128, false, true},
                 {96, 512, 4, 128, true, true},  {65, 320, 8, 64, true, false},   {64, 192, 4, 96, false, true},  {40, 160, 3, 32, false, false}, {24, 130, 2, 64, true, true},
                 {64, 200, 4, 40, false, true},  {72, 2048, 4, 1024, false, true}, {64, 448, 8, 64, false, true}};
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
    static const struct {
        int64_t K;
        int group, unit_shift;
        bool permuted;
        int64_t Kx;
    } cases[] = {{4096, 128, 1, false, 4096}, {4096, -1, 31, false, 4096}, {256, 32, -1, false, 256}, {576, 64, 0, false, 576},
                 {300, 128, 1, false, 300},   {192, 96, -1, false, 192},   {200, 40, 0, true, 320},  {4096, 1024, 4, false, 4096}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t seed = 1;
        struct qmatrix q = rnd_qmatrix(64, cases[i].K, 4, cases[i].group, false, &seed);
        struct qwords words = rnd_qwords(&q, &seed);
        struct marlin_shape s;
        assert_int_equal(marlin_plan(&words, &s, NULL), 0);
        assert_int_equal(s.unit_shift, cases[i].unit_shift);
        assert_int_equal(s.permuted, cases[i].permuted);
        assert_int_equal(s.Kx, cases[i].Kx);
        qwords_free(&words);
        qmatrix_free(&q);
    }
}

static void bad_matrices(void **state)
{
    (void)state;
    uint64_t seed = 1;
    struct marlin_shape s;
    struct err e;
    struct qmatrix q = rnd_qmatrix(8, 64, 4, 32, false, &seed);
    struct qwords words = rnd_qwords(&q, &seed);
    q.g_idx[7] = 2;
    assert_int_equal(marlin_plan(&words, &s, &e), -ERR_FORMAT);
    assert_string_equal(e.text, "g_idx[7] is 2, but there are 2 groups");
    q.g_idx[7] = 0;
    q.zeros[8 + 4] = 17;
    assert_int_equal(marlin_plan(&words, &s, &e), -ERR_FORMAT);
    assert_string_equal(e.text, "zero 17 of group 1 at n=4 exceeds 2^4");
    q.zeros[8 + 4] = 16;
    assert_int_equal(marlin_plan(&words, &s, &e), 0);
    words.N = 0;
    assert_int_equal(marlin_plan(&words, &s, &e), -ERR_SHAPE);
    qwords_free(&words);
    qmatrix_free(&q);
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
    struct marlin_shape s;
    uint32_t *codes;
    uint16_t *scales, *zeros;
    int32_t *perm;
};

static struct packed packed_new(const struct qmatrix *q, uint64_t *seed)
{
    struct packed p;
    struct qwords words = rnd_qwords(q, seed);
    assert_int_equal(marlin_plan(&words, &p.s, NULL), 0);
    p.codes = malloc(p.s.code_bytes);
    p.scales = malloc(p.s.scale_bytes);
    p.zeros = p.s.zero_table ? malloc(p.s.zero_bytes) : NULL;
    p.perm = p.s.permuted ? malloc(p.s.perm_bytes) : NULL;
    assert_int_equal(marlin_pack(&words, &p.s, p.codes, p.scales, p.zeros, p.perm, NULL), 0);
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

/* Packed parts put where marlin_place says are what packing the matrices as one gives. */
static void parts_are_the_whole(void **state)
{
    (void)state;
    static const struct {
        int n;
        int64_t N[3], K;
        int bits, group;
        bool scattered, one_zero;
    } cases[] = {{2, {64, 128, 0}, 256, 4, 128, false, true},  {3, {128, 64, 64}, 700, 4, 32, false, false}, {3, {64, 64, 70}, 300, 8, 64, false, false},
                 {3, {128, 64, 64}, 320, 4, 64, true, true}, {2, {192, 5, 0}, 200, 8, -1, false, false}};
    uint64_t seed = 15;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct qmatrix q[3] = {0};
        struct packed p[3];
        const struct marlin_shape *shapes[3];
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
        struct marlin_shape whole;
        assert_true(marlin_join(shapes, n, &whole));
        assert_memory_equal(&whole, &want.s, sizeof whole);
        char *codes = calloc(1, whole.code_bytes), *scales = calloc(1, whole.scale_bytes), *zeros = calloc(1, whole.zero_bytes + 1);
        int64_t from = 0;
        for (int j = 0; j < n; from += q[j++].N) {
            const struct marlin_place at = marlin_place(&p[j].s, &whole, from);
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
    struct marlin_shape a, b, whole, first;
    const struct marlin_shape *two[] = {&a, &b}, *four[] = {&a, &a, &a, &a};
    assert_int_equal(marlin_plan_plain(64, 256, 4, 64, &first, NULL), 0);
    for (int i = 0; i < 8; i++) {
        a = b = first;
        switch (i) {
        case 1: a.N = 64 - 1; break;
        case 2: b.K++; break;
        case 3: b.Kx += 64; break;
        case 4: b.bits = 8; break;
        case 5: b.unit_shift = -1; break;
        case 6: b.permuted = true; break;
        case 7: b.zero = 7; break;
        }
        assert_int_equal(marlin_join(two, 2, &whole), i == 0);
        b.zero_table = i == 0;
        assert_false(marlin_join(two, 2, &whole));
    }
    a = first;
    assert_false(marlin_join(four, 1, &whole));
    assert_true(marlin_join(four, 3, &whole));
    assert_false(marlin_join(four, 4, &whole));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(closed_form_is_the_list),
        cmocka_unit_test(every_place_once),
        cmocka_unit_test(scales_by_vector),
        cmocka_unit_test(x_has_no_conflicts),
        cmocka_unit_test(every_code_every_trick),
        cmocka_unit_test(packed_weights_are_the_weights),
        cmocka_unit_test(plans),
        cmocka_unit_test(bad_matrices),
        cmocka_unit_test(parts_are_the_whole),
        cmocka_unit_test(what_does_not_join),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

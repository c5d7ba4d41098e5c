/* The Marlin kernel itself, run on the CPU thread by thread (tests/kernels/marlin_emu.h), against the product of dequantized weights in f64. */
#include "tests/kernels/emu_problem.h"
#include "tests/kernels/marlin_emulate.h"

struct emu_case {
    int64_t M, N, K;
    int bits, group;
    bool scattered, one_zero;
    enum marlin_act act;
    int rows, wn_log2, stages, sms;
    bool fixed, y_f32, bias_add;
    bool halves; /* M rows of Y from 2 M of X */
    int deal;
};

struct problem {
    struct emu_problem d;
    struct marlin_shape s;
    uint32_t *codes;
    uint16_t *scales, *zeros;
    int32_t *perm;
};

static struct problem problem_new(const struct emu_case *c, uint64_t *seed)
{
    struct qmatrix q = rnd_qmatrix(c->N, c->K, c->bits, c->group, c->scattered, seed);
    for (int64_t z = 0; c->one_zero && z < q.G * q.N; z++)
        q.zeros[z] = (uint8_t)(1 << (c->bits - 1));
    struct problem p = {.d = emu_problem_new(q, c->act, c->M, seed)};
    struct qwords words = rnd_qwords(&q, seed);
    struct err e;
    if (marlin_plan(&words, &p.s, &e))
        fail_msg("%s", e.text);
    p.codes = aligned_alloc(64, p.s.code_bytes);
    p.scales = aligned_alloc(64, p.s.scale_bytes);
    p.zeros = p.s.zero_table ? aligned_alloc(64, p.s.zero_bytes) : NULL;
    p.perm = p.s.permuted ? malloc(p.s.perm_bytes) : NULL;
    if (marlin_pack(&words, &p.s, p.codes, p.scales, p.zeros, p.perm, &e))
        fail_msg("%s", e.text);
    qwords_free(&words);
    emu_problem_gather(&p.d, p.perm, p.s.Kx);
    return p;
}

static void problem_free(struct problem *p)
{
    emu_problem_free(&p->d);
    free(p->codes);
    free(p->scales);
    free(p->zeros);
    free(p->perm);
}

/* Runs the launch; y [M, N + 3] in the output's type, guarded. parts: instead of it, or NULL. */
static void emulate(const struct emu_case *c, const struct problem *p, void *y, const struct emu_parts *parts, uint64_t seed)
{
    struct marlin_device d = {.sms = c->sms, .capability = 90, .block_shared = 227 * 1024, .sm_shared = 228 * 1024};
    struct marlin_config config = {.rows = c->rows, .wn_log2 = c->wn_log2, .stages = c->stages, .blocks = 1, .fixed = c->fixed, .deal = c->deal};
    struct err e;
    const int64_t M = c->halves ? 2 * c->M : c->M;
    if (marlin_config_check(&d, &p->s, M, &config, &e))
        fail_msg("%s", e.text);
    struct marlin_call call = {.shape = &p->s, .weight = {p->codes, p->scales, p->zeros}, .act = c->act, .x = p->d.gathered, .ldx = p->d.ldx, .M = M, .y = y, .ldy = c->N + 3,
                               .y_f32 = c->y_f32, .bias = c->bias_add ? p->d.bias : NULL, .accumulate = c->bias_add, .halves = c->halves};
    for (int i = 0; parts && i < MARLIN_PARTS; i++) {
        const struct marlin_out o = emu_parts_out(parts, i, call.bias);
        if (i)
            call.more[i - 1] = o;
        else
            call.y = o.y, call.ldy = o.ldy;
    }
    size_t bytes = marlin_workspace_bytes(&d, &p->s, M, &config);
    call.workspace = aligned_alloc(64, (bytes + 63) / 64 * 64);
    memset(call.workspace, 0xff, bytes);
    memset(call.workspace, 0, MARLIN_COUNTERS * sizeof(int));
    struct marlin_args a;
    marlin_fill_args(&call, &config, &a);
    if (marlin_check_parts("marlin", a.part, p->s.N, MARLIN_CHUNK, &e))
        fail_msg("%s", e.text);
    a.x = call.x;
    a.M = (int)M;
    a.grid = marlin_make_grid(&d, &p->s, M, &config);
    a.pdl = (int)(seed & 1);
    struct emu_range ranges[] = {{p->codes, p->s.code_bytes}, {p->scales, p->s.scale_bytes}, {p->zeros, p->s.zero_bytes}, {p->d.gathered, (size_t)(M * p->d.ldx) * 2}};
    struct emu_launch l = {.args = &a, .bits = p->s.bits, .bf16 = c->act == MARLIN_BF16, .rows = c->rows, .wn_log2 = c->wn_log2, .slabs = marlin_slabs(&d, &p->s, M, &config),
                           .shared_bytes = marlin_shared_bytes(&p->s, &config), .seed = seed, .late = (int)(seed >> 1 & 1), .ranges = ranges, .range_count = 4};
    assert_int_equal(marlin_emulate(&l), 0);
    for (int i = 0; i < MARLIN_COUNTERS; i++)
        assert_int_equal(((int *)call.workspace)[i], 0);
    free(call.workspace);
}

static double run_case(const struct emu_case *c, const struct problem *p, uint64_t seed, float *out)
{
    struct guarded y = emu_output(&p->d, c->y_f32);
    emulate(c, p, y.at, NULL, seed);
    return emu_error(&p->d, &y, c->y_f32, c->bias_add, c->bias_add, out);
}

/* The same, with outputs from from[0], from[1] on in buffers of their own. */
static double run_joined(const struct emu_case *c, const struct problem *p, const int64_t *from, uint64_t seed, float *out)
{
    struct guarded y = emu_output(&p->d, c->y_f32);
    struct emu_parts parts = emu_parts_new(&p->d, c->y_f32, !c->bias_add, from);
    emulate(c, p, NULL, &parts, seed);
    emu_parts_collect(&parts, &p->d, c->y_f32, &y);
    return emu_error(&p->d, &y, c->y_f32, c->bias_add, c->bias_add, out);
}

/* Bound: f32 sums of exact weights 1e-5; rounded weights or outputs half a unit of 11 or 8 bits each. */
static double bound(const struct emu_case *c)
{
    double unit = c->act == MARLIN_BF16 ? 0x1p-8 : 0x1p-11;
    return 1e-5 + (c->rows > 32 ? 1.5 * unit : 0) + (c->y_f32 ? 0 : unit);
}

static const struct emu_case cases[] = {
    /* M N K bits group scattered one_zero act rows wn stages sms fixed f32 bias halves deal */
    {1, 64, 512, 4, 128, false, true, MARLIN_F16, 8, 0, 4, 1, false, true, false, false, 0},
    {5, 130, 1100, 4, 128, false, true, MARLIN_F16, 8, 0, 3, 5, false, true, true, false, 0},
    {8, 200, 768, 4, 32, false, false, MARLIN_BF16, 8, 1, 4, 7, false, true, false, false, 0},
    {3, 100, 320, 8, 64, true, false, MARLIN_F16, 8, 2, 3, 3, false, true, false, false, 0},
    {7, 128, 640, 8, -1, false, true, MARLIN_BF16, 8, 1, 2, 2, false, false, false, false, 0},
    {16, 128, 1024, 4, 128, false, true, MARLIN_F16, 16, 1, 4, 3, false, true, false, false, 0},
    {13, 192, 600, 4, 64, true, true, MARLIN_BF16, 16, 0, 3, 4, false, true, true, false, 0},
    {16, 70, 256, 8, 32, false, false, MARLIN_F16, 16, 2, 4, 2, false, false, false, false, 0},
    {9, 64, 72, 8, -1, false, true, MARLIN_BF16, 16, 0, 2, 1, false, true, false, false, 0},
    {40, 64, 520, 4, 128, false, true, MARLIN_F16, 16, 1, 3, 4, true, true, false, false, 0},
    {30, 128, 512, 4, 128, false, true, MARLIN_F16, 32, 1, 3, 3, false, true, false, false, 0},
    {70, 64, 200, 4, 40, false, false, MARLIN_BF16, 32, 2, 3, 2, false, true, false, false, 0},
    {32, 130, 320, 8, 32, false, false, MARLIN_BF16, 32, 1, 2, 3, false, true, false, false, 0},
    {48, 64, 384, 4, 32, false, false, MARLIN_F16, 48, 2, 3, 2, false, true, false, false, 0},
    {41, 200, 256, 8, 128, false, true, MARLIN_F16, 48, 1, 2, 3, false, false, false, false, 0},
    {64, 256, 256, 4, 128, false, true, MARLIN_F16, 64, 2, 4, 2, false, true, false, false, 0},
    {130, 100, 192, 4, 64, false, false, MARLIN_BF16, 64, 3, 3, 4, false, true, true, false, 0},
    {64, 64, 256, 8, 32, true, false, MARLIN_BF16, 64, 2, 2, 1, false, true, false, false, 0},
};

static void product(void **state)
{
    (void)state;
    uint64_t seed = 77;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct emu_case *c = &cases[i];
        struct problem p = problem_new(c, &seed);
        size_t n = (size_t)(c->M * c->N);
        float *first = malloc(n * sizeof *first), *again = malloc(n * sizeof *again);
        double error = run_case(c, &p, 4 * i + 2, first); /* late */
        if (!(error <= bound(c)))
            fail_msg("case %zu (M=%lld N=%lld K=%lld, %d bits, %d rows): relative error %g, at most %g", i, (long long)c->M, (long long)c->N, (long long)c->K, c->bits,
                     c->rows, error, bound(c));
        run_case(c, &p, 4 * i + 101, again); /* another order of blocks and warps, data at once, codes before X */
        same_bits(first, again, n, "another order");
        free(first);
        free(again);
        problem_free(&p);
    }
}

/* One row, `row` of the problem, by a tile of `rows`. */
static void alone(const struct emu_case *c, const struct problem *p, int64_t row, int rows, float *out)
{
    struct problem one = *p;
    struct emu_case single = *c;
    single.M = 1;
    single.rows = rows;
    one.d.gathered = p->d.gathered + row * (c->halves ? 2 : 1) * p->d.ldx;
    one.d.ref = p->d.ref + row * c->N;
    one.d.M = 1;
    run_case(&single, &one, 3, out);
}

/* In fixed mode a row's bits depend neither on M, nor on where the row is, nor on the tile: 8, 16 and 32 rows give the same. */
static void rows_alone(void **state)
{
    (void)state;
    static const struct emu_case grouped[] = {
        /* M N K bits group scattered one_zero act rows wn stages sms fixed f32 bias halves deal */
        {37, 96, 1000, 4, 128, false, true, MARLIN_F16, 16, 0, 3, 4, true, true, false, false, 5},
        {37, 96, 1000, 4, 128, false, true, MARLIN_BF16, 32, 1, 2, 4, true, true, true, false, 7},
        {21, 70, 600, 4, 32, true, false, MARLIN_BF16, 32, 0, 2, 4, true, true, true, true, 3},
        {18, 200, 700, 8, 64, false, false, MARLIN_BF16, 16, 2, 3, 4, true, true, false, true, 4},
        {18, 130, 1300, 8, -1, false, true, MARLIN_BF16, 32, 1, 2, 4, true, true, true, true, 6},
    };
    static const int tiles[] = {8, 16, 32};
    uint64_t seed = 8;
    for (size_t i = 0; i < sizeof grouped / sizeof *grouped; i++) {
        const struct emu_case *c = &grouped[i];
        struct problem p = problem_new(c, &seed);
        if (c->halves)
            emu_problem_halve(&p.d, p.perm, p.s.Kx);
        float *all = malloc((size_t)(c->M * c->N) * sizeof *all), *one = malloc((size_t)c->N * sizeof *one);
        double error = run_case(c, &p, 2, all);
        if (!(error <= (c->halves ? 1e-5 : bound(c))))
            fail_msg("fixed case %zu: relative error %g", i, error);
        const int64_t rows[] = {0, 3, 8, 16, c->M - 1};
        for (int r = 0; r < 5; r++)
            for (int t = 0; t < 3; t++) {
                alone(c, &p, rows[r], tiles[t], one);
                same_bits(all + rows[r] * c->N, one, (size_t)c->N, "a row alone");
            }
        free(all);
        free(one);
        problem_free(&p);
    }
}

/* Joined matrices: tiles inside a part, across two and across three; tiles split along K; a last part that fills no strip. The bits of one matrix. */
static void joined(void **state)
{
    (void)state;
    static const struct {
        struct emu_case c;
        int64_t from[MARLIN_PARTS - 1];
    } all[] = {
        /* M N K bits group scattered one_zero act rows wn stages sms fixed f32 bias halves deal, from */
        {{1, 256, 1000, 4, 128, false, true, MARLIN_BF16, 8, 0, 3, 4, true, true, false, true, 6}, {128, 192}},
        {{3, 262, 700, 4, 128, false, true, MARLIN_BF16, 8, 2, 3, 4, true, true, true, true, 5}, {64, 192}},
        {{5, 198, 520, 8, 32, false, false, MARLIN_BF16, 8, 1, 2, 3, true, true, true, true, 3}, {64, 0}},
        {{18, 200, 600, 4, 64, true, true, MARLIN_BF16, 16, 2, 3, 4, true, true, false, true, 4}, {64, 128}},
        {{37, 130, 400, 8, -1, false, true, MARLIN_BF16, 32, 1, 2, 4, true, true, true, true, 7}, {64, 128}},
        {{13, 192, 600, 4, 64, false, true, MARLIN_F16, 16, 1, 3, 4, false, true, true, false, 0}, {128, 0}},
        {{41, 256, 256, 4, 128, false, true, MARLIN_F16, 48, 2, 2, 3, false, true, false, false, 0}, {64, 128}},
        {{64, 300, 256, 8, 128, false, true, MARLIN_BF16, 64, 3, 2, 3, false, false, false, false, 0}, {128, 256}},
    };
    uint64_t seed = 21;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const struct emu_case *c = &all[i].c;
        struct problem p = problem_new(c, &seed);
        if (c->halves)
            emu_problem_halve(&p.d, p.perm, p.s.Kx);
        size_t n = (size_t)(c->M * c->N);
        float *one = malloc(n * sizeof *one), *parts = malloc(n * sizeof *parts);
        double error = run_joined(c, &p, all[i].from, 4 * i + 2, parts);
        if (!(error <= bound(c)))
            fail_msg("joined case %zu: relative error %g, at most %g", i, error, bound(c));
        run_case(c, &p, 4 * i + 101, one);
        same_bits(one, parts, n, "joined, and one matrix");
        free(one);
        free(parts);
        problem_free(&p);
    }
}

/* What marlin_check_parts refuses. */
static void bad_parts(void **state)
{
    (void)state;
    static const struct {
        int64_t from[MARLIN_PARTS - 1], ldy[MARLIN_PARTS];
        const char *text;
    } all[] = {{{64, 128}, {64, 64, 64}, NULL},
               {{128, 0}, {128, 64, 0}, NULL},
               {{96, 0}, {96, 96, 0}, "kernel k: part 1 of 192 outputs begins at 96: no multiple of 64 behind the part before"},
               {{128, 64}, {128, 64, 64}, "kernel k: part 2 of 192 outputs begins at 64: no multiple of 64 behind the part before"},
               {{0, 64}, {192, 64, 128}, "kernel k: part 2 of 192 outputs begins at 64: no multiple of 64 behind the part before"},
               {{64, 192}, {64, 128, 1}, "kernel k: part 2 of 192 outputs begins at 192: no multiple of 64 behind the part before"},
               {{64, 128}, {64, 63, 64}, "kernel k: rows of Y hold 63 elements, N is 64"}};
    float y[4] = {0};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct marlin_part part[MARLIN_PARTS];
        const struct marlin_out first = {.y = y, .ldy = all[i].ldy[0]}, more[] = {{all[i].from[0], y, all[i].ldy[1], NULL}, {all[i].from[1], y, all[i].ldy[2], NULL}};
        struct err e = {.text = ""};
        marlin_fill_parts(part, &first, more, 192, 2, 4);
        assert_int_equal(marlin_check_parts("k", part, 192, 64, &e), all[i].text ? -ERR_SHAPE : 0);
        if (all[i].text)
            assert_string_equal(e.text, all[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(product),
        cmocka_unit_test(rows_alone),
        cmocka_unit_test(joined),
        cmocka_unit_test(bad_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

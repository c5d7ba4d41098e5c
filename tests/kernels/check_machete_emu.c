/* The Machete kernel itself, run on the CPU cluster by cluster, thread by thread (tests/kernels/machete_emu.h), against the product of dequantized weights in f64. */
#include "tests/kernels/emu_problem.h"
#include "tests/kernels/machete_emulate.h"

struct emu_case {
    int64_t M, N, K;
    int bits, group;
    bool scattered, one_zero;
    enum marlin_act act;
    int rows, wide, stages, split, share, sms;
    bool y_f32, bias_add;
    bool vectors; /* rows of Y that four outputs can be stored to at once: then the bias is added, Y not */
    bool halves;  /* M rows of Y from 2 M of X */
    int spans;    /* 0: split */
};

struct problem {
    struct emu_problem d;
    struct machete_shape s;
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
    if (machete_plan(&words, &p.s, &e))
        fail_msg("%s", e.text);
    p.codes = aligned_alloc(64, p.s.code_bytes);
    p.scales = aligned_alloc(64, p.s.scale_bytes);
    p.zeros = p.s.zero_table ? aligned_alloc(64, p.s.zero_bytes) : NULL;
    p.perm = p.s.permuted ? malloc(p.s.perm_bytes) : NULL;
    if (machete_pack(&words, &p.s, p.codes, p.scales, p.zeros, p.perm, &e))
        fail_msg("%s", e.text);
    qwords_free(&words);
    if (c->vectors)
        p.d.ldy = (c->N + 3) / 4 * 4;
    if (c->halves)
        emu_problem_halve(&p.d, p.perm, p.s.Kx);
    else
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

static struct machete_device device_of(const struct emu_case *c)
{
    struct machete_device d = {.sms = c->sms, .capability = 90, .block_shared = 227 * 1024, .sm_shared = 228 * 1024};
    for (int n = 1; n <= MACHETE_CLUSTER_MAX; n++)
        d.clusters[0][n] = c->sms / n;
    return d;
}

static struct machete_config config_of(const struct emu_case *c)
{
    return (struct machete_config){.rows = c->rows, .wide = c->wide, .stages = c->stages, .blocks = 1, .split = c->split, .share = c->share, .spans = c->spans};
}

/* parts: instead of y, or NULL. */
static void emulate(const struct emu_case *c, const struct problem *p, void *y, const struct emu_parts *parts, uint64_t seed)
{
    const struct machete_device d = device_of(c);
    const struct machete_config config = config_of(c);
    const int64_t M = c->halves ? 2 * c->M : c->M;
    struct err e;
    if (machete_config_check(&d, &p->s, M, &config, &e))
        fail_msg("%s", e.text);
    struct machete_call call = {.shape = &p->s, .weight = {p->codes, p->scales, p->zeros}, .act = c->act, .x = p->d.gathered, .ldx = p->d.ldx, .M = M, .y = y, .ldy = p->d.ldy,
                                .y_f32 = c->y_f32, .bias = c->bias_add ? p->d.bias : NULL, .accumulate = c->bias_add && !c->vectors, .halves = c->halves};
    for (int i = 0; parts && i < MARLIN_PARTS; i++) {
        const struct marlin_out o = emu_parts_out(parts, i, call.bias);
        if (i)
            call.more[i - 1] = o;
        else
            call.y = o.y, call.ldy = o.ldy;
    }
    struct machete_args a;
    machete_fill_args(&d, &call, &config, &a);
    for (int i = 0; i < (parts ? parts->n : 1); i++)
        assert_true(a.part[i].together || !c->vectors);
    if (marlin_check_parts("machete", a.part, p->s.N, MACHETE_N, &e))
        fail_msg("%s", e.text);
    struct machete_range ranges[] = {{p->codes, p->s.code_bytes}, {p->scales, p->s.scale_bytes}, {p->zeros, p->s.zero_bytes}};
    struct machete_emu_launch l = {.args = &a, .x = p->d.gathered, .ldx = p->d.ldx, .Kx = p->s.Kx, .bits = p->s.bits, .bf16 = c->act == MARLIN_BF16, .rows = c->rows,
                                   .wide = c->wide, .shared_bytes = machete_shared_bytes(&p->s, &config), .seed = seed, .late = (int)(seed >> 1 & 1), .ranges = ranges,
                                   .range_count = 3};
    assert_int_equal(machete_emulate(&l), 0);
}

static double run_case(const struct emu_case *c, const struct problem *p, uint64_t seed, float *out)
{
    struct guarded y = emu_output(&p->d, c->y_f32);
    emulate(c, p, y.at, NULL, seed);
    return emu_error(&p->d, &y, c->y_f32, c->bias_add, c->bias_add && !c->vectors, out);
}

/* The same, with outputs from from[0], from[1] on in buffers of their own. */
static double run_joined(const struct emu_case *c, const struct problem *p, const int64_t *from, uint64_t seed, float *out)
{
    struct guarded y = emu_output(&p->d, c->y_f32);
    struct emu_parts parts = emu_parts_new(&p->d, c->y_f32, c->vectors, from);
    emulate(c, p, NULL, &parts, seed);
    emu_parts_collect(&parts, &p->d, c->y_f32, &y);
    return emu_error(&p->d, &y, c->y_f32, c->bias_add, c->bias_add && !c->vectors, out);
}

/* Bound: f32 sums of exact weights 1e-5; rounded weights or outputs half a unit of 11 or 8 bits each. */
static double bound(const struct emu_case *c)
{
    double unit = c->act == MARLIN_BF16 ? 0x1p-8 : 0x1p-11;
    return 1e-5 + (machete_exact(c->rows, c->wide) ? 0 : 1.5 * unit) + (c->y_f32 ? 0 : unit);
}

static const struct emu_case cases[] = {
    /* M N K bits group scattered one_zero act rows wide stages split share sms f32 bias vectors halves spans */
    {1, 128, 512, 4, 128, false, true, MARLIN_F16, 8, 1, 4, 1, 1, 1, true, false, false, false, 0},
    {5, 130, 1100, 4, 128, false, true, MARLIN_F16, 8, 1, 3, 2, 1, 4, true, true, false, false, 0},
    {8, 300, 768, 4, 32, false, false, MARLIN_BF16, 8, 1, 2, 3, 1, 3, true, false, false, false, 0},
    {3, 100, 320, 8, 64, true, false, MARLIN_F16, 8, 1, 3, 1, 1, 2, true, false, false, false, 0},
    {7, 128, 640, 8, -1, false, true, MARLIN_BF16, 8, 1, 2, 5, 1, 5, false, false, false, false, 0},
    {16, 128, 1024, 4, 128, false, true, MARLIN_F16, 16, 1, 4, 8, 1, 8, true, false, false, false, 0},
    {13, 192, 600, 4, 64, true, true, MARLIN_BF16, 16, 1, 3, 4, 1, 4, true, true, false, false, 0},
    {16, 70, 256, 8, 32, false, false, MARLIN_F16, 16, 1, 4, 2, 1, 2, false, false, false, false, 0},
    {9, 64, 72, 8, -1, false, true, MARLIN_BF16, 16, 1, 2, 1, 1, 1, true, false, false, false, 0},
    {40, 260, 520, 4, 256, false, true, MARLIN_F16, 16, 1, 3, 2, 1, 4, true, true, false, false, 0},
    {30, 128, 512, 4, 128, false, true, MARLIN_F16, 32, 1, 3, 1, 1, 1, true, false, false, false, 0},
    {70, 160, 200, 4, 40, false, false, MARLIN_BF16, 32, 1, 3, 2, 1, 4, true, false, false, false, 0},
    {32, 130, 320, 8, 32, false, false, MARLIN_BF16, 32, 1, 2, 3, 1, 3, true, false, false, false, 0},
    {33, 384, 256, 4, 64, false, false, MARLIN_F16, 32, 1, 4, 1, 2, 2, true, false, false, false, 0},
    {20, 300, 384, 8, 64, false, true, MARLIN_BF16, 16, 1, 2, 1, 2, 4, false, false, false, false, 0},
    {64, 256, 384, 4, 32, false, false, MARLIN_F16, 64, 1, 3, 1, 1, 1, true, false, false, false, 0},
    {41, 200, 520, 8, 128, false, true, MARLIN_F16, 64, 1, 2, 4, 1, 4, false, false, false, false, 0},
    {130, 390, 200, 4, 64, false, false, MARLIN_BF16, 64, 1, 3, 1, 2, 4, true, true, false, false, 0},
    {100, 300, 256, 4, 128, false, true, MARLIN_F16, 128, 1, 4, 1, 2, 2, true, false, false, false, 0},
    {129, 128, 192, 8, 32, true, false, MARLIN_BF16, 128, 1, 3, 2, 1, 2, true, false, false, false, 0},
    {300, 130, 128, 4, 128, false, true, MARLIN_BF16, 256, 1, 3, 1, 1, 3, false, false, false, false, 0},
    {257, 256, 192, 8, 64, false, false, MARLIN_F16, 256, 1, 2, 1, 2, 2, true, false, false, false, 0},
    {130, 300, 256, 4, 32, false, false, MARLIN_F16, 128, 2, 3, 1, 1, 2, true, true, false, false, 0},
    {128, 600, 192, 8, 128, false, true, MARLIN_BF16, 128, 2, 2, 1, 2, 2, true, false, false, false, 0},
    {60, 256, 320, 4, 64, false, true, MARLIN_BF16, 128, 2, 2, 3, 1, 3, true, false, false, false, 0},
    /* ... vectors */
    {5, 131, 400, 4, 128, false, true, MARLIN_F16, 8, 1, 3, 1, 1, 2, true, true, true, false, 0},
    {20, 262, 300, 8, 64, false, true, MARLIN_BF16, 16, 1, 2, 2, 1, 2, false, true, true, false, 0},
    {40, 300, 300, 4, 64, false, false, MARLIN_F16, 32, 1, 2, 1, 2, 2, false, false, true, false, 0},
    {130, 390, 200, 4, 64, false, false, MARLIN_BF16, 64, 1, 3, 1, 1, 2, true, false, true, false, 0},
    /* ... one scale for all of K, longer than sums go unsettled */
    {9, 128, 4800, 4, -1, false, true, MARLIN_F16, 16, 1, 3, 2, 1, 2, true, false, false, false, 0},
    /* ... halves: several tiles a block, and rows of the last tile that are none */
    {21, 300, 400, 4, 64, false, true, MARLIN_BF16, 32, 1, 3, 1, 1, 2, true, true, false, true, 0},
    {7, 200, 600, 8, 32, true, false, MARLIN_BF16, 16, 1, 2, 4, 1, 4, true, false, true, true, 0},
    {37, 260, 300, 4, 128, false, false, MARLIN_BF16, 32, 1, 2, 1, 2, 2, true, true, true, true, 0},
    {3, 130, 520, 4, -1, false, true, MARLIN_BF16, 8, 1, 4, 2, 1, 2, true, false, false, true, 0},
    {70, 130, 400, 4, 128, false, true, MARLIN_BF16, 128, 1, 2, 2, 1, 2, true, true, true, true, 0},
    {33, 260, 520, 8, 32, true, false, MARLIN_BF16, 64, 1, 2, 1, 2, 2, true, true, false, true, 0},
    {65, 100, 300, 4, 64, false, false, MARLIN_BF16, 128, 1, 2, 1, 1, 1, false, false, true, true, 0},
    /* ... spans of K that a block goes through by itself: several tiles a block, X shared, a short last span */
    {40, 300, 900, 4, 128, false, true, MARLIN_F16, 32, 1, 3, 1, 1, 2, true, true, false, false, 5},
    {70, 400, 700, 8, 64, true, false, MARLIN_BF16, 64, 1, 2, 1, 2, 2, true, false, true, true, 3},
    {150, 200, 640, 4, 32, false, false, MARLIN_BF16, 128, 1, 3, 1, 1, 1, true, true, true, true, 2},
    {129, 300, 400, 4, -1, false, true, MARLIN_F16, 128, 1, 2, 1, 2, 2, false, false, false, false, 4},
};

/* Against the reference, with copies as late as can be; then the same bits with another order of warps and clusters, and copies whenever. */
static void check_case(const struct emu_case *c, const struct problem *p, const char *which, size_t number)
{
    size_t n = (size_t)(c->M * c->N);
    float *first = malloc(n * sizeof *first), *again = malloc(n * sizeof *again);
    double error = run_case(c, p, 4 * number + 2, first);
    if (!(error <= bound(c)))
        fail_msg("%s %zu (M=%lld N=%lld K=%lld, %d bits, %d x %d rows, split %d, share %d): relative error %g, at most %g", which, number, (long long)c->M, (long long)c->N,
                 (long long)c->K, c->bits, c->rows, c->wide, c->split, c->share, error, bound(c));
    run_case(c, p, 4 * number + 101, again);
    same_bits(first, again, n, "another order");
    free(first);
    free(again);
}

static void product(void **state)
{
    (void)state;
    uint64_t seed = 77;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct problem p = problem_new(&cases[i], &seed);
        check_case(&cases[i], &p, "case", i);
        problem_free(&p);
    }
}

/* A case drawn: any tile, any cluster, sizes around those of the tile. */
static struct emu_case draw_case(uint64_t *seed)
{
    static const int tiles[][2] = {
#define MACHETE(rows, wide, scaled, blocks, sm) {rows, wide},
#include "kernels/cuda/machete.def"
#undef MACHETE
    };
    static const int groups[] = {-1, 32, 64, 128, 96, 40, 256};
    const int t = (int)(rnd(seed) % (sizeof tiles / sizeof *tiles));
    struct emu_case c = {.rows = tiles[t][0], .wide = tiles[t][1], .split = 1, .share = 1};
    c.M = 1 + (int64_t)(rnd(seed) % (uint64_t)(c.rows + 20));
    c.N = 64 + (int64_t)(rnd(seed) % 450); /* a relative error needs some outputs to be one */
    c.K = 1 + (int64_t)(rnd(seed) % (c.rows > 32 ? 400 : 1000));
    c.bits = rnd(seed) & 1 ? 8 : 4;
    c.group = groups[rnd(seed) % (sizeof groups / sizeof *groups)];
    c.scattered = rnd(seed) % 4 == 0;
    c.one_zero = rnd(seed) & 1;
    c.act = rnd(seed) & 1 ? MARLIN_BF16 : MARLIN_F16;
    c.y_f32 = rnd(seed) & 1;
    c.bias_add = rnd(seed) & 1;
    c.vectors = rnd(seed) & 1;
    c.halves = machete_exact(c.rows, c.wide) && c.act == MARLIN_BF16 && rnd(seed) & 1;
    c.stages = 2 + (int)(rnd(seed) % 4);
    if (rnd(seed) % 3 == 0)
        c.share = 2;
    if (machete_can_hold(c.rows, c.wide) && rnd(seed) & 1)
        c.spans = 1 + (int)(rnd(seed) % MACHETE_CLUSTER_MAX);
    else if (c.share == 1)
        c.split = 1 + (int)(rnd(seed) % MACHETE_CLUSTER_MAX);
    c.sms = c.split * c.share * (1 + (int)(rnd(seed) % 3));
    return c;
}

/* How many, and from which seed: check_machete_emu COUNT SEED runs others. */
static size_t drawn_cases = 10;
static uint64_t drawn_seed = 4;

static void drawn(void **state)
{
    (void)state;
    uint64_t seed = drawn_seed;
    for (size_t i = 0; i < drawn_cases;) {
        struct emu_case c = draw_case(&seed);
        if (c.group > c.K)
            c.group = -1;
        struct problem p = problem_new(&c, &seed);
        const struct machete_device d = device_of(&c);
        const struct machete_config config = config_of(&c);
        if (!machete_config_check(&d, &p.s, c.M, &config, NULL)) /* more splits than steps, more stages than fit: another */
            check_case(&c, &p, "drawn case", i++);
        problem_free(&p);
    }
}

/* Row `row` of the problem, alone or (M > 1) with those behind it, as the case says. */
static void some_rows(const struct emu_case *c, const struct problem *p, int64_t row, uint64_t seed, float *out)
{
    struct problem some = *p;
    some.d.M = c->M;
    some.d.gathered = p->d.gathered + row * (c->halves ? 2 : 1) * p->d.ldx;
    some.d.ref = p->d.ref + row * c->N;
    run_case(c, &some, seed, out);
}

/* In fixed mode a row's bits depend neither on M, nor on where the row is, nor on the tile, nor on whether a cluster has the spans of K or one block: all give what 32 rows by a
 * cluster do. */
static void rows_alone(void **state)
{
    (void)state;
    static const struct emu_case grouped[] = {
        {140, 200, 1000, 4, 128, false, true, MARLIN_F16, 32, 1, 3, 3, 1, 6, true, false, false, false, 0},
        {70, 200, 900, 4, 64, true, false, MARLIN_BF16, 32, 1, 3, 2, 1, 4, true, true, false, true, 0},
        {39, 130, 1300, 8, -1, false, true, MARLIN_BF16, 32, 1, 2, 1, 1, 2, true, false, true, true, 0},
        {66, 130, 700, 8, 32, false, false, MARLIN_BF16, 32, 1, 2, 5, 1, 5, true, true, true, true, 0},
        {66, 70, 2500, 4, -1, false, true, MARLIN_BF16, 32, 1, 2, 2, 1, 4, true, true, false, true, 0},
    };
    static const int tiles[] = {32, 64, 128};
    uint64_t seed = 8;
    for (size_t g = 0; g < sizeof grouped / sizeof *grouped; g++) {
        const struct emu_case *c = &grouped[g];
        const size_t n = (size_t)(c->M * c->N);
        struct problem p = problem_new(c, &seed);
        float *first = malloc(n * sizeof *first), *all = malloc(n * sizeof *all), *alone = malloc((size_t)c->N * sizeof *alone);
        assert_true(run_case(c, &p, 2, first) <= bound(c));
        for (int t = 0; t < 6; t++) { /* by a cluster; by one block, with or without another for X */
            struct emu_case other = *c, single;
            other.rows = tiles[t / 2];
            other.spans = c->split;
            other.split = t % 2 ? 1 : c->split;
            other.share = t % 2 ? 1 + t / 2 % 2 : 1;
            other.stages = 2;
            some_rows(&other, &p, 0, 5, all);
            same_bits(first, all, n, "another tile");
            single = other;
            single.M = 1;
            const int64_t row = t == 0 ? c->M - 1 : t == 1 ? 16 : t == 2 ? 31 : t;
            some_rows(&single, &p, row, 3, alone);
            same_bits(first + row * c->N, alone, (size_t)c->N, "a row alone");
        }
        free(first);
        free(all);
        free(alone);
        problem_free(&p);
    }
}

/* Joined matrices: tiles of 256 outputs across two parts, K split over a cluster, a last part that fills no stripe. The bits of one matrix. */
static void joined(void **state)
{
    (void)state;
    static const struct {
        struct emu_case c;
        int64_t from[MARLIN_PARTS - 1];
    } all[] = {
        /* M N K bits group scattered one_zero act rows wide stages split share sms f32 bias vectors halves spans, from */
        {{1, 390, 512, 4, 128, false, true, MARLIN_BF16, 32, 1, 3, 1, 1, 2, true, false, true, true, 0}, {128, 256}},
        {{5, 390, 640, 4, 128, false, true, MARLIN_BF16, 32, 1, 2, 3, 1, 6, true, true, false, true, 0}, {128, 256}},
        {{18, 300, 400, 8, 32, false, false, MARLIN_BF16, 32, 1, 3, 2, 1, 4, true, true, true, true, 0}, {256, 0}},
        {{13, 256, 320, 4, 64, true, true, MARLIN_F16, 16, 1, 3, 2, 1, 4, false, true, false, false, 0}, {128, 0}},
        {{20, 512, 256, 4, 128, false, true, MARLIN_F16, 16, 1, 3, 1, 2, 4, true, false, true, false, 0}, {256, 384}},
        {{130, 400, 192, 8, 64, false, true, MARLIN_BF16, 128, 2, 2, 1, 1, 2, false, false, true, false, 0}, {128, 256}},
        {{70, 390, 640, 4, 128, false, true, MARLIN_BF16, 64, 1, 2, 1, 1, 3, true, true, false, true, 2}, {128, 256}},
        {{70, 300, 640, 8, 64, false, false, MARLIN_BF16, 128, 1, 2, 1, 1, 3, true, true, true, true, 3}, {128, 256}},
    };
    uint64_t seed = 23;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const struct emu_case *c = &all[i].c;
        struct problem p = problem_new(c, &seed);
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

int main(int argc, char **argv)
{
    if (argc > 2) {
        drawn_cases = strtoull(argv[1], NULL, 10);
        drawn_seed = strtoull(argv[2], NULL, 10);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(product),
        cmocka_unit_test(drawn),
        cmocka_unit_test(rows_alone),
        cmocka_unit_test(joined),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

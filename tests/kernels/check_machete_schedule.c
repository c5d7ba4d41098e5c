/* The Machete kernel's division of work: properties for many sizes and numbers of SMs, the configs that machete_choose picks, and what it refuses. */
#include "tests/kernels/util.h"

#include "kernels/cuda/machete_launch.h"

static const int sm_counts[] = {1, 7, 72, 108, 114, 132, 170, 188};
enum { SMS = sizeof sm_counts / sizeof *sm_counts };

/* Clusters of n that fit: no more than 16 SMs of a kind can be a cluster's neighbours, so some are left over. */
static struct machete_device device(int sms)
{
    struct machete_device d = {.sms = sms, .capability = 90, .block_shared = 227 * 1024, .sm_shared = 228 * 1024};
    for (int n = 1; n <= MACHETE_CLUSTER_MAX; n++)
        for (int blocks = 1; blocks <= 2; blocks++)
            d.clusters[blocks - 1][n] = sms / 16 * (16 * blocks / n) + sms % 16 * blocks / n;
    return d;
}

static struct machete_shape shape(int64_t N, int64_t K, int bits, int unit_shift, bool zero_table)
{
    struct machete_shape s;
    assert_int_equal(machete_plan_plain(N, K, bits, -1, &s, NULL), 0);
    s.unit_shift = unit_shift;
    s.zero_table = zero_table;
    return s;
}

/* Walks the tiles of all clusters and the steps of all blocks as the kernel does: every step of every tile once, those of a tile in the order of spans, nearly equal ones. */
static void check_grid(const struct machete_grid *g)
{
    const int n_tiles = g->n_places * g->share, size = g->split * g->share;
    const size_t units = (size_t)g->m_tiles * (size_t)n_tiles * (size_t)g->k_steps;
    unsigned char *seen = calloc(units, 1);
    assert_true(g->clusters >= 1 && g->clusters <= g->tiles);
    for (int cluster = 0; cluster < g->clusters; cluster++)
        for (int rank = 0; rank < size; rank++) {
            const int from = machete_first_span(g, rank), to = machete_end_span(g, rank);
            assert_int_equal(to - from, g->spans / g->split);
            for (int t = cluster; t < g->tiles; t += g->clusters)
                for (int span = from; span < to; span++) {
                    const int first = machete_first_step(g, span), end = machete_first_step(g, span + 1);
                    assert_true(first < end && end - first <= g->k_steps / g->spans + 1 && end - first >= g->k_steps / g->spans);
                    struct machete_tile p = machete_tile_at(g, t);
                    int n = p.n * g->share + (g->share > 1 ? rank : 0);
                    assert_true(p.m >= 0 && p.m < g->m_tiles && n >= 0 && n < n_tiles);
                    for (int step = first; step < end; step++) {
                        size_t unit = ((size_t)p.m * (size_t)n_tiles + (size_t)n) * (size_t)g->k_steps + (size_t)step;
                        assert_false(seen[unit]);
                        seen[unit] = 1;
                    }
                }
        }
    for (size_t u = 0; u < units; u++)
        assert_true(seen[u]);
    assert_int_equal(machete_first_step(g, 0), 0);
    assert_int_equal(machete_first_step(g, g->spans), g->k_steps);
    free(seen);
}

static void every_step_once(void **state)
{
    (void)state;
    uint64_t seed = 3;
    for (int i = 0; i < 3000; i++) {
        struct machete_grid g = {.m_tiles = (int)(1 + rnd(&seed) % 40), .n_places = (int)(1 + rnd(&seed) % 20), .k_steps = (int)(8 + rnd(&seed) % 20)};
        g.spans = (int)(1 + rnd(&seed) % 8);
        g.split = rnd(&seed) % 2 ? g.spans : 1;
        g.share = g.split > 1 ? 1 : (int)(1 + rnd(&seed) % 2);
        g.tiles = g.m_tiles * g.n_places;
        g.clusters = (int)(1 + rnd(&seed) % (uint64_t)g.tiles);
        check_grid(&g);
    }
}

/* Tiles that run at a time are few places along N by up to MACHETE_M_GROUP row tiles: the codes of a place are read by neighbours in time. */
static void places_stay_together(void **state)
{
    (void)state;
    struct machete_grid g = {.m_tiles = 40, .n_places = 9, .k_steps = 8, .spans = 1, .split = 1, .share = 1, .clusters = 1, .tiles = 360};
    for (int t = 1; t < g.tiles; t++) {
        struct machete_tile before = machete_tile_at(&g, t - 1), p = machete_tile_at(&g, t);
        bool next_row = p.n == before.n && p.m == before.m + 1, next_place = p.n == before.n + 1 && p.m % MACHETE_M_GROUP == 0;
        bool next_group = p.n == 0 && p.m == before.m + 1 && p.m % MACHETE_M_GROUP == 0;
        assert_true(next_row || next_place || next_group);
    }
}

static void chosen_configs_run(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{128, 128}, {1, 1}, {4096, 4096}, {6144, 4096}, {28672, 4096}, {4096, 14336}, {7168, 576}, {8192, 28672}, {128256, 4096}};
    static const int64_t Ms[] = {1, 2, 7, 8, 9, 15, 16, 17, 32, 33, 64, 65, 128, 257, 1024, 4096, 100000};
    for (int i = 0; i < SMS; i++)
        for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++)
            for (size_t m = 0; m < sizeof Ms / sizeof *Ms; m++)
                for (int v = 0; v < 12; v++) {
                    struct machete_device d = device(sm_counts[i]);
                    struct machete_shape s = shape(sizes[n][0], sizes[n][1], v & 1 ? 8 : 4, v / 4 - 1, v >> 1 & 1);
                    struct machete_config c;
                    struct err e;
                    for (int mode = MARLIN_FAST; mode <= MARLIN_FIXED; mode++) {
                        machete_choose(&d, &s, Ms[m], mode, &c);
                        if (machete_config_check(&d, &s, Ms[m], &c, &e))
                            fail_msg("N=%lld K=%lld M=%lld: %s", (long long)s.N, (long long)s.K, (long long)Ms[m], e.text);
                        assert_true(machete_shared_bytes(&s, &c) <= (size_t)d.block_shared);
                        struct machete_grid g = machete_make_grid(&d, &s, Ms[m], &c);
                        assert_true(g.clusters * c.split * c.share <= sm_counts[i] * c.blocks);
                        if (v == 0 && (int64_t)g.tiles * g.share * g.k_steps < 100000)
                            check_grid(&g);
                    }
                }
}

static const int64_t fixed_sizes[][2] = {{64, 64}, {1000, 300}, {4096, 4096}, {6144, 4096}, {4096, 14336}, {28672, 4096}, {128256, 4096}};

/* In fixed mode what decides bits does not know M: the spans of K, made of steps that are alike, of exact weights. How tall the tile is and whether a cluster shares it does; many
 * rows are taken 128 at a time, by blocks that go through all spans themselves. */
static void fixed_order(void **state)
{
    (void)state;
    static const int64_t Ms[] = {2, 16, 32, 33, 64, 65, 256, 1000, 2048, 100000};
    struct machete_device d = device(132);
    bool held = false;
    for (size_t i = 0; i < sizeof fixed_sizes / sizeof *fixed_sizes; i++)
        for (int v = 0; v < 12; v++) {
            struct machete_shape s = shape(fixed_sizes[i][0], fixed_sizes[i][1], v & 1 ? 8 : 4, v / 4 - 1, v >> 1 & 1);
            struct machete_config one, many;
            machete_choose(&d, &s, 1, MARLIN_FIXED, &one);
            const struct machete_grid a = machete_make_grid(&d, &s, 1, &one);
            assert_int_equal(one.rows, 32);
            for (size_t m = 0; m < sizeof Ms / sizeof *Ms; m++) {
                machete_choose(&d, &s, Ms[m], MARLIN_FIXED, &many);
                const struct machete_grid b = machete_make_grid(&d, &s, Ms[m], &many);
                assert_true(a.spans == b.spans && a.k_steps == b.k_steps);
                assert_int_equal(machete_step_blocks(many.rows, many.wide), machete_step_blocks(32, 1));
                assert_true(machete_exact(many.rows, many.wide));
                assert_true(many.rows >= 32 && (many.rows == 32 || many.rows < 2 * Ms[m])); /* not taller than rows fill by half */
                held |= machete_holds(&b);
            }
            assert_true(many.rows == 128 && many.split == 1);
        }
    assert_true(held);
}

/* What decides the bits of a fixed order, as one number: see check_marlin_schedule.c. */
static void fixed_order_is_kept(void **state)
{
    (void)state;
    uint64_t digest = 0xcbf29ce484222325u; /* FNV-1a, by numbers */
    for (int i = 0; i < SMS; i++)
        for (size_t n = 0; n < sizeof fixed_sizes / sizeof *fixed_sizes; n++)
            for (int v = 0; v < 12; v++) {
                struct machete_device d = device(sm_counts[i]);
                struct machete_shape s = shape(fixed_sizes[n][0], fixed_sizes[n][1], v & 1 ? 8 : 4, v / 4 - 1, v >> 1 & 1);
                struct machete_config c;
                machete_choose(&d, &s, 1, MARLIN_FIXED, &c);
                const struct machete_grid g = machete_make_grid(&d, &s, 1, &c);
                const int numbers[] = {g.spans, g.k_steps};
                for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++)
                    digest = (digest ^ (uint64_t)numbers[k]) * 0x100000001b3u;
            }
    assert_int_equal(digest, 0xc9a525c829b3fd25u); /* of PLUGIN_REVISION 3 and 4 */
}

/* What the table says for the shapes it was made for. A change of the table changes this, and should be meant. */
static void predictions(void **state)
{
    (void)state;
    static const struct {
        int64_t N, K, M;
        int rows, wide, split;
    } cases[] = {{4096, 4096, 1, 8, 1, 8}, {28672, 4096, 1, 8, 1, 1}, {4096, 4096, 16, 16, 1, 8}, {28672, 4096, 4096, 256, 1, 1}};
    struct machete_device d = device(132);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct machete_shape s = shape(cases[i].N, cases[i].K, 4, 1, false);
        struct machete_config c;
        machete_choose(&d, &s, cases[i].M, MARLIN_FAST, &c);
        if (c.rows != cases[i].rows || c.wide != cases[i].wide || c.split != cases[i].split)
            fail_msg("N=%lld K=%lld M=%lld: %d rows, %d wide, split %d, share %d", (long long)s.N, (long long)s.K, (long long)cases[i].M, c.rows, c.wide, c.split, c.share);
    }
}

static void refused(const struct machete_device *d, const struct machete_shape *s, int64_t M, struct machete_config c, const char *text)
{
    struct err e;
    assert_int_equal(machete_config_check(d, s, M, &c, &e), -ERR_UNSUPPORTED);
    assert_string_equal(e.text, text);
}

static void bad_configs(void **state)
{
    (void)state;
    struct machete_device d = device(132), old = d;
    struct machete_shape s = shape(4096, 512, 4, 1, false);
    const struct machete_config good = {8, 1, 8, 1, 2, 1, 0};
    struct machete_config c = good;
    assert_int_equal(machete_config_check(&d, &s, 1, &c, NULL), 0);
    old.capability = 100;
    refused(&old, &s, 1, good, "kernel machete needs compute capability 9.0, the device has 10.0");
    refused(&d, &s, 1, (struct machete_config){24, 1, 4, 1, 1, 1, 0}, "kernel machete has no tile of 24 rows by 128 columns");
    refused(&d, &s, 1, (struct machete_config){64, 2, 4, 1, 1, 1, 0}, "kernel machete has no tile of 64 rows by 256 columns");
    refused(&d, &s, 1, (struct machete_config){7, 5, 4, 1, 1, 1, 0}, "kernel machete has no tile of 7 rows by 640 columns");
    refused(&d, &s, 1, (struct machete_config){64, 1, 4, 1, 2, 2, 0}, "kernel machete: a cluster cuts K in 1 to 8 or shares X between 2 blocks, not split=2 and share=2");
    refused(&d, &s, 1, (struct machete_config){8, 1, 4, 1, 1, 2, 0}, "kernel machete: tiles of 8 rows do not share X, those of 16 and more do");
    refused(&d, &s, 1, (struct machete_config){8, 1, 4, 1, 5, 1, 0}, "kernel machete: K=512 has 4 steps, which cannot be cut into 5 spans");
    refused(&d, &s, 1, (struct machete_config){64, 1, 4, 1, 2, 1, 4}, "kernel machete: tiles of 64 rows by 128 columns with split=2 do not go through 4 spans of K");
    refused(&d, &s, 1, (struct machete_config){64, 1, 4, 1, 1, 1, 9}, "kernel machete: tiles of 64 rows by 128 columns with split=1 do not go through 9 spans of K");
    refused(&d, &s, 1, (struct machete_config){128, 2, 4, 1, 1, 1, 2}, "kernel machete: tiles of 128 rows by 256 columns with split=1 do not go through 2 spans of K");
    refused(&d, &s, 1, (struct machete_config){128, 1, 4, 1, 1, 1, 5}, "kernel machete: K=512 has 4 steps, which cannot be cut into 5 spans");
    refused(&d, &s, 0, good, "kernel machete: M=0 is no number of rows");
    refused(&d, &s, 1, (struct machete_config){8, 1, 33, 1, 1, 1, 0}, "kernel machete: 33 stages do not fit (2 to 21 do)");
    refused(&d, &s, 1, (struct machete_config){64, 1, 4, 2, 1, 1, 0}, "kernel machete: tiles of 64 rows do not run with 2 blocks an SM");
    refused(&d, &s, 1, (struct machete_config){8, 1, 11, 2, 1, 1, 0}, "kernel machete: 11 stages do not fit (2 to 10 do)");
    refused(&d, &s, 1, (struct machete_config){128, 1, 5, 1, 1, 1, 0}, "kernel machete: 5 stages do not fit (2 to 4 do)");
    refused(&d, &s, 1, (struct machete_config){128, 1, 4, 1, 1, 1, 2}, "kernel machete: 4 stages do not fit (2 to 3 do)"); /* sums of all rows are held */
    old = d; /* two blocks, and what the system takes of each */
    c.blocks = 2;
    old.sm_shared = 2 * ((int)machete_shared_bytes(&s, &c) + 1024);
    assert_int_equal(machete_config_check(&old, &s, 1, &c, NULL), 0);
    old.sm_shared--;
    refused(&old, &s, 1, c, "kernel machete: 8 stages do not fit (2 to 7 do)");
    old = device(1);
    refused(&old, &s, 1, good, "kernel machete: no cluster of 2 blocks fits the device");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_step_once),
        cmocka_unit_test(places_stay_together),
        cmocka_unit_test(chosen_configs_run),
        cmocka_unit_test(fixed_order),
        cmocka_unit_test(fixed_order_is_kept),
        cmocka_unit_test(predictions),
        cmocka_unit_test(bad_configs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

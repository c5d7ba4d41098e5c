/* The Marlin kernel's division of work: properties for many sizes and numbers of SMs, and the configs that marlin_choose picks. */
#include "tests/kernels/util.h"

#include "kernels/cuda/marlin_launch.h"

static const int sm_counts[] = {1, 7, 72, 108, 128, 132, 170, 188};
enum { SMS = sizeof sm_counts / sizeof *sm_counts };

/* Walks all stripes as the kernel does, blocks in an order drawn from the seed; counters and slots as in finish_tile. */
static void check_grid(const struct marlin_grid *g, uint64_t *seed)
{
    int64_t units = g->units, tiles = (int64_t)g->n_tiles * g->m_blocks, least = units, most = 0;
    unsigned char *unit_seen = calloc((size_t)units, 1), *slot_used = calloc((size_t)g->blocks * 2, 1);
    int *arrived = calloc((size_t)tiles, sizeof(int)), *counter = calloc((size_t)g->blocks, sizeof(int)), *finished = calloc((size_t)tiles, sizeof(int));
    int *order = malloc((size_t)g->blocks * sizeof(int));
    for (int i = 0; i < g->blocks; i++)
        order[i] = i;
    for (int i = g->blocks - 1; i > 0; i--) {
        int j = (int)(rnd(seed) % (uint64_t)(i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    assert_int_equal(marlin_stripe(g, 0), 0);
    assert_int_equal(marlin_stripe(g, g->blocks), units);
    for (int i = 0; i < g->blocks; i++) {
        int b = order[i];
        int first = marlin_stripe(g, b), end = marlin_stripe(g, b + 1);
        least = end - first < least ? end - first : least;
        most = end - first > most ? end - first : most;
        struct marlin_cursor c = marlin_cursor_at(g, first);
        for (int u = first; u < end; u++) {
            struct marlin_cursor same = marlin_cursor_at(g, u);
            int64_t tile = (int64_t)c.n * g->m_blocks + c.m;
            assert_true(same.k == c.k && same.m == c.m && same.n == c.n && tile * g->k_steps + c.k == u);
            assert_false(unit_seen[u]);
            unit_seen[u] = 1;
            assert_int_equal(marlin_owner(g, u), b);
            if (c.k == g->k_steps - 1 || u == end - 1) {
                struct marlin_share share = marlin_tile_share(g, c);
                assert_true(share.first <= b && b < share.first + share.count);
                if (share.count > 1) {
                    int slot = marlin_slot(share, b);
                    assert_true(slot >= 2 * b && slot <= 2 * b + 1 && !slot_used[slot]);
                    slot_used[slot] = 1;
                    if (counter[share.first]++ == share.count - 1) {
                        counter[share.first] = 0;
                        finished[tile]++;
                    }
                } else {
                    finished[tile]++;
                }
                arrived[tile]++;
                assert_true(arrived[tile] <= share.count);
            }
            marlin_cursor_next(g, &c);
        }
    }
    assert_true(least >= 1 && most - least <= 1);
    for (int64_t u = 0; u < units; u++)
        assert_true(unit_seen[u]);
    for (int64_t t = 0; t < tiles; t++)
        assert_int_equal(finished[t], 1);
    for (int b = 0; b < g->blocks; b++)
        assert_int_equal(counter[b], 0);
    free(unit_seen);
    free(slot_used);
    free(arrived);
    free(counter);
    free(finished);
    free(order);
}

static void every_unit_once(void **state)
{
    (void)state;
    uint64_t seed = 3;
    for (int i = 0; i < SMS; i++)
        for (int blocks = 1; blocks <= 2; blocks++)
            for (int round = 0; round < 30; round++) {
                struct marlin_grid g = marlin_grid_of((int)(1 + rnd(&seed) % 20), (int)(1 + rnd(&seed) % 40), (int)(1 + rnd(&seed) % 5), sm_counts[i] * blocks);
                check_grid(&g, &seed);
            }
}

static struct marlin_shape shape(int64_t N, int64_t K, int bits)
{
    struct marlin_shape s = {.N = N, .K = K, .Kx = K, .bits = bits, .strips = (int)((N + 63) / 64), .k_chunks = (int)((K + 63) / 64), .unit_shift = 1, .zero = 8};
    s.code_bytes = (size_t)s.strips * (size_t)s.k_chunks * (size_t)marlin_chunk_words(bits) * 4;
    return s;
}

/* sm_80, sm_86 (and 89, 120), sm_90: compute capabilities table, CUDA C++ Programming Guide. */
static const struct marlin_device devices[] = {{108, 80, 163 * 1024, 164 * 1024}, {84, 86, 99 * 1024, 100 * 1024}, {132, 90, 227 * 1024, 228 * 1024}};

static void chosen_configs_run(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{128, 128}, {1, 1}, {4096, 4096}, {6144, 4096}, {28672, 4096}, {4096, 14336}, {7168, 576}, {8192, 28672}, {128256, 4096}};
    static const int64_t Ms[] = {1, 2, 7, 8, 9, 15, 16, 17, 32, 33, 48, 49, 64, 65, 128, 257, 1024, 4096};
    uint64_t seed = 9;
    for (size_t d = 0; d < 3; d++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (size_t m = 0; m < sizeof Ms / sizeof *Ms; m++)
                for (int v = 0; v < 12; v++) {
                    struct marlin_shape s = shape(sizes[i][0], sizes[i][1], v & 1 ? 8 : 4);
                    s.zero_table = v >> 1 & 1;
                    s.unit_shift = v / 4 - 1;
                    struct marlin_config c;
                    struct err e;
                    for (int mode = MARLIN_FAST; mode <= MARLIN_FIXED; mode++) {
                        marlin_choose(&devices[d], &s, Ms[m], mode, &c);
                        if (marlin_config_check(&devices[d], &s, Ms[m], &c, &e))
                            fail_msg("N=%lld K=%lld M=%lld: %s", (long long)s.N, (long long)s.K, (long long)Ms[m], e.text);
                        assert_true(marlin_shared_bytes(&s, &c) <= (size_t)devices[d].block_shared);
                        assert_true((marlin_shared_bytes(&s, &c) + 1024) * (size_t)c.blocks <= (size_t)devices[d].sm_shared);
                        struct marlin_grid g = marlin_make_grid(&devices[d], &s, Ms[m], &c);
                        assert_true(g.blocks * marlin_slabs(&devices[d], &s, Ms[m], &c) <= MARLIN_COUNTERS);
                        if (v == 0 && g.units < 10000)
                            check_grid(&g, &seed);
                    }
                }
}

static const int64_t fixed_sizes[][2] = {{64, 64}, {1000, 300}, {4096, 4096}, {6144, 4096}, {4096, 14336}, {28672, 4096}, {128256, 4096}};

/* In fixed mode what decides the bits, columns and the division of K, does not know M; how many rows share a read does. Partial sums keep to their room. */
static void fixed_order(void **state)
{
    (void)state;
    static const int64_t Ms[] = {2, 8, 9, 16, 17, 33, 1000};
    for (size_t d = 0; d < 3; d++)
        for (size_t i = 0; i < sizeof fixed_sizes / sizeof *fixed_sizes; i++)
            for (int v = 0; v < 12; v++) {
                struct marlin_shape s = shape(fixed_sizes[i][0], fixed_sizes[i][1], v & 1 ? 8 : 4);
                s.zero_table = v >> 1 & 1;
                s.unit_shift = v / 4 - 1;
                struct marlin_config one, more;
                marlin_choose(&devices[d], &s, 1, MARLIN_FIXED, &one);
                assert_true(one.fixed && one.rows == 8);
                struct marlin_grid a = marlin_make_grid(&devices[d], &s, 1, &one);
                for (size_t m = 0; m < sizeof Ms / sizeof *Ms; m++) {
                    marlin_choose(&devices[d], &s, Ms[m], MARLIN_FIXED, &more);
                    struct marlin_grid b = marlin_make_grid(&devices[d], &s, Ms[m], &more);
                    assert_memory_equal(&a, &b, sizeof a);
                    assert_int_equal(one.wn_log2, more.wn_log2);
                    assert_true(more.fixed && more.rows <= (Ms[m] <= 8 ? 8 : Ms[m] <= 16 ? 16 : 32));
                    if (devices[d].block_shared > 160 * 1024) /* there every tile fits */
                        assert_int_equal(more.rows, Ms[m] <= 8 ? 8 : Ms[m] <= 16 ? 16 : 32);
                    int slabs = marlin_slabs(&devices[d], &s, Ms[m], &more);
                    assert_true(slabs >= 1 && slabs <= MARLIN_SLAB_MAX && (slabs - 1) * more.rows < Ms[m]);
                    assert_true(slabs == 1 || marlin_workspace_bytes(&devices[d], &s, Ms[m], &more) <= MARLIN_PARTIAL_BYTES + MARLIN_COUNTERS * sizeof(int));
                }
            }
    struct marlin_shape s = shape(6144, 4096, 4);
    struct marlin_config c;
    marlin_choose(&devices[2], &s, 4, MARLIN_FIXED, &c);
    assert_int_equal(marlin_slabs(&devices[2], &s, 1, &c), 1);
    assert_int_equal(marlin_slabs(&devices[2], &s, 9, &c), 2);
    assert_int_equal(marlin_slabs(&devices[2], &s, 100000, &c), MARLIN_SLAB_MAX);
}

/* What decides the bits of a fixed order, as one number. It changes: raise PLUGIN_REVISION (kernels/cuda/cuda_state.h), for results in caches were made the old way, and
 * write the new number here beside it. */
static void fixed_order_is_kept(void **state)
{
    (void)state;
    uint64_t digest = 0xcbf29ce484222325u; /* FNV-1a, by numbers */
    for (size_t d = 0; d < sizeof devices / sizeof *devices; d++)
        for (size_t i = 0; i < sizeof fixed_sizes / sizeof *fixed_sizes; i++)
            for (int v = 0; v < 12; v++) {
                struct marlin_shape s = shape(fixed_sizes[i][0], fixed_sizes[i][1], v & 1 ? 8 : 4);
                s.zero_table = v >> 1 & 1;
                s.unit_shift = v / 4 - 1;
                struct marlin_config c;
                marlin_choose(&devices[d], &s, 1, MARLIN_FIXED, &c);
                const struct marlin_grid g = marlin_make_grid(&devices[d], &s, 1, &c);
                const int numbers[] = {c.wn_log2, g.k_steps, g.n_tiles, g.blocks, g.base, g.rest};
                for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++)
                    digest = (digest ^ (uint64_t)numbers[k]) * 0x100000001b3u;
            }
    assert_int_equal(digest, 0x968bc78fa15d88f1u); /* of PLUGIN_REVISION 2 to 4 */
}

static void bad_configs(void **state)
{
    (void)state;
    struct marlin_shape s = shape(4096, 4096, 4);
    struct marlin_config c;
    struct err e;
    marlin_choose(&devices[2], &s, 1, MARLIN_FAST, &c);
    assert_int_equal(marlin_config_check(&devices[2], &s, 9, &c, &e), -ERR_UNSUPPORTED);
    assert_string_equal(e.text, "kernel marlin: a tile of 8 rows serves at most 8, not M=9");
    c.stages = 9;
    assert_int_equal(marlin_config_check(&devices[2], &s, 1, &c, &e), -ERR_UNSUPPORTED);
    struct marlin_shape wide = shape(1 << 21, 4096, 4);
    struct marlin_config many = {.rows = 8, .stages = 2, .blocks = 1, .fixed = true, .deal = 20000};
    assert_int_equal(marlin_config_check(&devices[2], &wide, 1, &many, &e), -ERR_UNSUPPORTED);
    assert_string_equal(e.text, "kernel marlin: 1 slabs of 20000 blocks, 16384 counters");
    c.rows = 24;
    assert_int_equal(marlin_config_check(&devices[2], &s, 1, &c, &e), -ERR_UNSUPPORTED);
    assert_string_equal(e.text, "kernel marlin has no tile of 24 rows by 64 columns");
    struct marlin_device old = devices[0];
    old.capability = 75;
    assert_int_equal(marlin_config_check(&old, &s, 1, &c, &e), -ERR_UNSUPPORTED);
    assert_string_equal(e.text, "kernel marlin needs compute capability 8.0, the device has 7.5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_unit_once),
        cmocka_unit_test(chosen_configs_run),
        cmocka_unit_test(fixed_order),
        cmocka_unit_test(fixed_order_is_kept),
        cmocka_unit_test(bad_configs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

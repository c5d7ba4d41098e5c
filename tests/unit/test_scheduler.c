/* The scheduler: order, independence at several threads, failures, memory, stopping. Also run under ThreadSanitizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pipeline/scheduler.h"

enum { MAX = 64 };

struct graph {
    struct scheduler *s;
    bool edge[MAX][MAX];
    int fails[MAX];
    uint64_t memory[MAX];
    atomic_int done[MAX], running, most_running;
    atomic_llong memory_used, most_memory;
    atomic_int order_broken;
    int started[MAX];
    atomic_int starts;
    int stop_after;
    size_t count;
};

static void nap(void)
{
    nanosleep(&(struct timespec){0, 300000}, NULL);
}

static bool needs(void *arg, size_t task, size_t other)
{
    return ((struct graph *)arg)->edge[task][other];
}

static void raise_to(atomic_int *most, int now)
{
    int was = atomic_load(most);
    while (was < now && !atomic_compare_exchange_weak(most, &was, now))
        continue;
}

static int run(void *arg, size_t task, int worker)
{
    struct graph *g = arg;
    (void)worker;
    g->started[atomic_fetch_add(&g->starts, 1)] = (int)task;
    for (size_t j = 0; j < g->count; j++)
        if (g->edge[task][j] && !atomic_load(&g->done[j]))
            atomic_store(&g->order_broken, 1);
    raise_to(&g->most_running, atomic_fetch_add(&g->running, 1) + 1);
    if (g->memory[task]) {
        scheduler_acquire(g->s, g->memory[task]);
        long long now = atomic_fetch_add(&g->memory_used, (long long)g->memory[task]) + (long long)g->memory[task];
        long long was = atomic_load(&g->most_memory);
        while (was < now && !atomic_compare_exchange_weak(&g->most_memory, &was, now))
            continue;
    }
    nap();
    if (g->memory[task]) {
        atomic_fetch_sub(&g->memory_used, (long long)g->memory[task]);
        scheduler_free(g->s, g->memory[task]);
    }
    atomic_fetch_sub(&g->running, 1);
    atomic_store(&g->done[task], 1);
    return g->fails[task];
}

static bool stop(void *arg)
{
    struct graph *g = arg;
    return g->stop_after && atomic_load(&g->starts) >= g->stop_after;
}

static void go(struct graph *g, size_t count, int jobs, bool keep_going, unsigned char *results)
{
    struct scheduler s = {
        .count = count, .needs = needs, .run = run, .arg = g, .jobs = jobs, .keep_going = keep_going, .memory_bytes = 100, .stop = stop};
    g->s = &s;
    g->count = count;
    scheduler_run(&s, results);
    g->s = NULL;
}

static void every_graph_is_run_in_order(void **state)
{
    (void)state;
    srand(1);
    for (int round = 0; round < 20; round++) {
        struct graph *g = calloc(1, sizeof *g);
        unsigned char results[40];
        for (size_t i = 0; i < 40; i++)
            for (size_t j = 0; j < i; j++)
                g->edge[i][j] = rand() % 8 == 0;
        go(g, 40, 1 + round % 5, false, results);
        for (size_t i = 0; i < 40; i++)
            assert_int_equal(results[i], TASK_DONE);
        assert_int_equal(atomic_load(&g->starts), 40);
        assert_int_equal(atomic_load(&g->order_broken), 0);
        assert_true(atomic_load(&g->most_running) <= 1 + round % 5);
        free(g);
    }
}

static void one_job_runs_in_index_order(void **state)
{
    (void)state;
    struct graph g = {.count = 0};
    unsigned char results[5];
    g.edge[0][4] = true; /* 0 waits for 4 */
    go(&g, 5, 1, false, results);
    static const int want[] = {1, 2, 3, 4, 0};
    assert_memory_equal(g.started, want, sizeof want);
}

static void independent_tasks_overlap(void **state)
{
    (void)state;
    struct graph g = {.count = 0};
    unsigned char results[32];
    go(&g, 32, 4, false, results);
    assert_true(atomic_load(&g.most_running) > 1);
}

static void failure_skips_what_needs_it(void **state)
{
    (void)state;
    struct graph g = {.fails = {[1] = -1}};
    unsigned char results[4], want[] = {TASK_DONE, TASK_FAILED, TASK_SKIPPED, TASK_SKIPPED};
    g.edge[2][1] = true;
    go(&g, 4, 1, false, results);
    assert_memory_equal(results, want, 4);
    struct graph k = {.fails = {[1] = -1}};
    k.edge[2][1] = true;
    want[3] = TASK_DONE;
    go(&k, 4, 1, true, results);
    assert_memory_equal(results, want, 4);
}

static void memory_is_shared_out(void **state)
{
    (void)state;
    struct graph g = {.count = 0};
    unsigned char results[24];
    for (int i = 0; i < 24; i++)
        g.memory[i] = 40;
    g.memory[7] = 500; /* more than there is: runs alone */
    go(&g, 24, 6, false, results);
    for (int i = 0; i < 24; i++)
        assert_int_equal(results[i], TASK_DONE);
    assert_true(atomic_load(&g.most_memory) == 500);
    struct graph h = {.count = 0};
    for (int i = 0; i < 24; i++)
        h.memory[i] = 40;
    go(&h, 24, 6, false, results);
    assert_true(atomic_load(&h.most_memory) <= 100);
}

static void stopping_starts_no_more(void **state)
{
    (void)state;
    struct graph g = {.stop_after = 2};
    unsigned char results[8];
    go(&g, 8, 1, false, results);
    assert_int_equal(atomic_load(&g.starts), 2);
    assert_int_equal(results[1], TASK_DONE);
    assert_int_equal(results[2], TASK_SKIPPED);
}

static void no_tasks(void **state)
{
    (void)state;
    struct graph g = {.count = 0};
    unsigned char results[1] = {9};
    go(&g, 0, 3, false, results);
    assert_int_equal(results[0], 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_graph_is_run_in_order),
        cmocka_unit_test(one_job_runs_in_index_order),
        cmocka_unit_test(independent_tasks_overlap),
        cmocka_unit_test(failure_skips_what_needs_it),
        cmocka_unit_test(memory_is_shared_out),
        cmocka_unit_test(stopping_starts_no_more),
        cmocka_unit_test(no_tasks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

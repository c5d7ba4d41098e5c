/* Runs the tasks of a graph on a few threads: a task is ready when all that it needs is done. Tasks start in index order among the ready
 * ones.
 *
 *     struct scheduler s = {.count = n, .needs = needs, .run = run, .arg = x, .jobs = 2, .memory_bytes = total};
 *     scheduler_run(&s, results);
 *
 * Memory: a task may ask for its share with scheduler_acquire before it works and waits until the running ones leave enough; one that asks
 * for more than there is runs alone. Everything here is about threads; what a task is, is the caller's. */
#ifndef PIPELINE_SCHEDULER_H
#define PIPELINE_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum task_result { TASK_DONE, TASK_FAILED, TASK_SKIPPED };

struct scheduler {
    size_t count;
    bool (*needs)(void *arg, size_t task, size_t other); /* task cannot start before other is done */
    int (*run)(void *arg, size_t task, int worker);      /* nonzero: failed */
    void *arg;
    int jobs;        /* threads, >= 1; the calling one is worker 0 */
    bool keep_going; /* after a failure, start what does not need it */
    uint64_t memory_bytes;
    bool (*stop)(void *arg); /* asked before each start: no more starts; may be NULL */
    struct scheduler_state *state;
};

/* results[i]: enum task_result. Tasks never started are TASK_SKIPPED. */
void scheduler_run(struct scheduler *s, unsigned char *results);
/* From inside run only; released with scheduler_free by the same task. */
void scheduler_acquire(struct scheduler *s, uint64_t bytes);
void scheduler_free(struct scheduler *s, uint64_t bytes);

#endif

#include "pipeline/scheduler.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/err.h"
#include "pipeline/base/mem.h"

enum { WAITING, RUNNING, ENDED };

struct scheduler_state {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned char *phase, *results;
    size_t running;
    uint64_t memory_used;
    size_t holders; /* tasks that hold memory */
    bool failed;
};

struct worker {
    struct scheduler *s;
    int number;
};

/* The first task that can start; count when none can. Lock held. */
static size_t take(struct scheduler *s)
{
    struct scheduler_state *st = s->state;
    for (size_t i = 0; i < s->count; i++) {
        bool ready = st->phase[i] == WAITING;
        for (size_t j = 0; ready && j < s->count; j++) {
            if (j == i || !s->needs(s->arg, i, j) || (st->phase[j] == ENDED && st->results[j] == TASK_DONE))
                continue;
            ready = false;
        }
        if (ready)
            return i;
    }
    return s->count;
}

static bool may_start(const struct scheduler *s)
{
    return !(s->state->failed && !s->keep_going) && !(s->stop && s->stop(s->arg));
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct scheduler *s = w->s;
    struct scheduler_state *st = s->state;
    pthread_mutex_lock(&st->lock);
    for (;;) {
        size_t i = may_start(s) ? take(s) : s->count;
        if (i == s->count && !st->running)
            break;
        if (i == s->count) {
            pthread_cond_wait(&st->changed, &st->lock);
            continue;
        }
        st->phase[i] = RUNNING;
        st->running++;
        pthread_mutex_unlock(&st->lock);
        int rc = s->run(s->arg, i, w->number);
        pthread_mutex_lock(&st->lock);
        st->phase[i] = ENDED;
        st->results[i] = rc ? TASK_FAILED : TASK_DONE;
        st->failed |= rc != 0;
        st->running--;
        pthread_cond_broadcast(&st->changed);
    }
    pthread_mutex_unlock(&st->lock);
    return NULL;
}

void scheduler_run(struct scheduler *s, unsigned char *results)
{
    struct scheduler_state st = {.phase = xcalloc(s->count, 1), .results = results};
    int jobs = s->jobs < 1 ? 1 : s->jobs;
    struct worker *workers = xcalloc((size_t)jobs, sizeof *workers);
    pthread_t *threads = xcalloc((size_t)jobs, sizeof *threads);
    memset(results, TASK_SKIPPED, s->count);
    pthread_mutex_init(&st.lock, NULL);
    pthread_cond_init(&st.changed, NULL);
    s->state = &st;
    for (int i = 0; i < jobs; i++)
        workers[i] = (struct worker){s, i};
    for (int i = 1; i < jobs; i++)
        if (pthread_create(&threads[i], NULL, work, &workers[i]))
            BUG("cannot start worker %d", i);
    work(&workers[0]);
    for (int i = 1; i < jobs; i++)
        pthread_join(threads[i], NULL);
    pthread_cond_destroy(&st.changed);
    pthread_mutex_destroy(&st.lock);
    s->state = NULL;
    free(st.phase);
    free(workers);
    free(threads);
}

void scheduler_acquire(struct scheduler *s, uint64_t bytes)
{
    struct scheduler_state *st = s->state;
    pthread_mutex_lock(&st->lock);
    while (st->holders && st->memory_used + bytes > s->memory_bytes)
        pthread_cond_wait(&st->changed, &st->lock);
    st->holders++;
    st->memory_used += bytes;
    pthread_mutex_unlock(&st->lock);
}

void scheduler_free(struct scheduler *s, uint64_t bytes)
{
    struct scheduler_state *st = s->state;
    pthread_mutex_lock(&st->lock);
    st->holders--;
    st->memory_used -= bytes;
    pthread_cond_broadcast(&st->changed);
    pthread_mutex_unlock(&st->lock);
}

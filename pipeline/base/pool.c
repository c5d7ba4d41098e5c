#include "pipeline/base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "pipeline/base/err.h"
#include "pipeline/base/mem.h"

struct pool {
    int threads;
    pthread_t *ids; /* threads - 1 workers */
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    unsigned long generation; /* one more for every loop */
    int active;               /* workers still in the loop */
    int stop;
    size_t n;
    void (*fn)(void *arg, size_t i);
    void *arg;
    atomic_size_t next;
};

/* Round to nearest, no flush-to-zero, no denormals-are-zero: all exceptions masked. */
static void float_state(void)
{
#if defined(__x86_64__)
    _mm_setcsr(0x1f80);
#endif
}

static void drain(struct pool *p)
{
    size_t i;
    while ((i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed)) < p->n)
        p->fn(p->arg, i);
}

static void *worker(void *arg)
{
    struct pool *p = arg;
    unsigned long seen = 0;
    float_state();
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->stop && p->generation == seen)
            pthread_cond_wait(&p->work, &p->lock);
        if (p->stop)
            break;
        seen = p->generation;
        pthread_mutex_unlock(&p->lock);
        drain(p);
        pthread_mutex_lock(&p->lock);
        if (--p->active == 0)
            pthread_cond_signal(&p->done);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

struct pool *pool_create(int threads)
{
    struct pool *p = xcalloc(1, sizeof *p);
    p->threads = threads < 1 ? 1 : threads;
    p->ids = xcalloc((size_t)p->threads, sizeof *p->ids);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    float_state();
    for (int i = 0; i < p->threads - 1; i++)
        if (pthread_create(&p->ids[i], NULL, worker, p))
            BUG("cannot start thread %d of %d", i + 2, p->threads);
    return p;
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = 1;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->threads - 1; i++)
        pthread_join(p->ids[i], NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->done);
    free(p->ids);
    free(p);
}

int pool_threads(const struct pool *p)
{
    return p ? p->threads : 1;
}

void pool_run(void *pool, size_t n, void (*fn)(void *arg, size_t i), void *arg)
{
    struct pool *p = pool;
    if (!p || p->threads == 1 || n < 2) {
        for (size_t i = 0; i < n; i++)
            fn(arg, i);
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->fn = fn;
    p->arg = arg;
    p->n = n;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    p->active = p->threads - 1;
    p->generation++;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    drain(p);
    pthread_mutex_lock(&p->lock);
    while (p->active)
        pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

int pool_cpu_count(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (f) {
        long quota = 0, period = 0;
        if (fscanf(f, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0) {
            long cores = (quota + period - 1) / period;
            if (cores < n)
                n = (int)cores;
        }
        fclose(f);
    }
    return n < 1 ? 1 : n;
}

/* A pool of threads that runs the iterations of a loop. Which thread runs which iteration is open, so an iteration must own
 * what it writes; results then do not depend on the number of threads. Every worker runs with denormals kept and rounding to
 * nearest. The calling thread works too. One loop at a time per pool; pools are independent. */
#ifndef PIPELINE_BASE_POOL_H
#define PIPELINE_BASE_POOL_H

#include <stddef.h>

struct pool;

/* threads >= 1 counts the caller. Aborts when threads cannot be made. */
struct pool *pool_create(int threads);
void pool_free(struct pool *p); /* NULL is fine */
int pool_threads(const struct pool *p);
/* Calls fn(arg, i) for every i in 0..n-1 and returns when all are done. `pool` may be NULL: then a plain loop.
 * The signature is kernels/backend.h's `parallel`, so that a pool can be handed to kernels as it is. */
void pool_run(void *pool, size_t n, void (*fn)(void *arg, size_t i), void *arg);
/* Cores that this process may use (affinity and cgroup quota respected), at least 1. */
int pool_cpu_count(void);

#endif

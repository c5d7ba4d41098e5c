/* A heap of ids whose root is the one with the highest logit, the lowest id among equals. Logits are no NaN. */
#ifndef KERNELS_LOGIT_HEAP_H
#define KERNELS_LOGIT_HEAP_H

#include <stdbool.h>
#include <stdint.h>

static inline bool logit_before(const float *logits, int32_t a, int32_t b)
{
    return logits[a] > logits[b] || (!(logits[a] < logits[b]) && a < b);
}

static inline void logit_sift(const float *logits, int32_t *heap, int64_t n, int64_t i)
{
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child >= n)
            return;
        if (child + 1 < n && logit_before(logits, heap[child + 1], heap[child]))
            child++;
        if (!logit_before(logits, heap[child], heap[i]))
            return;
        int32_t t = heap[i];
        heap[i] = heap[child];
        heap[child] = t;
        i = child;
    }
}

/* Makes a heap of n ids in any order. */
static inline void logit_heap(const float *logits, int32_t *ids, int64_t n)
{
    for (int64_t i = n / 2 - 1; i >= 0; i--)
        logit_sift(logits, ids, n, i);
}

/* Takes the root off; *n counts down. */
static inline int32_t logit_pop(const float *logits, int32_t *heap, int64_t *n)
{
    int32_t id = heap[0];
    heap[0] = heap[--*n];
    logit_sift(logits, heap, *n, 0);
    return id;
}

#endif

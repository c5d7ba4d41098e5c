#include "stages/lm/sampler.h"

#include <stdbool.h>
#include <stdlib.h>

#include "pipeline/base/mem.h"
#include "stages/lm/detmath.h"

/* Philox4x32-10, constants of DEShawResearch/random123@v1.14.0:include/Random123/philox.h. */
void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* 64 bits for (seed, a, b). */
static uint64_t draw(uint64_t seed, uint64_t a, uint64_t b)
{
    const uint32_t counter[4] = {(uint32_t)b, (uint32_t)(b >> 32), (uint32_t)a, (uint32_t)(a >> 32)};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t out[4];
    philox4x32(counter, key, out);
    return (uint64_t)out[1] << 32 | out[0];
}

void philox_shuffle(uint64_t seed, uint64_t *order, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        order[i] = i;
    for (uint64_t i = n; i > 1; i--) {
        /* Uniform in 0..i-1 by multiplication; draws of the uneven rest are thrown away (Lemire, ACM TOMACS 29, 2019). */
        uint64_t threshold = -i % i, again = 0;
        __uint128_t product;
        do
            product = (__uint128_t)draw(seed, again++, i) * i;
        while ((uint64_t)product < threshold);
        uint64_t j = (uint64_t)(product >> 64), t = order[i - 1];
        order[i - 1] = order[j];
        order[j] = t;
    }
}

/* Highest logit, lowest id among equals; NaN never wins. */
static int64_t best(const float *logits, int64_t V)
{
    int64_t top = 0;
    for (int64_t i = 1; i < V; i++) {
        if (logits[i] > logits[top] || logits[top] != logits[top])
            top = i;
    }
    return top;
}

/* A heap of ids whose root is the most likely one, ties by id. */
static bool before(const float *logits, int32_t a, int32_t b)
{
    return logits[a] > logits[b] || (!(logits[a] < logits[b]) && a < b);
}

static void sift(const float *logits, int32_t *heap, int64_t n, int64_t i)
{
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child >= n)
            return;
        if (child + 1 < n && before(logits, heap[child + 1], heap[child]))
            child++;
        if (!before(logits, heap[child], heap[i]))
            return;
        int32_t t = heap[i];
        heap[i] = heap[child];
        heap[child] = t;
        i = child;
    }
}

static int32_t *heap_make(const float *logits, int64_t V)
{
    int32_t *heap = xmalloc((size_t)V * sizeof *heap);
    for (int64_t i = 0; i < V; i++)
        heap[i] = (int32_t)i;
    for (int64_t i = V / 2 - 1; i >= 0; i--)
        sift(logits, heap, V, i);
    return heap;
}

/* Takes the root off; *n counts down and the id lies at heap[*n]. So the end of the array fills with what was taken, the first at the very
 * end. */
static int32_t heap_pop(const float *logits, int32_t *heap, int64_t *n)
{
    int32_t id = heap[0];
    heap[0] = heap[--*n];
    heap[*n] = id;
    sift(logits, heap, *n, 0);
    return id;
}

/* exp((logit - max) / temperature); NaN weighs nothing. */
static double weight(const float *logits, int64_t i, int64_t top, double temperature)
{
    double x = ((double)logits[i] - (double)logits[top]) / temperature;
    return i == top ? 1 : x == x ? det_exp(x) : 0;
}

int32_t sampler_pick(const float *logits, int64_t V, const struct sampler_params *p, uint64_t prompt_index, uint64_t step)
{
    int64_t top = best(logits, V), n = V;
    if (!(p->temperature > 0))
        return (int32_t)top;
    double total = 0, mass = 0, at = 0;
    for (int64_t i = 0; i < V; i++)
        total += weight(logits, i, top, p->temperature);
    double want = p->top_p < 1 ? p->top_p * total : total;
    int32_t *heap = heap_make(logits, V), id;
    double w;
    do {
        w = weight(logits, heap_pop(logits, heap, &n), top, p->temperature);
        mass += w;
    } while (n > 0 && mass < want && w > 0);
    double u = (double)(draw(p->seed, prompt_index, step) >> 11) * 0x1p-53 * mass;
    int64_t i = V;
    do { /* u < mass, so the walk ends at the last one taken at the latest */
        id = heap[--i];
        at += weight(logits, id, top, p->temperature);
    } while (i > n && at <= u);
    free(heap);
    return id;
}

double sampler_logprobs(const float *logits, int64_t V, int32_t id, struct sampler_top *top, size_t k)
{
    int64_t first = best(logits, V), n = V;
    double total = 0;
    for (int64_t i = 0; i < V; i++)
        total += weight(logits, i, first, 1);
    double log_total = det_log(total), max = (double)logits[first];
    int32_t *heap = k ? heap_make(logits, V) : NULL;
    for (size_t i = 0; i < k; i++) {
        top[i] = (struct sampler_top){-1, 0};
        if (n == 0)
            continue; /* k above V */
        top[i].id = heap_pop(logits, heap, &n);
        top[i].logprob = (double)logits[top[i].id] - max - log_total;
    }
    free(heap);
    return (double)logits[id] - max - log_total;
}

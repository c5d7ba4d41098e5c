#include "stages/lm/sampler.h"

#include <stdlib.h>

#include "kernels/detmath.h"
#include "kernels/logit_heap.h"
#include "pipeline/base/mem.h"

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

double sampler_uniform(uint64_t seed, uint64_t prompt_index, uint64_t step)
{
    return (double)(draw(seed, prompt_index, step) >> 11) * 0x1p-53;
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

/* exp(logit - max); NaN weighs nothing. */
static double weight(const float *logits, int64_t i, int64_t top)
{
    double x = (double)logits[i] - (double)logits[top];
    return i == top ? 1 : x == x ? det_exp(x) : 0;
}

double sampler_logprobs(const float *logits, int64_t V, int32_t id, struct sampler_top *top, size_t k)
{
    int64_t first = best(logits, V), n = V;
    double total = 0;
    for (int64_t i = 0; i < V; i++)
        total += weight(logits, i, first);
    double log_total = det_log(total), max = (double)logits[first];
    int32_t *heap = k ? xmalloc((size_t)V * sizeof *heap) : NULL;
    for (int64_t i = 0; k && i < V; i++)
        heap[i] = (int32_t)i;
    logit_heap(logits, heap, k ? V : 0);
    for (size_t i = 0; i < k; i++) {
        top[i] = (struct sampler_top){-1, 0};
        if (n == 0)
            continue; /* k above V */
        top[i].id = logit_pop(logits, heap, &n);
        top[i].logprob = (double)logits[top[i].id] - max - log_total;
    }
    free(heap);
    return (double)logits[id] - max - log_total;
}

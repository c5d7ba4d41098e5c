/* What choosing the next token needs beside the backend's op `sample`: one uniform number from Philox4x32-10 keyed (seed) at counter (prompt index, step), so that a draw
 * does not depend on what else is in the batch; and log-probabilities, in f64 and a fixed order. */
#ifndef STAGES_LM_SAMPLER_H
#define STAGES_LM_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

struct sampler_params {
    double temperature, top_p; /* as in struct sample_row */
    uint64_t seed;
};
struct sampler_top {
    int32_t id;
    double logprob; /* natural log, temperature not applied */
};
double sampler_uniform(uint64_t seed, uint64_t prompt_index, uint64_t step); /* 0 <= u < 1 */
/* logits [V] host. log-probability of id, and the k most likely (ties by id); entries beyond V get id -1. */
double sampler_logprobs(const float *logits, int64_t V, int32_t id, struct sampler_top *top, size_t k);

/* Philox4x32-10 (Salmon et al., SC 2011): counter and key -> 4 words. */
void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);
/* Fisher-Yates over 0..n-1 with draws from Philox keyed by seed; order is the caller's, n entries. */
void philox_shuffle(uint64_t seed, uint64_t *order, uint64_t n);

#endif

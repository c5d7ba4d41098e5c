/* Batch generation: prompts of unequal lengths advance together; each is prefilled in chunks, then decoded one token a step until EOS or
 * max_tokens. A prompt's tokens do not depend on what else is in the batch. The EOS that ends a generation is its last token. */
#ifndef STAGES_LM_GENERATE_H
#define STAGES_LM_GENERATE_H

#include <stdbool.h>

#include "stages/lm/decoder.h"
#include "stages/lm/sampler.h"

/* Prompts that advance together and rows of a step, at most: they bound the memory of kv caches and of activations, and change no token. */
enum { GENERATE_LIVE_MAX = 32, GENERATE_STEP_ROWS = 512 };

struct generate_params {
    struct sampler_params sampling;
    int64_t max_tokens;
    int logprobs; /* top-k per generated token, 0 = none */
    bool ignore_eos;
};
enum finish_reason { FINISH_STOP, FINISH_LENGTH, FINISH_CONTEXT };
const char *finish_name(enum finish_reason r); /* "stop" "length" "context" */

struct generated_token {
    int32_t id;
    double logprob;
    struct sampler_top *top; /* logprobs entries, owned */
};
struct generation {
    const int32_t *prompt; /* borrowed, >= 1 id */
    size_t prompt_count;
    uint64_t index;                 /* counter for sampling: the prompt's number */
    struct generated_token *tokens; /* filled; owned */
    size_t count, cap;
    enum finish_reason finish;
};
/* Fills g[0..n). on_token (may be NULL) is told each token as it comes; nonzero return stops with -ERR_CANCELLED. A prompt longer than the
 * context is an error naming both lengths. */
int generate(struct decoder *d, struct generation *g, size_t n, const struct generate_params *p,
             int (*on_token)(void *arg, size_t prompt, int32_t id), void *arg, struct err *e);
void generation_release(struct generation *g);

#endif

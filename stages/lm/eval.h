/* Perplexity, and KL and top-1 agreement against a reference walked in lockstep.
 * Windows are made by the caller (stages/lm/windows.h); a window's first `skip` predictions are not counted (stride < window), the token at
 * position 0 is never predicted. */
#ifndef STAGES_LM_EVAL_H
#define STAGES_LM_EVAL_H

#include <stdbool.h>

#include "stages/lm/decoder.h"

struct eval_window {
    const int32_t *ids; /* borrowed */
    int64_t count;      /* >= 2 */
    int64_t first;      /* first predicted position that counts, >= 1 */
};
struct eval_result {
    int64_t tokens;
    double nll, nll_ref, kl; /* sums, natural log */
    int64_t top1_same;
    bool has_ref;
};
/* ref may be NULL. progress (may be NULL) gets windows done and total; nonzero return stops with -ERR_CANCELLED. Sums run in window order
 * in f64. */
int eval_run(struct decoder *d, struct decoder *ref, const struct eval_window *w, size_t n, struct eval_result *out,
             int (*progress)(void *arg, size_t done, size_t total), void *arg, struct err *e);

#endif

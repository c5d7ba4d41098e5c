/* Perplexity, and KL and top-1 agreement against a reference.
 * Windows are made by the caller (stages/lm/windows.h); a window's predictions before `first` are not counted (stride < window), the token at
 * position 0 is never predicted.
 *
 * Never a whole model in memory: all windows walk through one layer after another (stages/lm/walk.h), the judged model's first, then the
 * reference's. What stays of each is the final hidden state of every row, and from those both heads make logits, some rows at a time. */
#ifndef STAGES_LM_EVAL_H
#define STAGES_LM_EVAL_H

#include <stdbool.h>

#include "stages/lm/weights.h"

struct eval_window {
    const int32_t *ids; /* borrowed */
    int64_t count;      /* >= 2 */
    int64_t first;      /* first predicted position that counts, >= 1 */
};
struct eval_input {
    struct backend *b;
    const struct model *model, *reference; /* reference may be NULL */
    const struct eval_window *windows;
    size_t count;
    const char *scratch; /* folder for hidden states that are too many for memory */
    /* May be NULL. Work done, growing towards total: tokens times layers, the heads counted as what they cost. Nonzero stops with
     * -ERR_CANCELLED. */
    int (*progress)(void *arg, double done, double total);
    void *arg;
    /* May be NULL. Told of every weight of the model (layer -1, MOD_COUNT: lm_head) what serves it, as weight_kernel says it. */
    void (*served)(void *arg, int64_t layer, enum module_id mod, const char *kernel, const char *why);
    void *served_arg;
};
struct eval_result {
    int64_t tokens;
    double nll, nll_ref, kl; /* sums, natural log, in window order in f64 */
    int64_t top1_same;
    bool has_ref;
};
int eval_run(const struct eval_input *in, struct eval_result *out, struct err *e);

#endif

/* Cuts a dataset into evaluation windows, DESIGN "Numerics": unit document (each by itself, cut to window) or stream (all text tokenized
 * once, windows of `window` tokens every `stride`); bos puts the config's BOS in front of each window inside its length; every predicted
 * token is counted once; at most max_tokens predicted tokens. */
#ifndef STAGES_LM_WINDOWS_H
#define STAGES_LM_WINDOWS_H

#include <stdbool.h>

#include "stages/lm/eval.h"
#include "stages/text/dataset.h"
#include "stages/text/tok.h"

enum eval_unit { UNIT_AUTO, UNIT_DOCUMENT, UNIT_STREAM };

struct windows_params {
    enum eval_unit unit;    /* auto: stream for plain text, document else */
    int64_t window, stride; /* 0: min(2048, context), window */
    bool bos;
    int64_t max_tokens; /* predicted tokens; 0 = all */
};
struct windows {
    struct eval_window *w; /* owned, ids too */
    size_t count, cap;
    int32_t *ids;
    int64_t predicted; /* tokens that count */
};
/* tok may be NULL when the documents are ids. Too little text for one prediction is -ERR_DATA. vocab: ids at or above are errors naming
 * file and line. */
int windows_make(struct windows *out, const struct windows_params *p, const struct config *c, const struct tok *tok, struct dataset *data,
                 struct err *e);
void windows_release(struct windows *w);

#endif

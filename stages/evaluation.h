/* Figures of a model on held-out text: what the stage `validate` and the command `eval` share.
 * Opens the models, cuts the data into windows (stages/lm/windows.h) and measures (stages/lm/eval.h). One thread at a time.
 *
 * Both models must have one vocabulary (the reference's size is checked); the tokenizer is the judged model's own. */
#ifndef STAGES_EVALUATION_H
#define STAGES_EVALUATION_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "pipeline/base/fileset.h"
#include "stages/lm/windows.h"

struct evaluation_params {
    struct windows_params windows;
    const char *field; /* of JSON documents; NULL = "text" */
    const char *scratch; /* folder for hidden states that are too many for memory; NULL = $TMPDIR or /tmp */
};
struct evaluation_figures {
    int64_t tokens; /* predicted tokens counted */
    double perplexity;
    bool has_reference;
    double reference_perplexity, kl_mean, top1_agreement;
    json_t *served; /* which kernels (served.h) of the judged model; the caller's */
};
/* "auto" "document" "stream"; -1 for another word. */
int evaluation_unit(const char *name);
/* reference may be NULL. progress (may be NULL): work done and total, a fraction to show; nonzero stops with -ERR_CANCELLED. A figure that is not finite is -ERR_NUMERIC. */
int evaluation_run(const struct fileset *model, const struct fileset *reference, const struct fileset *data, const struct evaluation_params *p, struct backend *b,
                   int (*progress)(void *arg, double done, double total), void *arg, struct evaluation_figures *out, struct err *e);
/* {"perplexity","tokens"} and, with a reference, {"reference_perplexity","kl_mean","top1_agreement"}. New reference. */
json_t *evaluation_json(const struct evaluation_figures *f);

#endif

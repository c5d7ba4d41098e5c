/* The settings of one quantized module, with GPTQModel's names and defaults, and the rules of which go together.
 *
 *     struct quant_params p = quant_params_default();
 *     ... set fields; act_group_aware_set when the user spoke of act_group_aware ...
 *     quant_params_resolve(&p, "stage 'w4'", e);
 */
#ifndef STAGES_QUANT_PARAMS_H
#define STAGES_QUANT_PARAMS_H

#include <stdbool.h>

#include <jansson.h>

#include "kernels/backend.h" /* enum grid_search, enum scale_dtype */
#include "pipeline/base/err.h"

enum quant_method { QUANT_GPTQ, QUANT_RTN };
enum quant_fallback { FALLBACK_NONE, FALLBACK_RTN };
enum quant_metric { METRIC_NONE, METRIC_LOCAL };

struct quant_params {
    enum quant_method method;
    int bits;       /* 2, 3, 4 or 8 */
    int group_size; /* inputs that share a scale; -1 = all */
    bool sym;
    bool desc_act;
    bool act_group_aware;
    bool act_group_aware_set; /* the user wrote it: then an incompatible pair is an error, else it is turned off */
    bool static_groups;
    double mse;                 /* 0: min/max grid; else exponent of the error norm */
    double damp_percent;        /* of the mean of the Hessian's diagonal */
    double damp_auto_increment; /* added while the factorization fails; 0 = one attempt */
    enum quant_fallback fallback;
    /* The recipe's parts: what halves the error (stages/quant/gptq.h says what each does). All off: GPTQModel's algorithm. */
    double compensate;          /* alpha 0..1: share of the target's correction for inputs that differ from the source model's */
    double compensate_residual; /* beta 0..1: the same for the residual stream (o and down) */
    enum grid_search scale_search;
    int scale_candidates;       /* scale_search gptq: scales tried for each sign */
    bool signed_scales;
    int refine_sweeps;          /* descent over the codes after the loop; 0 = none */
    bool refit_scales;
    enum quant_metric output_metric;
    enum scale_dtype scale_dtype;
};

struct quant_params quant_params_default(void);
/* Checks ranges and pairs; turns act_group_aware off where desc_act or group_size -1 rule it out and nobody asked for it.
 * where starts the message ("stage 'w4'"). -ERR_MANIFEST. */
int quant_params_resolve(struct quant_params *p, const char *where, struct err *e);
/* Whether both mean the same (act_group_aware_set does not count). */
bool quant_params_equal(const struct quant_params *a, const struct quant_params *b);

/* Reads one setting of a module by its manifest name into p. `where` starts messages: "pattern '...'". Names that are no module settings
 * are errors with the nearest one. -ERR_MANIFEST. */
int quant_params_set(struct quant_params *p, const char *key, const json_t *value, const char *where, struct err *e);
/* Every field but act_group_aware_set, for keys and reports. The caller json_decref()s. */
json_t *quant_params_json(const struct quant_params *p);

const char *quant_method_name(enum quant_method m);

#endif

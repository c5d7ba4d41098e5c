/* The settings of one quantized module, with GPTQModel's names and defaults, the recipe that gives what was not set, and the rules of which go together.
 *
 *     struct quant_params p = quant_params_default();
 *     p.recipe = RECIPE_BEST;
 *     quant_params_set(&p, "refine_sweeps", json, "stage 'w4'", e);      what the user wrote
 *     quant_params_resolve(&p, "stage 'w4'", e);
 *
 * A resolved struct may be set further and resolved again (a pattern of `dynamic` on top of a stage): what the recipe gave is given anew.
 */
#ifndef STAGES_QUANT_PARAMS_H
#define STAGES_QUANT_PARAMS_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "kernels/backend.h" /* enum grid_search, enum scale_dtype */
#include "pipeline/base/buf.h"
#include "pipeline/base/err.h"

enum quant_method { QUANT_GPTQ, QUANT_RTN };
enum quant_fallback { FALLBACK_NONE, FALLBACK_RTN };
enum quant_metric { METRIC_NONE, METRIC_LOCAL };
/* The activations that a stage calibrates on: behind the modules before as quantized, or the source model's own. */
enum quant_inputs { INPUTS_QUANTIZED, INPUTS_ORIGINAL };
/* NONE: for code that fills the struct itself; every part stands as it is. */
enum quant_recipe { RECIPE_NONE, RECIPE_GPTQMODEL, RECIPE_BEST };

struct quant_params {
    enum quant_recipe recipe; /* where parts that were not written come from */
    unsigned written;         /* set of settings (quant_params_set): of what the user wrote, an incompatible pair is an error; the rest gives way */
    enum quant_method method;
    int bits;       /* 2, 3, 4 or 8 */
    int group_size; /* inputs that share a scale; -1 = all */
    bool sym;
    bool desc_act;
    bool act_group_aware;
    bool static_groups;
    double mse;                 /* scale_search mse: exponent of the error norm; else 0 */
    double damp_percent;        /* of the mean of the Hessian's diagonal */
    double damp_auto_increment; /* added while the factorization fails; 0 = one attempt */
    enum quant_fallback fallback; /* this and inputs: of the stage, the same for all its modules */
    enum quant_inputs inputs;
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

/* GPTQModel's defaults, nothing written, recipe NONE. */
struct quant_params quant_params_default(void);
/* Fills in what was not written from the recipe, checks ranges and pairs. What the user wrote and does not go together is an error that names both; what only
 * a default or the recipe brought is turned off. where starts the message ("stage 'w4'"). -ERR_MANIFEST. */
int quant_params_resolve(struct quant_params *p, const char *where, struct err *e);
/* Whether both mean the same: quant_params_json is equal. */
bool quant_params_equal(const struct quant_params *a, const struct quant_params *b);

/* Reads one setting of a module by its manifest name into p and remembers that it was written. `where` starts messages: "pattern '...'". Names that are no
 * module settings are errors with the nearest one. -ERR_MANIFEST. */
int quant_params_set(struct quant_params *p, const char *key, const json_t *value, const char *where, struct err *e);
/* Names of the settings by number, NULL after the last. */
const char *quant_setting_name(size_t i);
/* Whether a field of the manifest is one that a recipe gives (`recipe` itself is none). */
bool quant_is_part(const char *name);

/* No part of a recipe is on: GPTQModel's algorithm and nothing else. Files, keys and reports of such modules carry no word on the parts, which keeps them
 * what they were before there were recipes. */
bool quant_params_plain(const struct quant_params *p);
/* What decides a module's output, for keys and reports: every setting, and the parts unless plain. The caller json_decref()s. */
json_t *quant_params_json(const struct quant_params *p);
/* The parts alone, empty when plain. New reference. */
json_t *quant_parts_json(const struct quant_params *p);
/* The parts that are on, for people: "compensate 0.75, residual 0.75, scale_search gptq (16 candidates), ...". Appends. */
void quant_parts_text(const struct quant_params *p, struct buf *out);

const char *quant_method_name(enum quant_method m);
const char *quant_recipe_name(enum quant_recipe r);

#endif

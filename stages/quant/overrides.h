/* `dynamic`: overrides by module name, resolved once into a table with one row a module.
 *
 * A pattern is a PCRE2 regular expression (UTF, UCP) that must match a module's whole name. In front: `-:` leaves the module as it is, `+:`
 * or nothing changes settings. Two forms: map   {"-:^lm_head$": {}, "+:^model\\.layers\\.0\\..*$": {"bits": 8}}     order never matters:
 * `-:` wins; two positive patterns that give one module different settings are an error list  [{"match": "+:...", "bits": 8}, ...] the
 * first match wins, `-:` or not (as GPTQModel reads its dict) A positive match quantizes a module that is not quantized by default
 * (lm_head). A pattern without a whole match is an error that says how many names begin with what it describes: GPTQModel anchors at the
 * start only, so `model\.layers\.1` there also hits layer 10 (reference/gptq.md 2.1).
 */
#ifndef STAGES_QUANT_OVERRIDES_H
#define STAGES_QUANT_OVERRIDES_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "pipeline/base/err.h"
#include "stages/quant/params.h"

/* A linear module of the model. */
struct override_module {
    const char *name; /* "model.layers.0.mlp.down_proj"; borrowed while the table lives */
    bool by_default;  /* quantized unless a pattern says otherwise */
};

struct override_row {
    const char *name; /* the module's, borrowed */
    bool quantized;
    int pattern;                /* index of the pattern that decided (position in `dynamic`), -1: none */
    struct quant_params params; /* resolved; meaningless when not quantized */
};

struct override_table {
    struct override_row *rows; /* owned; in the order of the modules */
    size_t count;
    char **patterns; /* owned; as written, prefix included, in the order of `dynamic` */
    size_t pattern_count;
    int failed_pattern; /* after an error: the pattern at fault, or -1; for the place in the manifest */
};

/* base: the stage's settings, already resolved by quant_params_resolve; a pattern's are set on top and resolved again, from what both wrote and the recipe.
 * dynamic: NULL or JSON null for none, object = map form, array = list form. Errors are -ERR_MANIFEST and name pattern and module. Release the table in any case. */
int overrides_resolve(struct override_table *t, const struct quant_params *base, const json_t *dynamic,
                      const struct override_module *modules, size_t count, struct err *e);
void overrides_release(struct override_table *t); /* takes a zeroed table too */

/* The row of a module, or NULL. */
const struct override_row *overrides_find(const struct override_table *t, const char *name);
/* What decides a module's output, for keys: {"quantized":false} or {"quantized":true, settings...}. The caller json_decref()s. */
json_t *overrides_module_json(const struct override_row *row);

#endif

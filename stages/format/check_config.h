/* The configuration half of stages/format/check.h: the rules of config.json and quantize_config.json, and what `dynamic` resolves to for a reader.
 * Resolution here follows the readers' own words, apart from stages/quant/overrides (which writes): a checker that shared it would share its mistakes. */
#ifndef STAGES_FORMAT_CHECK_CONFIG_H
#define STAGES_FORMAT_CHECK_CONFIG_H

#include <jansson.h>
#include <stdbool.h>

#include "stages/format/check.h"

struct check_pattern;

struct check_settings {
    bool quantized;
    int bits, group_size;
    bool sym, desc_act;
};
struct check_config {
    json_t *config;     /* config.json */
    json_t *quant;      /* its quantization_config, else quantize_config.json; NULL for a plain model */
    struct check_settings base;
    bool lm_head, v2;
    struct check_pattern *patterns; /* of `dynamic`, in file order */
    size_t pattern_count;
};

/* Adds lines for what is wrong. *usable tells whether module rules can be checked with it. Negative when config.json cannot be read. */
int check_config_load(struct check_config *c, const struct fileset *files, struct check_report *r, bool *usable, struct err *e);
void check_config_release(struct check_config *c);
/* What a reader takes a module for. negatives_first: GPTQModel's order; else the file's order, as vLLM reads it. Patterns match from the start of the name. */
struct check_settings check_config_resolve(const struct check_config *c, const char *name, bool negatives_first);
bool check_settings_equal(const struct check_settings *a, const struct check_settings *b);
/* "not quantized", "4 bits, group 128, sym", ...; returns out (>= 64 bytes) */
const char *check_settings_text(const struct check_settings *s, char out[64]);

void check_line(struct check_report *r, const char *fmt, ...) ERR_PRINTF(2, 3);

#endif

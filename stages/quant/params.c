#include "stages/quant/params.h"

#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum type { T_INT, T_BOOL, T_REAL, T_ENUM };

/* Names of an enum's values, in their order. */
static const char *const methods[] = {"gptq", "rtn", NULL}, *const searches[] = {"minmax", "mse", "gptq", NULL},
                         *const metrics[] = {"none", "local", NULL}, *const dtypes[] = {"f16", "bf16", NULL};

enum {
    S_METHOD,
    S_BITS,
    S_GROUP_SIZE,
    S_SYM,
    S_DESC_ACT,
    S_ACT_GROUP_AWARE,
    S_STATIC_GROUPS,
    S_MSE,
    S_DAMP_PERCENT,
    S_DAMP_AUTO_INCREMENT,
    S_COMPENSATE, /* from here on: parts of a recipe */
    S_COMPENSATE_RESIDUAL,
    S_SCALE_SEARCH,
    S_SCALE_CANDIDATES,
    S_SIGNED_SCALES,
    S_REFINE_SWEEPS,
    S_REFIT_SCALES,
    S_OUTPUT_METRIC,
    S_SCALE_DTYPE,
    SETTINGS,
};

/* What `dynamic` may change, module by module. */
#define AT(field) offsetof(struct quant_params, field)
static const struct setting {
    const char *name;
    enum type type;
    size_t offset;
    const char *const *names; /* T_ENUM */
} settings[SETTINGS] = {
    [S_METHOD] = {"method", T_ENUM, AT(method), methods},
    [S_BITS] = {"bits", T_INT, AT(bits), NULL},
    [S_GROUP_SIZE] = {"group_size", T_INT, AT(group_size), NULL},
    [S_SYM] = {"sym", T_BOOL, AT(sym), NULL},
    [S_DESC_ACT] = {"desc_act", T_BOOL, AT(desc_act), NULL},
    [S_ACT_GROUP_AWARE] = {"act_group_aware", T_BOOL, AT(act_group_aware), NULL},
    [S_STATIC_GROUPS] = {"static_groups", T_BOOL, AT(static_groups), NULL},
    [S_MSE] = {"mse", T_REAL, AT(mse), NULL},
    [S_DAMP_PERCENT] = {"damp_percent", T_REAL, AT(damp_percent), NULL},
    [S_DAMP_AUTO_INCREMENT] = {"damp_auto_increment", T_REAL, AT(damp_auto_increment), NULL},
    [S_COMPENSATE] = {"compensate", T_REAL, AT(compensate), NULL},
    [S_COMPENSATE_RESIDUAL] = {"compensate_residual", T_REAL, AT(compensate_residual), NULL},
    [S_SCALE_SEARCH] = {"scale_search", T_ENUM, AT(scale_search), searches},
    [S_SCALE_CANDIDATES] = {"scale_candidates", T_INT, AT(scale_candidates), NULL},
    [S_SIGNED_SCALES] = {"signed_scales", T_BOOL, AT(signed_scales), NULL},
    [S_REFINE_SWEEPS] = {"refine_sweeps", T_INT, AT(refine_sweeps), NULL},
    [S_REFIT_SCALES] = {"refit_scales", T_BOOL, AT(refit_scales), NULL},
    [S_OUTPUT_METRIC] = {"output_metric", T_ENUM, AT(output_metric), metrics},
    [S_SCALE_DTYPE] = {"scale_dtype", T_ENUM, AT(scale_dtype), dtypes},
};

/* The exponent of scale_search mse where none is written: GPTQModel's advice. */
#define MSE_DEFAULT 2.4
/* What recipe best rounds scales to; gptqmodel has f16. Measured, it costs nothing where scales are searched, and servers that cast scales to bf16 then lose nothing
 * either (tests/bench/results). */
#define BEST_SCALE_DTYPE SCALE_BF16
enum { CANDIDATES_DEFAULT = 16 };

static const struct quant_params recipes[] = {
    [RECIPE_GPTQMODEL] = {.scale_candidates = CANDIDATES_DEFAULT},
    [RECIPE_BEST] = {.compensate = 0.75,
                     .compensate_residual = 0.75,
                     .scale_search = GRID_GPTQ,
                     .scale_candidates = CANDIDATES_DEFAULT,
                     .signed_scales = true,
                     .refine_sweeps = 4,
                     .refit_scales = true,
                     .output_metric = METRIC_LOCAL,
                     .scale_dtype = BEST_SCALE_DTYPE},
};

struct quant_params quant_params_default(void)
{
    return (struct quant_params){
        .method = QUANT_GPTQ,
        .bits = 4,
        .group_size = 128,
        .sym = true,
        .act_group_aware = true,
        .damp_percent = 0.05,
        .damp_auto_increment = 0.01,
        .fallback = FALLBACK_NONE,
        .scale_candidates = CANDIDATES_DEFAULT,
    };
}

const char *quant_method_name(enum quant_method m)
{
    return methods[m];
}

const char *quant_recipe_name(enum quant_recipe r)
{
    static const char *const names[] = {"none", "gptqmodel", "best"};
    return names[r];
}

const char *quant_setting_name(size_t i)
{
    return i < SETTINGS ? settings[i].name : NULL;
}

bool quant_is_part(const char *name)
{
    for (int i = S_COMPENSATE; i < SETTINGS; i++)
        if (!strcmp(settings[i].name, name))
            return true;
    return false;
}

static bool wrote(const struct quant_params *p, int setting)
{
    return p->written >> setting & 1;
}

static void *field_of(struct quant_params *p, int setting)
{
    return (char *)p + settings[setting].offset;
}

static size_t size_of(int setting)
{
    return settings[setting].type == T_REAL ? sizeof(double) : settings[setting].type == T_BOOL ? sizeof(bool) : sizeof(int);
}

static json_t *value_json(const struct quant_params *p, int setting)
{
    const void *at = (const char *)p + settings[setting].offset;
    int i = 0;
    if (settings[setting].type == T_REAL)
        return json_real(*(const double *)at);
    if (settings[setting].type == T_BOOL)
        return json_boolean(*(const bool *)at);
    memcpy(&i, at, sizeof i);
    return settings[setting].type == T_ENUM ? json_string(settings[setting].names[i]) : json_integer(i);
}

/* ---- rules ---- */

static void take_recipe(struct quant_params *p)
{
    if (p->recipe == RECIPE_NONE)
        return;
    struct quant_params from = recipes[p->recipe];
    for (int i = S_COMPENSATE; i < SETTINGS; i++)
        if (!wrote(p, i))
            memcpy(field_of(p, i), field_of(&from, i), size_of(i));
    if (!wrote(p, S_COMPENSATE_RESIDUAL))
        p->compensate_residual = p->compensate;
    if (!wrote(p, S_MSE))
        p->mse = 0;
}

static int check_ranges(const struct quant_params *p, const char *where, struct err *e)
{
    if (p->bits != 2 && p->bits != 3 && p->bits != 4 && p->bits != 8)
        return err_set(e, ERR_MANIFEST, "%s: bits must be 2, 3, 4 or 8, not %d", where, p->bits);
    if (p->group_size != -1 && p->group_size < 1)
        return err_set(e, ERR_MANIFEST, "%s: group_size must be -1 (one group) or positive, not %d", where, p->group_size);
    if (!(p->mse == 0 || (p->mse > 0 && p->mse <= 16)))
        return err_set(e, ERR_MANIFEST, "%s: mse must be 0 (off) or an exponent up to 16, not %g", where, p->mse);
    if (!(p->damp_percent > 0 && p->damp_percent < 1))
        return err_set(e, ERR_MANIFEST, "%s: damp_percent must lie between 0 and 1, not %g", where, p->damp_percent);
    if (!(p->damp_auto_increment >= 0 && p->damp_auto_increment < 1))
        return err_set(e, ERR_MANIFEST, "%s: damp_auto_increment must be 0 (one attempt) or lie between 0 and 1, not %g", where,
                       p->damp_auto_increment);
    if (!(p->compensate >= 0 && p->compensate <= 1))
        return err_set(e, ERR_MANIFEST, "%s: compensate must lie in 0..1, not %g", where, p->compensate);
    if (!(p->compensate_residual >= 0 && p->compensate_residual <= 1))
        return err_set(e, ERR_MANIFEST, "%s: compensate_residual must lie in 0..1, not %g", where, p->compensate_residual);
    if (p->scale_candidates < 2 || p->scale_candidates > 64)
        return err_set(e, ERR_MANIFEST, "%s: scale_candidates must lie in 2..64, not %d", where, p->scale_candidates);
    if (p->refine_sweeps < 0 || p->refine_sweeps > 64)
        return err_set(e, ERR_MANIFEST, "%s: refine_sweeps must lie in 0..64, not %d", where, p->refine_sweeps);
    return 0;
}

static int check_order(struct quant_params *p, const char *where, struct err *e)
{
    if (!p->act_group_aware || (!p->desc_act && p->group_size != -1))
        return 0;
    if (wrote(p, S_ACT_GROUP_AWARE) && p->desc_act)
        return err_set(e, ERR_MANIFEST,
                       "%s: desc_act and act_group_aware are both true: they are two orders of the same columns; set one to false", where);
    if (wrote(p, S_ACT_GROUP_AWARE))
        return err_set(e, ERR_MANIFEST, "%s: act_group_aware orders groups, but group_size -1 is one group; set act_group_aware to false",
                       where);
    p->act_group_aware = false;
    return 0;
}

/* Another setting rules a part out: an error when the user wrote it, else it is turned off. */
static int ruled_out(struct quant_params *p, int part, const char *needs, const char *but, const char *where, struct err *e)
{
    static const double off;
    void *at = field_of(p, part);
    if (!memcmp(at, &off, size_of(part)))
        return 0;
    if (!wrote(p, part)) {
        memset(at, 0, size_of(part));
        return 0;
    }
    json_t *v = value_json(p, part);
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
    json_decref(v);
    size_t quote = text && *text == '"';
    err_set(e, ERR_MANIFEST, "%s: %s %.*s needs %s, but %s", where, settings[part].name, text ? (int)(strlen(text) - 2 * quote) : 0,
            text ? text + quote : "", needs, but);
    free(text);
    return -ERR_MANIFEST;
}

/* scale_search and mse: each brings the other where only one is written. */
static int check_search(struct quant_params *p, const char *where, struct err *e)
{
    if (!wrote(p, S_SCALE_SEARCH) && p->mse > 0)
        p->scale_search = GRID_MSE;
    if (p->scale_search != GRID_MSE && p->mse > 0)
        return err_set(e, ERR_MANIFEST, "%s: mse %g is the exponent of scale_search mse, but scale_search is %s", where, p->mse,
                       searches[p->scale_search]);
    int rc = 0;
    if (p->scale_search == GRID_GPTQ && p->method == QUANT_RTN)
        rc = ruled_out(p, S_SCALE_SEARCH, "method gptq", "method is rtn", where, e);
    if (!rc && p->scale_search == GRID_GPTQ && p->static_groups) {
        rc = ruled_out(p, S_SCALE_SEARCH, "scales chosen inside the loop", "static_groups true fixes them before it", where, e);
        if (!rc && !wrote(p, S_MSE)) /* the best that can be done before the loop; `mse: 0` asks for min/max */
            p->scale_search = GRID_MSE;
    }
    if (rc || p->scale_search != GRID_MSE || p->mse > 0)
        return rc;
    if (wrote(p, S_MSE))
        return err_set(e, ERR_MANIFEST, "%s: scale_search mse needs an exponent, but mse is 0", where);
    p->mse = MSE_DEFAULT;
    return 0;
}

static int check_parts(struct quant_params *p, const char *where, struct err *e)
{
    static const int of_gptq[] = {S_COMPENSATE, S_COMPENSATE_RESIDUAL, S_REFINE_SWEEPS, S_REFIT_SCALES, S_OUTPUT_METRIC};
    int rc = check_search(p, where, e);
    for (size_t i = 0; !rc && p->method == QUANT_RTN && i < sizeof of_gptq / sizeof *of_gptq; i++)
        rc = ruled_out(p, of_gptq[i], "method gptq", "method is rtn", where, e);
    for (int i = S_COMPENSATE; !rc && p->inputs == INPUTS_ORIGINAL && i <= S_COMPENSATE_RESIDUAL; i++)
        rc = ruled_out(p, i, "inputs quantized", "inputs is original", where, e);
    if (!rc && !p->sym)
        rc = ruled_out(p, S_SIGNED_SCALES, "sym true", "sym is false", where, e);
    if (p->scale_search == GRID_MINMAX && !wrote(p, S_SCALE_DTYPE)) /* where nothing is searched rounding is not free */
        p->scale_dtype = SCALE_F16;
    if (!rc && p->scale_search == GRID_MINMAX)
        rc = ruled_out(p, S_SIGNED_SCALES, "scale_search gptq or mse", "scale_search is minmax", where, e);
    if (!rc && !p->refine_sweeps)
        rc = ruled_out(p, S_REFIT_SCALES, "refine_sweeps of 1 or more", "refine_sweeps is 0", where, e);
    if (!rc && !p->refine_sweeps)
        rc = ruled_out(p, S_OUTPUT_METRIC, "refine_sweeps of 1 or more", "refine_sweeps is 0", where, e);
    return rc;
}

int quant_params_resolve(struct quant_params *p, const char *where, struct err *e)
{
    take_recipe(p);
    int rc = check_ranges(p, where, e);
    if (!rc)
        rc = check_order(p, where, e);
    return rc ? rc : check_parts(p, where, e);
}

/* ---- reading ---- */

/* Levenshtein distance of short names. */
static size_t distance(const char *a, const char *b)
{
    size_t row[64], n = strlen(b);
    if (n >= sizeof row / sizeof *row)
        return SIZE_MAX;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t change = diagonal + (a[i] != b[j]), least = change;
            diagonal = row[j + 1];
            if (diagonal + 1 < least)
                least = diagonal + 1;
            if (row[j] + 1 < least)
                least = row[j] + 1;
            row[j + 1] = least;
        }
    }
    return row[n];
}

static int unknown(const char *key, const char *where, struct err *e)
{
    static const char *const stage_only[] = {"recipe", "true_sequential", "lm_head", "fallback", "inputs", "dynamic", "calibration", "model"};
    for (size_t i = 0; i < sizeof stage_only / sizeof *stage_only; i++)
        if (!strcmp(key, stage_only[i]))
            return err_set(e, ERR_MANIFEST, "%s: '%s' is set for the whole stage, not for a module", where, key);
    size_t best = 0;
    for (size_t i = 1; i < SETTINGS; i++)
        if (distance(key, settings[i].name) < distance(key, settings[best].name))
            best = i;
    size_t d = distance(key, settings[best].name), len = strlen(settings[best].name);
    if (d <= 2 || d <= len / 2)
        return err_set(e, ERR_MANIFEST, "%s: unknown setting '%s'; did you mean '%s'?", where, key, settings[best].name);
    struct buf known = BUF_INIT;
    for (size_t i = 0; i < SETTINGS; i++)
        buf_printf(&known, "%s%s", i ? " " : "", settings[i].name);
    err_set(e, ERR_MANIFEST, "%s: unknown setting '%s' (known: %s)", where, key, buf_str(&known));
    buf_release(&known);
    return -ERR_MANIFEST;
}

static int set_int(int *to, const json_t *v, const char *key, const char *where, struct err *e)
{
    double d = json_number_value(v);
    if (!json_is_number(v) || d != floor(d))
        return err_set(e, ERR_MANIFEST, "%s: %s must be an integer", where, key);
    if (d < -1 || d > INT_MAX)
        return err_set(e, ERR_MANIFEST, "%s: %s is out of range", where, key);
    *to = (int)d;
    return 0;
}

static int set_enum(void *to, const struct setting *s, const json_t *v, const char *where, struct err *e)
{
    const char *text = json_string_value(v);
    for (int i = 0; text && s->names[i]; i++)
        if (!strcmp(text, s->names[i])) {
            memcpy(to, &i, sizeof i);
            return 0;
        }
    struct buf list = BUF_INIT;
    for (size_t i = 0; s->names[i]; i++)
        buf_printf(&list, "%s%s", !i ? "" : s->names[i + 1] ? ", " : " or ", s->names[i]);
    err_set(e, ERR_MANIFEST, "%s: %s must be %s%s%.64s%s", where, s->name, buf_str(&list), text ? ", not '" : "", text ? text : "", text ? "'" : "");
    buf_release(&list);
    return -ERR_MANIFEST;
}

int quant_params_set(struct quant_params *p, const char *key, const json_t *value, const char *where, struct err *e)
{
    int i = 0, rc = 0;
    while (i < SETTINGS && strcmp(settings[i].name, key) != 0)
        i++;
    if (i == SETTINGS)
        return unknown(key, where, e);
    void *field = field_of(p, i);
    switch (settings[i].type) {
    case T_INT:
        rc = set_int(field, value, key, where, e);
        break;
    case T_BOOL:
        if (!json_is_boolean(value))
            return err_set(e, ERR_MANIFEST, "%s: %s must be true or false", where, key);
        *(bool *)field = json_is_true(value);
        break;
    case T_REAL:
        if (!json_is_number(value))
            return err_set(e, ERR_MANIFEST, "%s: %s must be a number", where, key);
        *(double *)field = json_number_value(value);
        break;
    case T_ENUM:
        rc = set_enum(field, &settings[i], value, where, e);
        break;
    }
    p->written |= 1u << i;
    return rc;
}

/* ---- writing ---- */

bool quant_params_plain(const struct quant_params *p)
{
    return p->compensate == 0 && p->compensate_residual == 0 && p->scale_search != GRID_GPTQ && !p->signed_scales && !p->refine_sweeps &&
           p->output_metric == METRIC_NONE && p->scale_dtype == SCALE_F16;
}

static void add_parts(const struct quant_params *p, json_t *o)
{
    for (int i = S_COMPENSATE; !quant_params_plain(p) && i < SETTINGS; i++)
        if (i != S_SCALE_CANDIDATES || p->scale_search == GRID_GPTQ) /* elsewhere it means nothing */
            json_object_set_new(o, settings[i].name, value_json(p, i));
}

json_t *quant_parts_json(const struct quant_params *p)
{
    json_t *o = json_object();
    add_parts(p, o);
    return o;
}

/* Reports keep this order of fields. */
json_t *quant_params_json(const struct quant_params *p)
{
    json_t *o = json_object();
    for (int i = 0; i < S_COMPENSATE; i++)
        json_object_set_new(o, settings[i].name, value_json(p, i));
    if (json_object_set_new(o, "fallback", json_string(p->fallback == FALLBACK_RTN ? "rtn" : "none")))
        BUG("settings cannot be written as JSON");
    add_parts(p, o);
    return o;
}

bool quant_params_equal(const struct quant_params *a, const struct quant_params *b)
{
    json_t *x = quant_params_json(a), *y = quant_params_json(b);
    bool equal = json_equal(x, y);
    json_decref(x);
    json_decref(y);
    return equal;
}

void quant_parts_text(const struct quant_params *p, struct buf *out)
{
    if (p->compensate > 0)
        buf_printf(out, "compensate %g, ", p->compensate);
    if (p->compensate_residual > 0)
        buf_printf(out, "residual %g, ", p->compensate_residual);
    buf_printf(out, "scale_search %s", searches[p->scale_search]);
    if (p->scale_search == GRID_GPTQ)
        buf_printf(out, " (%d candidates)", p->scale_candidates);
    if (p->scale_search == GRID_MSE)
        buf_printf(out, " (%g)", p->mse);
    if (p->signed_scales)
        buf_addstr(out, ", signed_scales");
    if (p->refine_sweeps)
        buf_printf(out, ", refine_sweeps %d", p->refine_sweeps);
    if (p->refit_scales)
        buf_addstr(out, ", refit_scales");
    if (p->output_metric != METRIC_NONE)
        buf_printf(out, ", output_metric %s", metrics[p->output_metric]);
    buf_printf(out, ", scale_dtype %s", dtypes[p->scale_dtype]);
}

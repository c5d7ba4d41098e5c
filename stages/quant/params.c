#include "stages/quant/params.h"

#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum type { T_BITS, T_GROUP, T_BOOL, T_REAL, T_METHOD };

/* What `dynamic` may change, module by module. */
static const struct setting {
    const char *name;
    enum type type;
    size_t offset;
} settings[] = {
    {"bits",                T_BITS,   offsetof(struct quant_params, bits)               },
    {"group_size",          T_GROUP,  offsetof(struct quant_params, group_size)         },
    {"sym",                 T_BOOL,   offsetof(struct quant_params, sym)                },
    {"desc_act",            T_BOOL,   offsetof(struct quant_params, desc_act)           },
    {"act_group_aware",     T_BOOL,   offsetof(struct quant_params, act_group_aware)    },
    {"static_groups",       T_BOOL,   offsetof(struct quant_params, static_groups)      },
    {"mse",                 T_REAL,   offsetof(struct quant_params, mse)                },
    {"damp_percent",        T_REAL,   offsetof(struct quant_params, damp_percent)       },
    {"damp_auto_increment", T_REAL,   offsetof(struct quant_params, damp_auto_increment)},
    {"method",              T_METHOD, offsetof(struct quant_params, method)             },
};
enum { SETTINGS = sizeof settings / sizeof *settings };

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
    };
}

const char *quant_method_name(enum quant_method m)
{
    return m == QUANT_RTN ? "rtn" : "gptq";
}

int quant_params_resolve(struct quant_params *p, const char *where, struct err *e)
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
    if (p->act_group_aware && (p->desc_act || p->group_size == -1)) {
        if (p->act_group_aware_set && p->desc_act)
            return err_set(e, ERR_MANIFEST,
                           "%s: desc_act and act_group_aware are both true: they are two orders of the same columns; set one to false",
                           where);
        if (p->act_group_aware_set)
            return err_set(e, ERR_MANIFEST,
                           "%s: act_group_aware orders groups, but group_size -1 is one group; set act_group_aware to false", where);
        p->act_group_aware = false;
    }
    return 0;
}

bool quant_params_equal(const struct quant_params *a, const struct quant_params *b)
{
    return a->method == b->method && a->bits == b->bits && a->group_size == b->group_size && a->sym == b->sym &&
           a->desc_act == b->desc_act && a->act_group_aware == b->act_group_aware && a->static_groups == b->static_groups &&
           a->mse == b->mse && a->damp_percent == b->damp_percent && a->damp_auto_increment == b->damp_auto_increment &&
           a->fallback == b->fallback;
}

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
    static const char *const stage_only[] = {"true_sequential", "lm_head", "fallback", "dynamic", "calibration", "model"};
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
    return err_set(e, ERR_MANIFEST,
                   "%s: unknown setting '%s' (known: bits group_size sym desc_act act_group_aware static_groups mse damp_percent "
                   "damp_auto_increment method)",
                   where, key);
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

static int set_method(enum quant_method *to, const json_t *v, const char *where, struct err *e)
{
    const char *s = json_string_value(v);
    if (!s || (strcmp(s, "gptq") != 0 && strcmp(s, "rtn") != 0))
        return err_set(e, ERR_MANIFEST, "%s: method must be gptq or rtn%s%.64s%s", where, s ? ", not '" : "", s ? s : "", s ? "'" : "");
    *to = strcmp(s, "rtn") ? QUANT_GPTQ : QUANT_RTN;
    return 0;
}

int quant_params_set(struct quant_params *p, const char *key, const json_t *value, const char *where, struct err *e)
{
    const struct setting *s = settings;
    while (s < settings + SETTINGS && strcmp(s->name, key) != 0)
        s++;
    if (s == settings + SETTINGS)
        return unknown(key, where, e);
    char *field = (char *)p + s->offset;
    switch (s->type) {
    case T_BITS:
    case T_GROUP:
        return set_int((int *)(void *)field, value, key, where, e);
    case T_BOOL:
        if (!json_is_boolean(value))
            return err_set(e, ERR_MANIFEST, "%s: %s must be true or false", where, key);
        *(bool *)field = json_is_true(value);
        if (s->offset == offsetof(struct quant_params, act_group_aware))
            p->act_group_aware_set = true;
        return 0;
    case T_REAL:
        if (!json_is_number(value))
            return err_set(e, ERR_MANIFEST, "%s: %s must be a number", where, key);
        *(double *)(void *)field = json_number_value(value);
        return 0;
    case T_METHOD:
        return set_method(&p->method, value, where, e);
    }
    BUG("setting '%s' has no type", key);
}

json_t *quant_params_json(const struct quant_params *p)
{
    json_t *o = json_pack("{s:s, s:i, s:i, s:b, s:b, s:b, s:b, s:f, s:f, s:f, s:s}", "method", quant_method_name(p->method), "bits",
                          p->bits, "group_size", p->group_size, "sym", p->sym, "desc_act", p->desc_act, "act_group_aware",
                          p->act_group_aware, "static_groups", p->static_groups, "mse", p->mse, "damp_percent", p->damp_percent,
                          "damp_auto_increment", p->damp_auto_increment, "fallback", p->fallback == FALLBACK_RTN ? "rtn" : "none");
    if (!o)
        BUG("settings cannot be written as JSON");
    return o;
}

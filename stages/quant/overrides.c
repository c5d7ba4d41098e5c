#define PCRE2_CODE_UNIT_WIDTH 8
#include "stages/quant/overrides.h"

#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/map.h"
#include "pipeline/base/mem.h"

/* Enough for any sane pattern on names of a hundred characters, small enough that a hostile one ends in milliseconds. */
enum { MATCH_LIMIT = 200000, HEAP_LIMIT_KIB = 1024 };

struct pattern {
    const char *text; /* as written; borrowed from the table */
    const char *re;   /* text without its prefix */
    bool negative;
    const json_t *settings; /* borrowed */
    pcre2_code *code;
    char *literal; /* what a pattern like ^a\.b$ spells, else NULL; owned */
    size_t whole_hits;
};

struct resolver {
    struct override_table *t;
    const struct quant_params *base;
    const struct override_module *modules;
    size_t count;
    struct pattern *patterns; /* [t->pattern_count] */
    size_t *positives;        /* [t->pattern_count] scratch: the positive patterns that match the module at hand */
    bool list;
    struct map names; /* module name -> its struct override_module */
    pcre2_match_data *match;
    pcre2_match_context *limits;
};

/* Whether re spells exactly one name: word characters, '-', and escaped punctuation between an optional ^ and $. Such a pattern is looked
 * up instead of matched: thousands of them against thousands of modules are real (ModelCloud/GPTQModel PR #2987). */
static char *literal_of(const char *re)
{
    char *out = xmalloc(strlen(re) + 1), *o = out;
    if (*re == '^')
        re++;
    for (; *re && strcmp(re, "$") != 0; re++) {
        if (*re == '\\' && re[1] && strchr(".-_/", re[1]))
            re++;
        else if (!((*re >= '0' && *re <= '9') || (*re >= 'A' && *re <= 'Z') || (*re >= 'a' && *re <= 'z') || *re == '_' || *re == '-')) {
            free(out);
            return NULL;
        }
        *o++ = *re;
    }
    *o = 0;
    return out;
}

static int compile(struct pattern *p, struct err *e)
{
    int code;
    PCRE2_SIZE at;
    p->negative = !strncmp(p->text, "-:", 2);
    p->re = p->text + (p->negative || !strncmp(p->text, "+:", 2) ? 2 : 0);
    if (!*p->re)
        return err_set(e, ERR_MANIFEST, "pattern '%s' is empty", p->text);
    p->code = pcre2_compile((PCRE2_SPTR)p->re, PCRE2_ZERO_TERMINATED,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_DOLLAR_ENDONLY, &code, &at, NULL);
    if (!p->code) {
        PCRE2_UCHAR why[256];
        pcre2_get_error_message(code, why, sizeof why);
        return err_set(e, ERR_MANIFEST, "pattern '%s': %s at offset %zu", p->text, (const char *)why, at + (size_t)(p->re - p->text));
    }
    p->literal = literal_of(p->re);
    if (p->negative && json_object_size(p->settings) > (json_object_get(p->settings, "match") ? 1U : 0U))
        return err_set(e, ERR_MANIFEST, "pattern '%s' leaves modules as they are and takes no settings", p->text);
    return 0;
}

/* *hit = whether p matches name under `options`. */
static int match(struct resolver *r, const struct pattern *p, const char *name, uint32_t options, bool *hit, struct err *e)
{
    int rc = pcre2_match(p->code, (PCRE2_SPTR)name, PCRE2_ZERO_TERMINATED, 0, options, r->match, r->limits);
    *hit = rc >= 0;
    if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH)
        return 0;
    PCRE2_UCHAR why[256];
    pcre2_get_error_message(rc, why, sizeof why);
    return err_set(e, ERR_MANIFEST, "pattern '%s' on module '%s': %s", p->text, name, (const char *)why);
}

static int match_whole(struct resolver *r, const struct pattern *p, const char *name, bool *hit, struct err *e)
{
    if (p->literal) {
        *hit = !strcmp(p->literal, name);
        return 0;
    }
    return match(r, p, name, PCRE2_ANCHORED | PCRE2_ENDANCHORED, hit, e);
}

/* The settings that pattern p gives a module. */
static int apply(const struct resolver *r, const struct pattern *p, struct quant_params *out, struct err *e)
{
    const char *key;
    json_t *value;
    char *where = xasprintf("pattern '%s'", p->text);
    int rc = 0;
    *out = *r->base;
    json_object_foreach((json_t *)(uintptr_t)p->settings, key, value)
    {
        if (r->list && !strcmp(key, "match"))
            continue;
        rc = quant_params_set(out, key, value, where, e);
        if (rc)
            goto out;
    }
    rc = quant_params_resolve(out, where, e);
out:
    free(where);
    return rc;
}

/* Reads the patterns of both forms into the table and r->patterns. */
static int collect(struct resolver *r, const json_t *dynamic, struct err *e)
{
    struct override_table *t = r->t;
    size_t n = r->list ? json_array_size(dynamic) : json_object_size(dynamic), i = 0;
    t->patterns = xcalloc(n + 1, sizeof *t->patterns);
    r->patterns = xcalloc(n + 1, sizeof *r->patterns);
    r->positives = xcalloc(n + 1, sizeof *r->positives);
    if (r->list) {
        for (; i < n; i++) {
            const json_t *item = json_array_get(dynamic, i), *m = json_object_get(item, "match");
            t->failed_pattern = (int)i;
            if (!json_is_object(item))
                return err_set(e, ERR_MANIFEST, "dynamic: entry %zu must be an object with \"match\" and settings", i + 1);
            if (!json_is_string(m) || strlen(json_string_value(m)) != json_string_length(m))
                return err_set(e, ERR_MANIFEST, "dynamic: entry %zu needs \"match\", a pattern", i + 1);
            t->patterns[t->pattern_count++] = xstrdup(json_string_value(m));
            r->patterns[i].settings = item;
        }
    } else {
        const char *key;
        json_t *value;
        json_object_foreach((json_t *)(uintptr_t)dynamic, key, value)
        {
            t->failed_pattern = (int)i;
            if (!json_is_object(value) && !json_is_null(value))
                return err_set(e, ERR_MANIFEST, "dynamic: pattern '%s' needs an object of settings", key);
            t->patterns[t->pattern_count++] = xstrdup(key);
            r->patterns[i++].settings = json_is_null(value) ? NULL : value;
        }
    }
    for (i = 0; i < n; i++) {
        r->patterns[i].text = t->patterns[i];
        t->failed_pattern = (int)i;
        struct quant_params unused;
        int rc = compile(&r->patterns[i], e);
        if (!rc && !r->patterns[i].negative) /* settings are checked even where a `-:` hides them */
            rc = apply(r, &r->patterns[i], &unused, e);
        if (rc)
            return rc;
    }
    t->failed_pattern = -1;
    return 0;
}

/* Map form: a second positive pattern on one module must say the same. */
static int check_same(struct resolver *r, const char *name, size_t first, size_t second, struct err *e)
{
    struct quant_params a, b;
    int rc = apply(r, &r->patterns[first], &a, e);
    if (!rc)
        rc = apply(r, &r->patterns[second], &b, e);
    if (rc || quant_params_equal(&a, &b))
        return rc;
    r->t->failed_pattern = (int)second;
    return err_set(e, ERR_MANIFEST,
                   "module '%s' gets different settings from '%s' and '%s': narrow one of them, or write dynamic as a list, where the "
                   "first match wins",
                   name, r->patterns[first].text, r->patterns[second].text);
}

static int resolve_module(struct resolver *r, size_t m, struct err *e)
{
    const struct override_module *module = &r->modules[m];
    struct override_row *row = &r->t->rows[m];
    size_t positives = 0;
    int negative = -1, rc = 0;
    for (size_t i = 0; i < r->t->pattern_count; i++) {
        struct pattern *p = &r->patterns[i];
        bool hit;
        r->t->failed_pattern = (int)i;
        rc = match_whole(r, p, module->name, &hit, e);
        if (rc)
            return rc;
        p->whole_hits += hit;
        if (hit && !p->negative)
            r->positives[positives++] = i;
        else if (hit && negative < 0)
            negative = (int)i;
    }
    r->t->failed_pattern = -1;
    *row = (struct override_row){.name = module->name, .quantized = module->by_default, .pattern = -1, .params = *r->base};
    if (negative >= 0 && (!r->list || !positives || (size_t)negative < r->positives[0])) {
        row->quantized = false;
        row->pattern = negative;
        return 0;
    }
    if (!positives)
        return 0;
    for (size_t i = 1; !rc && !r->list && i < positives; i++)
        rc = check_same(r, module->name, r->positives[0], r->positives[i], e);
    if (rc)
        return rc;
    row->quantized = true;
    row->pattern = (int)r->positives[0];
    return apply(r, &r->patterns[row->pattern], &row->params, e);
}

/* The pattern matched no whole name: says what it would have hit under looser rules, since that is the usual mistake. */
static int unmatched(struct resolver *r, const struct pattern *p, struct err *e)
{
    size_t prefix = 0, inside = 0;
    for (size_t m = 0; m < r->count; m++) {
        bool hit;
        int rc = match(r, p, r->modules[m].name, PCRE2_ANCHORED, &hit, e);
        if (rc)
            return rc;
        prefix += hit;
        rc = match(r, p, r->modules[m].name, 0, &hit, e);
        if (rc)
            return rc;
        inside += hit;
    }
    if (!prefix && inside)
        return err_set(
            e, ERR_MANIFEST,
            "pattern '%s' matches no whole module name (as a prefix it would have hit 0, but it occurs inside %zu; names are like '%s')",
            p->text, inside, r->modules[0].name);
    return err_set(e, ERR_MANIFEST, "pattern '%s' matches no whole module name (as a prefix it would have hit %zu)", p->text, prefix);
}

static void resolver_release(struct resolver *r)
{
    for (size_t i = 0; r->patterns && i < r->t->pattern_count; i++) {
        pcre2_code_free(r->patterns[i].code);
        free(r->patterns[i].literal);
    }
    free(r->patterns);
    free(r->positives);
    map_release(&r->names);
    pcre2_match_data_free(r->match);
    pcre2_match_context_free(r->limits);
}

static int resolver_init(struct resolver *r, struct err *e)
{
    r->match = pcre2_match_data_create(1, NULL);
    r->limits = pcre2_match_context_create(NULL);
    if (!r->match || !r->limits)
        return err_set(e, ERR_NOMEM, "no memory to match patterns");
    pcre2_set_match_limit(r->limits, MATCH_LIMIT);
    pcre2_set_heap_limit(r->limits, HEAP_LIMIT_KIB);
    for (size_t i = 0; i < r->count; i++)
        if (map_put(&r->names, r->modules[i].name, (void *)(uintptr_t)&r->modules[i]))
            return err_set(e, ERR_FORMAT, "module '%s' is listed twice", r->modules[i].name);
    return 0;
}

int overrides_resolve(struct override_table *t, const struct quant_params *base, const json_t *dynamic,
                      const struct override_module *modules, size_t count, struct err *e)
{
    struct resolver r = {.t = t, .base = base, .modules = modules, .count = count, .list = json_is_array(dynamic), .names = MAP_INIT};
    *t = (struct override_table){.count = count, .failed_pattern = -1};
    t->rows = xcalloc(count + 1, sizeof *t->rows);
    int rc = resolver_init(&r, e);
    if (rc)
        goto out;
    if (dynamic && !json_is_null(dynamic)) {
        rc = json_is_object(dynamic) || r.list
                 ? collect(&r, dynamic, e)
                 : err_set(e, ERR_MANIFEST, "dynamic must be a map of patterns or a list of entries with \"match\"");
        if (rc)
            goto out;
    }
    for (size_t m = 0; !rc && m < count; m++)
        rc = resolve_module(&r, m, e);
    for (size_t i = 0; !rc && i < t->pattern_count; i++)
        if (!r.patterns[i].whole_hits) {
            t->failed_pattern = (int)i;
            rc = unmatched(&r, &r.patterns[i], e);
        }
out:
    resolver_release(&r);
    return rc;
}

void overrides_release(struct override_table *t)
{
    for (size_t i = 0; i < t->pattern_count; i++)
        free(t->patterns[i]);
    free(t->patterns);
    free(t->rows);
    *t = (struct override_table){.failed_pattern = -1};
}

const struct override_row *overrides_find(const struct override_table *t, const char *name)
{
    for (size_t i = 0; i < t->count; i++)
        if (!strcmp(t->rows[i].name, name))
            return &t->rows[i];
    return NULL;
}

json_t *overrides_module_json(const struct override_row *row)
{
    json_t *o = row->quantized ? quant_params_json(&row->params) : json_object();
    if (!o || json_object_set_new(o, "quantized", json_boolean(row->quantized)))
        BUG("module '%s' cannot be written as JSON", row->name);
    return o;
}

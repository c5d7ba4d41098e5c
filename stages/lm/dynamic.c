#include "stages/lm/dynamic.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/mem.h"

struct rule {
    bool negative;
    const char *pattern; /* as written */
    const json_t *settings;
    pcre2_code *code;
};

struct dynamic {
    struct rule *rules; /* in the order in which they are tried */
    size_t count;
    pcre2_match_data *match;
};

static int add_rule(struct dynamic *d, const char *pattern, const json_t *settings, const char *where, struct err *e)
{
    bool negative = !strncmp(pattern, "-:", 2);
    const char *text = negative || !strncmp(pattern, "+:", 2) ? pattern + 2 : pattern;
    int code;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_ANCHORED, &code, &at, NULL);
    if (!re) {
        PCRE2_UCHAR why[160];
        pcre2_get_error_message(code, why, sizeof why);
        return err_set(e, ERR_FORMAT, "%s: \"dynamic\": '%.200s' at offset %zu: %s", where, pattern, (size_t)at, (const char *)why);
    }
    d->rules[d->count++] = (struct rule){negative, pattern, settings, re};
    if (!json_is_object(settings) && !negative)
        return err_set(e, ERR_FORMAT, "%s: \"dynamic\": '%.200s' must have an object", where, pattern);
    return 0;
}

int dynamic_compile(const json_t *o, const char *where, struct dynamic **out, struct err *e)
{
    struct dynamic *d = xcalloc(1, sizeof *d);
    d->rules = xcalloc(json_object_size(o) + 1, sizeof *d->rules);
    d->match = pcre2_match_data_create(1, NULL);
    if (!d->match)
        BUG("out of memory");
    int rc = 0;
    for (int negatives = 1; negatives >= 0; negatives--) {
        const char *pattern;
        json_t *settings;
        json_object_foreach((json_t *)(uintptr_t)o, pattern, settings)
        {
            if (!rc && (strncmp(pattern, "-:", 2) == 0) == negatives)
                rc = add_rule(d, pattern, settings, where, e);
        }
    }
    if (rc) {
        dynamic_free(d);
        d = NULL;
    }
    *out = d;
    return rc;
}

void dynamic_free(struct dynamic *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < d->count; i++)
        pcre2_code_free(d->rules[i].code);
    pcre2_match_data_free(d->match);
    free(d->rules);
    free(d);
}

int dynamic_match(const struct dynamic *d, const char *name, const json_t **settings, const char **pattern)
{
    for (size_t i = 0; i < d->count; i++) {
        const struct rule *r = &d->rules[i];
        if (pcre2_match(r->code, (PCRE2_SPTR)name, PCRE2_ZERO_TERMINATED, 0, 0, d->match, NULL) < 0)
            continue;
        if (pattern)
            *pattern = r->pattern;
        *settings = r->settings;
        return r->negative ? -1 : 1;
    }
    return 0;
}

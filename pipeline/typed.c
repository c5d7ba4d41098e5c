#include "pipeline/typed.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/mem.h"
#include "pipeline/nearest.h"

static json_t *fail(const struct typed_ctx *t, struct mark at, struct err *e, const char *fmt, ...) ERR_PRINTF(4, 5);
static json_t *fail(const struct typed_ctx *t, struct mark at, struct err *e, const char *fmt, ...)
{
    char text[ERR_TEXT_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    err_at(e, ERR_MANIFEST, t->file, at.line, at.col, "stage '%s': %s", t->stage, text);
    return NULL;
}

static bool is_null(const struct yaml_node *n)
{
    return n->type == YAML_SCALAR && n->plain && (!n->text[0] || !strcmp(n->text, "~") || !strcmp(n->text, "null"));
}

/* Scalar text with variables expanded; name is what the message calls it. */
static const char *scalar(struct typed_ctx *t, const char *name, const struct yaml_node *n, const char *want, struct err *e)
{
    if (n->type != YAML_SCALAR) {
        fail(t, n->at, e, "'%s' must be %s, not %s", name, want, yaml_type_name(n));
        return NULL;
    }
    return vars_expand(t->vars, n->text, n->at, e);
}

static json_t *int_value(struct typed_ctx *t, const char *name, const struct yaml_node *n, struct err *e)
{
    const char *s = scalar(t, name, n, "an integer", e);
    if (!s)
        return NULL;
    const char *digits = s + (*s == '-' || *s == '+');
    size_t len = strspn(digits, "0123456789");
    if (!len || digits[len] || (len > 1 && digits[0] == '0'))
        return fail(t, n->at, e, "'%s' must be an integer, not '%s'", name, s);
    errno = 0;
    long long v = strtoll(s, NULL, 10);
    if (errno)
        return fail(t, n->at, e, "'%s' is too large: %s", name, s);
    return json_integer(v);
}

static json_t *real_value(struct typed_ctx *t, const char *name, const struct yaml_node *n, struct err *e)
{
    const char *s = scalar(t, name, n, "a number", e);
    if (!s)
        return NULL;
    char *end = NULL;
    double v = strtod(s, &end);
    if (!s[0] || *end || s[strspn(s, "+-.0123456789eE")] || !strpbrk(s, "0123456789") || !isfinite(v))
        return fail(t, n->at, e, "'%s' must be a number, not '%s'", name, s);
    return json_real(v == 0 ? 0 : v); /* -0 and 0 are one value */
}

static json_t *bool_value(struct typed_ctx *t, const char *name, const struct yaml_node *n, struct err *e)
{
    const char *s = scalar(t, name, n, "true or false", e);
    if (!s)
        return NULL;
    if (strcmp(s, "true") != 0 && strcmp(s, "false") != 0)
        return fail(t, n->at, e, "'%s' must be true or false, not '%s'", name, s);
    return json_boolean(s[0] == 't');
}

static json_t *str_value(struct typed_ctx *t, const char *name, const struct yaml_node *n, bool may_be_empty, struct err *e)
{
    const char *s = scalar(t, name, n, "text", e);
    if (!s)
        return NULL;
    if (!s[0] && !may_be_empty)
        return fail(t, n->at, e, "'%s' is empty", name);
    return json_string(s);
}

static json_t *enum_value(struct typed_ctx *t, const struct schema_field *f, const struct yaml_node *n, struct err *e)
{
    const char *s = scalar(t, f->name, n, "text", e), *names[16], *near = NULL;
    if (!s)
        return NULL;
    size_t count = 0;
    json_t *found = NULL;
    char *list = xstrdup(f->t.choices), *rest = NULL;
    for (char *c = strtok_r(list, "|", &rest); c && count < 16; c = strtok_r(NULL, "|", &rest)) {
        names[count++] = c;
        if (!found && !strcmp(c, s))
            found = json_string(s);
    }
    if (!found) {
        near = nearest_name(s, names, count);
        fail(t, n->at, e, "'%s' must be one of %s, not '%s'%s%s%s", f->name, f->t.choices, s, near ? " (did you mean '" : "",
             near ? near : "", near ? "'?)" : "");
    }
    free(list);
    return found;
}

/* verbatim: no variables (prompts). */
static json_t *list_value(struct typed_ctx *t, const struct schema_field *f, const struct yaml_node *n, bool verbatim, struct err *e)
{
    if (n->type != YAML_LIST)
        return fail(t, n->at, e, "'%s' must be a list, not %s", f->name, yaml_type_name(n));
    if (!n->count)
        return fail(t, n->at, e, "'%s' is an empty list", f->name);
    json_t *out = json_array();
    for (size_t i = 0; i < n->count; i++) {
        const struct yaml_node *item = n->items[i];
        json_t *v = verbatim && item->type == YAML_SCALAR ? json_string(item->text) : str_value(t, f->name, item, verbatim, e);
        if (!v) {
            json_decref(out);
            return NULL;
        }
        json_array_append_new(out, v);
    }
    return out;
}

static json_t *data_value(struct typed_ctx *t, const struct schema_field *f, const struct yaml_node *n, struct err *e)
{
    if (n->type != YAML_MAP)
        return str_value(t, f->name, n, false, e);
    static const char *const names[] = {"from", "files"};
    json_t *out = json_object();
    bool ok = true;
    for (size_t i = 0; ok && i < n->count; i++) {
        const char *key = n->pairs[i].key->text;
        if (strcmp(key, "from") != 0 && strcmp(key, "files") != 0) {
            const char *near = nearest_name(key, names, 2);
            fail(t, n->pairs[i].key->at, e, "unknown field '%s' of '%s'%s%s%s", key, f->name, near ? " (did you mean '" : "",
                 near ? near : "", near ? "'?)" : "");
            ok = false;
            continue;
        }
        json_t *v = str_value(t, key, n->pairs[i].value, false, e);
        ok = v != NULL;
        if (ok)
            json_object_set_new(out, key, v);
    }
    if (ok && !json_object_get(out, "from"))
        ok = fail(t, n->at, e, "'%s' needs 'from', a stage", f->name) != NULL;
    if (ok)
        return out;
    json_decref(out);
    return NULL;
}

/* The settings of one pattern of `dynamic`. skip: a key that is not a setting ("match"), or NULL. */
static json_t *settings_value(struct typed_ctx *t, const struct schema_field *f, const struct yaml_node *n, const char *skip, struct err *e)
{
    json_t *out = json_object();
    bool ok = true;
    for (size_t i = 0; ok && n->type == YAML_MAP && i < n->count; i++) {
        const char *key = n->pairs[i].key->text;
        if (skip && !strcmp(key, skip))
            continue;
        const struct schema_field *s = schema_field_find(f->kind, key);
        if (!s || s->role != ROLE_SETTING) {
            const char *near = schema_near_field(f->kind, key, true);
            fail(t, n->pairs[i].key->at, e, "'%s' is no setting of a module%s%s%s", key, near ? " (did you mean '" : "", near ? near : "",
                 near ? "'?)" : "");
            ok = false;
            continue;
        }
        json_t *v = typed_value(t, s, n->pairs[i].value, e);
        if (v && json_is_null(v)) {
            json_decref(v);
            v = fail(t, n->pairs[i].key->at, e, "'%s' has no value", key);
        }
        ok = v != NULL;
        if (ok)
            json_object_set_new(out, key, v);
    }
    if (ok)
        return out;
    json_decref(out);
    return NULL;
}

static json_t *dynamic_entry(struct typed_ctx *t, const struct schema_field *f, const struct yaml_node *n, struct err *e)
{
    const struct yaml_node *match = yaml_get(n, "match");
    if (n->type != YAML_MAP || !match || match->type != YAML_SCALAR || !match->text[0])
        return fail(t, n->at, e, "an entry of '%s' needs 'match', a pattern", f->name);
    json_t *settings = settings_value(t, f, n, "match", e);
    if (!settings)
        return NULL;
    json_t *out = json_object();
    json_object_set_new(out, "match", json_string(match->text));
    json_object_update(out, settings);
    json_decref(settings);
    return out;
}

static json_t *dynamic_value(struct typed_ctx *t, const struct schema_field *f, const struct yaml_node *n, struct err *e)
{
    if (n->type == YAML_SCALAR)
        return fail(t, n->at, e, "'%s' must be a map of patterns or a list, not text", f->name);
    json_t *out = n->type == YAML_MAP ? json_object() : json_array();
    for (size_t i = 0; i < n->count; i++) {
        json_t *v = NULL;
        if (n->type == YAML_LIST) {
            v = dynamic_entry(t, f, n->items[i], e);
        } else {
            const struct yaml_node *value = n->pairs[i].value;
            if (value->type == YAML_MAP || is_null(value))
                v = settings_value(t, f, value, NULL, e);
            else
                fail(t, value->at, e, "pattern '%s' needs a map of settings, not %s", n->pairs[i].key->text, yaml_type_name(value));
        }
        if (!v) {
            json_decref(out);
            return NULL;
        }
        if (n->type == YAML_LIST)
            json_array_append_new(out, v);
        else
            json_object_set_new(out, n->pairs[i].key->text, v);
    }
    return out;
}

static json_t *bounds_value(struct typed_ctx *t, const char *figure, const struct yaml_node *n, struct err *e)
{
    if (n->type != YAML_MAP || !n->count)
        return fail(t, n->at, e, "bound of '%s' must be a map of min and max", figure);
    json_t *out = json_object();
    bool ok = true;
    for (size_t i = 0; ok && i < n->count; i++) {
        const char *key = n->pairs[i].key->text;
        if (strcmp(key, "min") != 0 && strcmp(key, "max") != 0) {
            fail(t, n->pairs[i].key->at, e, "unknown bound '%s' of '%s': min and max are taken", key, figure);
            ok = false;
            continue;
        }
        json_t *v = real_value(t, key, n->pairs[i].value, e);
        ok = v != NULL;
        if (ok)
            json_object_set_new(out, key, v);
    }
    const json_t *min = json_object_get(out, "min"), *max = json_object_get(out, "max");
    if (ok && min && max && json_real_value(min) > json_real_value(max))
        ok = fail(t, n->at, e, "bound of '%s': min %g is above max %g", figure, json_real_value(min), json_real_value(max)) != NULL;
    if (ok)
        return out;
    json_decref(out);
    return NULL;
}

static json_t *expect_value(struct typed_ctx *t, const struct schema_field *f, const struct yaml_node *n, struct err *e)
{
    if (n->type != YAML_MAP)
        return fail(t, n->at, e, "'%s' must be a map of figures, not %s", f->name, yaml_type_name(n));
    json_t *out = json_object();
    for (size_t i = 0; i < n->count; i++) {
        json_t *v = bounds_value(t, n->pairs[i].key->text, n->pairs[i].value, e);
        if (!v) {
            json_decref(out);
            return NULL;
        }
        json_object_set_new(out, n->pairs[i].key->text, v);
    }
    return out;
}

json_t *typed_value(struct typed_ctx *t, const struct schema_field *f, const struct yaml_node *n, struct err *e)
{
    if (is_null(n))
        return json_null();
    switch (f->t.type) {
    case ST_STR:
        return str_value(t, f->name, n, true, e);
    case ST_INT:
        return int_value(t, f->name, n, e);
    case ST_REAL:
        return real_value(t, f->name, n, e);
    case ST_BOOL:
        return bool_value(t, f->name, n, e);
    case ST_ENUM:
        return enum_value(t, f, n, e);
    case ST_LIST:
        return list_value(t, f, n, false, e);
    case ST_TEXTS:
        return list_value(t, f, n, true, e);
    case ST_PATH:
    case ST_REF:
        return str_value(t, f->name, n, false, e);
    case ST_DATA:
        return data_value(t, f, n, e);
    case ST_DYNAMIC:
        return dynamic_value(t, f, n, e);
    case ST_EXPECT:
        return expect_value(t, f, n, e);
    }
    BUG("type %d of field %s", (int)f->t.type, f->name);
}

json_t *typed_default(const struct schema_field *f)
{
    json_t *v = json_loads(f->fallback, JSON_DECODE_ANY, NULL);
    if (!v)
        BUG("default of %s.%s is not JSON: %s", f->kind, f->name, f->fallback);
    if (f->t.type != ST_REAL || json_is_null(v))
        return v;
    json_t *real = json_real(json_number_value(v));
    json_decref(v);
    return real;
}

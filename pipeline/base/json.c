#include "pipeline/base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"

json_t *json_parse(const char *text, size_t bytes, const char *name, struct err *e)
{
    json_error_t je;
    json_t *v = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &je);
    if (!v)
        err_at(e, ERR_FORMAT, name, je.line, je.column > 0 ? je.column : 1, "%s", je.text);
    return v;
}

json_t *json_parse_file(const char *path, size_t max_bytes, struct err *e)
{
    struct buf b = BUF_INIT;
    json_t *v = io_read_file(path, max_bytes, &b, e) ? NULL : json_parse(buf_str(&b), b.len, path, e);
    buf_release(&b);
    return v;
}

const char *json_real_text(double x, char out[32])
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, 32, "%.*g", digits, x);
        if (strtod(out, NULL) == x)
            break;
    }
    return out;
}

static void add_real(double x, struct buf *out)
{
    char text[32];
    buf_addstr(out, json_real_text(x, text));
    if (!strpbrk(text, ".en"))
        buf_addstr(out, ".0");
}

static void add_string(const json_t *v, struct buf *out)
{
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    if (!text)
        BUG("string cannot be written as JSON");
    buf_addstr(out, text);
    free(text);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void newline(struct buf *out, int depth)
{
    buf_addch(out, '\n');
    for (int i = 0; i < depth; i++)
        buf_addstr(out, "  ");
}

static void write_value(const json_t *v, struct buf *out, bool pretty, int depth);

static void write_object(const json_t *v, struct buf *out, bool pretty, int depth)
{
    size_t n = json_object_size(v), i = 0;
    const char **keys = xcalloc(n, sizeof *keys), *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)v, key, value)
        keys[i++] = key;
    if (!pretty && n)
        qsort(keys, n, sizeof *keys, by_key);
    buf_addch(out, '{');
    for (i = 0; i < n; i++) {
        if (i)
            buf_addch(out, ',');
        if (pretty)
            newline(out, depth + 1);
        json_t *k = json_string(keys[i]);
        add_string(k, out);
        json_decref(k);
        buf_addstr(out, pretty ? ": " : ":");
        write_value(json_object_get(v, keys[i]), out, pretty, depth + 1);
    }
    if (pretty && n)
        newline(out, depth);
    buf_addch(out, '}');
    free(keys);
}

static void write_value(const json_t *v, struct buf *out, bool pretty, int depth)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        write_object(v, out, pretty, depth);
        break;
    case JSON_ARRAY: {
        buf_addch(out, '[');
        for (size_t i = 0; i < json_array_size(v); i++) {
            if (i)
                buf_addstr(out, pretty ? ", " : ",");
            write_value(json_array_get(v, i), out, pretty, depth + 1);
        }
        buf_addch(out, ']');
        break;
    }
    case JSON_STRING:
        add_string(v, out);
        break;
    case JSON_INTEGER:
        buf_printf(out, "%lld", (long long)json_integer_value(v));
        break;
    case JSON_REAL:
        add_real(json_real_value(v), out);
        break;
    case JSON_TRUE:
        buf_addstr(out, "true");
        break;
    case JSON_FALSE:
        buf_addstr(out, "false");
        break;
    default:
        buf_addstr(out, "null");
    }
}

void json_canonical(const json_t *v, struct buf *out)
{
    write_value(v, out, false, 0);
}

void json_pretty(const json_t *v, struct buf *out)
{
    write_value(v, out, true, 0);
    buf_addch(out, '\n');
}

static const char *type_name(const json_t *v)
{
    static const char *const names[] = {"an object", "a list", "a string", "an integer", "a real number", "true", "false", "null"};
    return v ? names[json_typeof(v)] : "absent";
}

static int wrong(const json_t *v, const char *where, const char *key, const char *want, struct err *e)
{
    return err_set(e, ERR_FORMAT, "%s: \"%s\" must be %s, not %s", where, key, want, type_name(v));
}

static json_t *lookup(const json_t *o, const char *key)
{
    json_t *v = json_object_get(o, key);
    return v && json_is_null(v) ? NULL : v;
}

int json_opt_int(const json_t *o, const char *where, const char *key, int64_t lo, int64_t hi, int64_t *out, struct err *e)
{
    json_t *v = lookup(o, key);
    if (!v)
        return 0;
    double d = json_is_real(v) ? json_real_value(v) : 0;
    if (!json_is_integer(v) && !(json_is_real(v) && d == floor(d) && fabs(d) < 9e15))
        return wrong(v, where, key, "an integer", e);
    int64_t x = json_is_integer(v) ? (int64_t)json_integer_value(v) : (int64_t)d;
    if (x < lo || x > hi)
        return err_set(e, ERR_FORMAT, "%s: \"%s\" is %lld, outside %lld..%lld", where, key, (long long)x, (long long)lo, (long long)hi);
    *out = x;
    return 0;
}

int json_need_int(const json_t *o, const char *where, const char *key, int64_t lo, int64_t hi, int64_t *out, struct err *e)
{
    return lookup(o, key) ? json_opt_int(o, where, key, lo, hi, out, e) : wrong(NULL, where, key, "an integer", e);
}

int json_opt_real(const json_t *o, const char *where, const char *key, double *out, struct err *e)
{
    json_t *v = lookup(o, key);
    if (!v)
        return 0;
    if (!json_is_number(v))
        return wrong(v, where, key, "a number", e);
    *out = json_number_value(v);
    return 0;
}

int json_opt_bool(const json_t *o, const char *where, const char *key, bool *out, struct err *e)
{
    json_t *v = lookup(o, key);
    if (!v)
        return 0;
    if (!json_is_boolean(v))
        return wrong(v, where, key, "true or false", e);
    *out = json_is_true(v);
    return 0;
}

int json_opt_str(const json_t *o, const char *where, const char *key, const char **out, struct err *e)
{
    json_t *v = lookup(o, key);
    if (!v)
        return 0;
    if (!json_is_string(v))
        return wrong(v, where, key, "a string", e);
    *out = json_string_value(v);
    return 0;
}

int json_need_str(const json_t *o, const char *where, const char *key, const char **out, struct err *e)
{
    return lookup(o, key) ? json_opt_str(o, where, key, out, e) : wrong(NULL, where, key, "a string", e);
}

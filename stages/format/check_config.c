#define PCRE2_CODE_UNIT_WIDTH 8
#include "stages/format/check_config.h"

#include <pcre2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"

enum { CONFIG_MAX_BYTES = 64 << 20 };

struct check_pattern {
    bool negative;
    struct check_settings settings; /* of a positive pattern, the base filled in */
    pcre2_code *code;
};

void check_line(struct check_report *r, const char *fmt, ...)
{
    char text[ERR_TEXT_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    MEM_GROW(r->lines, r->count, r->cap);
    r->lines[r->count++] = xstrdup(text);
}

void check_report_release(struct check_report *r)
{
    for (size_t i = 0; i < r->count; i++)
        free(r->lines[i]);
    free(r->lines);
    *r = (struct check_report){0};
}

bool check_settings_equal(const struct check_settings *a, const struct check_settings *b)
{
    if (a->quantized != b->quantized)
        return false;
    return !a->quantized || (a->bits == b->bits && a->group_size == b->group_size && a->sym == b->sym && a->desc_act == b->desc_act);
}

const char *check_settings_text(const struct check_settings *s, char out[64])
{
    if (!s->quantized)
        snprintf(out, 64, "not quantized");
    else
        snprintf(out, 64, "%d bits, group %d, %s%s", s->bits, s->group_size, s->sym ? "sym" : "asym", s->desc_act ? ", desc_act" : "");
    return out;
}

/* A JSON value as one short text for a message; "absent" for NULL. The caller frees. */
static char *value_text(const json_t *v)
{
    if (!v)
        return xstrdup("absent");
    struct buf b = BUF_INIT;
    json_canonical(v, &b);
    if (b.len > 200) {
        buf_setlen(&b, 200);
        buf_addstr(&b, "...");
    }
    return buf_detach(&b);
}

static int load_json(const struct fileset *files, const char *name, json_t **out, struct err *e)
{
    *out = NULL;
    const struct fileset_file *f = fileset_find(files, name);
    if (!f)
        return 0;
    *out = json_parse_file(f->path, CONFIG_MAX_BYTES, e);
    if (!*out)
        return err_wrap(e, "%s", name);
    if (json_is_object(*out))
        return 0;
    json_decref(*out);
    *out = NULL;
    return err_set(e, ERR_FORMAT, "%s is not a JSON object", name);
}

static const char CONFIG_QUANT[] = "config.json's quantization_config";
static const char QUANT_FILE[] = "quantize_config.json";

/* Keys that decide how a reader takes the bytes must be the same in both files; others where both have them; `meta` is for people. */
static void compare_files(const json_t *a, const json_t *b, struct check_report *r)
{
    static const char *const deciding[] = {"bits",     "group_size",   "sym",     "desc_act",          "lm_head", "quant_method",
                                           "method",   "format",       "dynamic", "checkpoint_format", "pack_dtype", NULL};
    const char *key;
    json_t *v;
    json_object_foreach ((json_t *)a, key, v) {
        const json_t *w = json_object_get(b, key);
        bool decides = false;
        for (size_t i = 0; deciding[i]; i++)
            decides = decides || !strcmp(deciding[i], key);
        if (!strcmp(key, "meta") || (w && json_equal(v, w)) || (!w && !decides))
            continue;
        char *x = value_text(w), *y = value_text(v);
        check_line(r, "%s: %s is %s, in %s it is %s", QUANT_FILE, key, x, CONFIG_QUANT, y);
        free(x);
        free(y);
    }
    for (size_t i = 0; deciding[i]; i++) {
        const json_t *w = json_object_get(b, deciding[i]);
        if (!w || json_object_get(a, deciding[i]))
            continue;
        char *x = value_text(w);
        check_line(r, "%s: %s is %s, in %s it is absent", QUANT_FILE, deciding[i], x, CONFIG_QUANT);
        free(x);
    }
}

/* One key's type; absent or of another type gives a line. */
static bool need(const json_t *q, const char *where, const char *key, json_type type, struct check_report *r)
{
    const json_t *v = json_object_get(q, key);
    if (v && (json_typeof(v) == type || (type == JSON_TRUE && json_is_boolean(v))))
        return true;
    char *x = value_text(v);
    check_line(r, "%s: %s is %s, needed is %s", where, key, x, type == JSON_INTEGER ? "an integer" : type == JSON_STRING ? "a string" : "true or false");
    free(x);
    return false;
}

static bool bits_served(int64_t bits)
{
    return bits == 2 || bits == 3 || bits == 4 || bits == 8;
}

/* Two names of one setting must not contradict each other. */
static void check_synonym(const json_t *q, const char *where, const char *key, const char *other, struct check_report *r)
{
    const json_t *a = json_object_get(q, key), *b = json_object_get(q, other);
    if (!a || !b || json_equal(a, b))
        return;
    char *x = value_text(a), *y = value_text(b);
    check_line(r, "%s: %s is %s but %s is %s", where, key, x, other, y);
    free(x);
    free(y);
}

static bool check_keys(struct check_config *c, const char *where, struct check_report *r)
{
    const json_t *q = c->quant;
    size_t before = r->count;
    static const struct {
        const char *key;
        json_type type;
    } needed[] = {
        {"bits", JSON_INTEGER}, {"group_size", JSON_INTEGER}, {"sym", JSON_TRUE}, {"desc_act", JSON_TRUE}, {"lm_head", JSON_TRUE}, {"quant_method", JSON_STRING},
        {"checkpoint_format", JSON_STRING},
    };
    bool ok = true;
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        ok = need(q, where, needed[i].key, needed[i].type, r) && ok;
    if (!ok)
        return false;
    json_int_t bits = json_integer_value(json_object_get(q, "bits")), group = json_integer_value(json_object_get(q, "group_size"));
    const char *method = json_string_value(json_object_get(q, "quant_method")), *format = json_string_value(json_object_get(q, "checkpoint_format"));
    const char *pack = json_string_value(json_object_get(q, "pack_dtype"));
    if (!bits_served(bits))
        check_line(r, "%s: bits is %lld, known are 2, 3, 4 and 8", where, (long long)bits);
    if (group != -1 && (group < 1 || group > INT32_MAX))
        check_line(r, "%s: group_size is %lld, needed is -1 or a positive number", where, (long long)group);
    if (strcmp(method, "gptq") != 0)
        check_line(r, "%s: quant_method is \"%s\", needed is \"gptq\"", where, method);
    if (strcmp(format, "gptq") != 0 && strcmp(format, "gptq_v2") != 0)
        check_line(r, "%s: checkpoint_format is \"%s\", known are \"gptq\" and \"gptq_v2\"", where, format);
    if (pack && strcmp(pack, "int32") != 0)
        check_line(r, "%s: pack_dtype is \"%s\", needed is \"int32\"", where, pack);
    check_synonym(q, where, "checkpoint_format", "format", r);
    check_synonym(q, where, "quant_method", "method", r);
    if (r->count > before)
        return false;
    c->base = (struct check_settings){.quantized = true, .bits = (int)bits, .group_size = (int)group, .sym = json_is_true(json_object_get(q, "sym")),
                                      .desc_act = json_is_true(json_object_get(q, "desc_act"))};
    c->lm_head = json_is_true(json_object_get(q, "lm_head"));
    c->v2 = !strcmp(format, "gptq_v2");
    return true;
}

/* Settings of one positive pattern. */
static bool read_overrides(const struct check_config *c, const char *where, const char *key, const json_t *v, struct check_settings *s, struct check_report *r)
{
    *s = c->base;
    int64_t bits = s->bits, group = s->group_size;
    struct err why = {0};
    if (!json_is_object(v) || json_opt_int(v, key, "bits", 2, 8, &bits, &why) || json_opt_int(v, key, "group_size", -1, INT32_MAX, &group, &why) ||
        json_opt_bool(v, key, "sym", &s->sym, &why) || json_opt_bool(v, key, "desc_act", &s->desc_act, &why)) {
        check_line(r, "%s: dynamic: '%s': %s", where, key, why.code ? why.text : "its value is not an object");
        return false;
    }
    if (!bits_served(bits) || group == 0) {
        check_line(r, "%s: dynamic: '%s': bits is %lld and group_size %lld, known are bits 2, 3, 4, 8 and group_size -1 or a positive number", where, key,
                   (long long)bits, (long long)group);
        return false;
    }
    s->bits = (int)bits;
    s->group_size = (int)group;
    return true;
}

static bool compile_dynamic(struct check_config *c, const char *where, struct check_report *r)
{
    json_t *dynamic = json_object_get(c->quant, "dynamic");
    if (!dynamic || json_is_null(dynamic))
        return true;
    if (!json_is_object(dynamic)) {
        check_line(r, "%s: dynamic is not an object", where);
        return false;
    }
    c->patterns = xcalloc(json_object_size(dynamic) + 1, sizeof *c->patterns);
    const char *key;
    json_t *v;
    json_object_foreach (dynamic, key, v) {
        struct check_pattern *p = &c->patterns[c->pattern_count];
        const char *text = key;
        p->negative = !strncmp(key, "-:", 2);
        if (p->negative || !strncmp(key, "+:", 2))
            text += 2;
        if (!p->negative && !read_overrides(c, where, key, v, &p->settings, r))
            return false;
        int code;
        PCRE2_SIZE at;
        p->code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_ANCHORED, &code, &at, NULL);
        if (!p->code) {
            PCRE2_UCHAR why[128];
            pcre2_get_error_message(code, why, sizeof why);
            check_line(r, "%s: dynamic: '%s': %s at offset %zu", where, key, (char *)why, (size_t)at);
            return false;
        }
        c->pattern_count++;
    }
    return true;
}

int check_config_load(struct check_config *c, const struct fileset *files, struct check_report *r, bool *usable, struct err *e)
{
    *c = (struct check_config){0};
    *usable = false;
    json_t *file = NULL;
    int rc = load_json(files, "config.json", &c->config, e);
    if (!rc)
        rc = load_json(files, QUANT_FILE, &file, e);
    if (rc)
        return rc;
    if (!c->config) {
        json_decref(file);
        return err_set(e, ERR_NOTFOUND, "there is no config.json");
    }
    json_t *inner = json_object_get(c->config, "quantization_config");
    const char *where = json_is_object(inner) ? CONFIG_QUANT : QUANT_FILE;
    if (inner && file && json_is_object(inner))
        compare_files(inner, file, r);
    else if (file)
        check_line(r, "config.json: quantization_config is absent, there is a %s", QUANT_FILE);
    c->quant = json_is_object(inner) ? json_incref(inner) : json_incref(file);
    json_decref(file);
    *usable = !c->quant || (check_keys(c, where, r) && compile_dynamic(c, where, r));
    return 0;
}

void check_config_release(struct check_config *c)
{
    for (size_t i = 0; i < c->pattern_count; i++)
        pcre2_code_free(c->patterns[i].code);
    free(c->patterns);
    json_decref(c->config);
    json_decref(c->quant);
    *c = (struct check_config){0};
}

static bool pattern_hits(const struct check_pattern *p, const char *name)
{
    pcre2_match_data *m = pcre2_match_data_create(1, NULL);
    int rc = m ? pcre2_match(p->code, (PCRE2_SPTR)name, PCRE2_ZERO_TERMINATED, 0, 0, m, NULL) : -1;
    pcre2_match_data_free(m);
    return rc >= 0;
}

struct check_settings check_config_resolve(const struct check_config *c, const char *name, bool negatives_first)
{
    struct check_settings skipped = {0}, s = c->base;
    if (!strcmp(name, "lm_head") && !c->lm_head)
        return skipped;
    for (size_t i = 0; negatives_first && i < c->pattern_count; i++)
        if (c->patterns[i].negative && pattern_hits(&c->patterns[i], name))
            return skipped;
    for (size_t i = 0; i < c->pattern_count; i++)
        if (pattern_hits(&c->patterns[i], name))
            return c->patterns[i].negative ? skipped : c->patterns[i].settings;
    return s;
}

#include "pipeline/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"
#include "pipeline/nearest.h"

#define KIND(kind, artifacts, doc) {#kind, artifacts, doc},
const struct schema_kind schema_kinds[] = {
#include "pipeline/schema.def"
};
const size_t schema_kind_count = sizeof schema_kinds / sizeof *schema_kinds;

#define STR                                                                                                                                \
    {                                                                                                                                      \
        ST_STR, 0, NULL                                                                                                                    \
    }
#define INT                                                                                                                                \
    {                                                                                                                                      \
        ST_INT, 0, NULL                                                                                                                    \
    }
#define REAL                                                                                                                               \
    {                                                                                                                                      \
        ST_REAL, 0, NULL                                                                                                                   \
    }
#define BOOL                                                                                                                               \
    {                                                                                                                                      \
        ST_BOOL, 0, NULL                                                                                                                   \
    }
#define ENUM(choices)                                                                                                                      \
    {                                                                                                                                      \
        ST_ENUM, 0, choices                                                                                                                \
    }
#define LIST                                                                                                                               \
    {                                                                                                                                      \
        ST_LIST, 0, NULL                                                                                                                   \
    }
#define TEXTS                                                                                                                              \
    {                                                                                                                                      \
        ST_TEXTS, 0, NULL                                                                                                                  \
    }
#define PATH                                                                                                                               \
    {                                                                                                                                      \
        ST_PATH, 0, NULL                                                                                                                   \
    }
#define REF(mask)                                                                                                                          \
    {                                                                                                                                      \
        ST_REF, mask, NULL                                                                                                                 \
    }
#define DATA                                                                                                                               \
    {                                                                                                                                      \
        ST_DATA, ART_FILES, NULL                                                                                                           \
    }
#define DYNAMIC                                                                                                                            \
    {                                                                                                                                      \
        ST_DYNAMIC, 0, NULL                                                                                                                \
    }
#define EXPECT                                                                                                                             \
    {                                                                                                                                      \
        ST_EXPECT, 0, NULL                                                                                                                 \
    }
#define FIELD(kind, name, type, role, fallback, doc) {#kind, #name, type, ROLE_##role, fallback, doc},
const struct schema_field schema_fields[] = {
#include "pipeline/schema.def"
};
const size_t schema_field_count = sizeof schema_fields / sizeof *schema_fields;

const struct schema_kind *schema_kind_find(const char *name)
{
    for (size_t i = 0; i < schema_kind_count; i++)
        if (!strcmp(schema_kinds[i].name, name))
            return &schema_kinds[i];
    return NULL;
}

const struct schema_field *schema_field_find(const char *kind, const char *name)
{
    for (size_t i = 0; i < schema_field_count; i++)
        if (!strcmp(schema_fields[i].kind, kind) && !strcmp(schema_fields[i].name, name))
            return &schema_fields[i];
    return NULL;
}

const char *schema_near_kind(const char *name)
{
    const char **names = xcalloc(schema_kind_count, sizeof *names);
    for (size_t i = 0; i < schema_kind_count; i++)
        names[i] = schema_kinds[i].name;
    const char *near = nearest_name(name, names, schema_kind_count);
    free(names);
    return near;
}

const char *schema_near_field(const char *kind, const char *name, bool settings_only)
{
    const char **names = xcalloc(schema_field_count, sizeof *names);
    size_t n = 0;
    for (size_t i = 0; i < schema_field_count; i++)
        if (!strcmp(schema_fields[i].kind, kind) && (!settings_only || schema_fields[i].role == ROLE_SETTING))
            names[n++] = schema_fields[i].name;
    const char *near = nearest_name(name, names, n);
    free(names);
    return near;
}

const char *artifact_name(enum artifact a)
{
    switch (a) {
    case ART_FILES:
        return "files";
    case ART_MODEL:
        return "model";
    case ART_CALIBRATION:
        return "calibration";
    case ART_LAYERS:
        return "layers";
    case ART_CHECKPOINT:
        return "checkpoint";
    case ART_REPORT:
        return "report";
    case ART_TEXT:
        return "text";
    case ART_NONE:
        break;
    }
    return "nothing";
}

const char *schema_artifacts_text(unsigned mask, char *out, size_t bytes)
{
    out[0] = 0;
    for (unsigned bit = 1; bit <= ART_TEXT; bit <<= 1) {
        size_t len = strlen(out);
        if (mask & bit)
            snprintf(out + len, bytes - len, "%s%s", len ? " or " : "", artifact_name((enum artifact)bit));
    }
    return out;
}

static json_t *text_type(const char *type)
{
    return json_pack("{s:s}", "type", type);
}

static json_t *string_list(void)
{
    return json_pack("{s:s,s:{s:s}}", "type", "array", "items", "type", "string");
}

static json_t *choices_json(const char *choices)
{
    json_t *list = json_array();
    for (const char *p = choices; *p;) {
        size_t n = strcspn(p, "|");
        json_array_append_new(list, json_stringn(p, n));
        p += n + (p[n] == '|');
    }
    return json_pack("{s:o}", "enum", list);
}

static json_t *field_json(const struct schema_field *f);

static json_t *object_json(json_t *properties)
{
    return json_pack("{s:s,s:o,s:b}", "type", "object", "properties", properties, "additionalProperties", 0);
}

static json_t *settings_json(bool with_match)
{
    json_t *properties = json_object();
    if (with_match)
        json_object_set_new(properties, "match", text_type("string"));
    for (size_t i = 0; i < schema_field_count; i++)
        if (schema_fields[i].role == ROLE_SETTING)
            json_object_set_new(properties, schema_fields[i].name, field_json(&schema_fields[i]));
    json_t *o = object_json(properties);
    if (with_match)
        json_object_set_new(o, "required", json_pack("[s]", "match"));
    return o;
}

static json_t *dynamic_json(void)
{
    json_t *map = json_pack("{s:s,s:o}", "type", "object", "additionalProperties", settings_json(false));
    json_t *list = json_pack("{s:s,s:o}", "type", "array", "items", settings_json(true));
    return json_pack("{s:[o,o]}", "anyOf", map, list);
}

static json_t *expect_json(void)
{
    json_t *bounds = object_json(json_pack("{s:{s:s},s:{s:s}}", "min", "type", "number", "max", "type", "number"));
    return json_pack("{s:s,s:o}", "type", "object", "additionalProperties", bounds);
}

static json_t *data_json(void)
{
    json_t *o = object_json(json_pack("{s:{s:s},s:{s:s}}", "from", "type", "string", "files", "type", "string"));
    json_object_set_new(o, "required", json_pack("[s]", "from"));
    return json_pack("{s:[o,o]}", "anyOf", text_type("string"), o);
}

/* Numbers and truth values may also be written as text, for `${var}`. */
static json_t *or_variable(json_t *type)
{
    return json_pack("{s:[o,{s:s,s:s}]}", "anyOf", type, "type", "string", "pattern", "\\$\\{");
}

static json_t *type_json(const struct schema_field *f)
{
    switch (f->t.type) {
    case ST_INT:
        return or_variable(text_type("integer"));
    case ST_REAL:
        return or_variable(text_type("number"));
    case ST_BOOL:
        return or_variable(text_type("boolean"));
    case ST_ENUM:
        return or_variable(choices_json(f->t.choices));
    case ST_LIST:
    case ST_TEXTS:
        return string_list();
    case ST_DATA:
        return data_json();
    case ST_DYNAMIC:
        return dynamic_json();
    case ST_EXPECT:
        return expect_json();
    case ST_STR:
    case ST_PATH:
    case ST_REF:
        break;
    }
    return json_pack("{s:[s,s,s]}", "type", "string", "number", "boolean");
}

static json_t *field_json(const struct schema_field *f)
{
    json_t *o = type_json(f);
    if (f->t.type == ST_REF || f->t.type == ST_PATH)
        json_object_set_new(o, "type", json_string("string"));
    json_object_set_new(o, "description", json_string(f->doc));
    if (!schema_required(f) && strcmp(f->fallback, "null") != 0)
        json_object_set_new(o, "default", json_loads(f->fallback, JSON_DECODE_ANY, NULL));
    return o;
}

static json_t *kind_json(const struct schema_kind *k)
{
    json_t *properties = json_object(), *required = json_array();
    for (size_t i = 0; i < schema_field_count; i++) {
        const struct schema_field *f = &schema_fields[i];
        if (strcmp(f->kind, k->name) != 0)
            continue;
        json_object_set_new(properties, f->name, field_json(f));
        if (schema_required(f))
            json_array_append_new(required, json_string(f->name));
    }
    json_t *o = object_json(properties);
    json_object_set_new(o, "required", required);
    json_object_set_new(o, "description", json_string(k->doc));
    return o;
}

json_t *schema_json(void)
{
    json_t *kinds = json_object();
    for (size_t i = 0; i < schema_kind_count; i++)
        json_object_set_new(kinds, schema_kinds[i].name, kind_json(&schema_kinds[i]));
    json_t *stage = object_json(kinds);
    json_object_set_new(stage, "minProperties", json_integer(1));
    json_object_set_new(stage, "maxProperties", json_integer(1));
    json_t *scalar = json_pack("{s:[s,s,s]}", "type", "string", "number", "boolean");
    json_t *properties = json_object();
    json_object_set_new(properties, "version", json_pack("{s:i}", "const", 1));
    json_object_set_new(properties, "name", text_type("string"));
    json_object_set_new(properties, "numerics", text_type("string"));
    json_object_set_new(properties, "cache",
                        object_json(json_pack("{s:{s:s},s:{s:s}}", "dir", "type", "string", "salt", "type", "string")));
    json_object_set_new(properties, "vars", json_pack("{s:s,s:o}", "type", "object", "additionalProperties", scalar));
    json_object_set_new(properties, "stages",
                        json_pack("{s:s,s:i,s:o}", "type", "object", "minProperties", 1, "additionalProperties", stage));
    json_t *o = object_json(properties);
    json_object_set_new(o, "$schema", json_string("https://json-schema.org/draft/2020-12/schema"));
    json_object_set_new(o, "title", json_string("gptqpipe manifest"));
    json_object_set_new(o, "required", json_pack("[s,s]", "version", "stages"));
    return o;
}

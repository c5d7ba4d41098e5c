/* The fields of every stage kind, from schema.def: typing, defaults, names near a misspelt one, the JSON Schema. */
#ifndef PIPELINE_SCHEMA_H
#define PIPELINE_SCHEMA_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "pipeline/stage.h"

enum schema_type { ST_STR, ST_INT, ST_REAL, ST_BOOL, ST_ENUM, ST_LIST, ST_TEXTS, ST_PATH, ST_REF, ST_DATA, ST_DYNAMIC, ST_EXPECT };
enum schema_role { ROLE_KEY, ROLE_SETTING, ROLE_HINT, ROLE_EDGE };

struct schema_kind {
    const char *name;
    unsigned artifacts; /* enum artifact bits that a stage of this kind may make */
    const char *doc;
};

struct schema_field {
    const char *kind, *name;
    struct {
        enum schema_type type;
        unsigned mask;       /* REF, DATA: artifacts taken */
        const char *choices; /* ENUM: "a|b" */
    } t;
    enum schema_role role;
    const char *fallback; /* JSON text of the default, "!" when required */
    const char *doc;
};

extern const struct schema_kind schema_kinds[];
extern const size_t schema_kind_count;
extern const struct schema_field schema_fields[];
extern const size_t schema_field_count;

const struct schema_kind *schema_kind_find(const char *name); /* NULL when unknown */
const struct schema_field *schema_field_find(const char *kind, const char *name);
/* The nearest name of a kind, or of a field of a kind; NULL when none is near. role_setting: only fields that `dynamic` may change. */
const char *schema_near_kind(const char *name);
const char *schema_near_field(const char *kind, const char *name, bool settings_only);
static inline bool schema_required(const struct schema_field *f)
{
    return f->fallback[0] == '!';
}
/* "model or checkpoint" for a mask, in out. */
const char *schema_artifacts_text(unsigned mask, char *out, size_t bytes);
/* JSON Schema 2020-12 of a manifest. New reference. */
json_t *schema_json(void);

#endif

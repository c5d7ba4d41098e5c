/* Values of a manifest by the type that schema.def gives their field. */
#ifndef PIPELINE_TYPED_H
#define PIPELINE_TYPED_H

#include <jansson.h>

#include "pipeline/schema.h"
#include "pipeline/vars.h"

struct typed_ctx {
    struct vars *vars;
    const char *file, *stage; /* for errors */
};

/* The value of a field as JSON, variables expanded. New reference; NULL on failure (-ERR_MANIFEST at the place). JSON null when the
 * manifest says null or nothing. */
json_t *typed_value(struct typed_ctx *t, const struct schema_field *f, const struct yaml_node *n, struct err *e);
/* The default of a field, typed the same way. */
json_t *typed_default(const struct schema_field *f);

#endif

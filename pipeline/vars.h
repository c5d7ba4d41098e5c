/* Variables of a manifest: `${name}`, `${env:NAME}`, `${env:NAME:-default}`, `$${` for a literal `${`.
 * A variable's own text may use others; it is expanded when first used, once. */
#ifndef PIPELINE_VARS_H
#define PIPELINE_VARS_H

#include <stdbool.h>

#include "pipeline/base/arena.h"
#include "pipeline/base/err.h"
#include "pipeline/base/map.h"
#include "pipeline/yaml.h"

struct vars {
    struct arena *arena;
    const char *file; /* for errors */
    struct map table; /* name -> struct var, private */
    size_t total;     /* bytes expanded so far: bounded */
};

enum { VARS_MAX_TEXT = 64 << 10, VARS_MAX_TOTAL = 16 << 20 };

void vars_init(struct vars *v, struct arena *a, const char *file);
void vars_release(struct vars *v);
bool vars_name_ok(const char *name); /* [A-Za-z_][A-Za-z0-9_]* */
bool vars_has(const struct vars *v, const char *name);
/* literal: the text is taken as it is (it comes from the command line). Replaces an earlier definition. Strings are borrowed for v's life.
 */
void vars_define(struct vars *v, const char *name, const char *text, struct mark at, bool literal);
/* text expanded, in the arena (text itself when there is nothing to do); NULL on failure: -ERR_MANIFEST at `at`. */
const char *vars_expand(struct vars *v, const char *text, struct mark at, struct err *e);

#endif

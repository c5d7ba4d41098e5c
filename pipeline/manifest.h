/* A manifest as the rest of the pipeline sees it: stages with typed parameters and checked references, and the place of everything.
 * load.c makes it, dag.c checks the references. One manifest is one arena; it never changes after loading, so threads may share it. */
#ifndef PIPELINE_MANIFEST_H
#define PIPELINE_MANIFEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "pipeline/base/arena.h"
#include "pipeline/base/err.h"
#include "pipeline/schema.h"
#include "pipeline/yaml.h"

struct manifest_ref {
    const struct schema_field *field;
    const char *stage;   /* as written */
    size_t target;       /* index of the stage, from dag_check */
    const char *pattern; /* of data: { from, files }; NULL without */
    struct mark at, pattern_at;
};

struct manifest_stage {
    const char *name;
    struct mark at;
    const struct schema_kind *kind;
    const struct yaml_node *body; /* the kind's map */
    json_t *params;               /* every field of the kind, typed, defaults filled in */
    struct manifest_ref *refs;    /* in the schema's order */
    size_t ref_count;
};

struct manifest {
    struct arena arena;
    const char *path, *dir; /* dir: folder of path */
    const char *name;       /* "" when not given */
    const char *numerics;   /* NULL when not given */
    struct mark numerics_at;
    const char *cache_dir;         /* made relative to dir, NULL when not given */
    const char *salt;              /* "" when not given */
    struct manifest_stage *stages; /* in the file's order */
    size_t stage_count;
    size_t *order; /* indices of stages, inputs first */
};

enum { MANIFEST_MAX_STAGES = 1000 };

/* sets: "VAR=VALUE" from the command line (-ERR_USAGE when malformed or not a variable of the manifest). Everything else wrong is
 * -ERR_MANIFEST with a place. */
int manifest_load(const char *path, const char *const *sets, size_t set_count, struct manifest **out, struct err *e);
/* The same from memory; path is only a name. Opens no file. */
int manifest_parse(const char *path, const char *text, size_t bytes, const char *const *sets, size_t set_count, struct manifest **out,
                   struct err *e);
void manifest_free(struct manifest *m);
/* Index of a stage, or -1. */
long manifest_find(const struct manifest *m, const char *stage);
/* The nearest stage's name, or NULL. */
const char *manifest_near(const struct manifest *m, const char *stage);
/* Place of a parameter ("bits", "dynamic.<pattern>.bits", "prompts.0"): as deep as the path can be followed; the stage's own when not at
 * all. */
struct mark manifest_place(const struct manifest_stage *s, const char *path);
bool manifest_was_set(const struct manifest_stage *s, const char *field);

/* dag.c: finds every reference's stage, refuses wrong artifact types and cycles, fills order. */
int dag_check(struct manifest *m, struct err *e);
/* Marks a stage and everything that it needs. */
void dag_mark(const struct manifest *m, size_t stage, bool *wanted);
enum dag_format { DAG_DOT, DAG_MERMAID, DAG_ASCII };
struct buf;
void dag_draw(const struct manifest *m, enum dag_format format, struct buf *out);

#endif

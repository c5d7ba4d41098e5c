/* A YAML file as a tree with a place for every node. libyaml scans; what this adds: places, no typing (a scalar is its text), duplicate
 * keys refused, aliases shared and counted so that an alias bomb is an error, limits on depth and size. Tags, several documents and
 * non-scalar keys are refused. */
#ifndef PIPELINE_YAML_H
#define PIPELINE_YAML_H

#include <stdbool.h>
#include <stddef.h>

#include "pipeline/base/arena.h"
#include "pipeline/base/err.h"

struct mark {
    long line, col; /* 1-based; columns count characters */
};

enum yaml_type { YAML_SCALAR, YAML_LIST, YAML_MAP };

struct yaml_pair {
    struct yaml_node *key, *value;
};

struct yaml_node {
    enum yaml_type type;
    struct mark at;
    const char *text; /* scalar: NUL-terminated UTF-8 without NUL inside */
    bool plain;       /* scalar written without quotes */
    union {
        struct yaml_node **items; /* list */
        struct yaml_pair *pairs;  /* map, in the file's order */
    };
    size_t count;
    size_t weight; /* nodes below and this one, aliases counted each time */
};

enum { YAML_MAX_DEPTH = 32, YAML_MAX_NODES = 100000, YAML_MAX_BYTES = 4 << 20 };

/* Everything lives in the arena. name is used in errors, all of which are -ERR_MANIFEST with a place. NULL on failure. */
struct yaml_node *yaml_parse(struct arena *a, const char *text, size_t bytes, const char *name, struct err *e);
/* The value of a map's key, NULL when absent or not a map. */
struct yaml_node *yaml_get(const struct yaml_node *map, const char *key);
struct yaml_pair *yaml_pair(const struct yaml_node *map, const char *key);
const char *yaml_type_name(const struct yaml_node *n); /* "a list", "a map", "text" */

#endif

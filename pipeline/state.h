/* What the last apply of a project came to: node -> key, so that a node that runs can say what changed since. Kept as
 *     <cache>/projects/<SHA-256 of the manifest's absolute path>.json   {"manifest": path, "nodes": {"w4/layer.0": key}, "v": 1}
 * Damage or absence loses only the reasons. */
#ifndef PIPELINE_STATE_H
#define PIPELINE_STATE_H

#include <jansson.h>

#include "pipeline/base/err.h"

struct state {
    char *path;   /* owned */
    json_t *root; /* owned */
    int changed;
};

void state_load(struct state *s, const char *store_dir, const char *manifest_path);
const char *state_key(const struct state *s, const char *node); /* NULL when none; borrowed until the next set */
void state_set(struct state *s, const char *node, const char *key);
/* Writes when something changed. */
int state_save(struct state *s, struct err *e);
void state_release(struct state *s);

#endif

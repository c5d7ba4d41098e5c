/* What commands about a manifest share: its options, and opening it. */
#ifndef CMD_PROJECT_H
#define CMD_PROJECT_H

#include "cmd/options.h"
#include "pipeline/pipeline.h"

struct project {
    struct option_list targets, sets, forced;
    int64_t jobs;
    bool frozen_lock, keep_going;
    struct manifest *m;
    struct pipeline *p;
    struct events *events;
    char *cache_dir;
};

/* Rows for an option table. */
#define PROJECT_SET(p)                                                                                                                     \
    {                                                                                                                                      \
        "set", 0, OPT_LIST, &(p)->sets, "VAR=VALUE", "another value for a variable of the manifest"                                        \
    }
#define PROJECT_TARGET(p)                                                                                                                  \
    {                                                                                                                                      \
        "target", 't', OPT_LIST, &(p)->targets, "STAGE[/NODE]", "only this and what it needs; may be repeated"                             \
    }
#define PROJECT_FORCE(p)                                                                                                                   \
    {                                                                                                                                      \
        "force", 0, OPT_LIST, &(p)->forced, "STAGE[/NODE]", "run it again although the cache has it"                                       \
    }
#define PROJECT_FROZEN(p)                                                                                                                  \
    {                                                                                                                                      \
        "frozen-lock", 0, OPT_FLAG, &(p)->frozen_lock, NULL, "the lock file must match (default when CI=true)"                             \
    }

/* Loads the manifest (NULL: manifest.yaml). json: a second sink of events (stdout), NULL for none; human: progress and notes, NULL for
 * none. */
int project_open(struct project *p, struct cmd_ctx *c, const char *manifest, FILE *json, FILE *human);
/* Adds a target as -t does; before project_open. */
void project_target(struct project *p, const char *target);
/* rc unless it is 0 and the events could not be written. */
int project_close(struct project *p, struct cmd_ctx *c, int rc);
/* Prints one JSON object, in canonical form, as a line to stdout and flushes it; takes the reference. */
void print_json_line(json_t *o);
/* Does `target` ("w4" or "w4/layer.0") name this node? */
bool node_matches(const struct plan_node *n, const char *target);

#endif

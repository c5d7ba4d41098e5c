/* What happens in a run, for machines and for a person. JSON lines, one object each:
 *     {"v":1,"ts":"2026-01-31T12:00:00.123Z","seq":0,"type":T,...}
 * T and what it adds:
 *     run_start   command, manifest
 *     node_start  node, reason, field (when known), key        progress   node, done, total, label
 *     node_end    node, result "ran|hit|failed", key, ms, metrics, outputs
 *     note, warning   text, node (when known)                  error      text, code
 *     run_end     ran, hit, failed, kernels {row: calls}, ms   (the last one)
 * Readers ignore types and fields that they do not know. Threads may share one; a NULL events takes everything and does nothing. */
#ifndef PIPELINE_EVENTS_H
#define PIPELINE_EVENTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "pipeline/base/err.h"
#include "pipeline/progress.h"

struct events;

struct events_config {
    const char *spec; /* --events: a file to append to or "fd:N"; NULL for none */
    FILE *json;       /* a second sink (stdout of --json), borrowed; NULL for none */
    FILE *human;      /* progress and notes, borrowed; NULL for none */
    enum progress_level level;
};

int events_open(const struct events_config *c, struct events **out, struct err *e);
/* Also says whether every event could be written to spec (json is the caller's to check). */
int events_close(struct events *v, struct err *e);

void events_emit(struct events *v, const char *type, json_t *body); /* body: an object whose reference is taken */
void events_node_start(struct events *v, const char *node, const char *reason, const char *field, const char *key);
void events_progress(struct events *v, const char *node, double done, double total, const char *label);
/* result: "ran", "hit" or "failed". metrics and outputs are borrowed, may be NULL. */
void events_node_end(struct events *v, const char *node, const char *result, const char *key, double seconds, const json_t *metrics,
                     const json_t *outputs);
void events_note(struct events *v, const char *node, const char *text);
void events_warning(struct events *v, const char *node, const char *text);

#endif

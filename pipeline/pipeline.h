/* The pipeline as cmd/ uses it: a manifest opened against a cache, then planned or applied.
 *
 *     manifest_load -> pipeline_open -> pipeline_plan and look at pipeline_nodes, or pipeline_apply, or pipeline_lock -> pipeline_close ->
 * manifest_free
 *
 * One pipeline belongs to one thread; apply starts its own. */
#ifndef PIPELINE_PIPELINE_H
#define PIPELINE_PIPELINE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/store.h"
#include "pipeline/events.h"
#include "pipeline/lockfile.h"
#include "pipeline/manifest.h"
#include "pipeline/reason.h"
#include "pipeline/stage.h"

struct pipeline;

/* A GPU as far as keys are concerned. */
struct pipeline_gpu {
    bool found;
    bool proven;       /* has passed selftest on this machine: auto takes no other, unless the lock names its class */
    char numerics[16]; /* class: "cuda-sm90" */
    char key[64];      /* the class and what else decides its bits */
    char why[512];     /* why not found */
};

struct pipeline_config {
    const struct stage_kind *const *kinds; /* NULL-terminated: stage_kinds, or a test's */
    const char *cache_dir;
    const char *numerics;       /* --numerics; NULL: the manifest's, else auto: the lock file's, else that of a GPU which has passed selftest, else cpu */
    void (*probe_gpu)(void *arg, const char *device, struct pipeline_gpu *out); /* asked at most once; NULL: there is none */
    void *probe_arg;
    const char *isa, *device;   /* NULL: "auto" */
    int threads, jobs;          /* jobs: stages at once, each with threads / jobs threads */
    const char *const *targets; /* STAGE or STAGE/node; none: everything */
    size_t target_count;
    const char *const *forced;
    size_t forced_count;
    bool frozen_lock, keep_going;
    struct events *events; /* borrowed, may be NULL */
};

/* m and the strings of c are borrowed until pipeline_close. Runs every stage's check. */
int pipeline_open(const struct manifest *m, const struct pipeline_config *c, struct pipeline **out, struct err *e);
void pipeline_close(struct pipeline *p);
struct store *pipeline_store(struct pipeline *p);

enum plan_action { PLAN_MAYBE, PLAN_RUN, PLAN_HIT };
const char *plan_action_text(enum plan_action a);

/* One line of a plan. Strings are borrowed until the next plan, apply or close. */
struct plan_node {
    const char *stage;
    const char *node; /* within the stage: "", "index", "layer.0"; NULL: the stage's nodes are not known yet */
    const char *name; /* "w4/layer.0" */
    enum plan_action action;
    enum reason reason;
    const char *field;               /* what differs from the last time, NULL when not known */
    const char *key;                 /* "" while unknown */
    const char *preimage;            /* NULL while unknown */
    const char *last_key;            /* of the last apply, NULL when none */
    const struct stage_node *result; /* outputs and metrics, once known; NULL with node */
};

int pipeline_plan(struct pipeline *p, struct err *e);
size_t pipeline_node_count(const struct pipeline *p);
struct plan_node pipeline_node(const struct pipeline *p, size_t i);

struct apply_result {
    uint64_t ran, hit, failed;
    json_t *kernels;    /* {row: calls}; owned */
    struct err *errors; /* one for each failed stage, in the order of stages; verdicts after them; owned */
    size_t error_count;
    double seconds;
};

/* Runs what must run. Returns 0 or the code of the first error (also in errors). Emits run_start ... run_end. */
int pipeline_apply(struct pipeline *p, struct apply_result *out, struct err *e);
/* The summaries of the stages that are up to date, "stage: line" each. */
void pipeline_summary(const struct pipeline *p, struct buf *out);
void apply_result_release(struct apply_result *r);

/* Resolves the sources and writes the lock. update: only this stage, NULL for all. check: compares only; *differs tells, and note (may be
 * NULL) is told each difference. */
int pipeline_lock(struct pipeline *p, const char *update, bool check, bool *differs, void (*note)(void *arg, const char *line), void *arg,
                  struct err *e);

#endif

/* Inside the pipeline: the state of an opened project. Only pipeline/ includes this.
 *
 * pipeline.c  open, close, targets          walk.c   one stage: resolve, inputs, nodes, keys, what the cache has
 * numerics.c  the class and the device      plan.c   walk without running
 * chain.c     runs the nodes of one stage        apply.c  all stages, by the scheduler
 */
#ifndef PIPELINE_PIPELINE_IMPL_H
#define PIPELINE_PIPELINE_IMPL_H

#include <pthread.h>

#include "cache/statcache.h"
#include "cache/store.h"
#include "pipeline/base/map.h"
#include "pipeline/lockfile.h"
#include "pipeline/pipeline.h"
#include "pipeline/scheduler.h"
#include "pipeline/state.h"

/* What the pipeline knows of ctx.nodes[i] beyond what stages see. */
struct node_run {
    char *name; /* "w4/layer.0" */
    bool examined;
    enum plan_action action;
    enum reason reason;
    char *field, *preimage, *last_key; /* owned, NULL when not known */
    char key[HASH_HEX];
    struct record record; /* of a known node that the store has */
    bool have_record;
};

struct stage_run {
    struct pipeline *p;
    size_t index; /* in the manifest */
    const struct manifest_stage *def;
    const struct stage_kind *kind;
    struct stage_ctx ctx;
    struct node_run *runs; /* parallel to ctx.nodes */
    size_t node_cap, run_cap;
    struct fileset *files; /* of each input, narrowed by its pattern */
    struct fileset source; /* of a source: where its files are */
    struct lock_difference lock;
    bool wanted, whole;             /* whole: all nodes, not only those named by -t */
    bool resolved, expanded, final; /* final: expanded when all inputs were known */
    bool complete;                  /* all nodes known */
    size_t limit;                   /* nodes to go to */
    struct map notes;               /* said already */
    struct err error;
    bool failed;
};

struct pipeline {
    const struct manifest *m;
    struct pipeline_config c;
    char numerics[16]; /* class of the stages that may use a GPU; the others' is cpu */
    struct pipeline_gpu gpu;
    bool gpu_asked;
    struct store *store;
    struct statcache *stat;
    struct state state;
    struct lockfile lock;
    struct stage_run *stages; /* in the manifest's order */
    pthread_mutex_t mutex;    /* guards what follows, and `state` */
    struct map digests;       /* path -> struct hash_digests *, of the user's files */
    struct map checked;       /* sha256 of blobs whose content was read and is sound */
    bool damaged;             /* a blob was not: apply goes round again */
    struct apply_result *result;
    struct scheduler *scheduler; /* while applying */
};

/* walk.c */
/* Drops everything that a walk found out: the next one starts afresh. */
void stage_reset(struct stage_run *sr);
/* Resolves a source, gathers inputs, expands. Not an error when nodes cannot be known yet: sr->expanded stays false. */
int stage_prepare(struct stage_run *sr, struct err *e);
bool stage_inputs_known(const struct stage_run *sr);
/* Key and action of a node whose inputs and earlier nodes are known; a hit becomes known. */
int stage_examine(struct stage_run *sr, size_t node, struct err *e);
/* Makes a node known from its record, whose contents it takes. */
void node_take_record(struct stage_run *sr, size_t node, struct record *r);
void stage_update_complete(struct stage_run *sr);
/* Fails unless the lock exists and names the numerics class in use (--frozen-lock). */
int lock_check_frozen(struct pipeline *p, struct err *e);
/* Resolves a source only. */
int stage_resolve(struct stage_run *sr, struct err *e);
/* Adds the stage's name to an error that has neither place nor name. Returns rc. */
int stage_error(const struct stage_run *sr, int rc, struct err *e);

/* numerics.c */
/* Settles the class, once stages and lock are there. */
int pipeline_set_numerics(struct pipeline *p, struct err *e);
const char *stage_class(const struct stage_run *sr);
/* What stands for the class in keys: of a GPU also what else decides its bits. */
const char *stage_class_key(const struct stage_run *sr);
/* The device that a stage is told to use. */
const char *stage_device(const struct stage_run *sr);

/* chain.c */
/* Everything a stage has to do in apply, on the calling thread with its pool. */
int stage_apply(struct stage_run *sr, void *pool, struct err *e);

#endif

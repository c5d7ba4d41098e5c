/* What the pipeline knows of a stage kind: a vtable. Stages emit typed fields and the pipeline keys them; stages know no scheduler, no key and no store.
 *
 * Life of a stage in plan and apply:
 *   check    parameters alone (static; no files)                                             -> manifest errors with places
 *   resolve  source kinds only: where the input's files are and their digests                -> its fileset; nothing is run for it
 *   expand   once the filesets of its inputs are known or their metadata can be read: the list of its nodes, the artifact type, everything checkable about
 *            the model (patterns, shapes, rules of targets and kernels); may be called again when more is known. apply expands all stages before any of them runs
 *   fields   one node: everything that decides its output, as one JSON object; called when all inputs are known; -ERR_UNKNOWN when it also needs outputs of
 *            an earlier node of the stage that are not (in a plan; apply has them all)
 *   run      one node: writes its output files into outdir. Nodes of a chained kind run in order over state kept open by chain_open; `replay` advances
 *            that state over a node whose outputs are already there
 *   finish   after all nodes of the stage are known, on every apply: puts results where the user wants them (pack's output folder). Must be cheap when nothing changed
 *
 * Every function may be called from any thread, one at a time per stage. Strings and JSON given are borrowed.
 */
#ifndef PIPELINE_STAGE_H
#define PIPELINE_STAGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "pipeline/base/buf.h"
#include "pipeline/base/err.h"
#include "pipeline/base/fileset.h"

enum artifact {
    ART_NONE = 0,
    ART_FILES = 1,
    ART_MODEL = 2,
    ART_CALIBRATION = 4,
    ART_LAYERS = 8,
    ART_CHECKPOINT = 16, /* a model with a quantization config: goes wherever a model goes */
    ART_REPORT = 32,
    ART_TEXT = 64,
};
const char *artifact_name(enum artifact a);

/* Every tensor's digest of a fetched model: the output of its `index` node, one more file of the artifact. */
#define STAGE_INDEX_FILE "gptqpipe-index.json"

struct stage_ctx;

struct stage_input {
    const char *field; /* "model", "data", "calibration", "quantized", "checkpoint", "reference" */
    const char *stage; /* name of the stage referred to */
    enum artifact type;
    bool known;        /* files complete with digests. false: something before it must run first */
    const struct fileset *files; /* when !known: what can be read already (sources), maybe empty */
    const struct stage_ctx *ctx; /* the referred stage itself: its parameters, nodes and inputs */
    const char *kind;            /* and its kind */
    const char *pattern;         /* of `data: { from, files }`: the shell pattern by which `files` is already narrowed; NULL without */
};

struct stage_node {
    char *name; /* "" for the stage's only node, else "index", "layer.0", "lm_head"; owned by the pipeline */
    bool known;
    struct fileset outputs;
    char digest[65];  /* of the outputs (record_outputs_digest), "" until known */
    json_t *metrics;  /* from the record, NULL until known */
};

struct stage_ctx {
    const char *name;     /* the stage's name in the manifest */
    const char *manifest; /* path, for errors */
    const char *base_dir; /* folder that relative paths of the manifest start from */
    const json_t *params; /* all fields of the kind, typed, defaults filled in (JSON null when unset and without default) */
    struct stage_input *inputs;
    size_t input_count;
    struct stage_node *nodes; /* from expand */
    size_t node_count;
    enum artifact artifact;   /* from expand */
    const char *numerics;     /* from expand on: the class that the stage computes in */
    bool applying;            /* from expand on: what is found is about to run; in a plan false */
    void *state;              /* the stage's own, made in expand, freed by release */
    /* Place of a parameter in the manifest: path such as "bits" or "dynamic.<pattern>"; the stage's own place when the path is not there. Returns -e->code. */
    int (*place)(const struct stage_ctx *s, const char *path, struct err *e);
    bool (*was_set)(const struct stage_ctx *s, const char *field); /* written in the manifest, not a default */
    /* One line for the person ("desc_act: true turns act_group_aware off"), shown by plan and apply once. */
    void (*note)(const struct stage_ctx *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
    void *pipeline; /* for the callbacks */
};

static inline const struct stage_input *stage_input_find(const struct stage_ctx *s, const char *field)
{
    for (size_t i = 0; i < s->input_count; i++) {
        const char *a = s->inputs[i].field, *b = field;
        while (*a && *a == *b)
            a++, b++;
        if (*a == *b)
            return &s->inputs[i];
    }
    return NULL;
}

/* What a running node may use. */
struct run_ctx {
    int threads;
    void *pool; /* struct pool *, of `threads` */
    const char *isa, *device, *numerics; /* isa and device as asked for ("auto", ...), a stage's that is served by the CPU "cpu"; numerics the class */
    const char *scratch; /* private folder on the store's disk, removed after the node (chain: after the chain) */
    json_t *metrics;     /* object to fill: goes into the record and is shown */
    /* Progress of this node, 0..total in any unit; label says the unit ("tokens", "layers"). Returns nonzero when the run is to stop: return -ERR_CANCELLED then. */
    int (*progress)(struct run_ctx *r, double done, double total, const char *label);
    void (*note)(struct run_ctx *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
    void (*count_kernel)(struct run_ctx *r, const char *row, uint64_t calls); /* adds to run_end's counters; any thread */
    void *pipeline;
};

struct stage_estimate {
    uint64_t memory_bytes, disk_bytes;
};

/* Given to resolve. */
struct resolve_ctx {
    /* Digests of a file of the user's (stat cache). */
    int (*digest)(struct resolve_ctx *r, const char *path, char sha256[65], uint64_t *bytes, struct err *e);
    void *pipeline;
};

struct stage_expansion {
    enum artifact artifact;
    void (*add)(struct stage_expansion *x, const char *node_name);
    void *pipeline;
};

struct stage_kind {
    const char *name;
    int revision;   /* bump when outputs change; part of every key */
    bool numerics;  /* the numerics class is part of the key */
    bool (*gpu)(const struct stage_ctx *s); /* may compute on a GPU: its class is then the run's. NULL: never, its class is cpu */
    bool source;    /* node 0 is resolved, not run */
    bool chained;
    int (*check)(struct stage_ctx *s, struct err *e);
    int (*resolve)(struct stage_ctx *s, struct resolve_ctx *r, struct fileset *out, struct err *e);
    int (*expand)(struct stage_ctx *s, struct stage_expansion *x, struct err *e);
    int (*fields)(struct stage_ctx *s, size_t node, json_t *out, struct err *e);
    int (*estimate)(struct stage_ctx *s, size_t node, struct stage_estimate *out, struct err *e); /* NULL: small */
    int (*chain_open)(struct stage_ctx *s, struct run_ctx *r, void **chain, struct err *e);
    int (*run)(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, const char *outdir, struct err *e);
    int (*replay)(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, struct err *e);
    void (*chain_close)(struct stage_ctx *s, struct run_ctx *r, void *chain);
    int (*finish)(struct stage_ctx *s, struct err *e);
    /* The verdict of a stage that has thresholds, from its outputs: -ERR_THRESHOLD names figure and bound. Asked on hits too. */
    int (*verdict)(struct stage_ctx *s, struct err *e);
    /* What a person wants to see of a stage that is up to date, one line each: from parameters and metrics, without opening outputs. NULL: nothing. */
    void (*summary)(const struct stage_ctx *s, struct buf *out);
    void (*release)(struct stage_ctx *s);
};

/* All kinds, NULL-terminated, in the order of the words of DESIGN; defined by stages/registry.c. */
extern const struct stage_kind *const stage_kinds[];

#endif

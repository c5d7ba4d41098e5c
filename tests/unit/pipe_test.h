/* A project in a temporary folder with fake stages under the real kind names, for tests of the pipeline.
 *
 *     fetch      source; a file whose name begins with "model" is a model and has an index node
 *     calibrate  its output is the first `samples` bytes of the data: later bytes do not change it (early cutoff)
 *     quantize   a chain of one node a line of the model file; layer k depends on line k, bits, dynamic and what came before (inputs original: not on that)
 *     pack       writes the layers in one file; finish counts itself         validate   verdict fails when max_tokens is 13       run
 * writes the prompts
 *
 * Everything that is run, replayed, opened and closed goes into `story`. */
#ifndef TESTS_UNIT_PIPE_TEST_H
#define TESTS_UNIT_PIPE_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"
#include "pipeline/base/pool.h"
#include "pipeline/pipeline.h"
#include "pipeline/signals.h"

static char *root;       /* the project's folder */
static struct buf story; /* "run w4/layer.0;" ... */
static pthread_mutex_t story_lock = PTHREAD_MUTEX_INITIALIZER;
static char fail_node[64];                   /* run fails at this node: "stage/node" */
static char signal_node[64];                 /* run raises SIGTERM in this node */
static char touch_node[64], touch_path[512]; /* run overwrites this file of the user's in this node */
static int pause_ms;
static int fake_revision = 1;

__attribute__((unused, format(printf, 1, 2))) static void tell(const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&story_lock);
    buf_printf(&story, "%s;", text);
    pthread_mutex_unlock(&story_lock);
}

static char *at(const char *name)
{
    return io_join(root, name);
}

__attribute__((unused)) static void put(const char *name, const char *text)
{
    char *path = at(name), *dir = io_dirname(path);
    assert_int_equal(io_mkdirs(dir, NULL), 0);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    free(dir);
    free(path);
}

__attribute__((unused)) static char *get(const char *name)
{
    struct buf b = BUF_INIT;
    char *path = at(name);
    if (io_read_file(path, 1 << 20, &b, NULL))
        buf_addstr(&b, "(absent)");
    free(path);
    return buf_detach(&b);
}

static char *slurp(const struct fileset *f, size_t i)
{
    struct buf b = BUF_INIT;
    if (io_read_file(f->files[i].path, 1 << 20, &b, NULL))
        fail_msg("cannot read %s", f->files[i].path);
    return buf_detach(&b);
}

static int emit(const char *dir, const char *name, const char *text, struct err *e)
{
    char *path = io_join(dir, name);
    int rc = io_write_file_atomic(path, text, strlen(text), e);
    free(path);
    return rc;
}

static const json_t *param(const struct stage_ctx *s, const char *name)
{
    return json_object_get(s->params, name);
}

static json_t *digests(const struct fileset *f)
{
    json_t *o = json_object();
    for (size_t i = 0; i < f->count; i++)
        json_object_set_new(o, f->files[i].name, json_string(f->files[i].sha256));
    return o;
}

/* What every fake node does first. */
static int begin(struct stage_ctx *s, struct run_ctx *r, size_t node, const char *what, struct err *e)
{
    char name[128];
    snprintf(name, sizeof name, "%s%s%s", s->name, *s->nodes[node].name ? "/" : "", s->nodes[node].name);
    tell("%s %s", what, name);
    if (strcmp(what, "run") != 0)
        return 0;
    if (pause_ms)
        nanosleep(&(struct timespec){0, pause_ms * 1000000L}, NULL);
    if (!strcmp(name, signal_node))
        raise(SIGTERM);
    if (!strcmp(name, touch_node)) {
        FILE *f = fopen(touch_path, "w");
        fputs("changed while running", f);
        fclose(f);
    }
    if (r->progress(r, 1, 2, "steps"))
        return err_set(e, ERR_CANCELLED, "stopped");
    r->count_kernel(r, "fake", 2);
    json_object_set_new(r->metrics, "threads_positive", json_boolean(r->threads > 0 && pool_threads(r->pool) == r->threads));
    if (!strcmp(name, fail_node))
        return err_set(e, ERR_NUMERIC, "made to fail");
    return 0;
}

static int fetch_resolve(struct stage_ctx *s, struct resolve_ctx *r, struct fileset *out, struct err *e)
{
    char *path = io_join(s->base_dir, json_string_value(param(s, "file")));
    struct fileset all = FILESET_INIT;
    int rc = fileset_from_path(&all, path, e);
    for (size_t i = 0; !rc && i < all.count; i++) {
        char sha256[65];
        uint64_t bytes;
        rc = r->digest(r, all.files[i].path, sha256, &bytes, e);
        if (!rc)
            fileset_add(out, all.files[i].name, all.files[i].path, sha256, bytes);
    }
    fileset_release(&all);
    free(path);
    if (rc)
        return s->place(s, "file", e);
    struct fileset *keep = s->state = xcalloc(1, sizeof *keep);
    fileset_copy(keep, out);
    return 0;
}

static void fetch_release(struct stage_ctx *s)
{
    if (s->state)
        fileset_release(s->state);
    free(s->state);
    s->state = NULL;
}

static int fetch_expand(struct stage_ctx *s, struct stage_expansion *x, struct err *e)
{
    (void)e;
    const struct fileset *f = s->state;
    bool model = !strncmp(f->files[0].name, "model", 5);
    x->artifact = model ? ART_MODEL : ART_FILES;
    x->add(x, "");
    if (model)
        x->add(x, "index");
    return 0;
}

static int fetch_fields(struct stage_ctx *s, size_t node, json_t *out, struct err *e)
{
    (void)node;
    (void)e;
    json_object_set_new(out, "files", digests(s->state));
    return 0;
}

static int fetch_run(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, const char *outdir, struct err *e)
{
    (void)chain;
    int rc = begin(s, r, node, "run", e);
    if (rc)
        return rc;
    char *text = slurp(s->state, 0);
    rc = emit(outdir, STAGE_INDEX_FILE, text, e);
    free(text);
    return rc;
}

static int calibrate_check(struct stage_ctx *s, struct err *e)
{
    if (json_integer_value(param(s, "samples")) > 0)
        return 0;
    err_set(e, ERR_MANIFEST, "stage '%s': samples must be positive", s->name);
    return s->place(s, "samples", e);
}

static int calibrate_expand(struct stage_ctx *s, struct stage_expansion *x, struct err *e)
{
    (void)e;
    if (json_integer_value(param(s, "batch_size")) > 1)
        s->note(s, "batch_size is a hint");
    x->artifact = ART_CALIBRATION;
    x->add(x, "");
    return 0;
}

static int calibrate_fields(struct stage_ctx *s, size_t node, json_t *out, struct err *e)
{
    (void)node;
    (void)e;
    for (size_t i = 0; i < schema_field_count; i++)
        if (!strcmp(schema_fields[i].kind, "calibrate") && schema_fields[i].role == ROLE_KEY)
            json_object_set_new(out, schema_fields[i].name, json_deep_copy(param(s, schema_fields[i].name)));
    json_object_set_new(out, "data", digests(stage_input_find(s, "data")->files));
    return 0;
}

static int calibrate_run(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, const char *outdir, struct err *e)
{
    (void)chain;
    int rc = begin(s, r, node, "run", e);
    if (rc)
        return rc;
    char *text = slurp(stage_input_find(s, "data")->files, 0);
    size_t n = (size_t)json_integer_value(param(s, "samples"));
    if (strlen(text) > n)
        text[n] = 0;
    rc = emit(outdir, "calibration.txt", text, e);
    free(text);
    return rc;
}

/* Line k of the model file, which is the first file of the model. */
static char *model_line(const struct stage_ctx *s, size_t k)
{
    const struct fileset *f = stage_input_find(s, "model")->files;
    size_t at_file = 0;
    while (at_file + 1 < f->count && strncmp(f->files[at_file].name, "model", 5) != 0)
        at_file++;
    char *text = slurp(f, at_file), *line = text;
    for (; k && line; k--) {
        line = strchr(line, '\n');
        line += line != NULL;
    }
    char *out = line && *line ? xstrndup(line, strcspn(line, "\n")) : NULL;
    free(text);
    return out;
}

static int quantize_expand(struct stage_ctx *s, struct stage_expansion *x, struct err *e)
{
    x->artifact = ART_LAYERS;
    if (!stage_input_find(s, "model")->files->count)
        return err_set(e, ERR_UNKNOWN, "no model yet");
    for (size_t k = 0;; k++) {
        char *line = model_line(s, k), name[32];
        if (!line)
            return 0;
        free(line);
        snprintf(name, sizeof name, "layer.%zu", k);
        x->add(x, name);
    }
}

static int quantize_fields(struct stage_ctx *s, size_t node, json_t *out, struct err *e)
{
    const char *inputs = json_string_value(param(s, "inputs"));
    bool alone = inputs && !strcmp(inputs, "original");
    if (node && !alone && !s->nodes[node - 1].known)
        return err_set(e, ERR_UNKNOWN, "layer %zu is not there yet", node - 1);
    char *line = model_line(s, node), pattern[32];
    snprintf(pattern, sizeof pattern, "layer.%zu", node);
    json_object_set_new(out, "tensor", json_string(line));
    free(line);
    json_object_set_new(out, "bits", json_deep_copy(param(s, "bits")));
    json_object_set_new(out, "damp_percent", json_deep_copy(param(s, "damp_percent")));
    const json_t *own = json_object_get(param(s, "dynamic"), pattern);
    json_object_set_new(out, "dynamic", own ? json_deep_copy(own) : json_null());
    const struct stage_input *c = stage_input_find(s, "calibration");
    if (c)
        json_object_set_new(out, "calibration", digests(c->files));
    json_object_set_new(out, "prefix", json_string(node && !alone ? s->nodes[node - 1].digest : ""));
    return 0;
}

static int quantize_open(struct stage_ctx *s, struct run_ctx *r, void **chain, struct err *e)
{
    (void)e;
    assert_true(io_is_dir(r->scratch));
    tell("open %s", s->name);
    *chain = xcalloc(1, sizeof(size_t));
    return 0;
}

static int quantize_run(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, const char *outdir, struct err *e)
{
    size_t *done = chain;
    if (*done != node)
        fail_msg("chain is at %zu, not at %zu", *done, node);
    int rc = begin(s, r, node, "run", e);
    if (rc)
        return rc;
    ++*done;
    json_t *f = json_object();
    quantize_fields(s, node, f, e);
    json_object_del(f, "prefix"); /* a layer whose own settings do not change gives the same bytes */
    char *text = json_dumps(f, JSON_SORT_KEYS), name[64];
    snprintf(name, sizeof name, "%s.txt", s->nodes[node].name);
    rc = emit(outdir, name, text, e);
    free(text);
    json_decref(f);
    return rc;
}

static int quantize_replay(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, struct err *e)
{
    size_t *done = chain;
    if (*done != node)
        fail_msg("chain is at %zu, not at %zu", *done, node);
    ++*done;
    return begin(s, r, node, "replay", e);
}

static void quantize_close(struct stage_ctx *s, struct run_ctx *r, void *chain)
{
    (void)r;
    tell("close %s", s->name);
    free(chain);
}

static int one_node(struct stage_ctx *s, struct stage_expansion *x, struct err *e)
{
    (void)e;
    const char *kind = ((const char *)s->state);
    (void)kind;
    x->add(x, "");
    return 0;
}

static int pack_expand(struct stage_ctx *s, struct stage_expansion *x, struct err *e)
{
    x->artifact = ART_CHECKPOINT;
    return one_node(s, x, e);
}

static int pack_fields(struct stage_ctx *s, size_t node, json_t *out, struct err *e)
{
    (void)node;
    (void)e;
    json_object_set_new(out, "layers", digests(stage_input_find(s, "quantized")->files));
    json_object_set_new(out, "target", json_deep_copy(param(s, "target")));
    return 0;
}

static int pack_run(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, const char *outdir, struct err *e)
{
    (void)chain;
    int rc = begin(s, r, node, "run", e);
    struct buf b = BUF_INIT;
    const struct fileset *f = stage_input_find(s, "quantized")->files;
    for (size_t i = 0; !rc && i < f->count; i++) {
        char *text = slurp(f, i);
        buf_addstr(&b, text);
        free(text);
    }
    if (!rc)
        rc = emit(outdir, "model.txt", buf_str(&b), e);
    buf_release(&b);
    return rc;
}

static int pack_finish(struct stage_ctx *s, struct err *e)
{
    (void)e;
    assert_true(s->nodes[0].known);
    tell("finish %s", s->name);
    return 0;
}

static int validate_expand(struct stage_ctx *s, struct stage_expansion *x, struct err *e)
{
    x->artifact = ART_REPORT;
    return one_node(s, x, e);
}

static int validate_fields(struct stage_ctx *s, size_t node, json_t *out, struct err *e)
{
    (void)node;
    (void)e;
    json_object_set_new(out, "checkpoint", digests(stage_input_find(s, "checkpoint")->files));
    return 0;
}

static int text_run(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, const char *outdir, struct err *e)
{
    (void)chain;
    int rc = begin(s, r, node, "run", e);
    return rc ? rc : emit(outdir, "out.txt", s->name, e);
}

static int validate_verdict(struct stage_ctx *s, struct err *e)
{
    if (json_integer_value(param(s, "max_tokens")) != 13)
        return 0;
    return err_set(e, ERR_THRESHOLD, "stage '%s': perplexity_ratio 1.20 is above 1.05", s->name);
}

static int run_expand(struct stage_ctx *s, struct stage_expansion *x, struct err *e)
{
    x->artifact = ART_TEXT;
    return one_node(s, x, e);
}

static int run_fields(struct stage_ctx *s, size_t node, json_t *out, struct err *e)
{
    json_object_set_new(out, "prompts", json_deep_copy(param(s, "prompts")));
    return validate_fields(s, node, out, e);
}

static struct stage_kind fake_fetch = {.name = "fetch",
                                       .revision = 1,
                                       .source = true,
                                       .resolve = fetch_resolve,
                                       .expand = fetch_expand,
                                       .fields = fetch_fields,
                                       .run = fetch_run,
                                       .release = fetch_release};
static struct stage_kind fake_calibrate = {.name = "calibrate",
                                           .revision = 1,
                                           .check = calibrate_check,
                                           .expand = calibrate_expand,
                                           .fields = calibrate_fields,
                                           .run = calibrate_run};
static struct stage_kind fake_quantize = {.name = "quantize",
                                          .revision = 1,
                                          .numerics = true,
                                          .chained = true,
                                          .expand = quantize_expand,
                                          .fields = quantize_fields,
                                          .chain_open = quantize_open,
                                          .run = quantize_run,
                                          .replay = quantize_replay,
                                          .chain_close = quantize_close};
static struct stage_kind fake_pack = {
    .name = "pack", .revision = 1, .expand = pack_expand, .fields = pack_fields, .run = pack_run, .finish = pack_finish};
static struct stage_kind fake_validate = {.name = "validate",
                                          .revision = 1,
                                          .numerics = true,
                                          .expand = validate_expand,
                                          .fields = validate_fields,
                                          .run = text_run,
                                          .verdict = validate_verdict};
static struct stage_kind fake_run = {
    .name = "run", .revision = 1, .numerics = true, .expand = run_expand, .fields = run_fields, .run = text_run};
static const struct stage_kind *const fake_kinds[] = {&fake_fetch, &fake_calibrate, &fake_quantize, &fake_pack, &fake_validate, &fake_run,
                                                      NULL};

/* ---- the project ---- */

static const char fake_manifest[] = "version: 1\n"
                                    "name: fake\n"
                                    "stages:\n"
                                    "  model: { fetch: { file: model.txt } }\n"
                                    "  text: { fetch: { file: text.txt } }\n"
                                    "  calib: { calibrate: { model: model, data: text, samples: 4, sequence_length: 8 } }\n"
                                    "  w4: { quantize: { model: model, calibration: calib, bits: 4 } }\n"
                                    "  ckpt: { pack: { quantized: w4 } }\n"
                                    "  quality: { validate: { checkpoint: ckpt } }\n"
                                    "  hello: { run: { checkpoint: ckpt, prompts: [a, b] } }\n";

__attribute__((unused)) static int make_root(void **state)
{
    (void)state;
    char name[] = "/tmp/gptqpipe-test-XXXXXX";
    root = xstrdup(mkdtemp(name));
    put("manifest.yaml", fake_manifest);
    put("model.txt", "one\ntwo\nthree\nfour\n");
    put("text.txt", "abcdefgh");
    fail_node[0] = signal_node[0] = touch_node[0] = 0;
    pause_ms = 0;
    fake_fetch.revision = fake_calibrate.revision = fake_quantize.revision = fake_pack.revision = fake_revision = 1;
    buf_clear(&story);
    return 0;
}

__attribute__((unused)) static int drop_root(void **state)
{
    (void)state;
    io_remove_tree(root, NULL);
    free(root);
    buf_release(&story);
    return 0;
}

/* Options of the next open_project. */
static struct pipeline_config fake_config;
static struct manifest *manifest;

__attribute__((unused)) static struct pipeline *open_project_err(struct err *e)
{
    char *path = at("manifest.yaml"), *cache = at("cache");
    struct pipeline_config c = fake_config;
    struct pipeline *p = NULL;
    c.kinds = fake_kinds;
    c.cache_dir = cache;
    c.threads = c.threads ? c.threads : 2;
    if (!manifest_load(path, NULL, 0, &manifest, e))
        pipeline_open(manifest, &c, &p, e);
    free(path);
    free(cache);
    return p;
}

__attribute__((unused)) static struct pipeline *open_project(void)
{
    struct err e;
    struct pipeline *p = open_project_err(&e);
    if (!p)
        fail_msg("%s:%ld:%ld %s", e.file, e.line, e.col, e.text);
    return p;
}

__attribute__((unused)) static void close_project(struct pipeline *p)
{
    pipeline_close(p);
    manifest_free(manifest);
    manifest = NULL;
}

/* "model hit hit-local|w4/layer.0 run param-changed bits|..." */
__attribute__((unused)) static char *plan_text(void)
{
    struct err e;
    struct buf b = BUF_INIT;
    struct pipeline *p = open_project();
    if (pipeline_plan(p, &e))
        buf_printf(&b, "error: %s", e.text);
    else
        for (size_t i = 0; i < pipeline_node_count(p); i++) {
            struct plan_node n = pipeline_node(p, i);
            buf_printf(&b, "%s %s %s%s%s|", n.name, plan_action_text(n.action), reason_text(n.reason), n.field ? " " : "",
                       n.field ? n.field : "");
        }
    close_project(p);
    return buf_detach(&b);
}

/* Applies; *text gets "ran R hit H" or the error. Returns the code. story starts afresh. */
__attribute__((unused)) static int apply(char text[1200])
{
    struct err e;
    struct apply_result r;
    struct pipeline *p = open_project();
    buf_clear(&story);
    int rc = pipeline_apply(p, &r, &e);
    if (rc)
        snprintf(text, 1200, "%s", e.text);
    else
        snprintf(text, 1200, "ran %d hit %d", (int)r.ran, (int)r.hit);
    apply_result_release(&r);
    close_project(p);
    return rc;
}

#define assert_plan(want)                                                                                                                  \
    do {                                                                                                                                   \
        char *plan_got = plan_text();                                                                                                      \
        assert_string_equal(plan_got, want);                                                                                               \
        free(plan_got);                                                                                                                    \
    } while (0)
#define assert_apply(code, want)                                                                                                           \
    do {                                                                                                                                   \
        char apply_got[1200];                                                                                                              \
        int apply_rc = apply(apply_got);                                                                                                   \
        assert_string_equal(apply_got, want);                                                                                              \
        assert_int_equal(apply_rc, code);                                                                                                  \
    } while (0)

#endif

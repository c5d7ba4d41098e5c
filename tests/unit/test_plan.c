/* pipeline: plan and apply with fake stages: reasons, early cutoff, chains, targets, force, failures, signals, the frozen lock, sources
 * that change. */
#include "pipe_test.h"

#define ALL_RUN                                                                                                                            \
    "run model/index;run calib;open w4;run w4/layer.0;run w4/layer.1;run w4/layer.2;run w4/layer.3;close w4;run ckpt;finish ckpt;run "     \
    "quality;run hello;"

static void first_plan_then_apply_then_nothing(void **state)
{
    (void)state;
    assert_plan(
        "model run no-record|model/index run no-record|text run no-record|calib maybe upstream-pending|w4/layer.0 maybe upstream-pending|"
        "w4/layer.1 maybe upstream-pending|w4/layer.2 maybe upstream-pending|w4/layer.3 maybe upstream-pending|ckpt maybe upstream-pending|"
        "quality maybe upstream-pending|hello maybe upstream-pending|");
    assert_apply(0, "ran 11 hit 0");
    assert_string_equal(buf_str(&story), ALL_RUN);
    assert_plan("model hit hit-local|model/index hit hit-local|text hit hit-local|calib hit hit-local|w4/layer.0 hit hit-local|w4/layer.1 "
                "hit hit-local|"
                "w4/layer.2 hit hit-local|w4/layer.3 hit hit-local|ckpt hit hit-local|quality hit hit-local|hello hit hit-local|");
    assert_apply(0, "ran 0 hit 11");
    assert_string_equal(buf_str(&story), "finish ckpt;");
}

#define HIT_TO_CALIB "model hit hit-local|model/index hit hit-local|text hit hit-local|calib hit hit-local|"

static void replace(const char *from, const char *to)
{
    char *text = get("manifest.yaml"), *found = strstr(text, from);
    assert_non_null(found);
    char *out = xasprintf("%.*s%s%s", (int)(found - text), text, to, found + strlen(from));
    put("manifest.yaml", out);
    free(out);
    free(text);
}

static void applied(void)
{
    char text[1200];
    if (apply(text))
        fail_msg("%s", text);
}

static void nothing_is_written_by_a_no_op(void **state)
{
    (void)state;
    applied();
    struct err e;
    struct apply_result r;
    struct store_stats stats;
    char *lock = at("gptqpipe.lock");
    struct stat before, after;
    assert_int_equal(stat(lock, &before), 0);
    struct pipeline *p = open_project();
    assert_int_equal(pipeline_apply(p, &r, &e), 0);
    store_stats_get(pipeline_store(p), &stats);
    assert_int_equal(stats.blob_checks, 0);
    assert_int_equal(stats.blob_bytes, 0);
    assert_int_equal(stats.published, 0);
    assert_int_equal(stats.record_reads, 9); /* model and text have no record: they lie where they are */
    apply_result_release(&r);
    close_project(p);
    assert_int_equal(stat(lock, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    free(lock);
}

static void a_parameter_runs_only_what_depends_on_it(void **state)
{
    (void)state;
    applied();
    replace("bits: 4", "bits: 4, dynamic: { layer.2: { bits: 8 } }");
    assert_plan(HIT_TO_CALIB
                "w4/layer.0 hit hit-local|w4/layer.1 hit hit-local|w4/layer.2 run param-changed dynamic|w4/layer.3 maybe upstream-pending|"
                "ckpt maybe upstream-pending|quality maybe upstream-pending|hello maybe upstream-pending|");
    assert_apply(0, "ran 5 hit 6");
    assert_string_equal(
        buf_str(&story),
        "open w4;replay w4/layer.0;replay w4/layer.1;run w4/layer.2;run w4/layer.3;close w4;run ckpt;finish ckpt;run quality;run hello;");
}

/* A node whose key needs no earlier node of its chain is not held up by one that runs; those between are replayed. */
static void a_node_that_depends_on_none_is_planned(void **state)
{
    (void)state;
    replace("bits: 4", "inputs: original, bits: 4");
    applied();
    replace("bits: 4", "bits: 4, dynamic: { layer.1: { bits: 8 }, layer.3: { bits: 8 } }");
    assert_plan(HIT_TO_CALIB
                "w4/layer.0 hit hit-local|w4/layer.1 run param-changed dynamic|w4/layer.2 hit hit-local|w4/layer.3 run param-changed dynamic|"
                "ckpt maybe upstream-pending|quality maybe upstream-pending|hello maybe upstream-pending|");
    assert_apply(0, "ran 5 hit 6");
    assert_string_equal(buf_str(&story), "open w4;replay w4/layer.0;run w4/layer.1;replay w4/layer.2;run w4/layer.3;close w4;run ckpt;finish "
                                         "ckpt;run quality;run hello;");
}

static void the_field_that_changed_is_named(void **state)
{
    (void)state;
    applied();
    replace("bits: 4", "bits: 8");
    char *got = plan_text();
    assert_non_null(strstr(got, "w4/layer.0 run param-changed bits|w4/layer.1 maybe"));
    free(got);
    replace("bits: 8", "bits: 4");
    put("model.txt", "one\ntwo\nTHREE\nfour\n");
    got = plan_text();
    assert_non_null(strstr(got, "model run input-changed model.txt|model/index run input-changed files.model.txt|text hit hit-local|calib "
                                "maybe upstream-pending|"));
    free(got);
    fake_calibrate.revision = 2;
    put("model.txt", "one\ntwo\nthree\nfour\n");
    got = plan_text();
    assert_non_null(strstr(got, "calib run impl-changed rev|"));
    free(got);
    fake_calibrate.revision = 1;
    replace("stages:", "cache: { salt: again }\nstages:");
    got = plan_text();
    assert_non_null(strstr(got, "model/index run salt-changed salt|"));
    assert_non_null(strstr(got, "calib maybe upstream-pending|"));
    free(got);
}

static void a_changed_layer_leaves_the_ones_before_it(void **state)
{
    (void)state;
    applied();
    put("model.txt", "one\ntwo\nTHREE\nfour\n");
    assert_apply(0, "ran 7 hit 4"); /* model, index, layers 2 and 3 (its prefix), ckpt, quality, hello */
    assert_string_equal(buf_str(&story), "run model/index;open w4;replay w4/layer.0;replay w4/layer.1;run w4/layer.2;run w4/layer.3;close "
                                         "w4;run ckpt;finish ckpt;run quality;run hello;");
}

static void equal_output_stops_what_follows(void **state)
{
    (void)state;
    applied();
    put("text.txt", "abcdXXXX"); /* calibrate takes the first 4 bytes */
    assert_plan(
        "model hit hit-local|model/index hit hit-local|text run input-changed text.txt|calib run input-changed data.text.txt|w4/layer.0 "
        "maybe upstream-pending|"
        "w4/layer.1 maybe upstream-pending|w4/layer.2 maybe upstream-pending|w4/layer.3 maybe upstream-pending|ckpt maybe upstream-pending|"
        "quality maybe upstream-pending|hello maybe upstream-pending|");
    assert_apply(0, "ran 2 hit 9");
    assert_string_equal(buf_str(&story), "run calib;finish ckpt;");
}

static void hit_after_a_miss_is_not_replayed(void **state)
{
    (void)state;
    applied();
    struct err e;
    struct pipeline *p = open_project();
    assert_int_equal(pipeline_plan(p, &e), 0);
    for (size_t i = 0; i < pipeline_node_count(p); i++)
        if (!strcmp(pipeline_node(p, i).name, "w4/layer.1"))
            assert_int_equal(store_evict(pipeline_store(p), pipeline_node(p, i).key, &e), 0);
    close_project(p);
    assert_apply(0, "ran 1 hit 10");
    assert_string_equal(buf_str(&story), "open w4;replay w4/layer.0;run w4/layer.1;close w4;finish ckpt;");
}

static char *blob_of(const char *node)
{
    struct err e;
    char *path = NULL;
    struct pipeline *p = open_project();
    assert_int_equal(pipeline_plan(p, &e), 0);
    for (size_t i = 0; i < pipeline_node_count(p); i++)
        if (!strcmp(pipeline_node(p, i).name, node))
            path = xstrdup(pipeline_node(p, i).result->outputs.files[0].path);
    close_project(p);
    assert_non_null(path);
    return path;
}

static void missing_blob_is_made_again(void **state)
{
    (void)state;
    applied();
    char *path = blob_of("calib");
    assert_int_equal(unlink(path), 0);
    char *got = plan_text();
    assert_non_null(strstr(got, "calib run output-missing|"));
    free(got);
    assert_apply(0, "ran 1 hit 10");
    assert_true(io_exists(path));
    free(path);
}

static void damaged_blob_is_found_by_its_reader_and_made_again(void **state)
{
    (void)state;
    applied();
    char *path = blob_of("w4/layer.1");
    assert_int_equal(chmod(path, 0644), 0);
    FILE *f = fopen(path, "r+");
    fputc('X', f);
    fclose(f);
    replace("prompts: [a, b]", "prompts: [a, c]");
    replace("quantized: w4", "quantized: w4, target: vllm"); /* pack reads the layers */
    assert_apply(0, "ran 3 hit 8");
    assert_string_equal(buf_str(&story), "open w4;replay w4/layer.0;run w4/layer.1;close w4;run ckpt;finish ckpt;run hello;");
    assert_apply(0, "ran 0 hit 11");
    free(path);
}

static void targets_limit_the_walk(void **state)
{
    (void)state;
    const char *target = "w4/layer.1";
    fake_config.targets = &target;
    fake_config.target_count = 1;
    assert_apply(0, "ran 6 hit 0");
    assert_string_equal(buf_str(&story), "run model/index;run calib;open w4;run w4/layer.0;run w4/layer.1;close w4;");
    target = "calib";
    assert_apply(0, "ran 0 hit 4");
    target = "w4/layer.9";
    assert_apply(-ERR_USAGE, "stage 'w4' has no node 'layer.9' (4 nodes, the last is 'layer.3')");
    target = "w5";
    struct err e;
    assert_null(open_project_err(&e));
    assert_string_equal(e.text, "the manifest has no stage 'w5' (did you mean 'w4'?)");
    assert_int_equal(err_exit_status(e.code), 64);
    manifest_free(manifest);
}

static void forced_stage_runs_again(void **state)
{
    (void)state;
    applied();
    const char *forced = "calib";
    fake_config.forced = &forced;
    fake_config.forced_count = 1;
    char *got = plan_text();
    assert_non_null(strstr(got, "calib run forced|w4/layer.0 maybe upstream-pending|"));
    free(got);
    assert_apply(0, "ran 1 hit 10");
    assert_string_equal(buf_str(&story), "run calib;finish ckpt;");
    forced = "w4/layer.2";
    assert_apply(0, "ran 1 hit 10");
    assert_string_equal(buf_str(&story), "open w4;replay w4/layer.0;replay w4/layer.1;run w4/layer.2;close w4;finish ckpt;");
}

/* What the last refusing_expand was told. */
static char told_class[32];
static bool told_applying;

static int refusing_expand(struct stage_ctx *s, struct stage_expansion *x, struct err *e)
{
    int rc = run_expand(s, x, e);
    snprintf(told_class, sizeof told_class, "%s", s->numerics);
    told_applying = s->applying;
    if (rc)
        return rc;
    err_set(e, ERR_MANIFEST, "stage '%s': prompts are refused", s->name);
    return s->place(s, "prompts", e);
}

static bool on_gpu(const struct stage_ctx *s)
{
    (void)s;
    return true;
}

static void find_gpu(void *arg, const char *device, struct pipeline_gpu *out)
{
    (void)arg, (void)device;
    *out = (struct pipeline_gpu){.found = true, .proven = true, .numerics = "cuda-sm86", .key = "cuda-sm86:sms4:r1"};
}

/* What the last stage's expand refuses, apply refuses before the first runs; with keep_going everything else runs. */
static void apply_finds_what_a_plan_finds_before_it_starts(void **state)
{
    (void)state;
    struct err e;
    fake_run.expand = refusing_expand;
    struct pipeline *p = open_project();
    assert_int_equal(pipeline_plan(p, &e), -ERR_MANIFEST);
    assert_string_equal(e.text, "stage 'hello': prompts are refused");
    assert_int_equal(e.line, 10);
    assert_string_equal(told_class, "cpu");
    assert_false(told_applying);
    close_project(p);
    assert_apply(-ERR_MANIFEST, "stage 'hello': prompts are refused");
    assert_string_equal(buf_str(&story), "");
    assert_true(told_applying);
    const char *target = "quality";
    fake_config.targets = &target;
    fake_config.target_count = 1;
    assert_apply(0, "ran 8 hit 2"); /* the stage that is refused is not wanted; the sources are in the lock */
    fake_config.target_count = 0;
    fake_run.gpu = on_gpu;
    fake_config.probe_gpu = find_gpu;
    fake_config.numerics = "cuda-sm86";
    fake_config.keep_going = true;
    replace("samples: 4", "samples: 3");
    assert_apply(-ERR_MANIFEST, "stage 'hello': prompts are refused");
    assert_string_equal(buf_str(&story), "run calib;open w4;run w4/layer.0;run w4/layer.1;run w4/layer.2;run w4/layer.3;close w4;run ckpt;finish ckpt;run quality;");
    assert_string_equal(told_class, "cuda-sm86");
    fake_run.gpu = NULL;
    fake_run.expand = run_expand;
}

static int other_run(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, const char *outdir, struct err *e)
{
    (void)chain;
    int rc = begin(s, r, node, "run", e);
    return rc ? rc : emit(outdir, "calibration.txt", "other", e);
}

static void a_second_output_for_one_key_is_an_error(void **state)
{
    (void)state;
    applied();
    const char *forced = "calib";
    fake_config.forced = &forced;
    fake_config.forced_count = 1;
    fake_calibrate.run = other_run;
    char text[1200];
    assert_int_equal(apply(text), -ERR_INTEGRITY);
    assert_non_null(strstr(text, "stage 'calib': "));
    assert_int_equal(err_exit_status(ERR_INTEGRITY), 5);
    fake_calibrate.run = calibrate_run;
}

static void a_failure_stops_what_needs_it(void **state)
{
    (void)state;
    snprintf(fail_node, sizeof fail_node, "w4/layer.1");
    assert_apply(-ERR_NUMERIC, "stage 'w4': made to fail");
    assert_string_equal(buf_str(&story), "run model/index;run calib;open w4;run w4/layer.0;run w4/layer.1;close w4;");
    fail_node[0] = 0;
    assert_apply(0, "ran 6 hit 5"); /* what was done is kept */
}

static void keep_going_runs_the_rest(void **state)
{
    (void)state;
    snprintf(fail_node, sizeof fail_node, "quality");
    assert_apply(-ERR_NUMERIC, "stage 'quality': made to fail");
    assert_null(strstr(buf_str(&story), "run hello"));
    fake_config.keep_going = true;
    assert_apply(-ERR_NUMERIC, "stage 'quality': made to fail");
    assert_string_equal(buf_str(&story), "finish ckpt;run quality;run hello;");
}

static void verdict_is_asked_on_hits_too(void **state)
{
    (void)state;
    replace("checkpoint: ckpt }", "checkpoint: ckpt, max_tokens: 13 }");
    assert_apply(-ERR_THRESHOLD, "stage 'quality': perplexity_ratio 1.20 is above 1.05");
    assert_non_null(strstr(buf_str(&story), "run hello"));
    assert_apply(-ERR_THRESHOLD, "stage 'quality': perplexity_ratio 1.20 is above 1.05");
    assert_string_equal(buf_str(&story), "finish ckpt;");
    assert_int_equal(err_exit_status(ERR_THRESHOLD), 3);
}

static void a_signal_stops_the_run(void **state)
{
    (void)state;
    struct err e;
    struct apply_result r;
    signals_install();
    snprintf(signal_node, sizeof signal_node, "w4/layer.1");
    struct pipeline *p = open_project();
    buf_clear(&story);
    assert_int_equal(pipeline_apply(p, &r, &e), -ERR_CANCELLED);
    assert_int_equal(e.signal, SIGTERM);
    assert_string_equal(e.text, "stopped by Terminated");
    assert_string_equal(buf_str(&story), "run model/index;run calib;open w4;run w4/layer.0;run w4/layer.1;close w4;");
    apply_result_release(&r);
    close_project(p);
    char *tmp = at("cache/tmp");
    struct io_list l;
    assert_int_equal(io_list(tmp, true, &l, NULL), 0);
    assert_int_equal(l.count, 0); /* partial outputs are gone */
    io_list_release(&l);
    free(tmp);
    signals_reset();
    signal_node[0] = 0;
    assert_apply(0, "ran 6 hit 5");
}

static void source_that_changes_meanwhile_is_not_published(void **state)
{
    (void)state;
    char *path = at("text.txt"), want[700], text[1200];
    snprintf(touch_node, sizeof touch_node, "calib");
    snprintf(touch_path, sizeof touch_path, "%s", path);
    assert_int_equal(apply(text), -ERR_STALE);
    snprintf(want, sizeof want, "%s", path);
    assert_non_null(strstr(text, want));
    char *lock = get("gptqpipe.lock");
    assert_string_equal(lock, "(absent)");
    free(lock);
    touch_node[0] = 0;
    assert_apply(0, "ran 10 hit 1"); /* the index was sound */
    free(path);
}

static void frozen_lock_names_file_and_digests(void **state)
{
    (void)state;
    char text[1200];
    fake_config.frozen_lock = true;
    assert_int_equal(apply(text), -ERR_LOCK);
    assert_non_null(strstr(text, "gptqpipe.lock is missing, and the lock is frozen"));
    fake_config.frozen_lock = false;
    applied();
    char *before = get("gptqpipe.lock");
    fake_config.frozen_lock = true;
    assert_apply(0, "ran 0 hit 11");
    put("text.txt", "zz");
    assert_int_equal(apply(text), -ERR_LOCK);
    assert_non_null(strstr(text, "stage 'text': file 'text.txt' differs from "));
    assert_non_null(strstr(text, "locked 9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab, found "
                                 "4a60bf7d4bc1e485744cf7e8d0860524752fca1ce42331be7c439fd23043f151"));
    char *plan = plan_text();
    assert_non_null(strstr(plan, "error: stage 'text': file 'text.txt' differs from "));
    free(plan);
    fake_config.frozen_lock = false;
    applied();
    char *after = get("gptqpipe.lock");
    assert_string_not_equal(before, after);
    free(before);
    free(after);
}

static void moved_source_of_equal_bytes_is_a_hit(void **state)
{
    (void)state;
    applied();
    put("sub/model.txt", "one\ntwo\nthree\nfour\n");
    replace("file: model.txt", "file: sub/model.txt");
    assert_apply(0, "ran 0 hit 11");
}

static void unknown_model_is_one_line(void **state)
{
    (void)state;
    /* The model of w8 is a checkpoint that is not packed yet: its layers cannot be known. */
    replace("  hello:", "  w8: { quantize: { model: ckpt, method: rtn } }\n  hello:");
    char *got = plan_text();
    assert_non_null(strstr(got, "w8 maybe upstream-pending|"));
    assert_null(strstr(got, "w8/layer"));
    free(got);
    assert_apply(0, "ran 12 hit 0");
}

static void wrong_artifact_is_found_once_the_source_is_known(void **state)
{
    (void)state;
    replace("model: model, data: text", "model: text, data: text");
    struct err e;
    struct pipeline *p = open_project();
    assert_int_equal(pipeline_plan(p, &e), -ERR_MANIFEST);
    assert_string_equal(e.text, "stage 'calib': 'model' takes model or checkpoint, and 'text' is files");
    assert_int_equal(e.line, 6);
    assert_int_equal(e.col, 32);
    close_project(p);
}

static void pattern_without_a_match_has_a_place(void **state)
{
    (void)state;
    replace("data: text", "data: { from: text, files: \"*.gz\" }");
    struct err e;
    struct pipeline *p = open_project();
    assert_int_equal(pipeline_plan(p, &e), -ERR_MANIFEST);
    assert_string_equal(e.text, "stage 'calib': pattern '*.gz' matches none of the files of 'text'");
    assert_int_equal(e.col, 66);
    close_project(p);
    replace("*.gz", "*.txt");
    assert_apply(0, "ran 11 hit 0");
}

static void check_of_a_stage_has_a_place(void **state)
{
    (void)state;
    struct err e;
    replace("samples: 4", "samples: 0");
    assert_null(open_project_err(&e));
    assert_string_equal(e.text, "stage 'calib': samples must be positive");
    assert_int_equal(e.line, 6);
    assert_int_equal(e.col, 60);
    manifest_free(manifest);
}

static void absent_source_has_a_place(void **state)
{
    (void)state;
    replace("text.txt", "nothing.txt");
    struct err e;
    struct pipeline *p = open_project();
    assert_int_equal(pipeline_plan(p, &e), -ERR_NOTFOUND);
    assert_non_null(strstr(e.text, "nothing.txt does not exist"));
    assert_int_equal(e.line, 5);
    close_project(p);
}

static void numerics_class_that_is_not_served(void **state)
{
    (void)state;
    struct err e;
    replace("name: fake", "numerics: cuda-sm90");
    assert_null(open_project_err(&e));
    assert_string_equal(e.text, "numerics class 'cuda-sm90' needs a GPU: this build has none");
    assert_int_equal(e.line, 2);
    assert_int_equal(e.col, 11);
    manifest_free(manifest);
    fake_config.numerics = "cpu-a8";
    assert_null(open_project_err(&e));
    assert_int_equal(e.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "'cpu-a8'"));
    manifest_free(manifest);
}

static void jobs_do_not_change_results(void **state)
{
    (void)state;
    applied();
    char *a = plan_text(), *lock_a = get("gptqpipe.lock");
    char *cache = at("cache");
    io_remove_tree(cache, NULL);
    free(cache);
    fake_config.jobs = 4;
    fake_config.threads = 4;
    assert_apply(0, "ran 9 hit 2"); /* the sources are those of the lock */
    char *b = plan_text(), *lock_b = get("gptqpipe.lock");
    assert_string_equal(a, b);
    assert_string_equal(lock_a, lock_b);
    free(a);
    free(b);
    free(lock_a);
    free(lock_b);
}

/* Lines of a file of events, as objects. */
static json_t *read_events(const char *name)
{
    char *text = get(name), *rest = NULL;
    json_t *out = json_array();
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        json_t *v = json_loads(line, 0, NULL);
        assert_non_null(v);
        json_array_append_new(out, v);
    }
    free(text);
    return out;
}

static void events_tell_the_run(void **state)
{
    (void)state;
    struct err e;
    char *path = at("events.jsonl");
    struct events_config c = {.spec = path};
    assert_int_equal(events_open(&c, &fake_config.events, &e), 0);
    snprintf(fail_node, sizeof fail_node, "quality");
    assert_apply(-ERR_NUMERIC, "stage 'quality': made to fail");
    assert_int_equal(events_close(fake_config.events, &e), 0);
    fake_config.events = NULL;
    json_t *all = read_events("events.jsonl");
    size_t n = json_array_size(all), i;
    json_t *v;
    json_array_foreach(all, i, v)
    {
        assert_int_equal(json_integer_value(json_object_get(v, "seq")), i);
        assert_int_equal(json_integer_value(json_object_get(v, "v")), 1);
    }
    assert_string_equal(json_string_value(json_object_get(json_array_get(all, 0), "type")), "run_start");
    v = json_array_get(all, n - 2);
    assert_string_equal(json_string_value(json_object_get(v, "type")), "error");
    assert_string_equal(json_string_value(json_object_get(v, "text")), "gptqpipe: error: stage 'quality': made to fail");
    v = json_array_get(all, n - 1);
    assert_string_equal(json_string_value(json_object_get(v, "type")), "run_end");
    assert_int_equal(json_integer_value(json_object_get(v, "ran")), 9);
    assert_int_equal(json_integer_value(json_object_get(v, "failed")), 1);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(v, "kernels"), "fake")),
                     16); /* 8 nodes ran a kernel twice; sources run none */
    json_decref(all);
    free(path);
    c.spec = "fd:x";
    assert_int_equal(events_open(&c, &fake_config.events, &e), -ERR_USAGE);
    assert_string_equal(e.text, "--events 'fd:x': fd:N wants a number");
    c.spec = "/dev/full";
    assert_int_equal(events_open(&c, &fake_config.events, &e), 0);
    fail_node[0] = 0;
    assert_apply(0, "ran 2 hit 9"); /* the run itself is sound */
    assert_int_equal(events_close(fake_config.events, &e), -ERR_IO);
    assert_non_null(strstr(e.text, "/dev/full"));
    fake_config.events = NULL;
}

static void progress_says_rate_and_time_left(void **state)
{
    (void)state;
    char text[128];
    assert_string_equal(progress_text(50, 200, "tokens", 5, text, sizeof text), "25%  10 tokens/s  0:15 left");
    assert_string_equal(progress_text(1, 7201, "layers", 1, text, sizeof text), "0%  1.0 layers/s  2:00:00 left");
    assert_string_equal(progress_text(0, 10, "layers", 0, text, sizeof text), "0%");
    assert_string_equal(progress_text(3, 0, "layers", 1, text, sizeof text), "0%  3.0 layers/s");
}

static int reset(void **state)
{
    fake_config = (struct pipeline_config){.threads = 2, .jobs = 1};
    return make_root(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(first_plan_then_apply_then_nothing, reset, drop_root),
        cmocka_unit_test_setup_teardown(nothing_is_written_by_a_no_op, reset, drop_root),
        cmocka_unit_test_setup_teardown(a_parameter_runs_only_what_depends_on_it, reset, drop_root),
        cmocka_unit_test_setup_teardown(a_node_that_depends_on_none_is_planned, reset, drop_root),
        cmocka_unit_test_setup_teardown(the_field_that_changed_is_named, reset, drop_root),
        cmocka_unit_test_setup_teardown(a_changed_layer_leaves_the_ones_before_it, reset, drop_root),
        cmocka_unit_test_setup_teardown(equal_output_stops_what_follows, reset, drop_root),
        cmocka_unit_test_setup_teardown(hit_after_a_miss_is_not_replayed, reset, drop_root),
        cmocka_unit_test_setup_teardown(missing_blob_is_made_again, reset, drop_root),
        cmocka_unit_test_setup_teardown(damaged_blob_is_found_by_its_reader_and_made_again, reset, drop_root),
        cmocka_unit_test_setup_teardown(targets_limit_the_walk, reset, drop_root),
        cmocka_unit_test_setup_teardown(forced_stage_runs_again, reset, drop_root),
        cmocka_unit_test_setup_teardown(a_second_output_for_one_key_is_an_error, reset, drop_root),
        cmocka_unit_test_setup_teardown(a_failure_stops_what_needs_it, reset, drop_root),
        cmocka_unit_test_setup_teardown(keep_going_runs_the_rest, reset, drop_root),
        cmocka_unit_test_setup_teardown(apply_finds_what_a_plan_finds_before_it_starts, reset, drop_root),
        cmocka_unit_test_setup_teardown(verdict_is_asked_on_hits_too, reset, drop_root),
        cmocka_unit_test_setup_teardown(a_signal_stops_the_run, reset, drop_root),
        cmocka_unit_test_setup_teardown(source_that_changes_meanwhile_is_not_published, reset, drop_root),
        cmocka_unit_test_setup_teardown(frozen_lock_names_file_and_digests, reset, drop_root),
        cmocka_unit_test_setup_teardown(moved_source_of_equal_bytes_is_a_hit, reset, drop_root),
        cmocka_unit_test_setup_teardown(unknown_model_is_one_line, reset, drop_root),
        cmocka_unit_test_setup_teardown(wrong_artifact_is_found_once_the_source_is_known, reset, drop_root),
        cmocka_unit_test_setup_teardown(pattern_without_a_match_has_a_place, reset, drop_root),
        cmocka_unit_test_setup_teardown(check_of_a_stage_has_a_place, reset, drop_root),
        cmocka_unit_test_setup_teardown(absent_source_has_a_place, reset, drop_root),
        cmocka_unit_test_setup_teardown(numerics_class_that_is_not_served, reset, drop_root),
        cmocka_unit_test_setup_teardown(jobs_do_not_change_results, reset, drop_root),
        cmocka_unit_test_setup_teardown(events_tell_the_run, reset, drop_root),
        cmocka_unit_test(progress_says_rate_and_time_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

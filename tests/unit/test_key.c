/* Keys: golden ones, what changes a key and what does not, and the reasons read off two preimages. */
#include "pipe_test.h"

#include "pipeline/key.h"

static void golden(void **state)
{
    (void)state;
    struct stage_kind kind = {.name = "calibrate", .revision = 3};
    json_t *fields = json_pack("{s:i}", "samples", 2);
    char *preimage, key[HASH_HEX];
    key_compute(&kind, fields, "cpu", "", &preimage, key);
    assert_string_equal(preimage, "{\"fields\":{\"samples\":2},\"kind\":\"calibrate\",\"rev\":3,\"salt\":\"\",\"v\":1}");
    assert_string_equal(key, "08ac4ad80e648af6d07a566c7537bf33b6f8a0719f5636b376121aec9511dc76");
    free(preimage);
    kind.numerics = true;
    json_object_set_new(fields, "damp", json_real(0.05));
    key_compute(&kind, fields, "cpu", "s", &preimage, key);
    assert_string_equal(
        preimage, "{\"class\":\"cpu\",\"fields\":{\"damp\":0.05,\"samples\":2},\"kind\":\"calibrate\",\"rev\":3,\"salt\":\"s\",\"v\":1}");
    assert_string_equal(key, "041ebd035227a64d699c7714bd139904a1688ace7878cb4d9fe07be6193bc57e");
    free(preimage);
    json_decref(fields);
}

/* Key of a node after everything before it was applied; the caller frees. */
static char *key_of(const char *node)
{
    struct err e;
    struct apply_result r;
    char *key = NULL;
    struct pipeline *p = open_project();
    if (pipeline_apply(p, &r, &e))
        fail_msg("%s", e.text);
    apply_result_release(&r);
    if (pipeline_plan(p, &e))
        fail_msg("%s", e.text);
    for (size_t i = 0; i < pipeline_node_count(p); i++)
        if (!strcmp(pipeline_node(p, i).name, node))
            key = xstrdup(pipeline_node(p, i).key);
    close_project(p);
    return key;
}

static void with(const char *calibrate_extra, const char *quantize_extra)
{
    char *text = xasprintf(
        "# comment\nstages:\n  text: { fetch: { file: text.txt } }\n  calib: { calibrate: { samples: 4, data: text, model: model, "
        "sequence_length: 8%s } }\n"
        "  w4: { quantize: { bits: 4, model: model, calibration: calib%s } }\n  model: { fetch: { file: model.txt } }\nversion: 1\n",
        calibrate_extra, quantize_extra);
    put("manifest.yaml", text);
    free(text);
}

static void golden_nodes(void **state)
{
    (void)state;
    with("", "");
    char *calib = key_of("calib"), *layer = key_of("w4/layer.1"), *index = key_of("model/index");
    assert_string_equal(calib, "55e5d27867b8db0f0b57190ea6cc01f7af118542e4d0291e0aa869fc87d92927");
    assert_string_equal(layer, "be3f7d36c326c794a56f43d16dcb0f91bdaf7505a94f3559c40dd808b28e7808");
    assert_string_equal(index, "b4d2dbd555eb5845f85cf65e1e5f0dfbcdcf4dc6191da1ce1b318b2e3f144a54");
    free(calib);
    free(layer);
    free(index);
}

static void every_key_field_changes_the_key(void **state)
{
    (void)state;
    static const char *const changes[] = {", field: x", ", select: shuffle", ", seed: 1", ", concat: true", ", min_tokens: 3"};
    with("", "");
    char *before = key_of("calib");
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        with(changes[i], "");
        char *after = key_of("calib");
        assert_string_not_equal(before, after);
        free(after);
    }
    put("text.txt", "other");
    with("", "");
    char *after = key_of("calib");
    assert_string_not_equal(before, after);
    free(after);
    free(before);
}

static void hints_defaults_paths_and_order_do_not(void **state)
{
    (void)state;
    with("", "");
    char *calib = key_of("calib"), *layer = key_of("w4/layer.3");
    static const char *const same[] = {", batch_size: 64", ", field: text", ", select: first", ", min_tokens: 11, concat: false"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        with(same[i], ", batch_size: 8, damp_percent: 5e-2");
        char *again = key_of("calib"), *layer_again = key_of("w4/layer.3");
        assert_string_equal(calib, again);
        assert_string_equal(layer, layer_again);
        free(again);
        free(layer_again);
    }
    /* The same project in another folder, other names of stages, other numbers of threads and jobs. */
    io_remove_tree(root, NULL);
    free(root);
    char name[] = "/tmp/gptqpipe-test-XXXXXX";
    root = xstrdup(mkdtemp(name));
    put("deep/model.txt", "one\ntwo\nthree\nfour\n");
    put("text.txt", "abcdefgh");
    put("manifest.yaml",
        "version: 1\nstages:\n  m: { fetch: { file: deep/model.txt } }\n  t: { fetch: { file: text.txt } }\n"
        "  c: { calibrate: { model: m, data: t, samples: 4, sequence_length: 8 } }\n  q: { quantize: { model: m, calibration: c } }\n");
    fake_config = (struct pipeline_config){.threads = 7, .jobs = 3, .isa = "scalar"};
    char *again = key_of("c"), *layer_again = key_of("q/layer.3");
    assert_string_equal(calib, again);
    assert_string_equal(layer, layer_again);
    free(calib);
    free(layer);
    free(again);
    free(layer_again);
}

static const struct {
    const char *from, *to, *field;
    enum reason reason;
} differences[] = {
    {"{'fields':{'a':1},'rev':1}",             "{'fields':{'a':2},'rev':1}",                "a",     REASON_PARAM_CHANGED   },
    {"{'fields':{'a':1,'b':{'c':1}},'rev':1}", "{'fields':{'a':1,'b':{'c':2}},'rev':1}",    "b.c",   REASON_PARAM_CHANGED   },
    {"{'fields':{'a':1},'rev':1}",             "{'fields':{'a':2},'rev':2}",                "rev",   REASON_IMPL_CHANGED    },
    {"{'class':'cpu','fields':{},'salt':''}",  "{'class':'cpu-a8','fields':{},'salt':'x'}", "class", REASON_NUMERICS_CHANGED},
    {"{'fields':{'a':1},'salt':''}",           "{'fields':{'a':2},'salt':'x'}",             "salt",  REASON_SALT_CHANGED    },
    {"{'fields':{'z':{'f':'D1'},'a':1}}",      "{'fields':{'z':{'f':'D2'},'a':1}}",         "z.f",   REASON_INPUT_CHANGED   },
    {"{'fields':{'a':{'f':'D1'},'b':1}}",      "{'fields':{'a':{'f':'D2'},'b':2}}",         "b",     REASON_PARAM_CHANGED   },
    {"{'fields':{'a':{'f':'D1'}}}",            "{'fields':{'a':{}}}",                       "a.f",   REASON_INPUT_CHANGED   },
    {"{'fields':{'l':[1,2]}}",                 "{'fields':{'l':[1,3,4]}}",                  "l.1",   REASON_PARAM_CHANGED   },
    {"{'fields':{'l':{'x':1}}}",               "{'fields':{'l':3}}",                        "l",     REASON_PARAM_CHANGED   },
    {"{'fields':{'l':null}}",                  "{'fields':{'l':{}}}",                       "l",     REASON_PARAM_CHANGED   },
    {"{'fields':{'a':1}}",                     "{'fields':{'a':1}}",                        NULL,    REASON_NO_RECORD       },
};

/* Single quotes for double ones, D1 and D2 for digests. */
static json_t *preimage(const char *text)
{
    struct buf b = BUF_INIT;
    for (const char *p = text; *p; p++) {
        if (*p == 'D')
            for (int i = 0; i < 64; i++)
                buf_addch(&b, p[1]);
        else if (p == text || p[-1] != 'D')
            buf_addch(&b, *p == '\'' ? '"' : *p);
    }
    json_t *v = json_loads(b.data, 0, NULL);
    assert_non_null(v);
    buf_release(&b);
    return v;
}

static void reasons(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof differences / sizeof *differences; i++) {
        json_t *a = preimage(differences[i].from), *b = preimage(differences[i].to);
        char *field;
        assert_string_equal(reason_text(reason_of(a, b, &field)), reason_text(differences[i].reason));
        if (differences[i].field)
            assert_string_equal(field, differences[i].field);
        else
            assert_null(field);
        free(field);
        json_decref(a);
        json_decref(b);
    }
}

static int collect(void *arg, const char *path, const json_t *from, const json_t *to)
{
    char *a = from ? json_dumps(from, JSON_ENCODE_ANY) : xstrdup("absent"), *b = to ? json_dumps(to, JSON_ENCODE_ANY) : xstrdup("absent");
    buf_printf(arg, "%s: %s -> %s|", path, a, b);
    free(a);
    free(b);
    return 0;
}

static void all_differences(void **state)
{
    (void)state;
    json_t *a = preimage("{'fields':{'b':{'x':1,'y':2},'c':[1],'same':1},'rev':1}"),
           *b = preimage("{'fields':{'a':5,'b':{'y':3},'c':[1,2],'same':1},'rev':2}");
    struct buf out = BUF_INIT;
    assert_int_equal(reason_each_difference(a, b, collect, &out), 0);
    assert_string_equal(buf_str(&out), "rev: 1 -> 2|a: absent -> 5|b.x: 1 -> absent|b.y: 2 -> 3|c.1: absent -> 2|");
    buf_release(&out);
    json_decref(a);
    json_decref(b);
}

static int reset(void **state)
{
    fake_config = (struct pipeline_config){.threads = 2, .jobs = 1};
    return make_root(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden),
        cmocka_unit_test_setup_teardown(golden_nodes, reset, drop_root),
        cmocka_unit_test_setup_teardown(every_key_field_changes_the_key, reset, drop_root),
        cmocka_unit_test_setup_teardown(hints_defaults_paths_and_order_do_not, reset, drop_root),
        cmocka_unit_test(reasons),
        cmocka_unit_test(all_differences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* `dynamic` -> resolved table: both forms, whole-name matching, conflicts, and the text of every error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "pipeline/base/buf.h"
#include "pipeline/base/json.h"
#include "stages/quant/overrides.h"
#include "stages/quantize.h"

enum { LAYERS = 22, PER_LAYER = 7, MODULES = LAYERS * PER_LAYER + 1 };

static char names[MODULES][64];
static struct override_module modules[MODULES];

static int make_modules(void **state)
{
    static const char *const linear[PER_LAYER] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                                  "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
    (void)state;
    for (int i = 0; i < MODULES - 1; i++)
        snprintf(names[i], sizeof names[i], "model.layers.%d.%s", i / PER_LAYER, linear[i % PER_LAYER]);
    snprintf(names[MODULES - 1], sizeof names[0], "lm_head");
    for (int i = 0; i < MODULES; i++)
        modules[i] = (struct override_module){names[i], i < MODULES - 1};
    return 0;
}

static int resolve(struct override_table *t, const struct quant_params *base, const char *json, struct err *e)
{
    struct quant_params p = base ? *base : quant_params_default();
    json_t *dynamic = json_parse(json, strlen(json), "test", e);
    assert_non_null(dynamic);
    assert_int_equal(quant_params_resolve(&p, "base", e), 0);
    int rc = overrides_resolve(t, &p, dynamic, modules, MODULES, e);
    json_decref(dynamic);
    return rc;
}

static void expect_error(const struct quant_params *base, const char *json, int pattern, const char *text)
{
    struct override_table t;
    struct err e = {0};
    assert_int_equal(resolve(&t, base, json, &e), -ERR_MANIFEST);
    assert_string_equal(e.text, text);
    assert_int_equal(t.failed_pattern, pattern);
    overrides_release(&t);
}

static void nothing_given(void **state)
{
    struct override_table t;
    struct err e = {0};
    struct quant_params p = quant_params_default();
    (void)state;
    assert_int_equal(overrides_resolve(&t, &p, NULL, modules, MODULES, &e), 0);
    assert_int_equal(t.count, MODULES);
    assert_true(t.rows[0].quantized && t.rows[0].pattern == -1 && t.rows[0].params.bits == 4);
    assert_false(overrides_find(&t, "lm_head")->quantized);
    assert_null(overrides_find(&t, "nope"));
    overrides_release(&t);
    assert_int_equal(resolve(&t, NULL, "null", &e), 0);
    overrides_release(&t);
    assert_int_equal(resolve(&t, NULL, "{}", &e), 0);
    overrides_release(&t);
}

static void map_form(void **state)
{
    struct override_table t;
    struct err e = {0};
    (void)state;
    assert_int_equal(resolve(&t, NULL,
                             "{\"+:^model\\\\.layers\\\\.(0|15)\\\\.mlp\\\\.down_proj$\": {\"bits\": 8, \"group_size\": 32},"
                             " \".*q_proj\": {\"sym\": false, \"mse\": 2.4},"
                             " \"-:.*layers\\\\.1\\\\..*\": {}, \"lm_head\": {\"bits\": 8}}",
                             &e),
                     0);
    const struct override_row *r = overrides_find(&t, "model.layers.15.mlp.down_proj");
    assert_true(r->quantized && r->pattern == 0 && r->params.bits == 8 && r->params.group_size == 32 && r->params.sym);
    r = overrides_find(&t, "model.layers.3.self_attn.q_proj");
    assert_true(r->quantized && r->pattern == 1 && !r->params.sym && r->params.mse == 2.4 && r->params.bits == 4);
    /* `-:` wins although a positive pattern stands before it, and does not reach layers 10 to 19 */
    r = overrides_find(&t, "model.layers.1.self_attn.q_proj");
    assert_true(!r->quantized && r->pattern == 2);
    assert_true(overrides_find(&t, "model.layers.11.self_attn.q_proj")->quantized);
    r = overrides_find(&t, "lm_head");
    assert_true(r->quantized && r->pattern == 3 && r->params.bits == 8);
    overrides_release(&t);
}

static void list_form(void **state)
{
    struct override_table t;
    struct err e = {0};
    (void)state;
    assert_int_equal(resolve(&t, NULL,
                             "[{\"match\": \"+:.*layers\\\\.0\\\\.mlp.*\", \"bits\": 8}, {\"match\": \"-:.*layers\\\\.0\\\\..*\"},"
                             " {\"match\": \".*\\\\.(mlp|self_attn)\\\\..*\", \"bits\": 3, \"group_size\": 64}]",
                             &e),
                     0);
    const struct override_row *r = overrides_find(&t, "model.layers.0.mlp.up_proj");
    assert_true(r->quantized && r->pattern == 0 && r->params.bits == 8 && r->params.group_size == 128);
    r = overrides_find(&t, "model.layers.0.self_attn.q_proj");
    assert_true(!r->quantized && r->pattern == 1);
    r = overrides_find(&t, "model.layers.9.self_attn.q_proj");
    assert_true(r->quantized && r->pattern == 2 && r->params.bits == 3 && r->params.group_size == 64);
    assert_false(overrides_find(&t, "lm_head")->quantized);
    overrides_release(&t);
}

static void equal_settings_do_not_conflict(void **state)
{
    struct override_table t;
    struct err e = {0};
    (void)state;
    assert_int_equal(
        resolve(&t, NULL, "{\".*q_proj\": {\"bits\": 8}, \".*layers\\\\.0\\\\.self.*\": {\"bits\": 8, \"group_size\": 128}}", &e), 0);
    overrides_release(&t);
    /* nor do different ones on a module that `-:` takes away */
    assert_int_equal(
        resolve(&t, NULL, "{\".*0\\\\.mlp.up_proj\": {\"bits\": 8}, \".*up_proj\": {\"bits\": 8}, \"-:.*5\\\\.mlp.up_proj\": {}}", &e), 0);
    overrides_release(&t);
    assert_int_equal(resolve(&t, NULL, "{\"lm_head\": {\"bits\": 8}, \"(lm|x)_head\": {\"bits\": 3}, \"-:lm_head\": {}}", &e), 0);
    assert_false(overrides_find(&t, "lm_head")->quantized);
    overrides_release(&t);
}

static void conflicts(void **state)
{
    (void)state;
    expect_error(NULL, "{\"+:.*q_proj\": {\"bits\": 8}, \".*layers\\\\.0\\\\..*\": {\"bits\": 3}}", 1,
                 "module 'model.layers.0.self_attn.q_proj' gets different settings from '+:.*q_proj' and '.*layers\\.0\\..*': narrow one "
                 "of them, or "
                 "write dynamic as a list, where the first match wins");
}

static void no_whole_match(void **state)
{
    (void)state;
    /* layers 1, 10..19: 11 layers of 7 */
    expect_error(NULL, "{\"+:^model\\\\.layers\\\\.1\": {\"bits\": 8}}", 0,
                 "pattern '+:^model\\.layers\\.1' matches no whole module name (as a prefix it would have hit 77)");
    expect_error(NULL, "{\"-:^model\\\\.layers\\\\.99\\\\..*\": {}}", 0,
                 "pattern '-:^model\\.layers\\.99\\..*' matches no whole module name (as a prefix it would have hit 0)");
    expect_error(NULL, "[{\"match\": \"lm_head\", \"bits\": 8}, {\"match\": \"q_proj\", \"bits\": 8}]", 1,
                 "pattern 'q_proj' matches no whole module name (as a prefix it would have hit 0, but it occurs inside 22; names are like "
                 "'model.layers.0.self_attn.q_proj')");
    /* an alternative that ends early must not hide one that ends at the end */
    struct override_table t;
    struct err e = {0};
    assert_int_equal(resolve(&t, NULL, "{\"lm|lm_head\": {\"bits\": 8}}", &e), 0);
    overrides_release(&t);
}

static void bad_patterns(void **state)
{
    (void)state;
    expect_error(NULL, "{\"+:^model\\\\.(layers\": {}}", 0, "pattern '+:^model\\.(layers': missing closing parenthesis at offset 17");
    expect_error(NULL, "{\"-:\": {}}", 0, "pattern '-:' is empty");
    expect_error(NULL, "{\"-:lm_head\": {\"bits\": 8}}", 0, "pattern '-:lm_head' leaves modules as they are and takes no settings");
    expect_error(NULL, "{\"lm_head\": 8}", 0, "dynamic: pattern 'lm_head' needs an object of settings");
    expect_error(NULL, "[{\"bits\": 8}]", 0, "dynamic: entry 1 needs \"match\", a pattern");
    expect_error(NULL, "[8]", 0, "dynamic: entry 1 must be an object with \"match\" and settings");
    expect_error(NULL, "3", -1, "dynamic must be a map of patterns or a list of entries with \"match\"");
    struct override_table t;
    struct err e = {0};
    assert_int_equal(resolve(&t, NULL, "{\"((((.*)*)*)*)*[!?]\": {}}", &e), -ERR_MANIFEST);
    assert_non_null(strstr(e.text, "limit exceeded"));
    overrides_release(&t);
}

static void bad_settings(void **state)
{
    struct quant_params aware = quant_params_default();
    struct err e = {0};
    (void)state;
    assert_int_equal(quant_params_set(&aware, "act_group_aware", json_true(), "base", &e), 0);
    expect_error(NULL, "{\"lm_head\": {\"bit\": 8}}", 0, "pattern 'lm_head': unknown setting 'bit'; did you mean 'bits'?");
    expect_error(NULL, "{\"lm_head\": {\"groupsize\": 8}}", 0,
                 "pattern 'lm_head': unknown setting 'groupsize'; did you mean 'group_size'?");
    expect_error(
        NULL, "{\"lm_head\": {\"zzz\": 8}}", 0,
        "pattern 'lm_head': unknown setting 'zzz' (known: method bits group_size sym desc_act act_group_aware static_groups mse damp_percent "
        "damp_auto_increment compensate compensate_residual scale_search scale_candidates signed_scales refine_sweeps refit_scales output_metric "
        "scale_dtype)");
    expect_error(NULL, "{\"lm_head\": {\"recipe\": \"best\"}}", 0, "pattern 'lm_head': 'recipe' is set for the whole stage, not for a module");
    expect_error(NULL, "{\"lm_head\": {\"true_sequential\": false}}", 0,
                 "pattern 'lm_head': 'true_sequential' is set for the whole stage, not for a module");
    expect_error(NULL, "{\"lm_head\": {\"bits\": \"8\"}}", 0, "pattern 'lm_head': bits must be an integer");
    expect_error(NULL, "{\"lm_head\": {\"bits\": 5}}", 0, "pattern 'lm_head': bits must be 2, 3, 4 or 8, not 5");
    expect_error(NULL, "{\"lm_head\": {\"group_size\": 0}}", 0, "pattern 'lm_head': group_size must be -1 (one group) or positive, not 0");
    expect_error(NULL, "{\"lm_head\": {\"sym\": 1}}", 0, "pattern 'lm_head': sym must be true or false");
    expect_error(NULL, "{\"lm_head\": {\"mse\": -1}}", 0, "pattern 'lm_head': mse must be 0 (off) or an exponent up to 16, not -1");
    expect_error(NULL, "{\"lm_head\": {\"damp_percent\": 1}}", 0, "pattern 'lm_head': damp_percent must lie between 0 and 1, not 1");
    expect_error(NULL, "{\"lm_head\": {\"damp_auto_increment\": -0.5}}", 0,
                 "pattern 'lm_head': damp_auto_increment must be 0 (one attempt) or lie between 0 and 1, not -0.5");
    expect_error(NULL, "{\"lm_head\": {\"method\": \"awq\"}}", 0, "pattern 'lm_head': method must be gptq or rtn, not 'awq'");
    expect_error(
        NULL, "{\"lm_head\": {\"desc_act\": true, \"act_group_aware\": true}}", 0,
        "pattern 'lm_head': desc_act and act_group_aware are both true: they are two orders of the same columns; set one to false");
    expect_error(
        &aware, "{\"lm_head\": {\"desc_act\": true}}", 0,
        "pattern 'lm_head': desc_act and act_group_aware are both true: they are two orders of the same columns; set one to false");
    expect_error(&aware, "{\"lm_head\": {\"group_size\": -1}}", 0,
                 "pattern 'lm_head': act_group_aware orders groups, but group_size -1 is one group; set act_group_aware to false");
    /* settings are checked even where `-:` hides them */
    expect_error(NULL, "{\"lm_head\": {\"bits\": 5}, \"-:lm_head\": {}}", 0, "pattern 'lm_head': bits must be 2, 3, 4 or 8, not 5");
}

static void act_group_aware_gives_way(void **state)
{
    struct override_table t;
    struct err e = {0};
    (void)state;
    assert_int_equal(resolve(&t, NULL,
                             "{\".*q_proj\": {\"desc_act\": true}, \".*v_proj\": {\"group_size\": -1}, \".*k_proj\": {\"desc_act\": true, "
                             "\"act_group_aware\": false}}",
                             &e),
                     0);
    assert_false(overrides_find(&t, "model.layers.0.self_attn.q_proj")->params.act_group_aware);
    assert_false(overrides_find(&t, "model.layers.0.self_attn.v_proj")->params.act_group_aware);
    assert_false(overrides_find(&t, "model.layers.0.self_attn.k_proj")->params.act_group_aware);
    assert_true(overrides_find(&t, "model.layers.0.self_attn.o_proj")->params.act_group_aware);
    overrides_release(&t);
}

/* A module's recipe is taken anew from what stage and pattern wrote. */
static void recipe_by_module(void **state)
{
    struct override_table t;
    struct err e = {0};
    struct quant_params best = quant_params_default();
    (void)state;
    best.recipe = RECIPE_BEST;
    assert_int_equal(resolve(&t, &best,
                             "{\".*q_proj\": {\"sym\": false}, \".*k_proj\": {\"method\": \"rtn\"}, \".*v_proj\": {\"static_groups\": true}, \".*o_proj\": "
                             "{\"refine_sweeps\": 0}, \".*up_proj\": {\"compensate\": 0.5, \"scale_dtype\": \"bf16\"}}",
                             &e),
                     0);
    const struct quant_params *p = &overrides_find(&t, "model.layers.0.self_attn.q_proj")->params;
    assert_true(!p->signed_scales && p->scale_search == GRID_GPTQ && p->compensate == 0.75);
    assert_true(quant_params_plain(&overrides_find(&t, "model.layers.0.self_attn.k_proj")->params));
    p = &overrides_find(&t, "model.layers.0.self_attn.v_proj")->params;
    assert_true(p->signed_scales && p->scale_search == GRID_MSE && p->mse == 2.4);
    p = &overrides_find(&t, "model.layers.0.self_attn.o_proj")->params;
    assert_true(p->signed_scales && !p->refit_scales && p->output_metric == METRIC_NONE);
    p = &overrides_find(&t, "model.layers.0.mlp.up_proj")->params;
    assert_true(p->compensate == 0.5 && p->compensate_residual == 0.5 && p->scale_dtype == SCALE_BF16 && p->signed_scales);
    p = &overrides_find(&t, "model.layers.0.mlp.down_proj")->params;
    assert_true(p->compensate == 0.75 && p->refine_sweeps == 4 && p->output_metric == METRIC_LOCAL);
    overrides_release(&t);
    /* what the stage wrote counts in a pattern too */
    assert_int_equal(quant_params_set(&best, "signed_scales", json_true(), "base", &e), 0);
    expect_error(&best, "{\".*q_proj\": {\"sym\": false}}", 0, "pattern '.*q_proj': signed_scales true needs sym true, but sym is false");
    assert_int_equal(resolve(&t, &best, "{\".*q_proj\": {\"sym\": false, \"signed_scales\": false}}", &e), 0);
    overrides_release(&t);
}

static void two_streams(void **state)
{
    struct override_row rows[2] = {
        {.name = "a", .quantized = true, .params = quant_params_default()}, {.name = "b", .quantized = true, .params = quant_params_default()}
    };
    struct quantize_info q = {.table = {.rows = rows, .count = 2}};
    (void)state;
    assert_false(quantize_two_streams(&q));
    rows[1].params.refine_sweeps = 4;
    rows[1].params.signed_scales = true;
    assert_false(quantize_two_streams(&q));
    rows[1].params.compensate = 0.5;
    assert_true(quantize_two_streams(&q));
    rows[1].quantized = false;
    assert_false(quantize_two_streams(&q));
    rows[0].params.compensate_residual = 0.5;
    assert_true(quantize_two_streams(&q));
    rows[0].params.compensate_residual = 0;
    rows[0].params.output_metric = METRIC_LOCAL;
    assert_true(quantize_two_streams(&q));
}

static void canonical_json(void **state)
{
    struct override_table t;
    struct err e = {0};
    struct buf b = BUF_INIT;
    (void)state;
    assert_int_equal(resolve(&t, NULL, "{\"-:.*q_proj\": {}}", &e), 0);
    json_t *o = overrides_module_json(overrides_find(&t, "model.layers.0.self_attn.k_proj"));
    json_canonical(o, &b);
    assert_string_equal(buf_str(&b),
                        "{\"act_group_aware\":true,\"bits\":4,\"damp_auto_increment\":0.01,\"damp_percent\":0.05,\"desc_act\":false,"
                        "\"fallback\":\"none\",\"group_size\":128,\"method\":\"gptq\",\"mse\":0.0,\"quantized\":true,"
                        "\"static_groups\":false,\"sym\":true}");
    json_decref(o);
    buf_clear(&b);
    o = overrides_module_json(overrides_find(&t, "model.layers.0.self_attn.q_proj"));
    json_canonical(o, &b);
    assert_string_equal(buf_str(&b), "{\"quantized\":false}");
    json_decref(o);
    buf_release(&b);
    overrides_release(&t);
}

/* Literal patterns take a shortcut; it must not change what they match. */
static void literal_patterns(void **state)
{
    static const char *const same[] = {"^model\\\\.layers\\\\.2\\\\.mlp\\\\.up_proj$", "model\\\\.layers\\\\.2\\\\.mlp\\\\.up_proj",
                                       "model.layers.2.mlp.up_proj", "^model\\\\.layers\\\\.2\\\\.mlp\\\\.up[_]proj$"};
    (void)state;
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        struct override_table t;
        struct err e = {0};
        char json[256];
        snprintf(json, sizeof json, "{\"%s\": {\"bits\": 8}}", same[i]);
        assert_int_equal(resolve(&t, NULL, json, &e), 0);
        for (size_t m = 0; m < t.count; m++)
            assert_int_equal(t.rows[m].params.bits, strcmp(t.rows[m].name, "model.layers.2.mlp.up_proj") ? 4 : 8);
        overrides_release(&t);
    }
    expect_error(NULL, "{\"^model\\\\.layers\\\\.2\\\\.mlp$\": {}}", 0,
                 "pattern '^model\\.layers\\.2\\.mlp$' matches no whole module name (as a prefix it would have hit 0)");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_given),
        cmocka_unit_test(map_form),
        cmocka_unit_test(list_form),
        cmocka_unit_test(equal_settings_do_not_conflict),
        cmocka_unit_test(conflicts),
        cmocka_unit_test(no_whole_match),
        cmocka_unit_test(bad_patterns),
        cmocka_unit_test(bad_settings),
        cmocka_unit_test(act_group_aware_gives_way),
        cmocka_unit_test(recipe_by_module),
        cmocka_unit_test(two_streams),
        cmocka_unit_test(canonical_json),
        cmocka_unit_test(literal_patterns),
    };
    return cmocka_run_group_tests(tests, make_modules, NULL);
}

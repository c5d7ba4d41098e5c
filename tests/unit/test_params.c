/* Settings of a module: what each recipe resolves to, every rule of what goes together with the text of its error, resolving again on top. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pipeline/base/json.h"
#include "stages/quant/params.h"

/* Sets the fields of a JSON object on p. */
static int set_all(struct quant_params *p, const char *json, struct err *e)
{
    const char *key;
    json_t *v, *o = json_parse(json, strlen(json), "test", e);
    int rc = 0;
    assert_non_null(o);
    json_object_foreach(o, key, v)
    {
        if (!rc)
            rc = quant_params_set(p, key, v, "here", e);
    }
    json_decref(o);
    return rc;
}

static int resolve(struct quant_params *p, enum quant_recipe recipe, const char *json, struct err *e)
{
    *p = quant_params_default();
    p->recipe = recipe;
    int rc = set_all(p, json, e);
    return rc ? rc : quant_params_resolve(p, "here", e);
}

static struct quant_params resolved(enum quant_recipe recipe, const char *json)
{
    struct quant_params p;
    struct err e = {0};
    if (resolve(&p, recipe, json, &e))
        fail_msg("%s: %s", json, e.text);
    return p;
}

/* What the parts of p say to a person. */
static void expect_parts(const struct quant_params *p, const char *what, const char *text)
{
    struct buf b = BUF_INIT;
    quant_parts_text(p, &b);
    if (strcmp(buf_str(&b), text) != 0)
        fail_msg("%s:\n  got  %s\n  want %s", what, buf_str(&b), text);
    buf_release(&b);
}

#define BEST_HEAD "compensate 0.75, residual 0.75, "
#define BEST_TAIL ", refine_sweeps 4, refit_scales, output_metric local, scale_dtype bf16"

static void recipes(void **state)
{
    static const struct {
        enum quant_recipe recipe;
        const char *json, *parts;
    } rows[] = {
        {RECIPE_BEST, "{}", BEST_HEAD "scale_search gptq (16 candidates), signed_scales" BEST_TAIL},
        {RECIPE_GPTQMODEL, "{}", "scale_search minmax, scale_dtype f16"},
        {RECIPE_NONE, "{}", "scale_search minmax, scale_dtype f16"},
        /* what is written counts; residual follows compensate until it is written */
        {RECIPE_BEST, "{\"compensate\": 0.5}",
         "compensate 0.5, residual 0.5, scale_search gptq (16 candidates), signed_scales" BEST_TAIL},
        {RECIPE_BEST, "{\"compensate\": 0}", "scale_search gptq (16 candidates), signed_scales" BEST_TAIL},
        {RECIPE_BEST, "{\"compensate_residual\": 0.25}",
         "compensate 0.75, residual 0.25, scale_search gptq (16 candidates), signed_scales" BEST_TAIL},
        {RECIPE_GPTQMODEL, "{\"compensate\": 1}", "compensate 1, residual 1, scale_search minmax, scale_dtype f16"},
        {RECIPE_GPTQMODEL, "{\"compensate_residual\": 1}", "residual 1, scale_search minmax, scale_dtype f16"},
        {RECIPE_GPTQMODEL, "{\"scale_search\": \"gptq\", \"scale_candidates\": 40, \"signed_scales\": true, \"scale_dtype\": \"bf16\"}",
         "scale_search gptq (40 candidates), signed_scales, scale_dtype bf16"},
        {RECIPE_GPTQMODEL, "{\"refine_sweeps\": 2}", "scale_search minmax, refine_sweeps 2, scale_dtype f16"},
        {RECIPE_GPTQMODEL, "{\"refine_sweeps\": 1, \"output_metric\": \"local\", \"refit_scales\": true}",
         "scale_search minmax, refine_sweeps 1, refit_scales, output_metric local, scale_dtype f16"},
        /* mse and scale_search mse bring each other */
        {RECIPE_GPTQMODEL, "{\"mse\": 2}", "scale_search mse (2), scale_dtype f16"},
        {RECIPE_GPTQMODEL, "{\"scale_search\": \"mse\"}", "scale_search mse (2.4), scale_dtype f16"},
        {RECIPE_BEST, "{\"mse\": 3}", BEST_HEAD "scale_search mse (3), signed_scales" BEST_TAIL},
        {RECIPE_BEST, "{\"mse\": 0}", BEST_HEAD "scale_search gptq (16 candidates), signed_scales" BEST_TAIL},
        /* what only the recipe brought gives way */
        {RECIPE_BEST, "{\"scale_search\": \"minmax\"}", BEST_HEAD "scale_search minmax" ", refine_sweeps 4, refit_scales, output_metric local, scale_dtype f16"},
        {RECIPE_BEST, "{\"sym\": false}", BEST_HEAD "scale_search gptq (16 candidates)" BEST_TAIL},
        {RECIPE_BEST, "{\"static_groups\": true}", BEST_HEAD "scale_search mse (2.4), signed_scales" BEST_TAIL},
        {RECIPE_BEST, "{\"static_groups\": true, \"mse\": 0}", BEST_HEAD "scale_search minmax, refine_sweeps 4, refit_scales, output_metric local, scale_dtype f16"},
        {RECIPE_BEST, "{\"method\": \"rtn\"}", "scale_search minmax, scale_dtype f16"},
        {RECIPE_BEST, "{\"method\": \"rtn\", \"static_groups\": true}", "scale_search minmax, scale_dtype f16"},
        {RECIPE_BEST, "{\"method\": \"rtn\", \"mse\": 2.4}", "scale_search mse (2.4), signed_scales, scale_dtype bf16"},
        {RECIPE_BEST, "{\"method\": \"rtn\", \"compensate\": 0, \"refine_sweeps\": 0, \"scale_dtype\": \"bf16\"}",
         "scale_search minmax, scale_dtype bf16"},
        {RECIPE_BEST, "{\"refine_sweeps\": 0}", BEST_HEAD "scale_search gptq (16 candidates), signed_scales, scale_dtype bf16"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct quant_params p = resolved(rows[i].recipe, rows[i].json);
        expect_parts(&p, rows[i].json, rows[i].parts);
    }
}

static void errors(void **state)
{
    static const struct {
        enum quant_recipe recipe;
        const char *json, *text;
    } rows[] = {
        /* ranges */
        {RECIPE_BEST, "{\"compensate\": 1.5}", "compensate must lie in 0..1, not 1.5"},
        {RECIPE_BEST, "{\"compensate_residual\": -0.5}", "compensate_residual must lie in 0..1, not -0.5"},
        {RECIPE_BEST, "{\"scale_candidates\": 1}", "scale_candidates must lie in 2..64, not 1"},
        {RECIPE_BEST, "{\"scale_candidates\": 65}", "scale_candidates must lie in 2..64, not 65"},
        {RECIPE_BEST, "{\"refine_sweeps\": -1}", "refine_sweeps must lie in 0..64, not -1"},
        {RECIPE_BEST, "{\"refine_sweeps\": 65}", "refine_sweeps must lie in 0..64, not 65"},
        {RECIPE_BEST, "{\"mse\": 17}", "mse must be 0 (off) or an exponent up to 16, not 17"},
        /* types */
        {RECIPE_BEST, "{\"compensate\": \"1\"}", "compensate must be a number"},
        {RECIPE_BEST, "{\"refine_sweeps\": 1.5}", "refine_sweeps must be an integer"},
        {RECIPE_BEST, "{\"refit_scales\": 1}", "refit_scales must be true or false"},
        {RECIPE_BEST, "{\"scale_search\": \"best\"}", "scale_search must be minmax, mse or gptq, not 'best'"},
        {RECIPE_BEST, "{\"output_metric\": true}", "output_metric must be none or local"},
        {RECIPE_BEST, "{\"scale_dtype\": \"f32\"}", "scale_dtype must be f16 or bf16, not 'f32'"},
        {RECIPE_BEST, "{\"recipe\": \"best\"}", "'recipe' is set for the whole stage, not for a module"},
        {RECIPE_BEST, "{\"scale_serch\": \"mse\"}", "unknown setting 'scale_serch'; did you mean 'scale_search'?"},
        /* pairs */
        {RECIPE_BEST, "{\"signed_scales\": true, \"sym\": false}", "signed_scales true needs sym true, but sym is false"},
        {RECIPE_BEST, "{\"signed_scales\": true, \"scale_search\": \"minmax\"}",
         "signed_scales true needs scale_search gptq or mse, but scale_search is minmax"},
        {RECIPE_GPTQMODEL, "{\"signed_scales\": true}", "signed_scales true needs scale_search gptq or mse, but scale_search is minmax"},
        {RECIPE_BEST, "{\"signed_scales\": true, \"method\": \"rtn\"}",
         "signed_scales true needs scale_search gptq or mse, but scale_search is minmax"},
        {RECIPE_BEST, "{\"scale_search\": \"gptq\", \"method\": \"rtn\"}", "scale_search gptq needs method gptq, but method is rtn"},
        {RECIPE_BEST, "{\"scale_search\": \"gptq\", \"static_groups\": true}",
         "scale_search gptq needs scales chosen inside the loop, but static_groups true fixes them before it"},
        {RECIPE_BEST, "{\"scale_search\": \"gptq\", \"mse\": 2.4}", "mse 2.4 is the exponent of scale_search mse, but scale_search is gptq"},
        {RECIPE_GPTQMODEL, "{\"scale_search\": \"minmax\", \"mse\": 2}",
         "mse 2 is the exponent of scale_search mse, but scale_search is minmax"},
        {RECIPE_BEST, "{\"scale_search\": \"mse\", \"mse\": 0}", "scale_search mse needs an exponent, but mse is 0"},
        {RECIPE_BEST, "{\"compensate\": 0.5, \"method\": \"rtn\"}", "compensate 0.5 needs method gptq, but method is rtn"},
        {RECIPE_BEST, "{\"compensate_residual\": 0.75, \"method\": \"rtn\"}", "compensate_residual 0.75 needs method gptq, but method is rtn"},
        {RECIPE_BEST, "{\"refine_sweeps\": 3, \"method\": \"rtn\"}", "refine_sweeps 3 needs method gptq, but method is rtn"},
        {RECIPE_BEST, "{\"refit_scales\": true, \"method\": \"rtn\"}", "refit_scales true needs method gptq, but method is rtn"},
        {RECIPE_BEST, "{\"output_metric\": \"local\", \"method\": \"rtn\"}", "output_metric local needs method gptq, but method is rtn"},
        {RECIPE_BEST, "{\"refit_scales\": true, \"refine_sweeps\": 0}",
         "refit_scales true needs refine_sweeps of 1 or more, but refine_sweeps is 0"},
        {RECIPE_GPTQMODEL, "{\"refit_scales\": true}", "refit_scales true needs refine_sweeps of 1 or more, but refine_sweeps is 0"},
        {RECIPE_BEST, "{\"output_metric\": \"local\", \"refine_sweeps\": 0}",
         "output_metric local needs refine_sweeps of 1 or more, but refine_sweeps is 0"},
        {RECIPE_GPTQMODEL, "{\"output_metric\": \"local\"}", "output_metric local needs refine_sweeps of 1 or more, but refine_sweeps is 0"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct quant_params p;
        struct err e = {0};
        assert_int_equal(resolve(&p, rows[i].recipe, rows[i].json, &e), -ERR_MANIFEST);
        if (strncmp(e.text, "here: ", 6) != 0 || strcmp(e.text + 6, rows[i].text) != 0)
            fail_msg("%s:\n  got  %s\n  want here: %s", rows[i].json, e.text, rows[i].text);
    }
}

/* Source activations: nothing to make up for, whoever asks. Fixed for the stage; no word of it in a module's key. */
static void original_inputs(void **state)
{
    static const struct {
        const char *json, *text;
    } rows[] = {
        {"{\"compensate\": 0.5}", "here: compensate 0.5 needs inputs quantized, but inputs is original"},
        {"{\"compensate_residual\": 0.25}", "here: compensate_residual 0.25 needs inputs quantized, but inputs is original"},
    };
    struct err e = {0};
    (void)state;
    struct quant_params p = quant_params_default(), same = resolved(RECIPE_BEST, "{\"compensate\": 0}");
    p.recipe = RECIPE_BEST;
    p.inputs = INPUTS_ORIGINAL;
    assert_int_equal(set_all(&p, "{\"compensate\": 0}", &e), 0);
    assert_int_equal(quant_params_resolve(&p, "here", &e), 0);
    expect_parts(&p, "original", "scale_search gptq (16 candidates), signed_scales" BEST_TAIL);
    assert_true(quant_params_equal(&p, &same));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        p = quant_params_default();
        p.recipe = RECIPE_BEST;
        p.inputs = INPUTS_ORIGINAL;
        assert_int_equal(quant_params_resolve(&p, "here", &e), 0); /* the recipe's own give way */
        assert_true(quant_params_equal(&p, &same));
        assert_int_equal(set_all(&p, rows[i].json, &e), 0);
        assert_int_equal(quant_params_resolve(&p, "here", &e), -ERR_MANIFEST);
        assert_string_equal(e.text, rows[i].text);
    }
    p = quant_params_default();
    assert_int_equal(set_all(&p, "{\"inputs\": \"original\"}", &e), -ERR_MANIFEST);
    assert_string_equal(e.text, "here: 'inputs' is set for the whole stage, not for a module");
}

/* A resolved struct set further is what the two together are: nothing of the first resolution sticks. */
static void resolved_again(void **state)
{
    static const struct {
        enum quant_recipe recipe;
        const char *first, *then, *both;
    } rows[] = {
        {RECIPE_BEST, "{}", "{}", "{}"},
        {RECIPE_BEST, "{\"sym\": false}", "{\"sym\": true}", "{}"},
        {RECIPE_BEST, "{\"static_groups\": true}", "{\"static_groups\": false}", "{}"},
        {RECIPE_BEST, "{\"method\": \"rtn\"}", "{\"method\": \"gptq\"}", "{}"},
        {RECIPE_BEST, "{\"method\": \"rtn\"}", "{\"mse\": 2}", "{\"method\": \"rtn\", \"mse\": 2}"},
        {RECIPE_BEST, "{\"refine_sweeps\": 0}", "{\"refine_sweeps\": 4}", "{}"},
        {RECIPE_BEST, "{\"compensate\": 0.25}", "{\"compensate\": 0.5}", "{\"compensate\": 0.5}"},
        {RECIPE_BEST, "{\"mse\": 2.4}", "{\"mse\": 0}", "{}"},
        {RECIPE_GPTQMODEL, "{\"mse\": 2.4}", "{\"mse\": 0}", "{}"},
        {RECIPE_GPTQMODEL, "{\"mse\": 2.4}", "{\"sym\": false}", "{\"mse\": 2.4, \"sym\": false}"},
        {RECIPE_GPTQMODEL, "{\"scale_search\": \"mse\"}", "{\"scale_search\": \"minmax\"}", "{}"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        struct quant_params p = resolved(rows[i].recipe, rows[i].first), want = resolved(rows[i].recipe, rows[i].both);
        assert_int_equal(set_all(&p, rows[i].then, &e), 0);
        if (quant_params_resolve(&p, "here", &e))
            fail_msg("%s then %s: %s", rows[i].first, rows[i].then, e.text);
        if (!quant_params_equal(&p, &want))
            fail_msg("%s then %s is not %s", rows[i].first, rows[i].then, rows[i].both);
    }
    /* what was written before still counts as written */
    struct quant_params p = resolved(RECIPE_BEST, "{\"signed_scales\": true}");
    struct err e = {0};
    assert_int_equal(set_all(&p, "{\"sym\": false}", &e), 0);
    assert_int_equal(quant_params_resolve(&p, "here", &e), -ERR_MANIFEST);
    assert_string_equal(e.text, "here: signed_scales true needs sym true, but sym is false");
}

/* Code that fills the struct itself: recipe NONE leaves it alone, and the rules still hold. */
static void filled_by_hand(void **state)
{
    struct err e = {0};
    struct quant_params p = quant_params_default();
    (void)state;
    p.compensate = 0.75;
    p.mse = 2.4;
    p.signed_scales = true;
    p.output_metric = METRIC_LOCAL;
    p.refine_sweeps = 1;
    assert_int_equal(quant_params_resolve(&p, "here", &e), 0);
    expect_parts(&p, "by hand", "compensate 0.75, scale_search mse (2.4), signed_scales, refine_sweeps 1, output_metric local, scale_dtype f16");
    p.refine_sweeps = 0;
    p.sym = false;
    assert_int_equal(quant_params_resolve(&p, "here", &e), 0);
    expect_parts(&p, "by hand", "compensate 0.75, scale_search mse (2.4), scale_dtype f16");
}

static char *text_of(const struct quant_params *p)
{
    struct buf b = BUF_INIT;
    json_t *o = quant_params_json(p);
    json_canonical(o, &b);
    json_decref(o);
    return buf_detach(&b);
}

static void as_json(void **state)
{
#define OLD(mse)                                                                                                                           \
    "\"damp_auto_increment\":0.01,\"damp_percent\":0.05,\"desc_act\":false,\"fallback\":\"none\",\"group_size\":128,\"method\":\"gptq\",\"mse\":" mse
    struct quant_params p = resolved(RECIPE_BEST, "{}");
    (void)state;
    char *text = text_of(&p);
    assert_string_equal(text, "{\"act_group_aware\":true,\"bits\":4,\"compensate\":0.75,\"compensate_residual\":0.75," OLD("0.0") ",\"output_metric\":\"local\",\"refine_sweeps\":4,"
                              "\"refit_scales\":true,\"scale_candidates\":16,\"scale_dtype\":\"bf16\",\"scale_search\":\"gptq\",\"signed_scales\":true,\"static_groups\":false,"
                              "\"sym\":true}");
    free(text);
    /* nothing on: the fields of before, also where the norm is searched */
    p = resolved(RECIPE_GPTQMODEL, "{\"mse\": 2.4}");
    assert_true(quant_params_plain(&p));
    text = text_of(&p);
    assert_string_equal(text, "{\"act_group_aware\":true,\"bits\":4," OLD("2.4") ",\"static_groups\":false,\"sym\":true}");
    free(text);
    /* one part on: all are named, without what it does not use */
    p = resolved(RECIPE_GPTQMODEL, "{\"scale_dtype\": \"bf16\"}");
    assert_false(quant_params_plain(&p));
    text = text_of(&p);
    assert_string_equal(text, "{\"act_group_aware\":true,\"bits\":4,\"compensate\":0.0,\"compensate_residual\":0.0," OLD("0.0") ",\"output_metric\":\"none\",\"refine_sweeps\":0,"
                              "\"refit_scales\":false,\"scale_dtype\":\"bf16\",\"scale_search\":\"minmax\",\"signed_scales\":false,\"static_groups\":false,\"sym\":true}");
    free(text);
}

/* Every part makes a difference to the key, alone. */
static void equality(void **state)
{
    static const char *const one[] = {"{\"compensate\": 0.5}",         "{\"compensate_residual\": 0.5}", "{\"scale_search\": \"mse\"}",
                                      "{\"scale_candidates\": 8}",     "{\"signed_scales\": false}",     "{\"refine_sweeps\": 3}",
                                      "{\"refit_scales\": false}",     "{\"output_metric\": \"none\"}",  "{\"scale_dtype\": \"f16\"}",
                                      "{\"damp_percent\": 0.0625}"};
    struct quant_params best = resolved(RECIPE_BEST, "{}");
    (void)state;
    for (size_t i = 0; i < sizeof one / sizeof *one; i++) {
        struct quant_params p = resolved(RECIPE_BEST, one[i]);
        if (quant_params_equal(&p, &best))
            fail_msg("%s makes no difference", one[i]);
    }
    /* writing what the recipe gives makes none; nor do candidates that nothing tries */
    struct quant_params same = resolved(RECIPE_BEST, "{\"compensate\": 0.75, \"refine_sweeps\": 4, \"scale_search\": \"gptq\"}");
    assert_true(quant_params_equal(&same, &best));
    struct quant_params a = resolved(RECIPE_BEST, "{\"scale_search\": \"mse\", \"scale_candidates\": 8}"),
                        b = resolved(RECIPE_BEST, "{\"scale_search\": \"mse\"}");
    assert_true(quant_params_equal(&a, &b));
}

static void names(void **state)
{
    size_t n = 0, parts = 0;
    (void)state;
    for (; quant_setting_name(n); n++)
        parts += quant_is_part(quant_setting_name(n));
    assert_int_equal(n, 19);
    assert_int_equal(parts, 9);
    assert_false(quant_is_part("recipe"));
    assert_false(quant_is_part("mse"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recipes), cmocka_unit_test(errors),   cmocka_unit_test(resolved_again), cmocka_unit_test(filled_by_hand),
        cmocka_unit_test(as_json), cmocka_unit_test(equality), cmocka_unit_test(names),          cmocka_unit_test(original_inputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

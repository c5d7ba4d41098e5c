/* validate: the structure of a checkpoint, then perplexity and, against a reference, mean KL and top-1 agreement; bounds decide pass or fail.
 * Figures that `expect` may bound: perplexity, reference_perplexity, perplexity_ratio, kl_mean, top1_agreement. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stages/common.h"
#include "stages/device.h"
#include "stages/evaluation.h"
#include "stages/format/check.h"
#include "stages/stages.h"

static const struct {
    const char *name;
    bool needs_reference;
} figures[] = {{"perplexity", false}, {"reference_perplexity", true}, {"perplexity_ratio", true}, {"kl_mean", true}, {"top1_agreement", true}};

static int check_figure(const struct stage_ctx *s, const char *name, const json_t *bound, struct err *e)
{
    char path[128];
    snprintf(path, sizeof path, "expect.%s", name);
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
        if (strcmp(figures[i].name, name) != 0)
            continue;
        if (figures[i].needs_reference && !stage_input_find(s, "reference"))
            return param_error(s, path, ERR_MANIFEST, e, "%s is measured against a 'reference', and there is none", name);
        if (!stage_input_find(s, "data"))
            return param_error(s, path, ERR_MANIFEST, e, "%s is measured on 'data', and there is none", name);
        const json_t *min = json_object_get(bound, "min"), *max = json_object_get(bound, "max");
        if (json_is_number(min) && json_is_number(max) && json_number_value(min) > json_number_value(max))
            return param_error(s, path, ERR_MANIFEST, e, "%s: min %g is above max %g", name, json_number_value(min), json_number_value(max));
        return 0;
    }
    return param_error(s, path, ERR_MANIFEST, e, "expect knows no figure '%s' (perplexity, reference_perplexity, perplexity_ratio, kl_mean, top1_agreement)", name);
}

static int validate_check(struct stage_ctx *s, struct err *e)
{
    int rc = param_range(s, "window", 0, 1 << 24, e);
    if (!rc)
        rc = param_range(s, "stride", 0, 1 << 24, e);
    if (!rc)
        rc = param_range(s, "max_tokens", 0, INT64_MAX, e);
    if (!rc && param_int(s, "stride") > param_int(s, "window") && param_int(s, "window"))
        rc = param_error(s, "stride", ERR_MANIFEST, e, "stride %lld is above window %lld: tokens would be left out", (long long)param_int(s, "stride"),
                         (long long)param_int(s, "window"));
    const char *name;
    json_t *bound;
    json_object_foreach((json_t *)(uintptr_t)param_json(s, "expect"), name, bound) {
        if (!rc)
            rc = check_figure(s, name, bound, e);
    }
    return rc;
}

static int validate_expand(struct stage_ctx *s, struct stage_expansion *x, struct err *e)
{
    (void)s;
    (void)e;
    x->artifact = ART_REPORT;
    x->add(x, "");
    return 0;
}

static int validate_fields(struct stage_ctx *s, size_t node, json_t *out, struct err *e)
{
    (void)node;
    (void)e;
    static const char *const keyed[] = {"field", "unit", "window", "stride", "bos", "max_tokens", "expect", NULL};
    static const char *const edges[] = {"checkpoint", "reference", "data"};
    param_copy(s, out, keyed);
    for (size_t i = 0; i < 3; i++) {
        const struct stage_input *in = stage_input_find(s, edges[i]);
        if (in)
            json_object_set_new(out, edges[i], fileset_json(in->files, NULL));
    }
    return 0;
}

static int on_progress(void *arg, double done, double total)
{
    struct run_ctx *r = arg;
    return r->progress ? r->progress(r, done, total, "tokens x layers") : 0;
}

static int measure(struct stage_ctx *s, struct run_ctx *r, json_t *out, struct err *e)
{
    const struct stage_input *checkpoint = stage_input_find(s, "checkpoint"), *reference = stage_input_find(s, "reference"), *data = stage_input_find(s, "data");
    struct evaluation_params p = {.windows = {.unit = (enum eval_unit)evaluation_unit(param_str(s, "unit")),
                                              .window = param_int(s, "window"),
                                              .stride = param_int(s, "stride"),
                                              .bos = param_bool(s, "bos"),
                                              .max_tokens = param_int(s, "max_tokens")},
                                  .field = param_str(s, "field"),
                                  .scratch = r->scratch};
    struct evaluation_figures f;
    struct backend *b = NULL;
    int rc = device_open_any(&(struct device_want){.isa = r->isa, .device = r->device, .numerics = r->numerics}, r->pool, &b, e);
    if (!rc)
        json_object_set_new(r->metrics, "class", json_string(b->numerics));
    if (!rc)
        rc = evaluation_run(checkpoint->files, reference ? reference->files : NULL, data->files, &p, b, on_progress, r, &f, e);
    if (b)
        device_count(b, r);
    device_close(b);
    if (rc)
        return rc;
    json_object_update(r->metrics, f.served);
    json_decref(f.served);
    json_t *v = evaluation_json(&f);
    json_object_update(out, v);
    json_decref(v);
    if (f.has_reference)
        json_object_set_new(out, "perplexity_ratio", json_real(f.perplexity / f.reference_perplexity));
    return 0;
}

static int check_structure(struct stage_ctx *s, json_t *out, struct err *e)
{
    struct check_report c = {0};
    int rc = checkpoint_check(stage_input_find(s, "checkpoint")->files, &c, e);
    if (!rc && c.count)
        rc = err_set(e, ERR_FORMAT, "checkpoint: %s%s", c.lines[0], c.count > 1 ? " (and more: gptqpipe inspect --check)" : "");
    if (!rc)
        json_object_set_new(out, "structure", json_pack("{s:b,s:I,s:I}", "ok", 1, "quantized_modules", (json_int_t)c.modules, "tensors", (json_int_t)c.tensors));
    check_report_release(&c);
    return rc;
}

/* The bound that a figure breaks: name, value, which bound; NULL when none. */
static const char *broken_bound(const json_t *expect, const json_t *have, double *value, double *bound, const char **which)
{
    const char *name;
    json_t *b;
    json_object_foreach((json_t *)(uintptr_t)expect, name, b) {
        const json_t *min = json_object_get(b, "min"), *max = json_object_get(b, "max");
        *value = json_number_value(json_object_get(have, name));
        bool low = json_is_number(min) && !(*value >= json_number_value(min)), high = json_is_number(max) && !(*value <= json_number_value(max));
        if (low || high) {
            *bound = json_number_value(low ? min : max);
            *which = low ? "min" : "max";
            return name;
        }
    }
    return NULL;
}

static int validate_run(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, const char *outdir, struct err *e)
{
    (void)node;
    (void)chain;
    json_t *v = json_object();
    double value, bound;
    const char *which;
    int rc = check_structure(s, v, e);
    if (!rc && stage_input_find(s, "data"))
        rc = measure(s, r, v, e);
    if (!rc) {
        const json_t *expect = param_json(s, "expect");
        if (expect)
            json_object_set_new(v, "expect", json_deep_copy(expect));
        json_object_set_new(v, "pass", json_boolean(!broken_bound(expect, v, &value, &bound, &which)));
        rc = output_json(outdir, "validate.json", v, e);
        json_object_update(r->metrics, v);
    }
    json_decref(v);
    return rc ? err_wrap(e, "stage '%s'", s->name) : 0;
}

static int validate_verdict(struct stage_ctx *s, struct err *e)
{
    double value, bound;
    const char *which, *name = broken_bound(param_json(s, "expect"), s->nodes[0].metrics, &value, &bound, &which);
    if (!name)
        return 0;
    char path[128];
    snprintf(path, sizeof path, "expect.%s", name);
    return param_error(s, path, ERR_THRESHOLD, e, "%s is %.6g, %s %s %g", name, value, !strcmp(which, "min") ? "below" : "above", which, bound);
}

static void validate_summary(const struct stage_ctx *s, struct buf *out)
{
    const json_t *m = s->nodes[0].metrics;
    double ppl = json_number_value(json_object_get(m, "perplexity")), ref = json_number_value(json_object_get(m, "reference_perplexity"));
    if (json_object_get(m, "perplexity"))
        buf_printf(out, "perplexity %.4f over %lld tokens", ppl, (long long)json_integer_value(json_object_get(m, "tokens")));
    else
        buf_printf(out, "structure is sound, %lld quantized modules",
                   (long long)json_integer_value(json_object_get(json_object_get(m, "structure"), "quantized_modules")));
    if (json_object_get(m, "kl_mean"))
        buf_printf(out, "; reference %.4f, ratio %.4f, KL %.5f nats, top-1 agreement %.2f %%", ref, ppl / ref, json_number_value(json_object_get(m, "kl_mean")),
                   100 * json_number_value(json_object_get(m, "top1_agreement")));
    buf_printf(out, "%s\n", param_json(s, "expect") ? (json_is_true(json_object_get(m, "pass")) ? "; within bounds" : "; OUT OF BOUNDS") : "");
}

/* Without data only the structure is read, and that is the CPU's. */
static bool validate_gpu(const struct stage_ctx *s)
{
    return stage_input_find(s, "data") != NULL;
}

const struct stage_kind stage_validate = {
    .name = "validate",
    .revision = 1,
    .numerics = true,
    .gpu = validate_gpu,
    .check = validate_check,
    .expand = validate_expand,
    .fields = validate_fields,
    .run = validate_run,
    .verdict = validate_verdict,
    .summary = validate_summary,
};

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/options.h"
#include "cmd/project.h"
#include "cmd/proof.h"
#include "pipeline/base/pool.h"
#include "stages/device.h"
#include "stages/evaluation.h"

struct eval_cmd {
    const char *data, *reference, *unit;
    struct evaluation_params params;
    bool json, progress;
    int percent; /* shown last */
};

static int on_progress(void *arg, double done, double total)
{
    struct eval_cmd *v = arg;
    int percent = total > 0 ? (int)(100 * done / total + 1e-9) : 100;
    if (v->progress && percent != v->percent)
        fprintf(stderr, "\r%3d %%%s", percent, percent >= 100 ? "\n" : "");
    v->percent = percent;
    return 0;
}

/* numerics: the class that it was computed in. */
static void print_figures(const struct evaluation_figures *f, const char *numerics, bool json)
{
    if (json) {
        print_json_line(evaluation_json(f));
        return;
    }
    printf("class                 %s\n", numerics);
    printf("tokens                %lld\n", (long long)f->tokens);
    printf("perplexity            %.4f\n", f->perplexity);
    if (!f->has_reference)
        return;
    printf("reference perplexity  %.4f\n", f->reference_perplexity);
    printf("perplexity ratio      %.5f\n", f->perplexity / f->reference_perplexity);
    printf("KL mean               %.6f nats a token\n", f->kl_mean);
    printf("top-1 agreement       %.4f\n", f->top1_agreement);
}

static int evaluate(struct cmd_ctx *c, struct eval_cmd *v, const char *path)
{
    struct fileset model = FILESET_INIT, reference = FILESET_INIT, data = FILESET_INIT;
    struct evaluation_figures figures;
    struct backend *b = NULL;
    struct pool *pool = NULL;
    int rc = fileset_from_path(&model, path, &c->err);
    if (!rc && v->reference)
        rc = fileset_from_path(&reference, v->reference, &c->err);
    if (!rc)
        rc = fileset_from_path(&data, v->data, &c->err);
    if (!rc) {
        pool = pool_create(cmd_threads(c));
        rc = device_open_any(&(struct device_want){c->o.isa, c->o.device, c->o.numerics, NULL, proof_passed, c}, pool, &b, &c->err);
    }
    if (!rc) {
        rc = evaluation_run(&model, v->reference ? &reference : NULL, &data, &v->params, b, on_progress, v, &figures, &c->err);
        if (rc && !c->err.file[0])
            err_wrap(&c->err, "%s", path);
    }
    if (!rc) {
        print_figures(&figures, b->numerics, v->json);
        json_decref(figures.served);
    }
    device_close(b);
    pool_free(pool);
    fileset_release(&model);
    fileset_release(&reference);
    fileset_release(&data);
    return rc;
}

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    struct eval_cmd v = {.unit = "auto", .params = {.windows = {.bos = true, .max_tokens = 32768}}};
    struct windows_params *w = &v.params.windows;
    struct option_def defs[] = {
        {.name = "data", .type = OPT_STR, .into = &v.data, .arg = "FILE", .help = "text, JSON lines or a JSON list; .gz, .zst and .xz too"},
        {.name = "field", .type = OPT_STR, .into = &v.params.field, .arg = "NAME", .help = "field of a JSON document: text (default), or input_ids"},
        {.name = "reference", .type = OPT_STR, .into = &v.reference, .arg = "MODEL", .help = "what MODEL is compared with, for KL and top-1 agreement"},
        {.name = "unit", .type = OPT_STR, .into = &v.unit, .arg = "U", .help = "document, stream, or auto: stream for text, document for JSON", .choices = "auto|document|stream"},
        {.name = "window", .type = OPT_INT, .into = &w->window, .arg = "N", .help = "tokens a window (default 0: min(2048, context))", .lo = 0, .hi = INT32_MAX},
        {.name = "stride", .type = OPT_INT, .into = &w->stride, .arg = "N", .help = "default 0: the window", .lo = 0, .hi = INT32_MAX},
        {.name = "bos", .type = OPT_BOOL, .into = &w->bos, .arg = "BOOL", .help = "the config's BOS in front of each window (default true)"},
        {.name = "max-tokens", .type = OPT_INT, .into = &w->max_tokens, .arg = "N", .help = "predicted tokens at most (default 32768; 0 = all)", .lo = 0, .hi = INT64_MAX},
        {.name = "json", .type = OPT_FLAG, .into = &v.json, .help = "one JSON object"},
        OPTION_END,
    };
    int n = options_parse(c, defs, argc, argv);
    if (n < 0)
        return n;
    int rc = options_positional(c, n, 1, 1, "MODEL");
    if (!rc && !v.data)
        rc = err_set(&c->err, ERR_USAGE, "eval: --data FILE is needed");
    if (!rc)
        rc = device_check(c->o.isa, c->o.device, &c->err);
    if (!rc)
        rc = device_check_numerics(c->o.numerics, &c->err);
    if (rc)
        return rc;
    w->unit = (enum eval_unit)evaluation_unit(v.unit);
    v.progress = !c->o.quiet && isatty(STDERR_FILENO);
    return evaluate(c, &v, argv[1]);
}

const struct command cmd_eval = {
    .name = "eval",
    .summary = "perplexity, and KL and top-1 agreement against a reference",
    .usage = "eval MODEL --data FILE [--field NAME] [--reference MODEL] [--unit U --window N --stride N --bos BOOL --max-tokens N] [--json]",
    .run = run,
};

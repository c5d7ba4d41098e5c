#include "stages/evaluation.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/detmath.h"
#include "pipeline/base/json.h"
#include "stages/common.h"
#include "stages/format/check.h"
#include "stages/lm/weights.h"
#include "stages/served.h"

/* Everything that is open during one evaluation; zeroed first, closed in one place. */
struct evaluation {
    struct model model, reference;
    struct tok *tok;
    struct dataset *data;
    struct windows windows;
};

int evaluation_unit(const char *name)
{
    if (!strcmp(name, "auto"))
        return UNIT_AUTO;
    if (!strcmp(name, "document"))
        return UNIT_DOCUMENT;
    return !strcmp(name, "stream") ? UNIT_STREAM : -1;
}

static void close_all(struct evaluation *v)
{
    windows_release(&v->windows);
    if (v->data)
        dataset_close(v->data);
    tok_free(v->tok);
    model_close(&v->model);
    model_close(&v->reference);
}

static int open_models(struct evaluation *v, const struct fileset *model, const struct fileset *reference, struct err *e)
{
    int rc = model_open(&v->model, model, e);
    if (!rc)
        rc = check_finite(&v->model.tensors, e);
    if (rc || !reference)
        return rc;
    rc = model_open(&v->reference, reference, e);
    if (!rc)
        rc = check_finite(&v->reference.tensors, e);
    if (rc)
        return err_wrap(e, "reference");
    if (v->model.config.vocab_size != v->reference.config.vocab_size)
        return err_set(e, ERR_SHAPE, "the model has a vocabulary of %" PRId64 ", the reference one of %" PRId64 ": they cannot be compared", v->model.config.vocab_size,
                       v->reference.config.vocab_size);
    return 0;
}

static int check_lengths(const struct evaluation *v, bool reference, struct err *e)
{
    int64_t longest = 1;
    for (size_t i = 0; i < v->windows.count; i++)
        if (v->windows.w[i].count > longest)
            longest = v->windows.w[i].count;
    if (longest > v->model.config.context)
        return err_set(e, ERR_DATA, "a window of %" PRId64 " tokens is longer than the model's context of %" PRId64, longest, v->model.config.context);
    if (reference && longest > v->reference.config.context)
        return err_set(e, ERR_DATA, "a window of %" PRId64 " tokens is longer than the reference's context of %" PRId64, longest, v->reference.config.context);
    return 0;
}

static const char *temporary(void)
{
    const char *dir = getenv("TMPDIR");
    return dir && *dir ? dir : "/tmp";
}

static int figures(const struct eval_result *r, struct evaluation_figures *out, struct err *e)
{
    double n = (double)r->tokens;
    *out = (struct evaluation_figures){.tokens = r->tokens, .perplexity = det_exp(r->nll / n), .has_reference = r->has_ref};
    if (!isfinite(out->perplexity))
        return err_set(e, ERR_NUMERIC, "the perplexity over %" PRId64 " tokens is not finite", r->tokens);
    if (!r->has_ref)
        return 0;
    out->reference_perplexity = det_exp(r->nll_ref / n);
    out->kl_mean = r->kl / n;
    out->top1_agreement = (double)r->top1_same / n;
    if (!isfinite(out->reference_perplexity) || !isfinite(out->kl_mean))
        return err_set(e, ERR_NUMERIC, "the reference's perplexity or the KL over %" PRId64 " tokens is not finite", r->tokens);
    return 0;
}

static void on_served(void *arg, int64_t layer, enum module_id mod, const char *kernel, const char *why)
{
    served_add(arg, layer, mod, kernel, why);
}

int evaluation_run(const struct fileset *model, const struct fileset *reference, const struct fileset *data, const struct evaluation_params *p, struct backend *b,
                   int (*progress)(void *arg, double done, double total), void *arg, struct evaluation_figures *out, struct err *e)
{
    struct evaluation v = {0};
    struct eval_result sums = {0};
    struct served served = {.m = &v.model};
    bool ids = p->field && !strcmp(p->field, "input_ids");
    int rc = open_models(&v, model, reference, e);
    if (!rc && (!ids || fileset_find(model, "tokenizer.json")))
        rc = tok_load_fileset(model, &v.tok, e);
    if (!rc)
        rc = dataset_open(data, p->field, &v.data, e);
    if (!rc)
        rc = windows_make(&v.windows, &p->windows, &v.model.config, v.tok, v.data, e);
    if (!rc)
        rc = check_lengths(&v, reference != NULL, e);
    const struct eval_input in = {.b = b,
                                  .model = &v.model,
                                  .reference = reference ? &v.reference : NULL,
                                  .windows = v.windows.w,
                                  .count = v.windows.count,
                                  .scratch = p->scratch ? p->scratch : temporary(),
                                  .progress = progress,
                                  .arg = arg,
                                  .served = on_served,
                                  .served_arg = &served};
    if (!rc)
        rc = eval_run(&in, &sums, e);
    if (!rc)
        rc = figures(&sums, out, e);
    if (!rc)
        out->served = served_json(&served);
    served_release(&served);
    close_all(&v);
    return rc;
}

json_t *evaluation_json(const struct evaluation_figures *f)
{
    json_t *o = json_object();
    json_object_set_new(o, "perplexity", json_real(f->perplexity));
    json_object_set_new(o, "tokens", json_integer(f->tokens));
    if (f->has_reference) {
        json_object_set_new(o, "reference_perplexity", json_real(f->reference_perplexity));
        json_object_set_new(o, "kl_mean", json_real(f->kl_mean));
        json_object_set_new(o, "top1_agreement", json_real(f->top1_agreement));
    }
    return o;
}

/* quantize: one node a decoder layer ("layer.0" ...), with inputs original one a quantized module ("layer.0.mlp.down_proj"), and one for lm_head when it is quantized. This file decides what the nodes are and what keys them; quantize_layer.c runs them. */
#include "stages/quantize.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/mem.h"
#include "stages/common.h"
#include "stages/stages.h"

static int base_params(const struct stage_ctx *s, struct quant_params *p, struct err *e)
{
    *p = quant_params_default();
    p->recipe = !strcmp(param_str(s, "recipe"), "best") ? RECIPE_BEST : RECIPE_GPTQMODEL;
    for (size_t i = 0; quant_setting_name(i); i++) {
        const char *name = quant_setting_name(i);
        const json_t *v = param_json(s, name);
        unsigned before = p->written;
        if (v && quant_params_set(p, name, v, "quantize", e))
            return param_error(s, name, ERR_MANIFEST, e, "%s", e ? e->text : "");
        if (!s->was_set(s, name)) /* the schema's default */
            p->written = before;
    }
    p->inputs = !strcmp(param_str(s, "inputs"), "original") ? INPUTS_ORIGINAL : INPUTS_QUANTIZED;
    p->fallback = !strcmp(param_str(s, "fallback"), "rtn") ? FALLBACK_RTN : FALLBACK_NONE;
    bool asked = p->act_group_aware;
    int rc = quant_params_resolve(p, "quantize", e);
    if (rc)
        return param_error(s, "", ERR_MANIFEST, e, "%s", e ? e->text : "");
    if (asked && !p->act_group_aware)
        s->note(s, "%s turns act_group_aware off", p->desc_act ? "desc_act: true" : "group_size: -1");
    struct buf parts = BUF_INIT;
    quant_parts_text(p, &parts);
    s->note(s, "recipe %s: %s", quant_recipe_name(p->recipe), buf_str(&parts));
    buf_release(&parts);
    return 0;
}

static int quantize_check(struct stage_ctx *s, struct err *e)
{
    struct quant_params p;
    int rc = base_params(s, &p, e);
    if (!rc && p.method == QUANT_GPTQ && !param_json(s, "calibration"))
        rc = param_error(s, "", ERR_MANIFEST, e, "method gptq needs 'calibration'");
    if (!rc && p.inputs == INPUTS_ORIGINAL && s->was_set(s, "true_sequential") && param_bool(s, "true_sequential"))
        rc = param_error(s, "true_sequential", ERR_MANIFEST, e, "true_sequential true needs inputs quantized, but inputs is original: no module sees another as quantized");
    return rc;
}

const struct quantize_info *quantize_info(const struct stage_ctx *s)
{
    return s->state;
}

const struct override_row *quantize_row(const struct quantize_info *q, int64_t layer, enum module_id m)
{
    return &q->table.rows[layer < 0 ? q->module_count - 1 : (size_t)layer * MOD_COUNT + (size_t)m];
}

void quantize_node_name(const struct quantize_info *q, int64_t layer, enum module_id m, char out[64])
{
    if (layer < 0)
        snprintf(out, 64, "lm_head");
    else if (quantize_original(q))
        snprintf(out, 64, "layer.%lld.%s", (long long)layer, config_module_short(m));
    else
        snprintf(out, 64, "layer.%lld", (long long)layer);
}

bool quantize_original(const struct quantize_info *q)
{
    return q->base.inputs == INPUTS_ORIGINAL;
}

bool quantize_two_streams(const struct quantize_info *q)
{
    for (size_t i = 0; !quantize_original(q) && i < q->table.count; i++) {
        const struct quant_params *p = &q->table.rows[i].params;
        if (q->table.rows[i].quantized && (p->compensate > 0 || p->compensate_residual > 0 || p->output_metric != METRIC_NONE))
            return true;
    }
    return false;
}

static void quantize_release(struct stage_ctx *s)
{
    struct quantize_info *q = s->state;
    if (!q)
        return;
    overrides_release(&q->table);
    for (size_t i = 0; i < q->module_count; i++)
        free((char *)(uintptr_t)q->modules[i].name);
    free(q->modules);
    free(q->nodes);
    model_close(&q->model);
    free(q);
    s->state = NULL;
}

static void list_modules(struct quantize_info *q, bool lm_head)
{
    const struct config *c = &q->model.config;
    char name[256];
    q->modules = xcalloc((size_t)c->layers * MOD_COUNT + 1, sizeof *q->modules);
    for (int64_t l = 0; l < c->layers; l++)
        for (int m = 0; m < MOD_COUNT; m++)
            q->modules[q->module_count++] =
                (struct override_module){xstrdup(config_module_name(c, l, (enum module_id)m, name, sizeof name)), true};
    q->modules[q->module_count++] = (struct override_module){xstrdup("lm_head"), lm_head};
}

/* A layer without quantized modules has a node too, unless nothing depends on it. */
static void list_nodes(struct quantize_info *q)
{
    int step = quantize_original(q) ? 1 : MOD_COUNT;
    q->nodes = xcalloc(q->module_count, sizeof *q->nodes);
    for (int64_t l = 0; l < q->model.config.layers; l++)
        for (int m = 0; m < MOD_COUNT; m += step)
            if (!quantize_original(q) || quantize_row(q, l, (enum module_id)m)->quantized)
                q->nodes[q->node_count++] = (struct quantize_node){l, m, m + step};
    if (quantize_row(q, -1, MOD_COUNT)->quantized)
        q->nodes[q->node_count++] = (struct quantize_node){-1, 0, 1};
}

static int resolve_table(struct stage_ctx *s, struct quantize_info *q, struct err *e)
{
    const json_t *dynamic = param_json(s, "dynamic");
    int rc = overrides_resolve(&q->table, &q->base, dynamic, q->modules, q->module_count, e);
    if (!rc) { /* behind lm_head there is no residual stream to pull back and no layer to look through */
        struct quant_params *head = &q->table.rows[q->table.count - 1].params;
        head->compensate_residual = 0;
        head->output_metric = METRIC_NONE;
        return 0;
    }
    char path[512] = "dynamic";
    if (q->table.failed_pattern >= 0 && (size_t)q->table.failed_pattern < q->table.pattern_count && json_is_object(dynamic))
        snprintf(path, sizeof path, "dynamic.%s", q->table.patterns[q->table.failed_pattern]);
    return param_error(s, path, ERR_MANIFEST, e, "%s", e ? e->text : "");
}

static int check_modules(struct stage_ctx *s, const struct quantize_info *q, struct err *e)
{
    bool any = false;
    for (size_t i = 0; i < q->table.count; i++) {
        const struct override_row *row = &q->table.rows[i];
        any |= row->quantized;
        if (row->quantized && row->params.method == QUANT_GPTQ && !stage_input_find(s, "calibration"))
            return param_error(s, "dynamic", ERR_MANIFEST, e, "%s is quantized with method gptq, which needs 'calibration'", row->name);
    }
    return any ? 0 : param_error(s, "dynamic", ERR_MANIFEST, e, "no module is left to quantize");
}

static int quantize_expand(struct stage_ctx *s, struct stage_expansion *x, struct err *e)
{
    const struct stage_input *in = stage_input_find(s, "model");
    x->artifact = ART_LAYERS;
    if (!fileset_has_model(in->files))
        return in->known ? param_error(s, "model", ERR_MANIFEST, e, "model '%s' has no config.json", in->stage)
                         : err_set(e, ERR_UNKNOWN, "the layers of model '%s' are not known before it is there", in->stage);
    quantize_release(s);
    struct quantize_info *q = s->state = xcalloc(1, sizeof *q);
    int rc = base_params(s, &q->base, e);
    if (!rc && (rc = model_open(&q->model, in->files, e)))
        rc = param_error(s, "model", (enum err_code)-rc, e, "model '%s': %s", in->stage, e ? e->text : "");
    if (!rc && q->model.config.quant.present)
        rc = param_error(s, "model", ERR_MANIFEST, e, "model '%s' is quantized already (bits %d)", in->stage, q->model.config.quant.bits);
    if (!rc) {
        list_modules(q, param_bool(s, "lm_head"));
        rc = resolve_table(s, q, e);
    }
    if (!rc)
        rc = check_modules(s, q, e);
    if (rc)
        return rc;
    if (q->model.config.tied && quantize_row(q, -1, MOD_COUNT)->quantized)
        s->note(s, "lm_head is tied to the embeddings: the checkpoint carries a quantized copy of its own and says tie_word_embeddings: false");
    list_nodes(q);
    for (size_t i = 0; i < q->node_count; i++) {
        char name[64];
        quantize_node_name(q, q->nodes[i].layer, (enum module_id)q->nodes[i].first, name);
        x->add(x, name);
    }
    return 0;
}

/* Digests of the tensors that belong to a layer (-1: to none), from the index node's record. */
static int tensor_digests(const struct stage_ctx *s, const struct quantize_info *q, int64_t layer, json_t **out, struct err *e)
{
    const struct stage_input *in = stage_input_find(s, "model");
    const json_t *digests = NULL;
    for (size_t i = 0; i < in->ctx->node_count; i++)
        if (!strcmp(in->ctx->nodes[i].name, "index"))
            digests = json_object_get(in->ctx->nodes[i].metrics, "digests");
    const char **names = NULL;
    size_t n = 0;
    int rc = model_layer_tensors(&q->model, layer, &names, &n, e);
    *out = json_object();
    for (size_t i = 0; !rc && i < n; i++) {
        json_t *d = json_object_get(digests, names[i]);
        rc = d ? 0 : err_set(e, ERR_FORMAT, "the index of model '%s' has no digest of %s", in->stage, names[i]);
        json_object_set(*out, names[i], d);
    }
    free(names);
    return rc;
}

/* Everything of config.json that the arithmetic of a layer depends on. */
static json_t *config_json(const struct config *c)
{
    json_t *j = json_pack("{s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:i,s:I,s:I,s:b}", "hidden", (json_int_t)c->hidden, "intermediate", (json_int_t)c->intermediate, "heads",
                          (json_int_t)c->heads, "kv_heads", (json_int_t)c->kv_heads, "head_dim", (json_int_t)c->head_dim, "rms_eps", c->rms_eps, "rope_theta",
                          c->rope_theta, "rope", (int)c->rope, "window", (json_int_t)c->window, "window_from", (json_int_t)c->window_from, "qk_norm", (int)c->qk_norm);
    json_object_set_new(j, "bias", json_pack("{s:b,s:b,s:b}", "qkv", (int)c->qkv_bias, "o", (int)c->o_bias, "mlp", (int)c->mlp_bias));
    if (c->rope != ROPE_DEFAULT)
        json_object_set_new(j, "rope_scaling",
                            json_pack("{s:f,s:f,s:f,s:I}", "factor", c->rope_factor, "low_freq_factor", c->rope_low_freq, "high_freq_factor", c->rope_high_freq,
                                      "original_context", (json_int_t)c->rope_original_context));
    return j;
}

static void chain_digest(char prefix[65], const json_t *tensors, const char *output)
{
    json_t *v = json_pack("{s:s,s:O,s:s}", "prefix", prefix, "tensors", tensors, "output", output);
    char *text = json_dumps(v, JSON_COMPACT | JSON_SORT_KEYS);
    stage_sha256(text, strlen(text), prefix);
    free(text);
    json_decref(v);
}

/* A digest of all that shaped the activations which enter a layer (-1: lm_head): embeddings, then tensors and outputs of every layer before. The quantized
 * stream comes from the outputs; the native one, which the recipe's corrections compare it with, from the source tensors of the same layers (norms and biases
 * too): both are in here, and the layer's own tensors stand beside it in the key. With inputs original there is only the native stream, and no outputs. */
static int prefix_of(const struct stage_ctx *s, const struct quantize_info *q, int64_t layer, char prefix[65], struct err *e)
{
    json_t *tensors = NULL;
    int rc = tensor_digests(s, q, -1, &tensors, e);
    stage_sha256("", 0, prefix);
    json_t *embedding = json_object(), *d = json_object_get(tensors, "model.embed_tokens.weight");
    json_object_set(embedding, "embedding", d ? d : json_object_get(tensors, "lm_head.weight"));
    chain_digest(prefix, embedding, "");
    json_decref(embedding);
    json_decref(tensors);
    for (int64_t k = 0; !rc && k < (layer < 0 ? q->model.config.layers : layer); k++) {
        const struct stage_node *before = quantize_original(q) ? NULL : &s->nodes[k];
        if (before && !before->known)
            return err_set(e, ERR_UNKNOWN, "%s is not there yet", before->name);
        rc = tensor_digests(s, q, k, &tensors, e);
        if (!rc)
            chain_digest(prefix, tensors, before ? before->digest : "");
        json_decref(tensors);
    }
    return rc;
}

static const char *calibration_digest(const struct stage_ctx *s)
{
    const struct stage_input *in = stage_input_find(s, "calibration");
    const struct fileset_file *f = in ? fileset_find(in->files, "calibration.safetensors") : NULL;
    return f ? f->sha256 : "";
}

static int quantize_fields(struct stage_ctx *s, size_t node, json_t *out, struct err *e)
{
    const struct quantize_info *q = s->state;
    const struct quantize_node *n = &q->nodes[node];
    json_t *tensors = NULL, *modules = json_object();
    int rc = tensor_digests(s, q, n->layer, &tensors, e);
    json_object_set_new(out, "tensors", tensors);
    for (int m = n->first; m < n->end; m++) {
        const struct override_row *row = quantize_row(q, n->layer, (enum module_id)m);
        json_object_set_new(modules, n->layer < 0 ? "lm_head" : config_module_short((enum module_id)m), overrides_module_json(row));
    }
    json_object_set_new(out, "modules", modules);
    if (rc || !stage_input_find(s, "calibration"))
        return rc;
    char prefix[65];
    rc = prefix_of(s, q, n->layer, prefix, e);
    json_object_set_new(out, "prefix", json_string(prefix));
    json_object_set_new(out, "calibration", json_string(calibration_digest(s)));
    json_object_set_new(out, "config", config_json(&q->model.config));
    if (quantize_original(q))
        json_object_set_new(out, "inputs", json_string("original"));
    else
        json_object_set_new(out, "true_sequential", json_boolean(param_bool(s, "true_sequential")));
    return rc;
}

static int quantize_estimate(struct stage_ctx *s, size_t node, struct stage_estimate *out, struct err *e)
{
    (void)node;
    (void)e;
    const struct quantize_info *q = s->state;
    const struct config *c = &q->model.config;
    uint64_t hidden = (uint64_t)c->hidden, inner = (uint64_t)c->intermediate, K = inner > hidden ? inner : hidden, wide = hidden * K;
    bool compensated = false, metric = false;
    for (size_t i = 0; i < q->table.count; i++) {
        const struct override_row *row = &q->table.rows[i];
        compensated |= row->quantized && (row->params.compensate > 0 || row->params.compensate_residual > 0);
        metric |= row->quantized && row->params.output_metric != METRIC_NONE;
    }
    /* three Hessian-sized f64 matrices, one module's weights in f32 twice, activations in memory, blocks */
    out->memory_bytes = 24 * K * K + 12 * wide + (768u << 20);
    if (compensated) /* the cross product of native and quantized inputs, the target's correction; both f64 */
        out->memory_bytes += 8 * K * K + 8 * wide;
    if (metric) /* gate's and up's metric over their outputs, gathered in f64, used in f32 */
        out->memory_bytes += 12 * inner * inner;
    return 0;
}

const struct stage_kind stage_quantize = {
    .name = "quantize",
    .revision = 2, /* 2: recipe best is the default, and scales may be negative; recipe gptqmodel gives the bytes of 1 */
    .numerics = true,
    .chained = true,
    .check = quantize_check,
    .expand = quantize_expand,
    .fields = quantize_fields,
    .estimate = quantize_estimate,
    .chain_open = quantize_chain_open,
    .run = quantize_run,
    .replay = quantize_replay,
    .chain_close = quantize_chain_close,
    .release = quantize_release,
};

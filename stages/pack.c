/* pack: quantized layers + the source model's other tensors -> a checkpoint folder in Hugging Face form, checked against the target's rules before anything runs.
 * finish puts the folder where `output` says: built beside and swapped in; a folder that is not ours is refused; a deleted one is restored. */
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "stages/common.h"
#include "stages/format/gptq.h"
#include "stages/format/targets.h"
#include "stages/output.h"
#include "stages/stages.h"

/* Provenance, and the mark of a folder that is ours. */
#define PROVENANCE "gptqpipe.json"

/* Who was seen to load a checkpoint with negative scales and to agree with our logits. */
#define SIGNED_SCALES_READ_BY "gptqpipe, GPTQModel 7.7.0, Transformers 5.23"

static const struct stage_ctx *layers_ctx(const struct stage_ctx *s)
{
    return stage_input_find(s, "quantized")->ctx;
}

static const struct stage_input *source_model(const struct stage_ctx *s)
{
    return stage_input_find(layers_ctx(s), "model");
}

static int pack_check(struct stage_ctx *s, struct err *e)
{
    return param_range(s, "shard_size_mb", 1, 1 << 20, e);
}

static bool settings_agree(const struct override_row *a, const struct override_row *b)
{
    const struct quant_params *p = &a->params, *q = &b->params;
    return a->quantized == b->quantized &&
           (!a->quantized || (p->bits == q->bits && p->group_size == q->group_size && p->sym == q->sym && p->desc_act == q->desc_act));
}

static void settings_text(const struct override_row *r, char out[96])
{
    if (r->quantized)
        snprintf(out, 96, "bits %d group_size %d sym %s desc_act %s", r->params.bits, r->params.group_size, r->params.sym ? "true" : "false",
                 r->params.desc_act ? "true" : "false");
    else
        snprintf(out, 96, "not quantized");
}

/* Modules that a server joins must be alike. */
static int check_fused(const struct stage_ctx *s, const struct quantize_info *q, int64_t layer, struct err *e)
{
    static const enum module_id sets[][2] = {{MOD_Q, MOD_V}, {MOD_GATE, MOD_UP}};
    for (size_t i = 0; i < 2; i++)
        for (int m = (int)sets[i][0] + 1; m <= (int)sets[i][1]; m++) {
            const struct override_row *a = quantize_row(q, layer, sets[i][0]), *b = quantize_row(q, layer, (enum module_id)m);
            char ta[96], tb[96];
            if (settings_agree(a, b))
                continue;
            settings_text(a, ta);
            settings_text(b, tb);
            return param_error(s, "target", ERR_MANIFEST, e, "target %s joins %s into %s, but %s is %s and %s is %s", param_str(s, "target"),
                               i ? "gate_proj and up_proj" : "q_proj, k_proj and v_proj", config_module_fused(sets[i][0]), a->name, ta, b->name, tb);
        }
    return 0;
}

static int check_target(const struct stage_ctx *s, const struct quantize_info *q, struct err *e)
{
    const struct target *t = target_find(param_str(s, "target"));
    const struct config *c = &q->model.config;
    int rc = 0;
    for (int64_t l = -1; !rc && l < c->layers; l++) {
        for (int m = 0; !rc && m < (l < 0 ? 1 : MOD_COUNT); m++) {
            const struct override_row *row = quantize_row(q, l, (enum module_id)m);
            int64_t N = c->vocab_size, K = c->hidden;
            if (l >= 0)
                config_module_shape(c, (enum module_id)m, &N, &K);
            if (row->quantized && target_check_module(t, row->name, N, K, &row->params, e))
                rc = param_error(s, "target", ERR_MANIFEST, e, "%s", e ? e->text : "");
        }
        if (!rc && l >= 0 && !target_allows_mixed(t))
            rc = check_fused(s, q, l, e);
    }
    return rc;
}

/* Modules that differ from the base settings: they are written out as `dynamic`. */
static bool has_overrides(const struct quantize_info *q)
{
    struct override_row base = {.quantized = true, .params = q->base};
    for (size_t i = 0; i + 1 < q->table.count; i++)
        if (!settings_agree(&base, &q->table.rows[i]))
            return true;
    return false;
}

static int pack_expand(struct stage_ctx *s, struct stage_expansion *x, struct err *e)
{
    x->artifact = ART_CHECKPOINT;
    x->add(x, "");
    const struct quantize_info *q = quantize_info(layers_ctx(s));
    if (!q)
        return err_set(e, ERR_UNKNOWN, "the modules of stage '%s' are not known yet", stage_input_find(s, "quantized")->stage);
    int rc = check_target(s, q, e);
    if (!rc && has_overrides(q) && strcmp(param_str(s, "target"), "vllm") != 0)
        s->note(s, "Transformers' own loader does not read `dynamic`: load this checkpoint there with GPTQModel.load (vLLM and gptqpipe read it)");
    const char *output = param_str(s, "output");
    if (!rc && output) {
        char *path = param_path(s, output);
        rc = output_check(path, PROVENANCE, e);
        if (rc)
            rc = param_error(s, "output", ERR_MANIFEST, e, "%s", e ? e->text : "");
        free(path);
    }
    return rc;
}

/* Files of the source that go along. */
static bool goes_along(const char *name)
{
    static const char *const patterns[] = {"generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
                                           "chat_template*", "LICENSE*", "NOTICE*", "USE_POLICY*", NULL};
    for (size_t i = 0; patterns[i]; i++)
        if (!fnmatch(patterns[i], name, FNM_PATHNAME))
            return true;
    return false;
}

static bool decides_output(const char *name)
{
    size_t n = strlen(name);
    return goes_along(name) || !strcmp(name, "config.json") || !strcmp(name, "model.safetensors.index.json") || (n > 12 && !strcmp(name + n - 12, ".safetensors"));
}

/* The quantize stage's fields as they decide the checkpoint. Words of a recipe that changes nothing are left out, and so is `inputs` unless it is original: what
 * recipe gptqmodel makes carries the bytes that it had before there were such fields. true_sequential has no meaning with inputs original. */
static json_t *quantize_params(const struct stage_ctx *layers)
{
    static const char *const edges[] = {"batch_size", "model", "calibration"};
    json_t *params = json_deep_copy(layers->params);
    const char *name;
    json_t *v;
    json_object_foreach ((json_t *)(uintptr_t)layers->params, name, v)
        if (json_is_null(v) && quant_is_part(name))
            json_object_del(params, name);
    if (!strcmp(param_str(layers, "recipe"), quant_recipe_name(RECIPE_GPTQMODEL)))
        json_object_del(params, "recipe");
    json_object_del(params, quantize_original(quantize_info(layers)) ? "true_sequential" : "inputs");
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++)
        json_object_del(params, edges[i]);
    return params;
}

/* {"name": "best", "compensate": 0.75, ...} as resolved for modules without an override; NULL when no part is on. */
static json_t *recipe_json(const struct quantize_info *q)
{
    if (quant_params_plain(&q->base))
        return NULL;
    json_t *o = json_pack("{s:s}", "name", quant_recipe_name(q->base.recipe)), *parts = quant_parts_json(&q->base);
    json_object_update(o, parts);
    json_decref(parts);
    return o;
}

static int pack_fields(struct stage_ctx *s, size_t node, json_t *out, struct err *e)
{
    (void)node;
    (void)e;
    static const char *const keyed[] = {"format", "target", "shard_size_mb", NULL};
    const struct stage_input *layers = stage_input_find(s, "quantized"), *calibration = stage_input_find(layers->ctx, "calibration");
    param_copy(s, out, keyed);
    json_object_set_new(out, "layers", fileset_json(layers->files, NULL));
    json_object_set_new(out, "model", fileset_json(source_model(s)->files, decides_output));
    json_object_set_new(out, "quantize", quantize_params(layers->ctx));
    json_t *recipe = recipe_json(quantize_info(layers->ctx));
    if (recipe)
        json_object_set_new(out, "recipe", recipe);
    if (calibration)
        json_object_set_new(out, "calibration", fileset_json(calibration->files, NULL));
    return 0;
}

static json_t *meta_json(const struct stage_ctx *s)
{
    static const char *const fields[] = {"damp_percent", "damp_auto_increment", "static_groups", "true_sequential", NULL};
    const struct quantize_info *q = quantize_info(layers_ctx(s));
    const struct stage_input *calibration = stage_input_find(layers_ctx(s), "calibration");
    json_t *meta = json_pack("{s:[s]}", "quantizer", "gptqpipe:" GPTQPIPE_VERSION);
    param_copy(layers_ctx(s), meta, fields);
    if (quantize_original(q)) {
        json_object_set_new(meta, "true_sequential", json_false());
        json_object_set_new(meta, "inputs", json_string("original"));
    }
    json_object_set_new(meta, "mse", json_real(q->base.mse));
    json_object_set_new(meta, "act_group_aware", json_boolean(q->base.act_group_aware));
    json_t *recipe = recipe_json(q);
    if (recipe)
        json_object_set_new(meta, "recipe", recipe);
    const struct fileset_file *f = calibration ? fileset_find(calibration->files, "calibration.safetensors") : NULL;
    if (f)
        json_object_set_new(meta, "calibration_sha256", json_string(f->sha256));
    return meta;
}

static int write_configs(const struct stage_ctx *s, const char *outdir, struct err *e)
{
    const struct quantize_info *q = quantize_info(layers_ctx(s));
    json_t *config = json_deep_copy(q->model.config.json), *quant = gptq_quantization_config(q, meta_json(s));
    json_object_set(config, "quantization_config", quant);
    if (quantize_row(q, -1, MOD_COUNT)->quantized)
        json_object_set_new(config, "tie_word_embeddings", json_false());
    int rc = output_json(outdir, "config.json", config, e);
    if (!rc)
        rc = output_json(outdir, "quantize_config.json", quant, e);
    json_decref(config);
    json_decref(quant);
    return rc;
}

static int write_provenance(struct stage_ctx *s, const char *outdir, struct err *e)
{
    json_t *v = json_object(), *fields = json_object();
    json_object_set_new(v, "tool", json_string("gptqpipe"));
    json_object_set_new(v, "version", json_string(GPTQPIPE_VERSION));
    int rc = pack_fields(s, 0, fields, e);
    json_object_set_new(v, "made_from", fields);
    if (!rc)
        rc = output_json(outdir, PROVENANCE, v, e);
    json_decref(v);
    return rc;
}

static void card_modules(const struct quantize_info *q, struct buf *b)
{
    const struct config *c = &q->model.config;
    buf_addstr(b, "| module | bits | group | kernel in vLLM on one sm_80 / sm_90 GPU |\n| --- | --- | --- | --- |\n");
    for (int m = 0; m < MOD_COUNT; m++) {
        int64_t N, K, odd = 0;
        const struct override_row *row = quantize_row(q, 0, (enum module_id)m);
        config_module_shape(c, (enum module_id)m, &N, &K);
        for (int64_t l = 1; l < c->layers; l++)
            odd += !settings_agree(row, quantize_row(q, l, (enum module_id)m));
        buf_printf(b, "| %s | ", config_module_short((enum module_id)m));
        if (row->quantized)
            buf_printf(b, "%d | %d | %s / %s", row->params.bits, row->params.group_size, target_vllm_kernel(80, N, K, &row->params), target_vllm_kernel(90, N, K, &row->params));
        else
            buf_addstr(b, "source | - | -");
        buf_printf(b, "%s |\n", odd ? " (differs by layer: see `dynamic` in quantize_config.json)" : "");
    }
}

/* The recipe and what it makes of scales; nothing where no module has a part of it. */
static void card_recipe(const struct quantize_info *q, struct buf *b)
{
    bool any = false, is_signed = false, odd = false;
    for (size_t i = 0; i < q->table.count; i++) {
        const struct override_row *row = &q->table.rows[i];
        any |= row->quantized && !quant_params_plain(&row->params);
        is_signed |= row->quantized && row->params.signed_scales;
        odd |= row->quantized && row->pattern >= 0;
    }
    if (!any)
        return;
    buf_printf(b, "\nRecipe %s: ", quant_recipe_name(q->base.recipe));
    quant_parts_text(&q->base, b);
    buf_addstr(b, odd ? " (a module with an override may differ: see `dynamic` in " PROVENANCE ").\n" : ".\n");
    if (is_signed)
        buf_addstr(b, "\nScales may be negative: a weight is scale * (code - zero) as ever, and the sign decides which side of zero has the outermost level. "
                      "Read correctly by " SIGNED_SCALES_READ_BY ".\n");
}

static int write_card(const struct stage_ctx *s, const char *outdir, struct err *e)
{
    const struct quantize_info *q = quantize_info(layers_ctx(s));
    struct buf b = BUF_INIT;
    buf_addstr(&b, "---\nlibrary_name: transformers\ntags:\n- gptq\n- gptqpipe\n---\n\n");
    buf_printf(&b, "# GPTQ checkpoint, %d bits, group size %d\n\nMade by gptqpipe %s. The same manifest and inputs give the same bytes; `%s` lists the digests of all inputs.\n\n",
               q->base.bits, q->base.group_size, GPTQPIPE_VERSION, PROVENANCE);
    card_modules(q, &b);
    card_recipe(q, &b);
    if (quantize_original(q))
        buf_addstr(&b, "\nEvery module was calibrated on the source model's own activations (`inputs: original`).\n");
    buf_printf(&b, "\nLoads with vLLM (`vllm serve FOLDER`), GPTQModel (`GPTQModel.load`)%s, and `gptqpipe run FOLDER --prompt TEXT`.\n",
               has_overrides(q) ? "" : ", Transformers with GPTQModel (`AutoModelForCausalLM.from_pretrained`)");
    char *path = io_join(outdir, "README.md");
    int rc = io_write_file_atomic(path, b.data, b.len, e);
    free(path);
    buf_release(&b);
    return rc;
}

static int copy_companions(const struct stage_ctx *s, const char *outdir, struct err *e)
{
    const struct fileset *files = source_model(s)->files;
    int rc = 0;
    for (size_t i = 0; !rc && i < files->count; i++) {
        if (!goes_along(files->files[i].name))
            continue;
        char *to = io_join(outdir, files->files[i].name);
        rc = io_copy_file(files->files[i].path, to, 0644, e);
        free(to);
    }
    return rc;
}

static int on_progress(void *arg, double done, double total)
{
    struct run_ctx *r = arg;
    return r->progress ? r->progress(r, done, total, "bytes") : 0;
}

static int pack_run(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, const char *outdir, struct err *e)
{
    (void)node;
    (void)chain;
    struct gptq_writer w = {.q = quantize_info(layers_ctx(s)),
                            .layers = stage_input_find(s, "quantized")->files,
                            .shard_bytes = (uint64_t)param_int(s, "shard_size_mb") * 1000000u,
                            .progress = on_progress,
                            .arg = r};
    uint64_t total = 0;
    int rc = gptq_write_tensors(&w, outdir, &total, e);
    if (!rc)
        rc = write_configs(s, outdir, e);
    if (!rc)
        rc = copy_companions(s, outdir, e);
    if (!rc)
        rc = write_card(s, outdir, e);
    if (!rc)
        rc = write_provenance(s, outdir, e);
    if (!rc)
        json_object_set_new(r->metrics, "tensor_bytes", json_integer((json_int_t)total));
    return rc ? err_wrap(e, "stage '%s'", s->name) : 0;
}

static int pack_finish(struct stage_ctx *s, struct err *e)
{
    const char *output = param_str(s, "output");
    if (!output)
        return 0;
    char *path = param_path(s, output);
    int rc = output_place(path, PROVENANCE, &s->nodes[0].outputs, e);
    if (rc)
        param_error(s, "output", (enum err_code)-rc, e, "%s", e ? e->text : "");
    free(path);
    return rc;
}

static void pack_summary(const struct stage_ctx *s, struct buf *out)
{
    const char *output = param_str(s, "output");
    double bytes = json_number_value(json_object_get(s->nodes[0].metrics, "tensor_bytes"));
    if (output)
        buf_printf(out, "%s, %.1f MB of tensors\n", output, bytes / 1e6);
    else
        buf_printf(out, "%.1f MB of tensors, in the cache (no `output`)\n", bytes / 1e6);
}

const struct stage_kind stage_pack = {
    .name = "pack",
    .revision = 1,
    .check = pack_check,
    .expand = pack_expand,
    .fields = pack_fields,
    .run = pack_run,
    .finish = pack_finish,
    .summary = pack_summary,
};

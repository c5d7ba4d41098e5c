/* run: prompts -> run.jsonl, one line a prompt, as `gptqpipe run --json` prints them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/select.h"
#include "pipeline/base/io.h"
#include "pipeline/base/json.h"
#include "stages/common.h"
#include "stages/device.h"
#include "stages/generation.h"
#include "stages/quantize.h"
#include "stages/stages.h"

static int run_check(struct stage_ctx *s, struct err *e)
{
    double temperature = param_real(s, "temperature"), top_p = param_real(s, "top_p");
    if (!json_array_size(param_json(s, "prompts")))
        return param_error(s, "prompts", ERR_MANIFEST, e, "prompts is empty");
    if (!(temperature >= 0 && temperature <= 100))
        return param_error(s, "temperature", ERR_MANIFEST, e, "temperature is %g, outside 0..100", temperature);
    if (!(top_p > 0 && top_p <= 1))
        return param_error(s, "top_p", ERR_MANIFEST, e, "top_p is %g, outside 0..1 (0 excluded)", top_p);
    int rc = param_range(s, "max_tokens", 1, 1 << 24, e);
    if (!rc)
        rc = param_range(s, "seed", 0, INT64_MAX, e);
    return rc ? rc : param_range(s, "logprobs", 0, 1000, e);
}

/* By what rule devices of a numerics class have no kernel machete; NULL: they have, or the class is not of a device. text >= 96 bytes. */
static const char *no_machete(const char *numerics, char *text)
{
    static const char prefix[] = "cuda-sm";
    const long sm = strncmp(numerics, prefix, sizeof prefix - 1) ? 90 : strtol(numerics + sizeof prefix - 1, NULL, 10);
    snprintf(text, 96, "kernel machete needs compute capability 9.0, class %s has %ld.%ld", numerics, sm / 10, sm % 10);
    return sm == 90 ? NULL : text;
}

/* Whether the class of kernels that the stage names serves a matrix. -ERR_MANIFEST names module and rule. */
static int check_matrix(const struct stage_ctx *s, const char *module, const struct select_matrix *m, struct err *e)
{
    const char *kernel = param_str(s, "kernel"), *why;
    if (select_kernel(m, kernel, &why))
        return 0;
    return param_error(s, "kernel", ERR_MANIFEST, e, "kernel '%s' cannot serve %s (%lld x %lld in %d bits, group %d): %s", kernel, module, (long long)m->N, (long long)m->K,
                       m->bits, m->group_size, why);
}

/* Every matrix of a model against the named class: what q is about to make of it, or with q NULL what is stored. */
static int check_matrices(const struct stage_ctx *s, const struct model *model, const struct quantize_info *q, struct err *e)
{
    const struct config *c = &model->config;
    char machete[96];
    int rc = 0;
    for (int64_t i = 0; !rc && i <= c->layers * MOD_COUNT; i++) {
        const bool head = i == c->layers * MOD_COUNT;
        const int64_t layer = head ? -1 : i / MOD_COUNT;
        const enum module_id mod = head ? MOD_COUNT : (enum module_id)(i % MOD_COUNT);
        const struct override_row *row = q ? quantize_row(q, layer, mod) : NULL;
        struct select_matrix m = {.N = c->vocab_size, .K = c->hidden, .no_machete = no_machete(s->numerics, machete)};
        char name[256] = "lm_head";
        if (!head) {
            config_module_shape(c, mod, &m.N, &m.K);
            config_module_name(c, layer, mod, name, sizeof name);
        }
        if (row && row->quantized) {
            m.bits = row->params.bits;
            m.group_size = row->params.group_size;
            m.order = row->params.desc_act && !row->params.static_groups;
        } else if (!q && model_is_quantized(model, layer, mod)) {
            model_module_bits(model, layer, mod, &m.bits, &m.group_size);
            m.order = c->quant.desc_act;
        }
        rc = check_matrix(s, name, &m, e);
    }
    return rc;
}

/* `kernel` as far as it can be judged without a device: the matrices that it has to serve, once it is known what they are. */
static int check_kernel(const struct stage_ctx *s, struct err *e)
{
    const char *kernel = param_str(s, "kernel");
    const struct stage_input *in = stage_input_find(s, "checkpoint"), *layers = stage_input_find(in->ctx, "quantized");
    if (!strcmp(kernel, "auto") || !strcmp(kernel, "cpu"))
        return 0;
    const struct quantize_info *q = layers ? quantize_info(layers->ctx) : NULL;
    int rc = 0;
    if (q) {
        rc = check_matrices(s, &q->model, q, e);
    } else if (!layers && fileset_has_model(in->files)) {
        struct model model;
        rc = model_open(&model, in->files, e);
        if (rc)
            return param_error(s, "checkpoint", (enum err_code)-rc, e, "model '%s': %s", in->stage, e ? e->text : "");
        rc = check_matrices(s, &model, NULL, e);
        model_close(&model);
    }
    if (rc || strcmp(s->numerics, "cpu") != 0)
        return rc;
    if (s->applying)
        return param_error(s, "kernel", ERR_UNSUPPORTED, e, "kernel '%s' needs a GPU, and this run computes in class 'cpu'", kernel);
    s->note(s, "kernel '%s' needs a GPU, and here is none that this run may use: apply needs one", kernel);
    return 0;
}

static int run_expand(struct stage_ctx *s, struct stage_expansion *x, struct err *e)
{
    x->artifact = ART_TEXT;
    x->add(x, "");
    return check_kernel(s, e);
}

static int run_fields(struct stage_ctx *s, size_t node, json_t *out, struct err *e)
{
    (void)node;
    (void)e;
    static const char *const keyed[] = {"prompts", "kernel", "temperature", "top_p", "max_tokens", "seed", "logprobs", NULL};
    param_copy(s, out, keyed);
    json_object_set_new(out, "checkpoint", fileset_json(stage_input_find(s, "checkpoint")->files, NULL));
    return 0;
}

/* Characters of a text kept in the record for the summary. */
enum { EXCERPT_BYTES = 400 };

struct sink {
    struct run_ctx *r;
    struct buf lines;
    double total;
    json_t *excerpts; /* [prompt, text] each; borrowed from the metrics */
};

static int on_line(void *arg, size_t prompt, const json_t *line, struct err *e)
{
    (void)prompt;
    (void)e;
    struct sink *k = arg;
    json_canonical(line, &k->lines);
    buf_addch(&k->lines, '\n');
    const char *text = json_string_value(json_object_get(line, "text"));
    size_t n = strlen(text), keep = n < EXCERPT_BYTES ? n : EXCERPT_BYTES;
    while (keep < n && keep && ((unsigned char)text[keep] & 0xc0u) == 0x80u)
        keep--; /* whole characters */
    static const char *const once[] = {"kernel", "kernel_why"};
    for (size_t i = 0; i < sizeof once / sizeof *once; i++)
        if (json_object_get(line, once[i]) && !json_object_get(k->r->metrics, once[i]))
            json_object_set(k->r->metrics, once[i], json_object_get(line, once[i]));
    json_array_append_new(k->excerpts, json_pack("[O,o]", json_object_get(line, "prompt"), json_stringn(text, keep)));
    return 0;
}

static int on_progress(void *arg, size_t tokens)
{
    struct sink *k = arg;
    return k->r->progress ? k->r->progress(k->r, (double)tokens, k->total, "tokens") : 0;
}

static int generate_all(struct stage_ctx *s, struct run_ctx *r, struct backend *b, struct sink *k, struct err *e)
{
    struct generation_model g = {0};
    struct generation_prompts p = {0};
    struct generate_params params = {
        .sampling = {.temperature = param_real(s, "temperature"), .top_p = param_real(s, "top_p"), .seed = (uint64_t)param_int(s, "seed")},
        .max_tokens = param_int(s, "max_tokens"),
        .logprobs = (int)param_int(s, "logprobs")};
    struct generation_events ev = {.line = on_line, .progress = on_progress, .arg = k};
    size_t tokens = 0, i;
    json_t *prompt;
    int rc = generation_open(&g, stage_input_find(s, "checkpoint")->files, e);
    json_array_foreach((json_t *)(uintptr_t)param_json(s, "prompts"), i, prompt) {
        if (!rc)
            rc = generation_add_text(&g, &p, json_string_value(prompt), json_string_length(prompt), e);
    }
    k->total = (double)p.count * (double)params.max_tokens;
    if (!rc)
        rc = generation_run(&g, b, &p, &params, &ev, &tokens, e);
    if (!rc)
        json_object_set_new(r->metrics, "tokens", json_integer((json_int_t)tokens));
    generation_prompts_release(&p);
    generation_close(&g);
    return rc;
}

static int run_run(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, const char *outdir, struct err *e)
{
    (void)node;
    (void)chain;
    struct sink k = {.r = r, .lines = BUF_INIT, .excerpts = json_array()};
    struct backend *b = NULL;
    json_object_set_new(r->metrics, "texts", k.excerpts);
    int rc = device_open_any(&(struct device_want){.isa = r->isa, .device = r->device, .numerics = r->numerics, .kernel = param_str(s, "kernel")}, r->pool, &b, e);
    if (!rc)
        json_object_set_new(r->metrics, "class", json_string(b->numerics));
    if (!rc)
        rc = generate_all(s, r, b, &k, e);
    if (b)
        device_count(b, r);
    device_close(b);
    if (!rc) {
        char *path = io_join(outdir, "run.jsonl");
        rc = io_write_file_atomic(path, buf_str(&k.lines), k.lines.len, e);
        free(path);
    }
    buf_release(&k.lines);
    return rc ? err_wrap(e, "stage '%s'", s->name) : 0;
}

static void one_line(struct buf *out, const char *text)
{
    for (; *text; text++)
        buf_addch(out, (unsigned char)*text < 0x20 ? ' ' : *text);
}

static void run_summary(const struct stage_ctx *s, struct buf *out)
{
    size_t i;
    json_t *pair;
    json_array_foreach(json_object_get(s->nodes[0].metrics, "texts"), i, pair) {
        one_line(out, json_string_value(json_array_get(pair, 0)));
        buf_addch(out, '|');
        one_line(out, json_string_value(json_array_get(pair, 1)));
        buf_addch(out, '\n');
    }
}

static bool run_gpu(const struct stage_ctx *s)
{
    return strcmp(param_str(s, "kernel"), "cpu") != 0;
}

const struct stage_kind stage_run = {
    .name = "run",
    .revision = 1,
    .numerics = true,
    .gpu = run_gpu,
    .check = run_check,
    .expand = run_expand,
    .fields = run_fields,
    .run = run_run,
    .summary = run_summary,
};

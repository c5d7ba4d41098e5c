/* run: prompts -> run.jsonl, one line a prompt, as `gptqpipe run --json` prints them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "pipeline/base/json.h"
#include "stages/common.h"
#include "stages/device.h"
#include "stages/generation.h"
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

static int run_expand(struct stage_ctx *s, struct stage_expansion *x, struct err *e)
{
    (void)s;
    (void)e;
    x->artifact = ART_TEXT;
    x->add(x, "");
    return 0;
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

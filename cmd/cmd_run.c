#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/options.h"
#include "cmd/proof.h"
#include "pipeline/base/io.h"
#include "pipeline/base/json.h"
#include "pipeline/base/pool.h"
#include "stages/device.h"
#include "stages/generation.h"

struct run_cmd {
    const char *prompts_file, *kernel;
    struct option_list prompts;
    double temperature, top_p;
    int64_t max_tokens, seed, logprobs;
    bool json, stream;
    struct generation_prompts list;
};

static void print_alternatives(const json_t *line)
{
    size_t i, k;
    json_t *token, *top;
    json_array_foreach (json_object_get(line, "logprobs"), i, token) {
        printf("%8lld %10.5f |", (long long)json_integer_value(json_object_get(token, "id")), json_real_value(json_object_get(token, "logprob")));
        json_array_foreach (json_object_get(token, "top"), k, top)
            printf(" %lld %.5f", (long long)json_integer_value(json_object_get(top, "id")), json_real_value(json_object_get(top, "logprob")));
        putchar('\n');
    }
}

static void print_prompt(const struct generation_prompt *p)
{
    if (p->text)
        fputs(p->text, stdout);
    else
        printf("(%zu ids)", p->ids.count);
}

static int on_line(void *arg, size_t i, const json_t *line, struct err *e)
{
    struct run_cmd *r = arg;
    (void)e;
    if (r->json) {
        struct buf b = BUF_INIT;
        json_canonical(line, &b);
        puts(buf_str(&b));
        buf_release(&b);
    } else if (r->stream) {
        putchar('\n');
        print_alternatives(line);
    } else {
        const json_t *text = json_object_get(line, "text");
        printf("%s== prompt %zu, %zu tokens, %s\n", i ? "\n" : "", i + 1, json_array_size(json_object_get(line, "ids")), json_string_value(json_object_get(line, "finish_reason")));
        print_prompt(&r->list.items[i]);
        fwrite(json_string_value(text), 1, json_string_length(text), stdout);
        putchar('\n');
        print_alternatives(line);
    }
    fflush(stdout);
    return 0;
}

static void on_text(void *arg, size_t i, const char *text, size_t bytes)
{
    (void)arg;
    (void)i;
    fwrite(text, 1, bytes, stdout);
    fflush(stdout);
}

static int add_prompts(struct run_cmd *r, const struct generation_model *g, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < r->prompts.count; i++)
        rc = generation_add_text(g, &r->list, r->prompts.values[i], strlen(r->prompts.values[i]), e);
    if (!rc && r->prompts_file)
        rc = generation_add_file(g, &r->list, r->prompts_file, e);
    return rc;
}

static int generate_all(struct cmd_ctx *c, struct run_cmd *r, const struct generation_model *g, struct backend *b)
{
    struct generate_params params = {
        .sampling = {.temperature = r->temperature, .top_p = r->top_p, .seed = (uint64_t)r->seed}, .max_tokens = r->max_tokens, .logprobs = (int)r->logprobs};
    int rc = add_prompts(r, g, &c->err);
    if (rc)
        return rc;
    r->stream = !r->json && r->list.count == 1 && isatty(STDOUT_FILENO);
    struct generation_events events = {.line = on_line, .text = r->stream ? on_text : NULL, .arg = r};
    if (r->stream)
        print_prompt(&r->list.items[0]);
    size_t tokens = 0;
    uint64_t start = io_monotonic_ns();
    rc = generation_run(g, b, &r->list, &params, &events, &tokens, &c->err);
    double seconds = (double)(io_monotonic_ns() - start) * 1e-9;
    if (!rc && !c->o.quiet)
        fprintf(stderr, "%zu token%s in %.2f s, %.1f tokens/s, class %s\n", tokens, tokens == 1 ? "" : "s", seconds, seconds > 0 ? (double)tokens / seconds : 0.0, b->numerics);
    return rc;
}

static int run_model(struct cmd_ctx *c, struct run_cmd *r, const char *path)
{
    struct fileset files = FILESET_INIT;
    struct generation_model g = {0};
    struct backend *b = NULL;
    struct pool *pool = NULL;
    int rc = fileset_from_path(&files, path, &c->err);
    if (!rc) {
        rc = generation_open(&g, &files, &c->err);
        if (rc)
            err_wrap(&c->err, "%s", path);
    }
    if (!rc) {
        pool = pool_create(cmd_threads(c));
        rc = device_open_any(&(struct device_want){c->o.isa, c->o.device, c->o.numerics, r->kernel, proof_passed, c}, pool, &b, &c->err);
    }
    if (!rc)
        rc = generate_all(c, r, &g, b);
    device_close(b);
    pool_free(pool);
    generation_prompts_release(&r->list);
    generation_close(&g);
    fileset_release(&files);
    return rc;
}

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    struct run_cmd r = {.kernel = "auto", .top_p = 1, .max_tokens = 64};
    struct option_def defs[] = {
        {.name = "prompt", .type = OPT_LIST, .into = &r.prompts, .arg = "TEXT", .help = "a text to continue; may be repeated"},
        {.name = "prompts", .type = OPT_STR, .into = &r.prompts_file, .arg = "FILE", .help = "lines of text, or JSON {\"prompt\"} or {\"prompt_ids\"}"},
        {.name = "temperature", .type = OPT_REAL, .into = &r.temperature, .arg = "T", .help = "0 (default) takes the most likely token", .real_lo = 0, .real_hi = 100},
        {.name = "top-p", .type = OPT_REAL, .into = &r.top_p, .arg = "P", .help = "smallest set of tokens with this mass (default 1)", .real_lo = 0, .real_hi = 1},
        {.name = "max-tokens", .type = OPT_INT, .into = &r.max_tokens, .arg = "N", .help = "per prompt (default 64)", .lo = 1, .hi = INT32_MAX},
        {.name = "seed", .type = OPT_INT, .into = &r.seed, .arg = "S", .help = "of the sampling (default 0)", .lo = 0, .hi = INT64_MAX},
        {.name = "logprobs", .type = OPT_INT, .into = &r.logprobs, .arg = "K", .help = "per token, its log-probability and the K most likely", .lo = 0, .hi = 1000},
        {.name = "kernel", .type = OPT_STR, .into = &r.kernel, .arg = "K", .help = "class of kernels for quantized matrices (default auto)", .choices = "auto|machete|marlin|simple|cpu"},
        {.name = "json", .type = OPT_FLAG, .into = &r.json, .help = "one JSON object a prompt"},
        OPTION_END,
    };
    int n = options_parse(c, defs, argc, argv);
    if (n < 0)
        return n;
    int rc = options_positional(c, n, 1, 1, "MODEL");
    if (!rc && !r.prompts.count == !r.prompts_file)
        rc = err_set(&c->err, ERR_USAGE, "run: give either --prompt TEXT or --prompts FILE");
    if (!rc)
        rc = device_check(c->o.isa, c->o.device, &c->err);
    if (!rc)
        rc = device_check_numerics(c->o.numerics, &c->err);
    return rc ? rc : run_model(c, &r, argv[1]);
}

const struct command cmd_run = {
    .name = "run",
    .summary = "continue prompts with a model, plain or quantized",
    .usage = "run MODEL (--prompt TEXT... | --prompts FILE) [--temperature T --top-p P --max-tokens N --seed S] [--logprobs K] [--kernel K] [--json]",
    .run = run,
};

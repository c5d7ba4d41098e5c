/* bench: how fast a device's ops and products are, or a model on it, beside what the device allows. */
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/options.h"
#include "cmd/project.h"
#include "cmd/proof.h"
#include "kernels/bench.h"
#include "kernels/select.h"
#include "pipeline/base/pool.h"
#include "stages/device.h"
#include "stages/speed.h"

struct bench_cmd {
    struct option_list shapes;
    struct option_ints rows, batches;
    int64_t copies, prompt_tokens, tokens, runs;
    double seconds;
    const char *kernel;
    bool tune, json;
    bool given_products, given_model; /* an option that is of the one or of the other was */
    struct pool *pool;
    struct parallel par;
    struct backend *b;
    struct device_probe device; /* found: b is on it, else on the CPU */
    struct bench k;
    struct bench_class classes[BENCH_CLASSES_MAX];
    size_t class_count; /* those but b itself are ours to close */
    bool cached; /* a share above 1 was shown */
};

_Static_assert((int)OPTION_INTS_MAX == (int)BENCH_ROWS_MAX && (int)OPTION_INTS_MAX == (int)SPEED_BATCHES_MAX, "lists of numbers are copied whole");

/* The device and its bounds */

static void print_bounds(const struct bench_cmd *r)
{
    const struct device_probe *d = &r->device;
    const struct bench_bounds *m = &r->k.bounds;
    if (r->json) {
        json_t *o = json_pack("{s:s, s:s, s:f}", "type", "bounds", "numerics", r->b->numerics, "memory_bytes_per_second", m->memory);
        if (d->found)
            json_object_update_new(o, json_pack("{s:s, s:i, s:i, s:i}", "device", d->name, "processors", d->processors, "revision", d->revision, "capability", d->sm));
        else
            json_object_update_new(o, json_pack("{s:s, s:s, s:i, s:f}", "device", "cpu", "isa", isa_name(r->k.isa), "threads", r->par.threads, "flops_per_second", m->arithmetic));
        print_json_line(o);
        return;
    }
    if (d->found)
        printf("device    cuda:%d %s, class %s, %d processors\nbounds    memory %.2f GB/s (add, over %.0f MB)\n", d->index, d->name, d->numerics, d->processors, m->memory * 1e-9,
               (double)r->k.floats * 4e-6);
    else
        printf("device    cpu, %s, %d thread%s\nbounds    memory %.2f GB/s (read), arithmetic %.2f GFLOP/s (FMA, f32)\n", isa_name(r->k.isa), r->par.threads,
               r->par.threads == 1 ? "" : "s", m->memory * 1e-9, m->arithmetic * 1e-9);
}

/* Ops and products */

static json_t *line_json(const struct bench_line *l)
{
    json_t *o = json_pack("{s:s, s:s}", "type", "op", "op", l->op);
    const char *const words[][2] = {{"class", l->class}, {"weights", l->format}, {"detail", l->detail}, {"left_out", l->left_out}};
    const struct {
        const char *key;
        int64_t value;
    } numbers[] = {{"N", l->N}, {"K", l->K}, {"M", l->M}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (words[i][1] && *words[i][1])
            json_object_set_new(o, words[i][0], json_string(words[i][1]));
    if (l->left_out)
        return o;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].value)
            json_object_set_new(o, numbers[i].key, json_integer(numbers[i].value));
    json_object_update_new(o, json_pack("{s:f, s:f, s:f, s:f, s:s}", "seconds", l->time.seconds, "spread", l->time.spread, "bytes_per_second", l->bytes / l->time.seconds, "share",
                                        l->share, "bound", l->bound));
    if (l->flops > 0)
        json_object_set_new(o, "flops_per_second", json_real(l->flops / l->time.seconds));
    return o;
}

static void on_line(void *arg, const struct bench_line *l)
{
    struct bench_cmd *r = arg;
    char what[64] = "";
    if (r->json) {
        print_json_line(line_json(l));
        return;
    }
    if (l->left_out) {
        printf("%-9s %-8s left out: %s\n", l->op, l->class, l->left_out);
        return;
    }
    if (l->N)
        snprintf(what, sizeof what, "%-4s %lldx%lld", l->format, (long long)l->N, (long long)l->K);
    else if (l->K)
        snprintf(what, sizeof what, "rows of %lld", (long long)l->K);
    printf("%-9s %-8s %-28s", l->op, l->class, *l->detail ? l->detail : what);
    if (l->M)
        printf(" %8lld", (long long)l->M);
    else
        printf(" %8s", "");
    printf(" %12.2f %6.1f %% %10.2f", l->time.seconds * 1e6, 100 * l->time.spread, l->bytes / l->time.seconds * 1e-9);
    if (l->flops > 0)
        printf(" %10.2f", l->flops / l->time.seconds * 1e-9);
    else
        printf(" %10s", "");
    printf(" %7.1f %% of %s\n", 100 * l->share, l->bound);
    fflush(stdout);
    r->cached |= l->share > 1;
}

static int bench_device(struct cmd_ctx *c, struct bench_cmd *r, const struct bench_list *list)
{
    if (!r->json)
        printf("\n%-9s %-8s %-28s %8s %12s %8s %10s %10s  %s\n", "op", "class", "weights, outputs x inputs", "M", "us", "spread", "GB/s", "GFLOP/s",
               "share of the bound that binds");
    int rc = list->shape_count ? 0 : bench_ops(&r->k, on_line, r, &c->err);
    if (!rc)
        rc = bench_products(&r->k, r->classes, r->class_count, list, strcmp(r->kernel, "auto") != 0, on_line, r, &c->err);
    return rc;
}

/* Rows for select.def */

static void on_left_out(void *arg, const char *class, const char *why)
{
    const struct bench_cmd *r = arg;
    if (r->json)
        print_json_line(json_pack("{s:s, s:s, s:s}", "type", "left_out", "class", class, "why", why));
    else
        printf("/* %s is left out: %s */\n", class, why);
    fflush(stdout);
}

static void on_row(void *arg, const struct bench_row *row, const struct bench_list *list)
{
    const struct bench_cmd *r = arg;
    const char *best = r->classes[row->best].name, *between = " ";
    json_t *times = json_object();
    if (!r->json)
        printf("SELECT(%d, %d, %lld, %lld, %s) /*", r->device.sm, row->bits, (long long)row->shape.N, (long long)row->shape.K, best);
    for (size_t i = 0; i < r->class_count; i++) {
        json_t *of = json_array();
        if (!(row->seconds[i][0] > 0)) {
            json_decref(of);
            continue;
        }
        if (!r->json)
            printf("%s%s", between, r->classes[i].name);
        for (size_t m = 0; m < list->row_count; m++) {
            json_array_append_new(of, json_real(row->seconds[i][m]));
            if (!r->json)
                printf(" %.1f", row->seconds[i][m] * 1e6);
        }
        json_object_set_new(times, r->classes[i].name, of);
        between = ", ";
    }
    if (r->json)
        print_json_line(json_pack("{s:s, s:i, s:i, s:I, s:I, s:s, s:O}", "type", "row", "capability", r->device.sm, "bits", row->bits, "N", (json_int_t)row->shape.N,
                                  "K", (json_int_t)row->shape.K, "class", best, "seconds", times));
    else
        printf(" us */\n");
    fflush(stdout);
    json_decref(times);
}

static int tune(struct cmd_ctx *c, struct bench_cmd *r, struct bench_list *list)
{
    const struct device_probe *d = &r->device;
    const struct bench_tune_events ev = {on_left_out, on_row, r};
    if (!r->json)
        printf("/* %d.%d. Measured by gptqpipe bench --tune on one %s (%d processors), plug-in revision %d: the best class by geometric mean over M =", d->sm / 10, d->sm % 10, d->name,
               d->processors, d->revision);
    for (size_t i = 0; !r->json && i < list->row_count; i++)
        printf("%s %lld", i ? "," : "", (long long)list->rows[i]);
    if (!r->json)
        printf(", and every class's time at each */\n");
    return bench_tune(&r->k, r->classes, r->class_count, list, &ev, &c->err);
}

/* A model */

static void print_model(const struct bench_cmd *r, const struct speed *s)
{
    const json_t *kernels = json_object_get(s->served, "kernel"), *reasons = json_object_get(s->served, "kernel_why");
    const char *key;
    json_t *v;
    if (r->json) {
        json_t *o = json_pack("{s:s, s:f, s:f, s:f}", "type", "model", "load_seconds", s->load_seconds, "weight_bytes", s->weight_bytes, "weights", s->weights);
        json_object_update(o, s->served);
        print_json_line(o);
        return;
    }
    printf("weights   %.2f million in products, %.2f MB read a step\n", s->weights * 1e-6, s->weight_bytes * 1e-6);
    printf("kernels  ");
    json_object_foreach ((json_t *)kernels, key, v)
        printf(" %s %s%s", key, json_string_value(v), json_object_iter_next((json_t *)kernels, json_object_key_to_iter(key)) ? "," : "\n");
    json_object_foreach ((json_t *)reasons, key, v)
        printf("          %s: %s\n", key, json_string_value(v));
    printf("load      %.3f s\n\n%-36s %12s %8s %16s  %s\n", s->load_seconds, "", "tokens/s", "spread", "bound tokens/s", "share of the bound that binds");
}

static void on_figure(void *arg, const struct speed_figure *f)
{
    struct bench_cmd *r = arg;
    char what[64];
    if (r->json) {
        print_json_line(json_pack("{s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:s}", "type", f->what, "tokens", (json_int_t)f->tokens, "batch", (json_int_t)f->batch, "runs",
                                  (json_int_t)r->runs, "tokens_per_second", f->tokens_per_second, "spread", f->spread, "bound_tokens_per_second", f->bound_tokens_per_second,
                                  "share", f->share, "bound", f->bound));
        return;
    }
    if (!strcmp(f->what, "prompt"))
        snprintf(what, sizeof what, "prompt of %lld tokens", (long long)f->tokens);
    else
        snprintf(what, sizeof what, "generation of %lld tokens, batch %lld", (long long)f->tokens, (long long)f->batch);
    printf("%-36s %12.1f %6.1f %% %16.1f %7.1f %% of %s\n", what, f->tokens_per_second, 100 * f->spread, f->bound_tokens_per_second, 100 * f->share, f->bound);
    fflush(stdout);
    r->cached |= f->share > 1;
}

static int bench_model(struct cmd_ctx *c, struct bench_cmd *r, const char *path)
{
    struct fileset files = FILESET_INIT;
    struct speed s = {0};
    struct speed_params p = {.prompt = r->prompt_tokens, .tokens = r->tokens, .batch_count = r->batches.count, .runs = (int)r->runs};
    memcpy(p.batches, r->batches.values, sizeof p.batches);
    int rc = fileset_from_path(&files, path, &c->err);
    if (!rc) {
        rc = speed_open(&s, &files, r->b, &p, &c->err);
        if (rc)
            err_wrap(&c->err, "%s", path);
    }
    if (!rc) {
        print_bounds(r);
        print_model(r, &s);
        rc = speed_run(&s, &p, &r->k.bounds, on_figure, r, &c->err);
    }
    speed_close(&s);
    fileset_release(&files);
    return rc;
}

/* Wiring */

static int open_kernel(struct cmd_ctx *c, struct bench_cmd *r, const char *kernel, struct backend **out)
{
    return device_open_any(&(struct device_want){c->o.isa, c->o.device, c->o.numerics, kernel, proof_passed, c}, r->pool, out, &c->err);
}

/* The class that was asked for, or all that the device could have; the CPU is one. */
static int open_classes(struct cmd_ctx *c, struct bench_cmd *r)
{
    int rc = 0;
    if (!r->device.found || strcmp(r->kernel, "auto") != 0) {
        r->classes[r->class_count++] = (struct bench_class){r->device.found ? r->kernel : "cpu", r->b};
        return 0;
    }
    for (size_t i = 0; !rc && select_class(i); i++) {
        struct bench_class *new = &r->classes[r->class_count];
        new->name = select_class(i);
        rc = open_kernel(c, r, new->name, &new->b);
        r->class_count += !rc;
    }
    return rc;
}

static int open_device(struct cmd_ctx *c, struct bench_cmd *r)
{
    const int isa = isa_parse(c->o.isa);
    r->pool = pool_create(cmd_threads(c));
    r->par = (struct parallel){.run = pool_run, .ctx = r->pool, .threads = pool_threads(r->pool)};
    int rc = open_kernel(c, r, r->kernel, &r->b);
    if (rc)
        return rc;
    if (strcmp(r->b->name, "cpu") != 0)
        device_probe(c->o.device, &r->device);
    if (r->tune && !r->device.found)
        return err_set(&c->err, ERR_USAGE, "bench: --tune times the classes of CUDA kernels, and this computes on the CPU (give --device cuda)");
    r->k = (struct bench){.b = r->b, .par = &r->par, .isa = isa == ISA_AUTO ? isa_best() : (enum isa)isa, .seconds = r->seconds, .copies = (int)r->copies,
                          .memory_bytes = r->device.free_bytes};
    return bench_open(&r->k, &c->err);
}

static int bench(struct cmd_ctx *c, struct bench_cmd *r, const char *model)
{
    struct bench_list list = {.row_count = r->rows.count};
    int rc = 0;
    memcpy(list.rows, r->rows.values, sizeof list.rows);
    for (size_t i = 0; !rc && i < r->shapes.count; i++)
        rc = i < BENCH_SHAPES_MAX ? bench_shape_parse(r->shapes.values[i], &list.shapes[list.shape_count++], &c->err)
                                  : err_set(&c->err, ERR_USAGE, "bench: %d shapes at most", BENCH_SHAPES_MAX);
    if (!rc)
        rc = open_device(c, r);
    if (!rc && model)
        rc = bench_model(c, r, model);
    else if (!rc)
        rc = open_classes(c, r);
    if (!rc && !model && !r->tune)
        print_bounds(r);
    if (!rc && !model)
        rc = r->tune ? tune(c, r, &list) : bench_device(c, r, &list);
    if (!rc && r->cached)
        printf("\na share above 100 %%: data comes from a cache, or other programs slowed the measuring of the bound\n");
    for (size_t i = 0; i < r->class_count; i++)
        if (r->classes[i].b != r->b)
            device_close(r->classes[i].b);
    bench_close(&r->k);
    device_close(r->b);
    pool_free(r->pool);
    return rc;
}

static int check(struct cmd_ctx *c, const struct bench_cmd *r, const char *model)
{
    int rc = 0;
    if (model && r->tune)
        rc = err_set(&c->err, ERR_USAGE, "bench: --tune is of kernels and shapes, not of a model: leave out '%s' or --tune", model);
    else if (r->tune && strcmp(r->kernel, "auto") != 0)
        rc = err_set(&c->err, ERR_USAGE, "bench: --tune times every class of kernels: leave out --kernel %s", r->kernel);
    else if (model && r->given_products)
        rc = err_set(&c->err, ERR_USAGE, "bench: --shape, --rows and --copies are of products, not of a model");
    else if (!model && r->given_model)
        rc = err_set(&c->err, ERR_USAGE, "bench: --prompt-tokens, --tokens, --batch and --runs are of a model: give MODEL");
    if (!rc)
        rc = device_check(c->o.isa, c->o.device, &c->err);
    return rc ? rc : device_check_numerics(c->o.numerics, &c->err);
}

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    struct bench_cmd r = {.kernel = "auto", .seconds = 0.1, .runs = 5, .batches = {{1, 16}, 2}};
    bool *products = &r.given_products, *model = &r.given_model;
    struct option_def defs[] = {
        {.name = "kernel", .type = OPT_STR, .into = &r.kernel, .arg = "K", .help = "class of kernels for quantized matrices (default: with MODEL auto, else each)",
         .choices = "auto|machete|marlin|simple|cpu"},
        {.name = "shape", .type = OPT_LIST, .into = &r.shapes, .arg = "NxK", .help = "products of N outputs by K inputs alone; may be repeated (default: ops, and layers of a Llama)",
         .given = products},
        {.name = "rows", .type = OPT_INTS, .into = &r.rows, .arg = "M,...", .help = "rows (tokens) of each product (default 1,16,256; on a GPU 64 and 1024 too)", .lo = 1,
         .hi = 65536, .given = products},
        {.name = "copies", .type = OPT_INT, .into = &r.copies, .arg = "N", .help = "of each matrix to go round in (default: 256 MB of them; 1: from a cache where it fits)", .lo = 1,
         .hi = 512, .given = products},
        {.name = "tune", .type = OPT_FLAG, .into = &r.tune, .help = "print rows for kernels/select.def: on each shape the best class of CUDA kernels"},
        {.name = "prompt-tokens", .type = OPT_INT, .into = &r.prompt_tokens, .arg = "N", .help = "length of the prompt (default 512, at most the context)", .lo = 1,
         .hi = INT32_MAX, .given = model},
        {.name = "tokens", .type = OPT_INT, .into = &r.tokens, .arg = "N", .help = "to generate (default 128, at most what the context holds)", .lo = 1,
         .hi = INT32_MAX, .given = model},
        {.name = "batch", .type = OPT_INTS, .into = &r.batches, .arg = "B,...", .help = "sequences that are generated together (default 1,16)", .lo = 1,
         .hi = GENERATE_LIVE_MAX, .given = model},
        {.name = "runs", .type = OPT_INT, .into = &r.runs, .arg = "N", .help = "that the median is of, after one that is not counted (default 5)", .lo = 1,
         .hi = SPEED_RUNS_MAX, .given = model},
        {.name = "seconds", .type = OPT_REAL, .into = &r.seconds, .arg = "S", .help = "least time of a measurement of an op (default 0.1)", .real_lo = 0, .real_hi = 3600},
        {.name = "json", .type = OPT_FLAG, .into = &r.json, .help = "one JSON object a line"},
        OPTION_END,
    };
    int n = options_parse(c, defs, argc, argv);
    if (n < 0)
        return n;
    int rc = options_positional(c, n, 0, 1, "at most one MODEL");
    const char *path = n ? argv[1] : NULL;
    if (!rc)
        rc = check(c, &r, path);
    return rc ? rc : bench(c, &r, path);
}

const struct command cmd_bench = {
    .name = "bench",
    .summary = "speed of a device or of a model on it, beside what the device allows",
    .usage = "bench [--kernel K] [--shape NxK]... [--rows M,...] [--copies N] [--seconds S] [--json]\n"
             "bench --tune [--shape NxK]... [--rows M,...] [--copies N] [--seconds S] [--json]\n"
             "bench MODEL [--kernel K] [--prompt-tokens N] [--tokens N] [--batch B,...] [--runs N] [--seconds S] [--json]",
    .run = run,
};

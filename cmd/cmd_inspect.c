#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/options.h"
#include "cmd/project.h"
#include "stages/device.h"
#include "stages/format/inspect.h"

struct inspect_cmd {
    const char *tensor, *output, *capability;
    bool dequant, json, check;
    struct device_probe device; /* whose kernels are told */
};

static long long number(const json_t *o, const char *key)
{
    return (long long)json_integer_value(json_object_get(o, key));
}

static const char *text(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void print_shape(const json_t *shape)
{
    char line[64] = "";
    size_t at = 0;
    for (size_t i = 0; i < json_array_size(shape) && at < sizeof line; i++)
        at += (size_t)snprintf(line + at, sizeof line - at, "%s%lld", i ? "x" : "", (long long)json_integer_value(json_array_get(shape, i)));
    printf(" %-14s", line);
}

static void print_config(const json_t *c)
{
    if (!c)
        return;
    printf("%s: %lld layers, hidden %lld, intermediate %lld, heads %lld/%lld of %lld, vocabulary %lld, context %lld, %s%s\n", text(c, "architecture"), number(c, "layers"),
           number(c, "hidden"), number(c, "intermediate"), number(c, "heads"), number(c, "kv_heads"), number(c, "head_dim"), number(c, "vocab_size"), number(c, "context"),
           text(c, "dtype"), json_is_true(json_object_get(c, "tied")) ? ", tied head" : "");
    const json_t *q = json_object_get(c, "quantization");
    if (q)
        printf("%s: %lld bits, group %lld, %s%s%s, %lld dynamic patterns\n", text(q, "format"), number(q, "bits"), number(q, "group_size"),
               json_is_true(json_object_get(q, "sym")) ? "sym" : "asym", json_is_true(json_object_get(q, "desc_act")) ? ", desc_act" : "",
               json_is_true(json_object_get(q, "lm_head")) ? ", head too" : "", number(q, "dynamic"));
}

/* Whose answer the column "on CUDA" is. */
static void print_device(const struct device_probe *p)
{
    if (p->found)
        printf("on CUDA: what auto takes on cuda:%d, %s, compute capability %d.%d\n", p->index, p->name, p->sm / 10, p->sm % 10);
    else if (p->sm)
        printf("on CUDA: what auto takes on compute capability %d.%d\n", p->sm / 10, p->sm % 10);
    else
        printf("on CUDA: what auto takes where nothing is known of the device (none is here; --capability 9.0 tells of one)\n");
}

static void print_modules(const json_t *modules, const struct device_probe *device)
{
    size_t i;
    json_t *m;
    const bool cuda = json_object_get(json_array_get(modules, 0), "cuda_kernel");
    if (cuda)
        print_device(device);
    if (modules)
        printf("\n%-44s %-14s %5s %6s %-14s %6s %12s  %s\n", "module", "shape", "bits", "group", "grid", "neg.", "bytes", cuda ? "on CUDA" : "");
    json_array_foreach (modules, i, m) {
        printf("%-44s", text(m, "name"));
        print_shape(json_object_get(m, "shape"));
        if (!json_object_get(m, "bits"))
            printf(" %5s %6s %-14s %6s %12lld", text(m, "dtype"), "", "", "", number(m, "bytes"));
        else
            printf(" %5lld %6lld %-4s%-10s %5.1f%% %12lld", number(m, "bits"), number(m, "group_size"),
                   !json_object_get(m, "sym") ? "" : json_is_true(json_object_get(m, "sym")) ? "sym" : "asym",
                   json_is_true(json_object_get(m, "desc_act")) ? " desc_act" : "",
                   100 * json_real_value(json_object_get(m, "negative_scales")), number(m, "bytes"));
        const char *why = json_string_value(json_object_get(m, "cuda_why"));
        printf(why ? "  %s (%s)\n" : "  %s\n", text(m, "cuda_kernel"), why);
    }
}

static void print_readable(const json_t *o, const struct device_probe *device)
{
    size_t i;
    json_t *t;
    const json_t *cal = json_object_get(o, "calibration"), *totals = json_object_get(o, "totals");
    print_config(json_object_get(o, "config"));
    print_modules(json_object_get(o, "modules"), device);
    if (cal)
        printf("calibration: %lld samples, %lld tokens, %lld to %lld a sample\n", number(cal, "samples"), number(cal, "tokens"), number(cal, "shortest"),
               number(cal, "longest"));
    printf("\n%-52s %-5s %-14s %12s\n", "tensor", "dtype", "shape", "bytes");
    json_array_foreach (json_object_get(o, "tensors"), i, t) {
        printf("%-52s %-5s", text(t, "name"), text(t, "dtype"));
        print_shape(json_object_get(t, "shape"));
        printf(" %12lld\n", number(t, "bytes"));
    }
    printf("\n%lld tensors, %lld bytes, %lld parameters, %.3f bits a weight\n", number(totals, "tensors"), number(totals, "bytes"), number(totals, "parameters"),
           json_real_value(json_object_get(totals, "bits_per_weight")));
}

static int show(struct cmd_ctx *c, const struct inspect *i, const struct inspect_cmd *cmd)
{
    json_t *o = inspect_json(i, &c->err);
    if (!o)
        return -c->err.code;
    if (cmd->json) {
        print_json_line(o);
        return 0;
    }
    print_readable(o, &cmd->device);
    json_decref(o);
    return 0;
}

/* --check: a line per violated rule, then the verdict. */
static int check(struct cmd_ctx *c, const char *path, bool as_json)
{
    struct fileset files = FILESET_INIT;
    struct check_report r = {0};
    int rc = fileset_from_path(&files, path, &c->err);
    if (!rc)
        rc = checkpoint_check(&files, &r, &c->err);
    if (rc)
        err_wrap(&c->err, "%s", path);
    for (size_t i = 0; i < r.count; i++) {
        if (as_json)
            print_json_line(json_pack("{s:s}", "violation", r.lines[i]));
        else
            puts(r.lines[i]);
    }
    if (!rc && r.count)
        rc = err_set(&c->err, ERR_FAIL, "%s: %zu rules violated", path, r.count);
    else if (!rc && !as_json)
        printf("%zu tensors, %zu quantized modules: every rule holds\n", r.tensors, r.modules);
    check_report_release(&r);
    fileset_release(&files);
    return rc;
}

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    struct inspect_cmd o = {0};
    struct option_def defs[] = {
        {.name = "tensor", .type = OPT_STR, .into = &o.tensor, .arg = "NAME", .help = "write one tensor's bytes to FILE"},
        {.name = "dequant", .type = OPT_FLAG, .into = &o.dequant, .help = "with --tensor: f32 values; NAME may be a module"},
        {.name = "output", .letter = 'o', .type = OPT_STR, .into = &o.output, .arg = "FILE", .help = "where --tensor writes; a NumPy file when it ends in .npy"},
        {.name = "capability", .type = OPT_STR, .into = &o.capability, .arg = "X.Y", .help = "tell the CUDA kernels of a device of this compute capability (default: the one here)"},
        {.name = "check", .type = OPT_FLAG, .into = &o.check, .help = "check a checkpoint's structure instead"},
        {.name = "json", .type = OPT_FLAG, .into = &o.json, .help = "JSON"},
        OPTION_END,
    };
    int n = options_parse(c, defs, argc, argv);
    if (n < 0)
        return n;
    int rc = options_positional(c, n, 1, 1, "PATH");
    if (!rc && (!o.tensor != !o.output || (o.dequant && !o.tensor)))
        rc = err_set(&c->err, ERR_USAGE, "inspect: --tensor NAME and -o FILE go together, --dequant with them");
    if (!rc && !o.tensor && !o.check)
        rc = device_asked(c->o.device, o.capability, &o.device, &c->err);
    if (rc)
        return rc;
    if (o.check)
        return check(c, argv[1], o.json);
    struct inspect i;
    rc = inspect_open(&i, argv[1], &c->err);
    if (rc)
        return rc;
    i.capability = o.device.sm;
    i.no_machete = *o.device.no_machete ? o.device.no_machete : NULL;
    rc = o.tensor ? inspect_export(&i, o.tensor, o.dequant, o.output, &c->err) : show(c, &i, &o);
    inspect_close(&i);
    return rc;
}

const struct command cmd_inspect = {
    .name = "inspect",
    .summary = "what a model, a checkpoint or a .safetensors file holds",
    .usage = "inspect PATH [--tensor NAME [--dequant] -o FILE] [--capability X.Y] [--json]\ninspect PATH --check [--json]",
    .run = run,
};

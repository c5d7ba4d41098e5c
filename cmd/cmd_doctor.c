/* doctor: what this machine can do, and why not more. */
#include "cmd/cmd.h"
#include "cmd/options.h"
#include "pipeline/base/json.h"
#include "pipeline/base/pool.h"
#include "stages/device.h"

static void print_cuda(const struct device_probe *p)
{
    if (!p->found) {
        printf("cuda      %s (device auto takes the CPU)\n", p->why);
        return;
    }
    printf("cuda      cuda:%d %s, class %s, %d processors, %.1f of %.1f GB free%s\n", p->index, p->name, p->numerics, p->processors, (double)p->free_bytes * 1e-9,
           (double)p->total_bytes * 1e-9,
           p->proven ? "" : "; this version's GPU code has passed its tests on an emulated device only (device auto takes the CPU, --device cuda this)");
}

static json_t *cuda_json(const struct device_probe *p)
{
    json_t *o = json_pack("{s:b}", "found", p->found);
    if (p->plugin[0])
        json_object_update_new(o, json_pack("{s:s, s:i}", "plugin", p->plugin, "revision", p->revision));
    if (!p->found)
        json_object_set_new(o, "why", json_string(p->why));
    else
        json_object_update_new(o, json_pack("{s:b, s:i, s:s, s:s, s:i, s:I, s:I}", "proven", p->proven, "device", p->index, "name", p->name, "numerics", p->numerics, "processors", p->processors,
                                            "total_bytes", (json_int_t)p->total_bytes, "free_bytes", (json_int_t)p->free_bytes));
    return o;
}

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    bool json = false;
    struct option_def defs[] = {
        {.name = "json", .type = OPT_FLAG, .into = &json, .help = "one JSON object"},
        OPTION_END,
    };
    int n = options_parse(c, defs, argc, argv);
    if (n < 0)
        return n;
    int rc = options_positional(c, n, 0, 0, "no arguments");
    if (!rc)
        rc = device_check(c->o.isa, c->o.device, &c->err);
    if (rc)
        return rc;
    struct device_probe p;
    device_probe(c->o.device, &p);
    if (json) {
        json_t *o = json_pack("{s:s, s:i, s:s, s:o}", "version", GPTQPIPE_VERSION, "threads", cmd_threads(c), "isa", isa_name(isa_best()), "cuda", cuda_json(&p));
        struct buf b = BUF_INIT;
        json_canonical(o, &b);
        puts(buf_str(&b));
        buf_release(&b);
        json_decref(o);
        return 0;
    }
    printf("gptqpipe  %s\n", GPTQPIPE_VERSION);
    printf("cpu       class cpu, %d threads, %s\n", cmd_threads(c), isa_name(isa_best()));
    print_cuda(&p);
    if (p.plugin[0])
        printf("plug-in   %s, revision %d\n", p.plugin, p.revision);
    return 0;
}

const struct command cmd_doctor = {
    .name = "doctor",
    .summary = "what this machine computes with, and why not with more",
    .usage = "doctor [--json]",
    .run = run,
};

/* doctor: what this machine can do, and why not more. */
#include <time.h>

#include "cmd/cmd.h"
#include "cmd/options.h"
#include "cmd/project.h"
#include "cmd/proof.h"
#include "pipeline/base/pool.h"
#include "stages/device.h"

/* What auto does with the GPU, and why. */
static void print_proof(const struct device_probe *p, const struct proof *proof)
{
    char day[32] = "", device[16] = "cuda";
    time_t made = (time_t)proof->made_unix_s;
    struct tm utc;
    if (gmtime_r(&made, &utc))
        strftime(day, sizeof day, "%Y-%m-%d", &utc);
    if (p->index)
        snprintf(device, sizeof device, "cuda:%d", p->index);
    if (proof->state == PROOF_PASSED)
        printf("selftest  passed on this device on %s (device auto takes it)\n", day);
    else if (proof->state == PROOF_FAILED)
        printf("selftest  failed on this device on %s: %s (device auto takes the CPU)\n", day, proof->text);
    else if (proof->state == PROOF_UNREADABLE)
        printf("selftest  its verdict cannot be read, which counts as none: %s (device auto takes the CPU)\n", proof->text);
    else
        printf("selftest  not tested on this device: `gptqpipe selftest --device %s` lets auto take it\n", device);
}

static void print_cuda(const struct device_probe *p, const struct proof *proof)
{
    if (!p->found) {
        printf("cuda      %s (device auto takes the CPU)\n", p->why);
        return;
    }
    printf("cuda      cuda:%d %s, class %s, %d processors, %.1f of %.1f GB free\n", p->index, p->name, p->numerics, p->processors, (double)p->free_bytes * 1e-9,
           (double)p->total_bytes * 1e-9);
    print_proof(p, proof);
}

static json_t *cuda_json(const struct device_probe *p, const struct proof *proof)
{
    static const char *const states[] = {[PROOF_NONE] = "none", [PROOF_PASSED] = "passed", [PROOF_FAILED] = "failed", [PROOF_UNREADABLE] = "unreadable"};
    json_t *o = json_pack("{s:b}", "found", p->found);
    if (p->plugin[0])
        json_object_update_new(o, json_pack("{s:s, s:i}", "plugin", p->plugin, "revision", p->revision));
    if (!p->found)
        json_object_set_new(o, "why", json_string(p->why));
    else
        json_object_update_new(o, json_pack("{s:s, s:i, s:s, s:s, s:i, s:i, s:I, s:I}", "selftest", states[proof->state], "device", p->index, "name", p->name, "numerics",
                                            p->numerics, "processors", p->processors, "driver", p->driver, "total_bytes", (json_int_t)p->total_bytes, "free_bytes",
                                            (json_int_t)p->free_bytes));
    if (proof->text[0])
        json_object_set_new(o, "selftest_what", json_string(proof->text));
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
    struct proof proof = {.state = PROOF_NONE};
    device_probe(c->o.device, &p);
    if (p.found)
        proof_read(c, &p, &proof);
    if (json) {
        print_json_line(json_pack("{s:s, s:i, s:s, s:o}", "version", GPTQPIPE_VERSION, "threads", cmd_threads(c), "isa", isa_name(isa_best()), "cuda",
                                  cuda_json(&p, &proof)));
        return 0;
    }
    printf("gptqpipe  %s\n", GPTQPIPE_VERSION);
    printf("cpu       class cpu, %d threads, %s\n", cmd_threads(c), isa_name(isa_best()));
    print_cuda(&p, &proof);
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

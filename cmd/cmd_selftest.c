/* selftest: does this machine compute what it should? A GPU that passes is taken by `--device auto` from then on. */
#include <math.h>
#include <string.h>

#include "cmd/options.h"
#include "cmd/project.h"
#include "cmd/proof.h"

struct selftest_cmd {
    struct cmd_ctx *c;
    bool json;
    struct device_probe gpu;
    json_t *groups; /* of the GPU */
    int gpu_groups, failed;
    char failed_at[SELFTEST_NAME_BYTES + SELFTEST_WHAT_BYTES], gpu_failed_at[SELFTEST_NAME_BYTES + SELFTEST_WHAT_BYTES]; /* the first; "" */
    struct err kept; /* why the verdict is not in the cache; code 0: it is, or there is none */
};

/* {"name","cases","passed","worst","bound"[,"what"]}; no worst where it is infinite, bound 0: equal bits. */
static json_t *group_json(const struct selftest_group *g)
{
    json_t *o = json_pack("{s:s, s:i, s:b, s:f}", "name", g->name, "cases", g->cases, "passed", g->passed, "bound", g->bound);
    if (isfinite(g->worst))
        json_object_set_new(o, "worst", json_real(g->worst));
    if (!g->passed)
        json_object_set_new(o, "what", json_string(g->what));
    return o;
}

static void print_group(const char *on, const struct selftest_group *g)
{
    printf("%-9s %-14s %4d cases  ", on, g->name, g->cases);
    if (!g->passed)
        printf("FAILED: %s\n", g->what);
    else if (!strcmp(on, "scalar") && g->worst == 0)
        printf("the bits of class cpu\n");
    else if (!strcmp(on, "scalar"))
        printf("the bits of class cpu, %.1e from f64, bound %.1e\n", g->worst, g->bound);
    else if (g->bound > 0)
        printf("worst error %.1e, bound %.1e\n", g->worst, g->bound);
    else
        printf("equal to the bit\n");
}

static void on_group(void *arg, const char *on, const struct selftest_group *g)
{
    struct selftest_cmd *s = arg;
    const bool gpu = !strncmp(on, "cuda", 4);
    char at[sizeof s->failed_at];
    snprintf(at, sizeof at, "%s: %s", g->name, g->what);
    if (!g->passed && !s->failed++)
        snprintf(s->failed_at, sizeof s->failed_at, "%s", at);
    if (!g->passed && gpu && !s->gpu_failed_at[0])
        snprintf(s->gpu_failed_at, sizeof s->gpu_failed_at, "%s", at);
    json_t *o = group_json(g);
    s->gpu_groups += gpu;
    if (gpu)
        json_array_append(s->groups, o);
    if (s->json) {
        json_object_set_new(o, "on", json_string(on));
        print_json_line(o);
    } else {
        print_group(on, g);
        json_decref(o);
        fflush(stdout);
    }
}

static void on_gpu(void *arg, const struct device_probe *p)
{
    struct selftest_cmd *s = arg;
    s->gpu = *p;
    if (p->found)
        proof_drop(s->c, p, &s->kept);
    if (!s->json && p->found)
        printf("%-9s %s, class %s, plug-in %s\n", "cuda", p->name, p->numerics, p->plugin);
    else if (!s->json)
        printf("%-9s not tested: %s\n", "cuda", p->why);
    fflush(stdout);
}

static void on_absent(void *arg, const char *on, const char *class, const char *why)
{
    const struct selftest_cmd *s = arg;
    if (s->json)
        print_json_line(json_pack("{s:s, s:s, s:s}", "on", on, "name", class, "absent", why));
    else
        printf("%-9s %-14s not there: %s\n", on, class, why);
}

static int test_gpu(struct selftest_cmd *s, int64_t limit_s)
{
    struct cmd_ctx *c = s->c;
    const struct selftest_report report = {on_group, on_gpu, on_absent, s};
    int rc = selftest_gpu(c->o.device, cmd_threads(c), (int)limit_s, &report, &c->err);
    if (!rc && s->gpu.found && !s->kept.code)
        proof_keep(c, &s->gpu, s->gpu_failed_at[0] ? s->gpu_failed_at : NULL, s->groups, &s->kept);
    else if (!rc && !s->gpu.found && !s->gpu_groups && strcmp(c->o.device, "auto") != 0)
        rc = err_set(&c->err, ERR_UNSUPPORTED, "device '%s': %s", c->o.device, s->gpu.why);
    return rc;
}

/* What auto takes is asked of the cache: an older verdict may still be there where none can be taken back. */
static int finish(struct selftest_cmd *s)
{
    const bool takes = s->gpu.found && proof_passed(s->c, &s->gpu);
    const char *which = takes ? "device auto takes the GPU" : "device auto takes the CPU";
    if (s->json)
        print_json_line(json_pack("{s:b, s:b}", "passed", !s->failed, "auto_takes_gpu", takes));
    else if (!s->failed && !s->kept.code)
        printf("passed%s%s\n", takes ? "; " : "", takes ? which : "");
    if (s->kept.code)
        return err_set(&s->c->err, s->failed ? ERR_FAIL : s->kept.code, "selftest: %s; this verdict cannot be kept: %s (%s)", s->failed ? s->failed_at : "the GPU passes",
                       s->kept.text, which);
    if (!s->failed)
        return 0;
    return s->gpu_failed_at[0] ? err_set(&s->c->err, ERR_FAIL, "selftest: %s (%s)", s->failed_at, which)
                               : err_set(&s->c->err, ERR_FAIL, "selftest: %s", s->failed_at);
}

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    struct selftest_cmd s = {.c = c};
    int64_t limit_s = 120;
    struct option_def defs[] = {
        {.name = "limit", .type = OPT_INT, .into = &limit_s, .arg = "SECONDS", .help = "for one case on a GPU, which is killed then (default 120)", .lo = 1, .hi = 3600},
        {.name = "json", .type = OPT_FLAG, .into = &s.json, .help = "one JSON object a group, the verdict last"},
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
    const struct selftest_report report = {.group = on_group, .arg = &s};
    s.groups = json_array();
    rc = selftest_cpu(c->o.isa, cmd_threads(c), &report, &c->err);
    if (!rc && strcmp(c->o.device, "cpu") != 0 && !s.failed) /* a GPU is compared with the CPU */
        rc = test_gpu(&s, limit_s);
    if (!rc)
        rc = finish(&s);
    json_decref(s.groups);
    return rc;
}

const struct command cmd_selftest = {
    .name = "selftest",
    .summary = "does this machine compute what it should? A GPU that passes is taken by --device auto",
    .usage = "selftest [--device auto|cpu|cuda[:N]] [--limit SECONDS] [--json]",
    .run = run,
};

/* apply: brings everything up to date. */
#include <string.h>

#include "cmd/project.h"
#include "pipeline/signals.h"

/* All errors but the one that main prints. */
static void print_errors(const struct apply_result *r)
{
    char text[ERR_TEXT_BYTES + ERR_FILE_BYTES + 64];
    for (size_t i = 1; i < r->error_count; i++)
        fprintf(stderr, "%s\n", err_format(&r->errors[i], text, sizeof text));
}

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    struct project p = {.jobs = 0};
    bool json = false;
    struct option_def defs[] = {
        PROJECT_TARGET(&p),
        {"jobs",                                              'j', OPT_INT, &p.jobs, "N",                                               "stages at once, each with its share of --threads (default 1)", .lo = 1, .hi = 256},
        {"keep-going",                                          'k',                                             OPT_FLAG,                                         &p.keep_going,    NULL, "after a failure go on with what does not need it"         },
        PROJECT_SET(&p),
        PROJECT_FORCE(&p),
        PROJECT_FROZEN(&p),
        {"json", 0,    OPT_FLAG,      &json,            NULL,                                                  "events as JSON lines, the last is run_end"                                                                                            },
        OPTION_END,
    };
    int n = options_parse(c, defs, argc, argv);
    if (n < 0)
        return n;
    int rc = options_positional(c, n, 0, 1, "at most a MANIFEST");
    if (!rc)
        rc = project_open(&p, c, n ? argv[1] : NULL, json ? stdout : NULL, stderr);
    if (!rc) {
        struct apply_result r;
        signals_install();
        rc = pipeline_apply(p.p, &r, &c->err);
        print_errors(&r);
        if (!json && !c->o.quiet) {
            struct buf summary = BUF_INIT;
            pipeline_summary(p.p, &summary);
            fputs(buf_str(&summary), stdout);
            buf_release(&summary);
            printf("%llu ran, %llu up to date%s in %.1f s\n", (unsigned long long)r.ran, (unsigned long long)r.hit,
                   r.failed ? ", some failed," : "", r.seconds);
        }
        apply_result_release(&r);
    }
    return project_close(&p, c, rc);
}

const struct command cmd_apply = {
    .name = "apply",
    .summary = "bring everything up to date",
    .usage = "apply [MANIFEST] [-t STAGE[/NODE]]... [-j N] [-k] [--set VAR=VALUE]... [--force STAGE] [--frozen-lock] [--json]",
    .run = run};

/* status: a short table of stages and whether they are up to date. */
#include <string.h>

#include "cmd/project.h"

struct row {
    const char *stage;
    size_t counts[3]; /* by plan_action */
};

static const char *row_text(const struct row *r)
{
    return r->counts[PLAN_RUN] ? "to run" : r->counts[PLAN_MAYBE] ? "waits" : "up to date";
}

static void print_row(const struct row *r, bool json)
{
    if (json)
        print_json_line(json_pack("{s:s,s:s,s:I,s:I,s:I}", "stage", r->stage, "status", row_text(r), "run", (json_int_t)r->counts[PLAN_RUN],
                                  "maybe", (json_int_t)r->counts[PLAN_MAYBE], "hit", (json_int_t)r->counts[PLAN_HIT]));
    else
        printf("%-24s %-10s  %zu of %zu done\n", r->stage, row_text(r), r->counts[PLAN_HIT], r->counts[0] + r->counts[1] + r->counts[2]);
}

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    struct project p = {.jobs = 0};
    bool json = false;
    struct option_def defs[] = {
        PROJECT_SET(&p), {"json", 0, OPT_FLAG, &json, NULL, "one JSON object a stage"},
         OPTION_END
    };
    int n = options_parse(c, defs, argc, argv);
    if (n < 0)
        return n;
    int rc = options_positional(c, n, 0, 1, "at most a MANIFEST"), work = 0;
    if (!rc)
        rc = project_open(&p, c, n ? argv[1] : NULL, NULL, stderr);
    if (!rc)
        rc = pipeline_plan(p.p, &c->err);
    size_t count = rc ? 0 : pipeline_node_count(p.p);
    for (size_t i = 0; i < count;) {
        struct row row = {.stage = pipeline_node(p.p, i).stage};
        for (; i < count && !strcmp(pipeline_node(p.p, i).stage, row.stage); i++)
            row.counts[pipeline_node(p.p, i).action]++;
        work |= row.counts[PLAN_RUN] || row.counts[PLAN_MAYBE];
        print_row(&row, json);
    }
    rc = project_close(&p, c, rc);
    return rc ? rc : work ? 2 : 0;
}

const struct command cmd_status = {.name = "status",
                                   .summary = "which stages are up to date (exit 2: not all)",
                                   .usage = "status [MANIFEST] [--set VAR=VALUE]... [--json]",
                                   .run = run};

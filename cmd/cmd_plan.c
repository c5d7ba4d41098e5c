/* plan: what apply would do, and why. */
#include <string.h>

#include "cmd/project.h"

static json_t *node_json(const struct plan_node *n)
{
    json_t *o = json_pack("{s:s,s:s,s:s}", "node", n->name, "action", plan_action_text(n->action), "reason", reason_text(n->reason));
    if (n->field)
        json_object_set_new(o, "field", json_string(n->field));
    return o;
}

/* Neighbours of one stage that say the same are one line. */
static bool same_line(const struct plan_node *a, const struct plan_node *b)
{
    return !strcmp(a->stage, b->stage) && a->action == b->action && a->action != PLAN_RUN && a->reason == b->reason;
}

static void print_text(const struct pipeline *p, bool all)
{
    size_t n = pipeline_node_count(p), counts[3] = {0, 0, 0};
    for (size_t i = 0, end; i < n; i = end) {
        struct plan_node first = pipeline_node(p, i), last = first;
        for (end = i + 1; end < n && !all; end++) {
            struct plan_node next = pipeline_node(p, end);
            if (!same_line(&first, &next))
                break;
            last = next;
        }
        counts[first.action] += end - i;
        printf("%-6s %s", plan_action_text(first.action), first.name);
        if (end - i > 1)
            printf(" .. %s", last.name);
        printf("  (%s%s%s)\n", reason_text(first.reason), first.field ? ": " : "", first.field ? first.field : "");
    }
    printf("%zu to run, %zu may run, %zu up to date\n", counts[PLAN_RUN], counts[PLAN_MAYBE], counts[PLAN_HIT]);
}

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    struct project p = {.jobs = 0};
    bool json = false;
    struct option_def defs[] = {
        PROJECT_TARGET(&p),
        {"jobs",                               'j', OPT_INT, &p.jobs, "N",                                "stages at once (for apply)",           .lo = 1, .hi = 256},
        {"keep-going",                           'k',                              OPT_FLAG,                          &p.keep_going,    NULL, "go on after a failure (for apply)"},
        PROJECT_SET(&p),
        PROJECT_FORCE(&p),
        PROJECT_FROZEN(&p),
        {"json", 0,    OPT_FLAG,      &json,            NULL,                                   "one JSON object a line"                                                              },
        OPTION_END,
    };
    int n = options_parse(c, defs, argc, argv);
    if (n < 0)
        return n;
    int rc = options_positional(c, n, 0, 1, "at most a MANIFEST"), work = 0;
    if (!rc)
        rc = project_open(&p, c, n ? argv[1] : NULL, NULL, stderr);
    if (!rc)
        rc = pipeline_plan(p.p, &c->err);
    for (size_t i = 0; !rc && i < pipeline_node_count(p.p); i++) {
        struct plan_node node = pipeline_node(p.p, i);
        work |= node.action != PLAN_HIT;
        if (json)
            print_json_line(node_json(&node));
    }
    if (!rc && !json && !c->o.quiet)
        print_text(p.p, c->o.verbose > 0);
    rc = project_close(&p, c, rc);
    return rc ? rc : work ? 2 : 0;
}

const struct command cmd_plan = {.name = "plan",
                                 .summary = "what apply would do, and why (exit 2: there is work)",
                                 .usage =
                                     "plan [MANIFEST] [-t STAGE[/NODE]]... [--set VAR=VALUE]... [--force STAGE] [--frozen-lock] [--json]",
                                 .run = run};

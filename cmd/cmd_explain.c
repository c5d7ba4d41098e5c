/* explain: why a node runs, field by field against the last time. */
#include <stdlib.h>
#include <string.h>

#include "cmd/project.h"
#include "pipeline/base/json.h"

static char *value_text(const json_t *v)
{
    struct buf b = BUF_INIT;
    if (!v)
        buf_addstr(&b, "absent");
    else
        json_canonical(v, &b);
    return buf_detach(&b);
}

static int print_difference(void *arg, const char *path, const json_t *from, const json_t *to)
{
    (void)arg;
    char *a = value_text(from), *b = value_text(to);
    printf("  %s: %s -> %s\n", path, a, b);
    free(a);
    free(b);
    return 0;
}

static int print_differences(struct project *p, const struct plan_node *n, struct err *e)
{
    struct record old = RECORD_INIT;
    enum store_miss miss;
    int rc = store_get(pipeline_store(p->p), n->last_key, false, &old, &miss, NULL, e);
    if (rc || miss != STORE_HIT)
        return rc;
    json_t *was = json_parse(old.preimage, strlen(old.preimage), "record", e), *is = json_parse(n->preimage, strlen(n->preimage), "key", e);
    if (was && is)
        reason_each_difference(was, is, print_difference, NULL);
    json_decref(was);
    json_decref(is);
    record_release(&old);
    return 0;
}

static int explain_node(struct project *p, const struct plan_node *n, bool hits, struct err *e)
{
    struct record r = RECORD_INIT;
    enum store_miss miss;
    if (n->action == PLAN_HIT && !hits)
        return 0;
    printf("%s: %s (%s%s%s)\n", n->name,
           n->action == PLAN_HIT   ? "up to date"
           : n->action == PLAN_RUN ? "runs"
                                   : "may run",
           reason_text(n->reason), n->field ? ": " : "", n->field ? n->field : "");
    if (n->action == PLAN_RUN && n->last_key && n->preimage && strcmp(n->last_key, n->key) != 0)
        return print_differences(p, n, e);
    if (n->action != PLAN_HIT || !n->preimage)
        return 0;
    int rc = store_get(pipeline_store(p->p), n->key, false, &r, &miss, NULL, e);
    if (!rc && miss == STORE_HIT) {
        if (r.reason)
            printf("  last ran because: %s\n", r.reason);
        printf("  key: %s\n  made from: %s\n", n->key, n->preimage);
        record_release(&r);
    }
    return rc;
}

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    struct project p = {.jobs = 0};
    struct option_def defs[] = {PROJECT_SET(&p), OPTION_END};
    int n = options_parse(c, defs, argc, argv);
    if (n < 0)
        return n;
    int rc = options_positional(c, n, 1, 2, "STAGE[/NODE] and at most a MANIFEST");
    if (!rc) {
        project_target(&p, argv[1]);
        rc = project_open(&p, c, n > 1 ? argv[2] : NULL, NULL, stderr);
    }
    if (!rc)
        rc = pipeline_plan(p.p, &c->err);
    size_t said = 0;
    for (int pass = 0; pass < 2 && !said; pass++)
        for (size_t i = 0; !rc && i < pipeline_node_count(p.p); i++) {
            struct plan_node node = pipeline_node(p.p, i);
            if (!node_matches(&node, argv[1]) || (pass == 0 && node.action == PLAN_HIT))
                continue;
            rc = explain_node(&p, &node, pass == 1, &c->err);
            said++;
        }
    return project_close(&p, c, rc);
}

const struct command cmd_explain = {.name = "explain",
                                    .summary = "why a node runs, field by field",
                                    .usage = "explain STAGE[/NODE] [MANIFEST] [--set VAR=VALUE]...",
                                    .run = run};

/* graph: the stages and what they need. Opens only the manifest. */
#include "cmd/project.h"

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    struct option_list sets = {NULL, 0, 0};
    bool dot = false, mermaid = false, ascii = false;
    struct option_def defs[] = {
        {"dot",     0, OPT_FLAG, &dot,     NULL,        "for Graphviz"                                },
        {"mermaid", 0, OPT_FLAG, &mermaid, NULL,        "for Mermaid"                                 },
        {"ascii",   0, OPT_FLAG, &ascii,   NULL,        "plain lines (default)"                       },
        {"set",     0, OPT_LIST, &sets,    "VAR=VALUE", "another value for a variable of the manifest"},
        OPTION_END,
    };
    int n = options_parse(c, defs, argc, argv);
    if (n < 0)
        return n;
    int rc = options_positional(c, n, 0, 1, "at most a MANIFEST");
    if (!rc && dot + mermaid + ascii > 1)
        rc = err_set(&c->err, ERR_USAGE, "graph takes one of --dot, --mermaid and --ascii");
    struct manifest *m = NULL;
    if (!rc)
        rc = manifest_load(n ? argv[1] : "manifest.yaml", sets.values, sets.count, &m, &c->err);
    if (!rc) {
        struct buf b = BUF_INIT;
        dag_draw(m, dot ? DAG_DOT : mermaid ? DAG_MERMAID : DAG_ASCII, &b);
        fputs(buf_str(&b), stdout);
        buf_release(&b);
    }
    manifest_free(m);
    return rc;
}

const struct command cmd_graph = {
    .name = "graph", .summary = "draw the stages", .usage = "graph [MANIFEST] [--dot|--mermaid|--ascii] [--set VAR=VALUE]...", .run = run};

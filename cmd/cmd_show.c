/* show: what a stage made: keys, outputs with digests, figures. */
#include <string.h>

#include "cmd/project.h"
#include "pipeline/base/json.h"

static json_t *node_json(const struct plan_node *n)
{
    json_t *outputs = json_array();
    for (size_t i = 0; i < n->result->outputs.count; i++) {
        const struct fileset_file *f = &n->result->outputs.files[i];
        json_array_append_new(
            outputs, json_pack("{s:s,s:s,s:I,s:s}", "path", f->name, "sha256", f->sha256, "bytes", (json_int_t)f->bytes, "file", f->path));
    }
    json_t *o = json_pack("{s:s,s:s,s:o}", "node", n->name, "digest", n->result->digest, "outputs", outputs);
    json_object_set_new(o, "key", n->key[0] ? json_string(n->key) : json_null());
    if (n->result->metrics)
        json_object_set_new(o, "metrics", json_deep_copy(n->result->metrics));
    return o;
}

static void print_text(const struct plan_node *n)
{
    printf("%s\n", n->name);
    if (n->key[0])
        printf("  key %s\n", n->key);
    for (size_t i = 0; i < n->result->outputs.count; i++) {
        const struct fileset_file *f = &n->result->outputs.files[i];
        printf("  %s  %12llu  %s\n    %s\n", f->sha256, (unsigned long long)f->bytes, f->name, f->path);
    }
    const char *key;
    json_t *v;
    json_object_foreach(n->result->metrics, key, v)
    {
        struct buf b = BUF_INIT;
        json_canonical(v, &b);
        printf("  %s: %s\n", key, buf_str(&b));
        buf_release(&b);
    }
}

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    struct project p = {.jobs = 0};
    bool json = false;
    struct option_def defs[] = {
        PROJECT_SET(&p), {"json", 0, OPT_FLAG, &json, NULL, "one JSON object a node"},
         OPTION_END
    };
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
    for (size_t i = 0; !rc && i < pipeline_node_count(p.p); i++) {
        struct plan_node node = pipeline_node(p.p, i);
        if (!node_matches(&node, argv[1]))
            continue;
        if (!node.result || !node.result->known)
            rc = err_set(&c->err, ERR_NOTFOUND, "%s is not made yet, or is out of date (%s%s%s): run `gptqpipe apply -t %s`", node.name,
                         reason_text(node.reason), node.field ? ": " : "", node.field ? node.field : "", node.stage);
        else if (json)
            print_json_line(node_json(&node));
        else
            print_text(&node);
    }
    return project_close(&p, c, rc);
}

const struct command cmd_show = {
    .name = "show", .summary = "what a stage made", .usage = "show STAGE[/NODE] [MANIFEST] [--set VAR=VALUE]... [--json]", .run = run};

/* schema: the JSON Schema of a manifest, for editors. */
#include "cmd/options.h"
#include "pipeline/base/json.h"
#include "pipeline/schema.h"

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    struct option_def defs[] = {OPTION_END};
    int n = options_parse(c, defs, argc, argv);
    if (n < 0)
        return n;
    int rc = options_positional(c, n, 0, 0, "no arguments");
    if (rc)
        return rc;
    struct buf b = BUF_INIT;
    json_t *schema = schema_json();
    json_pretty(schema, &b);
    fputs(buf_str(&b), stdout);
    json_decref(schema);
    buf_release(&b);
    return 0;
}

const struct command cmd_schema = {.name = "schema", .summary = "print the JSON Schema of a manifest", .usage = "schema", .run = run};

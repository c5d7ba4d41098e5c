/* lock: pins what the sources are now. */
#include "cmd/project.h"

static void say(void *arg, const char *line)
{
    const struct cmd_ctx *c = arg;
    if (!c->o.quiet)
        printf("%s\n", line);
}

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    struct project p = {.jobs = 0};
    bool check = false, differs = false;
    const char *update = NULL;
    struct option_def defs[] = {
        {"update", 0, OPT_STR,  &update, "NAME", "only this source"                                     },
        {"check",  0, OPT_FLAG, &check,  NULL,   "write nothing; exit 2 when the lock is not up to date"},
        PROJECT_SET(&p),
        OPTION_END,
    };
    int n = options_parse(c, defs, argc, argv);
    if (n < 0)
        return n;
    int rc = options_positional(c, n, 0, 1, "at most a MANIFEST");
    if (!rc)
        rc = project_open(&p, c, n ? argv[1] : NULL, NULL, stderr);
    if (!rc)
        rc = pipeline_lock(p.p, update, check, &differs, say, c, &c->err);
    rc = project_close(&p, c, rc);
    return rc ? rc : check && differs ? 2 : 0;
}

const struct command cmd_lock = {.name = "lock",
                                 .summary = "pin what the sources are now in gptqpipe.lock",
                                 .usage = "lock [MANIFEST] [--update NAME] [--check] [--set VAR=VALUE]...",
                                 .run = run};

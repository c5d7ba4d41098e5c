/* A command of the program: one file cmd_NAME.c each, one line each in commands.def. Commands wire, print and return a status; logic lies
 * below.
 *
 *     const struct command cmd_show = {.name = "show", .summary = "...", .usage = "show STAGE [--json]", .run = run};
 *     static int run(struct cmd_ctx *c, int argc, char **argv)
 *     {
 *         struct option_def defs[] = {{"json", 0, OPT_FLAG, &json, NULL, "one JSON object a line"}, OPTION_END};
 *         int n = options_parse(c, defs, argc, argv);   // n: positional arguments, now argv[1..n]
 *         if (n < 0)
 *             return n;
 *         ...
 *     }
 */
#ifndef CMD_CMD_H
#define CMD_CMD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "pipeline/base/err.h"

/* What every command takes. Strings are borrowed from argv. */
struct common_options {
    const char *dir;      /* -C: options_parse has gone there already */
    const char *cache;    /* --cache, NULL when not given */
    const char *isa;      /* "auto" unless given */
    const char *device;   /* "auto" unless given */
    const char *numerics; /* NULL when not given */
    const char *events;   /* FILE or fd:N, NULL when not given */
    int64_t threads;      /* 0 = not given: see cmd_threads */
    bool offline, quiet;
    int verbose; /* how often -v was given */
};

#define GPTQPIPE_VERSION "0.1.0"

struct command;

struct cmd_ctx {
    const struct command *command;
    struct common_options o;
    struct err err; /* filled by a command that returns a negative code; main prints it */
};

struct command {
    const char *name, *summary;
    const char *usage; /* synopsis without the program's name, one line a form */
    /* argv[0] is the command's name. Returns the exit status, or -ERR_x with c->err filled. Writes results to stdout and does not check
     * each write: main flushes and turns an error of stdout into exit 1. */
    int (*run)(struct cmd_ctx *c, int argc, char **argv);
};

#define COMMAND(name) extern const struct command cmd_##name;
#include "cmd/commands.def"
#undef COMMAND

/* --threads, or all cores this process may use. */
int cmd_threads(const struct cmd_ctx *c);
/* The cache's folder: --cache, $GPTQPIPE_CACHE, manifest_dir (may be NULL), $XDG_CACHE_HOME/gptqpipe, ~/.cache/gptqpipe. The caller frees.
 * NULL when there is no home: c->err says so. */
char *cmd_cache_dir(struct cmd_ctx *c, const char *manifest_dir);

#endif

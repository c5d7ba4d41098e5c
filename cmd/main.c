/* The program: finds the command, prints its error, turns codes into the exit status. */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/options.h"
#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"
#include "pipeline/base/pool.h"
#include "pipeline/nearest.h"

static const struct command *const commands[] = {
#define COMMAND(name) &cmd_##name,
#include "cmd/commands.def"
#undef COMMAND
};
enum { COMMANDS = sizeof commands / sizeof *commands };

int cmd_threads(const struct cmd_ctx *c)
{
    return c->o.threads > 0 ? (int)c->o.threads : pool_cpu_count();
}

char *cmd_cache_dir(struct cmd_ctx *c, const char *manifest_dir)
{
    const char *env = getenv("GPTQPIPE_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (c->o.cache)
        return xstrdup(c->o.cache);
    if (env && *env)
        return xstrdup(env);
    if (manifest_dir)
        return xstrdup(manifest_dir);
    if (xdg && *xdg)
        return io_join(xdg, "gptqpipe");
    if (home && *home)
        return xasprintf("%s/.cache/gptqpipe", home);
    err_set(&c->err, ERR_USAGE, "no place for the cache: $HOME is not set, give --cache DIR");
    return NULL;
}

static void help(FILE *out)
{
    fprintf(out, "gptqpipe %s: one manifest to one verified, reproducible GPTQ checkpoint\n\nusage: gptqpipe COMMAND [OPTIONS]\n\n",
            GPTQPIPE_VERSION);
    for (size_t i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(out, "\n`gptqpipe COMMAND -h` lists a command's options.\n");
}

static const struct command *find(struct cmd_ctx *c, const char *name)
{
    const char *names[COMMANDS];
    for (size_t i = 0; i < COMMANDS; i++) {
        names[i] = commands[i]->name;
        if (!strcmp(names[i], name))
            return commands[i];
    }
    const char *near = nearest_name(name, names, COMMANDS);
    err_set(&c->err, ERR_USAGE, "unknown command '%s'%s%s%s", name, near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
    return NULL;
}

static int fail(const struct cmd_ctx *c, int rc)
{
    char text[ERR_TEXT_BYTES + ERR_FILE_BYTES + 64];
    fprintf(stderr, "%s\n", err_format(&c->err, text, sizeof text));
    return c->err.signal ? 128 + c->err.signal : err_exit_status(rc);
}

static bool reader_gone(void)
{
    struct pollfd p = {.fd = STDOUT_FILENO};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLERR);
}

/* A reader that went away is no error of ours; anything else that kept results from being written is. The write that failed may be long
 * past, and its errno gone. */
static int flush_stdout(int status)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    if (errno == EPIPE || reader_gone())
        return status;
    fprintf(stderr, "gptqpipe: error: cannot write to standard output%s%s\n", errno ? ": " : "", errno ? strerror(errno) : "");
    return status ? status : 1;
}

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--version")) {
        printf("gptqpipe %s\n", GPTQPIPE_VERSION);
        return 0;
    }
    int first = options_leading(c, argc, argv);
    if (first == OPTIONS_HELP || (first > 0 && first < argc && !strcmp(argv[first], "help"))) {
        help(stdout);
        return 0;
    }
    if (first < 0)
        return fail(c, first);
    if (first == argc) {
        help(stderr);
        return err_exit_status(ERR_USAGE);
    }
    c->command = find(c, argv[first]);
    int rc = c->command ? c->command->run(c, argc - first, argv + first) : -ERR_USAGE;
    if (rc == OPTIONS_HELP)
        return 0;
    return rc < 0 ? fail(c, rc) : rc;
}

int main(int argc, char **argv)
{
    struct cmd_ctx c = {
        .o = {.isa = "auto", .device = "auto"}
    };
    signal(SIGPIPE, SIG_IGN);
    /* Large blocks come from the system and go back to it when freed; by itself glibc raises the threshold to 32 MB and keeps them. */
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    mallopt(M_TRIM_THRESHOLD, 4 << 20);
    return flush_stdout(run(&c, argc, argv));
}

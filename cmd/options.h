/* Declarative option tables: parsing, checks and the text of -h come from one list.
 *
 * Forms: --name VALUE, --name=VALUE, -x VALUE, -xVALUE, flags -q, -vv; options and positional arguments in any order; `--` ends the
 * options. A lone "-" is positional. The common options (-C --cache --threads --isa --device --numerics --events --offline -q -v -h) are
 * known to every command. */
#ifndef CMD_OPTIONS_H
#define CMD_OPTIONS_H

#include <stddef.h>
#include <stdint.h>

#include "cmd/cmd.h"

enum option_type {
    OPT_END,
    OPT_FLAG,  /* bool *: true when given */
    OPT_COUNT, /* int *: how often */
    OPT_BOOL,  /* bool *: true|false */
    OPT_STR,   /* const char **; `choices` ("a|b") limits it */
    OPT_INT,   /* int64_t *, within lo..hi */
    OPT_INTS,  /* struct option_ints *: "1,16,256", each within lo..hi */
    OPT_REAL,  /* double *, finite, within real_lo..real_hi when they differ */
    OPT_LIST,  /* struct option_list *: may be repeated */
};

/* Rows of an option table leave what they do not use at zero. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

struct option_list {
    const char **values; /* borrowed strings in an array that options_parse allocates and main's process keeps */
    size_t count, cap;
};

enum { OPTION_INTS_MAX = 16 };
struct option_ints {
    int64_t values[OPTION_INTS_MAX];
    size_t count;
};

struct option_def {
    const char *name; /* long name, without the dashes */
    char letter;      /* 0 = none */
    enum option_type type;
    void *into;
    const char *arg; /* what the value is called in help; NULL for flags */
    const char *help;
    const char *choices; /* OPT_STR */
    int64_t lo, hi;      /* OPT_INT, OPT_INTS */
    double real_lo, real_hi;
    bool *given; /* may be NULL: set to true when the option was written */
};

#define OPTION_END                                                                                                                         \
    {                                                                                                                                      \
        .type = OPT_END                                                                                                                    \
    }

/* Parses argv[1..argc). defs ends with OPTION_END. Positional arguments end up in argv[1..n]; returns n, or -ERR_USAGE with c->err filled,
 * or OPTIONS_HELP after -h printed the help: return it as it is. Changes to -C's folder. */
enum { OPTIONS_HELP = -1000 };
int options_parse(struct cmd_ctx *c, const struct option_def *defs, int argc, char **argv);
/* Fails with -ERR_USAGE unless lo <= n <= hi; `what` names the arguments: "MODEL and PATH". */
int options_positional(struct cmd_ctx *c, int n, int lo, int hi, const char *what);
/* Parses leading common options only; returns the index of the first other argument. For main. */
int options_leading(struct cmd_ctx *c, int argc, char **argv);
void options_help(const struct command *command, const struct option_def *defs);

#endif

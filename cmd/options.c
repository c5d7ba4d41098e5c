#include "cmd/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pipeline/base/mem.h"
#include "pipeline/nearest.h"

enum { COMMON_COUNT = 11, MAX_OPTIONS = 64 };

static bool help_asked;

static void common_defs(struct common_options *o, struct option_def defs[COMMON_COUNT])
{
    const struct option_def list[COMMON_COUNT] = {
        {"directory",                     'C',                       OPT_STR, &o->dir,     "DIR",            "go to DIR first"                                           },
        {"cache",                         0,                         OPT_STR, &o->cache,   "DIR",            "the cache's folder"                                        },
        {"threads",                       0,                         OPT_INT, &o->threads, "N",              "threads to use (default: all cores)",                        .lo = 1, .hi = 4096},
        {"isa",                     0,                                              OPT_STR,                                                 &o->isa,                                       "ISA",   "auto, scalar, avx2 or avx512",        "auto|scalar|avx2|avx512"},
        {"device", 0, OPT_STR,        &o->device,            "DEVICE",                         "auto (a GPU that has passed selftest, else the CPU), cpu or cuda[:N]"                       },
        {"numerics",                       0,                         OPT_STR,                                &o->numerics,                       "CLASS","numerics class: auto, cpu or cuda-smNN"},
        {"events",                        0,                    OPT_STR,                           &o->events,         "FILE|fd:N",          "write events as JSON lines"                                                                                             },
        {"offline",                    0,                 OPT_FLAG,                        &o->offline,                   NULL,      "no network"},
        {"quiet",                           'q',                                        OPT_FLAG,                                               &o->quiet,                                  NULL,                "errors only"                                                                                },
        {"verbose",                           'v',                                       OPT_COUNT,                                              &o->verbose,                NULL,"say more"},
        {"help",                           'h',                                          OPT_FLAG,                                                 &help_asked,                                        NULL,                                        "this text"                                                                                                                                  },
    };
    memcpy(defs, list, sizeof list);
}

/* Own options first, so that a command may give a common letter another meaning. */
struct table {
    const struct option_def *all[MAX_OPTIONS];
    struct option_def common[COMMON_COUNT];
    size_t count;
};

static void make_table(struct table *t, struct cmd_ctx *c, const struct option_def *defs)
{
    t->count = 0;
    for (; defs && defs->type != OPT_END; defs++)
        t->all[t->count++] = defs;
    common_defs(&c->o, t->common);
    for (size_t i = 0; i < COMMON_COUNT; i++)
        t->all[t->count++] = &t->common[i];
}

static bool takes_value(const struct option_def *d)
{
    return d->type != OPT_FLAG && d->type != OPT_COUNT;
}

static int bad(struct cmd_ctx *c, const struct option_def *d, const char *value)
{
    if (d->type == OPT_INT)
        return err_set(&c->err, ERR_USAGE, "--%s wants a whole number from %lld to %lld, not '%s'", d->name, (long long)d->lo,
                       (long long)d->hi, value);
    if (d->type == OPT_INTS)
        return err_set(&c->err, ERR_USAGE, "--%s wants up to %d whole numbers from %lld to %lld with commas between, not '%s'", d->name, OPTION_INTS_MAX, (long long)d->lo,
                       (long long)d->hi, value);
    if (d->type == OPT_REAL && d->real_lo != d->real_hi)
        return err_set(&c->err, ERR_USAGE, "--%s wants a number from %g to %g, not '%s'", d->name, d->real_lo, d->real_hi, value);
    if (d->type == OPT_BOOL)
        return err_set(&c->err, ERR_USAGE, "--%s wants true or false, not '%s'", d->name, value);
    if (d->choices)
        return err_set(&c->err, ERR_USAGE, "--%s wants one of %s, not '%s'", d->name, d->choices, value);
    return err_set(&c->err, ERR_USAGE, "--%s wants a number, not '%s'", d->name, value);
}

static bool is_choice(const char *choices, const char *value)
{
    size_t len = strlen(value);
    for (const char *p = choices; *p;) {
        size_t n = strcspn(p, "|");
        if (n == len && !memcmp(p, value, n))
            return true;
        p += n + (p[n] == '|');
    }
    return false;
}

static int set_number(struct cmd_ctx *c, const struct option_def *d, const char *value)
{
    char *end = NULL;
    errno = 0;
    if (d->type == OPT_INT) {
        long long v = strtoll(value, &end, 10);
        if (errno || !*value || *end || v < d->lo || v > d->hi)
            return bad(c, d, value);
        *(int64_t *)d->into = v;
        return 0;
    }
    double v = strtod(value, &end);
    if (!*value || *end || !isfinite(v) || (d->real_lo != d->real_hi && (v < d->real_lo || v > d->real_hi)))
        return bad(c, d, value);
    *(double *)d->into = v;
    return 0;
}

static int set_numbers(struct cmd_ctx *c, const struct option_def *d, const char *value)
{
    struct option_ints *list = d->into;
    const char *at = value;
    char *end;
    list->count = 0;
    do {
        errno = 0;
        long long v = strtoll(at, &end, 10);
        if (errno || end == at || (*end && *end != ',') || v < d->lo || v > d->hi || list->count == OPTION_INTS_MAX)
            return bad(c, d, value);
        list->values[list->count++] = v;
        at = end + 1;
    } while (*end);
    return 0;
}

static int set(struct cmd_ctx *c, const struct option_def *d, const char *value)
{
    struct option_list *l = d->into;
    if (d->given)
        *d->given = true;
    switch (d->type) {
    case OPT_FLAG:
        *(bool *)d->into = true;
        return 0;
    case OPT_COUNT:
        ++*(int *)d->into;
        return 0;
    case OPT_BOOL:
        if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
            return bad(c, d, value);
        *(bool *)d->into = value[0] == 't';
        return 0;
    case OPT_STR:
        if (d->choices && !is_choice(d->choices, value))
            return bad(c, d, value);
        *(const char **)d->into = value;
        return 0;
    case OPT_LIST:
        MEM_GROW(l->values, l->count, l->cap);
        l->values[l->count++] = value;
        return 0;
    case OPT_INTS:
        return set_numbers(c, d, value);
    case OPT_INT:
    case OPT_REAL:
        return set_number(c, d, value);
    case OPT_END:
        break;
    }
    BUG("option %s has no type", d->name);
}

static const struct option_def *find_long(const struct table *t, const char *name, size_t len)
{
    for (size_t i = 0; i < t->count; i++)
        if (strlen(t->all[i]->name) == len && !memcmp(t->all[i]->name, name, len))
            return t->all[i];
    return NULL;
}

static int unknown(struct cmd_ctx *c, const struct table *t, const char *name)
{
    const char *names[MAX_OPTIONS];
    for (size_t i = 0; i < t->count; i++)
        names[i] = t->all[i]->name;
    const char *near = nearest_name(name, names, t->count);
    return err_set(&c->err, ERR_USAGE, "unknown option --%s%s%s%s", name, near ? " (did you mean --" : "", near ? near : "",
                   near ? "?)" : "");
}

/* --name, --name=value, --name value. *i is at the option and moves to the last argument used. */
static int long_option(struct cmd_ctx *c, const struct table *t, int argc, char **argv, int *i)
{
    const char *name = argv[*i] + 2;
    size_t len = strcspn(name, "=");
    const struct option_def *d = find_long(t, name, len);
    if (!d) {
        char *only = xstrndup(name, len);
        int rc = unknown(c, t, only);
        free(only);
        return rc;
    }
    if (!takes_value(d))
        return name[len] ? err_set(&c->err, ERR_USAGE, "--%s takes no value", d->name) : set(c, d, NULL);
    if (name[len])
        return set(c, d, name + len + 1);
    if (*i + 1 >= argc)
        return err_set(&c->err, ERR_USAGE, "--%s wants %s", d->name, d->arg);
    return set(c, d, argv[++*i]);
}

static int short_options(struct cmd_ctx *c, const struct table *t, int argc, char **argv, int *i)
{
    for (const char *p = argv[*i] + 1; *p; p++) {
        const struct option_def *d = NULL;
        for (size_t n = 0; n < t->count && !d; n++)
            if (t->all[n]->letter == *p)
                d = t->all[n];
        if (!d)
            return err_set(&c->err, ERR_USAGE, "unknown option -%c", *p);
        if (takes_value(d)) {
            if (!p[1] && *i + 1 >= argc)
                return err_set(&c->err, ERR_USAGE, "-%c wants %s", *p, d->arg);
            return set(c, d, p[1] ? p + 1 : argv[++*i]);
        }
        int rc = set(c, d, NULL);
        if (rc)
            return rc;
    }
    return 0;
}

static int enter_dir(struct cmd_ctx *c)
{
    if (c->o.dir && chdir(c->o.dir) < 0)
        return err_sys(&c->err, errno, "-C %s", c->o.dir);
    c->o.dir = NULL;
    return 0;
}

int options_parse(struct cmd_ctx *c, const struct option_def *defs, int argc, char **argv)
{
    struct table t;
    int n = 0, rc = 0;
    make_table(&t, c, defs);
    bool ended = false;
    for (int i = 1; !rc && i < argc; i++) {
        char *a = argv[i];
        if (ended || a[0] != '-' || !a[1])
            argv[1 + n++] = a;
        else if (!strcmp(a, "--"))
            ended = true;
        else
            rc = a[1] == '-' ? long_option(c, &t, argc, argv, &i) : short_options(c, &t, argc, argv, &i);
    }
    if (help_asked) {
        options_help(c->command, defs);
        return OPTIONS_HELP;
    }
    if (!rc)
        rc = enter_dir(c);
    return rc ? rc : n;
}

int options_positional(struct cmd_ctx *c, int n, int lo, int hi, const char *what)
{
    if (n >= lo && n <= hi)
        return 0;
    return err_set(&c->err, ERR_USAGE, "%s wants %s, not %d argument%s (see `gptqpipe %s -h`)", c->command->name, what, n,
                   n == 1 ? "" : "s", c->command->name);
}

int options_leading(struct cmd_ctx *c, int argc, char **argv)
{
    struct table t;
    make_table(&t, c, NULL);
    int i = 1;
    for (; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
        int rc = argv[i][1] == '-' ? long_option(c, &t, argc, argv, &i) : short_options(c, &t, argc, argv, &i);
        if (rc)
            return rc;
    }
    if (help_asked)
        return OPTIONS_HELP;
    int rc = enter_dir(c);
    return rc ? rc : i;
}

static void print_option(const struct option_def *d)
{
    char left[64];
    int n = snprintf(left, sizeof left, "  %c%c%s --%s%s%s", d->letter ? '-' : ' ', d->letter ? d->letter : ' ', d->letter ? "," : " ",
                     d->name, d->arg ? " " : "", d->arg ? d->arg : "");
    printf("%-*s  %s\n", n > 30 ? n : 30, left, d->help);
}

void options_help(const struct command *command, const struct option_def *defs)
{
    struct common_options o = {.threads = 0};
    struct option_def common[COMMON_COUNT];
    const char *p = command->usage;
    printf("%s\n\n", command->summary);
    while (*p) {
        size_t n = strcspn(p, "\n");
        printf("%s gptqpipe %.*s\n", p == command->usage ? "usage:" : "      ", (int)n, p);
        p += n + (p[n] == '\n');
    }
    if (defs && defs->type != OPT_END)
        printf("\noptions:\n");
    for (; defs && defs->type != OPT_END; defs++)
        print_option(defs);
    printf("\ncommon options:\n");
    common_defs(&o, common);
    for (size_t i = 0; i < COMMON_COUNT; i++)
        print_option(&common[i]);
}

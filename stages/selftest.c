#include "stages/selftest.h"

#include <stdio.h>
#include <string.h>

#include "kernels/select.h"
#include "pipeline/base/proc.h"

static const enum problem_kind all_kinds[] = {KIND_F32, KIND_F16, KIND_BF16, KIND_W2, KIND_W3, KIND_W4, KIND_W8};
enum { ALL = sizeof all_kinds / sizeof *all_kinds, DENSE = 3 };

/* The CPU */

struct row {
    const struct selftest_report *report;
    const char *isa;
};

static void no_case(void *arg, const char *group, const char *what)
{
    (void)arg, (void)group, (void)what;
}

static void row_group(void *arg, const struct selftest_group *g)
{
    const struct row *row = arg;
    row->report->group(row->report->arg, row->isa, g);
}

/* Groups of products: each by itself, those of one input, and with what makes the input. */
struct names {
    const char *alone, *joined, *chain;
};

static int test_products(struct selftest *t, const struct names *names, const enum problem_kind *kinds, int count, struct err *e)
{
    int rc = selftest_products(t, names->alone, kinds, count, e);
    if (!rc)
        rc = selftest_joined(t, names->joined, kinds, count, e);
    return rc ? rc : selftest_chain(t, names->chain, kinds, count, e);
}

/* b NULL: the scalar row by itself. */
static void test_row(struct backend *b, struct backend *scalar, const char *isa, const struct selftest_report *r)
{
    static const struct names names = {"products", "joined", "chain"};
    struct row row = {r, isa};
    struct selftest t = {.b = b ? b : scalar, .ref = b ? scalar : NULL, .exact = b != NULL, .at = no_case, .done = row_group, .arg = &row};
    struct err e = {0}; /* told with the group */
    if (!test_products(&t, &names, all_kinds, ALL, &e) && !selftest_ops(&t, &e))
        selftest_quant(&t, &e);
}

int selftest_cpu(const char *isa, int threads, const struct selftest_report *r, struct err *e)
{
    const enum isa only = (enum isa)isa_parse(isa);
    struct pool *pool = pool_create(threads);
    struct backend *scalar, *b;
    int rc = device_open("scalar", "cpu", pool, &scalar, e);
    if (!rc && only != ISA_AUTO && !(rc = device_open(isa, "cpu", pool, &b, e))) /* refused when beyond the machine */
        device_close(b);
    if (!rc && (only == ISA_AUTO || only == ISA_SCALAR))
        test_row(NULL, scalar, "scalar", r);
    for (enum isa i = ISA_AVX2; !rc && i <= isa_best(); i++) {
        if (only != ISA_AUTO && only != i)
            continue;
        rc = device_open(isa_name(i), "cpu", pool, &b, e);
        if (!rc)
            test_row(b, scalar, isa_name(i), r);
        device_close(b);
    }
    device_close(scalar);
    pool_free(pool);
    return rc;
}

/* The GPU's process */

enum says { SAYS_GPU, SAYS_CASE, SAYS_GROUP, SAYS_ABSENT };
struct message {
    enum says says;
    union {
        struct device_probe gpu;
        struct selftest_group group;
        struct {
            char name[SELFTEST_NAME_BYTES], what[SELFTEST_WHAT_BYTES];
        } text; /* of a case or an absence */
    };
};
_Static_assert(sizeof(struct message) <= PROC_MESSAGE_BYTES, "a message is sent in one piece");

struct gpu_test {
    /* child */
    const char *device;
    int threads, fd;
    /* parent */
    const struct selftest_report *report;
    char on[16], group[SELFTEST_NAME_BYTES], what[SELFTEST_WHAT_BYTES]; /* what runs */
    bool failed;
};

static void say(const struct gpu_test *g, const struct message *m)
{
    proc_tell(g->fd, m, sizeof *m); /* a parent that is gone takes this process along */
}

static void say_text(const struct gpu_test *g, enum says says, const char *name, const char *what)
{
    struct message m = {.says = says};
    snprintf(m.text.name, sizeof m.text.name, "%s", name);
    snprintf(m.text.what, sizeof m.text.what, "%s", what);
    say(g, &m);
}

static void say_case(void *arg, const char *group, const char *what)
{
    say_text(arg, SAYS_CASE, group, what);
}

static void say_group(void *arg, const struct selftest_group *group)
{
    struct message m = {.says = SAYS_GROUP, .group = *group};
    say(arg, &m);
}

static void say_failed(struct gpu_test *g, const char *name, const struct err *e)
{
    struct selftest_group group = {.passed = false};
    snprintf(group.name, sizeof group.name, "%s", name);
    snprintf(group.what, sizeof group.what, "%s", e->text);
    say_group(g, &group);
}

/* By the rule that the plug-in obeys, of the simplest matrix. */
static bool has_class(struct gpu_test *g, const struct device_probe *p, const char *class)
{
    const struct select_matrix m = {.N = 64, .K = 128, .bits = 4, .group_size = 128, .capability = p->sm, .no_machete = *p->no_machete ? p->no_machete : NULL};
    const char *why;
    if (select_kernel(&m, class, &why))
        return true;
    say_text(g, SAYS_ABSENT, class, why);
    return false;
}

/* Groups of a class: "marlin", "marlin-joined", "marlin-chain". */
struct class_names {
    char joined[SELFTEST_NAME_BYTES], chain[SELFTEST_NAME_BYTES];
};

static struct names names_of(const char *class, struct class_names *n)
{
    snprintf(n->joined, sizeof n->joined, "%s-joined", class);
    snprintf(n->chain, sizeof n->chain, "%s-chain", class);
    return (struct names){class, n->joined, n->chain};
}

/* A class of quantized products, pinned; what has no classes with the first, which serves every matrix. A class that the device has and that errs fails the device: by
 * kernels/select.def `kernel: auto` takes it for some matrix, machete on 9.0 alone. */
static int test_class(struct gpu_test *g, const char *class, bool first, struct pool *pool, struct backend *cpu)
{
    static const struct names dense = {"dense", "dense-joined", "dense-chain"};
    struct class_names room;
    const struct names names = names_of(class, &room);
    struct selftest t = {.ref = cpu, .at = say_case, .done = say_group, .arg = g};
    struct err e = {0};
    say_case(g, class, "opening the device");
    int rc = device_open_any(&(struct device_want){.device = g->device, .kernel = class}, pool, &t.b, &e);
    if (rc) {
        say_failed(g, class, &e);
        return rc;
    }
    if (first) {
        rc = selftest_ops(&t, &e);
        if (!rc)
            rc = test_products(&t, &dense, all_kinds, DENSE, &e);
        if (!rc)
            rc = test_products(&t, &names, all_kinds + DENSE, ALL - DENSE, &e);
    } else {
        rc = test_products(&t, &names, (const enum problem_kind[]){KIND_W4, KIND_W8}, 2, &e);
    }
    say_case(g, class, "closing the device");
    device_close(t.b);
    return rc;
}

static int gpu_body(void *arg, int fd)
{
    struct gpu_test *g = arg;
    struct message m = {.says = SAYS_GPU};
    struct backend *cpu = NULL;
    struct err e = {0};
    char device[16];
    size_t classes = 0;
    g->fd = fd;
    device_probe(g->device, &m.gpu);
    say(g, &m);
    if (!m.gpu.found)
        return 0;
    snprintf(device, sizeof device, "cuda:%d", m.gpu.index);
    g->device = device;
    struct pool *pool = pool_create(g->threads);
    int rc = device_open(NULL, "cpu", pool, &cpu, &e);
    if (rc)
        say_failed(g, "reference", &e);
    while (select_class(classes))
        classes++;
    for (size_t i = classes; !rc && i-- > 0;)
        if (has_class(g, &m.gpu, select_class(i)))
            rc = test_class(g, select_class(i), i + 1 == classes, pool, cpu);
    device_close(cpu);
    return rc != 0;
}

/* The parent */

static void hear_group(struct gpu_test *g, const struct selftest_group *group)
{
    g->failed |= !group->passed;
    g->report->group(g->report->arg, g->on, group);
}

static void hear(void *arg, const void *message)
{
    struct gpu_test *g = arg;
    const struct message *m = message;
    switch (m->says) {
    case SAYS_GPU:
        snprintf(g->on, sizeof g->on, "cuda:%d", m->gpu.index);
        g->report->gpu(g->report->arg, &m->gpu);
        break;
    case SAYS_CASE:
        snprintf(g->group, sizeof g->group, "%s", m->text.name);
        snprintf(g->what, sizeof g->what, "%s", m->text.what);
        break;
    case SAYS_GROUP:
        hear_group(g, &m->group);
        break;
    case SAYS_ABSENT:
        g->report->absent(g->report->arg, g->on, m->text.name, m->text.what);
        break;
    }
}

/* The group under way ended with the process. */
static void hear_end(struct gpu_test *g, const struct proc_end *end, int limit_s)
{
    struct selftest_group group = {.passed = false};
    const char *left = end->number ? "; it cannot be killed and was left behind" : " and was killed";
    if (end->how == PROC_EXITED && (end->number == 0 || g->failed))
        return;
    snprintf(group.name, sizeof group.name, "%s", g->group);
    if (end->how == PROC_LATE)
        snprintf(group.what, sizeof group.what, "%s: did not end in %d s%s", g->what, limit_s, left);
    else if (end->how == PROC_DIED)
        snprintf(group.what, sizeof group.what, "%s: crashed, signal %d (%s)", g->what, end->number, strsignal(end->number));
    else
        snprintf(group.what, sizeof group.what, "%s: its process ended with status %d", g->what, end->number);
    hear_group(g, &group);
}

int selftest_gpu(const char *device, int threads, int limit_s, const struct selftest_report *r, struct err *e)
{
    struct gpu_test g = {.device = device, .threads = threads, .report = r, .on = "cuda", .group = "device", .what = "asking the plug-in"};
    struct proc_end end;
    int rc = proc_run(gpu_body, &g, sizeof(struct message), hear, limit_s, &end, e);
    if (!rc)
        hear_end(&g, &end, limit_s);
    return rc;
}

#include "kernels/select.h"

#include <string.h>

/* The rule that keeps a quantized matrix from a class, or NULL. */

static const char *marlin_rule(const struct select_matrix *m)
{
    if (m->bits != 4 && m->bits != 8)
        return "marlin takes 4 and 8 bits";
    if (m->group_size > 0 && m->group_size < m->K && (m->group_size < 32 || (m->group_size & (m->group_size - 1)) != 0))
        return "marlin takes groups of 32, 64, 128, ... inputs, or one group";
    return NULL;
}

static const char *machete_rule(const struct select_matrix *m)
{
    if (m->no_machete)
        return m->no_machete;
    if (m->capability && m->capability != 90)
        return "machete needs compute capability 9.0";
    if (m->bits != 4 && m->bits != 8)
        return "machete takes 4 and 8 bits";
    if (marlin_rule(m))
        return "machete takes groups of 32, 64, 128, ... inputs, or one group";
    return NULL;
}

static const char *simple_rule(const struct select_matrix *m)
{
    (void)m;
    return NULL;
}

static const struct kernel_class {
    const char *name;
    const char *(*rule)(const struct select_matrix *m);
} marlin = {"marlin", marlin_rule}, machete = {"machete", machete_rule}, simple = {"simple", simple_rule}, *const classes[] = {&machete, &marlin, &simple};

static const struct row {
    int capability, bits;
    int64_t N, K;
    const struct kernel_class *class;
} rows[] = {
#define SELECT(capability, bits, N, K, class) {capability, bits, N, K, &class},
#include "kernels/select.def"
#undef SELECT
};

static const char *best(const struct select_matrix *m, const char **why)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row *r = &rows[i];
        if ((r->capability && r->capability != m->capability) || r->bits != m->bits || m->N < r->N || m->K < r->K)
            continue;
        const char *rule = r->class->rule(m);
        if (!rule)
            return r->class->name;
        *why = rule;
    }
    if (!**why && marlin_rule(m))
        *why = marlin_rule(m);
    return simple.name;
}

const char *select_kernel(const struct select_matrix *m, const char *asked, const char **why)
{
    *why = "";
    if (!m->bits)
        return "dense";
    if (!strcmp(asked, "auto"))
        return best(m, why);
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (!strcmp(asked, classes[i]->name)) {
            const char *rule = classes[i]->rule(m);
            *why = rule ? rule : "";
            return rule ? NULL : classes[i]->name;
        }
    *why = "it is not in this version";
    return NULL;
}

const char *select_class(size_t i)
{
    return i < sizeof classes / sizeof *classes ? classes[i]->name : NULL;
}

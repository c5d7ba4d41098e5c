#include "stages/format/targets.h"

#include <stddef.h>
#include <string.h>

#include "pipeline/base/buf.h"

enum { MAX_GROUPS = 8 };

struct target {
    const char *name;
    unsigned bits;
    bool asymmetric;
    int groups[MAX_GROUPS];
    bool ragged, mixed;
    int k_multiple, n_multiple;
    const char *why;
};

#define BITS(b) (1u << (b))
#define UNWRAP(...) __VA_ARGS__
#define TARGET(name, bits, asym, groups, ragged, mixed, k, n, why) {#name, bits, asym, UNWRAP groups, ragged, mixed, k, n, why},
static const struct target targets[] = {
#include "stages/format/targets.def"
};
#undef TARGET

const struct target *target_find(const char *name)
{
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
        if (!strcmp(targets[i].name, name))
            return &targets[i];
    return NULL;
}

bool target_allows_mixed(const struct target *t)
{
    return t->mixed;
}

static bool takes_group(const struct target *t, int group)
{
    if (!t->groups[0])
        return true;
    for (int i = 0; i < MAX_GROUPS && t->groups[i]; i++)
        if (t->groups[i] == group)
            return true;
    return false;
}

/* "4, 8" or "-1, 32, 64, 128" */
static const char *list_text(const struct target *t, bool groups, struct buf *b)
{
    for (int i = 0; i < (groups ? MAX_GROUPS : 16); i++)
        if (groups ? t->groups[i] != 0 : (t->bits >> i & 1u))
            buf_printf(b, "%s%d", b->len ? ", " : "", groups ? t->groups[i] : i);
    return buf_str(b);
}

int target_check_module(const struct target *t, const char *module, int64_t N, int64_t K, const struct quant_params *p, struct err *e)
{
    struct buf b = BUF_INIT;
    int rc = 0, k_multiple = p->bits == 3 ? 32 : t->k_multiple, n_multiple = p->bits == 3 ? 32 : t->n_multiple;
    if (!(t->bits >> p->bits & 1u))
        rc = err_set(e, ERR_MANIFEST, "%s has bits %d; target %s takes %s (%s)", module, p->bits, t->name, list_text(t, false, &b), t->why);
    else if (!p->sym && !t->asymmetric)
        rc = err_set(e, ERR_MANIFEST, "%s has sym false; target %s takes sym true only (%s)", module, t->name, t->why);
    else if (!takes_group(t, p->group_size))
        rc = err_set(e, ERR_MANIFEST, "%s has group_size %d; target %s takes %s (%s)", module, p->group_size, t->name, list_text(t, true, &b), t->why);
    else if (!t->ragged && p->group_size > 0 && K % p->group_size)
        rc = err_set(e, ERR_MANIFEST, "%s: group_size %d does not divide K=%lld; target %s takes whole groups only (%s)", module, p->group_size, (long long)K, t->name, t->why);
    else if (K % k_multiple || N % n_multiple)
        rc = err_set(e, ERR_MANIFEST, "%s is [N=%lld, K=%lld]; target %s at %d bits takes multiples of [%d, %d] (%s)", module, (long long)N, (long long)K, t->name, p->bits,
                     n_multiple, k_multiple, t->why);
    buf_release(&b);
    return rc;
}

const char *target_vllm_kernel(int capability, int64_t N, int64_t K, const struct quant_params *p)
{
    if (capability == 90 && N % 128 == 0 && K % 64 == 0 && p->group_size != 32)
        return "Machete";
    if (capability >= 80 && capability < 90 && p->bits == 8 && p->group_size == -1 && N % 16 == 0 && K % 16 == 0 && !p->desc_act)
        return "AllSpark";
    return "Marlin";
}

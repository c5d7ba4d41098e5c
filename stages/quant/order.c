#include "stages/quant/order.h"

#include <stdlib.h>

#include "pipeline/base/mem.h"

struct item {
    double value;
    int64_t index;
};

static int falling(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* Sorts columns first..first+n-1 into perm[0..n). */
static void sort_range(const double *diag, int64_t first, int64_t n, struct item *scratch, int64_t *perm)
{
    for (int64_t i = 0; i < n; i++)
        scratch[i] = (struct item){diag[first + i], first + i};
    qsort(scratch, (size_t)n, sizeof *scratch, falling);
    for (int64_t i = 0; i < n; i++)
        perm[i] = scratch[i].index;
}

void order_identity(int64_t K, int64_t *perm)
{
    for (int64_t i = 0; i < K; i++)
        perm[i] = i;
}

void order_descending(const double *diag, int64_t K, int64_t *perm)
{
    struct item *scratch = xcalloc((size_t)K, sizeof *scratch);
    sort_range(diag, 0, K, scratch, perm);
    free(scratch);
}

void order_group_aware(const double *diag, int64_t K, int64_t group_size, int64_t *perm)
{
    int64_t groups = K / group_size, at = 0; /* whole groups only */
    struct item *by_group = xcalloc((size_t)groups + 1, sizeof *by_group),
                *scratch = xcalloc(groups ? (size_t)group_size : 1, sizeof *scratch);
    for (int64_t g = 0; g < groups; g++) {
        by_group[g] = (struct item){diag[g * group_size], g};
        for (int64_t k = g * group_size; k < (g + 1) * group_size; k++)
            if (diag[k] > by_group[g].value)
                by_group[g].value = diag[k];
    }
    qsort(by_group, (size_t)groups, sizeof *by_group, falling);
    for (int64_t g = 0; g < groups; g++, at += group_size)
        sort_range(diag, by_group[g].index * group_size, group_size, scratch, perm + at);
    for (; at < K; at++)
        perm[at] = at;
    free(scratch);
    free(by_group);
}

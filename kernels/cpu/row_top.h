/* The highest logit of a row and where it is; NaN never wins. */
#ifndef KERNELS_CPU_ROW_TOP_H
#define KERNELS_CPU_ROW_TOP_H

#include "kernels/cpu/cpu_ops.h"

/* -inf for a row of NaN. */
static inline float row_max(const float *l, int64_t V)
{
    const v16 none = v16_set1(-HUGE_VALF);
    v16 most = none;
    for (int64_t i = 0; i < V; i += PANEL) {
        int n = v16_lanes(i, V);
        most = v16_max(v16_keep_n(v16_load_n(l + i, n), n, none), most);
    }
    return v16_max_all(most);
}

/* The first index that holds the maximum; 0 when none does (a row of NaN). */
static inline int32_t row_top1(const float *l, int64_t V, float max)
{
    for (int64_t i = 0; i < V; i += PANEL) {
        int n = v16_lanes(i, V);
        unsigned hit = v16m_bits(v16m_and(v16_eq(v16_load_n(l + i, n), v16_set1(max)), v16m_first(n)));
        if (hit)
            return (int32_t)(i + __builtin_ctz(hit));
    }
    return 0;
}

#endif

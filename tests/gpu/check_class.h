/* What a kernel class says of itself to the checks in check_class.cuh, which its program includes behind it. The functions' names are the same for all classes:
 *
 *   struct packed                    a packed matrix on the device
 *   struct config                    how to run it
 *   class_open(&prop, small)         once; prop is the device's. Where the class does not run: a skip, and the end
 *   class_pack(q, &k, &perm)         packs and uploads; perm on the device, or NULL
 *   class_Kx(&k), class_free(&k)
 *   class_choose(&k, M, mode)        the class' own config
 *   class_exact(&c)                  whether its weights are exact
 *   class_text(&c, text, size)       the config in words
 *   class_crowd(on)                  as if the device were so small that a block has many tiles; false: the class has no such
 *   class_fixed(&k, list)            all configs whose rows are to have the bits of class_choose(.., MARLIN_FIXED), whatever M; their number, at most CASES_MAX
 *   class_configs(&k, small, list)   all configs that fit k, each with an M, the simplest first; their number, at most CASES_MAX
 *   class_launch(&k, &c, &call, stream, &e)   on the workspace number call->space, where the class has any
 *   class_refusals(&k, &call, &what) true when calls that cannot run are refused for the right reason; call is a good one of M = 4 with room for 9 rows
 *   class_clean(space)               true when a workspace is as it was in the beginning */
#ifndef TESTS_GPU_CHECK_CLASS_H
#define TESTS_GPU_CHECK_CLASS_H

#include "kernels/cuda/marlin.h"
#include "kernels/half.h"
#include "tests/gpu/gpu.h"

enum { SPACES = 4, CASES_MAX = 2048 };

/* One launch, as all classes take it. */
struct class_call {
    enum marlin_act act;
    const uint16_t *x;
    int64_t ldx, M;
    void *y;
    int64_t ldy;
    bool y_f32;
    const float *bias;
    bool accumulate, pdl, halves; /* halves: of M rows of x, y has M / 2 */
    int space;
};

#endif

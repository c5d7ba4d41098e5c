/* The artifact of one quantize node: layer.N.safetensors (lm_head.safetensors; with inputs original layer.N.MODULE.safetensors) and its report.
 *
 * Per module, named by its name inside the layer ("self_attn.q_proj"; "lm_head"):
 *   NAME.codes  U8 [N, ceil(K*bits/8)]  codes along K, row by row, lowest bits first
 *   NAME.scales F16 [G,N]   NAME.zeros U8 [G,N] (true zero points)   NAME.g_idx I32 [K]
 * Bits follow from the widths; the report says them too. A layer without quantized modules has a file without tensors.
 */
#ifndef STAGES_FORMAT_LAYER_H
#define STAGES_FORMAT_LAYER_H

#include <stdbool.h>

#include "kernels/tensor.h"
#include "pipeline/base/err.h"
#include "pipeline/base/fileset.h"
#include "stages/lm/safetensors.h"

struct layer_module {
    const char *name;  /* borrowed */
    const struct qmatrix *q; /* borrowed */
};
int layer_write(const char *path, const struct layer_module *m, size_t n, struct err *e);

/* Reads one module of an open layer file. sym and group_size are the caller's to know (resolved table); shapes are checked against N and K. The caller qmatrix_free()s.
 * -ERR_NOTFOUND when the module is not there. */
int layer_read(const struct st_set *set, const char *name, int64_t N, int64_t K, int bits, int group_size, bool sym, struct qmatrix *out, struct err *e);

#endif

/* From a quantized matrix of a checkpoint to the layout of marlin_layout.h, on the host: marlin_plan says what the packed form takes, marlin_pack fills buffers of
 * those sizes, which go to the device as they are. No CUDA in here.
 *
 * Anything struct qwords can hold runs:
 *   bits    4 and 8 as they are; 2 and 3 in fields of 4 bits
 *   zeros   all equal: one number in the launch; otherwise a table like the scales'
 *   N, K    padded to multiples of 64 by codes whose columns are never stored and whose inputs are read as 0
 *   groups  K falls into units of 32, 64, 128, ... inputs, or one unit for all of K, each with one row of scales. Groups that begin at multiples of 32 (64, ...) in order
 *           of k take the inputs as they come. Otherwise (act-order, odd sizes) inputs are sorted by group, each group filled up to whole units, and X has to be
 *           gathered through `perm` first (marlin_gather in marlin.h); a scale row is repeated for each unit of its group.
 * Thread-safe for distinct outputs. */
#ifndef KERNELS_CUDA_MARLIN_PACK_H
#define KERNELS_CUDA_MARLIN_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/cuda/marlin_part.h"
#include "kernels/tensor.h"
#include "pipeline/base/err.h"

struct marlin_shape {
    int64_t N, K;         /* of the layer */
    int64_t Kx;           /* columns of X that the kernel reads: K, or the padded K of the gathered X */
    int bits;             /* stored: 4 or 8 */
    int strips, k_chunks; /* N and Kx in chunks of 64, rounded up */
    int scale_strips;     /* of a row of the scale table: strips, or those of the joined matrix that this one is a part of */
    int unit_shift;       /* -1: units of 32; s: units of 64 << s; 31: one unit */
    int rows;             /* of the scale table: enough for every chunk */
    bool zero_table;      /* zeros differ */
    bool permuted;        /* X has to be gathered */
    float zero;           /* when there is no table */
    size_t code_bytes, scale_bytes, zero_bytes, perm_bytes; /* zero_bytes, perm_bytes: 0 when not needed */
};

/* -ERR_SHAPE: empty, or more than 2^31 units. -ERR_FORMAT: zero or group out of range, named with its place. -ERR_NOMEM. */
int marlin_plan(const struct qwords *q, struct marlin_shape *s, struct err *e);

/* The same for a symmetric matrix in its own order that is not there yet: zero 2^(bits - 1), groups of 32, 64, 128, ... or -1. */
int marlin_plan_plain(int64_t N, int64_t K, int bits, int group_size, struct marlin_shape *s, struct err *e);

/* codes [code_bytes / 4], scales [scale_bytes / 2] f16, zeros [zero_bytes / 2] f16, perm [perm_bytes / 4]: source column of each column of the gathered X, -1 for a
 * filled-up one; zeros and perm may be NULL when their size is 0, codes when they are not wanted. s is what marlin_plan made for this q. */
int marlin_pack(const struct qwords *q, const struct marlin_shape *s, uint32_t *codes, uint16_t *scales, uint16_t *zeros, int32_t *perm, struct err *e);

/* Whether n matrices can be joined (marlin_part.h), and then the shape of the whole: they agree in K, bits, units and zeros, and every one but the last is whole strips. Whether
 * they take their inputs in one order is for the caller to see. */
bool marlin_join(const struct marlin_shape *const *part, int n, struct marlin_shape *whole);
/* Of a part whose first output is the whole's `from`. */
struct marlin_place marlin_place(const struct marlin_shape *part, const struct marlin_shape *whole, int64_t from);

/* The packed weight at (n, column k of the X that the kernel reads), exact: for tests. */
float marlin_packed_weight(const struct marlin_shape *s, const uint32_t *codes, const uint16_t *scales, const uint16_t *zeros, int64_t n, int64_t k);

#ifdef __cplusplus
}
#endif

#endif

/* From a quantized matrix of a checkpoint to the layout of machete_layout.h, on the host: machete_plan says what the packed form takes, machete_pack fills buffers of those
 * sizes, which go to the device as they are. No CUDA in here. What it takes, and what it does about bits, zeros, ragged N and K, groups and act-order, is what
 * marlin_pack.h says; only N is filled up to multiples of 128 and K to multiples of 128. Thread-safe for distinct outputs. */
#ifndef KERNELS_CUDA_MACHETE_PACK_H
#define KERNELS_CUDA_MACHETE_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/cuda/marlin_part.h"
#include "kernels/tensor.h"
#include "pipeline/base/err.h"

struct machete_shape {
    int64_t N, K;          /* of the layer */
    int64_t Kx;            /* columns of X that the kernel reads: K, or the padded K of the gathered X */
    int bits;              /* stored: 4 or 8 */
    int stripes, k_blocks; /* N in stripes of 128 and Kx in blocks of 64, filled up; k_blocks is even */
    int unit_shift;        /* -1: units of 32; s: units of 64 << s; 31: one unit */
    int rows;              /* of scales in a stripe: enough for every block */
    bool zero_table;       /* zeros differ */
    bool permuted;         /* X has to be gathered */
    float zero;            /* when there is no table */
    size_t code_bytes, scale_bytes, zero_bytes, perm_bytes; /* zero_bytes, perm_bytes: 0 when not needed */
};

/* -ERR_SHAPE: empty, or more than 2^31 blocks. -ERR_FORMAT: zero or group out of range, named with its place. -ERR_NOMEM. */
int machete_plan(const struct qwords *q, struct machete_shape *s, struct err *e);

/* The same for a symmetric matrix in its own order that is not there yet: zero 2^(bits - 1), groups of 32, 64, 128, ... or -1. */
int machete_plan_plain(int64_t N, int64_t K, int bits, int group_size, struct machete_shape *s, struct err *e);

/* codes [code_bytes / 4], scales [scale_bytes / 2] f16, zeros [zero_bytes / 2] f16, perm [perm_bytes / 4]: source column of each column of the gathered X, -1 for a
 * filled-up one; zeros and perm may be NULL when their size is 0. s is what machete_plan made for this q. */
int machete_pack(const struct qwords *q, const struct machete_shape *s, uint32_t *codes, uint16_t *scales, uint16_t *zeros, int32_t *perm, struct err *e);

/* As marlin_join and marlin_place: stripes. */
bool machete_join(const struct machete_shape *const *part, int n, struct machete_shape *whole);
struct marlin_place machete_place(const struct machete_shape *part, const struct machete_shape *whole, int64_t from);

/* The packed weight at (n, column k of the X that the kernel reads), exact: for tests. */
float machete_packed_weight(const struct machete_shape *s, const uint32_t *codes, const uint16_t *scales, const uint16_t *zeros, int64_t n, int64_t k);

#ifdef __cplusplus
}
#endif

#endif

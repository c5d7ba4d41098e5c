/* `kernel: machete`: Y[M,N] = X[M,K] * W^T on compute capability 9.0, W packed by machete_pack.h, f16 or bf16 activations, sums in f32. Plain C: no CUDA header is needed.
 *
 *   machete_device_open(&dev)                     once a device, with it current
 *   machete_plan, machete_pack                    on the host (machete_pack.h); codes, scales, zeros, perm go to the device as they are, at multiples of 16 bytes
 *   each call:  machete_choose(...) or a config of your own;  marlin_gather (marlin.h) when shape.permuted (or to convert f32);  machete_launch
 * There is no workspace.
 *
 * Numerics: equal bits for equal (shape, M, config); nothing depends on timing. Rows of one launch do not influence each other. Weights are exact for tiles of up to 128 rows by
 * 128 columns; larger ones round (q - zero) * scale to the activations' type.
 * For a row's result to be the same whatever M is, ask machete_choose for MARLIN_FIXED, as the plug-in does. How K is cut then follows from N, K and the device alone, as is best
 * for a few rows; tiles of 32, 64 or 128 rows by how many there are all do the same for an output (machete_kernel.cuh, "Order of additions"; that wgmma does is an assumption,
 * which the checks on a device test). Many rows are taken by blocks that go through all of K themselves and add it up as cut.
 * What it costs, counted and not measured: with halves a tile of 128 rows is 64 tokens, so 1024 tokens make every weight a number 16 times (by 32 rows it was 64 times), beside
 * products that keep the tensor cores busy for about 94 of 100 cycles (machete_choose.c); adding up by spans costs up to 12 of 100 more, most where K is short and N small; and halves are twice
 * the products.
 * Joined matrices: as marlin.h says.
 * Error bounds, to be enforced by tests/gpu/check_machete.cu, ref the f64 product of dequantized weights and rounded X: ||Y - ref|| <= 2e-3 ||ref|| (f16), 1e-2 (bf16) over a
 * row of 64 outputs and more; for any row 5e-5, 5e-4 of it when what rounding Y and (256 rows, 128 by 256 columns) the weights may cost is taken off.
 *
 * machete_inst.cu is compiled once a line of machete.def, for sm_90a and nothing else; machete.cu is host code, for any target.
 * The plug-in takes it where it is named and where select.def names it (weight_machete.c), with halves and MARLIN_FIXED.
 * This kernel has not met a device: the emulator (tests/kernels/check_machete_emu.c) runs it as it stands, the compile gates (tests/cuda/machete.t) look at its machine code.
 * Thread-safe. */
#ifndef KERNELS_CUDA_MACHETE_H
#define KERNELS_CUDA_MACHETE_H

#include "kernels/cuda/machete_pack.h"
#include "kernels/cuda/machete_schedule.h"
#include "kernels/cuda/marlin.h"

#ifdef __cplusplus
extern "C" {
#endif

struct machete_device {
    int sms, capability;                      /* 90 for 9.0, the only one that runs it */
    int block_shared, sm_shared;              /* bytes of shared memory a block can have, and an SM has */
    void *encode_map;                         /* the driver's cuTensorMapEncodeTiled */
    int clusters[2][MACHETE_CLUSTER_MAX + 1]; /* [b - 1][n]: clusters of n blocks that are on the device at a time, with b blocks an SM */
};

struct machete_config {
    int rows, wide;  /* of an output tile: rows by 128 * wide; machete.def has the pairs there are */
    int stages;      /* of the pipeline, 2..32 */
    int blocks;      /* an SM; 1 or 2 */
    int split;       /* blocks that share the K of a tile, as a cluster: 1..8 */
    int share;       /* blocks that share the X of their tiles, as a cluster: 1 or 2; not together with split */
    int spans;       /* that K is cut into; 0: split. More than split only where split is 1, in tiles of fixed mode: each block goes through all of them */
};

/* Where the device's copies of a packed matrix lie. */
struct machete_weight {
    const uint32_t *codes;
    const uint16_t *scales, *zeros; /* zeros: NULL without a table */
};

struct machete_call {
    const struct machete_shape *shape;
    struct machete_weight weight;
    enum marlin_act act;
    const void *x;        /* [M, ldx] of act, Kx columns; 16-byte aligned, ldx a multiple of 8. Columns from Kx on are never read */
    int64_t ldx, M;
    void *y;              /* [M, ldy] (halves: [M / 2, ldy]): f32 (y_f32) or act */
    int64_t ldy;
    bool y_f32;
    const float *bias;    /* [N] or NULL */
    struct marlin_out more[MARLIN_PARTS - 1]; /* of a joined matrix: where its further parts go. y, ldy and bias are then the first part's */
    bool accumulate;      /* add to what y holds; the product and the bias first */
    bool halves;          /* rows 2m and 2m + 1 of x (M even) are one activation in two parts: their results are added up and are row m of y. Tiles of exact weights only */
    bool pdl;             /* programmatic dependent launch: the launch may overlap the end of the kernel before it on the stream, which must not be what wrote codes, scales or
                             zeros. Everything else is waited for */
    struct machete_report *report; /* memory of the host that the device can write, or NULL: who waited in vain, in builds with MACHETE_GUARD */
};

/* Properties of the current device; raises the kernels' limits on it. -ERR_UNSUPPORTED but on 9.0, -ERR_DEVICE. */
int machete_device_open(struct machete_device *d, struct err *e);

/* The config for a shape and M from the table in machete_choose.c. */
void machete_choose(const struct machete_device *d, const struct machete_shape *s, int64_t M, enum marlin_mode mode, struct machete_config *c);
/* The most stages that fit, at most `most`; below 2 the config cannot run. */
int machete_fit_stages(const struct machete_device *d, const struct machete_shape *s, const struct machete_config *c, int most);
/* -ERR_UNSUPPORTED with the rule that c breaks for this shape and M. */
int machete_config_check(const struct machete_device *d, const struct machete_shape *s, int64_t M, const struct machete_config *c, struct err *e);
/* Dynamic shared memory of a block. */
size_t machete_shared_bytes(const struct machete_shape *s, const struct machete_config *c);

/* Launches on `stream` (a cudaStream_t). Errors of the call itself are returned (-ERR_SHAPE, -ERR_UNSUPPORTED, -ERR_DEVICE); those of the kernel's run come with the
 * stream's next synchronization. A captured launch keeps pointers and M. */
int machete_launch(const struct machete_device *d, const struct machete_call *call, const struct machete_config *c, void *stream, struct err *e);

#ifdef __cplusplus
}
#endif

#endif

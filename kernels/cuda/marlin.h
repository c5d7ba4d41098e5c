/* `kernel: marlin`: Y[M,N] = X[M,K] * W^T on a CUDA device, W packed by marlin_pack.h, f16 or bf16 activations, sums in f32. Plain C: no CUDA header is needed.
 *
 *   marlin_device_open(&dev)                      once a device, with it current
 *   marlin_plan, marlin_pack                      on the host (marlin_pack.h); codes, scales, zeros, perm go to the device as they are, at multiples of 16 bytes
 *   workspace of marlin_workspace_bytes, zeroed   once; any number of layers on one stream share the largest
 *   each call:  marlin_choose(...) or a config of your own;  marlin_gather when shape.permuted (or to convert f32);  marlin_launch
 *
 * Numerics: equal bits for equal (shape, M, config, device); nothing depends on timing. Rows of one launch do not influence each other. Weights are exact for tiles of 8,
 * 16 and 32 rows; 48 and 64 round (q - zero) * scale to the activations' type.
 * For a row's result to be the same whatever M is, ask marlin_choose for MARLIN_FIXED, as the plug-in does. Columns of a tile and the parts of K then follow from N, K and
 * the device alone, as is best for a few rows; rows are cut into slabs of 8, 16 or 32, which all compute an output by the same instructions on the same operands in the
 * same order. What it costs: codes are read (from L2 mostly) and made numbers once for every slab, so at most 32 rows share that where tiles of 64 would, which no registers are
 * left for (marlin.def); and every slab adds up its own parts of K, which one block could have walked alone. With halves a slab is 4, 8 or 16 tokens, 1024 tokens are 64 slabs.
 * None of it has been measured. Predicted: mma.sync alone keeps a slab of 32 rows busy for more than twice as long as codes and sums do, so that the numbers made anew cost
 * little; the beginnings and ends of slabs cost nothing for a slab or two and a factor of up to 2 for hundreds of rows on matrices below 30 MB.
 * A joined matrix (marlin_part.h) is one matrix of all its parts' outputs, and its bits are that matrix's: they depend on the N of the whole. What it costs: two comparisons of a
 * column and indexed reads of the arguments for each store; what it saves is a launch a part, and the blocks that a small part (1024 outputs on 132 SMs) leaves idle.
 * Error bounds, enforced by tests/gpu/check_marlin.cu, ref the f64 product of dequantized weights and rounded X: ||Y - ref|| <= 2e-3 ||ref|| (f16), 1e-2 (bf16) over a row
 * of 64 outputs and more; for any row 5e-5, 5e-4 of it when what rounding Y and (48, 64 rows) the weights may cost is taken off.
 *
 * Calls on distinct streams need distinct workspaces. Thread-safe otherwise. */
#ifndef KERNELS_CUDA_MARLIN_H
#define KERNELS_CUDA_MARLIN_H

#include "kernels/cuda/marlin_pack.h"
#include "kernels/cuda/marlin_part.h"

#ifdef __cplusplus
extern "C" {
#endif

enum marlin_act { MARLIN_F16, MARLIN_BF16 };
enum marlin_mode { MARLIN_FAST, MARLIN_FIXED };

struct marlin_device {
    int sms, capability;                 /* 90 for 9.0 */
    int block_shared, sm_shared;         /* bytes of shared memory a block can have, and an SM has */
    bool pdl;                            /* the kernels' code waits for the kernel before (marlin_waits) */
};

struct marlin_config {
    int rows;        /* of an output tile: 8 (M <= 8 only), 16, 32, 48, 64 */
    int wn_log2;     /* tile columns: 64 << wn_log2; K in steps of 512 >> wn_log2. marlin.def has the pairs of rows and wn_log2 that there are */
    int stages;      /* of the pipeline, 2..8 */
    int blocks;      /* an SM; 1 or 2 */
    bool fixed;      /* rows are cut into slabs of one tile, each computed alike */
    int deal;        /* blocks that the tiles (fixed: of a slab) are dealt to, at most; 0: as many as run at once */
};

/* Where the device's copies of a packed matrix lie. */
struct marlin_weight {
    const uint32_t *codes;
    const uint16_t *scales, *zeros; /* zeros: NULL without a table */
};

struct marlin_call {
    const struct marlin_shape *shape;
    struct marlin_weight weight;
    enum marlin_act act;
    const void *x;        /* [M, ldx] of act, Kx columns; 16-byte aligned, ldx a multiple of 8. Columns from Kx on are never read */
    int64_t ldx, M;
    void *y;              /* [M, ldy] (halves: [M / 2, ldy]): f32 (y_f32) or act */
    int64_t ldy;
    bool y_f32;
    const float *bias;    /* [N] or NULL */
    struct marlin_out more[MARLIN_PARTS - 1]; /* of a joined matrix: where its further parts go. y, ldy and bias are then the first part's */
    bool accumulate;      /* add to what y holds; the product and the bias first */
    bool halves;          /* rows 2m and 2m + 1 of x (M even) are one activation in two parts: their results are added up and are row m of y. Exact weights only */
    void *workspace;
    size_t workspace_bytes;
    bool pdl;             /* programmatic dependent launch, where the device's kernels have it: the launch may overlap the end of the kernel before it on the stream, which
                             must not be what wrote codes, scales or zeros. Everything else is waited for */
};

/* Properties of the current device; raises the kernels' shared-memory limits on it. -ERR_UNSUPPORTED before sm_80, -ERR_DEVICE. */
int marlin_device_open(struct marlin_device *d, struct err *e);

/* The config for a shape and M from the table in marlin_choose.c. */
void marlin_choose(const struct marlin_device *d, const struct marlin_shape *s, int64_t M, enum marlin_mode mode, struct marlin_config *c);
/* The most stages that fit, at most `most`; below 2 the config cannot run. */
int marlin_fit_stages(const struct marlin_device *d, const struct marlin_shape *s, const struct marlin_config *c, int most);
/* -ERR_UNSUPPORTED with the rule that c breaks for this shape and M. */
int marlin_config_check(const struct marlin_device *d, const struct marlin_shape *s, int64_t M, const struct marlin_config *c, struct err *e);
size_t marlin_workspace_bytes(const struct marlin_device *d, const struct marlin_shape *s, int64_t M, const struct marlin_config *c);
/* Dynamic shared memory of a block. */
size_t marlin_shared_bytes(const struct marlin_shape *s, const struct marlin_config *c);

/* Launches on `stream` (a cudaStream_t). Errors of the call itself are returned (-ERR_SHAPE, -ERR_UNSUPPORTED, -ERR_DEVICE); those of the kernel's run come with the
 * stream's next synchronization. */
int marlin_launch(const struct marlin_device *d, const struct marlin_call *call, const struct marlin_config *c, void *stream, struct err *e);

/* out [M, ldo] of act, Kx columns: out[m][i] = x[m][perm[i]], 0 where perm[i] < 0; perm NULL: the first K columns as they are, 0 behind them.
 * x [M, ldx] is f32 (x_f32; rounded to nearest even) or act. ldo >= Kx. */
struct marlin_gather {
    const void *x;
    int64_t ldx, M, K, Kx;
    const int32_t *perm; /* device */
    bool x_f32;
    enum marlin_act act;
    void *out;
    int64_t ldo;
};
int marlin_gather(const struct marlin_gather *g, void *stream, struct err *e);

#ifdef __cplusplus
}
#endif

#endif

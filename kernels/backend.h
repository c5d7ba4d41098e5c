/* The seam between the decoder (and the quantizer) and what computes: a vtable of operations on device memory.
 *
 * cpu_backend_create gives class `cpu`; a plug-in fills the same struct for a GPU. Callers hold device pointers from `alloc`, move data with
 * `upload` and `download`, and never read device memory themselves; on the CPU all of it is plain memory. All activations are f32.
 * Operations on one backend are called from one thread at a time; inside, work is split over `parallel` by output tile, never along a sum.
 *
 * Numerics of class `cpu` (the scalar row of kernels.def is the specification, other rows are equal to the bit):
 *   linear     one FMA chain over k = 0..K-1 from +0 for each output, then + bias; weights exactly upcast (quantized ones dequantized to the exact product)
 *   reductions 16 virtual lanes, lane j takes k = j mod 16 by FMA or add, then the tree (8,4,2,1): l[i] += l[i+8], ...
 *   attention  score = chain over d of fma(q[d], k[d]); times scale; max exact; p = exp(s - max); sum over positions in 16 lanes; out[d] = chain over
 *              positions of fma(p, v[d]), then divided by the sum. Each query row by itself: equal bits in prefill, chunks, decode, any batch.
 *   hessian    blocks of 256 rows by absolute row number, f32 chain over the rows of a block, blocks added in f64 in order
 *   exp, log, pow, sigmoid: our own, same polynomial by FMA in every row; sqrt and division are IEEE
 */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/tensor.h"
#include "pipeline/base/err.h"

enum { BACKEND_ABI = 1, HESSIAN_BLOCK_ROWS = 256 };

struct weight;   /* a linear layer's matrix as this backend wants it; opaque */
struct kv_cache; /* keys and values of one sequence; opaque */
struct backend;

/* Runs fn(arg, i) for i in 0..n-1, in any order, on any threads; returns when done. */
struct parallel {
    void (*run)(void *ctx, size_t n, void (*fn)(void *arg, size_t i), void *arg);
    void *ctx;
    int threads; /* a hint for how finely to split; results never depend on it */
};

/* One stretch of rows of a batch that belongs to one sequence. */
struct attn_segment {
    struct kv_cache *kv;
    int64_t row;  /* first row in Q, K, V, Y */
    int64_t rows; /* new positions */
    int64_t pos;  /* position of the first of them; positions before it are in kv */
};

struct attn_args {
    const float *q;  /* [M, heads * D], rotated */
    const float *k;  /* [M, kv_heads * D], rotated */
    const float *v;  /* [M, kv_heads * D] */
    float *y;        /* [M, heads * D] */
    int heads, kv_heads, head_dim;
    int layer;       /* layer of the kv caches to append to and to read */
    int64_t window;  /* positions seen, the own one included; 0 = all */
    float scale;
    const struct attn_segment *segments; /* host memory */
    size_t segment_count;
};

/* How a module's grid is chosen (stages/quant resolves these). */
struct quant_grid {
    int bits;         /* 2, 3, 4, 8 */
    bool sym;
    double mse;       /* 0: min/max; else exponent of the error norm */
};

/* The GPTQ loop over columns for one module. Columns are already permuted: column i of W, U and `group` is the i-th to be quantized.
 * W [N,K] f32 is read and left as the dequantized result; codes [N,K] (permuted columns too), scales and zeros [G,N] are written.
 *   U [K,K] f32 upper triangular with H^-1 = U^T U (rows of the loop's "Hinv"); NULL means no error propagation (method rtn).
 *   group [K]: group of each column. Groups whose params are not `fixed` are fitted when the loop meets their first column, on the current weights of all
 *   columns of the group that are not yet quantized (contiguous in the permuted order). fixed: scales and zeros of all groups are given (static_groups).
 * Scales are rounded to f16 (normal range) before use. loss [N]: sum over columns of ((w - q) / U_ii)^2 / 2, f64 (with U NULL: sum of (w-q)^2). */
struct gptq_args {
    int64_t N, K, G;
    float *w;
    const float *u;
    const int32_t *group;
    bool fixed;
    struct quant_grid grid;
    uint8_t *codes;
    uint16_t *scales;
    uint8_t *zeros;
    double *loss;
};

/* Figures of the difference of two rows of logits (f64, host memory). */
struct kl_row {
    double nll_ref, nll;  /* -log p(target) */
    double kl;            /* KL(ref || quantized), nats */
    int same_top1;
};

struct backend_ops {
    /* memory */
    int (*alloc)(struct backend *b, size_t bytes, void **out, struct err *e); /* 64-byte aligned, zeroed; -ERR_NOMEM names the size */
    void (*free)(struct backend *b, void *p);
    int (*upload)(struct backend *b, void *to, const void *from, size_t bytes, struct err *e);
    int (*download)(struct backend *b, void *to, const void *from, size_t bytes, struct err *e);

    /* weights: prepacked copies; the source may go away after */
    int (*weight_dense)(struct backend *b, const struct tensor_view *w, struct weight **out, struct err *e);      /* [N,K] F32, F16 or BF16 */
    int (*weight_quantized)(struct backend *b, const struct qmatrix *q, struct weight **out, struct err *e);
    void (*weight_free)(struct backend *b, struct weight *w);

    /* y[M,N] = x[M,K] W^T (+ bias[N], may be NULL) (+ y when accumulate: the product is finished first, then added). ldx, ldy in elements. */
    int (*linear)(struct backend *b, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const struct weight *w, const float *bias,
                  bool accumulate, struct err *e);
    /* y[M,K] = rows of a host-mapped table [V,K]; ids in host memory, already checked against V */
    int (*embed)(struct backend *b, float *y, const struct tensor_view *table, const int32_t *ids, int64_t M, struct err *e);
    /* y = x / sqrt(mean(x^2) + eps) * w, each of M rows of K; y may be x */
    int (*rmsnorm)(struct backend *b, float *y, const float *x, const float *w, int64_t M, int64_t K, float eps, struct err *e);
    /* In place on x [M, H*D]: halves-apart rotary (Hugging Face's rotate_half). cos, sin [positions, D/2] f32; pos [M] host memory */
    int (*rope)(struct backend *b, float *x, int64_t M, int heads, int head_dim, const float *cos, const float *sin, const int32_t *pos, struct err *e);
    int (*silu_mul)(struct backend *b, float *y, const float *gate, const float *up, int64_t n, struct err *e); /* y may be gate or up */
    int (*add)(struct backend *b, float *y, const float *x, int64_t n, struct err *e);                            /* y += x */

    int (*kv_create)(struct backend *b, int layers, int kv_heads, int head_dim, int64_t capacity, struct kv_cache **out, struct err *e);
    void (*kv_free)(struct backend *b, struct kv_cache *kv);
    int (*attention)(struct backend *b, const struct attn_args *a, struct err *e);

    /* logits rows in device memory [M,V] -> host results */
    int (*nll)(struct backend *b, const float *logits, int64_t M, int64_t V, const int32_t *targets, double *nll, int32_t *top1, struct err *e);
    int (*kl)(struct backend *b, const float *ref, const float *logits, int64_t M, int64_t V, const int32_t *targets, struct kl_row *out, struct err *e);

    /* Calibration. h [K,K] f64, upper triangle (row <= column) of the running sum of x^T x; row0 = absolute number of the first row of x, so that
     * blocks fall alike however the rows arrive: pass whole blocks of HESSIAN_BLOCK_ROWS (row0 a multiple of it); only the last may be short. */
    int (*hessian)(struct backend *b, double *h, const float *x, int64_t ldx, int64_t M, int64_t K, int64_t row0, struct err *e);
    /* h [K,K] f64, symmetric, both triangles filled; destroyed. u [K,K] f32: upper, h^-1 = u^T u. *bad_pivot = -1, or the index of a pivot that was not
     * positive (then -ERR_NUMERIC: try more damping on a fresh h). Computed in f64: reversed Cholesky h = R R^T (R upper), u = R^-1. */
    int (*factor)(struct backend *b, double *h, float *u, int64_t K, int64_t *bad_pivot, struct err *e);
    int (*gptq)(struct backend *b, const struct gptq_args *a, struct err *e);
    /* Grid of one whole group from w [N, n columns, row stride ldw]: scales [N] f16, zeros [N]. For static_groups and rtn. */
    int (*fit)(struct backend *b, const float *w, int64_t ldw, int64_t N, int64_t n, const struct quant_grid *grid, uint16_t *scales, uint8_t *zeros, struct err *e);
    /* sum over rows of ||x (w_hat - w)^T||^2 is tr(E H E^T): f64, e [N,K] f32, h [K,K] f64 symmetric. For the report's relative output error. */
    int (*quad_form)(struct backend *b, const float *e_nk, const double *h, int64_t N, int64_t K, double *out, struct err *e);
};

struct backend {
    const struct backend_ops *ops;
    const char *name;           /* "cpu" */
    const char *numerics;       /* class: "cpu" */
    void *state;
    /* Calls of each kernel row since creation, for run_end: fn(arg, "linear_w4_avx512", calls), rows in the order of kernels.def, only those called. */
    void (*each_count)(const struct backend *b, void (*fn)(void *arg, const char *row, uint64_t calls), void *arg);
    void (*destroy)(struct backend *b);
};

enum isa { ISA_AUTO, ISA_SCALAR, ISA_AVX2, ISA_AVX512 };
const char *isa_name(enum isa isa);
/* The isa of "auto" "scalar" "avx2" "avx512", or -1. */
int isa_parse(const char *name);
/* The best this machine runs (AVX2 needs FMA and F16C; AVX-512 needs F, BW, DQ, VL and the OS's support). */
enum isa isa_best(void);

/* isa beyond the machine: -ERR_UNSUPPORTED naming both. par is copied; par->ctx borrowed until destroy. */
int cpu_backend_create(enum isa isa, const struct parallel *par, struct backend **out, struct err *e);

#endif

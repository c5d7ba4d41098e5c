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
 *   attention_back  scores, e = exp(score - max) and their sum as in attention; p = e * (1 / sum); dp = chain over d of fma(dy[d], v[d]); mean = sum of p dp by
 *              FMA in 16 lanes (position mod 16); ds = p * (dp - mean); dq[d] = chain over positions of fma(ds, k[d]), dk[d] and dv[d] = chains over the query rows
 *              of the sequence, the heads of a group inside a position, of fma(ds, q[d]) and fma(p, dy[d]); dq and dk times scale at the end
 *   rmsnorm_back  r as in rmsnorm; g = dy * w; c = (mean * r) * r with mean = (sum of x g by FMA in 16 lanes) / K; dx = fma(-x, c, g) * r
 *   silu_back  s = sigmoid(g); (s * fma(g, 1 - s, 1)) * up and g * s
 *   hessian    blocks of 256 rows by absolute row number, f32 chain over the rows of a block, blocks added in f64 in order; cross likewise
 *   exp, log, pow, sigmoid: our own, same polynomial by FMA in every row; sqrt and division are IEEE
 */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/tensor.h"
#include "pipeline/base/err.h"

enum { BACKEND_ABI = 5, HESSIAN_BLOCK_ROWS = 256 };

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

/* Gradients of causal attention, positions from 0 in every sequence: the backward pass of attn_args without a cache. For each query row s and position t <= s
 * (inside the window), p = softmax of scale * q_s . k_t over t, y_s = sum of p v_t:
 *   dp_t = dy_s . v_t    ds_t = p_t (dp_t - sum over t of p_t dp_t)    dq_s = scale * sum of ds_t k_t    dk_t = scale * sum over s of ds_t q_s    dv_t = sum over s of p_t dy_s
 * with dk, dv summed over the query heads that share a key/value head. dq, dk, dv are overwritten. */
struct attn_back_args {
    const float *q, *dy;     /* [M, heads * D] */
    const float *k, *v;      /* [M, kv_heads * D] */
    float *dq;               /* [M, heads * D] */
    float *dk, *dv;          /* [M, kv_heads * D] */
    int heads, kv_heads, head_dim;
    int64_t window;          /* positions seen, the own one included; 0 = all */
    float scale;
    const int64_t *offsets;  /* host, sequences + 1: rows of sequence i are offsets[i] .. offsets[i + 1] - 1; offsets[0] = 0, the last is M */
    size_t sequences;
};

enum grid_search { GRID_MINMAX, GRID_MSE, GRID_GPTQ };
enum scale_dtype { SCALE_F16, SCALE_BF16 };

/* How a module's grid is chosen (stages/quant resolves these). */
struct quant_grid {
    int bits;         /* 2, 3, 4, 8 */
    bool sym;
    double mse;       /* GRID_MSE: exponent of the error norm */
    enum grid_search search;
    int candidates;   /* GRID_GPTQ: scales tried for each sign */
    bool signed_scales;     /* sym and a search: negative scales are tried too (the sign decides which side gets the outermost level) */
    enum scale_dtype dtype; /* stored as f16 in any case; SCALE_BF16: rounded to what both f16 and bf16 hold */
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

/* Coordinate descent after the loop, on the codes and (refit) on the scales of a module: minimizes tr(G E H E^T), E = W_hat - T.
 * Columns are permuted as in gptq_args. Grids keep their zeros; scales keep their sign and stay what grid.dtype holds. No step raises the loss. */
struct refine_args {
    int64_t N, K, G;
    const float *target; /* T [N,K] f32 */
    const float *h;      /* H [K,K] f32, symmetric, both triangles */
    const float *metric; /* G [N,N] f32, symmetric, positive diagonal, both triangles, row stride ldm; NULL: the identity, rows are independent */
    int64_t ldm;         /* N padded to 16, the padding zero */
    const int32_t *group;
    struct quant_grid grid;
    int sweeps;          /* over the codes, at most; fewer when nothing moves */
    bool refit;          /* without a metric: scales after the codes, then the codes again; every group's columns lie side by side */
    float *w;            /* W_hat [N,K], in and out */
    uint8_t *codes;
    uint16_t *scales;
    const uint8_t *zeros;
    double loss[4];      /* out: before; after the codes; after the scales; after the codes again (equal to the one before where a step is not taken) */
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
    /* The partial derivatives of silu(gate) * up, in place: gate becomes up * silu'(gate), up becomes silu(gate); silu'(g) = s (1 + g (1 - s)), s = sigmoid(g) */
    int (*silu_back)(struct backend *b, float *gate, float *up, int64_t n, struct err *e);
    /* Gradient of rmsnorm by its input, in place on dy: x [M,K] what rmsnorm was given. With r = 1 / sqrt(mean(x^2) + eps): dx = r (w dy - x r^2 mean(x w dy)) */
    int (*rmsnorm_back)(struct backend *b, float *dy, const float *x, const float *w, int64_t M, int64_t K, float eps, struct err *e);
    int (*add)(struct backend *b, float *y, const float *x, int64_t n, struct err *e);                            /* y += x */

    int (*mix)(struct backend *b, float *y, float p, const float *x, float q, int64_t n, struct err *e);          /* y = fma(q, x, p * y) */

    int (*kv_create)(struct backend *b, int layers, int kv_heads, int head_dim, int64_t capacity, struct kv_cache **out, struct err *e);
    void (*kv_free)(struct backend *b, struct kv_cache *kv);
    int (*attention)(struct backend *b, const struct attn_args *a, struct err *e);
    int (*attention_back)(struct backend *b, const struct attn_back_args *a, struct err *e);

    /* logits rows in device memory [M,V] -> host results */
    int (*nll)(struct backend *b, const float *logits, int64_t M, int64_t V, const int32_t *targets, double *nll, int32_t *top1, struct err *e);
    int (*kl)(struct backend *b, const float *ref, const float *logits, int64_t M, int64_t V, const int32_t *targets, struct kl_row *out, struct err *e);

    /* Calibration. h [K,K] f64, upper triangle (row <= column) of the running sum of x^T x; row0 = absolute number of the first row of x, so that
     * blocks fall alike however the rows arrive: pass whole blocks of HESSIAN_BLOCK_ROWS (row0 a multiple of it); only the last may be short. */
    int (*hessian)(struct backend *b, double *h, const float *x, int64_t ldx, int64_t M, int64_t K, int64_t row0, struct err *e);
    /* c [Ka,Kb] f64 += a^T x over M rows of a [M,Ka] and x [M,Kb]; blocks and row0 as for hessian. */
    int (*cross)(struct backend *b, double *c, const float *a, int64_t lda, int64_t Ka, const float *x, int64_t ldx, int64_t Kb, int64_t M, int64_t row0,
                 struct err *e);
    /* h [K,K] f64, symmetric, both triangles filled; destroyed. u [K,K] f32: upper, h^-1 = u^T u. *bad_pivot = -1, or the index of a pivot that was not
     * positive (then -ERR_NUMERIC: try more damping on a fresh h). Computed in f64: reversed Cholesky h = R R^T (R upper), u = R^-1. */
    int (*factor)(struct backend *b, double *h, float *u, int64_t K, int64_t *bad_pivot, struct err *e);
    int (*gptq)(struct backend *b, const struct gptq_args *a, struct err *e);
    int (*refine)(struct backend *b, struct refine_args *a, struct err *e);
    /* Grid of one whole group from w [N, n columns, row stride ldw]: scales [N] f16, zeros [N]. For static_groups and rtn. */
    int (*fit)(struct backend *b, const float *w, int64_t ldw, int64_t N, int64_t n, const struct quant_grid *grid, uint16_t *scales, uint8_t *zeros, struct err *e);
    /* sum over rows of ||x (w_hat - w)^T||^2 is tr(E H E^T): f64, e [N,K] f32, h [K,K] f64 symmetric. For the report's relative output error. */
    int (*quad_form)(struct backend *b, const float *e_nk, const double *h, int64_t N, int64_t K, double *out, struct err *e);

    /* The class of kernels that serves a weight ("cpu", "simple", "marlin", "dense"), for reports; *why: the rule that kept a faster class from it, or "". Strings that
     * live as long as the program. */
    const char *(*weight_kernel)(const struct backend *b, const struct weight *w, const char **why);
};

struct backend {
    const struct backend_ops *ops;
    const char *name;           /* "cpu", "cuda" */
    const char *numerics;       /* class: "cpu", "cuda-sm90" */
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

/* The CPU's kernels: one function type per op, one function per row of kernels.def and ISA, called through the tables of kernels/dispatch.c.
 *
 * A kernel splits its work with par->run and gives the same bits however that runs it. Contracts of the maths are in kernels/backend.h; arguments here are
 * checked already (shapes, capacity). Functions that can fail return 0 or -ERR_x. This header is compiled without ISA flags.
 */
#ifndef KERNELS_CPU_CPU_OPS_H
#define KERNELS_CPU_CPU_OPS_H

#include <stdatomic.h>

#ifdef ISA
#include "kernels/cpu/simd.h" /* before backend.h: see its #undefs */
#endif
#include "kernels/backend.h"

enum { PANEL = 16 }; /* outputs (or positions) side by side: the 16 lanes */

/* How a weight's panels are stored. */
enum wfmt { WFMT_F32, WFMT_F16, WFMT_BF16, WFMT_W4, WFMT_W8, WFMT_COUNT };

/* [N,K] as panels of 16 outputs; lane j of panel p is output 16 p + j, lanes beyond N are zero.
 *   F32, F16, BF16   data [panels][K][16] elements
 *   W4 (2, 3, 4 bit) data [panels][ceil(K / 8)][16] u32: bits 4i..4i+3 of a word are the code of column 8 r + i (as GPTQ's qweight), zero beyond K
 *   W8               data [panels][K][16] u8
 * Quantized: scale and bias [G][panels * 16] f32, the weight is fma(code, scale, bias) with bias = -(scale * zero): both exact, so it is scale * (code - zero).
 * runs: stretches of columns with one group, [run_count + 1] column numbers, the last K; run_group [run_count]. With a sequential g_idx a run is a group. */
struct weight {
    int64_t N, K, panels;
    enum wfmt fmt;
    void *data;
    float *scale, *bias;
    int64_t *run_start;
    int32_t *run_group;
    int64_t run_count;
    size_t bytes;
};

struct linear_args {
    float *y;
    const float *x;
    int64_t ldy, ldx, M;
    const struct weight *w;
    const float *bias; /* may be NULL */
    bool accumulate;
};

struct embed_args {
    float *y;
    const struct tensor_view *table;
    const int32_t *ids;
    int64_t M;
};

struct rmsnorm_args {
    float *y; /* rmsnorm_back: dy, and dx after */
    const float *x, *w;
    int64_t M, K;
    float eps;
};

/* Keys and values of one sequence. stride is capacity padded to 16, padded is head_dim padded to 16; the padding is zero.
 *   k [layers][kv_heads][stride / 16][head_dim][16]: lanes are positions      v [layers][kv_heads][stride][padded] */
struct kv_cache {
    int layers, kv_heads, head_dim, padded;
    int64_t capacity, stride;
    float *k, *v;
};

enum { ATTN_ROWS = 8 }; /* query rows worked on together */
/* scratch: `lanes` areas of lane_floats, 64-byte aligned; the kernel runs `lanes` loops that share the work. An area holds ATTN_ROWS rows of a query, of an
 * output (both head_dim padded to 16) and of scores (the most positions of any segment, padded to 16). */
struct attention_job {
    const struct attn_args *a;
    float *scratch;
    size_t lane_floats;
    int lanes;
};

enum { ATTN_BACK_ROWS = 24 }; /* query rows worked on together */
/* scratch and lanes as in attention_job. Of the longest sequence an area holds keys and values by panels, keys, dk and dv by rows, and of
 * ATTN_BACK_ROWS query rows q, dy, dq and two rows of scores. Heads divide, offsets ascend from 0. */
struct attention_back_job {
    const struct attn_back_args *a;
    float *scratch;
    size_t lane_floats;
    int lanes;
};

struct cross_args {
    double *c;
    const float *a, *x;
    int64_t lda, Ka, ldx, Kb, M, row0;
};

struct logits_args {
    const float *logits, *ref; /* ref: kl only */
    int64_t M, V;
    const int32_t *targets;
    double *nll;        /* nll only */
    int32_t *top1;      /* nll only */
    struct kl_row *out; /* kl only */
};

/* scratch: `lanes` areas of lane_floats, 64-byte aligned, lanes <= M. With V padded to 16 an area holds V weights (f64) and twice V ids. */
struct sample_job {
    const float *logits;
    int64_t M, V;
    const struct sample_row *rows;
    int32_t *ids;
    float *scratch;
    size_t lane_floats;
    int lanes;
};

typedef void linear_fn(const struct parallel *par, const struct linear_args *a);
typedef void embed_fn(const struct parallel *par, const struct embed_args *a);
typedef void rmsnorm_fn(const struct parallel *par, const struct rmsnorm_args *a);
typedef void rmsnorm_back_fn(const struct parallel *par, const struct rmsnorm_args *a);
typedef void rope_fn(const struct parallel *par, const struct rope_args *a);
typedef void silu_mul_fn(const struct parallel *par, float *y, const float *gate, const float *up, int64_t n);
typedef void silu_back_fn(const struct parallel *par, float *gate, float *up, int64_t n);
typedef void add_fn(const struct parallel *par, float *y, const float *x, int64_t n);
typedef void mix_fn(const struct parallel *par, float *y, float p, const float *x, float q, int64_t n);
typedef void attention_fn(const struct parallel *par, const struct attention_job *j);
typedef void attention_back_fn(const struct parallel *par, const struct attention_back_job *j);
typedef void nll_fn(const struct parallel *par, const struct logits_args *a);
typedef void kl_fn(const struct parallel *par, const struct logits_args *a);
typedef void sample_fn(const struct parallel *par, const struct sample_job *j);
typedef int hessian_fn(const struct parallel *par, double *h, const float *x, int64_t ldx, int64_t M, int64_t K, int64_t row0, struct err *e);
typedef int cross_fn(const struct parallel *par, const struct cross_args *a, struct err *e);
typedef int factor_fn(const struct parallel *par, double *h, float *u, int64_t K, int64_t *bad_pivot, struct err *e);
typedef int gptq_fn(const struct parallel *par, const struct gptq_args *a, struct err *e);
typedef int refine_fn(const struct parallel *par, struct refine_args *a, struct err *e);
typedef int fit_fn(const struct parallel *par, const float *w, int64_t ldw, int64_t N, int64_t n, const struct quant_grid *grid, uint16_t *scales,
                   uint8_t *zeros, struct err *e);
typedef int quad_form_fn(const struct parallel *par, const float *e_nk, const double *h, int64_t N, int64_t K, double *out, struct err *e);

#define KERNEL(name, op) op##_fn name##_scalar, name##_avx2, name##_avx512;
#include "kernels/kernels.def"
#undef KERNEL

enum cpu_kernel {
#define KERNEL(name, op) CPU_##name,
#include "kernels/kernels.def"
#undef KERNEL
    CPU_KERNEL_COUNT
};

/* All kernels of one ISA. */
struct cpu_kernels {
#define KERNEL(name, op) op##_fn *name;
#include "kernels/kernels.def"
#undef KERNEL
};
/* NULL for an ISA that this machine does not run; ISA_AUTO is the best. */
const struct cpu_kernels *cpu_kernels(enum isa isa);
const char *cpu_kernel_name(enum cpu_kernel k); /* "linear_w4_f32" */

/* The state of a CPU backend. */
struct cpu_state {
    struct parallel par;
    enum isa isa;
    const struct cpu_kernels *kernels;
    _Atomic uint64_t calls[CPU_KERNEL_COUNT];
    float *scratch; /* attention's, attention_back's and sample's, grown on demand */
    size_t scratch_floats;
};

#endif

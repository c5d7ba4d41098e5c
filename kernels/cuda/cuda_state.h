/* What the files of the CUDA plug-in share: the state of a backend, weights, key/value caches, and the launchers. Host code is C and calls the CUDA runtime;
 * kernels and the functions that launch them are in .cu files. A launcher queues on the stream and returns cudaGetLastError(), or what refused the launch.
 *
 * Arithmetic. Every product accumulates in f32 in one fixed order that depends on N and K only (marlin, machete: on the device too). dense and simple: K is cut into SPLIT_K
 * interleaved parts (unit u belongs to part u mod SPLIT_K), each part is one chain of matrix instructions (quantized: of integers code - zero, whose sum over a stretch of
 * one group is then scaled), parts are added in order. marlin, machete: see marlin.h and machete.h, MARLIN_FIXED. X is split in two halves, x = hi + lo, each a column
 * (marlin, machete: a row) of its own; W is exact. So a row's result does not depend on the other rows, on how many there are, or on the tile that serves them, and differs
 * from f32 arithmetic by about 2^-17 of the terms (bf16 halves; 2^-22 for F16 weights with f16 halves). */
#ifndef KERNELS_CUDA_STATE_H
#define KERNELS_CUDA_STATE_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/backend.h"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/machete.h"
#include "kernels/cuda/marlin.h"
#include "kernels/plugin.h"

enum { PLUGIN_REVISION = 4 };

/* Rows of counters, in the order of reports. */
enum cuda_row {
#define ROW(name) CUDA_##name,
#include "kernels/cuda/cuda_rows.def"
#undef ROW
    CUDA_ROWS
};

enum cuda_fmt { CUDA_F32, CUDA_F16, CUDA_BF16, CUDA_W4, CUDA_W8, CUDA_MARLIN, CUDA_MACHETE };

/* A linear layer on the device.
 *   F32, F16, BF16   data [N][pitch] elements, zero beyond K
 *   W4, W8           data and meta as in layout.h
 *   MARLIN, MACHETE  data: codes, meta: scales, zeros (NULL: all alike) as in marlin_layout.h, machete_layout.h */
struct weight {
    int64_t N, K;
    enum cuda_fmt fmt;
    void *data;
    uint32_t *meta;
    uint16_t *zeros;
    struct marlin_shape shape;
    struct machete_shape machete;
    int64_t pitch;       /* inputs as stored: a multiple of CHUNK_K (dense) or UNIT_K (quantized) */
    int32_t *chunk_group; /* [pitch / CHUNK_K] */
    int32_t *perm;       /* [pitch], NULL when inputs keep their places */
    const char *kernel;  /* class */
    const char *why;     /* select_kernel's */
};

/* Keys and values of one sequence, in pages of ATTN_BLOCK positions (kv.c): a page is f32 [k, v][layers][kv_heads][ATTN_BLOCK][head_dim]. */
struct kv_cache {
    int layers, kv_heads, head_dim;
    int64_t capacity;  /* positions, at most */
    size_t page_bytes;
    float **pages;     /* [count] device pointers, in host memory */
    int64_t count;     /* pages that it has */
    float **table;     /* device: the same */
};

/* Pages of `page_bytes` that no sequence has. */
struct kv_pool {
    void **pages;
    size_t count, cap, page_bytes;
};

/* Device memory of one purpose, grown on need; what was in it is lost then. */
struct scratch {
    void *p;
    size_t bytes;
};

struct cuda_state {
    int device;
    cudaStream_t stream;
    struct plugin_device info;
    char pinned[16]; /* kernel class that every quantized matrix must take, or "auto" */
    struct parallel par;
    uint64_t calls[CUDA_ROWS];
    struct scratch split;    /* X as halves */
    struct scratch partial;  /* of attention */
    struct scratch ids;      /* small things from the host */
    struct scratch results;  /* of nll and kl */
    struct scratch marlin_space;
    struct kv_pool pool;
    struct marlin_device marlin;
    struct machete_device machete;
    struct {                 /* what `split` holds, so that q, k and v split their common input once; x NULL: nothing */
        const float *x;
        int64_t ldx, M, K, pitch;
        const int32_t *perm;
        bool f16;
    } split_of;
    void *staging;           /* page-locked host memory for rows of the embedding */
    size_t staging_bytes;
    cudaEvent_t staged;      /* the last copy out of it */
};

/* host.c: errors and memory */
int cuda_check(struct cuda_state *s, cudaError_t r, const char *what, struct err *e);
int cuda_reserve(struct cuda_state *s, struct scratch *m, size_t bytes, const char *what, struct err *e);
int cuda_take(struct cuda_state *s, size_t bytes, const char *what, void **out, struct err *e);
/* Takes it and fills it from the host; done when it returns. On an error *out may hold memory, which is the caller's. */
int cuda_take_copy(struct cuda_state *s, const void *from, size_t bytes, const char *what, void **out, struct err *e);

/* weight.c, linear.c, attention.c, kv.c, logits.c: ops */
int cuda_weight_dense(struct backend *b, const struct tensor_view *t, struct weight **out, struct err *e);
/* Codes go to the device a byte each and are packed there, into `bytes` of w->data. to [K]: place of an input after reordering, NULL: its own. */
int cuda_upload_codes(struct cuda_state *s, struct weight *w, const struct qmatrix *q, const int32_t *to, size_t bytes, struct err *e);
/* What the host makes of a packed matrix, and its sizes. `tables` fills what is not NULL. */
struct packed_form {
    int64_t Kx;
    bool zero_table, permuted;
    size_t code_bytes, scale_bytes, zero_bytes;
    int (*tables)(const struct weight *w, const struct qmatrix *q, uint16_t *scales, uint16_t *zeros, int32_t *perm, struct err *e);
};
int cuda_packed_weight(struct cuda_state *s, struct weight *w, const struct qmatrix *q, const struct packed_form *f, struct err *e);
int cuda_machete_weight(struct cuda_state *s, struct weight *w, const struct qmatrix *q, struct err *e);
int cuda_marlin_weight(struct cuda_state *s, struct weight *w, const struct qmatrix *q, struct err *e);
int cuda_weight_quantized(struct backend *b, const struct qmatrix *q, struct weight **out, struct err *e);
void cuda_weight_free(struct backend *b, struct weight *w);
const char *cuda_weight_kernel(const struct backend *b, const struct weight *w, const char **why);
int cuda_linear(struct backend *b, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const struct weight *w, const float *bias, bool accumulate,
                struct err *e);
int cuda_attention(struct backend *b, const struct attn_args *a, struct err *e);
int cuda_kv_create(struct backend *b, int layers, int kv_heads, int head_dim, int64_t capacity, struct kv_cache **out, struct err *e);
void cuda_kv_free(struct backend *b, struct kv_cache *kv);
/* Pages for positions 0 .. positions - 1. -ERR_NOMEM: those that there was memory for are kept. */
int cuda_kv_reach(struct cuda_state *s, struct kv_cache *kv, int64_t positions, struct err *e);
/* Frees the pages that no sequence has. */
void cuda_kv_release(struct cuda_state *s);
int cuda_nll(struct backend *b, const float *logits, int64_t M, int64_t V, const int32_t *targets, double *nll, int32_t *top1, struct err *e);
int cuda_kl(struct backend *b, const float *ref, const float *logits, int64_t M, int64_t V, const int32_t *targets, struct kl_row *out, struct err *e);

/* Launchers. */

struct linear_args {
    float *y;
    const float *x;      /* f32 path */
    const uint16_t *xs;  /* [2 M][pitch] halves: rows 2 m (hi) and 2 m + 1 (lo) */
    int64_t ldy, ldx, M;
    const struct weight *w;
    const float *bias;   /* may be NULL */
    int accumulate;
};
cudaError_t launch_split(cudaStream_t s, uint16_t *xs, const float *x, int64_t ldx, int64_t M, int64_t K, int64_t pitch, const int32_t *perm, int f16);
cudaError_t launch_linear_f32(cudaStream_t s, const struct linear_args *a);
cudaError_t launch_linear_bf16(cudaStream_t s, const struct linear_args *a, int processors);
cudaError_t launch_linear_f16(cudaStream_t s, const struct linear_args *a, int processors);
cudaError_t launch_linear_w4(cudaStream_t s, const struct linear_args *a, int processors);
cudaError_t launch_linear_w8(cudaStream_t s, const struct linear_args *a, int processors);
int cuda_machete_linear(struct cuda_state *s, const struct linear_args *a, struct err *e);
int cuda_marlin_linear(struct cuda_state *s, const struct linear_args *a, struct err *e);
/* codes u8 [N,K] -> w->data; to [K]: place of an input after reordering (NULL: its own) */
cudaError_t launch_pack(cudaStream_t s, const struct weight *w, const uint8_t *codes, const int32_t *to);

cudaError_t launch_widen(cudaStream_t s, float *y, const void *rows, enum dtype t, int64_t n);
cudaError_t launch_rmsnorm(cudaStream_t s, float *y, const float *x, const float *w, int64_t M, int64_t K, float eps);
cudaError_t launch_rope(cudaStream_t s, float *x, int64_t M, int heads, int head_dim, const float *cos, const float *sin, const int32_t *pos);
cudaError_t launch_silu_mul(cudaStream_t s, float *y, const float *gate, const float *up, int64_t n);
cudaError_t launch_add(cudaStream_t s, float *y, const float *x, int64_t n);

/* One stretch of rows as the attention kernels see it. */
struct cuda_segment {
    float *const *pages; /* of ATTN_BLOCK positions */
    int64_t k, v;        /* where in a page this layer's keys and values begin: [kv_heads][ATTN_BLOCK][head_dim] */
    int64_t pos;
    int32_t row, rows;
};
enum { ATTN_SEGMENTS = 64, ATTN_BLOCK = 64, ATTN_SPLIT = 512, ATTN_MAX_D = 256 };
struct attention_launch {
    const struct attn_args *a;
    struct cuda_segment seg[ATTN_SEGMENTS];
    int count;
    int64_t most_rows, most_positions; /* of any segment */
    float *partial;                    /* attention_partial_floats */
};
/* Keys and values of the new rows into the caches. */
cudaError_t launch_attention_append(cudaStream_t s, const struct attention_launch *l);
/* Few rows a segment: positions in parts of ATTN_SPLIT, side by side. Many: one part after the other. The same bits. */
cudaError_t launch_attention_split(cudaStream_t s, const struct attention_launch *l);
cudaError_t launch_attention_whole(cudaStream_t s, const struct attention_launch *l);
size_t attention_partial_floats(const struct attention_launch *l);

cudaError_t launch_nll(cudaStream_t s, const float *logits, int64_t M, int64_t V, const int32_t *targets, double *nll, int32_t *top1);
cudaError_t launch_kl(cudaStream_t s, const float *ref, const float *logits, int64_t M, int64_t V, const int32_t *targets, struct kl_row *out);

#ifdef __cplusplus
}
#endif
#endif

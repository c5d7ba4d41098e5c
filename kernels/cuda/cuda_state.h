/* What the files of the CUDA plug-in share: the state of a backend, weights, key/value caches, and the launchers. Host code is C and calls the CUDA runtime;
 * kernels and the functions that launch them are in .cu files. A launcher queues on the stream and returns cudaGetLastError(), or what refused the launch.
 *
 * Arithmetic. Every product accumulates in f32 in one fixed order that depends on N and K only (marlin, machete: on the device too; N of a joined matrix is the whole's, so
 * linear_many of its parts gives other bits than linear of each). dense and simple: K is cut into SPLIT_K interleaved parts (unit u belongs to part u mod SPLIT_K), each part
 * is one chain of matrix instructions (quantized: of integers code - zero, whose sum over a stretch of one group is then scaled), parts are added in order. marlin, machete:
 * see marlin.h and machete.h, MARLIN_FIXED. X is split in two halves, x = hi + lo, each a column (marlin, machete: a row) of its own, by the kernel that makes X where it
 * can (halves.cuh), else by a launch for it, the same bits; W is exact. So a row's result does not depend on the other rows, on how many there are, or on the tile that
 * serves them, and differs from f32 arithmetic by about 2^-17 of the terms (bf16 halves; 2^-22 for F16 weights with f16 halves).
 *
 * Launches of a decoded token, a layer, all matrices in marlin or machete and their inputs in order: norm, q k v, rope, attention's three, o, norm, gate and up, silu_mul, down: 11.
 * Inputs by activation order: a split more before each of the four products. Not joined (simple, dense): q, k, v and gate, up are a launch each. tests/cli/launches.t counts. */
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
    struct weight *whole; /* the matrix that this one was joined into as its part `number`, or NULL. data, meta, zeros and perm point into it; it goes with its last part */
    int number;
    int parts, users;     /* of a whole: those it was made of, and those not freed yet */
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

/* Page-locked memory on whose halves uploads take turns (upload.c). */
struct cuda_ring {
    char *p;
    size_t used;            /* of the half that is being filled */
    int half;
    cudaEvent_t fetched[2]; /* the device has what a half held when it was left */
};

/* Room for y [M,K] as bf16 halves in rows 2m (hi) and 2m + 1 (lo) of `pitch`, zero beyond K: what a kernel that makes y writes beside it. xs NULL: nobody wants them. */
struct cuda_halves {
    uint16_t *xs;
    int64_t pitch, M, K;
};

/* What the state's `split` holds: halves of x [M, ldx]; x NULL: nothing. The rule: every op that writes or frees f32 memory sets x to NULL (host.c `done`), a product only when
 * it writes over x, so that products of one input share it; who made halves says so after that (cuda_halves_made). */
struct halves_of {
    const float *x;
    int64_t ldx, M, K, pitch;
    const int32_t *perm;
    bool f16;
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
    struct scratch results;  /* of nll, kl and sample */
    struct scratch marlin_space;
    struct scratch words;    /* of a matrix on its way, while weights are loaded */
    struct cuda_ring ring;
    bool sent;               /* weights may be on their way: cuda_settle */
    struct kv_pool pool;
    struct marlin_device marlin;
    struct machete_device machete;
    int64_t halves_k[8];     /* numbers of inputs that some matrix takes as bf16 halves in their own order (linear.c) */
    struct halves_of split_of;
    void *staging;           /* page-locked host memory for rows of the embedding */
    size_t staging_bytes;
    cudaEvent_t staged;      /* the last copy out of it */
};

/* host.c: errors and memory */
int cuda_check(struct cuda_state *s, cudaError_t r, const char *what, struct err *e);
int cuda_reserve(struct cuda_state *s, struct scratch *m, size_t bytes, const char *what, struct err *e);
/* Gives back what cuda_take took, or nothing (NULL): waits for the stream first, where kernels that read it may be queued, for cudaFree need not. */
void cuda_drop(struct cuda_state *s, void *p);
int cuda_take(struct cuda_state *s, size_t bytes, const char *what, void **out, struct err *e);

/* upload.c. Rows of `width` bytes, `pitch` apart in host memory, `to_pitch` on the device. The source may go away when it returns; the device has them in the stream's order. */
int cuda_send(struct cuda_state *s, void *to, size_t to_pitch, const void *from, size_t pitch, size_t width, size_t rows, const char *what, struct err *e);
/* Takes it and sends. On an error *out may hold memory, which is the caller's. */
int cuda_take_copy(struct cuda_state *s, const void *from, size_t bytes, const char *what, void **out, struct err *e);
/* Words go to the device as the file has them and are brought into the order of w's class there, into `bytes` of w->data. w is complete but for those. */
int cuda_send_words(struct cuda_state *s, struct weight *w, const struct qwords *q, size_t bytes, struct err *e);
/* Before a product: waits for weights on their way, once. A kernel that is launched early (pdl) reads them before it waits for the one before it. */
int cuda_settle(struct cuda_state *s, struct err *e);
void cuda_ring_close(struct cuda_state *s);

/* weight.c, linear.c, attention.c, kv.c, logits.c: ops */
int cuda_weight_dense(struct backend *b, const struct tensor_view *t, struct weight **out, struct err *e);
/* What the host makes of a packed matrix, and its sizes. `tables` fills what is not NULL. */
struct packed_form {
    int64_t Kx;
    bool zero_table, permuted;
    size_t code_bytes, scale_bytes, zero_bytes;
    int (*tables)(const struct weight *w, const struct qwords *q, uint16_t *scales, uint16_t *zeros, int32_t *perm, struct err *e);
};
int cuda_packed_weight(struct cuda_state *s, struct weight *w, const struct qwords *q, const struct packed_form *f, struct err *e);
int cuda_machete_weight(struct cuda_state *s, struct weight *w, const struct qwords *q, struct err *e);
int cuda_marlin_weight(struct cuda_state *s, struct weight *w, const struct qwords *q, struct err *e);
int cuda_weight_quantized(struct backend *b, const struct qwords *q, struct weight **out, struct err *e);
void cuda_weight_free(struct backend *b, struct weight *w);
const char *cuda_weight_kernel(const struct backend *b, const struct weight *w, const char **why);
int cuda_weight_join(struct backend *b, struct weight *const *w, int n, struct err *e);
int cuda_linear(struct backend *b, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const struct weight *w, const float *bias, bool accumulate,
                struct err *e);
int cuda_linear_many(struct backend *b, const struct linear_part *parts, int n, const float *x, int64_t ldx, int64_t M, struct err *e);
/* A matrix of K inputs is there that takes them as halves: kernels that make rows of K write those too, from now on. */
void cuda_halves_expect(struct cuda_state *s, int64_t K);
/* Room in s->split for the halves of [M,K], when some matrix takes K inputs so: what was there is forgotten. Else xs NULL. */
int cuda_halves_room(struct cuda_state *s, int64_t M, int64_t K, struct cuda_halves *h, struct err *e);
/* They are those of y, and nothing has been queued since that writes it. */
void cuda_halves_made(struct cuda_state *s, const struct cuda_halves *h, const float *y);
/* *h: room for the halves of a->y. */
int cuda_attention(struct backend *b, const struct attn_args *a, struct cuda_halves *h, struct err *e);
int cuda_kv_create(struct backend *b, int layers, int kv_heads, int head_dim, int64_t capacity, struct kv_cache **out, struct err *e);
void cuda_kv_free(struct backend *b, struct kv_cache *kv);
/* Pages for positions 0 .. positions - 1. -ERR_NOMEM: those that there was memory for are kept. */
int cuda_kv_reach(struct cuda_state *s, struct kv_cache *kv, int64_t positions, struct err *e);
/* Frees the pages that no sequence has. */
void cuda_kv_release(struct cuda_state *s);
int cuda_nll(struct backend *b, const float *logits, int64_t M, int64_t V, const int32_t *targets, double *nll, int32_t *top1, struct err *e);
int cuda_kl(struct backend *b, const float *ref, const float *logits, int64_t M, int64_t V, const int32_t *targets, struct kl_row *out, struct err *e);
int cuda_sample(struct backend *b, const float *logits, int64_t M, int64_t V, const struct sample_row *rows, int32_t *ids, struct err *e);

/* Launchers. */

struct linear_args {
    float *y;
    const float *x;      /* f32 path */
    const uint16_t *xs;  /* [2 M][pitch] halves: rows 2 m (hi) and 2 m + 1 (lo) */
    int64_t ldy, ldx, M;
    const struct weight *w;
    const float *bias;   /* may be NULL */
    int accumulate;
    struct marlin_out more[MARLIN_PARTS - 1]; /* w is a whole: y, ldy and bias are the first part's, here are the others' */
};
cudaError_t launch_split(cudaStream_t s, uint16_t *xs, const float *x, int64_t ldx, int64_t M, int64_t K, int64_t pitch, const int32_t *perm, int f16);
cudaError_t launch_linear_f32(cudaStream_t s, const struct linear_args *a);
cudaError_t launch_linear_bf16(cudaStream_t s, const struct linear_args *a, int processors);
cudaError_t launch_linear_f16(cudaStream_t s, const struct linear_args *a, int processors);
cudaError_t launch_linear_w4(cudaStream_t s, const struct linear_args *a, int processors);
cudaError_t launch_linear_w8(cudaStream_t s, const struct linear_args *a, int processors);
int cuda_machete_linear(struct cuda_state *s, const struct linear_args *a, struct err *e);
int cuda_marlin_linear(struct cuda_state *s, const struct linear_args *a, struct err *e);
/* words [wfmt_words(K, bits), columns]: those of outputs column .. column + columns - 1, column a multiple of 128 -> their part of w->data */
cudaError_t launch_reorder(cudaStream_t s, const struct weight *w, const uint32_t *words, int bits, int64_t column, int64_t columns);

cudaError_t launch_widen(cudaStream_t s, float *y, const void *rows, enum dtype t, int64_t n);
cudaError_t launch_rmsnorm(cudaStream_t s, float *y, const float *x, const float *w, int64_t M, int64_t K, float eps, const struct cuda_halves *h);
cudaError_t launch_rope(cudaStream_t s, const struct rope_args *a);
cudaError_t launch_silu_mul(cudaStream_t s, float *y, const float *gate, const float *up, int64_t M, int64_t K, const struct cuda_halves *h);
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
    struct cuda_halves halves;         /* of y */
};
/* Keys and values of the new rows into the caches. */
cudaError_t launch_attention_append(cudaStream_t s, const struct attention_launch *l);
/* Few rows a segment: positions in parts of ATTN_SPLIT, side by side. Many: one part after the other. The same bits. */
cudaError_t launch_attention_split(cudaStream_t s, const struct attention_launch *l);
cudaError_t launch_attention_whole(cudaStream_t s, const struct attention_launch *l);
size_t attention_partial_floats(const struct attention_launch *l);

cudaError_t launch_nll(cudaStream_t s, const float *logits, int64_t M, int64_t V, const int32_t *targets, double *nll, int32_t *top1);
cudaError_t launch_kl(cudaStream_t s, const float *ref, const float *logits, int64_t M, int64_t V, const int32_t *targets, struct kl_row *out);

/* A struct sample_row as the kernel takes it. */
struct sample_draw {
    float scale;         /* octaves of weight a unit of logits: 1 / (temperature ln 2), a normal number; 0: the highest logit */
    int cut;             /* whether top_p is below 1 */
    uint64_t part, draw; /* top_p, u times 2^64 */
};
enum { SAMPLE_ROWS = 64 };
struct sample_launch {
    struct sample_draw draw[SAMPLE_ROWS];
    int rows;
};
cudaError_t launch_sample(cudaStream_t s, const float *logits, int64_t V, const struct sample_launch *l, int32_t *ids);

#ifdef __cplusplus
}
#endif
#endif

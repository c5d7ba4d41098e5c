/* Element types, and the letters used for shapes in all kernels:
 *   M rows (tokens)   N outputs   K inputs   G groups of K   H heads   D head size   T positions   V vocabulary
 * Matrices are row-major. A linear layer is Y[M,N] = X[M,K] * W[N,K]^T. */
#ifndef KERNELS_TENSOR_H
#define KERNELS_TENSOR_H

#include <stddef.h>
#include <stdint.h>

enum dtype { DT_F32, DT_F16, DT_BF16, DT_F64, DT_I8, DT_U8, DT_I16, DT_I32, DT_I64, DT_BOOL, DT_COUNT };

size_t dtype_bytes(enum dtype t);
const char *dtype_name(enum dtype t); /* safetensors' names: "F32", "BF16", ... */
/* The dtype of a safetensors name, or -1. */
int dtype_parse(const char *name);

/* A read-only matrix or vector somewhere in host memory (usually a map). */
struct tensor_view {
    enum dtype dtype;
    int64_t rows, cols; /* a vector is 1 x cols */
    const void *data;   /* borrowed; element-aligned */
};

/* A quantized matrix with its codes a byte each: the quantizer makes it, writers of layers and checkpoints take it.
 *   W[n,k] = scale[g_idx[k], n] * (codes[n,k] - zeros[g_idx[k], n])       exact in f32: f16 scale (11 bits) x difference (at most 9 bits)
 * (scales * (q - zero); zero is the true zero point, which v1 files store less one: ModelCloud/GPTQModel@f4c327a17:gptqmodel/nn_modules/qlinear/torch.py.) */
struct qmatrix {
    int64_t N, K, G;
    int bits;         /* 2, 3, 4 or 8 */
    int group_size;   /* -1: one group */
    int sym;
    uint8_t *codes;   /* [N,K], one code a byte, 0 .. 2^bits - 1 */
    uint16_t *scales; /* [G,N] f16 bits, finite */
    uint8_t *zeros;   /* [G,N], 0 .. 2^bits (v1 storage of zero - 1 wraps at 0, see wfmt.h) */
    int32_t *g_idx;   /* [K], 0 .. G-1 */
};
/* One allocation for all parts; 0 or -1 when memory is short. qmatrix_free takes a zeroed struct too. */
int qmatrix_alloc(struct qmatrix *q, int64_t N, int64_t K, int bits, int group_size);
void qmatrix_free(struct qmatrix *q);

/* The same matrix with its codes in words, as a GPTQ checkpoint holds them (kernels/wfmt.h): readers of checkpoints fill it, wfmt_pack makes it of a qmatrix, backends take
 * it and nothing else. A view, as tensor_view is: what it points at is lent, a map or a qmatrix that must outlive it, but for what lies in `owned`. */
struct qwords {
    int64_t N, K, G;
    int bits;               /* 2, 3, 4 or 8 */
    int group_size;         /* -1: one group */
    const uint32_t *words;  /* [wfmt_words(K, bits), N]; what the last word of a column holds beyond K is never looked at */
    const uint16_t *scales; /* [G,N] f16 bits, finite */
    const uint8_t *zeros;   /* [G,N], 0 .. 2^bits */
    const int32_t *g_idx;   /* [K], 0 .. G-1 */
    void *owned;            /* what the view itself brought along, or NULL */
};
/* Frees what is owned; takes a zeroed struct too. */
void qwords_free(struct qwords *q);

#endif

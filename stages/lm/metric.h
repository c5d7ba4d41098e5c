/* The local output metric of a layer's modules: G [N,N], how an error in a module's outputs shows further on inside its layer, estimated on the native stream.
 *   gate, up   G = (Wd^T Wd) o E[a a^T], o elementwise: what down_proj makes of an error in silu(gate) * up, a its partial derivative
 *              (up: silu(gate); gate: up * silu'(gate))
 *   q, k, v    G = E[dy dy^T], dy the gradient at the module's output of z . o_proj's output, z random signs, one draw a token: back through attention alone
 * normalized to a mean diagonal of 1, and 0.1 added to it. o and down write to the stream and have none.
 * Only every so many-th sample (q, k, v) or block of rows (gate, up) is taken, about METRIC_TOKENS in all: G is a second moment, not a fit. */
#ifndef STAGES_LM_METRIC_H
#define STAGES_LM_METRIC_H

#include "stages/lm/decoder.h"
#include "stages/quant/hessian.h"

enum { METRIC_TOKENS = 16384 };

struct metric {
    struct backend *b;         /* borrowed */
    const struct model *model; /* borrowed */
    int64_t layer, stride;
    struct hessian acc[MOD_COUNT]; /* zeroed where not wanted */
    /* private */
    struct weight *o_back; /* o_proj, transposed */
    float *z, *dy, *d[3];  /* device, `longest` rows: signs; gradients at attention's output, at q, k, v */
    float *gate, *up;      /* device, a block of rows */
    double *down;          /* host [intermediate, intermediate] Wd^T Wd, when first needed */
};

/* wanted: whose metric; tokens in all, `longest` of one sample. */
int metric_open(struct metric *m, struct backend *b, const struct model *model, int64_t layer, const bool wanted[MOD_COUNT], int64_t tokens,
                int64_t longest, struct err *e);
void metric_close(struct metric *m); /* takes a zeroed one too */

/* Whether a sample is one of those taken for q, k, v. */
bool metric_wants(const struct metric *m, int64_t sample);
/* xn: a sample's normed rows, M of them at positions pos (0..). l: the source layer. */
int metric_attention(struct metric *m, struct decoder_env *env, const struct layer *l, const float *xn, int64_t M, const int32_t *pos, int64_t sample,
                     struct err *e);
/* gate(xn), up(xn) of rows row..row+M; row is a multiple of HESSIAN_BLOCK_ROWS, and so is M but at the end. */
int metric_mlp(struct metric *m, const float *gate, const float *up, int64_t row, int64_t M, struct err *e);

/* *g: host, malloc'ed [N, N padded to 16] f32; NULL where none was wanted or nothing was seen. The accumulator is released. */
int metric_finish(struct metric *m, enum module_id mod, float **g, struct err *e);

#endif

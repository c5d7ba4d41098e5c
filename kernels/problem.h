/* Problems with seeds, for whoever tests a backend (selftest, tests/gpu): matrices and products, sequences for attention, how far from exact a result is, and how far it may
 * be. The same seed makes the same problem on every machine. Running out of memory ends the program: problems are small.
 *
 *     struct problem_matrix m = problem_matrix(KIND_W4, &shape, &seed);
 *     problem_weight(b, &m, &w, e);  struct problem p = problem_new(&m, 33, 2, &seed);  problem_solve(b, w, &m, &p, 0, 33, &y, e);  problem_worst(&m, &p, y, &at);
 *     free(y); problem_free(&p); b->ops->weight_free(b, w); problem_matrix_free(&m); */
#ifndef KERNELS_PROBLEM_H
#define KERNELS_PROBLEM_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"

/* How far a GPU's results may be from the CPU's; its rope, add, embed and products of F32 weights give the CPU's bits. */
#define BOUND_PRODUCT 0x1p-15  /* of the sum of |terms|, from f64; see problem_worst */
#define BOUND_RMSNORM 2e-6     /* |d| / max(1e-3, |ref|) */
#define BOUND_SILU 2e-6        /* |d| / max(1, |ref|) */
#define BOUND_ATTENTION 4e-6   /* |d| */
#define BOUND_LOGITS 1e-6      /* |d|, nats: nll and kl */
#define BOUND_CHAIN 1e-4       /* |d| / max(1, |ref|), of a layer with its last norm; seen: 3.1e-5, nearly all of it by halves, which every device makes alike */

/* splitmix64. */
static inline uint64_t rnd(uint64_t *s)
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* -1 .. 1. */
static inline float rnd_f32(uint64_t *s)
{
    return (float)((double)(int64_t)rnd(s) * 0x1p-63);
}

float *rnd_floats(size_t n, uint64_t *s); /* the caller frees */

/* Products */

enum problem_kind { KIND_F32, KIND_F16, KIND_BF16, KIND_W2, KIND_W3, KIND_W4, KIND_W8, KINDS };
extern const char *const problem_kind_names[KINDS];

struct problem_shape {
    int64_t N, K;
    int group;  /* of quantized kinds, -1: one */
    bool order; /* act-order: groups drawn at random, of unequal sizes */
    bool sym;   /* all zeros in the middle; else anywhere */
};

struct problem_matrix {
    int64_t N, K;
    void *source;            /* owned; what view shows */
    struct tensor_view view; /* dense kinds */
    struct qmatrix q;        /* quantized ones */
    bool quantized;
    float *values;           /* [N,K], exact; owned */
};
/* Scales have both signs. */
struct problem_matrix problem_matrix(enum problem_kind kind, const struct problem_shape *s, uint64_t *seed);
void problem_matrix_free(struct problem_matrix *m);
/* values of a quantized matrix again, when q has been changed. */
void problem_matrix_values(struct problem_matrix *m);
int problem_weight(struct backend *b, const struct problem_matrix *m, struct weight **out, struct err *e);

struct problem {
    int64_t M, ldx, ldy;
    float *x, *bias, *y0; /* y0: what is in y before; owned */
    bool add_bias, accumulate;
};
/* pad: elements between rows of x and of y. */
struct problem problem_new(const struct problem_matrix *m, int64_t M, int pad, uint64_t *seed);
void problem_free(struct problem *p);
/* Rows from .. from + rows: *y [rows, ldy], gaps too, is the caller's to free. */
int problem_solve(struct backend *b, const struct weight *w, const struct problem_matrix *m, const struct problem *p, int64_t from, int64_t rows, float **y, struct err *e);

/* Where two results differ most. */
struct problem_place {
    int64_t row, col;
    double got, want;
};
enum { PROBLEM_PARTS_MAX = 3 };
/* n products of rows of p[0].x at once, by linear_many: y[i] of each as above, NULL for all where it fails. */
int problem_solve_many(struct backend *b, struct weight *const *w, const struct problem_matrix *m, const struct problem *p, int n, int64_t from, int64_t rows, float **y,
                       struct err *e);
/* The largest |y - exact| / (BOUND_PRODUCT sum |x w| + 2^-22 (|bias| + |y0|)), exact in f64: halves leave 2^-17 of a term, sums of f32 the rest. At most 1 is right. NaN
 * counts as infinite, and so do gaps between rows that are not as they were. at may be NULL. */
double problem_worst(const struct problem_matrix *m, const struct problem *p, const float *y, struct problem_place *at);

/* Memory of a backend with the values of a host array, and back; the caller frees what *out is. */
int problem_put(struct backend *b, const float *host, size_t n, float **out, struct err *e);
int problem_get(struct backend *b, const float *device, size_t n, float **out, struct err *e);

/* Attention (problem_attention.c) */

struct problem_heads {
    int heads, kv_heads, D;
    int64_t window;
};

struct problem_sequence {
    int64_t length;
    float *q, *k, *v; /* of all positions; owned */
};
/* Scores are far apart, so that softmax is not flat. */
struct problem_sequence problem_sequence(const struct problem_heads *h, int64_t length, uint64_t *seed);
void problem_sequence_free(struct problem_sequence *s);

enum problem_cuts { CUT_WHOLE, CUT_MIXED, CUT_SMALL }; /* whole sequences at once; uneven steps with single rows among them; small chunks */
enum { PROBLEM_SEQUENCES_MAX = 8 };
/* Runs n sequences side by side in steps. y[i] [length, heads * D] is the caller's to free, NULL for all where it fails. */
int problem_attend(struct backend *b, const struct problem_heads *h, const struct problem_sequence *s, int n, enum problem_cuts cuts, float **y, struct err *e);

#endif

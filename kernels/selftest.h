/* Runs what a backend computes with on problems with seeds and compares: `gptqpipe selftest`. Seconds, not hours: the whole suites are tests/kernels and tests/gpu.
 *
 *     struct selftest t = {.b = tested, .ref = reference, .exact = ..., .at = ..., .done = ..., .arg = ...};
 *     selftest_products(&t, "marlin", kinds, 2, e); selftest_joined(&t, "marlin-joined", kinds, 2, e); selftest_chain(&t, "marlin-chain", kinds, 2, e);
 *     selftest_ops(&t, e); selftest_quant(&t, e);
 *
 *   ref NULL             b is the CPU's scalar row: its results must have the digests in selftest.def, which are what class `cpu` is, and its products be within BOUND_PRODUCT
 *                        of f64 sums
 *   ref set, exact       b is another CPU row, ref the scalar one: equal to the bit
 *   ref set, not exact   b is a GPU, ref the CPU: within the bounds of problem.h, products of f64 sums; the same token where the choice does not hang on a rounding
 * and in every case: a second run gives the same bits, and so do a token alone, among few and among all, and a sequence however it is cut. */
#ifndef KERNELS_SELFTEST_H
#define KERNELS_SELFTEST_H

#include "kernels/problem.h"

/* Raised when a pass comes to say more: passes of an older one are no proof then. */
enum { SELFTEST_REVISION = 2, SELFTEST_NAME_BYTES = 32, SELFTEST_WHAT_BYTES = 384 };

/* Cases of one kind. */
struct selftest_group {
    char name[SELFTEST_NAME_BYTES]; /* "rmsnorm", "marlin" */
    int cases;
    bool passed;
    double bound;                   /* 0: equal bits */
    double worst;                   /* the largest error, as the bound is; may be infinite */
    char what[SELFTEST_WHAT_BYTES]; /* not passed: the first case that failed and the two values */
};

struct selftest {
    struct backend *b, *ref;
    bool exact;
    void (*at)(void *arg, const char *group, const char *what); /* before each case: who has to say what did not end */
    void (*done)(void *arg, const struct selftest_group *g);
    void *arg;
    struct selftest_group group; /* this and what follows: the one under way */
    char what[160];
    uint64_t digest;
};

/* A group: products of the kinds. An op that fails ends it: the group is not passed, done is told, and the error comes back with the case in front. */
int selftest_products(struct selftest *t, const char *name, const enum problem_kind *kinds, int count, struct err *e);
/* The same of products with one input: each by itself, all at once, joined or not, in the bound and the bits of a token alone. */
int selftest_joined(struct selftest *t, const char *name, const enum problem_kind *kinds, int count, struct err *e);
/* The same of a layer as the decoder has it, prefilled, in chunks and token by token; and of products of what an op has made and another has written over since. */
int selftest_chain(struct selftest *t, const char *name, const enum problem_kind *kinds, int count, struct err *e);
/* Groups rmsnorm, rope, silu, add, embed, attention, logits, sample; an op that fails ends them all. */
int selftest_ops(struct selftest *t, struct err *e);
/* Group calibrate: sums, gradients, factorization, the GPTQ loop and what follows it. For CPU rows: no GPU has these. */
int selftest_quant(struct selftest *t, struct err *e);

/* For the files of selftest. */

/* What an op gave, as f64. */
struct selftest_result {
    double *values; /* owned */
    size_t count;
};
void selftest_begin(struct selftest *t, const char *name, double bound);
/* Tells done, unless an op failed (rc) says so in the group first. Returns rc. */
int selftest_end(struct selftest *t, int rc, struct err *e);
void selftest_case(struct selftest *t, const char *fmt, ...) ERR_PRINTF(2, 3);
typedef int selftest_run(struct backend *b, const void *arg, struct selftest_result *out, struct err *e);
/* Runs a case twice on b and once on ref. floor: errors are |d| / max(floor, |ref|); 0: |d|. keep (may be NULL) gets b's result, the caller's to free. */
int selftest_both(struct selftest *t, selftest_run *run, const void *arg, double floor, struct selftest_result *keep, struct err *e);
/* Both must have the same bits; how: when the second was made, for the message. */
void selftest_same(struct selftest *t, const struct selftest_result *first, const struct selftest_result *second, const char *how);

/* Arrays of a backend for one run of an op, or of a few. */
enum { SELFTEST_ARRAYS = 32 };
struct selftest_arrays {
    struct backend *b;
    struct err *e;
    int rc, count;
    void *of[SELFTEST_ARRAYS];
};
/* A copy of n floats; NULL once rc is set. */
float *selftest_put(struct selftest_arrays *a, const float *host, size_t n);
/* out gets the n floats at device, unless rc is set; frees all arrays. Returns rc. */
int selftest_take(struct selftest_arrays *a, const float *device, size_t n, struct selftest_result *out);
/* More values. */
void selftest_append(struct selftest_result *r, const double *p, size_t n);
void selftest_append_f32(struct selftest_result *r, const float *p, size_t n);

#endif

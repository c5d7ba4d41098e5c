/* Speed of a backend's ops, each beside a bound of the device that is measured in the same run. Behind the command `bench`; a whole model's speed is stages/speed.h.
 *
 *     struct bench k = {.b = b, .par = &par, .isa = ISA_AVX2, .seconds = 0.1};
 *     bench_open(&k, e);                                      takes arrays, measures the bounds
 *     bench_ops(&k, fn, arg, e);                              ops other than products (bench_ops.c)
 *     bench_products(&k, classes, count, &list, must, fn, arg, e);
 *     bench_tune(&k, classes, count, &list, fn, arg, e);      rows for select.def (bench_tune.c)
 *     bench_close(&k);
 *
 * A time is the median of BENCH_TIMES batches of calls. On a GPU work is queued without waiting inside a batch, so small ops show the cost of a launch. Weights are rotated over
 * copies that together are beyond any cache; values are noise. One thread at a time. */
#ifndef KERNELS_BENCH_H
#define KERNELS_BENCH_H

#include "kernels/backend.h"

enum { BENCH_TIMES = 5, BENCH_ROWS_MAX = 16, BENCH_CLASSES_MAX = 8, BENCH_SHAPES_MAX = 32 };

struct bench_bounds {
    double memory;     /* bytes a second: on the CPU reading; on a GPU `add`, which moves 12 bytes an element; arrays beyond the caches */
    double arithmetic; /* FLOP a second of FMAs on all threads; 0: not measured (a GPU) */
};

struct bench {
    struct backend *b;           /* borrowed */
    const struct parallel *par;  /* borrowed; what the CPU's bounds are measured with */
    enum isa isa;                /* of the CPU's arithmetic; not ISA_AUTO */
    double seconds;              /* that a measurement takes at least */
    int copies;                  /* of each matrix to go round in; 0: as many as are 256 MB together */
    uint64_t memory_bytes;       /* free on the device: arrays take a quarter of it at most; 0: not known */
    struct bench_bounds bounds;  /* set by bench_open, and what follows */
    float *array;                /* device [floats] */
    int64_t floats;
};

struct bench_time {
    double seconds;  /* of a call: the median */
    double shortest; /* what bounds are made of: other programs only slow it down */
    double spread;   /* (longest - shortest) / median */
};

/* One measurement. */
struct bench_line {
    const char *op;     /* "add", "attention", "linear" */
    const char *class;  /* of kernels that served, of a product; else "" */
    const char *format; /* of weights: "bf16", "w4", "w8", the last two in groups of 128; else "" */
    const char *detail; /* of what, in words; else "" */
    int64_t N, K, M;    /* 0: has none */
    struct bench_time time;
    double bytes, flops; /* of a call: moved at least; 0 flops: not counted */
    double share;       /* of the bound that binds: 1 is all of it; above where data comes from a cache */
    const char *bound;  /* "memory" or "arithmetic" */
    const char *left_out; /* not NULL: this class serves none of it, and why; nothing was measured */
};
/* A line as it comes; borrowed. */
typedef void bench_line_fn(void *arg, const struct bench_line *l);

struct bench_shape {
    int64_t N, K;
};
/* What products are timed: `shape_count` 0 and `row_count` 0 stand for what suits the device. */
struct bench_list {
    struct bench_shape shapes[BENCH_SHAPES_MAX];
    size_t shape_count;
    int64_t rows[BENCH_ROWS_MAX]; /* M */
    size_t row_count;
};
/* "4096x14336" is N = 4096 outputs, K = 14336 inputs; otherwise -ERR_USAGE. */
int bench_shape_parse(const char *word, struct bench_shape *out, struct err *e);

/* A class of kernels and a backend that is pinned to it, on the same device as bench.b. */
struct bench_class {
    const char *name;
    struct backend *b;
};

int bench_open(struct bench *k, struct err *e);
void bench_close(struct bench *k); /* fine on a zeroed struct */
/* Least seconds that moving and computing so much takes, and which of the two binds. */
double bench_bound(const struct bench_bounds *bounds, double bytes, double flops, const char **bound);
/* Bytes of a quantized (2, 3, 4, 8 bits; group -1: one) matrix as a checkpoint stores it: codes, a 16-bit scale and a zero of `bits` a group and output. */
double bench_weight_bytes(int bits, int group, int64_t N, int64_t K);

int bench_ops(const struct bench *k, bench_line_fn *fn, void *arg, struct err *e);
/* Dense products on k->b, then quantized ones in each class. A class that refuses a matrix is told as a line with left_out, once; with `must` it is the error. */
int bench_products(const struct bench *k, const struct bench_class *classes, size_t count, const struct bench_list *list, bool must, bench_line_fn *fn, void *arg, struct err *e);

/* One row for select.def: the times of every class at every M. */
struct bench_row {
    int bits;
    struct bench_shape shape;
    size_t best;                                        /* class: by geometric mean over M */
    double seconds[BENCH_CLASSES_MAX][BENCH_ROWS_MAX];  /* 0: left out */
};
struct bench_tune_events {
    void (*left_out)(void *arg, const char *class, const char *why);
    void (*row)(void *arg, const struct bench_row *r, const struct bench_list *list);
    void *arg;
};
/* Largest shapes first, for the first row that fits decides. `list`: as above, filled with what is taken. Every class left out: -ERR_UNSUPPORTED. */
int bench_tune(const struct bench *k, const struct bench_class *classes, size_t count, struct bench_list *list, const struct bench_tune_events *ev, struct err *e);

/* Of n times, n > 0; sorts them. */
struct bench_time bench_median(double *times, size_t n);

/* For bench*.c. */
struct bench_product { /* copies of a matrix of noise, with X and Y */
    struct backend *b;
    struct weight **w;
    int copies;
    int64_t M, N, K;
    float *x, *y; /* device [2 M, K], [M, N] for the largest M */
};
/* bits 0: bf16. M: the largest there will be. -ERR_UNSUPPORTED: the backend's class does not serve it. */
int bench_product_open(const struct bench *k, struct backend *b, int bits, struct bench_shape s, int64_t M, struct bench_product *p, struct err *e);
void bench_product_close(struct bench_product *p);
int bench_product_time(const struct bench *k, struct bench_product *p, int64_t M, struct bench_time *t, struct err *e);
double bench_product_bytes(int bits, struct bench_shape s);
/* Device memory for n floats, with noise in it. On an error *out may hold memory, which is the caller's. */
int bench_floats(struct backend *b, int64_t n, float **out, struct err *e);
/* Once through k->array on all threads of k->par: bytes read. FMAs on all threads by k->isa, in registers: FLOP done. */
double bench_cpu_read(const struct bench *k);
double bench_cpu_fma(const struct bench *k);
int bench_cpu_bounds(struct bench *k, struct err *e); /* k->bounds of these two */
int bench_run(const struct bench *k, struct backend *b, int (*call)(void *arg, int i, struct err *e), void *arg, struct bench_time *t, struct err *e);

#endif

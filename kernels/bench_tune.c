/* Rows for kernels/select.def. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/bench.h"

/* Layers of Llama-3-70B and -8B, whole and as vLLM joins them, then of small models; the last row is for whatever is smaller. */
static const struct bench_shape layers[] = {
    {28672, 8192}, {8192, 28672}, {28672, 4096}, {8192, 8192}, {14336, 4096}, {4096, 14336}, {6144, 4096}, {4096, 4096},
    {1024, 8192},  {1024, 4096},  {1536, 576},   {576, 1536},  {576, 576},    {64, 64},
};
static const int64_t layer_rows[] = {1, 16, 256};

static int larger_first(const void *a, const void *b)
{
    const struct bench_shape *x = a, *y = b;
    const int64_t p = x->N * x->K, q = y->N * y->K;
    return p != q ? (p < q) - (p > q) : (x->N < y->N) - (x->N > y->N);
}

static void complete(struct bench_list *list)
{
    if (!list->shape_count) {
        memcpy(list->shapes, layers, sizeof layers);
        list->shape_count = sizeof layers / sizeof *layers;
    }
    if (!list->row_count) {
        memcpy(list->rows, layer_rows, sizeof layer_rows);
        list->row_count = sizeof layer_rows / sizeof *layer_rows;
    }
    qsort(list->shapes, list->shape_count, sizeof *list->shapes, larger_first);
}

/* One class on one shape: its times to `seconds`, their mean logarithm to *mean. */
static int time_class(const struct bench *k, struct backend *b, int bits, struct bench_shape s, const struct bench_list *list, double *seconds, double *mean, struct err *e)
{
    struct bench_product p;
    struct bench_time t;
    int64_t most = 1;
    for (size_t i = 0; i < list->row_count; i++)
        most = list->rows[i] > most ? list->rows[i] : most;
    int rc = bench_product_open(k, b, bits, s, most, &p, e);
    if (rc)
        return rc;
    *mean = 0;
    for (size_t i = 0; !rc && i < list->row_count; i++) {
        rc = bench_product_time(k, &p, list->rows[i], &t, e);
        seconds[i] = t.seconds;
        *mean += rc ? 0 : log(t.seconds) / (double)list->row_count;
    }
    bench_product_close(&p);
    return rc;
}

/* Classes that refuse are told, and not tried again. */
static int tune_shape(const struct bench *k, const struct bench_class *classes, size_t count, const struct bench_list *list, bool *out, struct bench_row *r,
                      const struct bench_tune_events *ev, struct err *e)
{
    double least = INFINITY, mean;
    for (size_t c = 0; c < count; c++) {
        struct err why;
        int rc = out[c] ? -ERR_UNSUPPORTED : time_class(k, classes[c].b, r->bits, r->shape, list, r->seconds[c], &mean, &why);
        if (rc && rc != -ERR_UNSUPPORTED) {
            if (e)
                *e = why;
            return rc;
        }
        if (rc && !out[c])
            ev->left_out(ev->arg, classes[c].name, why.text);
        out[c] = rc;
        if (!rc && mean < least) {
            least = mean;
            r->best = c;
        }
    }
    return least < INFINITY ? 0 : err_set(e, ERR_UNSUPPORTED, "no class of kernels serves %lld x %lld in %d bits", (long long)r->shape.N, (long long)r->shape.K, r->bits);
}

int bench_tune(const struct bench *k, const struct bench_class *classes, size_t count, struct bench_list *list, const struct bench_tune_events *ev, struct err *e)
{
    bool out[BENCH_CLASSES_MAX] = {false};
    int rc = 0;
    complete(list);
    for (int bits = 4; !rc && bits <= 8; bits += 4)
        for (size_t i = 0; !rc && i < list->shape_count; i++) {
            struct bench_row r = {.bits = bits, .shape = list->shapes[i]};
            rc = tune_shape(k, classes, count, list, out, &r, ev, e);
            if (!rc)
                ev->row(ev->arg, &r, list);
        }
    return rc;
}

/* Which ops and products `bench` times without a model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/bench.h"

/* What suits a device: its products take milliseconds at most, as do its lines of attention. */
struct attention_case {
    int heads, kv_heads, sequences;
    int64_t rows, pos;
};
struct suit {
    struct bench_shape shapes[8], dense[2]; /* end at N = 0 */
    int64_t rows[8];                        /* end at 0 */
    struct attention_case attention[4];
};
/* Llama-3.2-1B's layers: q and o, gate and up, down. */
static const struct suit cpu = {
    .shapes = {{2048, 2048}, {8192, 2048}, {2048, 8192}},
    .dense = {{2048, 2048}},
    .rows = {1, 16, 256},
    .attention = {{32, 8, 1, 1, 4000}, {32, 8, 16, 1, 500}, {32, 8, 1, 512, 0}},
};
/* Llama-3-8B's: its head; q and o, k and v, gate and up, down; what vLLM makes of q, k, v and of gate and up. */
static const struct suit gpu = {
    .shapes = {{4096, 4096}, {1024, 4096}, {14336, 4096}, {4096, 14336}, {6144, 4096}, {28672, 4096}},
    .dense = {{128256, 4096}, {4096, 4096}},
    .rows = {1, 16, 64, 256, 1024},
    .attention = {{32, 8, 1, 1, 8000}, {32, 8, 16, 1, 2000}, {32, 8, 1, 512, 0}, {32, 8, 1, 512, 2048}},
};
enum { HEAD_DIM = 128 };

static bool is_cpu(const struct bench *k)
{
    return !strcmp(k->b->name, "cpu");
}

static const struct suit *suit_of(const struct bench *k)
{
    return is_cpu(k) ? &cpu : &gpu;
}

static void tell(const struct bench *k, struct bench_line *l, bench_line_fn *fn, void *arg)
{
    l->share = bench_bound(&k->bounds, l->bytes, l->flops, &l->bound) / l->time.seconds;
    fn(arg, l);
}

struct row_op {
    const struct bench *k;
    int64_t K, M; /* of rmsnorm */
};

static int call_add(void *arg, int i, struct err *e)
{
    const struct bench *k = ((struct row_op *)arg)->k;
    (void)i;
    return k->b->ops->add(k->b, k->array, k->array + k->floats / 2, k->floats / 2, e);
}

static int call_silu(void *arg, int i, struct err *e)
{
    const struct bench *k = ((struct row_op *)arg)->k;
    const int64_t n = k->floats / 4;
    (void)i;
    return k->b->ops->silu_mul(k->b, k->array, k->array + n, k->array + 2 * n, 1, n, e);
}

static int call_rmsnorm(void *arg, int i, struct err *e)
{
    const struct row_op *r = arg;
    const struct bench *k = r->k;
    (void)i;
    return k->b->ops->rmsnorm(k->b, k->array, k->array + k->floats / 2, k->array + r->M * r->K, r->M, r->K, 1e-6f, e);
}

static int row_ops(const struct bench *k, bench_line_fn *fn, void *arg, struct err *e)
{
    static const int64_t widths[] = {128, 4096, 14336};
    struct row_op r = {.k = k};
    struct bench_line l = {.op = "add", .class = "", .format = "", .detail = "", .bytes = (double)(k->floats / 2) * 12};
    int rc = bench_run(k, k->b, call_add, &r, &l.time, e);
    if (!rc) {
        tell(k, &l, fn, arg);
        l = (struct bench_line){.op = "silu_mul", .class = "", .format = "", .detail = "", .bytes = (double)(k->floats / 4) * 12};
        rc = bench_run(k, k->b, call_silu, &r, &l.time, e);
    }
    if (!rc)
        tell(k, &l, fn, arg);
    for (size_t i = 0; !rc && i < sizeof widths / sizeof *widths; i++) {
        r.K = widths[i];
        r.M = k->floats / 2 / r.K - 1; /* the weights lie after the rows */
        if (r.M < 1)
            continue; /* arrays of a device with little memory */
        l = (struct bench_line){.op = "rmsnorm", .class = "", .format = "", .detail = "", .K = r.K, .M = r.M, .bytes = (double)(r.M * r.K) * 8};
        rc = bench_run(k, k->b, call_rmsnorm, &r, &l.time, e);
        if (!rc)
            tell(k, &l, fn, arg);
    }
    return rc;
}

/* Choosing the next token of M rows of VOCABULARY, of noise that rmsnorm has brought to about -2 .. 2, by a temperature that makes it some 40 nats; held to reading it once. */
enum { VOCABULARY = 128256, SAMPLE_ROWS_MAX = 16 };
struct sample {
    const struct bench *k;
    struct sample_row rows[SAMPLE_ROWS_MAX];
    int32_t ids[SAMPLE_ROWS_MAX];
    int64_t M;
};

static int call_sample(void *arg, int i, struct err *e)
{
    struct sample *t = arg;
    (void)i;
    return t->k->b->ops->sample(t->k->b, t->k->array, t->M, VOCABULARY, t->rows, t->ids, e);
}

static int time_samples(const struct bench *k, bench_line_fn *fn, void *arg, struct err *e)
{
    static const struct {
        int64_t M;
        double temperature, top_p;
        const char *detail;
    } cases[] = {{1, 0, 1, "the likeliest"}, {1, 0.1, 0.9, "top_p 0.9"}, {16, 0.1, 0.9, "top_p 0.9"}, {16, 0.1, 1, "top_p 1"}};
    int rc = 0;
    for (size_t i = 0; !rc && i < sizeof cases / sizeof *cases; i++) {
        struct sample t = {.k = k, .M = cases[i].M};
        if (t.M * VOCABULARY > k->floats)
            continue; /* arrays of a device with little memory */
        for (int m = 0; m < SAMPLE_ROWS_MAX; m++)
            t.rows[m] = (struct sample_row){cases[i].temperature, cases[i].top_p, (m + 0.5) / SAMPLE_ROWS_MAX};
        struct bench_line l = {.op = "sample", .class = "", .format = "", .detail = cases[i].detail, .K = VOCABULARY, .M = t.M, .bytes = (double)(t.M * VOCABULARY) * 4};
        rc = bench_run(k, k->b, call_sample, &t, &l.time, e);
        if (!rc)
            tell(k, &l, fn, arg);
    }
    return rc;
}

enum { SEQUENCES_MAX = 16 };
struct attention {
    struct backend *b;
    struct attn_args a;
    struct attn_segment seg[SEQUENCES_MAX];
    float *all[4]; /* device: q, k, v, y */
};

static int call_attention(void *arg, int i, struct err *e)
{
    struct attention *t = arg;
    t->a.layer = i % 2;
    return t->b->ops->attention(t->b, &t->a, e);
}

/* Keys and values of positions 0 .. pos - 1: any values will do, but finite ones. */
static int fill_caches(struct attention *t, const struct attention_case *c, struct err *e)
{
    int rc = 0;
    for (int i = 0; !rc && c->pos && i < 2 * c->sequences; i++) {
        struct attn_segment one = {.kv = t->seg[i / 2].kv, .rows = c->pos};
        struct attn_args a = t->a;
        a.segments = &one;
        a.segment_count = 1;
        a.layer = i % 2;
        rc = t->b->ops->attention(t->b, &a, e);
    }
    return rc;
}

static void attention_close(struct attention *t)
{
    for (int i = 0; i < SEQUENCES_MAX; i++)
        if (t->seg[i].kv)
            t->b->ops->kv_free(t->b, t->seg[i].kv);
    for (int i = 0; i < 4; i++)
        if (t->all[i])
            t->b->ops->free(t->b, t->all[i]);
}

static int attention_open(struct attention *t, const struct attention_case *c, struct err *e)
{
    const int64_t rows = c->pos > c->sequences * c->rows ? c->pos : c->sequences * c->rows, q = (int64_t)c->heads * HEAD_DIM, kv = (int64_t)c->kv_heads * HEAD_DIM;
    const int64_t floats[4] = {rows * q, rows * kv, rows * kv, rows * q};
    int rc = 0;
    for (int i = 0; !rc && i < 4; i++)
        rc = bench_floats(t->b, floats[i], &t->all[i], e);
    t->a = (struct attn_args){.q = t->all[0], .k = t->all[1], .v = t->all[2], .y = t->all[3], .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = HEAD_DIM, .scale = 0.088f};
    t->a.segments = t->seg;
    t->a.segment_count = (size_t)c->sequences;
    for (int i = 0; !rc && i < c->sequences; i++) {
        t->seg[i] = (struct attn_segment){.row = i * c->rows, .rows = c->rows, .pos = c->pos};
        rc = t->b->ops->kv_create(t->b, 2, c->kv_heads, HEAD_DIM, c->pos + c->rows, &t->seg[i].kv, e);
    }
    return rc ? rc : fill_caches(t, c, e);
}

static int time_attention(const struct bench *k, const struct attention_case *c, bench_line_fn *fn, void *arg, struct err *e)
{
    char detail[64];
    struct attention t = {.b = k->b};
    const double M = (double)(c->sequences * c->rows), seen = (double)c->pos + (double)(c->rows + 1) / 2;
    snprintf(detail, sizeof detail, "%d/%d heads, %d x %lld at %lld", c->heads, c->kv_heads, c->sequences, (long long)c->rows, (long long)c->pos);
    struct bench_line l = {.op = "attention", .class = "", .format = "", .detail = detail, .M = c->sequences * c->rows};
    l.bytes = (double)c->sequences * (double)(c->pos + c->rows) * c->kv_heads * HEAD_DIM * 8;
    l.flops = 4.0 * M * seen * c->heads * HEAD_DIM;
    int rc = attention_open(&t, c, e);
    if (!rc)
        rc = bench_run(k, k->b, call_attention, &t, &l.time, e);
    if (!rc)
        tell(k, &l, fn, arg);
    attention_close(&t);
    return rc;
}

int bench_ops(const struct bench *k, bench_line_fn *fn, void *arg, struct err *e)
{
    const struct suit *s = suit_of(k);
    int rc = row_ops(k, fn, arg, e);
    if (!rc)
        rc = time_samples(k, fn, arg, e);
    for (int i = 0; !rc && i < 4 && s->attention[i].heads; i++)
        rc = time_attention(k, &s->attention[i], fn, arg, e);
    return rc;
}

/* Products */

static int products(const struct bench *k, struct backend *b, int bits, struct bench_shape s, const struct bench_list *list, bench_line_fn *fn, void *arg, struct err *e)
{
    struct bench_product p;
    int64_t most = 1;
    for (size_t i = 0; i < list->row_count; i++)
        most = list->rows[i] > most ? list->rows[i] : most;
    int rc = bench_product_open(k, b, bits, s, most, &p, e);
    if (rc)
        return rc;
    for (size_t i = 0; !rc && i < list->row_count; i++) {
        const int64_t M = list->rows[i];
        const char *why;
        struct bench_line l = {.op = "linear", .class = b->ops->weight_kernel(b, p.w[0], &why), .format = bits == 4 ? "w4" : bits == 8 ? "w8" : "bf16", .detail = ""};
        l.N = s.N;
        l.K = s.K;
        l.M = M;
        l.bytes = bench_product_bytes(bits, s) + (double)(M * (s.N + s.K)) * 4;
        l.flops = 2.0 * (double)M * (double)s.N * (double)s.K;
        rc = bench_product_time(k, &p, M, &l.time, e);
        if (!rc)
            tell(k, &l, fn, arg);
    }
    bench_product_close(&p);
    return rc;
}

/* What the device suits for what the list leaves open. */
static struct bench_list completed(const struct suit *s, const struct bench_list *list)
{
    struct bench_list all = *list;
    for (size_t i = 0; !list->shape_count && s->shapes[i].N; i++)
        all.shapes[all.shape_count++] = s->shapes[i];
    for (size_t i = 0; !list->row_count && s->rows[i]; i++)
        all.rows[all.row_count++] = s->rows[i];
    return all;
}

static int class_products(const struct bench *k, const struct bench_class *c, const struct bench_list *list, bench_line_fn *fn, void *arg, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < list->shape_count; i++)
        for (int bits = 4; !rc && bits <= 8; bits += 4)
            rc = products(k, c->b, bits, list->shapes[i], list, fn, arg, e);
    return rc;
}

int bench_products(const struct bench *k, const struct bench_class *classes, size_t count, const struct bench_list *list, bool must, bench_line_fn *fn, void *arg, struct err *e)
{
    const struct suit *s = suit_of(k);
    const struct bench_list all = completed(s, list);
    const struct bench_shape *dense = list->shape_count ? list->shapes : s->dense;
    const size_t most = list->shape_count ? list->shape_count : sizeof s->dense / sizeof *s->dense;
    int rc = 0;
    for (size_t i = 0; !rc && i < most && dense[i].N; i++)
        rc = products(k, k->b, 0, dense[i], &all, fn, arg, e);
    for (size_t i = 0; !rc && i < count; i++) {
        struct err refused;
        rc = class_products(k, &classes[i], &all, fn, arg, &refused);
        if (rc == -ERR_UNSUPPORTED && !must) {
            fn(arg, &(struct bench_line){.op = "linear", .class = classes[i].name, .left_out = refused.text});
            rc = 0;
        } else if (rc && e) {
            *e = refused;
        }
    }
    return rc;
}

/* Backend of class `cpu`: checks arguments, counts calls and hands on to the kernels of one ISA. Device memory is plain memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu_weight.h"

static struct cpu_state *state_of(const struct backend *b)
{
    return b->state;
}

/* Counts a call of kernel `name` and gives its function. */
#define USE(b, name) (count(b, CPU_##name), state_of(b)->kernels->name)

static void count(struct backend *b, enum cpu_kernel k)
{
    atomic_fetch_add_explicit(&state_of(b)->calls[k], 1, memory_order_relaxed);
}

static int op_alloc(struct backend *b, size_t bytes, void **out, struct err *e)
{
    (void)b;
    *out = cpu_alloc(bytes);
    return *out ? 0 : err_set(e, ERR_NOMEM, "no memory for %zu bytes", bytes);
}

static void op_free(struct backend *b, void *p)
{
    (void)b;
    free(p);
}

static int op_copy(struct backend *b, void *to, const void *from, size_t bytes, struct err *e)
{
    (void)b;
    (void)e;
    if (bytes)
        memcpy(to, from, bytes);
    return 0;
}

static int op_weight_dense(struct backend *b, const struct tensor_view *t, struct weight **out, struct err *e)
{
    (void)b;
    return cpu_weight_dense(t, out, e);
}

static int op_weight_quantized(struct backend *b, const struct qwords *q, struct weight **out, struct err *e)
{
    (void)b;
    return cpu_weight_quantized(q, out, e);
}

static void op_weight_free(struct backend *b, struct weight *w)
{
    (void)b;
    cpu_weight_free(w);
}

static const char *op_weight_kernel(const struct backend *b, const struct weight *w, const char **why)
{
    (void)b;
    (void)w;
    *why = "";
    return "cpu";
}

static int op_linear(struct backend *b, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const struct weight *w, const float *bias,
                     bool accumulate, struct err *e)
{
    if (M > 1 && (ldy < w->N || ldx < w->K))
        return err_set(e, ERR_SHAPE, "linear %lld x %lld with row strides %lld and %lld", (long long)w->N, (long long)w->K, (long long)ldy, (long long)ldx);
    const struct linear_args a = {.y = y, .x = x, .ldy = ldy, .ldx = ldx, .M = M, .w = w, .bias = bias, .accumulate = accumulate};
    linear_fn *fn = NULL;
    switch (w->fmt) {
    case WFMT_F32:
        fn = USE(b, linear_f32_f32);
        break;
    case WFMT_F16:
        fn = USE(b, linear_f16_f32);
        break;
    case WFMT_BF16:
        fn = USE(b, linear_bf16_f32);
        break;
    case WFMT_W4:
        fn = USE(b, linear_w4_f32);
        break;
    case WFMT_W8:
        fn = USE(b, linear_w8_f32);
        break;
    case WFMT_COUNT:
        BUG("weight of format %d", (int)w->fmt);
    }
    fn(&state_of(b)->par, &a);
    return 0;
}

static int op_weight_join(struct backend *b, struct weight *const *w, int n, struct err *e)
{
    (void)b, (void)w, (void)n, (void)e; /* one after the other is as good here */
    return 0;
}

static int op_linear_many(struct backend *b, const struct linear_part *parts, int n, const float *x, int64_t ldx, int64_t M, struct err *e)
{
    int rc = 0;
    for (int i = 0; i < n && !rc; i++)
        rc = op_linear(b, parts[i].y, parts[i].ldy, x, ldx, M, parts[i].w, parts[i].bias, false, e);
    return rc;
}

static int op_embed(struct backend *b, float *y, const struct tensor_view *table, const int32_t *ids, int64_t M, struct err *e)
{
    if (table->dtype != DT_F32 && table->dtype != DT_F16 && table->dtype != DT_BF16)
        return err_set(e, ERR_UNSUPPORTED, "an embedding of dtype %s; F32, F16 and BF16 are supported", dtype_name(table->dtype));
    USE(b, embed_f32)(&state_of(b)->par, &(struct embed_args){.y = y, .table = table, .ids = ids, .M = M});
    return 0;
}

static int op_rmsnorm(struct backend *b, float *y, const float *x, const float *w, int64_t M, int64_t K, float eps, struct err *e)
{
    (void)e;
    USE(b, rmsnorm_f32)(&state_of(b)->par, &(struct rmsnorm_args){.y = y, .x = x, .w = w, .M = M, .K = K, .eps = eps});
    return 0;
}

static int op_rope(struct backend *b, const struct rope_args *a, struct err *e)
{
    if (a->head_dim % 2)
        return err_set(e, ERR_SHAPE, "rotary embedding needs an even head size, not %d", a->head_dim);
    USE(b, rope_f32)(&state_of(b)->par, a);
    return 0;
}

static int op_silu_mul(struct backend *b, float *y, const float *gate, const float *up, int64_t M, int64_t K, struct err *e)
{
    (void)e;
    USE(b, silu_mul_f32)(&state_of(b)->par, y, gate, up, M * K);
    return 0;
}

static int op_silu_back(struct backend *b, float *gate, float *up, int64_t n, struct err *e)
{
    (void)e;
    USE(b, silu_back_f32)(&state_of(b)->par, gate, up, n);
    return 0;
}

static int op_rmsnorm_back(struct backend *b, float *dy, const float *x, const float *w, int64_t M, int64_t K, float eps, struct err *e)
{
    (void)e;
    USE(b, rmsnorm_back_f32)(&state_of(b)->par, &(struct rmsnorm_args){.y = dy, .x = x, .w = w, .M = M, .K = K, .eps = eps});
    return 0;
}

static int op_add(struct backend *b, float *y, const float *x, int64_t n, struct err *e)
{
    (void)e;
    USE(b, add_f32)(&state_of(b)->par, y, x, n);
    return 0;
}

static int op_mix(struct backend *b, float *y, float p, const float *x, float q, int64_t n, struct err *e)
{
    (void)e;
    USE(b, mix_f32)(&state_of(b)->par, y, p, x, q, n);
    return 0;
}

static void op_kv_free(struct backend *b, struct kv_cache *kv)
{
    (void)b;
    if (!kv)
        return;
    free(kv->k);
    free(kv->v);
    free(kv);
}

static int op_kv_create(struct backend *b, int layers, int kv_heads, int head_dim, int64_t capacity, struct kv_cache **out, struct err *e)
{
    *out = NULL;
    struct kv_cache *kv = calloc(1, sizeof *kv);
    if (!kv)
        return err_set(e, ERR_NOMEM, "no memory for a KV cache");
    *kv = (struct kv_cache){.layers = layers, .kv_heads = kv_heads, .head_dim = head_dim, .padded = (head_dim + PANEL - 1) / PANEL * PANEL};
    kv->capacity = capacity;
    kv->stride = (capacity + PANEL - 1) / PANEL * PANEL;
    size_t rows, k_bytes, v_bytes;
    if (__builtin_mul_overflow((size_t)layers * (size_t)kv_heads, (size_t)kv->stride, &rows) ||
        __builtin_mul_overflow(rows, (size_t)head_dim * sizeof *kv->k, &k_bytes) || __builtin_mul_overflow(rows, (size_t)kv->padded * sizeof *kv->v, &v_bytes) ||
        !(kv->k = cpu_alloc(k_bytes)) || !(kv->v = cpu_alloc(v_bytes))) {
        op_kv_free(b, kv);
        return err_set(e, ERR_NOMEM, "no memory for a KV cache of %d layers, %d heads of %d, %lld positions", layers, kv_heads, head_dim, (long long)capacity);
    }
    *out = kv;
    return 0;
}

/* Scratch for, say, the "scores" of so many "positions". */
static int scratch_reserve(struct cpu_state *s, size_t floats, const char *what, int64_t count, const char *of, struct err *e)
{
    if (floats <= s->scratch_floats)
        return 0;
    free(s->scratch);
    s->scratch_floats = 0;
    s->scratch = cpu_alloc(floats * sizeof *s->scratch);
    if (!s->scratch)
        return err_set(e, ERR_NOMEM, "no memory for the %s of %lld %s", what, (long long)count, of);
    s->scratch_floats = floats;
    return 0;
}

static size_t attention_lane_floats(int64_t positions, int head_dim)
{
    int64_t dims = (head_dim + PANEL - 1) / PANEL * PANEL, scores = (positions + PANEL - 1) / PANEL * PANEL;
    return (size_t)(ATTN_ROWS * (2 * dims + scores));
}

/* Every segment against its cache; *positions grows to the most that one ends up with. */
static int check_segments(const struct attn_args *a, int64_t *positions, struct err *e)
{
    if (a->kv_heads < 1 || a->heads % a->kv_heads)
        return err_set(e, ERR_SHAPE, "%d query heads do not divide over %d key heads", a->heads, a->kv_heads);
    for (size_t i = 0; i < a->segment_count; i++) {
        const struct attn_segment *s = &a->segments[i];
        if (s->kv->kv_heads != a->kv_heads || s->kv->head_dim != a->head_dim || a->layer < 0 || a->layer >= s->kv->layers)
            return err_set(e, ERR_SHAPE, "layer %d with %d key heads of %d on a cache of %d layers with %d heads of %d", a->layer, a->kv_heads, a->head_dim,
                           s->kv->layers, s->kv->kv_heads, s->kv->head_dim);
        if (s->pos < 0 || s->rows < 0 || s->pos + s->rows > s->kv->capacity)
            return err_set(e, ERR_SHAPE, "positions %lld to %lld do not fit a KV cache of %lld", (long long)s->pos, (long long)(s->pos + s->rows),
                           (long long)s->kv->capacity);
        if (s->pos + s->rows > *positions)
            *positions = s->pos + s->rows;
    }
    return 0;
}

static int op_attention(struct backend *b, const struct attn_args *a, struct err *e)
{
    struct cpu_state *s = state_of(b);
    int64_t positions = 0;
    int code = check_segments(a, &positions, e);
    if (code)
        return code;
    struct attention_job j = {.a = a, .lanes = s->par.threads < 1 ? 1 : s->par.threads, .lane_floats = attention_lane_floats(positions, a->head_dim)};
    code = scratch_reserve(s, (size_t)j.lanes * j.lane_floats, "scores", positions, "positions", e);
    if (code)
        return code;
    j.scratch = s->scratch;
    USE(b, attention_f32)(&s->par, &j);
    return 0;
}

static size_t attention_back_lane_floats(int64_t positions, int head_dim)
{
    int64_t dims = (head_dim + PANEL - 1) / PANEL * PANEL, scores = (positions + PANEL - 1) / PANEL * PANEL;
    return (size_t)(scores * (2 * head_dim + 3 * dims) + ATTN_BACK_ROWS * (3 * dims + 2 * (scores + PANEL)));
}

static int op_attention_back(struct backend *b, const struct attn_back_args *a, struct err *e)
{
    struct cpu_state *s = state_of(b);
    int64_t positions = 0, units = (int64_t)a->sequences * a->kv_heads;
    if (a->kv_heads < 1 || a->heads % a->kv_heads)
        return err_set(e, ERR_SHAPE, "%d query heads do not divide over %d key heads", a->heads, a->kv_heads);
    if (a->offsets[0])
        return err_set(e, ERR_SHAPE, "attention_back: the first sequence begins at row %lld", (long long)a->offsets[0]);
    for (size_t i = 0; i < a->sequences; i++) {
        int64_t rows = a->offsets[i + 1] - a->offsets[i];
        if (rows < 0)
            return err_set(e, ERR_SHAPE, "attention_back: sequence %zu ends at row %lld, before its first, %lld", i, (long long)a->offsets[i + 1],
                           (long long)a->offsets[i]);
        positions = rows > positions ? rows : positions;
    }
    int64_t lanes = s->par.threads < units ? s->par.threads : units;
    struct attention_back_job j = {.a = a, .lanes = lanes < 1 ? 1 : (int)lanes, .lane_floats = attention_back_lane_floats(positions, a->head_dim)};
    int code = scratch_reserve(s, (size_t)j.lanes * j.lane_floats, "scores", positions, "positions", e);
    if (code)
        return code;
    j.scratch = s->scratch;
    USE(b, attention_back_f32)(&s->par, &j);
    return 0;
}

static int op_nll(struct backend *b, const float *logits, int64_t M, int64_t V, const int32_t *targets, double *nll, int32_t *top1, struct err *e)
{
    (void)e;
    USE(b, nll_f32)(&state_of(b)->par, &(struct logits_args){.logits = logits, .M = M, .V = V, .targets = targets, .nll = nll, .top1 = top1});
    return 0;
}

static int op_kl(struct backend *b, const float *ref, const float *logits, int64_t M, int64_t V, const int32_t *targets, struct kl_row *out, struct err *e)
{
    (void)e;
    USE(b, kl_f32)(&state_of(b)->par, &(struct logits_args){.logits = logits, .ref = ref, .M = M, .V = V, .targets = targets, .out = out});
    return 0;
}

static int op_sample(struct backend *b, const float *logits, int64_t M, int64_t V, const struct sample_row *rows, int32_t *ids, struct err *e)
{
    struct cpu_state *s = state_of(b);
    if (M <= 0)
        return 0;
    int64_t lanes = s->par.threads < M ? s->par.threads : M;
    struct sample_job j = {.logits = logits, .M = M, .V = V, .rows = rows, .ids = ids, .lanes = lanes < 1 ? 1 : (int)lanes};
    j.lane_floats = 4 * (size_t)((V + PANEL - 1) / PANEL * PANEL);
    int code = scratch_reserve(s, (size_t)j.lanes * j.lane_floats, "weights", V, "logits", e);
    if (code)
        return code;
    j.scratch = s->scratch;
    USE(b, sample_f32)(&s->par, &j);
    return 0;
}

static int op_hessian(struct backend *b, double *h, const float *x, int64_t ldx, int64_t M, int64_t K, int64_t row0, struct err *e)
{
    if (M > 1 && ldx < K)
        return err_set(e, ERR_SHAPE, "hessian of %lld inputs with row stride %lld", (long long)K, (long long)ldx);
    return USE(b, hessian_f32)(&state_of(b)->par, h, x, ldx, M, K, row0, e);
}

static int op_cross(struct backend *b, double *c, const float *a, int64_t lda, int64_t Ka, const float *x, int64_t ldx, int64_t Kb, int64_t M,
                    int64_t row0, struct err *e)
{
    if (M > 1 && (lda < Ka || ldx < Kb))
        return err_set(e, ERR_SHAPE, "cross of %lld and %lld inputs with row strides %lld and %lld", (long long)Ka, (long long)Kb, (long long)lda,
                       (long long)ldx);
    const struct cross_args args = {.c = c, .a = a, .x = x, .lda = lda, .Ka = Ka, .ldx = ldx, .Kb = Kb, .M = M, .row0 = row0};
    return USE(b, cross_f32)(&state_of(b)->par, &args, e);
}

static int op_factor(struct backend *b, double *h, float *u, int64_t K, int64_t *bad_pivot, struct err *e)
{
    return USE(b, factor_f64)(&state_of(b)->par, h, u, K, bad_pivot, e);
}

static int op_gptq(struct backend *b, const struct gptq_args *a, struct err *e)
{
    for (int64_t k = 0; k < a->K; k++)
        if (a->group[k] < 0 || a->group[k] >= a->G)
            return err_set(e, ERR_SHAPE, "gptq: group %d of column %lld is outside 0..%lld", a->group[k], (long long)k, (long long)a->G - 1);
    return USE(b, gptq_f32)(&state_of(b)->par, a, e);
}

/* Whether every group is one stretch of columns. */
static bool groups_whole(const struct refine_args *a)
{
    int64_t runs = 0;
    for (int64_t k = 0; k < a->K; k++)
        runs += k == 0 || a->group[k] != a->group[k - 1];
    return runs == a->G;
}

static int op_refine(struct backend *b, struct refine_args *a, struct err *e)
{
    for (int64_t k = 0; k < a->K; k++)
        if (a->group[k] < 0 || a->group[k] >= a->G)
            return err_set(e, ERR_SHAPE, "refine: group %d of column %lld is outside 0..%lld", a->group[k], (long long)k, (long long)a->G - 1);
    if (a->refit && !a->metric && !groups_whole(a))
        return err_set(e, ERR_SHAPE, "refine: scales can be fitted again only where the columns of each of %lld groups lie side by side", (long long)a->G);
    for (int64_t n = 0; a->metric && n < a->N; n++)
        if (!(a->metric[n * a->ldm + n] > 0))
            return err_set(e, ERR_NUMERIC, "refine: the output metric of row %lld is %g", (long long)n, (double)a->metric[n * a->ldm + n]);
    return a->metric ? USE(b, refine_metric_f32)(&state_of(b)->par, a, e) : USE(b, refine_f32)(&state_of(b)->par, a, e);
}

static int op_fit(struct backend *b, const float *w, int64_t ldw, int64_t N, int64_t n, const struct quant_grid *grid, uint16_t *scales, uint8_t *zeros,
                  struct err *e)
{
    return USE(b, fit_f32)(&state_of(b)->par, w, ldw, N, n, grid, scales, zeros, e);
}

static int op_quad_form(struct backend *b, const float *e_nk, const double *h, int64_t N, int64_t K, double *out, struct err *e)
{
    return USE(b, quad_form_f64)(&state_of(b)->par, e_nk, h, N, K, out, e);
}

static const struct backend_ops cpu_ops = {
    .alloc = op_alloc,
    .free = op_free,
    .upload = op_copy,
    .download = op_copy,
    .weight_dense = op_weight_dense,
    .weight_quantized = op_weight_quantized,
    .weight_free = op_weight_free,
    .weight_join = op_weight_join,
    .linear = op_linear,
    .linear_many = op_linear_many,
    .embed = op_embed,
    .rmsnorm = op_rmsnorm,
    .rope = op_rope,
    .silu_mul = op_silu_mul,
    .silu_back = op_silu_back,
    .rmsnorm_back = op_rmsnorm_back,
    .add = op_add,
    .mix = op_mix,
    .kv_create = op_kv_create,
    .kv_free = op_kv_free,
    .attention = op_attention,
    .attention_back = op_attention_back,
    .nll = op_nll,
    .kl = op_kl,
    .sample = op_sample,
    .hessian = op_hessian,
    .cross = op_cross,
    .factor = op_factor,
    .gptq = op_gptq,
    .refine = op_refine,
    .fit = op_fit,
    .quad_form = op_quad_form,
    .weight_kernel = op_weight_kernel,
};

static void each_count(const struct backend *b, void (*fn)(void *arg, const char *row, uint64_t calls), void *arg)
{
    struct cpu_state *s = state_of(b);
    for (int k = 0; k < CPU_KERNEL_COUNT; k++) {
        uint64_t calls = atomic_load_explicit(&s->calls[k], memory_order_relaxed);
        char row[128];
        snprintf(row, sizeof row, "%s_%s", cpu_kernel_name((enum cpu_kernel)k), isa_name(s->isa));
        if (calls)
            fn(arg, row, calls);
    }
}

static void destroy(struct backend *b)
{
    if (!b)
        return;
    free(state_of(b)->scratch);
    free(b->state);
    free(b);
}

int cpu_backend_create(enum isa isa, const struct parallel *par, struct backend **out, struct err *e)
{
    *out = NULL;
    const struct cpu_kernels *kernels = cpu_kernels(isa);
    if (!kernels)
        return err_set(e, ERR_UNSUPPORTED, "this machine does not run %s; its best is %s", isa_name(isa), isa_name(isa_best()));
    struct backend *b = calloc(1, sizeof *b);
    struct cpu_state *s = calloc(1, sizeof *s);
    if (!b || !s) {
        free(b);
        free(s);
        return err_set(e, ERR_NOMEM, "no memory for a backend");
    }
    s->par = *par;
    s->isa = isa == ISA_AUTO ? isa_best() : isa;
    s->kernels = kernels;
    *b = (struct backend){.ops = &cpu_ops, .name = "cpu", .numerics = "cpu", .state = s, .each_count = each_count, .destroy = destroy};
    *out = b;
    return 0;
}

/* The two hidden streams of a walk, what they are paired into, and the output metric: against ordinary walks, plain f64 sums and numerical
 * differentiation. */
#include "tests/unit/lm_book.h"

#include "kernels/half.h"
#include "stages/lm/walk.h"

static struct err err;

enum { SITES = 4, SAMPLES = 5, TOKENS = 700 };
static const int site_first[SITES + 1] = {MOD_Q, MOD_O, MOD_GATE, MOD_DOWN, MOD_COUNT};
static const int64_t offsets[SAMPLES + 1] = {0, 200, 207, 400, 603, TOKENS}; /* samples across the blocks of HESSIAN_BLOCK_ROWS */
static int32_t ids[TOKENS];
static const double own = 0.75, residual = 0.5;

static const struct {
    const char *arch;
    int head_dim;
    const char *extra;
} random_models[] = {
    {"LlamaForCausalLM",   8,  ""                                                                         },
    {"LlamaForCausalLM",   8,  ",\"attention_bias\":true,\"mlp_bias\":true"                               },
    {"MistralForCausalLM", 8,  ",\"sliding_window\":7"                                                    },
    {"Qwen2ForCausalLM",   8,  ",\"use_sliding_window\":true,\"sliding_window\":5,\"max_window_layers\":1"},
    {"Qwen3ForCausalLM",   16, ",\"attention_bias\":true"                                                 },
};

/* Runs the check on every kind of model that is always there. */
static void each_model(void (*check)(const char *model))
{
    for (size_t i = 0; i < sizeof random_models / sizeof *random_models; i++) {
        print_message("%s%s\n", random_models[i].arch, random_models[i].extra);
        random_model(random_models[i].arch, random_models[i].head_dim, random_models[i].extra);
        check(test_dir);
        dir_remove();
    }
    print_message("quickstart\n");
    check("manifests/quickstart/model");
}

static void open_walk(struct walk *w, const struct lm *lm, bool native, int64_t block, uint64_t memory)
{
    fill_ids(ids, TOKENS, lm->m.config.vocab_size, 5);
    const struct walk_input in = {.ids = ids,
                                  .offsets = offsets,
                                  .samples = SAMPLES,
                                  .block_rows = block,
                                  .memory_bytes = memory,
                                  .scratch = "/tmp",
                                  .native = native};
    OK(walk_open(w, lm->b, &lm->m, &in, &err));
}

static float *rows_of(struct rowstore *s)
{
    float *x = malloc((size_t)(s->rows * s->cols) * sizeof *x);
    OK(rowstore_read(s, 0, s->rows, x, &err));
    return x;
}

static void same_rows(struct rowstore *a, struct rowstore *b, const char *what, int64_t layer)
{
    float *x = rows_of(a), *y = rows_of(b);
    for (int64_t i = 0; i < a->rows * a->cols; i++)
        if (f32_bits(x[i]) != f32_bits(y[i]))
            fail_msg("%s, layer %d: row %d: %.9g and %.9g", what, (int)layer, (int)(i / a->cols), (double)x[i], (double)y[i]);
    free(x), free(y);
}

/* A copy of the layer in which every weight is somewhat off: what quantization does to it. */
static void disturb(struct layer *q, const struct layer *source, const struct lm *lm)
{
    uint32_t seed = (uint32_t)source->index + 1;
    *q = *source;
    for (int m = 0; m < MOD_COUNT; m++) {
        int64_t N, K;
        config_module_shape(&lm->m.config, (enum module_id)m, &N, &K);
        float *w = malloc((size_t)(N * K) * sizeof *w);
        OK(model_dequant(&lm->m, source->index, (enum module_id)m, w, &err));
        for (int64_t i = 0; i < N * K; i++)
            w[i] *= (float)(1 + 0.2 * random_value(&seed));
        const struct tensor_view view = {.dtype = DT_F32, .rows = N, .cols = K, .data = w};
        OK(lm->b->ops->weight_dense(lm->b, &view, &q->w[m], &err));
        free(w);
    }
}

static void free_disturbed(struct layer *q, const struct lm *lm)
{
    for (int m = 0; m < MOD_COUNT; m++)
        lm->b->ops->weight_free(lm->b, q->w[m]);
}

static void ordinary_attention(struct walk *w, const struct layer *l)
{
    OK(walk_attention(w, l, NULL, &err));
    OK(walk_attn_out(w, l, &err));
}

static void ordinary_mlp(struct walk *w, const struct layer *l)
{
    OK(walk_mlp_act(w, l, NULL, NULL, NULL, &err));
    OK(walk_mlp_out(w, l, &err));
}

/* Nothing quantized: both streams are the same bits behind every half, whichever way they go through it. */
static void check_equal_streams(const char *model)
{
    struct lm lm;
    struct walk a, b;
    lm_open_model(&lm, model);
    open_walk(&a, &lm, true, 512, 0);
    open_walk(&b, &lm, true, 512, 0);
    same_rows(&a.hidden, &a.native, "embeddings", 0);
    for (int64_t i = 0; i < lm.m.config.layers; i++) {
        struct layer l;
        OK(layer_load(&l, &a.env, &lm.m, i, &err));
        OK(walk_native_attention(&a, &l, NULL, &err));
        ordinary_attention(&a, &l);
        OK(walk_native_advance(&a, &err));
        same_rows(&a.hidden, &a.native, "attention", i);
        OK(walk_native_mlp(&a, &l, NULL, &err));
        ordinary_mlp(&a, &l);
        OK(walk_native_advance(&a, &err));
        same_rows(&a.hidden, &a.native, "mlp", i);
        OK(walk_layer(&b, &l, &err));
        OK(walk_native_layer(&b, &l, &err));
        same_rows(&a.hidden, &b.hidden, "walk_layer", i);
        same_rows(&a.native, &b.native, "walk_native_layer", i);
        layer_free(&l, &a.env);
    }
    walk_close(&a);
    walk_close(&b);
    lm_close(&lm);
}

static void equal_streams(void **state)
{
    (void)state;
    each_model(check_equal_streams);
}

/* What a layer of a quantizing walk gathers. */
struct sums {
    double *h[SITES], *p[SITES];
    int64_t K[SITES], N[SITES]; /* p is [N,K] */
    float *g[MOD_COUNT];
};

static void open_site(const struct lm *lm, struct hessian *s, int site)
{
    int64_t N, K;
    config_module_shape(&lm->m.config, (enum module_id)site_first[site], &N, &K);
    OK(hessian_init(s, lm->b, K, site % 2 ? N : K, &err));
}

static void close_site(struct sums *out, struct hessian *s, int site)
{
    out->K[site] = s->K;
    out->N[site] = s->N;
    out->h[site] = malloc((size_t)(s->K * s->K) * sizeof(double));
    out->p[site] = malloc((size_t)(s->N * s->K) * sizeof(double));
    OK(hessian_finish(s, out->h[site], out->p[site], &err));
    hessian_release(s);
}

static void free_sums(struct sums *s)
{
    for (int i = 0; i < SITES; i++)
        free(s->h[i]), free(s->p[i]);
    for (int i = 0; i < MOD_COUNT; i++)
        free(s->g[i]);
}

/* Both streams through a layer as a quantizer takes them: `source` for the native one, q for the other. */
static void walk_both(struct lm *lm, struct walk *w, const struct layer *source, const struct layer *q, struct sums *out)
{
    static const bool all[MOD_COUNT] = {true, true, true, true, true, true, true};
    struct hessian acc[SITES];
    struct metric metric;
    *out = (struct sums){0};
    for (int i = 0; i < SITES; i++)
        open_site(lm, &acc[i], i);
    OK(metric_open(&metric, lm->b, &lm->m, source->index, all, TOKENS, w->longest, &err));
    OK(walk_native_attention(w, source, &metric, &err));
    OK(walk_attn_norm(w, q, &acc[0], &err));
    OK(walk_attention(w, q, NULL, &err));
    OK(walk_o_input(w, &acc[1], &(struct walk_pair){own, residual, source->bias[MOD_O]}, &err));
    OK(walk_attn_out(w, q, &err));
    OK(walk_native_advance(w, &err));
    OK(walk_native_mlp(w, source, &metric, &err));
    OK(walk_mlp_norm(w, q, &acc[2], &err));
    OK(walk_mlp_act(w, q, &acc[3], &(struct walk_pair){own, residual, source->bias[MOD_DOWN]}, NULL, &err));
    OK(walk_mlp_out(w, q, &err));
    OK(walk_native_advance(w, &err));
    for (int i = 0; i < SITES; i++)
        close_site(out, &acc[i], i);
    for (int m = 0; m < MOD_COUNT; m++)
        OK(metric_finish(&metric, (enum module_id)m, &out->g[m], &err));
    metric_close(&metric);
}

/* A layer of an ordinary walk: the inputs of the sites [TOKENS,K], and hidden before each half. */
struct trace {
    float *x[SITES], *hidden[2];
};

static float *normed(struct walk *w, const struct layer *l, bool mlp)
{
    float *x = rows_of(&w->hidden);
    OK((mlp ? layer_mlp_norm : layer_attn_norm)(l, &w->env, x, x, TOKENS, &err));
    return x;
}

static struct trace trace_layer(struct walk *w, const struct layer *l)
{
    struct trace t;
    t.hidden[0] = rows_of(&w->hidden);
    t.x[0] = normed(w, l, false);
    ordinary_attention(w, l);
    t.x[1] = rows_of(&w->a);
    t.hidden[1] = rows_of(&w->hidden);
    t.x[2] = normed(w, l, true);
    ordinary_mlp(w, l);
    t.x[3] = rows_of(&w->act);
    return t;
}

static void free_trace(struct trace *t)
{
    for (int i = 0; i < SITES; i++)
        free(t->x[i]);
    free(t->hidden[0]), free(t->hidden[1]);
}

/* (2 / TOKENS) * sum of y^T x against `got` [N,K], each element to a share of what it could be. */
static void check_sum(const double *got, const double *y, int64_t N, const float *x, int64_t K, const char *what)
{
    double *row = malloc((size_t)K * sizeof *row), worst = 0;
    for (int64_t n = 0; n < N; n++) {
        double yy = 0;
        for (int64_t k = 0; k < K; k++)
            row[k] = 0;
        for (int64_t t = 0; t < TOKENS; t++) {
            yy += y[t * N + n] * y[t * N + n];
            for (int64_t k = 0; k < K; k++)
                row[k] += y[t * N + n] * (double)x[t * K + k];
        }
        for (int64_t k = 0; k < K; k++) {
            double xx = 0;
            for (int64_t t = 0; t < TOKENS && (n + k) % 5 == 0; t++)
                xx += (double)x[t * K + k] * (double)x[t * K + k];
            if ((n + k) % 5 == 0)
                worst = fmax(worst, fabs(got[n * K + k] - row[k] * 2 / TOKENS) / (sqrt(xx * yy) * 2 / TOKENS + 1e-30));
        }
    }
    free(row);
    if (!(worst < 2e-5))
        fail_msg("%s: off by %g", what, worst);
}

/* own * (W xf, without bias) + residual * (hf - hq), or xf for a site that reads the stream. */
static double *paired_rows(const struct lm *lm, int64_t layer, int site, const struct trace *f, const struct trace *q)
{
    int64_t N, K, wide;
    config_module_shape(&lm->m.config, (enum module_id)site_first[site], &N, &K);
    wide = site % 2 ? N : K;
    double *y = calloc((size_t)(TOKENS * wide), sizeof *y);
    for (int64_t i = 0; site % 2 == 0 && i < TOKENS * K; i++)
        y[i] = (double)f->x[site][i];
    if (site % 2 == 0)
        return y;
    float *w = malloc((size_t)(N * K) * sizeof *w);
    OK(model_dequant(&lm->m, layer, (enum module_id)site_first[site], w, &err));
    for (int64_t i = 0; i < TOKENS * N; i++) {
        double dot = 0, gap = (double)f->hidden[site / 2][i] - (double)q->hidden[site / 2][i];
        for (int64_t k = 0; k < K; k++)
            dot += (double)w[i % N * K + k] * (double)f->x[site][i / N * K + k];
        y[i] = own * dot + residual * gap;
    }
    free(w);
    return y;
}

static void check_pairs_of(const struct lm *lm, int64_t layer, const struct sums *s, const struct trace *f, const struct trace *q)
{
    char what[64];
    for (int site = 0; site < SITES; site++) {
        int64_t K = s->K[site];
        double *y = paired_rows(lm, layer, site, f, q), *x = malloc((size_t)(TOKENS * K) * sizeof *x);
        for (int64_t i = 0; i < TOKENS * K; i++)
            x[i] = (double)q->x[site][i];
        snprintf(what, sizeof what, "layer %d, H of site %d", (int)layer, site);
        check_sum(s->h[site], x, K, q->x[site], K, what);
        snprintf(what, sizeof what, "layer %d, pairs of site %d", (int)layer, site);
        check_sum(s->p[site], y, s->N[site], q->x[site], K, what);
        free(x), free(y);
    }
}

/* The walk's pairs against those of two ordinary walks, one through the source layers, one through the disturbed. */
static void check_pairs(const char *model)
{
    struct lm lm;
    struct walk both, f, q;
    lm_open_model(&lm, model);
    open_walk(&both, &lm, true, 256, 0);
    open_walk(&f, &lm, false, 1024, 0);
    open_walk(&q, &lm, false, 1024, 0);
    for (int64_t i = 0; i < 2; i++) {
        struct layer l, off;
        struct sums s;
        OK(layer_load(&l, &both.env, &lm.m, i, &err));
        disturb(&off, &l, &lm);
        walk_both(&lm, &both, &l, &off, &s);
        struct trace tf = trace_layer(&f, &l), tq = trace_layer(&q, &off);
        check_pairs_of(&lm, i, &s, &tf, &tq);
        same_rows(&both.hidden, &q.hidden, "quantized stream", i);
        same_rows(&both.native, &f.hidden, "native stream", i);
        free_trace(&tf), free_trace(&tq);
        free_sums(&s);
        free_disturbed(&off, &lm);
        layer_free(&l, &both.env);
    }
    walk_close(&both), walk_close(&f), walk_close(&q);
    lm_close(&lm);
}

static void pairs(void **state)
{
    (void)state;
    each_model(check_pairs);
}

/* Digest of all that two layers gather, and of the streams behind them. */
static uint64_t digest_walk(const char *model, int threads, int64_t block, uint64_t memory)
{
    struct lm lm;
    struct walk w;
    uint64_t digest = 14695981039346656037u;
    lm_open_model_isa(&lm, model, ISA_AUTO, threads);
    open_walk(&w, &lm, true, block, memory);
    assert_int_equal(w.native.mem == NULL, memory != 0);
    for (int64_t i = 0; i < 2; i++) {
        struct layer l, off;
        struct sums s;
        OK(layer_load(&l, &w.env, &lm.m, i, &err));
        disturb(&off, &l, &lm);
        OK(walk_save(&w, &err));
        walk_both(&lm, &w, &l, &off, &s);
        struct {
            const void *p;
            int64_t bytes;
        } parts[2 * SITES + MOD_COUNT + 3];
        int n = 0;
        for (int k = 0; k < SITES; k++) {
            parts[n].p = s.h[k], parts[n++].bytes = s.K[k] * s.K[k] * 8;
            parts[n].p = s.p[k], parts[n++].bytes = s.N[k] * s.K[k] * 8;
        }
        for (int m = 0; m < MOD_COUNT; m++) {
            int64_t N, K;
            config_module_shape(&lm.m.config, (enum module_id)m, &N, &K);
            assert_int_equal(s.g[m] == NULL, m == MOD_O || m == MOD_DOWN);
            parts[n].p = s.g[m], parts[n++].bytes = s.g[m] ? N * ((N + 15) / 16 * 16) * 4 : 0;
        }
        float *rows[3] = {rows_of(&w.hidden), rows_of(&w.native), rows_of(&w.saved)};
        for (int k = 0; k < 3; k++)
            parts[n].p = rows[k], parts[n++].bytes = TOKENS * lm.m.config.hidden * 4;
        for (int k = 0; k < n; k++)
            for (int64_t at = 0; at < parts[k].bytes; at++)
                digest = (digest ^ ((const uint8_t *)parts[k].p)[at]) * 1099511628211u;
        for (int k = 0; k < 3; k++)
            free(rows[k]);
        free_sums(&s);
        free_disturbed(&off, &lm);
        layer_free(&l, &w.env);
    }
    walk_close(&w);
    lm_close(&lm);
    return digest;
}

static void check_same(const char *model)
{
    uint64_t want = digest_walk(model, 1, 2048, 0);
    assert_true(want == digest_walk(model, 1, 256, 0));
    assert_true(want == digest_walk(model, 3, 256, 0));
    assert_true(want == digest_walk(model, 3, 2048, 1));
    assert_true(want == digest_walk(model, 1, 256, 1));
}

static void same_however_walked(void **state)
{
    (void)state;
    each_model(check_same);
}

/* G of f64 second moments: mean diagonal 1, and a tenth on it; `got` has rows padded to 16. */
static void check_metric_matrix(const float *got, double *want, int64_t N, const char *what)
{
    int64_t ld = (N + 15) / 16 * 16;
    double mean = 0;
    for (int64_t n = 0; n < N; n++)
        mean += want[n * N + n] / (double)N;
    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < ld; k++) {
            double g = k < N ? want[n * N + k] / mean + (n == k ? 0.1 : 0) : 0,
                   room = k < N ? sqrt(want[n * N + n] * want[k * N + k]) / mean : 0;
            if (!(fabs((double)got[n * ld + k] - g) <= 1e-4 * room + 1e-6))
                fail_msg("%s: G[%d,%d] is %g, not %g", what, (int)n, (int)k, (double)got[n * ld + k], g);
        }
}

static void add_square(double *g, const double *row, int64_t N)
{
    for (int64_t i = 0; i < N; i++)
        for (int64_t k = 0; k < N; k++)
            g[i * N + k] += row[i] * row[k];
}

/* Multiplied by Wd^T Wd, elementwise. */
static void through_down(const struct lm *lm, int64_t layer, double *g)
{
    int64_t N, K;
    config_module_shape(&lm->m.config, MOD_DOWN, &N, &K);
    float *w = malloc((size_t)(N * K) * sizeof *w);
    OK(model_dequant(&lm->m, layer, MOD_DOWN, w, &err));
    for (int64_t i = 0; i < K; i++)
        for (int64_t k = 0; k < K; k++) {
            double dot = 0;
            for (int64_t n = 0; n < N; n++)
                dot += (double)w[n * K + i] * (double)w[n * K + k];
            g[i * K + k] *= dot;
        }
    free(w);
}

/* gate, up: the formula of metric.h on the rows of an ordinary walk. stride: only every so many-th block of rows counts. */
static void check_mlp_metric(struct lm *lm, int64_t layer, const float *x, const float *got_gate, const float *got_up, int stride)
{
    int64_t I = lm->m.config.intermediate, H = lm->m.config.hidden;
    double *xd = malloc((size_t)(TOKENS * H) * sizeof *xd), *gate = malloc((size_t)(TOKENS * I) * sizeof *gate),
           *up = malloc((size_t)(TOKENS * I) * sizeof *up),
           *g[2] = {calloc((size_t)(I * I), sizeof(double)), calloc((size_t)(I * I), sizeof(double))};
    for (int64_t i = 0; i < TOKENS * H; i++)
        xd[i] = (double)x[i];
    book_linear(&lm->m, layer, MOD_GATE, xd, gate, TOKENS);
    book_linear(&lm->m, layer, MOD_UP, xd, up, TOKENS);
    for (int64_t t = 0; t < TOKENS; t++) {
        for (int64_t i = t * I; i < (t + 1) * I; i++) { /* by central differences in f64: no formula of the derivative to agree with */
            const double step = 1e-5, a = gate[i] + step, b = gate[i] - step;
            double slope = (a / (1 + exp(-a)) - b / (1 + exp(-b))) / (2 * step), silu = gate[i] / (1 + exp(-gate[i]));
            gate[i] = slope * up[i];
            up[i] = silu;
        }
        if (t / HESSIAN_BLOCK_ROWS % stride)
            continue;
        add_square(g[0], gate + t * I, I);
        add_square(g[1], up + t * I, I);
    }
    for (int i = 0; i < 2; i++) {
        through_down(lm, layer, g[i]);
        check_metric_matrix(i ? got_up : got_gate, g[i], I, i ? "up" : "gate");
        free(g[i]);
    }
    free(xd), free(gate), free(up);
}

/* z . o_proj(attention(q, k, v)) of T rows, biases left out; q, k, v are the projections' outputs. */
static double probe(const struct model *m, int64_t layer, double *const proj[3], const float *z, int64_t T)
{
    const struct config *c = &m->config;
    const int64_t cols[3] = {c->heads * c->head_dim, c->kv_heads * c->head_dim, c->kv_heads * c->head_dim};
    double *p[3], *a = malloc((size_t)(T * cols[0]) * sizeof *a), sum = 0;
    char name[128];
    for (int i = 0; i < 3; i++) {
        p[i] = malloc((size_t)(T * cols[i]) * sizeof(double));
        memcpy(p[i], proj[i], (size_t)(T * cols[i]) * sizeof(double));
        snprintf(name, sizeof name, "model.layers.%d.self_attn.%c_norm.weight", (int)layer, "qk-"[i]);
        if (i < 2 && c->qk_norm)
            book_norm(m, name, p[i], p[i], T * cols[i] / c->head_dim, c->head_dim);
        if (i < 2)
            book_rope(c, p[i], T, cols[i] / c->head_dim);
    }
    book_attention(c, layer, p[0], p[1], p[2], a, T);
    float *o = malloc((size_t)(c->hidden * cols[0]) * sizeof *o);
    OK(model_dequant(m, layer, MOD_O, o, &err));
    for (int64_t t = 0; t < T; t++)
        for (int64_t n = 0; n < c->hidden; n++)
            for (int64_t k = 0; k < cols[0]; k++)
                sum += (double)z[t * c->hidden + n] * (double)o[n * cols[0] + k] * a[t * cols[0] + k];
    free(p[0]), free(p[1]), free(p[2]), free(a), free(o);
    return sum;
}

/* Gradients d of q, k, v against central differences through one weight [n,k] of each projection, some of each. x [T,hidden]. */
static void check_gradients(const struct lm *lm, int64_t layer, const double *x, const float *z, float *const d[3], int64_t T)
{
    const struct config *c = &lm->m.config;
    double *proj[3];
    for (int i = 0; i < 3; i++) {
        int64_t N, K;
        config_module_shape(c, (enum module_id)(MOD_Q + i), &N, &K);
        proj[i] = malloc((size_t)(T * N) * sizeof(double));
        book_linear(&lm->m, layer, (enum module_id)(MOD_Q + i), x, proj[i], T);
    }
    for (int i = 0; i < 3; i++) {
        int64_t N, K;
        config_module_shape(c, (enum module_id)(MOD_Q + i), &N, &K);
        for (int64_t n = 1, k = 3; n < N; n += N / 5, k = (k + 17) % K) {
            const double step = 1e-4;
            double side[2], want = 0, most = 0;
            for (int s = 0; s < 2; s++) {
                for (int64_t t = 0; t < T; t++)
                    proj[i][t * N + n] += (s ? -2 * step : step) * x[t * K + k];
                side[s] = probe(&lm->m, layer, proj, z, T);
            }
            for (int64_t t = 0; t < T; t++) {
                proj[i][t * N + n] += step * x[t * K + k];
                want += (double)d[i][t * N + n] * x[t * K + k];
                most += fabs((double)d[i][t * N + n] * x[t * K + k]);
            }
            double got = (side[0] - side[1]) / (2 * step);
            if (!(fabs(got - want) <= 1e-4 * most + 1e-6))
                fail_msg("d%c: weight [%d,%d]: %.9g by differences, %.9g by layer_attention_back", "qkv"[i], (int)n, (int)k, got, want);
        }
    }
    free(proj[0]), free(proj[1]), free(proj[2]);
}

/* q, k, v: gradients of two samples, then G of all as the metric gathers it. */
static void check_attention_metric(struct lm *lm, struct walk *w, const struct layer *l, const float *xn, float *const got[3])
{
    static const bool wanted[MOD_COUNT] = {[MOD_Q] = true, [MOD_K] = true, [MOD_V] = true};
    int64_t H = lm->m.config.hidden, N[3], K;
    struct metric m;
    double *g[3], *row = malloc(4096 * sizeof *row), *x = malloc((size_t)(TOKENS * H) * sizeof *x), ones = 0;
    int32_t pos[TOKENS];
    for (int i = 0; i < 3; i++) {
        config_module_shape(&lm->m.config, (enum module_id)(MOD_Q + i), &N[i], &K);
        g[i] = calloc((size_t)(N[i] * N[i]), sizeof(double));
    }
    for (int64_t i = 0; i < TOKENS * H; i++)
        x[i] = (double)xn[i];
    OK(metric_open(&m, lm->b, &lm->m, l->index, wanted, TOKENS, w->longest, &err));
    for (int64_t s = 0; s < SAMPLES; s++) {
        int64_t at = offsets[s], T = offsets[s + 1] - at;
        for (int64_t t = 0; t < T; t++)
            pos[t] = (int32_t)t;
        assert_true(metric_wants(&m, s));
        OK(metric_attention(&m, &w->env, l, xn + at * H, T, pos, s, &err));
        for (int64_t i = 0; i < T * H; i++) {
            assert_true(fabsf(m.z[i]) == 1);
            ones += (double)m.z[i];
        }
        if (T < 100)
            check_gradients(lm, l->index, x + at * H, m.z, m.d, T);
        for (int i = 0; i < 3; i++)
            for (int64_t t = 0; t < T; t++) {
                for (int64_t n = 0; n < N[i]; n++)
                    row[n] = (double)m.d[i][t * N[i] + n];
                add_square(g[i], row, N[i]);
            }
    }
    assert_true(fabs(ones) < 5 * sqrt((double)(TOKENS * H)));
    for (int i = 0; i < 3; i++) {
        check_metric_matrix(got[i], g[i], N[i], (const char *const[]){"q", "k", "v"}[i]);
        free(g[i]);
    }
    metric_close(&m);
    free(row), free(x);
}

/* Both halves' metrics of the second layer, as a walk of two unlike streams gathers them: they see the native one alone. */
static void check_metric(const char *model)
{
    struct lm lm;
    struct walk both, f;
    lm_open_model(&lm, model);
    open_walk(&both, &lm, true, 256, 0);
    open_walk(&f, &lm, false, 1024, 0);
    for (int64_t i = 0; i < 2; i++) {
        struct layer l, off;
        struct sums s;
        OK(layer_load(&l, &both.env, &lm.m, i, &err));
        disturb(&off, &l, &lm);
        walk_both(&lm, &both, &l, &off, &s);
        struct trace t = trace_layer(&f, &l);
        if (i == 1) {
            check_attention_metric(&lm, &f, &l, t.x[0], s.g);
            check_mlp_metric(&lm, i, t.x[2], s.g[MOD_GATE], s.g[MOD_UP], 1);
        }
        free_trace(&t);
        free_sums(&s);
        free_disturbed(&off, &lm);
        layer_free(&l, &both.env);
    }
    walk_close(&both), walk_close(&f);
    lm_close(&lm);
}

static void metrics(void **state)
{
    (void)state;
    each_model(check_metric);
}

/* The QK norms of a trained model. */
static void metrics_of_qwen3(void **state)
{
    (void)state;
    NEED_SHARED(model, "models/qwen3-tiny");
    char path[1024];
    snprintf(path, sizeof path, "%s", model);
    check_metric(path);
}

/* More tokens than a metric takes: every second sample and block, which is what the rest would have said too. */
static void metric_stride(void **state)
{
    static const bool all[MOD_COUNT] = {true, true, true, true, true, true, true};
    struct lm lm;
    struct walk f;
    struct metric m;
    struct layer l;
    float *gate, *up, *none;
    (void)state;
    random_model("LlamaForCausalLM", 8, "");
    lm_open_model(&lm, test_dir);
    open_walk(&f, &lm, false, 1024, 0);
    OK(layer_load(&l, &f.env, &lm.m, 0, &err));
    struct trace t = trace_layer(&f, &l);
    OK(metric_open(&m, lm.b, &lm.m, 0, all, METRIC_TOKENS + 1, f.longest, &err));
    for (int64_t s = 0; s < 6; s++)
        assert_int_equal(metric_wants(&m, s), s % 2 == 0);
    size_t bytes = (size_t)(TOKENS * lm.m.config.intermediate) * sizeof(float);
    float *a = malloc(bytes), *b = malloc(bytes);
    OK(layer_mlp_parts(&l, &f.env, t.x[2], a, b, TOKENS, &err));
    int64_t first = HESSIAN_BLOCK_ROWS, at = first * lm.m.config.intermediate; /* the second call starts with a block that is left out */
    OK(metric_mlp(&m, a, b, 0, first, &err));
    OK(metric_mlp(&m, a + at, b + at, first, TOKENS - first, &err));
    OK(metric_finish(&m, MOD_GATE, &gate, &err));
    OK(metric_finish(&m, MOD_UP, &up, &err));
    OK(metric_finish(&m, MOD_Q, &none, &err));
    assert_null(none); /* nothing was seen */
    check_mlp_metric(&lm, 0, t.x[2], gate, up, 2);
    free(a), free(b), free(gate), free(up);
    metric_close(&m);
    free_trace(&t);
    layer_free(&l, &f.env);
    walk_close(&f);
    lm_close(&lm);
    dir_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_streams),       cmocka_unit_test(pairs),
        cmocka_unit_test(same_however_walked), cmocka_unit_test(metrics),
        cmocka_unit_test(metrics_of_qwen3),    cmocka_unit_test(metric_stride),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

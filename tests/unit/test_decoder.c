#include "tests/unit/lm_model.h"

#include <math.h>

#include "kernels/half.h"

static struct err err;

enum { MAX_IDS = 512 };

/* Logits of every position of ids, fed in chunks of the given lengths (the last one repeated), host memory of the caller. */
static void forward(struct lm *lm, const int32_t *ids, int64_t n, const int64_t *chunks, size_t chunk_count, float *logits)
{
    const struct config *c = &lm->m.config;
    struct kv_cache *kv;
    float *hidden = malloc((size_t)(n * c->hidden) * sizeof *hidden);
    OK(decoder_kv_create(lm->d, n, &kv, &err));
    for (int64_t at = 0, i = 0; at < n; i++) {
        int64_t rows = chunks[i < (int64_t)chunk_count ? i : (int64_t)chunk_count - 1];
        rows = rows < n - at ? rows : n - at;
        const struct attn_segment segment = {kv, 0, rows, at};
        OK(decoder_forward(lm->d, ids + at, rows, &segment, 1, hidden, &err));
        OK(decoder_logits(lm->d, hidden, rows, logits + at * c->vocab_size, &err));
        at += rows;
    }
    lm->b->ops->kv_free(lm->b, kv);
    free(hidden);
}

static void forward_whole(struct lm *lm, const int32_t *ids, int64_t n, float *logits)
{
    forward(lm, ids, n, &n, 1, logits);
}

static float *logits_alloc(const struct lm *lm, int64_t n)
{
    return malloc((size_t)(n * lm->m.config.vocab_size) * sizeof(float));
}

static double log_sum(const double *x, int64_t V)
{
    double max = x[0], sum = 0;
    for (int64_t i = 0; i < V; i++)
        max = x[i] > max ? x[i] : max;
    for (int64_t i = 0; i < V; i++)
        sum += exp(x[i] - max);
    return max + log(sum);
}

/* Largest difference of the last position's logits, or log-probabilities, over all cases. */
static double worst(const char *model, const char *expected, bool probabilities)
{
    struct lm lm;
    json_t *root, *cases = json_cases(expected, &root), *one;
    size_t i;
    double most = 0;
    lm_open(&lm, model);
    int64_t V = lm.m.config.vocab_size;
    double *want = malloc((size_t)V * sizeof *want), *got = malloc((size_t)V * sizeof *got);
    json_array_foreach(cases, i, one)
    {
        int32_t ids[MAX_IDS];
        int64_t n = (int64_t)json_ids(json_object_get(one, "ids"), ids, MAX_IDS);
        const json_t *last = json_object_get(one, "last_logits");
        assert_int_equal(json_array_size(last), V);
        float *logits = logits_alloc(&lm, n);
        forward_whole(&lm, ids, n, logits);
        for (int64_t k = 0; k < V; k++) {
            want[k] = json_number_value(json_array_get(last, (size_t)k));
            got[k] = logits[(n - 1) * V + k];
        }
        double shift = probabilities ? log_sum(got, V) - log_sum(want, V) : 0;
        for (int64_t k = 0; k < V; k++)
            most = fmax(most, fabs(got[k] - want[k] - shift));
        free(logits);
    }
    free(want);
    free(got);
    json_decref(root);
    lm_close(&lm);
    print_message("%s: largest difference %.3g\n", model, most);
    return most;
}

static void test_quickstart(void **state)
{
    (void)state;
    NEED_FILE("tests/vectors/quickstart_logits.json");
    assert_true(worst("manifests/quickstart/model", "tests/vectors/quickstart_logits.json", false) < 1e-3);
    assert_true(worst("tests/vectors/quickstart-w4g128", "tests/vectors/quickstart-w4g128/expected.json", true) < 2e-3);
}

static void test_shared_models(void **state)
{
    (void)state;
    static const char *const all[][2] = {
        {"TinyStories-656K",         "TinyStories-656K"},
        {"TinyStories-656K-sharded", "TinyStories-656K"},
        {"stories260K",              "stories260K"     },
        {"qwen3-tiny",               "qwen3-tiny"      }
    };
    NEED_SHARED(root, "golden/logits");
    (void)root;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char model[1024], name[128];
        snprintf(name, sizeof name, "models/%s", all[i][0]);
        snprintf(model, sizeof model, "%s", shared_path(name));
        snprintf(name, sizeof name, "golden/logits/%s.json", all[i][1]);
        assert_true(worst(model, shared_path(name), false) < 1e-3);
    }
}

static void test_shared_gptq(void **state)
{
    (void)state;
    static const char *const all[] = {"TinyStories-656K-w4g128",
                                      "TinyStories-656K-w8g128",
                                      "TinyStories-656K-w4chan",
                                      "TinyStories-656K-w4dyn",
                                      "TinyStories-656K-w4g128asymact",
                                      "TinyStories-656K-w4g128v2",
                                      "TinyStories-656K-w4g32best",
                                      "qwen3-tiny-w4dyn",
                                      "qwen3-tiny-w4g128",
                                      "stories260K-w4g128best",
                                      "stories260K-w4g32"};
    NEED_SHARED(root, "golden/gptq");
    (void)root;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char model[1024], name[128];
        snprintf(name, sizeof name, "golden/gptq/%s", all[i]);
        snprintf(model, sizeof model, "%s", shared_path(name));
        snprintf(name, sizeof name, "golden/gptq/%s/expected.json", all[i]);
        assert_true(worst(model, shared_path(name), true) < 2e-3);
    }
}

static void fill_ids(int32_t *ids, int64_t n, int64_t V, uint32_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        ids[i] = (int32_t)((seed >> 8) % (uint32_t)V);
    }
}

/* Sequences of unequal lengths and positions, fed together in uneven chunks: segment s of a step takes a share that differs by s. */
static void forward_batch(struct lm *lm, int32_t ids[][MAX_IDS], const int64_t *n, size_t count, float **logits)
{
    const struct config *c = &lm->m.config;
    struct kv_cache *kv[8];
    int64_t at[8] = {0};
    float *hidden = malloc((size_t)(8 * MAX_IDS * c->hidden) * sizeof *hidden);
    for (size_t s = 0; s < count; s++)
        OK(decoder_kv_create(lm->d, n[s], &kv[s], &err));
    for (int step = 0;; step++) {
        struct attn_segment segments[8];
        int32_t fed[8 * MAX_IDS];
        size_t used = 0, owner[8];
        int64_t rows = 0;
        for (size_t s = 0; s < count; s++) {
            int64_t take = (step * 5 + (int)s * 3) % 17 + 1;
            take = take < n[s] - at[s] ? take : n[s] - at[s];
            if (!take)
                continue;
            memcpy(fed + rows, ids[s] + at[s], (size_t)take * sizeof *fed);
            owner[used] = s;
            segments[used++] = (struct attn_segment){kv[s], rows, take, at[s]};
            rows += take;
        }
        if (!used)
            break;
        OK(decoder_forward(lm->d, fed, rows, segments, used, hidden, &err));
        for (size_t u = 0; u < used; u++) {
            const struct attn_segment *g = &segments[u];
            OK(decoder_logits(lm->d, hidden + g->row * c->hidden, g->rows, logits[owner[u]] + g->pos * c->vocab_size, &err));
            at[owner[u]] += g->rows;
        }
    }
    for (size_t s = 0; s < count; s++)
        lm->b->ops->kv_free(lm->b, kv[s]);
    free(hidden);
}

static void same_bits(const struct lm *lm, const float *a, const float *b, int64_t n, const char *what)
{
    int64_t V = lm->m.config.vocab_size;
    for (int64_t i = 0; i < n * V; i++) {
        if (f32_bits(a[i]) != f32_bits(b[i]))
            fail_msg("%s: position %d, id %d: %.9g and %.9g", what, (int)(i / V), (int)(i % V), (double)a[i], (double)b[i]);
    }
}

/* A position's logits are the same bits whole, in chunks, step by step, inside a batch, for other threads and another ISA. */
static void check_bits(const char *model)
{
    enum { COUNT = 4 };
    static const int64_t n[COUNT] = {70, 1, 33, 51}, one = 1, uneven[] = {7, 1, 30, 2, 64};
    static int32_t ids[COUNT][MAX_IDS];
    struct lm lm, other;
    float *whole[COUNT], *mixed[COUNT], *again;
    lm_open(&lm, model);
    for (int s = 0; s < COUNT; s++) {
        whole[s] = logits_alloc(&lm, n[s]);
        mixed[s] = logits_alloc(&lm, n[s]);
        fill_ids(ids[s], n[s], lm.m.config.vocab_size, (uint32_t)s);
        forward_whole(&lm, ids[s], n[s], whole[s]);
    }
    again = logits_alloc(&lm, n[0]);
    forward(&lm, ids[0], n[0], uneven, 5, again);
    same_bits(&lm, whole[0], again, n[0], "chunks");
    forward(&lm, ids[0], n[0], &one, 1, again);
    same_bits(&lm, whole[0], again, n[0], "step by step");
    forward_batch(&lm, ids, n, COUNT, mixed);
    for (int s = 0; s < COUNT; s++)
        same_bits(&lm, whole[s], mixed[s], n[s], "batch");
    for (int isa = ISA_SCALAR; isa <= (int)isa_best(); isa++) {
        lm_open_isa(&other, model, (enum isa)isa, 3);
        forward_whole(&other, ids[2], n[2], again);
        same_bits(&lm, whole[2], again, n[2], isa_name((enum isa)isa));
        lm_close(&other);
    }
    for (int s = 0; s < COUNT; s++) {
        free(whole[s]);
        free(mixed[s]);
    }
    free(again);
    lm_close(&lm);
}

static void test_same_bits(void **state)
{
    (void)state;
    NEED_FILE("manifests/quickstart/model/config.json");
    check_bits("manifests/quickstart/model");
    check_bits("tests/vectors/quickstart-w4g128");
    static const char *const all[] = {"models/stories260K", "models/qwen3-tiny", "golden/gptq/TinyStories-656K-w4g128asymact"};
    NEED_SHARED(root, "golden/gptq");
    (void)root;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char model[1024];
        snprintf(model, sizeof model, "%s", shared_path(all[i]));
        check_bits(model);
    }
}

/* Models of random weights against the textbook in f64, one for each rule that the stored models do not use. */

static const char random_config[] =
    "{\"architectures\":[\"%s\"],\"hidden_act\":\"silu\",\"hidden_size\":48,\"intermediate_size\":88,\"num_attention_heads\":6,"
    "\"num_key_value_heads\":2,\"head_dim\":%d,\"num_hidden_layers\":3,\"vocab_size\":67,\"max_position_embeddings\":256,"
    "\"rms_norm_eps\":1e-5%s}";

static double random_value(uint32_t *seed)
{
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        *seed = *seed * 1664525u + 1013904223u;
        sum += (double)(*seed >> 8) / (1 << 24) - 0.5;
    }
    return sum;
}

struct filler {
    struct st_writer *w;
    uint32_t seed;
    bool writing; /* first pass declares, second writes */
};

static void filler_add(struct filler *f, const char *name, int64_t d0, int64_t d1, double mean, double spread)
{
    const int64_t shape[2] = {d0, d1};
    size_t n = (size_t)(d0 * (d1 ? d1 : 1));
    if (!f->writing) {
        st_writer_declare(f->w, name, DT_F32, d1 ? 2 : 1, shape);
        return;
    }
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(mean + spread * random_value(&f->seed));
    OK(st_writer_put(f->w, name, x, n * sizeof *x, &err));
    free(x);
}

static void filler_layer(struct filler *f, const struct config *c, int64_t l)
{
    char name[128];
    const struct {
        const char *name;
        int64_t n;
    } norms[] = {
        {"input_layernorm",          c->hidden  },
        {"post_attention_layernorm", c->hidden  },
        {"self_attn.q_norm",         c->head_dim},
        {"self_attn.k_norm",         c->head_dim}
    };
    for (int i = 0; i < (c->qk_norm ? 4 : 2); i++) {
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", (int)l, norms[i].name);
        filler_add(f, name, norms[i].n, 0, 1, 0.5);
    }
    for (int mod = 0; mod < MOD_COUNT; mod++) {
        int64_t N, K;
        config_module_shape(c, (enum module_id)mod, &N, &K);
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", (int)l, config_module_short((enum module_id)mod));
        filler_add(f, name, N, K, 0, 0.4);
        snprintf(name, sizeof name, "model.layers.%d.%s.bias", (int)l, config_module_short((enum module_id)mod));
        if (mod <= MOD_V ? c->qkv_bias : mod == MOD_O ? c->o_bias : c->mlp_bias)
            filler_add(f, name, N, 0, 0, 1);
    }
}

static void random_model(const char *arch, int head_dim, const char *extra)
{
    char text[2048];
    struct config c;
    struct fileset files = FILESET_INIT;
    dir_make();
    dir_write("config.json", text, (size_t)snprintf(text, sizeof text, random_config, arch, head_dim, extra));
    OK(fileset_from_path(&files, test_dir, &err));
    OK(config_load(&c, &files, &err));
    fileset_release(&files);
    struct filler f = {.seed = 42};
    OK(st_writer_open(dir_file("model.safetensors"), true, &f.w, &err));
    for (int pass = 0; pass < 2; pass++) {
        f.writing = pass;
        filler_add(&f, "model.embed_tokens.weight", c.vocab_size, c.hidden, 0, 1);
        filler_add(&f, "model.norm.weight", c.hidden, 0, 1, 0.3);
        if (!c.tied)
            filler_add(&f, "lm_head.weight", c.vocab_size, c.hidden, 0, 0.4);
        for (int64_t l = 0; l < c.layers; l++)
            filler_layer(&f, &c, l);
    }
    OK(st_writer_close(f.w, &err));
    config_release(&c);
}

/* y [T,N] = x [T,K] of a stored module, with its bias. */
static void book_linear(const struct model *m, int64_t l, enum module_id mod, const double *x, double *y, int64_t T)
{
    int64_t N = m->config.vocab_size, K = m->config.hidden;
    char name[128];
    if (l >= 0)
        config_module_shape(&m->config, mod, &N, &K);
    float *w = malloc((size_t)(N * K) * sizeof *w), *bias = calloc((size_t)N, sizeof *bias);
    OK(model_dequant(m, l, mod, w, &err));
    snprintf(name, sizeof name, "model.layers.%d.%s.bias", (int)l, l >= 0 ? config_module_short(mod) : "");
    if (st_find(&m->tensors, name))
        OK(model_vector(m, name, N, bias, &err));
    for (int64_t t = 0; t < T; t++) {
        for (int64_t n = 0; n < N; n++) {
            double sum = bias[n];
            for (int64_t k = 0; k < K; k++)
                sum += x[t * K + k] * w[n * K + k];
            y[t * N + n] = sum;
        }
    }
    free(w);
    free(bias);
}

static void book_norm(const struct model *m, const char *name, const double *x, double *y, int64_t rows, int64_t n)
{
    float *w = malloc((size_t)n * sizeof *w);
    OK(model_vector(m, name, n, w, &err));
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += x[r * n + i] * x[r * n + i];
        for (int64_t i = 0; i < n; i++)
            y[r * n + i] = x[r * n + i] / sqrt(sum / (double)n + m->config.rms_eps) * w[i];
    }
    free(w);
}

static double book_frequency(const struct config *c, int64_t i)
{
    double f = pow(c->rope_theta, -2.0 * (double)i / (double)c->head_dim), wave = 2 * acos(-1) / f, old = (double)c->rope_original_context;
    if (c->rope == ROPE_LINEAR)
        return f / c->rope_factor;
    if (c->rope == ROPE_DEFAULT || wave < old / c->rope_high_freq)
        return f;
    if (wave > old / c->rope_low_freq)
        return f / c->rope_factor;
    double s = (old / wave - c->rope_low_freq) / (c->rope_high_freq - c->rope_low_freq);
    return (1 - s) * f / c->rope_factor + s * f;
}

static void book_rope(const struct config *c, double *x, int64_t T, int64_t heads)
{
    int64_t D = c->head_dim;
    for (int64_t t = 0; t < T; t++) {
        for (int64_t h = 0; h < heads; h++) {
            double *v = x + (t * heads + h) * D;
            for (int64_t i = 0; i < D / 2; i++) {
                double angle = (double)t * book_frequency(c, i), a = v[i], b = v[i + D / 2];
                v[i] = a * cos(angle) - b * sin(angle);
                v[i + D / 2] = b * cos(angle) + a * sin(angle);
            }
        }
    }
}

static void book_attention(const struct config *c, int64_t l, const double *q, const double *k, const double *v, double *y, int64_t T)
{
    int64_t D = c->head_dim, H = c->heads, share = H / c->kv_heads;
    for (int64_t t = 0; t < T; t++) {
        for (int64_t h = 0; h < H; h++) {
            double p[MAX_IDS], total = 0;
            int64_t from = c->window && l >= c->window_from && t + 1 > c->window ? t + 1 - c->window : 0;
            for (int64_t s = from; s <= t; s++) {
                double dot = 0;
                for (int64_t d = 0; d < D; d++)
                    dot += q[(t * H + h) * D + d] * k[(s * c->kv_heads + h / share) * D + d];
                total += p[s] = exp(dot / sqrt((double)D));
            }
            for (int64_t d = 0; d < D; d++) {
                double sum = 0;
                for (int64_t s = from; s <= t; s++)
                    sum += p[s] / total * v[(s * c->kv_heads + h / share) * D + d];
                y[(t * H + h) * D + d] = sum;
            }
        }
    }
}

static void book_layer(const struct model *m, int64_t l, double *x, int64_t T)
{
    enum { WIDE = 512 };
    const struct config *c = &m->config;
    double *b[6];
    char name[128];
    for (int i = 0; i < 6; i++)
        b[i] = calloc((size_t)(T * WIDE), sizeof(double));
    snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", (int)l);
    book_norm(m, name, x, b[0], T, c->hidden);
    for (int i = 0; i < 3; i++)
        book_linear(m, l, (enum module_id)(MOD_Q + i), b[0], b[1 + i], T);
    for (int i = 0; i < 2; i++) {
        int64_t heads = i ? c->kv_heads : c->heads;
        snprintf(name, sizeof name, "model.layers.%d.self_attn.%c_norm.weight", (int)l, "qk"[i]);
        if (c->qk_norm)
            book_norm(m, name, b[1 + i], b[1 + i], T * heads, c->head_dim);
        book_rope(c, b[1 + i], T, heads);
    }
    book_attention(c, l, b[1], b[2], b[3], b[4], T);
    book_linear(m, l, MOD_O, b[4], b[5], T);
    for (int64_t i = 0; i < T * c->hidden; i++)
        x[i] += b[5][i];
    snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", (int)l);
    book_norm(m, name, x, b[0], T, c->hidden);
    book_linear(m, l, MOD_GATE, b[0], b[1], T);
    book_linear(m, l, MOD_UP, b[0], b[2], T);
    for (int64_t i = 0; i < T * c->intermediate; i++)
        b[1][i] = b[1][i] / (1 + exp(-b[1][i])) * b[2][i];
    book_linear(m, l, MOD_DOWN, b[1], b[5], T);
    for (int64_t i = 0; i < T * c->hidden; i++)
        x[i] += b[5][i];
    for (int i = 0; i < 6; i++)
        free(b[i]);
}

static void check_random(const char *arch, int head_dim, const char *extra)
{
    enum { T = 40 };
    struct lm lm;
    int32_t ids[T];
    random_model(arch, head_dim, extra);
    lm_open(&lm, test_dir);
    const struct config *c = &lm.m.config;
    fill_ids(ids, T, c->vocab_size, 9);
    double *x = calloc((size_t)(T * c->hidden), sizeof *x), *want = calloc((size_t)(T * c->vocab_size), sizeof *want), most = 0;
    float *table = malloc((size_t)(c->vocab_size * c->hidden) * sizeof *table), *got = logits_alloc(&lm, T);
    OK(st_copy_f32(&lm.m.tensors, st_find(&lm.m.tensors, "model.embed_tokens.weight"), table, &err));
    for (int64_t i = 0; i < T * c->hidden; i++)
        x[i] = table[ids[i / c->hidden] * c->hidden + i % c->hidden];
    for (int64_t l = 0; l < c->layers; l++)
        book_layer(&lm.m, l, x, T);
    book_norm(&lm.m, "model.norm.weight", x, x, T, c->hidden);
    book_linear(&lm.m, -1, MOD_COUNT, x, want, T);
    forward_whole(&lm, ids, T, got);
    for (int64_t i = 0; i < T * c->vocab_size; i++)
        most = fmax(most, fabs(got[i] - want[i]));
    print_message("%s%s: largest difference %.3g\n", arch, extra, most);
    assert_true(most < 1e-4);
    free(x);
    free(want);
    free(table);
    free(got);
    lm_close(&lm);
    dir_remove();
}

static void test_textbook(void **state)
{
    (void)state;
    check_random("LlamaForCausalLM", 8, "");
    check_random("LlamaForCausalLM", 8, ",\"attention_bias\":true,\"mlp_bias\":true,\"tie_word_embeddings\":true");
    check_random(
        "LlamaForCausalLM", 12,
        ",\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"
        "\"original_max_position_embeddings\":64}");
    check_random("LlamaForCausalLM", 8, ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}");
    check_random("MistralForCausalLM", 8, ",\"sliding_window\":7");
    check_random("Qwen2ForCausalLM", 8, "");
    check_random("Qwen2ForCausalLM", 8,
                 ",\"use_sliding_window\":true,\"sliding_window\":5,\"max_window_layers\":1,\"tie_word_embeddings\":true");
    check_random("Qwen3ForCausalLM", 16, "");
    check_random("Qwen3ForCausalLM", 16, ",\"attention_bias\":true");
}

static void test_refusals(void **state)
{
    (void)state;
    struct lm lm;
    struct decoder *d;
    struct kv_cache *kv;
    random_model("LlamaForCausalLM", 8, "");
    lm_open(&lm, test_dir);
    FAILS(decoder_open(&d, lm.b, &lm.m, 257, &err), ERR_USAGE, "257 positions; the model's context is 256");
    float hidden[4 * 48];
    int32_t ids[4] = {1, 66, 67, 0};
    OK(decoder_kv_create(lm.d, 4, &kv, &err));
    struct attn_segment segment = {kv, 0, 4, 0};
    FAILS(decoder_forward(lm.d, ids, 4, &segment, 1, hidden, &err), ERR_DATA, "id 67 is outside the model's vocabulary of 67");
    segment = (struct attn_segment){kv, 0, 2, 255};
    FAILS(decoder_forward(lm.d, ids, 2, &segment, 1, hidden, &err), ERR_USAGE, "positions 255..256 of a sequence; there are 256");
    lm.b->ops->kv_free(lm.b, kv);
    lm_close(&lm);
    dir_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quickstart), cmocka_unit_test(test_shared_models), cmocka_unit_test(test_shared_gptq),
        cmocka_unit_test(test_same_bits),  cmocka_unit_test(test_textbook),      cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Models of random weights, and the textbook's decoder layer in f64, for tests of stages/lm. */
#ifndef TESTS_UNIT_LM_BOOK_H
#define TESTS_UNIT_LM_BOOK_H

#include "tests/unit/lm_model.h"

#include <math.h>

enum { MAX_IDS = 512 };

static inline void fill_ids(int32_t *ids, int64_t n, int64_t V, uint32_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        ids[i] = (int32_t)((seed >> 8) % (uint32_t)V);
    }
}

static const char random_config[] =
    "{\"architectures\":[\"%s\"],\"hidden_act\":\"silu\",\"hidden_size\":48,\"intermediate_size\":88,\"num_attention_heads\":6,"
    "\"num_key_value_heads\":2,\"head_dim\":%d,\"num_hidden_layers\":3,\"vocab_size\":67,\"max_position_embeddings\":256,"
    "\"rms_norm_eps\":1e-5%s}";

static inline double random_value(uint32_t *seed)
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

static inline void filler_add(struct filler *f, const char *name, int64_t d0, int64_t d1, double mean, double spread)
{
    struct err err = {0};
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

static inline void filler_layer(struct filler *f, const struct config *c, int64_t l)
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

static inline void random_model(const char *arch, int head_dim, const char *extra)
{
    struct err err = {0};
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
static inline void book_linear(const struct model *m, int64_t l, enum module_id mod, const double *x, double *y, int64_t T)
{
    struct err err = {0};
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

static inline void book_norm(const struct model *m, const char *name, const double *x, double *y, int64_t rows, int64_t n)
{
    struct err err = {0};
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

static inline double book_frequency(const struct config *c, int64_t i)
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

static inline void book_rope(const struct config *c, double *x, int64_t T, int64_t heads)
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

static inline void book_attention(const struct config *c, int64_t l, const double *q, const double *k, const double *v, double *y,
                                  int64_t T)
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

static inline void book_layer(const struct model *m, int64_t l, double *x, int64_t T)
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

#endif

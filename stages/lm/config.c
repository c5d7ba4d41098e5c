#include "stages/lm/config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/detmath.h"
#include "pipeline/base/json.h"
#include "stages/lm/arch.h"

enum { CONFIG_MAX_BYTES = 16 << 20, DIM_MAX = 1 << 24, LAYERS_MAX = 4096, WINDOW_DEFAULT = 4096 };

static bool has(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return v && !json_is_null(v);
}

static int unknown_arch(const char *where, const char *field, const char *value, struct err *e)
{
    char list[256] = "";
    for (size_t i = 0, n = 0; arch_row(i); i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", arch_row(i)->architecture);
    return err_set(e, ERR_UNSUPPORTED, "%s: \"%s\" is '%.80s'; supported are %s", where, field, value, list);
}

static int load_arch(struct config *c, const json_t *o, const char *where, struct err *e)
{
    const json_t *list = json_object_get(o, "architectures");
    const char *name = json_string_value(json_array_get(list, 0)), *type = NULL;
    int rc = json_opt_str(o, where, "model_type", &type, e);
    if (rc)
        return rc;
    if (!name && !type)
        return err_set(e, ERR_FORMAT, "%s: neither \"architectures\" nor \"model_type\" is there", where);
    c->arch = arch_find(name, type);
    if (!c->arch)
        return unknown_arch(where, name ? "architectures" : "model_type", name ? name : type, e);
    if (type && strcmp(type, c->arch->model_type))
        return err_set(e, ERR_UNSUPPORTED, "%s: \"architectures\" is '%s' but \"model_type\" is '%.80s'", where, c->arch->architecture,
                       type);
    return 0;
}

static int load_dims(struct config *c, const json_t *o, const char *where, struct err *e)
{
    const struct arch *a = c->arch;
    c->context = a->context;
    struct {
        const char *key;
        int64_t hi, *out;
    } need[] = {
        {"vocab_size",          DIM_MAX,    &c->vocab_size  },
        {"hidden_size",         DIM_MAX,    &c->hidden      },
        {"intermediate_size",   DIM_MAX,    &c->intermediate},
        {"num_hidden_layers",   LAYERS_MAX, &c->layers      },
        {"num_attention_heads", 1 << 16,    &c->heads       }
    };
    int rc = 0;
    for (size_t i = 0; i < sizeof need / sizeof *need && !rc; i++)
        rc = json_need_int(o, where, need[i].key, 1, need[i].hi, need[i].out, e);
    c->kv_heads = a->kv_heads ? a->kv_heads : c->heads;
    if (!rc)
        rc = json_opt_int(o, where, "num_key_value_heads", 1, 1 << 16, &c->kv_heads, e);
    if (!rc)
        rc = json_opt_int(o, where, "max_position_embeddings", 1, INT32_MAX, &c->context, e);
    c->head_dim = a->head_dim;
    if (!rc)
        rc = json_opt_int(o, where, "head_dim", 1, 1 << 16, &c->head_dim, e);
    if (rc)
        return rc;
    if (c->heads % c->kv_heads)
        return err_set(e, ERR_FORMAT, "%s: %" PRId64 " attention heads cannot share %" PRId64 " key/value heads", where, c->heads,
                       c->kv_heads);
    if (!c->head_dim && c->hidden % c->heads)
        return err_set(e, ERR_FORMAT, "%s: \"hidden_size\" %" PRId64 " is no multiple of %" PRId64 " heads and \"head_dim\" is absent",
                       where, c->hidden, c->heads);
    if (!c->head_dim)
        c->head_dim = c->hidden / c->heads;
    if (c->head_dim % 2)
        return err_set(e, ERR_UNSUPPORTED, "%s: head dimension %" PRId64 " is odd", where, c->head_dim);
    return 0;
}

static int positive(const char *where, const char *key, double x, struct err *e)
{
    return x > 0 && isfinite(x) ? 0 : err_set(e, ERR_FORMAT, "%s: \"%s\" must be positive, not %g", where, key, x);
}

static int load_bias(const json_t *o, const char *where, const char *key, enum arch_bias rule, bool *out, struct err *e)
{
    bool asked = false;
    int rc = json_opt_bool(o, where, key, &asked, e);
    if (!rc && asked && rule == BIAS_NEVER)
        rc = err_set(e, ERR_UNSUPPORTED, "%s: \"%s\" is true, which this family does not have", where, key);
    *out = rule == BIAS_ALWAYS || (rule == BIAS_CONFIG && asked);
    return rc;
}

/* Everything that would change the arithmetic and has no code here. */
static int check_refused(const json_t *o, const char *where, struct err *e)
{
    static const char *const flags[] = {"rope_interleaved", "use_mrope", "use_qk_norm", "qk_layernorm", "use_bias", NULL};
    static const char *const objects[] = {"no_rope_layers",          "attn_logit_softcapping",
                                          "final_logit_softcapping", "logits_scaling",
                                          "embedding_multiplier",    "residual_multiplier",
                                          "attention_multiplier",    "num_experts",
                                          "num_local_experts",       NULL};
    const char *act = NULL;
    double partial = 1;
    int rc = json_need_str(o, where, "hidden_act", &act, e);
    if (!rc && strcmp(act, "silu"))
        rc = err_set(e, ERR_UNSUPPORTED, "%s: \"hidden_act\" is '%.60s'; silu is supported", where, act);
    if (!rc)
        rc = json_opt_real(o, where, "partial_rotary_factor", &partial, e);
    if (!rc && partial != 1)
        rc = err_set(e, ERR_UNSUPPORTED, "%s: \"partial_rotary_factor\" is %g; 1 is supported", where, partial);
    for (const char *const *k = flags; *k && !rc; k++) {
        if (json_is_true(json_object_get(o, *k)))
            rc = err_set(e, ERR_UNSUPPORTED, "%s: \"%s\" is not supported", where, *k);
    }
    for (const char *const *k = objects; *k && !rc; k++) {
        if (has(o, *k))
            rc = err_set(e, ERR_UNSUPPORTED, "%s: \"%s\" is not supported", where, *k);
    }
    return rc;
}

static int load_flags(struct config *c, const json_t *o, const char *where, struct err *e)
{
    const struct arch *a = c->arch;
    c->rms_eps = 1e-6;
    c->qk_norm = a->qk_norm;
    int rc = check_refused(o, where, e);
    if (!rc)
        rc = json_opt_real(o, where, "rms_norm_eps", &c->rms_eps, e);
    if (!rc && !(c->rms_eps >= 0 && c->rms_eps < 1))
        rc = err_set(e, ERR_FORMAT, "%s: \"rms_norm_eps\" is %g, outside 0..1", where, c->rms_eps);
    if (!rc)
        rc = json_opt_bool(o, where, "tie_word_embeddings", &c->tied, e);
    /* Qwen2's bias is built in; some of its configs say so, some do not. */
    if (!rc)
        rc = load_bias(o, where, "attention_bias", a->qkv_bias, &c->qkv_bias, e);
    if (!rc && a->qkv_bias != BIAS_ALWAYS)
        rc = load_bias(o, where, "attention_bias", a->o_bias, &c->o_bias, e);
    return rc ? rc : load_bias(o, where, "mlp_bias", a->mlp_bias, &c->mlp_bias, e);
}

static int load_llama3(struct config *c, const json_t *r, const char *where, struct err *e)
{
    int rc = json_need_int(r, where, "original_max_position_embeddings", 1, INT32_MAX, &c->rope_original_context, e);
    if (!rc)
        rc = json_opt_real(r, where, "low_freq_factor", &c->rope_low_freq, e);
    if (!rc)
        rc = json_opt_real(r, where, "high_freq_factor", &c->rope_high_freq, e);
    if (!rc)
        rc = positive(where, "low_freq_factor", c->rope_low_freq, e);
    if (!rc && !(c->rope_high_freq > c->rope_low_freq && isfinite(c->rope_high_freq)))
        rc = err_set(e, ERR_FORMAT, "%s: \"high_freq_factor\" %g must be above \"low_freq_factor\" %g", where, c->rope_high_freq,
                     c->rope_low_freq);
    return rc;
}

/* r: the rope_scaling or rope_parameters object. */
static int load_rope_object(struct config *c, const json_t *r, const char *where, struct err *e)
{
    const char *kind = "default";
    int rc = json_opt_str(r, where, has(r, "rope_type") ? "rope_type" : "type", &kind, e);
    if (!rc)
        rc = json_opt_real(r, where, "rope_theta", &c->rope_theta, e);
    double partial = 1;
    if (!rc)
        rc = json_opt_real(r, where, "partial_rotary_factor", &partial, e);
    if (rc)
        return rc;
    if (partial != 1)
        return err_set(e, ERR_UNSUPPORTED, "%s: \"partial_rotary_factor\" is %g; 1 is supported", where, partial);
    if (!strcmp(kind, "default"))
        return 0;
    if (!strcmp(kind, "linear"))
        c->rope = ROPE_LINEAR;
    else if (!strcmp(kind, "llama3"))
        c->rope = ROPE_LLAMA3;
    else
        return err_set(e, ERR_UNSUPPORTED, "%s: rope type '%.60s' is not supported; default, linear and llama3 are", where, kind);
    rc = json_opt_real(r, where, "factor", &c->rope_factor, e);
    if (!rc)
        rc = positive(where, "factor", c->rope_factor, e);
    return rc || c->rope == ROPE_LINEAR ? rc : load_llama3(c, r, where, e);
}

static int load_rope(struct config *c, const json_t *o, const char *where, struct err *e)
{
    c->rope_theta = 10000;
    c->rope = ROPE_DEFAULT;
    int rc = json_opt_real(o, where, "rope_theta", &c->rope_theta, e);
    for (int i = 0; i < 2 && !rc; i++) {
        const char *key = i ? "rope_parameters" : "rope_scaling";
        const json_t *r = json_object_get(o, key);
        char inner[512];
        snprintf(inner, sizeof inner, "%s: \"%s\"", where, key);
        if (!r || json_is_null(r))
            continue;
        if (!json_is_object(r))
            return err_set(e, ERR_FORMAT, "%s must be an object", inner);
        /* Per kind of layer (transformers 5, models that mix kinds): taken when they do not differ. */
        const json_t *full = json_object_get(r, "full_attention"), *sliding = json_object_get(r, "sliding_attention");
        if (full && sliding && !json_equal(full, sliding))
            return err_set(e, ERR_UNSUPPORTED, "%s differs between full and sliding attention", inner);
        if (full || sliding)
            r = full ? full : sliding;
        rc = load_rope_object(c, r, inner, e);
    }
    return rc ? rc : positive(where, "rope_theta", c->rope_theta, e);
}

/* layer_types (transformers 5) must say what sliding_window and max_window_layers say. */
static int check_layer_types(const struct config *c, const json_t *o, const char *where, struct err *e)
{
    const json_t *types = json_object_get(o, "layer_types"), *v;
    size_t i;
    if (!types || json_is_null(types))
        return 0;
    if (!json_is_array(types) || (int64_t)json_array_size(types) != c->layers)
        return err_set(e, ERR_FORMAT, "%s: \"layer_types\" must be a list of %" PRId64 " entries", where, c->layers);
    json_array_foreach(types, i, v)
    {
        const char *want = c->window && (int64_t)i >= c->window_from ? "sliding_attention" : "full_attention", *is = json_string_value(v);
        if (!is || strcmp(is, want))
            return err_set(e, ERR_UNSUPPORTED, "%s: \"layer_types\" entry %zu is '%.60s'; the other fields make it '%s'", where, i,
                           is ? is : "no string", want);
    }
    return 0;
}

static int load_window(struct config *c, const json_t *o, const char *where, struct err *e)
{
    enum arch_window rule = c->arch->window;
    bool use = rule == WINDOW_ALL;
    int64_t window = 0, from = c->arch->window_from;
    int rc = 0;
    if (rule == WINDOW_FLAG)
        rc = json_opt_bool(o, where, "use_sliding_window", &use, e);
    if (use && !json_object_get(o, "sliding_window"))
        window = WINDOW_DEFAULT; /* the classes' default; null says none */
    if (!rc && use)
        rc = json_opt_int(o, where, "sliding_window", 1, INT32_MAX, &window, e);
    if (!rc && use && rule == WINDOW_FLAG)
        rc = json_opt_int(o, where, "max_window_layers", 0, INT32_MAX, &from, e);
    if (rc)
        return rc;
    c->window = window;
    c->window_from = window ? from : 0;
    return check_layer_types(c, o, where, e);
}

static int load_eos(struct config *c, const json_t *o, const char *where, struct err *e)
{
    const json_t *v = json_object_get(o, "eos_token_id");
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (!v || json_is_null(v))
        return 0;
    if (n > CONFIG_MAX_EOS)
        return err_set(e, ERR_UNSUPPORTED, "%s: %zu ids in \"eos_token_id\"; at most %d are supported", where, n, CONFIG_MAX_EOS);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_integer(id) || json_integer_value(id) < -1 || json_integer_value(id) > INT32_MAX)
            return err_set(e, ERR_FORMAT, "%s: \"eos_token_id\" must be an id or a list of ids", where);
        c->eos[i] = (int32_t)json_integer_value(id);
    }
    c->eos_count = (int)n;
    return 0;
}

static int load_dtype(struct config *c, const json_t *o, const char *where, struct err *e)
{
    static const struct {
        const char *name;
        enum dtype dtype;
    } names[] = {
        {"float32",  DT_F32 },
        {"float16",  DT_F16 },
        {"half",     DT_F16 },
        {"bfloat16", DT_BF16}
    };
    const char *key = has(o, "dtype") ? "dtype" : "torch_dtype", *s = "float32";
    int rc = json_opt_str(o, where, key, &s, e);
    if (rc)
        return rc;
    if (!strncmp(s, "torch.", 6))
        s += 6;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!strcmp(s, names[i].name)) {
            c->dtype = names[i].dtype;
            return 0;
        }
    }
    return err_set(e, ERR_UNSUPPORTED, "%s: \"%s\" is '%.60s'; float32, float16 and bfloat16 are supported", where, key, s);
}

static int load_tokens(struct config *c, const json_t *o, const struct fileset *files, const char *where, struct err *e)
{
    int64_t bos = -1;
    int rc = json_opt_int(o, where, "bos_token_id", -1, INT32_MAX, &bos, e);
    c->bos = (int32_t)bos;
    if (!rc)
        rc = load_eos(c, o, where, e);
    const struct fileset_file *f = fileset_find(files, "generation_config.json");
    if (rc || !f)
        return rc;
    json_t *g = json_parse_file(f->path, CONFIG_MAX_BYTES, e);
    if (!g)
        return e ? -e->code : -ERR_FORMAT;
    rc = load_eos(c, g, f->path, e);
    json_decref(g);
    return rc;
}

static int load_quant(struct config *c, const struct fileset *files, const char *where, struct err *e)
{
    static const char *const names[] = {"quantize_config.json", "quant_config.json"};
    char inner[512];
    snprintf(inner, sizeof inner, "%s: \"quantization_config\"", where);
    if (has(c->json, "quantization_config")) {
        c->quant_json = json_incref(json_object_get(c->json, "quantization_config"));
    } else {
        const struct fileset_file *f = fileset_find(files, names[0]);
        f = f ? f : fileset_find(files, names[1]);
        if (!f)
            return 0;
        c->quant_json = json_parse_file(f->path, CONFIG_MAX_BYTES, e);
        if (!c->quant_json)
            return e ? -e->code : -ERR_FORMAT;
        snprintf(inner, sizeof inner, "%s", f->path);
    }
    return quant_config_read(&c->quant, c->quant_json, inner, e);
}

static int load_all(struct config *c, const struct fileset *files, const char *where, struct err *e)
{
    const json_t *o = c->json;
    if (!json_is_object(o))
        return err_set(e, ERR_FORMAT, "%s must hold a JSON object", where);
    int rc = load_arch(c, o, where, e);
    if (!rc)
        rc = load_dims(c, o, where, e);
    if (!rc)
        rc = load_flags(c, o, where, e);
    if (!rc)
        rc = load_rope(c, o, where, e);
    if (!rc)
        rc = load_window(c, o, where, e);
    if (!rc)
        rc = load_dtype(c, o, where, e);
    if (!rc)
        rc = load_tokens(c, o, files, where, e);
    return rc ? rc : load_quant(c, files, where, e);
}

int config_load(struct config *c, const struct fileset *files, struct err *e)
{
    *c = (struct config){.bos = -1, .dtype = DT_F32, .rope_factor = 1, .rope_low_freq = 1, .rope_high_freq = 4};
    const struct fileset_file *f = fileset_find(files, "config.json");
    if (!f)
        return err_set(e, ERR_NOTFOUND, "config.json is not there");
    c->json = json_parse_file(f->path, CONFIG_MAX_BYTES, e);
    int rc = c->json ? load_all(c, files, f->path, e) : e ? -e->code : -ERR_FORMAT;
    if (rc)
        config_release(c);
    return rc;
}

void config_release(struct config *c)
{
    json_decref(c->json);
    json_decref(c->quant_json);
    *c = (struct config){0};
}

/* Modules */

static const char *const shorts[MOD_COUNT] = {
    [MOD_Q] = "self_attn.q_proj", [MOD_K] = "self_attn.k_proj", [MOD_V] = "self_attn.v_proj", [MOD_O] = "self_attn.o_proj",
    [MOD_GATE] = "mlp.gate_proj", [MOD_UP] = "mlp.up_proj",     [MOD_DOWN] = "mlp.down_proj",
};

const char *config_module_short(enum module_id m)
{
    return shorts[m];
}

const char *config_module_name(const struct config *c, int64_t layer, enum module_id m, char *out, size_t out_bytes)
{
    (void)c; /* every family so far names its modules alike */
    snprintf(out, out_bytes, "model.layers.%" PRId64 ".%s", layer, shorts[m]);
    return out;
}

void config_module_shape(const struct config *c, enum module_id m, int64_t *N, int64_t *K)
{
    int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    const int64_t shapes[MOD_COUNT][2] = {
        [MOD_Q] = {q,               c->hidden      },
        [MOD_K] = {kv,              c->hidden      },
        [MOD_V] = {kv,              c->hidden      },
        [MOD_O] = {c->hidden,       q              },
        [MOD_GATE] = {c->intermediate, c->hidden      },
        [MOD_UP] = {c->intermediate, c->hidden      },
        [MOD_DOWN] = {c->hidden,       c->intermediate},
    };
    *N = shapes[m][0];
    *K = shapes[m][1];
}

const char *config_module_fused(enum module_id m)
{
    switch (m) {
    case MOD_Q:
    case MOD_K:
    case MOD_V:
        return "qkv_proj";
    case MOD_GATE:
    case MOD_UP:
        return "gate_up_proj";
    default:
        return NULL;
    }
}

/* Rotary frequencies: huggingface/transformers@v4.51.0:src/transformers/modeling_rope_utils.py, _compute_llama3_parameters. */
static double frequency(const struct config *c, int64_t i)
{
    double f = det_exp(-2.0 * (double)i / (double)c->head_dim * det_log(c->rope_theta));
    if (c->rope == ROPE_LINEAR)
        return f / c->rope_factor;
    if (c->rope != ROPE_LLAMA3)
        return f;
    double old = (double)c->rope_original_context, wavelength = 2 * 3.14159265358979323846 / f;
    if (wavelength < old / c->rope_high_freq)
        return f;
    if (wavelength > old / c->rope_low_freq)
        return f / c->rope_factor;
    double smooth = (old / wavelength - c->rope_low_freq) / (c->rope_high_freq - c->rope_low_freq);
    return (1 - smooth) * f / c->rope_factor + smooth * f;
}

void config_rope_tables(const struct config *c, int64_t positions, float *cos, float *sin)
{
    int64_t half = c->head_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        double f = frequency(c, i);
        for (int64_t p = 0; p < positions; p++) {
            double sn, cs;
            det_sincos((double)p * f, &sn, &cs);
            cos[p * half + i] = (float)cs;
            sin[p * half + i] = (float)sn;
        }
    }
}

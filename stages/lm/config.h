/* A model's config.json (and generation_config.json), checked, with the family it belongs to.
 *
 * Families are rows of stages/lm/arch.c: Llama (2, 3, 3.1/3.2 with "llama3" rope scaling), Mistral (sliding window), Qwen2 (QKV bias;
 * DeepSeek-R1-Distill-Qwen too), Qwen3 (QK norm). An unknown architecture, rope type, activation or a field that would change the
 * arithmetic and is not served is an error that names field and value. Both the classic keys (rope_theta, rope_scaling, torch_dtype) and
 * those of transformers 5 (rope_parameters, dtype) are read.
 */
#ifndef STAGES_LM_CONFIG_H
#define STAGES_LM_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "kernels/tensor.h"
#include "pipeline/base/err.h"
#include "pipeline/base/fileset.h"

struct arch;

/* Linear modules of a decoder layer in the order in which they are computed. */
enum module_id { MOD_Q, MOD_K, MOD_V, MOD_O, MOD_GATE, MOD_UP, MOD_DOWN, MOD_COUNT };

enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 };

enum { CONFIG_MAX_EOS = 16 };

struct quant_config { /* quantization_config of config.json, or quantize_config.json; present == false for a plain model */
    bool present;
    int bits, group_size;
    bool sym, desc_act, lm_head;
    bool v2;         /* checkpoint_format / format "gptq_v2" */
    json_t *dynamic; /* borrowed from `json`; NULL when absent */
};

struct config {
    const struct arch *arch;
    int64_t vocab_size, hidden, intermediate, layers, heads, kv_heads, head_dim, context; /* context = max_position_embeddings */
    double rms_eps, rope_theta;
    enum rope_kind rope;
    double rope_factor, rope_low_freq, rope_high_freq; /* factor, low_freq_factor, high_freq_factor */
    int64_t rope_original_context;
    int64_t window;      /* sliding window; 0 = none. Applies to layers >= window_from */
    int64_t window_from; /* Qwen2's max_window_layers */
    bool tied;           /* tie_word_embeddings */
    bool qkv_bias, o_bias, mlp_bias;
    bool qk_norm;
    int32_t bos;                 /* -1: none */
    int32_t eos[CONFIG_MAX_EOS]; /* generation_config.json's when there, else config.json's */
    int eos_count;
    enum dtype dtype; /* torch_dtype / dtype; DT_F32 when absent */
    struct quant_config quant;
    json_t *json;       /* config.json as read; owned */
    json_t *quant_json; /* the object behind quant (owned reference) or NULL */
};

/* Reads a quantization_config object; the spellings of GPTQModel, AutoGPTQ and transformers are known. Other methods (awq,
 * compressed-tensors, fp8, ...) are -ERR_UNSUPPORTED by name. dynamic is borrowed from o. */
int quant_config_read(struct quant_config *q, const json_t *o, const char *where, struct err *e);

int config_load(struct config *c, const struct fileset *files, struct err *e);
void config_release(struct config *c);

/* "model.layers.3.mlp.down_proj"; returns out. */
const char *config_module_name(const struct config *c, int64_t layer, enum module_id m, char *out, size_t out_bytes);
const char *config_module_short(enum module_id m); /* "self_attn.q_proj", "mlp.down_proj" */
/* [N,K] of a module. */
void config_module_shape(const struct config *c, enum module_id m, int64_t *N, int64_t *K);
/* The fused set a server joins a module into: "qkv_proj", "gate_up_proj", or NULL. */
const char *config_module_fused(enum module_id m);
/* cos and sin tables [positions, head_dim/2], computed in f64, rounded to f32; both the caller's. */
void config_rope_tables(const struct config *c, int64_t positions, float *cos, float *sin);

#endif

/* A model's weights by role, wherever and however they are stored: plain F32/F16/BF16 tensors, or GPTQ modules (v1 or v2, bits varying by
 * module).
 *
 * model_open reads config and safetensors headers, resolves every tensor's name, and checks shapes against config (errors name the tensor
 * and both shapes; a missing one is named). Either name of a tied pair (lm_head.weight, model.embed_tokens.weight) may be absent. Nothing
 * large is read until asked for. GPTQ modules: bits and group size are inferred from shapes and quantization_config (base and `dynamic`,
 * resolved as GPTQModel does: negatives first, then first match) and must agree. A symmetric module's zero point is 2^(bits-1) whatever its
 * format stores: files that say gptq and hold 8 are met in the field (vllm-project/vllm#38966); stored values that are neither are an
 * error.
 */
#ifndef STAGES_LM_WEIGHTS_H
#define STAGES_LM_WEIGHTS_H

#include "kernels/backend.h"
#include "stages/lm/config.h"
#include "stages/lm/safetensors.h"

struct model_module { /* what is stored for one linear module */
    bool quantized;
    int bits, group_size; /* of a quantized one */
    bool sym;
};
struct model {
    struct config config;
    struct st_set tensors;
    struct model_module *modules; /* owned: [layers][MOD_COUNT], then lm_head */
};

int model_open(struct model *m, const struct fileset *files, struct err *e);
void model_close(struct model *m);

/* True when the module is stored as GPTQ. layer -1 with MOD_COUNT means lm_head. */
bool model_is_quantized(const struct model *m, int64_t layer, enum module_id mod);
/* bits and group size of a quantized module */
void model_module_bits(const struct model *m, int64_t layer, enum module_id mod, int *bits, int *group_size);

/* Dense weight [N,K] as stored (view into the map), or -ERR_UNSUPPORTED for a quantized module. */
int model_dense_view(const struct model *m, int64_t layer, enum module_id mod, struct tensor_view *out, struct err *e);
/* [N,K] f32: the stored values, or the dequantized ones. NaN or infinity: -ERR_NUMERIC naming the tensor. out is the caller's, N*K floats.
 */
int model_dequant(const struct model *m, int64_t layer, enum module_id mod, float *out, struct err *e);
/* A stored GPTQ module: its words as they lie in the map, until model_drop. The caller qwords_free()s. */
int model_qwords(const struct model *m, int64_t layer, enum module_id mod, struct qwords *out, struct err *e);
/* "model.layers.0.self_attn.q_proj" -> layer and module ("lm_head" -> -1, MOD_COUNT); false when the name is none of the model's. */
bool model_find_module(const struct model *m, const char *name, int64_t *layer, enum module_id *mod);

/* Embedding table [V, hidden] as stored; the head's view too when it is a tensor of its own or tied. */
int model_embedding(const struct model *m, struct tensor_view *out, struct err *e);

/* A norm or bias vector of `count` elements as f32 ("model.norm.weight"). */
int model_vector(const struct model *m, const char *name, int64_t count, float *out, struct err *e);
/* The pages of a module's tensors need not stay resident: it has been prepacked. The embedding table, read row by row, is left alone. Views
 * stay valid, but see st_drop. */
void model_drop(const struct model *m, int64_t layer, enum module_id mod);
/* The embedding table's too, which model_drop leaves alone: all rows wanted have been read, or the head that is tied to it is loaded. */
void model_drop_embedding(const struct model *m);

/* Names of the stored tensors that belong to layer l (norms and biases too), or with l = -1 those that belong to no layer, in byte order.
 * For keys: what a layer's output depends on. Borrowed strings; *names is the caller's to free. */
int model_layer_tensors(const struct model *m, int64_t l, const char ***names, size_t *count, struct err *e);

#endif

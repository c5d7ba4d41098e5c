/* Model families: one row each. A new family of the same kind (pre-norm, gated MLP, rotary) is a new row. */
#ifndef STAGES_LM_ARCH_H
#define STAGES_LM_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum arch_bias {
    BIAS_NEVER,  /* the family has none; a config that asks for one is refused */
    BIAS_CONFIG, /* "attention_bias" / "mlp_bias" decide */
    BIAS_ALWAYS,
};

enum arch_window {
    WINDOW_NEVER, /* the family ignores "sliding_window" */
    WINDOW_ALL,   /* "sliding_window", when not null, holds for every layer */
    WINDOW_FLAG,  /* only with "use_sliding_window", from layer "max_window_layers" on */
};

struct arch {
    const char *architecture, *model_type; /* of config.json: "architectures", "model_type" */
    enum arch_bias qkv_bias, o_bias, mlp_bias;
    bool qk_norm;
    enum arch_window window;
    /* What transformers' configuration class takes when the field is absent. */
    int64_t head_dim; /* 0: hidden / heads */
    int64_t kv_heads; /* 0: heads */
    int64_t context;
    int64_t window_from; /* "max_window_layers" */
};

/* By name of the architecture or (architecture NULL) of the model type; NULL when unknown. */
const struct arch *arch_find(const char *architecture, const char *model_type);
const struct arch *arch_row(size_t i); /* rows in order; NULL after the last */

#endif

#include "stages/lm/arch.h"

#include <string.h>

/* Source of rules and defaults:
 * huggingface/transformers@v4.51.0:src/transformers/models/{llama,mistral,qwen2,qwen3}/{configuration,modeling}_*.py */
static const struct arch rows[] = {
    {"LlamaForCausalLM",   "llama",   BIAS_CONFIG, BIAS_CONFIG, BIAS_CONFIG, false, WINDOW_NEVER, 0,   0,  2048,   0 },
    {"MistralForCausalLM", "mistral", BIAS_NEVER,  BIAS_NEVER,  BIAS_NEVER,  false, WINDOW_ALL,   0,   8,  131072, 0 },
    {"Qwen2ForCausalLM",   "qwen2",   BIAS_ALWAYS, BIAS_NEVER,  BIAS_NEVER,  false, WINDOW_FLAG,  0,   32, 32768,  28},
    {"Qwen3ForCausalLM",   "qwen3",   BIAS_CONFIG, BIAS_CONFIG, BIAS_NEVER,  true,  WINDOW_FLAG,  128, 32, 32768,  28},
};

const struct arch *arch_row(size_t i)
{
    return i < sizeof rows / sizeof *rows ? &rows[i] : NULL;
}

const struct arch *arch_find(const char *architecture, const char *model_type)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (architecture ? !strcmp(rows[i].architecture, architecture) : !strcmp(rows[i].model_type, model_type))
            return &rows[i];
    }
    return NULL;
}

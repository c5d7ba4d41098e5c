/* What a server accepts: the rules of targets.def, checked module by module before anything runs. */
#ifndef STAGES_FORMAT_TARGETS_H
#define STAGES_FORMAT_TARGETS_H

#include <stdbool.h>
#include <stdint.h>

#include "pipeline/base/err.h"
#include "stages/quant/params.h"

struct target;
/* NULL when there is none of that name. */
const struct target *target_find(const char *name);
/* One quantized module [N,K]. Refusal is -ERR_MANIFEST: target, module, the value and what would be taken. */
int target_check_module(const struct target *t, const char *module, int64_t N, int64_t K, const struct quant_params *p, struct err *e);
bool target_allows_mixed(const struct target *t);
/* The CUDA kernel that vLLM picks for a module on one GPU of compute capability major.minor (kernels.md 3.2): "Machete", "Marlin", "AllSpark". */
const char *target_vllm_kernel(int capability, int64_t N, int64_t K, const struct quant_params *p);

#endif

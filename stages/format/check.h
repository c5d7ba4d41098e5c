/* Is a checkpoint's structure right? Every rule of the GPTQ file format as GPTQModel writes it and its readers expect it, checked on the stored bytes:
 *   config      required keys, known values, config.json's quantization_config and quantize_config.json agree, `format`/`checkpoint_format` and `method`/`quant_method` agree
 *   modules     qweight qzeros scales g_idx (and bias where the family has one), nothing else; dtypes; shapes, ragged ones too
 *   contents    no code in the padding of qweight; symmetric zeros as the format stores them; g_idx in range, sequential without desc_act, groups full with it; scales finite, not 0
 *   dynamic     what GPTQModel resolves for a module's name, and what vLLM resolves for its fused name, is what is stored
 *   the rest    embeddings, norms and unquantized modules: there, of the config's dtype (one-dimensional ones may be F32), finite; head tied or stored; nothing unreferenced
 *   files       the index's weight_map and total_size (of tensors, or of files as GPTQModel counts)
 * A plain model passes the rules that apply to it. Not here: what a server's kernels accept (targets.def), and figures (stages/evaluation.h).
 * Format: ModelCloud/GPTQModel@f4c327a17 gptqmodel/nn_modules/qlinear/torch.py, gptqmodel/quantization/config.py; vllm gptq_utils.py get_dynamic_override. */
#ifndef STAGES_FORMAT_CHECK_H
#define STAGES_FORMAT_CHECK_H

#include <stddef.h>
#include <stdint.h>

#include "pipeline/base/err.h"
#include "pipeline/base/fileset.h"
#include "stages/lm/safetensors.h"

struct check_report {
    char **lines; /* owned; one per violated rule, naming the object and the two values that disagree */
    size_t count, cap;
    size_t modules, tensors; /* quantized modules and tensors looked at */
};
/* Returns 0 when the check ran through, with or without lines; negative when the files cannot be read at all or the model's family is unknown. */
int checkpoint_check(const struct fileset *files, struct check_report *r, struct err *e);
/* Every element of every float tensor is finite, else -ERR_NUMERIC naming tensor and element. Reads all of them once, at memory speed, and drops their
 * pages: no view may be in use meanwhile. */
int check_finite(const struct st_set *set, struct err *e);
void check_report_release(struct check_report *r);

#endif

/* Writes a checkpoint in the GPTQ format, v1 zeros: what GPTQModel, Transformers and vLLM load.
 *
 * A quantized linear NAME becomes (reference gptq.md 4.1; ModelCloud/GPTQModel@f4c327a17:gptqmodel/nn_modules/qlinear/__init__.py)
 *   NAME.qweight I32 [ceil(K*b/32), N]  NAME.qzeros I32 [G, ceil(N*b/32)] (zero - 1)  NAME.scales F16 [G,N]  NAME.g_idx I32 [K]  NAME.bias F16 [N] where the source has one
 * Everything else keeps its bytes. Tensors are written in a fixed order; shards are cut between modules.
 */
#ifndef STAGES_FORMAT_GPTQ_H
#define STAGES_FORMAT_GPTQ_H

#include "stages/quantize.h"

struct gptq_writer {
    const struct quantize_info *q;
    const struct fileset *layers; /* artifact of the quantize stage */
    uint64_t shard_bytes;         /* largest shard; one item may exceed it */
    int (*progress)(void *arg, double done, double total);
    void *arg;
};
/* Writes model.safetensors, or shards and model.safetensors.index.json, into dir. *total receives the tensors' bytes. */
int gptq_write_tensors(const struct gptq_writer *w, const char *dir, uint64_t *total, struct err *e);

/* The quantization_config object: base settings, `dynamic` with anchored full names (negatives first, fused names too where a whole fused set agrees), meta. New reference. */
json_t *gptq_quantization_config(const struct quantize_info *q, json_t *meta);

#endif

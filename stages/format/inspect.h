/* What a model folder or a .safetensors file holds, as one JSON object, and one tensor of it as a file. Behind the command `inspect`.
 *
 *     struct inspect i;  inspect_open(&i, path, e);  json_t *o = inspect_json(&i, e);  inspect_export(&i, name, dequant, "w.npy", e);  inspect_close(&i);
 *
 * Kinds: "model" (folder with config.json), "layer" (a quantize node's file), "calibration", "safetensors" (any other). Judging a checkpoint is stages/format/check.h. */
#ifndef STAGES_FORMAT_INSPECT_H
#define STAGES_FORMAT_INSPECT_H

#include <jansson.h>

#include "stages/format/check_config.h"
#include "stages/lm/weights.h"

struct inspect {
    const char *kind;
    struct fileset files;
    struct model model;         /* kind "model": its tensors too */
    struct st_set file;         /* other kinds */
    struct check_config config; /* kind "model": what each module resolves to */
    int capability;             /* of the device whose kernels a model's modules are told: the caller's to set, after inspect_open; 90 is 9.0, 0: rows for any device */
    const char *no_machete;     /* select.h; borrowed */
};

int inspect_open(struct inspect *i, const char *path, struct err *e);
void inspect_close(struct inspect *i); /* fine on a zeroed struct */

/* {"kind", "config": {...}, "modules": [{"name","bits","group_size","sym","desc_act","shape":[N,K],"bytes","bits_per_weight","negative_scales": share} or {"name","dtype","shape","bytes"}; a
 *  model's with "cuda_kernel", and "cuda_why" where a faster class cannot serve], "cuda_capability": "9.0" where those are a device's,
 *  "calibration": {"samples","tokens","shortest","longest"}, "tensors": [{"name","dtype","shape","bytes","file"}],
 *  "totals": {"tensors","bytes","parameters","bits_per_weight"}}; parts that a kind has not are absent. New reference, NULL on failure. */
json_t *inspect_json(const struct inspect *i, struct err *e);

/* Writes tensor `name` to path, all of it or nothing: its little-endian bytes, or with dequant f32 values, where name may also be a module
 * ("model.layers.0.mlp.down_proj", with or without .weight; in a layer file "mlp.down_proj"): then [N,K]. A path ending in .npy gets a NumPy header (version 1.0).
 * -ERR_NOTFOUND names the tensor; NaN or infinity under dequant is -ERR_NUMERIC. */
int inspect_export(const struct inspect *i, const char *name, bool dequant, const char *path, struct err *e);

#endif

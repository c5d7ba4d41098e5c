/* Stored GPTQ modules: what weights.c and weights_gptq.c share. Not for others: see weights.h. */
#ifndef STAGES_LM_WEIGHTS_GPTQ_H
#define STAGES_LM_WEIGHTS_GPTQ_H

#include "stages/lm/weights.h"

enum { WEIGHTS_NAME_BYTES = 96 };

const char *weights_module_name(const struct model *m, int64_t layer, enum module_id mod, char *out /* [WEIGHTS_NAME_BYTES] */);
const struct st_tensor *weights_part(const struct model *m, const char *module, const char *part); /* "module.part"; NULL when absent */
int weights_check_shape(const struct st_tensor *t, const char *name, int ndim, const int64_t *shape, struct err *e);

/* Shapes and dtypes of qweight, qzeros, scales and g_idx against [N,K], bits and group size. */
int weights_gptq_check(const struct model *m, const char *module, const struct model_module *info, int64_t N, int64_t K, struct err *e);
int weights_gptq_read(const struct model *m, const char *module, const struct model_module *info, int64_t N, int64_t K, struct qwords *out,
                      struct err *e);

#endif

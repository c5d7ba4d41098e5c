/* Finding and checking a model's tensors. What a GPTQ module's bytes mean is in weights_gptq.c. */
#include "stages/lm/weights.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/wfmt.h"
#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"
#include "stages/lm/dynamic.h"
#include "stages/lm/weights_gptq.h"

enum { NAME_BYTES = WEIGHTS_NAME_BYTES };

static const struct model_module *module_of(const struct model *m, int64_t layer, enum module_id mod)
{
    return &m->modules[layer < 0 ? m->config.layers * MOD_COUNT : layer * MOD_COUNT + mod];
}

const char *weights_module_name(const struct model *m, int64_t layer, enum module_id mod, char *out)
{
    if (layer < 0)
        snprintf(out, NAME_BYTES, "lm_head");
    else
        config_module_name(&m->config, layer, mod, out, NAME_BYTES);
    return out;
}

static void module_shape(const struct model *m, int64_t layer, enum module_id mod, int64_t *N, int64_t *K)
{
    *N = m->config.vocab_size;
    *K = m->config.hidden;
    if (layer >= 0)
        config_module_shape(&m->config, mod, N, K);
}

const struct st_tensor *weights_part(const struct model *m, const char *module, const char *part)
{
    char name[NAME_BYTES + 16];
    snprintf(name, sizeof name, "%s.%s", module, part);
    return st_find(&m->tensors, name);
}

static void shape_text(int ndim, const int64_t *shape, char out[192])
{
    size_t n = (size_t)snprintf(out, 192, "[");
    for (int i = 0; i < ndim; i++)
        n += (size_t)snprintf(out + n, 192 - n, "%s%" PRId64, i ? "," : "", shape[i]);
    snprintf(out + n, 192 - n, "]");
}

int weights_check_shape(const struct st_tensor *t, const char *name, int ndim, const int64_t *shape, struct err *e)
{
    if (!t)
        return err_set(e, ERR_NOTFOUND, "tensor '%s' is missing", name);
    if (t->ndim == ndim && !memcmp(t->shape, shape, (size_t)ndim * sizeof *shape))
        return 0;
    char is[192], want[192];
    shape_text(t->ndim, t->shape, is);
    shape_text(ndim, shape, want);
    return err_set(e, ERR_SHAPE, "tensor '%s' has shape %s; config.json makes it %s", name, is, want);
}

static int check_float(const struct model *m, const char *name, int ndim, const int64_t *shape, struct err *e)
{
    const struct st_tensor *t = st_find(&m->tensors, name);
    int rc = weights_check_shape(t, name, ndim, shape, e);
    if (!rc && t->dtype != DT_F32 && t->dtype != DT_F16 && t->dtype != DT_BF16)
        rc = err_set(e, ERR_UNSUPPORTED, "tensor '%s' is %s; F32, F16 or BF16 is needed", name, dtype_name(t->dtype));
    return rc;
}

static bool module_bias(const struct config *c, enum module_id mod)
{
    return mod <= MOD_V ? c->qkv_bias : mod == MOD_O ? c->o_bias : c->mlp_bias;
}

/* Settings that quantization_config gives a module. */
static int resolve(const struct model *m, const struct dynamic *d, const char *name, struct model_module *out, bool *skipped, struct err *e)
{
    const struct quant_config *q = &m->config.quant;
    const json_t *o = NULL;
    const char *pattern = NULL;
    int64_t bits = q->bits, group = q->group_size;
    *skipped = dynamic_match(d, name, &o, &pattern) < 0;
    if (!*skipped && o) {
        char where[256];
        snprintf(where, sizeof where, "quantization_config: \"dynamic\": '%.180s'", pattern);
        int rc = json_opt_int(o, where, "bits", 2, 8, &bits, e);
        if (!rc)
            rc = json_opt_int(o, where, "group_size", -1, INT32_MAX, &group, e);
        out->sym = q->sym;
        if (!rc)
            rc = json_opt_bool(o, where, "sym", &out->sym, e);
        if (rc)
            return rc;
    } else {
        out->sym = q->sym;
    }
    out->bits = (int)bits;
    out->group_size = (int)group;
    return 0;
}

static int check_module(struct model *m, const struct dynamic *d, int64_t layer, enum module_id mod, struct err *e)
{
    struct model_module *info = &m->modules[layer < 0 ? m->config.layers * MOD_COUNT : layer * MOD_COUNT + mod];
    char name[NAME_BYTES], full[NAME_BYTES + 16];
    int64_t shape[2];
    weights_module_name(m, layer, mod, name);
    module_shape(m, layer, mod, &shape[0], &shape[1]);
    int rc = 0;
    if (layer >= 0 && module_bias(&m->config, mod)) {
        snprintf(full, sizeof full, "%s.bias", name);
        rc = check_float(m, full, 1, shape, e);
    }
    if (rc)
        return rc;
    if (!weights_part(m, name, "qweight")) {
        snprintf(full, sizeof full, "%s.weight", name);
        return check_float(m, full, 2, shape, e);
    }
    if (!m->config.quant.present)
        return err_set(e, ERR_FORMAT, "tensor '%s.qweight' is there, but there is no quantization_config", name);
    bool skipped;
    info->quantized = true;
    rc = resolve(m, d, name, info, &skipped, e);
    if (!rc && skipped)
        rc = err_set(e, ERR_FORMAT, "tensor '%s.qweight' is there, but \"dynamic\" of quantization_config leaves the module out", name);
    return rc ? rc : weights_gptq_check(m, name, info, shape[0], shape[1], e);
}

static const struct st_tensor *embedding_tensor(const struct model *m)
{
    const struct st_tensor *t = st_find(&m->tensors, "model.embed_tokens.weight");
    return t || !m->config.tied ? t : st_find(&m->tensors, "lm_head.weight");
}

static int check_outer(struct model *m, const struct dynamic *d, struct err *e)
{
    const struct config *c = &m->config;
    const int64_t table[2] = {c->vocab_size, c->hidden};
    const struct st_tensor *t = embedding_tensor(m);
    int rc = check_float(m, t ? t->name : "model.embed_tokens.weight", 2, table, e);
    if (!rc)
        rc = check_float(m, "model.norm.weight", 1, &c->hidden, e);
    /* A quantized head is a matrix of its own, even where config.json still says tied. */
    if (!rc && (!c->tied || weights_part(m, "lm_head", "qweight")))
        rc = check_module(m, d, -1, MOD_COUNT, e);
    return rc;
}

static int check_layer(struct model *m, const struct dynamic *d, int64_t layer, struct err *e)
{
    const struct config *c = &m->config;
    const struct {
        const char *name;
        int64_t n;
        bool there;
    } norms[] = {
        {"input_layernorm",          c->hidden,   true      },
        {"post_attention_layernorm", c->hidden,   true      },
        {"self_attn.q_norm",         c->head_dim, c->qk_norm},
        {"self_attn.k_norm",         c->head_dim, c->qk_norm}
    };
    int rc = 0;
    for (size_t i = 0; i < sizeof norms / sizeof *norms && !rc; i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "model.layers.%" PRId64 ".%s.weight", layer, norms[i].name);
        rc = norms[i].there ? check_float(m, name, 1, &norms[i].n, e) : 0;
    }
    for (int mod = 0; mod < MOD_COUNT && !rc; mod++)
        rc = check_module(m, d, layer, (enum module_id)mod, e);
    return rc;
}

int model_open(struct model *m, const struct fileset *files, struct err *e)
{
    *m = (struct model){0};
    struct dynamic *d = NULL;
    int rc = config_load(&m->config, files, e);
    if (!rc)
        rc = st_open(&m->tensors, files, e);
    if (!rc)
        rc = dynamic_compile(m->config.quant.dynamic, "quantization_config", &d, e);
    if (!rc) {
        m->modules = xcalloc((size_t)m->config.layers * MOD_COUNT + 1, sizeof *m->modules);
        rc = check_outer(m, d, e);
    }
    for (int64_t l = 0; l < m->config.layers && !rc; l++)
        rc = check_layer(m, d, l, e);
    dynamic_free(d);
    if (rc)
        model_close(m);
    return rc;
}

void model_close(struct model *m)
{
    free(m->modules);
    st_close(&m->tensors);
    config_release(&m->config);
    *m = (struct model){0};
}

bool model_is_quantized(const struct model *m, int64_t layer, enum module_id mod)
{
    return module_of(m, layer, mod)->quantized;
}

void model_module_bits(const struct model *m, int64_t layer, enum module_id mod, int *bits, int *group_size)
{
    const struct model_module *info = module_of(m, layer, mod);
    *bits = info->bits;
    *group_size = info->group_size;
}

static int view_of(const struct model *m, const struct st_tensor *t, struct tensor_view *out, struct err *e)
{
    *out = (struct tensor_view){.dtype = t->dtype, .rows = t->shape[0], .cols = t->shape[1]};
    return st_data_aligned(&m->tensors, t, &out->data, e);
}

/* The tensor behind a dense module. */
static const struct st_tensor *dense_tensor(const struct model *m, int64_t layer, enum module_id mod)
{
    char name[NAME_BYTES];
    return layer < 0 && m->config.tied ? embedding_tensor(m) : weights_part(m, weights_module_name(m, layer, mod, name), "weight");
}

int model_dense_view(const struct model *m, int64_t layer, enum module_id mod, struct tensor_view *out, struct err *e)
{
    char name[NAME_BYTES];
    if (model_is_quantized(m, layer, mod))
        return err_set(e, ERR_UNSUPPORTED, "%s is quantized: it has no plain weight", weights_module_name(m, layer, mod, name));
    return view_of(m, dense_tensor(m, layer, mod), out, e);
}

int model_embedding(const struct model *m, struct tensor_view *out, struct err *e)
{
    return view_of(m, embedding_tensor(m), out, e);
}

int model_qwords(const struct model *m, int64_t layer, enum module_id mod, struct qwords *out, struct err *e)
{
    char name[NAME_BYTES];
    int64_t N, K;
    *out = (struct qwords){0};
    weights_module_name(m, layer, mod, name);
    module_shape(m, layer, mod, &N, &K);
    if (!model_is_quantized(m, layer, mod))
        return err_set(e, ERR_UNSUPPORTED, "%s is not quantized", name);
    return weights_gptq_read(m, name, module_of(m, layer, mod), N, K, out, e);
}

int model_dequant(const struct model *m, int64_t layer, enum module_id mod, float *out, struct err *e)
{
    if (!model_is_quantized(m, layer, mod))
        return st_copy_f32(&m->tensors, dense_tensor(m, layer, mod), out, e);
    struct qwords q;
    int rc = model_qwords(m, layer, mod, &q, e);
    if (rc)
        return rc;
    wfmt_dequant(&q, out);
    qwords_free(&q);
    return 0;
}

int model_vector(const struct model *m, const char *name, int64_t count, float *out, struct err *e)
{
    int rc = check_float(m, name, 1, &count, e);
    return rc ? rc : st_copy_f32(&m->tensors, st_find(&m->tensors, name), out, e);
}

void model_drop(const struct model *m, int64_t layer, enum module_id mod)
{
    static const char *const parts[] = {"weight", "qweight", "qzeros", "scales", "g_idx"};
    char name[NAME_BYTES];
    weights_module_name(m, layer, mod, name);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        const struct st_tensor *t = weights_part(m, name, parts[i]);
        if (t && t != embedding_tensor(m)) /* the table is read row by row for as long as the model is open */
            st_drop(&m->tensors, t);
    }
}

void model_drop_embedding(const struct model *m)
{
    st_drop(&m->tensors, embedding_tensor(m));
}

bool model_find_module(const struct model *m, const char *name, int64_t *layer, enum module_id *mod)
{
    static const char prefix[] = "model.layers.";
    if (!strcmp(name, "lm_head")) {
        *layer = -1;
        *mod = MOD_COUNT;
        return true;
    }
    if (strncmp(name, prefix, sizeof prefix - 1))
        return false;
    char *end;
    long long l = strtoll(name + sizeof prefix - 1, &end, 10);
    if (*end != '.' || l < 0 || l >= m->config.layers)
        return false;
    for (int i = 0; i < MOD_COUNT; i++) {
        char full[NAME_BYTES]; /* compared whole: "model.layers.01.…" is no name of ours */
        if (!strcmp(config_module_name(&m->config, l, (enum module_id)i, full, sizeof full), name)) {
            *layer = l;
            *mod = (enum module_id)i;
            return true;
        }
    }
    return false;
}

/* The layer of "model.layers.N.…", or -1. */
static int64_t layer_of(const char *name)
{
    static const char prefix[] = "model.layers.";
    const char *p = name + sizeof prefix - 1;
    char *end;
    if (strncmp(name, prefix, sizeof prefix - 1) || *p < '0' || *p > '9')
        return -1;
    long long l = strtoll(p, &end, 10);
    return *end == '.' ? l : -1;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

int model_layer_tensors(const struct model *m, int64_t l, const char ***names, size_t *count, struct err *e)
{
    const struct st_set *set = &m->tensors;
    if (l < -1 || l >= m->config.layers)
        return err_set(e, ERR_NOTFOUND, "layer %" PRId64 " of a model of %" PRId64, l, m->config.layers);
    *names = xcalloc(set->tensor_count + 1, sizeof **names);
    *count = 0;
    for (size_t i = 0; i < set->tensor_count; i++) {
        if (layer_of(set->tensors[i].name) == l)
            (*names)[(*count)++] = set->tensors[i].name;
    }
    qsort(*names, *count, sizeof **names, by_text);
    return 0;
}

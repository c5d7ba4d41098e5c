#include "stages/format/gptq.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/wfmt.h"
#include "pipeline/base/io.h"
#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"
#include "stages/format/layer.h"

/* One thing to write: a tensor as it is, or a quantized module (its four or five tensors stay together). */
struct item {
    const struct st_tensor *raw; /* NULL: the module below */
    int64_t layer;               /* -1: lm_head */
    enum module_id mod;
    char name[192];              /* module's full name */
    int64_t N, K;
    const struct override_row *row;
    const struct st_tensor *bias; /* NULL without */
    uint64_t bytes;
    size_t shard;
};

struct job {
    const struct gptq_writer *w;
    struct item *items;
    size_t count, cap, shards;
    uint64_t total, done;
    json_t *weight_map;
};

static int64_t groups(const struct item *it)
{
    return it->row->params.group_size < 0 ? 1 : (it->K + it->row->params.group_size - 1) / it->row->params.group_size;
}

static int64_t words(int64_t n, int bits)
{
    return (n * bits + 31) / 32;
}

static uint64_t module_bytes(const struct item *it)
{
    int b = it->row->params.bits;
    int64_t G = groups(it);
    return (uint64_t)(4 * words(it->K, b) * it->N + 4 * G * words(it->N, b) + 2 * G * it->N + 4 * it->K + (it->bias ? 2 * it->N : 0));
}

static void add_item(struct job *j, struct item it)
{
    MEM_GROW(j->items, j->count, j->cap);
    it.bytes = it.raw ? it.raw->bytes : module_bytes(&it);
    j->items[j->count++] = it;
}

static void add_module(struct job *j, int64_t layer, enum module_id mod)
{
    const struct quantize_info *q = j->w->q;
    struct item it = {.layer = layer, .mod = mod, .row = quantize_row(q, layer, mod), .N = q->model.config.vocab_size, .K = q->model.config.hidden};
    snprintf(it.name, sizeof it.name, "%s", it.row->name);
    if (layer >= 0)
        config_module_shape(&q->model.config, mod, &it.N, &it.K);
    char bias[256];
    snprintf(bias, sizeof bias, "%s.bias", it.name);
    it.bias = st_find(&q->model.tensors, bias);
    add_item(j, it);
}

/* A tensor of the source that a quantized module replaces. */
static bool replaced(const struct quantize_info *q, const char *tensor)
{
    const char *dot = strrchr(tensor, '.');
    if (!dot)
        return false;
    char module[256];
    snprintf(module, sizeof module, "%.*s", (int)(dot - tensor), tensor);
    const struct override_row *row = overrides_find(&q->table, module);
    return row && row->quantized;
}

static int add_layer(struct job *j, int64_t layer, struct err *e)
{
    const struct quantize_info *q = j->w->q;
    const char **names = NULL;
    size_t n = 0;
    int rc = model_layer_tensors(&q->model, layer, &names, &n, e);
    for (size_t i = 0; !rc && i < n; i++)
        if (!replaced(q, names[i]))
            add_item(j, (struct item){.raw = st_find(&q->model.tensors, names[i])});
    free(names);
    for (int m = 0; !rc && layer >= 0 && m < MOD_COUNT; m++)
        if (quantize_row(q, layer, (enum module_id)m)->quantized)
            add_module(j, layer, (enum module_id)m);
    if (!rc && layer < 0 && quantize_row(q, -1, MOD_COUNT)->quantized)
        add_module(j, -1, MOD_COUNT);
    return rc;
}

static int list_items(struct job *j, struct err *e)
{
    int rc = add_layer(j, -1, e);
    for (int64_t l = 0; !rc && l < j->w->q->model.config.layers; l++)
        rc = add_layer(j, l, e);
    uint64_t in_shard = 0;
    for (size_t i = 0; i < j->count; i++) {
        if (in_shard && in_shard + j->items[i].bytes > j->w->shard_bytes) {
            j->shards++;
            in_shard = 0;
        }
        j->items[i].shard = j->shards;
        in_shard += j->items[i].bytes;
        j->total += j->items[i].bytes;
    }
    j->shards++;
    return rc;
}

static void shard_name(const struct job *j, size_t shard, char out[64])
{
    if (j->shards == 1)
        snprintf(out, 64, "model.safetensors");
    else
        snprintf(out, 64, "model-%05zu-of-%05zu.safetensors", shard + 1, j->shards);
}

static void declare(struct job *j, struct st_writer *w, const char *file, const char *module, const char *part, enum dtype t, int ndim, int64_t a, int64_t b)
{
    char name[256];
    int64_t shape[2] = {a, b};
    snprintf(name, sizeof name, "%s.%s", module, part);
    st_writer_declare(w, name, t, ndim, shape);
    json_object_set_new(j->weight_map, name, json_string(file));
}

static void declare_item(struct job *j, struct st_writer *w, const char *file, const struct item *it)
{
    if (it->raw) {
        st_writer_declare(w, it->raw->name, it->raw->dtype, it->raw->ndim, it->raw->shape);
        json_object_set_new(j->weight_map, it->raw->name, json_string(file));
        return;
    }
    int b = it->row->params.bits;
    int64_t G = groups(it);
    if (it->bias)
        declare(j, w, file, it->name, "bias", DT_F16, 1, it->N, 0);
    declare(j, w, file, it->name, "g_idx", DT_I32, 1, it->K, 0);
    declare(j, w, file, it->name, "qweight", DT_I32, 2, words(it->K, b), it->N);
    declare(j, w, file, it->name, "qzeros", DT_I32, 2, G, words(it->N, b));
    declare(j, w, file, it->name, "scales", DT_F16, 2, G, it->N);
}

static int put(struct st_writer *w, const struct item *it, const char *part, const void *data, uint64_t bytes, struct err *e)
{
    char name[256];
    snprintf(name, sizeof name, "%s.%s", it->name, part);
    return st_writer_put(w, name, data, (size_t)bytes, e);
}

static int put_bias(struct job *j, struct st_writer *w, const struct item *it, struct err *e)
{
    float *x = xcalloc((size_t)it->N, sizeof *x);
    uint16_t *half = xcalloc((size_t)it->N, sizeof *half);
    int rc = st_copy_f32(&j->w->q->model.tensors, it->bias, x, e);
    for (int64_t i = 0; !rc && i < it->N; i++) {
        half[i] = f32_to_f16(x[i]);
        if ((half[i] & 0x7c00u) == 0x7c00u)
            rc = err_set(e, ERR_NUMERIC, "%s.bias[%lld] = %g is outside the range of F16, which the format stores", it->name, (long long)i, (double)x[i]);
    }
    if (!rc)
        rc = put(w, it, "bias", half, 2 * (uint64_t)it->N, e);
    free(x);
    free(half);
    return rc;
}

static int open_layer(const struct job *j, const struct item *it, struct st_set *set, struct err *e)
{
    char node[64], name[80];
    quantize_node_name(j->w->q, it->layer, it->mod, node);
    snprintf(name, sizeof name, "%s.safetensors", node);
    const struct fileset_file *f = fileset_find(j->w->layers, name);
    return f ? st_open_file(set, f->path, e) : err_set(e, ERR_NOTFOUND, "the quantized layers have no %s", name);
}

static int put_module(struct job *j, struct st_writer *w, const struct item *it, struct err *e)
{
    struct st_set set = {0};
    struct qmatrix q = {0};
    const struct quant_params *p = &it->row->params;
    const char *short_name = it->layer < 0 ? "lm_head" : config_module_short(it->mod);
    int rc = open_layer(j, it, &set, e);
    if (!rc)
        rc = layer_read(&set, short_name, it->N, it->K, p->bits, p->group_size, p->sym, &q, e);
    st_close(&set);
    if (rc)
        return rc;
    uint64_t qweight = 4 * (uint64_t)(words(it->K, p->bits) * it->N), qzeros = 4 * (uint64_t)(q.G * words(it->N, p->bits));
    uint32_t *buffer = malloc(qweight > qzeros ? qweight : qzeros);
    if (!buffer)
        rc = err_set(e, ERR_NOMEM, "qweight of %s (%llu bytes)", it->name, (unsigned long long)qweight);
    if (!rc && it->bias)
        rc = put_bias(j, w, it, e);
    if (!rc)
        rc = put(w, it, "g_idx", q.g_idx, 4 * (uint64_t)it->K, e);
    if (!rc) {
        wfmt_pack_qweight(&q, buffer);
        rc = put(w, it, "qweight", buffer, qweight, e);
    }
    if (!rc) {
        wfmt_pack_qzeros(&q, WFMT_V1, buffer);
        rc = put(w, it, "qzeros", buffer, qzeros, e);
    }
    if (!rc)
        rc = put(w, it, "scales", q.scales, 2 * (uint64_t)(q.G * it->N), e);
    free(buffer);
    qmatrix_free(&q);
    return rc;
}

static int put_item(struct job *j, struct st_writer *w, const struct item *it, struct err *e)
{
    const struct st_set *source = &j->w->q->model.tensors;
    int rc;
    if (it->raw) {
        rc = st_writer_put(w, it->raw->name, st_data(source, it->raw), (size_t)it->raw->bytes, e);
        st_drop(source, it->raw);
    } else {
        rc = put_module(j, w, it, e);
    }
    j->done += it->bytes;
    if (!rc && j->w->progress && j->w->progress(j->w->arg, (double)j->done, (double)j->total))
        rc = err_set(e, ERR_CANCELLED, "stopped");
    return rc;
}

static int write_shard(struct job *j, const char *dir, size_t shard, struct err *e)
{
    char file[64];
    shard_name(j, shard, file);
    char *path = io_join(dir, file);
    struct st_writer *w = NULL;
    int rc = st_writer_open(path, true, &w, e);
    free(path);
    if (rc)
        return rc;
    for (size_t i = 0; i < j->count; i++)
        if (j->items[i].shard == shard)
            declare_item(j, w, file, &j->items[i]);
    for (size_t i = 0; !rc && i < j->count; i++)
        if (j->items[i].shard == shard)
            rc = put_item(j, w, &j->items[i], e);
    int rc2 = st_writer_close(w, rc ? NULL : e);
    return rc ? rc : rc2;
}

int gptq_write_tensors(const struct gptq_writer *w, const char *dir, uint64_t *total, struct err *e)
{
    struct job j = {.w = w, .weight_map = json_object()};
    int rc = list_items(&j, e);
    for (size_t i = 0; !rc && i < j.shards; i++)
        rc = write_shard(&j, dir, i, e);
    if (!rc && j.shards > 1) {
        json_t *index = json_pack("{s:{s:I},s:O}", "metadata", "total_size", (json_int_t)j.total, "weight_map", j.weight_map);
        struct buf b = BUF_INIT;
        json_pretty(index, &b);
        char *path = io_join(dir, "model.safetensors.index.json");
        rc = io_write_file_atomic(path, b.data, b.len, e);
        free(path);
        buf_release(&b);
        json_decref(index);
    }
    *total = j.total;
    json_decref(j.weight_map);
    free(j.items);
    return rc;
}

/* ---- quantization_config ---- */

/* What readers resolve per module. */
static bool same_settings(const struct override_row *a, const struct override_row *b)
{
    const struct quant_params *p = &a->params, *r = &b->params;
    if (a->quantized != b->quantized || !a->quantized)
        return a->quantized == b->quantized;
    return p->bits == r->bits && p->group_size == r->group_size && p->sym == r->sym && p->desc_act == r->desc_act;
}

/* desc_act in the file says "g_idx is not sequential"; with static_groups it is sequential. */
static bool stored_desc_act(const struct quant_params *p)
{
    return p->method == QUANT_GPTQ && p->desc_act && !p->static_groups;
}

/* "+:^model\.layers\.0\.mlp\.down_proj$" */
static void pattern_of(const char *sign, const char *name, struct buf *out)
{
    buf_printf(out, "%s^", sign);
    for (; *name; name++) {
        if (*name == '.')
            buf_addch(out, '\\');
        buf_addch(out, *name);
    }
    buf_addch(out, '$');
}

static void add_pattern(json_t *dynamic, const struct override_row *row, const char *name)
{
    struct buf b = BUF_INIT;
    pattern_of(row->quantized ? "+:" : "-:", name, &b);
    const struct quant_params *p = &row->params;
    json_object_set_new(dynamic, buf_str(&b),
                        row->quantized ? json_pack("{s:i,s:i,s:b,s:b}", "bits", p->bits, "group_size", p->group_size, "sym", (int)p->sym, "desc_act", (int)stored_desc_act(p))
                                       : json_object());
    buf_release(&b);
}

/* The fused name that a server uses for a set of modules, when the whole set agrees: "model.layers.0.self_attn.qkv_proj". Called for the first of the set. */
static void add_fused(json_t *dynamic, const struct quantize_info *q, int64_t layer, enum module_id first, enum module_id last)
{
    const struct override_row *row = quantize_row(q, layer, first);
    for (int m = first; m <= (int)last; m++)
        if (!same_settings(row, quantize_row(q, layer, (enum module_id)m)))
            return;
    const char *dot = strrchr(row->name, '.');
    char name[256];
    snprintf(name, sizeof name, "%.*s.%s", (int)(dot - row->name), row->name, config_module_fused(first));
    add_pattern(dynamic, row, name);
}

static void add_overrides(json_t *dynamic, const struct quantize_info *q, bool negatives)
{
    struct override_row base = {.quantized = true, .params = q->base};
    for (int64_t l = 0; l < q->model.config.layers; l++) {
        for (int m = 0; m < MOD_COUNT; m++) {
            const struct override_row *row = quantize_row(q, l, (enum module_id)m);
            if (same_settings(row, &base) || row->quantized == negatives)
                continue;
            add_pattern(dynamic, row, row->name);
            if (m == MOD_Q)
                add_fused(dynamic, q, l, MOD_Q, MOD_V);
            if (m == MOD_GATE)
                add_fused(dynamic, q, l, MOD_GATE, MOD_UP);
        }
    }
    const struct override_row *head = quantize_row(q, -1, MOD_COUNT);
    if (head->quantized && !negatives && !same_settings(head, &base))
        add_pattern(dynamic, head, "lm_head");
}

json_t *gptq_quantization_config(const struct quantize_info *q, json_t *meta)
{
    json_t *c = json_object(), *dynamic = json_object();
    json_object_set_new(c, "bits", json_integer(q->base.bits));
    json_object_set_new(c, "group_size", json_integer(q->base.group_size));
    json_object_set_new(c, "sym", json_boolean(q->base.sym));
    json_object_set_new(c, "desc_act", json_boolean(stored_desc_act(&q->base)));
    json_object_set_new(c, "lm_head", json_boolean(quantize_row(q, -1, MOD_COUNT)->quantized));
    json_object_set_new(c, "quant_method", json_string("gptq"));
    json_object_set_new(c, "method", json_string("gptq"));
    json_object_set_new(c, "checkpoint_format", json_string("gptq"));
    json_object_set_new(c, "format", json_string("gptq"));
    json_object_set_new(c, "pack_dtype", json_string("int32"));
    add_overrides(dynamic, q, true);
    add_overrides(dynamic, q, false);
    if (json_object_size(dynamic))
        json_object_set(c, "dynamic", dynamic);
    json_decref(dynamic);
    json_object_set_new(c, "meta", meta);
    return c;
}

#include "stages/format/inspect.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/select.h"
#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"
#include "stages/format/layer.h"

enum { NAME_BYTES = 256 };

static const struct st_set *tensors_of(const struct inspect *i)
{
    return strcmp(i->kind, "model") ? &i->file : &i->model.tensors;
}

static bool ends_with(const char *s, const char *tail)
{
    size_t a = strlen(s), b = strlen(tail);
    return a >= b && !strcmp(s + a - b, tail);
}

static const char *kind_of_file(const struct st_set *s)
{
    const struct st_tensor *ids = st_find(s, "input_ids"), *offsets = st_find(s, "offsets");
    if (s->tensor_count == 2 && ids && offsets && ids->dtype == DT_I32 && ids->ndim == 1 && offsets->dtype == DT_I64 && offsets->ndim == 1 && offsets->shape[0] > 0)
        return "calibration";
    for (size_t i = 0; i < s->tensor_count; i++)
        if (ends_with(s->tensors[i].name, ".codes"))
            return "layer";
    return "safetensors";
}

/* A folder that is no model: its one .safetensors file. */
static const char *only_file(const struct fileset *files, const char *path, struct err *e)
{
    const char *found = NULL;
    for (size_t i = 0; i < files->count; i++) {
        if (!ends_with(files->files[i].name, ".safetensors"))
            continue;
        if (found) {
            err_set(e, ERR_NOTFOUND, "%s holds no config.json and more than one .safetensors file: name one", path);
            return NULL;
        }
        found = files->files[i].path;
    }
    if (!found)
        err_set(e, ERR_NOTFOUND, "%s holds neither a config.json nor a .safetensors file", path);
    return found;
}

static int open_model(struct inspect *i, struct err *e)
{
    struct check_report lines = {0};
    bool usable = false;
    int rc = model_open(&i->model, &i->files, e);
    if (!rc)
        rc = check_config_load(&i->config, &i->files, &lines, &usable, e);
    if (!rc && !usable)
        rc = err_set(e, ERR_FORMAT, "%s", lines.count ? lines.lines[0] : "the quantization config is not usable");
    check_report_release(&lines);
    return rc;
}

int inspect_open(struct inspect *i, const char *path, struct err *e)
{
    *i = (struct inspect){.kind = "safetensors"};
    int rc = fileset_from_path(&i->files, path, e);
    if (!rc && io_is_dir(path) && fileset_find(&i->files, "config.json")) {
        i->kind = "model";
        rc = open_model(i, e);
        if (rc)
            err_wrap(e, "%s", path);
    } else if (!rc) {
        const char *file = io_is_dir(path) ? only_file(&i->files, path, e) : path;
        rc = file ? st_open_file(&i->file, file, e) : -ERR_NOTFOUND;
        if (!rc)
            i->kind = kind_of_file(&i->file);
    }
    if (rc)
        inspect_close(i);
    return rc;
}

void inspect_close(struct inspect *i)
{
    model_close(&i->model);
    st_close(&i->file);
    check_config_release(&i->config);
    fileset_release(&i->files);
    *i = (struct inspect){.kind = "safetensors"};
}

static json_t *shape_json(const int64_t *shape, int ndim)
{
    json_t *a = json_array();
    for (int i = 0; i < ndim; i++)
        json_array_append_new(a, json_integer(shape[i]));
    return a;
}

static json_t *config_json(const struct config *c)
{
    json_t *o = json_object();
    const json_t *arch = json_array_get(json_object_get(c->json, "architectures"), 0);
    if (json_is_string(arch))
        json_object_set(o, "architecture", (json_t *)arch);
    const struct {
        const char *key;
        int64_t value;
    } numbers[] = {
        {"vocab_size", c->vocab_size}, {"hidden", c->hidden},     {"intermediate", c->intermediate}, {"layers", c->layers},
        {"heads", c->heads},           {"kv_heads", c->kv_heads}, {"head_dim", c->head_dim},         {"context", c->context},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        json_object_set_new(o, numbers[i].key, json_integer(numbers[i].value));
    json_object_set_new(o, "tied", json_boolean(c->tied));
    json_object_set_new(o, "dtype", json_string(dtype_name(c->dtype)));
    if (!c->quant.present)
        return o;
    json_object_set_new(o, "quantization",
                        json_pack("{s:s, s:i, s:i, s:b, s:b, s:b, s:i}", "format", c->quant.v2 ? "gptq_v2" : "gptq", "bits", c->quant.bits, "group_size", c->quant.group_size,
                                  "sym", (int)c->quant.sym, "desc_act", (int)c->quant.desc_act, "lm_head", (int)c->quant.lm_head, "dynamic",
                                  (int)json_object_size(c->quant.dynamic)));
    return o;
}

static bool is_float(enum dtype t)
{
    return t == DT_F32 || t == DT_F16 || t == DT_BF16;
}

/* Bytes of all parts of a stored module. */
static uint64_t module_bytes(const struct st_set *s, const char *module)
{
    static const char *const parts[] = {"weight", "qweight", "qzeros", "scales", "g_idx", "codes", "zeros"};
    uint64_t bytes = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "%s.%s", module, parts[i]);
        const struct st_tensor *t = st_find(s, name);
        bytes += t ? t->bytes : 0;
    }
    return bytes;
}

/* Share of a module's scales that are negative. */
static double negative_scales(const struct st_set *s, const char *module)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s.scales", module);
    const struct st_tensor *t = st_find(s, name);
    if (!t || !is_float(t->dtype) || !st_elems(t))
        return 0;
    const unsigned char *p = st_data(s, t);
    size_t width = dtype_bytes(t->dtype), negative = 0;
    for (size_t i = width - 1; i < t->bytes; i += width) /* the sign is the top bit of the last byte */
        negative += p[i] >> 7;
    return (double)negative / (double)st_elems(t);
}

static json_t *quantized_json(const struct st_set *s, const char *name, int bits, int group, int64_t N, int64_t K)
{
    uint64_t bytes = module_bytes(s, name);
    return json_pack("{s:s, s:i, s:i, s:[I,I], s:I, s:f, s:f}", "name", name, "bits", bits, "group_size", group, "shape", (json_int_t)N, (json_int_t)K, "bytes",
                     (json_int_t)bytes, "bits_per_weight", 8.0 * (double)bytes / ((double)N * (double)K), "negative_scales", negative_scales(s, name));
}

/* The class of CUDA kernels that serves it, and why it is not a faster one. */
static void add_kernel(json_t *o, const struct inspect *i, struct select_matrix m)
{
    const char *why;
    m.capability = i->capability;
    m.no_machete = i->no_machete;
    json_object_set_new(o, "cuda_kernel", json_string(select_kernel(&m, "auto", &why)));
    if (*why)
        json_object_set_new(o, "cuda_why", json_string(why));
}

static json_t *module_json(const struct inspect *i, const char *name, int64_t layer, enum module_id mod, int64_t N, int64_t K)
{
    if (!model_is_quantized(&i->model, layer, mod)) {
        struct tensor_view v;
        if (model_dense_view(&i->model, layer, mod, &v, NULL))
            v.dtype = i->model.config.dtype;
        json_t *d = json_pack("{s:s, s:s, s:[I,I], s:I}", "name", name, "dtype", dtype_name(v.dtype), "shape", (json_int_t)N, (json_int_t)K, "bytes",
                         (json_int_t)module_bytes(&i->model.tensors, name));
        add_kernel(d, i, (struct select_matrix){.N = N, .K = K});
        return d;
    }
    int bits, group;
    model_module_bits(&i->model, layer, mod, &bits, &group);
    struct check_settings s = check_config_resolve(&i->config, name, true);
    json_t *o = quantized_json(&i->model.tensors, name, bits, group, N, K);
    json_object_set_new(o, "sym", json_boolean(s.sym));
    json_object_set_new(o, "desc_act", json_boolean(s.desc_act));
    add_kernel(o, i, (struct select_matrix){.N = N, .K = K, .bits = bits, .group_size = group, .order = s.desc_act});
    return o;
}

static json_t *model_modules(const struct inspect *i, int64_t *quantized_params)
{
    const struct config *c = &i->model.config;
    json_t *list = json_array();
    for (int64_t l = 0; l < c->layers; l++)
        for (int m = 0; m < MOD_COUNT; m++) {
            char name[NAME_BYTES];
            int64_t N, K;
            config_module_name(c, l, (enum module_id)m, name, sizeof name);
            config_module_shape(c, (enum module_id)m, &N, &K);
            json_array_append_new(list, module_json(i, name, l, (enum module_id)m, N, K));
            *quantized_params += model_is_quantized(&i->model, l, (enum module_id)m) ? N * K : 0;
        }
    json_array_append_new(list, module_json(i, "lm_head", -1, MOD_COUNT, c->vocab_size, c->hidden));
    *quantized_params += model_is_quantized(&i->model, -1, MOD_COUNT) ? c->vocab_size * c->hidden : 0;
    return list;
}

/* What a module of a layer file looks like, from its tensors' shapes. */
struct layer_shape {
    int64_t N, K;
    int bits, group;
};

static int layer_shape(const struct st_set *s, const char *module, struct layer_shape *out, struct err *e)
{
    static const int served[] = {2, 3, 4, 8};
    char codes_name[NAME_BYTES], g_idx_name[NAME_BYTES];
    snprintf(codes_name, sizeof codes_name, "%s.codes", module);
    snprintf(g_idx_name, sizeof g_idx_name, "%s.g_idx", module);
    const struct st_tensor *codes = st_find(s, codes_name), *g_idx = st_find(s, g_idx_name);
    if (!codes || !g_idx)
        return err_set(e, ERR_NOTFOUND, "there is no module %s", module);
    if (codes->ndim != 2 || g_idx->ndim != 1 || g_idx->dtype != DT_I32)
        return err_set(e, ERR_FORMAT, "%s: its codes and g_idx are not of a layer file", module);
    *out = (struct layer_shape){.N = codes->shape[0], .K = g_idx->shape[0]};
    for (size_t i = 0; i < 4; i++)
        if (!out->bits && (out->K * served[i] + 7) / 8 == codes->shape[1])
            out->bits = served[i];
    if (!out->bits)
        return err_set(e, ERR_FORMAT, "%s: codes of %" PRId64 " bytes a row fit no number of bits for K=%" PRId64, module, codes->shape[1], out->K);
    const unsigned char *p = st_data(s, g_idx);
    for (int64_t k = 0; k < out->K; k++) {
        int32_t g;
        memcpy(&g, p + 4 * k, sizeof g);
        out->group += g == 0;
    }
    if (out->group == out->K)
        out->group = -1;
    return 0;
}

static json_t *layer_modules(const struct inspect *i, int64_t *params, struct err *e)
{
    json_t *list = json_array();
    for (size_t t = 0; t < i->file.tensor_count; t++) {
        const char *tensor = i->file.tensors[t].name;
        if (!ends_with(tensor, ".codes"))
            continue;
        char name[NAME_BYTES];
        struct layer_shape s;
        snprintf(name, sizeof name, "%.*s", (int)(strlen(tensor) - strlen(".codes")), tensor);
        if (layer_shape(&i->file, name, &s, e)) {
            json_decref(list);
            return NULL;
        }
        json_array_append_new(list, quantized_json(&i->file, name, s.bits, s.group, s.N, s.K));
        *params += s.N * s.K;
    }
    return list;
}

static json_t *calibration_json(const struct st_set *s)
{
    const struct st_tensor *offsets = st_find(s, "offsets"), *ids = st_find(s, "input_ids");
    const unsigned char *p = st_data(s, offsets);
    int64_t n = offsets->shape[0] - 1, shortest = n ? INT64_MAX : 0, longest = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t o[2];
        memcpy(o, p + 8 * i, sizeof o);
        int64_t length = o[1] - o[0];
        shortest = length < shortest ? length : shortest;
        longest = length > longest ? length : longest;
    }
    return json_pack("{s:I, s:I, s:I, s:I}", "samples", (json_int_t)n, "tokens", (json_int_t)ids->shape[0], "shortest", (json_int_t)shortest, "longest", (json_int_t)longest);
}

/* A tensor that is a part of a quantized module holds no parameters of its own. */
static bool is_quantized_part(const char *name)
{
    static const char *const tails[] = {".qweight", ".qzeros", ".scales", ".g_idx", ".codes", ".zeros"};
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++)
        if (ends_with(name, tails[i]))
            return true;
    return false;
}

static void add_tensors(json_t *o, const struct st_set *s, int64_t quantized_params)
{
    json_t *list = json_array();
    uint64_t bytes = 0;
    int64_t params = quantized_params;
    for (size_t i = 0; i < s->tensor_count; i++) {
        const struct st_tensor *t = &s->tensors[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I, s:s}", "name", t->name, "dtype", dtype_name(t->dtype), "shape", shape_json(t->shape, t->ndim), "bytes",
                                              (json_int_t)t->bytes, "file", s->files[t->file].name));
        bytes += t->bytes;
        params += quantized_params && is_quantized_part(t->name) ? 0 : st_elems(t);
    }
    json_object_set_new(o, "tensors", list);
    json_object_set_new(o, "totals",
                        json_pack("{s:I, s:I, s:I, s:f}", "tensors", (json_int_t)s->tensor_count, "bytes", (json_int_t)bytes, "parameters", (json_int_t)params, "bits_per_weight",
                                  params ? 8.0 * (double)bytes / (double)params : 0.0));
}

json_t *inspect_json(const struct inspect *i, struct err *e)
{
    json_t *o = json_pack("{s:s}", "kind", i->kind), *modules = NULL;
    int64_t quantized_params = 0;
    if (!strcmp(i->kind, "model")) {
        json_object_set_new(o, "config", config_json(&i->model.config));
        if (i->capability) {
            char text[16];
            snprintf(text, sizeof text, "%d.%d", i->capability / 10, i->capability % 10);
            json_object_set_new(o, "cuda_capability", json_string(text));
        }
        modules = model_modules(i, &quantized_params);
    } else if (!strcmp(i->kind, "layer")) {
        modules = layer_modules(i, &quantized_params, e);
        if (!modules) {
            json_decref(o);
            return NULL;
        }
    } else if (!strcmp(i->kind, "calibration")) {
        json_object_set_new(o, "calibration", calibration_json(&i->file));
    }
    if (modules)
        json_object_set_new(o, "modules", modules);
    add_tensors(o, tensors_of(i), quantized_params);
    return o;
}

/* NumPy's name of a type, NULL where it has none. */
static const char *npy_type(enum dtype t)
{
    switch (t) {
    case DT_F64:
        return "<f8";
    case DT_F32:
        return "<f4";
    case DT_F16:
        return "<f2";
    case DT_I8:
        return "|i1";
    case DT_U8:
        return "|u1";
    case DT_BOOL:
        return "|b1";
    case DT_I16:
        return "<i2";
    case DT_I32:
        return "<i4";
    case DT_I64:
        return "<i8";
    default:
        return NULL;
    }
}

/* numpy/numpy:numpy/lib/format.py, version 1.0: magic, version, length, a dict padded to 64 bytes. */
static void npy_header(struct buf *out, const char *type, const int64_t *shape, int ndim)
{
    struct buf dict = BUF_INIT;
    buf_printf(&dict, "{'descr': '%s', 'fortran_order': False, 'shape': (", type);
    for (int i = 0; i < ndim; i++)
        buf_printf(&dict, "%s%" PRId64 "%s", i ? ", " : "", shape[i], ndim == 1 ? "," : "");
    buf_addstr(&dict, "), }");
    while ((10 + dict.len + 1) % 64)
        buf_addch(&dict, ' ');
    buf_addch(&dict, '\n');
    buf_add(out, "\x93NUMPY\x01\x00", 8);
    buf_addch(out, (char)(dict.len & 0xff));
    buf_addch(out, (char)(dict.len >> 8));
    buf_add(out, dict.data, dict.len);
    buf_release(&dict);
}

static int write_values(const char *path, const char *name, enum dtype dtype, const int64_t *shape, int ndim, const void *data, size_t bytes, struct err *e)
{
    struct buf head = BUF_INIT;
    if (ends_with(path, ".npy")) {
        if (!npy_type(dtype))
            return err_set(e, ERR_UNSUPPORTED, "%s: NumPy files have no %s: take --dequant, or a name that does not end in .npy", name, dtype_name(dtype));
        npy_header(&head, npy_type(dtype), shape, ndim);
    }
    struct io_atomic a;
    int rc = io_atomic_open(&a, path, e);
    if (!rc) {
        rc = io_write(a.fd, buf_str(&head), head.len, path, e);
        if (!rc)
            rc = io_write(a.fd, data, bytes, path, e);
        if (!rc)
            rc = io_atomic_commit(&a, e);
        else
            io_atomic_abort(&a);
    }
    buf_release(&head);
    return rc;
}

static int alloc_values(int64_t rows, int64_t cols, const char *name, float **out, size_t *bytes, struct err *e)
{
    if (mem_mul((size_t)rows, (size_t)cols, bytes) || mem_mul(*bytes, sizeof(float), bytes))
        return err_set(e, ERR_SHAPE, "%s: [%" PRId64 ", %" PRId64 "] is too large", name, rows, cols);
    *out = malloc(*bytes ? *bytes : 1);
    return *out ? 0 : err_set(e, ERR_NOMEM, "%s: no memory for %zu bytes", name, *bytes);
}

static int export_layer_module(const struct inspect *i, const char *name, const char *path, struct err *e)
{
    struct layer_shape s;
    struct qmatrix q = {0};
    float *w = NULL;
    size_t bytes = 0;
    int rc = layer_shape(&i->file, name, &s, e);
    if (!rc)
        rc = layer_read(&i->file, name, s.N, s.K, s.bits, s.group, false, &q, e);
    if (!rc)
        rc = alloc_values(s.N, s.K, name, &w, &bytes, e);
    for (int64_t n = 0; !rc && n < s.N; n++)
        for (int64_t k = 0; k < s.K; k++) {
            int64_t g = q.g_idx[k];
            w[n * s.K + k] = f16_to_f32(q.scales[g * s.N + n]) * (float)((int)q.codes[n * s.K + k] - (int)q.zeros[g * s.N + n]);
        }
    if (!rc)
        rc = write_values(path, name, DT_F32, (int64_t[]){s.N, s.K}, 2, w, bytes, e);
    free(w);
    qmatrix_free(&q);
    return rc;
}

static int export_module(const struct inspect *i, const char *name, int64_t layer, enum module_id mod, const char *path, struct err *e)
{
    int64_t N = i->model.config.vocab_size, K = i->model.config.hidden;
    float *w = NULL;
    size_t bytes = 0;
    if (layer >= 0)
        config_module_shape(&i->model.config, mod, &N, &K);
    int rc = alloc_values(N, K, name, &w, &bytes, e);
    if (!rc)
        rc = model_dequant(&i->model, layer, mod, w, e);
    if (!rc)
        rc = write_values(path, name, DT_F32, (int64_t[]){N, K}, 2, w, bytes, e);
    free(w);
    return rc;
}

static int export_tensor(const struct inspect *i, const struct st_tensor *t, bool dequant, const char *path, struct err *e)
{
    const struct st_set *s = tensors_of(i);
    if (!dequant)
        return write_values(path, t->name, t->dtype, t->shape, t->ndim, st_data(s, t), (size_t)t->bytes, e);
    if (!is_float(t->dtype))
        return err_set(e, ERR_UNSUPPORTED, "%s is %s: --dequant takes float tensors and modules", t->name, dtype_name(t->dtype));
    float *w = NULL;
    size_t bytes = 0;
    int rc = alloc_values(st_elems(t), 1, t->name, &w, &bytes, e);
    if (!rc)
        rc = st_copy_f32(s, t, w, e);
    if (!rc)
        rc = write_values(path, t->name, DT_F32, t->shape, t->ndim, w, bytes, e);
    free(w);
    return rc;
}

int inspect_export(const struct inspect *i, const char *name, bool dequant, const char *path, struct err *e)
{
    char module[NAME_BYTES];
    int64_t layer;
    enum module_id mod;
    const struct st_tensor *t = st_find(tensors_of(i), name);
    snprintf(module, sizeof module, "%s", name);
    if (t)
        return export_tensor(i, t, dequant, path, e);
    if (ends_with(module, ".weight"))
        module[strlen(module) - strlen(".weight")] = 0;
    if (dequant && !strcmp(i->kind, "model") && model_find_module(&i->model, module, &layer, &mod))
        return export_module(i, module, layer, mod, path, e);
    if (dequant && !strcmp(i->kind, "layer"))
        return export_layer_module(i, module, path, e);
    return err_set(e, ERR_NOTFOUND, "there is no tensor %s%s", name, dequant ? ", and no module of that name" : "");
}

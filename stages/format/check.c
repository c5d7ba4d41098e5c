#include "stages/format/check.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"
#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"
#include "stages/format/check_config.h"
#include "stages/lm/config.h"
#include "stages/lm/safetensors.h"

/* The state of one check. */
struct check {
    struct check_report *r;
    struct check_config config;
    struct config model;
    struct st_set set;
    bool *used; /* per tensor: some rule refers to it */
    int dtype;  /* what unquantized tensors should be, -1 when config.json does not say */
};

enum { NAME_BYTES = 256 };

static const struct st_tensor *take(struct check *c, const char *name)
{
    const struct st_tensor *t = st_find(&c->set, name);
    if (t)
        c->used[t - c->set.tensors] = true;
    return t;
}

static const char *shape_text(const int64_t *shape, int ndim, char out[96])
{
    size_t n = (size_t)snprintf(out, 96, "[");
    for (int i = 0; i < ndim && n < 80; i++)
        n += (size_t)snprintf(out + n, 96 - n, "%s%" PRId64, i ? ", " : "", shape[i]);
    snprintf(out + n, 96 - n, "]");
    return out;
}

static bool shape_is(struct check *c, const struct st_tensor *t, int ndim, int64_t rows, int64_t cols, const char *why)
{
    int64_t want[2] = {rows, cols};
    if (t->ndim == ndim && t->shape[0] == rows && (ndim == 1 || t->shape[1] == cols))
        return true;
    char a[96], b[96];
    check_line(c->r, "%s: shape %s, needed is %s%s%s", t->name, shape_text(t->shape, t->ndim, a), shape_text(want, ndim, b), *why ? ": " : "", why);
    return false;
}

static bool dtype_is(struct check *c, const struct st_tensor *t, enum dtype want)
{
    if (t->dtype == want)
        return true;
    check_line(c->r, "%s: dtype %s, needed is %s", t->name, dtype_name(t->dtype), dtype_name(want));
    return false;
}

/* 32-bit word i of a tensor that may lie unaligned. */
static uint32_t word(const unsigned char *p, int64_t i)
{
    uint32_t w;
    memcpy(&w, p + 4 * i, sizeof w);
    return w;
}

static bool is_float(enum dtype t)
{
    return t == DT_F32 || t == DT_F16 || t == DT_BF16;
}

/* Index of the first NaN or infinity, or -1. Eight bytes at a time: a field whose exponent is all ones carries into its sign bit when the exponent's lowest
 * bit is added, and no other does. */
static int64_t first_not_finite(const unsigned char *p, int64_t n, enum dtype dtype)
{
    uint64_t exponents = dtype == DT_F32 ? 0x7f8000007f800000u : dtype == DT_BF16 ? 0x7f807f807f807f80u : 0x7c007c007c007c00u;
    uint64_t lowest = dtype == DT_F32 ? 0x0080000000800000u : dtype == DT_BF16 ? 0x0080008000800080u : 0x0400040004000400u;
    uint64_t signs = dtype == DT_F32 ? 0x8000000080000000u : 0x8000800080008000u, first = dtype == DT_F32 ? 0x80000000u : 0x8000u;
    int64_t width = dtype == DT_F32 ? 4 : 2, bytes = n * width;
    for (int64_t at = 0; at < bytes; at += 8) {
        uint64_t x = 0;
        memcpy(&x, p + at, bytes - at < 8 ? (size_t)(bytes - at) : 8);
        uint64_t hit = ((x & exponents) + lowest) & signs;
        if (!hit)
            continue;
        int64_t i = at / width;
        for (; !(hit & first); hit >>= 8 * width)
            i++;
        return i;
    }
    return -1;
}

int check_finite(const struct st_set *set, struct err *e)
{
    for (size_t i = 0; i < set->tensor_count; i++) {
        const struct st_tensor *t = &set->tensors[i];
        if (!is_float(t->dtype))
            continue;
        int64_t bad = first_not_finite(st_data(set, t), st_elems(t), t->dtype);
        st_drop(set, t);
        if (bad >= 0)
            return err_set(e, ERR_NUMERIC, "%s: %s: element %" PRId64 " is not a finite number", set->files[t->file].name, t->name, bad);
    }
    return 0;
}

/* An unquantized tensor. */
static void check_dense(struct check *c, const struct st_tensor *t, int ndim, int64_t rows, int64_t cols)
{
    if (!shape_is(c, t, ndim, rows, cols, ""))
        return;
    if (!is_float(t->dtype) || (c->dtype >= 0 && (int)t->dtype != c->dtype && !(ndim == 1 && t->dtype == DT_F32))) {
        check_line(c->r, "%s: dtype %s, config.json says %s", t->name, dtype_name(t->dtype), c->dtype >= 0 ? dtype_name((enum dtype)c->dtype) : "a float type");
        return;
    }
    int64_t bad = first_not_finite(st_data(&c->set, t), st_elems(t), t->dtype);
    if (bad >= 0)
        check_line(c->r, "%s: element %" PRId64 " of %" PRId64 " is not finite", t->name, bad, st_elems(t));
    st_drop(&c->set, t);
}

static void check_plain(struct check *c, const char *name, int ndim, int64_t rows, int64_t cols)
{
    const struct st_tensor *t = take(c, name);
    if (!t)
        check_line(c->r, "%s is missing", name);
    else
        check_dense(c, t, ndim, rows, cols);
}

/* One quantized module: its settings, shape and tensors. */
struct module {
    const char *name;
    struct check_settings s;
    int64_t N, K, G, group; /* group: inputs a group, K for -1 */
    const struct st_tensor *qweight, *qzeros, *scales, *g_idx;
};

/* Bits past the last code of a column of qweight. K * bits is below 32 modulo a word in the last row only. */
static void check_padding(struct check *c, const struct module *m)
{
    int64_t rows = m->qweight->shape[0];
    int used = (int)(m->K * m->s.bits % 32);
    if (used == 0)
        return;
    const unsigned char *p = st_data(&c->set, m->qweight);
    for (int64_t n = 0; n < m->N; n++) {
        uint32_t rest = word(p, (rows - 1) * m->N + n) >> used;
        if (rest) {
            check_line(c->r, "%s: column %" PRId64 " holds 0x%x in the padding after K=%" PRId64 ", needed is 0", m->qweight->name, n, rest, m->K);
            return;
        }
    }
}

/* Stored zero n of a row of qzeros: bits [n*b, n*b+b) of the row's words, lowest first (3-bit fields cross words). */
static uint32_t stored_zero(const unsigned char *row, int64_t n, int bits)
{
    int64_t bit = n * bits, w = bit / 32;
    int shift = (int)(bit % 32);
    uint64_t v = word(row, w);
    if (shift + bits > 32)
        v |= (uint64_t)word(row, w + 1) << 32;
    return (uint32_t)(v >> shift) & ((1u << bits) - 1u);
}

static void check_zeros(struct check *c, const struct module *m)
{
    if (!m->s.sym)
        return;
    uint32_t v1 = (1u << (m->s.bits - 1)) - 1u, want = c->config.v2 ? v1 + 1u : v1, other = c->config.v2 ? v1 : v1 + 1u;
    const unsigned char *p = st_data(&c->set, m->qzeros);
    int64_t words = m->qzeros->shape[1];
    for (int64_t g = 0; g < m->G; g++)
        for (int64_t n = 0; n < m->N; n++) {
            uint32_t z = stored_zero(p + 4 * g * words, n, m->s.bits);
            if (z == want)
                continue;
            check_line(c->r, "%s: stored zero [%" PRId64 ", %" PRId64 "] is %u, %s with sym needs %u%s", m->qzeros->name, g, n, z, c->config.v2 ? "gptq_v2" : "gptq (v1)", want,
                       z != other ? "" : c->config.v2 ? " (written as v1?)" : " (written as gptq_v2?)");
            return;
        }
}

static void check_g_idx(struct check *c, const struct module *m)
{
    const unsigned char *p = st_data(&c->set, m->g_idx);
    int64_t *count = xcalloc((size_t)m->G, sizeof *count);
    bool sequential = true;
    for (int64_t k = 0; k < m->K; k++) {
        int32_t g = (int32_t)word(p, k);
        if (g < 0 || g >= m->G) {
            check_line(c->r, "%s: entry %" PRId64 " is %d, groups are 0..%" PRId64, m->g_idx->name, k, g, m->G - 1);
            goto out;
        }
        count[g]++;
        if (g != k / m->group && !m->s.desc_act) {
            check_line(c->r, "%s: entry %" PRId64 " is %d, without desc_act it is %" PRId64, m->g_idx->name, k, g, k / m->group);
            goto out;
        }
        sequential = sequential && g == k / m->group;
    }
    for (int64_t g = 0; !sequential && g < m->G; g++) {
        int64_t want = g == m->G - 1 ? m->K - g * m->group : m->group;
        if (count[g] == want)
            continue;
        check_line(c->r, "%s: group %" PRId64 " has %" PRId64 " inputs, needed are %" PRId64, m->g_idx->name, g, count[g], want);
        break;
    }
out:
    free(count);
}

static void check_scales(struct check *c, const struct module *m)
{
    const unsigned char *p = st_data(&c->set, m->scales);
    for (int64_t i = 0; i < m->G * m->N; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof h);
        if ((h & 0x7c00u) != 0x7c00u && (h & 0x7fffu))
            continue;
        check_line(c->r, "%s: scale [%" PRId64 ", %" PRId64 "] is %g, needed is a finite number that is not 0", m->scales->name, i / m->N, i % m->N, (double)f16_to_f32(h));
        return;
    }
}

static const struct st_tensor *part(struct check *c, const char *module, const char *suffix)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s.%s", module, suffix);
    const struct st_tensor *t = take(c, name);
    if (!t)
        check_line(c->r, "%s is missing", name);
    return t;
}

static void check_quantized(struct check *c, struct module *m)
{
    m->group = m->s.group_size < 0 || m->s.group_size > m->K ? m->K : m->s.group_size;
    m->G = (m->K + m->group - 1) / m->group;
    m->qweight = part(c, m->name, "qweight");
    m->qzeros = part(c, m->name, "qzeros");
    m->scales = part(c, m->name, "scales");
    m->g_idx = part(c, m->name, "g_idx");
    c->r->modules++;
    char why[64];
    int64_t b = m->s.bits;
    check_settings_text(&m->s, why);
    if (m->s.bits == 3 && (m->K % 32 || m->N % 32))
        check_line(c->r, "%s: 3 bits need K and N that are multiples of 32, they are %" PRId64 " and %" PRId64, m->name, m->K, m->N);
    if (m->qweight && (dtype_is(c, m->qweight, DT_I32) && shape_is(c, m->qweight, 2, (m->K * b + 31) / 32, m->N, why)))
        check_padding(c, m);
    if (m->qzeros && (dtype_is(c, m->qzeros, DT_I32) && shape_is(c, m->qzeros, 2, m->G, (m->N * b + 31) / 32, why)))
        check_zeros(c, m);
    if (m->scales && (dtype_is(c, m->scales, DT_F16) && shape_is(c, m->scales, 2, m->G, m->N, why)))
        check_scales(c, m);
    if (m->g_idx && (dtype_is(c, m->g_idx, DT_I32) && shape_is(c, m->g_idx, 1, m->K, 0, "")))
        check_g_idx(c, m);
}

/* GPTQModel stores a quantized module's bias in f16, others keep it as it was. */
static void check_bias(struct check *c, const char *module, int64_t N, bool wanted, bool quantized)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s.bias", module);
    const struct st_tensor *t = st_find(&c->set, name);
    if (!wanted)
        return; /* a stray one is reported as unreferenced */
    if (!t) {
        check_line(c->r, "%s is missing", name);
        return;
    }
    int dtype = c->dtype;
    if (quantized && t->dtype == DT_F16)
        c->dtype = DT_F16;
    check_plain(c, name, 1, N, 0);
    c->dtype = dtype;
}

static bool stored_quantized(const struct check *c, const char *module)
{
    static const char *const parts[] = {"qweight", "qzeros", "scales", "g_idx"};
    for (size_t i = 0; i < 4; i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "%s.%s", module, parts[i]);
        if (st_find(&c->set, name))
            return true;
    }
    return false;
}

/* One linear module. Stored decides which tensors are looked at; resolved must agree with it. */
static void check_module(struct check *c, const char *name, int64_t N, int64_t K, bool bias)
{
    char weight[NAME_BYTES], text[64];
    snprintf(weight, sizeof weight, "%s.weight", name);
    bool quantized = stored_quantized(c, name), dense = st_find(&c->set, weight) != NULL;
    struct check_settings s = {0};
    if (c->config.quant)
        s = check_config_resolve(&c->config, name, true);
    if (quantized && dense)
        check_line(c->r, "%s: stored twice, as .weight and as .qweight", name);
    else if (quantized != s.quantized && (quantized || dense))
        check_line(c->r, "%s: stored %s, the configuration resolves it to %s", name, quantized ? "quantized" : "as .weight", check_settings_text(&s, text));
    if (quantized && s.quantized) {
        struct module m = {.name = name, .s = s, .N = N, .K = K};
        check_quantized(c, &m);
    } else if (dense || !s.quantized) {
        if (!quantized || dense)
            check_plain(c, weight, 2, N, K);
    } else {
        check_line(c->r, "%s.qweight is missing", name);
    }
    check_bias(c, name, N, bias, quantized);
}

/* vLLM asks for the joined name, in file order. Sets whose parts differ have no right answer: target rules are about those. */
static void check_fused(struct check *c, int64_t layer, const enum module_id *mods, size_t n)
{
    char name[NAME_BYTES], fused[NAME_BYTES], a[64], b[64];
    config_module_name(&c->model, layer, mods[0], name, sizeof name);
    struct check_settings first = check_config_resolve(&c->config, name, true);
    for (size_t i = 1; i < n; i++) {
        config_module_name(&c->model, layer, mods[i], name, sizeof name);
        struct check_settings s = check_config_resolve(&c->config, name, true);
        if (!check_settings_equal(&first, &s))
            return;
    }
    const char *alias = config_module_fused(mods[0]);
    snprintf(fused, sizeof fused, "%s", name);
    char *dot = strrchr(fused, '.');
    if (alias && dot)
        snprintf(dot + 1, sizeof fused - (size_t)(dot + 1 - fused), "%s", alias);
    struct check_settings v = check_config_resolve(&c->config, fused, false);
    if (!check_settings_equal(&first, &v))
        check_line(c->r, "%s: vLLM resolves it to %s, stored is %s", fused, check_settings_text(&v, a), check_settings_text(&first, b));
}

static void check_layer(struct check *c, int64_t l)
{
    static const enum module_id qkv[] = {MOD_Q, MOD_K, MOD_V}, gate_up[] = {MOD_GATE, MOD_UP}, o[] = {MOD_O}, down[] = {MOD_DOWN};
    const struct config *m = &c->model;
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "model.layers.%" PRId64 ".input_layernorm.weight", l);
    check_plain(c, name, 1, m->hidden, 0);
    snprintf(name, sizeof name, "model.layers.%" PRId64 ".post_attention_layernorm.weight", l);
    check_plain(c, name, 1, m->hidden, 0);
    if (m->qk_norm) {
        snprintf(name, sizeof name, "model.layers.%" PRId64 ".self_attn.q_norm.weight", l);
        check_plain(c, name, 1, m->head_dim, 0);
        snprintf(name, sizeof name, "model.layers.%" PRId64 ".self_attn.k_norm.weight", l);
        check_plain(c, name, 1, m->head_dim, 0);
    }
    for (int i = 0; i < MOD_COUNT; i++) {
        enum module_id mod = (enum module_id)i;
        int64_t N, K;
        bool bias = mod <= MOD_V ? m->qkv_bias : mod == MOD_O ? m->o_bias : m->mlp_bias;
        config_module_shape(m, mod, &N, &K);
        config_module_name(m, l, mod, name, sizeof name);
        check_module(c, name, N, K, bias);
    }
    if (!c->config.quant)
        return;
    check_fused(c, l, qkv, 3);
    check_fused(c, l, o, 1);
    check_fused(c, l, gate_up, 2);
    check_fused(c, l, down, 1);
}

/* Embeddings and head: of a tied pair one may be absent; both there must be the same bytes. */
static void check_ends(struct check *c)
{
    const struct config *m = &c->model;
    static const char EMBED[] = "model.embed_tokens.weight", HEAD[] = "lm_head.weight";
    const struct st_tensor *embed = st_find(&c->set, EMBED), *head = st_find(&c->set, HEAD);
    check_plain(c, "model.norm.weight", 1, m->hidden, 0);
    if (!m->tied) {
        check_plain(c, EMBED, 2, m->vocab_size, m->hidden);
        check_module(c, "lm_head", m->vocab_size, m->hidden, false);
        return;
    }
    if (embed || !head)
        check_plain(c, EMBED, 2, m->vocab_size, m->hidden);
    if (head)
        check_plain(c, HEAD, 2, m->vocab_size, m->hidden);
    if (embed && head && (embed->bytes != head->bytes || memcmp(st_data(&c->set, embed), st_data(&c->set, head), embed->bytes) != 0))
        check_line(c->r, "%s: differs from %s, config.json says tie_word_embeddings", HEAD, EMBED);
    if (stored_quantized(c, "lm_head") || c->config.lm_head)
        check_line(c->r, "lm_head: quantized, config.json says tie_word_embeddings");
}

static void check_unreferenced(struct check *c)
{
    static const char INV_FREQ[] = "rotary_emb.inv_freq"; /* a buffer of older files that every reader leaves out */
    for (size_t i = 0; i < c->set.tensor_count; i++) {
        const char *name = c->set.tensors[i].name;
        size_t len = strlen(name), tail = sizeof INV_FREQ - 1;
        if (!c->used[i] && (len < tail || strcmp(name + len - tail, INV_FREQ) != 0))
            check_line(c->r, "%s: no part of the model refers to it", name);
    }
}

/* total_size: of the tensors (Hugging Face) or of the files (GPTQModel). */
static int check_index(struct check *c, const struct fileset *files, struct err *e)
{
    const struct fileset_file *f = fileset_find(files, "model.safetensors.index.json");
    if (!f)
        return 0;
    json_t *index = json_parse_file(f->path, 512u << 20, e);
    if (!index)
        return err_wrap(e, "model.safetensors.index.json");
    uint64_t tensors = 0, all = 0;
    for (size_t i = 0; i < c->set.tensor_count; i++)
        tensors += c->set.tensors[i].bytes;
    for (size_t i = 0; i < c->set.file_count; i++)
        all += c->set.files[i].map.bytes;
    const json_t *total = json_object_get(json_object_get(index, "metadata"), "total_size");
    double size = json_number_value(total); /* some writers store a real */
    if (total && size != (double)tensors && size != (double)all)
        check_line(c->r, "model.safetensors.index.json: total_size is %.0f, the tensors hold %" PRIu64 " bytes (the files %" PRIu64 ")", size, tensors, all);
    json_decref(index);
    return 0;
}

/* Opens the tensors. What is wrong with the files themselves is a line, unless they cannot be read at all. */
static int open_tensors(struct check *c, const struct fileset *files, bool *opened, struct err *e)
{
    *opened = false;
    int rc = st_open(&c->set, files, e);
    if (rc == -ERR_FORMAT || rc == -ERR_SHAPE || rc == -ERR_NOTFOUND || rc == -ERR_UNSUPPORTED) {
        char text[ERR_TEXT_BYTES + ERR_FILE_BYTES + 64];
        const char *line = err_format(e, text, sizeof text), *own = "gptqpipe: error: ";
        check_line(c->r, "%s", !strncmp(line, own, strlen(own)) ? line + strlen(own) : line);
        err_clear(e);
        return 0;
    }
    if (rc)
        return rc;
    *opened = true;
    c->used = xcalloc(c->set.tensor_count + 1, sizeof *c->used);
    c->r->tensors = c->set.tensor_count;
    return 0;
}

int checkpoint_check(const struct fileset *files, struct check_report *r, struct err *e)
{
    struct check c = {.r = r, .dtype = -1};
    bool usable = false, opened = false;
    int rc = check_config_load(&c.config, files, r, &usable, e);
    if (rc || !usable)
        goto out;
    rc = config_load(&c.model, files, e);
    if (rc && r->count) { /* the lines say why */
        err_clear(e);
        rc = 0;
        goto out;
    }
    if (rc)
        goto out;
    if (json_object_get(c.config.config, "torch_dtype") || json_object_get(c.config.config, "dtype"))
        c.dtype = (int)c.model.dtype;
    rc = open_tensors(&c, files, &opened, e);
    if (rc || !opened)
        goto out;
    for (int64_t l = 0; l < c.model.layers; l++)
        check_layer(&c, l);
    check_ends(&c);
    check_unreferenced(&c);
    rc = check_index(&c, files, e);
out:
    free(c.used);
    st_close(&c.set);
    config_release(&c.model);
    check_config_release(&c.config);
    return rc;
}

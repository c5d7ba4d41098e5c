/* stages/format/check: accepts what GPTQModel wrote, and refuses each of many one-fault copies with its exact line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"
#include "stages/format/check.h"
#include "stages/lm/safetensors.h"

static const char BASE[] = "tests/vectors/quickstart-w4g128";
static const char Q0[] = "model.layers.0.self_attn.q_proj";
static char *dir;

/* A checkpoint in memory, to be changed and written to `dir`. */
struct piece {
    char *name;
    enum dtype dtype;
    int ndim;
    int64_t shape[ST_MAX_DIMS];
    unsigned char *data;
    size_t bytes;
};
struct copy {
    json_t *config, *quantize;
    struct piece *pieces;
    size_t count;
};

static void copy_load(struct copy *c, const char *from)
{
    struct err e = {0};
    char *path = io_join(from, "config.json");
    c->config = json_parse_file(path, 1 << 20, &e);
    free(path);
    path = io_join(from, "quantize_config.json");
    c->quantize = io_exists(path) ? json_parse_file(path, 1 << 20, &e) : NULL;
    free(path);
    assert_non_null(c->config);
    struct fileset files = FILESET_INIT;
    struct st_set set = {0};
    assert_int_equal(fileset_from_path(&files, from, &e), 0);
    assert_int_equal(st_open(&set, &files, &e), 0);
    c->count = set.tensor_count;
    c->pieces = xcalloc(c->count + 1, sizeof *c->pieces); /* room for one more */
    for (size_t i = 0; i < c->count; i++) {
        const struct st_tensor *t = &set.tensors[i];
        struct piece *p = &c->pieces[i];
        *p = (struct piece){.name = xstrdup(t->name), .dtype = t->dtype, .ndim = t->ndim, .bytes = (size_t)t->bytes, .data = xmalloc((size_t)t->bytes + 64)};
        memcpy(p->shape, t->shape, sizeof p->shape);
        memcpy(p->data, st_data(&set, t), p->bytes);
    }
    st_close(&set);
    fileset_release(&files);
}

static void copy_release(struct copy *c)
{
    for (size_t i = 0; i < c->count; i++) {
        free(c->pieces[i].name);
        free(c->pieces[i].data);
    }
    free(c->pieces);
    json_decref(c->config);
    json_decref(c->quantize);
    *c = (struct copy){0};
}

static struct piece *piece(struct copy *c, const char *module, const char *suffix)
{
    char name[256];
    snprintf(name, sizeof name, "%s.%s", module, suffix);
    for (size_t i = 0; i < c->count; i++)
        if (!strcmp(c->pieces[i].name, name))
            return &c->pieces[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static void remove_piece(struct copy *c, struct piece *p)
{
    free(p->name);
    free(p->data);
    memmove(p, p + 1, (size_t)(c->pieces + c->count - p - 1) * sizeof *p);
    c->count--;
}

static void add_piece(struct copy *c, const char *name, enum dtype dtype, int64_t n)
{
    struct piece *p = &c->pieces[c->count++];
    *p = (struct piece){.name = xstrdup(name), .dtype = dtype, .ndim = 1, .shape = {n}, .bytes = (size_t)n * dtype_bytes(dtype)};
    p->data = xcalloc(p->bytes, 1);
}

static void reshape(struct piece *p, int64_t rows, int64_t cols)
{
    size_t bytes = (size_t)(rows * cols) * dtype_bytes(p->dtype);
    unsigned char *data = xcalloc(bytes + 64, 1);
    memcpy(data, p->data, bytes < p->bytes ? bytes : p->bytes);
    free(p->data);
    p->data = data;
    p->bytes = bytes;
    p->ndim = 2;
    p->shape[0] = rows;
    p->shape[1] = cols;
}

static void write_json(const char *name, const json_t *v)
{
    struct buf b = BUF_INIT;
    char *path = io_join(dir, name);
    json_pretty(v, &b);
    assert_int_equal(io_write_file_atomic(path, b.data, b.len, NULL), 0);
    free(path);
    buf_release(&b);
}

static void copy_write(const struct copy *c)
{
    struct err e = {0};
    struct st_writer *w;
    assert_int_equal(io_remove_tree(dir, &e), 0);
    assert_int_equal(io_mkdirs(dir, &e), 0);
    write_json("config.json", c->config);
    if (c->quantize)
        write_json("quantize_config.json", c->quantize);
    char *path = io_join(dir, "model.safetensors");
    assert_int_equal(st_writer_open(path, true, &w, &e), 0);
    for (size_t i = 0; i < c->count; i++)
        st_writer_declare(w, c->pieces[i].name, c->pieces[i].dtype, c->pieces[i].ndim, c->pieces[i].shape);
    for (size_t i = 0; i < c->count; i++)
        assert_int_equal(st_writer_put(w, c->pieces[i].name, c->pieces[i].data, c->pieces[i].bytes, &e), 0);
    assert_int_equal(st_writer_close(w, &e), 0);
    free(path);
}

static int check_folder(const char *folder, struct check_report *r, struct err *e)
{
    struct fileset files = FILESET_INIT;
    int rc = fileset_from_path(&files, folder, e);
    if (!rc)
        rc = checkpoint_check(&files, r, e);
    fileset_release(&files);
    return rc;
}

/* The report of dir holds exactly these lines. */
static void expect_lines(const char *what, const char *const *lines)
{
    struct err e = {0};
    struct check_report r = {0};
    int rc = check_folder(dir, &r, &e);
    if (rc)
        fail_msg("%s: %s", what, e.text);
    size_t n = 0;
    for (; lines[n]; n++) {
        if (n >= r.count)
            fail_msg("%s: missing line: %s", what, lines[n]);
        if (strcmp(lines[n], r.lines[n]) != 0)
            fail_msg("%s:\n  got  %s\n  want %s", what, r.lines[n], lines[n]);
    }
    if (r.count > n)
        fail_msg("%s: one line more: %s", what, r.lines[n]);
    check_report_release(&r);
}

static void expect_clean(const char *folder, size_t modules)
{
    struct err e = {0};
    struct check_report r = {0};
    int rc = check_folder(folder, &r, &e);
    if (rc)
        fail_msg("%s: %s", folder, e.text);
    if (r.count)
        fail_msg("%s: %s", folder, r.lines[0]);
    assert_int_equal(r.modules, modules);
    check_report_release(&r);
}

static void accepts_own(void **state)
{
    (void)state;
    expect_clean(BASE, 35);
    expect_clean("manifests/quickstart/model", 0);
}

static void accepts_shared(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t modules;
    } all[] = {
        {"golden/gptq/TinyStories-656K-w3g128", 14},  {"golden/gptq/TinyStories-656K-w4chan", 14},      {"golden/gptq/TinyStories-656K-w4dyn", 10},
        {"golden/gptq/TinyStories-656K-w4g128", 14},  {"golden/gptq/TinyStories-656K-w4g128asymact", 14}, {"golden/gptq/TinyStories-656K-w4g128v2", 14},
        {"golden/gptq/TinyStories-656K-w4g32best", 14}, {"golden/gptq/TinyStories-656K-w8g128", 14},    {"golden/gptq/qwen3-tiny-w4dyn", 24},
        {"golden/gptq/qwen3-tiny-w4g128", 28},        {"golden/gptq/stories260K-w4g128best", 35},       {"golden/gptq/stories260K-w4g32", 35},
        {"models/TinyStories-656K", 0},               {"models/TinyStories-656K-sharded", 0},           {"models/stories260K", 0},
        {"models/qwen3-tiny", 0},
    };
    const char *shared = getenv("GPTQPIPE_SHARED");
    if (!shared)
        shared = "../shared";
    if (!io_is_dir(shared)) {
        print_message("# skip: no shared folder (GPTQPIPE_SHARED)\n");
        skip();
    }
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char *path = io_join(shared, all[i].name);
        expect_clean(path, all[i].modules);
        free(path);
    }
}

/* Mutations: each changes a fresh copy and lists the lines that must follow. */
#define LINES(...) ((const char *const[]){__VA_ARGS__, NULL})

static json_t *quant(struct copy *c)
{
    return json_object_get(c->config, "quantization_config");
}

/* Sets a key in both files. */
static void set_both(struct copy *c, const char *key, json_t *v)
{
    json_object_set(quant(c), key, v);
    json_object_set_new(c->quantize, key, v);
}

static void fill(struct piece *p, uint32_t word)
{
    for (size_t i = 0; i + 4 <= p->bytes; i += 4)
        memcpy(p->data + i, &word, 4);
}

static void try(const char *what, void (*change)(struct copy *c), const char *const *lines)
{
    struct copy c = {0};
    copy_load(&c, BASE);
    change(&c);
    copy_write(&c);
    copy_release(&c);
    expect_lines(what, lines);
}

static void drop_qzeros(struct copy *c) { remove_piece(c, piece(c, Q0, "qzeros")); }
static void drop_g_idx(struct copy *c) { remove_piece(c, piece(c, Q0, "g_idx")); }
static void drop_norm(struct copy *c) { remove_piece(c, piece(c, "model.norm", "weight")); }
static void drop_embed(struct copy *c) { remove_piece(c, piece(c, "model.embed_tokens", "weight")); }
static void stray(struct copy *c) { add_piece(c, "model.layers.0.self_attn.q_proj.bias", DT_F16, 128); }
static void layer_too_many(struct copy *c) { add_piece(c, "model.layers.5.input_layernorm.weight", DT_BF16, 128); }
static void scales_bf16(struct copy *c) { piece(c, Q0, "scales")->dtype = DT_BF16; }
static void qweight_f32(struct copy *c) { piece(c, Q0, "qweight")->dtype = DT_F32; }
static void embed_f16(struct copy *c) { piece(c, "model.embed_tokens", "weight")->dtype = DT_F16; }
static void qweight_rows(struct copy *c) { reshape(piece(c, Q0, "qweight"), 32, 128); }
static void qzeros_cols(struct copy *c) { reshape(piece(c, Q0, "qzeros"), 1, 128); }
static void scales_groups(struct copy *c) { reshape(piece(c, "model.layers.1.mlp.down_proj", "scales"), 16, 128); }
static void zeros_v2(struct copy *c) { fill(piece(c, Q0, "qzeros"), 0x88888888u); }
static void zeros_one(struct copy *c) { piece(c, Q0, "qzeros")->data[5] = 0x73; }
static void scale_zero(struct copy *c) { memset(piece(c, "model.layers.1.mlp.down_proj", "scales")->data + 2 * 130, 0, 2); }
static void scale_minus_infinity(struct copy *c) { memcpy(piece(c, Q0, "scales")->data + 6, &(uint16_t){0xfc00}, 2); }
static void scale_minus_zero(struct copy *c) { memcpy(piece(c, Q0, "scales")->data + 6, &(uint16_t){0x8000}, 2); }
static void scales_negative(struct copy *c)
{
    struct piece *p = piece(c, Q0, "scales");
    for (size_t i = 1; i < p->bytes; i += 4)
        p->data[i] |= 0x80;
}
static void scale_nan(struct copy *c) { memset(piece(c, Q0, "scales")->data + 6, 0xff, 2); }
static void norm_nan(struct copy *c) { memset(piece(c, "model.norm", "weight")->data + 2, 0xff, 2); }
static void format_lies(struct copy *c) { set_both(c, "checkpoint_format", json_string("gptq_v2")); }

static void g_idx_high(struct copy *c)
{
    memcpy(piece(c, "model.layers.1.mlp.down_proj", "g_idx")->data + 4 * 7, &(int32_t){4}, 4);
}
static void g_idx_order(struct copy *c)
{
    memcpy(piece(c, "model.layers.1.mlp.down_proj", "g_idx")->data + 4 * 7, &(int32_t){2}, 4);
}
static void g_idx_uneven(struct copy *c)
{
    set_both(c, "desc_act", json_true());
    g_idx_order(c);
}
static void stored_twice(struct copy *c)
{
    add_piece(c, "model.layers.0.self_attn.q_proj.weight", DT_BF16, 128);
    reshape(&c->pieces[c->count - 1], 128, 128);
}
static void head_untied(struct copy *c) { json_object_set_new(c->config, "tie_word_embeddings", json_false()); }
static void head_differs(struct copy *c)
{
    add_piece(c, "lm_head.weight", DT_BF16, 1024);
    reshape(&c->pieces[c->count - 1], 1024, 128);
}
static void configs_differ(struct copy *c) { json_object_set_new(c->quantize, "group_size", json_integer(64)); }
static void dynamic_in_one(struct copy *c) { json_object_set_new(c->quantize, "dynamic", json_pack("{s:{}}", "-:^lm_head$")); }
static void no_sym(struct copy *c)
{
    json_object_del(quant(c), "sym");
    json_object_del(c->quantize, "sym");
}
static void bits_five(struct copy *c) { set_both(c, "bits", json_integer(5)); }
static void method_awq(struct copy *c) { set_both(c, "quant_method", json_string("awq")); }
static void synonyms(struct copy *c) { set_both(c, "format", json_string("gptq_v2")); }
static void bad_pattern(struct copy *c) { set_both(c, "dynamic", json_pack("{s:{}}", "-:^model(")); }
static void bad_override(struct copy *c) { set_both(c, "dynamic", json_pack("{s:{s:i}}", "+:^lm_head$", "bits", 5)); }
static void dynamic_skips(struct copy *c) { set_both(c, "dynamic", json_pack("{s:{}}", "-:^model\\.layers\\.2\\.self_attn\\.o_proj$")); }
static void dynamic_bits(struct copy *c) { set_both(c, "dynamic", json_pack("{s:{s:i}}", "+:^model\\.layers\\.2\\.self_attn\\.o_proj$", "bits", 8)); }
/* Right for GPTQModel, wrong for vLLM: q, k and v are named, the joined module is not. */
static void fused_name(struct copy *c)
{
    static const char *const mods[] = {"q_proj", "k_proj", "v_proj"};
    for (int i = 0; i < 3; i++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.3.self_attn.%s", mods[i]);
        int64_t n = piece(c, name, "qweight")->shape[1];
        remove_piece(c, piece(c, name, "qweight"));
        remove_piece(c, piece(c, name, "qzeros"));
        remove_piece(c, piece(c, name, "scales"));
        remove_piece(c, piece(c, name, "g_idx"));
        strncat(name, ".weight", sizeof name - strlen(name) - 1);
        add_piece(c, name, DT_BF16, n * 128);
        reshape(&c->pieces[c->count - 1], n, 128);
    }
    set_both(c, "dynamic", json_pack("{s:{}}", "-:^model\\.layers\\.3\\.self_attn\\.[qkv]_proj$"));
}

#define DOWN1 "model.layers.1.mlp.down_proj"
#define Q_ "model.layers.0.self_attn.q_proj"

static void refuses_tensors(void **state)
{
    (void)state;
    try("qzeros missing", drop_qzeros, LINES(Q_ ".qzeros is missing"));
    try("g_idx missing", drop_g_idx, LINES(Q_ ".g_idx is missing"));
    try("norm missing", drop_norm, LINES("model.norm.weight is missing"));
    try("embeddings missing", drop_embed, LINES("model.embed_tokens.weight is missing"));
    try("a bias that the family has not", stray, LINES(Q_ ".bias: no part of the model refers to it"));
    try("a layer too many", layer_too_many, LINES("model.layers.5.input_layernorm.weight: no part of the model refers to it"));
    try("scales bf16", scales_bf16, LINES(Q_ ".scales: dtype BF16, needed is F16"));
    try("qweight f32", qweight_f32, LINES(Q_ ".qweight: dtype F32, needed is I32"));
    try("embeddings f16", embed_f16, LINES("model.embed_tokens.weight: dtype F16, config.json says BF16"));
    try("qweight of 8 bits", qweight_rows, LINES(Q_ ".qweight: shape [32, 128], needed is [16, 128]: 4 bits, group 128, sym"));
    try("qzeros unpacked", qzeros_cols, LINES(Q_ ".qzeros: shape [1, 128], needed is [1, 16]: 4 bits, group 128, sym"));
    try("scales of group 32", scales_groups, LINES(DOWN1 ".scales: shape [16, 128], needed is [4, 128]: 4 bits, group 128, sym"));
    try("stored twice", stored_twice, LINES(Q_ ": stored twice, as .weight and as .qweight", Q_ ".weight: no part of the model refers to it"));
    try("head untied and absent", head_untied, LINES("lm_head.weight is missing"));
    try("tied head with other bytes", head_differs, LINES("lm_head.weight: differs from model.embed_tokens.weight, config.json says tie_word_embeddings"));
}

static void refuses_contents(void **state)
{
    (void)state;
    try("v2 zeros in v1", zeros_v2, LINES(Q_ ".qzeros: stored zero [0, 0] is 8, gptq (v1) with sym needs 7 (written as gptq_v2?)"));
    try("one zero off", zeros_one, LINES(Q_ ".qzeros: stored zero [0, 10] is 3, gptq (v1) with sym needs 7"));
    try("scale 0", scale_zero, LINES(DOWN1 ".scales: scale [1, 2] is 0, needed is a finite number that is not 0"));
    try("scale -0", scale_minus_zero, LINES(Q_ ".scales: scale [0, 3] is -0, needed is a finite number that is not 0"));
    try("scale -inf", scale_minus_infinity, LINES(Q_ ".scales: scale [0, 3] is -inf, needed is a finite number that is not 0"));
    try("negative scales", scales_negative, (const char *const[]){NULL});
    try("scale NaN", scale_nan, LINES(Q_ ".scales: scale [0, 3] is -nan, needed is a finite number that is not 0"));
    try("norm NaN", norm_nan, LINES("model.norm.weight: element 1 of 128 is not finite"));
    try("g_idx too high", g_idx_high, LINES(DOWN1 ".g_idx: entry 7 is 4, groups are 0..3"));
    try("g_idx out of order", g_idx_order, LINES(DOWN1 ".g_idx: entry 7 is 2, without desc_act it is 0"));
    try("uneven groups", g_idx_uneven, LINES(DOWN1 ".g_idx: group 0 has 127 inputs, needed are 128"));
}

#define IN_CONFIG "config.json's quantization_config"

static void refuses_configs(void **state)
{
    (void)state;
    try("files differ", configs_differ, LINES("quantize_config.json: group_size is 64, in " IN_CONFIG " it is 128"));
    try("dynamic in one file", dynamic_in_one, LINES("quantize_config.json: dynamic is {\"-:^lm_head$\":{}}, in " IN_CONFIG " it is absent"));
    try("sym absent", no_sym, LINES(IN_CONFIG ": sym is absent, needed is true or false"));
    try("5 bits", bits_five, LINES(IN_CONFIG ": bits is 5, known are 2, 3, 4 and 8"));
    try("another method", method_awq, LINES(IN_CONFIG ": quant_method is \"awq\", needed is \"gptq\"", IN_CONFIG ": quant_method is \"awq\" but method is \"gptq\""));
    try("synonyms differ", synonyms, LINES(IN_CONFIG ": checkpoint_format is \"gptq\" but format is \"gptq_v2\""));
    try("pattern", bad_pattern, LINES(IN_CONFIG ": dynamic: '-:^model(': missing closing parenthesis at offset 7"));
    try("override", bad_override, LINES(IN_CONFIG ": dynamic: '+:^lm_head$': bits is 5 and group_size 128, known are bits 2, 3, 4, 8 and group_size -1 or a positive number"));
    try("dynamic skips what is stored", dynamic_skips,
        LINES("model.layers.2.self_attn.o_proj: stored quantized, the configuration resolves it to not quantized",
              "model.layers.2.self_attn.o_proj.g_idx: no part of the model refers to it", "model.layers.2.self_attn.o_proj.scales: no part of the model refers to it",
              "model.layers.2.self_attn.o_proj.qweight: no part of the model refers to it", "model.layers.2.self_attn.o_proj.qzeros: no part of the model refers to it"));
    try("dynamic bits", dynamic_bits,
        LINES("model.layers.2.self_attn.o_proj.qweight: shape [16, 128], needed is [32, 128]: 8 bits, group 128, sym",
              "model.layers.2.self_attn.o_proj.qzeros: shape [1, 16], needed is [1, 32]: 8 bits, group 128, sym"));
    try("fused name", fused_name, LINES("model.layers.3.self_attn.qkv_proj: vLLM resolves it to 4 bits, group 128, sym, stored is not quantized"));
}

/* The format named v2 while the zeros are v1's: said for every module. */
static void refuses_wrong_format(void **state)
{
    (void)state;
    struct copy c = {0};
    struct check_report r = {0};
    struct err e = {0};
    copy_load(&c, BASE);
    json_object_set_new(quant(&c), "format", json_string("gptq_v2"));
    json_object_set_new(c.quantize, "format", json_string("gptq_v2"));
    format_lies(&c);
    copy_write(&c);
    copy_release(&c);
    assert_int_equal(check_folder(dir, &r, &e), 0);
    assert_int_equal(r.count, 35);
    assert_string_equal(r.lines[0], Q_ ".qzeros: stored zero [0, 0] is 7, gptq_v2 with sym needs 8 (written as v1?)");
    check_report_release(&r);
}

/* Ragged: K = 172 leaves half a word of padding (stories260K). */
static void refuses_padding(void **state)
{
    (void)state;
    const char *shared = getenv("GPTQPIPE_SHARED");
    char *from = io_join(shared ? shared : "../shared", "golden/gptq/stories260K-w4g32");
    if (!io_is_dir(from)) {
        free(from);
        print_message("# skip: no shared folder (GPTQPIPE_SHARED)\n");
        skip();
    }
    struct copy c = {0};
    copy_load(&c, from);
    struct piece *p = piece(&c, "model.layers.4.mlp.down_proj", "qweight");
    p->data[4 * (21 * 64 + 5) + 3] = 0x30;
    copy_write(&c);
    copy_release(&c);
    expect_lines("padding", LINES("model.layers.4.mlp.down_proj.qweight: column 5 holds 0x3000 in the padding after K=172, needed is 0"));
    free(from);
}

static void write_text(const char *name, const char *text)
{
    char *path = io_join(dir, name);
    assert_int_equal(io_write_file_atomic(path, text, strlen(text), NULL), 0);
    free(path);
}

static void refuses_files(void **state)
{
    (void)state;
    struct copy c = {0};
    struct err e = {0};
    struct check_report r = {0};
    copy_load(&c, BASE);
    copy_write(&c);
    struct buf index = BUF_INIT;
    buf_addstr(&index, "{\"metadata\":{\"total_size\":12},\"weight_map\":{");
    size_t bytes = 0;
    for (size_t i = 0; i < c.count; i++) {
        buf_printf(&index, "%s\"%s\":\"model.safetensors\"", i ? "," : "", c.pieces[i].name);
        bytes += c.pieces[i].bytes;
    }
    buf_addstr(&index, "}}");
    write_text("model.safetensors.index.json", buf_str(&index));
    assert_int_equal(check_folder(dir, &r, &e), 0);
    char want[200], got[200];
    snprintf(want, sizeof want, "model.safetensors.index.json: total_size is 12, the tensors hold %zu bytes (the files ", bytes);
    assert_int_equal(r.count, 1);
    snprintf(got, strlen(want) + 1, "%s", r.lines[0]);
    assert_string_equal(got, want);
    check_report_release(&r);
    buf_release(&index);
    copy_release(&c);

    assert_int_equal(io_remove_tree(dir, &e), 0);
    assert_int_equal(io_mkdirs(dir, &e), 0);
    assert_int_equal(check_folder(dir, &r, &e), -ERR_NOTFOUND);
    assert_string_equal(e.text, "there is no config.json");
    check_report_release(&r);
}

static int setup(void **state)
{
    (void)state;
    return io_mkdtemp("/tmp", "gptqpipe-check.", &dir, NULL);
}

static int teardown(void **state)
{
    (void)state;
    int rc = io_remove_tree(dir, NULL);
    free(dir);
    return rc;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts_own),     cmocka_unit_test(accepts_shared),  cmocka_unit_test(refuses_tensors),      cmocka_unit_test(refuses_contents),
        cmocka_unit_test(refuses_configs), cmocka_unit_test(refuses_padding), cmocka_unit_test(refuses_wrong_format), cmocka_unit_test(refuses_files),
    };
    return cmocka_run_group_tests_name("check", tests, setup, teardown);
}

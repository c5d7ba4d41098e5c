#include "tests/unit/lm_test.h"

#include <math.h>

#include "kernels/half.h"
#include "pipeline/base/mem.h"
#include "stages/lm/dynamic.h"
#include "stages/lm/weights.h"

static struct err err;

/* A small made-up checkpoint, one layer, whose parts a test changes before it is written. mlp.down_proj [32,40] is GPTQ: 4 bits, group 32,
 * so K is ragged. */
enum { HIDDEN = 32, INTER = 40, VOCAB = 10, G = 2, MAX_PARTS = 32 };

struct part {
    const char *name;
    enum dtype dtype;
    int64_t shape[2];
    void *data; /* owned */
};
static struct part parts[MAX_PARTS];
static size_t part_count;

static const char config_json[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_act\":\"silu\",\"hidden_size\":32,\"intermediate_size\":40,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"num_hidden_layers\":1,\"vocab_size\":10,"
    "\"tie_word_embeddings\":true,\"quantization_config\":%s}";
static const char plain_quant[] = "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32,\"sym\":false}";

static struct part *find_part(const char *name)
{
    for (size_t i = 0; i < part_count; i++) {
        if (!strcmp(parts[i].name, name))
            return &parts[i];
    }
    return NULL;
}

static size_t elems(const struct part *p)
{
    return (size_t)(p->shape[0] * (p->shape[1] ? p->shape[1] : 1));
}

static void *add_part(const char *name, enum dtype dtype, int64_t d0, int64_t d1)
{
    struct part *p = &parts[part_count++];
    *p = (struct part){
        name, dtype, {d0, d1},
          NULL
    };
    p->data = xcalloc(elems(p), dtype_bytes(dtype));
    return p->data;
}

static void drop_part(const char *name)
{
    struct part *p = find_part(name);
    free(p->data);
    *p = parts[--part_count];
}

#define L0 "model.layers.0."
#define DOWN L0 "mlp.down_proj."

static uint32_t code_of(int64_t n, int64_t k)
{
    return (uint32_t)(n * 7 + k * 3 + n * k) & 15;
}

static void make_parts(void)
{
    while (part_count)
        free(parts[--part_count].data);
    add_part("model.embed_tokens.weight", DT_F32, VOCAB, HIDDEN);
    add_part("model.norm.weight", DT_F32, HIDDEN, 0);
    add_part(L0 "input_layernorm.weight", DT_F32, HIDDEN, 0);
    add_part(L0 "post_attention_layernorm.weight", DT_F32, HIDDEN, 0);
    add_part(L0 "self_attn.q_proj.weight", DT_F32, 32, HIDDEN);
    add_part(L0 "self_attn.k_proj.weight", DT_F32, 16, HIDDEN);
    add_part(L0 "self_attn.v_proj.weight", DT_F32, 16, HIDDEN);
    add_part(L0 "self_attn.o_proj.weight", DT_F32, HIDDEN, 32);
    add_part(L0 "mlp.gate_proj.weight", DT_BF16, INTER, HIDDEN);
    add_part(L0 "mlp.up_proj.weight", DT_F32, INTER, HIDDEN);
    uint32_t *qweight = add_part(DOWN "qweight", DT_I32, INTER * 4 / 32, HIDDEN),
             *qzeros = add_part(DOWN "qzeros", DT_I32, G, HIDDEN * 4 / 32);
    uint16_t *scales = add_part(DOWN "scales", DT_F16, G, HIDDEN);
    int32_t *g_idx = add_part(DOWN "g_idx", DT_I32, INTER, 0);
    for (int64_t n = 0; n < HIDDEN; n++) {
        for (int64_t k = 0; k < INTER; k++)
            qweight[k / 8 * HIDDEN + n] |= code_of(n, k) << k % 8 * 4;
        for (int64_t g = 0; g < G; g++) {
            qzeros[g * 4 + n / 8] |= (uint32_t)(n % 8 + g) << n % 8 * 4;
            scales[g * HIDDEN + n] = f32_to_f16((float)(1 + n) / 64);
        }
    }
    for (int64_t k = 0; k < INTER; k++)
        g_idx[k] = (int32_t)(k % 2);
}

static int open_dir(struct model *m, const char *path)
{
    struct fileset files = FILESET_INIT;
    assert_int_equal(fileset_from_path(&files, path, NULL), 0);
    int rc = model_open(m, &files, &err);
    fileset_release(&files);
    return rc;
}

static int open_parts(struct model *m, const char *quant)
{
    char config[2048];
    struct st_writer *w;
    dir_make();
    dir_write("config.json", config, (size_t)snprintf(config, sizeof config, config_json, quant));
    OK(st_writer_open(dir_file("model.safetensors"), true, &w, &err));
    for (size_t i = 0; i < part_count; i++)
        st_writer_declare(w, parts[i].name, parts[i].dtype, parts[i].shape[1] ? 2 : 1, parts[i].shape);
    for (size_t i = 0; i < part_count; i++)
        OK(st_writer_put(w, parts[i].name, parts[i].data, elems(&parts[i]) * dtype_bytes(parts[i].dtype), &err));
    OK(st_writer_close(w, &err));
    int rc = open_dir(m, test_dir);
    dir_remove(); /* the map stays */
    return rc;
}

static void test_dequant(void **state)
{
    (void)state;
    struct model m;
    float w[HIDDEN * INTER];
    for (int v2 = 0; v2 < 2; v2++) {
        make_parts();
        OK(open_parts(&m, v2 ? "{\"bits\":4,\"group_size\":32,\"sym\":false,\"format\":\"gptq_v2\"}" : plain_quant));
        assert_true(model_is_quantized(&m, 0, MOD_DOWN) && !model_is_quantized(&m, 0, MOD_UP) && !model_is_quantized(&m, -1, MOD_COUNT));
        OK(model_dequant(&m, 0, MOD_DOWN, w, &err));
        for (int n = 0; n < HIDDEN; n++) {
            for (int k = 0; k < INTER; k++) {
                int zero = n % 8 + k % 2 + !v2;
                assert_true(w[n * INTER + k] == (float)(1 + n) / 64 * (float)((int)code_of(n, k) - zero));
            }
        }
        model_close(&m);
    }
    make_parts();
    drop_part(DOWN "g_idx"); /* then groups follow one another */
    OK(open_parts(&m, plain_quant));
    OK(model_dequant(&m, 0, MOD_DOWN, w, &err));
    assert_true(w[INTER + 31] == 2.0f / 64 * (float)((int)code_of(1, 31) - 2) &&
                w[INTER + 32] == 2.0f / 64 * (float)((int)code_of(1, 32) - 3));
    struct tensor_view v;
    FAILS(model_dense_view(&m, 0, MOD_DOWN, &v, &err), ERR_UNSUPPORTED, "model.layers.0.mlp.down_proj is quantized");
    OK(model_dense_view(&m, 0, MOD_GATE, &v, &err));
    assert_true(v.dtype == DT_BF16 && v.rows == INTER && v.cols == HIDDEN);
    struct qwords q;
    FAILS(model_qwords(&m, 0, MOD_UP, &q, &err), ERR_UNSUPPORTED, "model.layers.0.mlp.up_proj is not quantized");
    model_close(&m);
}

/* sym: 7 and 8 are both read as 8, whatever the format says; anything else is refused. */
static void test_sym_zeros(void **state)
{
    (void)state;
    static const uint32_t stored[] = {0x77777777, 0x88888888};
    for (int i = 0; i < 4; i++) {
        struct model m;
        struct qwords q;
        make_parts();
        for (int w = 0; w < 8; w++)
            ((uint32_t *)find_part(DOWN "qzeros")->data)[w] = stored[i % 2];
        OK(open_parts(&m, i < 2 ? "{\"bits\":4,\"group_size\":32}" : "{\"bits\":4,\"group_size\":32,\"format\":\"gptq_v2\"}"));
        OK(model_qwords(&m, 0, MOD_DOWN, &q, &err));
        assert_true(m.modules[MOD_DOWN].sym);
        for (int z = 0; z < G * HIDDEN; z++)
            assert_int_equal(q.zeros[z], 8);
        qwords_free(&q);
        model_close(&m);
    }
    struct model m;
    struct qwords q;
    make_parts();
    OK(open_parts(&m, "{\"bits\":4,\"group_size\":32}"));
    FAILS(model_qwords(&m, 0, MOD_DOWN, &q, &err), ERR_FORMAT,
          "tensor 'model.layers.0.mlp.down_proj.qzeros' holds 0 for group 0, output 0; a symmetric 4-bit module stores 7");
    model_close(&m);
}

static void refuse(const char *quant, int code, const char *piece)
{
    struct model m;
    FAILS(open_parts(&m, quant), code, piece);
    make_parts();
}

static void test_refusals(void **state)
{
    (void)state;
    make_parts();
    drop_part(L0 "mlp.up_proj.weight");
    refuse(plain_quant, ERR_NOTFOUND, "tensor 'model.layers.0.mlp.up_proj.weight' is missing");
    find_part(L0 "self_attn.k_proj.weight")->shape[0] = 8;
    refuse(plain_quant, ERR_SHAPE, "tensor 'model.layers.0.self_attn.k_proj.weight' has shape [8,32]; config.json makes it [16,32]");
    find_part("model.norm.weight")->shape[0] = 31;
    refuse(plain_quant, ERR_SHAPE, "tensor 'model.norm.weight' has shape [31]; config.json makes it [32]");
    find_part("model.embed_tokens.weight")->shape[0] = 9;
    refuse(plain_quant, ERR_SHAPE, "tensor 'model.embed_tokens.weight' has shape [9,32]; config.json makes it [10,32]");
    find_part(L0 "mlp.up_proj.weight")->dtype = DT_I32;
    refuse(plain_quant, ERR_UNSUPPORTED, "tensor 'model.layers.0.mlp.up_proj.weight' is I32; F32, F16 or BF16 is needed");
    drop_part(DOWN "scales");
    refuse(plain_quant, ERR_NOTFOUND, "tensor 'model.layers.0.mlp.down_proj.scales' is missing");
    drop_part(DOWN "qzeros");
    refuse(plain_quant, ERR_NOTFOUND, "tensor 'model.layers.0.mlp.down_proj.qzeros' is missing");
    refuse("null", ERR_FORMAT, "tensor 'model.layers.0.mlp.down_proj.qweight' is there, but there is no quantization_config");
    refuse("{\"bits\":8,\"group_size\":32}", ERR_SHAPE,
           "tensor 'model.layers.0.mlp.down_proj.qweight' is stored in 4 bits; quantization_config makes it 8");
    refuse("{\"bits\":4,\"group_size\":128}", ERR_SHAPE,
           "tensor 'model.layers.0.mlp.down_proj.scales' has 2 groups; group_size 128 of quantization_config and 40 inputs make it 1");
    refuse("{\"bits\":4,\"group_size\":32,\"dynamic\":{\"-:.*down_proj\":{}}}", ERR_FORMAT,
           "\"dynamic\" of quantization_config leaves the module out");
    refuse("{\"bits\":4,\"group_size\":32,\"dynamic\":{\"(\":{}}}", ERR_FORMAT,
           "\"dynamic\": '(' at offset 1: missing closing parenthesis");
    refuse("{\"bits\":4,\"group_size\":32,\"dynamic\":{\"model\":{\"bits\":\"8\"}}}", ERR_FORMAT,
           "\"dynamic\": 'model': \"bits\" must be an integer");
    refuse("{\"bits\":4,\"group_size\":32,\"dynamic\":{\"model\":{\"group_size\":0}}}", ERR_FORMAT, "group_size");
}

static void test_bad_values(void **state)
{
    (void)state;
    struct model m;
    struct qwords q;
    float w[INTER * HIDDEN];
    make_parts();
    ((int32_t *)find_part(DOWN "g_idx")->data)[5] = 2;
    ((float *)find_part(L0 "mlp.up_proj.weight")->data)[7] = INFINITY;
    OK(open_parts(&m, plain_quant));
    FAILS(model_qwords(&m, 0, MOD_DOWN, &q, &err), ERR_FORMAT, "mlp.down_proj.g_idx': element 5 is 2, outside 0..1");
    FAILS(model_dequant(&m, 0, MOD_UP, w, &err), ERR_NUMERIC, "tensor 'model.layers.0.mlp.up_proj.weight': element 7 is infinite");
    model_close(&m);
    make_parts();
    ((uint16_t *)find_part(DOWN "scales")->data)[3] = 0x7e00;
    OK(open_parts(&m, plain_quant));
    FAILS(model_dequant(&m, 0, MOD_DOWN, w, &err), ERR_NUMERIC, "mlp.down_proj.scales': element 3 is NaN");
    model_close(&m);
    make_parts(); /* scales as BF16: exact or refused */
    struct part *p = find_part(DOWN "scales");
    p->dtype = DT_BF16;
    for (int i = 0; i < G * HIDDEN; i++)
        ((uint16_t *)p->data)[i] = f32_to_bf16(0.25f);
    OK(open_parts(&m, plain_quant));
    OK(model_qwords(&m, 0, MOD_DOWN, &q, &err));
    assert_int_equal(q.scales[9], 0x3400);
    qwords_free(&q);
    model_close(&m);
    ((uint16_t *)p->data)[4] = f32_to_bf16(1e-20f);
    OK(open_parts(&m, plain_quant));
    FAILS(model_qwords(&m, 0, MOD_DOWN, &q, &err), ERR_UNSUPPORTED, "which F16 cannot hold");
    model_close(&m);
}

static void test_tied(void **state)
{
    (void)state;
    struct model m;
    struct tensor_view a, b;
    make_parts();
    find_part("model.embed_tokens.weight")->name = "lm_head.weight";
    OK(open_parts(&m, plain_quant));
    OK(model_embedding(&m, &a, &err));
    OK(model_dense_view(&m, -1, MOD_COUNT, &b, &err));
    assert_true(a.data == b.data && a.rows == VOCAB && a.cols == HIDDEN);
    model_close(&m);
    make_parts();
    OK(open_parts(&m, plain_quant));
    OK(model_embedding(&m, &a, &err));
    OK(model_dense_view(&m, -1, MOD_COUNT, &b, &err));
    assert_ptr_equal(a.data, b.data);
    model_close(&m);
    drop_part("model.embed_tokens.weight");
    refuse(plain_quant, ERR_NOTFOUND, "tensor 'model.embed_tokens.weight' is missing");
}

static void test_names(void **state)
{
    (void)state;
    struct model m;
    int64_t layer;
    enum module_id mod;
    const char **names;
    size_t count;
    make_parts();
    OK(open_parts(&m, plain_quant));
    assert_true(model_find_module(&m, "model.layers.0.mlp.down_proj", &layer, &mod) && layer == 0 && mod == MOD_DOWN);
    assert_true(model_find_module(&m, "lm_head", &layer, &mod) && layer == -1 && mod == MOD_COUNT);
    static const char *const none[] = {
        "model.layers.1.mlp.down_proj", "model.layers.00.mlp.down_proj", "model.layers.0.mlp", "model.layers.x", "lm_head2", ""};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_false(model_find_module(&m, none[i], &layer, &mod));
    OK(model_layer_tensors(&m, 0, &names, &count, &err));
    assert_int_equal(count, part_count - 2);
    for (size_t i = 1; i < count; i++)
        assert_true(strcmp(names[i - 1], names[i]) < 0);
    free(names);
    OK(model_layer_tensors(&m, -1, &names, &count, &err));
    assert_int_equal(count, 2);
    assert_string_equal(names[0], "model.embed_tokens.weight");
    assert_string_equal(names[1], "model.norm.weight");
    free(names);
    FAILS(model_layer_tensors(&m, 1, &names, &count, &err), ERR_NOTFOUND, "layer 1 of a model of 1");
    model_close(&m);
}

static int match(const char *json, const char *name, int64_t *bits)
{
    struct dynamic *d;
    const json_t *o = NULL;
    json_t *root = json_loads(json, 0, NULL);
    OK(dynamic_compile(root, "q", &d, &err));
    int rc = dynamic_match(d, name, &o, NULL);
    *bits = rc > 0 ? json_integer_value(json_object_get(o, "bits")) : 0;
    dynamic_free(d);
    json_decref(root);
    return rc;
}

/* Negatives first, then the first positive in the file's order; anchored at the start only. */
static void test_dynamic(void **state)
{
    (void)state;
    static const char rules[] =
        "{\"+:model\\\\.layers\\\\.1\":{\"bits\":8},\"model\\\\.layers\\\\.10\":{\"bits\":3},\".*down\":{\"bits\":2},\"-:.*q_proj\":{}}";
    int64_t bits;
    assert_true(match(rules, "model.layers.1.mlp.up_proj", &bits) == 1 && bits == 8);
    assert_true(match(rules, "model.layers.10.mlp.up_proj", &bits) == 1 && bits == 8);
    assert_true(match(rules, "model.layers.2.mlp.down_proj", &bits) == 1 && bits == 2);
    assert_true(match(rules, "model.layers.1.self_attn.q_proj", &bits) == -1);
    assert_true(match(rules, "x.model.layers.1", &bits) == 0);
}

/* Every golden checkpoint against the plain weights it was made from: the mean error is that of its bits. */
static void compare_golden(const char *name, const char *plain, double bound)
{
    char path[256];
    struct model m, ref;
    snprintf(path, sizeof path, "golden/gptq/%s", name);
    const char *full = shared_path(path);
    assert_non_null(full);
    OK(open_dir(&m, full));
    snprintf(path, sizeof path, "models/%s", plain);
    OK(open_dir(&ref, shared_path(path)));
    for (int64_t l = 0; l < m.config.layers; l++) {
        for (int mod = 0; mod < MOD_COUNT; mod++) {
            int64_t N, K;
            config_module_shape(&m.config, (enum module_id)mod, &N, &K);
            float *a = malloc((size_t)(N * K) * sizeof *a), *b = malloc((size_t)(N * K) * sizeof *b);
            OK(model_dequant(&m, l, (enum module_id)mod, a, &err));
            OK(model_dequant(&ref, l, (enum module_id)mod, b, &err));
            double diff = 0, norm = 0;
            for (int64_t i = 0; i < N * K; i++) {
                diff += (double)(a[i] - b[i]) * (a[i] - b[i]);
                norm += (double)b[i] * b[i];
            }
            if (!(sqrt(diff / norm) < bound) || (model_is_quantized(&m, l, (enum module_id)mod) && diff == 0))
                fail_msg("%s layer %d %s: relative error %g", name, (int)l, config_module_short((enum module_id)mod), sqrt(diff / norm));
            free(a);
            free(b);
        }
    }
    model_close(&m);
    model_close(&ref);
}

static void test_golden(void **state)
{
    (void)state;
    NEED_SHARED(root, "golden/gptq");
    (void)root;
    static const struct {
        const char *name, *plain;
        double bound;
    } all[] = {
        {"TinyStories-656K-w8g128",        "TinyStories-656K", 0.02},
        {"TinyStories-656K-w4g128",        "TinyStories-656K", 0.3 },
        {"TinyStories-656K-w3g128",        "TinyStories-656K", 0.6 },
        {"TinyStories-656K-w4chan",        "TinyStories-656K", 0.3 },
        {"TinyStories-656K-w4dyn",         "TinyStories-656K", 0.3 },
        {"TinyStories-656K-w4g128asymact", "TinyStories-656K", 0.3 },
        {"TinyStories-656K-w4g128v2",      "TinyStories-656K", 0.3 },
        {"TinyStories-656K-w4g32best",     "TinyStories-656K", 0.3 },
        {"qwen3-tiny-w4g128",              "qwen3-tiny",       0.3 },
        {"qwen3-tiny-w4dyn",               "qwen3-tiny",       0.3 },
        {"stories260K-w4g32",              "stories260K",      0.3 },
        {"stories260K-w4g128best",         "stories260K",      0.3 },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        compare_golden(all[i].name, all[i].plain, all[i].bound);
    struct model m;
    int bits, group;
    OK(open_dir(&m, shared_path("golden/gptq/TinyStories-656K-w4dyn")));
    assert_false(model_is_quantized(&m, 0, MOD_Q));
    model_module_bits(&m, 1, MOD_DOWN, &bits, &group);
    assert_true(bits == 8 && group == 32);
    model_module_bits(&m, 1, MOD_UP, &bits, &group);
    assert_true(bits == 4 && group == 128);
    model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dequant),    cmocka_unit_test(test_sym_zeros), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_bad_values), cmocka_unit_test(test_tied),      cmocka_unit_test(test_names),
        cmocka_unit_test(test_dynamic),    cmocka_unit_test(test_golden),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    while (part_count)
        free(parts[--part_count].data);
    return rc;
}

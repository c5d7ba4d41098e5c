#include "tests/unit/lm_test.h"

#include <math.h>

#include "kernels/detmath.h"
#include "stages/lm/arch.h"
#include "stages/lm/config.h"

static struct err err;

/* config.json objects as published (fields that no reader of a text model looks at left out). */
static const char llama2[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"bos_token_id\":1,\"eos_token_id\":2,\"hidden_act\":\"silu\",\"hidden_size\":4096,"
    "\"initializer_range\":0.02,\"intermediate_size\":11008,\"max_position_embeddings\":4096,\"model_type\":\"llama\","
    "\"num_attention_heads\":32,\"num_hidden_layers\":32,\"num_key_value_heads\":32,\"pretraining_tp\":1,\"rms_norm_eps\":1e-05,"
    "\"rope_scaling\":null,\"tie_word_embeddings\":false,\"torch_dtype\":\"float16\",\"transformers_version\":\"4.31.0.dev0\","
    "\"use_cache\":true,\"vocab_size\":32000}";
static const char llama31[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"attention_bias\":false,\"attention_dropout\":0.0,\"bos_token_id\":128000,"
    "\"eos_token_id\":[128001,128008,128009],\"hidden_act\":\"silu\",\"hidden_size\":4096,\"intermediate_size\":14336,"
    "\"max_position_embeddings\":131072,\"mlp_bias\":false,\"model_type\":\"llama\",\"num_attention_heads\":32,"
    "\"num_hidden_layers\":32,\"num_key_value_heads\":8,\"pretraining_tp\":1,\"rms_norm_eps\":1e-05,\"rope_scaling\":"
    "{\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192,"
    "\"rope_type\":\"llama3\"},\"rope_theta\":500000.0,\"tie_word_embeddings\":false,\"torch_dtype\":\"bfloat16\","
    "\"use_cache\":true,\"vocab_size\":128256}";
static const char llama3[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"attention_bias\":false,\"bos_token_id\":128000,\"eos_token_id\":128001,"
    "\"hidden_act\":\"silu\",\"hidden_size\":4096,\"intermediate_size\":14336,\"max_position_embeddings\":8192,"
    "\"model_type\":\"llama\",\"num_attention_heads\":32,\"num_hidden_layers\":32,\"num_key_value_heads\":8,"
    "\"rms_norm_eps\":1e-05,\"rope_scaling\":null,\"rope_theta\":500000.0,\"tie_word_embeddings\":false,"
    "\"torch_dtype\":\"bfloat16\",\"vocab_size\":128256}";
/* The same kind of model as transformers 5 writes it. */
static const char llama32[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"attention_bias\":false,\"bos_token_id\":128000,\"dtype\":\"bfloat16\","
    "\"eos_token_id\":128001,\"head_dim\":64,\"hidden_act\":\"silu\",\"hidden_size\":2048,\"intermediate_size\":8192,"
    "\"max_position_embeddings\":131072,\"mlp_bias\":false,\"model_type\":\"llama\",\"num_attention_heads\":32,"
    "\"num_hidden_layers\":16,\"num_key_value_heads\":8,\"rms_norm_eps\":1e-05,\"rope_parameters\":{\"factor\":32.0,"
    "\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,\"original_max_position_embeddings\":8192,\"rope_theta\":500000.0,"
    "\"rope_type\":\"llama3\"},\"tie_word_embeddings\":true,\"transformers_version\":\"5.0.0\",\"vocab_size\":128256}";
static const char mistral1[] =
    "{\"architectures\":[\"MistralForCausalLM\"],\"bos_token_id\":1,\"eos_token_id\":2,\"hidden_act\":\"silu\","
    "\"hidden_size\":4096,\"intermediate_size\":14336,\"max_position_embeddings\":32768,\"model_type\":\"mistral\","
    "\"num_attention_heads\":32,\"num_hidden_layers\":32,\"num_key_value_heads\":8,\"rms_norm_eps\":1e-05,"
    "\"rope_theta\":10000.0,\"sliding_window\":4096,\"tie_word_embeddings\":false,\"torch_dtype\":\"bfloat16\","
    "\"vocab_size\":32000}";
static const char mistral3[] =
    "{\"architectures\":[\"MistralForCausalLM\"],\"attention_dropout\":0.0,\"bos_token_id\":1,\"eos_token_id\":2,"
    "\"hidden_act\":\"silu\",\"hidden_size\":4096,\"intermediate_size\":14336,\"max_position_embeddings\":32768,"
    "\"model_type\":\"mistral\",\"num_attention_heads\":32,\"num_hidden_layers\":32,\"num_key_value_heads\":8,"
    "\"rms_norm_eps\":1e-05,\"rope_theta\":1000000.0,\"sliding_window\":null,\"tie_word_embeddings\":false,"
    "\"torch_dtype\":\"bfloat16\",\"vocab_size\":32768}";
static const char tinyllama[] = "{\"architectures\":[\"LlamaForCausalLM\"],\"attention_bias\":false,\"bos_token_id\":1,\"eos_token_id\":2,"
                                "\"hidden_act\":\"silu\",\"hidden_size\":2048,\"intermediate_size\":5632,\"max_position_embeddings\":2048,"
                                "\"model_type\":\"llama\",\"num_attention_heads\":32,\"num_hidden_layers\":22,\"num_key_value_heads\":4,"
                                "\"pretraining_tp\":1,\"rms_norm_eps\":1e-05,\"rope_scaling\":null,\"rope_theta\":10000.0,"
                                "\"tie_word_embeddings\":false,\"torch_dtype\":\"bfloat16\",\"vocab_size\":32000}";
static const char smollm2[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"attention_bias\":false,\"bos_token_id\":1,\"eos_token_id\":2,\"hidden_act\":"
    "\"silu\",\"hidden_size\":576,\"intermediate_size\":1536,\"is_llama_config\":true,\"max_position_embeddings\":8192,"
    "\"mlp_bias\":false,\"model_type\":\"llama\",\"num_attention_heads\":9,\"num_hidden_layers\":30,\"num_key_value_heads\":3,"
    "\"pad_token_id\":2,\"rms_norm_eps\":1e-05,\"rope_interleaved\":false,\"rope_scaling\":null,\"rope_theta\":100000,"
    "\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\",\"transformers.js_config\":{\"kv_cache_dtype\":{\"q4f16\":"
    "\"float16\"}},\"vocab_size\":49152}";
static const char qwen25[] =
    "{\"architectures\":[\"Qwen2ForCausalLM\"],\"attention_dropout\":0.0,\"bos_token_id\":151643,\"eos_token_id\":151645,"
    "\"hidden_act\":\"silu\",\"hidden_size\":896,\"intermediate_size\":4864,\"max_position_embeddings\":32768,"
    "\"max_window_layers\":21,\"model_type\":\"qwen2\",\"num_attention_heads\":14,\"num_hidden_layers\":24,"
    "\"num_key_value_heads\":2,\"rms_norm_eps\":1e-06,\"rope_theta\":1000000.0,\"sliding_window\":32768,"
    "\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\",\"use_sliding_window\":false,\"vocab_size\":151936}";
static const char deepseek[] =
    "{\"architectures\":[\"Qwen2ForCausalLM\"],\"attention_dropout\":0.0,\"bos_token_id\":151643,\"eos_token_id\":151643,"
    "\"hidden_act\":\"silu\",\"hidden_size\":1536,\"intermediate_size\":8960,\"max_position_embeddings\":131072,"
    "\"max_window_layers\":21,\"model_type\":\"qwen2\",\"num_attention_heads\":12,\"num_hidden_layers\":28,"
    "\"num_key_value_heads\":2,\"rms_norm_eps\":1e-06,\"rope_theta\":10000,\"sliding_window\":4096,"
    "\"tie_word_embeddings\":false,\"torch_dtype\":\"bfloat16\",\"use_mrope\":false,\"use_sliding_window\":false,"
    "\"vocab_size\":151936}";
static const char qwen3[] =
    "{\"architectures\":[\"Qwen3ForCausalLM\"],\"attention_bias\":false,\"bos_token_id\":151643,\"eos_token_id\":151645,"
    "\"head_dim\":128,\"hidden_act\":\"silu\",\"hidden_size\":1024,\"intermediate_size\":3072,\"max_position_embeddings\":40960,"
    "\"max_window_layers\":28,\"model_type\":\"qwen3\",\"num_attention_heads\":16,\"num_hidden_layers\":28,"
    "\"num_key_value_heads\":8,\"rms_norm_eps\":1e-06,\"rope_scaling\":null,\"rope_theta\":1000000,\"sliding_window\":null,"
    "\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\",\"use_sliding_window\":false,\"vocab_size\":151936}";

static int load(struct config *c, const char *json, const char *generation, const char *quantize)
{
    struct fileset files = FILESET_INIT;
    dir_make();
    dir_write("config.json", json, strlen(json));
    if (generation)
        dir_write("generation_config.json", generation, strlen(generation));
    if (quantize)
        dir_write("quantize_config.json", quantize, strlen(quantize));
    assert_int_equal(fileset_from_path(&files, test_dir, NULL), 0);
    int rc = config_load(c, &files, &err);
    fileset_release(&files);
    dir_remove();
    return rc;
}

/* The first `from` in json becomes `to`. */
static const char *edit(const char *json, const char *from, const char *to)
{
    static char out[8192];
    const char *at = strstr(json, from);
    assert_non_null(at);
    snprintf(out, sizeof out, "%.*s%s%s", (int)(at - json), json, to, at + strlen(from));
    return out;
}

static const char *with(const char *json, const char *field)
{
    char to[4096];
    snprintf(to, sizeof to, "{%s,", field);
    return edit(json, "{", to);
}

static void test_published(void **state)
{
    (void)state;
    static const struct {
        const char *json, *arch;
        int64_t head_dim, kv_heads, context, window;
        double theta;
        enum rope_kind rope;
        bool tied, qkv_bias, qk_norm;
        int32_t bos, eos, eos_count;
        enum dtype dtype;
    } all[] = {
        {llama2,    "llama",   128, 32, 4096,   0,    1e4, ROPE_DEFAULT, false, false, false, 1,      2,      1, DT_F16 },
        {llama3,    "llama",   128, 8,  8192,   0,    5e5, ROPE_DEFAULT, false, false, false, 128000, 128001, 1, DT_BF16},
        {llama31,   "llama",   128, 8,  131072, 0,    5e5, ROPE_LLAMA3,  false, false, false, 128000, 128001, 3, DT_BF16},
        {llama32,   "llama",   64,  8,  131072, 0,    5e5, ROPE_LLAMA3,  true,  false, false, 128000, 128001, 1, DT_BF16},
        {mistral1,  "mistral", 128, 8,  32768,  4096, 1e4, ROPE_DEFAULT, false, false, false, 1,      2,      1, DT_BF16},
        {mistral3,  "mistral", 128, 8,  32768,  0,    1e6, ROPE_DEFAULT, false, false, false, 1,      2,      1, DT_BF16},
        {tinyllama, "llama",   64,  4,  2048,   0,    1e4, ROPE_DEFAULT, false, false, false, 1,      2,      1, DT_BF16},
        {smollm2,   "llama",   64,  3,  8192,   0,    1e5, ROPE_DEFAULT, true,  false, false, 1,      2,      1, DT_BF16},
        {qwen25,    "qwen2",   64,  2,  32768,  0,    1e6, ROPE_DEFAULT, true,  true,  false, 151643, 151645, 1, DT_BF16},
        {deepseek,  "qwen2",   128, 2,  131072, 0,    1e4, ROPE_DEFAULT, false, true,  false, 151643, 151643, 1, DT_BF16},
        {qwen3,     "qwen3",   128, 8,  40960,  0,    1e6, ROPE_DEFAULT, true,  false, true,  151643, 151645, 1, DT_BF16},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct config c;
        OK(load(&c, all[i].json, NULL, NULL));
        assert_string_equal(c.arch->model_type, all[i].arch);
        assert_int_equal(c.head_dim, all[i].head_dim);
        assert_int_equal(c.kv_heads, all[i].kv_heads);
        assert_int_equal(c.context, all[i].context);
        assert_int_equal(c.window, all[i].window);
        assert_true(c.rope_theta == all[i].theta);
        assert_int_equal(c.rope, all[i].rope);
        assert_int_equal(c.tied, all[i].tied);
        assert_int_equal(c.qkv_bias, all[i].qkv_bias);
        assert_false(c.o_bias || c.mlp_bias);
        assert_int_equal(c.qk_norm, all[i].qk_norm);
        assert_int_equal(c.bos, all[i].bos);
        assert_int_equal(c.eos[0], all[i].eos);
        assert_int_equal(c.eos_count, all[i].eos_count);
        assert_int_equal(c.dtype, all[i].dtype);
        assert_false(c.quant.present);
        config_release(&c);
    }
}

static void test_variants(void **state)
{
    (void)state;
    struct config c;
    OK(load(&c, llama31, "{\"eos_token_id\":[7,8]}", NULL));
    assert_true(c.eos_count == 2 && c.eos[0] == 7 && c.eos[1] == 8);
    assert_true(c.rope_factor == 8 && c.rope_low_freq == 1 && c.rope_high_freq == 4 && c.rope_original_context == 8192);
    config_release(&c);
    OK(load(&c, llama31, "{\"temperature\":0.6}", NULL));
    assert_int_equal(c.eos_count, 3);
    config_release(&c);
    OK(load(&c, edit(llama2, "\"num_key_value_heads\":32,", ""), NULL, NULL));
    assert_int_equal(c.kv_heads, 32);
    config_release(&c);
    OK(load(&c, edit(llama2, "\"rope_scaling\":null", "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0}"), NULL, NULL));
    assert_true(c.rope == ROPE_LINEAR && c.rope_factor == 2);
    config_release(&c);
    OK(load(&c, edit(qwen25, "\"use_sliding_window\":false", "\"use_sliding_window\":true"), NULL, NULL));
    assert_true(c.window == 32768 && c.window_from == 21);
    config_release(&c);
    OK(load(&c, edit(mistral1, "\"sliding_window\":4096,", ""), NULL, NULL));
    assert_int_equal(c.window, 4096); /* the class's default */
    config_release(&c);
    OK(load(&c, edit(llama31, "\"attention_bias\":false", "\"attention_bias\":true"), NULL, NULL));
    assert_true(c.qkv_bias && c.o_bias && !c.mlp_bias);
    config_release(&c);
    OK(load(&c, edit(llama2, "\"eos_token_id\":2", "\"eos_token_id\":null"), NULL, NULL));
    assert_int_equal(c.eos_count, 0);
    config_release(&c);
    OK(load(&c, edit(qwen3, "\"bos_token_id\":151643", "\"bos_token_id\":null"), NULL, NULL));
    assert_int_equal(c.bos, -1);
    config_release(&c);
    OK(load(
        &c,
        edit(llama32, "\"rope_parameters\":{", "\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\",\"rope_theta\":7.0},"),
        NULL, NULL));
    assert_true(c.rope == ROPE_DEFAULT && c.rope_theta == 7);
    config_release(&c);
}

static void refuse(const char *json, int code, const char *piece)
{
    struct config c;
    FAILS(load(&c, json, NULL, NULL), code, piece);
}

static void test_refusals(void **state)
{
    (void)state;
    refuse(
        edit(llama2, "LlamaForCausalLM", "GemmaForCausalLM"), ERR_UNSUPPORTED,
        "\"architectures\" is 'GemmaForCausalLM'; supported are LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM");
    refuse(edit(llama2, "\"llama\"", "\"phi3\""), ERR_UNSUPPORTED, "\"architectures\" is 'LlamaForCausalLM' but \"model_type\" is 'phi3'");
    refuse("{}", ERR_FORMAT, "neither \"architectures\" nor \"model_type\"");
    refuse("[]", ERR_FORMAT, "must hold a JSON object");
    refuse("{\"a\":1,\"a\":2}", ERR_FORMAT, "duplicate object key");
    refuse(edit(llama2, "\"silu\"", "\"gelu\""), ERR_UNSUPPORTED, "\"hidden_act\" is 'gelu'; silu is supported");
    refuse(edit(llama2, "\"rope_scaling\":null", "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}"), ERR_UNSUPPORTED,
           "rope type 'yarn' is not supported");
    refuse(edit(llama2, "\"rope_scaling\":null", "\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":4}"), ERR_UNSUPPORTED,
           "rope type 'dynamic'");
    refuse(edit(llama31, "\"factor\":8.0", "\"factor\":0"), ERR_FORMAT, "\"factor\" must be positive, not 0");
    refuse(edit(llama31, "\"original_max_position_embeddings\":8192,", ""), ERR_FORMAT,
           "\"original_max_position_embeddings\" must be an integer, not absent");
    refuse(edit(llama2, "\"hidden_size\":4096", "\"hidden_size\":\"4096\""), ERR_FORMAT,
           "\"hidden_size\" must be an integer, not a string");
    refuse(edit(llama2, "\"hidden_size\":4096", "\"hidden_size\":0"), ERR_FORMAT, "\"hidden_size\" is 0, outside 1..");
    refuse(edit(llama2, "\"num_key_value_heads\":32", "\"num_key_value_heads\":5"), ERR_FORMAT,
           "32 attention heads cannot share 5 key/value heads");
    refuse(edit(llama2, "\"num_attention_heads\":32", "\"num_attention_heads\":96"), ERR_FORMAT,
           "\"hidden_size\" 4096 is no multiple of 96 heads");
    refuse(edit(mistral1, "{", "{\"attention_bias\":true,"), ERR_UNSUPPORTED,
           "\"attention_bias\" is true, which this family does not have");
    refuse(edit(llama2, "float16", "float64"), ERR_UNSUPPORTED, "\"torch_dtype\" is 'float64'");
    refuse(edit(smollm2, "\"rope_interleaved\":false", "\"rope_interleaved\":true"), ERR_UNSUPPORTED,
           "\"rope_interleaved\" is not supported");
    refuse(with(llama2, "\"partial_rotary_factor\":0.5"), ERR_UNSUPPORTED, "\"partial_rotary_factor\" is 0.5");
    refuse(with(llama2, "\"layer_types\":[]"), ERR_FORMAT, "\"layer_types\" must be a list of 32 entries");
    refuse(edit(llama2, "\"eos_token_id\":2", "\"eos_token_id\":\"2\""), ERR_FORMAT, "\"eos_token_id\" must be an id or a list of ids");
    refuse(edit(llama2, "1e-05", "-1"), ERR_FORMAT, "\"rms_norm_eps\" is -1, outside 0..1");
    refuse(edit(llama32, "\"rope_parameters\":{", "\"rope_parameters\":{\"full_attention\":{},\"sliding_attention\":{\"rope_theta\":1},"),
           ERR_UNSUPPORTED, "differs between full and sliding attention");
}

static void test_quant(void **state)
{
    (void)state;
    struct config c;
    OK(load(&c,
            with(llama2, "\"quantization_config\":{\"bits\":4,\"group_size\":128,\"sym\":true,\"desc_act\":false,\"quant_method\":\"gptq\","
                         "\"checkpoint_format\":\"gptq\",\"dynamic\":{\"-:^lm_head$\":{}},\"lm_head\":false}"),
            NULL, "{\"bits\":8}"));
    assert_true(c.quant.present && c.quant.bits == 4 && c.quant.group_size == 128 && c.quant.sym && !c.quant.v2 && !c.quant.desc_act &&
                c.quant.dynamic);
    config_release(&c);
    OK(load(
        &c, llama2, NULL,
        "{\"bits\":3,\"group_size\":-1,\"damp_percent\":0.1,\"desc_act\":true,\"true_sequential\":true,\"model_file_base_name\":null}"));
    assert_true(c.quant.present && c.quant.bits == 3 && c.quant.group_size == -1 && c.quant.sym && c.quant.desc_act && !c.quant.dynamic);
    config_release(&c);
    OK(load(&c, llama2, NULL,
            "{\"wbits\":8,\"q_group_size\":32,\"zero_point\":true,\"format\":\"gptq_v2\",\"method\":\"gptq\",\"dynamic\":{}}"));
    assert_true(c.quant.bits == 8 && c.quant.group_size == 32 && !c.quant.sym && c.quant.v2 && !c.quant.dynamic);
    config_release(&c);
    static const struct {
        const char *quant;
        int code;
        const char *piece;
    } bad[] = {
        {"{\"quant_method\":\"awq\",\"bits\":4}",                              ERR_UNSUPPORTED, "\"quant_method\" is 'awq'; only gptq"   },
        {"{\"quant_method\":\"compressed-tensors\"}",                          ERR_UNSUPPORTED, "'compressed-tensors'; only gptq"        },
        {"{\"quant_method\":\"fp8\"}",                                         ERR_UNSUPPORTED, "'fp8'; only gptq"                       },
        {"{\"bits\":4,\"is_marlin_format\":true}",                             ERR_UNSUPPORTED, "\"is_marlin_format\""                   },
        {"{\"bits\":5}",                                                       ERR_UNSUPPORTED, "5 bits; 2, 3, 4 and 8"                  },
        {"{\"group_size\":128}",                                               ERR_FORMAT,      "\"bits\" must be an integer, not absent"},
        {"{\"bits\":4,\"group_size\":0}",                                      ERR_FORMAT,      "\"group_size\" is 0"                    },
        {"{\"bits\":4,\"checkpoint_format\":\"marlin\"}",                      ERR_UNSUPPORTED, "\"checkpoint_format\" is 'marlin'"      },
        {"{\"bits\":4,\"checkpoint_format\":\"gptq\",\"format\":\"gptq_v2\"}", ERR_FORMAT,
         "\"checkpoint_format\" is 'gptq' but \"format\" is 'gptq_v2'"                                                                   },
        {"{\"bits\":4,\"dynamic\":[]}",                                        ERR_FORMAT,      "\"dynamic\" must be an object"          },
        {"{\"bits\":4,\"pack_dtype\":\"int8\"}",                               ERR_UNSUPPORTED, "\"pack_dtype\" is 'int8'"               },
        {"{\"bits\":4,\"rotation\":\"hadamard\"}",                             ERR_UNSUPPORTED, "\"rotation\" is 'hadamard'"             },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        FAILS(load(&c, llama2, NULL, bad[i].quant), bad[i].code, bad[i].piece);
}

static void test_wild(void **state)
{
    (void)state;
    NEED_SHARED(root, "gptq-configs");
    struct io_list l;
    struct quant_config q;
    OK(io_list(root, false, &l, &err));
    int seen = 0;
    for (size_t i = 0; i < l.count; i++) {
        if (!strstr(l.names[i], ".json"))
            continue;
        char path[2048];
        snprintf(path, sizeof path, "%s/%s", root, l.names[i]);
        json_t *o = json_load_file(path, 0, NULL);
        OK(quant_config_read(&q, o, l.names[i], &err));
        json_decref(o);
        seen++;
    }
    assert_true(seen >= 3);
    io_list_release(&l);
}

static void test_modules(void **state)
{
    (void)state;
    struct config c;
    char name[96];
    int64_t N, K;
    OK(load(&c, qwen3, NULL, NULL));
    assert_string_equal(config_module_name(&c, 3, MOD_DOWN, name, sizeof name), "model.layers.3.mlp.down_proj");
    assert_string_equal(config_module_short(MOD_Q), "self_attn.q_proj");
    config_module_shape(&c, MOD_Q, &N, &K);
    assert_true(N == 2048 && K == 1024);
    config_module_shape(&c, MOD_V, &N, &K);
    assert_true(N == 1024 && K == 1024);
    config_module_shape(&c, MOD_O, &N, &K);
    assert_true(N == 1024 && K == 2048);
    config_module_shape(&c, MOD_DOWN, &N, &K);
    assert_true(N == 1024 && K == 3072);
    assert_string_equal(config_module_fused(MOD_V), "qkv_proj");
    assert_string_equal(config_module_fused(MOD_UP), "gate_up_proj");
    assert_null(config_module_fused(MOD_O));
    config_release(&c);
}

static void test_detmath(void **state)
{
    (void)state;
    for (int i = 0; i < 20000; i++) {
        double x = -745 + i * 0.0727, y = exp(x), s, c, p = i * 13.7;
        if (x > -700)
            assert_true(fabs(det_exp(x) - y) <= 1e-15 * y);
        else
            assert_true(fabs(det_exp(x) - y) <= 1e-300);
        double z = 1e-300 * pow(10, fmod(i * 0.03, 308));
        assert_true(fabs(det_log(z) - log(z)) <= 1e-15 * fabs(log(z)) + 1e-300);
        det_sincos(p, &s, &c);
        assert_true(fabs(s - sin(p)) < 1e-15 && fabs(c - cos(p)) < 1e-15);
        det_sincos(-p, &s, &c);
        assert_true(fabs(s + sin(p)) < 1e-15 && fabs(c - cos(p)) < 1e-15);
    }
    assert_true(det_exp(0) == 1 && det_exp(-1000) == 0 && isinf(det_exp(1000)) && det_log(1) == 0);
}

/* Against the formulas of transformers in libm's arithmetic. */
static void test_rope(void **state)
{
    (void)state;
    struct config c;
    OK(load(&c, llama31, NULL, NULL));
    enum { P = 300 };
    float *cosines = malloc(P * 64 * sizeof *cosines), *sines = malloc(P * 64 * sizeof *sines);
    config_rope_tables(&c, P, cosines, sines);
    for (int i = 0; i < 64; i++) {
        double f = pow(500000.0, -i / 64.0), wave = 2 * acos(-1) / f;
        double smooth = (8192 / wave - 1) / 3, mixed = (1 - smooth) * f / 8 + smooth * f;
        f = wave > 8192 ? f / 8 : wave < 2048 ? f : mixed;
        for (int p = 0; p < P; p++) {
            assert_true(fabs(cosines[p * 64 + i] - cos(p * f)) < 7e-8);
            assert_true(fabs(sines[p * 64 + i] - sin(p * f)) < 7e-8);
        }
    }
    c.rope = ROPE_LINEAR;
    c.rope_factor = 2;
    config_rope_tables(&c, P, cosines, sines);
    assert_true(fabs(cosines[10 * 64] - cos(5)) < 7e-8);
    free(cosines);
    free(sines);
    config_release(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published), cmocka_unit_test(test_variants), cmocka_unit_test(test_refusals), cmocka_unit_test(test_quant),
        cmocka_unit_test(test_wild),      cmocka_unit_test(test_modules),  cmocka_unit_test(test_detmath),  cmocka_unit_test(test_rope),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Negative scales from a layer file through the checkpoint writer to every reader of ours: structure check, weights, inspect, the kernels' weights. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/half.h"
#include "kernels/wfmt.h"
#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"
#include "pipeline/base/pool.h"
#include "stages/common.h"
#include "stages/format/check.h"
#include "stages/format/gptq.h"
#include "stages/format/inspect.h"
#include "stages/format/layer.h"
#include "stages/quant/grid.h"

enum { LAYER = 2, ROWS = 128, COLS = 128 };
static const char SOURCE[] = "manifests/quickstart/model";
static const enum module_id MODULE = MOD_O;

static char *dir;

static int setup(void **state)
{
    (void)state;
    return io_mkdtemp("/tmp", "signed.", &dir, NULL);
}

static int teardown(void **state)
{
    (void)state;
    io_remove_tree(dir, NULL);
    free(dir);
    return 0;
}

/* Every second scale is negative; sizes from the smallest normal to large; all codes. */
static void make_matrix(struct qmatrix *q, int bits)
{
    assert_int_equal(qmatrix_alloc(q, ROWS, COLS, bits, 32), 0);
    q->sym = true;
    for (int64_t i = 0; i < q->G * q->N; i++) {
        float size = i % 7 ? 0.01f * (float)(1 + i % 5) : 0x1p-14f;
        q->scales[i] = f32_to_f16(i % 2 ? -size : size);
        q->zeros[i] = (uint8_t)(1 << (bits - 1));
    }
    for (int64_t i = 0; i < q->N * q->K; i++)
        q->codes[i] = (uint8_t)((i * 37 + i / q->K) & ((1 << bits) - 1));
    for (int64_t k = 0; k < q->K; k++)
        q->g_idx[k] = (int32_t)(k / 32);
}

/* The quickstart model with one quantized module. */
static void make_info(struct quantize_info *q, struct fileset *source, int bits)
{
    struct err e = {0};
    assert_int_equal(fileset_from_path(source, SOURCE, &e), 0);
    assert_int_equal(model_open(&q->model, source, &e), 0);
    const struct config *c = &q->model.config;
    q->base = quant_params_default();
    q->base.bits = bits;
    q->base.group_size = 32;
    q->module_count = q->table.count = (size_t)c->layers * MOD_COUNT + 1;
    q->table.rows = xcalloc(q->table.count, sizeof *q->table.rows);
    for (size_t i = 0; i < q->table.count; i++) {
        char name[256] = "lm_head";
        if (i + 1 < q->table.count)
            config_module_name(c, (int64_t)i / MOD_COUNT, (enum module_id)(i % MOD_COUNT), name, sizeof name);
        q->table.rows[i] = (struct override_row){.name = xstrdup(name), .quantized = i == LAYER * MOD_COUNT + (size_t)MODULE, .pattern = -1, .params = q->base};
    }
}

static void release_info(struct quantize_info *q)
{
    for (size_t i = 0; i < q->table.count; i++)
        free((char *)(uintptr_t)q->table.rows[i].name);
    free(q->table.rows);
    model_close(&q->model);
}

/* Writes the layer file, then the checkpoint, into dir/out. */
static char *write_checkpoint(const struct qmatrix *matrix, int bits)
{
    struct err e = {0};
    struct quantize_info info = {.module_count = 0};
    struct fileset source = FILESET_INIT, layers = FILESET_INIT;
    make_info(&info, &source, bits);
    char *out = io_join(dir, "out"), *layer = io_join(dir, "layer.2.safetensors");
    const struct layer_module module = {config_module_short(MODULE), matrix};
    assert_int_equal(layer_write(layer, &module, 1, &e), 0);
    fileset_add(&layers, "layer.2.safetensors", layer, NULL, 0);
    assert_int_equal(io_remove_tree(out, &e), 0);
    assert_int_equal(io_mkdirs(out, &e), 0);
    const struct gptq_writer w = {.q = &info, .layers = &layers, .shard_bytes = UINT64_MAX};
    uint64_t total;
    if (gptq_write_tensors(&w, out, &total, &e))
        fail_msg("%s", e.text);
    json_t *config = json_deep_copy(info.model.config.json), *quant = gptq_quantization_config(&info, json_object());
    json_object_set(config, "quantization_config", quant);
    assert_int_equal(output_json(out, "config.json", config, &e), 0);
    assert_int_equal(output_json(out, "quantize_config.json", quant, &e), 0);
    json_decref(config);
    json_decref(quant);
    release_info(&info);
    fileset_release(&source);
    fileset_release(&layers);
    free(layer);
    return out;
}

static void check_inspect(const char *folder, const float *want)
{
    struct err e = {0};
    struct inspect i;
    assert_int_equal(inspect_open(&i, folder, &e), 0);
    json_t *o = inspect_json(&i, &e);
    json_t *m = json_array_get(json_object_get(o, "modules"), LAYER * MOD_COUNT + (size_t)MODULE);
    assert_true(json_real_value(json_object_get(m, "negative_scales")) == 0.5);
    assert_null(json_object_get(json_array_get(json_object_get(o, "modules"), 0), "negative_scales")); /* not quantized */
    json_decref(o);
    char *path = io_join(dir, "w.f32");
    assert_int_equal(inspect_export(&i, "model.layers.2.self_attn.o_proj", true, path, &e), 0);
    struct io_map map;
    assert_int_equal(io_map(&map, path, &e), 0);
    assert_int_equal(map.bytes, ROWS * COLS * sizeof *want);
    assert_memory_equal(map.data, want, map.bytes);
    io_unmap(&map);
    free(path);
    inspect_close(&i);
}

/* The identity through the layer gives the weights. */
static void check_linear(const struct qwords *q, const float *want)
{
    struct parallel par = {pool_run, NULL, 1};
    float *x = xcalloc(COLS * COLS, sizeof *x), *y = xcalloc(COLS * ROWS, sizeof *y);
    for (int k = 0; k < COLS; k++)
        x[k * COLS + k] = 1;
    for (enum isa isa = ISA_SCALAR; isa <= isa_best(); isa++) {
        struct err e = {0};
        struct backend *b;
        struct weight *w;
        assert_int_equal(cpu_backend_create(isa, &par, &b, &e), 0);
        assert_int_equal(b->ops->weight_quantized(b, q, &w, &e), 0);
        assert_int_equal(b->ops->linear(b, y, ROWS, x, COLS, COLS, w, NULL, false, &e), 0);
        for (int n = 0; n < ROWS; n++)
            for (int k = 0; k < COLS; k++)
                if (y[k * ROWS + n] != want[n * COLS + k])
                    fail_msg("isa %d: weight [%d,%d] is %g, not %g", (int)isa, n, k, (double)y[k * ROWS + n], (double)want[n * COLS + k]);
        b->ops->weight_free(b, w);
        b->destroy(b);
    }
    free(x);
    free(y);
}

static void through_a_checkpoint(void **state)
{
    static const int bits[] = {2, 3, 4, 8};
    float *want = xcalloc(ROWS * COLS, sizeof *want), *got = xcalloc(ROWS * COLS, sizeof *got);
    (void)state;
    for (size_t b = 0; b < 4; b++) {
        struct qmatrix q = {0};
        struct qwords read = {0};
        struct err e = {0};
        struct model m;
        struct fileset files = FILESET_INIT;
        struct check_report lines = {0};
        make_matrix(&q, bits[b]);
        assert_int_equal(grid_check(&q, &e), 0);
        grid_dequantize(&q, want);
        char *out = write_checkpoint(&q, bits[b]);
        assert_int_equal(fileset_from_path(&files, out, &e), 0);
        assert_int_equal(checkpoint_check(&files, &lines, &e), 0);
        if (lines.count)
            fail_msg("%d bits: %s", bits[b], lines.lines[0]);
        assert_int_equal(lines.modules, 1);
        assert_int_equal(model_open(&m, &files, &e), 0);
        assert_int_equal(model_qwords(&m, LAYER, MODULE, &read, &e), 0);
        assert_memory_equal(read.scales, q.scales, (size_t)(q.G * q.N) * sizeof *q.scales);
        for (int64_t i = 0; i < q.N * q.K; i++)
            assert_int_equal(wfmt_code(read.words + i / q.K, q.N, i % q.K, q.bits), q.codes[i]);
        assert_memory_equal(read.zeros, q.zeros, (size_t)(q.G * q.N));
        assert_int_equal(model_dequant(&m, LAYER, MODULE, got, &e), 0);
        assert_memory_equal(got, want, ROWS * COLS * sizeof *want);
        check_inspect(out, want);
        check_linear(&read, want);
        model_close(&m);
        check_report_release(&lines);
        fileset_release(&files);
        qmatrix_free(&q);
        qwords_free(&read);
        free(out);
    }
    free(want);
    free(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(through_a_checkpoint)};
    return cmocka_run_group_tests(tests, setup, teardown);
}

/* quantize, the chain: calibration activations walk through the layers; each layer is quantized on what the layers before it, as quantized, give. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"
#include "stages/calibration.h"
#include "stages/common.h"
#include "stages/device.h"
#include "stages/format/layer.h"
#include "stages/lm/walk.h"
#include "stages/quant/gptq.h"
#include "stages/quantize.h"

/* Rows at a time: enough to keep a matrix product busy. */
enum { BLOCK_ROWS = 8 * HESSIAN_BLOCK_ROWS };

struct chain {
    struct stage_ctx *s;
    const struct quantize_info *q;
    struct backend *b;
    struct calibration calibration; /* what the walk borrows */
    struct walk walk; /* zeroed without calibration: only method rtn then */
};

/* One node's work: the layer's results as they come. */
struct node_work {
    struct chain *c;
    struct run_ctx *r;
    int64_t layer;              /* -1: lm_head */
    struct layer *l;            /* NULL without calibration and for lm_head */
    struct qmatrix q[MOD_COUNT];
    json_t *report[MOD_COUNT];
};

static int open_walk(struct chain *c, const struct fileset *files, const char *scratch, struct err *e)
{
    struct calibration *k = &c->calibration;
    int rc = calibration_open(k, files, &c->q->model.config, e);
    if (rc)
        return rc;
    const struct walk_input in = {.ids = k->ids, .offsets = k->offsets, .samples = k->samples, .block_rows = BLOCK_ROWS, .scratch = scratch};
    return walk_open(&c->walk, c->b, &c->q->model, &in, e);
}

int quantize_chain_open(struct stage_ctx *s, struct run_ctx *r, void **out, struct err *e)
{
    struct chain *c = xcalloc(1, sizeof *c);
    c->s = s;
    c->q = quantize_info(s);
    *out = c;
    int rc = device_open(r->isa, r->device, r->pool, &c->b, e);
    const struct stage_input *calibration = stage_input_find(s, "calibration");
    if (!rc && calibration)
        rc = open_walk(c, calibration->files, r->scratch, e);
    if (rc) {
        quantize_chain_close(s, r, c);
        *out = NULL;
        return err_wrap(e, "stage '%s'", s->name);
    }
    return 0;
}

void quantize_chain_close(struct stage_ctx *s, struct run_ctx *r, void *chain)
{
    (void)s;
    struct chain *c = chain;
    if (!c)
        return;
    walk_close(&c->walk);
    calibration_close(&c->calibration);
    if (c->b)
        device_count(c->b, r);
    device_close(c->b);
    free(c);
}

static const char *module_short(const struct node_work *n, int m)
{
    return n->layer < 0 ? "lm_head" : config_module_short((enum module_id)m);
}

static const struct override_row *row_of(const struct node_work *n, int m)
{
    return quantize_row(n->c->q, n->layer, n->layer < 0 ? MOD_COUNT : (enum module_id)m);
}

static json_t *module_report(const struct override_row *row, const struct gptq_report *g, int64_t tokens)
{
    json_t *j = quant_params_json(&row->params);
    json_object_set_new(j, "method", json_string(quant_method_name(g->method)));
    json_object_set_new(j, "loss", json_real(g->loss));
    json_object_set_new(j, "relative_output_error", isfinite(g->output_error) ? json_real(g->output_error) : json_null());
    json_object_set_new(j, "damp", json_real(g->damp));
    json_object_set_new(j, "dead_columns", json_integer((json_int_t)g->dead));
    json_object_set_new(j, "tokens", json_integer((json_int_t)tokens));
    return j;
}

/* Quantizes one module and, in a walk, puts the result in the layer's place of the source weight. */
static int quantize_module(struct node_work *n, int m, const double *h, struct err *e)
{
    const struct model *model = &n->c->q->model;
    const struct override_row *row = row_of(n, m);
    enum module_id id = n->layer < 0 ? MOD_COUNT : (enum module_id)m;
    int64_t N = model->config.vocab_size, K = model->config.hidden;
    if (n->layer >= 0)
        config_module_shape(&model->config, id, &N, &K);
    float *w = malloc((size_t)N * (size_t)K * sizeof *w);
    if (!w)
        return err_set(e, ERR_NOMEM, "weights of %s [%lld,%lld]", row->name, (long long)N, (long long)K);
    struct gptq_report g;
    struct gptq_input in = {.name = row->name, .N = N, .K = K, .w = w, .h = h, .params = &row->params};
    int rc = model_dequant(model, n->layer, id, w, e);
    model_drop(model, n->layer, id);
    if (!rc)
        rc = gptq_quantize(n->c->b, &in, &n->q[m], NULL, &g, e);
    free(w);
    if (rc)
        return rc;
    n->report[m] = module_report(row, &g, n->c->walk.tokens);
    if (g.method != row->params.method)
        n->r->note(n->r, "%s: damping exhausted, rounded to nearest instead (fallback: rtn)", row->name);
    if (!n->l)
        return 0;
    struct weight *quantized = NULL;
    rc = n->c->b->ops->weight_quantized(n->c->b, &n->q[m], &quantized, e);
    if (!rc) {
        n->c->b->ops->weight_free(n->c->b, n->l->w[m]);
        n->l->w[m] = quantized;
    }
    return rc;
}

/* The modules that share an input, hence a Hessian. */
enum site { SITE_QKV, SITE_O, SITE_GATE_UP, SITE_DOWN, SITE_COUNT };
static const int site_first[SITE_COUNT + 1] = {MOD_Q, MOD_O, MOD_GATE, MOD_DOWN, MOD_COUNT};

static bool site_wanted(const struct node_work *n, enum site site)
{
    for (int m = site_first[site]; m < site_first[site + 1]; m++)
        if (row_of(n, m)->quantized)
            return true;
    return false;
}

/* The finished Hessian in host memory (malloc'ed), the accumulator released. */
static int finish_hessian(struct hessian *acc, double **h, struct err *e)
{
    int64_t K = acc->K;
    *h = malloc((size_t)K * (size_t)K * sizeof **h);
    int rc = *h ? hessian_finish(acc, *h, e) : err_set(e, ERR_NOMEM, "a Hessian of %lld x %lld", (long long)K, (long long)K);
    hessian_release(acc);
    return rc;
}

static int quantize_site(struct node_work *n, enum site site, struct hessian *acc, struct err *e)
{
    if (!acc)
        return 0;
    double *h = NULL;
    int rc = finish_hessian(acc, &h, e);
    for (int m = site_first[site]; !rc && m < site_first[site + 1]; m++)
        if (row_of(n, m)->quantized)
            rc = quantize_module(n, m, h, e);
    free(h);
    return rc;
}

/* Starts a site's accumulator, or gives NULL when nothing there is quantized. */
static int site_hessian(struct node_work *n, enum site site, struct hessian *acc, struct hessian **use, struct err *e)
{
    *use = NULL;
    if (!site_wanted(n, site))
        return 0;
    int64_t N, K;
    config_module_shape(&n->c->q->model.config, (enum module_id)site_first[site], &N, &K);
    int rc = hessian_init(acc, n->c->b, K, e);
    *use = rc ? NULL : acc;
    return rc;
}

/* One site after the other, each on the outputs of those before it as quantized. */
static int sequential(struct node_work *n, bool last, struct err *e)
{
    struct walk *w = &n->c->walk;
    struct hessian acc[SITE_COUNT] = {{0}}, *use[SITE_COUNT];
    int rc = 0;
    for (int i = 0; !rc && i < SITE_COUNT; i++) {
        rc = site_hessian(n, (enum site)i, &acc[i], &use[i], e);
        if (!rc && i == SITE_QKV)
            rc = walk_attn_norm(w, n->l, use[i], e);
        if (!rc && i == SITE_O && !(rc = walk_attention(w, n->l, e)))
            rc = walk_o_input(w, use[i], e);
        if (!rc && i == SITE_GATE_UP && !(rc = walk_attn_out(w, n->l, e)))
            rc = walk_mlp_norm(w, n->l, use[i], e);
        if (!rc && i == SITE_DOWN)
            rc = walk_mlp_act(w, n->l, use[i], e);
        if (!rc)
            rc = quantize_site(n, (enum site)i, use[i], e);
    }
    if (!rc && !last)
        rc = walk_mlp_out(w, n->l, e);
    for (int i = 0; i < SITE_COUNT; i++)
        hessian_release(&acc[i]);
    return rc;
}

/* true_sequential: false: all inputs are taken with the source weights, then the layer is walked again as quantized. */
static int all_at_once(struct node_work *n, bool last, struct err *e)
{
    struct walk *w = &n->c->walk;
    struct hessian acc[SITE_COUNT] = {{0}}, *use[SITE_COUNT] = {NULL};
    int rc = walk_save(w, e);
    for (int i = 0; !rc && i < SITE_COUNT; i++)
        rc = site_hessian(n, (enum site)i, &acc[i], &use[i], e);
    if (!rc)
        rc = walk_attn_norm(w, n->l, use[SITE_QKV], e);
    if (!rc)
        rc = walk_attention(w, n->l, e);
    if (!rc)
        rc = walk_o_input(w, use[SITE_O], e);
    if (!rc)
        rc = walk_attn_out(w, n->l, e);
    if (!rc)
        rc = walk_mlp_norm(w, n->l, use[SITE_GATE_UP], e);
    if (!rc)
        rc = walk_mlp_act(w, n->l, use[SITE_DOWN], e);
    for (int i = 0; !rc && i < SITE_COUNT; i++)
        rc = quantize_site(n, (enum site)i, use[i], e);
    if (!rc)
        rc = walk_restore(w, e);
    if (!rc && !last)
        rc = walk_layer(w, n->l, e);
    for (int i = 0; i < SITE_COUNT; i++)
        hessian_release(&acc[i]);
    return rc;
}

static int quantize_head(struct node_work *n, struct err *e)
{
    struct hessian acc = {0};
    double *h = NULL;
    int rc = 0;
    if (n->c->walk.b) {
        rc = hessian_init(&acc, n->c->b, n->c->q->model.config.hidden, e);
        if (!rc)
            rc = walk_head_input(&n->c->walk, &acc, e);
        if (!rc)
            rc = finish_hessian(&acc, &h, e);
    }
    if (!rc)
        rc = quantize_module(n, 0, h, e);
    free(h);
    hessian_release(&acc);
    return rc;
}

/* Method rtn without calibration: no activations. */
static int round_layer(struct node_work *n, struct err *e)
{
    int rc = 0;
    for (int m = 0; !rc && m < MOD_COUNT; m++)
        if (row_of(n, m)->quantized)
            rc = quantize_module(n, m, NULL, e);
    return rc;
}

static int write_outputs(struct node_work *n, const char *node_name, const char *outdir, struct err *e)
{
    struct layer_module list[MOD_COUNT];
    size_t count = 0;
    json_t *modules = json_object();
    double loss = 0;
    for (int m = 0; m < (n->layer < 0 ? 1 : MOD_COUNT); m++) {
        if (n->report[m]) {
            list[count++] = (struct layer_module){module_short(n, m), &n->q[m]};
            loss += json_real_value(json_object_get(n->report[m], "loss"));
        }
        json_object_set_new(modules, module_short(n, m), n->report[m] ? json_incref(n->report[m]) : json_pack("{s:b}", "quantized", 0));
    }
    char name[64];
    snprintf(name, sizeof name, "%s.safetensors", node_name);
    char *path = io_join(outdir, name);
    int rc = layer_write(path, list, count, e);
    free(path);
    json_t *report = json_pack("{s:O}", "modules", modules);
    snprintf(name, sizeof name, "%s.report.json", node_name);
    if (!rc)
        rc = output_json(outdir, name, report, e);
    json_decref(report);
    json_object_set_new(n->r->metrics, "loss", json_real(loss));
    json_object_set_new(n->r->metrics, "modules", modules);
    return rc;
}

static int on_progress(void *arg, double done, double total)
{
    struct run_ctx *r = arg;
    return r->progress ? r->progress(r, done, total, "tokens") : 0;
}

/* Progress of a node: tokens times the steps that it goes through. */
static void begin_progress(struct chain *c, struct run_ctx *r, int steps)
{
    c->walk.progress = on_progress;
    c->walk.progress_arg = r;
    c->walk.done = 0;
    c->walk.total = (double)steps * (double)c->walk.tokens;
}

int quantize_run(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, const char *outdir, struct err *e)
{
    struct chain *c = chain;
    bool head = node == (size_t)c->q->model.config.layers, last = node + 1 == s->node_count;
    struct node_work n = {.c = c, .r = r, .layer = head ? -1 : (int64_t)node};
    struct layer layer;
    int rc = 0;
    begin_progress(c, r, head ? 1 : param_bool(s, "true_sequential") ? 7 : 11);
    if (head) {
        rc = quantize_head(&n, e);
    } else if (!c->walk.b) {
        rc = round_layer(&n, e);
    } else {
        rc = layer_load(&layer, &c->walk.env, &c->q->model, n.layer, e);
        if (!rc) {
            n.l = &layer;
            rc = param_bool(s, "true_sequential") ? sequential(&n, last, e) : all_at_once(&n, last, e);
            layer_free(&layer, &c->walk.env);
        }
    }
    if (!rc)
        rc = write_outputs(&n, s->nodes[node].name, outdir, e);
    for (int m = 0; m < MOD_COUNT; m++) {
        qmatrix_free(&n.q[m]);
        json_decref(n.report[m]);
    }
    return rc ? err_wrap(e, "stage '%s'", s->name) : 0;
}

/* The layer's weights as an earlier run quantized them. */
static int load_quantized(struct chain *c, struct layer *l, const struct fileset *outputs, const char *node_name, struct err *e)
{
    char name[64];
    snprintf(name, sizeof name, "%s.safetensors", node_name);
    const struct fileset_file *f = fileset_find(outputs, name);
    if (!f)
        return err_set(e, ERR_NOTFOUND, "the cached outputs of %s have no %s", node_name, name);
    struct st_set set = {0};
    int rc = st_open_file(&set, f->path, e);
    for (int m = 0; !rc && m < MOD_COUNT; m++) {
        const struct override_row *row = quantize_row(c->q, l->index, (enum module_id)m);
        if (!row->quantized)
            continue;
        int64_t N, K;
        struct qmatrix q = {0};
        struct weight *w = NULL;
        config_module_shape(&c->q->model.config, (enum module_id)m, &N, &K);
        rc = layer_read(&set, config_module_short((enum module_id)m), N, K, row->params.bits, row->params.group_size, row->params.sym, &q, e);
        if (!rc)
            rc = c->b->ops->weight_quantized(c->b, &q, &w, e);
        qmatrix_free(&q);
        if (rc)
            break;
        c->b->ops->weight_free(c->b, l->w[m]);
        l->w[m] = w;
    }
    st_close(&set);
    return rc;
}

int quantize_replay(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, struct err *e)
{
    struct chain *c = chain;
    struct layer layer;
    if (!c->walk.b)
        return 0;
    begin_progress(c, r, 4);
    int rc = layer_load(&layer, &c->walk.env, &c->q->model, (int64_t)node, e);
    if (rc)
        return err_wrap(e, "stage '%s'", s->name);
    rc = load_quantized(c, &layer, &s->nodes[node].outputs, s->nodes[node].name, e);
    if (!rc)
        rc = walk_layer(&c->walk, &layer, e);
    layer_free(&layer, &c->walk.env);
    return rc ? err_wrap(e, "stage '%s': replay of %s", s->name, s->nodes[node].name) : 0;
}

/* quantize, the chain: calibration activations walk through the layers; each layer is quantized on what the layers before it, as quantized, give.
 * Where a setting wants it, a second stream walks beside: what the source model would have had there.
 * With inputs original they walk through the source layers alone, and only as far as a module that must be quantized wants them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/wfmt.h"
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

/* What a site's sums give the modules there; host, owned. */
struct evidence {
    double *h, *pairs; /* pairs: NULL without compensation */
    bool outputs;      /* pairs are of outputs (o, down), not of inputs */
};

struct chain {
    struct stage_ctx *s;
    const struct quantize_info *q;
    struct backend *b;
    struct calibration calibration; /* what the walk borrows */
    struct walk walk; /* zeroed without calibration: only method rtn then */
    struct metric metric; /* of the modules at hand; zeroed where none is wanted */
    /* inputs original: where the walk is, and what it saw there */
    int64_t layer;            /* the one that it stands before or is inside of */
    int entered;              /* sites of it that it has come to */
    struct layer source;      /* loaded when the first of them was */
    struct evidence evidence; /* of the last of them, once gathered */
};

/* The modules that share an input, hence a Hessian. */
enum site { SITE_QKV, SITE_O, SITE_GATE_UP, SITE_DOWN, SITE_COUNT };
static const int site_first[SITE_COUNT + 1] = {MOD_Q, MOD_O, MOD_GATE, MOD_DOWN, MOD_COUNT};

/* One node's work: its modules' results as they come. */
struct node_work {
    struct chain *c;
    struct run_ctx *r;
    int64_t layer;              /* -1: lm_head */
    int first, end;             /* of the layer's modules */
    struct layer *source;       /* NULL where the node quantizes no whole layer of a walk; else its place is loaded[0] */
    struct layer *l;            /* the same, in loaded[1], its modules replaced as they are quantized: those are its own, the rest is the source's */
    struct layer loaded[2];
    struct hessian acc[SITE_COUNT]; /* zeroed where nothing is quantized, and once used */
    struct qmatrix q[MOD_COUNT];
    json_t *report[MOD_COUNT];
};

static int open_walk(struct chain *c, const struct fileset *files, const char *scratch, struct err *e)
{
    struct calibration *k = &c->calibration;
    int rc = calibration_open(k, files, &c->q->model.config, e);
    if (rc)
        return rc;
    const struct walk_input in = {.ids = k->ids,
                                  .offsets = k->offsets,
                                  .samples = k->samples,
                                  .block_rows = BLOCK_ROWS,
                                  .scratch = scratch,
                                  .native = quantize_two_streams(c->q)};
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

static void evidence_release(struct evidence *v)
{
    free(v->h);
    free(v->pairs);
    *v = (struct evidence){.h = NULL};
}

void quantize_chain_close(struct stage_ctx *s, struct run_ctx *r, void *chain)
{
    (void)s;
    struct chain *c = chain;
    if (!c)
        return;
    evidence_release(&c->evidence);
    metric_close(&c->metric);
    if (c->walk.b)
        layer_free(&c->source, &c->walk.env);
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
    if (quant_params_plain(&row->params))
        return j;
    json_object_set_new(j, "target_shift", json_real(g->target_shift));
    json_object_set_new(j, "negative_scales", json_real(g->negative));
    if (g->refined)
        json_object_set_new(j, "loss_steps", json_pack("{s:f,s:f,s:f,s:f}", "loop", g->steps[0], "codes", g->steps[1], "scales", g->steps[2],
                                                       "codes_again", g->steps[3]));
    return j;
}

/* Quantizes one module and, in a walk, puts the result in the layer's place of the source weight. */
static int quantize_module(struct node_work *n, int m, const struct evidence *v, struct err *e)
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
    float *metric = NULL;
    struct gptq_report g;
    struct gptq_input in = {.name = row->name, .N = N, .K = K, .w = w, .params = &row->params};
    if (v) {
        in.h = v->h;
        in.inputs = v->outputs || row->params.compensate == 0 ? NULL : v->pairs;
        in.outputs = v->outputs ? v->pairs : NULL;
    }
    int rc = model_dequant(model, n->layer, id, w, e);
    model_drop(model, n->layer, id);
    if (!rc && n->c->metric.b)
        rc = metric_finish(&n->c->metric, id, &metric, e);
    in.metric = metric;
    if (!rc)
        rc = gptq_quantize(n->c->b, &in, &n->q[m], NULL, &g, e);
    free(w);
    free(metric);
    if (rc)
        return rc;
    n->report[m] = module_report(row, &g, n->c->walk.tokens);
    if (g.method != row->params.method)
        n->r->note(n->r, "%s: damping exhausted, rounded to nearest instead (fallback: rtn)", row->name);
    if (!n->l)
        return 0;
    struct weight *quantized = NULL;
    rc = wfmt_weight(n->c->b, &n->q[m], &quantized, e);
    if (!rc)
        n->l->w[m] = quantized;
    return rc;
}

/* Ends an accumulator. v is the caller's to release in any case. */
static int finish_evidence(struct hessian *acc, struct evidence *v, struct err *e)
{
    size_t K = (size_t)acc->K, N = (size_t)acc->N;
    v->h = malloc(K * K * sizeof *v->h);
    v->pairs = N ? malloc(N * K * sizeof *v->pairs) : NULL;
    int rc = v->h && (v->pairs || !N) ? hessian_finish(acc, v->h, v->pairs, e)
                                      : err_set(e, ERR_NOMEM, "a Hessian of %lld x %lld", (long long)K, (long long)K);
    hessian_release(acc);
    return rc;
}

static bool writes_stream(enum site site)
{
    return site == SITE_O || site == SITE_DOWN;
}

static int quantize_site(struct node_work *n, enum site site, struct err *e)
{
    if (!n->acc[site].backend)
        return 0;
    struct evidence v = {.outputs = writes_stream(site)};
    int rc = finish_evidence(&n->acc[site], &v, e);
    for (int m = site_first[site]; !rc && m < site_first[site + 1]; m++)
        if (row_of(n, m)->quantized)
            rc = quantize_module(n, m, &v, e);
    evidence_release(&v);
    return rc;
}

/* Starts the accumulators of the sites where something is quantized, with pairs where something there is compensated. */
static int open_hessians(struct node_work *n, enum site first, enum site end, struct err *e)
{
    int rc = 0;
    for (int site = first; !rc && site < (int)end; site++) {
        bool wanted = false, paired = false;
        for (int m = site_first[site]; m < site_first[site + 1]; m++) {
            const struct override_row *row = row_of(n, m);
            wanted |= row->quantized;
            paired |= row->quantized && (row->params.compensate > 0 || (writes_stream((enum site)site) && row->params.compensate_residual > 0));
        }
        int64_t N, K;
        config_module_shape(&n->c->q->model.config, (enum module_id)site_first[site], &N, &K);
        if (wanted)
            rc = hessian_init(&n->acc[site], n->c->b, K, !paired ? 0 : writes_stream((enum site)site) ? N : K, e);
    }
    return rc;
}

static struct hessian *acc_of(struct node_work *n, enum site site)
{
    return n->acc[site].backend ? &n->acc[site] : NULL;
}

static struct walk_pair pair_of(const struct node_work *n, enum module_id m)
{
    const struct quant_params *p = &row_of(n, (int)m)->params;
    return (struct walk_pair){.own = p->compensate, .residual = p->compensate_residual, .bias = n->source->bias[m]};
}

/* The output metrics of a layer's modules first..end; *out: NULL where none wants one. */
static int open_metric(struct chain *c, int64_t layer, int first, int end, struct metric **out, struct err *e)
{
    bool wanted[MOD_COUNT] = {false}, any = false;
    for (int m = first; m < end; m++) {
        const struct override_row *row = quantize_row(c->q, layer, (enum module_id)m);
        wanted[m] = row->quantized && row->params.method == QUANT_GPTQ && row->params.output_metric == METRIC_LOCAL;
        any |= wanted[m] && m != MOD_O && m != MOD_DOWN;
    }
    *out = any ? &c->metric : NULL;
    return any ? metric_open(&c->metric, c->b, &c->q->model, layer, wanted, c->walk.tokens, c->walk.longest, e) : 0;
}

/* The native stream through one half of the layer, and what it tells of the half's modules first..end. */
static int native_half(struct node_work *n, int first, int end, struct err *e)
{
    struct walk *w = &n->c->walk;
    struct metric *metric;
    if (!w->in.native)
        return 0;
    int rc = open_metric(n->c, n->layer, first, end, &metric, e);
    if (rc)
        return rc;
    return first == MOD_Q ? walk_native_attention(w, n->source, metric, e) : walk_native_mlp(w, n->source, metric, e);
}

static int quantize_sites(struct node_work *n, enum site first, enum site second, struct err *e)
{
    int rc = quantize_site(n, first, e);
    return rc ? rc : quantize_site(n, second, e);
}

/* Each half: native stream, inputs of the first site, what it puts out, inputs of the second. With `now` a site is quantized as soon as its Hessian is there and
 * the rest of the half sees it so; else both at the end. */
static int attention_half(struct node_work *n, bool now, struct err *e)
{
    struct walk *w = &n->c->walk;
    const struct walk_pair pair = pair_of(n, MOD_O);
    int rc = native_half(n, MOD_Q, MOD_GATE, e);
    if (!rc)
        rc = open_hessians(n, SITE_QKV, SITE_GATE_UP, e);
    if (!rc)
        rc = walk_attn_norm(w, n->l, acc_of(n, SITE_QKV), e);
    if (!rc && now)
        rc = quantize_site(n, SITE_QKV, e);
    if (!rc)
        rc = walk_attention(w, n->l, NULL, e);
    if (!rc)
        rc = walk_o_input(w, acc_of(n, SITE_O), &pair, e);
    if (!rc && now)
        rc = quantize_site(n, SITE_O, e);
    if (!rc)
        rc = walk_attn_out(w, n->l, e);
    if (!rc && w->in.native)
        rc = walk_native_advance(w, e);
    if (!rc && !now)
        rc = quantize_sites(n, SITE_QKV, SITE_O, e);
    metric_close(&n->c->metric);
    return rc;
}

static int mlp_half(struct node_work *n, bool now, struct err *e)
{
    struct walk *w = &n->c->walk;
    const struct walk_pair pair = pair_of(n, MOD_DOWN);
    int rc = native_half(n, MOD_GATE, MOD_COUNT, e);
    if (!rc)
        rc = open_hessians(n, SITE_GATE_UP, SITE_COUNT, e);
    if (!rc)
        rc = walk_mlp_norm(w, n->l, acc_of(n, SITE_GATE_UP), e);
    if (!rc && now)
        rc = quantize_site(n, SITE_GATE_UP, e);
    if (!rc)
        rc = walk_mlp_act(w, n->l, acc_of(n, SITE_DOWN), &pair, NULL, e);
    if (!rc)
        rc = now ? quantize_site(n, SITE_DOWN, e) : quantize_sites(n, SITE_GATE_UP, SITE_DOWN, e);
    metric_close(&n->c->metric);
    return rc;
}

/* true_sequential: every site on the outputs of those before it as quantized. Else a half's inputs are all taken with the source weights, and the layer is walked
 * again as quantized. Nothing walks behind the last node. */
static int quantize_layer(struct node_work *n, bool now, bool last, struct err *e)
{
    struct walk *w = &n->c->walk;
    int rc = now ? 0 : walk_save(w, e);
    if (!rc)
        rc = attention_half(n, now, e);
    if (!rc)
        rc = mlp_half(n, now, e);
    if (!rc && !now)
        rc = walk_restore(w, e);
    if (!rc && !last)
        rc = now ? walk_mlp_out(w, n->l, e) : walk_layer(w, n->l, e);
    if (!rc && !last && w->in.native)
        rc = walk_native_advance(w, e);
    for (int site = 0; site < SITE_COUNT; site++)
        hessian_release(&n->acc[site]);
    return rc;
}

/* Loads the layer and lends its weights to the copy in which they are replaced. */
static int quantize_loaded(struct node_work *n, bool now, bool last, struct err *e)
{
    struct walk *w = &n->c->walk;
    struct layer *source = &n->loaded[0], *l = &n->loaded[1];
    int rc = layer_load(source, &w->env, &n->c->q->model, n->layer, e);
    if (rc)
        return rc;
    *l = *source;
    n->source = source;
    n->l = l;
    rc = quantize_layer(n, now, last, e);
    for (int m = 0; m < MOD_COUNT; m++)
        if (l->w[m] != source->w[m])
            w->b->ops->weight_free(w->b, l->w[m]);
    layer_free(source, &w->env);
    return rc;
}

static int quantize_head(struct node_work *n, struct err *e)
{
    struct hessian acc = {0};
    struct evidence v = {.h = NULL};
    int64_t K = n->c->q->model.config.hidden;
    int rc = hessian_init(&acc, n->c->b, K, row_of(n, 0)->params.compensate > 0 ? K : 0, e);
    if (!rc)
        rc = walk_head_input(&n->c->walk, &acc, e);
    if (!rc)
        rc = finish_evidence(&acc, &v, e);
    if (!rc)
        rc = quantize_module(n, 0, &v, e);
    evidence_release(&v);
    hessian_release(&acc);
    return rc;
}

/* ---- inputs original ---- */

/* On to the next site of the layer: what must be computed before its inputs are there, and what these and the outputs there tell. h, metric: NULL, or what gathers. */
static int enter_site(struct chain *c, struct hessian *h, struct metric *metric, struct err *e)
{
    struct walk *w = &c->walk;
    const struct layer *l = &c->source;
    int rc = 0;
    switch (c->entered++) {
    case SITE_QKV:
        rc = walk_attn_norm(w, l, h, e);
        return rc ? rc : walk_attention(w, l, metric, e);
    case SITE_O:
        return walk_o_input(w, h, NULL, e);
    case SITE_GATE_UP:
        rc = walk_attn_out(w, l, e);
        if (!rc)
            rc = walk_mlp_norm(w, l, h, e);
        return rc ? rc : walk_mlp_act(w, l, NULL, NULL, metric, e);
    default:
        return walk_down_input(w, h, e);
    }
}

/* Through what is left of the layer. */
static int leave_layer(struct chain *c, struct err *e)
{
    bool whole = !c->entered;
    int rc = whole ? layer_load(&c->source, &c->walk.env, &c->q->model, c->layer, e) : 0;
    if (!rc && whole)
        rc = walk_layer(&c->walk, &c->source, e);
    while (!rc && !whole && c->entered < SITE_COUNT)
        rc = enter_site(c, NULL, NULL, e);
    if (!rc && !whole)
        rc = walk_mlp_out(&c->walk, &c->source, e);
    layer_free(&c->source, &c->walk.env);
    c->entered = 0;
    c->layer++;
    return rc;
}

/* To a layer, or as far as it is inside that layer already; what was gathered is let go. */
static int walk_to(struct chain *c, int64_t layer, struct err *e)
{
    int rc = 0;
    evidence_release(&c->evidence);
    metric_close(&c->metric);
    while (!rc && c->layer < layer)
        rc = leave_layer(c, e);
    return rc;
}

static int gather_site(struct chain *c, int site, struct err *e)
{
    struct hessian acc = {0};
    struct metric *metric;
    int64_t N, K;
    config_module_shape(&c->q->model.config, (enum module_id)site_first[site], &N, &K);
    int rc = hessian_init(&acc, c->b, K, 0, e);
    if (!rc)
        rc = open_metric(c, c->layer, site_first[site], site_first[site + 1], &metric, e);
    if (!rc)
        rc = enter_site(c, &acc, metric, e);
    if (!rc)
        rc = finish_evidence(&acc, &c->evidence, e);
    hessian_release(&acc);
    return rc;
}

/* What was gathered at a site serves every module there; a hit on the way costs nothing, and nothing is gathered for it. */
static int go_to_site(struct chain *c, int64_t layer, int site, struct err *e)
{
    if (c->layer == layer && c->entered == site + 1)
        return 0;
    int rc = walk_to(c, layer, e);
    if (!rc && !c->entered)
        rc = layer_load(&c->source, &c->walk.env, &c->q->model, layer, e);
    while (!rc && c->entered < site)
        rc = enter_site(c, NULL, NULL, e);
    return rc ? rc : gather_site(c, site, e);
}

static int quantize_alone(struct node_work *n, struct err *e)
{
    int site = SITE_COUNT - 1;
    while (site_first[site] > n->first)
        site--;
    int rc = go_to_site(n->c, n->layer, site, e);
    return rc ? rc : quantize_module(n, n->first, &n->c->evidence, e);
}

/* ---- */

/* Method rtn without calibration: no activations. */
static int round_modules(struct node_work *n, struct err *e)
{
    int rc = 0;
    for (int m = n->first; !rc && m < n->end; m++)
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
    for (int m = n->first; m < n->end; m++) {
        if (n->report[m]) {
            list[count++] = (struct layer_module){module_short(n, m), &n->q[m]};
            loss += json_real_value(json_object_get(n->report[m], "loss"));
        }
        json_object_set_new(modules, module_short(n, m), n->report[m] ? json_incref(n->report[m]) : json_pack("{s:b}", "quantized", 0));
    }
    char name[80];
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

static int run_in_walk(struct node_work *n, bool now, bool last, struct err *e)
{
    struct chain *c = n->c;
    bool head = n->layer < 0, original = quantize_original(c->q);
    int64_t layer = head ? c->q->model.config.layers : n->layer;
    int steps = head ? 1 : original ? 8 : (now ? 7 : 11) + (c->walk.in.native ? 2 : 0);
    begin_progress(c, n->r, steps + (original ? 4 * (int)(layer - c->layer) : 0));
    if (!head)
        return original ? quantize_alone(n, e) : quantize_loaded(n, now, last, e);
    int rc = original ? walk_to(c, layer, e) : 0;
    return rc ? rc : quantize_head(n, e);
}

int quantize_run(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, const char *outdir, struct err *e)
{
    struct chain *c = chain;
    const struct quantize_node *at = &c->q->nodes[node];
    struct node_work n = {.c = c, .r = r, .layer = at->layer, .first = at->first, .end = at->end};
    int rc = c->walk.b ? run_in_walk(&n, param_bool(s, "true_sequential"), node + 1 == s->node_count, e) : round_modules(&n, e);
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
            rc = wfmt_weight(c->b, &q, &w, e);
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
    if (!c->walk.b || quantize_original(c->q)) /* the walk catches up where it must */
        return 0;
    begin_progress(c, r, c->walk.in.native ? 8 : 4);
    int rc = layer_load(&layer, &c->walk.env, &c->q->model, (int64_t)node, e);
    if (rc)
        return err_wrap(e, "stage '%s'", s->name);
    if (c->walk.in.native)
        rc = walk_native_layer(&c->walk, &layer, e);
    if (!rc)
        rc = load_quantized(c, &layer, &s->nodes[node].outputs, s->nodes[node].name, e);
    if (!rc)
        rc = walk_layer(&c->walk, &layer, e);
    layer_free(&layer, &c->walk.env);
    return rc ? err_wrap(e, "stage '%s': replay of %s", s->name, s->nodes[node].name) : 0;
}

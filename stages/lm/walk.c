#include "stages/lm/walk.h"

#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"

/* Samples in flight, each with a key/value cache of its own. */
enum { MAX_SAMPLES_IN_FLIGHT = 16 };

/* What a further store of rows may keep in memory: all of a walk together up to this many bytes unless the caller says otherwise, at most a
 * sixteenth of the machine's; the rest goes to scratch. */
static uint64_t memory_left(const struct walk *w)
{
    const struct rowstore *stores[] = {&w->hidden, &w->a, &w->act, &w->saved, &w->native, &w->delta};
    uint64_t limit = 256u << 20, share = io_memory_bytes() / 16, used = 0;
    limit = w->in.memory_bytes ? w->in.memory_bytes : limit < share ? limit : share;
    for (size_t i = 0; i < sizeof stores / sizeof *stores; i++)
        used += stores[i]->mem ? (uint64_t)stores[i]->rows * (uint64_t)stores[i]->cols * sizeof(float) : 0;
    return limit > used ? limit - used : 0;
}

static int step(struct walk *w, int64_t rows, struct err *e)
{
    w->done += (double)rows;
    if (w->progress && w->progress(w->progress_arg, w->done, w->total))
        return err_set(e, ERR_CANCELLED, "stopped");
    return 0;
}

static int open_rows(struct walk *w, struct rowstore *s, int64_t cols, struct err *e)
{
    return s->b ? 0 : rowstore_open(s, w->b, w->tokens, cols, memory_left(w), w->in.scratch, e);
}

static int alloc_floats(struct walk *w, int64_t rows, int64_t cols, float **out, struct err *e)
{
    return w->b->ops->alloc(w->b, (size_t)rows * (size_t)cols * sizeof(float), (void **)out, e);
}

static int open_buffers(struct walk *w, struct err *e)
{
    const struct config *c = &w->model->config;
    int64_t heads = c->heads * c->head_dim, block = w->in.block_rows;
    for (int64_t i = 0; i < w->in.samples; i++) {
        int64_t len = w->in.offsets[i + 1] - w->in.offsets[i];
        w->longest = len > w->longest ? len : w->longest;
    }
    w->block = w->longest > block ? (w->longest + HESSIAN_BLOCK_ROWS - 1) / HESSIAN_BLOCK_ROWS * HESSIAN_BLOCK_ROWS : block;
    w->pos = xcalloc((size_t)w->block, sizeof *w->pos);
    w->kv = xcalloc(MAX_SAMPLES_IN_FLIGHT, sizeof *w->kv);
    int rc = open_rows(w, &w->hidden, c->hidden, e);
    if (!rc)
        rc = alloc_floats(w, w->block, c->hidden, &w->x, e);
    if (!rc)
        rc = alloc_floats(w, w->block, heads > c->hidden ? heads : c->hidden, &w->y, e);
    if (!rc)
        rc = alloc_floats(w, w->block, heads > c->intermediate ? heads : c->intermediate, &w->z, e);
    if (!rc && w->in.native)
        rc = open_rows(w, &w->native, c->hidden, e);
    if (!rc && w->in.native)
        rc = open_rows(w, &w->delta, c->hidden, e);
    return rc || !w->in.native ? rc : alloc_floats(w, w->block, c->hidden, &w->p, e);
}

static int64_t block_at(const struct walk *w, int64_t row)
{
    return w->tokens - row < w->block ? w->tokens - row : w->block;
}

static int embed(struct walk *w, struct err *e)
{
    struct tensor_view table;
    int rc = model_embedding(w->model, &table, e);
    for (int64_t row = 0; !rc && row < w->tokens; row += w->block) {
        int64_t n = block_at(w, row);
        rc = w->b->ops->embed(w->b, w->x, &table, w->in.ids + row, n, e);
        if (!rc)
            rc = rowstore_write(&w->hidden, row, n, w->x, e);
        if (!rc && w->in.native)
            rc = rowstore_write(&w->native, row, n, w->x, e);
    }
    model_drop_embedding(w->model); /* not needed again while the layers are walked */
    return rc;
}

int walk_open(struct walk *w, struct backend *b, const struct model *m, const struct walk_input *in, struct err *e)
{
    *w = (struct walk){.b = b, .model = m, .in = *in, .tokens = in->offsets[in->samples]};
    w->hidden.fd = w->a.fd = w->act.fd = w->saved.fd = w->native.fd = w->delta.fd = -1;
    int rc = open_buffers(w, e);
    if (!rc)
        rc = decoder_env_init(&w->env, b, &m->config, w->longest, e);
    if (!rc)
        rc = embed(w, e);
    if (rc)
        walk_close(w);
    return rc;
}

void walk_close(struct walk *w)
{
    if (!w->b)
        return;
    rowstore_close(&w->hidden);
    rowstore_close(&w->a);
    rowstore_close(&w->act);
    rowstore_close(&w->saved);
    rowstore_close(&w->native);
    rowstore_close(&w->delta);
    float *device[] = {w->x, w->y, w->z, w->p, w->u};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        if (device[i])
            w->b->ops->free(w->b, device[i]);
    for (size_t i = 0; w->kv && i < MAX_SAMPLES_IN_FLIGHT; i++)
        if (w->kv[i])
            w->b->ops->kv_free(w->b, w->kv[i]);
    free(w->kv);
    free(w->pos);
    if (w->env.b)
        decoder_env_release(&w->env);
    *w = (struct walk){.b = NULL};
}

/* In p: what the module at hand, o or down, should add to rows row..row+n. x is used. */
static int pair_rows(struct walk *w, const struct walk_pair *pair, int64_t row, int64_t n, struct err *e)
{
    const struct backend_ops *ops = w->b->ops;
    int64_t hidden = w->model->config.hidden;
    int rc = rowstore_read(&w->native, row, n, w->p, e);
    if (!rc)
        rc = rowstore_read(&w->hidden, row, n, w->x, e);
    if (!rc)
        rc = ops->mix(w->b, w->p, 1, w->x, -1, n * hidden, e);
    if (!rc)
        rc = rowstore_read(&w->delta, row, n, w->x, e);
    for (int64_t i = 0; pair->bias && !rc && i < n; i++)
        rc = ops->mix(w->b, w->x + i * hidden, 1, pair->bias, -1, hidden, e);
    return rc ? rc : ops->mix(w->b, w->p, (float)pair->residual, w->x, (float)pair->own, n * hidden, e);
}

static int add_hessian(struct walk *w, struct hessian *h, const float *x, int64_t rows, struct err *e)
{
    return h ? hessian_add(h, x, h->K, w->p, h->N, rows, e) : 0;
}

typedef int norm_fn(const struct layer *l, const struct decoder_env *env, const float *hidden, float *xn, int64_t M, struct err *e);

static int norm_hessian(struct walk *w, const struct layer *l, norm_fn *norm, struct hessian *h, struct err *e)
{
    int rc = 0;
    for (int64_t row = 0; h && !rc && row < w->tokens; row += w->block) {
        int64_t n = block_at(w, row);
        rc = rowstore_read(&w->hidden, row, n, w->x, e);
        if (!rc)
            rc = norm(l, &w->env, w->x, w->y, n, e);
        if (!rc && h->N)
            rc = rowstore_read(&w->native, row, n, w->p, e);
        if (!rc && h->N)
            rc = norm(l, &w->env, w->p, w->p, n, e);
        if (!rc)
            rc = add_hessian(w, h, w->y, n, e);
        if (!rc)
            rc = step(w, n, e);
    }
    return rc;
}

int walk_attn_norm(struct walk *w, const struct layer *l, struct hessian *h, struct err *e)
{
    return norm_hessian(w, l, layer_attn_norm, h, e);
}

int walk_mlp_norm(struct walk *w, const struct layer *l, struct hessian *h, struct err *e)
{
    return norm_hessian(w, l, layer_mlp_norm, h, e);
}

static int final_norm(const struct layer *l, const struct decoder_env *env, const float *hidden, float *xn, int64_t M, struct err *e)
{
    return env->b->ops->rmsnorm(env->b, xn, hidden, l->attn_norm, M, env->c->hidden, (float)env->c->rms_eps, e);
}

/* A stand-in for a layer, with the final norm in the place of the attention's. */
static int load_final_norm(struct walk *w, struct layer *head, struct err *e)
{
    size_t K = (size_t)w->model->config.hidden;
    float *host = xmalloc(K * sizeof *host);
    *head = (struct layer){.index = -1};
    int rc = model_vector(w->model, "model.norm.weight", (int64_t)K, host, e);
    if (!rc)
        rc = alloc_floats(w, 1, (int64_t)K, &head->attn_norm, e);
    if (!rc)
        rc = w->b->ops->upload(w->b, head->attn_norm, host, K * sizeof *host, e);
    free(host);
    return rc;
}

int walk_head_input(struct walk *w, struct hessian *h, struct err *e)
{
    struct layer head;
    int rc = load_final_norm(w, &head, e);
    if (!rc)
        rc = norm_hessian(w, &head, final_norm, h, e);
    layer_free(&head, &w->env);
    return rc;
}

int walk_finish(struct walk *w, struct rowstore *out, struct err *e)
{
    struct layer head;
    int rc = load_final_norm(w, &head, e);
    for (int64_t row = 0; !rc && row < w->tokens; row += w->block) {
        int64_t n = block_at(w, row);
        rc = rowstore_read(&w->hidden, row, n, w->x, e);
        if (!rc)
            rc = final_norm(&head, &w->env, w->x, w->x, n, e);
        if (!rc)
            rc = rowstore_write(&w->hidden, row, n, w->x, e);
    }
    layer_free(&head, &w->env);
    if (rc)
        return rc;
    *out = w->hidden;
    w->hidden = (struct rowstore){.fd = -1};
    return 0;
}

/* As many whole samples from `first` on as fit a block. */
static int64_t samples_in_block(const struct walk *w, int64_t first)
{
    int64_t n = 1;
    while (n < MAX_SAMPLES_IN_FLIGHT && first + n < w->in.samples && w->in.offsets[first + n + 1] - w->in.offsets[first] <= w->block)
        n++;
    return n;
}

/* Attention of n samples from `first` on, whose hidden rows are in x: its output is left in z. */
static int attend(struct walk *w, const struct layer *l, int64_t first, int64_t n, struct err *e)
{
    const struct config *c = &w->model->config;
    const int64_t *offsets = w->in.offsets + first;
    struct attn_segment seg[MAX_SAMPLES_IN_FLIGHT];
    int64_t rows = offsets[n] - offsets[0];
    int rc = 0;
    for (int64_t i = 0; !rc && i < n; i++) {
        int64_t at = offsets[i] - offsets[0], len = offsets[i + 1] - offsets[i];
        if (!w->kv[i])
            rc = w->b->ops->kv_create(w->b, 1, (int)c->kv_heads, (int)c->head_dim, w->longest, &w->kv[i], e);
        seg[i] = (struct attn_segment){.kv = w->kv[i], .row = at, .rows = len, .pos = 0};
        for (int64_t p = 0; p < len; p++)
            w->pos[at + p] = (int32_t)p;
    }
    if (!rc)
        rc = layer_attn_norm(l, &w->env, w->x, w->y, rows, e);
    return rc ? rc : layer_attention(l, &w->env, w->y, w->z, rows, w->pos, seg, (size_t)n, 0, e);
}

/* The output metrics of q, k, v from n samples that attend has gone through: it left their normed rows in y. */
static int attention_metric(struct walk *w, const struct layer *l, struct metric *metric, int64_t first, int64_t n, struct err *e)
{
    const int64_t *offsets = w->in.offsets;
    int rc = 0;
    for (int64_t i = first; metric && !rc && i < first + n; i++) {
        int64_t at = offsets[i] - offsets[first];
        if (metric_wants(metric, i))
            rc = metric_attention(metric, &w->env, l, w->y + at * w->hidden.cols, offsets[i + 1] - offsets[i], w->pos + at, i, e);
    }
    return rc;
}

int walk_attention(struct walk *w, const struct layer *l, struct metric *metric, struct err *e)
{
    int rc = open_rows(w, &w->a, w->model->config.heads * w->model->config.head_dim, e);
    for (int64_t first = 0, n; !rc && first < w->in.samples; first += n) {
        n = samples_in_block(w, first);
        int64_t row = w->in.offsets[first], rows = w->in.offsets[first + n] - row;
        rc = rowstore_read(&w->hidden, row, rows, w->x, e);
        if (!rc)
            rc = attend(w, l, first, n, e);
        if (!rc)
            rc = rowstore_write(&w->a, row, rows, w->z, e);
        if (!rc)
            rc = attention_metric(w, l, metric, first, n, e);
        if (!rc)
            rc = step(w, rows, e);
    }
    return rc;
}

/* Of rows that a step before has kept. buffer: y or z, as wide as they are. */
static int kept_hessian(struct walk *w, struct rowstore *kept, float *buffer, struct hessian *h, const struct walk_pair *pair, struct err *e)
{
    int rc = 0;
    for (int64_t row = 0; h && !rc && row < w->tokens; row += w->block) {
        int64_t n = block_at(w, row);
        rc = rowstore_read(kept, row, n, buffer, e);
        if (!rc && h->N)
            rc = pair_rows(w, pair, row, n, e);
        if (!rc)
            rc = add_hessian(w, h, buffer, n, e);
        if (!rc)
            rc = step(w, n, e);
    }
    return rc;
}

int walk_o_input(struct walk *w, struct hessian *h, const struct walk_pair *pair, struct err *e)
{
    return kept_hessian(w, &w->a, w->y, h, pair, e);
}

int walk_down_input(struct walk *w, struct hessian *h, struct err *e)
{
    return kept_hessian(w, &w->act, w->z, h, NULL, e);
}

typedef int out_fn(const struct layer *l, const struct decoder_env *env, const float *in, float *hidden, int64_t M, struct err *e);

static int add_output(struct walk *w, const struct layer *l, struct rowstore *from, float *buffer, out_fn *out, struct err *e)
{
    int rc = 0;
    for (int64_t row = 0; !rc && row < w->tokens; row += w->block) {
        int64_t n = block_at(w, row);
        rc = rowstore_read(from, row, n, buffer, e);
        if (!rc)
            rc = rowstore_read(&w->hidden, row, n, w->x, e);
        if (!rc)
            rc = out(l, &w->env, buffer, w->x, n, e);
        if (!rc)
            rc = rowstore_write(&w->hidden, row, n, w->x, e);
        if (!rc)
            rc = step(w, n, e);
    }
    return rc;
}

int walk_attn_out(struct walk *w, const struct layer *l, struct err *e)
{
    return add_output(w, l, &w->a, w->y, layer_attn_out, e);
}

int walk_mlp_out(struct walk *w, const struct layer *l, struct err *e)
{
    return add_output(w, l, &w->act, w->z, layer_mlp_out, e);
}

/* In z: silu(gate) * up of rows row..row+n, whose normed rows are in y; what metric wants of them on the way. */
static int mlp_act(struct walk *w, const struct layer *l, struct metric *metric, int64_t row, int64_t n, struct err *e)
{
    int64_t inner = w->model->config.intermediate;
    if (!metric)
        return layer_mlp_act(l, &w->env, w->y, w->z, n, e);
    int rc = w->u ? 0 : alloc_floats(w, w->block, inner, &w->u, e);
    if (!rc)
        rc = layer_mlp_parts(l, &w->env, w->y, w->z, w->u, n, e);
    if (!rc)
        rc = metric_mlp(metric, w->z, w->u, row, n, e);
    return rc ? rc : w->b->ops->silu_mul(w->b, w->z, w->z, w->u, n, inner, e);
}

int walk_mlp_act(struct walk *w, const struct layer *l, struct hessian *h, const struct walk_pair *pair, struct metric *metric, struct err *e)
{
    int rc = open_rows(w, &w->act, w->model->config.intermediate, e);
    for (int64_t row = 0; !rc && row < w->tokens; row += w->block) {
        int64_t n = block_at(w, row);
        rc = rowstore_read(&w->hidden, row, n, w->x, e);
        if (!rc)
            rc = layer_mlp_norm(l, &w->env, w->x, w->y, n, e);
        if (!rc)
            rc = mlp_act(w, l, metric, row, n, e);
        if (!rc && h && h->N)
            rc = pair_rows(w, pair, row, n, e);
        if (!rc)
            rc = add_hessian(w, h, w->z, n, e);
        if (!rc)
            rc = rowstore_write(&w->act, row, n, w->z, e);
        if (!rc)
            rc = step(w, n, e);
    }
    return rc;
}

static int copy_rows(struct walk *w, struct rowstore *from, struct rowstore *to, struct err *e)
{
    int rc = 0;
    for (int64_t row = 0; !rc && row < w->tokens; row += w->block) {
        int64_t n = block_at(w, row);
        rc = rowstore_read(from, row, n, w->x, e);
        if (!rc)
            rc = rowstore_write(to, row, n, w->x, e);
    }
    return rc;
}

int walk_save(struct walk *w, struct err *e)
{
    int rc = open_rows(w, &w->saved, w->hidden.cols, e);
    return rc ? rc : copy_rows(w, &w->hidden, &w->saved, e);
}

int walk_restore(struct walk *w, struct err *e)
{
    return copy_rows(w, &w->saved, &w->hidden, e);
}

int walk_native_attention(struct walk *w, const struct layer *l, struct metric *metric, struct err *e)
{
    int rc = 0;
    for (int64_t first = 0, n; !rc && first < w->in.samples; first += n) {
        n = samples_in_block(w, first);
        int64_t row = w->in.offsets[first], rows = w->in.offsets[first + n] - row;
        rc = rowstore_read(&w->native, row, rows, w->x, e);
        if (!rc)
            rc = attend(w, l, first, n, e);
        if (!rc)
            rc = layer_out(l, &w->env, MOD_O, w->z, w->p, rows, e);
        if (!rc)
            rc = rowstore_write(&w->delta, row, rows, w->p, e);
        if (!rc)
            rc = attention_metric(w, l, metric, first, n, e);
        if (!rc)
            rc = step(w, rows, e);
    }
    return rc;
}

int walk_native_mlp(struct walk *w, const struct layer *l, struct metric *metric, struct err *e)
{
    int rc = 0;
    for (int64_t row = 0; !rc && row < w->tokens; row += w->block) {
        int64_t n = block_at(w, row);
        rc = rowstore_read(&w->native, row, n, w->x, e);
        if (!rc)
            rc = layer_mlp_norm(l, &w->env, w->x, w->y, n, e);
        if (!rc)
            rc = mlp_act(w, l, metric, row, n, e);
        if (!rc)
            rc = layer_out(l, &w->env, MOD_DOWN, w->z, w->p, n, e);
        if (!rc)
            rc = rowstore_write(&w->delta, row, n, w->p, e);
        if (!rc)
            rc = step(w, n, e);
    }
    return rc;
}

int walk_native_advance(struct walk *w, struct err *e)
{
    int rc = 0;
    for (int64_t row = 0; !rc && row < w->tokens; row += w->block) {
        int64_t n = block_at(w, row);
        rc = rowstore_read(&w->native, row, n, w->x, e);
        if (!rc)
            rc = rowstore_read(&w->delta, row, n, w->p, e);
        if (!rc)
            rc = w->b->ops->add(w->b, w->x, w->p, n * w->hidden.cols, e);
        if (!rc)
            rc = rowstore_write(&w->native, row, n, w->x, e);
    }
    return rc;
}

static int layer_rows(struct walk *w, struct rowstore *stream, const struct layer *l, struct err *e)
{
    int rc = 0;
    for (int64_t first = 0, n; !rc && first < w->in.samples; first += n) {
        n = samples_in_block(w, first);
        int64_t row = w->in.offsets[first], rows = w->in.offsets[first + n] - row;
        rc = rowstore_read(stream, row, rows, w->x, e);
        if (!rc)
            rc = attend(w, l, first, n, e);
        if (!rc)
            rc = layer_attn_out(l, &w->env, w->z, w->x, rows, e);
        if (!rc)
            rc = layer_mlp_norm(l, &w->env, w->x, w->y, rows, e);
        if (!rc)
            rc = layer_mlp_act(l, &w->env, w->y, w->z, rows, e);
        if (!rc)
            rc = layer_mlp_out(l, &w->env, w->z, w->x, rows, e);
        if (!rc)
            rc = rowstore_write(stream, row, rows, w->x, e);
        if (!rc)
            rc = step(w, 4 * rows, e);
    }
    return rc;
}

int walk_layer(struct walk *w, const struct layer *l, struct err *e)
{
    return layer_rows(w, &w->hidden, l, e);
}

int walk_native_layer(struct walk *w, const struct layer *l, struct err *e)
{
    return layer_rows(w, &w->native, l, e);
}

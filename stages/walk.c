#include "stages/walk.h"

#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"

/* Enough rows to keep a matrix product busy; samples in flight, each with a key/value cache of its own. */
enum { BLOCK_ROWS = 8 * HESSIAN_BLOCK_ROWS, MAX_SAMPLES_IN_FLIGHT = 16 };

/* Activations up to this many bytes stay in memory, at most a sixteenth of the machine's; the rest goes to scratch. */
static uint64_t memory_bytes(void)
{
    uint64_t limit = 256u << 20, share = io_memory_bytes() / 16;
    return limit < share ? limit : share;
}

static int step(struct walk *w, int64_t rows, struct err *e)
{
    w->done += (double)rows;
    if (w->r->progress && w->r->progress(w->r, w->done, w->total, "tokens"))
        return err_set(e, ERR_CANCELLED, "stopped");
    return 0;
}

static int check_tensor(const struct st_set *set, const char *name, enum dtype dtype, const void **data, int64_t *count, struct err *e)
{
    const struct st_tensor *t = st_find(set, name);
    if (!t || t->dtype != dtype || t->ndim != 1)
        return err_set(e, ERR_FORMAT, "calibration.safetensors: %s is missing or not %s [n]", name, dtype_name(dtype));
    *data = st_data(set, t);
    *count = t->shape[0];
    return 0;
}

static int open_calibration(struct walk *w, const struct fileset *files, struct err *e)
{
    const struct fileset_file *f = fileset_find(files, "calibration.safetensors");
    if (!f)
        return err_set(e, ERR_NOTFOUND, "the calibration has no calibration.safetensors");
    const void *ids = NULL, *offsets = NULL;
    int64_t n = 0;
    int rc = st_open_file(&w->calibration, f->path, e);
    if (!rc)
        rc = check_tensor(&w->calibration, "input_ids", DT_I32, &ids, &w->tokens, e);
    if (!rc)
        rc = check_tensor(&w->calibration, "offsets", DT_I64, &offsets, &n, e);
    if (rc)
        return rc;
    w->ids = ids;
    w->offsets = offsets;
    w->samples = n - 1;
    if (n < 2 || w->offsets[0] != 0 || w->offsets[n - 1] != w->tokens)
        return err_set(e, ERR_FORMAT, "calibration.safetensors: offsets do not span the %lld ids", (long long)w->tokens);
    for (int64_t i = 0; i < w->samples; i++) {
        int64_t len = w->offsets[i + 1] - w->offsets[i];
        if (len < 1 || len > w->model->config.context)
            return err_set(e, ERR_FORMAT, "calibration sample %lld has %lld tokens; the model's context is %lld", (long long)i, (long long)len,
                           (long long)w->model->config.context);
        w->longest = len > w->longest ? len : w->longest;
    }
    for (int64_t i = 0; i < w->tokens; i++)
        if (w->ids[i] < 0 || w->ids[i] >= w->model->config.vocab_size)
            return err_set(e, ERR_FORMAT, "calibration id %d is outside the model's vocabulary of %lld", w->ids[i], (long long)w->model->config.vocab_size);
    return 0;
}

static int alloc_floats(struct walk *w, int64_t rows, int64_t cols, float **out, struct err *e)
{
    return w->b->ops->alloc(w->b, (size_t)rows * (size_t)cols * sizeof(float), (void **)out, e);
}

static int open_buffers(struct walk *w, struct err *e)
{
    const struct config *c = &w->model->config;
    int64_t heads = c->heads * c->head_dim, wide = heads > c->hidden ? heads : c->hidden;
    uint64_t memory = memory_bytes();
    w->block = w->longest > BLOCK_ROWS ? (w->longest + HESSIAN_BLOCK_ROWS - 1) / HESSIAN_BLOCK_ROWS * HESSIAN_BLOCK_ROWS : BLOCK_ROWS;
    w->pos = xcalloc((size_t)w->block, sizeof *w->pos);
    w->kv = xcalloc(MAX_SAMPLES_IN_FLIGHT, sizeof *w->kv);
    int rc = rowstore_open(&w->hidden, w->b, w->tokens, c->hidden, memory, w->r->scratch, e);
    if (!rc)
        rc = rowstore_open(&w->a, w->b, w->tokens, heads, memory, w->r->scratch, e);
    if (!rc)
        rc = rowstore_open(&w->act, w->b, w->tokens, c->intermediate, memory, w->r->scratch, e);
    if (!rc)
        rc = alloc_floats(w, w->block, c->hidden, &w->x, e);
    if (!rc)
        rc = alloc_floats(w, w->block, wide, &w->y, e);
    if (!rc)
        rc = alloc_floats(w, w->block, c->intermediate, &w->z, e);
    int64_t flight = w->samples < MAX_SAMPLES_IN_FLIGHT ? w->samples : MAX_SAMPLES_IN_FLIGHT;
    for (int64_t i = 0; !rc && i < flight; i++)
        rc = w->b->ops->kv_create(w->b, 1, (int)c->kv_heads, (int)c->head_dim, w->longest, &w->kv[i], e);
    return rc;
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
        rc = w->b->ops->embed(w->b, w->x, &table, w->ids + row, n, e);
        if (!rc)
            rc = rowstore_write(&w->hidden, row, n, w->x, e);
    }
    /* the table's pages are not needed again while the layers are walked */
    static const char *const names[] = {"model.embed_tokens.weight", "lm_head.weight"};
    for (size_t i = 0; i < 2; i++) {
        const struct st_tensor *t = st_find(&w->model->tensors, names[i]);
        if (t)
            st_drop(&w->model->tensors, t);
    }
    return rc;
}

int walk_open(struct walk *w, struct backend *b, const struct model *m, const struct fileset *calibration, struct run_ctx *r, struct err *e)
{
    *w = (struct walk){.b = b, .model = m, .r = r, .hidden.fd = -1, .a.fd = -1, .act.fd = -1, .saved.fd = -1};
    int rc = open_calibration(w, calibration, e);
    if (!rc)
        rc = decoder_env_init(&w->env, b, &m->config, w->longest, e);
    if (!rc)
        rc = open_buffers(w, e);
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
    float *device[] = {w->x, w->y, w->z};
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
    st_close(&w->calibration);
    *w = (struct walk){.b = NULL};
}

static int add_hessian(struct hessian *h, const float *x, int64_t rows, struct err *e)
{
    return h ? hessian_add(h, x, h->K, rows, e) : 0;
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
        if (!rc)
            rc = add_hessian(h, w->y, n, e);
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

int walk_head_input(struct walk *w, struct hessian *h, struct err *e)
{
    struct layer head = {.index = -1};
    int64_t K = w->model->config.hidden;
    const struct st_tensor *t = st_find(&w->model->tensors, "model.norm.weight");
    float *host = t ? malloc((size_t)K * sizeof *host) : NULL;
    int rc = !t ? err_set(e, ERR_NOTFOUND, "the model has no model.norm.weight") : !host ? err_set(e, ERR_NOMEM, "the final norm") : 0;
    if (!rc)
        rc = st_copy_f32(&w->model->tensors, t, host, e);
    if (!rc)
        rc = alloc_floats(w, 1, K, &head.attn_norm, e);
    if (!rc)
        rc = w->b->ops->upload(w->b, head.attn_norm, host, (size_t)K * sizeof *host, e);
    if (!rc)
        rc = norm_hessian(w, &head, final_norm, h, e);
    if (head.attn_norm)
        w->b->ops->free(w->b, head.attn_norm);
    free(host);
    return rc;
}

/* As many whole samples from `first` on as fit a block. */
static int64_t samples_in_block(const struct walk *w, int64_t first)
{
    int64_t n = 1;
    while (n < MAX_SAMPLES_IN_FLIGHT && first + n < w->samples && w->offsets[first + n + 1] - w->offsets[first] <= w->block)
        n++;
    return n;
}

int walk_attention(struct walk *w, const struct layer *l, struct err *e)
{
    int rc = 0;
    float *out = NULL;
    const struct config *c = &w->model->config;
    rc = alloc_floats(w, w->block, c->heads * c->head_dim, &out, e);
    for (int64_t first = 0, n; !rc && first < w->samples; first += n) {
        struct attn_segment seg[MAX_SAMPLES_IN_FLIGHT];
        n = samples_in_block(w, first);
        int64_t row = w->offsets[first], rows = w->offsets[first + n] - row;
        for (int64_t i = 0; i < n; i++) {
            int64_t at = w->offsets[first + i] - row, len = w->offsets[first + i + 1] - w->offsets[first + i];
            seg[i] = (struct attn_segment){.kv = w->kv[i], .row = at, .rows = len, .pos = 0};
            for (int64_t p = 0; p < len; p++)
                w->pos[at + p] = (int32_t)p;
        }
        rc = rowstore_read(&w->hidden, row, rows, w->x, e);
        if (!rc)
            rc = layer_attn_norm(l, &w->env, w->x, w->y, rows, e);
        if (!rc)
            rc = layer_attention(l, &w->env, w->y, out, rows, w->pos, seg, (size_t)n, 0, e);
        if (!rc)
            rc = rowstore_write(&w->a, row, rows, out, e);
        if (!rc)
            rc = step(w, rows, e);
    }
    if (out)
        w->b->ops->free(w->b, out);
    return rc;
}

int walk_o_input(struct walk *w, struct hessian *h, struct err *e)
{
    int rc = 0;
    for (int64_t row = 0; h && !rc && row < w->tokens; row += w->block) {
        int64_t n = block_at(w, row);
        rc = rowstore_read(&w->a, row, n, w->y, e);
        if (!rc)
            rc = add_hessian(h, w->y, n, e);
        if (!rc)
            rc = step(w, n, e);
    }
    return rc;
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

int walk_mlp_act(struct walk *w, const struct layer *l, struct hessian *h, struct err *e)
{
    int rc = 0;
    for (int64_t row = 0; !rc && row < w->tokens; row += w->block) {
        int64_t n = block_at(w, row);
        rc = rowstore_read(&w->hidden, row, n, w->x, e);
        if (!rc)
            rc = layer_mlp_norm(l, &w->env, w->x, w->y, n, e);
        if (!rc)
            rc = layer_mlp_act(l, &w->env, w->y, w->z, n, e);
        if (!rc)
            rc = add_hessian(h, w->z, n, e);
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
    int rc = w->saved.b ? 0 : rowstore_open(&w->saved, w->b, w->tokens, w->hidden.cols, memory_bytes(), w->r->scratch, e);
    return rc ? rc : copy_rows(w, &w->hidden, &w->saved, e);
}

int walk_restore(struct walk *w, struct err *e)
{
    return copy_rows(w, &w->saved, &w->hidden, e);
}

int walk_layer(struct walk *w, const struct layer *l, struct err *e)
{
    int rc = walk_attention(w, l, e);
    if (!rc)
        rc = walk_attn_out(w, l, e);
    if (!rc)
        rc = walk_mlp_act(w, l, NULL, e);
    return rc ? rc : walk_mlp_out(w, l, e);
}

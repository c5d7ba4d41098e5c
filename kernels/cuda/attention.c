/* Attention on the device: checks, and the two ways of answering, by how many rows a segment has. */
#include "kernels/cuda/cuda_state.h"

enum { FEW_ROWS = 8 }; /* a segment of so many rows or fewer is answered in parts side by side */

static int check(const struct attn_args *a, struct err *e)
{
    if (a->kv_heads < 1 || a->heads % a->kv_heads)
        return err_set(e, ERR_SHAPE, "%d query heads are no multiple of %d key heads", a->heads, a->kv_heads);
    for (size_t i = 0; i < a->segment_count; i++) {
        const struct attn_segment *s = &a->segments[i];
        if (s->kv->kv_heads != a->kv_heads || s->kv->head_dim != a->head_dim || a->layer < 0 || a->layer >= s->kv->layers)
            return err_set(e, ERR_SHAPE, "layer %d with %d key heads of %d on a cache of %d layers with %d heads of %d", a->layer, a->kv_heads, a->head_dim,
                           s->kv->layers, s->kv->kv_heads, s->kv->head_dim);
        if (s->pos < 0 || s->rows < 0 || s->pos + s->rows > s->kv->capacity)
            return err_set(e, ERR_SHAPE, "positions %lld to %lld do not fit a KV cache of %lld", (long long)s->pos, (long long)(s->pos + s->rows),
                           (long long)s->kv->capacity);
    }
    return 0;
}

static void add(struct attention_launch *l, const struct attn_args *a, const struct attn_segment *s)
{
    const struct kv_cache *kv = s->kv;
    const int64_t layer = (int64_t)kv->kv_heads * ATTN_BLOCK * kv->head_dim;
    l->seg[l->count++] = (struct cuda_segment){
        .pages = kv->table, .k = a->layer * layer, .v = (kv->layers + a->layer) * layer, .pos = s->pos, .row = (int32_t)s->row, .rows = (int32_t)s->rows};
    l->most_rows = s->rows > l->most_rows ? s->rows : l->most_rows;
    l->most_positions = s->pos + s->rows > l->most_positions ? s->pos + s->rows : l->most_positions;
}

/* Answers what has been gathered, and empties it. */
static int answer(struct cuda_state *s, struct attention_launch *l, bool few, struct err *e)
{
    if (!l->count)
        return 0;
    int rc = cuda_check(s, launch_attention_append(s->stream, l), "keys and values", e);
    if (!rc && few) {
        rc = cuda_reserve(s, &s->partial, attention_partial_floats(l) * sizeof(float), "parts of attention", e);
        l->partial = s->partial.p;
    }
    if (!rc)
        rc = cuda_check(s, few ? launch_attention_split(s->stream, l) : launch_attention_whole(s->stream, l), "attention", e);
    *l = (struct attention_launch){.a = l->a, .halves = l->halves};
    return rc;
}

/* Rows of y, when the segments cover them without a gap; else 0: somebody else made some of them. */
static int64_t rows_of(const struct attn_args *a)
{
    int64_t sum = 0, end = 0;
    for (size_t i = 0; i < a->segment_count; i++) {
        const struct attn_segment *s = &a->segments[i];
        sum += s->rows;
        end = s->row + s->rows > end ? s->row + s->rows : end;
    }
    return sum == end ? sum : 0;
}

int cuda_attention(struct backend *b, const struct attn_args *a, struct cuda_halves *h, struct err *e)
{
    struct cuda_state *s = b->state;
    int rc = check(a, e);
    if (!rc)
        rc = cuda_halves_room(s, rows_of(a), (int64_t)a->heads * a->head_dim, h, e);
    if (rc)
        return rc;
    struct attention_launch l[2] = {{.a = a, .halves = *h}, {.a = a, .halves = *h}}; /* [1]: few rows */
    for (size_t i = 0; i < a->segment_count && !rc; i++) /* before anything is queued: a step that has no memory leaves no trace */
        rc = cuda_kv_reach(s, a->segments[i].kv, a->segments[i].pos + a->segments[i].rows, e);
    for (size_t i = 0; i < a->segment_count && !rc; i++) {
        int few = a->segments[i].rows <= FEW_ROWS;
        if (!a->segments[i].rows)
            continue;
        add(&l[few], a, &a->segments[i]);
        if (l[few].count == ATTN_SEGMENTS)
            rc = answer(s, &l[few], few, e);
    }
    for (int few = 0; few < 2 && !rc; few++)
        rc = answer(s, &l[few], few, e);
    return rc;
}

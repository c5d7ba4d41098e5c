/* Attention on the device: caches, checks, and the two ways of answering, by how many rows a segment has. */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/cuda_state.h"

enum { FEW_ROWS = 8 }; /* a segment of so many rows or fewer is answered in parts side by side */

int cuda_kv_create(struct backend *b, int layers, int kv_heads, int head_dim, int64_t capacity, struct kv_cache **out, struct err *e)
{
    struct cuda_state *s = b->state;
    *out = NULL;
    size_t floats = 0, bytes = 0;
    if (capacity < 1 || __builtin_mul_overflow((size_t)layers * (size_t)kv_heads * (size_t)head_dim, (size_t)capacity, &floats) ||
        __builtin_mul_overflow(floats, sizeof(float), &bytes))
        return err_set(e, ERR_SHAPE, "a KV cache of %d layers, %d heads of %d and %lld positions", layers, kv_heads, head_dim, (long long)capacity);
    if (head_dim > ATTN_MAX_D)
        return err_set(e, ERR_UNSUPPORTED, "heads of %d: the CUDA attention serves up to %d", head_dim, ATTN_MAX_D);
    struct kv_cache *kv = calloc(1, sizeof *kv);
    if (!kv)
        return err_set(e, ERR_NOMEM, "no memory for a KV cache");
    *kv = (struct kv_cache){.layers = layers, .kv_heads = kv_heads, .head_dim = head_dim, .capacity = capacity};
    char what[128];
    snprintf(what, sizeof what, "keys and values of %lld positions (%d layers, %d heads of %d)", (long long)capacity, layers, kv_heads, head_dim);
    int rc = cuda_take(s, bytes, what, (void **)&kv->k, e);
    if (!rc)
        rc = cuda_take(s, bytes, what, (void **)&kv->v, e);
    if (rc)
        cuda_kv_free(b, kv);
    else
        *out = kv;
    return rc;
}

void cuda_kv_free(struct backend *b, struct kv_cache *kv)
{
    (void)b;
    if (!kv)
        return;
    cudaFree(kv->k);
    cudaFree(kv->v);
    free(kv);
}

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
    int64_t at = (int64_t)a->layer * kv->kv_heads * kv->capacity * kv->head_dim;
    l->seg[l->count++] =
        (struct cuda_segment){.k = kv->k + at, .v = kv->v + at, .capacity = kv->capacity, .pos = s->pos, .row = (int32_t)s->row, .rows = (int32_t)s->rows};
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
    *l = (struct attention_launch){.a = l->a};
    return rc;
}

int cuda_attention(struct backend *b, const struct attn_args *a, struct err *e)
{
    struct cuda_state *s = b->state;
    struct attention_launch l[2] = {{.a = a}, {.a = a}}; /* [1]: few rows */
    int rc = check(a, e);
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

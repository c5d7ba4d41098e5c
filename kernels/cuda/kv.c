/* Keys and values in pages: a sequence takes a page of ATTN_BLOCK positions, all layers of it, when it comes to them, and gives its pages back when it ends. So memory is
 * held for positions that there are, not for those that there may be, and the cache is as large as what the device has free. Pages that came back wait for the next
 * sequence, until somebody else needs the memory (cuda_take). */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/cuda_state.h"

enum { KV_RESERVE = 64 }; /* one part in so many of the device's memory is not for pages: the driver loads a kernel when it is first launched, and a product may want more scratch */

static int64_t pages_of(int64_t positions)
{
    return (positions + ATTN_BLOCK - 1) / ATTN_BLOCK;
}

int cuda_kv_create(struct backend *b, int layers, int kv_heads, int head_dim, int64_t capacity, struct kv_cache **out, struct err *e)
{
    struct cuda_state *s = b->state;
    *out = NULL;
    size_t floats = 0, bytes = 0, side = (size_t)layers * (size_t)kv_heads * (size_t)head_dim;
    if (capacity < 1 || __builtin_mul_overflow(side, (size_t)2 * ATTN_BLOCK, &floats) || __builtin_mul_overflow(floats, sizeof(float), &bytes))
        return err_set(e, ERR_SHAPE, "a KV cache of %d layers, %d heads of %d and %lld positions", layers, kv_heads, head_dim, (long long)capacity);
    if (head_dim > ATTN_MAX_D)
        return err_set(e, ERR_UNSUPPORTED, "heads of %d: the CUDA attention serves up to %d", head_dim, ATTN_MAX_D);
    struct kv_cache *kv = calloc(1, sizeof *kv);
    const size_t most = (size_t)pages_of(capacity);
    if (kv)
        *kv = (struct kv_cache){.layers = layers, .kv_heads = kv_heads, .head_dim = head_dim, .capacity = capacity, .page_bytes = bytes, .pages = calloc(most, sizeof *kv->pages)};
    if (!kv || !kv->pages) {
        free(kv);
        return err_set(e, ERR_NOMEM, "no memory for a KV cache");
    }
    int rc = cuda_take(s, most * sizeof *kv->table, "the pages of a KV cache", (void **)&kv->table, e);
    if (rc)
        cuda_kv_free(b, kv);
    else
        *out = kv;
    return rc;
}

void cuda_kv_release(struct cuda_state *s)
{
    while (s->pool.count)
        cuda_drop(s, s->pool.pages[--s->pool.count]);
}

/* A page that is not used any more: kept, if it is of the size that was asked for last. */
static void give_page(struct cuda_state *s, void *page, size_t bytes)
{
    struct kv_pool *p = &s->pool;
    if (bytes == p->page_bytes && p->count == p->cap) {
        const size_t cap = p->cap ? 2 * p->cap : 64;
        void **more = realloc(p->pages, cap * sizeof *more);
        if (more) {
            p->pages = more;
            p->cap = cap;
        }
    }
    if (bytes == p->page_bytes && p->count < p->cap)
        p->pages[p->count++] = page;
    else
        cuda_drop(s, page);
}

void cuda_kv_free(struct backend *b, struct kv_cache *kv)
{
    if (!kv)
        return;
    for (int64_t i = 0; i < kv->count; i++)
        give_page(b->state, kv->pages[i], kv->page_bytes);
    cuda_drop(b->state, kv->table);
    free(kv->pages);
    free(kv);
}

static int take_page(struct cuda_state *s, struct kv_cache *kv, struct err *e)
{
    struct kv_pool *p = &s->pool;
    if (p->page_bytes != kv->page_bytes) {
        cuda_kv_release(s);
        p->page_bytes = kv->page_bytes;
    }
    if (p->count) {
        kv->pages[kv->count++] = p->pages[--p->count];
        return 0;
    }
    char what[128];
    void *page;
    size_t free_bytes = 0, total = 0;
    snprintf(what, sizeof what, "keys and values of positions %lld to %lld (%d layers, %d heads of %d)", (long long)(kv->count * ATTN_BLOCK),
             (long long)((kv->count + 1) * ATTN_BLOCK - 1), kv->layers, kv->kv_heads, kv->head_dim);
    int rc = cuda_check(s, cudaMemGetInfo(&free_bytes, &total), "cudaMemGetInfo", e);
    if (!rc && free_bytes < kv->page_bytes + total / KV_RESERVE)
        return err_set(e, ERR_NOMEM, "cuda:%d has no memory for %s: %zu bytes wanted, %zu of %zu free, %zu of them kept for kernels", s->device, what, kv->page_bytes,
                       free_bytes, total, total / KV_RESERVE);
    if (!rc)
        rc = cuda_take(s, kv->page_bytes, what, &page, e);
    if (!rc)
        kv->pages[kv->count++] = page;
    return rc;
}

int cuda_kv_reach(struct cuda_state *s, struct kv_cache *kv, int64_t positions, struct err *e)
{
    const int64_t before = kv->count;
    int rc = 0;
    while (!rc && kv->count < pages_of(positions))
        rc = take_page(s, kv, e);
    if (kv->count == before)
        return rc;
    int sent = cuda_check(s, cudaMemcpyAsync(kv->table + before, kv->pages + before, (size_t)(kv->count - before) * sizeof *kv->pages, cudaMemcpyHostToDevice, s->stream),
                          "pages of a KV cache", rc ? NULL : e);
    return rc ? rc : sent;
}

/* Attention over a KV cache. A unit of work is a block of up to ATTN_ROWS query rows of one kv head of one segment, a row being a pair (position, query
 * head of the group). All scores of a block are kept: the maximum is exact before the first exp, so a row's result cannot depend on how it is cut. */
#include "kernels/cpu/softmax.h"
#include "kernels/cpu/split.h"
#include "kernels/cpu/tile.h"

static float *keys_of(const struct kv_cache *kv, int layer, int head)
{
    return kv->k + (int64_t)(layer * kv->kv_heads + head) * kv->stride * kv->head_dim;
}

static float *values_of(const struct kv_cache *kv, int layer, int head)
{
    return kv->v + (int64_t)(layer * kv->kv_heads + head) * kv->stride * kv->padded;
}

/* Piece i: kv head i % kv_heads of segment i / kv_heads. */
static void append(void *arg, size_t i)
{
    const struct attn_args *a = ((const struct attention_job *)arg)->a;
    const struct attn_segment *s = &a->segments[i / (size_t)a->kv_heads];
    int head = (int)(i % (size_t)a->kv_heads), D = a->head_dim;
    float *k = keys_of(s->kv, a->layer, head), *v = values_of(s->kv, a->layer, head);
    for (int64_t m = 0; m < s->rows; m++) {
        int64_t pos = s->pos + m, from = ((s->row + m) * a->kv_heads + head) * D;
        float *panel = k + pos / PANEL * PANEL * D + pos % PANEL;
        for (int d = 0; d < D; d++)
            panel[d * PANEL] = a->k[from + d];
        memcpy(v + pos * s->kv->padded, a->v + from, (size_t)D * sizeof *v);
    }
}

/* A block: rows first..first + count - 1 of the (position, head of the group) pairs of a segment. */
struct block {
    const struct attn_args *a;
    const struct attn_segment *s;
    int head;
    int64_t first, base; /* base: position of the first score, a multiple of 16 */
    int count;
    int64_t ld; /* scores a row, a multiple of 16 */
    float *q, *scores, *out;
};

static int64_t row_pos(const struct block *b, int r)
{
    return b->s->pos + (b->first + r) / (b->a->heads / b->a->kv_heads);
}

static int64_t row_start(const struct block *b, int r)
{
    int64_t start = b->a->window > 0 ? row_pos(b, r) + 1 - b->a->window : 0;
    return start > 0 ? start : 0;
}

/* Offset of a row of the block in Q and Y. */
static int64_t row_at(const struct block *b, int r)
{
    int group = b->a->heads / b->a->kv_heads;
    int64_t pair = b->first + r;
    return ((b->s->row + pair / group) * b->a->heads + b->head * group + pair % group) * b->a->head_dim;
}

static void score(struct block *b)
{
    const int D = b->a->head_dim;
    const float *k = keys_of(b->s->kv, b->a->layer, b->head) + b->base * D;
    for (int r = 0; r < b->count; r++)
        memcpy(b->q + r * D, b->a->q + row_at(b, r), (size_t)D * sizeof *b->q);
    struct tile t = {.ldc = b->ld, .x = b->q, .ldx = D, .ldw = PANEL, .K = D, .fresh = true};
    for (int64_t p = 0; p < b->ld / PANEL; p += TILE_PANELS) {
        int panels = b->ld / PANEL - p < TILE_PANELS ? (int)(b->ld / PANEL - p) : TILE_PANELS;
        for (int i = 0; i < panels; i++)
            t.w[i] = k + (p + i) * PANEL * D;
        t.c = b->scores + p * PANEL;
        tile_run(&t, b->count, panels);
    }
}

/* out += p V over positions from..to-1 (from base) for rows r..r + rows - 1. */
static void weigh(const struct block *b, int r, int rows, int64_t from, int64_t to, bool fresh)
{
    const int padded = b->s->kv->padded;
    const float *v = values_of(b->s->kv, b->a->layer, b->head) + (b->base + from) * padded;
    struct tile t = {.ldc = padded, .x = b->scores + r * b->ld + from, .ldx = b->ld, .ldw = padded, .K = to - from, .fresh = fresh};
    for (int d = 0; d < padded; d += TILE_PANELS * PANEL) {
        int panels = (padded - d) / PANEL < TILE_PANELS ? (padded - d) / PANEL : TILE_PANELS;
        for (int i = 0; i < panels; i++)
            t.w[i] = v + d + i * PANEL;
        t.c = b->out + r * padded + d;
        tile_run(&t, rows, panels);
    }
}

static void attend(struct block *b)
{
    const int D = b->a->head_dim, padded = b->s->kv->padded;
    int64_t last = row_pos(b, b->count - 1);
    b->base = row_start(b, 0) / PANEL * PANEL;
    b->ld = round16(last + 1 - b->base);
    float sums[ATTN_ROWS];
    score(b);
    for (int r = 0; r < b->count; r++)
        sums[r] = softmax_row(b->scores + r * b->ld, b->ld, row_start(b, r) - b->base, row_pos(b, r) + 1 - b->base, b->a->scale);
    /* Together as far as the first row sees; what a later row sees beyond that it adds alone, so no row passes over positions that are not its own.
     * (Positions before its window weigh +0, which leaves its +0 as it is.) */
    int64_t common = row_pos(b, 0) + 1 - b->base;
    weigh(b, 0, b->count, 0, common, true);
    for (int r = 0; r < b->count; r++)
        if (row_pos(b, r) + 1 - b->base > common)
            weigh(b, r, 1, common, row_pos(b, r) + 1 - b->base, false);
    for (int r = 0; r < b->count; r++) {
        float *y = b->a->y + row_at(b, r);
        for (int d = 0; d < D; d += PANEL)
            v16_store_n(y + d, v16_div(v16_load(b->out + r * padded + d), v16_set1(sums[r])), v16_lanes(d, D));
    }
}

static int64_t segment_blocks(const struct attn_args *a, const struct attn_segment *s)
{
    return (s->rows * (a->heads / a->kv_heads) + ATTN_ROWS - 1) / ATTN_ROWS;
}

struct attention_run {
    const struct attention_job *j;
    int64_t units;
    _Atomic int64_t next;
};

/* Unit i: blocks of a kv head lie together, so that its keys stay in cache; long rows (the last blocks) come first, to end evenly. */
static void unit(const struct attention_job *j, float *scratch, int64_t i)
{
    const struct attn_args *a = j->a;
    const struct attn_segment *s = a->segments;
    while (i >= segment_blocks(a, s) * a->kv_heads)
        i -= segment_blocks(a, s++) * a->kv_heads;
    int64_t blocks = segment_blocks(a, s), pairs = s->rows * (a->heads / a->kv_heads);
    struct block b = {.a = a, .s = s, .head = (int)(i / blocks), .first = (blocks - 1 - i % blocks) * ATTN_ROWS, .q = scratch};
    b.count = pairs - b.first < ATTN_ROWS ? (int)(pairs - b.first) : ATTN_ROWS;
    b.out = scratch + ATTN_ROWS * round16(a->head_dim);
    b.scores = b.out + ATTN_ROWS * round16(a->head_dim);
    attend(&b);
}

static void lane(void *arg, size_t i)
{
    struct attention_run *r = arg;
    int64_t u;
    while ((u = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed)) < r->units)
        unit(r->j, r->j->scratch + i * r->j->lane_floats, u);
}

void FN(attention_f32)(const struct parallel *par, const struct attention_job *j)
{
    const struct attn_args *a = j->a;
    struct attention_run r = {.j = j};
    int64_t work = 0, rows = 0;
    for (size_t i = 0; i < a->segment_count; i++) {
        r.units += segment_blocks(a, &a->segments[i]) * a->kv_heads;
        work += a->segments[i].rows * (a->segments[i].pos + a->segments[i].rows) * a->heads * a->head_dim / PANEL;
        rows += a->segments[i].rows;
    }
    /* Keys and values are all in place before any query is answered. */
    size_t heads = a->segment_count * (size_t)a->kv_heads;
    bool small = rows * a->kv_heads * a->head_dim < SPLIT_COST;
    for (size_t i = 0; small && i < heads; i++)
        append((void *)(uintptr_t)j, i);
    if (!small)
        par->run(par->ctx, heads, append, (void *)(uintptr_t)j);
    split_run(par, work < SPLIT_COST ? 1 : j->lanes, lane, &r);
}

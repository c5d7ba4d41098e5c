/* Gradients of causal attention. A unit of work is one kv head of one sequence, so that dk and dv have one owner: it goes over the query rows in
 * blocks of ATTN_BACK_ROWS, a row being a pair (position, query head of the group), and keeps all scores of a block as attention does.
 *
 * Keys lie in scratch twice, with positions as lanes for q . k and with dimensions as lanes for dq; values with positions as lanes for dy . v. */
#include "kernels/cpu/softmax.h"
#include "kernels/cpu/split.h"
#include "kernels/cpu/tile.h"

/* Positions at a time for dq, dk and dv: what a chunk needs stays in the first-level cache. Every TILE_ROWS divides it. */
enum { CHUNK = 48 };

/* One kv head of one sequence, and its scratch, in which T is padded to 16. What pads is zero. */
struct unit {
    const struct attn_back_args *a;
    int64_t row, T; /* first row of the sequence; its positions, not padded */
    int head, group, padded;
    float *k_panels, *v_panels; /* [T / 16][D][16] */
    float *k, *dk, *dv;         /* [T][padded] */
    float *q, *dy, *dq;         /* [ATTN_BACK_ROWS][padded] */
    float *p, *ds;              /* [ATTN_BACK_ROWS][ld] */
    int64_t ld;
};

/* Rows first..first + count - 1 of a unit; columns of p and ds are the positions from base on, both multiples of 16. */
struct block {
    int64_t first, base, columns;
    int count;
};

static int64_t row_pos(const struct unit *u, const struct block *b, int r)
{
    return (b->first + r) / u->group;
}

static int64_t row_start(const struct unit *u, const struct block *b, int r)
{
    int64_t start = u->a->window > 0 ? row_pos(u, b, r) + 1 - u->a->window : 0;
    return start > 0 ? start : 0;
}

/* Offset of a row of the block in q, dy and dq. */
static int64_t row_at(const struct unit *u, const struct block *b, int r)
{
    return ((u->row + row_pos(u, b, r)) * u->a->heads + u->head * u->group + (b->first + r) % u->group) * u->a->head_dim;
}

/* Offset of a position in k, v, dk and dv. */
static int64_t kv_at(const struct unit *u, int64_t t)
{
    return ((u->row + t) * u->a->kv_heads + u->head) * u->a->head_dim;
}

/* Cuts an area of scratch into the unit's parts (attention_back_lane_floats in kernels/cpu_backend.c is their sum), packs keys and values. */
static void unit_init(struct unit *u, float *scratch)
{
    const int64_t T = round16(u->T), D = u->a->head_dim, padded = u->padded;
    u->ld = (T / PANEL | 1) * PANEL; /* an odd number of cache lines, so that the rows of a column do not share a few sets */
    u->k_panels = scratch;
    u->v_panels = u->k_panels + T * D;
    u->k = u->v_panels + T * D;
    u->dk = u->k + T * padded;
    u->dv = u->dk + T * padded;
    u->q = u->dv + T * padded;
    u->dy = u->q + ATTN_BACK_ROWS * padded;
    u->dq = u->dy + ATTN_BACK_ROWS * padded;
    u->p = u->dq + ATTN_BACK_ROWS * padded;
    u->ds = u->p + ATTN_BACK_ROWS * u->ld;
    memset(scratch, 0, (size_t)(u->p - scratch) * sizeof *scratch);
    for (int64_t t = 0; t < u->T; t++) {
        const float *k = u->a->k + kv_at(u, t), *v = u->a->v + kv_at(u, t);
        int64_t at = t / PANEL * PANEL * D + t % PANEL;
        for (int64_t d = 0; d < D; d++) {
            u->k_panels[at + d * PANEL] = k[d];
            u->v_panels[at + d * PANEL] = v[d];
        }
        memcpy(u->k + t * padded, k, (size_t)D * sizeof *k);
    }
}

/* out[r][t] = x[r] . panel column t, for all rows and columns of the block. */
static void dots(const struct unit *u, const struct block *b, const float *x, const float *panels, float *out)
{
    const int D = u->a->head_dim;
    struct tile t = {.ldc = u->ld, .x = x, .ldx = u->padded, .ldw = PANEL, .K = D, .fresh = true};
    for (int64_t p = 0; p < b->columns; p += TILE_PANELS * PANEL) {
        int count = b->columns - p < TILE_PANELS * PANEL ? (int)(b->columns - p) / PANEL : TILE_PANELS;
        for (int i = 0; i < count; i++)
            t.w[i] = panels + (b->base + p + i * PANEL) * D;
        t.c = out + p;
        tile_run(&t, b->count, count);
    }
}

/* Row r of the scores to p, and of dp to ds. */
static void softmax_back(const struct unit *u, const struct block *b, int r)
{
    float *p = u->p + r * u->ld, *ds = u->ds + r * u->ld;
    float sum = softmax_row(p, b->columns, row_start(u, b, r) - b->base, row_pos(u, b, r) + 1 - b->base, u->a->scale);
    const v16 inverse = v16_div(v16_set1(1.0f), v16_set1(sum));
    v16 mean = v16_zero();
    for (int64_t i = 0; i < b->columns; i += PANEL) {
        v16 x = v16_mul(v16_load(p + i), inverse);
        v16_store(p + i, x);
        mean = v16_fma(x, v16_load(ds + i), mean);
    }
    mean = v16_set1(v16_sum(mean));
    for (int64_t i = 0; i < b->columns; i += PANEL)
        v16_store(ds + i, v16_mul(v16_load(p + i), v16_sub(v16_load(ds + i), mean)));
}

/* t over all dimensions: c and w point to the first. */
static void over_dims(const struct unit *u, struct tile *t, float *c, const float *w, int rows, bool across)
{
    for (int d = 0; d < u->padded; d += TILE_PANELS * PANEL) {
        int panels = (u->padded - d) / PANEL < TILE_PANELS ? (u->padded - d) / PANEL : TILE_PANELS;
        for (int i = 0; i < panels; i++)
            t->w[i] = w + d + i * PANEL;
        t->c = c + d;
        if (across)
            tile_run_across(t, rows, panels);
        else
            tile_run(t, rows, panels);
    }
}

/* dq = ds k, dk += ds^T q, dv += p^T dy for the block, not yet scaled. A position that a row does not see weighs +0 or -0. */
static void gradients(const struct unit *u, const struct block *b)
{
    for (int64_t i = 0; i < b->columns; i += CHUNK) {
        int n = b->columns - i < CHUNK ? (int)(b->columns - i) : CHUNK;
        int64_t at = (b->base + i) * u->padded;
        struct tile dq = {.ldc = u->padded, .x = u->ds + i, .ldx = u->ld, .ldw = u->padded, .K = n, .fresh = i == 0};
        struct tile dk = {.ldc = u->padded, .x = u->ds + i, .ldx = u->ld, .ldw = u->padded, .K = b->count};
        struct tile dv = {.ldc = u->padded, .x = u->p + i, .ldx = u->ld, .ldw = u->padded, .K = b->count};
        over_dims(u, &dq, u->dq, u->k + at, b->count, false);
        over_dims(u, &dk, u->dk + at, u->q, n, true);
        over_dims(u, &dv, u->dv + at, u->dy, n, true);
    }
}

static void store_row(float *to, const float *from, int D, float scale)
{
    for (int d = 0; d < D; d += PANEL)
        v16_store_n(to + d, v16_mul(v16_load(from + d), v16_set1(scale)), v16_lanes(d, D));
}

static void block_run(const struct unit *u, struct block *b)
{
    const struct attn_back_args *a = u->a;
    const size_t row = (size_t)a->head_dim * sizeof *a->q;
    b->base = row_start(u, b, 0) / PANEL * PANEL;
    b->columns = round16(row_pos(u, b, b->count - 1) + 1 - b->base);
    for (int r = 0; r < b->count; r++) {
        memcpy(u->q + r * u->padded, a->q + row_at(u, b, r), row);
        memcpy(u->dy + r * u->padded, a->dy + row_at(u, b, r), row);
    }
    dots(u, b, u->q, u->k_panels, u->p);
    dots(u, b, u->dy, u->v_panels, u->ds);
    for (int r = 0; r < b->count; r++)
        softmax_back(u, b, r);
    gradients(u, b);
    for (int r = 0; r < b->count; r++)
        store_row(a->dq + row_at(u, b, r), u->dq + r * u->padded, a->head_dim, a->scale);
}

/* Unit i: kv head i % kv_heads of sequence i / kv_heads. */
static void unit_run(const struct attn_back_args *a, float *scratch, int64_t i)
{
    const int64_t *at = a->offsets + i / a->kv_heads;
    struct unit u = {.a = a, .row = at[0], .T = at[1] - at[0], .head = (int)(i % a->kv_heads), .group = a->heads / a->kv_heads};
    u.padded = (int)round16(a->head_dim);
    unit_init(&u, scratch);
    const int64_t rows = u.T * u.group;
    for (struct block b = {.first = 0}; b.first < rows; b.first += ATTN_BACK_ROWS) {
        b.count = rows - b.first < ATTN_BACK_ROWS ? (int)(rows - b.first) : ATTN_BACK_ROWS;
        block_run(&u, &b);
    }
    for (int64_t t = 0; t < u.T; t++) {
        store_row(a->dk + kv_at(&u, t), u.dk + t * u.padded, a->head_dim, a->scale);
        memcpy(a->dv + kv_at(&u, t), u.dv + t * u.padded, (size_t)a->head_dim * sizeof *a->dv);
    }
}

struct attention_back_run {
    const struct attention_back_job *j;
    int64_t units;
    _Atomic int64_t next;
};

static void lane(void *arg, size_t i)
{
    struct attention_back_run *r = arg;
    int64_t u;
    while ((u = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed)) < r->units)
        unit_run(r->j->a, r->j->scratch + i * r->j->lane_floats, u);
}

void FN(attention_back_f32)(const struct parallel *par, const struct attention_back_job *j)
{
    struct attention_back_run r = {.j = j, .units = (int64_t)j->a->sequences * j->a->kv_heads};
    split_run(par, j->lanes, lane, &r);
}

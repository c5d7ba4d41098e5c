/* y = x W^T: one FMA chain over k per output, whatever the path.
 * Few rows (GEMV): weights are unpacked in registers straight from the panels, each byte read once. More rows (GEMM): stretches of a few panels are
 * unpacked to f32 in L1 and the register tile of tile.h runs over all rows; chains are carried from stretch to stretch in memory. */
#include "kernels/cpu/split.h"
#include "kernels/cpu/tile.h"

enum { GEMV_ROWS = 4, GEMM_ROWS = 256, GEMM_K = 128, GEMM_N = TILE_PANELS * PANEL };

/* Weight element k of panel `data`, before scale and bias. */
SIMD_INLINE v16 raw_at(const void *data, int64_t k, const enum wfmt fmt)
{
    switch (fmt) {
    case WFMT_F32:
        return v16_load((const float *)data + k * PANEL);
    case WFMT_F16:
        return v16_load_f16((const uint16_t *)data + k * PANEL);
    case WFMT_BF16:
        return v16_load_bf16((const uint16_t *)data + k * PANEL);
    case WFMT_W4:
        return v16_nibble(v16i_load((const int32_t *)data + (k >> 3) * PANEL), (int)(k & 7));
    case WFMT_W8:
        return v16_from_i(v16i_load_u8((const uint8_t *)data + k * PANEL));
    default:
        return v16_zero();
    }
}

SIMD_INLINE bool is_quantized(const enum wfmt fmt)
{
    return fmt == WFMT_W4 || fmt == WFMT_W8;
}

SIMD_INLINE const char *panel_data(const struct weight *w, int64_t panel, const enum wfmt fmt)
{
    const int64_t row = fmt == WFMT_F32 ? 4 : fmt == WFMT_W8 ? 1 : 2;
    const int64_t bytes = fmt == WFMT_W4 ? (w->K + 7) / 8 * 4 : w->K * row;
    return (const char *)w->data + panel * bytes * PANEL;
}

/* What becomes of a finished chain: bias, the sum with y, and only the outputs that exist. */
SIMD_INLINE void finish(const struct linear_args *a, int64_t row, int64_t panel, v16 sum)
{
    int64_t n = panel * PANEL;
    int lanes = v16_lanes(n, a->w->N);
    float *y = a->y + row * a->ldy + n;
    if (a->bias)
        sum = v16_add(sum, v16_load_n(a->bias + n, lanes));
    if (a->accumulate)
        sum = v16_add(v16_load_n(y, lanes), sum);
    v16_store_n(y, sum, lanes);
}

struct gemv_tile {
    v16 acc[GEMV_ROWS][4], scale[4], bias[4];
    const char *data[4];
};

SIMD_INLINE void gemv_step(struct gemv_tile *t, const struct linear_args *a, int64_t k, v16 *raw, const int rows, const int panels, const enum wfmt fmt)
{
    if (is_quantized(fmt)) {
        SIMD_UNROLL
        for (int p = 0; p < panels; p++)
            raw[p] = v16_fma(raw[p], t->scale[p], t->bias[p]);
    }
    SIMD_UNROLL
    for (int r = 0; r < rows; r++) {
        v16 xk = v16_set1(a->x[r * a->ldx + k]);
        SIMD_UNROLL
        for (int p = 0; p < panels; p++)
            t->acc[r][p] = v16_fma(xk, raw[p], t->acc[r][p]);
    }
}

/* Columns from..to-1, which share a group. */
SIMD_INLINE void gemv_run(struct gemv_tile *t, const struct linear_args *a, int64_t from, int64_t to, const int rows, const int panels, const enum wfmt fmt)
{
    int64_t k = from;
    v16 raw[4];
    if (fmt == WFMT_W4) {
        for (; k < to && k & 7; k++) {
            SIMD_UNROLL
            for (int p = 0; p < panels; p++)
                raw[p] = raw_at(t->data[p], k, fmt);
            gemv_step(t, a, k, raw, rows, panels, fmt);
        }
        for (; k + 8 <= to; k += 8) {
            v16i words[4];
            SIMD_UNROLL
            for (int p = 0; p < panels; p++)
                words[p] = v16i_load((const int32_t *)t->data[p] + (k >> 3) * PANEL);
            SIMD_UNROLL
            for (int i = 0; i < 8; i++) {
                SIMD_UNROLL
                for (int p = 0; p < panels; p++)
                    raw[p] = v16_nibble(words[p], i);
                gemv_step(t, a, k + i, raw, rows, panels, fmt);
            }
        }
    }
    for (; k < to; k++) {
        SIMD_UNROLL
        for (int p = 0; p < panels; p++)
            raw[p] = raw_at(t->data[p], k, fmt);
        gemv_step(t, a, k, raw, rows, panels, fmt);
    }
}

SIMD_INLINE void gemv_panels(const struct linear_args *a, int64_t panel, const int rows, const int panels, const enum wfmt fmt)
{
    const struct weight *w = a->w;
    struct gemv_tile t;
    SIMD_UNROLL
    for (int p = 0; p < panels; p++) {
        t.data[p] = panel_data(w, panel + p, fmt);
        SIMD_UNROLL
        for (int r = 0; r < rows; r++)
            t.acc[r][p] = v16_zero();
    }
    if (is_quantized(fmt)) {
        for (int64_t i = 0; i < w->run_count; i++) {
            int64_t at = (w->run_group[i] * w->panels + panel) * PANEL;
            SIMD_UNROLL
            for (int p = 0; p < panels; p++) {
                t.scale[p] = v16_load(w->scale + at + p * PANEL);
                t.bias[p] = v16_load(w->bias + at + p * PANEL);
            }
            gemv_run(&t, a, w->run_start[i], w->run_start[i + 1], rows, panels, fmt);
        }
    } else {
        gemv_run(&t, a, 0, w->K, rows, panels, fmt);
    }
    SIMD_UNROLL
    for (int p = 0; p < panels; p++) {
        SIMD_UNROLL
        for (int r = 0; r < rows; r++)
            finish(a, r, panel + p, t.acc[r][p]);
    }
}

/* Several panels at once, because one chain alone waits for its own FMA: together they must fill the FMA units' latency and fit the registers. */
SIMD_INLINE void gemv_rows(const struct linear_args *a, int64_t from, int64_t to, const int rows, const enum wfmt fmt)
{
    const int step = SIMD_REGISTERS == 0 ? 1 : rows == 1 ? 4 : SIMD_REGISTERS == 8 && rows > 2 ? 1 : 2;
    int64_t p = from;
    for (; p + step <= to; p += step)
        gemv_panels(a, p, rows, step, fmt);
    for (; p < to; p++)
        gemv_panels(a, p, rows, 1, fmt);
}

SIMD_INLINE void gemv(const struct linear_args *a, int64_t from, int64_t to, const enum wfmt fmt)
{
    if (SIMD_REGISTERS == 0)
        gemv_rows(a, from, to, (int)a->M, fmt);
    else if (a->M == 1)
        gemv_rows(a, from, to, 1, fmt);
    else if (a->M == 2)
        gemv_rows(a, from, to, 2, fmt);
    else if (a->M == 3)
        gemv_rows(a, from, to, 3, fmt);
    else
        gemv_rows(a, from, to, 4, fmt);
}

/* Columns k0..k1-1 of a panel as f32 [k1 - k0][16] at `out`; *run is the run that k0 lies in, and moves on. */
SIMD_INLINE void unpack(const struct weight *w, int64_t panel, int64_t k0, int64_t k1, int64_t *run, float *out, const enum wfmt fmt)
{
    const char *data = panel_data(w, panel, fmt);
    if (!is_quantized(fmt)) {
        for (int64_t k = k0; k < k1; k++)
            v16_store(out + (k - k0) * PANEL, raw_at(data, k, fmt));
        return;
    }
    int64_t i = *run;
    for (int64_t k = k0; k < k1;) {
        while (w->run_start[i + 1] <= k)
            i++;
        int64_t at = (w->run_group[i] * w->panels + panel) * PANEL, end = w->run_start[i + 1] < k1 ? w->run_start[i + 1] : k1;
        v16 scale = v16_load(w->scale + at), bias = v16_load(w->bias + at);
        for (; k < end; k++)
            v16_store(out + (k - k0) * PANEL, v16_fma(raw_at(data, k, fmt), scale, bias));
    }
    *run = i;
}

struct linear_job {
    const struct linear_args *a;
    int64_t pieces, m_tiles, n_tiles;
};

SIMD_INLINE void gemm_tile(const struct linear_job *j, int64_t i, const enum wfmt fmt)
{
    _Alignas(64) float block[TILE_PANELS][GEMM_K * PANEL], carry[GEMM_ROWS * GEMM_N];
    const struct linear_args *a = j->a;
    const struct weight *w = a->w;
    int64_t mt = i / j->n_tiles, panel = i % j->n_tiles * TILE_PANELS;
    int64_t m0 = split_at(a->M, j->m_tiles, mt), rows = split_at(a->M, j->m_tiles, mt + 1) - m0, run = 0;
    int panels = w->panels - panel < TILE_PANELS ? (int)(w->panels - panel) : TILE_PANELS;
    struct tile t = {.c = carry, .ldc = GEMM_N, .ldx = a->ldx, .ldw = PANEL};
    for (int64_t k0 = 0; k0 < w->K || k0 == 0; k0 += GEMM_K) {
        int64_t k1 = k0 + GEMM_K < w->K ? k0 + GEMM_K : w->K, next = run;
        for (int p = 0; p < panels; p++) {
            if (fmt == WFMT_F32) {
                t.w[p] = (const float *)panel_data(w, panel + p, fmt) + k0 * PANEL;
            } else {
                next = run;
                unpack(w, panel + p, k0, k1, &next, block[p], fmt);
                t.w[p] = block[p];
            }
        }
        run = next;
        t.x = a->x + m0 * a->ldx + k0;
        t.K = k1 - k0;
        t.fresh = k0 == 0;
        tile_run(&t, (int)rows, panels);
    }
    for (int64_t r = 0; r < rows; r++)
        for (int p = 0; p < panels; p++)
            finish(a, m0 + r, panel + p, v16_load(carry + r * GEMM_N + p * PANEL));
}

SIMD_INLINE void linear(const struct parallel *par, const struct linear_args *a, void (*gemv_piece)(void *, size_t), void (*gemm_piece)(void *, size_t))
{
    struct linear_job j = {.a = a};
    if (a->M <= 0 || a->w->N <= 0)
        return;
    if (a->M <= GEMV_ROWS) {
        j.pieces = split_pieces(par, (a->w->panels + 3) / 4, a->M * a->w->N * a->w->K / 16);
        split_run(par, j.pieces, gemv_piece, &j);
        return;
    }
    j.n_tiles = (a->w->panels + TILE_PANELS - 1) / TILE_PANELS;
    j.m_tiles = (a->M + GEMM_ROWS - 1) / GEMM_ROWS;
    split_run(par, j.n_tiles * j.m_tiles, gemm_piece, &j);
}

#define LINEAR(name, fmt)                                                                                                                            \
    static void name##_gemv(void *arg, size_t i)                                                                                                     \
    {                                                                                                                                                \
        const struct linear_job *j = arg;                                                                                                            \
        int64_t quads = (j->a->w->panels + 3) / 4, to = 4 * split_at(quads, j->pieces, (int64_t)i + 1);                                              \
        gemv(j->a, 4 * split_at(quads, j->pieces, (int64_t)i), to < j->a->w->panels ? to : j->a->w->panels, fmt);                                    \
    }                                                                                                                                                \
    static void name##_gemm(void *arg, size_t i)                                                                                                     \
    {                                                                                                                                                \
        gemm_tile(arg, (int64_t)i, fmt);                                                                                                             \
    }                                                                                                                                                \
    void FN(name)(const struct parallel *par, const struct linear_args *a)                                                                           \
    {                                                                                                                                                \
        linear(par, a, name##_gemv, name##_gemm);                                                                                                    \
    }

LINEAR(linear_f32_f32, WFMT_F32)
LINEAR(linear_f16_f32, WFMT_F16)
LINEAR(linear_bf16_f32, WFMT_BF16)
LINEAR(linear_w4_f32, WFMT_W4)
LINEAR(linear_w8_f32, WFMT_W8)

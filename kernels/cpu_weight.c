#include "kernels/cpu_weight.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/half.h"

void *cpu_alloc(size_t bytes)
{
    void *p;
    if (bytes > SIZE_MAX - 64 || posix_memalign(&p, 64, (bytes + 63) / 64 * 64 + (bytes == 0) * 64))
        return NULL;
    return memset(p, 0, bytes);
}

void cpu_weight_free(struct weight *w)
{
    if (!w)
        return;
    free(w->data);
    free(w->scale);
    free(w->bias);
    free(w->run_start);
    free(w->run_group);
    free(w);
}

static int no_memory(struct err *e, int64_t N, int64_t K, const char *what)
{
    return err_set(e, ERR_NOMEM, "no memory for a %s weight of %lld x %lld", what, (long long)N, (long long)K);
}

/* An empty weight with room for its panels of panel_bytes; NULL when memory is short. */
static struct weight *weight_new(enum wfmt fmt, int64_t N, int64_t K, int64_t panel_bytes)
{
    struct weight *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    *w = (struct weight){.N = N, .K = K, .panels = (N + PANEL - 1) / PANEL, .fmt = fmt};
    w->bytes = (size_t)(w->panels * panel_bytes);
    w->data = cpu_alloc(w->bytes);
    if (w->data)
        return w;
    cpu_weight_free(w);
    return NULL;
}

int cpu_weight_dense(const struct tensor_view *t, struct weight **out, struct err *e)
{
    *out = NULL;
    if (t->dtype != DT_F32 && t->dtype != DT_F16 && t->dtype != DT_BF16)
        return err_set(e, ERR_UNSUPPORTED, "weights of dtype %s; F32, F16 and BF16 are supported", dtype_name(t->dtype));
    int64_t N = t->rows, K = t->cols;
    enum wfmt fmt = t->dtype == DT_F32 ? WFMT_F32 : t->dtype == DT_F16 ? WFMT_F16 : WFMT_BF16;
    struct weight *w = weight_new(fmt, N, K, K * PANEL * (int64_t)dtype_bytes(t->dtype));
    if (!w)
        return no_memory(e, N, K, dtype_name(t->dtype));
    for (int64_t n = 0; n < N; n++) {
        int64_t at = n / PANEL * K * PANEL + n % PANEL;
        if (fmt == WFMT_F32) {
            const uint32_t *from = (const uint32_t *)t->data + n * K;
            uint32_t *to = (uint32_t *)w->data + at;
            for (int64_t k = 0; k < K; k++)
                to[k * PANEL] = from[k];
        } else {
            const uint16_t *from = (const uint16_t *)t->data + n * K;
            uint16_t *to = (uint16_t *)w->data + at;
            for (int64_t k = 0; k < K; k++)
                to[k * PANEL] = from[k];
        }
    }
    *out = w;
    return 0;
}

/* Stretches of columns with one group; -1 when memory is short. */
static int find_runs(struct weight *w, const struct qwords *q)
{
    int64_t runs = 0;
    for (int64_t k = 0; k < q->K; k++)
        runs += k == 0 || q->g_idx[k] != q->g_idx[k - 1];
    w->run_start = malloc((size_t)(runs + 1) * sizeof *w->run_start);
    w->run_group = malloc((size_t)(runs + 1) * sizeof *w->run_group);
    if (!w->run_start || !w->run_group)
        return -1;
    w->run_count = 0;
    for (int64_t k = 0; k < q->K; k++)
        if (k == 0 || q->g_idx[k] != q->g_idx[k - 1]) {
            w->run_start[w->run_count] = k;
            w->run_group[w->run_count++] = q->g_idx[k];
        }
    w->run_start[w->run_count] = q->K;
    return 0;
}

static int check(const struct qwords *q, struct err *e)
{
    if (q->bits != 2 && q->bits != 3 && q->bits != 4 && q->bits != 8)
        return err_set(e, ERR_UNSUPPORTED, "%d-bit weights; 2, 3, 4 and 8 are supported", q->bits);
    for (int64_t k = 0; k < q->K; k++)
        if (q->g_idx[k] < 0 || q->g_idx[k] >= q->G)
            return err_set(e, ERR_FORMAT, "g_idx[%lld] is %d, but there are %lld groups", (long long)k, (int)q->g_idx[k], (long long)q->G);
    return 0;
}

/* Eight inputs of a panel from the file's words, a word of 4-bit fields each column. Of 4 bits that is the file's word: a panel is 16 columns of its matrix. */
static void put_words(struct weight *w, const struct qwords *q, int64_t r, int64_t n)
{
    const int64_t bit = 8 * r * q->bits, inputs = q->K - 8 * r < 8 ? q->K - 8 * r : 8, used = inputs * q->bits;
    const size_t bytes = (size_t)(q->N - n < PANEL ? q->N - n : PANEL) * sizeof(uint32_t);
    const uint32_t *from = q->words + bit / 32 * q->N + n, keep = used == 32 ? ~0u : (1u << used) - 1u, mask = (1u << q->bits) - 1u;
    uint32_t *to = (uint32_t *)w->data + (n / PANEL * ((q->K + 7) / 8) + r) * PANEL, low[PANEL] = {0}, high[PANEL] = {0};
    memcpy(low, from, bytes);
    if (bit % 32 + used > 32)
        memcpy(high, from + q->N, bytes);
    for (int j = 0; j < PANEL; j++)
        low[j] = (uint32_t)(((uint64_t)high[j] << 32 | low[j]) >> bit % 32) & keep;
    if (q->bits == 4)
        memcpy(to, low, sizeof low);
    for (int k = 0; q->bits < 4 && k < 8; k++)
        for (int j = 0; j < PANEL; j++)
            to[j] |= (low[j] >> k * q->bits & mask) << 4 * k;
}

/* Four inputs of a panel, of 8 bits. */
static void put_bytes(struct weight *w, const struct qwords *q, int64_t r, int64_t n)
{
    uint8_t *to = (uint8_t *)w->data + (n / PANEL * q->K + 4 * r) * PANEL;
    uint32_t row[PANEL] = {0};
    uint8_t bytes[PANEL];
    memcpy(row, q->words + r * q->N + n, (size_t)(q->N - n < PANEL ? q->N - n : PANEL) * sizeof *row);
    for (int k = 0; k < 4 && 4 * r + k < q->K; k++) {
        for (int j = 0; j < PANEL; j++)
            bytes[j] = (uint8_t)(row[j] >> 8 * k);
        memcpy(to + k * PANEL, bytes, sizeof bytes);
    }
}

/* Rows of the file's words by panels: enough rows at a time that a panel gets a run of memory, few enough that each is read as a stream of its own. */
static void pack_codes(struct weight *w, const struct qwords *q)
{
    enum { ROWS = 32 };
    const int64_t rows = q->bits == 8 ? (q->K + 3) / 4 : (q->K + 7) / 8;
    for (int64_t r0 = 0; r0 < rows; r0 += ROWS)
        for (int64_t n = 0; n < q->N; n += PANEL)
            for (int64_t r = r0; r < rows && r < r0 + ROWS; r++)
                (q->bits == 8 ? put_bytes : put_words)(w, q, r, n);
}

int cpu_weight_quantized(const struct qwords *q, struct weight **out, struct err *e)
{
    *out = NULL;
    int code = check(q, e);
    if (code)
        return code;
    bool wide = q->bits == 8;
    struct weight *w = weight_new(wide ? WFMT_W8 : WFMT_W4, q->N, q->K, PANEL * (wide ? q->K : (q->K + 7) / 8 * 4));
    if (!w)
        return no_memory(e, q->N, q->K, "quantized");
    size_t side = (size_t)(q->G * w->panels * PANEL) * sizeof *w->scale;
    w->scale = cpu_alloc(side);
    w->bias = cpu_alloc(side);
    if (!w->scale || !w->bias || find_runs(w, q)) {
        cpu_weight_free(w);
        return no_memory(e, q->N, q->K, "quantized");
    }
    w->bytes += 2 * side;
    for (int64_t g = 0; g < q->G; g++)
        for (int64_t n = 0; n < q->N; n++) {
            float scale = f16_to_f32(q->scales[g * q->N + n]);
            w->scale[g * w->panels * PANEL + n] = scale;
            w->bias[g * w->panels * PANEL + n] = -(scale * (float)q->zeros[g * q->N + n]);
        }
    pack_codes(w, q);
    *out = w;
    return 0;
}

#include "stages/format/layer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/wfmt.h"

static int64_t row_bytes(const struct qmatrix *q)
{
    return (q->K * q->bits + 7) / 8;
}

static void declare(struct st_writer *w, const struct layer_module *m)
{
    char name[256];
    int64_t codes[2] = {m->q->N, row_bytes(m->q)}, grid[2] = {m->q->G, m->q->N};
    snprintf(name, sizeof name, "%s.codes", m->name);
    st_writer_declare(w, name, DT_U8, 2, codes);
    snprintf(name, sizeof name, "%s.g_idx", m->name);
    st_writer_declare(w, name, DT_I32, 1, &m->q->K);
    snprintf(name, sizeof name, "%s.scales", m->name);
    st_writer_declare(w, name, DT_F16, 2, grid);
    snprintf(name, sizeof name, "%s.zeros", m->name);
    st_writer_declare(w, name, DT_U8, 2, grid);
}

static int put(struct st_writer *w, const struct layer_module *m, struct err *e)
{
    char name[256];
    const struct qmatrix *q = m->q;
    size_t bytes = (size_t)(q->N * row_bytes(q)), grid = (size_t)(q->G * q->N);
    uint8_t *packed = malloc(bytes ? bytes : 1);
    if (!packed)
        return err_set(e, ERR_NOMEM, "packed codes of %s (%zu bytes)", m->name, bytes);
    wfmt_pack_rows(q, packed);
    snprintf(name, sizeof name, "%s.codes", m->name);
    int rc = st_writer_put(w, name, packed, bytes, e);
    free(packed);
    snprintf(name, sizeof name, "%s.g_idx", m->name);
    if (!rc)
        rc = st_writer_put(w, name, q->g_idx, (size_t)q->K * sizeof *q->g_idx, e);
    snprintf(name, sizeof name, "%s.scales", m->name);
    if (!rc)
        rc = st_writer_put(w, name, q->scales, grid * sizeof *q->scales, e);
    snprintf(name, sizeof name, "%s.zeros", m->name);
    if (!rc)
        rc = st_writer_put(w, name, q->zeros, grid, e);
    return rc;
}

int layer_write(const char *path, const struct layer_module *m, size_t n, struct err *e)
{
    struct st_writer *w = NULL;
    int rc = st_writer_open(path, false, &w, e);
    if (rc)
        return rc;
    for (size_t i = 0; i < n; i++)
        declare(w, &m[i]);
    for (size_t i = 0; !rc && i < n; i++)
        rc = put(w, &m[i], e);
    int rc2 = st_writer_close(w, rc ? NULL : e);
    return rc ? rc : rc2;
}

/* The tensor NAME.part with exactly this dtype and shape. */
static int find(const struct st_set *set, const char *name, const char *part, enum dtype dtype, int64_t rows, int64_t cols, const void **data, struct err *e)
{
    char full[256];
    snprintf(full, sizeof full, "%s.%s", name, part);
    const struct st_tensor *t = st_find(set, full);
    if (!t)
        return err_set(e, ERR_NOTFOUND, "%s: no tensor %s", set->files[0].name, full);
    int64_t have_rows = t->ndim == 2 ? t->shape[0] : 1, have_cols = t->ndim ? t->shape[t->ndim - 1] : 0;
    if (t->dtype != dtype || have_rows != rows || have_cols != cols)
        return err_set(e, ERR_SHAPE, "%s: %s is %s [%lld,%lld], not %s [%lld,%lld]", set->files[0].name, full, dtype_name(t->dtype), (long long)have_rows,
                       (long long)have_cols, dtype_name(dtype), (long long)rows, (long long)cols);
    *data = st_data(set, t);
    return 0;
}

static int check_values(const struct qmatrix *q, const char *name, struct err *e)
{
    for (int64_t k = 0; k < q->K; k++)
        if (q->g_idx[k] < 0 || q->g_idx[k] >= q->G)
            return err_set(e, ERR_FORMAT, "%s.g_idx[%lld] is %d, outside 0..%lld", name, (long long)k, q->g_idx[k], (long long)q->G - 1);
    return 0;
}

int layer_read(const struct st_set *set, const char *name, int64_t N, int64_t K, int bits, int group_size, bool sym, struct qmatrix *out, struct err *e)
{
    const void *codes = NULL, *scales = NULL, *zeros = NULL, *g_idx = NULL;
    memset(out, 0, sizeof *out);
    if (qmatrix_alloc(out, N, K, bits, group_size))
        return err_set(e, ERR_NOMEM, "codes of %s [%lld,%lld]", name, (long long)N, (long long)K);
    out->sym = sym;
    int rc = find(set, name, "codes", DT_U8, N, row_bytes(out), &codes, e);
    if (!rc)
        rc = find(set, name, "scales", DT_F16, out->G, N, &scales, e);
    if (!rc)
        rc = find(set, name, "zeros", DT_U8, out->G, N, &zeros, e);
    if (!rc)
        rc = find(set, name, "g_idx", DT_I32, 1, K, &g_idx, e);
    if (!rc) {
        wfmt_unpack_rows(out, codes);
        memcpy(out->scales, scales, (size_t)(out->G * N) * sizeof *out->scales);
        memcpy(out->zeros, zeros, (size_t)(out->G * N));
        memcpy(out->g_idx, g_idx, (size_t)K * sizeof *out->g_idx);
        rc = check_values(out, name, e);
    }
    if (rc)
        qmatrix_free(out);
    return rc;
}

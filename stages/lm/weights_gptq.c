#include "stages/lm/weights_gptq.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/wfmt.h"

static int64_t groups_of(int64_t K, int group_size)
{
    return group_size < 0 ? 1 : (K + group_size - 1) / group_size;
}

static int check_part(const struct model *m, const char *module, const char *part, enum dtype dtype, int ndim, int64_t d0, int64_t d1,
                      struct err *e)
{
    const struct st_tensor *t = weights_part(m, module, part);
    const int64_t shape[2] = {d0, d1};
    char name[WEIGHTS_NAME_BYTES + 16];
    snprintf(name, sizeof name, "%s.%s", module, part);
    int rc = weights_check_shape(t, name, ndim, shape, e);
    if (!rc && t->dtype != dtype)
        rc = err_set(e, ERR_UNSUPPORTED, "tensor '%s' is %s; %s is needed", name, dtype_name(t->dtype), dtype_name(dtype));
    return rc;
}

/* Bits that the number of rows of qweight speaks for, 0 when none. */
static int bits_of_rows(int64_t rows, int64_t K)
{
    static const int all[] = {2, 3, 4, 8};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (wfmt_words(K, all[i]) == rows)
            return all[i];
    }
    return 0;
}

int weights_gptq_check(const struct model *m, const char *module, const struct model_module *info, int64_t N, int64_t K, struct err *e)
{
    const struct st_tensor *q = weights_part(m, module, "qweight"), *s = weights_part(m, module, "scales");
    int bits = info->bits, stored = q->ndim == 2 ? bits_of_rows(q->shape[0], K) : 0;
    if (info->group_size == 0)
        return err_set(e, ERR_FORMAT, "%s: group_size is 0", module);
    int64_t G = groups_of(K, info->group_size);
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
        return err_set(e, ERR_UNSUPPORTED, "%s: %d bits; 2, 3, 4 and 8 are read", module, bits);
    if (stored && stored != bits)
        return err_set(e, ERR_SHAPE, "tensor '%s.qweight' is stored in %d bits; quantization_config makes it %d", module, stored, bits);
    if (s && s->ndim == 2 && s->shape[1] == N && s->shape[0] != G)
        return err_set(e, ERR_SHAPE,
                       "tensor '%s.scales' has %" PRId64 " groups; group_size %d of quantization_config and %" PRId64
                       " inputs make it %" PRId64,
                       module, s->shape[0], info->group_size, K, G);
    int rc = check_part(m, module, "qweight", DT_I32, 2, wfmt_words(K, bits), N, e);
    if (!rc)
        rc = check_part(m, module, "qzeros", DT_I32, 2, G, wfmt_words(N, bits), e);
    if (!rc && s &&
        (s->dtype == DT_BF16 || s->dtype == DT_F32)) /* a later conversion of the model; taken when nothing is lost, see read_scales */
        rc = check_part(m, module, "scales", s->dtype, 2, G, N, e);
    else if (!rc)
        rc = check_part(m, module, "scales", DT_F16, 2, G, N, e);
    if (!rc && weights_part(m, module, "g_idx"))
        rc = check_part(m, module, "g_idx", DT_I32, 1, K, 0, e);
    return rc;
}

/* Parts of a struct qwords while they are filled. */
struct tables {
    int32_t *g_idx;
    uint16_t *scales;
    uint8_t *zeros;
};

/* A symmetric module's zero is in the middle, whatever its format makes it store; other values speak for a damaged or mislabelled file. */
static int read_zeros(uint8_t *zeros, const struct qwords *q, const uint32_t *words, bool v2, bool sym, const char *module, struct err *e)
{
    int middle = 1 << (q->bits - 1);
    wfmt_unpack_qzeros(zeros, q->G, q->N, q->bits, v2 || sym ? WFMT_V2 : WFMT_V1, words);
    for (int64_t i = 0; sym && i < q->G * q->N; i++) {
        if (zeros[i] != middle && zeros[i] != middle - 1)
            return err_set(e, ERR_FORMAT,
                           "tensor '%s.qzeros' holds %d for group %" PRId64 ", output %" PRId64 "; a symmetric %d-bit module stores %d",
                           module, zeros[i], i / q->N, i % q->N, q->bits, v2 ? middle : middle - 1);
        zeros[i] = (uint8_t)middle;
    }
    return 0;
}

static int read_scales(uint16_t *scales, const struct qwords *q, const void *data, enum dtype dtype, const char *module, struct err *e)
{
    for (int64_t i = 0; i < q->G * q->N; i++) {
        if (dtype == DT_F16) {
            scales[i] = ((const uint16_t *)data)[i];
        } else {
            float x = dtype == DT_F32 ? ((const float *)data)[i] : bf16_to_f32(((const uint16_t *)data)[i]);
            scales[i] = f32_to_f16(x);
            if (f32_bits(f16_to_f32(scales[i])) != f32_bits(x))
                return err_set(e, ERR_UNSUPPORTED, "tensor '%s.scales': element %" PRId64 " is %g, which F16 cannot hold", module, i,
                               (double)x);
        }
        if ((scales[i] & 0x7c00u) == 0x7c00u)
            return err_set(e, ERR_NUMERIC, "tensor '%s.scales': element %" PRId64 " is %s", module, i, scales[i] & 0x3ffu ? "NaN" : "infinite");
    }
    return 0;
}

static int read_g_idx(int32_t *to, const struct qwords *q, const int32_t *g_idx, const char *module, struct err *e)
{
    for (int64_t k = 0; k < q->K; k++) {
        to[k] = g_idx ? g_idx[k] : q->group_size < 0 ? 0 : (int32_t)(k / q->group_size);
        if (to[k] < 0 || to[k] >= q->G)
            return err_set(e, ERR_FORMAT, "tensor '%s.g_idx': element %" PRId64 " is %d, outside 0..%" PRId64, module, k, to[k], q->G - 1);
    }
    return 0;
}

/* Memory for what is not used as it lies in the map. The sizes are those of tensors that there are: they do not overflow. */
static int alloc_tables(struct qwords *q, struct tables *t, const char *module, struct err *e)
{
    const size_t grid = (size_t)(q->G * q->N), bytes = (size_t)q->K * sizeof *t->g_idx + grid * (sizeof *t->scales + sizeof *t->zeros);
    q->owned = malloc(bytes);
    if (!q->owned)
        return err_set(e, ERR_NOMEM, "%zu bytes for %s", bytes, module);
    q->g_idx = t->g_idx = q->owned;
    q->scales = t->scales = (uint16_t *)(t->g_idx + q->K);
    q->zeros = t->zeros = (uint8_t *)(t->scales + grid);
    return 0;
}

int weights_gptq_read(const struct model *m, const char *module, const struct model_module *info, int64_t N, int64_t K, struct qwords *out,
                      struct err *e)
{
    static const char *const names[] = {"qweight", "qzeros", "scales", "g_idx"};
    const void *data[4] = {NULL};
    enum dtype scales_dtype = DT_F16;
    struct tables t = {.g_idx = NULL};
    int rc = 0;
    *out = (struct qwords){.N = N, .K = K, .G = groups_of(K, info->group_size), .bits = info->bits, .group_size = info->group_size};
    for (int i = 0; i < 4 && !rc; i++) {
        const struct st_tensor *part = weights_part(m, module, names[i]);
        if (part)
            rc = st_data_aligned(&m->tensors, part, &data[i], e);
        if (part && i == 2)
            scales_dtype = part->dtype;
    }
    if (!rc)
        rc = alloc_tables(out, &t, module, e);
    if (rc)
        return rc;
    out->words = data[0];
    rc = read_zeros(t.zeros, out, data[1], m->config.quant.v2, info->sym, module, e);
    if (!rc)
        rc = read_scales(t.scales, out, data[2], scales_dtype, module, e);
    if (!rc)
        rc = read_g_idx(t.g_idx, out, data[3], module, e);
    if (rc)
        qwords_free(out);
    return rc;
}

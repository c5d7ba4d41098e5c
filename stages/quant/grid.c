#include "stages/quant/grid.h"

#include "kernels/half.h"

int64_t grid_groups(int64_t K, int group_size)
{
    return group_size == -1 ? 1 : (K + group_size - 1) / group_size;
}

void grid_dequantize(const struct qmatrix *q, float *w)
{
    for (int64_t n = 0; n < q->N; n++)
        for (int64_t k = 0; k < q->K; k++) {
            int64_t at = q->g_idx[k] * q->N + n;
            w[n * q->K + k] = f16_to_f32(q->scales[at]) * (float)(q->codes[n * q->K + k] - q->zeros[at]);
        }
}

int grid_check(const struct qmatrix *q, struct err *e)
{
    int maxq = (1 << q->bits) - 1;
    for (int64_t i = 0; i < q->G * q->N; i++) {
        float s = f16_to_f32(q->scales[i]), size = s < 0 ? -s : s;
        if (!(size >= 0x1p-14f && size <= 65504.0f))
            return err_set(e, ERR_NUMERIC, "scale %g of group %lld, output %lld is no normal f16 number", (double)s, (long long)(i / q->N),
                           (long long)(i % q->N));
        if (q->zeros[i] < 1 || q->zeros[i] > maxq)
            return err_set(e, ERR_NUMERIC, "zero point %d of group %lld, output %lld is outside 1..%d", q->zeros[i], (long long)(i / q->N),
                           (long long)(i % q->N), maxq);
    }
    for (int64_t i = 0; i < q->N * q->K; i++)
        if (q->codes[i] > maxq)
            return err_set(e, ERR_NUMERIC, "code %d of output %lld, input %lld is above %d", q->codes[i], (long long)(i / q->K),
                           (long long)(i % q->K), maxq);
    for (int64_t k = 0; k < q->K; k++)
        if (q->g_idx[k] < 0 || q->g_idx[k] >= q->G)
            return err_set(e, ERR_NUMERIC, "group %d of input %lld is outside 0..%lld", q->g_idx[k], (long long)k, (long long)q->G - 1);
    return 0;
}

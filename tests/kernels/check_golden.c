/* The bits of class `cpu`: digests of the results of every op of inference, of the sums and gradients of calibration and of drawn tokens, the same on every machine, ISA, number of threads and compiler. When one changes,
 * results in caches are no longer what the kernels make: raise the revisions of the node kinds that run its ops, and then the constant here. */
#include "tests/kernels/util.h"

enum { M = 19, K = 96, N = 70, HEADS = 6, KV_HEADS = 2, D = 16 };

static uint64_t fnv(uint64_t h, const void *p, size_t bytes)
{
    const unsigned char *b = p;
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ b[i]) * 0x100000001b3u;
    return h;
}

static uint64_t linear(struct backend *b, uint64_t h, const float *x, uint64_t *seed)
{
    static float w[N * K], y[M * N];
    struct tensor_view t = {.dtype = DT_F32, .rows = N, .cols = K, .data = w};
    struct qmatrix q = rnd_qmatrix(N, K, 4, 32, true, seed);
    struct weight *dense, *quantized;
    fill(w, N * K, FILL_DENORMAL, seed);
    assert_int_equal(b->ops->weight_dense(b, &t, &dense, NULL), 0);
    assert_int_equal(wfmt_weight(b, &q, &quantized, NULL), 0);
    b->ops->linear(b, y, N, x, K, M, dense, w, false, NULL);
    b->ops->linear(b, y, N, x, K, M, quantized, NULL, true, NULL);
    b->ops->linear(b, y, N, x, K, 1, quantized, NULL, true, NULL);
    b->ops->weight_free(b, dense);
    b->ops->weight_free(b, quantized);
    qmatrix_free(&q);
    return fnv(h, y, sizeof y);
}

static uint64_t all_ops(struct backend *b)
{
    static float x[M * K], y[M * K], k[M * KV_HEADS * D], v[M * KV_HEADS * D], angles[2][M * D / 2];
    int32_t pos[M], target[M], top1[M];
    uint64_t seed = 11, h = 0xcbf29ce484222325u;
    fill(x, M * K, FILL_DENORMAL, &seed);
    fill(k, M * KV_HEADS * D, FILL_PLAIN, &seed);
    fill(v, M * KV_HEADS * D, FILL_DENORMAL, &seed);
    fill(angles[0], M * D, FILL_PLAIN, &seed);
    for (int m = 0; m < M; m++) {
        pos[m] = M - 1 - m;
        target[m] = (m * 7) % K;
    }
    h = linear(b, h, x, &seed);
    b->ops->rmsnorm(b, y, x, x, M, K, 1e-5f, NULL);
    h = fnv(h, y, sizeof y);
    b->ops->rope(b, &(struct rope_args){.q = y, .heads = HEADS, .head_dim = D, .M = M, .cos = angles[0], .sin = angles[1], .pos = pos}, NULL);
    h = fnv(h, y, sizeof y);
    struct attn_segment s = {.rows = M};
    struct attn_args a = {.q = y, .k = k, .v = v, .y = x, .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = D, .window = 9, .scale = 0.25f, .segment_count = 1};
    a.segments = &s;
    assert_int_equal(b->ops->kv_create(b, 1, KV_HEADS, D, M, &s.kv, NULL), 0);
    assert_int_equal(b->ops->attention(b, &a, NULL), 0);
    b->ops->kv_free(b, s.kv);
    h = fnv(h, x, sizeof x);
    b->ops->silu_mul(b, y, x, y, M, K, NULL);
    b->ops->add(b, y, x, M * K, NULL);
    h = fnv(h, y, sizeof y);
    double nll[M];
    struct kl_row kl[M];
    memset(kl, 0, sizeof kl);
    b->ops->nll(b, x, M, K, target, nll, top1, NULL);
    b->ops->kl(b, x, y, M, K, target, kl, NULL);
    h = fnv(fnv(h, nll, sizeof nll), top1, sizeof top1);
    for (int m = 0; m < M; m++) {
        h = fnv(h, &kl[m].nll, sizeof kl[m].nll);
        h = fnv(h, &kl[m].kl, sizeof kl[m].kl);
    }
    return h;
}

/* sample. */
static uint64_t draws(struct backend *b)
{
    enum { ROWS = 200, V = 3001 };
    static float l[ROWS * V];
    struct sample_row rows[ROWS];
    int32_t ids[ROWS];
    uint64_t seed = 13;
    for (int i = 0; i < ROWS * V; i++)
        l[i] = 9 * rnd_f32(&seed) * rnd_f32(&seed) + (float)(rnd(&seed) % 50 == 0);
    for (int m = 0; m < ROWS; m++)
        rows[m] = (struct sample_row){m % 10 * 0.2, 1 - m % 4 * 0.1, (double)(rnd(&seed) >> 11) * 0x1p-53};
    assert_int_equal(b->ops->sample(b, l, ROWS, V, rows, ids, NULL), 0);
    return fnv(0xcbf29ce484222325u, ids, sizeof ids);
}

/* hessian, cross, rmsnorm_back, silu_back, attention_back. */
static uint64_t calibration_ops(struct backend *b)
{
    enum { ROWS = 2 * HESSIAN_BLOCK_ROWS + 5, IN = 50, OUT = 30, ONE = M * HEADS * D, KV = M * KV_HEADS * D };
    static float x[ROWS * IN], y[ROWS * OUT], in[3 * ONE + 2 * KV], out[ONE + 2 * KV];
    static double sums[IN * IN + IN * OUT];
    static const int64_t offsets[] = {0, 2, M};
    uint64_t seed = 12, h = 0xcbf29ce484222325u;
    fill(x, ROWS * IN, FILL_DENORMAL, &seed);
    fill(y, ROWS * OUT, FILL_PLAIN, &seed);
    fill(in, 3 * ONE + 2 * KV, FILL_DENORMAL, &seed);
    memset(sums, 0, sizeof sums);
    assert_int_equal(b->ops->hessian(b, sums, x, IN, ROWS, IN, 0, NULL), 0);
    assert_int_equal(b->ops->cross(b, sums + IN * IN, x, IN, IN, y, OUT, OUT, ROWS, 0, NULL), 0);
    h = fnv(h, sums, sizeof sums);
    float *q = in, *dy = q + ONE, *z = dy + ONE, *k = z + ONE, *v = k + KV;
    struct attn_back_args a = {.q = q, .dy = dy, .k = k, .v = v, .dq = out, .dk = out + ONE, .dv = out + ONE + KV, .heads = HEADS, .kv_heads = KV_HEADS};
    a.head_dim = D;
    a.window = 9;
    a.scale = 0.25f;
    a.offsets = offsets;
    a.sequences = 2;
    assert_int_equal(b->ops->attention_back(b, &a, NULL), 0);
    h = fnv(h, out, sizeof out);
    b->ops->rmsnorm_back(b, dy, q, z, M, HEADS * D, 1e-5f, NULL);
    b->ops->silu_back(b, q, z, ONE, NULL);
    return fnv(h, in, sizeof in);
}

static void golden(void **state)
{
    (void)state;
    for (int isa = ISA_SCALAR; isa <= (int)isa_best(); isa++)
        for (int t = 1; t <= 3; t++) {
            struct rig r = rig_new((enum isa)isa, t);
            uint64_t h = all_ops(r.b);
            if (h != 0x59e41220f3b4725)
                fail_msg("%s, %d threads: digest 0x%llx", isa_name((enum isa)isa), t, (unsigned long long)h);
            h = calibration_ops(r.b);
            if (h != 0xc4e2d1c1dfc36378)
                fail_msg("%s, %d threads: digest of calibration 0x%llx", isa_name((enum isa)isa), t, (unsigned long long)h);
            h = draws(r.b);
            if (h != 0x7efe69269b45b75d)
                fail_msg("%s, %d threads: digest of draws 0x%llx", isa_name((enum isa)isa), t, (unsigned long long)h);
            rig_free(&r);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden),
    };
    return cmocka_run_group_tests_name("golden", tests, NULL, NULL);
}

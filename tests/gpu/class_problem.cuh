/* Problems for the checks of a kernel class (check_class.cuh, which includes this): a matrix with its X and their f64 product, a launch of it, and how far from right the result
 * is. The product is computed by a plain kernel from the codes as the checkpoint has them. */
#include <float.h>

extern "C" {
#include "kernels/wfmt.h"
}

enum { GUARD = 4096, X_ROWS = 1024, SUM_TILE = 16 };

/* ---- device side of the checks ---- */

static __device__ double act_to_f64(int bf16, uint16_t h)
{
    if (bf16)
        return __uint_as_float((uint32_t)h << 16);
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

struct reference {
    const uint8_t *codes, *zeros;  /* [N,K], [G,N] */
    const uint16_t *scales, *x;    /* [G,N] f16, [M,K] */
    const int32_t *g_idx;
    int M, N, K, bf16;
    double *out, *sizes;           /* [M,N]: sums of x w and of |x w| */
};

static __global__ void reference_kernel(const struct reference r)
{
    __shared__ double w[SUM_TILE][SUM_TILE + 1], x[SUM_TILE][SUM_TILE + 1];
    const int tx = threadIdx.x % SUM_TILE, ty = threadIdx.x / SUM_TILE, n0 = blockIdx.x * SUM_TILE, m0 = blockIdx.y * SUM_TILE;
    double sum = 0, size = 0;
    for (int k0 = 0; k0 < r.K; k0 += SUM_TILE) {
        const int k = k0 + tx, n = n0 + ty, m = m0 + ty;
        double v = 0;
        if (k < r.K && n < r.N) {
            const size_t at = (size_t)r.g_idx[k] * r.N + n;
            v = act_to_f64(0, r.scales[at]) * ((double)r.codes[(size_t)n * r.K + k] - (double)r.zeros[at]);
        }
        w[ty][tx] = v;
        x[ty][tx] = k < r.K && m < r.M ? act_to_f64(r.bf16, r.x[(size_t)m * r.K + k]) : 0.0;
        __syncthreads();
        for (int i = 0; i < SUM_TILE; i++) {
            sum += x[ty][i] * w[tx][i];
            size += fabs(x[ty][i] * w[tx][i]);
        }
        __syncthreads();
    }
    if (m0 + ty < r.M && n0 + tx < r.N) {
        r.out[(size_t)(m0 + ty) * r.N + n0 + tx] = sum;
        r.sizes[(size_t)(m0 + ty) * r.N + n0 + tx] = size;
    }
}

/* Two measures of a row: error[m].raw = ||y - ref|| / ||ref||, and error[m].excess, the same of what is left of each difference when the roundings that the kernel is
 * allowed are taken off: half a unit in the last place of Y's type, and `weights` * sum |x w| for weights rounded to the activations' type. The second holds for any N; the
 * first only where there are enough columns, for over three of them the sums may all happen to cancel. bias and start are what was to be added. */
struct errors {
    double raw, excess;
};

struct compare {
    const void *y;
    const double *ref, *sizes;
    const float *bias;
    float start;
    int64_t ldy;
    int N, y_f32, bf16;
    double weights;
    struct errors *error;
};

/* Half a unit in the last place of v in the type. */
static __device__ double half_unit(int bf16, double v)
{
    int e;
    frexp(v, &e); /* |v| in [2^(e-1), 2^e) */
    return bf16 ? ldexp(1.0, e - 9) : ldexp(1.0, (e < -13 ? -13 : e) - 12);
}

static __device__ double block_sum(double v)
{
    __shared__ double part[256];
    part[threadIdx.x] = v;
    for (int i = 128; i > 0; i /= 2) {
        __syncthreads();
        if (threadIdx.x < i)
            part[threadIdx.x] += part[threadIdx.x + i];
    }
    __syncthreads();
    v = part[0];
    __syncthreads();
    return v;
}

static __global__ void compare_kernel(const struct compare c)
{
    double raw = 0, excess = 0, norm = 0;
    for (int n = threadIdx.x; n < c.N; n += 256) {
        const int64_t at = blockIdx.x * c.ldy + n;
        const size_t i = (size_t)blockIdx.x * c.N + n;
        const double want = c.ref[i] + (c.bias ? (double)c.bias[n] : 0.0) + c.start;
        const double off = fabs((c.y_f32 ? ((const float *)c.y)[at] : act_to_f64(c.bf16, ((const uint16_t *)c.y)[at])) - want);
        const double more = off - (c.y_f32 ? 0.0 : half_unit(c.bf16, want)) - c.weights * c.sizes[i];
        raw += off * off;
        excess += more <= 0 ? 0.0 : more * more;
        norm += want * want;
    }
    raw = block_sum(raw);
    excess = block_sum(excess);
    norm = block_sum(norm);
    if (threadIdx.x == 0)
        c.error[blockIdx.x] = {sqrt(raw / norm), sqrt(excess / norm)};
}

/* Counts bytes of [at, at + n) that are not `byte`, of every row of `stride` when rows > 1. */
static __global__ void count_other_kernel(const uint8_t *at, size_t n, size_t stride, uint8_t byte, unsigned long long *count)
{
    const uint8_t *row = at + blockIdx.y * stride;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        if (row[i] != byte)
            atomicAdd(count, 1ull);
}

static __global__ void count_different_kernel(const uint8_t *a, const uint8_t *b, size_t n, unsigned long long *count)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        if (a[i] != b[i])
            atomicAdd(count, 1ull);
}

static unsigned long long *counter;
static uint64_t seed = 20;

static unsigned long long counted(void)
{
    unsigned long long n;
    CUDA(cudaGetLastError());
    CUDA(cudaMemcpy(&n, counter, sizeof n, cudaMemcpyDeviceToHost));
    CUDA(cudaMemset(counter, 0, sizeof n));
    gpu_watch(0);
    return n;
}

static unsigned long long different(const void *a, const void *b, size_t n)
{
    count_different_kernel<<<256, 256>>>((const uint8_t *)a, (const uint8_t *)b, n, counter);
    return counted();
}

/* ---- problems ---- */

struct problem {
    int64_t N, K;
    int bits, group, max_rows;
    bool scattered, one_zero, negative;
    float scale;          /* the largest */
    enum marlin_act act;
    struct packed packed;
    uint16_t *x;          /* device [max_rows, ldx], gathered */
    int64_t ldx;
    double *ref, *sizes;  /* device [max_rows, N] */
    float *bias;          /* device */
};

static uint16_t host_act(enum marlin_act act, float v)
{
    return act == MARLIN_BF16 ? f32_to_bf16(v) : f32_to_f16(v);
}

static void draw_matrix(const struct problem *p, struct qmatrix *q)
{
    if (qmatrix_alloc(q, p->N, p->K, p->bits, p->group)) {
        printf("Bail out! no memory for a matrix\n");
        exit(1);
    }
    const uint8_t mask = (uint8_t)((1 << p->bits) - 1);
    for (int64_t i = 0; i < p->N * p->K; i++)
        q->codes[i] = (uint8_t)(draw_at(seed, (uint64_t)i / 8) >> i % 8 * 8) & mask;
    for (int64_t i = 0; i < q->G * p->N; i++) {
        float s = p->scale * draw_f32(seed + 1, (uint64_t)i);
        q->scales[i] = f32_to_f16(p->negative ? -fabsf(s) : s);
        q->zeros[i] = (uint8_t)(p->one_zero ? 1 << (p->bits - 1) : 1 + draw_at(seed + 2, (uint64_t)i) % mask);
    }
    for (int64_t k = 0; k < p->K; k++)
        q->g_idx[k] = (int32_t)(p->scattered ? (int64_t)(draw_at(seed + 3, (uint64_t)k) % (uint64_t)q->G) : p->group == -1 ? 0 : k / p->group);
    seed += 16;
}

/* X in the activations' type, its gathered form, and the reference. */
static void make_x(struct problem *p, const struct qmatrix *q, const int32_t *perm)
{
    const int64_t rows = p->max_rows, n = rows * p->K;
    uint16_t *x = (uint16_t *)malloc((size_t)n * 2);
    for (int64_t i = 0; i < n; i++)
        x[i] = host_act(p->act, draw_f32(seed, (uint64_t)i) + 0.1f);
    float *bias = (float *)malloc((size_t)p->N * 4);
    for (int64_t i = 0; i < p->N; i++)
        bias[i] = draw_f32(seed + 1, (uint64_t)i);
    seed += 16;
    p->bias = (float *)device_copy(bias, (size_t)p->N * 4);
    uint16_t *plain = (uint16_t *)device_copy(x, (size_t)n * 2);
    const int64_t Kx = class_Kx(&p->packed);
    p->ldx = (Kx + 7) / 8 * 8 + 8;
    p->x = (uint16_t *)device_alloc((size_t)(rows * p->ldx) * 2);
    CUDA(cudaMemset(p->x, 0xff, (size_t)(rows * p->ldx) * 2)); /* NaN past Kx */
    struct err e;
    struct marlin_gather g = {plain, p->K, rows, p->K, Kx, perm, false, p->act, p->x, p->ldx};
    OURS(marlin_gather(&g, NULL, &e), e);
    struct reference r = {(uint8_t *)device_copy(q->codes, (size_t)(p->N * p->K)), (uint8_t *)device_copy(q->zeros, (size_t)(q->G * p->N)),
                          (uint16_t *)device_copy(q->scales, (size_t)(q->G * p->N) * 2), plain, (int32_t *)device_copy(q->g_idx, (size_t)p->K * 4), (int)rows, (int)p->N,
                          (int)p->K, p->act == MARLIN_BF16, NULL, NULL};
    r.out = p->ref = (double *)device_alloc((size_t)(rows * p->N) * 8);
    r.sizes = p->sizes = (double *)device_alloc((size_t)(rows * p->N) * 8);
    reference_kernel<<<dim3((unsigned)((p->N + SUM_TILE - 1) / SUM_TILE), (unsigned)((rows + SUM_TILE - 1) / SUM_TILE)), SUM_TILE * SUM_TILE>>>(r);
    CUDA(cudaGetLastError());
    CUDA(cudaDeviceSynchronize());
    CUDA(cudaFree((void *)r.codes));
    CUDA(cudaFree((void *)r.zeros));
    CUDA(cudaFree((void *)r.scales));
    CUDA(cudaFree((void *)r.g_idx));
    CUDA(cudaFree(plain));
    free(x);
    free(bias);
}

static void problem_make(struct problem *p)
{
    struct qmatrix q;
    struct qwords words;
    struct err e;
    int32_t *perm;
    draw_matrix(p, &q);
    OURS(wfmt_pack(&q, &words, &e), e);
    class_pack(&words, &p->packed, &perm);
    qwords_free(&words);
    make_x(p, &q, perm);
    if (perm)
        CUDA(cudaFree(perm));
    qmatrix_free(&q);
}

static void problem_free(struct problem *p)
{
    class_free(&p->packed);
    CUDA(cudaFree(p->x));
    CUDA(cudaFree(p->ref));
    CUDA(cudaFree(p->sizes));
    CUDA(cudaFree(p->bias));
}

/* ---- running ---- */

struct output {
    uint8_t *all;       /* GUARD bytes, [M, ldy], GUARD bytes */
    void *y;
    int64_t ldy;
    size_t bytes;
};

/* aligned: rows that four outputs can be stored to at once. */
static struct output output_as(const struct problem *p, int64_t M, bool y_f32, bool aligned)
{
    struct output o;
    o.ldy = aligned ? (p->N + 3) / 4 * 4 : p->N + 5;
    o.bytes = (size_t)(M * o.ldy) * (y_f32 ? 4 : 2);
    o.all = (uint8_t *)device_alloc(o.bytes + 2 * GUARD);
    o.y = o.all + GUARD;
    CUDA(cudaMemset(o.all, 0xff, o.bytes + 2 * GUARD)); /* NaN wherever nothing is written */
    return o;
}

static struct output output_new(const struct problem *p, int64_t M, bool y_f32)
{
    return output_as(p, M, y_f32, false);
}

static bool guards_hold(const struct output *o, const struct problem *p, int64_t M, bool y_f32)
{
    size_t each = y_f32 ? 4 : 2;
    count_other_kernel<<<4, 256>>>(o->all, GUARD, 0, 0xff, counter);
    count_other_kernel<<<4, 256>>>(o->all + GUARD + o->bytes, GUARD, 0, 0xff, counter);
    if (o->ldy > p->N)
        count_other_kernel<<<dim3(1, (unsigned)M), 32>>>((uint8_t *)o->y + (size_t)p->N * each, (size_t)(o->ldy - p->N) * each, (size_t)o->ldy * each, 0xff, counter);
    return counted() == 0;
}

static struct class_call call_of(const struct problem *p, int64_t M, const struct output *o, bool y_f32)
{
    struct class_call c = {};
    c.act = p->act;
    c.x = p->x;
    c.ldx = p->ldx;
    c.M = M;
    c.y = o->y;
    c.ldy = o->ldy;
    c.y_f32 = y_f32;
    return c;
}

static unsigned patience = 20; /* seconds that a launch may take */

static const char *act_name(enum marlin_act act)
{
    return act == MARLIN_BF16 ? "bf16" : "f16";
}

/* finish, or whatever waits for the launch, takes the alarm back. */
static void launch(const struct problem *p, const struct config *c, const struct class_call *call, cudaStream_t stream)
{
    char text[128];
    struct err e;
    class_text(c, text, sizeof text);
    snprintf(gpu_where, sizeof gpu_where, "N=%lld K=%lld %d bits group %d %s%s%s, M=%lld, Y %s of rows of %lld%s%s%s%s, %s", (long long)p->N, (long long)p->K, p->bits, p->group,
             act_name(p->act), p->scattered ? " act-order" : "", p->one_zero ? "" : " zeros", (long long)call->M, call->y_f32 ? "f32" : "16 bits", (long long)call->ldy,
             call->bias ? ", bias" : "", call->accumulate ? ", added to" : "", call->halves ? ", halves" : "", call->pdl ? ", pdl" : "", text);
    gpu_watch(patience);
    OURS(class_launch(&p->packed, c, call, stream, &e), e);
}

static void finish(void)
{
    CUDA(cudaDeviceSynchronize());
    gpu_watch(0);
}

/* Larger, or NaN. */
static void keep_worst(double *most, double v)
{
    if (!(v <= *most))
        *most = v;
}

/* What a rounded weight is off by at most, relative: one rounding of 11 bits, or (bf16) of the scale and of the product to 8. */
static double weight_rounding(enum marlin_act act, bool exact)
{
    return exact ? 0 : act == MARLIN_BF16 ? 0x1.01p-7 : 0x1p-11;
}

static int64_t first_bad; /* row of the last comparison whose error is no number, or is the worst */

/* The worst row's errors; infinity when something is wrong with the bytes around. */
static struct errors worst(const struct problem *p, const struct output *o, int64_t M, bool exact, bool y_f32, bool bias, float start)
{
    static struct errors errors[X_ROWS];
    struct errors *error = (struct errors *)device_alloc((size_t)M * sizeof *error), most = {0, 0};
    struct compare c = {o->y, p->ref, p->sizes, bias ? p->bias : NULL, start, o->ldy, (int)p->N, y_f32, p->act == MARLIN_BF16, weight_rounding(p->act, exact), error};
    compare_kernel<<<(unsigned)M, 256>>>(c);
    CUDA(cudaGetLastError());
    CUDA(cudaMemcpy(errors, error, (size_t)M * sizeof *error, cudaMemcpyDeviceToHost));
    CUDA(cudaFree(error));
    first_bad = 0;
    for (int64_t m = 0; m < M; m++) {
        if (!(errors[m].excess <= most.excess) && most.excess == most.excess)
            first_bad = m;
        keep_worst(&most.raw, errors[m].raw);
        keep_worst(&most.excess, errors[m].excess);
    }
    if (!guards_hold(o, p, M, y_f32))
        most.raw = most.excess = (double)INFINITY;
    return most;
}

/* Sums in f32 stay far under the roundings of weights (in tiles that round them) and of Y; Marlin's bf16 takes codes as 128 + q, which costs four bits of the sums. Raw errors never pass what
 * marlin.h and machete.h promise. */
static double sum_bound(enum marlin_act act)
{
    return act == MARLIN_BF16 ? 5e-4 : 5e-5;
}

static double raw_bound(enum marlin_act act, bool exact, bool y_f32)
{
    return exact && y_f32 ? sum_bound(act) : act == MARLIN_BF16 ? 1e-2 : 2e-3;
}

enum { FEW_COLUMNS = 64 };

static bool within(const struct problem *p, struct errors e, bool exact, bool y_f32)
{
    return e.excess <= sum_bound(p->act) && (e.raw <= raw_bound(p->act, exact, y_f32) || (p->N < FEW_COLUMNS && e.raw <= (double)FLT_MAX));
}

/* The first of what is wrong, by name. */
static void complain(struct errors e)
{
    static int said;
    if (said++ < 10)
        printf("# wrong: %s: row %lld is off by %.2e, %.2e beyond roundings\n", gpu_where, (long long)first_bad, e.raw, e.excess);
}

static struct errors run(const struct problem *p, int64_t M, const struct config *c, bool y_f32, bool aligned)
{
    struct output o = output_as(p, M, y_f32, aligned);
    struct class_call call = call_of(p, M, &o, y_f32);
    call.bias = aligned ? p->bias : NULL;
    launch(p, c, &call, NULL);
    finish();
    struct errors error = worst(p, &o, M, class_exact(c), y_f32, aligned, 0.0f);
    if (!within(p, error, class_exact(c), y_f32))
        complain(error);
    CUDA(cudaFree(o.all));
    return error;
}

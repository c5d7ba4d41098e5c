/* The checks of a kernel class (check_class.h) on a device against the f64 product of dequantized weights and rounded X, which a plain kernel computes from the codes as the
 * checkpoint has them. Included once by the class' program; main is here. TAP; no device: skipped. --small: a few small shapes, for compute-sanitizer. --quick: without the large
 * shapes. */
#include <float.h>

enum { GUARD = 4096, X_ROWS = 1024, SUM_TILE = 16 };

struct class_case {
    struct config config;
    int M;
};
static int class_configs(const struct packed *k, bool small, struct class_case *list);
static bool class_clean(int space);

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
    int32_t *perm;
    draw_matrix(p, &q);
    class_pack(&q, &p->packed, &perm);
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
static double weight_rounding(enum marlin_act act, int rows)
{
    return rows <= 32 ? 0 : act == MARLIN_BF16 ? 0x1.01p-7 : 0x1p-11;
}

static int64_t first_bad; /* row of the last comparison whose error is no number, or is the worst */

/* The worst row's errors; infinity when something is wrong with the bytes around. */
static struct errors worst(const struct problem *p, const struct output *o, int64_t M, int rows, bool y_f32, bool bias, float start)
{
    static struct errors errors[X_ROWS];
    struct errors *error = (struct errors *)device_alloc((size_t)M * sizeof *error), most = {0, 0};
    struct compare c = {o->y, p->ref, p->sizes, bias ? p->bias : NULL, start, o->ldy, (int)p->N, y_f32, p->act == MARLIN_BF16, weight_rounding(p->act, rows), error};
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

/* Sums in f32 stay far under the roundings of weights (tiles of more than 32 rows) and of Y; Marlin's bf16 takes codes as 128 + q, which costs four bits of the sums. Raw errors never pass what
 * marlin.h and machete.h promise. */
static double sum_bound(enum marlin_act act)
{
    return act == MARLIN_BF16 ? 5e-4 : 5e-5;
}

static double raw_bound(enum marlin_act act, int rows, bool y_f32)
{
    return rows <= 32 && y_f32 ? sum_bound(act) : act == MARLIN_BF16 ? 1e-2 : 2e-3;
}

enum { FEW_COLUMNS = 64 };

static bool within(const struct problem *p, struct errors e, int rows, bool y_f32)
{
    return e.excess <= sum_bound(p->act) && (e.raw <= raw_bound(p->act, rows, y_f32) || (p->N < FEW_COLUMNS && e.raw <= (double)FLT_MAX));
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
    struct errors error = worst(p, &o, M, class_rows(c), y_f32, aligned, 0.0f);
    if (!within(p, error, class_rows(c), y_f32))
        complain(error);
    CUDA(cudaFree(o.all));
    return error;
}

/* ---- the checks ---- */

/* Every M, as chosen, Y in f32 and in the activations' type, with rows of odd length and (and a bias) of such as can be written four at a time. */
static void check_rows(const struct problem *p, const int *Ms, int count, const char *what)
{
    double most = 0, most_exact = 0, most_excess = 0;
    int bad = -1;
    for (int i = 0; i < count; i++)
        for (int mode = MARLIN_FAST; mode <= MARLIN_FIXED; mode++) {
            if (Ms[i] > p->max_rows || (mode == MARLIN_FIXED && Ms[i] != 1 && Ms[i] != 33 && Ms[i] != 1024))
                continue;
            const struct config c = class_choose(&p->packed, Ms[i], (enum marlin_mode)mode);
            for (int v = 0; v < (mode == MARLIN_FAST ? 4 : 2); v++) {
                const bool f32 = v & 1;
                struct errors error = run(p, Ms[i], &c, f32, v & 2);
                if (!within(p, error, class_rows(&c), f32) && bad < 0)
                    bad = Ms[i];
                keep_worst(f32 && class_rows(&c) <= 32 ? &most_exact : &most, error.raw);
                keep_worst(&most_excess, error.excess);
            }
        }
    char where[32] = "";
    if (bad >= 0)
        snprintf(where, sizeof where, ", first at M=%d", bad);
    tap(bad < 0, "%s: N=%lld K=%lld %d bits group %d %s%s%s: worst row %.2e (exact weights, f32: %.2e; beyond roundings: %.2e)%s", what, (long long)p->N, (long long)p->K,
        p->bits, p->group, act_name(p->act), p->scattered ? " act-order" : "", p->one_zero ? "" : " zeros", most, most_exact, most_excess, where);
}

static const int all_Ms[] = {1, 2, 7, 8, 9, 15, 16, 17, 33, 64, 65, 128, 257, 1024}, few_Ms[] = {1, 8, 13, 16, 31, 40, 64, 100};

static void check_shapes(bool small, bool quick)
{
    static const int64_t shapes[][2] = {{128, 128}, {4096, 4096}, {7168, 576}, {256, 32768}, {6144, 4096}, {4096, 14336}, {28672, 4096}};
    const int n = small ? 1 : quick ? 4 : 7;
    for (int i = 0; i < n; i++)
        for (int bits = 4; bits <= 8; bits += 4)
            for (int act = 0; act < 2; act++) {
                if (i > 4 && act != (bits == 8)) /* the largest: one type each */
                    continue;
                struct problem p = {};
                p.N = shapes[i][0];
                p.K = shapes[i][1];
                p.bits = bits;
                p.group = 128;
                p.one_zero = true;
                p.scale = 0.02f;
                p.act = (enum marlin_act)act;
                p.max_rows = small ? 33 : X_ROWS;
                problem_make(&p);
                check_rows(&p, all_Ms, sizeof all_Ms / sizeof *all_Ms, "shape");
                problem_free(&p);
            }
}

static void check_kinds(bool small)
{
    static const struct {
        int64_t N, K;
        int bits, group;
        bool scattered, one_zero, negative;
    } kinds[] = {{640, 1024, 4, -1, false, true, false},  {640, 1024, 4, 32, false, true, false}, {640, 1024, 4, 64, false, false, false}, {640, 1024, 8, 32, false, false, false},
                 {640, 1024, 4, 128, true, true, false},  {640, 1024, 8, 64, true, false, false}, {1003, 1001, 4, 128, false, true, false}, {77, 530, 8, -1, false, true, false},
                 {640, 1024, 4, 128, false, true, true},  {300, 960, 4, 96, false, false, true},  {192, 1000, 3, 40, false, false, false},  {65, 71, 2, 32, true, false, false},
                 {3, 5, 4, 128, false, true, false},      {256, 14336, 4, -1, false, true, false}, {256, 28672, 8, -1, false, true, false}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (int act = 0; act < 2; act++) {
            if (small && (kinds[i].K > 4096 || i % 3 != 1 || act == (int)(i & 1)))
                continue;
            struct problem p = {};
            p.N = kinds[i].N;
            p.K = kinds[i].K;
            p.bits = kinds[i].bits;
            p.group = kinds[i].group;
            p.scattered = kinds[i].scattered;
            p.one_zero = kinds[i].one_zero;
            p.negative = kinds[i].negative;
            p.scale = 0.02f;
            p.act = (enum marlin_act)act;
            p.max_rows = 100;
            problem_make(&p);
            check_rows(&p, few_Ms, sizeof few_Ms / sizeof *few_Ms, p.negative ? "negative scales" : "kind");
            problem_free(&p);
        }
}

/* Bias and adding to Y, in both types of Y. */
static void check_epilogue(const struct problem *p)
{
    double most = 0;
    bool good = true;
    for (int f32 = 0; f32 < 2; f32++)
        for (int M = 5; M <= 70; M += 65) {
            struct output o = output_new(p, M, f32);
            uint16_t start = host_act(p->act, 2.0f);
            float start_f32 = 2.0f;
            for (int64_t m = 0; m < M; m++) { /* the columns of Y only: what is behind them stays as it is */
                uint8_t *row = (uint8_t *)o.y + (size_t)(m * o.ldy) * (f32 ? 4 : 2);
                static uint8_t fill[65536];
                for (int64_t n = 0; n < p->N; n++)
                    memcpy(fill + n * (f32 ? 4 : 2), f32 ? (void *)&start_f32 : (void *)&start, f32 ? 4 : 2);
                CUDA(cudaMemcpy(row, fill, (size_t)p->N * (f32 ? 4 : 2), cudaMemcpyHostToDevice));
            }
            struct class_call call = call_of(p, M, &o, f32);
            call.bias = p->bias;
            call.accumulate = true;
            const struct config c = class_choose(&p->packed, M, MARLIN_FAST);
            launch(p, &c, &call, NULL);
            finish();
            struct errors error = worst(p, &o, M, class_rows(&c), f32, true, 2.0f);
            good = good && within(p, error, class_rows(&c), f32);
            keep_worst(&most, error.raw);
            CUDA(cudaFree(o.all));
        }
    tap(good, "bias and adding to Y, %s: worst row %.2e", act_name(p->act), most);
}

/* Every config that fits the device, plain; then three launches in a row, each of which may overlap the one before. crowd: with many tiles a block. */
static void check_configs(const struct problem *p, bool small, bool crowd)
{
    static struct class_case list[CASES_MAX];
    if (crowd && !class_crowd(true))
        return;
    const int n = class_configs(&p->packed, small, list);
    int bad = 0;
    double most = 0;
    for (int i = 0; i < 2 * n; i++) {
        const struct class_case *c = &list[i % n];
        struct output o = output_new(p, c->M, true);
        struct class_call call = call_of(p, c->M, &o, true);
        call.pdl = i >= n;
        for (int t = 0; t < (call.pdl ? 3 : 1); t++)
            launch(p, &c->config, &call, NULL);
        finish();
        struct errors error = worst(p, &o, c->M, class_rows(&c->config), true, false, 0.0f);
        if (!within(p, error, class_rows(&c->config), true)) {
            complain(error);
            bad++;
        }
        keep_worst(&most, error.raw);
        CUDA(cudaFree(o.all));
    }
    if (crowd)
        class_crowd(false);
    tap(bad == 0 && n > 0, "%d configs%s, N=%lld K=%lld %d bits %s: %d wrong, worst row %.2e", n, crowd ? ", many tiles a block" : "", (long long)p->N, (long long)p->K, p->bits,
        act_name(p->act), bad, most);
}

/* The same launch again and again, on three streams at a time, each with a workspace of its own. */
static void check_repeats(const struct problem *p, int times)
{
    static const int Ms[] = {1, 16, 24, 64, 100};
    cudaStream_t streams[3];
    unsigned long long bad = 0;
    for (int s = 0; s < 3; s++)
        CUDA(cudaStreamCreateWithFlags(&streams[s], cudaStreamNonBlocking));
    finish();
    for (size_t i = 0; i < sizeof Ms / sizeof *Ms; i++) {
        const struct config c = class_choose(&p->packed, Ms[i], MARLIN_FAST);
        struct output first = output_new(p, Ms[i], true), again[3];
        struct class_call call = call_of(p, Ms[i], &first, true);
        launch(p, &c, &call, NULL);
        for (int s = 0; s < 3; s++)
            again[s] = output_new(p, Ms[i], true);
        finish();
        for (int t = 0; t < times; t += 3) {
            for (int s = 0; s < 3; s++) {
                CUDA(cudaMemsetAsync(again[s].y, 0xff, again[s].bytes, streams[s]));
                struct class_call other = call_of(p, Ms[i], &again[s], true);
                other.space = 1 + s;
                launch(p, &c, &other, streams[s]);
            }
            finish();
            for (int s = 0; s < 3; s++)
                bad += different(first.y, again[s].y, first.bytes);
        }
        CUDA(cudaFree(first.all));
        for (int s = 0; s < 3; s++)
            CUDA(cudaFree(again[s].all));
    }
    for (int s = 0; s < 3; s++)
        CUDA(cudaStreamDestroy(streams[s]));
    tap(bad == 0, "%d repeats for each of 5 M on 3 streams, N=%lld K=%lld %d bits %s: %llu bytes differ", times, (long long)p->N, (long long)p->K, p->bits, act_name(p->act), bad);
}

/* In fixed mode the rows of one launch of many are those of launches of one, whatever M the tile was chosen for. Whether a tile of 8 rows with the same division of K gives the
 * same bits is said, not required. */
static void check_fixed(const struct problem *p)
{
    const int M = p->max_rows < 257 ? p->max_rows : 257;
    static const int64_t tall[] = {8, 16, 32};
    struct output all = output_new(p, M, true), one = output_new(p, 1, true);
    unsigned long long bad = 0, smaller = 0;
    for (int t = 0; t < 3; t++) {
        const struct config c = class_choose(&p->packed, tall[t], MARLIN_FIXED), c8 = class_smaller(&c);
        struct class_call call = call_of(p, M, &all, true);
        call.pdl = t & 1;
        launch(p, &c, &call, NULL);
        for (int m = 0; m < M; m += m < 36 ? 1 : 47) {
            const struct config alone = class_choose(&p->packed, tall[m % 3], MARLIN_FIXED);
            call = call_of(p, 1, &one, true);
            call.x = p->x + m * p->ldx;
            call.pdl = m & 1;
            launch(p, &alone, &call, NULL);
            bad += different((float *)all.y + m * all.ldy, one.y, (size_t)p->N * 4);
            launch(p, &c8, &call, NULL);
            smaller += different((float *)all.y + m * all.ldy, one.y, (size_t)p->N * 4);
        }
    }
    tap(bad == 0, "fixed mode: rows of M=%d equal rows alone, tiles for 8, 16, 32 rows, N=%lld K=%lld %s: %llu bytes differ", M, (long long)p->N, (long long)p->K,
        act_name(p->act), bad);
    printf("# a tile of 8 rows against each of them: %llu bytes differ\n", smaller);
    CUDA(cudaFree(all.all));
    CUDA(cudaFree(one.all));
}

/* With halves row m of y is the sum of rows 2m and 2m + 1 without, to the bit; launched plainly, and as a dependent of the launch before. */
static void check_halves(const struct problem *p)
{
    if (!CLASS_HALVES)
        return;
    const int64_t M = (p->max_rows < 70 ? p->max_rows : 70) / 2 * 2;
    struct output plain = output_new(p, M, true), joined = output_new(p, M / 2, true);
    float *a = (float *)malloc((size_t)(M * plain.ldy) * 4), *b = (float *)malloc((size_t)(M / 2 * joined.ldy) * 4);
    long long bad = 0;
    const struct config c = class_choose(&p->packed, M, MARLIN_FIXED);
    struct class_call call = call_of(p, M, &plain, true);
    launch(p, &c, &call, NULL);
    for (int pdl = 0; pdl < 2; pdl++) {
        call.pdl = pdl;
        if (pdl) /* a launch for it to overlap: plain once more */
            launch(p, &c, &call, NULL);
        struct class_call half = call_of(p, M, &joined, true);
        half.halves = true;
        half.pdl = pdl;
        launch(p, &c, &half, NULL);
        finish();
        CUDA(cudaMemcpy(a, plain.y, (size_t)((M - 1) * plain.ldy + p->N) * 4, cudaMemcpyDeviceToHost));
        CUDA(cudaMemcpy(b, joined.y, (size_t)((M / 2 - 1) * joined.ldy + p->N) * 4, cudaMemcpyDeviceToHost));
        for (int64_t m = 0; m < M / 2; m++)
            for (int64_t n = 0; n < p->N; n++) {
                const float sum = a[2 * m * plain.ldy + n] + a[(2 * m + 1) * plain.ldy + n];
                bad += memcmp(&sum, &b[m * joined.ldy + n], 4) != 0;
            }
    }
    tap(bad == 0 && guards_hold(&joined, p, M / 2, true), "halves: rows added up in pairs, M=%lld N=%lld K=%lld %s: %lld differ", (long long)M, (long long)p->N, (long long)p->K,
        act_name(p->act), bad);
    free(a);
    free(b);
    CUDA(cudaFree(plain.all));
    CUDA(cudaFree(joined.all));
}

/* A chain of launches, each reading what the one before wrote, with and without programmatic dependence. */
static void check_chain(const struct problem *p, int M)
{
    const struct config c = class_choose(&p->packed, M, MARLIN_FAST);
    const int64_t ld = (p->N + 7) / 8 * 8;
    uint16_t *buffer[2][2];
    for (int pdl = 0; pdl < 2; pdl++) {
        for (int i = 0; i < 2; i++) {
            buffer[pdl][i] = (uint16_t *)device_alloc((size_t)(M * ld) * 2);
            CUDA(cudaMemset(buffer[pdl][i], 0, (size_t)(M * ld) * 2));
        }
        finish();
        for (int step = 0; step < 24; step++) {
            struct output o = {NULL, buffer[pdl][step & 1], ld, 0};
            struct class_call call = call_of(p, M, &o, false);
            if (step > 0) {
                call.x = buffer[pdl][~step & 1];
                call.ldx = ld;
            }
            call.pdl = pdl;
            launch(p, &c, &call, NULL);
        }
        finish();
    }
    unsigned long long bad = different(buffer[0][1], buffer[1][1], (size_t)(M * ld) * 2);
    count_other_kernel<<<16, 256>>>((uint8_t *)buffer[0][1], (size_t)(M * ld) * 2, 0, 0, counter);
    unsigned long long nonzero = counted();
    tap(bad == 0 && nonzero > 0, "chain of 24 at M=%d, dependent launches against plain ones: %llu of %llu bytes differ", M, bad, nonzero);
    for (int i = 0; i < 4; i++)
        CUDA(cudaFree(buffer[i / 2][i % 2]));
}

static struct problem simple(int64_t N, int64_t K, int bits, enum marlin_act act, int rows, float scale)
{
    struct problem p = {};
    p.N = N;
    p.K = K;
    p.bits = bits;
    p.group = 128;
    p.one_zero = true;
    p.scale = scale;
    p.act = act;
    p.max_rows = rows;
    problem_make(&p);
    return p;
}

#include "tests/gpu/check_queue.cuh"

static void check_refusals(const struct problem *p)
{
    struct output o = output_new(p, 9, true);
    struct class_call call = call_of(p, 4, &o, true);
    const char *what = "";
    bool good = class_refusals(&p->packed, &call, &what);
    tap(good, "refused: %s", what);
    CUDA(cudaFree(o.all));
}

int main(int argc, char **argv)
{
    bool small = argc > 1 && strcmp(argv[1], "--small") == 0, quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
    need_device();
    struct cudaDeviceProp prop;
    CUDA(cudaGetDeviceProperties(&prop, 0));
    printf("# %s, %d SMs, compute capability %d.%d\n", prop.name, prop.multiProcessorCount, prop.major, prop.minor);
    setvbuf(stdout, NULL, _IOLBF, 0);
    patience = small ? 600 : 20; /* small: a sanitizer runs it */
    class_open(&prop, small);
    double start = now_s();
    counter = (unsigned long long *)device_alloc(sizeof *counter);
    CUDA(cudaMemset(counter, 0, sizeof *counter));

    for (int act = 0; act < 2; act++) {
        struct problem p = simple(small ? 192 : 1024, small ? 1024 : 4096, act ? 8 : 4, (enum marlin_act)act, 257, 0.02f);
        check_configs(&p, small, false);
        check_configs(&p, small, true);
        check_fixed(&p);
        check_halves(&p);
        check_epilogue(&p);
        check_refusals(&p);
        problem_free(&p);
    }
    check_queue(small);
    check_kinds(small);
    {
        struct problem p = simple(small ? 256 : 4096, small ? 256 : 4096, 4, MARLIN_F16, 100, small ? 0.024f : 0.006f); /* a chain neither grows nor fades */
        check_repeats(&p, small ? 3 : 102);
        check_chain(&p, 1);
        check_chain(&p, 16);
        check_chain(&p, 64);
        problem_free(&p);
    }
    check_shapes(small, quick);
    bool clean = true;
    for (int s = 0; s < SPACES; s++)
        clean = clean && class_clean(s);
    tap(clean, "workspaces are in the end as they were");
    printf("# %.1f s\n", now_s() - start);
    return tap_end();
}

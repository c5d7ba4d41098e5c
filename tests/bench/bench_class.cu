/* Speed of the Marlin and Machete kernels on a device: CUDA graphs of launches that go round copies of the weights, so that none is found in L2. Beside each time: the share of
 * the card's own copy bandwidth (a large device-to-device copy, bytes read and written) for the bytes that have to move, the share of its matrix peak (8192^3 f16 product of
 * cuBLAS), and the time of cuBLAS f16 for the same shape. cuBLAS is opened where it is found; without it those columns are empty. Machete runs on 9.0 only.
 *   bench_class [--class marlin|machete] [--json FILE] [--cublas LIBRARY] [--tune] [--act bf16] [--bits 8] [--M N] [--short] [--fixed] [--halves]
 * --tune: for each shape and M the best configs of all that fit, instead of the table. --fixed: those whose bits do not depend on M. --halves: as the plug-in runs them, fixed,
 * each of M tokens in two rows of X whose results are added up, Y in f32; M, the bytes that have to move and the work are still counted for tokens. */
#include <dlfcn.h>
#include <glob.h>

#include "kernels/cuda/machete_launch.h"
#include "kernels/cuda/marlin_launch.h"
#include "tests/gpu/gpu.h"

enum { REPLAYS_MAX = 7, MAX_COPIES = 64, MAX_M = 4096 };
enum class_of { MARLIN_CLASS, MACHETE_CLASS, CLASSES };

static const char *const class_name[CLASSES] = {"marlin", "machete"};

static struct marlin_device dev;
static struct machete_device hopper; /* sms 0: this is none */
static size_t l2_bytes;
static double copy_bandwidth, matrix_peak; /* bytes/s, FLOP/s; 0: not measured */
static FILE *json;
static enum marlin_act act = MARLIN_F16;
static enum marlin_mode mode = MARLIN_FAST;
static bool halves;
static cudaStream_t stream;
static int replays = REPLAYS_MAX;
static double graph_s = 1.5e-3; /* about how long a graph of launches runs */

/* ---- timing ---- */

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Seconds of one of `launches` that enqueue(arg, i) makes, from a graph of all of them: the median of `replays`. */
static double time_graph(int (*enqueue)(void *arg, int i), void *arg, int launches)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t from, to;
    float ms[REPLAYS_MAX];
    if (enqueue(arg, 0)) /* warm: modules, handles */
        return -1;
    CUDA(cudaStreamSynchronize(stream));
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    bool all = true;
    for (int i = 0; all && i < launches; i++)
        all = enqueue(arg, i) == 0;
    CUDA(cudaStreamEndCapture(stream, &graph));
    if (!all) {
        CUDA(cudaGraphDestroy(graph));
        return -1;
    }
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    CUDA(cudaEventCreate(&from));
    CUDA(cudaEventCreate(&to));
    CUDA(cudaGraphLaunch(exec, stream));
    for (int r = 0; r < replays; r++) {
        CUDA(cudaEventRecord(from, stream));
        CUDA(cudaGraphLaunch(exec, stream));
        CUDA(cudaEventRecord(to, stream));
        CUDA(cudaEventSynchronize(to));
        CUDA(cudaEventElapsedTime(&ms[r], from, to));
    }
    CUDA(cudaEventDestroy(from));
    CUDA(cudaEventDestroy(to));
    CUDA(cudaGraphExecDestroy(exec));
    CUDA(cudaGraphDestroy(graph));
    qsort(ms, (size_t)replays, sizeof *ms, by_value);
    return ms[replays / 2] * 1e-3 / launches;
}

/* ---- cuBLAS, by name: values from cublas_api.h and library_types.h of CUDA 12 and 13 ---- */

enum { BLAS_N = 0, BLAS_T = 1, BLAS_F16 = 2, BLAS_BF16 = 14, BLAS_COMPUTE_F32 = 68, BLAS_DEFAULT = -1 };

static void *blas;
static int (*gemm_ex)(void *, int, int, int, int, int, const void *, const void *, int, int, const void *, int, int, const void *, void *, int, int, int, int);

static void *open_first(const char *pattern)
{
    glob_t g;
    void *lib = NULL;
    if (glob(pattern, 0, NULL, &g) == 0)
        for (size_t i = 0; i < g.gl_pathc && !lib; i++)
            lib = dlopen(g.gl_pathv[i], RTLD_NOW | RTLD_GLOBAL);
    globfree(&g);
    return lib;
}

static void blas_open(const char *given)
{
    static const char *const places[] = {"/usr/local/cuda*/lib64/libcublas.so.1[23]", "/opt/*/lib/python3*/site-packages/nvidia/*/lib/libcublas.so.1[23]",
                                         "/opt/*/.venv/lib/python3*/site-packages/nvidia/*/lib/libcublas.so.1[23]", "/usr/lib/python3*/site-packages/nvidia/*/lib/libcublas.so.1[23]",
                                         "/usr/local/lib/python3*/*-packages/nvidia/*/lib/libcublas.so.1[23]"};
    void *lib = given ? dlopen(given, RTLD_NOW) : dlopen("libcublas.so.13", RTLD_NOW);
    for (size_t i = 0; !lib && !given && i < sizeof places / sizeof *places; i++) {
        char lt[256];
        snprintf(lt, sizeof lt, "%s", places[i]);
        char *at = strstr(lt, "libcublas.so");
        snprintf(at, sizeof lt - (size_t)(at - lt), "libcublasLt.so.1[23]");
        open_first(lt); /* found by the next by its name */
        lib = open_first(places[i]);
    }
    if (!lib) {
        printf("# no cuBLAS: %s\n", dlerror());
        return;
    }
    int (*create)(void **) = (int (*)(void **))dlsym(lib, "cublasCreate_v2");
    int (*set_stream)(void *, cudaStream_t) = (int (*)(void *, cudaStream_t))dlsym(lib, "cublasSetStream_v2");
    int (*set_workspace)(void *, void *, size_t) = (int (*)(void *, void *, size_t))dlsym(lib, "cublasSetWorkspace_v2");
    *(void **)&gemm_ex = dlsym(lib, "cublasGemmEx");
    if (!create || !set_stream || !set_workspace || !gemm_ex || create(&blas) || set_stream(blas, stream) || set_workspace(blas, device_alloc(64 << 20), 64 << 20)) {
        printf("# cuBLAS does not start\n");
        gemm_ex = NULL;
    }
}

struct dense {
    uint16_t *w, *x, *y;
    int64_t M, N, K;
    int copies;
};

/* Y[M,N] = X[M,K] W[N,K]^T, row-major, as cuBLAS sees it: Y^T = W X^T in columns. */
static int enqueue_dense(void *arg, int i)
{
    const struct dense *d = (const struct dense *)arg;
    const float one = 1, zero = 0;
    const int type = act == MARLIN_BF16 ? BLAS_BF16 : BLAS_F16;
    return gemm_ex(blas, BLAS_T, BLAS_N, (int)d->N, (int)d->M, (int)d->K, &one, d->w + (size_t)(i % d->copies) * (size_t)(d->N * d->K), type, (int)d->K, d->x, type, (int)d->K,
                   &zero, d->y, type, (int)d->N, BLAS_COMPUTE_F32, BLAS_DEFAULT);
}

/* ---- ceilings ---- */

struct copy {
    char *from, *to;
    size_t bytes;
};

static int enqueue_copy(void *arg, int i)
{
    const struct copy *c = (const struct copy *)arg;
    (void)i;
    return cudaMemcpyAsync(c->to, c->from, c->bytes, cudaMemcpyDeviceToDevice, stream) != cudaSuccess;
}

/* Values of about 1 in 16-bit types: random bits with an exponent set by hand. */
static __global__ void fill_values_kernel(uint16_t *p, size_t n, int bf16, uint64_t seed_)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        const uint32_t r = (uint32_t)draw_at(seed_, i);
        p[i] = (uint16_t)(bf16 ? (r & 0x807fu) | 0x3f00u : (r & 0x83ffu) | 0x3800u);
    }
}

static void fill_values(void *p, size_t n, uint64_t s)
{
    fill_values_kernel<<<1024, 256>>>((uint16_t *)p, n, act == MARLIN_BF16, s);
    CUDA(cudaGetLastError());
}

static void measure_ceilings(void)
{
    struct copy c = {NULL, NULL, (size_t)1 << 30};
    c.from = (char *)device_alloc(c.bytes);
    c.to = (char *)device_alloc(c.bytes);
    fill_words(c.from, c.bytes, 1);
    CUDA(cudaDeviceSynchronize());
    copy_bandwidth = 2.0 * (double)c.bytes / time_graph(enqueue_copy, &c, 4);
    CUDA(cudaFree(c.from));
    CUDA(cudaFree(c.to));
    if (gemm_ex) {
        const int64_t n = 8192;
        struct dense d = {(uint16_t *)device_alloc((size_t)(n * n) * 2), (uint16_t *)device_alloc((size_t)(n * n) * 2), (uint16_t *)device_alloc((size_t)(n * n) * 2), n, n, n, 1};
        fill_values(d.w, (size_t)(n * n), 2);
        fill_values(d.x, (size_t)(n * n), 3);
        CUDA(cudaDeviceSynchronize());
        double s = time_graph(enqueue_dense, &d, 8);
        matrix_peak = s > 0 ? 2.0 * (double)(n * n) * (double)n / s : 0;
        CUDA(cudaFree(d.w));
        CUDA(cudaFree(d.x));
        CUDA(cudaFree(d.y));
    }
}

/* Kernels that do nothing, one after the other: what a launch costs by itself. */
static __global__ void nothing_kernel(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static int enqueue_nothing(void *arg, int i)
{
    cudaLaunchAttribute attr = {};
    cudaLaunchConfig_t lc = {};
    (void)i;
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    lc.gridDim = dim3((unsigned)dev.sms);
    lc.blockDim = dim3(256);
    lc.stream = stream;
    lc.attrs = &attr;
    lc.numAttrs = *(const unsigned *)arg;
    return cudaLaunchKernelEx(&lc, nothing_kernel) != cudaSuccess;
}

/* ---- a shape ---- */

/* How one class runs; what the other would need is unused. */
struct config {
    enum class_of kind;
    struct marlin_config marlin;
    struct machete_config machete;
};

/* Codes and scales drawn at random are a packed matrix of either class. M: tokens. */
struct bench {
    struct marlin_shape marlin;
    struct machete_shape machete;
    int64_t N, K, M;
    int bits;
    const uint32_t *codes[MAX_COPIES];
    const uint16_t *scales[MAX_COPIES];
    int copies;
    struct config config;
    bool pdl;
    uint16_t *x;
    void *y, *workspace;
    size_t code_bytes, scale_bytes, workspace_bytes;
};

/* Rows of X for M tokens. */
static int64_t x_rows(int64_t M)
{
    return halves ? 2 * M : M;
}

static int launch_marlin(const struct bench *b, int i, struct err *e)
{
    struct marlin_call c = {};
    c.shape = &b->marlin;
    c.weight.codes = b->codes[i];
    c.weight.scales = b->scales[i];
    c.act = act;
    c.x = b->x;
    c.ldx = b->K;
    c.M = x_rows(b->M);
    c.halves = halves;
    c.y_f32 = halves;
    c.y = b->y;
    c.ldy = b->N;
    c.workspace = b->workspace;
    c.workspace_bytes = b->workspace_bytes;
    c.pdl = b->pdl;
    return marlin_launch(&dev, &c, &b->config.marlin, stream, e);
}

static int launch_machete(const struct bench *b, int i, struct err *e)
{
    struct machete_call c = {};
    c.shape = &b->machete;
    c.weight.codes = b->codes[i];
    c.weight.scales = b->scales[i];
    c.act = act;
    c.x = b->x;
    c.ldx = b->K;
    c.M = x_rows(b->M);
    c.halves = halves;
    c.y_f32 = halves;
    c.y = b->y;
    c.ldy = b->N;
    c.pdl = b->pdl;
    return machete_launch(&hopper, &c, &b->config.machete, stream, e);
}

static int enqueue_product(void *arg, int i)
{
    const struct bench *b = (const struct bench *)arg;
    struct err e;
    const int rc = b->config.kind == MARLIN_CLASS ? launch_marlin(b, i % b->copies, &e) : launch_machete(b, i % b->copies, &e);
    if (rc)
        printf("# %s\n", e.text);
    return rc;
}

/* rows/columns/stages/blocks an SM; Machete also the cluster: k cuts K, x shares X. */
static const char *config_text(const struct config *c, char *text, size_t n)
{
    if (c->kind == MARLIN_CLASS)
        snprintf(text, n, "%d/%d/%d/%d", c->marlin.rows, 64 << c->marlin.wn_log2, c->marlin.stages, c->marlin.blocks);
    else
        snprintf(text, n, "%d/%d/%d/%d/%s%d", c->machete.rows, 128 * c->machete.wide, c->machete.stages, c->machete.blocks, c->machete.share > 1 ? "x" : "k",
                 c->machete.share > 1 ? c->machete.share : c->machete.split);
    return text;
}

/* Scales of 1/256 to 1/128, of both signs. */
static __global__ void fill_scales_kernel(uint16_t *p, size_t n, uint64_t seed_)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        p[i] = (uint16_t)(((uint32_t)draw_at(seed_, i) & 0x83ffu) | 0x1c00u);
}

static void bench_open(struct bench *b, int64_t N, int64_t K, int bits)
{
    struct err e;
    memset(b, 0, sizeof *b);
    OURS(marlin_plan_plain(N, K, bits, 128, &b->marlin, &e), e);
    OURS(machete_plan_plain(N, K, bits, 128, &b->machete, &e), e);
    b->N = N;
    b->K = K;
    b->bits = bits;
    b->code_bytes = b->machete.code_bytes; /* the larger: filled up to more */
    b->scale_bytes = b->machete.scale_bytes;
    b->copies = (int)(2 * l2_bytes / (b->code_bytes + b->scale_bytes)) + 2;
    if (b->copies > MAX_COPIES)
        b->copies = MAX_COPIES;
    for (int i = 0; i < b->copies; i++) {
        uint32_t *codes = (uint32_t *)device_alloc(b->code_bytes);
        uint16_t *scales = (uint16_t *)device_alloc(b->scale_bytes);
        fill_words(codes, b->code_bytes, (uint64_t)i);
        fill_scales_kernel<<<256, 256>>>(scales, b->scale_bytes / 2, (uint64_t)i);
        CUDA(cudaGetLastError());
        b->codes[i] = codes;
        b->scales[i] = scales;
    }
    b->x = (uint16_t *)device_alloc((size_t)(x_rows(MAX_M) * K) * 2);
    b->y = device_alloc((size_t)(x_rows(MAX_M) * N) * 2);
    fill_values(b->x, (size_t)(x_rows(MAX_M) * K), 5);
    b->workspace_bytes = (size_t)256 << 20;
    b->workspace = device_alloc(b->workspace_bytes);
    CUDA(cudaMemset(b->workspace, 0, b->workspace_bytes));
    CUDA(cudaDeviceSynchronize());
}

static void bench_close(struct bench *b)
{
    for (int i = 0; i < b->copies; i++) {
        CUDA(cudaFree((void *)b->codes[i]));
        CUDA(cudaFree((void *)b->scales[i]));
    }
    CUDA(cudaFree(b->x));
    CUDA(cudaFree(b->y));
    CUDA(cudaFree(b->workspace));
}

/* Launches in a graph: at least once round the copies. */
static int launches_for(const struct bench *b)
{
    double s = 3e-6 + (double)b->code_bytes / 2e12 + 2.0 * (double)b->M * (double)b->N * (double)b->K / 4e14;
    int n = (int)(graph_s / s);
    n = n < 4 ? 4 : n > 200 ? 200 : n;
    return (n + b->copies - 1) / b->copies * b->copies > 400 ? 400 : (n + b->copies - 1) / b->copies * b->copies;
}

/* Bytes that have to move: codes, scales, X, Y. (Two halves of X are as many as f32, which Y then is.) */
static double moved(const struct bench *b)
{
    return (double)(b->code_bytes + b->scale_bytes) + 2.0 * (double)x_rows(b->M) * (double)(b->K + b->N);
}

static double time_dense(const struct bench *b, const struct dense *from)
{
    struct dense d = *from;
    if (!gemm_ex)
        return 0;
    d.M = b->M;
    int n = launches_for(b) / 3;
    n = n < 4 ? 4 : n;
    return time_graph(enqueue_dense, &d, n);
}

static void report(const struct bench *b, double plain, double pdl, double dense)
{
    double best = pdl > 0 && pdl < plain ? pdl : plain, flop = 2.0 * (double)b->M * (double)b->N * (double)b->K;
    const char *name = class_name[b->config.kind];
    char text[64];
    config_text(&b->config, text, sizeof text);
    printf("%6lld x %-6lld w%d %6.1f MB %5lld | %-7s %9.2f %9.2f %9.2f | %5.1f%% %5.1f%% %5.1f%% | %5.2f | %s\n", (long long)b->K, (long long)b->N, b->bits,
           1e-6 * (double)(b->code_bytes + b->scale_bytes), (long long)b->M, name, plain * 1e6, pdl * 1e6, dense * 1e6, 100 * moved(b) / plain / copy_bandwidth,
           100 * moved(b) / best / copy_bandwidth, matrix_peak > 0 ? 100 * flop / best / matrix_peak : 0.0, dense / plain, text);
    if (json)
        fprintf(json,
                "{\"class\":\"%s\",\"form\":\"%s\",\"K\":%lld,\"N\":%lld,\"bits\":%d,\"act\":\"%s\",\"weight_bytes\":%zu,\"M\":%lld,\"us\":%.3f,\"pdl_us\":%.3f,\"cublas_us\":%.3f,"
                "\"copy_share\":%.4f,\"pdl_copy_share\":%.4f,\"peak_share\":%.4f,\"speedup\":%.3f,\"config\":\"%s\"}\n",
                name, halves ? "product" : mode == MARLIN_FIXED ? "fixed" : "fast", (long long)b->K, (long long)b->N, b->bits, act == MARLIN_BF16 ? "bf16" : "f16", b->code_bytes + b->scale_bytes, (long long)b->M, plain * 1e6, pdl * 1e6,
                dense * 1e6, moved(b) / plain / copy_bandwidth, pdl > 0 ? moved(b) / pdl / copy_bandwidth : 0.0, matrix_peak > 0 ? flop / best / matrix_peak : 0.0, dense / plain,
                text);
    fflush(stdout);
}

static double time_config(struct bench *b, bool pdl)
{
    char text[64];
    snprintf(gpu_where, sizeof gpu_where, "%s, N=%lld K=%lld %d bits, M=%lld, %s%s", class_name[b->config.kind], (long long)b->N, (long long)b->K, b->bits, (long long)b->M,
             config_text(&b->config, text, sizeof text), pdl ? ", pdl" : "");
    b->pdl = pdl;
    gpu_watch(60);
    const double t = time_graph(enqueue_product, b, launches_for(b));
    gpu_watch(0);
    return t;
}

static void bench_row(struct bench *b, enum class_of kind, int64_t M, double dense)
{
    b->M = M;
    b->config.kind = kind;
    if (kind == MARLIN_CLASS)
        marlin_choose(&dev, &b->marlin, x_rows(M), mode, &b->config.marlin);
    else
        machete_choose(&hopper, &b->machete, x_rows(M), mode, &b->config.machete);
    double plain = time_config(b, false), pdl = dev.capability >= 90 ? time_config(b, true) : 0;
    report(b, plain, pdl, dense);
}

/* ---- tuning ---- */

struct tried {
    struct config config;
    double plain, pdl;
};

static int by_plain(const void *a, const void *b)
{
    double x = ((const struct tried *)a)->plain, y = ((const struct tried *)b)->plain;
    return (x > y) - (x < y);
}

static int by_pdl(const void *a, const void *b)
{
    double x = ((const struct tried *)a)->pdl, y = ((const struct tried *)b)->pdl;
    return (x > y) - (x < y);
}

/* Configs of Marlin worth trying for M rows. */
static int marlin_list(const struct bench *b, struct config *list)
{
    static const int rows[] = {8, 16, 32, 48, 64}, depths[] = {2, 3, 4, 6};
    const int64_t M = b->M;
    int n = 0;
    for (int r = 0; r < 5; r++)
        for (int wn = 0; wn < 4; wn++)
            for (int blocks = 1; blocks <= 2; blocks++)
                for (int s = 0; s < 4; s++) {
                    struct config c = {MARLIN_CLASS, {rows[r], wn, depths[s], blocks, false}, {}};
                    if (rows[r] > 16 && rows[r] >= M + 32) /* much taller than needed */
                        continue;
                    if ((M > 32 && rows[r] < 32) || (M > 8 && M <= 16 && rows[r] > 32) || (M <= 8 && rows[r] > 16) || marlin_config_check(&dev, &b->marlin, M, &c.marlin, NULL))
                        continue;
                    list[n++] = c;
                }
    return n;
}

/* Of Machete: every tile but those much taller or lower than M, with every cluster, one and two blocks an SM, as deep as fits and half as deep. */
static int machete_list(const struct bench *b, struct config *list)
{
    static const int tiles[][3] = {
#define MACHETE(rows, wide, scaled, blocks, sm) {rows, wide, sm},
#include "kernels/cuda/machete.def"
#undef MACHETE
    };
    int n = 0;
    for (size_t t = 0; t < sizeof tiles / sizeof *tiles; t++)
        for (int cluster = 0; cluster <= MACHETE_CLUSTER_MAX; cluster++)
            for (int v = 0; v < 4; v++) {
                struct config c = {MACHETE_CLASS, {}, {tiles[t][0], tiles[t][1], 2, 1 + v / 2, cluster ? cluster : 1, cluster ? 1 : 2}};
                if (c.machete.blocks > tiles[t][2] || tiles[t][0] >= 4 * b->M + 16 || 8 * tiles[t][0] < b->M)
                    continue;
                c.machete.stages = machete_fit_stages(&hopper, &b->machete, &c.machete, MACHETE_STAGES_MAX) >> v % 2;
                if (!machete_config_check(&hopper, &b->machete, b->M, &c.machete, NULL))
                    list[n++] = c;
            }
    return n;
}

static void tune_row(struct bench *b, enum class_of kind, int64_t M)
{
    static struct config list[256];
    static struct tried all[256];
    b->M = M;
    int n = 0, count = kind == MARLIN_CLASS ? marlin_list(b, list) : machete_list(b, list);
    for (int i = 0; i < count; i++) {
        struct tried t = {list[i], 0, 0};
        b->config = t.config;
        t.plain = time_config(b, false);
        t.pdl = dev.capability >= 90 ? time_config(b, true) : t.plain;
        if (t.plain > 0)
            all[n++] = t;
    }
    char text[64];
    for (int which = 0; which < 2; which++) {
        qsort(all, (size_t)n, sizeof *all, which ? by_pdl : by_plain);
        printf("%6lld x %-6lld w%d M=%-5lld %s %s:", (long long)b->K, (long long)b->N, b->bits, (long long)M, class_name[kind], which ? "pdl  " : "plain");
        for (int i = 0; i < n && i < 5; i++)
            printf("  %s %.2f (%.1f%%)", config_text(&all[i].config, text, sizeof text), 1e6 * (which ? all[i].pdl : all[i].plain),
                   100 * moved(b) / (which ? all[i].pdl : all[i].plain) / copy_bandwidth);
        printf("\n");
    }
    for (int i = 0; json && i < n; i++)
        fprintf(json, "{\"tune\":1,\"class\":\"%s\",\"K\":%lld,\"N\":%lld,\"bits\":%d,\"M\":%lld,\"config\":\"%s\",\"us\":%.3f,\"pdl_us\":%.3f}\n", class_name[kind],
                (long long)b->K, (long long)b->N, b->bits, (long long)M, config_text(&all[i].config, text, sizeof text), all[i].plain * 1e6, all[i].pdl * 1e6);
    fflush(stdout);
}

static void bench_shape(int64_t N, int64_t K, int bits, bool tune, int64_t only, bool brief, const bool (&classes)[CLASSES])
{
    static const int64_t Ms[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096}, few[] = {1, 16, 64, 256, 1024, 4096}, tuned[] = {1, 8, 16, 32, 48, 64, 128, 256, 1024, 4096};
    const int64_t *list = tune ? tuned : brief ? few : Ms;
    const size_t n = tune ? sizeof tuned / sizeof *tuned : brief ? sizeof few / sizeof *few : sizeof Ms / sizeof *Ms;
    struct bench b;
    bench_open(&b, N, K, bits);
    struct dense d = {NULL, b.x, (uint16_t *)b.y, 0, N, K, 1};
    if (gemm_ex && !tune) {
        size_t each = (size_t)(N * K) * 2;
        d.copies = (int)(2 * l2_bytes / each) + 2;
        d.w = (uint16_t *)device_alloc(each * (size_t)d.copies);
        fill_values(d.w, (size_t)(N * K) * (size_t)d.copies, 7);
        CUDA(cudaDeviceSynchronize());
    }
    for (size_t i = 0; i < n; i++) {
        if (only && list[i] != only)
            continue;
        b.M = list[i];
        double dense = tune ? 0 : time_dense(&b, &d);
        for (int kind = 0; kind < CLASSES; kind++)
            if (classes[kind] && tune)
                tune_row(&b, (enum class_of)kind, list[i]);
            else if (classes[kind])
                bench_row(&b, (enum class_of)kind, list[i], dense);
    }
    if (d.w)
        CUDA(cudaFree(d.w));
    bench_close(&b);
}

static int usage(void)
{
    fprintf(stderr, "usage: bench_class [--class marlin|machete] [--json FILE] [--cublas LIBRARY] [--short] [--tune | --fixed | --halves] [--act f16|bf16] [--bits 4|8] [--M N] "
                    "[--shapes N]\n");
    return 64;
}

int main(int argc, char **argv)
{
    static const int64_t shapes[][2] = {{4096, 4096}, {6144, 4096}, {28672, 4096}, {4096, 14336}, {8192, 8192}, {10240, 8192}, {57344, 8192}, {8192, 28672}};
    const char *library = NULL;
    bool tune = false, brief = false, classes[CLASSES] = {true, true};
    int64_t only = 0;
    int bits = 0, count = 8;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--tune") == 0)
            tune = true;
        else if (strcmp(argv[i], "--short") == 0)
            brief = true;
        else if (strcmp(argv[i], "--fixed") == 0)
            mode = MARLIN_FIXED;
        else if (strcmp(argv[i], "--halves") == 0)
            halves = true, mode = MARLIN_FIXED;
        else if (strcmp(argv[i], "--json") == 0 && (json = fopen(value, "w")))
            i++;
        else if (strcmp(argv[i], "--cublas") == 0)
            library = value, i++;
        else if (strcmp(argv[i], "--class") == 0)
            classes[MARLIN_CLASS] = strcmp(value, "machete") != 0, classes[MACHETE_CLASS] = strcmp(value, "marlin") != 0, i++;
        else if (strcmp(argv[i], "--act") == 0)
            act = strcmp(value, "bf16") == 0 ? MARLIN_BF16 : MARLIN_F16, i++;
        else if (strcmp(argv[i], "--bits") == 0)
            bits = (int)strtol(value, NULL, 10), i++;
        else if (strcmp(argv[i], "--M") == 0)
            only = strtol(value, NULL, 10), i++;
        else if (strcmp(argv[i], "--shapes") == 0)
            count = (int)strtol(value, NULL, 10), i++;
        else {
            return usage();
        }
    }
    if (tune && halves)
        return usage();
    need_device();
    struct err e;
    struct cudaDeviceProp prop;
    CUDA(cudaGetDeviceProperties(&prop, 0));
    OURS(marlin_device_open(&dev, &e), e);
    if (dev.capability == 90)
        OURS(machete_device_open(&hopper, &e), e);
    classes[MACHETE_CLASS] = classes[MACHETE_CLASS] && dev.capability == 90;
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    l2_bytes = (size_t)prop.l2CacheSize;
    double start = now_s();
    blas_open(library);
    measure_ceilings();
    printf("# %s, %d SMs, L2 %.0f MB; copy %.3f TB/s; matrix peak %.0f TFLOP/s%s\n", prop.name, dev.sms, 1e-6 * (double)l2_bytes, 1e-12 * copy_bandwidth, 1e-12 * matrix_peak,
           matrix_peak > 0 ? "" : " (no cuBLAS)");
    if (json)
        fprintf(json, "{\"device\":\"%s\",\"sms\":%d,\"copy_bytes_per_s\":%.4g,\"matrix_flop_per_s\":%.4g}\n", prop.name, dev.sms, copy_bandwidth, matrix_peak);
    unsigned plain = 0, dependent = 1;
    double floor_plain = time_graph(enqueue_nothing, &plain, 200), floor_pdl = dev.capability >= 90 ? time_graph(enqueue_nothing, &dependent, 200) : 0;
    printf("# an empty kernel takes %.2f us, as a dependent launch %.2f us\n", 1e6 * floor_plain, 1e6 * floor_pdl);
    if (tune) {
        replays = 3;
        graph_s = 0.5e-3;
    }
    if (!tune)
        printf("#     K x N         weights      M | class    plain us    pdl us cublas us |  copy   best   peak | x f16 | rows/columns/stages/blocks/cluster\n");
    for (int i = 0; i < count && i < 8; i++)
        for (int w = 4; w <= 8; w += 4) {
            if ((bits && w != bits) || (!bits && w == 8 && (i > 2 || tune)))
                continue;
            bench_shape(shapes[i][0], shapes[i][1], w, tune, only, brief || w == 8, classes);
        }
    printf("# %.1f s\n", now_s() - start);
    if (json)
        fclose(json);
    return 0;
}

/* The CUDA plug-in's table and its backend: devices, memory, errors, counters, and the ops that are one launch. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_state.h"

static struct cuda_state *state_of(const struct backend *b)
{
    return b->state;
}

int cuda_check(struct cuda_state *s, cudaError_t r, const char *what, struct err *e)
{
    if (r == cudaSuccess)
        return 0;
    (void)cudaGetLastError(); /* else the next launch, which asks for it, is blamed */
    return err_set(e, r == cudaErrorMemoryAllocation ? ERR_NOMEM : ERR_DEVICE, "cuda:%d: %s: %s (%s)", s->device, what, cudaGetErrorString(r), cudaGetErrorName(r));
}

/* Memory */

int cuda_take(struct cuda_state *s, size_t bytes, const char *what, void **out, struct err *e)
{
    *out = NULL;
    cudaError_t r = cudaMalloc(out, bytes ? bytes : 1);
    if (r == cudaErrorMemoryAllocation && s->pool.count) { /* pages that wait for a sequence can go */
        (void)cudaGetLastError();
        cuda_kv_release(s);
        r = cudaMalloc(out, bytes ? bytes : 1);
    }
    if (r == cudaSuccess)
        return 0;
    *out = NULL;
    (void)cudaGetLastError(); /* a refused allocation leaves the device usable */
    if (r != cudaErrorMemoryAllocation)
        return cuda_check(s, r, what, e);
    size_t free_bytes = 0, total = 0;
    if (cudaMemGetInfo(&free_bytes, &total) != cudaSuccess)
        (void)cudaGetLastError();
    return err_set(e, ERR_NOMEM, "cuda:%d has no memory for %s: %zu bytes wanted, %zu of %zu free", s->device, what, bytes, free_bytes, total);
}

void cuda_drop(struct cuda_state *s, void *p)
{
    if (!p)
        return;
    cudaStreamSynchronize(s->stream); /* an error of work queued before is met again by the next op */
    cudaFree(p);
}

int cuda_reserve(struct cuda_state *s, struct scratch *m, size_t bytes, const char *what, struct err *e)
{
    if (bytes <= m->bytes)
        return 0;
    void *old = m->p;
    *m = (struct scratch){NULL, 0};
    s->split_of.x = NULL;
    cuda_drop(s, old);
    int rc = cuda_take(s, bytes, what, &m->p, e);
    if (!rc)
        m->bytes = bytes;
    return rc;
}

static int op_alloc(struct backend *b, size_t bytes, void **out, struct err *e)
{
    struct cuda_state *s = state_of(b);
    int rc = cuda_take(s, bytes, "activations", out, e);
    if (!rc)
        rc = cuda_check(s, cudaMemsetAsync(*out, 0, bytes, s->stream), "clearing memory", e);
    if (rc) {
        cuda_drop(s, *out);
        *out = NULL;
    }
    return rc;
}

static void op_free(struct backend *b, void *p)
{
    struct cuda_state *s = state_of(b);
    s->split_of.x = NULL;
    cuda_drop(s, p);
}

static int op_upload(struct backend *b, void *to, const void *from, size_t bytes, struct err *e)
{
    struct cuda_state *s = state_of(b);
    s->split_of.x = NULL;
    if (!bytes)
        return 0;
    int rc = cuda_check(s, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, s->stream), "upload", e);
    return rc ? rc : cuda_check(s, cudaStreamSynchronize(s->stream), "upload", e);
}

static int op_download(struct backend *b, void *to, const void *from, size_t bytes, struct err *e)
{
    struct cuda_state *s = state_of(b);
    int rc = bytes ? cuda_check(s, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, s->stream), "download", e) : 0;
    return rc ? rc : cuda_check(s, cudaStreamSynchronize(s->stream), "download", e);
}

/* Ops of one launch */

static int done(struct backend *b, enum cuda_row row, cudaError_t r, struct err *e)
{
    struct cuda_state *s = state_of(b);
    s->calls[row]++;
    s->split_of.x = NULL; /* its source may have been written */
    static const char *const names[] = {
#define ROW(name) #name,
#include "kernels/cuda/cuda_rows.def"
#undef ROW
    };
    return cuda_check(s, r, names[row], e);
}

/* The same for a kernel that made y, and its halves beside it. */
static int done_halves(struct backend *b, enum cuda_row row, cudaError_t r, const struct cuda_halves *h, const float *y, struct err *e)
{
    int rc = done(b, row, r, e);
    if (!rc)
        cuda_halves_made(state_of(b), h, y);
    return rc;
}

/* Room in page-locked memory, free of copies under way. */
static int stage(struct cuda_state *s, size_t bytes, struct err *e)
{
    int rc = cuda_check(s, cudaEventSynchronize(s->staged), "waiting for a copy", e);
    if (rc || bytes <= s->staging_bytes)
        return rc;
    void *old = s->staging;
    s->staging = NULL;
    s->staging_bytes = 0;
    rc = old ? cuda_check(s, cudaFreeHost(old), "cudaFreeHost", e) : 0;
    if (!rc)
        rc = cuda_check(s, cudaMallocHost(&s->staging, bytes), "page-locked memory for rows of the embedding", e);
    if (!rc)
        s->staging_bytes = bytes;
    return rc;
}

/* The table stays in host memory (it lies in the model's map): its rows are gathered here and copied, a few KB a token. */
static int op_embed(struct backend *b, float *y, const struct tensor_view *t, const int32_t *ids, int64_t M, struct err *e)
{
    struct cuda_state *s = state_of(b);
    if (t->dtype != DT_F32 && t->dtype != DT_F16 && t->dtype != DT_BF16)
        return err_set(e, ERR_UNSUPPORTED, "an embedding of dtype %s; F32, F16 and BF16 are supported", dtype_name(t->dtype));
    size_t width = (size_t)t->cols * dtype_bytes(t->dtype), bytes = (size_t)M * width;
    if (M <= 0)
        return 0;
    int rc = stage(s, bytes, e);
    if (!rc)
        rc = cuda_reserve(s, &s->ids, bytes, "rows of the embedding", e);
    if (rc)
        return rc;
    for (int64_t m = 0; m < M; m++)
        memcpy((char *)s->staging + (size_t)m * width, (const char *)t->data + (size_t)ids[m] * width, width);
    rc = cuda_check(s, cudaMemcpyAsync(s->ids.p, s->staging, bytes, cudaMemcpyHostToDevice, s->stream), "rows of the embedding", e);
    if (!rc)
        rc = cuda_check(s, cudaEventRecord(s->staged, s->stream), "rows of the embedding", e);
    return rc ? rc : done(b, CUDA_embed, launch_widen(s->stream, y, s->ids.p, t->dtype, M * t->cols), e);
}

static int op_rmsnorm(struct backend *b, float *y, const float *x, const float *w, int64_t M, int64_t K, float eps, struct err *e)
{
    struct cuda_halves h;
    int rc = cuda_halves_room(state_of(b), M, K, &h, e);
    return rc ? rc : done_halves(b, CUDA_rmsnorm, launch_rmsnorm(state_of(b)->stream, y, x, w, M, K, eps, &h), &h, y, e);
}

static int op_rope(struct backend *b, const struct rope_args *a, struct err *e)
{
    if (a->head_dim % 2)
        return err_set(e, ERR_SHAPE, "rotary embedding needs an even head size, not %d", a->head_dim);
    return done(b, CUDA_rope, launch_rope(state_of(b)->stream, a), e);
}

static int op_silu_mul(struct backend *b, float *y, const float *gate, const float *up, int64_t M, int64_t K, struct err *e)
{
    struct cuda_halves h;
    int rc = cuda_halves_room(state_of(b), M, K, &h, e);
    return rc ? rc : done_halves(b, CUDA_silu_mul, launch_silu_mul(state_of(b)->stream, y, gate, up, M, K, &h), &h, y, e);
}

static int op_add(struct backend *b, float *y, const float *x, int64_t n, struct err *e)
{
    return done(b, CUDA_add, launch_add(state_of(b)->stream, y, x, n), e);
}

static int op_attention(struct backend *b, const struct attn_args *a, struct err *e)
{
    struct cuda_halves h;
    int rc = cuda_attention(b, a, &h, e);
    return rc ? rc : done_halves(b, CUDA_attention, cudaSuccess, &h, a->y, e);
}

static int op_nll(struct backend *b, const float *logits, int64_t M, int64_t V, const int32_t *targets, double *nll, int32_t *top1, struct err *e)
{
    int rc = cuda_nll(b, logits, M, V, targets, nll, top1, e);
    return rc ? rc : done(b, CUDA_nll, cudaSuccess, e);
}

static int op_kl(struct backend *b, const float *ref, const float *logits, int64_t M, int64_t V, const int32_t *targets, struct kl_row *out, struct err *e)
{
    int rc = cuda_kl(b, ref, logits, M, V, targets, out, e);
    return rc ? rc : done(b, CUDA_kl, cudaSuccess, e);
}

static int op_sample(struct backend *b, const float *logits, int64_t M, int64_t V, const struct sample_row *rows, int32_t *ids, struct err *e)
{
    int rc = cuda_sample(b, logits, M, V, rows, ids, e);
    return rc ? rc : done(b, CUDA_sample, cudaSuccess, e);
}

/* What only quantize and its recipes use */

static int cpu_only(const char *op, struct err *e)
{
    return err_set(e, ERR_UNSUPPORTED, "%s runs on the CPU in this version: the CUDA plug-in serves run, eval and validate", op);
}

static int op_silu_back(struct backend *b, float *gate, float *up, int64_t n, struct err *e)
{
    (void)b, (void)gate, (void)up, (void)n;
    return cpu_only("silu_back", e);
}

static int op_rmsnorm_back(struct backend *b, float *dy, const float *x, const float *w, int64_t M, int64_t K, float eps, struct err *e)
{
    (void)b, (void)dy, (void)x, (void)w, (void)M, (void)K, (void)eps;
    return cpu_only("rmsnorm_back", e);
}

static int op_mix(struct backend *b, float *y, float p, const float *x, float q, int64_t n, struct err *e)
{
    (void)b, (void)y, (void)p, (void)x, (void)q, (void)n;
    return cpu_only("mix", e);
}

static int op_attention_back(struct backend *b, const struct attn_back_args *a, struct err *e)
{
    (void)b, (void)a;
    return cpu_only("attention_back", e);
}

static int op_hessian(struct backend *b, double *h, const float *x, int64_t ldx, int64_t M, int64_t K, int64_t row0, struct err *e)
{
    (void)b, (void)h, (void)x, (void)ldx, (void)M, (void)K, (void)row0;
    return cpu_only("hessian", e);
}

static int op_cross(struct backend *b, double *c, const float *a, int64_t lda, int64_t Ka, const float *x, int64_t ldx, int64_t Kb, int64_t M, int64_t row0,
                    struct err *e)
{
    (void)b, (void)c, (void)a, (void)lda, (void)Ka, (void)x, (void)ldx, (void)Kb, (void)M, (void)row0;
    return cpu_only("cross", e);
}

static int op_factor(struct backend *b, double *h, float *u, int64_t K, int64_t *bad_pivot, struct err *e)
{
    (void)b, (void)h, (void)u, (void)K, (void)bad_pivot;
    return cpu_only("factor", e);
}

static int op_gptq(struct backend *b, const struct gptq_args *a, struct err *e)
{
    (void)b, (void)a;
    return cpu_only("gptq", e);
}

static int op_refine(struct backend *b, struct refine_args *a, struct err *e)
{
    (void)b, (void)a;
    return cpu_only("refine", e);
}

static int op_fit(struct backend *b, const float *w, int64_t ldw, int64_t N, int64_t n, const struct quant_grid *grid, uint16_t *scales, uint8_t *zeros,
                  struct err *e)
{
    (void)b, (void)w, (void)ldw, (void)N, (void)n, (void)grid, (void)scales, (void)zeros;
    return cpu_only("fit", e);
}

static int op_quad_form(struct backend *b, const float *e_nk, const double *h, int64_t N, int64_t K, double *out, struct err *e)
{
    (void)b, (void)e_nk, (void)h, (void)N, (void)K, (void)out;
    return cpu_only("quad_form", e);
}

static const struct backend_ops cuda_ops = {
    .alloc = op_alloc,
    .free = op_free,
    .upload = op_upload,
    .download = op_download,
    .weight_dense = cuda_weight_dense,
    .weight_quantized = cuda_weight_quantized,
    .weight_free = cuda_weight_free,
    .weight_join = cuda_weight_join,
    .linear = cuda_linear,
    .linear_many = cuda_linear_many,
    .embed = op_embed,
    .rmsnorm = op_rmsnorm,
    .rope = op_rope,
    .silu_mul = op_silu_mul,
    .silu_back = op_silu_back,
    .rmsnorm_back = op_rmsnorm_back,
    .add = op_add,
    .mix = op_mix,
    .kv_create = cuda_kv_create,
    .kv_free = cuda_kv_free,
    .attention = op_attention,
    .attention_back = op_attention_back,
    .nll = op_nll,
    .kl = op_kl,
    .sample = op_sample,
    .hessian = op_hessian,
    .cross = op_cross,
    .factor = op_factor,
    .gptq = op_gptq,
    .refine = op_refine,
    .fit = op_fit,
    .quad_form = op_quad_form,
    .weight_kernel = cuda_weight_kernel,
};

/* The plug-in's table */

/* Versions are 1000 major + 10 minor; the driver's is that of the newest CUDA that it serves, 0 without a driver. */
static int old_driver(struct err *e)
{
    int driver = 0, runtime = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || cudaRuntimeGetVersion(&runtime) != cudaSuccess)
        (void)cudaGetLastError();
    if (!driver)
        return err_set(e, ERR_DEVICE, "no CUDA device: there is no NVIDIA driver; one that serves CUDA %d.%d is needed", runtime / 1000, runtime % 1000 / 10);
    return err_set(e, ERR_DEVICE, "no CUDA device: the driver serves CUDA %d.%d, the plug-in needs %d.%d; a newer driver is needed", driver / 1000, driver % 1000 / 10, runtime / 1000,
                   runtime % 1000 / 10);
}

static int device_count(int *out, struct err *e)
{
    *out = 0;
    cudaError_t r = cudaGetDeviceCount(out);
    if (r == cudaSuccess && *out > 0)
        return 0;
    (void)cudaGetLastError();
    *out = 0;
    if (r == cudaErrorInsufficientDriver)
        return old_driver(e);
    return err_set(e, ERR_DEVICE, "no CUDA device: %s", r == cudaSuccess ? "the driver lists none" : cudaGetErrorString(r));
}

/* A device that is there and served, but not for this process now. */
static int not_usable(const struct plugin_device *d, int device, cudaError_t r, struct err *e)
{
    int mode = cudaComputeModeDefault;
    (void)cudaGetLastError();
    if (r == cudaErrorMemoryAllocation)
        return err_set(e, ERR_NOMEM, "cuda:%d (%s) has no memory for one more process: others hold its %llu bytes", device, d->name, (unsigned long long)d->total_bytes);
    if (r == cudaErrorDevicesUnavailable && cudaDeviceGetAttribute(&mode, cudaDevAttrComputeMode, device) != cudaSuccess)
        (void)cudaGetLastError();
    if (mode == cudaComputeModeExclusiveProcess)
        return err_set(e, ERR_DEVICE, "cuda:%d (%s) is in use by another process, and its compute mode, exclusive process, allows one", device, d->name);
    if (mode == cudaComputeModeProhibited)
        return err_set(e, ERR_DEVICE, "cuda:%d (%s) allows no process: its compute mode is prohibited, default or exclusive process is needed", device, d->name);
    return err_set(e, ERR_DEVICE, "cuda:%d (%s) cannot be used: %s (%s)", device, d->name, cudaGetErrorString(r), cudaGetErrorName(r));
}

static int device_info(int device, struct plugin_device *out, struct err *e)
{
    int count;
    *out = (struct plugin_device){.sm = 0};
    int rc = device_count(&count, e);
    if (rc)
        return rc;
    if (device < 0 || device >= count)
        return err_set(e, ERR_DEVICE, "no CUDA device %d: there %s %d", device, count == 1 ? "is" : "are", count);
    struct cudaDeviceProp p;
    cudaError_t r = cudaGetDeviceProperties(&p, device);
    if (r == cudaSuccess)
        r = cudaDriverGetVersion(&out->driver);
    if (r != cudaSuccess)
        return err_set(e, ERR_DEVICE, "cuda:%d: properties: %s", device, cudaGetErrorString(r));
    out->sm = p.major * 10 + p.minor;
    out->processors = p.multiProcessorCount;
    out->total_bytes = p.totalGlobalMem;
    snprintf(out->name, sizeof out->name, "%.95s", p.name);
    snprintf(out->numerics, sizeof out->numerics, "cuda-sm%d", out->sm);
    if (out->sm < 80)
        return err_set(e, ERR_DEVICE, "cuda:%d (%s) has compute capability %d.%d; 8.0 or newer is needed", device, out->name, p.major, p.minor);
    size_t free_bytes = 0, total = 0;
    r = cudaSetDevice(device);
    if (r == cudaSuccess)
        r = cudaMemGetInfo(&free_bytes, &total);
    if (r != cudaSuccess)
        return not_usable(out, device, r, e);
    out->free_bytes = free_bytes;
    struct machete_device machete;
    struct err why;
    if (machete_device_open(&machete, &why)) /* it is said where machete is asked for */
        snprintf(out->no_machete, sizeof out->no_machete, "%.159s", why.text);
    return 0;
}

static void each_count(const struct backend *b, void (*fn)(void *arg, const char *row, uint64_t calls), void *arg)
{
    static const char *const names[] = {
#define ROW(name) #name "_cuda",
#include "kernels/cuda/cuda_rows.def"
#undef ROW
    };
    for (int i = 0; i < CUDA_ROWS; i++)
        if (state_of(b)->calls[i])
            fn(arg, names[i], state_of(b)->calls[i]);
}

static void destroy(struct backend *b)
{
    if (!b)
        return;
    struct cuda_state *s = state_of(b);
    struct scratch *all[] = {&s->split, &s->partial, &s->ids, &s->results, &s->marlin_space, &s->words};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        cuda_drop(s, all[i]->p);
    cuda_kv_release(s);
    free(s->pool.pages);
    cuda_ring_close(s);
    if (s->staging)
        cudaFreeHost(s->staging);
    if (s->staged)
        cudaEventDestroy(s->staged);
    if (s->stream)
        cudaStreamDestroy(s->stream);
    free(s);
    free(b);
}

static int open_backend(const struct plugin_options *o, const struct parallel *par, struct backend **out, struct err *e)
{
    *out = NULL;
    struct backend *b = calloc(1, sizeof *b);
    struct cuda_state *s = calloc(1, sizeof *s);
    if (!b || !s) {
        free(b);
        free(s);
        return err_set(e, ERR_NOMEM, "no memory for a backend");
    }
    s->device = o->device;
    s->par = *par;
    snprintf(s->pinned, sizeof s->pinned, "%s", o->kernel);
    *b = (struct backend){.ops = &cuda_ops, .name = "cuda", .numerics = s->info.numerics, .state = s, .each_count = each_count, .destroy = destroy};
    int rc = device_info(o->device, &s->info, e);
    if (!rc)
        rc = marlin_device_open(&s->marlin, e);
    if (!rc && !*s->info.no_machete)
        rc = machete_device_open(&s->machete, e);
    if (!rc)
        rc = cuda_check(s, cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking), "a stream", e);
    if (!rc)
        rc = cuda_check(s, cudaEventCreateWithFlags(&s->staged, cudaEventDisableTiming), "an event", e);
    if (rc)
        destroy(b);
    else
        *out = b;
    return rc;
}

__attribute__((visibility("default"))) extern const struct plugin gptqpipe_cuda;
const struct plugin gptqpipe_cuda = {
    .abi = BACKEND_ABI, .revision = PLUGIN_REVISION, .device_count = device_count, .device_info = device_info, .open = open_backend};

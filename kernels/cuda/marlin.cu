/* Host side of the kernel: properties of the device, arguments, launches. MARLIN_EXACT_ONLY: without the tiles that round weights, and bf16 only, for the plug-in. */
#include <cuda_runtime.h>

#include "kernels/cuda/marlin_launch.h"
#include "kernels/cuda/runtime_call.h"

#define MARLIN(rows, wn_log2, scaled, blocks) extern "C" const void *marlin_rows##rows##_##wn_log2(int bits, int bf16); /* NULL: not built */
#include "kernels/cuda/marlin.def"
#undef MARLIN

static const void *kernel_of(int rows, int wn_log2, int bits, int bf16)
{
    switch (8 * rows + wn_log2) {
#define MARLIN(rows, wn_log2, scaled, blocks) \
    case 8 * rows + wn_log2: return marlin_rows##rows##_##wn_log2(bits, bf16);
#include "kernels/cuda/marlin.def"
#undef MARLIN
    }
    return NULL;
}

/* Each kernel may have all of a block's shared memory. d->pdl: all of them wait. */
static int open_kernels(struct marlin_device *d, struct err *e)
{
    static const int tiles[][2] = {
#define MARLIN(rows, wn_log2, scaled, blocks) {rows, wn_log2},
#include "kernels/cuda/marlin.def"
#undef MARLIN
    };
    d->pdl = true;
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++)
        for (int variant = 0; variant < 4; variant++) {
            const void *kernel = kernel_of(tiles[i][0], tiles[i][1], variant & 1 ? 8 : 4, variant >> 1);
            struct cudaFuncAttributes a;
            if (!kernel)
                continue;
            cudaError_t rc = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, d->block_shared);
            if (rc != cudaSuccess)
                return call_failed(rc, "cudaFuncSetAttribute", e);
            rc = cudaFuncGetAttributes(&a, kernel);
            if (rc != cudaSuccess)
                return call_failed(rc, "cudaFuncGetAttributes", e);
            d->pdl = d->pdl && marlin_waits(a.ptxVersion, a.binaryVersion);
        }
    return 0;
}

extern "C" int marlin_device_open(struct marlin_device *d, struct err *e)
{
    int device, major, minor, rc;
    cudaError_t got = cudaGetDevice(&device);
    if (got != cudaSuccess)
        return call_failed(got, "cudaGetDevice", e);
    if ((rc = device_attribute(&major, cudaDevAttrComputeCapabilityMajor, device, e)) || (rc = device_attribute(&minor, cudaDevAttrComputeCapabilityMinor, device, e)) ||
        (rc = device_attribute(&d->sms, cudaDevAttrMultiProcessorCount, device, e)) || (rc = device_attribute(&d->block_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device, e)) ||
        (rc = device_attribute(&d->sm_shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device, e)))
        return rc;
    d->capability = 10 * major + minor;
    if (d->capability < 80)
        return err_set(e, ERR_UNSUPPORTED, "kernel marlin needs compute capability 8.0, the device has %d.%d", major, minor);
    return open_kernels(d, e);
}

static int check_call(const struct marlin_device *d, const struct marlin_call *call, const struct marlin_config *c, const struct marlin_args *a, struct err *e)
{
    const struct marlin_shape *s = call->shape;
    int rc = marlin_config_check(d, s, call->M, c, e);
    if (!rc)
        rc = marlin_check_parts("marlin", a->part, s->N, MARLIN_CHUNK, e);
    if (rc)
        return rc;
    if (call->ldx < s->Kx || call->ldx % 8 || (uintptr_t)call->x % 16)
        return err_set(e, ERR_SHAPE, "kernel marlin: X at %p with rows of %lld elements is not aligned to 16 bytes, or shorter than K=%lld", call->x, (long long)call->ldx,
                       (long long)s->Kx);
    if (call->halves && (call->M % 2 || c->rows > 32))
        return err_set(e, ERR_UNSUPPORTED, "kernel marlin: halves of activations need an even M, not %lld, and exact weights, not a tile of %d rows", (long long)call->M, c->rows);
    if (!kernel_of(c->rows, c->wn_log2, s->bits, call->act == MARLIN_BF16))
        return err_set(e, ERR_UNSUPPORTED, "kernel marlin: this build has no tile of %d rows by %d columns for %s", c->rows, 64 << c->wn_log2,
                       call->act == MARLIN_BF16 ? "bf16" : "f16");
    if (!call->weight.zeros != !s->zero_table)
        return err_set(e, ERR_SHAPE, "kernel marlin: zeros are %s", s->zero_table ? "missing" : "given, but the matrix has one zero");
    size_t need = marlin_workspace_bytes(d, s, call->M, c);
    if (call->workspace_bytes < need)
        return err_set(e, ERR_NOMEM, "kernel marlin: workspace of %zu bytes, %zu needed", call->workspace_bytes, need);
    return 0;
}

static int launch(const struct marlin_device *d, const struct marlin_call *call, const struct marlin_config *c, struct marlin_args *a, int slabs, cudaStream_t stream,
                  struct err *e)
{
    const struct marlin_shape *s = call->shape;
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t lc = {};
    lc.gridDim = dim3((unsigned)slabs, (unsigned)a->grid.blocks);
    lc.blockDim = dim3(MARLIN_THREADS);
    lc.dynamicSmemBytes = marlin_shared_bytes(s, c);
    lc.stream = stream;
    lc.attrs = &attr;
    lc.numAttrs = call->pdl && d->pdl;
    a->pdl = (int)lc.numAttrs;
    void *params[] = {a};
    cudaError_t rc = cudaLaunchKernelExC(&lc, kernel_of(c->rows, c->wn_log2, s->bits, call->act == MARLIN_BF16), params);
    return rc == cudaSuccess ? 0 : call_failed(rc, "launch of kernel marlin", e);
}

extern "C" int marlin_launch(const struct marlin_device *d, const struct marlin_call *call, const struct marlin_config *c, void *stream, struct err *e)
{
    struct marlin_args a;
    marlin_fill_args(call, c, &a);
    int rc = check_call(d, call, c, &a, e);
    const int64_t step = rc == 0 && c->fixed ? (int64_t)marlin_slabs(d, call->shape, call->M, c) * c->rows : call->M;
    for (int64_t m = 0; rc == 0 && m < call->M; m += step) {
        const int64_t rows = call->M - m < step ? call->M - m : step;
        a.x = (const uint16_t *)call->x + m * call->ldx;
        for (int i = 0; i < MARLIN_PARTS; i++)
            a.part[i].y = (char *)(i ? call->more[i - 1].y : call->y) + (call->halves ? m / 2 : m) * a.part[i].ldy * (call->y_f32 ? 4 : 2);
        a.M = (int)rows;
        a.grid = marlin_make_grid(d, call->shape, rows, c);
        rc = launch(d, call, c, &a, marlin_slabs(d, call->shape, rows, c), (cudaStream_t)stream, e);
    }
    return rc;
}

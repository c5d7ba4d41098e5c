/* Host side of the kernel: properties of the device, the tensor map of X, arguments, launches. MACHETE_FIXED_ONLY: with the tiles of fixed mode alone, and bf16 only, for the
 * plug-in. */
#include <cuda.h>
#include <cuda_runtime.h>

#include "kernels/cuda/machete_launch.h"
#include "kernels/cuda/runtime_call.h"

#define MACHETE(rows, wide, scaled, blocks, sm) extern "C" const void *machete_rows##rows##_##wide(int bits, int bf16, int run);
#include "kernels/cuda/machete.def"
#undef MACHETE

static const void *kernel_of(int rows, int wide, int bits, int bf16, int run)
{
    switch (4 * rows + wide) {
#define MACHETE(rows, wide, scaled, blocks, sm) \
    case 4 * rows + wide: return machete_rows##rows##_##wide(bits, bf16, run);
#include "kernels/cuda/machete.def"
#undef MACHETE
    }
    return NULL;
}

static int raise_shared(int bytes, struct err *e)
{
    static const int tiles[][2] = {
#define MACHETE(rows, wide, scaled, blocks, sm) {rows, wide},
#include "kernels/cuda/machete.def"
#undef MACHETE
    };
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++)
        for (int variant = 0; variant < 12; variant++) {
            const void *kernel = kernel_of(tiles[i][0], tiles[i][1], variant & 1 ? 8 : 4, variant >> 1 & 1, 2 << (variant >> 2));
            cudaError_t rc = kernel ? cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) : cudaSuccess;
            if (rc != cudaSuccess)
                return call_failed(rc, "cudaFuncSetAttribute", e);
        }
    return 0;
}

static void fill_launch(cudaLaunchConfig_t *lc, cudaLaunchAttribute *attr, int blocks, int cluster, size_t shared)
{
    lc->gridDim = dim3((unsigned)blocks);
    lc->blockDim = dim3(MACHETE_THREADS);
    lc->dynamicSmemBytes = shared;
    lc->attrs = attr;
    lc->numAttrs = 0;
    if (cluster > 1) {
        attr[lc->numAttrs].id = cudaLaunchAttributeClusterDimension;
        attr[lc->numAttrs].val.clusterDim.x = (unsigned)cluster;
        attr[lc->numAttrs].val.clusterDim.y = 1;
        attr[lc->numAttrs++].val.clusterDim.z = 1;
    }
}

/* How many clusters of each size are on the device at a time: a launch has no more, for a second wave would wait for the first to end. */
static void count_clusters(struct machete_device *d)
{
    for (int blocks = 1; blocks <= 2; blocks++) {
        int *clusters = d->clusters[blocks - 1];
        clusters[0] = 0;
        clusters[1] = d->sms * blocks;
        for (int n = 2; n <= MACHETE_CLUSTER_MAX; n++) {
            cudaLaunchConfig_t lc = {};
            cudaLaunchAttribute attr[2] = {};
            fill_launch(&lc, attr, d->sms * blocks / n * n, n, (size_t)(blocks == 1 ? d->block_shared : d->sm_shared / 2 - 1024));
            const void *kernel = blocks == 1 ? kernel_of(32, 1, 4, 1, 8) : kernel_of(8, 1, 4, 1, 8); /* 8 rows: two blocks an SM */
            if (!kernel || cudaOccupancyMaxActiveClusters(&clusters[n], kernel, &lc) != cudaSuccess) { /* a size the device does not take is one that no config has */
                clusters[n] = 0;
                cudaGetLastError();
            }
        }
    }
}

/* What makes the tensor map of X: looked up once, for a launch makes one. */
static int find_encode(struct machete_device *d, struct err *e)
{
    cudaDriverEntryPointQueryResult found;
    cudaError_t rc = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &d->encode_map, 12000, cudaEnableDefault, &found);
    if (rc != cudaSuccess)
        return call_failed(rc, "cudaGetDriverEntryPointByVersion", e);
    if (found != cudaDriverEntryPointSuccess || !d->encode_map)
        return err_set(e, ERR_UNSUPPORTED, "the driver has no cuTensorMapEncodeTiled: CUDA 12.0 and newer do");
    return 0;
}

extern "C" int machete_device_open(struct machete_device *d, struct err *e)
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
    if (d->capability != 90)
        return err_set(e, ERR_UNSUPPORTED, "kernel machete needs compute capability 9.0, the device has %d.%d", major, minor);
    rc = raise_shared(d->block_shared, e);
    if (rc == 0)
        rc = find_encode(d, e);
    if (rc == 0)
        count_clusters(d);
    return rc;
}

static int check_call(const struct machete_device *d, const struct machete_call *call, const struct machete_config *c, struct err *e)
{
    const struct machete_shape *s = call->shape;
    int rc = machete_config_check(d, s, call->M, c, e);
    if (rc)
        return rc;
    if (call->ldx < s->Kx || call->ldx % 8 || (uintptr_t)call->x % 16)
        return err_set(e, ERR_SHAPE, "kernel machete: X at %p with rows of %lld elements is not aligned to 16 bytes, or shorter than K=%lld", call->x, (long long)call->ldx,
                       (long long)s->Kx);
    if ((uintptr_t)call->weight.codes % 16 || (uintptr_t)call->weight.scales % 16 || (uintptr_t)call->weight.zeros % 16)
        return err_set(e, ERR_SHAPE, "kernel machete: codes at %p, scales at %p and zeros at %p are not all aligned to 16 bytes", (const void *)call->weight.codes,
                       (const void *)call->weight.scales, (const void *)call->weight.zeros);
    if (call->halves && (call->M % 2 || !machete_exact(c->rows, c->wide)))
        return err_set(e, ERR_UNSUPPORTED, "kernel machete: halves of activations need an even M, not %lld, and exact weights, not a tile of %d rows by %d columns", (long long)call->M,
                       c->rows, 128 * c->wide);
    if (!kernel_of(c->rows, c->wide, s->bits, call->act == MARLIN_BF16, machete_run(s->unit_shift)))
        return err_set(e, ERR_UNSUPPORTED, "kernel machete: this build has no tile of %d rows by %d columns for %s", c->rows, 128 * c->wide,
                       call->act == MARLIN_BF16 ? "bf16" : "f16");
    if (!call->weight.zeros != !s->zero_table)
        return err_set(e, ERR_SHAPE, "kernel machete: zeros are %s", s->zero_table ? "missing" : "given, but the matrix has one zero");
    return 0;
}

static int check_parts(const struct machete_args *a, struct err *e)
{
    for (int i = 0; i < MARLIN_PARTS; i++)
        if ((uintptr_t)a->part[i].y % (a->y_f32 ? 4 : 2))
            return err_set(e, ERR_SHAPE, "kernel machete: Y at %p is not aligned to its elements", a->part[i].y);
    return marlin_check_parts("machete", a->part, a->N, MACHETE_N, e);
}

typedef CUresult encode_fn(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *, const cuuint32_t *, const cuuint32_t *,
                           CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* X [M, Kx] in boxes of 64 inputs by the rows that a block brings; what lies outside comes as 0. */
static int encode_map(const struct machete_device *d, const struct machete_call *call, const struct machete_config *c, CUtensorMap *map, struct err *e)
{
    const cuuint64_t dims[2] = {(cuuint64_t)call->shape->Kx, (cuuint64_t)call->M}, strides[1] = {(cuuint64_t)call->ldx * 2};
    const cuuint32_t box[2] = {MACHETE_K, (cuuint32_t)(c->rows / c->share)}, steps[2] = {1, 1};
    CUresult got = ((encode_fn *)d->encode_map)(map, call->act == MARLIN_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, (void *)call->x, dims, strides, box,
                                         steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return got == CUDA_SUCCESS ? 0 : err_set(e, ERR_DEVICE, "cuTensorMapEncodeTiled for X [%lld, %lld]: error %d", (long long)call->M, (long long)call->shape->Kx, (int)got);
}

extern "C" int machete_launch(const struct machete_device *d, const struct machete_call *call, const struct machete_config *c, void *stream, struct err *e)
{
    CUtensorMap map;
    machete_args a;
    int rc = check_call(d, call, c, e);
    if (rc == 0) {
        machete_fill_args(d, call, c, &a);
        rc = check_parts(&a, e);
    }
    if (rc == 0)
        rc = encode_map(d, call, c, &map, e);
    if (rc)
        return rc;
    cudaLaunchConfig_t lc = {};
    cudaLaunchAttribute attr[2] = {};
    const int cluster = c->split * c->share;
    fill_launch(&lc, attr, a.grid.clusters * cluster, cluster, machete_shared_bytes(call->shape, c));
    lc.stream = (cudaStream_t)stream;
    if (call->pdl) {
        attr[lc.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attr[lc.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    void *params[] = {&a, &map};
    cudaError_t got = cudaLaunchKernelExC(&lc, kernel_of(c->rows, c->wide, call->shape->bits, call->act == MARLIN_BF16, machete_run(call->shape->unit_shift)), params);
    return got == cudaSuccess ? 0 : call_failed(got, "launch of kernel machete", e);
}

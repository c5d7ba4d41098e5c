/* What the GPU programs share: checked CUDA calls, TAP lines, data drawn on the device. A program needs nothing but itself and a driver. */
#ifndef TESTS_GPU_GPU_H
#define TESTS_GPU_GPU_H

#include <cuda_runtime.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define GPU_FN static __attribute__((unused))

/* What runs on the device, for who has to say that it failed or does not end. */
static char gpu_where[256];

GPU_FN void gpu_hangs(int number)
{
    static const char what[] = "\nBail out! it does not end: ";
    (void)number;
    if (write(1, what, sizeof what - 1) < 0 || write(1, gpu_where, strlen(gpu_where)) < 0 || write(1, "\n", 1) < 0)
        _exit(4);
    _exit(3);
}

/* What was just begun has so many seconds to end, or the program ends and says what it was; 0: it has ended. */
GPU_FN void gpu_watch(unsigned seconds)
{
    signal(SIGALRM, gpu_hangs);
    alarm(seconds);
}

/* More to say of a failure, or nothing. */
static void (*gpu_also)(void);

GPU_FN void bail_out(const char *file, int line, const char *what, const char *why)
{
    printf("Bail out! %s:%d: %s: %s%s%s\n", file, line, what, why, gpu_where[0] ? ", at " : "", gpu_where);
    if (gpu_also)
        gpu_also();
    exit(1);
}

#define CUDA(call)                                                                                                                                     \
    do {                                                                                                                                               \
        cudaError_t rc_ = (call);                                                                                                                      \
        if (rc_ != cudaSuccess)                                                                                                                        \
            bail_out(__FILE__, __LINE__, #call, cudaGetErrorString(rc_));                                                                              \
    } while (0)

/* A call of ours that returned rc and filled e. */
#define OURS(rc, e)                                                                                                                                    \
    do {                                                                                                                                               \
        if (rc) {                                                                                                                                      \
            printf("Bail out! %s:%d: %s\n", __FILE__, __LINE__, (e).text);                                                                             \
            exit(1);                                                                                                                                   \
        }                                                                                                                                              \
    } while (0)

static int tap_passed, tap_failed, tap_skipped;

GPU_FN int tap(int ok, const char *fmt, ...)
{
    va_list ap;
    printf("%sok %d - ", ok ? "" : "not ", tap_passed + tap_failed + tap_skipped + 1);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
    ok ? tap_passed++ : tap_failed++;
    return ok;
}

GPU_FN void tap_skip(const char *what, const char *why)
{
    printf("ok %d - %s # SKIP %s\n", tap_passed + tap_failed + tap_skipped + 1, what, why);
    tap_skipped++;
}

GPU_FN int tap_end(void)
{
    printf("1..%d\n# %d passed, %d failed, %d skipped\n", tap_passed + tap_failed + tap_skipped, tap_passed, tap_failed, tap_skipped);
    return tap_failed != 0;
}

/* A kernel class or a device that is not there: says so and ends, with status 0; with 1 where GPTQPIPE_NEED_GPU is set, for who knows that it is. */
GPU_FN void skip_program(const char *why)
{
    const char *need = getenv("GPTQPIPE_NEED_GPU");
    printf("1..0 # SKIP %s\n", why);
    exit(need && *need ? 1 : 0);
}

GPU_FN void need_device(void)
{
    int n = 0;
    cudaError_t rc = cudaGetDeviceCount(&n);
    if (rc == cudaSuccess && n > 0)
        return;
    char why[128];
    snprintf(why, sizeof why, "no CUDA device (%s)", rc == cudaSuccess ? "none found" : cudaGetErrorString(rc));
    skip_program(why);
}

GPU_FN double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

GPU_FN void *device_alloc(size_t bytes)
{
    void *p;
    CUDA(cudaMalloc(&p, bytes ? bytes : 1));
    return p;
}

GPU_FN void *device_copy(const void *from, size_t bytes)
{
    void *p = device_alloc(bytes);
    CUDA(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice));
    return p;
}

/* splitmix64 of (seed, i). */
static __host__ __device__ __forceinline__ uint64_t draw_at(uint64_t seed, uint64_t i)
{
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* -1 .. 1. */
static __host__ __device__ __forceinline__ float draw_f32(uint64_t seed, uint64_t i)
{
    return (float)(int32_t)(draw_at(seed, i) >> 32) * 0x1p-31f;
}

static __global__ void fill_words_kernel(uint32_t *p, size_t n, uint64_t seed)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        p[i] = (uint32_t)draw_at(seed, i);
}

GPU_FN void fill_words(void *p, size_t bytes, uint64_t seed)
{
    fill_words_kernel<<<1024, 256>>>((uint32_t *)p, bytes / 4, seed);
    CUDA(cudaGetLastError());
}

#endif

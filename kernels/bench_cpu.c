/* What bounds the CPU: how fast all threads together read memory, and how many FMAs they do. */
#include <math.h>
#include <string.h>

#include "kernels/bench.h"

/* FMA peak of a thread: independent chains in registers, enough of them to hide the latency. In assembly, so that no compiler can touch it. */
enum { PEAK_LOOPS = 200000, CHAINS = 12, READ_PIECES = 64 };

#if defined(__x86_64__)
#define FMA12(r)                                                                                                                                     \
    "vfmadd231ps %%" r "12, %%" r "13, %%" r "0\n\tvfmadd231ps %%" r "12, %%" r "13, %%" r "1\n\tvfmadd231ps %%" r "12, %%" r "13, %%" r "2\n\t"         \
    "vfmadd231ps %%" r "12, %%" r "13, %%" r "3\n\tvfmadd231ps %%" r "12, %%" r "13, %%" r "4\n\tvfmadd231ps %%" r "12, %%" r "13, %%" r "5\n\t"         \
    "vfmadd231ps %%" r "12, %%" r "13, %%" r "6\n\tvfmadd231ps %%" r "12, %%" r "13, %%" r "7\n\tvfmadd231ps %%" r "12, %%" r "13, %%" r "8\n\t"         \
    "vfmadd231ps %%" r "12, %%" r "13, %%" r "9\n\tvfmadd231ps %%" r "12, %%" r "13, %%" r "10\n\tvfmadd231ps %%" r "12, %%" r "13, %%" r "11\n\t"
/* The registers hold zeros or what is left in them: the time does not depend on it. */
#define PEAK(r)                                                                                                                                      \
    long n = PEAK_LOOPS;                                                                                                                             \
    __asm__ volatile("vzeroall\n1:\n\t" FMA12(r) "dec %0\n\tjnz 1b\n\tvzeroupper"                                                                   \
                     : "+r"(n)                                                                                                                       \
                     :                                                                                                                               \
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",     \
                       "xmm14", "xmm15")

static void peak_avx512(void)
{
    PEAK("zmm");
}

static void peak_avx2(void)
{
    PEAK("ymm");
}
#endif

static float peak_scalar(void)
{
    float a[CHAINS];
    for (int i = 0; i < CHAINS; i++)
        a[i] = (float)i;
    for (int n = 0; n < PEAK_LOOPS / 8; n++)
        for (int i = 0; i < CHAINS; i++)
            a[i] = fmaf(a[i], 0.999f, 1e-3f);
    float out = 0;
    for (int i = 0; i < CHAINS; i++)
        out += a[i];
    return out;
}

static _Thread_local volatile float sink;

static void peak_piece(void *arg, size_t i)
{
    const struct bench *k = arg;
    (void)i;
#if defined(__x86_64__)
    if (k->isa == ISA_AVX512)
        peak_avx512();
    else if (k->isa == ISA_AVX2)
        peak_avx2();
    else
#endif
        sink = peak_scalar();
}

double bench_cpu_fma(const struct bench *k)
{
    const double lanes = k->isa == ISA_AVX512 ? 16 : k->isa == ISA_AVX2 ? 8 : 1.0 / 8; /* 1 / 8: so much less the scalar chain is run */
    k->par->run(k->par->ctx, (size_t)k->par->threads, peak_piece, (void *)(uintptr_t)k);
    return 2.0 * PEAK_LOOPS * CHAINS * lanes * k->par->threads;
}

static int call_peak(void *arg, int i, struct err *e)
{
    (void)i, (void)e;
    bench_cpu_fma(arg);
    return 0;
}

static void read_piece(void *arg, size_t i)
{
    const struct bench *k = arg;
    const size_t words = (size_t)k->floats / READ_PIECES / 2;
    const uint64_t *p = (const uint64_t *)k->array + i * words;
    uint64_t sum[8] = {0};
    for (size_t j = 0; j + 8 <= words; j += 8)
        for (int l = 0; l < 8; l++)
            sum[l] ^= p[j + (size_t)l];
    sink = (float)(sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7]);
}

double bench_cpu_read(const struct bench *k)
{
    k->par->run(k->par->ctx, READ_PIECES, read_piece, (void *)(uintptr_t)k);
    return (double)k->floats * sizeof(float);
}

static int call_read(void *arg, int i, struct err *e)
{
    (void)i, (void)e;
    bench_cpu_read(arg);
    return 0;
}

int bench_cpu_bounds(struct bench *k, struct err *e)
{
    struct bench_time t;
    int rc = bench_run(k, k->b, call_read, k, &t, e);
    if (rc)
        return rc;
    k->bounds.memory = bench_cpu_read(k) / t.shortest;
    rc = bench_run(k, k->b, call_peak, k, &t, e);
    if (!rc)
        k->bounds.arithmetic = bench_cpu_fma(k) / t.shortest;
    return rc;
}

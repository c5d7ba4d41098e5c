/* Arithmetic of the CUDA op sample; gcc and nvcc both compile it, and it gives the same bits everywhere (tests/kernels/check_sample.c).
 *
 * A token's weight is a whole number, 2^(42 - octaves) rounded, octaves = (max - logit) / (temperature ln 2) in f32: sums of them are exact, so no order matters.
 *   |weight - 2^(42 - octaves)| <= 1.125 2^-22 2^(42 - octaves) + 1; the highest logit's is 2^42.
 * What is lost in the rounding down of V weights is below V 2^-42 of the most likely token's (V = 128256: 2^-25); tokens below 2^-42 of it are never drawn.
 * A token's rank orders a row: by logit, then the lower id; no two are equal. */
#ifndef KERNELS_CUDA_SAMPLE_H
#define KERNELS_CUDA_SAMPLE_H

#include <math.h>
#include <stdint.h>

#include "kernels/cuda/layout.h"
#include "kernels/half.h"

enum {
    SAMPLE_ONE = 42,         /* log2 of the greatest weight */
    SAMPLE_OCTAVES = 44,     /* from here on a weight is 0 */
    SAMPLE_ID_BITS = 21,     /* V <= 2^21: the sum of a row is at most 2^63 */
    SAMPLE_BINS = 1024,
    SAMPLE_FINE_OCTAVES = 24 /* what has bins of equal width; the last bin holds the rest */
};

HOST_DEVICE uint32_t sample_bits(float x)
{
#ifdef __CUDA_ARCH__
    return __float_as_uint(x);
#else
    return f32_bits(x);
#endif
}

HOST_DEVICE float sample_float(uint32_t bits)
{
#ifdef __CUDA_ARCH__
    return __uint_as_float(bits);
#else
    return f32_from_bits(bits);
#endif
}

/* Greater for higher logits, equal for both zeros; 0 for NaN. */
HOST_DEVICE uint32_t sample_key(float logit)
{
    uint32_t bits = sample_bits(logit + 0.0f);
    return logit != logit ? 0 : bits >> 31 ? ~bits : bits | 0x80000000u;
}

HOST_DEVICE float sample_logit(uint32_t key)
{
    return sample_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

HOST_DEVICE uint64_t sample_rank(uint32_t key, int32_t id)
{
    return (uint64_t)key << SAMPLE_ID_BITS | (uint64_t)((1 << SAMPLE_ID_BITS) - 1 - id);
}

HOST_DEVICE int32_t sample_id(uint64_t rank)
{
    return (1 << SAMPLE_ID_BITS) - 1 - (int32_t)(rank & ((1u << SAMPLE_ID_BITS) - 1));
}

/* octaves in 0 .. SAMPLE_OCTAVES. 2^f by Cephes' exp2f (S. Moshier, netlib.org/cephes/single); 0x1.8p23 and 2 push what is wanted to the lowest bits. */
HOST_DEVICE uint64_t sample_weight(float octaves)
{
    float whole = octaves + 0x1.8p23f, f = (whole - 0x1.8p23f) - octaves;
    float p = 1.535336188319500e-4f;
    p = fmaf(p, f, 1.339887440266574e-3f);
    p = fmaf(p, f, 9.618437357674640e-3f);
    p = fmaf(p, f, 5.550332471162809e-2f);
    p = fmaf(p, f, 2.402264791363012e-1f);
    p = fmaf(p, f, 6.931472028550421e-1f);
    p = fmaf(p, f, 1.0f);
    return (uint64_t)(sample_bits(p + 2.0f) & 0x7fffffu) << (SAMPLE_ONE - 22) >> (sample_bits(whole) & 0xffu);
}

/* Never falls as octaves grow. */
HOST_DEVICE uint32_t sample_bin(float octaves)
{
    const float width = (float)(SAMPLE_BINS - 2) / SAMPLE_FINE_OCTAVES;
    return octaves < SAMPLE_FINE_OCTAVES ? sample_bits(fmaf(octaves, width, 0x1p23f)) & 0x7fffffu : SAMPLE_BINS - 1;
}

#endif

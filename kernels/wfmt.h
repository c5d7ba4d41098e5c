/* Packed formats of quantized weights: what files hold, as bit diagrams. The scalar functions here are the specification; kernels with layouts of their own
 * are made from the words of qweight (struct qwords, kernels/tensor.h) as they lie in the file.
 *
 * GPTQ, codes ("qweight", int32 [ceil(K * b / 32), N]), b = 2, 3, 4, 8. Column n of the tensor is one stream of bits, lowest first, word after word; the code
 * of input k lies at bits k * b .. k * b + b - 1:
 *
 *   4 bits   word r of column n:  | 31..28 | 27..24 | ... | 7..4 | 3..0 |        2 bits: 16 a word, 8 bits: 4 a word, alike
 *                                 |  8r+7  |  8r+6  | ... | 8r+1 |  8r  |
 *   3 bits   32 codes in 3 words: | 31 30 | 29..27 | ... | 5..3 | 2..0 |    word 0: codes 0..9, low two bits of 10
 *                                 |  c10  |   c9   | ... |  c1  |  c0  |
 *                                 |  31   | 30..28 | ... | 3..1 |  0   |    word 1: high bit of 10, codes 11..20, low bit of 21
 *                                 |  c21  |  c20   | ... | c11  | c10  |
 *                                 | 31..29 | ... | 4..2 | 1 0 |             word 2: high bits of 21, codes 22..31
 *                                 |  c31   | ... |  c22 | c21 |
 *   Source: GPTQModel 7.7 (ModelCloud/GPTQModel@f4c327a17:gptqmodel/nn_modules/qlinear/__init__.py, pack_block). 3 bits are whole only when 32 divides K; a K or
 *   N that does not fill the last word is padded with zero bits.
 *   Example: 4 bits, codes 1 2 3 4 5 6 7 8 along K of one column are the word 0x87654321.
 *   Example: 3 bits, codes k mod 8 for k = 0..31 are the words 0x88fac688 0xc688fac6 0xfac688fa.
 *
 * GPTQ, zeros ("qzeros", int32 [G, ceil(N * b / 32)]): the same stream along N for each group. Version 2 stores the zero itself, version 1 stores zero - 1 in its
 * own field, mod 2^b. What we make has zeros 1..2^b - 1, so that nothing wraps. A field of all ones in version 1 is read as zero 2^b, which is what readers that
 * add 1 after unpacking see (with 8 bits as 0, which is the same byte). GPTQModel adds and subtracts 1 on whole words instead: the same as long as nothing wraps.
 *   Example: 4 bits, version 1, zeros 8 along N are words 0x77777777.
 *
 * Rows (our layer artifact, "codes" u8 [N, ceil(K * b / 8)]): each row n is one stream of bits along K, lowest bit of the first byte first, padded with zeros.
 *   Example: 3 bits, codes 1 2 3 are the bytes 0xd1 0x00.
 */
#ifndef KERNELS_WFMT_H
#define KERNELS_WFMT_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/tensor.h"
#include "pipeline/base/err.h"

struct backend;
struct weight;

/* How qzeros are stored. */
enum wfmt_version { WFMT_V1 = 1, WFMT_V2 = 2 };

/* Words that `n` codes of `bits` take: rows of qweight for n = K, columns of qzeros for n = N. */
static inline int64_t wfmt_words(int64_t n, int bits)
{
    return n / 32 * bits + (n % 32 * bits + 31) / 32;
}

/* Code i of a stream of words that lie `stride` apart: of input i of column n, wfmt_code(words + n, N, i, bits). 3 bits may straddle two words. The device's code reads
 * words by it, too. */
#ifdef __CUDACC__
static __host__ __device__ __forceinline__
#else
static inline
#endif
    uint32_t
    wfmt_code(const uint32_t *words, int64_t stride, int64_t i, int bits)
{
    int64_t bit = i * bits, word = bit / 32;
    int shift = (int)(bit % 32);
    uint64_t pair = words[word * stride];
    if (shift + bits > 32)
        pair |= (uint64_t)words[(word + 1) * stride] << 32;
    return (uint32_t)(pair >> shift) & ((1u << bits) - 1);
}

/* Bytes of one row of n codes. */
static inline int64_t wfmt_row_bytes(int64_t n, int bits)
{
    return n / 8 * bits + (n % 8 * bits + 7) / 8;
}

/* qweight [wfmt_words(K), N] from q->codes. */
void wfmt_pack_qweight(const struct qmatrix *q, uint32_t *qweight);
/* What a backend takes, of what a quantizer made: owns its words, borrows the rest of q. -ERR_FORMAT names a code that does not fit q->bits, -ERR_NOMEM. */
int wfmt_pack(const struct qmatrix *q, struct qwords *out, struct err *e);
/* b's weight_quantized of it. */
int wfmt_weight(struct backend *b, const struct qmatrix *q, struct weight **out, struct err *e);
/* qzeros [G, wfmt_words(N)] from q->zeros, and back into zeros [G,N]. */
void wfmt_pack_qzeros(const struct qmatrix *q, enum wfmt_version version, uint32_t *qzeros);
void wfmt_unpack_qzeros(uint8_t *zeros, int64_t G, int64_t N, int bits, enum wfmt_version version, const uint32_t *qzeros);
/* rows [N, wfmt_row_bytes(K)] from q->codes, and back. */
void wfmt_pack_rows(const struct qmatrix *q, uint8_t *rows);
void wfmt_unpack_rows(struct qmatrix *q, const uint8_t *rows);
/* w [N,K] f32, exact. Groups must be in range. */
void wfmt_dequant(const struct qwords *q, float *w);

#endif

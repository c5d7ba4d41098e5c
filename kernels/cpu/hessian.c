/* h += x^T x over absolute blocks of HESSIAN_BLOCK_ROWS rows: f32 chains inside a block, f64 across blocks.
 *
 * A GEMM whose operands are both x: the rows of up to PASS_BLOCKS blocks are packed into panels of WIDTH columns
 * ([block][panel][row][WIDTH]); a task owns one panel of columns j and walks the panels of rows i above it. The chain of an element runs
 * over the rows of the block in order, whatever the tiling, so tiles may differ between instruction sets. */
#include "kernels/cpu/quant_ops.h"

enum { WIDTH = 48, PASS_BLOCKS = 4, CHUNK = 32 };
/* Register tile: ROWS broadcasts by VECS vectors of 16. ROWS divides WIDTH, VECS divides WIDTH / 16. */
#if defined __AVX512F__
enum { ROWS = 8, VECS = 3 }; /* 24 accumulators of 32 registers */
#elif defined __AVX2__
enum { ROWS = 6, VECS = 1 }; /* a v16 is two registers: 12 accumulators of 16 */
#else
enum { ROWS = 2, VECS = 1 };
#endif

struct pass {
    double *h;
    const float *x;
    int64_t ldx, M, K, panels;
    float *packed;
};

static int64_t rows_of_block(const struct pass *p, int64_t block)
{
    int64_t left = p->M - block * HESSIAN_BLOCK_ROWS;
    return left < HESSIAN_BLOCK_ROWS ? left : HESSIAN_BLOCK_ROWS;
}

static float *panel_at(const struct pass *p, int64_t block, int64_t panel)
{
    return p->packed + (block * p->panels + panel) * HESSIAN_BLOCK_ROWS * WIDTH;
}

static void pack(void *arg, size_t i)
{
    const struct pass *p = arg;
    int64_t block = (int64_t)i / p->panels, panel = (int64_t)i % p->panels, j0 = panel * WIDTH;
    int64_t n = p->K - j0 < WIDTH ? p->K - j0 : WIDTH;
    const float *from = p->x + block * HESSIAN_BLOCK_ROWS * p->ldx + j0;
    float *to = panel_at(p, block, panel);
    for (int64_t t = 0; t < rows_of_block(p, block); t++, from += p->ldx, to += WIDTH) {
        memcpy(to, from, (size_t)n * sizeof *to);
        memset(to + n, 0, (size_t)(WIDTH - n) * sizeof *to);
    }
}

/* sums [ROWS][WIDTH], its first 16 * VECS columns: += sum over n rows t of a[t][0..ROWS) times b[t][...]. */
SIMD_INLINE void tile(const float *a, const float *b, int64_t n, float *sums)
{
    v16 acc[ROWS][VECS];
    SIMD_UNROLL
    for (int r = 0; r < ROWS; r++) {
        SIMD_UNROLL
        for (int v = 0; v < VECS; v++)
            acc[r][v] = v16_load(sums + r * WIDTH + 16 * v);
    }
    for (int64_t t = 0; t < n; t++, a += WIDTH, b += WIDTH) {
        v16 y[VECS];
        SIMD_UNROLL
        for (int v = 0; v < VECS; v++)
            y[v] = v16_load(b + 16 * v);
        SIMD_UNROLL
        for (int r = 0; r < ROWS; r++) {
            v16 x = v16_set1(a[r]);
            SIMD_UNROLL
            for (int v = 0; v < VECS; v++)
                acc[r][v] = v16_fma(x, y[v], acc[r][v]);
        }
    }
    SIMD_UNROLL
    for (int r = 0; r < ROWS; r++) {
        SIMD_UNROLL
        for (int v = 0; v < VECS; v++)
            v16_store(sums + r * WIDTH + 16 * v, acc[r][v]);
    }
}

/* sums [WIDTH][WIDTH] of two panels of one block, CHUNK rows of both at a time so that all three stay in the first-level cache. */
static void multiply_panels(const float *a, const float *b, int64_t rows, float *sums)
{
    memset(sums, 0, WIDTH * WIDTH * sizeof *sums);
    for (int64_t t = 0; t < rows; t += CHUNK, a += CHUNK * WIDTH, b += CHUNK * WIDTH) {
        int64_t n = rows - t < CHUNK ? rows - t : CHUNK;
        for (int i = 0; i < WIDTH; i += ROWS)
            for (int j = 0; j < WIDTH; j += 16 * VECS)
                tile(a + i, b + j, n, sums + i * WIDTH + j);
    }
}

/* h += sums at (i0, j0), for the part that lies on or above the diagonal and inside the matrix. */
static void add_sums(const struct pass *p, int64_t i0, int64_t j0, const float *sums)
{
    for (int64_t i = i0; i < i0 + WIDTH && i < p->K; i++, sums += WIDTH) {
        double *h = p->h + i * p->K + j0;
        int64_t end = p->K - j0 < WIDTH ? p->K - j0 : WIDTH;
        for (int64_t j = i > j0 ? i - j0 : 0; j < end; j++)
            h[j] += (double)sums[j];
    }
}

/* One panel of columns against all panels of rows above it. Tasks are numbered from the longest. */
static void multiply(void *arg, size_t task)
{
    const struct pass *p = arg;
    int64_t panel = p->panels - 1 - (int64_t)task;
    float sums[WIDTH * WIDTH] __attribute__((aligned(64)));
    for (int64_t above = 0; above <= panel; above++)
        for (int64_t block = 0; block * HESSIAN_BLOCK_ROWS < p->M; block++) {
            multiply_panels(panel_at(p, block, above), panel_at(p, block, panel), rows_of_block(p, block), sums);
            add_sums(p, above * WIDTH, panel * WIDTH, sums);
        }
}

int FN(hessian_f32)(const struct parallel *par, double *h, const float *x, int64_t ldx, int64_t M, int64_t K, int64_t row0, struct err *e)
{
    if (row0 % HESSIAN_BLOCK_ROWS)
        return err_set(e, ERR_SHAPE, "hessian: first row %lld is not a multiple of %d", (long long)row0, HESSIAN_BLOCK_ROWS);
    int64_t panels = (K + WIDTH - 1) / WIDTH, blocks = (M + HESSIAN_BLOCK_ROWS - 1) / HESSIAN_BLOCK_ROWS;
    if (blocks > PASS_BLOCKS)
        blocks = PASS_BLOCKS;
    if (M <= 0 || K <= 0)
        return 0;
    size_t bytes = (size_t)(blocks * panels) * HESSIAN_BLOCK_ROWS * WIDTH * sizeof(float);
    struct pass p = {.h = h, .ldx = ldx, .K = K, .panels = panels, .packed = scratch_alloc(bytes)};
    if (!p.packed)
        return err_set(e, ERR_NOMEM, "hessian: no memory for %zu bytes of scratch", bytes);
    for (int64_t m = 0; m < M; m += blocks * HESSIAN_BLOCK_ROWS) {
        p.x = x + m * ldx;
        p.M = M - m < blocks * HESSIAN_BLOCK_ROWS ? M - m : blocks * HESSIAN_BLOCK_ROWS;
        int64_t here = (p.M + HESSIAN_BLOCK_ROWS - 1) / HESSIAN_BLOCK_ROWS;
        par->run(par->ctx, (size_t)(here * panels), pack, &p);
        par->run(par->ctx, (size_t)panels, multiply, &p);
    }
    free(p.packed);
    return 0;
}

/* h += x^T x and c += a^T x over absolute blocks of HESSIAN_BLOCK_ROWS rows: f32 chains inside a block, f64 across blocks.
 *
 * The rows of up to PASS_BLOCKS blocks of both operands are packed into panels of WIDTH columns ([block][panel][row][WIDTH]); a task owns one
 * panel of the right operand, columns j of the result, and walks the panels of the left one, its rows i. The hessian is the case of one
 * operand on both sides, of which only what lies on or above the diagonal is made. The chain of an element runs over the rows of the block in
 * order, whatever the tiling, so tiles may differ between instruction sets. */
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

/* One side of the product: `rows` rows of K columns of the pass at hand. */
struct operand {
    const float *x;
    int64_t ldx, K, panels, rows;
    float *packed;
};

struct pass {
    double *out; /* [left->K, right->K] */
    const struct operand *left, *right;
};

static int64_t panels_of(int64_t K)
{
    return (K + WIDTH - 1) / WIDTH;
}

static int64_t blocks_of(int64_t rows)
{
    return (rows + HESSIAN_BLOCK_ROWS - 1) / HESSIAN_BLOCK_ROWS;
}

static int64_t rows_of_block(const struct operand *o, int64_t block)
{
    int64_t left = o->rows - block * HESSIAN_BLOCK_ROWS;
    return left < HESSIAN_BLOCK_ROWS ? left : HESSIAN_BLOCK_ROWS;
}

static float *panel_at(const struct operand *o, int64_t block, int64_t panel)
{
    return o->packed + (block * o->panels + panel) * HESSIAN_BLOCK_ROWS * WIDTH;
}

static void pack(void *arg, size_t i)
{
    const struct operand *o = arg;
    int64_t block = (int64_t)i / o->panels, panel = (int64_t)i % o->panels, j0 = panel * WIDTH;
    int64_t n = o->K - j0 < WIDTH ? o->K - j0 : WIDTH;
    const float *from = o->x + block * HESSIAN_BLOCK_ROWS * o->ldx + j0;
    float *to = panel_at(o, block, panel);
    for (int64_t t = 0; t < rows_of_block(o, block); t++, from += o->ldx, to += WIDTH) {
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

/* out += sums at (i0, j0), for the part that lies inside the matrix and, in a hessian, on or above the diagonal. */
static void add_sums(const struct pass *p, int64_t i0, int64_t j0, const float *sums)
{
    const int64_t columns = p->right->K, end = columns - j0 < WIDTH ? columns - j0 : WIDTH;
    for (int64_t i = i0; i < i0 + WIDTH && i < p->left->K; i++, sums += WIDTH) {
        double *out = p->out + i * columns + j0;
        for (int64_t j = p->left == p->right && i > j0 ? i - j0 : 0; j < end; j++)
            out[j] += (double)sums[j];
    }
}

/* One panel of columns against the panels of rows: all, or in a hessian those above it, so its tasks are numbered from the longest. */
static void multiply(void *arg, size_t task)
{
    const struct pass *p = arg;
    const struct operand *l = p->left, *r = p->right;
    int64_t panel = r->panels - 1 - (int64_t)task, count = l == r ? panel + 1 : l->panels;
    float sums[WIDTH * WIDTH] __attribute__((aligned(64)));
    for (int64_t i = 0; i < count; i++)
        for (int64_t block = 0; block < blocks_of(r->rows); block++) {
            multiply_panels(panel_at(l, block, i), panel_at(r, block, panel), rows_of_block(r, block), sums);
            add_sums(p, i * WIDTH, panel * WIDTH, sums);
        }
}

/* out += left^T right over M rows; left and right may be one. */
static int product(const struct parallel *par, double *out, struct operand *left, struct operand *right, int64_t M, struct err *e)
{
    struct operand *sides[2] = {left, right};
    const struct pass p = {.out = out, .left = left, .right = right};
    const int count = left == right ? 1 : 2;
    const int64_t step = (blocks_of(M) < PASS_BLOCKS ? blocks_of(M) : PASS_BLOCKS) * HESSIAN_BLOCK_ROWS;
    size_t floats = (size_t)(step * WIDTH * left->panels), bytes = (floats + (count > 1 ? (size_t)(step * WIDTH * right->panels) : 0)) * sizeof(float);
    float *packed = scratch_alloc(bytes);
    if (!packed)
        return err_set(e, ERR_NOMEM, "hessian: no memory for %zu bytes of scratch", bytes);
    left->packed = packed;
    if (count > 1)
        right->packed = packed + floats;
    for (int64_t m = 0; m < M; m += step) {
        for (int i = 0; i < count; i++) {
            sides[i]->x += m ? step * sides[i]->ldx : 0;
            sides[i]->rows = M - m < step ? M - m : step;
            par->run(par->ctx, (size_t)(blocks_of(sides[i]->rows) * sides[i]->panels), pack, sides[i]);
        }
        par->run(par->ctx, (size_t)right->panels, multiply, (void *)(uintptr_t)&p);
    }
    free(packed);
    return 0;
}

int FN(hessian_f32)(const struct parallel *par, double *h, const float *x, int64_t ldx, int64_t M, int64_t K, int64_t row0, struct err *e)
{
    struct operand o = {.x = x, .ldx = ldx, .K = K, .panels = panels_of(K)};
    if (row0 % HESSIAN_BLOCK_ROWS)
        return err_set(e, ERR_SHAPE, "hessian: first row %lld is not a multiple of %d", (long long)row0, HESSIAN_BLOCK_ROWS);
    return M > 0 && K > 0 ? product(par, h, &o, &o, M, e) : 0;
}

int FN(cross_f32)(const struct parallel *par, const struct cross_args *a, struct err *e)
{
    struct operand left = {.x = a->a, .ldx = a->lda, .K = a->Ka, .panels = panels_of(a->Ka)};
    struct operand right = {.x = a->x, .ldx = a->ldx, .K = a->Kb, .panels = panels_of(a->Kb)};
    if (a->row0 % HESSIAN_BLOCK_ROWS)
        return err_set(e, ERR_SHAPE, "cross: first row %lld is not a multiple of %d", (long long)a->row0, HESSIAN_BLOCK_ROWS);
    return a->M > 0 && a->Ka > 0 && a->Kb > 0 ? product(par, a->c, &left, &right, a->M, e) : 0;
}

/* The grid of one whole group, for static groups. The work is in grid_fit.h. */
#include <stdatomic.h>

#include "kernels/cpu/grid_fit.h"
#include "kernels/cpu/quant_ops.h"

struct fit {
    const float *w;
    int64_t ldw, N, n;
    const struct quant_grid *grid;
    uint16_t *scales;
    uint8_t *zeros;
    atomic_int failed;
};

static void fit_tile(void *arg, size_t i)
{
    struct fit *f = arg;
    struct grid_rows rows;
    int64_t n0 = (int64_t)i * GRID_ROWS;
    float *tile = scratch_alloc((size_t)f->n * GRID_ROWS * sizeof *tile);
    if (!tile) {
        f->failed = 1;
        return;
    }
    grid_load_tile(tile, f->w, f->ldw, n0, f->N, f->n);
    grid_fit(tile, f->n, f->grid, &rows);
    grid_store(&rows, n0, f->N, f->scales, f->zeros);
    free(tile);
}

int FN(fit_f32)(const struct parallel *par, const float *w, int64_t ldw, int64_t N, int64_t n, const struct quant_grid *grid,
                uint16_t *scales, uint8_t *zeros, struct err *e)
{
    struct fit f = {.w = w, .ldw = ldw, .N = N, .n = n, .grid = grid, .scales = scales, .zeros = zeros};
    par->run(par->ctx, (size_t)((N + GRID_ROWS - 1) / GRID_ROWS), fit_tile, &f);
    return f.failed ? err_set(e, ERR_NOMEM, "fit: no memory for a tile of %lld columns", (long long)n) : 0;
}

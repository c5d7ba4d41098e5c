#include "tests/kernels/marlin_emulate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define MARLIN_EMULATED
#include "kernels/cuda/marlin_kernel.cuh"

enum { THREADS = MARLIN_THREADS, STACK_BYTES = 128 * 1024, COPIES_MAX = 512 };
enum state { READY, IN_WARP, IN_BLOCK, DONE };

struct copy {
    char *to;
    const char *from;
    int bytes, group;
};

struct fiber {
    ucontext_t context;
    enum state state;
    char *stack;
    struct copy copies[COPIES_MAX];
    int copy_count, committed;
    void *meet; /* what the lane brought to its warp's meeting */
};

static struct fiber fibers[THREADS];
static ucontext_t scheduler;
static int current, block_number, slab_number, warp_count[MARLIN_WARPS], block_count;
static uint64_t random_state;
static char *shared;
static const struct emu_launch *launch;

static uint64_t draw()
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void stop(const char *what)
{
    fprintf(stderr, "marlin_emu: block %d thread %d: %s\n", block_number, current, what);
    abort();
}

int thread_id()
{
    return current;
}
int block_id()
{
    return block_number;
}
int slab_id()
{
    return slab_number;
}
char *shared_memory()
{
    return shared;
}

static void yield(enum state s)
{
    struct fiber *f = &fibers[current];
    f->state = s;
    swapcontext(&f->context, &scheduler);
}

void block_sync()
{
    if (++block_count < THREADS) {
        yield(IN_BLOCK);
        return;
    }
    block_count = 0;
    for (int i = 0; i < THREADS; i++)
        if (i != current && fibers[i].state == IN_BLOCK)
            fibers[i].state = READY;
        else if (i != current)
            stop("a thread does not come to block_sync");
}

/* Brings what `mine` points to; true for the one lane that finds all others there and works for the warp. */
static bool meet(void *mine)
{
    int warp = current / 32;
    fibers[current].meet = mine;
    if (++warp_count[warp] < 32) {
        yield(IN_WARP);
        return false;
    }
    warp_count[warp] = 0;
    for (int i = warp * 32; i < warp * 32 + 32; i++)
        if (i != current)
            fibers[i].state = READY;
    return true;
}

static void *brought(int lane)
{
    return fibers[current / 32 * 32 + lane].meet;
}

/* ---- cp.async ---- */

void copy16_part(void *to, const void *from, int bytes)
{
    struct fiber *f = &fibers[current];
    char *t = (char *)to;
    bool found = bytes == 0;
    for (int i = 0; i < launch->range_count; i++)
        found |= (const char *)from >= (const char *)launch->ranges[i].at &&
                 (const char *)from + bytes <= (const char *)launch->ranges[i].at + launch->ranges[i].bytes;
    if (!found)
        stop("copy from outside the buffers");
    if ((uintptr_t)from % 16 || (t - shared) % 16 || t < shared || t + 16 > shared + launch->shared_bytes)
        stop("copy is not aligned, or outside shared memory");
    if (f->copy_count == COPIES_MAX)
        stop("too many copies under way");
    if (launch->late) {
        memset(t, 0xff, 16);
        f->copies[f->copy_count++] = {t, (const char *)from, bytes, f->committed};
    } else {
        memset(t, 0, 16);
        memcpy(t, from, (size_t)bytes);
    }
}

void copy_commit()
{
    fibers[current].committed++;
}

void copy_wait(int left)
{
    struct fiber *f = &fibers[current];
    int kept = 0;
    for (int i = 0; i < f->copy_count; i++) {
        struct copy c = f->copies[i];
        if (c.group < f->committed - left) {
            memset(c.to, 0, 16);
            memcpy(c.to, c.from, (size_t)c.bytes);
        } else {
            f->copies[kept++] = c;
        }
    }
    f->copy_count = kept;
}

/* ---- fragments ---- */

struct load_meet {
    uint32_t *r;
    const char *row;
};

void load_matrix4(uint32_t r[4], const void *row)
{
    struct load_meet mine = {r, (const char *)row};
    if ((mine.row - shared) % 16 || mine.row < shared || mine.row + 16 > shared + launch->shared_bytes)
        stop("ldmatrix row is not aligned, or outside shared memory");
    if (!meet(&mine))
        return;
    for (int lane = 0; lane < 32; lane++)
        for (int m = 0; m < 4; m++)
            memcpy(&((struct load_meet *)brought(lane))->r[m], ((struct load_meet *)brought(8 * m + lane / 4))->row + 4 * (lane % 4), 4);
}

struct mma_meet {
    float *d;
    const uint32_t *a;
    uint32_t b[2];
    const float *c;
};

void mma_emulated(int bf16, float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, const float c[4])
{
    struct mma_meet mine = {d, a, {b0, b1}, c};
    if (!meet(&mine))
        return;
    static double A[16][16], B[16][8];
    float D[32][4];
    for (int lane = 0; lane < 32; lane++) {
        const struct mma_meet *m = (const struct mma_meet *)brought(lane);
        int g = lane / 4, t = 2 * (lane % 4);
        for (int i = 0; i < 2; i++) {
            for (int r = 0; r < 4; r++)
                A[g + 8 * (r % 2)][t + i + 8 * (r / 2)] = marlin_half_get(bf16, m->a[r], i);
            B[t + i][g] = marlin_half_get(bf16, m->b[0], i);
            B[t + i + 8][g] = marlin_half_get(bf16, m->b[1], i);
        }
    }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + 8 * (i / 2), col = 2 * (lane % 4) + i % 2;
            double sum = ((const struct mma_meet *)brought(lane))->c[i];
            for (int k = 0; k < 16; k++)
                sum += A[row][k] * B[k][col];
            D[lane][i] = (float)sum;
        }
    for (int lane = 0; lane < 32; lane++)
        memcpy(((struct mma_meet *)brought(lane))->d, D[lane], sizeof D[lane]);
}

/* ---- blocks ---- */

typedef void kernel_fn(const struct marlin_args);
static kernel_fn *kernel;

static void fiber_main()
{
    kernel(*launch->args);
    if (fibers[current].copy_count)
        stop("a copy was never waited for");
    yield(DONE);
}

static void run_block()
{
    memset(shared, 0xff, launch->shared_bytes);
    memset(warp_count, 0, sizeof warp_count);
    block_count = 0;
    for (int i = 0; i < THREADS; i++) {
        struct fiber *f = &fibers[i];
        f->copy_count = f->committed = 0;
        f->state = READY;
        getcontext(&f->context);
        f->context.uc_stack.ss_sp = f->stack;
        f->context.uc_stack.ss_size = STACK_BYTES;
        f->context.uc_link = NULL;
        makecontext(&f->context, fiber_main, 0);
    }
    for (;;) {
        int start = (int)(draw() % MARLIN_WARPS), ran = 0, done = 0;
        for (int w = 0; w < MARLIN_WARPS && !ran; w++)
            for (int l = 0; l < 32; l++) {
                int i = (start + w) % MARLIN_WARPS * 32 + l;
                if (fibers[i].state != READY)
                    continue;
                current = i;
                ran++;
                swapcontext(&scheduler, &fibers[i].context);
            }
        for (int i = 0; i < THREADS; i++)
            done += fibers[i].state == DONE;
        if (done == THREADS)
            return;
        if (!ran)
            stop("threads wait for each other");
    }
}

static kernel_fn *kernel_of(int bits, int bf16, int rows, int wn_log2)
{
#define MARLIN(r, wn, scaled, blocks)                                                                                                                    \
    if (rows == r && wn_log2 == wn)                                                                                                                                     \
        return bits == 4 ? (bf16 ? marlin_kernel<4, 1, r, wn, scaled, blocks> : marlin_kernel<4, 0, r, wn, scaled, blocks>)                                    \
                         : (bf16 ? marlin_kernel<8, 1, r, wn, scaled, blocks> : marlin_kernel<8, 0, r, wn, scaled, blocks>);
#include "kernels/cuda/marlin.def"
#undef MARLIN
    return NULL;
}

extern "C" int marlin_emulate(const struct emu_launch *l)
{
    launch = l;
    random_state = l->seed;
    kernel = kernel_of(l->bits, l->bf16, l->rows, l->wn_log2);
    if (!kernel)
        return -1;
    shared = (char *)aligned_alloc(128, (l->shared_bytes + 127) / 128 * 128);
    for (int i = 0; i < THREADS; i++)
        fibers[i].stack = (char *)malloc(STACK_BYTES);
    /* blocks of all slabs in an order of their own: a permutation by drawing */
    int n = l->slabs * l->args->grid.blocks;
    int *order = (int *)malloc((size_t)n * sizeof *order);
    for (int i = 0; i < n; i++)
        order[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int j = (int)(draw() % (uint64_t)(i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (int i = 0; i < n; i++) {
        slab_number = order[i] / l->args->grid.blocks;
        block_number = order[i] % l->args->grid.blocks;
        run_block();
    }
    for (int i = 0; i < THREADS; i++)
        free(fibers[i].stack);
    free(order);
    free(shared);
    return 0;
}

#include "tests/kernels/machete_emulate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <vector>

#define MACHETE_EMULATED
#include "kernels/cuda/machete_kernel.cuh"

enum { THREADS = MACHETE_THREADS, WARPS = THREADS / 32, GROUPS = THREADS / 128, STACK_BYTES = 128 * 1024 };
enum state { READY, IN_WARP, IN_GROUP, IN_BLOCK, IN_CLUSTER, ON_BARRIER, DONE };

/* A product under way. */
struct product {
    int bf16, rows, add, saved;
    const uint32_t *a;
    uint64_t b;
};

/* Sums that products under way will end in. */
struct saved_sums {
    float *d, value[128];
    int n;
};

struct fiber {
    ucontext_t context;
    enum state state;
    char *stack;
    const uint64_t *barrier;
    int parity;
    bool waited, fenced;
    std::vector<product> products;
    std::vector<saved_sums> sums;
    int committed; /* of the products */
};

/* In the 8 bytes of an mbarrier. */
struct barrier_word {
    uint16_t count;
    int16_t pending;
    int32_t bytes_phase; /* 2 * announced bytes that are missing + parity of the phase that runs */
};

struct cta {
    char *shared;
    int block_count, warp_count[WARPS], group_count[GROUPS], left;
    fiber fibers[THREADS];
};

/* A copy under way, into one block. */
struct copy {
    int block;
    size_t to, barrier; /* offsets in its shared memory */
    std::vector<char> data;
};

static cta *ctas;
static std::vector<copy> copies;
static ucontext_t scheduler;
static int at_block, at_thread, cluster_size, cluster_number, cluster_count;
static uint64_t random_state;
static const machete_emu_launch *launch;

static uint64_t draw()
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void fail(const char *what)
{
    fprintf(stderr, "machete_emu: cluster %d block %d thread %d: %s\n", cluster_number, at_block, at_thread, what);
    abort();
}

static cta &here()
{
    return ctas[at_block];
}

static fiber &self()
{
    return ctas[at_block].fibers[at_thread];
}

int thread_id()
{
    return at_thread;
}

int block_id()
{
    return cluster_number * cluster_size + at_block;
}

char *shared_memory()
{
    return here().shared;
}

/* Offset in the block's memory, which lies at 0 of its window here. */
uint32_t shared_at(const void *p)
{
    const size_t at = (size_t)((const char *)p - here().shared);
    if (at >= launch->shared_bytes)
        fail("address outside shared memory");
    return (uint32_t)at;
}

void stop()
{
    fail("the kernel traps");
}

void wait_for_producer()
{
    self().waited = true;
}

/* ---- meeting ---- */

static void yield(enum state s)
{
    self().state = s;
    swapcontext(&self().context, &scheduler);
}

/* Others may come in between. */
static void let_others()
{
    if (draw() % 4 == 0)
        yield(READY);
}

/* True for the last of `all` to come; the others wait until wake. */
static bool meet(int *count, int all, enum state s)
{
    if (++*count < all) {
        yield(s);
        return false;
    }
    *count = 0;
    return true;
}

static void wake(cta &c, int from, int to, enum state s)
{
    for (int i = from; i < to; i++)
        if (c.fibers[i].state == s)
            c.fibers[i].state = READY;
        else if (&c.fibers[i] != &self())
            fail("threads that should meet wait elsewhere");
}

void block_sync()
{
    if (meet(&here().block_count, THREADS, IN_BLOCK))
        wake(here(), 0, THREADS, IN_BLOCK);
}

void warp_sync()
{
    const int warp = at_thread / 32;
    if (meet(&here().warp_count[warp], 32, IN_WARP))
        wake(here(), 32 * warp, 32 * warp + 32, IN_WARP);
}

void cluster_sync()
{
    if (meet(&cluster_count, THREADS * cluster_size, IN_CLUSTER))
        for (int b = 0; b < cluster_size; b++)
            wake(ctas[b], 0, THREADS, IN_CLUSTER);
}

void cluster_meet()
{
    cluster_sync();
}

/* ---- barriers ---- */

static barrier_word get(const uint64_t *b)
{
    barrier_word w;
    memcpy(&w, b, sizeof w);
    if (w.count == 0xffff)
        fail("a barrier that nobody made");
    return w;
}

/* Takes arrivals and bytes off; the phase ends when none are missing. */
static void count_down(uint64_t *b, int arrivals, int bytes)
{
    barrier_word w = get(b);
    w.pending = (int16_t)(w.pending - arrivals);
    w.bytes_phase -= 2 * bytes;
    if (w.pending < 0)
        fail("more arrivals than the barrier has");
    if (w.pending == 0 && w.bytes_phase >> 1 < 0)
        fail("more bytes than were announced");
    if (w.pending == 0 && w.bytes_phase >> 1 == 0) {
        w.pending = (int16_t)w.count;
        w.bytes_phase ^= 1;
    }
    memcpy(b, &w, sizeof w);
}

static uint64_t *in_peer(const uint64_t *b, int rank)
{
    if (rank < 0 || rank >= cluster_size || ctas[rank].left)
        fail("a barrier of a block that is not there");
    return (uint64_t *)(ctas[rank].shared + shared_at(b));
}

void barrier_init(uint64_t *b, int arrivals)
{
    const barrier_word w = {(uint16_t)arrivals, (int16_t)arrivals, 0};
    if (shared_at(b) % 8)
        fail("barrier is not aligned");
    memcpy(b, &w, sizeof w);
}

void barrier_announce(uint64_t *b, int bytes)
{
    count_down(b, 0, -bytes);
    count_down(b, 1, 0);
}

void barrier_arrive(uint64_t *b)
{
    count_down(b, 1, 0);
    let_others();
}

void barrier_arrive_peer(uint64_t *b, int rank)
{
    count_down(in_peer(b, rank), 1, 0);
    let_others();
}

static bool over(const uint64_t *b, int parity)
{
    return (get(b).bytes_phase & 1) != parity;
}

void barrier_wait(uint64_t *b, int parity, machete_report *)
{
    while (!over(b, parity)) {
        self().barrier = b;
        self().parity = parity;
        yield(ON_BARRIER);
    }
}

/* ---- copies ---- */

static void arrive(size_t i)
{
    const copy c = copies[i];
    copies[i] = copies.back();
    copies.pop_back();
    if (ctas[c.block].left)
        fail("a copy into a block that has left");
    memcpy(ctas[c.block].shared + c.to, c.data.data(), c.data.size());
    const int block = at_block;
    at_block = c.block;
    count_down((uint64_t *)(ctas[c.block].shared + c.barrier), 0, (int)c.data.size());
    at_block = block;
}

static void begin(int block, void *to, const uint64_t *b, const std::vector<char> &data)
{
    const size_t at = shared_at(to);
    if (block < 0 || block >= cluster_size || ctas[block].left)
        fail("a copy into a block that is not there");
    if (at + data.size() > launch->shared_bytes)
        fail("a copy past shared memory");
    memset(ctas[block].shared + at, 0xff, data.size());
    get((const uint64_t *)(ctas[block].shared + shared_at(b)));
    copies.push_back({block, at, shared_at(b), data});
}

void copy_run(void *to, const void *from, int bytes, uint64_t *b, uint64_t)
{
    bool found = false;
    for (int i = 0; i < launch->range_count; i++)
        found |= (const char *)from >= (const char *)launch->ranges[i].at && (const char *)from + bytes <= (const char *)launch->ranges[i].at + launch->ranges[i].bytes;
    if (!found || bytes <= 0)
        fail("a copy from outside the buffers");
    if ((uintptr_t)from % 16 || shared_at(to) % 16 || bytes % 16)
        fail("a copy is not aligned");
    begin(at_block, to, b, std::vector<char>((const char *)from, (const char *)from + bytes));
}

void copy_box_shared(void *to, const machete_map *map, int k, int row, uint64_t *b, uint64_t, int mask)
{
    const size_t at = shared_at(to);
    if (!self().waited)
        fail("X is read before the kernel before this one has ended");
    if (at % 1024 || map->box % 8)
        fail("a box is not at a multiple of 1024 bytes");
    std::vector<char> data((size_t)map->box * 128);
    for (int r = 0; r < map->box; r++)
        for (int i = 0; i < 64; i++) {
            uint16_t v = 0;
            if (row + r < map->M && k + i < map->K)
                v = map->x[(row + r) * map->ldx + k + i];
            size_t linear = (size_t)(r * 128 + i * 2);
            memcpy(&data[linear ^ (linear >> 7 & 7) << 4], &v, 2);
        }
    for (int block = 0; block < cluster_size; block++)
        if (mask >> block & 1)
            begin(block, to, b, data);
}

void copy_box(void *to, const machete_map *map, int k, int row, uint64_t *b, uint64_t policy)
{
    copy_box_shared(to, map, k, row, b, policy, 1 << at_block);
}

void load_peer(const float *at, int rank, float (&v)[4])
{
    if (rank < 0 || rank >= cluster_size || ctas[rank].left)
        fail("memory of a block that is not there");
    if (shared_at(at) % 16)
        fail("a read of the cluster's memory is not aligned");
    memcpy(v, ctas[rank].shared + shared_at(at), 16);
}

/* ---- wgmma ---- */

void wgmma_fence()
{
    self().fenced = true;
}

void wgmma_emulated(int bf16, int rows, float *d, const uint32_t *a, uint64_t b, int add)
{
    fiber &f = self();
    if (!f.fenced)
        fail("a product without a fence before it");
    size_t i = 0;
    while (i < f.sums.size() && f.sums[i].d != d)
        i++;
    if (i == f.sums.size()) {
        saved_sums s;
        s.d = d;
        s.n = rows / 2;
        memcpy(s.value, d, sizeof(float) * (size_t)s.n);
        memset(d, 0xff, sizeof(float) * (size_t)s.n);
        f.sums.push_back(s);
    }
    f.products.push_back({bf16, rows, add != 0, (int)i, a, b});
}

void wgmma_commit()
{
    self().committed = (int)self().products.size();
    self().fenced = false;
}

static float half_of(int bf16, uint16_t h)
{
    return bf16 ? bf16_to_f32(h) : f16_to_f32(h);
}

/* Number (token, k) of the B tile whose first number, of this slice, descriptor b names. */
static float b_at(int bf16, uint64_t b, int token, int k)
{
    const uint32_t start = (uint32_t)(b & 0x3fff) << 4, stride = (uint32_t)(b >> 32 & 0x3fff) << 4;
    uint32_t at = start + (uint32_t)(token / 8) * stride + (uint32_t)(token % 8 * 128 + k * 2);
    at ^= (at >> 7 & 7) << 4;
    if (b >> 62 != 1 || (b >> 49 & 7) != 0 || at + 2 > launch->shared_bytes)
        fail("not a descriptor of a K-major tile with the 128-byte swizzle");
    uint16_t h;
    memcpy(&h, here().shared + at, 2);
    return half_of(bf16, h);
}

/* The i-th product of a warpgroup. */
static void run_product(int group, size_t i)
{
    static float A[64][16], B[256][16];
    fiber *f = &here().fibers[128 * group];
    const product first = f[0].products[i];
    for (int t = 0; t < 128; t++) {
        const product &p = f[t].products[i];
        if (p.b != first.b || p.add != first.add || p.rows != first.rows || p.bf16 != first.bf16)
            fail("threads of a warpgroup begin different products");
        for (int r = 0; r < 4; r++)
            for (int e = 0; e < 2; e++)
                A[t / 32 * 16 + t % 32 / 4 + 8 * (r % 2)][2 * (t % 4) + e + 8 * (r / 2)] = half_of(p.bf16, (uint16_t)(p.a[r] >> 16 * e));
    }
    for (int n = 0; n < first.rows; n++)
        for (int k = 0; k < 16; k++)
            B[n][k] = b_at(first.bf16, first.b, n, k);
    for (int t = 0; t < 128; t++) {
        saved_sums &s = f[t].sums[(size_t)f[t].products[i].saved];
        for (int j = 0; j < s.n; j++) {
            const int row = t / 32 * 16 + t % 32 / 4 + 8 * (j / 2 % 2), token = j / 4 * 8 + 2 * (t % 4) + j % 2;
            double sum = first.add ? (double)s.value[j] : 0.0;
            for (int k = 0; k < 16; k++)
                sum += (double)A[row][k] * (double)B[token][k];
            s.value[j] = (float)sum;
        }
    }
}

void wgmma_wait()
{
    const int group = at_thread / 128;
    if (self().committed != (int)self().products.size())
        fail("products that are waited for are not committed");
    if (!meet(&here().group_count[group], 128, IN_GROUP))
        return;
    fiber *f = &here().fibers[128 * group];
    for (int t = 0; t < 128; t++)
        if (f[t].products.size() != f[0].products.size())
            fail("threads of a warpgroup begin different numbers of products");
    for (size_t i = 0; i < f[0].products.size(); i++)
        run_product(group, i);
    for (int t = 0; t < 128; t++) {
        for (const saved_sums &s : f[t].sums)
            memcpy(s.d, s.value, sizeof(float) * (size_t)s.n);
        f[t].sums.clear();
        f[t].products.clear();
        f[t].committed = 0;
    }
    wake(here(), 128 * group, 128 * group + 128, IN_GROUP);
}

/* ---- clusters ---- */

typedef void kernel_fn(const machete_args, const machete_map);
static kernel_fn *kernel;
static machete_map map;

static void fiber_main()
{
    kernel(*launch->args, map);
    if (!self().products.empty())
        fail("leaves with products under way");
    yield(DONE);
}

static void start(int block)
{
    cta &c = ctas[block];
    memset(c.shared, 0xff, launch->shared_bytes);
    c.block_count = c.left = 0;
    memset(c.warp_count, 0, sizeof c.warp_count);
    memset(c.group_count, 0, sizeof c.group_count);
    for (int i = 0; i < THREADS; i++) {
        fiber &f = c.fibers[i];
        f.state = READY;
        f.waited = f.fenced = false;
        f.committed = 0;
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack;
        f.context.uc_stack.ss_size = STACK_BYTES;
        f.context.uc_link = NULL;
        makecontext(&f.context, fiber_main, 0);
    }
}

/* Runs the threads of one warp that can go on. */
static int run_warp(int block, int warp)
{
    int ran = 0;
    for (int i = 32 * warp; i < 32 * warp + 32; i++) {
        fiber &f = ctas[block].fibers[i];
        at_block = block;
        at_thread = i;
        if (f.state == ON_BARRIER && over(f.barrier, f.parity))
            f.state = READY;
        if (f.state != READY)
            continue;
        ran++;
        swapcontext(&scheduler, &f.context);
    }
    return ran;
}

static bool block_done(int block)
{
    for (int i = 0; i < THREADS; i++)
        if (ctas[block].fibers[i].state != DONE)
            return false;
    return true;
}

static void run_cluster()
{
    cluster_count = 0;
    for (int b = 0; b < cluster_size; b++)
        start(b);
    int asleep = draw() & 1 ? (int)(draw() % (uint64_t)cluster_size) : -1; /* a block that begins only when the others cannot go on */
    const int slow = (int)(draw() % 4); /* a warpgroup of each block that goes on only when the others cannot: 1 or 2 */
    bool wait_for_slow = false;
    for (int left = cluster_size; left > 0;) {
        const int all = cluster_size * WARPS, first = (int)(draw() % (uint64_t)all), stride = draw() & 1 ? 5 : 7; /* both prime to 12 * cluster_size, but where the size is */
        int ran = 0;
        for (int i = 0; i < all; i++) {
            const int w = (first + (cluster_size % stride ? i * stride : i)) % all;
            if (w / WARPS != asleep && (w % WARPS / 4 != slow || slow == 0 || wait_for_slow))
                ran += run_warp(w / WARPS, w % WARPS);
        }
        const bool waited = wait_for_slow;
        wait_for_slow = false;
        if (!launch->late)
            for (size_t i = copies.size(); i-- > 0;)
                if (draw() % 4 == 0 && i < copies.size()) {
                    arrive(i);
                    ran++;
                }
        if (!ran && !copies.empty()) {
            arrive(draw() % copies.size());
            ran++;
        }
        if (!ran && asleep >= 0) {
            asleep = -1;
            ran++;
        } else if (!ran && slow > 0 && !waited) {
            wait_for_slow = true;
            ran++;
        }
        for (int b = 0; b < cluster_size; b++)
            if (!ctas[b].left && block_done(b)) {
                ctas[b].left = 1;
                left--;
            }
        if (!ran && left > 0)
            fail("threads wait for each other");
    }
    if (!copies.empty())
        fail("a copy that nobody waited for");
}

static kernel_fn *kernel_of(int bits, int bf16, int rows, int wide, int run)
{
#define ONE(r, w, scaled, run, blocks, sm)                                                                                                                                     \
    (bits == 4 ? (bf16 ? machete_kernel<4, 1, r, w, scaled, run, blocks, sm> : machete_kernel<4, 0, r, w, scaled, run, blocks, sm>)                                                \
               : (bf16 ? machete_kernel<8, 1, r, w, scaled, run, blocks, sm> : machete_kernel<8, 0, r, w, scaled, run, blocks, sm>))
#define MACHETE(r, w, scaled, blocks, sm)                                                                                                                                      \
    if (rows == r && wide == w) {                                                                                                                                          \
        if constexpr (!scaled) {                                                                                                                                           \
            if (run == 2)                                                                                                                                                  \
                return ONE(r, w, scaled, 2, blocks, sm);                                                                                                                       \
            if (run == 4)                                                                                                                                                  \
                return ONE(r, w, scaled, 4, blocks, sm);                                                                                                                       \
        }                                                                                                                                                                  \
        return ONE(r, w, scaled, 4 * blocks, blocks, sm);                                                                                                                      \
    }
#include "kernels/cuda/machete.def"
#undef MACHETE
    return NULL;
}

extern "C" int machete_emulate(const machete_emu_launch *l)
{
    launch = l;
    random_state = l->seed;
    const machete_args &a = *l->args;
    kernel = kernel_of(l->bits, l->bf16, l->rows, l->wide, machete_run(a.unit_shift));
    if (!kernel)
        return -1;
    map = {l->x, l->ldx, (int)l->Kx, a.M, l->rows / a.grid.share};
    cluster_size = a.grid.split * a.grid.share;
    ctas = new cta[(size_t)cluster_size];
    const size_t stacks = (size_t)cluster_size * THREADS * STACK_BYTES;
    char *stack = (char *)mmap(NULL, stacks, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED)
        return -1;
    for (int b = 0; b < cluster_size; b++) {
        ctas[b].shared = (char *)aligned_alloc(1024, (l->shared_bytes + 1023) / 1024 * 1024);
        for (int i = 0; i < THREADS; i++)
            ctas[b].fibers[i].stack = stack + ((size_t)b * THREADS + (size_t)i) * STACK_BYTES;
    }
    const int clusters = a.grid.clusters, from = (int)(draw() % (uint64_t)clusters);
    for (int i = 0; i < clusters; i++) {
        cluster_number = (from + i) % clusters;
        run_cluster();
    }
    for (int b = 0; b < cluster_size; b++)
        free(ctas[b].shared);
    munmap(stack, stacks);
    delete[] ctas;
    return 0;
}

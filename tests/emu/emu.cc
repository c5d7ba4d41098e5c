/* A CUDA device made of this processor: the runtime's functions, and blocks of threads as fibers (see include/kernels/cuda/instr.cuh). EMU_SEED shuffles differently;
 * EMU_LAUNCHES=FILE writes there, at the end, how many kernels were launched;
 * EMU_SM=86 is a device of that compute capability with its shared memory (default 90), EMU_PTX=80 code that was made of PTX for 8.0, EMU_MB=100 one of 100 MB (default 1024), of which
 * others hold EMU_TAKEN KB, EMU_MODE=3 one of that compute mode whose place is taken, EMU_DRIVER=12020 one with the driver of CUDA 12.2.
 * What it proves: indices, layouts, barriers, waits (for copies out of page-locked memory, and before memory is freed), bounds, arithmetic. What it does not: the compiler for the GPU, timing, memory ordering between blocks. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <deque>
#include <map>
#include <vector>

#include "kernels/cuda/instr.cuh"

#define DIE(...) (fprintf(stderr, "emu: " __VA_ARGS__), fputc('\n', stderr), abort())

enum { PAGE = 4096, STACK = 128 << 10, MOST_THREADS = 1024, MOST_SHARED = 227 << 10, PROCESSORS = 4 };

/* Memory */

static std::map<void *, std::pair<char *, size_t>> allocations; /* pointer -> its pages */
static size_t used_memory;

static int setting(const char *name, int otherwise)
{
    const char *s = getenv(name);
    return s ? atoi(s) : otherwise;
}

static size_t memory() { return (size_t)setting("EMU_MB", 1024) << 20; }
static size_t free_memory() { return memory() - ((size_t)setting("EMU_TAKEN", 0) << 10) - used_memory; }

/* What a call failed with is remembered until somebody asks. */
static cudaError_t last_error;
static cudaError_t fail(cudaError_t r) { return last_error = r; }

cudaError_t cudaGetLastError(void)
{
    cudaError_t r = last_error;
    last_error = cudaSuccess;
    return r;
}

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    size_t body = (bytes + PAGE - 1) / PAGE * PAGE, at = body - (bytes + 63) / 64 * 64;
    *out = NULL;
    if (body > free_memory())
        return fail(cudaErrorMemoryAllocation);
    char *p = (char *)mmap(NULL, body + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p + body, PAGE, PROT_NONE))
        return fail(cudaErrorMemoryAllocation);
    memset(p, 0xff, body);
    used_memory += body;
    *out = p + at;
    allocations[*out] = {p, body + PAGE};
    return cudaSuccess;
}

static bool queued; /* something is on the stream that nobody has waited for */

cudaError_t cudaFree(void *p)
{
    if (!p)
        return cudaSuccess;
    if (queued)
        DIE("cudaFree of %p while something is queued, which cudaFree need not wait for", p);
    auto i = allocations.find(p);
    if (i == allocations.end())
        DIE("cudaFree of %p, which is no allocation", p);
    used_memory -= i->second.second - PAGE;
    munmap(i->second.first, i->second.second);
    allocations.erase(i);
    return cudaSuccess;
}

/* Copies out of page-locked memory happen as late as a device may make them: what is in it then is what arrives. */
struct late_copy {
    void *to;
    const void *from;
    size_t to_pitch, from_pitch, width, rows;
};
static std::map<char *, size_t> locked;   /* page-locked memory and its size */
static std::deque<late_copy> late;
static uint64_t late_made;                /* copies that were made, of all that there were */

static void make_copies(uint64_t until)
{
    for (; late_made < until && !late.empty(); late_made++) {
        const late_copy &c = late.front();
        for (size_t r = 0; r < c.rows; r++)
            memcpy((char *)c.to + r * c.to_pitch, (const char *)c.from + r * c.from_pitch, c.width);
        late.pop_front();
    }
}

static void make_all_copies()
{
    make_copies(UINT64_MAX);
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    *out = malloc(bytes);
    if (*out)
        locked[(char *)*out] = bytes;
    return *out ? cudaSuccess : fail(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *p)
{
    for (const late_copy &c : late)
        if ((char *)c.from >= (char *)p && (char *)c.from < (char *)p + locked[(char *)p])
            DIE("cudaFreeHost of %p while a copy of %p is queued", p, c.from);
    locked.erase((char *)p);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t)
{
    queued = true;
    make_all_copies();
    memset(p, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t rows, enum cudaMemcpyKind, cudaStream_t)
{
    if (!to || !from)
        return fail(cudaErrorInvalidValue);
    queued = true;
    auto i = locked.upper_bound((char *)from);
    bool is_locked = i != locked.begin() && (--i, (char *)from < i->first + i->second);
    if (!is_locked)
        make_all_copies();
    late.push_back({to, from, to_pitch, from_pitch, width, rows});
    if (!is_locked)
        make_all_copies();
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s)
{
    return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, s);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *free_bytes = free_memory();
    *total = memory();
    return cudaSuccess;
}

/* Devices, streams, events */

static int capability() { return setting("EMU_SM", 90); }

/* Shared memory that a block can have: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". */
static int most_shared()
{
    int sm = capability();
    return sm == 80 || sm == 87 ? 163 << 10 : sm == 90 || sm / 10 == 10 ? MOST_SHARED : 99 << 10;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *out, enum cudaDeviceAttr a, int)
{
    switch (a) {
    case cudaDevAttrMultiProcessorCount: *out = PROCESSORS; return cudaSuccess;
    case cudaDevAttrComputeMode: *out = setting("EMU_MODE", cudaComputeModeDefault); return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *out = capability() / 10; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *out = capability() % 10; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *out = most_shared() + 1024; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *out = most_shared(); return cudaSuccess;
    }
    return fail(cudaErrorInvalidValue);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = setting("EMU_DRIVER", 13000);
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    int driver, runtime;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    *count = driver >= runtime;
    return *count ? cudaSuccess : fail(cudaErrorInsufficientDriver);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    if (device != 0)
        return fail(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated device");
    p->major = capability() / 10;
    p->minor = capability() % 10;
    p->multiProcessorCount = PROCESSORS;
    p->totalGlobalMem = memory();
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    if (device != 0)
        return fail(cudaErrorInvalidDevice);
    if (setting("EMU_MODE", cudaComputeModeDefault) != cudaComputeModeDefault)
        return fail(cudaErrorDevicesUnavailable);
    return free_memory() ? cudaSuccess : fail(cudaErrorMemoryAllocation);
}

const char *cudaGetErrorString(cudaError_t r) { return r == cudaErrorMemoryAllocation ? "out of memory" : r ? "error" : "no error"; }
const char *cudaGetErrorName(cudaError_t r) { return r == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError"; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) { *s = (cudaStream_t)&queued; return cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { make_all_copies(); queued = false; return cudaSuccess; }
struct emu_event { uint64_t copies; }; /* those before it */
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) { *e = new emu_event{0}; return cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t e) { delete e; return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t) { e->copies = late_made + late.size(); return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t e) { make_copies(e->copies); return cudaSuccess; }
cudaError_t cudaFuncSetAttribute(const void *, enum cudaFuncAttribute, int value) { return value <= most_shared() ? cudaSuccess : fail(cudaErrorInvalidValue); }

/* Code for this very device, or with EMU_PTX made of PTX for that one. */
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *)
{
    *a = {setting("EMU_PTX", capability()), capability()};
    return cudaSuccess;
}

/* A kernel without the instruction that waits may not be launched before the one in front of it is through. */
void emu_check_dependent(const void *kernel)
{
    struct cudaFuncAttributes a;
    cudaFuncGetAttributes(&a, kernel);
    if (a.ptxVersion < 90)
        DIE("a dependent launch of a kernel of PTX %d.%d, which does not wait", a.ptxVersion / 10, a.ptxVersion % 10);
}

/* Fibers */

struct pending_copy {
    void *to;
    const void *from;
    size_t size, bytes; /* written, and copied of them; the rest is zero */
};

enum fiber_state { READY, AT_BLOCK, AT_WARP, OVER };
struct fiber {
    void *sp;
    enum fiber_state state;
    struct emu_index index;
    std::vector<std::vector<pending_copy>> copies; /* groups, the last one open */
};

enum warp_op { NO_OP, SHUFFLE, MMA, LOAD };
struct warp {
    int arrived;
    enum warp_op op;
    int mask;
    uint32_t value[32], result[32];
    struct emu_mma mma[32];
    uint32_t *to[32];
    const unsigned char *row[32];
};

struct emu_index emu_thread, emu_block, emu_grid;
alignas(128) unsigned char emu_dynamic[MOST_SHARED];
static struct fiber fibers[MOST_THREADS];
static struct warp warps[MOST_THREADS / 32];
static char *stacks;
static int count, now;
static void *scheduler_sp;
static const std::function<void()> *body;
static uint64_t seed;

extern "C" void emu_switch(void **save, void *load);
asm(".text\n.globl emu_switch\nemu_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");

static uint64_t next_random()
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return seed >> 33;
}

static void suspend(enum fiber_state state)
{
    fibers[now].state = state;
    emu_switch(&fibers[now].sp, scheduler_sp);
}

static void flush_copies(struct fiber &f, size_t keep)
{
    while (f.copies.size() > keep) {
        for (const pending_copy &c : f.copies[0]) {
            memset(c.to, 0, c.size);
            memcpy(c.to, c.from, c.bytes);
        }
        f.copies.erase(f.copies.begin());
    }
}

static void fiber_main()
{
    (*body)();
    flush_copies(fibers[now], 0);
    suspend(OVER);
    abort();
}

static void fiber_start(int i, const dim3 &block)
{
    struct fiber &f = fibers[i];
    void **top = (void **)(stacks + (size_t)(i + 1) * STACK);
    *--top = NULL; /* keeps the stack aligned as after a call */
    *--top = (void *)fiber_main;
    for (int r = 0; r < 6; r++)
        *--top = NULL;
    f.sp = top;
    f.state = READY;
    f.index = {(int)(i % block.x), (int)(i / block.x % block.y), (int)(i / block.x / block.y)};
    f.copies.assign(1, {});
}

static void resume(int i)
{
    now = i;
    emu_thread = fibers[i].index;
    emu_switch(&scheduler_sp, fibers[i].sp);
}

/* Runs what is ready, in a shuffled order; then opens the barrier when all that live stand before it. */
static bool pass()
{
    static int order[MOST_THREADS];
    bool moved = false;
    for (int i = 0; i < count; i++) {
        int j = (int)(next_random() % (uint64_t)(i + 1));
        order[i] = order[j];
        order[j] = i;
    }
    for (int i = 0; i < count; i++)
        if (fibers[order[i]].state == READY) {
            resume(order[i]);
            moved = true;
        }
    int waiting = 0, alive = 0;
    for (int i = 0; i < count; i++) {
        alive += fibers[i].state != OVER;
        waiting += fibers[i].state == AT_BLOCK;
    }
    for (int i = 0; waiting == alive && i < count; i++)
        if (fibers[i].state == AT_BLOCK) {
            fibers[i].state = READY;
            moved = true;
        }
    if (alive && !moved)
        DIE("block %d,%d,%d: %d of %d threads wait for each other (%d at a barrier)", emu_block.x, emu_block.y, emu_block.z, alive, count, waiting);
    return alive > 0;
}

static uint64_t launches;

static void write_launches()
{
    FILE *f = fopen(getenv("EMU_LAUNCHES"), "w");
    if (!f || fprintf(f, "%llu\n", (unsigned long long)launches) < 0 || fclose(f))
        DIE("EMU_LAUNCHES: %s cannot be written", getenv("EMU_LAUNCHES"));
}

void emu_launch(dim3 grid, dim3 block, size_t bytes, const std::function<void()> &thread)
{
    queued = true;
    make_all_copies();
    if (!launches++ && getenv("EMU_LAUNCHES"))
        atexit(write_launches);
    if (!stacks) {
        stacks = (char *)mmap(NULL, (size_t)STACK * MOST_THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        const char *s = getenv("EMU_SEED");
        seed = s ? strtoull(s, NULL, 10) : 1;
    }
    count = (int)(block.x * block.y * block.z);
    if (stacks == MAP_FAILED || bytes > (size_t)most_shared() || count > MOST_THREADS || !grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535)
        DIE("launch of %u x %u x %u blocks of %d threads with %zu bytes", grid.x, grid.y, grid.z, count, bytes);
    body = &thread;
    emu_grid = {(int)grid.x, (int)grid.y, (int)grid.z};
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z, start = next_random() % blocks;
    for (uint64_t n = 0; n < blocks; n++) {
        uint64_t b = (start + n) % blocks;
        emu_block = {(int)(b % grid.x), (int)(b / grid.x % grid.y), (int)(b / grid.x / grid.y)};
        memset(emu_dynamic, 0xff, bytes);
        memset(warps, 0, sizeof warps);
        for (int i = 0; i < count; i++)
            fiber_start(i, block);
        while (pass())
            ;
    }
}

void emu_block_barrier()
{
    suspend(AT_BLOCK);
}

/* Values as matrix fragments: element (row, col) of A 16 x 16, of B 16 x 8 */
static float half_of(uint32_t word, int high, bool f16)
{
    uint16_t h = (uint16_t)(word >> 16 * high);
    return f16 ? f16_to_f32(h) : bf16_to_f32(h);
}

static void run_mma(struct warp &w)
{
    bool f16 = w.mma[0].f16;
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const struct emu_mma &m = w.mma[lane];
        int g = lane / 4, t = lane % 4;
        for (int h = 0; h < 2; h++) {
            for (int r = 0; r < 4; r++)
                a[g + 8 * (r % 2)][2 * t + h + 8 * (r / 2)] = half_of(m.a[r], h, f16);
            for (int r = 0; r < 2; r++)
                b[2 * t + h + 8 * r][g] = half_of(m.b[r], h, f16);
        }
    }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + 8 * (i / 2), col = lane % 4 * 2 + i % 2;
            double sum = w.mma[lane].c[i];
            for (int k = 0; k < 16; k++)
                sum += (double)a[row][k] * (double)b[k][col];
            w.mma[lane].c[i] = (float)sum;
        }
}

/* The last lane of 32 to come does the work for all. */
static int meet(enum warp_op op, struct warp &w)
{
    int first = now / 32 * 32;
    if (w.arrived == 0)
        w.op = op;
    if (w.op != op)
        DIE("lanes of a warp meet in different instructions");
    if (++w.arrived < 32)
        return 0;
    w.arrived = 0;
    for (int i = first; i < first + 32; i++)
        if (fibers[i].state == AT_WARP)
            fibers[i].state = READY;
    return 1;
}

uint32_t emu_shuffle_xor(uint32_t v, int mask)
{
    struct warp &w = warps[now / 32];
    int lane = now % 32;
    if (w.arrived && w.mask != mask)
        DIE("lanes of a warp shuffle by different masks");
    w.mask = mask;
    w.value[lane] = v;
    if (meet(SHUFFLE, w))
        for (int i = 0; i < 32; i++)
            w.result[i] = w.value[i ^ mask];
    else
        suspend(AT_WARP);
    return w.result[lane];
}

void emu_warp_mma(const struct emu_mma &m)
{
    struct warp &w = warps[now / 32];
    w.mma[now % 32] = m;
    if (meet(MMA, w))
        run_mma(w);
    else
        suspend(AT_WARP);
}

/* Lane l names row l % 8 of matrix l / 8; it gets elements 2 (l % 4) and the next of row l / 4 of each. */
void emu_warp_load(uint32_t *r, const void *row)
{
    struct warp &w = warps[now / 32];
    w.to[now % 32] = r;
    w.row[now % 32] = (const unsigned char *)row;
    if ((uintptr_t)row % 16)
        DIE("ldmatrix of a row that is not at 16 bytes");
    if (!meet(LOAD, w)) {
        suspend(AT_WARP);
        return;
    }
    for (int lane = 0; lane < 32; lane++)
        for (int m = 0; m < 4; m++)
            memcpy(&w.to[lane][m], w.row[8 * m + lane / 4] + 4 * (lane % 4), 4);
}

void emu_copy(void *to, const void *from, size_t size, size_t bytes)
{
    if ((uintptr_t)to % size || (uintptr_t)from % size)
        DIE("a copy of %zu bytes at addresses that are no multiples of it", size);
    memset(to, 0xff, size);
    fibers[now].copies.back().push_back({to, from, size, bytes});
}

void emu_copy_commit()
{
    fibers[now].copies.push_back({});
}

void emu_copy_wait(int most)
{
    flush_copies(fibers[now], (size_t)most + 1);
}

/* The checks of a kernel class (check_class.h) on a device against the f64 product of dequantized weights and rounded X, which a plain kernel computes from the codes as the
 * checkpoint has them. Included once by the class' program; main is here. TAP; no device: skipped. --small: a few small shapes, for compute-sanitizer. --quick: without the large
 * shapes. */
#include "tests/gpu/class_problem.cuh"

struct class_case {
    struct config config;
    int M;
};
static int class_configs(const struct packed *k, bool small, struct class_case *list);
static bool class_clean(int space);

/* Every M, as chosen, Y in f32 and in the activations' type, with rows of odd length and (and a bias) of such as can be written four at a time. */
static void check_rows(const struct problem *p, const int *Ms, int count, const char *what)
{
    double most = 0, most_exact = 0, most_excess = 0;
    int bad = -1;
    for (int i = 0; i < count; i++)
        for (int mode = MARLIN_FAST; mode <= MARLIN_FIXED; mode++) {
            if (Ms[i] > p->max_rows || (mode == MARLIN_FIXED && Ms[i] != 1 && Ms[i] != 33 && Ms[i] != 257 && Ms[i] != 1024))
                continue;
            const struct config c = class_choose(&p->packed, Ms[i], (enum marlin_mode)mode);
            for (int v = 0; v < (mode == MARLIN_FAST ? 4 : 2); v++) {
                const bool f32 = v & 1;
                struct errors error = run(p, Ms[i], &c, f32, v & 2);
                if (!within(p, error, class_exact(&c), f32) && bad < 0)
                    bad = Ms[i];
                keep_worst(f32 && class_exact(&c) ? &most_exact : &most, error.raw);
                keep_worst(&most_excess, error.excess);
            }
        }
    char where[32] = "";
    if (bad >= 0)
        snprintf(where, sizeof where, ", first at M=%d", bad);
    tap(bad < 0, "%s: N=%lld K=%lld %d bits group %d %s%s%s: worst row %.2e (exact weights, f32: %.2e; beyond roundings: %.2e)%s", what, (long long)p->N, (long long)p->K,
        p->bits, p->group, act_name(p->act), p->scattered ? " act-order" : "", p->one_zero ? "" : " zeros", most, most_exact, most_excess, where);
}

static const int all_Ms[] = {1, 2, 7, 8, 9, 15, 16, 17, 33, 64, 65, 128, 257, 1024}, few_Ms[] = {1, 8, 13, 16, 31, 40, 64, 100};

static void check_shapes(bool small, bool quick)
{
    static const int64_t shapes[][2] = {{128, 128}, {4096, 4096}, {7168, 576}, {256, 32768}, {6144, 4096}, {4096, 14336}, {28672, 4096}};
    const int n = small ? 1 : quick ? 4 : 7;
    for (int i = 0; i < n; i++)
        for (int bits = 4; bits <= 8; bits += 4)
            for (int act = 0; act < 2; act++) {
                if (i > 4 && act != (bits == 8)) /* the largest: one type each */
                    continue;
                struct problem p = {};
                p.N = shapes[i][0];
                p.K = shapes[i][1];
                p.bits = bits;
                p.group = 128;
                p.one_zero = true;
                p.scale = 0.02f;
                p.act = (enum marlin_act)act;
                p.max_rows = small ? 33 : X_ROWS;
                problem_make(&p);
                check_rows(&p, all_Ms, sizeof all_Ms / sizeof *all_Ms, "shape");
                problem_free(&p);
            }
}

static void check_kinds(bool small)
{
    static const struct {
        int64_t N, K;
        int bits, group;
        bool scattered, one_zero, negative;
    } kinds[] = {{640, 1024, 4, -1, false, true, false},  {640, 1024, 4, 32, false, true, false}, {640, 1024, 4, 64, false, false, false}, {640, 1024, 8, 32, false, false, false},
                 {640, 1024, 4, 128, true, true, false},  {640, 1024, 8, 64, true, false, false}, {1003, 1001, 4, 128, false, true, false}, {77, 530, 8, -1, false, true, false},
                 {640, 1024, 4, 128, false, true, true},  {300, 960, 4, 96, false, false, true},  {192, 1000, 3, 40, false, false, false},  {65, 71, 2, 32, true, false, false},
                 {3, 5, 4, 128, false, true, false},      {256, 14336, 4, -1, false, true, false}, {256, 28672, 8, -1, false, true, false}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (int act = 0; act < 2; act++) {
            if (small && (kinds[i].K > 4096 || i % 3 != 1 || act == (int)(i & 1)))
                continue;
            struct problem p = {};
            p.N = kinds[i].N;
            p.K = kinds[i].K;
            p.bits = kinds[i].bits;
            p.group = kinds[i].group;
            p.scattered = kinds[i].scattered;
            p.one_zero = kinds[i].one_zero;
            p.negative = kinds[i].negative;
            p.scale = 0.02f;
            p.act = (enum marlin_act)act;
            p.max_rows = 100;
            problem_make(&p);
            check_rows(&p, few_Ms, sizeof few_Ms / sizeof *few_Ms, p.negative ? "negative scales" : "kind");
            problem_free(&p);
        }
}

/* Bias and adding to Y, in both types of Y. */
static void check_epilogue(const struct problem *p)
{
    double most = 0;
    bool good = true;
    for (int f32 = 0; f32 < 2; f32++)
        for (int M = 5; M <= 70; M += 65) {
            struct output o = output_new(p, M, f32);
            uint16_t start = host_act(p->act, 2.0f);
            float start_f32 = 2.0f;
            for (int64_t m = 0; m < M; m++) { /* the columns of Y only: what is behind them stays as it is */
                uint8_t *row = (uint8_t *)o.y + (size_t)(m * o.ldy) * (f32 ? 4 : 2);
                static uint8_t fill[65536];
                for (int64_t n = 0; n < p->N; n++)
                    memcpy(fill + n * (f32 ? 4 : 2), f32 ? (void *)&start_f32 : (void *)&start, f32 ? 4 : 2);
                CUDA(cudaMemcpy(row, fill, (size_t)p->N * (f32 ? 4 : 2), cudaMemcpyHostToDevice));
            }
            struct class_call call = call_of(p, M, &o, f32);
            call.bias = p->bias;
            call.accumulate = true;
            const struct config c = class_choose(&p->packed, M, MARLIN_FAST);
            launch(p, &c, &call, NULL);
            finish();
            struct errors error = worst(p, &o, M, class_exact(&c), f32, true, 2.0f);
            good = good && within(p, error, class_exact(&c), f32);
            keep_worst(&most, error.raw);
            CUDA(cudaFree(o.all));
        }
    tap(good, "bias and adding to Y, %s: worst row %.2e", act_name(p->act), most);
}

/* Every config that fits the device, plain; then three launches in a row, each of which may overlap the one before. crowd: with many tiles a block. */
static void check_configs(const struct problem *p, bool small, bool crowd)
{
    static struct class_case list[CASES_MAX];
    if (crowd && !class_crowd(true))
        return;
    const int n = class_configs(&p->packed, small, list);
    int bad = 0;
    double most = 0;
    for (int i = 0; i < 2 * n; i++) {
        const struct class_case *c = &list[i % n];
        struct output o = output_new(p, c->M, true);
        struct class_call call = call_of(p, c->M, &o, true);
        call.pdl = i >= n;
        for (int t = 0; t < (call.pdl ? 3 : 1); t++)
            launch(p, &c->config, &call, NULL);
        finish();
        struct errors error = worst(p, &o, c->M, class_exact(&c->config), true, false, 0.0f);
        if (!within(p, error, class_exact(&c->config), true)) {
            complain(error);
            bad++;
        }
        keep_worst(&most, error.raw);
        CUDA(cudaFree(o.all));
    }
    if (crowd)
        class_crowd(false);
    tap(bad == 0 && n > 0, "%d configs%s, N=%lld K=%lld %d bits %s: %d wrong, worst row %.2e", n, crowd ? ", many tiles a block" : "", (long long)p->N, (long long)p->K, p->bits,
        act_name(p->act), bad, most);
}

/* The same launch again and again, on three streams at a time, each with a workspace of its own. */
static void check_repeats(const struct problem *p, int times)
{
    static const int Ms[] = {1, 16, 24, 64, 100};
    cudaStream_t streams[3];
    unsigned long long bad = 0;
    for (int s = 0; s < 3; s++)
        CUDA(cudaStreamCreateWithFlags(&streams[s], cudaStreamNonBlocking));
    finish();
    for (size_t i = 0; i < sizeof Ms / sizeof *Ms; i++) {
        const struct config c = class_choose(&p->packed, Ms[i], MARLIN_FAST);
        struct output first = output_new(p, Ms[i], true), again[3];
        struct class_call call = call_of(p, Ms[i], &first, true);
        launch(p, &c, &call, NULL);
        for (int s = 0; s < 3; s++)
            again[s] = output_new(p, Ms[i], true);
        finish();
        for (int t = 0; t < times; t += 3) {
            for (int s = 0; s < 3; s++) {
                CUDA(cudaMemsetAsync(again[s].y, 0xff, again[s].bytes, streams[s]));
                struct class_call other = call_of(p, Ms[i], &again[s], true);
                other.space = 1 + s;
                launch(p, &c, &other, streams[s]);
            }
            finish();
            for (int s = 0; s < 3; s++)
                bad += different(first.y, again[s].y, first.bytes);
        }
        CUDA(cudaFree(first.all));
        for (int s = 0; s < 3; s++)
            CUDA(cudaFree(again[s].all));
    }
    for (int s = 0; s < 3; s++)
        CUDA(cudaStreamDestroy(streams[s]));
    tap(bad == 0, "%d repeats for each of 5 M on 3 streams, N=%lld K=%lld %d bits %s: %llu bytes differ", times, (long long)p->N, (long long)p->K, p->bits, act_name(p->act), bad);
}

/* In fixed mode a row's bits are those of the row alone, whatever M, its place and the config: here every config that fixed mode could take, each tile with all that leave the
 * order as it is, for many rows and for single ones, each launch free to overlap the one before. halves: rows of Y of two of X. */
static void check_fixed(const struct problem *p, bool halves)
{
    const int each = halves ? 2 : 1, M = (p->max_rows < 257 ? p->max_rows : 257) / each;
    static struct config list[CASES_MAX];
    const int n = class_fixed(&p->packed, list);
    const struct config one = class_choose(&p->packed, each, MARLIN_FIXED);
    struct output want = output_new(p, M, true), got = output_new(p, M, true);
    unsigned long long bad = 0;
    char first[128] = "";
    for (int i = -1; i < n; i++) { /* -1: what the others are held against */
        struct output *o = i < 0 ? &want : &got;
        CUDA(cudaMemset(got.y, 0xff, got.bytes));
        for (int m = 0; m < M; m += i < 0 ? 1 : M) {
            struct class_call call = call_of(p, i < 0 ? each : each * M, o, true);
            call.x = p->x + each * m * p->ldx;
            call.y = (float *)o->y + m * o->ldy;
            call.halves = halves;
            call.pdl = true;
            launch(p, i < 0 ? &one : &list[i], &call, NULL);
        }
        finish();
        unsigned long long here = i < 0 ? 0 : different(want.y, got.y, want.bytes);
        for (int m = 1; i >= 0 && m < M; m += 31) {
            struct class_call call = call_of(p, each, &got, true);
            call.x = p->x + each * m * p->ldx;
            call.halves = halves;
            call.pdl = true;
            launch(p, &list[i], &call, NULL);
            finish();
            here += different((float *)want.y + m * want.ldy, got.y, (size_t)p->N * 4);
        }
        if (here && !bad)
            class_text(&list[i], first, sizeof first);
        bad += here;
    }
    tap(bad == 0 && n > 0 && guards_hold(&got, p, M, true), "fixed mode%s: rows of M=%d and alone, by %d configs, are those that M=1 takes, N=%lld K=%lld %d bits %s: %llu bytes differ%s%s",
        halves ? ", halves" : "", M, n, (long long)p->N, (long long)p->K, p->bits, act_name(p->act), bad, bad ? ", first with " : "", first);
    CUDA(cudaFree(want.all));
    CUDA(cudaFree(got.all));
}

/* With halves row m of y is the sum of rows 2m and 2m + 1 without, to the bit; launched plainly, and as a dependent of the launch before. */
static void check_halves(const struct problem *p)
{
    const int64_t M = (p->max_rows < 70 ? p->max_rows : 70) / 2 * 2;
    struct output plain = output_new(p, M, true), joined = output_new(p, M / 2, true);
    float *a = (float *)malloc((size_t)(M * plain.ldy) * 4), *b = (float *)malloc((size_t)(M / 2 * joined.ldy) * 4);
    long long bad = 0;
    const struct config c = class_choose(&p->packed, M, MARLIN_FIXED);
    struct class_call call = call_of(p, M, &plain, true);
    launch(p, &c, &call, NULL);
    for (int pdl = 0; pdl < 2; pdl++) {
        call.pdl = pdl;
        if (pdl) /* a launch for it to overlap: plain once more */
            launch(p, &c, &call, NULL);
        struct class_call half = call_of(p, M, &joined, true);
        half.halves = true;
        half.pdl = pdl;
        launch(p, &c, &half, NULL);
        finish();
        CUDA(cudaMemcpy(a, plain.y, (size_t)((M - 1) * plain.ldy + p->N) * 4, cudaMemcpyDeviceToHost));
        CUDA(cudaMemcpy(b, joined.y, (size_t)((M / 2 - 1) * joined.ldy + p->N) * 4, cudaMemcpyDeviceToHost));
        for (int64_t m = 0; m < M / 2; m++)
            for (int64_t n = 0; n < p->N; n++) {
                const float sum = a[2 * m * plain.ldy + n] + a[(2 * m + 1) * plain.ldy + n];
                bad += memcmp(&sum, &b[m * joined.ldy + n], 4) != 0;
            }
    }
    tap(bad == 0 && guards_hold(&joined, p, M / 2, true), "halves: rows added up in pairs, M=%lld N=%lld K=%lld %s: %lld differ", (long long)M, (long long)p->N, (long long)p->K,
        act_name(p->act), bad);
    free(a);
    free(b);
    CUDA(cudaFree(plain.all));
    CUDA(cudaFree(joined.all));
}

/* A chain of launches, each reading what the one before wrote, with and without programmatic dependence. */
static void check_chain(const struct problem *p, int M)
{
    const struct config c = class_choose(&p->packed, M, MARLIN_FAST);
    const int64_t ld = (p->N + 7) / 8 * 8;
    uint16_t *buffer[2][2];
    for (int pdl = 0; pdl < 2; pdl++) {
        for (int i = 0; i < 2; i++) {
            buffer[pdl][i] = (uint16_t *)device_alloc((size_t)(M * ld) * 2);
            CUDA(cudaMemset(buffer[pdl][i], 0, (size_t)(M * ld) * 2));
        }
        finish();
        for (int step = 0; step < 24; step++) {
            struct output o = {NULL, buffer[pdl][step & 1], ld, 0};
            struct class_call call = call_of(p, M, &o, false);
            if (step > 0) {
                call.x = buffer[pdl][~step & 1];
                call.ldx = ld;
            }
            call.pdl = pdl;
            launch(p, &c, &call, NULL);
        }
        finish();
    }
    unsigned long long bad = different(buffer[0][1], buffer[1][1], (size_t)(M * ld) * 2);
    count_other_kernel<<<16, 256>>>((uint8_t *)buffer[0][1], (size_t)(M * ld) * 2, 0, 0, counter);
    unsigned long long nonzero = counted();
    tap(bad == 0 && nonzero > 0, "chain of 24 at M=%d, dependent launches against plain ones: %llu of %llu bytes differ", M, bad, nonzero);
    for (int i = 0; i < 4; i++)
        CUDA(cudaFree(buffer[i / 2][i % 2]));
}

static struct problem simple(int64_t N, int64_t K, int bits, enum marlin_act act, int rows, float scale)
{
    struct problem p = {};
    p.N = N;
    p.K = K;
    p.bits = bits;
    p.group = 128;
    p.one_zero = true;
    p.scale = scale;
    p.act = act;
    p.max_rows = rows;
    problem_make(&p);
    return p;
}

#include "tests/gpu/check_queue.cuh"

static void check_refusals(const struct problem *p)
{
    struct output o = output_new(p, 9, true);
    struct class_call call = call_of(p, 4, &o, true);
    const char *what = "";
    bool good = class_refusals(&p->packed, &call, &what);
    tap(good, "refused: %s", what);
    CUDA(cudaFree(o.all));
}

int main(int argc, char **argv)
{
    bool small = argc > 1 && strcmp(argv[1], "--small") == 0, quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
    need_device();
    struct cudaDeviceProp prop;
    CUDA(cudaGetDeviceProperties(&prop, 0));
    printf("# %s, %d SMs, compute capability %d.%d\n", prop.name, prop.multiProcessorCount, prop.major, prop.minor);
    setvbuf(stdout, NULL, _IOLBF, 0);
    patience = small ? 600 : 20; /* small: a sanitizer runs it */
    class_open(&prop, small);
    double start = now_s();
    counter = (unsigned long long *)device_alloc(sizeof *counter);
    CUDA(cudaMemset(counter, 0, sizeof *counter));

    for (int act = 0; act < 2; act++) {
        struct problem p = simple(small ? 192 : 1024, small ? 1024 : 4096, act ? 8 : 4, (enum marlin_act)act, 257, 0.02f);
        check_configs(&p, small, false);
        check_configs(&p, small, true);
        check_fixed(&p, false);
        check_fixed(&p, true);
        check_halves(&p);
        check_epilogue(&p);
        check_refusals(&p);
        problem_free(&p);
    }
    check_queue(small);
    check_kinds(small);
    {
        struct problem p = simple(small ? 256 : 4096, small ? 256 : 4096, 4, MARLIN_F16, 100, small ? 0.024f : 0.006f); /* a chain neither grows nor fades */
        check_repeats(&p, small ? 3 : 102);
        check_chain(&p, 1);
        check_chain(&p, 16);
        check_chain(&p, 64);
        problem_free(&p);
    }
    check_shapes(small, quick);
    bool clean = true;
    for (int s = 0; s < SPACES; s++)
        clean = clean && class_clean(s);
    tap(clean, "workspaces are in the end as they were");
    printf("# %.1f s\n", now_s() - start);
    return tap_end();
}

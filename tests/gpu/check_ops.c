/* Every op of the device but products, against the CPU backend; attention's independence of how a sequence is cut; memory; what is refused.
 *   check_ops PLUGIN [small] */
#include "tests/gpu/tap.h"
#include "tests/kernels/sample_problem.h"

static void memory(struct rig *r)
{
    struct backend *b = r->gpu;
    void *p;
    MUST(b->ops->alloc(b, 1000, &p, &err));
    unsigned char host[1000];
    int bad = 0;
    MUST(b->ops->download(b, host, p, sizeof host, &err));
    for (size_t i = 0; i < sizeof host; i++)
        bad += host[i] != 0;
    tap_ok(!bad && (uintptr_t)p % 64 == 0, "memory is zeroed and aligned");
    b->ops->free(b, p);
    int rc = b->ops->alloc(b, (size_t)1 << 50, &p, &err);
    tap_ok(rc == -ERR_NOMEM && !p && strstr(err.text, "has no memory for activations: 1125899906842624 bytes wanted, "), "out of memory: %s", err.text);
    struct kv_cache *kv;
    MUST(b->ops->kv_create(b, 1 << 20, 64, 128, 1 << 25, &kv, &err)); /* a page of 4.4 TB: wanted when a position is */
    struct attn_segment seg = {.kv = kv, .rows = 1, .pos = 130};
    struct attn_args a = {.heads = 64, .kv_heads = 64, .head_dim = 128, .segments = &seg, .segment_count = 1};
    rc = b->ops->attention(b, &a, &err);
    tap_ok(rc == -ERR_NOMEM && strstr(err.text, "has no memory for keys and values of positions 0 to 63 (1048576 layers, 64 heads of 128): 4398046511104 bytes wanted, "),
           "out of memory: %s", err.text);
    b->ops->kv_free(b, kv);
    MUST(b->ops->alloc(b, 64, &p, &err)); /* and the device goes on */
    rc = b->ops->upload(b, NULL, host, 4, &err); /* what the runtime refuses is no error of the op after it */
    tap_ok(rc == -ERR_DEVICE && !strncmp(err.text, "cuda:0: upload: ", 16), "an upload to nowhere: %s", err.text);
    MUST(b->ops->add(b, p, p, 16, &err));
    b->ops->free(b, p);
}

/* y of an op on both backends; n floats. close: 0 equal bits, else a bound on |d| / max(1, |ref|). */
static void compare(const char *what, const float *cpu, const float *gpu, size_t n, double close)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)cpu[i] - (double)gpu[i]) / fmax(1, fabs((double)cpu[i]));
        most = d <= most ? most : isnan(d) ? INFINITY : d;
    }
    if (close == 0)
        tap_ok(same(cpu, gpu, n), "%s: the bits of the CPU", what);
    else
        tap_ok(most <= close, "%s: off by %.2e, bound %.0e", what, most, close);
}

static void rmsnorm(struct rig *r)
{
    static const struct {
        int64_t M, K;
        int offset; /* floats by which x and y are off 16 bytes */
    } shapes[] = {{1, 1, 0}, {70, 16, 0}, {37, 80, 1}, {5, 333, 0}, {9, 1024, 1}, {3, 1028, 0}, {2, 4096, 0}, {3, 14336, 3}, {1, 5001, 0}};
    uint64_t seed = 1;
    double most = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int64_t M = shapes[i].M, K = shapes[i].K;
        size_t n = (size_t)(M * K + shapes[i].offset);
        float *x = rnd_floats(n, &seed), *w = rnd_floats((size_t)K, &seed), *y = malloc(n * sizeof *y);
        MUST(r->cpu->ops->rmsnorm(r->cpu, y, x + shapes[i].offset, w, M, K, 1e-6f, &err));
        float *dx = on_device(r->gpu, x, n), *dw = on_device(r->gpu, w, (size_t)K);
        MUST(r->gpu->ops->rmsnorm(r->gpu, dx + shapes[i].offset, dx + shapes[i].offset, dw, M, K, 1e-6f, &err)); /* in place */
        float *got = to_host(r->gpu, dx, n);
        for (size_t k = 0; k < (size_t)(M * K); k++) {
            double d = fabs((double)y[k] - (double)got[k + (size_t)shapes[i].offset]) / fmax(1e-3, fabs((double)y[k]));
            most = d <= most ? most : isnan(d) ? INFINITY : d;
        }
        r->gpu->ops->free(r->gpu, dx);
        r->gpu->ops->free(r->gpu, dw);
        free(x);
        free(w);
        free(y);
        free(got);
    }
    tap_ok(most <= BOUND_RMSNORM, "rmsnorm: relative %.2e, bound %.0e", most, BOUND_RMSNORM);
}

static void rope(struct rig *r)
{
    enum { M = 1100, HEADS = 3, D = 20, POSITIONS = 2000 };
    uint64_t seed = 2;
    size_t n = (size_t)M * HEADS * D;
    float *x = rnd_floats(n, &seed), *cos = rnd_floats(POSITIONS * D / 2, &seed), *sin = rnd_floats(POSITIONS * D / 2, &seed);
    int32_t *pos = malloc(M * sizeof *pos);
    for (int i = 0; i < M; i++)
        pos[i] = (int32_t)(rnd(&seed) % POSITIONS);
    float *dx = on_device(r->gpu, x, n), *dc = on_device(r->gpu, cos, POSITIONS * D / 2), *ds = on_device(r->gpu, sin, POSITIONS * D / 2);
    struct rope_args a = {.q = x, .k = x + M * 2 * D, .heads = 2, .kv_heads = HEADS - 2, .head_dim = D, .M = M, .cos = cos, .sin = sin, .pos = pos};
    MUST(r->cpu->ops->rope(r->cpu, &a, &err));
    a.q = dx, a.k = dx + M * 2 * D, a.cos = dc, a.sin = ds;
    MUST(r->gpu->ops->rope(r->gpu, &a, &err));
    float *got = to_host(r->gpu, dx, n);
    compare("rope", x, got, n, 0);
    a.head_dim = 3;
    tap_ok(r->gpu->ops->rope(r->gpu, &a, &err) == -ERR_SHAPE && !strcmp(err.text, "rotary embedding needs an even head size, not 3"), "rope of an odd head");
    float *all[] = {x, cos, sin, got};
    for (size_t i = 0; i < 4; i++)
        free(all[i]);
    free(pos);
    r->gpu->ops->free(r->gpu, dx);
    r->gpu->ops->free(r->gpu, dc);
    r->gpu->ops->free(r->gpu, ds);
}

static void elementwise(struct rig *r)
{
    uint64_t seed = 3;
    for (int offset = 0; offset < 2; offset++) {
        size_t M = 3, K = offset ? 1367 : 1364, n = M * K, all = n + (size_t)offset;
        float *a = rnd_floats(all, &seed), *b = rnd_floats(all, &seed), *y = malloc(all * sizeof *y);
        for (size_t i = 0; i < all; i++)
            a[i] *= i % 7 ? 8.0f : 120.0f; /* far out too: exp under- and overflows */
        float *da = on_device(r->gpu, a, all), *db = on_device(r->gpu, b, all);
        MUST(r->cpu->ops->silu_mul(r->cpu, y, a + offset, b + offset, (int64_t)M, (int64_t)K, &err));
        MUST(r->gpu->ops->silu_mul(r->gpu, db + offset, da + offset, db + offset, (int64_t)M, (int64_t)K, &err));
        float *got = to_host(r->gpu, db, all);
        compare("silu_mul", y, got + offset, n, BOUND_SILU);
        free(got);
        memcpy(y, b, all * sizeof *y);
        MUST(r->cpu->ops->add(r->cpu, y, a, (int64_t)all, &err));
        MUST(r->gpu->ops->upload(r->gpu, db, b, all * sizeof *b, &err));
        MUST(r->gpu->ops->add(r->gpu, db, da, (int64_t)all, &err));
        got = to_host(r->gpu, db, all);
        compare("add", y, got, all, 0);
        free(got);
        free(a);
        free(b);
        free(y);
        r->gpu->ops->free(r->gpu, da);
        r->gpu->ops->free(r->gpu, db);
    }
}

static void embed(struct rig *r)
{
    enum { V = 50, K = 77, M = 300 };
    static const enum dtype types[] = {DT_F32, DT_F16, DT_BF16};
    uint64_t seed = 4;
    int32_t ids[M];
    uint32_t table[V * K];
    float y[M * K];
    void *dy;
    MUST(r->gpu->ops->alloc(r->gpu, sizeof y, &dy, &err));
    for (int t = 0; t < 3; t++) {
        for (int i = 0; i < V * K; i++)
            table[i] = t == 0 ? f32_bits(rnd_f32(&seed)) : (uint32_t)f32_to_f16(rnd_f32(&seed)) << 16 | f32_to_f16(rnd_f32(&seed));
        struct tensor_view view = {.dtype = types[t], .rows = V, .cols = K, .data = table};
        for (int part = 0; part < 3; part++) { /* the second lands in the staging memory of the first */
            for (int i = 0; i < M; i++)
                ids[i] = (int32_t)(rnd(&seed) % V);
            MUST(r->gpu->ops->embed(r->gpu, dy, &view, ids, part == 1 ? M : 7, &err));
        }
        MUST(r->cpu->ops->embed(r->cpu, y, &view, ids, 7, &err));
        float *got = to_host(r->gpu, dy, sizeof y / sizeof *y);
        compare(dtype_name(types[t]), y, got, 7 * K, 0);
        free(got);
    }
    r->gpu->ops->free(r->gpu, dy);
}

/* Attention */

static const struct problem_heads all_heads[] = {{8, 4, 16, 0}, {8, 4, 8, 100}, {4, 2, 64, 0}, {32, 8, 128, 0}, {6, 2, 80, 70}, {3, 1, 22, 600}, {2, 1, 256, 0}, {14, 2, 64, 513}};
enum { SEQUENCES = 3 };

static void attention(struct rig *r, bool small)
{
    uint64_t seed = 5;
    for (size_t i = 0; i < sizeof all_heads / sizeof *all_heads; i++) {
        const struct problem_heads *h = &all_heads[i];
        if (small && h->heads * h->D > 1000)
            continue;
        const int64_t lengths[SEQUENCES] = {!small ? 1100 : h->D < 10 ? 600 : 90, 65, small ? 40 : 530};
        struct problem_sequence seq[SEQUENCES];
        float *want[SEQUENCES], *whole[SEQUENCES];
        double most = 0;
        int differ = 0;
        for (int s = 0; s < SEQUENCES; s++)
            seq[s] = problem_sequence(h, lengths[s], &seed);
        MUST(problem_attend(r->cpu, h, seq, SEQUENCES, CUT_WHOLE, want, &err));
        MUST(problem_attend(r->gpu, h, seq, SEQUENCES, CUT_WHOLE, whole, &err));
        for (int cuts = CUT_MIXED; cuts <= CUT_SMALL; cuts++) {
            float *y[SEQUENCES];
            MUST(problem_attend(r->gpu, h, seq, SEQUENCES, (enum problem_cuts)cuts, y, &err));
            for (int s = 0; s < SEQUENCES; s++) {
                differ += !same(whole[s], y[s], (size_t)(lengths[s] * h->heads * h->D));
                free(y[s]);
            }
        }
        for (int s = 0; s < SEQUENCES; s++) {
            for (size_t k = 0; k < (size_t)(lengths[s] * h->heads * h->D); k++) {
                double d = fabs((double)want[s][k] - (double)whole[s][k]);
                most = d <= most ? most : isnan(d) ? INFINITY : d;
            }
            free(want[s]);
            free(whole[s]);
            problem_sequence_free(&seq[s]);
        }
        tap_ok(most <= BOUND_ATTENTION, "attention %d/%d heads of %d, window %d: off by %.2e, bound %.0e", h->heads, h->kv_heads, h->D, (int)h->window, most, BOUND_ATTENTION);
        tap_ok(!differ, "attention %d/%d heads of %d: however the sequences are cut, the same bits", h->heads, h->kv_heads, h->D);
    }
}

/* Halves beside what rmsnorm, silu_mul and attention make */

static void count_splits(void *arg, const char *row, uint64_t calls)
{
    if (!strcmp(row, "split_cuda"))
        *(uint64_t *)arg = calls;
}

static uint64_t splits(struct backend *b)
{
    uint64_t n = 0;
    b->each_count(b, count_splits, &n);
    return n;
}

/* The product of x [M,K], which is on the device; *split: how many times x had to be split. */
static float *product(struct backend *b, const struct weight *w, int64_t N, const float *x, int64_t M, int64_t K, uint64_t *split)
{
    const uint64_t before = splits(b);
    void *y;
    MUST(b->ops->alloc(b, (size_t)(M * N) * sizeof(float), &y, &err)); /* the runtime's own memory: no op */
    MUST(b->ops->linear(b, y, N, x, K, M, w, NULL, false, &err));
    *split = splits(b) - before;
    float *got = to_host(b, y, (size_t)(M * N));
    b->ops->free(b, y);
    return got;
}

/* A matrix of 24 outputs by K inputs: bf16, which reads what lies behind K, or (bits 4) quantized. */
static struct weight *some_weight(struct backend *b, int64_t K, int bits, uint64_t *seed)
{
    enum { N = 24 };
    struct weight *w;
    if (!bits) {
        uint16_t *values = malloc((size_t)(N * K) * sizeof *values);
        for (int64_t i = 0; i < N * K; i++)
            values[i] = f32_to_bf16(rnd_f32(seed));
        const struct tensor_view t = {.dtype = DT_BF16, .rows = N, .cols = K, .data = values};
        MUST(b->ops->weight_dense(b, &t, &w, &err));
        free(values);
        return w;
    }
    struct qmatrix q;
    if (qmatrix_alloc(&q, N, K, bits, 32))
        abort();
    for (int64_t i = 0; i < N * K; i++)
        q.codes[i] = (uint8_t)(rnd(seed) % 16);
    for (int64_t i = 0; i < q.G * N; i++) {
        q.scales[i] = f32_to_f16(0.1f * rnd_f32(seed));
        q.zeros[i] = 8;
    }
    for (int64_t k = 0; k < K; k++)
        q.g_idx[k] = (int32_t)(k / 32);
    MUST(wfmt_weight(b, &q, &w, &err));
    qmatrix_free(&q);
    return w;
}

enum maker { NORM, NORM_IN_PLACE, SILU, ATTENTION, MAKERS };
static const char *const maker_names[] = {"rmsnorm", "rmsnorm in place", "silu_mul", "attention"};

/* y [M, heads * D] of M positions, in two segments: few rows, and many. */
static void make_attention(struct backend *b, float *y, const float *x, int64_t M, int64_t K)
{
    const int heads = 4, kv_heads = 2, D = (int)(K / heads);
    struct attn_segment seg[2] = {{.row = 0, .rows = M > 3 ? 3 : M}, {.row = 3, .rows = M - 3}};
    const size_t n = M > 3 ? 2 : 1;
    for (size_t i = 0; i < n; i++)
        MUST(b->ops->kv_create(b, 1, kv_heads, D, M, &seg[i].kv, &err));
    const struct attn_args a = {.q = x, .k = x, .v = x, .y = y, .heads = heads, .kv_heads = kv_heads, .head_dim = D, .scale = 0.3f, .segments = seg, .segment_count = n};
    MUST(b->ops->attention(b, &a, &err));
    for (size_t i = 0; i < n; i++)
        b->ops->kv_free(b, seg[i].kv);
}

static void make(struct backend *b, enum maker maker, float *y, const float *x, int64_t M, int64_t K)
{
    if (maker == NORM || maker == NORM_IN_PLACE)
        MUST(b->ops->rmsnorm(b, y, maker == NORM ? x : y, x, M, K, 1e-5f, &err));
    else if (maker == SILU)
        MUST(b->ops->silu_mul(b, y, x, y, M, K, &err));
    else
        make_attention(b, y, x, M, K);
}

/* Leaves NaN wherever halves are kept. */
static void spoil(struct backend *b, const struct weight *w, int64_t K, const float *nan, uint64_t *split)
{
    free(product(b, w, 24, nan, 16, K, split));
}

/* A product of what an op has made finds the halves, and has the bits it has of the same numbers from elsewhere. */
static void halves_found(struct rig *r)
{
    enum { SPOIL = 1024, SPOIL_ROWS = 16 };
    static const int64_t shapes[][2] = {{1, 128}, {2, 576}, {5, 172}, {1, 1536}, {40, 200}, {12, 1124}, {3, 2052}};
    struct backend *b = r->gpu;
    uint64_t seed = 9;
    float *host_nan = malloc(SPOIL_ROWS * SPOIL * sizeof *host_nan);
    for (int i = 0; i < SPOIL_ROWS * SPOIL; i++)
        host_nan[i] = NAN;
    float *nan = on_device(b, host_nan, SPOIL_ROWS * SPOIL);
    struct weight *spoiler = some_weight(b, SPOIL, 0, &seed);
    for (int maker = 0; maker < MAKERS; maker++) {
        int differ = 0, again = 0, unsplit = 0;
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            for (int bits = 0; bits <= 4; bits += 4) {
                const int64_t M = shapes[i][0], K = shapes[i][1];
                const size_t n = (size_t)(M * K);
                if (maker == ATTENTION && K > 1024)
                    continue;
                float *host = rnd_floats(n, &seed), *x = on_device(b, host, n), *y = on_device(b, host, n), *copy = on_device(b, host, n);
                struct weight *w = some_weight(b, K, bits, &seed);
                uint64_t found, split;
                spoil(b, spoiler, SPOIL, nan, &split);
                make(b, (enum maker)maker, y, x, M, K);
                void *out;
                const uint64_t before = splits(b);
                MUST(b->ops->alloc(b, (size_t)(M * 24) * sizeof(float), &out, &err));
                MUST(b->ops->linear(b, out, 24, y, K, M, w, NULL, false, &err));
                found = splits(b) - before;
                float *want, *got = to_host(b, out, (size_t)(M * 24)), *made = to_host(b, y, n);
                MUST(b->ops->upload(b, copy, made, n * sizeof *made, &err));
                want = product(b, w, 24, copy, M, K, &split);
                differ += !same(want, got, (size_t)(M * 24));
                again += found != 0;
                unsplit += split != 1;
                b->ops->weight_free(b, w);
                float *mine[] = {x, y, copy, out};
                for (int k = 0; k < 4; k++)
                    b->ops->free(b, mine[k]);
                float *all[] = {host, want, got, made};
                for (int k = 0; k < 4; k++)
                    free(all[k]);
            }
        tap_ok(!differ && !again && !unsplit, "%s: %d products differ, %d split its output again, %d did not split other numbers", maker_names[maker], differ, again, unsplit);
    }
    b->ops->weight_free(b, spoiler);
    b->ops->free(b, nan);
    free(host_nan);
}

/* What is written after it was made is split anew. */
static void halves_forgotten(struct rig *r)
{
    enum { M = 3, K = 128, N = 24 };
    static const char *const names[] = {"add", "upload", "a product", "rope", "another matrix's norm", "attention over a part of the rows", "free"};
    struct backend *b = r->gpu;
    uint64_t seed = 10, split;
    float *host = rnd_floats(M * K, &seed), *x = on_device(b, host, M * K), *y = on_device(b, host, M * K), *z = on_device(b, host, M * K), *copy = on_device(b, host, M * K);
    struct weight *w = some_weight(b, K, 0, &seed), *wide = some_weight(b, K, 4, &seed);
    struct kv_cache *kv;
    MUST(b->ops->kv_create(b, 1, 2, K / 4, 8, &kv, &err));
    for (int how = 0; how < 7; how++) {
        MUST(b->ops->rmsnorm(b, y, x, x, M, K, 1e-5f, &err));
        struct attn_segment seg = {.kv = kv, .row = 1, .rows = 2};
        const struct attn_args a = {.q = x, .k = x, .v = x, .y = y, .heads = 4, .kv_heads = 2, .head_dim = K / 4, .scale = 0.3f, .segments = &seg, .segment_count = 1};
        const struct rope_args rope = {.q = y, .k = z, .heads = 1, .kv_heads = 1, .head_dim = K, .M = M, .cos = x, .sin = x, .pos = (const int32_t[]){0, 1, 0}};
        switch (how) {
        case 0: MUST(b->ops->add(b, y, x, M * K, &err)); break;
        case 1: MUST(b->ops->upload(b, y, host, M * K * sizeof *host, &err)); break;
        case 2: MUST(b->ops->linear(b, y, K, y, K, M, wide, NULL, false, &err)); break; /* reads the halves of what it writes over */
        case 3: MUST(b->ops->rope(b, &rope, &err)); break;
        case 4: MUST(b->ops->rmsnorm(b, z, y, x, M, K, 1e-5f, &err)); break;
        case 5: MUST(b->ops->attention(b, &a, &err)); break;
        default:
            b->ops->free(b, y);
            y = on_device(b, host, M * K);
        }
        float *got = product(b, w, N, y, M, K, &split), *now = to_host(b, y, M * K);
        MUST(b->ops->upload(b, copy, now, M * K * sizeof *now, &err));
        uint64_t other;
        float *want = product(b, w, N, copy, M, K, &other);
        tap_ok(split == 1 && same(got, want, M * N), "after %s: split again, the right numbers", names[how]);
        free(got);
        free(now);
        free(want);
    }
    b->ops->kv_free(b, kv);
    b->ops->weight_free(b, w);
    b->ops->weight_free(b, wide);
    float *mine[] = {x, y, z, copy};
    for (int k = 0; k < 4; k++)
        b->ops->free(b, mine[k]);
    free(host);
}

/* nll and kl */
static void logits(struct rig *r)
{
    static const int64_t sizes[] = {1, 17, 1024, 5003, 32003};
    enum { M = 6 };
    uint64_t seed = 6;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t V = sizes[i];
        size_t n = (size_t)(M * V);
        float *a = rnd_floats(n, &seed), *b = rnd_floats(n, &seed);
        int32_t targets[M], top[2][M];
        double nll[2][M], worst = 0;
        struct kl_row kl[2][M];
        for (size_t k = 0; k < n; k++) {
            a[k] = floorf(a[k] * 40) * 0.5f; /* ties */
            b[k] = a[k] + 0.3f * b[k];
        }
        memcpy(b + V, a + V, (size_t)V * sizeof *a); /* an equal row: KL 0 */
        for (int m = 0; m < M; m++)
            targets[m] = (int32_t)(rnd(&seed) % (uint64_t)V);
        float *da = on_device(r->gpu, a, n), *db = on_device(r->gpu, b, n);
        MUST(r->cpu->ops->nll(r->cpu, a, M, V, targets, nll[0], top[0], &err));
        MUST(r->gpu->ops->nll(r->gpu, da, M, V, targets, nll[1], top[1], &err));
        MUST(r->cpu->ops->kl(r->cpu, a, b, M, V, targets, kl[0], &err));
        MUST(r->gpu->ops->kl(r->gpu, da, db, M, V, targets, kl[1], &err));
        bool tops = true;
        for (int m = 0; m < M; m++) {
            double d[] = {nll[0][m] - nll[1][m], kl[0][m].nll - kl[1][m].nll, kl[0][m].nll_ref - kl[1][m].nll_ref, kl[0][m].kl - kl[1][m].kl};
            for (int k = 0; k < 4; k++)
                worst = fabs(d[k]) <= worst ? worst : isnan(d[k]) ? INFINITY : fabs(d[k]);
            tops &= top[0][m] == top[1][m] && kl[0][m].same_top1 == kl[1][m].same_top1;
        }
        tap_ok(worst <= BOUND_LOGITS && tops && kl[1][1].kl == 0, "nll and kl over %d: off by %.2e, bound %.0e; top-1 alike; equal rows 0", (int)V, worst, BOUND_LOGITS);
        r->gpu->ops->free(r->gpu, da);
        r->gpu->ops->free(r->gpu, db);
        free(a);
        free(b);
    }
    float nan_row[3] = {NAN, NAN, NAN}, *d = on_device(r->gpu, nan_row, 3);
    int32_t target = 1, top = -1;
    double nll = 0;
    MUST(r->gpu->ops->nll(r->gpu, d, 1, 3, &target, &nll, &top, &err));
    tap_ok(isnan(nll) && top == 0, "a row of NaN");
    r->gpu->ops->free(r->gpu, d);
}

/* sample */

static void sampled(struct rig *r, const float *l, int64_t M, int64_t V, const struct sample_row *rows, int32_t *ids)
{
    float *d = on_device(r->gpu, l, (size_t)(M * V));
    MUST(r->gpu->ops->sample(r->gpu, d, M, V, rows, ids, &err));
    r->gpu->ops->free(r->gpu, d);
}

/* The ids of the definition wherever no decision hangs on a rounding; all together, a row at a time and in another order the same. */
static void sample_ids(struct rig *r, int64_t V, int64_t M)
{
    uint64_t seed = 7 + (uint64_t)V;
    float *l = malloc((size_t)(M * V) * sizeof *l), *back = malloc((size_t)(M * V) * sizeof *back);
    struct sample_row *rows = malloc((size_t)M * sizeof *rows), *back_rows = malloc((size_t)M * sizeof *rows);
    int32_t *ids = malloc((size_t)M * sizeof *ids), *back_ids = malloc((size_t)M * sizeof *ids), one;
    int sure = 0, wrong = 0, moved = 0;
    for (int64_t m = 0; m < M; m++) {
        int kind = (int)(m % SAMPLE_KINDS);
        sample_logits(l + m * V, V, kind, &seed);
        rows[m] = sample_settings(false, &seed);
        if (kind == 9 && V > 1) { /* draws from the tail, where all of it is one bin */
            double tail = (double)(V - 1) * exp(-17);
            rows[m] = (struct sample_row){1, 1, (1 + sample_uniform(&seed) * tail) / (1 + tail)};
        }
        memcpy(back + (M - 1 - m) * V, l + m * V, (size_t)V * sizeof *l);
        back_rows[M - 1 - m] = rows[m];
    }
    sampled(r, l, M, V, rows, ids);
    sampled(r, back, M, V, back_rows, back_ids);
    for (int64_t m = 0; m < M; m++) {
        struct sample_answer a = sample_answer(l + m * V, V, &rows[m]);
        free(a.masses);
        sure += a.sure;
        if (a.sure && ids[m] != a.id && wrong++ < 5)
            printf("# kind %d, temperature %g, top_p %g, u %.17g: %d, not %d\n", (int)(m % SAMPLE_KINDS), rows[m].temperature, rows[m].top_p, rows[m].u, ids[m], a.id);
        if (m % 8 == 0)
            sampled(r, l + m * V, 1, V, &rows[m], &one);
        moved += ids[m] != back_ids[M - 1 - m] || (m % 8 == 0 && one != ids[m]) || ids[m] < 0 || ids[m] >= V;
    }
    tap_ok(!wrong && 100 * sure >= (V < 20000 ? 95 : 80) * M, "sample from %d: %d of %d rows are sure, %d of them differ", (int)V, sure, (int)M, wrong);
    tap_ok(!moved, "sample from %d: alone and elsewhere the same", (int)V);
    free(l);
    free(back);
    free(rows);
    free(back_rows);
    free(ids);
    free(back_ids);
}

static int32_t answer(const float *l, int64_t V, const struct sample_row *row)
{
    struct sample_answer a = sample_answer(l, V, row);
    free(a.masses);
    return a.id;
}

/* Where no rounding is in the way: nothing to choose, shares that are powers of two, equal tokens, no number at all. */
static void sample_exact(struct rig *r)
{
    enum { V = 700, N = 128 };
    static float l[N * V];
    struct sample_row rows[N];
    int32_t ids[N];
    int wrong = 0;
    uint64_t seed = 8;
    for (int m = 0; m < N; m++) { /* with nothing to choose: greedy, and what little or no top_p leaves */
        sample_logits(l + m * V, V, m % SAMPLE_KINDS, &seed);
        rows[m] = (struct sample_row){m % 4 ? 0.8 : m % 8 ? 0 : (double)NAN, m % 4 == 1 ? 0 : m % 4 == 2 ? -1 : 1e-9, m % 2 ? 1 - 0x1p-53 : 0.3};
    }
    sampled(r, l, N, V, rows, ids);
    for (int m = 0; m < N; m++) {
        struct sample_row greedy = {0, 1, 0};
        wrong += ids[m] != answer(l + m * V, V, &greedy);
    }
    tap_ok(!wrong, "greedy, and top_p that leaves one: %d differ", wrong);
    for (int i = 0; i < V; i++) /* eighteen tokens of one half, one quarter, ... */
        l[i] = i % 40 ? -INFINITY : (float)(-log(2) * i / 40);
    for (int m = 0; m < N; m++) {
        memcpy(l + m * V, l, m ? V * sizeof *l : 0);
        rows[m] = (struct sample_row){1, 1, (m + 0.5) / N};
    }
    sampled(r, l, N, V, rows, ids);
    wrong = 0;
    for (int m = 0; m < N; m++)
        wrong += ids[m] != 40 * (int)floor(-log2(1 - (m + 0.5) / N * (1 - 0x1p-18)));
    tap_ok(!wrong, "u at %d places: each token as often as its share says, %d differ", N, wrong);
    static const struct sample_row exact[] = {{1, 0.5, 1 - 0x1p-53}, {1, 0.5 + 0x1p-53, 1 - 0x1p-53}, {1, 0.125, 1 - 0x1p-53}, {1, 1 - 0x1p-53, 1 - 0x1p-53}, {1, 1, 0.5}, {1, 1, 0.5 - 0x1p-54}, {1, 0.5, 0.25}};
    enum { EXACT = sizeof exact / sizeof *exact };
    for (int i = 0; i < 8 * EXACT; i++)
        l[i] = 1;
    sampled(r, l, EXACT, 8, exact, ids);
    wrong = 0;
    for (int m = 0; m < EXACT; m++)
        wrong += ids[m] != answer(l, 8, &exact[m]);
    tap_ok(!wrong, "eight equal tokens, top_p and u at the steps between them: %d differ", wrong);
    for (int i = 0; i < V; i++)
        l[i] = NAN;
    sampled(r, l, 1, V, rows, ids);
    sampled(r, l, 1, V, &(struct sample_row){0, 1, 0}, ids + 1);
    tap_ok(ids[0] == 0 && ids[1] == 0, "a row of NaN");
    tap_ok(r->gpu->ops->sample(r->gpu, l, 1, (1 << 21) + 1, rows, ids, &err) == -ERR_UNSUPPORTED &&
               !strcmp(err.text, "sample: rows of 2097153 logits: the CUDA kernel serves up to 2097152"),
           "%s", err.text);
}

static void sample(struct rig *r, bool small)
{
    static const int64_t sizes[] = {1, 2, 37, 1024, 1025, 5003, 32003, 128256};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (!small || sizes[i] < 30000)
            sample_ids(r, sizes[i], 77); /* more than one launch takes */
    sample_exact(r);
}

static void count_calls(void *arg, const char *row, uint64_t calls)
{
    (void)row;
    *(uint64_t *)arg += calls;
}

static void refused(struct rig *r)
{
    struct backend *b = r->gpu;
    static const char text[] = " runs on the CPU in this version: the CUDA plug-in serves run, eval and validate";
    double h[1];
    float u[1];
    int64_t bad;
    struct kv_cache *kv;
    tap_ok(b->ops->factor(b, h, u, 1, &bad, &err) == -ERR_UNSUPPORTED && !strcmp(err.text + strlen("factor"), text), "what only quantize uses: %s", err.text);
    tap_ok(b->ops->hessian(b, h, u, 1, 1, 1, 0, &err) == -ERR_UNSUPPORTED && b->ops->gptq(b, NULL, &err) == -ERR_UNSUPPORTED &&
               b->ops->cross(b, h, u, 1, 1, u, 1, 1, 1, 0, &err) == -ERR_UNSUPPORTED && b->ops->refine(b, NULL, &err) == -ERR_UNSUPPORTED &&
               b->ops->fit(b, u, 1, 1, 1, NULL, NULL, NULL, &err) == -ERR_UNSUPPORTED && b->ops->quad_form(b, u, h, 1, 1, h, &err) == -ERR_UNSUPPORTED &&
               b->ops->silu_back(b, u, u, 1, &err) == -ERR_UNSUPPORTED && b->ops->mix(b, u, 1, u, 1, 1, &err) == -ERR_UNSUPPORTED && b->ops->rmsnorm_back(b, u, u, u, 1, 1, 0, &err) == -ERR_UNSUPPORTED &&
               b->ops->attention_back(b, NULL, &err) == -ERR_UNSUPPORTED,
           "and the others");
    tap_ok(b->ops->kv_create(b, 1, 1, 512, 10, &kv, &err) == -ERR_UNSUPPORTED && !strcmp(err.text, "heads of 512: the CUDA attention serves up to 256"), "large heads");
    MUST(b->ops->kv_create(b, 1, 2, 8, 10, &kv, &err));
    struct attn_segment seg = {.kv = kv, .rows = 11};
    struct attn_args a = {.heads = 4, .kv_heads = 2, .head_dim = 8, .segments = &seg, .segment_count = 1};
    tap_ok(b->ops->attention(b, &a, &err) == -ERR_SHAPE && !strcmp(err.text, "positions 0 to 11 do not fit a KV cache of 10"), "a full cache");
    a.heads = 3;
    tap_ok(b->ops->attention(b, &a, &err) == -ERR_SHAPE, "heads that do not divide");
    b->ops->kv_free(b, kv);
    uint64_t calls = 0;
    b->each_count(b, count_calls, &calls);
    tap_ok(calls > 50, "%d calls were counted", (int)calls);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: check_ops PLUGIN [small]\n");
        return 64;
    }
    struct rig r = rig_open(argv[1], "auto");
    memory(&r);
    rmsnorm(&r);
    rope(&r);
    elementwise(&r);
    embed(&r);
    attention(&r, argc > 2 && !strcmp(argv[2], "small"));
    halves_found(&r);
    halves_forgotten(&r);
    logits(&r);
    sample(&r, argc > 2 && !strcmp(argv[2], "small"));
    refused(&r);
    rig_close(&r);
    return tap_done();
}

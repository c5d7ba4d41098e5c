/* Every op of the device but products, against the CPU backend; attention's independence of how a sequence is cut; memory; what is refused.
 *   check_ops PLUGIN [small] */
#include "tests/gpu/tap.h"

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
    MUST(r->cpu->ops->rope(r->cpu, x, M, HEADS, D, cos, sin, pos, &err));
    MUST(r->gpu->ops->rope(r->gpu, dx, M, HEADS, D, dc, ds, pos, &err));
    float *got = to_host(r->gpu, dx, n);
    compare("rope", x, got, n, 0);
    tap_ok(r->gpu->ops->rope(r->gpu, dx, 1, 1, 3, dc, ds, pos, &err) == -ERR_SHAPE, "rope of an odd head");
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
        size_t n = 4099, all = n + (size_t)offset;
        float *a = rnd_floats(all, &seed), *b = rnd_floats(all, &seed), *y = malloc(all * sizeof *y);
        for (size_t i = 0; i < all; i++)
            a[i] *= i % 7 ? 8.0f : 120.0f; /* far out too: exp under- and overflows */
        float *da = on_device(r->gpu, a, all), *db = on_device(r->gpu, b, all);
        MUST(r->cpu->ops->silu_mul(r->cpu, y, a + offset, b + offset, (int64_t)n, &err));
        MUST(r->gpu->ops->silu_mul(r->gpu, db + offset, da + offset, db + offset, (int64_t)n, &err));
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
    logits(&r);
    refused(&r);
    rig_close(&r);
    return tap_done();
}

/* Products on the device: every format in every class of kernels against f64, rows that do not depend on their company, repeats, what is refused.
 *   check_linear PLUGIN [small | full | repeat | queue] [CLASS]     full: shapes of large layers too; repeat: 100 repeats of one product of each format; queue: only the products
 * behind each other, in small cases; CLASS: simple, marlin or machete alone */
#include "tests/gpu/tap.h"

/* What is under test: a class, pinned, and the kinds it serves. */
static const struct under_test {
    const char *name;
    enum problem_kind kinds[KINDS];
    int count;
} classes[] = {{"simple", {KIND_F32, KIND_F16, KIND_BF16, KIND_W2, KIND_W3, KIND_W4, KIND_W8}, 7}, {"marlin", {KIND_W4, KIND_W8}, 2}, {"machete", {KIND_W4, KIND_W8}, 2}};

static struct weight *weight_of(struct backend *b, const struct problem_matrix *m)
{
    struct weight *w;
    MUST(problem_weight(b, m, &w, &err));
    return w;
}

static float *solve(struct backend *b, const struct weight *w, const struct problem_matrix *m, const struct problem *p, int64_t from, int64_t rows)
{
    float *y;
    MUST(problem_solve(b, w, m, p, from, rows, &y, &err));
    return y;
}

/* Groups of 96 are for simple alone: marlin and machete get 128 there. */
static void against_exact(struct rig *r, const struct under_test *u, bool small)
{
    const bool packed = strcmp(u->name, "simple") != 0;
    const struct problem_shape shapes[] = {{16, 64, 32, false, false},    {64, 128, 128, false, false}, {33, 172, 32, false, false}, {128, 384, 128, false, false},
                                           {48, 300, packed ? 128 : 96, false, false}, {130, 256, -1, false, false}, {72, 320, 64, true, false}, {600, 160, 32, true, false},
                                           {1, 1, -1, false, false},      {40, 2304, 128, false, false}};
    static const int64_t rows[] = {1, 2, 4, 5, 7, 8, 9, 15, 16, 17, 32, 33, 64, 65, 128, 257};
    uint64_t seed = 1;
    for (int i_kind = 0; i_kind < u->count; i_kind++) {
        enum problem_kind kind = u->kinds[i_kind];
        double most = 0;
        char where[80] = "";
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            struct problem_matrix m = problem_matrix(kind, &shapes[i], &seed);
            struct weight *w = weight_of(r->gpu, &m);
            for (size_t j = 0; j < sizeof rows / sizeof *rows; j++) {
                if (small && ((i + j + (size_t)kind) % 5 || rows[j] > 65))
                    continue;
                struct problem p = problem_new(&m, rows[j], (int)(j % 3), &seed);
                float *y = solve(r->gpu, w, &m, &p, 0, p.M);
                double error = problem_worst(&m, &p, y, NULL);
                if (!(error <= most)) {
                    most = error;
                    snprintf(where, sizeof where, "M %d, N %d, K %d", (int)p.M, (int)m.N, (int)m.K);
                }
                free(y);
                problem_free(&p);
            }
            r->gpu->ops->weight_free(r->gpu, w);
            problem_matrix_free(&m);
        }
        tap_ok(most <= 1, "%s %s against f64: %.3f of the bound (%s)", u->name, problem_kind_names[kind], most, where);
    }
}

/* F32 weights give the CPU class's bits. */
static void f32_bits_of_cpu(struct rig *r)
{
    static const struct problem_shape s = {45, 333, -1, false, false};
    uint64_t seed = 2;
    struct problem_matrix m = problem_matrix(KIND_F32, &s, &seed);
    struct weight *g = weight_of(r->gpu, &m), *c = weight_of(r->cpu, &m);
    struct problem p = problem_new(&m, 37, 2, &seed);
    float *a = solve(r->gpu, g, &m, &p, 0, p.M), *b = solve(r->cpu, c, &m, &p, 0, p.M);
    tap_ok(same(a, b, (size_t)(p.M * p.ldy)), "f32: the bits of the CPU");
    free(a);
    free(b);
    problem_free(&p);
    r->gpu->ops->weight_free(r->gpu, g);
    r->cpu->ops->weight_free(r->cpu, c);
    problem_matrix_free(&m);
}

/* A row alone, among few and among all: the same bits, whichever kernel serves. */
static bool same_in_company(struct rig *r, enum problem_kind kind, const struct problem_shape *s, uint64_t *seed)
{
    static const int64_t sizes[] = {1, 3, 4, 8, 11, 16, 17, 32, 40, 64, 75};
    struct problem_matrix m = problem_matrix(kind, s, seed);
    struct weight *w = weight_of(r->gpu, &m);
    struct problem p = problem_new(&m, 75, 1, seed);
    float *all = solve(r->gpu, w, &m, &p, 0, p.M);
    int differ = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t from = p.M - sizes[i] < 5 ? p.M - sizes[i] : 5;
        float *some = solve(r->gpu, w, &m, &p, from, sizes[i]);
        differ += !same(some, all + from * p.ldy, (size_t)(sizes[i] * p.ldy));
        free(some);
    }
    free(all);
    problem_free(&p);
    r->gpu->ops->weight_free(r->gpu, w);
    problem_matrix_free(&m);
    return !differ;
}

static void company(struct rig *r, const struct under_test *u, bool small)
{
    const struct problem_shape groups = {small ? 40 : 80, small ? 700 : 1200, 64, true, false}, one_group = {small ? 16 : 80, 1300, -1, false, false},
                               wide = {1100, 600, 128, false, false};
    uint64_t seed = 3;
    for (int i = 0; i < u->count; i++) {
        enum problem_kind kind = u->kinds[i];
        tap_ok(same_in_company(r, kind, &groups, &seed) && same_in_company(r, kind, &one_group, &seed) && (small || same_in_company(r, kind, &wide, &seed)),
               "%s %s: a row's bits do not depend on the batch", u->name, problem_kind_names[kind]);
    }
}

static void repeats(struct rig *r, const struct under_test *u, int times, int64_t N, int64_t K)
{
    static const int64_t rows[] = {1, 9, 70};
    const struct problem_shape s = {N, K, 128, false, false};
    uint64_t seed = 4;
    for (int i_kind = 0; i_kind < u->count; i_kind++) {
        enum problem_kind kind = u->kinds[i_kind];
        struct problem_matrix m = problem_matrix(kind, &s, &seed);
        struct weight *w = weight_of(r->gpu, &m);
        int differ = 0;
        for (int j = 0; j < 3; j++) {
            struct problem p = problem_new(&m, rows[j], 0, &seed);
            p.accumulate = false;
            size_t n = (size_t)(p.M * p.ldy);
            float *first = solve(r->gpu, w, &m, &p, 0, p.M), *x = on_device(r->gpu, p.x, (size_t)(p.M * p.ldx)), *y = on_device(r->gpu, p.y0, n),
                  *bias = on_device(r->gpu, p.bias, (size_t)m.N);
            for (int i = 0; i < times; i++) {
                MUST(r->gpu->ops->upload(r->gpu, y, p.y0, n * sizeof *y, &err));
                MUST(r->gpu->ops->linear(r->gpu, y, p.ldy, x, p.ldx, p.M, w, p.add_bias ? bias : NULL, false, &err));
                float *again = to_host(r->gpu, y, n);
                differ += !same(again, first, n);
                free(again);
            }
            free(first);
            r->gpu->ops->free(r->gpu, x);
            r->gpu->ops->free(r->gpu, y);
            r->gpu->ops->free(r->gpu, bias);
            problem_free(&p);
        }
        tap_ok(!differ, "%s %s %dx%d: %d repeats, equal to the bit", u->name, problem_kind_names[kind], (int)N, (int)K, times);
        r->gpu->ops->weight_free(r->gpu, w);
        problem_matrix_free(&m);
    }
}

/* Products of many shapes and all kinds, one behind the other, against each by itself. */
struct queued {
    struct weight *w;
    float *x, *y;     /* device; products of one M and K share x, so that no split lies between their launches */
    int64_t M, N, K;
    float *alone;     /* host */
};

static void enqueue(struct rig *r, const struct queued *q)
{
    MUST(r->gpu->ops->linear(r->gpu, q->y, q->N, q->x, q->K, q->M, q->w, NULL, false, &err));
}

/* Fills q with all kinds and all N for each K and M; returns how many. */
static int queue_make(struct rig *r, const struct under_test *u, bool small, struct queued *q)
{
    static const struct {
        int64_t K, N[4];
    } shapes[] = {{640, {33, 96, 300, 17}}, {1600, {72, 24, 130, 600}}, {4096, {64, 4096, 1024, 130}}, {14336, {96, 640, 40, 4096}}};
    static const int64_t rows[] = {1, 6, 33, 129};
    uint64_t seed = 9;
    int n = 0;
    for (size_t i = 0; i < (small ? 2 : sizeof shapes / sizeof *shapes); i++)
        for (int j = 0; j < 4 * u->count; j++) {
            struct problem_matrix m = problem_matrix(u->kinds[j % u->count], &(struct problem_shape){shapes[i].N[j / u->count], shapes[i].K, 128, false, false}, &seed);
            struct weight *w = weight_of(r->gpu, &m);
            for (int k = 0; k < (small ? 2 : 4); k++)
                q[n++] = (struct queued){.w = w, .M = rows[k], .N = m.N, .K = m.K};
            problem_matrix_free(&m);
        }
    for (int i = 0; i < n; i++) {
        const size_t count = (size_t)(q[i].M * q[i].N);
        for (int j = 0; j < i && !q[i].x; j++)
            q[i].x = q[j].K == q[i].K && q[j].M == q[i].M ? q[j].x : NULL;
        float *x = rnd_floats((size_t)(q[i].M * q[i].K), &seed), *y = calloc(count, sizeof *y);
        q[i].x = q[i].x ? q[i].x : on_device(r->gpu, x, (size_t)(q[i].M * q[i].K));
        q[i].y = on_device(r->gpu, y, count);
        free(x);
        free(y);
        enqueue(r, &q[i]);
        q[i].alone = to_host(r->gpu, q[i].y, count);
    }
    return n;
}

static void queue_free(struct rig *r, struct queued *q, int n)
{
    for (int i = 0; i < n; i++) {
        bool last = true, last_x = true;
        for (int j = i + 1; j < n; j++) {
            last = last && q[j].w != q[i].w;
            last_x = last_x && q[j].x != q[i].x;
        }
        if (last)
            r->gpu->ops->weight_free(r->gpu, q[i].w);
        if (last_x)
            r->gpu->ops->free(r->gpu, q[i].x);
        r->gpu->ops->free(r->gpu, q[i].y);
        free(q[i].alone);
    }
}

/* Each product by itself, then all without a synchronization between them, in three orders: as they were made, by M and K (what shares x lies together), scattered. */
static void queued(struct rig *r, const struct under_test *u, bool small)
{
    enum { MOST = 4 * 4 * KINDS * 4 };
    static struct queued q[MOST];
    static int order[3][MOST];
    uint64_t seed = 10;
    memset(q, 0, sizeof q);
    const int n = queue_make(r, u, small, q);
    int differ = 0, sorted = 0;
    for (int i = 0; i < n; i++) {
        order[0][i] = i;
        const int at = (int)(rnd(&seed) % (uint64_t)(i + 1));
        order[2][i] = order[2][at];
        order[2][at] = i;
        for (int j = i; j < n; j++) {
            bool seen = false;
            for (int k = 0; k < sorted && !seen; k++)
                seen = order[1][k] == j;
            if (!seen && q[j].x == q[i].x)
                order[1][sorted++] = j;
        }
    }
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < n; i++) {
            float *nothing = calloc((size_t)(q[i].M * q[i].N), sizeof *nothing);
            MUST(r->gpu->ops->upload(r->gpu, q[i].y, nothing, (size_t)(q[i].M * q[i].N) * sizeof *nothing, &err));
            free(nothing);
        }
        for (int i = 0; i < n; i++)
            enqueue(r, &q[order[round][i]]);
        for (int i = 0; i < n; i++) {
            float *y = to_host(r->gpu, q[i].y, (size_t)(q[i].M * q[i].N));
            differ += !same(y, q[i].alone, (size_t)(q[i].M * q[i].N));
            free(y);
        }
    }
    tap_ok(!differ && n > 0 && sorted == n, "%s: %d products behind each other, in 3 orders: %d differ from each by itself", u->name, n, differ);
    queue_free(r, q, n);
}

/* Large layers against the CPU backend (f32): ||d|| / ||ref|| <= 2^-15, f64 sums would take minutes. */
static void large(struct rig *r, const struct under_test *u)
{
    static const struct problem_shape shapes[] = {{4096, 4096, 128, false, false}, {4096, 14336, 128, false, false}, {28672, 4096, 128, false, false},
                                                  {576, 7168, 32, false, false}, {1000, 16640, 64, true, false}};
    static const int64_t rows[] = {1, 16, 130};
    uint64_t seed = 5;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int i_kind = 0; i_kind < u->count; i_kind++) {
            enum problem_kind kind = u->kinds[i_kind];
            if (kind < KIND_BF16 || kind == KIND_W2 || kind == KIND_W3 || (kind != KIND_W4 && i == 2))
                continue;
            struct problem_matrix m = problem_matrix(kind, &shapes[i], &seed);
            struct weight *g = weight_of(r->gpu, &m), *c = weight_of(r->cpu, &m);
            double most = 0;
            for (int j = 0; j < 3; j++) {
                struct problem p = problem_new(&m, rows[j], 0, &seed);
                float *a = solve(r->gpu, g, &m, &p, 0, p.M), *b = solve(r->cpu, c, &m, &p, 0, p.M);
                double diff = 0, size = 0;
                for (int64_t k = 0; k < p.M * p.ldy; k++) {
                    diff += pow((double)a[k] - (double)b[k], 2);
                    size += pow((double)b[k], 2);
                }
                double error = sqrt(diff / size);
                most = error <= most ? most : isnan(error) ? INFINITY : error;
                free(a);
                free(b);
                problem_free(&p);
            }
            tap_ok(most <= 0x1p-15, "%s %s %dx%d group %d against the CPU: relative %.2e", u->name, problem_kind_names[kind], (int)m.N, (int)m.K, shapes[i].group, most);
            r->gpu->ops->weight_free(r->gpu, g);
            r->cpu->ops->weight_free(r->cpu, c);
            problem_matrix_free(&m);
        }
}

/* Matrices of one input */

struct set {
    int n;
    struct problem_matrix m[PROBLEM_PARTS_MAX];
    struct weight *w[PROBLEM_PARTS_MAX];
};

/* All with the groups of the first; own_order: but that two inputs of the last have changed places. */
static struct set set_new(struct backend *b, enum problem_kind kind, const int64_t *N, const struct problem_shape *s, bool own_order, uint64_t *seed)
{
    struct set set = {0};
    for (; set.n < PROBLEM_PARTS_MAX && N[set.n]; set.n++) {
        const struct problem_shape one = {N[set.n], s->K, s->group, s->order, false};
        struct problem_matrix *m = &set.m[set.n];
        *m = problem_matrix(kind, &one, seed);
        memcpy(m->q.g_idx, set.m[0].q.g_idx, (size_t)s->K * sizeof *m->q.g_idx);
        int64_t other = 1;
        while (own_order && m->q.g_idx[other] == m->q.g_idx[0])
            other++;
        if (own_order && set.n + 1 == PROBLEM_PARTS_MAX) {
            const int32_t was = m->q.g_idx[0];
            m->q.g_idx[0] = m->q.g_idx[other];
            m->q.g_idx[other] = was;
        }
        for (int64_t i = 0; s->group == 128 && i < m->q.G * m->N; i++)
            m->q.zeros[i] = 7; /* no table of them */
        problem_matrix_values(m);
        set.w[set.n] = weight_of(b, m);
    }
    return set;
}

static void set_free(struct backend *b, struct set *set)
{
    for (int i = 0; i < set->n; i++) { /* in another order than they came */
        b->ops->weight_free(b, set->w[(i + 1) % set->n]);
        problem_matrix_free(&set->m[i]);
    }
}

static void count_products(void *arg, const char *row, uint64_t calls)
{
    if (!strncmp(row, "linear_", 7))
        *(uint64_t *)arg += calls;
}

/* y of every part for rows from .. from + M - 1 of p[0].x, in host memory; *calls: how many products it took. */
static void solve_many(struct backend *b, const struct set *set, const struct problem *p, int64_t from, int64_t M, float **y, uint64_t *calls)
{
    uint64_t before = 0;
    *calls = 0;
    b->each_count(b, count_products, &before);
    MUST(problem_solve_many(b, set->w, set->m, p, set->n, from, M, y, &err));
    b->each_count(b, count_products, calls);
    *calls -= before;
}

struct joined_case {
    int64_t N[PROBLEM_PARTS_MAX];
    struct problem_shape shape; /* N is not looked at */
    bool own_order, joins;
};

/* What went wrong, or NULL. */
static const char *try_joined(struct backend *b, enum problem_kind kind, const struct joined_case *c, int64_t M, uint64_t *seed)
{
    struct set set = set_new(b, kind, c->N, &c->shape, c->own_order, seed);
    struct problem p[PROBLEM_PARTS_MAX];
    float *apart[PROBLEM_PARTS_MAX], *y[PROBLEM_PARTS_MAX], *one[PROBLEM_PARTS_MAX];
    uint64_t calls;
    const char *wrong = NULL;
    for (int i = 0; i < set.n; i++) {
        p[i] = problem_new(&set.m[i], M, 1 + i, seed);
        p[i].accumulate = false;
    }
    for (int i = 1; i < set.n; i++) { /* one X */
        free(p[i].x);
        p[i].x = p[0].x;
        p[i].ldx = p[0].ldx;
    }
    solve_many(b, &set, p, 0, M, apart, &calls);
    wrong = calls != (uint64_t)set.n ? "before they are joined, not a product each" : wrong;
    MUST(b->ops->weight_join(b, set.w, set.n, &err));
    solve_many(b, &set, p, 0, M, y, &calls);
    wrong = calls != (c->joins ? 1 : (uint64_t)set.n) ? "products counted" : wrong;
    for (int i = 0; i < set.n; i++) {
        wrong = !(problem_worst(&set.m[i], &p[i], y[i], NULL) <= 1) ? "far from f64" : wrong;
        wrong = !c->joins && !same(y[i], apart[i], (size_t)(M * p[i].ldy)) ? "not joined, other bits" : wrong;
        one[i] = solve(b, set.w[i], &set.m[i], &p[i], 0, M);
        wrong = !same(one[i], apart[i], (size_t)(M * p[i].ldy)) ? "a part by itself has other bits than before" : wrong;
        free(one[i]);
    }
    struct set turned = set; /* first and last in each other's place: not the whole, so a product each */
    struct problem turned_p[PROBLEM_PARTS_MAX];
    memcpy(turned_p, p, sizeof p);
    const int last = set.n - 1;
    turned.m[0] = set.m[last], turned.w[0] = set.w[last], turned_p[0] = p[last];
    turned.m[last] = set.m[0], turned.w[last] = set.w[0], turned_p[last] = p[0];
    solve_many(b, &turned, turned_p, 0, M, one, &calls);
    wrong = calls != (uint64_t)set.n || !same(one[0], apart[last], (size_t)(M * p[last].ldy)) ? "in another order, not a product each" : wrong;
    for (int i = 0; i < set.n; i++)
        free(one[i]);
    for (int64_t from = 0; from < M; from += 1 + M / 3) {
        solve_many(b, &set, p, from, 1, one, &calls);
        for (int i = 0; i < set.n; i++) {
            wrong = !same(one[i], y[i] + from * p[i].ldy, (size_t)p[i].ldy) ? "a row's bits depend on the batch" : wrong;
            free(one[i]);
        }
    }
    for (int i = 0; i < set.n; i++) {
        free(apart[i]);
        free(y[i]);
        p[i].x = i ? NULL : p[i].x;
        problem_free(&p[i]);
    }
    set_free(b, &set);
    return wrong;
}

static void joined(struct rig *r, const struct under_test *u, bool small)
{
    const int64_t c = !strcmp(u->name, "machete") ? 128 : 64;
    const bool joins = strcmp(u->name, "simple") != 0;
    const struct joined_case cases[] = {
        {{2 * c, c, c}, {0, 384, 128, false, false}, false, joins},
        {{c, 3 * c, 70}, {0, 700, 32, false, false}, false, joins},
        {{3 * c, 2 * c, 0}, {0, 300, -1, false, false}, false, joins},
        {{2 * c, c, c}, {0, 320, 64, true, false}, false, joins},  /* act-order, the same for all */
        {{2 * c, c, c}, {0, 320, 64, true, false}, true, false},   /* v has another */
        {{96, c, c}, {0, 256, 128, false, false}, false, false},   /* q is no whole number of strips */
    };
    static const int64_t rows[] = {1, 3, 8, 17, 40};
    uint64_t seed = 12;
    for (int i_kind = 0; i_kind < u->count; i_kind++) {
        const enum problem_kind kind = u->kinds[i_kind];
        for (size_t i = 0; kind >= KIND_W4 && i < sizeof cases / sizeof *cases; i++)
            for (int j = 0; j < 5; j++) {
                if (small && (i + (size_t)j + (size_t)kind) % 3)
                    continue;
                const char *wrong = try_joined(r->gpu, kind, &cases[i], rows[j], &seed);
                tap_ok(!wrong, "%s %s: %d, %d and %d outputs of one input, K %d, group %d%s, M %d: %s", u->name, problem_kind_names[kind], (int)cases[i].N[0], (int)cases[i].N[1],
                       (int)cases[i].N[2], (int)cases[i].shape.K, cases[i].shape.group, cases[i].shape.order ? " by order" : "", (int)rows[j],
                       wrong ? wrong : cases[i].joins ? "one product" : "a product each");
            }
    }
}

static void refused(struct rig *r)
{
    static const struct problem_shape s = {3, 40, 16, false, false};
    uint64_t seed = 6;
    struct problem_matrix m = problem_matrix(KIND_W4, &s, &seed);
    struct weight *w;
    struct backend *b = r->gpu, *pinned;
    struct parallel par = {.run = pool_run, .ctx = r->pool, .threads = 1};
    m.q.codes[45] = 16;
    tap_ok(wfmt_weight(b, &m.q, &w, &err) == -ERR_FORMAT && !strcmp(err.text, "code 16 at row 1, column 5 does not fit 4 bits"), "a code that does not fit");
    m.q.codes[45] = 15;
    m.q.g_idx[39] = 3;
    tap_ok(wfmt_weight(b, &m.q, &w, &err) == -ERR_FORMAT && !strcmp(err.text, "g_idx[39] is 3, but there are 3 groups"), "a group that is not there");
    m.q.g_idx[39] = 2;
    struct tensor_view t = {.dtype = DT_I32, .rows = 1, .cols = 1, .data = &seed};
    tap_ok(b->ops->weight_dense(b, &t, &w, &err) == -ERR_UNSUPPORTED, "integer weights");
    static const char *const pinned_to[][2] = {{"nosuch", "kernel 'nosuch' cannot serve 3 x 40 in 4 bits, group 16: it is not in this version"},
                                               {"marlin", "kernel 'marlin' cannot serve 3 x 40 in 4 bits, group 16: marlin takes groups of 32, 64, 128, ... inputs, or one group"}};
    for (int i = 0; i < 2; i++) {
        MUST(r->plugin->open(&(struct plugin_options){.device = 0, .kernel = pinned_to[i][0]}, &par, &pinned, &err));
        tap_ok(wfmt_weight(pinned, &m.q, &w, &err) == -ERR_UNSUPPORTED && !strcmp(err.text, pinned_to[i][1]), "a pinned kernel: %s", err.text);
        pinned->destroy(pinned);
    }
    problem_matrix_free(&m);
}

/* Auto: the class of each matrix and why it is not a faster one. */
static void chosen(struct rig *r)
{
    static const struct {
        enum problem_kind kind;
        struct problem_shape shape;
        const char *kernel, *why;
    } want[] = {{KIND_W4, {64, 128, 128, false, false}, "marlin", ""},
                {KIND_W4, {33, 300, 128, true, false}, "marlin", ""},
                {KIND_W8, {64, 96, -1, false, false}, "marlin", ""},
                {KIND_W4, {48, 300, 96, false, false}, "simple", "marlin takes groups of 32, 64, 128, ... inputs, or one group"},
                {KIND_W3, {64, 128, 128, false, false}, "simple", "marlin takes 4 and 8 bits"},
                {KIND_BF16, {8, 8, -1, false, false}, "dense", ""}};
    struct parallel par = {.run = pool_run, .ctx = r->pool, .threads = 1};
    struct backend *b;
    uint64_t seed = 7;
    MUST(r->plugin->open(&(struct plugin_options){.device = 0, .kernel = "auto"}, &par, &b, &err));
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct problem_matrix m = problem_matrix(want[i].kind, &want[i].shape, &seed);
        struct weight *w = weight_of(b, &m);
        const char *why, *kernel = b->ops->weight_kernel(b, w, &why);
        tap_ok(!strcmp(kernel, want[i].kernel) && !strcmp(why, want[i].why), "auto: %s %dx%d group %d: %s (%s)", problem_kind_names[want[i].kind], (int)m.N, (int)m.K,
               want[i].shape.group, kernel, why);
        b->ops->weight_free(b, w);
        problem_matrix_free(&m);
    }
    b->destroy(b);
}

/* A class that the device or the build does not have: it must say so, and that is all there is to test. */
static bool absent(struct rig *r, const struct under_test *u)
{
    static const struct problem_shape s = {64, 128, 128, false, false};
    uint64_t seed = 8;
    struct problem_matrix m = problem_matrix(KIND_W4, &s, &seed);
    struct weight *w;
    int rc = wfmt_weight(r->gpu, &m.q, &w, &err);
    if (!rc)
        r->gpu->ops->weight_free(r->gpu, w);
    else
        tap_ok(rc == -ERR_UNSUPPORTED && !strncmp(err.text, "kernel 'machete' cannot serve 64 x 128 in 4 bits, group 128: ", 61) &&
                   (strstr(err.text, ": kernel machete needs compute capability 9.0, the device has ") || strstr(err.text, ": the emulated device does not run kernel machete")),
               "%s is not there: %s", u->name, err.text);
    problem_matrix_free(&m);
    return rc != 0;
}

static void test_class(const char *plugin, const struct under_test *u, const char *mode)
{
    struct rig r = rig_open(plugin, u->name);
    bool small = !strcmp(mode, "small"), first = u == classes;
    if (absent(&r, u)) {
        rig_close(&r);
        return;
    }
    if (!strcmp(mode, "repeat")) {
        repeats(&r, u, 100, 1024, 2048);
    } else if (!strcmp(mode, "queue")) {
        queued(&r, u, true);
    } else {
        against_exact(&r, u, small);
        if (first)
            f32_bits_of_cpu(&r);
        company(&r, u, small);
        joined(&r, u, small);
        repeats(&r, u, 3, 96, 512);
        queued(&r, u, small);
        if (first) {
            refused(&r);
            chosen(&r);
        }
        if (!strcmp(mode, "full"))
            large(&r, u);
    }
    rig_close(&r);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: check_linear PLUGIN [small|full|repeat|queue [simple|marlin|machete]]\n");
        return 64;
    }
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (argc < 4 || !strcmp(argv[3], classes[i].name))
            test_class(argv[1], &classes[i], argc > 2 ? argv[2] : "");
    return tap_done();
}

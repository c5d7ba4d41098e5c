/* linear: every row of kernels.def of this machine equal to the scalar row to the bit, the scalar row within a bound of an f64 sum, the bits of a row
 * independent of what surrounds it. */
#include "tests/kernels/util.h"

struct shape {
    int64_t M, N, K;
    int64_t pad_x, pad_y;
};

static const struct shape shapes[] = {
    {1, 1, 1, 0, 0},    {1, 16, 8, 0, 0},    {1, 17, 33, 0, 0},   {2, 70, 129, 3, 1}, {3, 47, 100, 1, 0}, {4, 130, 71, 0, 5},
    {5, 48, 128, 0, 0}, {7, 33, 257, 11, 3}, {13, 100, 64, 0, 0}, {8, 49, 7, 1, 1},   {31, 97, 300, 4, 9}, {260, 50, 40, 0, 2},
};

/* A weight of one of nine kinds from the same random numbers, and its exact values. */
enum { KINDS = 9 };
static const char *const kind_names[KINDS] = {"f32", "f16", "bf16", "w4", "w2", "w3", "w8", "w4 scattered", "w8 scattered"};

static float *kind_values(int kind, int64_t N, int64_t K, enum fill how, void **source, struct qmatrix *q, uint64_t *s)
{
    float *v = malloc((size_t)(N * K) * sizeof *v);
    *source = NULL;
    if (kind < 3) {
        fill(v, (size_t)(N * K), how == FILL_LARGE ? FILL_PLAIN : how, s);
        uint16_t *half = malloc((size_t)(N * K) * sizeof *half);
        for (int64_t i = 0; i < N * K; i++) {
            half[i] = kind == 1 ? f32_to_f16(v[i]) : f32_to_bf16(v[i]);
            if (kind)
                v[i] = kind == 1 ? f16_to_f32(half[i]) : bf16_to_f32(half[i]);
        }
        *source = half;
        return v;
    }
    static const int bits[KINDS] = {0, 0, 0, 4, 2, 3, 8, 4, 8};
    *q = rnd_qmatrix(N, K, bits[kind], kind % 2 ? 32 : K > 20 ? 20 : -1, kind > 6, s);
    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < K; k++) {
            int64_t at = q->g_idx[k] * N + n;
            v[n * K + k] = f16_to_f32(q->scales[at]) * (float)(q->codes[n * K + k] - q->zeros[at]);
        }
    return v;
}

static struct weight *kind_weight(struct backend *b, int kind, int64_t N, int64_t K, const float *v, const void *source, const struct qmatrix *q)
{
    static const enum dtype dtypes[] = {DT_F32, DT_F16, DT_BF16};
    struct weight *w;
    struct err e;
    struct tensor_view t = {.rows = N, .cols = K, .data = kind ? source : v};
    if (kind < 3)
        t.dtype = dtypes[kind];
    if (kind < 3 ? b->ops->weight_dense(b, &t, &w, &e) : wfmt_weight(b, q, &w, &e))
        fail_msg("%s", e.text);
    return w;
}

struct problem {
    const struct shape *s;
    int kind;
    enum fill how;
    float *v, *x, *bias, *y0;
    void *source;
    struct qmatrix q;
    int64_t ldx, ldy;
};

static struct problem problem_new(const struct shape *s, int kind, enum fill how, uint64_t *seed)
{
    struct problem p = {.s = s, .kind = kind, .how = how, .ldx = s->K + s->pad_x, .ldy = s->N + s->pad_y};
    p.v = kind_values(kind, s->N, s->K, how, &p.source, &p.q, seed);
    p.x = malloc((size_t)(s->M * p.ldx) * sizeof *p.x);
    p.bias = malloc((size_t)s->N * sizeof *p.bias);
    p.y0 = malloc((size_t)(s->M * p.ldy) * sizeof *p.y0);
    fill(p.x, (size_t)(s->M * p.ldx), how, seed);
    fill(p.bias, (size_t)s->N, how, seed);
    fill(p.y0, (size_t)(s->M * p.ldy), how, seed);
    return p;
}

static void problem_free(struct problem *p)
{
    free(p->v);
    free(p->x);
    free(p->bias);
    free(p->y0);
    free(p->source);
    if (p->kind >= 3)
        qmatrix_free(&p->q);
}

/* Runs rows from..from + rows - 1 of a problem; y has y0 in it before. */
static struct guarded solve(struct backend *b, const struct problem *p, int64_t from, int64_t rows, bool bias, bool accumulate)
{
    struct guarded y = guarded_new((size_t)((rows - 1) * p->ldy + p->s->N));
    memcpy(y.at, p->y0 + from * p->ldy, y.n * sizeof *y.at);
    struct weight *w = kind_weight(b, p->kind, p->s->N, p->s->K, p->v, p->source, &p->q);
    struct err e;
    if (b->ops->linear(b, y.at, p->ldy, p->x + from * p->ldx, p->ldx, rows, w, bias ? p->bias : NULL, accumulate, &e))
        fail_msg("%s", e.text);
    b->ops->weight_free(b, w);
    return y;
}

static void against_scalar(void **state)
{
    (void)state;
    static const int threads[] = {1, 2, 7};
    uint64_t seed = 1;
    struct rig scalar = rig_new(ISA_SCALAR, 1);
    for (int isa = ISA_SCALAR; isa <= (int)isa_best(); isa++) {
        for (size_t t = 0; t < 3; t++) {
            struct rig r = rig_new((enum isa)isa, threads[t]);
            for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
                for (int kind = 0; kind < KINDS; kind++) {
                    struct problem p = problem_new(&shapes[i], kind, (enum fill)((i + (size_t)kind + t) % FILL_COUNT), &seed);
                    bool bias = kind % 2, accumulate = (i + (size_t)kind) % 3 == 0;
                    struct guarded want = solve(scalar.b, &p, 0, shapes[i].M, bias, accumulate);
                    struct guarded got = solve(r.b, &p, 0, shapes[i].M, bias, accumulate);
                    char what[100];
                    snprintf(what, sizeof what, "%s %s shape %zu", isa_name((enum isa)isa), kind_names[kind], i);
                    same_bits(want.at, got.at, got.n, what); /* the gaps between rows too */
                    guarded_free(&want);
                    guarded_free(&got);
                    problem_free(&p);
                }
            rig_free(&r);
        }
    }
    rig_free(&scalar);
}

/* |y - exact| <= (K + 2) 2^-24 (sum |x w| + |bias| + |y0|): one rounding a step, to first order (x 1.01), and as many of the smallest denormal. */
static void against_f64(void **state)
{
    (void)state;
    uint64_t seed = 2;
    struct rig r = rig_new(ISA_SCALAR, 1);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int kind = 0; kind < KINDS; kind++) {
            struct problem p = problem_new(&shapes[i], kind, (enum fill)(i % FILL_COUNT), &seed);
            struct guarded y = solve(r.b, &p, 0, shapes[i].M, true, true);
            for (int64_t m = 0; m < shapes[i].M; m++)
                for (int64_t n = 0; n < shapes[i].N; n++) {
                    double exact = (double)p.bias[n] + (double)p.y0[m * p.ldy + n], size = fabs((double)p.bias[n]) + fabs((double)p.y0[m * p.ldy + n]);
                    for (int64_t k = 0; k < shapes[i].K; k++) {
                        double term = (double)p.x[m * p.ldx + k] * (double)p.v[n * shapes[i].K + k];
                        exact += term;
                        size += fabs(term);
                    }
                    double steps = (double)shapes[i].K + 2, bound = 1.01 * steps * (0x1p-24 * size + 0x1p-149);
                    double error = fabs((double)y.at[m * p.ldy + n] - exact);
                    if (!(error <= bound))
                        fail_msg("%s shape %zu (%lld, %lld): off by %g, bound %g", kind_names[kind], i, (long long)m, (long long)n, error, bound);
                }
            guarded_free(&y);
            problem_free(&p);
        }
    rig_free(&r);
}

/* A row by itself (GEMV), in a few, and in all rows (GEMM): the same bits. */
static void chain(void **state)
{
    (void)state;
    uint64_t seed = 3;
    static const struct shape s = {37, 83, 211, 2, 3};
    for (int isa = ISA_SCALAR; isa <= (int)isa_best(); isa++) {
        struct rig r = rig_new((enum isa)isa, 2);
        for (int kind = 0; kind < KINDS; kind++) {
            struct problem p = problem_new(&s, kind, FILL_DENORMAL, &seed);
            struct guarded all = solve(r.b, &p, 0, s.M, true, false);
            for (int64_t rows = 1; rows <= 9; rows++)
                for (int64_t from = 0; from + rows <= s.M; from += 7) {
                    struct guarded some = solve(r.b, &p, from, rows, true, false);
                    same_bits(all.at + from * p.ldy, some.at, some.n, kind_names[kind]);
                    guarded_free(&some);
                }
            guarded_free(&all);
            problem_free(&p);
        }
        rig_free(&r);
    }
}

static void refuses(void **state)
{
    (void)state;
    uint64_t seed = 4;
    struct rig r = rig_new(ISA_AUTO, 1);
    struct qmatrix q = rnd_qmatrix(3, 40, 4, 16, false, &seed);
    struct weight *w;
    struct err e;
    q.codes[45] = 16;
    assert_int_equal(wfmt_weight(r.b, &q, &w, &e), -ERR_FORMAT);
    assert_string_equal(e.text, "code 16 at row 1, column 5 does not fit 4 bits");
    q.codes[45] = 15;
    q.g_idx[39] = 3;
    assert_int_equal(wfmt_weight(r.b, &q, &w, &e), -ERR_FORMAT);
    assert_string_equal(e.text, "g_idx[39] is 3, but there are 3 groups");
    qmatrix_free(&q);
    struct tensor_view t = {.dtype = DT_I32, .rows = 1, .cols = 1, .data = &seed};
    assert_int_equal(r.b->ops->weight_dense(r.b, &t, &w, &e), -ERR_UNSUPPORTED);
    rig_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(against_scalar),
        cmocka_unit_test(against_f64),
        cmocka_unit_test(chain),
        cmocka_unit_test(refuses),
    };
    return cmocka_run_group_tests_name("linear", tests, NULL, NULL);
}

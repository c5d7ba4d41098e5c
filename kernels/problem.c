#include "kernels/problem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/wfmt.h"

const char *const problem_kind_names[KINDS] = {"f32", "f16", "bf16", "w2", "w3", "w4", "w8"};

static void *take(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    if (!p)
        BUG("no memory for a problem: %zu bytes", bytes);
    return p;
}

float *rnd_floats(size_t n, uint64_t *s)
{
    float *p = take(n * sizeof *p);
    for (size_t i = 0; i < n; i++)
        p[i] = rnd_f32(s);
    return p;
}

void problem_matrix_values(struct problem_matrix *m)
{
    for (int64_t n = 0; n < m->N; n++)
        for (int64_t k = 0; k < m->K; k++) {
            int64_t at = m->q.g_idx[k] * m->N + n;
            m->values[n * m->K + k] = f16_to_f32(m->q.scales[at]) * (float)(m->q.codes[n * m->K + k] - m->q.zeros[at]);
        }
}

static struct problem_matrix quantized(int bits, const struct problem_shape *s, uint64_t *seed)
{
    struct problem_matrix m = {.N = s->N, .K = s->K, .quantized = true, .values = take((size_t)(s->N * s->K) * sizeof *m.values)};
    if (qmatrix_alloc(&m.q, s->N, s->K, bits, s->group))
        BUG("no memory for a problem of %d x %d", (int)s->N, (int)s->K);
    m.q.sym = s->sym;
    for (int64_t k = 0; k < s->K; k++)
        m.q.g_idx[k] = s->group < 0 ? 0 : s->order ? (int32_t)(rnd(seed) % (uint64_t)m.q.G) : (int32_t)(k / s->group);
    for (int64_t i = 0; i < s->N * s->K; i++)
        m.q.codes[i] = (uint8_t)(rnd(seed) & ((1u << bits) - 1u));
    for (int64_t i = 0; i < m.q.G * s->N; i++) {
        m.q.scales[i] = f32_to_f16(0.1f * rnd_f32(seed));
        m.q.zeros[i] = s->sym ? (uint8_t)(1u << (bits - 1)) : (uint8_t)(rnd(seed) % (bits == 8 ? 256u : (1u << bits) + 1u));
    }
    problem_matrix_values(&m);
    return m;
}

static struct problem_matrix dense(enum problem_kind kind, const struct problem_shape *s, uint64_t *seed)
{
    size_t n = (size_t)(s->N * s->K);
    struct problem_matrix m = {.N = s->N, .K = s->K, .values = take(n * sizeof *m.values), .source = take(n * 4)};
    for (size_t i = 0; i < n; i++) {
        float x = rnd_f32(seed);
        if (kind == KIND_F32) {
            ((float *)m.source)[i] = m.values[i] = x;
        } else {
            uint16_t h = kind == KIND_F16 ? f32_to_f16(x) : f32_to_bf16(x);
            ((uint16_t *)m.source)[i] = h;
            m.values[i] = kind == KIND_F16 ? f16_to_f32(h) : bf16_to_f32(h);
        }
    }
    m.view = (struct tensor_view){.dtype = kind == KIND_F32 ? DT_F32 : kind == KIND_F16 ? DT_F16 : DT_BF16, .rows = s->N, .cols = s->K, .data = m.source};
    return m;
}

struct problem_matrix problem_matrix(enum problem_kind kind, const struct problem_shape *s, uint64_t *seed)
{
    static const int bits[] = {[KIND_W2] = 2, [KIND_W3] = 3, [KIND_W4] = 4, [KIND_W8] = 8};
    return kind >= KIND_W2 ? quantized(bits[kind], s, seed) : dense(kind, s, seed);
}

void problem_matrix_free(struct problem_matrix *m)
{
    free(m->values);
    free(m->source);
    qmatrix_free(&m->q);
}

int problem_weight(struct backend *b, const struct problem_matrix *m, struct weight **out, struct err *e)
{
    return m->quantized ? wfmt_weight(b, &m->q, out, e) : b->ops->weight_dense(b, &m->view, out, e);
}

struct problem problem_new(const struct problem_matrix *m, int64_t M, int pad, uint64_t *seed)
{
    struct problem p = {.M = M, .ldx = m->K + pad, .ldy = m->N + pad, .add_bias = rnd(seed) % 2, .accumulate = rnd(seed) % 2};
    p.x = rnd_floats((size_t)(M * p.ldx), seed);
    p.bias = rnd_floats((size_t)m->N, seed);
    p.y0 = rnd_floats((size_t)(M * p.ldy), seed);
    return p;
}

void problem_free(struct problem *p)
{
    free(p->x);
    free(p->bias);
    free(p->y0);
}

int problem_put(struct backend *b, const float *host, size_t n, float **out, struct err *e)
{
    void *p = NULL;
    int rc = b->ops->alloc(b, n * sizeof *host, &p, e);
    if (!rc && (rc = b->ops->upload(b, p, host, n * sizeof *host, e))) {
        b->ops->free(b, p);
        p = NULL;
    }
    *out = p;
    return rc;
}

int problem_get(struct backend *b, const float *device, size_t n, float **out, struct err *e)
{
    float *p = take(n * sizeof *p);
    int rc = b->ops->download(b, p, device, n * sizeof *p, e);
    if (rc) {
        free(p);
        p = NULL;
    }
    *out = p;
    return rc;
}

int problem_solve(struct backend *b, const struct weight *w, const struct problem_matrix *m, const struct problem *p, int64_t from, int64_t rows, float **y, struct err *e)
{
    size_t n = (size_t)(rows * p->ldy);
    float *dx = NULL, *dy = NULL, *bias = NULL;
    *y = NULL;
    int rc = problem_put(b, p->x + from * p->ldx, (size_t)(rows * p->ldx), &dx, e);
    if (!rc)
        rc = problem_put(b, p->y0 + from * p->ldy, n, &dy, e);
    if (!rc)
        rc = problem_put(b, p->bias, (size_t)m->N, &bias, e);
    if (!rc)
        rc = b->ops->linear(b, dy, p->ldy, dx, p->ldx, rows, w, p->add_bias ? bias : NULL, p->accumulate, e);
    if (!rc)
        rc = problem_get(b, dy, n, y, e);
    b->ops->free(b, dx);
    b->ops->free(b, dy);
    b->ops->free(b, bias);
    return rc;
}

/* Device memory of part i and its place in parts. */
static int put_part(struct backend *b, const struct weight *w, const struct problem_matrix *m, const struct problem *p, int64_t from, int64_t rows, struct linear_part *part,
                    float **bias, struct err *e)
{
    int rc = problem_put(b, p->y0 + from * p->ldy, (size_t)(rows * p->ldy), &part->y, e);
    if (!rc)
        rc = problem_put(b, p->bias, (size_t)m->N, bias, e);
    part->ldy = p->ldy;
    part->w = w;
    part->bias = p->add_bias ? *bias : NULL;
    return rc;
}

int problem_solve_many(struct backend *b, struct weight *const *w, const struct problem_matrix *m, const struct problem *p, int n, int64_t from, int64_t rows, float **y,
                       struct err *e)
{
    struct linear_part parts[PROBLEM_PARTS_MAX] = {{NULL, 0, NULL, NULL}};
    float *dx = NULL, *bias[PROBLEM_PARTS_MAX] = {NULL};
    int rc = problem_put(b, p->x + from * p->ldx, (size_t)(rows * p->ldx), &dx, e);
    for (int i = 0; i < n; i++) {
        y[i] = NULL;
        if (!rc)
            rc = put_part(b, w[i], &m[i], &p[i], from, rows, &parts[i], &bias[i], e);
    }
    if (!rc)
        rc = b->ops->linear_many(b, parts, n, dx, p->ldx, rows, e);
    for (int i = 0; i < n && !rc; i++)
        rc = problem_get(b, parts[i].y, (size_t)(rows * p[i].ldy), &y[i], e);
    b->ops->free(b, dx);
    for (int i = 0; i < n; i++) {
        b->ops->free(b, parts[i].y);
        b->ops->free(b, bias[i]);
        if (rc) {
            free(y[i]);
            y[i] = NULL;
        }
    }
    return rc;
}

double problem_worst(const struct problem_matrix *m, const struct problem *p, const float *y, struct problem_place *at)
{
    struct problem_place none;
    double most = 0;
    at = at ? at : &none;
    *at = (struct problem_place){.row = 0};
    for (int64_t r = 0; r < p->M; r++)
        for (int64_t n = 0; n < p->ldy; n++) {
            int64_t i = r * p->ldy + n;
            double before = p->y0[i], bias, exact, size = 0;
            if (n >= m->N) {
                if (memcmp(&y[i], &p->y0[i], sizeof *y) == 0)
                    continue;
                *at = (struct problem_place){r, n, y[i], before};
                return INFINITY;
            }
            before = p->accumulate ? before : 0;
            bias = p->add_bias ? (double)p->bias[n] : 0;
            exact = before + bias;
            for (int64_t k = 0; k < m->K; k++) {
                double t = (double)p->x[r * p->ldx + k] * (double)m->values[n * m->K + k];
                exact += t;
                size += fabs(t);
            }
            double error = fabs((double)y[i] - exact) / (BOUND_PRODUCT * size + 0x1p-22 * (fabs(bias) + fabs(before)) + 1e-30);
            if (!(error <= most)) {
                most = isnan(error) ? INFINITY : error;
                *at = (struct problem_place){r, n, y[i], exact};
            }
        }
    return most;
}

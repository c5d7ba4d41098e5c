/* Sequences through attention in steps of any sizes, keys and values kept between them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/problem.h"

struct problem_sequence problem_sequence(const struct problem_heads *h, int64_t length, uint64_t *seed)
{
    size_t qn = (size_t)length * (size_t)(h->heads * h->D), kn = (size_t)length * (size_t)(h->kv_heads * h->D);
    struct problem_sequence s = {.length = length, .q = rnd_floats(qn, seed), .k = rnd_floats(kn, seed), .v = rnd_floats(kn, seed)};
    for (size_t i = 0; i < qn; i++)
        s.q[i] *= 6;
    return s;
}

void problem_sequence_free(struct problem_sequence *s)
{
    free(s->q);
    free(s->k);
    free(s->v);
}

/* Rows of several sequences, one sequence after the other. */
struct step {
    struct attn_segment segments[PROBLEM_SEQUENCES_MAX];
    int of[PROBLEM_SEQUENCES_MAX]; /* the sequence of each */
    size_t count;
    int64_t M;
};

/* width floats a row, of each segment: from (or to) where its sequence has them. */
static void gather(const struct step *t, const float *const *from, size_t width, float *to)
{
    for (size_t i = 0; i < t->count; i++)
        memcpy(to + (size_t)t->segments[i].row * width, from[t->of[i]] + (size_t)t->segments[i].pos * width, (size_t)t->segments[i].rows * width * sizeof *to);
}

static void scatter(const struct step *t, const float *from, size_t width, float **to)
{
    for (size_t i = 0; i < t->count; i++)
        memcpy(to[t->of[i]] + (size_t)t->segments[i].pos * width, from + (size_t)t->segments[i].row * width, (size_t)t->segments[i].rows * width * sizeof *from);
}

static int attend(struct backend *b, const struct problem_heads *h, const struct problem_sequence *s, int n, const struct step *t, float **y, struct err *e)
{
    const size_t qw = (size_t)(h->heads * h->D), kw = (size_t)(h->kv_heads * h->D), rows = (size_t)t->M;
    const float *q[PROBLEM_SEQUENCES_MAX], *k[PROBLEM_SEQUENCES_MAX], *v[PROBLEM_SEQUENCES_MAX];
    float *host = malloc(rows * qw * sizeof *host), *device[4] = {NULL, NULL, NULL, NULL}, *got = NULL;
    if (!host)
        BUG("no memory for %d rows of attention", (int)t->M);
    for (int i = 0; i < n; i++) {
        q[i] = s[i].q;
        k[i] = s[i].k;
        v[i] = s[i].v;
    }
    const float *const *from[] = {q, k, v, q}; /* y begins as anything */
    int rc = 0;
    for (int i = 0; !rc && i < 4; i++) {
        size_t width = i == 1 || i == 2 ? kw : qw;
        gather(t, from[i], width, host);
        rc = problem_put(b, host, rows * width, &device[i], e);
    }
    struct attn_args a = {.q = device[0], .k = device[1], .v = device[2], .y = device[3], .heads = h->heads, .kv_heads = h->kv_heads, .head_dim = h->D, .layer = 1,
                          .window = h->window, .scale = (float)(1 / sqrt(h->D)), .segments = t->segments, .segment_count = t->count};
    if (!rc)
        rc = b->ops->attention(b, &a, e);
    if (!rc)
        rc = problem_get(b, device[3], rows * qw, &got, e);
    if (!rc)
        scatter(t, got, qw, y);
    for (int i = 0; i < 4; i++)
        b->ops->free(b, device[i]);
    free(host);
    free(got);
    return rc;
}

int problem_attend(struct backend *b, const struct problem_heads *h, const struct problem_sequence *s, int n, enum problem_cuts cuts, float **y, struct err *e)
{
    static const int64_t sizes[][4] = {[CUT_WHOLE] = {1 << 20, 1 << 20, 1 << 20, 1 << 20}, [CUT_MIXED] = {300, 1, 17, 8}, [CUT_SMALL] = {9, 7, 64, 8}};
    struct kv_cache *kv[PROBLEM_SEQUENCES_MAX] = {NULL};
    int64_t done[PROBLEM_SEQUENCES_MAX] = {0};
    int rc = 0;
    for (int i = 0; i < n; i++) {
        y[i] = malloc((size_t)(s[i].length * h->heads * h->D) * sizeof **y);
        if (!y[i])
            BUG("no memory for attention over %d positions", (int)s[i].length);
        if (!rc)
            rc = b->ops->kv_create(b, 2, h->kv_heads, h->D, s[i].length + 3, &kv[i], e);
    }
    for (int turn = 0; !rc; turn++) {
        struct step t = {.count = 0};
        for (int i = 0; i < n; i++) {
            int64_t left = s[i].length - done[i], want = sizes[cuts][(turn + i) % 4], rows = left < want ? left : want;
            if (left <= 0)
                continue;
            t.of[t.count] = i;
            t.segments[t.count++] = (struct attn_segment){.kv = kv[i], .row = t.M, .rows = rows, .pos = done[i]};
            t.M += rows;
            done[i] += rows;
        }
        if (!t.count)
            break;
        rc = attend(b, h, s, n, &t, y, e);
    }
    for (int i = 0; i < n; i++) {
        if (kv[i])
            b->ops->kv_free(b, kv[i]);
        if (rc) {
            free(y[i]);
            y[i] = NULL;
        }
    }
    return rc;
}

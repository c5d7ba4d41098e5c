/* Matrices with one X as one on the device, so that a token costs one launch for them and small ones (k_proj, v_proj) fill the card with the others: marlin and machete keep their
 * codes in strips along N, so the whole is the parts one behind the other. Copied on the device once all parts are there: that moment holds the parts twice. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_state.h"

static const struct weight *const *readable(struct weight *const *w)
{
    return (const struct weight *const *)w;
}

/* The shape of the whole in *whole, when the kernels can take w[0..n-1] so. */
static bool shapes_join(const struct weight *const *w, int n, struct weight *whole)
{
    const struct marlin_shape *marlin[MARLIN_PARTS];
    const struct machete_shape *machete[MARLIN_PARTS];
    if (n < 2 || n > MARLIN_PARTS)
        return false;
    for (int i = 0; i < n; i++) {
        if (w[i]->fmt != w[0]->fmt || w[i]->whole)
            return false;
        marlin[i] = &w[i]->shape;
        machete[i] = &w[i]->machete;
    }
    whole->fmt = w[0]->fmt;
    whole->K = w[0]->K;
    whole->pitch = w[0]->pitch;
    whole->kernel = w[0]->kernel;
    whole->why = w[0]->why;
    if (whole->fmt == CUDA_MARLIN ? !marlin_join(marlin, n, &whole->shape) : whole->fmt != CUDA_MACHETE || !machete_join(machete, n, &whole->machete))
        return false;
    whole->N = whole->fmt == CUDA_MARLIN ? whole->shape.N : whole->machete.N;
    return true;
}

/* Whether all take their inputs in one order (act-order: that of the groups, which modules with one X have in common as a rule). */
static int orders_join(struct cuda_state *s, const struct weight *const *w, int n, bool *same, struct err *e)
{
    const size_t bytes = (size_t)w[0]->pitch * sizeof *w[0]->perm;
    *same = true;
    if (!w[0]->perm)
        return 0;
    char *first = malloc(2 * bytes);
    int rc = first ? cuda_check(s, cudaMemcpyAsync(first, w[0]->perm, bytes, cudaMemcpyDeviceToHost, s->stream), "the order of inputs", e)
                   : err_set(e, ERR_NOMEM, "no memory for the order of %lld inputs", (long long)w[0]->K);
    for (int i = 1; i < n && !rc && *same; i++) {
        rc = cuda_check(s, cudaMemcpyAsync(first + bytes, w[i]->perm, bytes, cudaMemcpyDeviceToHost, s->stream), "the order of inputs", e);
        if (!rc)
            rc = cuda_check(s, cudaStreamSynchronize(s->stream), "the order of inputs", e);
        *same = !rc && !memcmp(first, first + bytes, bytes);
    }
    free(first);
    return rc;
}

static struct marlin_place place_of(const struct weight *part, const struct weight *whole, int64_t from)
{
    return whole->fmt == CUDA_MARLIN ? marlin_place(&part->shape, &whole->shape, from) : machete_place(&part->machete, &whole->machete, from);
}

static int copy_table(struct cuda_state *s, void *to, const void *from, const struct marlin_place *p, struct err *e)
{
    return cuda_check(s, cudaMemcpy2DAsync((char *)to + p->table, p->pitch, from, p->width, p->width, (size_t)p->rows, cudaMemcpyDeviceToDevice, s->stream), "joining scales", e);
}

static int copy_part(struct cuda_state *s, const struct weight *part, const struct weight *whole, int64_t from, struct err *e)
{
    const struct marlin_place p = place_of(part, whole, from);
    const size_t bytes = part->fmt == CUDA_MARLIN ? part->shape.code_bytes : part->machete.code_bytes;
    int rc = cuda_check(s, cudaMemcpyAsync((char *)whole->data + p.codes, part->data, bytes, cudaMemcpyDeviceToDevice, s->stream), "joining codes", e);
    if (!rc)
        rc = copy_table(s, whole->meta, part->meta, &p, e);
    return rc || !part->zeros ? rc : copy_table(s, whole->zeros, part->zeros, &p, e);
}

static int fill(struct cuda_state *s, struct weight *whole, const struct weight *const *w, int n, struct err *e)
{
    const bool marlin = whole->fmt == CUDA_MARLIN;
    const size_t zeros = marlin ? whole->shape.zero_bytes : whole->machete.zero_bytes;
    int rc = cuda_take(s, marlin ? whole->shape.code_bytes : whole->machete.code_bytes, "joined codes", &whole->data, e);
    if (!rc)
        rc = cuda_take(s, marlin ? whole->shape.scale_bytes : whole->machete.scale_bytes, "joined scales", (void **)&whole->meta, e);
    if (!rc && zeros)
        rc = cuda_take(s, zeros, "joined zeros", (void **)&whole->zeros, e);
    int64_t from = 0;
    for (int i = 0; i < n && !rc; from += w[i++]->N)
        rc = copy_part(s, w[i], whole, from, e);
    return rc ? rc : cuda_check(s, cudaStreamSynchronize(s->stream), "joining matrices", e);
}

/* A part's own memory goes; it sees its place in the whole. */
static void move_in(struct cuda_state *s, struct weight *part, struct weight *whole, int number, int64_t from)
{
    const struct marlin_place p = place_of(part, whole, from);
    void *all[] = {part->data, part->meta, part->zeros, part->perm == whole->perm ? NULL : part->perm};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        cuda_drop(s, all[i]);
    part->whole = whole;
    part->number = number;
    part->data = (char *)whole->data + p.codes;
    part->meta = whole->meta + p.table / sizeof *whole->meta;
    part->zeros = whole->zeros ? whole->zeros + p.table / sizeof *whole->zeros : NULL;
    part->perm = whole->perm;
    part->shape.scale_strips = whole->shape.strips;
}

int cuda_weight_join(struct backend *b, struct weight *const *w, int n, struct err *e)
{
    struct cuda_state *s = b->state;
    struct weight shape = {0};
    bool same;
    if (!shapes_join(readable(w), n, &shape))
        return 0;
    int rc = orders_join(s, readable(w), n, &same, e);
    if (rc || !same)
        return rc;
    struct weight *whole = malloc(sizeof *whole);
    if (!whole)
        return err_set(e, ERR_NOMEM, "no memory for a weight");
    *whole = shape;
    rc = fill(s, whole, readable(w), n, e);
    if (rc) {
        cuda_weight_free(b, whole);
        return rc;
    }
    s->split_of.x = NULL; /* the parts' own orders of inputs go */
    whole->parts = whole->users = n;
    whole->perm = w[0]->perm;
    int64_t from = 0;
    for (int i = 0; i < n; from += w[i++]->N)
        move_in(s, w[i], whole, i, from);
    return 0;
}

#include "stages/quant/gptq.h"

#include <math.h>
#include <stdlib.h>

#include "pipeline/base/mem.h"
#include "stages/quant/grid.h"
#include "stages/quant/hessian.h"
#include "stages/quant/order.h"
#include "stages/quant/target.h"

/* One module on its way. Device memory unless said otherwise; everything owned. */
struct job {
    struct backend *b;
    const struct gptq_input *in;
    struct gptq_report *report;
    struct qmatrix *q;
    int64_t N, K, G, group_size; /* group_size = K where the params say -1 */
    int64_t *perm;               /* host [K] */
    double *diag;                /* host [K], dead inputs given the mean of the others */
    double mean;                 /* of diag */
    void *row;                   /* host, K doubles: the way between host matrices and the device */
    float *w, *u;                /* [N,K], [K,K] */
    float *target;               /* [N,K]: what w was before the loop; NULL where nothing comes after the loop */
    double *h, *loss;            /* [K,K], [N] */
    int32_t *group;              /* [K] */
    uint8_t *codes, *zeros;      /* [N,K], [G,N] */
    uint16_t *scales;            /* [G,N] */
};

static int check_finite(const struct gptq_input *in, struct err *e)
{
    for (int64_t i = 0; i < in->N * in->K; i++)
        if (!isfinite(in->w[i]))
            return err_set(e, ERR_NUMERIC, "weight [%lld,%lld] is %g", (long long)(i / in->K), (long long)(i % in->K), (double)in->w[i]);
    for (int64_t i = 0; in->h && i < in->K * in->K; i++)
        if (!isfinite(in->h[i]))
            return err_set(e, ERR_NUMERIC, "Hessian [%lld,%lld] is %g: activations overflow before this module", (long long)(i / in->K),
                           (long long)(i % in->K), in->h[i]);
    return 0;
}

static bool dead(const struct job *j, int64_t k)
{
    return j->in->h[k * j->K + k] == 0;
}

/* Diagonal and its mean, with dead inputs out of the way: they are decoupled from the rest, so any positive number serves, and the mean of
 * the live ones leaves the damping what it would be without them. */
static int64_t read_diagonal(struct job *j)
{
    int64_t live = 0;
    double sum = 0;
    for (int64_t k = 0; k < j->K; k++)
        if (!dead(j, k)) {
            sum += j->in->h[k * j->K + k];
            live++;
        }
    j->mean = live ? sum / (double)live : 0;
    for (int64_t k = 0; k < j->K; k++)
        j->diag[k] = dead(j, k) ? j->mean : j->in->h[k * j->K + k];
    return live;
}

static int device_alloc(struct job *j, void *out, size_t a, size_t b, struct err *e)
{
    size_t bytes;
    if (mem_mul(a, b, &bytes))
        return err_set(e, ERR_NOMEM, "%lld x %lld does not fit in memory", (long long)j->N, (long long)j->K);
    return j->b->ops->alloc(j->b, bytes, out, e);
}

static int job_init(struct job *j, struct err *e)
{
    size_t n = (size_t)j->N, k = (size_t)j->K, g = (size_t)j->G;
    j->perm = xcalloc(k, sizeof *j->perm);
    j->diag = xcalloc(k, sizeof *j->diag);
    j->row = xcalloc(k, sizeof(double));
    if (qmatrix_alloc(j->q, j->N, j->K, j->in->params->bits, j->in->params->group_size))
        return err_set(e, ERR_NOMEM, "no memory for %lld x %lld codes", (long long)j->N, (long long)j->K);
    j->q->sym = j->in->params->sym;
    int rc = device_alloc(j, &j->w, n, k * sizeof *j->w, e);
    if (!rc && j->in->h)
        rc = device_alloc(j, &j->h, k, k * sizeof *j->h, e);
    if (!rc)
        rc = device_alloc(j, &j->loss, n, sizeof *j->loss, e);
    if (!rc)
        rc = device_alloc(j, &j->group, k, sizeof *j->group, e);
    if (!rc)
        rc = device_alloc(j, &j->codes, n, k, e);
    if (!rc)
        rc = device_alloc(j, &j->scales, n, g * sizeof *j->scales, e);
    return rc ? rc : device_alloc(j, &j->zeros, n, g, e);
}

static void job_release(struct job *j)
{
    void *const device[] = {j->w, j->u, j->target, j->h, j->loss, j->group, j->codes, j->scales, j->zeros};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        j->b->ops->free(j->b, device[i]);
    free(j->perm);
    free(j->diag);
    free(j->row);
}

/* Uploads w (minus `from`, unless NULL) with its columns permuted; dead inputs lose their weights where `kill`. */
static int upload_weights(struct job *j, const float *w, const float *from, bool kill, struct err *e)
{
    float *row = j->row;
    int rc = 0;
    for (int64_t n = 0; !rc && n < j->N; n++) {
        for (int64_t i = 0; i < j->K; i++) {
            int64_t at = n * j->K + j->perm[i];
            row[i] = kill && dead(j, j->perm[i]) ? 0.0f : from ? w[at] - from[at] : w[at];
        }
        rc = j->b->ops->upload(j->b, j->w + n * j->K, row, (size_t)j->K * sizeof *row, e);
    }
    return rc;
}

/* Uploads scale * H, permuted, with `damp` * mean on the diagonal. Without the repaired diagonal (repair false) it is H as it was measured.
 */
static int upload_hessian(struct job *j, double scale, double damp, bool repair, struct err *e)
{
    double *row = j->row;
    int rc = 0;
    for (int64_t i = 0; !rc && i < j->K; i++) {
        const double *from = j->in->h + j->perm[i] * j->K;
        for (int64_t k = 0; k < j->K; k++)
            row[k] = scale * from[j->perm[k]];
        if (repair)
            row[i] = scale * (j->diag[j->perm[i]] + damp * j->mean);
        rc = j->b->ops->upload(j->b, j->h + i * j->K, row, (size_t)j->K * sizeof *row, e);
    }
    return rc;
}

/* A power of four near 1 / mean: scaling H by it changes no bit of the codes, and keeps the f32 factor in range however small or large
 * activations are. */
static double balance(const struct job *j)
{
    int exponent = j->mean > 0x1p-1000 ? ilogb(j->mean) : 0;
    return ldexp(1, -(exponent / 2 * 2));
}

/* Factorizes with rising damping. -ERR_NUMERIC when it is exhausted. */
static int factorize(struct job *j, struct err *e)
{
    const struct quant_params *p = j->in->params;
    int rc = device_alloc(j, &j->u, (size_t)j->K, (size_t)j->K * sizeof *j->u, e);
    double damp = p->damp_percent;
    int64_t pivot = -1;
    for (int i = 0; !rc; i++) {
        j->report->attempts = i + 1;
        j->report->damp = damp;
        rc = upload_hessian(j, balance(j), damp, true, e);
        if (rc)
            return rc;
        rc = j->b->ops->factor(j->b, j->h, j->u, j->K, &pivot, e);
        if (rc != -ERR_NUMERIC)
            return rc;
        damp = p->damp_percent + (i + 1) * p->damp_auto_increment;
        if (p->damp_auto_increment <= 0 || damp >= 1)
            return err_set(e, ERR_NUMERIC,
                           "damping exhausted: the Hessian is not positive definite with damp_percent %g to %g (%d attempts, last bad "
                           "pivot %lld of %lld); "
                           "more calibration data, a larger damp_percent, or fallback: rtn",
                           p->damp_percent, j->report->damp, i + 1, (long long)pivot, (long long)j->K);
        rc = 0;
    }
    return rc;
}

static void choose_order(struct job *j)
{
    const struct quant_params *p = j->in->params;
    if (p->desc_act)
        order_descending(j->diag, j->K, j->perm);
    else if (p->act_group_aware)
        order_group_aware(j->diag, j->K, j->group_size, j->perm);
    else
        order_identity(j->K, j->perm);
}

/* Whether groups follow the permuted order (and g_idx with them), as desc_act without static_groups has it. */
static bool groups_permuted(const struct job *j)
{
    return j->report->method == QUANT_GPTQ && j->in->params->desc_act && !j->in->params->static_groups;
}

static int upload_groups(struct job *j, struct err *e)
{
    int32_t *group = j->row;
    bool permuted = groups_permuted(j);
    for (int64_t i = 0; i < j->K; i++) {
        group[i] = (int32_t)((permuted ? i : j->perm[i]) / j->group_size);
        j->q->g_idx[j->perm[i]] = group[i];
    }
    return j->b->ops->upload(j->b, j->group, group, (size_t)j->K * sizeof *group, e);
}

/* Decides between gptq and rtn; for gptq, order and factor are ready after. */
static int prepare(struct job *j, struct err *e)
{
    const struct quant_params *p = j->in->params;
    int64_t live = j->in->h ? read_diagonal(j) : 0;
    int rc = 0;
    j->report->dead = j->in->h ? j->K - live : 0;
    j->report->method = p->method;
    if (p->method == QUANT_GPTQ) {
        if (!live)
            rc = err_set(e, ERR_DATA, "no calibration data reached it (its Hessian is %s); more data, or fallback: rtn",
                         j->in->h ? "zero" : "absent");
        if (!rc) {
            choose_order(j);
            rc = factorize(j, e);
        }
        if (!rc || p->fallback != FALLBACK_RTN || (rc != -ERR_NUMERIC && rc != -ERR_DATA))
            return rc;
        err_clear(e);
        j->report->method = QUANT_RTN;
        j->report->damp = 0;
    }
    order_identity(j->K, j->perm);
    return 0;
}

static bool compensated(const struct job *j)
{
    return j->report->method == QUANT_GPTQ && (j->in->inputs || j->in->outputs);
}

static bool refining(const struct job *j)
{
    return j->report->method == QUANT_GPTQ && j->in->params->refine_sweeps > 0;
}

/* A copy of device memory [N,K], by way of the host. */
static int copy_wide(struct job *j, float *to, const float *from, struct err *e)
{
    int rc = 0;
    for (int64_t n = 0; !rc && n < j->N; n++) {
        rc = j->b->ops->download(j->b, j->row, from + n * j->K, (size_t)j->K * sizeof(float), e);
        if (!rc)
            rc = j->b->ops->upload(j->b, to + n * j->K, j->row, (size_t)j->K * sizeof(float), e);
    }
    return rc;
}

/* Takes the weights of dead inputs out of w, once the target has spread over the others what the source model's inputs said through them.
 */
static int drop_dead(struct job *j, struct err *e)
{
    size_t bytes = (size_t)j->K * sizeof(float);
    float *row = j->row;
    int rc = 0;
    for (int64_t n = 0; j->report->dead && !rc && n < j->N; n++) {
        rc = j->b->ops->download(j->b, row, j->w + n * j->K, bytes, e);
        for (int64_t i = 0; i < j->K; i++)
            row[i] = dead(j, j->perm[i]) ? 0.0f : row[i];
        if (!rc)
            rc = j->b->ops->upload(j->b, j->w + n * j->K, row, bytes, e);
    }
    return rc;
}

/* The loop's weights: W, or the compensated target. */
static int upload_target(struct job *j, struct err *e)
{
    bool gptq = j->report->method == QUANT_GPTQ;
    int rc = upload_weights(j, j->in->w, NULL, gptq && !compensated(j), e);
    if (!rc && compensated(j))
        rc = target_compensate(j->b, j->in, j->perm, balance(j), j->u, j->w, e);
    if (!rc && compensated(j))
        rc = drop_dead(j, e);
    if (rc || !(compensated(j) || refining(j)))
        return rc;
    rc = device_alloc(j, &j->target, (size_t)j->N, (size_t)j->K * sizeof *j->target, e);
    return rc ? rc : copy_wide(j, j->target, j->w, e);
}

/* The target, host [N,K], columns in their original order. */
static int download_target(struct job *j, float *target, struct err *e)
{
    float *row = j->row;
    int rc = 0;
    for (int64_t n = 0; !rc && n < j->N; n++) {
        rc = j->b->ops->download(j->b, row, j->target + n * j->K, (size_t)j->K * sizeof *row, e);
        for (int64_t i = 0; i < j->K; i++)
            target[n * j->K + j->perm[i]] = row[i];
    }
    return rc;
}

/* static_groups: the grid of every group from the weights before the loop, the target's where there is one. Leaves w uploaded in the
 * original order. */
static int fit_static(struct job *j, const struct quant_grid *grid, struct err *e)
{
    int64_t *order = xcalloc((size_t)j->K, sizeof *order), *perm = j->perm;
    float *target = j->target ? malloc((size_t)j->N * (size_t)j->K * sizeof *target) : NULL;
    int rc = 0;
    order_identity(j->K, order);
    if (j->target && !target)
        rc = err_set(e, ERR_NOMEM, "no memory for a target of %lld x %lld", (long long)j->N, (long long)j->K);
    if (!rc && target)
        rc = download_target(j, target, e);
    j->perm = order;
    if (!rc)
        rc = upload_weights(j, target ? target : j->in->w, NULL, true, e);
    j->perm = perm;
    free(order);
    free(target);
    for (int64_t g = 0; !rc && g < j->G; g++) {
        int64_t first = g * j->group_size, n = j->K - first < j->group_size ? j->K - first : j->group_size;
        rc = j->b->ops->fit(j->b, j->w + first, j->K, j->N, n, grid, j->scales + g * j->N, j->zeros + g * j->N, e);
    }
    return rc;
}

static struct quant_grid grid_of(const struct job *j)
{
    const struct quant_params *p = j->in->params;
    return (struct quant_grid){
        .bits = p->bits,
        .sym = p->sym,
        .mse = p->mse,
        .search = p->scale_search == GRID_GPTQ && j->report->method == QUANT_RTN ? GRID_MINMAX : p->scale_search,
        .candidates = p->scale_candidates,
        .signed_scales = p->signed_scales && (p->scale_search != GRID_GPTQ || j->report->method == QUANT_GPTQ),
        .dtype = p->scale_dtype,
    };
}

static int quantize(struct job *j, struct err *e)
{
    bool gptq = j->report->method == QUANT_GPTQ;
    struct gptq_args a = {
        .N = j->N,
        .K = j->K,
        .G = j->G,
        .w = j->w,
        .u = gptq ? j->u : NULL,
        .group = j->group,
        .fixed = gptq && j->in->params->static_groups,
        .grid = grid_of(j),
        .codes = j->codes,
        .scales = j->scales,
        .zeros = j->zeros,
        .loss = j->loss,
    };
    int rc = upload_groups(j, e);
    if (!rc)
        rc = upload_target(j, e);
    if (!rc && a.fixed)
        rc = fit_static(j, &a.grid, e);
    if (!rc && a.fixed)
        rc = j->target ? copy_wide(j, j->w, j->target, e) : upload_weights(j, j->in->w, NULL, true, e);
    return rc ? rc : j->b->ops->gptq(j->b, &a, e);
}

/* scale * H as it was measured, permuted, f32. */
static int upload_metric_of_inputs(struct job *j, float *h, struct err *e)
{
    double scale = balance(j);
    float *row = j->row;
    int rc = 0;
    for (int64_t i = 0; !rc && i < j->K; i++) {
        const double *from = j->in->h + j->perm[i] * j->K;
        for (int64_t k = 0; k < j->K; k++)
            row[k] = (float)(scale * from[j->perm[k]]);
        rc = j->b->ops->upload(j->b, h + i * j->K, row, (size_t)j->K * sizeof *row, e);
    }
    return rc;
}

/* Descent from where the loop ended. */
static int refine(struct job *j, struct err *e)
{
    const struct quant_params *p = j->in->params;
    if (!refining(j))
        return 0;
    float *h = NULL, *metric = NULL;
    int64_t ldm = (j->N + 15) / 16 * 16;
    int rc = device_alloc(j, &h, (size_t)j->K, (size_t)j->K * sizeof *h, e);
    if (!rc)
        rc = upload_metric_of_inputs(j, h, e);
    if (!rc && j->in->metric) {
        rc = device_alloc(j, &metric, (size_t)j->N, (size_t)ldm * sizeof *metric, e);
        if (!rc)
            rc = j->b->ops->upload(j->b, metric, j->in->metric, (size_t)(j->N * ldm) * sizeof *metric, e);
    }
    struct refine_args a = {
        .N = j->N,
        .K = j->K,
        .G = j->G,
        .target = j->target,
        .h = h,
        .metric = metric,
        .ldm = ldm,
        .group = j->group,
        .grid = grid_of(j),
        .sweeps = p->refine_sweeps,
        .refit = p->refit_scales && !(p->desc_act && p->static_groups), /* there a group's columns lie scattered */
        .w = j->w,
        .codes = j->codes,
        .scales = j->scales,
        .zeros = j->zeros,
    };
    if (!rc)
        rc = j->b->ops->refine(j->b, &a, e);
    j->b->ops->free(j->b, h);
    j->b->ops->free(j->b, metric);
    j->report->refined = !rc;
    for (int i = 0; i < 4; i++)
        j->report->steps[i] = a.loss[i] / balance(j);
    return rc;
}

/* Brings codes, scales, zeros and loss home, columns in their original order. */
static int collect(struct job *j, struct err *e)
{
    const struct backend_ops *ops = j->b->ops;
    size_t gn = (size_t)(j->G * j->N);
    uint8_t *row = j->row;
    int rc = ops->download(j->b, j->q->scales, j->scales, gn * sizeof *j->scales, e);
    if (!rc)
        rc = ops->download(j->b, j->q->zeros, j->zeros, gn, e);
    for (int64_t n = 0; !rc && n < j->N; n++) {
        rc = ops->download(j->b, row, j->codes + n * j->K, (size_t)j->K, e);
        for (int64_t i = 0; i < j->K; i++)
            j->q->codes[n * j->K + j->perm[i]] = row[i];
    }
    double loss = 0;
    for (int64_t n = 0; !rc && n < j->N; n++) {
        double x;
        rc = ops->download(j->b, &x, j->loss + n, sizeof x, e);
        loss += x;
    }
    if (rc)
        return rc;
    size_t negative = 0;
    for (size_t i = 0; i < gn; i++)
        negative += j->q->scales[i] >> 15;
    j->report->negative = (double)negative / (double)gn;
    j->report->loss = j->report->method == QUANT_GPTQ ? loss / balance(j) : loss;
    if (!isfinite(j->report->loss))
        return err_set(e, ERR_NUMERIC, "the loss is %g: weights or their corrections overflow", j->report->loss);
    return grid_check(j->q, e);
}

/* tr(X H X^T), X = a (minus b, unless NULL), host [N,K], H as it was measured. */
static int power_of(struct job *j, const float *a, const float *b, double *out, struct err *e)
{
    int rc = upload_weights(j, a, b, false, e);
    return rc ? rc : j->b->ops->quad_form(j->b, j->w, j->h, j->N, j->K, out, e);
}

/* Relative output error on the calibration data, from H as it was measured; where the target is not W, how far it is from there too. */
static int measure(struct job *j, const float *w_hat, const float *target, struct err *e)
{
    double error = 0, shift = 0, power = 0;
    order_identity(j->K, j->perm);
    int rc = upload_hessian(j, 1, 0, false, e);
    if (!rc)
        rc = power_of(j, target, w_hat, &error, e);
    if (!rc && target != j->in->w)
        rc = power_of(j, target, j->in->w, &shift, e);
    if (!rc)
        rc = power_of(j, j->in->w, NULL, &power, e);
    if (!rc) {
        j->report->output_error = power > 0 ? error / power : 0;
        j->report->target_shift = power > 0 ? shift / power : 0;
    }
    return rc;
}

static int finish(struct job *j, float *w_hat, struct err *e)
{
    size_t wide = (size_t)j->N * (size_t)j->K * sizeof(float);
    float *own = !w_hat && j->in->h ? malloc(wide) : NULL, *target = j->in->h && compensated(j) ? malloc(wide) : NULL;
    int rc = 0;
    if ((!w_hat && j->in->h && !own) || (j->in->h && compensated(j) && !target))
        rc = err_set(e, ERR_NOMEM, "no memory for %lld x %lld dequantized weights", (long long)j->N, (long long)j->K);
    w_hat = w_hat ? w_hat : own;
    if (!rc && target)
        rc = download_target(j, target, e);
    if (!rc && w_hat)
        grid_dequantize(j->q, w_hat);
    if (!rc && j->in->h)
        rc = measure(j, w_hat, target ? target : j->in->w, e);
    free(own);
    free(target);
    return rc;
}

int gptq_quantize(struct backend *b, const struct gptq_input *in, struct qmatrix *q, float *w_hat, struct gptq_report *report,
                  struct err *e)
{
    struct job j = {.b = b, .in = in, .report = report, .q = q, .N = in->N, .K = in->K};
    *report = (struct gptq_report){.output_error = NAN};
    *q = (struct qmatrix){0};
    j.G = grid_groups(in->K, in->params->group_size);
    j.group_size = in->params->group_size == -1 ? in->K : in->params->group_size;
    int rc = check_finite(in, e);
    if (!rc)
        rc = job_init(&j, e);
    if (!rc)
        rc = prepare(&j, e);
    if (!rc)
        rc = quantize(&j, e);
    if (!rc)
        rc = refine(&j, e);
    if (!rc)
        rc = collect(&j, e);
    if (!rc)
        rc = finish(&j, w_hat, e);
    job_release(&j);
    if (rc) {
        qmatrix_free(q);
        err_wrap(e, "module '%s'", in->name);
    }
    return rc;
}

#include "stages/speed.h"

#include <inttypes.h>
#include <stdlib.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"
#include "stages/format/check.h"
#include "stages/served.h"

enum { PROMPT = 512, TOKENS = 128 };

static double seconds(void)
{
    return (double)io_monotonic_ns() * 1e-9;
}

/* What the products of a module (layer -1: lm_head) read, and how many weights they have. */
static void count_module(struct speed *s, int64_t layer, enum module_id mod)
{
    const struct config *c = &s->model.config;
    struct tensor_view v;
    int64_t N = c->vocab_size, K = c->hidden;
    int bits, group;
    if (layer >= 0)
        config_module_shape(c, mod, &N, &K);
    s->weights += (double)(N * K);
    if (model_is_quantized(&s->model, layer, mod)) {
        model_module_bits(&s->model, layer, mod, &bits, &group);
        s->weight_bytes += bench_weight_bytes(bits, group, N, K);
        return;
    }
    if (model_dense_view(&s->model, layer, mod, &v, NULL))
        v.dtype = c->dtype;
    s->weight_bytes += (double)(N * K) * (double)dtype_bytes(v.dtype);
}

static void count_weights(struct speed *s)
{
    const struct config *c = &s->model.config;
    for (int64_t layer = 0; layer < c->layers; layer++)
        for (int mod = 0; mod < MOD_COUNT; mod++)
            count_module(s, layer, (enum module_id)mod);
    count_module(s, -1, MOD_COUNT);
    s->head = (double)c->vocab_size * (double)c->hidden;
}

/* Lengths against the context: those that were left open give way. */
static int set_lengths(struct speed *s, const struct speed_params *p, struct err *e)
{
    const int64_t context = s->model.config.context;
    s->prompt = p->prompt ? p->prompt : PROMPT < context ? PROMPT : context;
    s->tokens = p->tokens ? p->tokens : TOKENS < context - 1 ? TOKENS : context - 1;
    if (s->prompt > context)
        return err_set(e, ERR_DATA, "a prompt of %" PRId64 " tokens: the context holds %" PRId64, s->prompt, context);
    if (s->tokens > context - 1 || s->tokens < 1)
        return err_set(e, ERR_DATA, "%" PRId64 " tokens after the first: the context holds %" PRId64, s->tokens, context);
    return 0;
}

int speed_open(struct speed *s, const struct fileset *files, struct backend *b, const struct speed_params *p, struct err *e)
{
    *s = (struct speed){0};
    double start = seconds();
    int rc = model_open(&s->model, files, e);
    if (!rc)
        rc = set_lengths(s, p, e);
    if (!rc)
        rc = check_finite(&s->model.tensors, e);
    if (!rc) {
        count_weights(s); /* before the decoder drops the pages */
        rc = decoder_open(&s->d, b, &s->model, s->prompt > s->tokens + 1 ? s->prompt : s->tokens + 1, e);
    }
    s->load_seconds = seconds() - start;
    if (!rc)
        s->served = served_decoder(&s->model, s->d);
    if (rc)
        speed_close(s);
    return rc;
}

void speed_close(struct speed *s)
{
    if (s->d)
        decoder_free(s->d);
    json_decref(s->served);
    model_close(&s->model);
    *s = (struct speed){0};
}

/* When tokens came. */
struct clock {
    int64_t seen, batch;
    double first, last; /* the first token of the last sequence; the newest token */
};

static int on_token(void *arg, size_t prompt, int32_t id)
{
    struct clock *c = arg;
    (void)prompt, (void)id;
    c->last = seconds();
    if (++c->seen == c->batch)
        c->first = c->last;
    return 0;
}

/* One run of `batch` sequences of `prompt` ids and `tokens` more. */
static int once(struct speed *s, int64_t prompt, int64_t tokens, int64_t batch, struct clock *clock, struct err *e)
{
    const struct generate_params params = {.max_tokens = tokens, .ignore_eos = true};
    struct generation g[GENERATE_LIVE_MAX] = {0};
    int32_t *ids = xcalloc((size_t)prompt, sizeof *ids);
    for (int64_t i = 0; i < prompt; i++)
        ids[i] = (int32_t)((i + 1) * 7919 % s->model.config.vocab_size);
    for (int64_t i = 0; i < batch; i++)
        g[i] = (struct generation){.prompt = ids, .prompt_count = (size_t)prompt, .index = (uint64_t)i};
    *clock = (struct clock){.batch = batch};
    int rc = generate(s->d, g, (size_t)batch, &params, on_token, clock, e);
    for (int64_t i = 0; i < batch; i++)
        generation_release(&g[i]);
    free(ids);
    return rc;
}

static void tell(const struct speed_figure *f, double spent, double bound, speed_fn *fn, void *arg)
{
    struct speed_figure full = *f;
    const double made = (double)(f->tokens * f->batch);
    full.tokens_per_second = made / spent;
    full.bound_tokens_per_second = made / bound;
    full.share = bound / spent;
    fn(arg, &full);
}

/* From the call to the first token: what a user waits for it. */
static int time_prompt(struct speed *s, const struct speed_params *p, const struct bench_bounds *bounds, speed_fn *fn, void *arg, struct err *e)
{
    double times[SPEED_RUNS_MAX];
    struct clock clock;
    int rc = once(s, s->prompt, 1, 1, &clock, e);
    for (int i = 0; !rc && i < p->runs; i++) {
        double start = seconds();
        rc = once(s, s->prompt, 1, 1, &clock, e);
        times[i] = clock.first - start;
    }
    if (rc)
        return rc;
    struct bench_time t = bench_median(times, (size_t)p->runs);
    struct speed_figure f = {.what = "prompt", .tokens = s->prompt, .batch = 1, .spread = t.spread};
    const double chunks = (double)((s->prompt + GENERATE_STEP_ROWS - 1) / GENERATE_STEP_ROWS), flops = 2 * ((s->weights - s->head) * (double)s->prompt + s->head);
    tell(&f, t.seconds, bench_bound(bounds, chunks * s->weight_bytes, flops, &f.bound), fn, arg);
    return 0;
}

/* From the first token, which the id that all begin with gives, to the last: steps of one token a sequence. */
static int time_generation(struct speed *s, const struct speed_params *p, int64_t batch, const struct bench_bounds *bounds, speed_fn *fn, void *arg, struct err *e)
{
    double times[SPEED_RUNS_MAX];
    struct clock clock;
    int rc = once(s, 1, s->tokens + 1, batch, &clock, e);
    for (int i = 0; !rc && i < p->runs; i++) {
        rc = once(s, 1, s->tokens + 1, batch, &clock, e);
        times[i] = clock.last - clock.first;
    }
    if (rc)
        return rc;
    struct bench_time t = bench_median(times, (size_t)p->runs);
    struct speed_figure f = {.what = "generation", .tokens = s->tokens, .batch = batch, .spread = t.spread};
    const double step = bench_bound(bounds, s->weight_bytes, 2 * s->weights * (double)batch, &f.bound);
    tell(&f, t.seconds, step * (double)s->tokens, fn, arg);
    return 0;
}

int speed_run(struct speed *s, const struct speed_params *p, const struct bench_bounds *bounds, speed_fn *fn, void *arg, struct err *e)
{
    int rc = time_prompt(s, p, bounds, fn, arg, e);
    for (size_t i = 0; !rc && i < p->batch_count; i++)
        rc = time_generation(s, p, p->batches[i], bounds, fn, arg, e);
    return rc;
}

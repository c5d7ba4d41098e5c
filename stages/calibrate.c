/* calibrate: documents -> a fixed list of samples of token ids, which is all that quantize sees of text and tokenizer.
 *
 * Order of candidates: the dataset's, or a Fisher-Yates shuffle over Philox. A document of fewer than min_tokens ids (special tokens counted) is dropped and counted.
 * concat false: each document is one sample, cut to sequence_length. concat true: the ids of the documents are joined and cut to samples of exactly sequence_length.
 * Output: calibration.safetensors (input_ids I32 [T], offsets I64 [n+1]) and calibration.json.
 */
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"
#include "stages/common.h"
#include "stages/lm/config.h"
#include "stages/lm/safetensors.h"
#include "stages/lm/sampler.h"
#include "stages/stages.h"
#include "stages/text/dataset.h"

static int calibrate_check(struct stage_ctx *s, struct err *e)
{
    int rc = param_range(s, "samples", 1, 1 << 24, e);
    if (!rc)
        rc = param_range(s, "sequence_length", 2, 1 << 24, e);
    if (!rc)
        rc = param_range(s, "min_tokens", 1, 1 << 24, e);
    if (!rc)
        rc = param_range(s, "seed", 0, INT64_MAX, e);
    if (!rc && param_int(s, "min_tokens") > param_int(s, "sequence_length") && !param_bool(s, "concat"))
        rc = param_error(s, "min_tokens", ERR_MANIFEST, e, "min_tokens %lld is above sequence_length %lld", (long long)param_int(s, "min_tokens"),
                         (long long)param_int(s, "sequence_length"));
    return rc;
}

static bool takes_ids(const struct stage_ctx *s)
{
    return !strcmp(param_str(s, "field"), "input_ids");
}

static int calibrate_expand(struct stage_ctx *s, struct stage_expansion *x, struct err *e)
{
    const struct stage_input *model = stage_input_find(s, "model"), *data = stage_input_find(s, "data");
    x->artifact = ART_CALIBRATION;
    x->add(x, "");
    if (!fileset_has_model(model->files))
        return model->known ? param_error(s, "model", ERR_MANIFEST, e, "model '%s' has no config.json", model->stage) : 0;
    struct config c;
    int rc = config_load(&c, model->files, e);
    if (rc)
        return err_wrap(e, "stage '%s': model '%s'", s->name, model->stage);
    if (param_int(s, "sequence_length") > c.context)
        rc = param_error(s, "sequence_length", ERR_MANIFEST, e, "sequence_length %lld is above the model's context of %lld tokens",
                         (long long)param_int(s, "sequence_length"), (long long)c.context);
    config_release(&c);
    if (!rc && !takes_ids(s) && !fileset_find(model->files, "tokenizer.json"))
        rc = param_error(s, "model", ERR_MANIFEST, e, "model '%s' has no tokenizer.json, and field '%s' is text", model->stage, param_str(s, "field"));
    struct dataset *d = NULL;
    if (!rc && data->known) { /* refuses what cannot be read before anything runs */
        rc = dataset_open(data->files, param_str(s, "field"), &d, e);
        if (rc)
            rc = param_error(s, "data", (enum err_code)-rc, e, "data '%s': %s", data->stage, e ? e->text : "");
        dataset_close(d);
    }
    return rc;
}

static bool is_tokenizer(const char *name)
{
    return !strcmp(name, "tokenizer.json");
}

static int calibrate_fields(struct stage_ctx *s, size_t node, json_t *out, struct err *e)
{
    (void)node;
    static const char *const keyed[] = {"field", "samples", "sequence_length", "select", "concat", "min_tokens", NULL};
    const struct stage_input *model = stage_input_find(s, "model"), *data = stage_input_find(s, "data");
    struct config c;
    int rc = config_load(&c, model->files, e);
    if (rc)
        return rc;
    param_copy(s, out, keyed);
    if (!strcmp(param_str(s, "select"), "shuffle"))
        json_object_set_new(out, "seed", json_integer((json_int_t)param_int(s, "seed")));
    json_object_set_new(out, "vocab_size", json_integer((json_int_t)c.vocab_size));
    if (!takes_ids(s))
        json_object_set_new(out, "tokenizer", fileset_json(model->files, is_tokenizer));
    json_object_set_new(out, "data", fileset_json(data->files, NULL));
    config_release(&c);
    return 0;
}

/* One pass over the dataset for the documents whose rank (place in the chosen order) is below `limit`. */
struct doc_ids {
    struct tok_ids ids;
    bool taken;
};

struct gather {
    struct stage_ctx *s;
    struct run_ctx *r;
    struct tok *tok;     /* NULL when documents are ids */
    int64_t vocab, cut;  /* cut: ids kept of a document, 0 = all */
    uint64_t count;      /* documents of the dataset, once known */
    uint64_t *rank;      /* NULL: rank = place in the dataset */
    struct doc_ids *docs; /* by rank, doc_count of them */
    uint64_t doc_count;
};

static int doc_to_ids(struct gather *g, const struct dataset_doc *doc, struct tok_ids *out, struct err *e)
{
    int rc = 0;
    if (doc->ids) {
        for (size_t i = 0; i < doc->id_count; i++)
            tok_ids_push(out, doc->ids[i]);
    } else if (g->tok) {
        rc = tok_encode(g->tok, doc->text, doc->text_bytes, true, out, e);
    } else {
        rc = err_set(e, ERR_FORMAT, "the document is text, not input_ids");
    }
    for (size_t i = 0; !rc && i < out->count; i++)
        if (out->ids[i] < 0 || out->ids[i] >= g->vocab)
            rc = err_set(e, ERR_FORMAT, "token id %d is outside the model's vocabulary of %lld: is this the tokenizer of another model?", out->ids[i], (long long)g->vocab);
    if (rc)
        return err_wrap(e, "%s:%ld", doc->file, doc->line);
    if (g->cut && out->count > (size_t)g->cut)
        out->count = (size_t)g->cut;
    return 0;
}

static int open_data(struct gather *g, struct dataset **d, struct err *e)
{
    return dataset_open(stage_input_find(g->s, "data")->files, param_str(g->s, "field"), d, e);
}

/* Fills docs[rank] for all documents of rank < limit; stops early when order is the dataset's. */
static int gather_below(struct gather *g, uint64_t limit, struct err *e)
{
    struct dataset *d = NULL;
    struct dataset_doc doc;
    int rc = open_data(g, &d, e), more = 0;
    g->docs = xreallocarray(g->docs, limit, sizeof *g->docs);
    memset(g->docs + g->doc_count, 0, (limit - g->doc_count) * sizeof *g->docs);
    uint64_t place = 0, seen = 0;
    while (!rc && seen < limit - g->doc_count && (more = dataset_next(d, &doc, e)) > 0) {
        uint64_t rank = g->rank ? g->rank[place] : place;
        place++;
        if (rank < g->doc_count || rank >= limit)
            continue;
        rc = doc_to_ids(g, &doc, &g->docs[rank].ids, e);
        g->docs[rank].taken = true;
        seen++;
        if (!rc && g->r->progress && g->r->progress(g->r, (double)(g->doc_count + seen), (double)limit, "documents"))
            rc = err_set(e, ERR_CANCELLED, "stopped");
    }
    if (more < 0)
        rc = more;
    dataset_close(d);
    g->doc_count = limit;
    return rc;
}

static int count_documents(struct gather *g, struct err *e)
{
    struct dataset *d = NULL;
    struct dataset_doc doc;
    int rc = open_data(g, &d, e), more = 0;
    while (!rc && (more = dataset_next(d, &doc, e)) > 0)
        g->count++;
    dataset_close(d);
    return rc ? rc : more;
}

static int shuffle_documents(struct gather *g, struct err *e)
{
    int rc = count_documents(g, e);
    if (rc)
        return rc;
    uint64_t *order = xcalloc(g->count, sizeof *order);
    g->rank = xcalloc(g->count, sizeof *g->rank);
    philox_shuffle((uint64_t)param_int(g->s, "seed"), order, g->count);
    for (uint64_t i = 0; i < g->count; i++)
        g->rank[order[i]] = i;
    free(order);
    return 0;
}

struct samples {
    struct tok_ids ids;
    int64_t *offsets; /* count + 1 */
    size_t count, cap;
    uint64_t documents, dropped;
};

/* Builds the samples from the documents gathered so far. */
static void cut_samples(const struct gather *g, struct samples *out)
{
    size_t want = (size_t)param_int(g->s, "samples"), len = (size_t)param_int(g->s, "sequence_length"), min = (size_t)param_int(g->s, "min_tokens");
    bool concat = param_bool(g->s, "concat");
    out->ids.count = out->count = 0;
    out->documents = out->dropped = 0;
    for (uint64_t i = 0; i < g->doc_count && out->count < want; i++) {
        const struct tok_ids *ids = &g->docs[i].ids;
        if (!g->docs[i].taken)
            continue;
        out->documents++;
        if (ids->count < min) {
            out->dropped++;
            continue;
        }
        for (size_t j = 0; j < ids->count && out->count < want; j++) {
            tok_ids_push(&out->ids, ids->ids[j]);
            bool end = concat ? out->ids.count == len * (out->count + 1) : j + 1 == ids->count;
            if (end) {
                MEM_GROW(out->offsets, out->count + 1, out->cap);
                out->offsets[++out->count] = (int64_t)out->ids.count;
            }
        }
    }
    if (out->count)
        out->ids.count = (size_t)out->offsets[out->count];
}

static int make_samples(struct gather *g, struct samples *out, struct err *e)
{
    uint64_t want = (uint64_t)param_int(g->s, "samples"), limit = want;
    int rc = 0;
    if (!strcmp(param_str(g->s, "select"), "shuffle"))
        rc = shuffle_documents(g, e);
    out->cap = 8;
    out->offsets = xcalloc(out->cap, sizeof *out->offsets);
    for (; !rc; limit *= 2) {
        if (g->rank && limit > g->count)
            limit = g->count;
        uint64_t before = g->doc_count;
        rc = gather_below(g, limit > before ? limit : before, e);
        if (rc)
            break;
        cut_samples(g, out);
        if (out->count >= want)
            return 0;
        if (limit <= before || (!g->rank && !g->docs[limit - 1].taken)) /* the dataset is used up */
            break;
    }
    if (rc)
        return rc;
    return param_error(g->s, "samples", ERR_DATA, e, "%lld samples of %lld tokens asked for, the data gives %zu (%llu documents, %llu of them dropped as shorter than min_tokens %lld)",
                       (long long)want, (long long)param_int(g->s, "sequence_length"), out->count, (unsigned long long)out->documents, (unsigned long long)out->dropped,
                       (long long)param_int(g->s, "min_tokens"));
}

static int write_samples(struct stage_ctx *s, const struct samples *m, const char *outdir, struct err *e)
{
    char *path = io_join(outdir, "calibration.safetensors");
    struct st_writer *w = NULL;
    int rc = st_writer_open(path, false, &w, e);
    if (!rc) {
        int64_t t = (int64_t)m->ids.count, n = (int64_t)m->count + 1;
        st_writer_declare(w, "input_ids", DT_I32, 1, &t);
        st_writer_declare(w, "offsets", DT_I64, 1, &n);
        rc = st_writer_put(w, "input_ids", m->ids.ids, m->ids.count * sizeof *m->ids.ids, e);
        if (!rc)
            rc = st_writer_put(w, "offsets", m->offsets, (m->count + 1) * sizeof *m->offsets, e);
        int rc2 = st_writer_close(w, rc ? NULL : e);
        rc = rc ? rc : rc2;
    }
    free(path);
    if (rc)
        return rc;
    json_t *v = json_object();
    rc = calibrate_fields(s, 0, v, e);
    if (!rc) {
        json_t *all = json_pack("{s:I,s:I,s:I,s:I,s:o}", "samples", (json_int_t)m->count, "tokens", (json_int_t)m->ids.count, "documents", (json_int_t)m->documents, "dropped",
                                (json_int_t)m->dropped, "parameters", json_incref(v));
        rc = output_json(outdir, "calibration.json", all, e);
        json_decref(all);
    }
    json_decref(v);
    return rc;
}

static int calibrate_run(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, const char *outdir, struct err *e)
{
    (void)node;
    (void)chain;
    struct gather g = {.s = s, .r = r};
    struct samples m = {.ids = TOK_IDS_INIT};
    struct config c;
    const struct stage_input *model = stage_input_find(s, "model");
    int rc = config_load(&c, model->files, e);
    if (rc)
        return err_wrap(e, "stage '%s'", s->name);
    g.vocab = c.vocab_size;
    config_release(&c);
    g.cut = param_bool(s, "concat") ? 0 : param_int(s, "sequence_length");
    if (!takes_ids(s))
        rc = tok_load_fileset(model->files, &g.tok, e);
    if (!rc)
        rc = make_samples(&g, &m, e);
    if (!rc)
        rc = write_samples(s, &m, outdir, e);
    if (rc && e && rc != -ERR_CANCELLED && strncmp(e->text, "stage ", 6) != 0)
        err_wrap(e, "stage '%s'", s->name);
    if (!rc) {
        json_object_set_new(r->metrics, "samples", json_integer((json_int_t)m.count));
        json_object_set_new(r->metrics, "tokens", json_integer((json_int_t)m.ids.count));
        json_object_set_new(r->metrics, "dropped", json_integer((json_int_t)m.dropped));
    }
    for (uint64_t i = 0; i < g.doc_count; i++)
        tok_ids_release(&g.docs[i].ids);
    free(g.docs);
    free(g.rank);
    tok_free(g.tok);
    tok_ids_release(&m.ids);
    free(m.offsets);
    return rc;
}

const struct stage_kind stage_calibrate = {
    .name = "calibrate",
    .revision = 1,
    .check = calibrate_check,
    .expand = calibrate_expand,
    .fields = calibrate_fields,
    .run = calibrate_run,
};

/* fetch: brings an input in. Node "" is the source's files, resolved where they lie; a model has a second node, "index": every tensor's name, dtype, shape, place and
 * SHA-256, so that a change in one layer's weights is a change of that layer only. */
#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"
#include "pipeline/base/io.h"
#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"
#include "pipeline/base/pool.h"
#include "stages/common.h"
#include "stages/lm/safetensors.h"
#include "stages/source/file.h"
#include "stages/stages.h"

struct fetch_state {
    struct fileset files;
};

static void fetch_release(struct stage_ctx *s)
{
    struct fetch_state *f = s->state;
    if (f)
        fileset_release(&f->files);
    free(f);
    s->state = NULL;
}

static int fetch_resolve(struct stage_ctx *s, struct resolve_ctx *r, struct fileset *out, struct err *e)
{
    char *path = param_path(s, param_str(s, "file"));
    int rc = source_file_resolve(path, param_json(s, "include"), param_json(s, "exclude"), r, out, e);
    free(path);
    if (rc)
        return param_error(s, "file", (enum err_code)-rc, e, "%s", e ? e->text : "");
    fetch_release(s);
    struct fetch_state *f = s->state = xcalloc(1, sizeof *f);
    fileset_copy(&f->files, out);
    return 0;
}

/* A folder with a config.json is a model, and with a quantization config a checkpoint. */
static int artifact_of(const struct fileset *files, enum artifact *out, struct err *e)
{
    const struct fileset_file *config = fileset_find(files, "config.json");
    *out = ART_FILES;
    if (!config)
        return 0;
    json_t *v = json_parse_file(config->path, 16 << 20, e);
    if (!v)
        return e ? -e->code : -ERR_FORMAT;
    bool quantized = json_is_object(json_object_get(v, "quantization_config")) || fileset_find(files, "quantize_config.json");
    *out = quantized ? ART_CHECKPOINT : ART_MODEL;
    json_decref(v);
    return 0;
}

static int fetch_expand(struct stage_ctx *s, struct stage_expansion *x, struct err *e)
{
    const struct fetch_state *f = s->state;
    x->add(x, "");
    int rc = artifact_of(&f->files, &x->artifact, e);
    if (!rc && x->artifact != ART_FILES)
        x->add(x, "index");
    return rc;
}

static bool is_weight_file(const char *name)
{
    size_t n = strlen(name);
    return !strcmp(name, "model.safetensors.index.json") || (n > 12 && !strcmp(name + n - 12, ".safetensors"));
}

static int fetch_fields(struct stage_ctx *s, size_t node, json_t *out, struct err *e)
{
    (void)node;
    (void)e;
    const struct fetch_state *f = s->state;
    json_object_set_new(out, "files", fileset_json(&f->files, is_weight_file));
    return 0;
}

struct index_job {
    const struct st_set *set;
    char (*digests)[65];
    int64_t *bad; /* index of the first element that is not finite, or -1 */
};

static int64_t first_bad_element(const struct st_tensor *t, const unsigned char *p)
{
    uint64_t width = dtype_bytes(t->dtype), n = t->bytes / (width ? width : 1);
    for (uint64_t i = 0; i < n; i++) {
        uint32_t u = 0;
        memcpy(&u, p + i * width, width);
        uint32_t mask = t->dtype == DT_F32 ? 0x7f800000u : t->dtype == DT_BF16 ? 0x7f80u : 0x7c00u;
        if ((u & mask) == mask)
            return (int64_t)i;
    }
    return -1;
}

static void index_tensor(void *arg, size_t i)
{
    struct index_job *j = arg;
    const struct st_tensor *t = &j->set->tensors[i];
    const unsigned char *p = st_data(j->set, t);
    stage_sha256(p, t->bytes, j->digests[i]);
    bool is_float = t->dtype == DT_F32 || t->dtype == DT_F16 || t->dtype == DT_BF16;
    j->bad[i] = is_float ? first_bad_element(t, p) : -1;
    st_drop(j->set, t);
}

static json_t *index_json(const struct st_set *set, char (*digests)[65])
{
    json_t *tensors = json_object();
    for (size_t i = 0; i < set->tensor_count; i++) {
        const struct st_tensor *t = &set->tensors[i];
        json_t *shape = json_array();
        for (int d = 0; d < t->ndim; d++)
            json_array_append_new(shape, json_integer((json_int_t)t->shape[d]));
        json_object_set_new(tensors, t->name,
                            json_pack("{s:s,s:o,s:s,s:I,s:I,s:s}", "dtype", dtype_name(t->dtype), "shape", shape, "file", set->files[t->file].name, "offset",
                                      (json_int_t)t->offset, "bytes", (json_int_t)t->bytes, "sha256", digests[i]));
    }
    return json_pack("{s:i,s:o}", "version", 1, "tensors", tensors);
}

static int fetch_run(struct stage_ctx *s, struct run_ctx *r, size_t node, void *chain, const char *outdir, struct err *e)
{
    (void)node;
    (void)chain;
    const struct fetch_state *f = s->state;
    struct st_set set = {0};
    int rc = st_open(&set, &f->files, e);
    if (rc)
        return err_wrap(e, "stage '%s'", s->name);
    struct index_job j = {&set, xcalloc(set.tensor_count, sizeof *j.digests), xcalloc(set.tensor_count, sizeof *j.bad)};
    pool_run(r->pool, set.tensor_count, index_tensor, &j);
    uint64_t bytes = 0;
    for (size_t i = 0; !rc && i < set.tensor_count; i++) {
        bytes += set.tensors[i].bytes;
        if (j.bad[i] >= 0)
            rc = err_set(e, ERR_NUMERIC, "stage '%s': tensor %s of %s: element %lld is not a finite number", s->name, set.tensors[i].name,
                         set.files[set.tensors[i].file].name, (long long)j.bad[i]);
    }
    if (!rc) {
        json_t *v = index_json(&set, j.digests);
        rc = output_json(outdir, STAGE_INDEX_FILE, v, e);
        json_decref(v);
        json_object_set_new(r->metrics, "tensors", json_integer((json_int_t)set.tensor_count));
        json_object_set_new(r->metrics, "bytes", json_integer((json_int_t)bytes));
        json_t *digests = json_object(); /* in the record, so that keys of layers are made without opening a blob */
        for (size_t i = 0; i < set.tensor_count; i++)
            json_object_set_new(digests, set.tensors[i].name, json_string(j.digests[i]));
        json_object_set_new(r->metrics, "digests", digests);
    }
    free(j.digests);
    free(j.bad);
    st_close(&set);
    return rc;
}

const struct stage_kind stage_fetch = {
    .name = "fetch",
    .revision = 1,
    .source = true,
    .resolve = fetch_resolve,
    .expand = fetch_expand,
    .fields = fetch_fields,
    .run = fetch_run,
    .release = fetch_release,
};

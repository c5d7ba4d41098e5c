#include "stages/calibration.h"

static int find(const struct st_set *set, const char *name, enum dtype dtype, const void **data, int64_t *count, struct err *e)
{
    const struct st_tensor *t = st_find(set, name);
    if (!t || t->dtype != dtype || t->ndim != 1)
        return err_set(e, ERR_FORMAT, "calibration.safetensors: %s is missing or not %s [n]", name, dtype_name(dtype));
    *data = st_data(set, t);
    *count = t->shape[0];
    return 0;
}

static int check(const struct calibration *k, int64_t offsets, int64_t ids, const struct config *c, struct err *e)
{
    if (offsets < 2 || k->offsets[0] != 0 || k->offsets[offsets - 1] != ids)
        return err_set(e, ERR_FORMAT, "calibration.safetensors: offsets do not span the %lld ids", (long long)ids);
    for (int64_t i = 0; i < k->samples; i++) {
        int64_t len = k->offsets[i + 1] - k->offsets[i];
        if (len < 1 || len > c->context)
            return err_set(e, ERR_FORMAT, "calibration sample %lld has %lld tokens; the model's context is %lld", (long long)i, (long long)len, (long long)c->context);
    }
    for (int64_t i = 0; i < ids; i++)
        if (k->ids[i] < 0 || k->ids[i] >= c->vocab_size)
            return err_set(e, ERR_FORMAT, "calibration id %d is outside the model's vocabulary of %lld", k->ids[i], (long long)c->vocab_size);
    return 0;
}

int calibration_open(struct calibration *k, const struct fileset *files, const struct config *c, struct err *e)
{
    *k = (struct calibration){.ids = NULL};
    const struct fileset_file *f = fileset_find(files, "calibration.safetensors");
    if (!f)
        return err_set(e, ERR_NOTFOUND, "the calibration has no calibration.safetensors");
    const void *ids = NULL, *offsets = NULL;
    int64_t id_count = 0, offset_count = 0;
    int rc = st_open_file(&k->set, f->path, e);
    if (!rc)
        rc = find(&k->set, "input_ids", DT_I32, &ids, &id_count, e);
    if (!rc)
        rc = find(&k->set, "offsets", DT_I64, &offsets, &offset_count, e);
    if (!rc) {
        k->ids = ids;
        k->offsets = offsets;
        k->samples = offset_count - 1;
        rc = check(k, offset_count, id_count, c, e);
    }
    if (rc)
        calibration_close(k);
    return rc;
}

void calibration_close(struct calibration *k)
{
    st_close(&k->set);
    *k = (struct calibration){.ids = NULL};
}

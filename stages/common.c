#include "stages/common.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "pipeline/base/json.h"

static json_t *get(const struct stage_ctx *s, const char *name)
{
    json_t *v = json_object_get(s->params, name);
    return v && json_is_null(v) ? NULL : v;
}

int64_t param_int(const struct stage_ctx *s, const char *name)
{
    return (int64_t)json_integer_value(get(s, name));
}

double param_real(const struct stage_ctx *s, const char *name)
{
    return json_number_value(get(s, name));
}

bool param_bool(const struct stage_ctx *s, const char *name)
{
    return json_is_true(get(s, name));
}

const char *param_str(const struct stage_ctx *s, const char *name)
{
    return json_string_value(get(s, name));
}

const json_t *param_json(const struct stage_ctx *s, const char *name)
{
    return get(s, name);
}

void param_copy(const struct stage_ctx *s, json_t *out, const char *const *names)
{
    for (; *names; names++) {
        json_t *v = get(s, *names);
        json_object_set_new(out, *names, v ? json_deep_copy(v) : json_null());
    }
}

int param_error(const struct stage_ctx *s, const char *path, enum err_code code, struct err *e, const char *fmt, ...)
{
    char text[ERR_TEXT_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    err_set(e, code, "stage '%s': %s", s->name, text);
    if (s->place)
        s->place(s, path, e);
    return -(int)code;
}

int param_range(const struct stage_ctx *s, const char *name, int64_t lo, int64_t hi, struct err *e)
{
    int64_t v = param_int(s, name);
    if (v >= lo && v <= hi)
        return 0;
    return param_error(s, name, ERR_MANIFEST, e, "%s is %lld, outside %lld..%lld", name, (long long)v, (long long)lo, (long long)hi);
}

char *param_path(const struct stage_ctx *s, const char *path)
{
    char *joined = io_join(s->base_dir, path), *full = io_absolute(joined);
    free(joined);
    return full;
}

json_t *fileset_json(const struct fileset *f, bool (*keep)(const char *name))
{
    json_t *out = json_object();
    for (size_t i = 0; i < f->count; i++)
        if (!keep || keep(f->files[i].name))
            json_object_set_new(out, f->files[i].name, json_string(f->files[i].sha256));
    return out;
}

bool fileset_has_model(const struct fileset *f)
{
    return fileset_find(f, "config.json") != NULL;
}

int tok_load_fileset(const struct fileset *f, struct tok **out, struct err *e)
{
    const struct fileset_file *t = fileset_find(f, "tokenizer.json");
    if (!t) {
        const char *have = fileset_find(f, "tokenizer.model") ? " (tokenizer.model alone is not read; save the fast tokenizer)" : "";
        return err_set(e, ERR_NOTFOUND, "the model has no tokenizer.json%s", have);
    }
    return tok_load_file(t->path, out, e);
}

int output_json(const char *dir, const char *name, const json_t *v, struct err *e)
{
    struct buf b = BUF_INIT;
    json_pretty(v, &b);
    char *path = io_join(dir, name);
    int rc = io_write_file_atomic(path, b.data, b.len, e);
    free(path);
    buf_release(&b);
    return rc;
}

/* Reading and writing of safetensors files. The header of a foreign file is hostile input: every number in it is checked before it is used.
 */
#include "stages/lm/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/half.h"
#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"

enum { HEADER_MAX_BYTES = 100 * 1000 * 1000, INDEX_MAX_BYTES = 100 * 1000 * 1000, PREFIX_BYTES = 8 };

int64_t st_elems(const struct st_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++)
        n *= t->shape[i]; /* checked for overflow when the header was read */
    return n;
}

/* Parsing one header */

struct header {
    struct st_set *set;
    size_t file;
    const char *name;
    uint64_t data_start, data_bytes;
};

static int bad(const struct header *h, const char *tensor, struct err *e, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

static int bad(const struct header *h, const char *tensor, struct err *e, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_set(e, ERR_FORMAT, "%s: tensor '%.200s': %s", h->name, tensor, text);
}

static int parse_dtype(const struct header *h, const char *key, const json_t *o, struct st_tensor *t, struct err *e)
{
    const json_t *v = json_object_get(o, "dtype");
    if (!json_is_string(v))
        return bad(h, key, e, "\"dtype\" must be a string");
    int dtype = dtype_parse(json_string_value(v));
    if (dtype < 0)
        return bad(h, key, e, "dtype '%.40s' is not supported", json_string_value(v));
    t->dtype = (enum dtype)dtype;
    return 0;
}

/* Leaves the size in t->bytes. */
static int parse_shape(const struct header *h, const char *key, const json_t *o, struct st_tensor *t, struct err *e)
{
    const json_t *v = json_object_get(o, "shape");
    if (!json_is_array(v))
        return bad(h, key, e, "\"shape\" must be a list");
    if (json_array_size(v) > ST_MAX_DIMS)
        return bad(h, key, e, "%zu dimensions; at most %d are supported", json_array_size(v), ST_MAX_DIMS);
    t->ndim = (int)json_array_size(v);
    /* A zero dimension must not hide an overflow of the others: elements are counted with zeros taken as ones. */
    int64_t elems = 1;
    bool empty = false;
    for (int i = 0; i < t->ndim; i++) {
        const json_t *d = json_array_get(v, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return bad(h, key, e, "dimension %d is not a whole number of at least 0", i);
        t->shape[i] = json_integer_value(d);
        empty |= t->shape[i] == 0;
        if (t->shape[i] && __builtin_mul_overflow(elems, t->shape[i], &elems))
            return bad(h, key, e, "the product of its shape overflows");
    }
    int64_t bytes;
    if (__builtin_mul_overflow(elems, (int64_t)dtype_bytes(t->dtype), &bytes))
        return bad(h, key, e, "the product of its shape overflows");
    t->bytes = empty ? 0 : (uint64_t)bytes;
    return 0;
}

static int parse_offsets(const struct header *h, const char *key, const json_t *o, struct st_tensor *t, struct err *e)
{
    const json_t *v = json_object_get(o, "data_offsets"), *b = json_array_get(v, 0), *n = json_array_get(v, 1);
    if (json_array_size(v) != 2 || !json_is_integer(b) || !json_is_integer(n) || json_integer_value(b) < 0 || json_integer_value(n) < 0)
        return bad(h, key, e, "\"data_offsets\" must be two whole numbers of at least 0");
    uint64_t begin = (uint64_t)json_integer_value(b), end = (uint64_t)json_integer_value(n);
    if (begin > end)
        return bad(h, key, e, "data_offsets [%" PRIu64 ", %" PRIu64 ") end before they begin", begin, end);
    if (end > h->data_bytes)
        return bad(h, key, e, "data_offsets [%" PRIu64 ", %" PRIu64 ") reach beyond the file's %" PRIu64 " bytes of data", begin, end,
                   h->data_bytes);
    if (end - begin != t->bytes)
        return bad(h, key, e, "data_offsets [%" PRIu64 ", %" PRIu64 ") hold %" PRIu64 " bytes, its dtype and shape need %" PRIu64, begin,
                   end, end - begin, t->bytes);
    t->offset = h->data_start + begin;
    return 0;
}

static int parse_tensor(const struct header *h, const char *key, const json_t *o, struct err *e)
{
    struct st_set *set = h->set;
    struct st_tensor t = {.file = h->file};
    if (!json_is_object(o))
        return bad(h, key, e, "its entry must be an object");
    const char *field;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)o, field, value)
    {
        (void)value;
        if (strcmp(field, "dtype") && strcmp(field, "shape") && strcmp(field, "data_offsets"))
            return bad(h, key, e, "unknown field '%.60s'", field);
    }
    int rc = parse_dtype(h, key, o, &t, e);
    if (!rc)
        rc = parse_shape(h, key, o, &t, e);
    if (!rc)
        rc = parse_offsets(h, key, o, &t, e);
    if (rc)
        return rc;
    MEM_GROW(set->tensors, set->tensor_count, set->tensor_cap);
    t.name = xstrdup(key);
    set->tensors[set->tensor_count++] = t;
    return 0;
}

static int parse_metadata(const char *name, const json_t *o, struct err *e)
{
    if (!json_is_object(o))
        return err_set(e, ERR_FORMAT, "%s: \"__metadata__\" must be an object", name);
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)o, key, v)
    {
        if (!json_is_string(v))
            return err_set(e, ERR_FORMAT, "%s: \"__metadata__\": '%.60s' must be a string", name, key);
    }
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes) /* empty ones first, so that they touch what precedes */
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Extents in order must be a partition of the data: neither overlap nor hole, up to the file's end. */
static int check_extents(const struct header *h, const struct st_tensor *t, size_t n, struct err *e)
{
    uint64_t at = h->data_start;
    for (size_t i = 0; i < n; i++) {
        if (t[i].offset < at)
            return bad(h, t[i].name, e, "overlaps tensor '%.200s'", t[i - 1].name);
        if (t[i].offset > at)
            return bad(h, t[i].name, e, "%" PRIu64 " bytes before it belong to no tensor", t[i].offset - at);
        at += t[i].bytes;
    }
    uint64_t end = h->data_start + h->data_bytes;
    if (at != end)
        return err_set(e, ERR_FORMAT, "%s: %" PRIu64 " bytes at its end belong to no tensor", h->name, end - at);
    return 0;
}

static int name_tensors(const struct header *h, size_t first, struct err *e)
{
    struct st_set *set = h->set;
    for (size_t i = first; i < set->tensor_count; i++) {
        const struct st_tensor *t = &set->tensors[i];
        const struct st_tensor *other = st_find(set, t->name);
        if (other)
            return bad(h, t->name, e, "is also in %s", other->file < set->file_count ? set->files[other->file].name : "another file");
        map_put(&set->by_name, t->name, (void *)(uintptr_t)(i + 1)); /* an index, because the array moves when it grows */
    }
    return 0;
}

static int header_length(const unsigned char *p, size_t bytes, uint64_t file_bytes, const char *name, uint64_t *out, struct err *e)
{
    if (bytes < PREFIX_BYTES || file_bytes < PREFIX_BYTES)
        return err_set(e, ERR_FORMAT, "%s: %" PRIu64 " bytes are too few for a safetensors file", name, file_bytes);
    uint64_t n = 0;
    for (int i = PREFIX_BYTES - 1; i >= 0; i--)
        n = n << 8 | p[i];
    if (n > HEADER_MAX_BYTES)
        return err_set(e, ERR_FORMAT, "%s: header of %" PRIu64 " bytes; at most %d are allowed", name, n, HEADER_MAX_BYTES);
    if (n > file_bytes - PREFIX_BYTES)
        return err_set(e, ERR_FORMAT, "%s: header of %" PRIu64 " bytes in a file of %" PRIu64, name, n, file_bytes);
    if (n > bytes - PREFIX_BYTES)
        return err_set(e, ERR_FORMAT, "%s: header of %" PRIu64 " bytes, of which only %zu are here", name, n, bytes - PREFIX_BYTES);
    *out = n;
    return 0;
}

int st_parse_header(struct st_set *set, size_t file, const unsigned char *p, size_t bytes, uint64_t file_bytes, const char *name,
                    struct err *e)
{
    uint64_t n = 0;
    int rc = header_length(p, bytes, file_bytes, name, &n, e);
    if (rc)
        return rc;
    json_t *root = json_parse((const char *)p + PREFIX_BYTES, (size_t)n, name, e);
    if (!root)
        return -ERR_FORMAT;
    struct header h = {set, file, name, PREFIX_BYTES + n, file_bytes - PREFIX_BYTES - n};
    size_t first = set->tensor_count;
    if (!json_is_object(root))
        rc = err_set(e, ERR_FORMAT, "%s: the header must be a JSON object", name);
    const char *key;
    json_t *v;
    json_object_foreach(root, key, v)
    {
        rc = strcmp(key, "__metadata__") ? parse_tensor(&h, key, v, e) : parse_metadata(name, v, e);
        if (rc)
            break;
    }
    json_decref(root);
    size_t added = set->tensor_count - first;
    struct st_tensor *t = added ? set->tensors + first : NULL;
    if (added)
        qsort(t, added, sizeof *t, by_offset);
    if (!rc)
        rc = check_extents(&h, t, added, e);
    return rc ? rc : name_tensors(&h, first, e);
}

/* Sets of files */

static int add_file(struct st_set *set, const char *name, const char *path, struct err *e)
{
    set->files = xreallocarray(set->files, set->file_count + 1, sizeof *set->files);
    struct st_file *f = &set->files[set->file_count++];
    *f = (struct st_file){.name = xstrdup(name), .path = xstrdup(path)};
    int rc = io_map(&f->map, path, e);
    if (rc)
        return rc;
    static const unsigned char none[1];
    rc = st_parse_header(set, set->file_count - 1, f->map.data ? f->map.data : none, f->map.bytes, f->map.bytes, path, e);
    if (rc)
        return rc;
    uint64_t n = 0;
    for (int i = PREFIX_BYTES - 1; i >= 0; i--)
        n = n << 8 | f->map.data[i];
    f->data_start = PREFIX_BYTES + n;
    return 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The shards that weight_map names, each once, in byte order. */
static int open_shards(struct st_set *set, const struct fileset *files, const json_t *map, const char *index, struct err *e)
{
    size_t n = 0;
    int rc = 0;
    const char **shards = xcalloc(json_object_size(map) + 1, sizeof *shards), *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)map, key, v)
    {
        if (!json_is_string(v)) {
            rc = err_set(e, ERR_FORMAT, "%s: \"weight_map\": '%.200s' must name a file", index, key);
            goto out;
        }
        shards[n++] = json_string_value(v);
    }
    qsort(shards, n, sizeof *shards, by_text);
    for (size_t i = 0; i < n && !rc; i++) {
        if (i && !strcmp(shards[i], shards[i - 1]))
            continue;
        const struct fileset_file *f = fileset_find(files, shards[i]);
        rc = f ? add_file(set, f->name, f->path, e)
               : err_set(e, ERR_NOTFOUND, "%s: the shard '%.200s' that it names is missing", index, shards[i]);
    }
out:
    free(shards);
    return rc;
}

static int check_index(const struct st_set *set, const json_t *map, const char *index, struct err *e)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)map, key, v)
    {
        const struct st_tensor *t = st_find(set, key);
        const char *want = json_string_value(v);
        if (!t)
            return err_set(e, ERR_FORMAT, "%s: tensor '%.200s' is not in %.200s", index, key, want);
        if (strcmp(set->files[t->file].name, want))
            return err_set(e, ERR_FORMAT, "%s: tensor '%.200s' is in %.200s, not in %.200s", index, key, set->files[t->file].name, want);
    }
    return 0;
}

static int open_index(struct st_set *set, const struct fileset_file *f, const struct fileset *files, struct err *e)
{
    json_t *root = json_parse_file(f->path, INDEX_MAX_BYTES, e);
    if (!root)
        return e ? -e->code : -ERR_FORMAT;
    const json_t *map = json_object_get(root, "weight_map");
    int rc = json_is_object(map) ? open_shards(set, files, map, f->path, e)
                                 : err_set(e, ERR_FORMAT, "%s: \"weight_map\" must be an object", f->path);
    if (!rc)
        rc = check_index(set, map, f->path, e);
    json_decref(root);
    return rc;
}

int st_open(struct st_set *set, const struct fileset *files, struct err *e)
{
    *set = (struct st_set){0};
    const struct fileset_file *one = fileset_find(files, "model.safetensors"), *index = fileset_find(files, "model.safetensors.index.json");
    int rc;
    if (one)
        rc = add_file(set, one->name, one->path, e);
    else if (index)
        rc = open_index(set, index, files, e);
    else
        rc = err_set(e, ERR_NOTFOUND, "neither model.safetensors nor model.safetensors.index.json is there");
    if (rc)
        st_close(set);
    return rc;
}

int st_open_file(struct st_set *set, const char *path, struct err *e)
{
    *set = (struct st_set){0};
    int rc = add_file(set, io_basename(path), path, e);
    if (rc)
        st_close(set);
    return rc;
}

void st_close(struct st_set *set)
{
    for (size_t i = 0; i < set->file_count; i++) {
        io_unmap(&set->files[i].map);
        free(set->files[i].name);
        free(set->files[i].path);
    }
    for (size_t i = 0; i < set->tensor_count; i++) {
        free(set->tensors[i].name);
        free(set->tensors[i].aligned);
    }
    free(set->files);
    free(set->tensors);
    map_release(&set->by_name);
    *set = (struct st_set){0};
}

const struct st_tensor *st_find(const struct st_set *set, const char *name)
{
    uintptr_t i = (uintptr_t)map_get(&set->by_name, name);
    return i ? &set->tensors[i - 1] : NULL;
}

const void *st_data(const struct st_set *set, const struct st_tensor *t)
{
    return set->files[t->file].map.data + t->offset;
}

int st_data_aligned(const struct st_set *set, const struct st_tensor *t, const void **out, struct err *e)
{
    const void *p = st_data(set, t);
    *out = p;
    if ((uintptr_t)p % dtype_bytes(t->dtype) == 0 || !t->bytes)
        return 0;
    struct st_tensor *own = &set->tensors[t - set->tensors];
    void *copy = __atomic_load_n(&own->aligned, __ATOMIC_ACQUIRE), *none = NULL;
    if (!copy) {
        copy = malloc(t->bytes);
        if (!copy)
            return err_set(e, ERR_NOMEM, "%" PRIu64 " bytes for tensor '%s', which lies unaligned in its file", t->bytes, t->name);
        memcpy(copy, p, t->bytes);
        if (!__atomic_compare_exchange_n(&own->aligned, &none, copy, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            free(copy); /* another thread was first */
            copy = none;
        }
    }
    *out = copy;
    return 0;
}

void st_drop(const struct st_set *set, const struct st_tensor *t)
{
    io_map_drop(&set->files[t->file].map, t->offset, t->bytes);
    free(__atomic_exchange_n(&set->tensors[t - set->tensors].aligned, NULL, __ATOMIC_ACQ_REL));
}

int st_copy_f32(const struct st_set *set, const struct st_tensor *t, float *out, struct err *e)
{
    const unsigned char *p = st_data(set, t);
    int64_t n = st_elems(t);
    if (t->dtype != DT_F32 && t->dtype != DT_F16 && t->dtype != DT_BF16)
        return err_set(e, ERR_UNSUPPORTED, "tensor '%s' is %s; F32, F16 or BF16 is needed", t->name, dtype_name(t->dtype));
    for (int64_t i = 0; i < n; i++) {
        uint16_t half = 0;
        if (t->dtype == DT_F32)
            memcpy(&out[i], p + 4 * i, 4);
        else
            memcpy(&half, p + 2 * i, 2);
        if (t->dtype == DT_F16)
            out[i] = f16_to_f32(half);
        else if (t->dtype == DT_BF16)
            out[i] = bf16_to_f32(half);
        if ((f32_bits(out[i]) & 0x7f800000u) == 0x7f800000u)
            return err_set(e, ERR_NUMERIC, "tensor '%s': element %" PRId64 " is %s", t->name, i,
                           f32_bits(out[i]) & 0x7fffffu ? "NaN" : "infinite");
    }
    return 0;
}

/* Writing */

struct st_writer {
    int fd;
    char *path;
    bool format_pt, header_done;
    struct st_tensor *t; /* declared; offset relative to the data */
    size_t count, cap, next;
    uint64_t data_bytes;
};

int st_writer_open(const char *path, bool format_pt, struct st_writer **out, struct err *e)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_sys(e, errno, "cannot create %s", path);
    struct st_writer *w = xcalloc(1, sizeof *w);
    *w = (struct st_writer){.fd = fd, .path = xstrdup(path), .format_pt = format_pt};
    *out = w;
    return 0;
}

void st_writer_declare(struct st_writer *w, const char *name, enum dtype dtype, int ndim, const int64_t *shape)
{
    if (w->header_done || ndim < 0 || ndim > ST_MAX_DIMS)
        BUG("tensor '%s' declared too late or with %d dimensions", name, ndim);
    MEM_GROW(w->t, w->count, w->cap);
    struct st_tensor *t = &w->t[w->count++];
    *t = (struct st_tensor){.name = xstrdup(name), .dtype = dtype, .ndim = ndim, .offset = w->data_bytes};
    for (int i = 0; i < ndim; i++)
        t->shape[i] = shape[i];
    t->bytes = (uint64_t)st_elems(t) * dtype_bytes(dtype);
    w->data_bytes += t->bytes;
}

static void add_entry(struct buf *b, const struct st_tensor *t)
{
    json_t *name = json_string(t->name);
    if (!name)
        BUG("tensor name is not UTF-8");
    json_canonical(name, b);
    json_decref(name);
    buf_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name(t->dtype));
    for (int i = 0; i < t->ndim; i++)
        buf_printf(b, "%s%" PRId64, i ? "," : "", t->shape[i]);
    buf_printf(b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", t->offset, t->offset + t->bytes);
}

static int write_header(struct st_writer *w, struct err *e)
{
    struct buf b = BUF_INIT;
    for (int i = 0; i < PREFIX_BYTES; i++)
        buf_addch(&b, 0);
    buf_addstr(&b, w->format_pt ? "{\"__metadata__\":{\"format\":\"pt\"}" : "{");
    for (size_t i = 0; i < w->count; i++) {
        if (i || w->format_pt)
            buf_addch(&b, ',');
        add_entry(&b, &w->t[i]);
    }
    buf_addch(&b, '}');
    while (b.len % 8)
        buf_addch(&b, ' ');
    uint64_t n = b.len - PREFIX_BYTES;
    for (int i = 0; i < PREFIX_BYTES; i++)
        b.data[i] = (char)(n >> 8 * i);
    int rc = io_write(w->fd, b.data, b.len, w->path, e);
    buf_release(&b);
    w->header_done = true;
    return rc;
}

int st_writer_put(struct st_writer *w, const char *name, const void *data, size_t bytes, struct err *e)
{
    const struct st_tensor *t = w->next < w->count ? &w->t[w->next] : NULL;
    if (!t || strcmp(t->name, name) || bytes != t->bytes)
        return err_set(e, ERR_SHAPE, "%s: tensor '%s' of %zu bytes is not what comes next ('%s' of %" PRIu64 ")", w->path, name, bytes,
                       t ? t->name : "nothing", t ? t->bytes : 0);
    int rc = w->header_done ? 0 : write_header(w, e);
    if (!rc)
        rc = io_write(w->fd, data, bytes, w->path, e);
    if (!rc)
        w->next++;
    return rc;
}

int st_writer_close(struct st_writer *w, struct err *e)
{
    int rc = 0;
    if (w->next < w->count)
        rc = err_set(e, ERR_SHAPE, "%s: tensor '%s' was declared but not written", w->path, w->t[w->next].name);
    if (!rc && !w->header_done)
        rc = write_header(w, e);
    if (close(w->fd) < 0 && !rc)
        rc = err_sys(e, errno, "cannot write %s", w->path);
    for (size_t i = 0; i < w->count; i++)
        free(w->t[i].name);
    free(w->t);
    free(w->path);
    free(w);
    return rc;
}

/* One file is open at a time, as a stream of bytes (plain, or through one libarchive filter). JSON lines are read line by line; a JSON list
 * is held as text and parsed item by item, so that memory is the text and one item. */
#include "stages/text/dataset.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/buf.h"
#include "pipeline/base/mem.h"

enum { LINE_MAX_BYTES = 64 << 20, CHUNK_BYTES = 1 << 18 };
/* A plain text file or a JSON list is in memory as a whole: beyond this it is an error, for a small archive can hold any amount. */
#define WHOLE_MAX_BYTES ((size_t)4 << 30)

enum kind { KIND_TEXT, KIND_LINES, KIND_JSON, KIND_PARQUET };
enum packing { PACKED_NOT, PACKED_GZIP, PACKED_ZSTD, PACKED_XZ };

struct dataset {
    const struct fileset *files;
    char *field;
    size_t next_file;
    const struct fileset_file *file; /* the open one, NULL between files */
    enum kind kind;
    FILE *plain; /* one of plain and archive is set while a file is open */
    struct archive *archive;
    bool ended;      /* the stream has no more bytes */
    struct buf text; /* bytes read and not yet used start at `at` */
    size_t at;
    long line, item;
    size_t counted, line_start; /* JSON list: newlines before `counted` are in `line` */
    bool list_open;
    json_t *value; /* holds the current document's text */
    int32_t *ids;
    size_t ids_cap;
};

static bool ends_with(const char *name, size_t len, const char *suffix)
{
    size_t n = strlen(suffix);
    return len > n && strncmp(name + len - n, suffix, n) == 0;
}

static enum packing packing_of(const char *name, size_t *len)
{
    static const struct {
        const char *suffix;
        enum packing packing;
    } all[] = {
        {".gz",  PACKED_GZIP},
        {".zst", PACKED_ZSTD},
        {".xz",  PACKED_XZ  }
    };
    *len = strlen(name);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (ends_with(name, *len, all[i].suffix)) {
            *len -= strlen(all[i].suffix);
            return all[i].packing;
        }
    return PACKED_NOT;
}

static enum kind kind_of(const char *name)
{
    size_t len;
    packing_of(name, &len);
    if (ends_with(name, len, ".jsonl") || ends_with(name, len, ".ndjson"))
        return KIND_LINES;
    if (ends_with(name, len, ".json"))
        return KIND_JSON;
    return ends_with(name, len, ".parquet") ? KIND_PARQUET : KIND_TEXT;
}

int dataset_open(const struct fileset *files, const char *field, struct dataset **out, struct err *e)
{
    *out = NULL;
    for (size_t i = 0; i < files->count; i++)
        if (kind_of(files->files[i].name) == KIND_PARQUET)
            return err_set(e, ERR_UNSUPPORTED,
                           "%s: Parquet is not read; give JSON lines, {\"%s\": …} in each (in Python: "
                           "datasets.load_dataset(…).to_json(\"data.jsonl\"))",
                           files->files[i].name, field ? field : "text");
    struct dataset *d = xcalloc(1, sizeof *d);
    d->files = files;
    d->field = xstrdup(field ? field : "text");
    *out = d;
    return 0;
}

static void close_file(struct dataset *d)
{
    if (d->plain)
        fclose(d->plain);
    archive_read_free(d->archive);
    d->plain = NULL;
    d->archive = NULL;
    d->file = NULL;
}

void dataset_close(struct dataset *d)
{
    if (!d)
        return;
    close_file(d);
    json_decref(d->value);
    buf_release(&d->text);
    free(d->field);
    free(d->ids);
    free(d);
}

bool dataset_is_plain(const struct dataset *d)
{
    for (size_t i = 0; i < d->files->count; i++)
        if (kind_of(d->files->files[i].name) != KIND_TEXT)
            return false;
    return true;
}

static int archive_failed(struct dataset *d, struct err *e)
{
    const char *why = archive_error_string(d->archive);
    return err_set(e, ERR_FORMAT, "%s: %s", d->file->name, why ? why : "damaged compressed data");
}

static int open_archive(struct dataset *d, enum packing packing, struct err *e)
{
    static const char *const names[] = {[PACKED_GZIP] = "gzip", [PACKED_ZSTD] = "zstd", [PACKED_XZ] = "xz"};
    struct archive_entry *entry;
    d->archive = archive_read_new();
    if (!d->archive)
        BUG("out of memory");
    if (packing == PACKED_GZIP)
        archive_read_support_filter_gzip(d->archive);
    else if (packing == PACKED_ZSTD)
        archive_read_support_filter_zstd(d->archive);
    else
        archive_read_support_filter_xz(d->archive);
    archive_read_support_format_raw(d->archive);
    archive_read_support_format_empty(d->archive);
    if (archive_read_open_filename(d->archive, d->file->path, CHUNK_BYTES) != ARCHIVE_OK)
        return archive_failed(d, e);
    int rc = archive_read_next_header(d->archive, &entry);
    if (archive_filter_code(d->archive, 0) == ARCHIVE_FILTER_NONE)
        return err_set(e, ERR_FORMAT, "%s: not %s data, although its name says so", d->file->name, names[packing]);
    if (rc == ARCHIVE_EOF)
        d->ended = true;
    else if (rc != ARCHIVE_OK && rc != ARCHIVE_WARN)
        return archive_failed(d, e);
    return 0;
}

/* Appends more bytes to d->text, or sets ended. */
static int read_more(struct dataset *d, struct err *e)
{
    char *to = buf_reserve(&d->text, CHUNK_BYTES);
    if (d->archive) {
        la_ssize_t n = archive_read_data(d->archive, to, CHUNK_BYTES);
        if (n < 0)
            return archive_failed(d, e);
        d->ended = n == 0;
        buf_setlen(&d->text, d->text.len + (size_t)n);
        return 0;
    }
    size_t n = fread(to, 1, CHUNK_BYTES, d->plain);
    if (ferror(d->plain))
        return err_sys(e, errno, "%s", d->file->name);
    d->ended = n == 0;
    buf_setlen(&d->text, d->text.len + n);
    return 0;
}

static int read_whole(struct dataset *d, struct err *e)
{
    int rc = 0;
    while (!d->ended && !rc) {
        if (d->text.len > WHOLE_MAX_BYTES)
            return err_set(e, ERR_FORMAT, "%s: more than %zu bytes in one piece; give JSON lines", d->file->name, WHOLE_MAX_BYTES);
        rc = read_more(d, e);
    }
    return rc;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Skips a byte order mark, and decides what a .json holds by its first byte that is no space. */
static int begin_json(struct dataset *d, struct err *e)
{
    int rc = 0;
    while (!d->ended && !rc && d->text.len < 3)
        rc = read_more(d, e);
    if (rc)
        return rc;
    if (d->text.len >= 3 && memcmp(d->text.data, "\xEF\xBB\xBF", 3) == 0)
        d->at = 3;
    if (d->kind == KIND_LINES)
        return 0;
    size_t i = d->at;
    for (; !rc; i++) {
        while (i == d->text.len && !d->ended && !rc)
            rc = read_more(d, e);
        if (rc || i == d->text.len || !is_space(d->text.data[i]))
            break;
    }
    if (!rc && (i == d->text.len || d->text.data[i] != '['))
        d->kind = KIND_LINES;
    return rc || d->kind == KIND_LINES ? rc : read_whole(d, e);
}

static int open_file(struct dataset *d, struct err *e)
{
    size_t len;
    d->file = &d->files->files[d->next_file++];
    d->kind = kind_of(d->file->name);
    d->ended = d->list_open = false;
    d->line = d->item = 0;
    d->at = d->counted = d->line_start = 0;
    buf_clear(&d->text);
    enum packing packing = packing_of(d->file->name, &len);
    if (packing != PACKED_NOT) {
        int rc = open_archive(d, packing, e);
        if (rc)
            return rc;
    } else if (!(d->plain = fopen(d->file->path, "rbe"))) {
        return err_sys(e, errno, "%s", d->file->name);
    }
    return d->kind == KIND_TEXT ? read_whole(d, e) : begin_json(d, e);
}

static int take_ids(struct dataset *d, const json_t *list, struct dataset_doc *doc, long line, struct err *e)
{
    size_t n = json_array_size(list);
    if (n > d->ids_cap || !d->ids) {
        d->ids = xreallocarray(d->ids, n + 1, sizeof *d->ids);
        d->ids_cap = n + 1;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
            return err_at(e, ERR_FORMAT, d->file->name, line, 1, "element %zu of the ids is no token id", i);
        d->ids[i] = (int32_t)json_integer_value(v);
    }
    doc->ids = d->ids;
    doc->id_count = n;
    return 0;
}

/* d->value as a document. */
static int take_value(struct dataset *d, struct dataset_doc *doc, long line, struct err *e)
{
    const json_t *v = d->value;
    if (json_is_object(v)) {
        v = json_object_get(v, d->field);
        if (!v) {
            const char *first = json_object_iter_key(json_object_iter(d->value));
            return err_at(e, ERR_FORMAT, d->file->name, line, 1, "no field \"%s\" (the first one is \"%.60s\")", d->field,
                          first ? first : "");
        }
        if (json_is_array(v) && strcmp(d->field, "input_ids") != 0)
            return err_at(e, ERR_FORMAT, d->file->name, line, 1, "field \"%s\" is a list; only \"input_ids\" may be one", d->field);
    }
    if (json_is_array(v))
        return take_ids(d, v, doc, line, e);
    if (!json_is_string(v))
        return err_at(e, ERR_FORMAT, d->file->name, line, 1, "a document must be a string, a list of ids or an object with \"%s\"",
                      d->field);
    doc->text = json_string_value(v);
    doc->text_bytes = json_string_length(v);
    return 0;
}

/* line, col: where text starts in the file, col counted from 0. */
static int parse(struct dataset *d, const char *text, size_t len, size_t flags, long line, long col, json_error_t *je, struct err *e)
{
    json_decref(d->value);
    d->value = json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES | flags, je);
    if (d->value)
        return 0;
    long down = je->line > 1 ? je->line - 1 : 0, right = je->column > 0 ? je->column : 1;
    return err_at(e, ERR_FORMAT, d->file->name, line + down, right + (down ? 0 : col), "%s", je->text);
}

/* The next line without its end. 1, 0 at the end of the file, or an error. */
static int next_line(struct dataset *d, const char **line, size_t *len, struct err *e)
{
    size_t seen = d->at;
    for (;;) {
        char *start = d->text.data ? d->text.data + d->at : NULL;
        char *end = seen < d->text.len ? memchr(d->text.data + seen, '\n', d->text.len - seen) : NULL;
        size_t n = end ? (size_t)(end - start) : d->text.len - d->at;
        if (n > LINE_MAX_BYTES)
            return err_at(e, ERR_FORMAT, d->file->name, d->line + 1, 1, "a line of more than %d MiB", LINE_MAX_BYTES >> 20);
        if (end || (d->ended && n)) {
            *line = start;
            *len = n;
            d->at += n + (end ? 1 : 0);
            d->line++;
            return 1;
        }
        if (d->ended)
            return 0;
        if (d->at) { /* keep the unfinished line only */
            memmove(d->text.data, start, n);
            buf_setlen(&d->text, n);
            d->at = 0;
        }
        seen = n;
        int rc = read_more(d, e);
        if (rc)
            return rc;
    }
}

static int next_json_line(struct dataset *d, struct dataset_doc *doc, struct err *e)
{
    const char *line = NULL;
    size_t len;
    int rc;
    while ((rc = next_line(d, &line, &len, e)) > 0) {
        while (len && is_space(line[len - 1]))
            len--;
        if (len == 0)
            continue;
        json_error_t je;
        rc = parse(d, line, len, 0, d->line, 0, &je, e);
        doc->line = d->line;
        rc = rc ? rc : take_value(d, doc, d->line, e);
        return rc ? rc : 1;
    }
    return rc;
}

static char skip_spaces(struct dataset *d)
{
    while (d->at < d->text.len && is_space(d->text.data[d->at]))
        d->at++;
    for (; d->counted < d->at; d->counted++)
        if (d->text.data[d->counted] == '\n') {
            d->line++;
            d->line_start = d->counted + 1;
        }
    return d->at < d->text.len ? d->text.data[d->at] : 0;
}

static int list_error(struct dataset *d, const char *what, struct err *e)
{
    return err_at(e, ERR_FORMAT, d->file->name, d->line + 1, 1, "item %ld: %s", d->item + 1, what);
}

static int next_list_item(struct dataset *d, struct dataset_doc *doc, struct err *e)
{
    char c = skip_spaces(d);
    if (!d->list_open) {
        d->at++; /* the bracket that begin_json saw */
        d->list_open = true;
        c = skip_spaces(d);
    } else if (c == ',') {
        d->at++;
        if (skip_spaces(d) == ']')
            return list_error(d, "a comma before ]", e);
    } else if (c != ']') {
        return list_error(d, "',' or ']' expected before it", e);
    }
    if (c == ']') {
        d->at++;
        skip_spaces(d);
        return d->at == d->text.len ? 0 : list_error(d, "text behind the list", e);
    }
    json_error_t je;
    int rc =
        parse(d, d->text.data + d->at, d->text.len - d->at, JSON_DISABLE_EOF_CHECK, d->line + 1, (long)(d->at - d->line_start), &je, e);
    if (rc)
        return err_wrap(e, "item %ld", d->item + 1);
    doc->line = ++d->item;
    rc = take_value(d, doc, d->line + 1, e);
    d->at += (size_t)je.position;
    return rc ? rc : 1;
}

static int next_text(struct dataset *d, struct dataset_doc *doc)
{
    if (d->item++)
        return 0;
    doc->text = buf_str(&d->text);
    doc->text_bytes = d->text.len;
    doc->line = 1;
    return 1;
}

int dataset_next(struct dataset *d, struct dataset_doc *doc, struct err *e)
{
    for (;;) {
        if (!d->file) {
            if (d->next_file == d->files->count)
                return 0;
            int rc = open_file(d, e);
            if (rc) {
                close_file(d);
                return rc;
            }
        }
        *doc = (struct dataset_doc){.file = d->file->name};
        int rc = d->kind == KIND_TEXT ? next_text(d, doc) : d->kind == KIND_LINES ? next_json_line(d, doc, e) : next_list_item(d, doc, e);
        if (rc)
            return rc;
        close_file(d);
    }
}

/* Grammar, version 1. One line of canonical JSON (json_canonical: keys in byte order, no spaces), then a line that tells damage:
 *
 *     record   = body LF "xxh3 " 32HEX LF                 XXH3-128 of body and its LF
 *     body     = "{" "\"created\":" INT                   seconds since 1970
 *                    ",\"key\":" HEX64                    SHA-256 of the text in preimage
 *                    [",\"metrics\":" OBJECT]
 *                    ",\"outputs\":[" [output *("," output)] "]"    in byte order of paths, no path twice
 *                    ",\"peak_rss_bytes\":" INT
 *                    ",\"preimage\":" STRING              canonical JSON, as it was hashed
 *                    [",\"reason\":" STRING]
 *                    ",\"version\":1"
 *                    ",\"wall_s\":" REAL "}"
 *     output   = "{\"bytes\":" INT ",\"path\":" STRING ",\"sha256\":" HEX64 ",\"xxh3\":" HEX32 "}"
 *     path     = part *("/" part)                         a part is not empty, "." or ".."; so a record cannot point outside a folder
 *
 * Versions: 1 (first). Every later version keeps the two lines, JSON with "version" and the checksum, so that an older program can tell
 * "newer than me" from "damaged". A field that version 1 does not know is damage: adding one means a new version.
 *
 * Reading is strict: what was read is written again and must give the same bytes. */
#include "cache/record.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"

enum { VERSION = 1, PATH_BYTES_MAX = 4096 };

static const char trailer_tag[] = "xxh3 ";
enum { TRAILER_BYTES = sizeof trailer_tag - 1 + HASH_XXH_HEX - 1 + 1 };

bool record_path_ok(const char *path)
{
    size_t left = strlen(path);
    if (!left || left > PATH_BYTES_MAX)
        return false;
    for (const char *at = path;; at++) {
        size_t n = strcspn(at, "/");
        if (n == 0 || (n == 1 && at[0] == '.') || (n == 2 && at[0] == '.' && at[1] == '.'))
            return false;
        at += n;
        if (!*at)
            return true;
    }
}

void record_add_output(struct record *r, const char *path, const struct hash_digests *d)
{
    size_t i = r->output_count;
    while (i && strcmp(r->outputs[i - 1].path, path) > 0)
        i--;
    if (i && !strcmp(r->outputs[i - 1].path, path)) {
        r->outputs[i - 1].digests = *d;
        return;
    }
    MEM_GROW(r->outputs, r->output_count, r->output_cap);
    memmove(r->outputs + i + 1, r->outputs + i, (r->output_count - i) * sizeof *r->outputs);
    r->outputs[i] = (struct record_output){xstrdup(path), *d};
    r->output_count++;
}

static json_t *output_json(const struct record_output *o)
{
    json_t *v = json_pack("{s:I, s:s, s:s, s:s}", "bytes", (json_int_t)o->digests.bytes, "path", o->path, "sha256", o->digests.sha256,
                          "xxh3", o->digests.xxh3);
    if (!v)
        BUG("output path is not UTF-8");
    return v;
}

static json_t *text_json(const char *s)
{
    json_t *v = json_string(s ? s : "");
    if (!v)
        BUG("record text is not UTF-8");
    return v;
}

static json_t *body_json(const struct record *r)
{
    json_t *o = json_object(), *outputs = json_array();
    for (size_t i = 0; i < r->output_count; i++)
        json_array_append_new(outputs, output_json(&r->outputs[i]));
    uint64_t rss = r->peak_rss_bytes < INT64_MAX ? r->peak_rss_bytes : INT64_MAX;
    json_object_set_new(o, "created", json_integer(r->created_unix_s));
    json_object_set_new(o, "key", text_json(r->key));
    if (r->metrics)
        json_object_set(o, "metrics", r->metrics);
    json_object_set_new(o, "outputs", outputs);
    json_object_set_new(o, "peak_rss_bytes", json_integer((json_int_t)rss));
    json_object_set_new(o, "preimage", text_json(r->preimage));
    if (r->reason)
        json_object_set_new(o, "reason", text_json(r->reason));
    json_object_set_new(o, "version", json_integer(VERSION));
    json_object_set_new(o, "wall_s", json_real(isfinite(r->wall_s) ? r->wall_s : 0));
    return o;
}

void record_write(const struct record *r, struct buf *out)
{
    size_t start = out->len;
    json_t *o = body_json(r);
    json_canonical(o, out);
    json_decref(o);
    buf_addch(out, '\n');
    char sum[HASH_XXH_HEX];
    hash_xxh3(out->data + start, out->len - start, sum);
    buf_printf(out, "%s%s\n", trailer_tag, sum);
}

/* Checks the last line; *body_bytes is what it covers, less the newline. */
static int check_trailer(const char *text, size_t bytes, const char *name, size_t *body_bytes, struct err *e)
{
    if (bytes > RECORD_MAX_BYTES)
        return err_set(e, ERR_FORMAT, "record %s has %zu bytes, more than the %d allowed", name, bytes, RECORD_MAX_BYTES);
    if (bytes <= TRAILER_BYTES)
        return err_set(e, ERR_FORMAT, "record %s is cut short: %zu bytes", name, bytes);
    size_t covered = bytes - TRAILER_BYTES;
    const char *line = text + covered;
    if (text[covered - 1] != '\n' || memcmp(line, trailer_tag, sizeof trailer_tag - 1) || line[TRAILER_BYTES - 1] != '\n')
        return err_set(e, ERR_FORMAT, "record %s has no checksum line: it is damaged or cut short", name);
    char have[HASH_XXH_HEX] = {0}, want[HASH_XXH_HEX];
    memcpy(have, line + sizeof trailer_tag - 1, sizeof have - 1);
    hash_xxh3(text, covered, want);
    if (strcmp(have, want))
        return err_set(e, ERR_FORMAT, "record %s is damaged: its checksum line does not match", name);
    *body_bytes = covered - 1;
    return 0;
}

static int need_hex(const json_t *o, const char *where, const char *key, bool (*ok)(const char *), char *out, struct err *e)
{
    const char *s;
    int rc = json_need_str(o, where, key, &s, e);
    if (rc)
        return rc;
    if (!ok(s))
        return err_set(e, ERR_FORMAT, "%s: \"%s\" is not a digest: '%.80s'", where, key, s);
    memcpy(out, s, strlen(s) + 1);
    return 0;
}

static int read_output(struct record *r, const json_t *v, const char *name, struct err *e)
{
    struct hash_digests d;
    const char *path;
    int64_t bytes;
    int rc;
    if ((rc = json_need_str(v, name, "path", &path, e)) || (rc = json_need_int(v, name, "bytes", 0, INT64_MAX, &bytes, e)) ||
        (rc = need_hex(v, name, "sha256", hash_is_hex, d.sha256, e)) || (rc = need_hex(v, name, "xxh3", hash_is_xxh_hex, d.xxh3, e)))
        return rc;
    if (!record_path_ok(path))
        return err_set(e, ERR_FORMAT, "%s: output path '%.200s' is not a plain relative path", name, path);
    /* Asking for order here keeps record_add_output from sorting, and reading linear. */
    if (r->output_count && strcmp(r->outputs[r->output_count - 1].path, path) >= 0)
        return err_set(e, ERR_FORMAT, "%s: output path '%.200s' is out of order", name, path);
    d.bytes = (uint64_t)bytes;
    record_add_output(r, path, &d);
    return 0;
}

static int read_outputs(struct record *r, const json_t *o, const char *name, struct err *e)
{
    const json_t *list = json_object_get(o, "outputs");
    if (!json_is_array(list))
        return err_set(e, ERR_FORMAT, "%s: \"outputs\" must be a list", name);
    for (size_t i = 0; i < json_array_size(list); i++) {
        int rc = read_output(r, json_array_get(list, i), name, e);
        if (rc)
            return rc;
    }
    return 0;
}

static int read_fields(struct record *r, const json_t *o, const char *name, struct err *e)
{
    const char *preimage, *reason = NULL;
    int64_t version, rss;
    int rc = json_need_int(o, name, "version", 1, INT64_MAX, &version, e);
    if (!rc && version > VERSION)
        return err_set(e, ERR_UNSUPPORTED, "record %s has version %lld, newer than the %d that this program knows", name,
                       (long long)version, VERSION);
    if (rc || (rc = need_hex(o, name, "key", hash_is_hex, r->key, e)) || (rc = json_need_str(o, name, "preimage", &preimage, e)) ||
        (rc = json_need_int(o, name, "created", INT64_MIN, INT64_MAX, &r->created_unix_s, e)) ||
        (rc = json_need_int(o, name, "peak_rss_bytes", 0, INT64_MAX, &rss, e)) || (rc = json_opt_real(o, name, "wall_s", &r->wall_s, e)) ||
        (rc = json_opt_str(o, name, "reason", &reason, e)) || (rc = read_outputs(r, o, name, e)))
        return rc;
    r->peak_rss_bytes = (uint64_t)rss;
    r->preimage = xstrdup(preimage);
    r->reason = reason ? xstrdup(reason) : NULL;
    json_t *metrics = json_object_get(o, "metrics");
    if (metrics && !json_is_object(metrics))
        return err_set(e, ERR_FORMAT, "%s: \"metrics\" must be an object", name);
    r->metrics = json_incref(metrics);
    char key[HASH_HEX];
    hash_sha256(preimage, strlen(preimage), key);
    if (strcmp(key, r->key))
        return err_set(e, ERR_FORMAT, "record %s says key %s, but its preimage has SHA-256 %s", name, r->key, key);
    return 0;
}

/* Anything that our writer would not have written (unknown fields, spaces, NUL in a string) is refused by writing it again. */
static int check_canonical(const struct record *r, const char *text, size_t bytes, const char *name, struct err *e)
{
    struct buf again = BUF_INIT;
    record_write(r, &again);
    bool same = again.len == bytes && !memcmp(again.data, text, bytes);
    buf_release(&again);
    return same ? 0 : err_set(e, ERR_FORMAT, "record %s is not in canonical form", name);
}

int record_read(struct record *r, const char *text, size_t bytes, const char *name, struct err *e)
{
    *r = (struct record)RECORD_INIT;
    size_t body = 0;
    int rc = check_trailer(text, bytes, name, &body, e);
    if (rc)
        return rc;
    json_t *o = json_parse(text, body, name, e);
    if (!o)
        return -ERR_FORMAT;
    rc = json_is_object(o) ? read_fields(r, o, name, e) : err_set(e, ERR_FORMAT, "record %s is not a JSON object", name);
    json_decref(o);
    if (!rc)
        rc = check_canonical(r, text, bytes, name, e);
    if (rc)
        record_release(r);
    return rc;
}

void record_outputs_digest(const struct record *r, char hex[HASH_HEX])
{
    struct buf b = BUF_INIT;
    buf_addstr(&b, "gptqpipe outputs 1\n");
    for (size_t i = 0; i < r->output_count; i++) {
        const struct record_output *o = &r->outputs[i];
        buf_add(&b, o->path, strlen(o->path) + 1); /* with its NUL: no two lists give the same text */
        buf_printf(&b, "%s %llu\n", o->digests.sha256, (unsigned long long)o->digests.bytes);
    }
    hash_sha256(b.data, b.len, hex);
    buf_release(&b);
}

void record_release(struct record *r)
{
    for (size_t i = 0; i < r->output_count; i++)
        free(r->outputs[i].path);
    free(r->outputs);
    free(r->preimage);
    free(r->reason);
    json_decref(r->metrics);
    *r = (struct record)RECORD_INIT;
}

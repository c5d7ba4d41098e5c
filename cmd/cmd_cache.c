/* cache: looks into the store. */
#include <stdlib.h>
#include <string.h>

#include "cmd/project.h"
#include "pipeline/base/json.h"

struct lister {
    bool json;
    uint64_t records, bad, outputs, bytes;
};

static const char *text_of(const json_t *o, const char *name)
{
    const char *s = json_string_value(json_object_get(o, name));
    return s ? s : "?";
}

static int list_record(void *arg, const char *key, const struct record *r)
{
    struct lister *l = arg;
    uint64_t bytes = 0;
    if (!r) {
        l->bad++;
        if (l->json)
            print_json_line(json_pack("{s:s,s:b}", "key", key, "bad", 1));
        else
            printf("%s  damaged\n", key);
        return 0;
    }
    for (size_t i = 0; i < r->output_count; i++)
        bytes += r->outputs[i].digests.bytes;
    json_t *preimage = json_parse(r->preimage, strlen(r->preimage), "record", NULL);
    if (l->json)
        print_json_line(json_pack("{s:s,s:s,s:I,s:I,s:I}", "key", key, "kind", text_of(preimage, "kind"), "outputs",
                                  (json_int_t)r->output_count, "bytes", (json_int_t)bytes, "created", (json_int_t)r->created_unix_s));
    else
        printf("%s  %-10s %4zu file%s %14llu bytes\n", key, text_of(preimage, "kind"), r->output_count, r->output_count == 1 ? " " : "s",
               (unsigned long long)bytes);
    json_decref(preimage);
    return 0;
}

static int count_record(void *arg, const char *key, const struct record *r)
{
    struct lister *l = arg;
    (void)key;
    l->records += r != NULL;
    l->bad += r == NULL;
    for (size_t i = 0; r && i < r->output_count; i++) {
        l->outputs++;
        l->bytes += r->outputs[i].digests.bytes;
    }
    return 0;
}

static int stats(struct store *s, bool json, struct err *e)
{
    struct lister l = {.json = json};
    int rc = store_each(s, count_record, &l, e);
    if (rc)
        return rc;
    if (json)
        print_json_line(json_pack("{s:s,s:I,s:I,s:I,s:I}", "dir", store_dir(s), "records", (json_int_t)l.records, "bad_records",
                                  (json_int_t)l.bad, "outputs", (json_int_t)l.outputs, "bytes", (json_int_t)l.bytes));
    else
        printf("%s: %llu records, %llu damaged, %llu outputs, %llu bytes\n", store_dir(s), (unsigned long long)l.records,
               (unsigned long long)l.bad, (unsigned long long)l.outputs, (unsigned long long)l.bytes);
    return 0;
}

static void say(void *arg, const char *line)
{
    (void)arg;
    fprintf(stderr, "%s\n", line);
}

static int verify(struct store *s, bool repair, bool json, struct err *e)
{
    struct store_verify v;
    int rc = store_verify(s, repair, say, NULL, &v, e);
    if (rc)
        return rc;
    uint64_t bad = v.bad_records + v.bad_blobs + v.missing_blobs;
    if (json)
        print_json_line(json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "records", (json_int_t)v.records, "blobs", (json_int_t)v.blobs, "bytes",
                                  (json_int_t)v.bytes, "bad_records", (json_int_t)v.bad_records, "bad_blobs", (json_int_t)v.bad_blobs,
                                  "missing_blobs", (json_int_t)v.missing_blobs, "unreferenced_blobs", (json_int_t)v.unreferenced_blobs));
    else
        printf("%llu records, %llu blobs, %llu bytes: %llu defects%s\n", (unsigned long long)v.records, (unsigned long long)v.blobs,
               (unsigned long long)v.bytes, (unsigned long long)bad,
               bad && repair ? ", repaired: what is missing is made again by apply" : "");
    return bad && !repair ? err_set(e, ERR_INTEGRITY, "the cache has %llu defects (repair them with `gptqpipe cache verify --repair`)",
                                    (unsigned long long)bad)
                          : 0;
}

static int evict(struct store *s, const char *key, struct err *e)
{
    if (!hash_is_hex(key))
        return err_set(e, ERR_USAGE, "cache evict wants a key of 64 hex digits, not '%s'", key);
    return store_evict(s, key, e);
}

static int dispatch(struct cmd_ctx *c, struct store *s, char **argv, int n, bool repair, bool json)
{
    struct lister l = {.json = json};
    const char *what = argv[1];
    bool one = !strcmp(what, "evict");
    int rc = options_positional(c, n, one ? 2 : 1, one ? 2 : 1, one ? "evict KEY" : "ls, verify, stats or evict KEY");
    if (rc)
        return rc;
    if (one)
        return evict(s, argv[2], &c->err);
    if (!strcmp(what, "ls"))
        return store_each(s, list_record, &l, &c->err);
    return !strcmp(what, "stats") ? stats(s, json, &c->err) : verify(s, repair, json, &c->err);
}

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    static const char *const words[] = {"ls", "verify", "stats", "evict"};
    bool repair = false, json = false;
    struct option_def defs[] = {
        {"repair", 0, OPT_FLAG, &repair, NULL, "verify: remove bad records, set bad files aside"},
        {"json",   0, OPT_FLAG, &json,   NULL, "one JSON object a line"                         },
        OPTION_END,
    };
    int n = options_parse(c, defs, argc, argv);
    if (n < 0)
        return n;
    int rc = options_positional(c, n, 1, 2, "ls, verify, stats or evict KEY");
    size_t w = 0;
    while (!rc && w < 4 && strcmp(words[w], argv[1]) != 0)
        w++;
    if (!rc && w == 4)
        return err_set(&c->err, ERR_USAGE, "cache has no '%s': ls, verify, stats or evict KEY", argv[1]);
    char *dir = rc ? NULL : cmd_cache_dir(c, NULL);
    if (!dir)
        return rc ? rc : -c->err.code;
    struct store *s = NULL;
    rc = store_open(dir, &s, &c->err);
    if (!rc)
        rc = dispatch(c, s, argv, n, repair, json);
    if (s)
        store_close(s);
    free(dir);
    return rc;
}

const struct command cmd_cache = {.name = "cache",
                                  .summary = "look into the cache: ls, verify, stats, evict",
                                  .usage = "cache ls|stats [--json]\ncache verify [--repair] [--json]\ncache evict KEY",
                                  .run = run};

#include "cmd/proof.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/store.h"
#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"
#include "pipeline/key.h"

static int key_of(const struct device_probe *p, char **preimage, char key[HASH_HEX], struct err *e)
{
    static const struct stage_kind kind = {.name = "selftest", .revision = SELFTEST_REVISION};
    char plugin[HASH_XXH_HEX];
    int rc = hash_file_xxh3(p->plugin, plugin, e);
    if (rc)
        return rc;
    json_t *fields = json_pack("{s:s, s:i, s:s, s:i, s:i, s:i}", "plugin", plugin, "abi", (int)BACKEND_ABI, "device", p->name, "capability", p->sm, "processors", p->processors,
                               "driver", p->driver);
    key_compute(&kind, fields, NULL, "", preimage, key);
    json_decref(fields);
    return 0;
}

static int open_store(struct cmd_ctx *c, struct store **s, struct err *e)
{
    char *dir = cmd_cache_dir(c, NULL);
    *s = NULL;
    if (!dir) {
        *e = c->err;
        return -(int)e->code;
    }
    int rc = store_open(dir, s, e);
    free(dir);
    return rc;
}

/* A cache that is not there yet holds nothing, and reading makes none. */
static bool has_store(struct cmd_ctx *c)
{
    char *dir = cmd_cache_dir(c, NULL), *version = dir ? io_join(dir, "VERSION") : NULL;
    bool there = version && io_exists(version);
    err_clear(&c->err);
    free(version);
    free(dir);
    return there;
}

static void judge(const struct record *r, struct proof *out)
{
    const json_t *passed = json_object_get(r->metrics, "passed");
    const char *at = json_string_value(json_object_get(r->metrics, "failed_at"));
    out->made_unix_s = r->created_unix_s;
    out->state = json_is_true(passed) ? PROOF_PASSED : json_is_false(passed) && at ? PROOF_FAILED : PROOF_UNREADABLE;
    if (out->state != PROOF_PASSED)
        snprintf(out->text, sizeof out->text, "%s", at ? at : "the record holds no verdict");
}

void proof_read(struct cmd_ctx *c, const struct device_probe *p, struct proof *out)
{
    char *preimage = NULL, key[HASH_HEX];
    struct store *s = NULL;
    struct record r = RECORD_INIT;
    struct buf why = BUF_INIT;
    struct err e = {0};
    enum store_miss miss = STORE_NO_RECORD;
    *out = (struct proof){.state = PROOF_NONE};
    if (!has_store(c))
        return;
    int rc = key_of(p, &preimage, key, &e);
    if (!rc)
        rc = open_store(c, &s, &e);
    if (!rc)
        rc = store_get(s, key, false, &r, &miss, &why, &e);
    if (!rc && miss == STORE_HIT) {
        judge(&r, out);
        record_release(&r);
    } else if (rc || miss != STORE_NO_RECORD) {
        out->state = PROOF_UNREADABLE;
        snprintf(out->text, sizeof out->text, "%s", rc ? e.text : buf_str(&why));
    }
    store_close(s);
    buf_release(&why);
    free(preimage);
}

bool proof_passed(void *arg, const struct device_probe *p)
{
    struct proof proof;
    proof_read(arg, p, &proof);
    return proof.state == PROOF_PASSED;
}

int proof_drop(struct cmd_ctx *c, const struct device_probe *p, struct err *e)
{
    char *preimage = NULL, key[HASH_HEX];
    struct store *s = NULL;
    if (!has_store(c))
        return 0;
    int rc = key_of(p, &preimage, key, e);
    if (!rc)
        rc = open_store(c, &s, e);
    if (!rc)
        rc = store_evict(s, key, e);
    store_close(s);
    free(preimage);
    return rc;
}

int proof_keep(struct cmd_ctx *c, const struct device_probe *p, const char *failed_at, json_t *groups, struct err *e)
{
    struct record r = RECORD_INIT;
    struct store *s = NULL;
    char *dir = NULL;
    int rc = key_of(p, &r.preimage, r.key, e);
    if (!rc)
        rc = open_store(c, &s, e);
    if (!rc)
        rc = store_begin(s, &dir, e);
    if (!rc) {
        r.metrics = json_pack("{s:b, s:s, s:O}", "passed", !failed_at, "version", GPTQPIPE_VERSION, "groups", groups);
        if (failed_at)
            json_object_set_new(r.metrics, "failed_at", json_string(failed_at));
        r.created_unix_s = (int64_t)time(NULL);
        rc = store_publish(s, dir, &r, true, e);
        if (rc)
            store_discard(s, dir);
    }
    free(dir);
    store_close(s);
    record_release(&r);
    return rc;
}

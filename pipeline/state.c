#include "pipeline/state.h"

#include <stdlib.h>
#include <string.h>

#include "cache/hash.h"
#include "pipeline/base/io.h"
#include "pipeline/base/json.h"
#include "pipeline/base/mem.h"

void state_load(struct state *s, const char *store_dir, const char *manifest_path)
{
    char *absolute = io_absolute(manifest_path), hex[HASH_HEX];
    hash_sha256(absolute, strlen(absolute), hex);
    *s = (struct state){.path = xasprintf("%s/projects/%s.json", store_dir, hex)};
    if (io_exists(s->path))
        s->root = json_parse_file(s->path, 64 << 20, NULL);
    if (!json_is_object(json_object_get(s->root, "nodes")) || json_integer_value(json_object_get(s->root, "v")) != 1) {
        json_decref(s->root);
        s->root = json_pack("{s:i,s:{}}", "v", 1, "nodes");
        json_object_set_new(s->root, "manifest", json_string(absolute));
    }
    free(absolute);
}

const char *state_key(const struct state *s, const char *node)
{
    const char *key = json_string_value(json_object_get(json_object_get(s->root, "nodes"), node));
    return key && hash_is_hex(key) ? key : NULL;
}

void state_set(struct state *s, const char *node, const char *key)
{
    const char *old = state_key(s, node);
    if (old && !strcmp(old, key))
        return;
    json_object_set_new(json_object_get(s->root, "nodes"), node, json_string(key));
    s->changed = 1;
}

int state_save(struct state *s, struct err *e)
{
    if (!s->changed)
        return 0;
    struct buf b = BUF_INIT;
    json_canonical(s->root, &b);
    buf_addch(&b, '\n');
    char *dir = io_dirname(s->path);
    int rc = io_mkdirs(dir, e);
    if (!rc)
        rc = io_write_file_atomic(s->path, b.data, b.len, e);
    free(dir);
    buf_release(&b);
    s->changed = rc != 0;
    return rc;
}

void state_release(struct state *s)
{
    free(s->path);
    json_decref(s->root);
    *s = (struct state){.path = NULL};
}

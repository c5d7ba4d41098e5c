#include "pipeline/key.h"

#include "pipeline/base/buf.h"
#include "pipeline/base/json.h"

void key_compute(const struct stage_kind *kind, const json_t *fields, const char *numerics, const char *salt, char **preimage,
                 char key[HASH_HEX])
{
    json_t *o = json_object();
    json_object_set_new(o, "v", json_integer(KEY_VERSION));
    json_object_set_new(o, "kind", json_string(kind->name));
    json_object_set_new(o, "rev", json_integer(kind->revision));
    if (kind->numerics)
        json_object_set_new(o, "class", json_string(numerics));
    json_object_set_new(o, "fields", json_deep_copy(fields));
    json_object_set_new(o, "salt", json_string(salt));
    struct buf b = BUF_INIT;
    json_canonical(o, &b);
    json_decref(o);
    hash_sha256(buf_str(&b), b.len, key);
    *preimage = buf_detach(&b);
}

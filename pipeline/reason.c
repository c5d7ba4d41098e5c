#include "pipeline/reason.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cache/hash.h"
#include "pipeline/base/buf.h"
#include "pipeline/base/mem.h"

const char *reason_text(enum reason r)
{
    static const char *const texts[] = {
#define R(name, text) text,
#include "pipeline/reason.def"
#undef R
    };
    return texts[r];
}

struct differ {
    int (*fn)(void *arg, const char *path, const json_t *from, const json_t *to);
    void *arg;
};

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int walk(const struct differ *d, const char *path, const json_t *from, const json_t *to);

static size_t add_keys(const json_t *o, const json_t *unless_in, const char **keys, size_t n)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)o, key, value) if (!json_object_get(unless_in, key)) keys[n++] = key;
    return n;
}

/* Children of two objects; either may be NULL. */
static int walk_objects(const struct differ *d, const char *path, const json_t *from, const json_t *to)
{
    const char **keys = xcalloc(json_object_size(from) + json_object_size(to), sizeof *keys);
    size_t n = add_keys(from, NULL, keys, 0);
    n = add_keys(to, from, keys, n);
    if (n)
        qsort(keys, n, sizeof *keys, by_text);
    int rc = 0;
    for (size_t i = 0; !rc && i < n; i++) {
        char *below = *path ? xasprintf("%s.%s", path, keys[i]) : xstrdup(keys[i]);
        rc = walk(d, below, json_object_get(from, keys[i]), json_object_get(to, keys[i]));
        free(below);
    }
    free(keys);
    return rc;
}

static int walk_arrays(const struct differ *d, const char *path, const json_t *from, const json_t *to)
{
    size_t n = json_array_size(from) > json_array_size(to) ? json_array_size(from) : json_array_size(to);
    int rc = 0;
    for (size_t i = 0; !rc && i < n; i++) {
        char *below = xasprintf("%s.%zu", path, i);
        rc = walk(d, below, json_array_get(from, i), json_array_get(to, i));
        free(below);
    }
    return rc;
}

static bool objects(const json_t *a, const json_t *b)
{
    return (json_is_object(a) || !a) && (json_is_object(b) || !b) && json_object_size(a) + json_object_size(b) > 0;
}

static int walk(const struct differ *d, const char *path, const json_t *from, const json_t *to)
{
    if (from && to && json_equal((json_t *)(uintptr_t)from, (json_t *)(uintptr_t)to))
        return 0;
    if (objects(from, to))
        return walk_objects(d, path, from, to);
    if (json_is_array(from) && json_is_array(to))
        return walk_arrays(d, path, from, to);
    return d->fn(d->arg, path, from, to);
}

static json_t *without_fields(const json_t *preimage)
{
    json_t *o = json_copy((json_t *)(uintptr_t)preimage);
    json_object_del(o, "fields");
    return o;
}

int reason_each_difference(const json_t *old_preimage, const json_t *new_preimage,
                           int (*fn)(void *arg, const char *path, const json_t *from, const json_t *to), void *arg)
{
    struct differ d = {fn, arg};
    json_t *a = without_fields(old_preimage), *b = without_fields(new_preimage);
    int rc = walk_objects(&d, "", a, b);
    json_decref(a);
    json_decref(b);
    if (!rc)
        rc = walk_objects(&d, "", json_object_get(old_preimage, "fields"), json_object_get(new_preimage, "fields"));
    return rc;
}

struct best {
    enum reason reason;
    int rank; /* smaller explains better */
    char *field;
};

static bool is_digest(const json_t *v)
{
    return json_is_string(v) && hash_is_hex(json_string_value(v));
}

static int rank(void *arg, const char *path, const json_t *from, const json_t *to)
{
    static const struct {
        const char *path;
        enum reason reason;
    } heads[] = {
        {"v",     REASON_IMPL_CHANGED    },
        {"kind",  REASON_IMPL_CHANGED    },
        {"rev",   REASON_IMPL_CHANGED    },
        {"class", REASON_NUMERICS_CHANGED},
        {"salt",  REASON_SALT_CHANGED    }
    };
    struct best *b = arg;
    int n = sizeof heads / sizeof *heads, r = 0;
    while (r < n && strcmp(heads[r].path, path) != 0)
        r++;
    enum reason reason = r < n ? heads[r].reason : REASON_PARAM_CHANGED;
    if (r == n && (is_digest(from) || is_digest(to))) {
        reason = REASON_INPUT_CHANGED;
        r++;
    }
    if (r >= b->rank)
        return 0;
    free(b->field);
    *b = (struct best){reason, r, xstrdup(path)};
    return 0;
}

enum reason reason_of(const json_t *old_preimage, const json_t *new_preimage, char **field)
{
    struct best b = {REASON_NO_RECORD, 100, NULL};
    reason_each_difference(old_preimage, new_preimage, rank, &b);
    *field = b.field;
    return b.reason;
}

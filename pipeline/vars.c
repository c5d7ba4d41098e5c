#include "pipeline/vars.h"

#include <stdlib.h>
#include <string.h>

#include "pipeline/base/buf.h"
#include "pipeline/base/mem.h"
#include "pipeline/nearest.h"

struct var {
    const char *text, *expanded; /* expanded: NULL until known */
    struct mark at;
    bool literal, busy; /* busy: being expanded, so meeting it again is a cycle */
};

void vars_init(struct vars *v, struct arena *a, const char *file)
{
    *v = (struct vars){.arena = a, .file = file, .table = MAP_INIT};
}

void vars_release(struct vars *v)
{
    map_release(&v->table);
}

static bool name_char(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (!first && c >= '0' && c <= '9');
}

bool vars_name_ok(const char *name)
{
    for (size_t i = 0; name[i]; i++)
        if (!name_char(name[i], i == 0))
            return false;
    return name[0] != 0;
}

bool vars_has(const struct vars *v, const char *name)
{
    return map_get(&v->table, name) != NULL;
}

void vars_define(struct vars *v, const char *name, const char *text, struct mark at, bool literal)
{
    struct var *x = arena_alloc(v->arena, sizeof *x);
    *x = (struct var){.text = text, .at = at, .literal = literal};
    map_put(&v->table, name, x);
}

static int undefined(const struct vars *v, const char *name, struct mark at, struct err *e)
{
    const char **names = xcalloc(v->table.count, sizeof *names);
    for (size_t i = 0; i < v->table.count; i++)
        names[i] = v->table.entries[i].key;
    const char *near = nearest_name(name, names, v->table.count);
    free(names);
    return err_at(e, ERR_MANIFEST, v->file, at.line, at.col, "undefined variable '%s'%s%s%s", name, near ? " (did you mean '" : "",
                  near ? near : "", near ? "'?)" : "");
}

static int expand_into(struct vars *v, const char *text, struct mark at, struct buf *out, struct err *e);

static int add_var(struct vars *v, const char *name, struct mark at, struct buf *out, struct err *e)
{
    struct var *x = map_get(&v->table, name);
    if (!x)
        return undefined(v, name, at, e);
    if (x->busy)
        return err_at(e, ERR_MANIFEST, v->file, at.line, at.col, "variable '%s' is defined by itself", name);
    if (!x->expanded && x->literal)
        x->expanded = x->text;
    if (!x->expanded) {
        struct buf b = BUF_INIT;
        x->busy = true;
        int rc = expand_into(v, x->text, x->at, &b, e);
        x->busy = false;
        if (!rc)
            x->expanded = arena_strndup(v->arena, buf_str(&b), b.len);
        buf_release(&b);
        if (rc)
            return rc;
    }
    buf_addstr(out, x->expanded);
    return 0;
}

/* body: what stands behind "env:". */
static int add_env(const struct vars *v, char *body, struct mark at, struct buf *out, struct err *e)
{
    char *fallback = strstr(body, ":-");
    if (fallback) {
        *fallback = 0;
        fallback += 2;
    }
    if (!vars_name_ok(body))
        return err_at(e, ERR_MANIFEST, v->file, at.line, at.col, "'%s' is no name of an environment variable", body);
    const char *value = getenv(body);
    if (fallback && (!value || !*value))
        value = fallback;
    if (!value)
        return err_at(e, ERR_MANIFEST, v->file, at.line, at.col,
                      "environment variable '%s' is not set (a default is written ${env:%s:-default})", body, body);
    for (const char *c = value; *c; c++)
        if ((unsigned char)*c >= 0x80)
            return err_at(e, ERR_MANIFEST, v->file, at.line, at.col, "environment variable '%s' is not plain ASCII", body);
    buf_addstr(out, value);
    return 0;
}

static int add_reference(struct vars *v, const char *body, size_t len, struct mark at, struct buf *out, struct err *e)
{
    char *name = xstrndup(body, len);
    int rc;
    if (!strncmp(name, "env:", 4))
        rc = add_env(v, name + 4, at, out, e);
    else if (!vars_name_ok(name))
        rc = err_at(e, ERR_MANIFEST, v->file, at.line, at.col, "'${%s}' is no variable (a literal '${' is written '$${')", name);
    else
        rc = add_var(v, name, at, out, e);
    free(name);
    return rc;
}

static int expand_into(struct vars *v, const char *text, struct mark at, struct buf *out, struct err *e)
{
    for (const char *p = text; *p;) {
        int rc = 0;
        if (!strncmp(p, "$${", 3)) {
            buf_addstr(out, "${");
            p += 3;
        } else if (!strncmp(p, "${", 2)) {
            const char *end = strchr(p, '}');
            if (!end)
                return err_at(e, ERR_MANIFEST, v->file, at.line, at.col, "'${' without '}' (a literal '${' is written '$${')");
            rc = add_reference(v, p + 2, (size_t)(end - p - 2), at, out, e);
            p = end + 1;
        } else {
            buf_addch(out, *p++);
        }
        if (!rc && out->len > VARS_MAX_TEXT)
            rc = err_at(e, ERR_MANIFEST, v->file, at.line, at.col, "expands to more than %d bytes", VARS_MAX_TEXT);
        if (rc)
            return rc;
    }
    return 0;
}

const char *vars_expand(struct vars *v, const char *text, struct mark at, struct err *e)
{
    if (!strstr(text, "${"))
        return text;
    struct buf b = BUF_INIT;
    const char *out = NULL;
    int rc = expand_into(v, text, at, &b, e);
    v->total += b.len;
    if (!rc && v->total > VARS_MAX_TOTAL)
        rc = err_at(e, ERR_MANIFEST, v->file, at.line, at.col, "variables expand to more than %d bytes altogether", VARS_MAX_TOTAL);
    if (!rc)
        out = arena_strndup(v->arena, buf_str(&b), b.len);
    buf_release(&b);
    return out;
}

/* YAML -> manifest: the shape of the file, names, types, references. dag.c then checks how the stages hang together. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"
#include "pipeline/manifest.h"
#include "pipeline/nearest.h"
#include "pipeline/typed.h"

struct loader {
    struct manifest *m;
    struct vars vars;
    struct err *e;
};

static int fail(const struct loader *l, struct mark at, const char *fmt, ...) ERR_PRINTF(3, 4);
static int fail(const struct loader *l, struct mark at, const char *fmt, ...)
{
    char text[ERR_TEXT_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_at(l->e, ERR_MANIFEST, l->m->path, at.line, at.col, "%s", text);
}

static const char *guess(char out[128], const char *near)
{
    out[0] = 0;
    if (near)
        snprintf(out, 128, " (did you mean '%s'?)", near);
    return out;
}

/* Expanded text of a scalar at the top of the file. */
static int text_of(struct loader *l, const char *what, const struct yaml_node *n, const char **out)
{
    if (n->type != YAML_SCALAR)
        return fail(l, n->at, "'%s' must be text, not %s", what, yaml_type_name(n));
    *out = vars_expand(&l->vars, n->text, n->at, l->e);
    if (!*out)
        return -ERR_MANIFEST;
    return **out ? 0 : fail(l, n->at, "'%s' is empty", what);
}

static int check_top_names(const struct loader *l, const struct yaml_node *root)
{
    static const char *const names[] = {"version", "name", "vars", "stages", "cache", "numerics", "matrix"};
    char near[128];
    if (root->type != YAML_MAP)
        return fail(l, root->at, "a manifest is a map, not %s", yaml_type_name(root));
    for (size_t i = 0; i < root->count; i++) {
        const struct yaml_node *key = root->pairs[i].key;
        size_t n = 0;
        while (n < sizeof names / sizeof *names && strcmp(names[n], key->text) != 0)
            n++;
        if (n == sizeof names / sizeof *names)
            return fail(l, key->at, "unknown field '%s'%s", key->text, guess(near, nearest_name(key->text, names, n)));
        if (!strcmp(key->text, "matrix"))
            return fail(l, key->at, "'matrix' is not served by this version: write the stages out");
    }
    return 0;
}

static int check_version(const struct loader *l, const struct yaml_node *root)
{
    const struct yaml_node *v = yaml_get(root, "version");
    if (!v)
        return fail(l, root->at, "'version: 1' is missing");
    if (v->type != YAML_SCALAR || strcmp(v->text, "1") != 0)
        return fail(l, v->at, "version must be 1, not %s%s%s", v->type == YAML_SCALAR ? "'" : "",
                    v->type == YAML_SCALAR ? v->text : yaml_type_name(v), v->type == YAML_SCALAR ? "'" : "");
    return 0;
}

static int load_vars(struct loader *l, const struct yaml_node *root)
{
    const struct yaml_node *vars = yaml_get(root, "vars"), *name = yaml_get(root, "name");
    if (name && name->type == YAML_SCALAR)
        vars_define(&l->vars, "name", name->text, name->at, false);
    if (!vars)
        return 0;
    if (vars->type != YAML_MAP)
        return fail(l, vars->at, "'vars' must be a map, not %s", yaml_type_name(vars));
    for (size_t i = 0; i < vars->count; i++) {
        const struct yaml_node *key = vars->pairs[i].key, *value = vars->pairs[i].value;
        if (!vars_name_ok(key->text))
            return fail(l, key->at, "'%s' is no name of a variable: letters, digits and '_'", key->text);
        if (!strcmp(key->text, "name"))
            return fail(l, key->at, "variable 'name' is the manifest's own name");
        if (value->type != YAML_SCALAR)
            return fail(l, value->at, "variable '%s' must be text, not %s", key->text, yaml_type_name(value));
        vars_define(&l->vars, key->text, value->text, value->at, false);
    }
    return 0;
}

static int apply_sets(struct loader *l, const struct yaml_node *root, const char *const *sets, size_t count)
{
    const struct yaml_node *vars = yaml_get(root, "vars");
    for (size_t i = 0; i < count; i++) {
        const char *eq = strchr(sets[i], '=');
        if (!eq || eq == sets[i])
            return err_set(l->e, ERR_USAGE, "--set wants VAR=VALUE, not '%s'", sets[i]);
        const char *name = arena_strndup(&l->m->arena, sets[i], (size_t)(eq - sets[i]));
        if (!vars || !yaml_get(vars, name)) {
            const char **names = xcalloc(vars ? vars->count : 0, sizeof *names);
            for (size_t j = 0; vars && j < vars->count; j++)
                names[j] = vars->pairs[j].key->text;
            char near[128];
            guess(near, nearest_name(name, names, vars ? vars->count : 0));
            free(names);
            return err_set(l->e, ERR_USAGE, "--set %s: the manifest has no such variable%s", name, near);
        }
        vars_define(&l->vars, name, eq + 1, yaml_get(vars, name)->at, true);
    }
    return 0;
}

static int load_cache(struct loader *l, const struct yaml_node *root)
{
    static const char *const names[] = {"dir", "salt"};
    const struct yaml_node *c = yaml_get(root, "cache");
    char near[128];
    if (!c)
        return 0;
    if (c->type != YAML_MAP)
        return fail(l, c->at, "'cache' must be a map, not %s", yaml_type_name(c));
    for (size_t i = 0; i < c->count; i++) {
        const char *key = c->pairs[i].key->text, *text = NULL;
        bool is_dir = !strcmp(key, "dir");
        if (!is_dir && strcmp(key, "salt") != 0)
            return fail(l, c->pairs[i].key->at, "unknown field '%s' of 'cache'%s", key, guess(near, nearest_name(key, names, 2)));
        int rc = text_of(l, is_dir ? "cache.dir" : "cache.salt", c->pairs[i].value, &text);
        if (rc)
            return rc;
        if (is_dir) {
            char *joined = io_join(l->m->dir, text);
            l->m->cache_dir = arena_strdup(&l->m->arena, joined);
            free(joined);
        } else {
            l->m->salt = text;
        }
    }
    return 0;
}

static int load_head(struct loader *l, const struct yaml_node *root)
{
    const struct yaml_node *name = yaml_get(root, "name"), *numerics = yaml_get(root, "numerics");
    int rc = load_cache(l, root);
    if (!rc && name)
        rc = text_of(l, "name", name, &l->m->name);
    if (!rc && numerics) {
        rc = text_of(l, "numerics", numerics, &l->m->numerics);
        l->m->numerics_at = numerics->at;
    }
    return rc;
}

static bool stage_name_ok(const char *s)
{
    for (size_t i = 0; s[i]; i++) {
        bool alnum = (s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') || (s[i] >= '0' && s[i] <= '9') || s[i] == '_';
        if (i >= 64 || (!alnum && (i == 0 || (s[i] != '-' && s[i] != '.'))))
            return false;
    }
    return s[0] != 0;
}

static struct mark value_place(const struct yaml_pair *p)
{
    return p->value->type == YAML_SCALAR ? p->value->at : p->key->at;
}

static void add_ref(struct loader *l, struct manifest_stage *s, const struct schema_field *f, const json_t *v, const struct yaml_node *n)
{
    struct manifest_ref *r = &s->refs[s->ref_count++];
    const json_t *files = json_object_get(v, "files");
    *r = (struct manifest_ref){.field = f, .at = n->at};
    r->stage = arena_strdup(&l->m->arena, json_string_value(json_is_object(v) ? json_object_get(v, "from") : v));
    if (n->type == YAML_MAP)
        r->at = yaml_get(n, "from")->at;
    if (files) {
        r->pattern = arena_strdup(&l->m->arena, json_string_value(files));
        r->pattern_at = yaml_get(n, "files")->at;
    }
}

static int load_field(struct loader *l, struct manifest_stage *s, const struct schema_field *f)
{
    struct typed_ctx t = {&l->vars, l->m->path, s->name};
    const struct yaml_pair *p = yaml_pair(s->body, f->name);
    json_t *v = p ? typed_value(&t, f, p->value, l->e) : NULL;
    if (p && !v)
        return -ERR_MANIFEST;
    if (!v || json_is_null(v)) {
        if (schema_required(f))
            return p ? fail(l, p->key->at, "stage '%s': '%s' has no value", s->name, f->name)
                     : fail(l, s->at, "stage '%s': '%s' is missing", s->name, f->name);
        json_decref(v);
        v = typed_default(f);
    } else if (f->role == ROLE_EDGE) {
        add_ref(l, s, f, v, p->value);
    }
    json_object_set_new(s->params, f->name, v);
    return 0;
}

static int load_stage(struct loader *l, struct manifest_stage *s, const struct yaml_pair *pair)
{
    char near[128];
    s->name = pair->key->text;
    s->at = pair->key->at;
    if (!stage_name_ok(s->name))
        return fail(l, s->at, "'%s' is no name of a stage: letters, digits, '_', '-' and '.', at most 64", s->name);
    if (pair->value->type != YAML_MAP || pair->value->count != 1)
        return fail(l, pair->value->type == YAML_MAP && pair->value->count > 1 ? pair->value->pairs[1].key->at : s->at,
                    "stage '%s' must hold exactly one kind of stage, as in { fetch: { ... } }", s->name);
    const struct yaml_node *kind = pair->value->pairs[0].key;
    s->body = pair->value->pairs[0].value;
    s->kind = schema_kind_find(kind->text);
    if (!s->kind)
        return fail(l, kind->at, "stage '%s': unknown kind '%s'%s", s->name, kind->text, guess(near, schema_near_kind(kind->text)));
    if (s->body->type != YAML_MAP)
        return fail(l, s->body->at, "stage '%s': '%s' must be a map of its fields, not %s", s->name, kind->text, yaml_type_name(s->body));
    for (size_t i = 0; i < s->body->count; i++) {
        const struct yaml_node *key = s->body->pairs[i].key;
        if (!schema_field_find(s->kind->name, key->text))
            return fail(l, key->at, "stage '%s': unknown field '%s' of %s%s", s->name, key->text, s->kind->name,
                        guess(near, schema_near_field(s->kind->name, key->text, false)));
    }
    s->params = json_object();
    size_t edges = 0;
    for (size_t i = 0; i < schema_field_count; i++)
        edges += !strcmp(schema_fields[i].kind, s->kind->name) && schema_fields[i].role == ROLE_EDGE;
    s->refs = arena_array(&l->m->arena, edges ? edges : 1, sizeof *s->refs);
    for (size_t i = 0; i < schema_field_count; i++) {
        int rc = strcmp(schema_fields[i].kind, s->kind->name) ? 0 : load_field(l, s, &schema_fields[i]);
        if (rc)
            return rc;
    }
    return 0;
}

static int load_stages(struct loader *l, const struct yaml_node *root)
{
    const struct yaml_node *stages = yaml_get(root, "stages");
    if (!stages)
        return fail(l, root->at, "'stages' is missing");
    if (stages->type != YAML_MAP || !stages->count)
        return fail(l, stages->at, "'stages' must be a map of at least one stage");
    if (stages->count > MANIFEST_MAX_STAGES)
        return fail(l, stages->at, "more than %d stages", MANIFEST_MAX_STAGES);
    l->m->stages = arena_array(&l->m->arena, stages->count, sizeof *l->m->stages);
    for (size_t i = 0; i < stages->count; i++) {
        int rc = load_stage(l, &l->m->stages[l->m->stage_count++], &stages->pairs[i]);
        if (rc)
            return rc;
    }
    return 0;
}

int manifest_parse(const char *path, const char *text, size_t bytes, const char *const *sets, size_t set_count, struct manifest **out,
                   struct err *e)
{
    struct manifest *m = xcalloc(1, sizeof *m);
    m->path = arena_strdup(&m->arena, path);
    char *dir = io_dirname(path);
    m->dir = arena_strdup(&m->arena, dir);
    free(dir);
    m->name = m->salt = "";
    struct loader l = {.m = m, .e = e};
    vars_init(&l.vars, &m->arena, m->path);
    struct yaml_node *root = yaml_parse(&m->arena, text, bytes, path, e);
    int rc = root ? check_top_names(&l, root) : -ERR_MANIFEST;
    if (!rc)
        rc = check_version(&l, root);
    if (!rc)
        rc = load_vars(&l, root);
    if (!rc)
        rc = apply_sets(&l, root, sets, set_count);
    if (!rc)
        rc = load_head(&l, root);
    if (!rc)
        rc = load_stages(&l, root);
    if (!rc)
        rc = dag_check(m, e);
    vars_release(&l.vars);
    if (rc) {
        manifest_free(m);
        m = NULL;
    }
    *out = m;
    return rc;
}

int manifest_load(const char *path, const char *const *sets, size_t set_count, struct manifest **out, struct err *e)
{
    struct buf b = BUF_INIT;
    *out = NULL;
    int rc = io_read_file(path, YAML_MAX_BYTES, &b, e);
    if (!rc)
        rc = manifest_parse(path, buf_str(&b), b.len, sets, set_count, out, e);
    buf_release(&b);
    return rc;
}

void manifest_free(struct manifest *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->stage_count; i++)
        json_decref(m->stages[i].params);
    arena_release(&m->arena);
    free(m);
}

long manifest_find(const struct manifest *m, const char *stage)
{
    for (size_t i = 0; i < m->stage_count; i++)
        if (!strcmp(m->stages[i].name, stage))
            return (long)i;
    return -1;
}

const char *manifest_near(const struct manifest *m, const char *stage)
{
    const char **names = xcalloc(m->stage_count, sizeof *names);
    for (size_t i = 0; i < m->stage_count; i++)
        names[i] = m->stages[i].name;
    const char *near = nearest_name(stage, names, m->stage_count);
    free(names);
    return near;
}

/* The child that the front of *path names; *path is moved behind it. Names may hold dots, so whole names are tried. */
static const struct yaml_node *step(const struct yaml_node *n, const char **path, struct mark *at)
{
    for (size_t i = 0; i < n->count; i++) {
        const struct yaml_node *match = n->type == YAML_LIST ? yaml_get(n->items[i], "match") : NULL;
        char number[24];
        snprintf(number, sizeof number, "%zu", i);
        const char *names[] = {n->type == YAML_MAP ? n->pairs[i].key->text : number,
                               match && match->type == YAML_SCALAR ? match->text : NULL};
        for (size_t j = 0; j < 2 && names[j]; j++) {
            size_t len = strlen(names[j]);
            if (strncmp(*path, names[j], len) != 0 || ((*path)[len] && (*path)[len] != '.'))
                continue;
            *path += len + ((*path)[len] == '.');
            *at = n->type == YAML_MAP ? value_place(&n->pairs[i]) : match ? match->at : n->items[i]->at;
            return n->type == YAML_MAP ? n->pairs[i].value : n->items[i];
        }
    }
    return NULL;
}

struct mark manifest_place(const struct manifest_stage *s, const char *path)
{
    struct mark at = s->at;
    const struct yaml_node *n = s->body;
    while (n && *path && n->type != YAML_SCALAR)
        n = step(n, &path, &at);
    return at;
}

bool manifest_was_set(const struct manifest_stage *s, const char *field)
{
    const struct yaml_node *n = yaml_get(s->body, field);
    return n && !(n->type == YAML_SCALAR && n->plain && (!n->text[0] || !strcmp(n->text, "~") || !strcmp(n->text, "null")));
}

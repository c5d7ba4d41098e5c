/* How stages hang together: references to stages, the artifacts that they may carry, cycles, an order, drawings. */
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/buf.h"
#include "pipeline/base/map.h"
#include "pipeline/base/mem.h"
#include "pipeline/manifest.h"

static int resolve_ref(const struct manifest *m, const struct map *names, const struct manifest_stage *s, struct manifest_ref *r,
                       struct err *e)
{
    const struct manifest_stage *target = map_get(names, r->stage);
    char want[128], have[128];
    if (!target) {
        const char *near = manifest_near(m, r->stage);
        return err_at(e, ERR_MANIFEST, m->path, r->at.line, r->at.col, "stage '%s': '%s' refers to unknown stage '%s'%s%s%s", s->name,
                      r->field->name, r->stage, near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
    }
    r->target = (size_t)(target - m->stages);
    if (!(target->kind->artifacts & r->field->t.mask))
        return err_at(e, ERR_MANIFEST, m->path, r->at.line, r->at.col, "stage '%s': '%s' takes %s, and '%s' (%s) makes %s", s->name,
                      r->field->name, schema_artifacts_text(r->field->t.mask, want, sizeof want), r->stage, target->kind->name,
                      schema_artifacts_text(target->kind->artifacts, have, sizeof have));
    return 0;
}

struct visit {
    struct manifest *m;
    unsigned char *state; /* 0 new, 1 on the path, 2 done */
    size_t *path, path_count, done;
    struct err *e;
};

static int cycle(const struct visit *v, size_t to, const struct manifest_ref *r)
{
    struct buf b = BUF_INIT;
    size_t from = 0;
    while (v->path[from] != to)
        from++;
    for (; from < v->path_count; from++)
        buf_printf(&b, "%s -> ", v->m->stages[v->path[from]].name);
    buf_addstr(&b, v->m->stages[to].name);
    int rc = err_at(v->e, ERR_MANIFEST, v->m->path, r->at.line, r->at.col, "stages need each other: %s", buf_str(&b));
    buf_release(&b);
    return rc;
}

static int visit(struct visit *v, size_t i)
{
    const struct manifest_stage *s = &v->m->stages[i];
    v->state[i] = 1;
    v->path[v->path_count++] = i;
    for (size_t r = 0; r < s->ref_count; r++) {
        size_t to = s->refs[r].target;
        int rc = v->state[to] == 1 ? cycle(v, to, &s->refs[r]) : v->state[to] == 0 ? visit(v, to) : 0;
        if (rc)
            return rc;
    }
    v->path_count--;
    v->state[i] = 2;
    v->m->order[v->done++] = i;
    return 0;
}

int dag_check(struct manifest *m, struct err *e)
{
    struct map names = MAP_INIT;
    int rc = 0;
    for (size_t i = 0; i < m->stage_count; i++)
        map_put(&names, m->stages[i].name, &m->stages[i]);
    for (size_t i = 0; !rc && i < m->stage_count; i++)
        for (size_t r = 0; !rc && r < m->stages[i].ref_count; r++)
            rc = resolve_ref(m, &names, &m->stages[i], &m->stages[i].refs[r], e);
    map_release(&names);
    m->order = arena_array(&m->arena, m->stage_count, sizeof *m->order);
    struct visit v = {.m = m, .state = xcalloc(m->stage_count, 1), .path = xcalloc(m->stage_count, sizeof *v.path), .e = e};
    for (size_t i = 0; !rc && i < m->stage_count; i++)
        if (!v.state[i])
            rc = visit(&v, i);
    free(v.state);
    free(v.path);
    return rc;
}

void dag_mark(const struct manifest *m, size_t stage, bool *wanted)
{
    if (wanted[stage])
        return;
    wanted[stage] = true;
    for (size_t r = 0; r < m->stages[stage].ref_count; r++)
        dag_mark(m, m->stages[stage].refs[r].target, wanted);
}

static void draw_ascii(const struct manifest *m, struct buf *out)
{
    for (size_t i = 0; i < m->stage_count; i++) {
        const struct manifest_stage *s = &m->stages[m->order[i]];
        buf_printf(out, "%s (%s)", s->name, s->kind->name);
        for (size_t r = 0; r < s->ref_count; r++)
            buf_printf(out, "%s%s: %s", r ? ", " : " <- ", s->refs[r].field->name, s->refs[r].stage);
        buf_addch(out, '\n');
    }
}

void dag_draw(const struct manifest *m, enum dag_format format, struct buf *out)
{
    if (format == DAG_ASCII) {
        draw_ascii(m, out);
        return;
    }
    bool dot = format == DAG_DOT;
    buf_addstr(out, dot ? "digraph gptqpipe {\n    rankdir=LR;\n    node [shape=box];\n" : "flowchart LR\n");
    for (size_t i = 0; i < m->stage_count; i++) {
        const struct manifest_stage *s = &m->stages[i];
        if (dot)
            buf_printf(out, "    \"%s\" [label=\"%s\\n%s\"];\n", s->name, s->name, s->kind->name);
        else
            buf_printf(out, "    s%zu[\"%s (%s)\"]\n", i, s->name, s->kind->name);
    }
    for (size_t i = 0; i < m->stage_count; i++)
        for (size_t r = 0; r < m->stages[i].ref_count; r++) {
            const struct manifest_ref *ref = &m->stages[i].refs[r];
            if (dot)
                buf_printf(out, "    \"%s\" -> \"%s\" [label=\"%s\"];\n", ref->stage, m->stages[i].name, ref->field->name);
            else
                buf_printf(out, "    s%zu -->|%s| s%zu\n", ref->target, ref->field->name, i);
        }
    if (dot)
        buf_addstr(out, "}\n");
}

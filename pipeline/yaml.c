#include "pipeline/yaml.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "pipeline/base/map.h"
#include "pipeline/base/mem.h"

struct reader {
    yaml_parser_t parser;
    struct arena *arena;
    const char *name, *text;
    size_t bytes, nodes;
    struct map anchors;
    struct err *e;
};

static int fail(const struct reader *r, struct mark at, const char *text)
{
    return err_at(r->e, ERR_MANIFEST, r->name, at.line, at.col, "%s", text);
}

static struct mark mark_of(yaml_mark_t m)
{
    return (struct mark){(long)m.line + 1, (long)m.column + 1};
}

static struct mark mark_at_byte(const struct reader *r, size_t offset)
{
    struct mark at = {1, 1};
    for (size_t i = 0; i < offset && i < r->bytes; i++) {
        unsigned char c = (unsigned char)r->text[i];
        at.col = c == '\n' ? 1 : at.col + ((c & 0xc0) != 0x80);
        at.line += c == '\n';
    }
    return at;
}

/* Length of the UTF-8 sequence at p, 0 when it is none (overlong, surrogate, cut off). */
static size_t utf8_length(const unsigned char *p, size_t left)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = p[0] < 0x80 ? 1 : (p[0] & 0xe0) == 0xc0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : (p[0] & 0xf8) == 0xf0 ? 4 : 0;
    if (n < 2 || n > left)
        return n <= left ? n : 0;
    uint32_t c = p[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3fu);
    }
    return c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? 0 : n;
}

static int check_utf8(const struct reader *r)
{
    for (size_t i = 0, n; i < r->bytes; i += n) {
        n = utf8_length((const unsigned char *)r->text + i, r->bytes - i);
        if (!n)
            return err_at(r->e, ERR_MANIFEST, r->name, mark_at_byte(r, i).line, mark_at_byte(r, i).col, "byte 0x%02x is not UTF-8",
                          (unsigned char)r->text[i]);
    }
    return 0;
}

static int scan_error(const struct reader *r)
{
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_READER_ERROR) {
        struct mark at = mark_at_byte(r, p->problem_offset);
        return err_at(r->e, ERR_MANIFEST, r->name, at.line, at.col, "%s", p->problem);
    }
    struct mark at = mark_of(p->problem_mark);
    if (p->problem_mark.index < r->bytes && p->problem_mark.column < r->bytes) {
        size_t byte = 0, line = 0;
        for (; byte < r->bytes && line < p->problem_mark.line; byte++)
            line += r->text[byte] == '\n';
        for (size_t c = 0; byte < r->bytes && c < p->problem_mark.column; byte++)
            c += ((unsigned char)r->text[byte] & 0xc0) != 0x80;
        if (byte < r->bytes && r->text[byte] == '\t')
            return fail(r, at, "a tab cannot indent YAML: use spaces");
    }
    return err_at(r->e, ERR_MANIFEST, r->name, at.line, at.col, "%s%s%s", p->context ? p->context : "", p->context ? ": " : "",
                  p->problem ? p->problem : "malformed YAML");
}

static int next_event(struct reader *r, yaml_event_t *ev)
{
    return yaml_parser_parse(&r->parser, ev) ? 0 : scan_error(r);
}

static struct yaml_node *new_node(struct reader *r, enum yaml_type type, const yaml_event_t *ev)
{
    struct yaml_node *n = arena_alloc(r->arena, sizeof *n);
    *n = (struct yaml_node){.type = type, .at = mark_of(ev->start_mark), .weight = 1};
    return n;
}

static int parse_node(struct reader *r, yaml_event_t *ev, int depth, struct yaml_node **out);

static int parse_scalar(struct reader *r, const yaml_event_t *ev, struct yaml_node **out)
{
    const char *text = (const char *)ev->data.scalar.value;
    *out = new_node(r, YAML_SCALAR, ev);
    if (memchr(text, 0, ev->data.scalar.length))
        return fail(r, (*out)->at, "text holds a NUL character");
    (*out)->text = arena_strndup(r->arena, text, ev->data.scalar.length);
    (*out)->plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    return 0;
}

struct children {
    struct yaml_node **nodes;
    size_t count, cap;
};

/* Nodes up to the end of the collection. */
static int parse_children(struct reader *r, yaml_event_type_t end, int depth, struct yaml_node *parent, struct children *c)
{
    for (;;) {
        yaml_event_t ev;
        int rc = next_event(r, &ev);
        if (rc)
            return rc;
        bool last = ev.type == end;
        struct yaml_node *n = NULL;
        if (!last)
            rc = parse_node(r, &ev, depth + 1, &n);
        yaml_event_delete(&ev);
        if (rc || last)
            return rc;
        parent->weight += n->weight;
        MEM_GROW(c->nodes, c->count, c->cap);
        c->nodes[c->count++] = n;
    }
}

static int fill_map(struct reader *r, struct yaml_node *n, const struct children *c)
{
    struct map seen = MAP_INIT;
    int rc = 0;
    n->count = c->count / 2;
    n->pairs = arena_array(r->arena, n->count ? n->count : 1, sizeof *n->pairs);
    for (size_t i = 0; !rc && i < n->count; i++) {
        struct yaml_node *key = c->nodes[2 * i];
        n->pairs[i] = (struct yaml_pair){key, c->nodes[2 * i + 1]};
        if (key->type != YAML_SCALAR) {
            rc = fail(r, key->at, "a key must be text");
            continue;
        }
        const struct yaml_node *first = map_put(&seen, key->text, key);
        if (first)
            rc = err_at(r->e, ERR_MANIFEST, r->name, key->at.line, key->at.col, "duplicate key '%s' (first in line %ld)", key->text,
                        first->at.line);
    }
    map_release(&seen);
    return rc;
}

static int parse_collection(struct reader *r, const yaml_event_t *ev, int depth, struct yaml_node **out)
{
    bool is_map = ev->type == YAML_MAPPING_START_EVENT;
    struct children c = {NULL, 0, 0};
    struct yaml_node *n = *out = new_node(r, is_map ? YAML_MAP : YAML_LIST, ev);
    if (depth >= YAML_MAX_DEPTH)
        return err_at(r->e, ERR_MANIFEST, r->name, n->at.line, n->at.col, "nested more than %d deep", YAML_MAX_DEPTH);
    int rc = parse_children(r, is_map ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT, depth, n, &c);
    if (!rc && is_map) {
        rc = fill_map(r, n, &c);
    } else if (!rc) {
        n->count = c.count;
        n->items = arena_array(r->arena, c.count ? c.count : 1, sizeof *n->items);
        if (c.count)
            memcpy(n->items, c.nodes, c.count * sizeof *c.nodes);
    }
    free(c.nodes);
    return rc;
}

static int count_nodes(struct reader *r, const struct yaml_node *n, size_t more)
{
    r->nodes += more;
    if (r->nodes <= YAML_MAX_NODES)
        return 0;
    return err_at(r->e, ERR_MANIFEST, r->name, n->at.line, n->at.col, "more than %d values (aliases counted each time)", YAML_MAX_NODES);
}

static int parse_alias(struct reader *r, const yaml_event_t *ev, struct yaml_node **out)
{
    const char *name = (const char *)ev->data.alias.anchor;
    struct mark at = mark_of(ev->start_mark);
    *out = map_get(&r->anchors, name);
    if (!*out)
        return err_at(r->e, ERR_MANIFEST, r->name, at.line, at.col, "alias '*%s' without an anchor before it", name);
    return count_nodes(r, *out, (*out)->weight);
}

static int parse_node(struct reader *r, yaml_event_t *ev, int depth, struct yaml_node **out)
{
    if (ev->type == YAML_ALIAS_EVENT)
        return parse_alias(r, ev, out);
    const char *anchor = NULL, *tag = NULL;
    int rc;
    if (ev->type == YAML_SCALAR_EVENT) {
        anchor = (const char *)ev->data.scalar.anchor;
        tag = (const char *)ev->data.scalar.tag;
        rc = parse_scalar(r, ev, out);
    } else if (ev->type == YAML_MAPPING_START_EVENT || ev->type == YAML_SEQUENCE_START_EVENT) {
        bool is_map = ev->type == YAML_MAPPING_START_EVENT;
        anchor = (const char *)(is_map ? ev->data.mapping_start.anchor : ev->data.sequence_start.anchor);
        tag = (const char *)(is_map ? ev->data.mapping_start.tag : ev->data.sequence_start.tag);
        rc = parse_collection(r, ev, depth, out);
    } else {
        return fail(r, mark_of(ev->start_mark), "malformed YAML");
    }
    if (!rc && tag)
        rc = err_at(r->e, ERR_MANIFEST, r->name, (*out)->at.line, (*out)->at.col,
                    "tag '%s': values are typed by their field, tags are not taken", tag);
    if (!rc)
        rc = count_nodes(r, *out, 1);
    if (!rc && anchor)
        map_put(&r->anchors, anchor, *out);
    return rc;
}

/* STREAM-START DOCUMENT-START node DOCUMENT-END STREAM-END */
static int parse_stream(struct reader *r, struct yaml_node **out)
{
    static const char empty[] = "the manifest is empty";
    for (;;) {
        yaml_event_t ev;
        int rc = next_event(r, &ev);
        if (rc)
            return rc;
        yaml_event_type_t type = ev.type;
        struct mark at = mark_of(ev.start_mark);
        if (type == YAML_DOCUMENT_START_EVENT && *out)
            rc = fail(r, at, "a second document: a manifest is one");
        else if (type != YAML_STREAM_START_EVENT && type != YAML_DOCUMENT_START_EVENT && type != YAML_DOCUMENT_END_EVENT &&
                 type != YAML_STREAM_END_EVENT)
            rc = parse_node(r, &ev, 0, out);
        yaml_event_delete(&ev);
        if (!rc && type == YAML_STREAM_END_EVENT && !*out)
            rc = fail(r, (struct mark){1, 1}, empty);
        if (rc || type == YAML_STREAM_END_EVENT)
            return rc;
    }
}

struct yaml_node *yaml_parse(struct arena *a, const char *text, size_t bytes, const char *name, struct err *e)
{
    static const char bom[] = "\xef\xbb\xbf";
    if (bytes >= 3 && !memcmp(text, bom, 3)) {
        text += 3;
        bytes -= 3;
    }
    struct reader r = {.arena = a, .name = name, .text = text, .bytes = bytes, .anchors = MAP_INIT, .e = e};
    if (bytes > YAML_MAX_BYTES) {
        fail(&r, (struct mark){1, 1}, "the manifest is larger than 4 MiB");
        return NULL;
    }
    if (check_utf8(&r))
        return NULL;
    if (!yaml_parser_initialize(&r.parser))
        BUG("libyaml cannot be initialized");
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)(bytes ? text : ""), bytes);
    struct yaml_node *root = NULL;
    int rc = parse_stream(&r, &root);
    yaml_parser_delete(&r.parser);
    map_release(&r.anchors);
    return rc ? NULL : root;
}

struct yaml_pair *yaml_pair(const struct yaml_node *map, const char *key)
{
    for (size_t i = 0; map->type == YAML_MAP && i < map->count; i++)
        if (!strcmp(map->pairs[i].key->text, key))
            return &map->pairs[i];
    return NULL;
}

struct yaml_node *yaml_get(const struct yaml_node *map, const char *key)
{
    struct yaml_pair *p = yaml_pair(map, key);
    return p ? p->value : NULL;
}

const char *yaml_type_name(const struct yaml_node *n)
{
    return n->type == YAML_MAP ? "a map" : n->type == YAML_LIST ? "a list" : "text";
}

#include "pipeline/events.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"

enum { PROGRESS_EVENT_MS = 500 };

struct events {
    pthread_mutex_t lock;
    char *spec; /* NULL without; "fd:N" or a path */
    int fd;     /* -1 without */
    bool own_fd;
    struct err fd_error; /* the first one; nothing is written after it */
    FILE *json;
    struct progress *progress;
    uint64_t seq, progress_ns;
};

static int open_sink(struct events *v, const char *spec, struct err *e)
{
    v->spec = xstrdup(spec);
    if (!strncmp(spec, "fd:", 3)) {
        char *end = NULL;
        long n = strtol(spec + 3, &end, 10);
        if (!spec[3] || *end || n < 0 || n > 65535)
            return err_set(e, ERR_USAGE, "--events '%s': fd:N wants a number", spec);
        v->fd = (int)n;
        return fcntl(v->fd, F_GETFL) < 0 ? err_sys(e, errno, "--events %s", spec) : 0;
    }
    v->fd = open(spec, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    v->own_fd = true;
    return v->fd < 0 ? err_sys(e, errno, "cannot open %s", spec) : 0;
}

static void release(struct events *v)
{
    if (v->own_fd && v->fd >= 0)
        close(v->fd);
    progress_close(v->progress);
    pthread_mutex_destroy(&v->lock);
    free(v->spec);
    free(v);
}

int events_open(const struct events_config *c, struct events **out, struct err *e)
{
    struct events *v = xcalloc(1, sizeof *v);
    v->fd = -1;
    v->json = c->json;
    pthread_mutex_init(&v->lock, NULL);
    int rc = c->spec ? open_sink(v, c->spec, e) : 0;
    if (!rc && c->human)
        v->progress = progress_open(c->human, c->level);
    if (rc) {
        release(v);
        v = NULL;
    }
    *out = v;
    return rc;
}

int events_close(struct events *v, struct err *e)
{
    if (!v)
        return 0;
    int rc = v->fd_error.code ? -v->fd_error.code : 0;
    if (rc && e)
        *e = v->fd_error;
    release(v);
    return rc;
}

static json_t *stamp(struct events *v, const char *type, json_t *body)
{
    struct timespec t;
    struct tm tm;
    char text[64];
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + n, sizeof text - n, ".%03ldZ", t.tv_nsec / 1000000);
    json_t *o = json_pack("{s:i,s:s,s:I,s:s}", "v", 1, "ts", text, "seq", (json_int_t)v->seq++, "type", type);
    json_object_update(o, body);
    return o;
}

/* Lock held. */
static void write_event(struct events *v, const char *type, json_t *body)
{
    if (v->fd >= 0 || v->json) {
        json_t *o = stamp(v, type, body);
        char *line = json_dumps(o, JSON_COMPACT);
        json_decref(o);
        char *text = line ? xasprintf("%s\n", line) : NULL;
        free(line);
        if (text && v->fd >= 0 && !v->fd_error.code)
            io_write(v->fd, text, strlen(text), v->spec, &v->fd_error);
        if (text && v->json) {
            fputs(text, v->json);
            fflush(v->json);
        }
        free(text);
    }
    json_decref(body);
}

void events_emit(struct events *v, const char *type, json_t *body)
{
    if (!v) {
        json_decref(body);
        return;
    }
    pthread_mutex_lock(&v->lock);
    write_event(v, type, body);
    pthread_mutex_unlock(&v->lock);
}

static void set_text(json_t *o, const char *name, const char *text)
{
    if (text)
        json_object_set_new(o, name, json_string(text));
}

static void say(struct events *v, enum progress_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void say(struct events *v, enum progress_level level, const char *fmt, ...)
{
    if (!v->progress)
        return;
    char text[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    progress_line(v->progress, level, text);
}

void events_node_start(struct events *v, const char *node, const char *reason, const char *field, const char *key)
{
    if (!v)
        return;
    json_t *o = json_object();
    set_text(o, "node", node);
    set_text(o, "reason", reason);
    set_text(o, "field", field);
    set_text(o, "key", key);
    pthread_mutex_lock(&v->lock);
    write_event(v, "node_start", o);
    say(v, PROGRESS_NORMAL, "%s: running (%s%s%s)", node, reason, field ? ": " : "", field ? field : "");
    if (v->progress)
        progress_node_start(v->progress, node, io_monotonic_ns());
    pthread_mutex_unlock(&v->lock);
}

void events_progress(struct events *v, const char *node, double done, double total, const char *label)
{
    if (!v)
        return;
    uint64_t now = io_monotonic_ns();
    pthread_mutex_lock(&v->lock);
    if (v->progress)
        progress_node_update(v->progress, node, done, total, label, now);
    if (now - v->progress_ns >= PROGRESS_EVENT_MS * 1000000ull) {
        v->progress_ns = now;
        write_event(v, "progress", json_pack("{s:s,s:f,s:f,s:s}", "node", node, "done", done, "total", total, "label", label ? label : ""));
    }
    pthread_mutex_unlock(&v->lock);
}

void events_node_end(struct events *v, const char *node, const char *result, const char *key, double seconds, const json_t *metrics,
                     const json_t *outputs)
{
    if (!v)
        return;
    json_t *o = json_pack("{s:s,s:s,s:I}", "node", node, "result", result, "ms", (json_int_t)(seconds * 1000));
    set_text(o, "key", key);
    if (metrics)
        json_object_set_new(o, "metrics", json_deep_copy(metrics));
    if (outputs)
        json_object_set_new(o, "outputs", json_deep_copy(outputs));
    pthread_mutex_lock(&v->lock);
    if (v->progress)
        progress_node_end(v->progress, node);
    write_event(v, "node_end", o);
    if (!strcmp(result, "hit"))
        say(v, PROGRESS_VERBOSE, "%s: up to date", node);
    else
        say(v, PROGRESS_NORMAL, "%s: %s in %.1f s", node, !strcmp(result, "ran") ? "done" : result, seconds);
    pthread_mutex_unlock(&v->lock);
}

static void message(struct events *v, const char *type, const char *node, const char *text, enum progress_level level)
{
    if (!v)
        return;
    json_t *o = json_object();
    set_text(o, "node", node);
    set_text(o, "text", text);
    pthread_mutex_lock(&v->lock);
    write_event(v, type, o);
    say(v, level, "%s%s: %s", node ? node : "gptqpipe", !strcmp(type, "warning") ? ": warning" : "", text);
    pthread_mutex_unlock(&v->lock);
}

void events_note(struct events *v, const char *node, const char *text)
{
    message(v, "note", node, text, PROGRESS_NORMAL);
}

void events_warning(struct events *v, const char *node, const char *text)
{
    message(v, "warning", node, text, PROGRESS_QUIET);
}

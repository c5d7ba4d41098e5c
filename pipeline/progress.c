#include "pipeline/progress.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "pipeline/base/buf.h"
#include "pipeline/base/mem.h"

enum { REDRAW_MS = 100, PLAIN_MS = 30000 };

struct running {
    char *node;
    double done, total;
    char label[32];
    uint64_t start_ns, said_ns;
};

struct progress {
    FILE *out;
    bool terminal, drawn;
    enum progress_level level;
    struct running *nodes;
    size_t count, cap;
    uint64_t drawn_ns;
};

struct progress *progress_open(FILE *out, enum progress_level level)
{
    struct progress *p = xcalloc(1, sizeof *p);
    *p = (struct progress){.out = out, .level = level, .terminal = isatty(fileno(out)) == 1};
    return p;
}

static void erase(struct progress *p)
{
    if (p->drawn)
        fputs("\r\033[K", p->out);
    p->drawn = false;
}

void progress_close(struct progress *p)
{
    if (!p)
        return;
    erase(p);
    fflush(p->out);
    for (size_t i = 0; i < p->count; i++)
        free(p->nodes[i].node);
    free(p->nodes);
    free(p);
}

static void seconds_text(double s, char *out, size_t bytes)
{
    long long t = s > 0 && s < 1e9 ? (long long)(s + 0.5) : 0;
    if (t >= 3600)
        snprintf(out, bytes, "%lld:%02lld:%02lld", t / 3600, t / 60 % 60, t % 60);
    else
        snprintf(out, bytes, "%lld:%02lld", t / 60, t % 60);
}

const char *progress_text(double done, double total, const char *label, double elapsed_s, char *out, size_t bytes)
{
    char left[32] = "";
    double rate = elapsed_s > 0 ? done / elapsed_s : 0;
    int percent = total > 0 ? (int)(100 * (done < total ? done : total) / total) : 0;
    if (rate > 0 && total > done)
        seconds_text((total - done) / rate, left, sizeof left);
    int n = snprintf(out, bytes, "%d%%", percent);
    if (rate > 0 && n > 0 && (size_t)n < bytes)
        n += snprintf(out + n, bytes - (size_t)n, "  %.*f %s/s", rate < 10 ? 1 : 0, rate, label);
    if (left[0] && n > 0 && (size_t)n < bytes)
        snprintf(out + n, bytes - (size_t)n, "  %s left", left);
    return out;
}

static void draw(struct progress *p, uint64_t now_ns)
{
    struct winsize w;
    size_t width = ioctl(fileno(p->out), TIOCGWINSZ, &w) == 0 && w.ws_col > 1 ? (size_t)w.ws_col - 1 : 79;
    struct buf b = BUF_INIT;
    for (size_t i = 0; i < p->count; i++) {
        const struct running *r = &p->nodes[i];
        char text[128];
        buf_printf(&b, "%s%s %s", i ? " | " : "", r->node,
                   progress_text(r->done, r->total, r->label, (double)(now_ns - r->start_ns) / 1e9, text, sizeof text));
    }
    erase(p);
    if (b.len > width)
        buf_setlen(&b, width);
    fputs(buf_str(&b), p->out);
    fflush(p->out);
    p->drawn = b.len > 0;
    p->drawn_ns = now_ns;
    buf_release(&b);
}

static struct running *find(struct progress *p, const char *node)
{
    for (size_t i = 0; i < p->count; i++)
        if (!strcmp(p->nodes[i].node, node))
            return &p->nodes[i];
    return NULL;
}

void progress_node_start(struct progress *p, const char *node, uint64_t now_ns)
{
    MEM_GROW(p->nodes, p->count, p->cap);
    p->nodes[p->count++] = (struct running){.node = xstrdup(node), .start_ns = now_ns, .said_ns = now_ns};
    if (p->terminal && p->level != PROGRESS_QUIET)
        draw(p, now_ns);
}

void progress_node_update(struct progress *p, const char *node, double done, double total, const char *label, uint64_t now_ns)
{
    struct running *r = find(p, node);
    if (!r || p->level == PROGRESS_QUIET)
        return;
    r->done = done;
    r->total = total;
    snprintf(r->label, sizeof r->label, "%s", label ? label : "");
    if (p->terminal) {
        if (now_ns - p->drawn_ns >= REDRAW_MS * 1000000ull)
            draw(p, now_ns);
    } else if (now_ns - r->said_ns >= PLAIN_MS * 1000000ull) {
        char text[128];
        r->said_ns = now_ns;
        fprintf(p->out, "%s: %s\n", node, progress_text(done, total, r->label, (double)(now_ns - r->start_ns) / 1e9, text, sizeof text));
        fflush(p->out);
    }
}

void progress_node_end(struct progress *p, const char *node)
{
    struct running *r = find(p, node);
    if (!r)
        return;
    free(r->node);
    memmove(r, r + 1, (size_t)(p->nodes + p->count - (r + 1)) * sizeof *r);
    p->count--;
    erase(p);
}

void progress_line(struct progress *p, enum progress_level level, const char *text)
{
    if (level > p->level)
        return;
    erase(p);
    fprintf(p->out, "%s\n", text);
    fflush(p->out);
}

#include "pipeline/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *text;
    int status;
} table[] = {
    {"ERR_NONE", "no error", 0},
#define E(name, text, status) {#name, text, status},
#include "pipeline/base/err.def"
#undef E
};

static size_t err_index(int code)
{
    size_t i = (size_t)(code < 0 ? -code : code);
    return i < sizeof table / sizeof *table ? i : ERR_FAIL;
}

const char *err_name(int code)
{
    return table[err_index(code)].name;
}

int err_exit_status(int code)
{
    return table[err_index(code)].status;
}

void err_clear(struct err *e)
{
    if (e)
        memset(e, 0, sizeof *e);
}

/* Error text is one line: control bytes that came in with names or data are shown as '?'. */
static void one_line(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = '?';
}

static void set_text(struct err *e, enum err_code code, const char *fmt, va_list ap)
{
    err_clear(e);
    e->code = (int)code;
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    one_line(e->text);
}

int err_set(struct err *e, enum err_code code, const char *fmt, ...)
{
    if (e) {
        va_list ap;
        va_start(ap, fmt);
        set_text(e, code, fmt, ap);
        va_end(ap);
    }
    return -(int)code;
}

int err_at(struct err *e, enum err_code code, const char *file, long line, long col, const char *fmt, ...)
{
    if (e) {
        va_list ap;
        va_start(ap, fmt);
        set_text(e, code, fmt, ap);
        va_end(ap);
        err_place(e, file, line, col);
    }
    return -(int)code;
}

int err_sys(struct err *e, int errnum, const char *fmt, ...)
{
    enum err_code code = errnum == ENOMEM ? ERR_NOMEM : ERR_IO;
    if (e) {
        va_list ap;
        va_start(ap, fmt);
        set_text(e, code, fmt, ap);
        va_end(ap);
        char why[128];
        const char *text = strerror_r(errnum, why, sizeof why);
        size_t len = strlen(e->text);
        snprintf(e->text + len, sizeof e->text - len, ": %s", text);
    }
    return -(int)code;
}

int err_wrap(struct err *e, const char *fmt, ...)
{
    if (!e)
        return -ERR_FAIL;
    char text[ERR_TEXT_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    one_line(text);
    size_t len = strlen(text);
    snprintf(text + len, sizeof text - len, ": %s", e->text);
    memcpy(e->text, text, sizeof text);
    return e->code ? -e->code : -ERR_FAIL;
}

int err_place(struct err *e, const char *file, long line, long col)
{
    if (!e)
        return -ERR_FAIL;
    if (!e->file[0] && file) {
        snprintf(e->file, sizeof e->file, "%s", file);
        one_line(e->file);
        e->line = line;
        e->col = col;
    }
    return -e->code;
}

const char *err_format(const struct err *e, char *out, size_t out_bytes)
{
    if (e->file[0] && e->line > 0)
        snprintf(out, out_bytes, "%s:%ld:%ld: error: %s", e->file, e->line, e->col, e->text);
    else if (e->file[0])
        snprintf(out, out_bytes, "%s: error: %s", e->file, e->text);
    else
        snprintf(out, out_bytes, "gptqpipe: error: %s", e->text[0] ? e->text : table[err_index(e->code)].text);
    return out;
}

void err_bug(const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "%s:%d: BUG: ", file, line);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    abort();
}

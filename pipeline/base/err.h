/* Errors: a code, an optional place in a file, and one line of text, filled by whoever fails and carried up by the callers.
 *
 * A function that can fail returns 0 or -ERR_x and takes `struct err *e` last. The callee writes the text with err_set or
 * err_at; callers add context in front with err_wrap and pass the code on. Only cmd/ prints an error or exits.
 * One `struct err` belongs to one thread; pass NULL to drop the text. This header is also the kernels' only include of pipeline/base.
 */
#ifndef PIPELINE_BASE_ERR_H
#define PIPELINE_BASE_ERR_H

#include <stddef.h>

enum err_code {
    ERR_NONE = 0,
#define E(name, text, status) name,
#include "pipeline/base/err.def"
#undef E
};

enum { ERR_TEXT_BYTES = 1024, ERR_FILE_BYTES = 256 };

struct err {
    int code;                  /* enum err_code, 0 when nothing failed */
    int signal;                /* with ERR_CANCELLED: the signal that asked for it */
    long line, col;            /* 1-based; 0 when there is no place */
    char file[ERR_FILE_BYTES]; /* empty when there is no place */
    char text[ERR_TEXT_BYTES];
};

#define ERR_PRINTF(f, a) __attribute__((format(printf, f, a)))

/* Sets code and text, forgets an earlier error and its place. Returns -code. */
int err_set(struct err *e, enum err_code code, const char *fmt, ...) ERR_PRINTF(3, 4);
/* The same with a place in a file. */
int err_at(struct err *e, enum err_code code, const char *file, long line, long col, const char *fmt, ...) ERR_PRINTF(6, 7);
/* Text from fmt, ": " and strerror(errnum). ENOSPC and EDQUOT keep code ERR_IO. Returns -ERR_IO (ENOMEM: -ERR_NOMEM). */
int err_sys(struct err *e, int errnum, const char *fmt, ...) ERR_PRINTF(3, 4);
/* Puts "context: " in front of the text. Returns -e->code (or -ERR_FAIL when e is NULL). */
int err_wrap(struct err *e, const char *fmt, ...) ERR_PRINTF(2, 3);
/* Puts a place on an error that has none. Returns -e->code. */
int err_place(struct err *e, const char *file, long line, long col);
void err_clear(struct err *e);

/* "FILE:LINE:COL: error: text" or "gptqpipe: error: text", without a newline. Returns out. */
const char *err_format(const struct err *e, char *out, size_t out_bytes);
/* Exit status of the program for a code (positive or negated). */
int err_exit_status(int code);
const char *err_name(int code);

/* A broken invariant of our own: prints where and aborts. */
#define BUG(...) err_bug(__FILE__, __LINE__, __VA_ARGS__)
void err_bug(const char *file, int line, const char *fmt, ...) ERR_PRINTF(3, 4) __attribute__((noreturn));

#endif

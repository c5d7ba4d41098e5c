/* A part of the program in a process of its own, for what may crash or never end. The parent hears from it in messages of one size.
 *
 *     static int body(void *arg, int fd) { struct message m = ...; proc_tell(fd, &m, sizeof m); return 0; }
 *     proc_run(body, arg, sizeof m, on_message, limit_s, &end, e);
 *
 * The child is a fork, so it has the parent's memory as it was: call proc_run where no other thread runs. It ends by _exit with what body returned, without atexit handlers
 * or flushed streams, and dies with its parent. */
#ifndef PIPELINE_BASE_PROC_H
#define PIPELINE_BASE_PROC_H

#include <stddef.h>

#include "pipeline/base/err.h"

enum proc_how {
    PROC_EXITED, /* number: its status */
    PROC_DIED,   /* number: the signal */
    PROC_LATE,   /* it was silent for limit_s and was killed. number: 0; 1: it cannot be killed (a driver holds it) and was left behind */
};
struct proc_end {
    enum proc_how how;
    int number;
};

enum { PROC_MESSAGE_BYTES = 4096 };

/* told gets each message (bytes of them, at most PROC_MESSAGE_BYTES) in the parent; the time it takes does not count. limit_s: seconds from the start to the first message,
 * from message to message and from the last to the end. Fails when there is no process to be had. */
int proc_run(int (*body)(void *arg, int fd), void *arg, size_t bytes, void (*told)(void *arg, const void *message), int limit_s, struct proc_end *out, struct err *e);
/* In body. -1 when the parent is gone. */
int proc_tell(int fd, const void *message, size_t bytes);

#endif

#include "pipeline/base/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "pipeline/base/io.h"

enum { KILLED_S = 5, NAP_NS = 2000000 };

int proc_tell(int fd, const void *message, size_t bytes)
{
    ssize_t n;
    do
        n = write(fd, message, bytes); /* of a pipe, in one piece up to PIPE_BUF, which is no less than PROC_MESSAGE_BYTES */
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)bytes ? 0 : -1;
}

static uint64_t deadline_after(int seconds)
{
    return io_monotonic_ns() + (uint64_t)seconds * 1000000000u;
}

enum heard { HEARD, SILENT, ENDED };

/* One whole message, unless the deadline or the end comes first. */
static enum heard hear(int fd, unsigned char *message, size_t bytes, uint64_t deadline)
{
    size_t got = 0;
    while (got < bytes) {
        uint64_t now = io_monotonic_ns();
        if (now >= deadline)
            return SILENT;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, (int)((deadline - now) / 1000000u) + 1) <= 0)
            continue;
        ssize_t n = read(fd, message + got, bytes - got);
        if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
            return ENDED;
        got += n > 0 ? (size_t)n : 0;
    }
    return HEARD;
}

/* Is it gone by the deadline? */
static bool reap(pid_t pid, int *status, uint64_t deadline)
{
    for (;;) {
        pid_t n = waitpid(pid, status, WNOHANG);
        if (n == pid)
            return true;
        if ((n < 0 && errno != EINTR) || io_monotonic_ns() >= deadline)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
    }
}

static void finish(pid_t pid, bool late, int limit_s, struct proc_end *out)
{
    int status = 0;
    if (!late && reap(pid, &status, deadline_after(limit_s))) {
        *out = WIFSIGNALED(status) ? (struct proc_end){PROC_DIED, WTERMSIG(status)} : (struct proc_end){PROC_EXITED, WEXITSTATUS(status)};
        return;
    }
    kill(pid, SIGKILL);
    *out = (struct proc_end){PROC_LATE, !reap(pid, &status, deadline_after(KILLED_S))};
}

int proc_run(int (*body)(void *arg, int fd), void *arg, size_t bytes, void (*told)(void *arg, const void *message), int limit_s, struct proc_end *out, struct err *e)
{
    _Alignas(max_align_t) unsigned char message[PROC_MESSAGE_BYTES];
    int ends[2];
    const pid_t parent = getpid();
    *out = (struct proc_end){PROC_EXITED, 0};
    if (bytes > sizeof message)
        BUG("a message of %zu bytes", bytes);
    if (pipe2(ends, O_CLOEXEC) < 0)
        return err_sys(e, errno, "cannot make a pipe");
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(getppid() == parent ? body(arg, ends[1]) : 1);
    }
    int n = errno;
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return err_sys(e, n, "cannot make a process");
    }
    enum heard heard;
    while ((heard = hear(ends[0], message, bytes, deadline_after(limit_s))) == HEARD)
        told(arg, message);
    finish(pid, heard == SILENT, limit_s, out);
    close(ends[0]);
    return 0;
}

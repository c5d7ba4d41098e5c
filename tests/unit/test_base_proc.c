/* pipeline/base/proc: messages arrive whole and in order, and every way in which a process can end is told from the others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pipeline/base/io.h"
#include "pipeline/base/proc.h"

struct message {
    int number;
    char filling[3000]; /* larger than what one read of a full pipe may give */
};

struct talk {
    int count, status, signal;
    bool hang;
    int heard;
};

static int body(void *arg, int fd)
{
    const struct talk *t = arg;
    for (int i = 0; i < t->count; i++) {
        struct message m = {.number = i};
        memset(m.filling, 'a' + i % 26, sizeof m.filling);
        if (proc_tell(fd, &m, sizeof m))
            return 99;
    }
    if (t->signal)
        raise(t->signal);
    while (t->hang)
        pause();
    return t->status;
}

static void told(void *arg, const void *message)
{
    struct talk *t = arg;
    const struct message *m = message;
    assert_int_equal(m->number, t->heard);
    for (size_t i = 0; i < sizeof m->filling; i++)
        assert_int_equal(m->filling[i], 'a' + t->heard % 26);
    t->heard++;
}

static struct proc_end run(struct talk *t, int limit_s)
{
    struct proc_end end;
    struct err e;
    t->heard = 0;
    assert_int_equal(proc_run(body, t, sizeof(struct message), told, limit_s, &end, &e), 0);
    assert_int_equal(t->heard, t->count);
    return end;
}

static void ends(void **state)
{
    (void)state;
    for (int status = 0; status < 4; status++) {
        struct talk t = {.count = 500 * status, .status = status};
        struct proc_end end = run(&t, 600);
        assert_int_equal(end.how, PROC_EXITED);
        assert_int_equal(end.number, status);
    }
    static const int signals[] = {SIGKILL, SIGTERM, SIGUSR1};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        struct talk t = {.count = 3, .signal = signals[i]};
        struct proc_end end = run(&t, 600);
        assert_int_equal(end.how, PROC_DIED);
        assert_int_equal(end.number, signals[i]);
    }
    struct talk t = {.count = 40, .hang = true};
    struct proc_end end = run(&t, 1);
    assert_int_equal(end.how, PROC_LATE);
    assert_int_equal(end.number, 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nobody is left */
}

/* A process that closes its end and goes on has ended as far as messages go, and is late. */
static int mute_body(void *arg, int fd)
{
    (void)arg;
    close(fd);
    while (pause())
        ;
    return 0;
}

static void mute(void **state)
{
    struct proc_end end;
    struct err e;
    (void)state;
    assert_int_equal(proc_run(mute_body, NULL, 1, told, 1, &end, &e), 0);
    assert_int_equal(end.how, PROC_LATE);
}

/* The limit is on silence: a process that speaks may take longer than that. */
static int slow_body(void *arg, int fd)
{
    const struct talk *t = arg;
    for (int i = 0; i < t->count; i++) {
        struct message m = {.number = i};
        memset(m.filling, 'a' + i % 26, sizeof m.filling);
        proc_tell(fd, &m, sizeof m);
        usleep(250000);
    }
    return 5;
}

static void slow(void **state)
{
    struct talk t = {.count = 17};
    struct proc_end end;
    struct err e;
    (void)state;
    uint64_t start = io_monotonic_ns();
    assert_int_equal(proc_run(slow_body, &t, sizeof(struct message), told, 4, &end, &e), 0);
    assert_true(io_monotonic_ns() - start > 4100000000u);
    assert_int_equal(end.how, PROC_EXITED);
    assert_int_equal(end.number, 5);
    assert_int_equal(t.heard, 17);
}

/* A parent that is killed takes the child along. */
static int tell_pid(void *arg, int fd)
{
    int *out = arg, pid = (int)getpid();
    if (write(out[1], &pid, sizeof pid) != sizeof pid)
        return 1;
    (void)fd;
    while (pause())
        ;
    return 0;
}

static void orphan(void **state)
{
    int out[2], pid = 0;
    (void)state;
    assert_int_equal(pipe(out), 0);
    pid_t parent = fork();
    if (parent == 0) {
        struct proc_end end;
        proc_run(tell_pid, out, 1, told, 600, &end, NULL);
        _exit(0);
    }
    close(out[1]);
    assert_int_equal(read(out[0], &pid, sizeof pid), sizeof pid);
    kill(parent, SIGKILL);
    waitpid(parent, NULL, 0);
    char byte;
    assert_int_equal(read(out[0], &byte, 1), 0); /* nobody holds the pipe any more: the child is gone, however long that took */
    close(out[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends),
        cmocka_unit_test(mute),
        cmocka_unit_test(slow),
        cmocka_unit_test(orphan),
    };
    return cmocka_run_group_tests_name("base_proc", tests, NULL, NULL);
}

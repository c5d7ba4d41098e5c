#include "pipeline/signals.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

static atomic_int pending;

static void on_signal(int n)
{
    if (atomic_exchange(&pending, n))
        _exit(128 + n);
}

void signals_install(void)
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_signal;
    a.sa_flags = SA_RESTART;
    sigemptyset(&a.sa_mask);
    static const int which[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof which / sizeof *which; i++) {
        struct sigaction old;
        /* An ignored signal stays ignored: nohup, background jobs of a shell. */
        if (!sigaction(which[i], NULL, &old) && old.sa_handler != SIG_IGN)
            sigaction(which[i], &a, NULL);
    }
}

int signals_pending(void)
{
    return atomic_load_explicit(&pending, memory_order_relaxed);
}

void signals_reset(void)
{
    atomic_store(&pending, 0);
}

int signals_error(struct err *e)
{
    int n = signals_pending();
    int rc = err_set(e, ERR_CANCELLED, "stopped by %s", n ? strsignal(n) : "request");
    if (e)
        e->signal = n;
    return rc;
}

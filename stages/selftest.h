/* Does this machine compute what it should? The CPU's rows in this process, a GPU in one of its own, which may crash or hang. What is tested: kernels/selftest.h. */
#ifndef STAGES_SELFTEST_H
#define STAGES_SELFTEST_H

#include "kernels/selftest.h"
#include "stages/device.h"

/* What is told as it comes; `on` is what computed: "scalar", "avx2", "avx512", "cuda:0". */
struct selftest_report {
    void (*group)(void *arg, const char *on, const struct selftest_group *g);
    void (*gpu)(void *arg, const struct device_probe *p); /* which GPU, before its first group; not found: there is none to test */
    void (*absent)(void *arg, const char *on, const char *class, const char *why); /* a class of kernels that the device has not */
    void *arg;
};

/* isa: auto (every row that the machine runs), or the row to test. Fails only where it cannot begin. */
int selftest_cpu(const char *isa, int threads, const struct selftest_report *r, struct err *e);
/* device: auto, cuda or cuda:N. A case that takes more than limit_s seconds ends it, as a crash does: told as a group that is not passed, the case named. Fails only where it
 * cannot begin. Call it where no other thread runs. */
int selftest_gpu(const char *device, int threads, int limit_s, const struct selftest_report *r, struct err *e);

#endif

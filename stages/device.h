/* From the words of the command line ("auto", "avx2", "cuda:0") to a backend, and from a backend's counters to a run's.
 *
 *     struct backend *b;
 *     device_open(r->isa, r->device, r->pool, &b, e);                   computes on the CPU: what quantize needs
 *     device_open_any(&(struct device_want){...}, r->pool, &b, e);      on a GPU too: run, eval, bench, validate
 *     ... device_count(b, r); device_close(b);
 *
 * device_count is called once, at the end: counters run since device_open. One thread at a time per backend; a GPU's is used by the thread that opened it. */
#ifndef STAGES_DEVICE_H
#define STAGES_DEVICE_H

#include "kernels/backend.h"
#include "pipeline/base/pool.h"
#include "pipeline/stage.h"

/* isa: auto scalar avx2 avx512 (NULL = auto). device: auto cpu (NULL = auto). pool: borrowed until device_close; NULL computes on the caller's thread.
 * An unknown word is -ERR_USAGE; an instruction set that the machine lacks, or a GPU, -ERR_UNSUPPORTED. */
int device_open(const char *isa, const char *device, struct pool *pool, struct backend **out, struct err *e);

/* What the plug-in says, for `doctor` and for keys. */
struct device_probe {
    bool found;          /* a GPU that can be used */
    char plugin[512];    /* where the plug-in is, "" when there is none */
    int revision;
    int index, sm, processors, driver;
    char name[96], numerics[16];
    char key[64];        /* class and what else decides its bits: "cuda-sm90:sms132:r1" */
    uint64_t total_bytes, free_bytes;
    char no_machete[160]; /* kernels/plugin.h */
    char why[512];       /* why not found */
};

struct device_want { /* NULL is auto everywhere */
    const char *isa;
    const char *device;   /* auto, cpu, cuda, cuda:N. auto: the GPU if there is one that can be used and has passed selftest on this machine, else the CPU */
    const char *numerics; /* auto, or the class that must come of it */
    const char *kernel;   /* auto, cpu, or the class of CUDA kernels that must serve every quantized matrix: simple, marlin, machete */
    bool (*proven)(void *arg, const struct device_probe *p); /* has it passed? Asked where nothing but auto is said; NULL: no GPU has */
    void *arg;
};
/* Words that contradict each other are -ERR_USAGE; what is asked for and is not there is -ERR_UNSUPPORTED, with the reason. */
int device_open_any(const struct device_want *w, struct pool *pool, struct backend **out, struct err *e);

/* Checks the words alone: no backend is made. */
int device_check(const char *isa, const char *device, struct err *e);
int device_check_numerics(const char *numerics, struct err *e);

/* What the plug-in says of a device as above; "cpu" and unknown words find nothing. */
void device_probe(const char *device, struct device_probe *out);
/* Of which device the choice of kernels is asked. capability ("9.0"): of any that has it, `sm` is all there is to say; NULL: of the device here; "auto" and "cpu" may find
 * none, a GPU that is named and not there is -ERR_UNSUPPORTED. A bad word is -ERR_USAGE. */
int device_asked(const char *device, const char *capability, struct device_probe *out, struct err *e);

/* Hands the calls of each kernel row to r->count_kernel. */
void device_count(const struct backend *b, struct run_ctx *r);
void device_close(struct backend *b); /* NULL is fine */

#endif

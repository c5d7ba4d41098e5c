/* From the words of the command line ("auto", "avx2", "cuda:0") to a backend, and from a backend's counters to a run's.
 *
 *     struct backend *b;
 *     device_open(r->isa, r->device, r->pool, &b, e); ... device_count(b, r); device_close(b);
 *
 * device_count is called once, at the end: counters run since device_open. One thread at a time per backend. */
#ifndef STAGES_DEVICE_H
#define STAGES_DEVICE_H

#include "kernels/backend.h"
#include "pipeline/base/pool.h"
#include "pipeline/stage.h"

/* isa: auto scalar avx2 avx512 (NULL = auto). device: auto cpu cuda cuda:N (NULL = auto). pool: borrowed until device_close; NULL computes on the caller's thread.
 * An unknown word is -ERR_USAGE; an instruction set that the machine lacks, or a device that this build lacks, -ERR_UNSUPPORTED. */
int device_open(const char *isa, const char *device, struct pool *pool, struct backend **out, struct err *e);
/* Checks the words alone: no backend is made. numerics: auto or cpu (NULL = auto), the class whose bits a CPU gives. */
int device_check(const char *isa, const char *device, struct err *e);
int device_check_numerics(const char *numerics, struct err *e);
/* Hands the calls of each kernel row to r->count_kernel. */
void device_count(const struct backend *b, struct run_ctx *r);
void device_close(struct backend *b); /* NULL is fine */

#endif

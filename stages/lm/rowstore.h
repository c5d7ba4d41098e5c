/* Rows of activations on the host, in memory or in an unlinked scratch file when there are many.
 * Rows are f32, `cols` wide, addressed by absolute number. Readers and writers move blocks to and from device memory. */
#ifndef STAGES_LM_ROWSTORE_H
#define STAGES_LM_ROWSTORE_H

#include <stdint.h>

#include "kernels/backend.h"
#include "pipeline/base/err.h"

struct rowstore {
    struct backend *b; /* borrowed */
    int64_t rows, cols;
    float *mem;        /* owned; NULL when spilled */
    int fd;            /* -1 when in memory */
    float *bounce;     /* for a spilled store: BOUNCE rows on the host */
};

/* Stays in memory up to memory_bytes, else in a file in `scratch` that has no name. */
int rowstore_open(struct rowstore *s, struct backend *b, int64_t rows, int64_t cols, uint64_t memory_bytes, const char *scratch, struct err *e);
void rowstore_close(struct rowstore *s); /* fine on a zeroed store */
int rowstore_read(struct rowstore *s, int64_t row, int64_t count, float *device, struct err *e);
int rowstore_write(struct rowstore *s, int64_t row, int64_t count, const float *device, struct err *e);

#endif

#include "stages/lm/rowstore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pipeline/base/io.h"
#include "pipeline/base/mem.h"

enum { BOUNCE_BYTES = 4 << 20 };

static int64_t bounce_rows(const struct rowstore *s)
{
    int64_t n = BOUNCE_BYTES / (s->cols * (int64_t)sizeof(float));
    return n < 1 ? 1 : n;
}

int rowstore_open(struct rowstore *s, struct backend *b, int64_t rows, int64_t cols, uint64_t memory_bytes, const char *scratch, struct err *e)
{
    *s = (struct rowstore){.b = b, .rows = rows, .cols = cols, .fd = -1};
    size_t bytes;
    if (mem_mul((size_t)rows, (size_t)cols * sizeof(float), &bytes))
        return err_set(e, ERR_NOMEM, "activations of %lld x %lld values", (long long)rows, (long long)cols);
    if (bytes <= memory_bytes) {
        s->mem = malloc(bytes ? bytes : 1);
        return s->mem ? 0 : err_set(e, ERR_NOMEM, "activations of %lld x %lld values (%zu bytes)", (long long)rows, (long long)cols, bytes);
    }
    char *path = io_join(scratch, "rows.XXXXXX");
    s->fd = mkostemp(path, O_CLOEXEC);
    int rc = s->fd < 0 ? err_sys(e, errno, "cannot create %s", path) : 0;
    if (!rc)
        unlink(path);
    int short_of = rc ? 0 : posix_fallocate(s->fd, 0, (off_t)bytes);
    if (short_of && short_of != EOPNOTSUPP && short_of != EINVAL)
        rc = err_sys(e, short_of, "cannot keep %zu bytes of activations in %s", bytes, scratch);
    free(path);
    s->bounce = rc ? NULL : malloc((size_t)bounce_rows(s) * (size_t)cols * sizeof(float));
    if (!rc && !s->bounce)
        rc = err_set(e, ERR_NOMEM, "a block of activations (%zu bytes)", (size_t)bounce_rows(s) * (size_t)cols * sizeof(float));
    if (rc)
        rowstore_close(s);
    return rc;
}

void rowstore_close(struct rowstore *s)
{
    if (!s->b)
        return;
    free(s->mem);
    free(s->bounce);
    if (s->fd >= 0)
        close(s->fd);
    *s = (struct rowstore){.fd = -1};
}

int rowstore_read(struct rowstore *s, int64_t row, int64_t count, float *device, struct err *e)
{
    size_t width = (size_t)s->cols * sizeof(float);
    if (s->mem)
        return s->b->ops->upload(s->b, device, s->mem + row * s->cols, (size_t)count * width, e);
    int rc = 0;
    for (int64_t i = 0, n = bounce_rows(s); !rc && i < count; i += n) {
        n = count - i < n ? count - i : n;
        rc = io_pread(s->fd, s->bounce, (size_t)n * width, (uint64_t)(row + i) * width, "the activations' scratch file", e);
        if (!rc)
            rc = s->b->ops->upload(s->b, device + i * s->cols, s->bounce, (size_t)n * width, e);
    }
    return rc;
}

int rowstore_write(struct rowstore *s, int64_t row, int64_t count, const float *device, struct err *e)
{
    size_t width = (size_t)s->cols * sizeof(float);
    if (s->mem)
        return s->b->ops->download(s->b, s->mem + row * s->cols, device, (size_t)count * width, e);
    int rc = 0;
    for (int64_t i = 0, n = bounce_rows(s); !rc && i < count; i += n) {
        n = count - i < n ? count - i : n;
        rc = s->b->ops->download(s->b, s->bounce, device + i * s->cols, (size_t)n * width, e);
        if (!rc)
            rc = io_pwrite(s->fd, s->bounce, (size_t)n * width, (uint64_t)(row + i) * width, "the activations' scratch file", e);
    }
    return rc;
}

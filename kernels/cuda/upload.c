/* From host memory to the device without waiting for it: bytes are copied into page-locked memory, from where the device fetches them in the stream's order while the next are
 * being copied. A source may go away as soon as it was sent; a map is read by as many threads as there are, which is how a file comes fastest. */
#include <string.h>

#include "kernels/cuda/cuda_state.h"
#include "kernels/wfmt.h"

/* HALF: of the page-locked memory; one is filled while the device fetches the other. PART: what a thread copies at a time. */
enum { HALF = 4 << 20, PART = 256 << 10 };
/* WORDS_MOST: device memory for words on their way, but where WORDS_COLUMNS outputs take more. Every class's blocks of outputs begin and end at multiples of those. */
enum { WORDS_MOST = 16 << 20, WORDS_COLUMNS = MACHETE_N };

static int ring_open(struct cuda_state *s, struct err *e)
{
    struct cuda_ring *r = &s->ring;
    int rc = r->p ? 0 : cuda_check(s, cudaMallocHost((void **)&r->p, (size_t)2 * HALF), "page-locked memory for uploads", e);
    for (int i = 0; i < 2 && !rc; i++)
        rc = r->fetched[i] ? 0 : cuda_check(s, cudaEventCreateWithFlags(&r->fetched[i], cudaEventDisableTiming), "an event", e);
    return rc;
}

void cuda_ring_close(struct cuda_state *s)
{
    for (int i = 0; i < 2; i++)
        if (s->ring.fetched[i])
            cudaEventDestroy(s->ring.fetched[i]);
    if (s->ring.p)
        cudaFreeHost(s->ring.p);
    s->ring = (struct cuda_ring){.p = NULL};
}

/* At least `least` bytes (HALF at most) that the device has no copy of to fetch; what there is of them in all to *bytes. */
static int room(struct cuda_state *s, size_t least, char **p, size_t *bytes, struct err *e)
{
    struct cuda_ring *r = &s->ring;
    if (HALF - r->used < least) {
        int rc = cuda_check(s, cudaEventRecord(r->fetched[r->half], s->stream), "an upload", e);
        r->half ^= 1;
        r->used = 0;
        if (!rc)
            rc = cuda_check(s, cudaEventSynchronize(r->fetched[r->half]), "waiting for an upload", e);
        if (rc)
            return rc;
    }
    *p = r->p + (size_t)r->half * HALF + r->used;
    *bytes = HALF - r->used;
    return 0;
}

struct slice {
    char *to;         /* rows of `width` */
    const char *from; /* rows of `pitch` */
    size_t pitch, width, parts; /* parts of a row */
};

static void copy_part(void *arg, size_t i)
{
    const struct slice *c = arg;
    const size_t row = i / c->parts, at = i % c->parts * PART;
    memcpy(c->to + row * c->width + at, c->from + row * c->pitch + at, c->width - at < PART ? c->width - at : PART);
}

/* As many of the rows as there is room for, at least one; how many to *sent. width is HALF at most. */
static int send_some(struct cuda_state *s, char *to, size_t to_pitch, const struct slice *rows, size_t count, size_t *sent, const char *what, struct err *e)
{
    struct slice c = *rows;
    size_t bytes = 0;
    int rc = room(s, c.width, &c.to, &bytes, e);
    if (rc)
        return rc;
    const size_t n = bytes / c.width < count ? bytes / c.width : count;
    c.parts = (c.width + PART - 1) / PART;
    if (n * c.parts == 1)
        copy_part(&c, 0);
    else
        s->par.run(s->par.ctx, n * c.parts, copy_part, &c);
    s->ring.used += (n * c.width + 63) / 64 * 64;
    s->sent = true;
    *sent = n;
    if (n == 1)
        return cuda_check(s, cudaMemcpyAsync(to, c.to, c.width, cudaMemcpyHostToDevice, s->stream), what, e);
    return cuda_check(s, cudaMemcpy2DAsync(to, to_pitch, c.to, c.width, c.width, n, cudaMemcpyHostToDevice, s->stream), what, e);
}

int cuda_send(struct cuda_state *s, void *to, size_t to_pitch, const void *from, size_t pitch, size_t width, size_t rows, const char *what, struct err *e)
{
    int rc = ring_open(s, e);
    if (to_pitch == width && pitch == width) {
        width *= rows; /* no gaps: one row */
        rows = 1;
    }
    for (size_t at = 0, part; at < width && !rc; at += part) {
        part = width - at < HALF ? width - at : HALF;
        for (size_t r = 0, sent = 0; r < rows && !rc; r += sent) {
            const struct slice c = {.from = (const char *)from + r * pitch + at, .pitch = pitch, .width = part};
            rc = send_some(s, (char *)to + r * to_pitch + at, to_pitch, &c, rows - r, &sent, what, e);
        }
    }
    return rc;
}

int cuda_take_copy(struct cuda_state *s, const void *from, size_t bytes, const char *what, void **out, struct err *e)
{
    int rc = cuda_take(s, bytes, what, out, e);
    return rc ? rc : cuda_send(s, *out, bytes, from, bytes, bytes, 1, what, e);
}

int cuda_send_words(struct cuda_state *s, struct weight *w, const struct qwords *q, size_t bytes, struct err *e)
{
    const int64_t rows = wfmt_words(q->K, q->bits), most = WORDS_MOST / (rows * (int64_t)sizeof(uint32_t)) / WORDS_COLUMNS * WORDS_COLUMNS;
    const int64_t columns = q->N <= most ? q->N : most ? most : WORDS_COLUMNS;
    const size_t word = sizeof *q->words;
    int rc = cuda_take(s, bytes, "codes", &w->data, e);
    if (!rc)
        rc = cuda_reserve(s, &s->words, (size_t)(rows * columns) * word, "codes on their way", e);
    for (int64_t n = 0; n < q->N && !rc; n += columns) {
        const int64_t some = q->N - n < columns ? q->N - n : columns;
        rc = cuda_send(s, s->words.p, (size_t)some * word, q->words + n, (size_t)q->N * word, (size_t)some * word, (size_t)rows, "upload of codes", e);
        if (!rc)
            rc = cuda_check(s, launch_reorder(s->stream, w, s->words.p, q->bits, n, some), "reordering codes", e);
    }
    return rc;
}

int cuda_settle(struct cuda_state *s, struct err *e)
{
    if (!s->sent)
        return 0;
    s->sent = false;
    int rc = cuda_check(s, cudaStreamSynchronize(s->stream), "upload of weights", e);
    cuda_drop(s, s->words.p);
    s->words = (struct scratch){NULL, 0};
    return rc;
}

/* safetensors files: the header of one file, and a model's tensors over one file or several with an index.
 *
 * Format (huggingface/safetensors@main:README): u64 little-endian header length n (at most 100 MB here), n bytes of JSON object name ->
 * {dtype, shape, data_offsets [begin, end) relative to the byte after the header}, optional "__metadata__" of strings; then the data.
 * Checked here: header inside the file, known dtype, sizes equal dtype x shape without overflow, extents inside the file, no overlap and no
 * hole, the last end equals the file's. Bad input is an error naming file and tensor; never a crash.
 */
#ifndef STAGES_LM_SAFETENSORS_H
#define STAGES_LM_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/tensor.h"
#include "pipeline/base/buf.h"
#include "pipeline/base/err.h"
#include "pipeline/base/fileset.h"
#include "pipeline/base/io.h"
#include "pipeline/base/map.h"

enum { ST_MAX_DIMS = 8 };

struct st_tensor {
    char *name; /* owned by the set */
    enum dtype dtype;
    int ndim;
    int64_t shape[ST_MAX_DIMS];
    size_t file;     /* index into st_set.files */
    uint64_t offset; /* of the first byte, from the start of the file */
    uint64_t bytes;
    void *aligned; /* st_data_aligned's copy, owned by the set; NULL for all but odd files */
};

struct st_file {
    char *name, *path; /* owned */
    struct io_map map;
    uint64_t data_start;
};

/* All tensors of a model. Maps stay open until st_close; threads may read. */
struct st_set {
    struct st_file *files;
    size_t file_count;
    struct st_tensor *tensors; /* in the order of files, then offsets */
    size_t tensor_count, tensor_cap;
    struct map by_name;
};

/* Header of one file, given as its first bytes (all of the header) and the file's size. Appends to set as file number `file`. */
int st_parse_header(struct st_set *set, size_t file, const unsigned char *p, size_t bytes, uint64_t file_bytes, const char *name,
                    struct err *e);
/* Opens model.safetensors, or the shards of model.safetensors.index.json (every tensor of weight_map must be in the shard it names, and no
 * tensor may be missing or twice). Neither present: -ERR_NOTFOUND naming both. Other .safetensors files are not looked at. */
int st_open(struct st_set *set, const struct fileset *files, struct err *e);
/* Opens one file, whatever its name. */
int st_open_file(struct st_set *set, const char *path, struct err *e);
void st_close(struct st_set *set); /* fine on a zeroed set */

const struct st_tensor *st_find(const struct st_set *set, const char *name); /* NULL when absent */
const void *st_data(
    const struct st_set *set,
    const struct st_tensor *t); /* borrowed, valid until st_close; may be unaligned for its type when the file is odd: see st_copy_f32 */
/* The same, aligned for its type: in the map, or else in a copy made at the first call. Borrowed until st_drop or st_close. -ERR_NOMEM
 * names tensor and size. */
int st_data_aligned(const struct st_set *set, const struct st_tensor *t, const void **out, struct err *e);
/* The tensor's pages need not stay resident, and an aligned copy is freed: no thread may still hold one. */
void st_drop(const struct st_set *set, const struct st_tensor *t);
/* F32, F16 or BF16 tensor as f32 into out (element count = product of shape); a NaN or infinity is -ERR_NUMERIC naming tensor and element
 * index. */
int st_copy_f32(const struct st_set *set, const struct st_tensor *t, float *out, struct err *e);
int64_t st_elems(const struct st_tensor *t);

/* Writing: declare all tensors, then append their bytes in the declared order. Header is canonical: declared order,
 * {"dtype","shape","data_offsets"}, padded with spaces to 8 bytes; "__metadata__":{"format":"pt"} first when format_pt. The file is written
 * in place under `path` (a node's private folder). */
struct st_writer;
int st_writer_open(const char *path, bool format_pt, struct st_writer **out, struct err *e);
void st_writer_declare(struct st_writer *w, const char *name, enum dtype dtype, int ndim, const int64_t *shape);
/* First call writes the header. bytes must be what was declared for the next tensor. */
int st_writer_put(struct st_writer *w, const char *name, const void *data, size_t bytes, struct err *e);
int st_writer_close(struct st_writer *w, struct err *e); /* checks that all was written; frees w always */

#endif

/* Documents out of text files: plain text, JSON lines and JSON lists, as they are or compressed (gz, zst, xz through libarchive).
 *
 * Kind by name, after a compression suffix is taken off: .jsonl .ndjson and .json whose first byte that is no space is not '[' : JSON lines;
 * .json starting with '[' : a JSON list; everything else: plain text, one document a file. A JSON document is a string, a list of ids,
 * or an object whose `field` is a string, or a list of ids when field is "input_ids". Files are read in byte order of their names.
 * Errors name file and line. A line over 64 MiB is an error. Use from one thread. Parquet is refused with the jsonl way named.
 */
#ifndef STAGES_TEXT_DATASET_H
#define STAGES_TEXT_DATASET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pipeline/base/err.h"
#include "pipeline/base/fileset.h"

struct dataset;

struct dataset_doc {
    const char *text; /* NULL when the document is ids; borrowed until the next call */
    size_t text_bytes;
    const int32_t *ids; /* NULL when the document is text; borrowed until the next call */
    size_t id_count;
    const char *file; /* borrowed */
    long line;        /* 1-based; item number for JSON lists */
};

/* files: borrowed until dataset_close. field: NULL means "text"; ignored for plain text. */
int dataset_open(const struct fileset *files, const char *field, struct dataset **out, struct err *e);
/* 1: *doc is set; 0: end; negative: error. */
int dataset_next(struct dataset *d, struct dataset_doc *doc, struct err *e);
void dataset_close(struct dataset *d);
/* True when every file is plain text: perplexity then defaults to `unit: stream`. */
bool dataset_is_plain(const struct dataset *d);

#endif

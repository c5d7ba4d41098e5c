/* A table of files: the name that a stage knows ("model.safetensors", "en/c4.json.gz") and the place where its bytes lie.
 * Models, datasets and checkpoints reach the stages as filesets, whether they lie in a user's folder or blob by blob in the store. */
#ifndef PIPELINE_BASE_FILESET_H
#define PIPELINE_BASE_FILESET_H

#include <stddef.h>
#include <stdint.h>

#include "pipeline/base/err.h"

struct fileset_file {
    char *name;      /* relative, '/' between parts; owned */
    char *path;      /* where the bytes are; owned */
    char sha256[65]; /* lower-case hex, "" when not known */
    uint64_t bytes;
};

struct fileset {
    struct fileset_file *files; /* in byte order of names */
    size_t count, cap;
};

#define FILESET_INIT {NULL, 0, 0}

/* Adds one; sha256 may be NULL. Order is restored. A name already there is replaced. */
void fileset_add(struct fileset *s, const char *name, const char *path, const char *sha256, uint64_t bytes);
const struct fileset_file *fileset_find(const struct fileset *s, const char *name); /* NULL when absent */
/* All regular files below a folder (names relative to it; hidden ones left out), or one file under its base name. sha256 stays "". */
int fileset_from_path(struct fileset *s, const char *path, struct err *e);
void fileset_copy(struct fileset *to, const struct fileset *from);
void fileset_release(struct fileset *s);

#endif

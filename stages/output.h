/* Puts an artifact's files into a folder of the user's: built beside, made durable, swapped in. A folder is ours when it holds the mark file; anything else that is there
 * and not empty is refused. */
#ifndef STAGES_OUTPUT_H
#define STAGES_OUTPUT_H

#include "pipeline/base/err.h"
#include "pipeline/base/fileset.h"

/* 0 when path is absent, empty or ours; else -ERR_MANIFEST naming it. */
int output_check(const char *path, const char *mark, struct err *e);
/* Nothing is done when the folder is there with the same mark content and the same files by name and size. */
int output_place(const char *path, const char *mark, const struct fileset *files, struct err *e);

#endif

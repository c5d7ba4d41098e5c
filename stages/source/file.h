/* The `file` source: a folder or one file of the user's, referenced where it lies. */
#ifndef STAGES_SOURCE_FILE_H
#define STAGES_SOURCE_FILE_H

#include <jansson.h>

#include "pipeline/stage.h"

/* Files below path (relative names; hidden files left out), narrowed by include and exclude (lists of shell patterns or JSON null), each with its digest.
 * Nothing left is -ERR_NOTFOUND that says what was there. */
int source_file_resolve(const char *path, const json_t *include, const json_t *exclude, struct resolve_ctx *r, struct fileset *out, struct err *e);

#endif

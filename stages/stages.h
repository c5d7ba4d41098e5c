/* The stage kinds, one a file, and the digest that their outputs carry. */
#ifndef STAGES_STAGES_H
#define STAGES_STAGES_H

#include <stddef.h>

#define GPTQPIPE_VERSION "0.1.0"

#include "pipeline/stage.h"

extern const struct stage_kind stage_fetch, stage_calibrate, stage_quantize, stage_pack, stage_validate, stage_run;

/* SHA-256 as 64 hex digits. */
void stage_sha256(const void *p, size_t bytes, char hex[65]);

#endif

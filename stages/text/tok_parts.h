/* The components of tokenizer.json as steps: normalizer, pre_tokenizer, decoder; and what the post_processor adds. */
#ifndef STAGES_TEXT_TOK_PARTS_H
#define STAGES_TEXT_TOK_PARTS_H

#include "pipeline/base/json.h"
#include "stages/text/tok_internal.h"

/* Fills t->norm, pre, dec, front, behind. */
int parts_load(struct tok *t, const json_t *root, struct err *e);

#endif

/* The only code that decides what is hashed. A key is the SHA-256 of a preimage, the canonical JSON of
 *     {"class": only of kinds that have numerics, "fields": what the stage's fields() gave, "kind", "rev", "salt", "v": 1}
 * Worked example (tests/unit/test_key.c): kind calibrate, revision 3, fields {"samples": 2}, no salt
 *     {"fields":{"samples":2},"kind":"calibrate","rev":3,"salt":"","v":1} */
#ifndef PIPELINE_KEY_H
#define PIPELINE_KEY_H

#include <jansson.h>

#include "cache/hash.h"
#include "pipeline/stage.h"

enum { KEY_VERSION = 1 };

/* fields is borrowed. *preimage is the caller's to free. */
void key_compute(const struct stage_kind *kind, const json_t *fields, const char *numerics, const char *salt, char **preimage,
                 char key[HASH_HEX]);

#endif

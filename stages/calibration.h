/* calibration.safetensors, as calibrate writes it: the ids of all samples in a row, and where each sample begins. */
#ifndef STAGES_CALIBRATION_H
#define STAGES_CALIBRATION_H

#include "pipeline/base/fileset.h"
#include "stages/lm/config.h"
#include "stages/lm/safetensors.h"

struct calibration {
    struct st_set set;      /* owns what follows */
    const int32_t *ids;
    const int64_t *offsets; /* samples + 1, from 0 to the number of ids */
    int64_t samples;
};

/* Ids are checked against the vocabulary of c, lengths against its context. */
int calibration_open(struct calibration *k, const struct fileset *files, const struct config *c, struct err *e);
void calibration_close(struct calibration *k); /* fine on a zeroed one */

#endif

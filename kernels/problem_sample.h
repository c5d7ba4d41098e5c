/* Rows of logits for the op sample with seeds, and its definition written for reading: sort, sum, walk. For tests and selftest, beside problem.h. */
#ifndef KERNELS_PROBLEM_SAMPLE_H
#define KERNELS_PROBLEM_SAMPLE_H

#include "kernels/backend.h"

enum { PROBLEM_LOGITS = 11 }; /* kinds of rows */

double problem_uniform(uint64_t *seed); /* 0 <= x < 1 */
double problem_normal(uint64_t *seed);  /* nearly: the sum of twelve of those, less 6 */

void problem_logits(float *l, int64_t V, int kind, uint64_t *seed);
/* temperature, top_p and u at random; edges: values among them at which little or nothing is left to choose. */
struct sample_row problem_choice(bool edges, uint64_t *seed);
/* M rows of the kinds in turn, and how to choose from each. */
void problem_choices(float *l, struct sample_row *rows, int64_t M, int64_t V, uint64_t *seed);

struct problem_answer {
    int32_t id;
    int64_t taken;  /* tokens in the set; 0: the highest logit was asked for */
    double *masses; /* [taken] of the set's first tokens; owned */
    bool sure;      /* no decision hangs on less than the rounding of the CUDA op (kernels/cuda/sample.h; octaves are rounded three times) */
};
struct problem_answer problem_answer(const float *l, int64_t V, const struct sample_row *row);
/* u becomes the share of the set's mass at which one of its tokens ends, to the bit or nearly. a is the row's answer, of more than one token. */
void problem_between(struct sample_row *row, const struct problem_answer *a, uint64_t *seed);

#endif

/* The name that was probably meant: edit distance over a list of names. */
#ifndef PIPELINE_NEAREST_H
#define PIPELINE_NEAREST_H

#include <stddef.h>

/* Insertions, deletions, substitutions and swaps of neighbours that turn a into b; bytes, at most 64 of each are looked at. */
size_t nearest_distance(const char *a, const char *b);
/* The nearest of names[0..count) when it is near enough to be worth a guess (a third of the length, at least 1), else NULL. The first wins
 * a tie. */
const char *nearest_name(const char *name, const char *const *names, size_t count);

#endif

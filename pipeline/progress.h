/* What a person sees of a run: on a terminal one line of running nodes, rewritten in place (node, percent, rate, time left); elsewhere
 * plain lines. Not thread-safe: events.c holds the lock. */
#ifndef PIPELINE_PROGRESS_H
#define PIPELINE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct progress;

enum progress_level { PROGRESS_QUIET, PROGRESS_NORMAL, PROGRESS_VERBOSE };

struct progress *progress_open(FILE *out, enum progress_level level); /* looks whether out is a terminal */
void progress_close(struct progress *p);                              /* NULL is fine; leaves the cursor on a fresh line */
void progress_node_start(struct progress *p, const char *node, uint64_t now_ns);
void progress_node_update(struct progress *p, const char *node, double done, double total, const char *label, uint64_t now_ns);
void progress_node_end(struct progress *p, const char *node);
/* A whole line above the running ones, shown from `level` on. */
void progress_line(struct progress *p, enum progress_level level, const char *text);
/* "42%  12.3 tokens/s  0:21 left" in out. */
const char *progress_text(double done, double total, const char *label, double elapsed_s, char *out, size_t bytes);

#endif

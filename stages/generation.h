/* Text out of a model: what the stage `run` and the command `run` share. Prompts become ids, a decoder is opened on a backend, every prompt's continuation becomes
 * one JSON object (a line of run.jsonl).
 *
 *     struct generation_model g;           generation_open(&g, &files, e);
 *     struct generation_prompts p = {0};   generation_add_text(&g, &p, "Once upon", e); or generation_add_file(&g, &p, path, e);
 *     generation_run(&g, b, &p, &params, &events, e);
 *     generation_prompts_release(&p);      generation_close(&g);
 *
 * Not here: sampling and batching (stages/lm/generate.h). One thread at a time.
 *
 * A line: {"prompt": text, or null when ids were given, "prompt_ids": [...], "ids": [...], "text", "finish_reason": "stop|length|context",
 *   "kernel": {"q_proj": "marlin/gptq-w4g128", ..., "lm_head": "dense/bf16"}}, "kernel_why": {"q_proj": rule} where a faster class could not serve, and, when asked for, "logprobs": [{"id","logprob","top":[{"id","logprob"}]}].
 * Nothing in it depends on the machine beyond the numerics class, so equal keys give equal bytes. */
#ifndef STAGES_GENERATION_H
#define STAGES_GENERATION_H

#include <jansson.h>

#include "stages/lm/generate.h"
#include "stages/lm/weights.h"
#include "stages/text/tok.h"

struct generation_model {
    struct model model;
    struct tok *tok;
};
int generation_open(struct generation_model *g, const struct fileset *files, struct err *e);
void generation_close(struct generation_model *g); /* fine on a zeroed struct */

struct generation_prompt {
    char *text;         /* owned; NULL when ids were given */
    struct tok_ids ids; /* owned */
};
struct generation_prompts {
    struct generation_prompt *items;
    size_t count, cap;
};
/* Encodes with special tokens. An id that the model has no row for is -ERR_FORMAT: a tokenizer of another model. No ids at all: -ERR_DATA. */
int generation_add_text(const struct generation_model *g, struct generation_prompts *p, const char *text, size_t bytes, struct err *e);
/* A file of lines: text, or a JSON object with "prompt" (text) or "prompt_ids". Empty lines are skipped; no prompt at all is -ERR_DATA. Errors name file and line. */
int generation_add_file(const struct generation_model *g, struct generation_prompts *p, const char *path, struct err *e);
void generation_prompts_release(struct generation_prompts *p);

struct generation_events {
    /* A finished prompt's object, in prompt order; borrowed. Nonzero return (a negative code, *e set) stops. */
    int (*line)(void *arg, size_t prompt, const json_t *line, struct err *e);
    /* May be NULL. More text of a prompt as it comes, whole characters only; the pieces of one prompt join to its "text". */
    void (*text)(void *arg, size_t prompt, const char *text, size_t bytes);
    /* May be NULL. Tokens made so far; nonzero return stops with -ERR_CANCELLED. */
    int (*progress)(void *arg, size_t tokens);
    void *arg;
};
/* *tokens (may be NULL) receives the number of tokens made. */
int generation_run(const struct generation_model *g, struct backend *b, const struct generation_prompts *p, const struct generate_params *params,
                   const struct generation_events *ev, size_t *tokens, struct err *e);

#endif

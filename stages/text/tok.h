/* Tokenizer: a model's tokenizer.json (Hugging Face "tokenizers" format, model type BPE), text to ids and back.
 *
 * Served: byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM) and SentencePiece-style BPE with byte fallback (Llama 2, Mistral, TinyLlama).
 *   normalizers    Sequence Prepend Replace NFC NFD NFKC NFKD Lowercase Strip
 *   pre-tokenizers Sequence Split(Regex or String; every behavior, invert) Digits ByteLevel Metaspace Punctuation(Isolated) Whitespace WhitespaceSplit
 *   post-processors Sequence ByteLevel TemplateProcessing(single)   decoders Sequence ByteLevel ByteFallback Fuse Strip Replace Metaspace
 * Anything else in the file is an error that names it: a tokenizer that is only nearly right is wrong.
 * Ids and decodings equal those of Hugging Face's own implementation (tokenizers 0.23), see tests/vectors. `truncation` and `padding` in the file are ignored.
 * A struct tok is constant after loading: threads may share it.
 */
#ifndef STAGES_TEXT_TOK_H
#define STAGES_TEXT_TOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pipeline/base/buf.h"
#include "pipeline/base/err.h"

struct tok;

struct tok_ids {
    int32_t *ids; /* owned */
    size_t count, cap;
};
#define TOK_IDS_INIT {NULL, 0, 0}
void tok_ids_push(struct tok_ids *v, int32_t id);
void tok_ids_release(struct tok_ids *v);

/* json: the file's bytes, not kept. name: for errors. Free with tok_free. */
int tok_load(const char *json, size_t bytes, const char *name, struct tok **out, struct err *e);
int tok_load_file(const char *path, struct tok **out, struct err *e);
void tok_free(struct tok *t); /* NULL is fine */

/* Appends the ids of text. add_special: what the post-processor adds (BOS, EOS); special tokens written inside the text are always recognized,
 * as Hugging Face does. text may hold NULs and invalid UTF-8 (each maximal ill-formed part becomes one U+FFFD, as when Python reads with errors="replace"). */
int tok_encode(const struct tok *t, const char *text, size_t bytes, bool add_special, struct tok_ids *out, struct err *e);
/* Appends the text. skip_special leaves special tokens out. An id outside the vocabulary is -ERR_FORMAT naming it. */
int tok_decode(const struct tok *t, const int32_t *ids, size_t count, bool skip_special, struct buf *out, struct err *e);

int32_t tok_vocab_size(const struct tok *t);                  /* largest id + 1, added tokens included */
int32_t tok_find(const struct tok *t, const char *piece);      /* id of an exact token, -1 when absent */
const char *tok_piece(const struct tok *t, int32_t id);        /* borrowed; NULL when absent */
bool tok_is_special(const struct tok *t, int32_t id);
/* First id that the post-processor puts in front of every text, or -1: "its tokenizer adds a BOS". */
int32_t tok_leading_special(const struct tok *t);

#endif

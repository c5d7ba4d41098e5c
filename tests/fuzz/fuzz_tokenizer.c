/* The input as a tokenizer.json. One that loads encodes a fixed text and the input's own bytes, and decodes the ids again. */
#include <stddef.h>
#include <stdint.h>

#include "stages/text/tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OWN_BYTES = 256 };

static void round_trip(const struct tok *t, const char *text, size_t bytes)
{
    struct err e = {0};
    struct tok_ids ids = TOK_IDS_INIT;
    struct buf back = BUF_INIT;
    if (tok_encode(t, text, bytes, true, &ids, &e) == 0) {
        tok_decode(t, ids.ids, ids.count, false, &back, &e);
        tok_decode(t, ids.ids, ids.count, true, &back, &e);
    }
    tok_ids_release(&ids);
    buf_release(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = " Hello  world's 123 caf\xC3\xA9 \xE2\x96\x81<s>\n\n\t\xF0\x9F\x98\x80 aaaa \xFF";
    struct err e = {0};
    struct tok *t = NULL;
    if (tok_load((const char *)data, size, "fuzz.json", &t, &e) == 0) {
        round_trip(t, text, sizeof text);
        round_trip(t, (const char *)data, size < OWN_BYTES ? size : OWN_BYTES);
        if (size > OWN_BYTES)
            round_trip(t, (const char *)data + size - OWN_BYTES, OWN_BYTES);
        int32_t last = tok_vocab_size(t) - 1;
        tok_find(t, "a");
        tok_piece(t, last);
        tok_is_special(t, last);
        tok_leading_special(t);
        tok_free(t);
    }
    return 0;
}

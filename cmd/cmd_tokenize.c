#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "cmd/options.h"
#include "pipeline/base/io.h"
#include "pipeline/base/json.h"
#include "stages/text/tok.h"

struct tokenize_cmd {
    bool decode, skip_special, no_special;
    struct tok *tok;
};

static void print_json(json_t *o)
{
    struct buf b = BUF_INIT;
    json_canonical(o, &b);
    fwrite(b.data, 1, b.len, stdout);
    putchar('\n');
    buf_release(&b);
    json_decref(o);
}

static int encode_line(const struct tokenize_cmd *t, const json_t *v, struct err *e)
{
    const json_t *text = json_object_get(v, "text");
    struct tok_ids ids = TOK_IDS_INIT;
    if (!json_is_string(text))
        return err_set(e, ERR_FORMAT, "needed is an object with \"text\"");
    int rc = tok_encode(t->tok, json_string_value(text), json_string_length(text), !t->no_special, &ids, e);
    if (!rc) {
        json_t *list = json_array();
        for (size_t i = 0; i < ids.count; i++)
            json_array_append_new(list, json_integer(ids.ids[i]));
        print_json(json_pack("{s:o}", "ids", list));
    }
    tok_ids_release(&ids);
    return rc;
}

static int read_ids(const json_t *list, struct tok_ids *ids, struct err *e)
{
    if (!json_is_array(list))
        return err_set(e, ERR_FORMAT, "needed is an object with \"ids\"");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
            return err_set(e, ERR_FORMAT, "ids[%zu] is not a token id", i);
        tok_ids_push(ids, (int32_t)json_integer_value(v));
    }
    return 0;
}

static int decode_line(const struct tokenize_cmd *t, const json_t *v, struct err *e)
{
    struct tok_ids ids = TOK_IDS_INIT;
    struct buf text = BUF_INIT;
    int rc = read_ids(json_object_get(v, "ids"), &ids, e);
    if (!rc)
        rc = tok_decode(t->tok, ids.ids, ids.count, t->skip_special, &text, e);
    if (!rc)
        print_json(json_pack("{s:o}", "text", json_stringn_nocheck(buf_str(&text), text.len)));
    tok_ids_release(&ids);
    buf_release(&text);
    return rc;
}

/* Standard input, a JSON object a line. */
static int translate(struct cmd_ctx *c, const struct tokenize_cmd *t)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t got;
    int rc = 0;
    for (long number = 1; !rc && (errno = 0, got = getline(&line, &cap, stdin)) >= 0; number++) {
        if (strspn(line, " \t\r\n") == (size_t)got)
            continue;
        json_t *v = json_parse(line, (size_t)got, "stdin", &c->err);
        rc = v ? t->decode ? decode_line(t, v, &c->err) : encode_line(t, v, &c->err) : -ERR_FORMAT;
        json_decref(v);
        if (rc) {
            err_place(&c->err, "stdin", number, 1);
            c->err.line = number;
        }
    }
    if (!rc && errno)
        rc = err_sys(&c->err, errno, "cannot read standard input");
    free(line);
    return rc;
}

static int run(struct cmd_ctx *c, int argc, char **argv)
{
    struct tokenize_cmd t = {0};
    struct option_def defs[] = {
        {.name = "decode", .type = OPT_FLAG, .into = &t.decode, .help = "{\"ids\"} to {\"text\"}"},
        {.name = "skip-special", .type = OPT_FLAG, .into = &t.skip_special, .help = "with --decode: leave special tokens out"},
        {.name = "no-special", .type = OPT_FLAG, .into = &t.no_special, .help = "add no special tokens (BOS, EOS)"},
        OPTION_END,
    };
    int n = options_parse(c, defs, argc, argv);
    if (n < 0)
        return n;
    int rc = options_positional(c, n, 1, 1, "MODEL");
    if (!rc && t.skip_special && !t.decode)
        rc = err_set(&c->err, ERR_USAGE, "tokenize: --skip-special goes with --decode");
    if (!rc && t.no_special && t.decode)
        rc = err_set(&c->err, ERR_USAGE, "tokenize: --no-special does not go with --decode");
    if (rc)
        return rc;
    char *path = io_is_dir(argv[1]) ? io_join(argv[1], "tokenizer.json") : io_join("", argv[1]);
    rc = tok_load_file(path, &t.tok, &c->err);
    if (!rc)
        rc = translate(c, &t);
    tok_free(t.tok);
    free(path);
    return rc;
}

const struct command cmd_tokenize = {
    .name = "tokenize",
    .summary = "JSON lines of text to token ids, and back",
    .usage = "tokenize MODEL [--decode [--skip-special]] [--no-special]    standard input to standard output; MODEL: a folder or a tokenizer.json",
    .run = run,
};

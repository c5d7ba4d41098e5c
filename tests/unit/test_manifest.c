/* The loader: wrong manifests, each with its exact error line; typing, defaults, places, order, the JSON Schema. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/buf.h"
#include "pipeline/base/json.h"
#include "pipeline/manifest.h"

static struct manifest *load(const char *text, size_t bytes, struct err *e)
{
    struct manifest *m = NULL;
    err_clear(e);
    manifest_parse("dir/m.yaml", text, bytes, NULL, 0, &m, e);
    return m;
}

static struct manifest *load_good(const char *text)
{
    struct err e;
    struct manifest *m = load(text, strlen(text), &e);
    char line[2048];
    if (!m)
        fail_msg("%s", err_format(&e, line, sizeof line));
    return m;
}

#define S "version: 1\nstages:\n"
#define F S "  f: { fetch: { file: a } }\n"
#define FC F "  c: { calibrate: { model: f, data: f, samples: 1, sequence_length: 2 } }\n"
#define Q FC "  q: { quantize: { model: f, calibration: c"

static const struct {
    const char *text, *error;
} bad[] = {
    {"",                                                                                                 "1:1: error: the manifest is empty"                                                            },
    {"# only a comment\n",                                                                               "1:1: error: the manifest is empty"                                                            },
    {"- a\n",                                                                                            "1:1: error: a manifest is a map, not a list"                                                  },
    {"text\n",                                                                                           "1:1: error: a manifest is a map, not text"                                                    },
    {"stages: {}\n",                                                                                     "1:1: error: 'version: 1' is missing"                                                          },
    {"version: 2\nstages: {}\n",                                                                         "1:10: error: version must be 1, not '2'"                                                      },
    {"version: [1]\nstages: {}\n",                                                                       "1:10: error: version must be 1, not a list"                                                   },
    {"version: 1\n",                                                                                     "1:1: error: 'stages' is missing"                                                              },
    {"version: 1\nstages: {}\n",                                                                         "2:9: error: 'stages' must be a map of at least one stage"                                     },
    {"version: 1\nstages: []\n",                                                                         "2:9: error: 'stages' must be a map of at least one stage"                                     },
    {"version: 1\nstage: {}\n",                                                                          "2:1: error: unknown field 'stage' (did you mean 'stages'?)"                                   },
    {"version: 1\nfrobnicate: 1\n",                                                                      "2:1: error: unknown field 'frobnicate'"                                                       },
    {"version: 1\nmatrix: { a: [1] }\nstages: {}\n",                                                     "2:1: error: 'matrix' is not served by this version: write the stages out"                     },
    {"version: 1\nversion: 1\n",                                                                         "2:1: error: duplicate key 'version' (first in line 1)"                                        },
    {S "  f: { fetch: { file: a } }\n  f: { fetch: { file: b } }\n",                                     "4:3: error: duplicate key 'f' (first in line 3)"                                              },
    {S "  f: { fetch: { file: a, file: b } }\n",                                                         "3:26: error: duplicate key 'file' (first in line 3)"                                          },
    {S "  a/b: { fetch: { file: a } }\n",                                                                "3:3: error: 'a/b' is no name of a stage: letters, digits, '_', '-' and '.', at most 64"       },
    {S "  f:\n",                                                                                         "3:3: error: stage 'f' must hold exactly one kind of stage, as in { fetch: { ... } }"          },
    {S "  f: {}\n",                                                                                      "3:3: error: stage 'f' must hold exactly one kind of stage, as in { fetch: { ... } }"          },
    {S "  f: { fetch: { file: a }, pack: {} }\n",                                                        "3:28: error: stage 'f' must hold exactly one kind of stage, as in { fetch: { ... } }"         },
    {S "  f: { fetsh: { file: a } }\n",                                                                  "3:8: error: stage 'f': unknown kind 'fetsh' (did you mean 'fetch'?)"                          },
    {S "  f: { frob: { file: a } }\n",                                                                   "3:8: error: stage 'f': unknown kind 'frob'"                                                   },
    {S "  f: { fetch: a }\n",                                                                            "3:15: error: stage 'f': 'fetch' must be a map of its fields, not text"                        },
    {S "  f: { fetch: { flie: a } }\n",                                                                  "3:17: error: stage 'f': unknown field 'flie' of fetch (did you mean 'file'?)"                 },
    {S "  f: { fetch: {} }\n",                                                                           "3:3: error: stage 'f': 'file' is missing"                                                     },
    {S "  f: { fetch: { file: } }\n",                                                                    "3:17: error: stage 'f': 'file' has no value"                                                  },
    {S "  f: { fetch: { file: ~ } }\n",                                                                  "3:17: error: stage 'f': 'file' has no value"                                                  },
    {S "  f: { fetch: { file: '' } }\n",                                                                 "3:23: error: stage 'f': 'file' is empty"                                                      },
    {S "  f: { fetch: { file: [a] } }\n",                                                                "3:23: error: stage 'f': 'file' must be text, not a list"                                      },
    {S "  f: { fetch: { file: a, include: b } }\n",                                                      "3:35: error: stage 'f': 'include' must be a list, not text"                                   },
    {S "  f: { fetch: { file: a, include: [] } }\n",                                                     "3:35: error: stage 'f': 'include' is an empty list"                                           },
    {S "  f: { fetch: { file: a, include: [[b]] } }\n",                                                  "3:36: error: stage 'f': 'include' must be text, not a list"                                   },
    {F "  c: { calibrate: { model: g, data: f, samples: 1, sequence_length: 2 } }\n",
     "4:28: error: stage 'c': 'model' refers to unknown stage 'g' (did you mean 'f'?)"                                                                                                                  },
    {F "  c: { calibrate: { model: nothing, data: f, samples: 1, sequence_length: 2 } }\n",
     "4:28: error: stage 'c': 'model' refers to unknown stage 'nothing'"                                                                                                                                },
    {F "  c: { calibrate: { model: f, data: f, samples: many, sequence_length: 2 } }\n",
     "4:49: error: stage 'c': 'samples' must be an integer, not 'many'"                                                                                                                                 },
    {F "  c: { calibrate: { model: f, data: f, samples: 1.5, sequence_length: 2 } }\n",
     "4:49: error: stage 'c': 'samples' must be an integer, not '1.5'"                                                                                                                                  },
    {F "  c: { calibrate: { model: f, data: f, samples: 010, sequence_length: 2 } }\n",
     "4:49: error: stage 'c': 'samples' must be an integer, not '010'"                                                                                                                                  },
    {F "  c: { calibrate: { model: f, data: f, samples: 0x10, sequence_length: 2 } }\n",
     "4:49: error: stage 'c': 'samples' must be an integer, not '0x10'"                                                                                                                                 },
    {F "  c: { calibrate: { model: f, data: f, samples: 1_000, sequence_length: 2 } }\n",
     "4:49: error: stage 'c': 'samples' must be an integer, not '1_000'"                                                                                                                                },
    {F "  c: { calibrate: { model: f, data: f, samples: 99999999999999999999, sequence_length: 2 } }\n",
     "4:49: error: stage 'c': 'samples' is too large: 99999999999999999999"                                                                                                                             },
    {F "  c: { calibrate: { model: f, data: f, samples: 1, sequence_length: 2, concat: yes } }\n",
     "4:80: error: stage 'c': 'concat' must be true or false, not 'yes'"                                                                                                                                },
    {F "  c: { calibrate: { model: f, data: f, samples: 1, sequence_length: 2, select: shufle } }\n",
     "4:80: error: stage 'c': 'select' must be one of first|shuffle, not 'shufle' (did you mean 'shuffle'?)"                                                                                            },
    {F "  c: { calibrate: { model: f, data: { files: a }, samples: 1, sequence_length: 2 } }\n",
     "4:37: error: stage 'c': 'data' needs 'from', a stage"                                                                                                                                             },
    {F "  c: { calibrate: { model: f, data: { from: f, file: a }, samples: 1, sequence_length: 2 } }\n",
     "4:48: error: stage 'c': unknown field 'file' of 'data' (did you mean 'files'?)"                                                                                                                   },
    {F "  c: { calibrate: { model: f, data: { from: x }, samples: 1, sequence_length: 2 } }\n",
     "4:45: error: stage 'c': 'data' refers to unknown stage 'x' (did you mean 'f'?)"                                                                                                                   },
    {Q ", bits: four } }\n",                                                                             "5:52: error: stage 'q': 'bits' must be an integer, not 'four'"                                },
    {Q ", mse: nan } }\n",                                                                               "5:51: error: stage 'q': 'mse' must be a number, not 'nan'"                                    },
    {Q ", mse: 1e999 } }\n",                                                                             "5:51: error: stage 'q': 'mse' must be a number, not '1e999'"                                  },
    {Q ", dynamic: text } }\n",                                                                          "5:55: error: stage 'q': 'dynamic' must be a map of patterns or a list, not text"              },
    {Q ", dynamic: { a: 8 } } }\n",                                                                      "5:60: error: stage 'q': pattern 'a' needs a map of settings, not text"                        },
    {Q ", dynamic: { a: { bit: 8 } } } }\n",                                                             "5:62: error: stage 'q': 'bit' is no setting of a module (did you mean 'bits'?)"               },
    {Q ", dynamic: { a: { lm_head: true } } } }\n",                                                      "5:62: error: stage 'q': 'lm_head' is no setting of a module"                                  },
    {Q ", dynamic: { a: { bits: } } } }\n",                                                              "5:62: error: stage 'q': 'bits' has no value"                                                  },
    {Q ", dynamic: [ { bits: 8 } ] } }\n",                                                               "5:57: error: stage 'q': an entry of 'dynamic' needs 'match', a pattern"                       },
    {Q ", dynamic: { a: {}, a: {} } } }\n",                                                              "5:64: error: duplicate key 'a' (first in line 5)"                                             },
    {F "  v: { validate: { checkpoint: f, expect: { kl_mean: 1 } } }\n",
     "4:54: error: stage 'v': bound of 'kl_mean' must be a map of min and max"                                                                                                                          },
    {F "  v: { validate: { checkpoint: f, expect: { kl_mean: { mox: 1 } } } }\n",
     "4:56: error: stage 'v': unknown bound 'mox' of 'kl_mean': min and max are taken"                                                                                                                  },
    {F "  v: { validate: { checkpoint: f, expect: { kl_mean: { min: 2, max: 1 } } } }\n",
     "4:54: error: stage 'v': bound of 'kl_mean': min 2 is above max 1"                                                                                                                                 },
    {FC "  p: { pack: { quantized: c } }\n",                                                             "5:27: error: stage 'p': 'quantized' takes layers, and 'c' (calibrate) makes calibration"      },
    {F "  c: { calibrate: { model: c, data: f, samples: 1, sequence_length: 2 } }\n",
     "4:28: error: stage 'c': 'model' takes model or checkpoint, and 'c' (calibrate) makes calibration"                                                                                                 },
    {S "  a: { quantize: { model: b, method: rtn } }\n  b: { pack: { quantized: a } }\n",
     "4:27: error: stages need each other: a -> b -> a"                                                                                                                                                 },
    {"version: 1\nname: \"${nope}\"\nstages: {}\n",                                                      "2:7: error: undefined variable 'nope'"                                                        },
    {"version: 1\nvars: { seqlen: 1 }\nname: \"${seqln}\"\nstages: {}\n",
     "3:7: error: undefined variable 'seqln' (did you mean 'seqlen'?)"                                                                                                                                  },
    {"version: 1\nvars: { a: \"${b}\", b: \"${a}\" }\nname: \"${a}\"\nstages: {}\n",                     "2:23: error: variable 'a' is defined by itself"                                               },
    {"version: 1\nvars: [a]\nstages: {}\n",                                                              "2:7: error: 'vars' must be a map, not a list"                                                 },
    {"version: 1\nvars: { 1a: b }\nstages: {}\n",                                                        "2:9: error: '1a' is no name of a variable: letters, digits and '_'"                           },
    {"version: 1\nvars: { name: b }\nstages: {}\n",                                                      "2:9: error: variable 'name' is the manifest's own name"                                       },
    {"version: 1\nvars: { a: [b] }\nstages: {}\n",                                                       "2:12: error: variable 'a' must be text, not a list"                                           },
    {"version: 1\ncache: { dri: x }\nstages: {}\n",                                                      "2:10: error: unknown field 'dri' of 'cache' (did you mean 'dir'?)"                            },
    {"version: 1\ncache: x\nstages: {}\n",                                                               "2:8: error: 'cache' must be a map, not text"                                                  },
    {"version: 1\nnumerics: ''\nstages: {}\n",                                                           "2:11: error: 'numerics' is empty"                                                             },
    {"a: &x { b: *y }\n",                                                                                "1:12: error: alias '*y' without an anchor before it"                                          },
    {"version: !!int 1\n",                                                                               "1:10: error: tag 'tag:yaml.org,2002:int': values are typed by their field, tags are not taken"},
    {"version: 1\n---\nversion: 1\n",                                                                    "2:1: error: a second document: a manifest is one"                                             },
    {"version: 1\nstages:\n\tf: {}\n",                                                                   "3:1: error: a tab cannot indent YAML: use spaces"                                             },
    {"version: 1\nname: caf\xe9\n",                                                                      "2:10: error: byte 0xe9 is not UTF-8"                                                          },
    {"version: 1\nname: \xc0\xaf\n",                                                                     "2:7: error: byte 0xc0 is not UTF-8"                                                           },
    {"version: 1\nname: \"a\\0b\"\n",                                                                    "2:7: error: text holds a NUL character"                                                       },
    {"version: 1\nname: a\x01\n",                                                                        "2:8: error: control characters are not allowed"                                               },
    {"version: 1\nstages: {\n",                                                                          "3:1: error: while parsing a flow node: did not find expected node content"                    },
    {"? [a]\n: b\n",                                                                                     "1:3: error: a key must be text"                                                               },
};

static void every_bad_manifest_has_its_line(void **state)
{
    (void)state;
    int wrong = 0;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e;
        char got[2048], want[2048];
        struct manifest *m = load(bad[i].text, strlen(bad[i].text), &e);
        if (m)
            fail_msg("manifest %zu is taken: %s", i, bad[i].text);
        snprintf(want, sizeof want, "dir/m.yaml:%s", bad[i].error);
        if (strcmp(err_format(&e, got, sizeof got), want) != 0 || e.code != ERR_MANIFEST) {
            print_error("manifest %zu: got  %s\n             want %s\n", i, got, want);
            wrong++;
        }
    }
    assert_int_equal(wrong, 0);
    assert_true(sizeof bad / sizeof *bad >= 40);
}

static void bombs_are_refused(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    struct err e;
    buf_addstr(&b, "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for (int i = 1; i < 9; i++) {
        buf_printf(&b, "a%d: &a%d [", i, i);
        for (int j = 0; j < 10; j++)
            buf_printf(&b, "%s*a%d", j ? "," : "", i - 1);
        buf_addstr(&b, "]\n");
    }
    assert_null(load(b.data, b.len, &e));
    assert_string_equal(e.text, "more than 100000 values (aliases counted each time)");
    buf_clear(&b);
    for (int i = 0; i < 100000; i++)
        buf_addch(&b, '[');
    assert_null(load(b.data, b.len, &e));
    assert_string_equal(e.text, "nested more than 32 deep");
    buf_clear(&b);
    buf_reserve(&b, (5 << 20) + 1);
    memset(b.data, ' ', 5 << 20);
    assert_null(load(b.data, 5 << 20, &e));
    assert_string_equal(e.text, "the manifest is larger than 4 MiB");
    buf_clear(&b);
    buf_addstr(&b, "version: 1\nvars: { v0: xxxxxxxxxxxxxxxx");
    for (int i = 1; i < 30; i++)
        buf_printf(&b, ", v%d: '${v%d}${v%d}'", i, i - 1, i - 1);
    buf_addstr(&b, " }\nname: '${v29}'\nstages: {}\n");
    assert_null(load(b.data, b.len, &e));
    assert_string_equal(e.text, "expands to more than 65536 bytes");
    buf_release(&b);
}

static void values_are_typed_by_the_schema(void **state)
{
    (void)state;
    struct manifest *m = load_good("version: 1\nname: 1.0\nvars: { n: 16, yes: true }\nstages:\n"
                                   "  no: { fetch: { file: 012 } }\n"
                                   "  c: { calibrate: { model: no, data: { from: no, files: '*.gz' }, field: 1e3, samples: \"${n}\", "
                                   "sequence_length: +8, concat: '${yes}' } }\n"
                                   "  q: { quantize: { model: no, calibration: c, damp_percent: 1e-2, mse: 2, dynamic: { '-:^lm_head$': , "
                                   "'${n}': { bits: '8', mse: 0 } } } }\n"
                                   "  r: { run: { checkpoint: no, prompts: ['${n} $${x}', ~, 7] } }\n");
    assert_string_equal(m->name, "1.0");
    struct buf b = BUF_INIT;
    json_canonical(m->stages[1].params, &b);
    assert_string_equal(buf_str(&b), "{\"batch_size\":1,\"concat\":true,\"data\":{\"files\":\"*.gz\",\"from\":\"no\"},\"field\":\"1e3\","
                                     "\"min_tokens\":11,\"model\":\"no\","
                                     "\"samples\":16,\"seed\":0,\"select\":\"first\",\"sequence_length\":8}");
    buf_clear(&b);
    json_canonical(m->stages[2].params, &b);
    assert_non_null(strstr(buf_str(&b), "\"dynamic\":{\"${n}\":{\"bits\":8,\"mse\":0.0},\"-:^lm_head$\":{}}"));
    assert_non_null(strstr(buf_str(&b), "\"damp_percent\":0.01,"));
    assert_non_null(strstr(buf_str(&b), "\"mse\":2.0,"));
    buf_clear(&b);
    json_canonical(json_object_get(m->stages[3].params, "prompts"), &b);
    assert_string_equal(buf_str(&b), "[\"${n} $${x}\",\"~\",\"7\"]");
    assert_string_equal(m->stages[1].refs[1].pattern, "*.gz");
    assert_int_equal(m->stages[1].refs[1].target, 0);
    buf_release(&b);
    manifest_free(m);
}

static void dynamic_as_a_list_keeps_its_order(void **state)
{
    (void)state;
    struct manifest *m =
        load_good(FC "  q: { quantize: { model: f, calibration: c, dynamic: [ { match: 'b', bits: 8 }, { match: '-:a' } ] } }\n");
    struct buf b = BUF_INIT;
    json_canonical(json_object_get(m->stages[2].params, "dynamic"), &b);
    assert_string_equal(buf_str(&b), "[{\"bits\":8,\"match\":\"b\"},{\"match\":\"-:a\"}]");
    buf_release(&b);
    manifest_free(m);
}

static void comments_and_the_order_of_keys_change_nothing(void **state)
{
    (void)state;
    struct manifest *a = load_good(FC),
                    *b = load_good("# hello\nstages:\n  c:\n    calibrate:\n      sequence_length: 2 # tokens\n      samples: '1'\n"
                                   "      data: f\n      model: f\n  f: { fetch: { file: a } }\nversion: 1\n");
    assert_true(json_equal(a->stages[1].params, b->stages[0].params));
    assert_true(json_equal(a->stages[0].params, b->stages[1].params));
    assert_string_equal(b->stages[b->order[0]].name, "f");
    manifest_free(a);
    manifest_free(b);
}

static void places_follow_paths_with_dots(void **state)
{
    (void)state;
    struct manifest *m =
        load_good(FC "  q:\n    quantize:\n      model: f\n      calibration: c\n      bits: 4\n      dynamic:\n"
                     "        'a.b': { bits: 8 }\n        'a': { sym: true }\n  r: { run: { checkpoint: f, prompts: [x, y] } }\n");
    static const struct {
        int stage;
        const char *path;
        long line, col;
    } places[] = {
        {2, "bits",             9,  13},
        {2, "dynamic",          10, 7 },
        {2, "dynamic.a.b",      11, 9 },
        {2, "dynamic.a.b.bits", 11, 24},
        {2, "dynamic.a",        12, 9 },
        {2, "dynamic.a.nope",   12, 9 },
        {2, "nope",             5,  3 },
        {2, "",                 5,  3 },
        {3, "prompts.1",        13, 43},
        {3, "prompts",          13, 30}
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        struct mark at = manifest_place(&m->stages[places[i].stage], places[i].path);
        if (at.line != places[i].line || at.col != places[i].col)
            fail_msg("%s: %ld:%ld, not %ld:%ld", places[i].path, at.line, at.col, places[i].line, places[i].col);
    }
    assert_true(manifest_was_set(&m->stages[2], "bits"));
    assert_false(manifest_was_set(&m->stages[2], "sym"));
    manifest_free(m);
}

static void sets_replace_variables(void **state)
{
    (void)state;
    static const char text[] = "version: 1\nvars: { file: a, x: 1 }\nstages: { f: { fetch: { file: '${file}' } } }\n";
    struct manifest *m = NULL;
    struct err e;
    const char *set = "file=${x}=b";
    assert_int_equal(manifest_parse("m.yaml", text, strlen(text), &set, 1, &m, &e), 0);
    assert_string_equal(json_string_value(json_object_get(m->stages[0].params, "file")), "${x}=b"); /* taken as it is */
    manifest_free(m);
    set = "fiel=b";
    assert_int_equal(manifest_parse("m.yaml", text, strlen(text), &set, 1, &m, &e), -ERR_USAGE);
    assert_string_equal(e.text, "--set fiel: the manifest has no such variable (did you mean 'file'?)");
    set = "file";
    assert_int_equal(manifest_parse("m.yaml", text, strlen(text), &set, 1, &m, &e), -ERR_USAGE);
    assert_string_equal(e.text, "--set wants VAR=VALUE, not 'file'");
}

static void aliases_and_a_bom_are_fine(void **state)
{
    (void)state;
    struct manifest *m = load_good("\xef\xbb\xbfversion: 1\nstages:\n  f: { fetch: &x { file: a } }\n  g: { fetch: *x }\n");
    assert_true(json_equal(m->stages[0].params, m->stages[1].params));
    manifest_free(m);
}

static void drawings(void **state)
{
    (void)state;
    struct manifest *m = load_good(FC);
    struct buf b = BUF_INIT;
    dag_draw(m, DAG_ASCII, &b);
    assert_string_equal(buf_str(&b), "f (fetch)\nc (calibrate) <- model: f, data: f\n");
    buf_clear(&b);
    dag_draw(m, DAG_DOT, &b);
    assert_string_equal(buf_str(&b), "digraph gptqpipe {\n    rankdir=LR;\n    node [shape=box];\n    \"f\" [label=\"f\\nfetch\"];\n    "
                                     "\"c\" [label=\"c\\ncalibrate\"];\n"
                                     "    \"f\" -> \"c\" [label=\"model\"];\n    \"f\" -> \"c\" [label=\"data\"];\n}\n");
    buf_clear(&b);
    dag_draw(m, DAG_MERMAID, &b);
    assert_string_equal(buf_str(&b),
                        "flowchart LR\n    s0[\"f (fetch)\"]\n    s1[\"c (calibrate)\"]\n    s0 -->|model| s1\n    s0 -->|data| s1\n");
    buf_release(&b);
    manifest_free(m);
}

static void schema_is_complete(void **state)
{
    (void)state;
    json_t *s = schema_json();
    const json_t *kinds = json_object_get(
        json_object_get(json_object_get(json_object_get(json_object_get(s, "properties"), "stages"), "additionalProperties"), "properties"),
        "quantize");
    const json_t *fields = json_object_get(kinds, "properties");
    assert_string_equal(json_string_value(json_object_get(s, "$schema")), "https://json-schema.org/draft/2020-12/schema");
    for (size_t i = 0; i < schema_field_count; i++)
        if (!strcmp(schema_fields[i].kind, "quantize"))
            assert_non_null(json_object_get(json_object_get(fields, schema_fields[i].name), "description"));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(fields, "bits"), "default")), 4);
    assert_true(json_is_array(json_object_get(json_object_get(fields, "dynamic"), "anyOf")));
    json_decref(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_bad_manifest_has_its_line),
        cmocka_unit_test(bombs_are_refused),
        cmocka_unit_test(values_are_typed_by_the_schema),
        cmocka_unit_test(dynamic_as_a_list_keeps_its_order),
        cmocka_unit_test(comments_and_the_order_of_keys_change_nothing),
        cmocka_unit_test(places_follow_paths_with_dots),
        cmocka_unit_test(sets_replace_variables),
        cmocka_unit_test(aliases_and_a_bom_are_fine),
        cmocka_unit_test(drawings),
        cmocka_unit_test(schema_is_complete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

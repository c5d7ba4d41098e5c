/* Documents out of every kind of file, and what is said about files that are broken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <archive.h>
#include <archive_entry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/base/buf.h"
#include "pipeline/base/io.h"
#include "stages/text/dataset.h"

static char *dir;
static struct fileset files;

static int setup(void **s)
{
    (void)s;
    return io_mkdtemp("build", "dataset-", &dir, NULL);
}

static int teardown(void **s)
{
    (void)s;
    int rc = io_remove_tree(dir, NULL);
    free(dir);
    return rc;
}

static int reset(void **s)
{
    (void)s;
    fileset_release(&files);
    return 0;
}

static void add_bytes(const char *name, const void *p, size_t n)
{
    char *path = io_join(dir, name);
    assert_int_equal(io_write_file_atomic(path, p, n, NULL), 0);
    fileset_add(&files, name, path, NULL, n);
    free(path);
}

static void add(const char *name, const char *text)
{
    add_bytes(name, text, strlen(text));
}

static void add_packed(const char *name, const char *text, size_t keep)
{
    char *path = io_join(dir, name), *out = malloc(1 << 20);
    size_t used = 0;
    struct archive *a = archive_write_new();
    if (strstr(name, ".gz"))
        archive_write_add_filter_gzip(a);
    else if (strstr(name, ".zst"))
        archive_write_add_filter_zstd(a);
    else
        archive_write_add_filter_xz(a);
    archive_write_set_format_raw(a);
    archive_write_set_bytes_in_last_block(a, 1);
    assert_int_equal(archive_write_open_memory(a, out, 1 << 20, &used), ARCHIVE_OK);
    struct archive_entry *entry = archive_entry_new();
    archive_entry_set_filetype(entry, AE_IFREG);
    assert_int_equal(archive_write_header(a, entry), ARCHIVE_OK);
    archive_write_data(a, text, strlen(text));
    archive_entry_free(entry);
    archive_write_close(a);
    archive_write_free(a);
    add_bytes(name, out, keep && keep < used ? keep : used);
    free(out);
    free(path);
}

/* Every document as "file:line=text;" or "file:line=[1,2];", then "!" and the error. */
static const char *all(const char *field)
{
    static struct buf b;
    struct err e = {0};
    struct dataset *d = NULL;
    struct dataset_doc doc;
    buf_clear(&b);
    int rc = dataset_open(&files, field, &d, &e);
    while (!rc && (rc = dataset_next(d, &doc, &e)) > 0) {
        buf_printf(&b, "%s:%ld=", doc.file, doc.line);
        if (doc.text)
            buf_add(&b, doc.text, doc.text_bytes);
        for (size_t i = 0; i < doc.id_count; i++)
            buf_printf(&b, "%s%d", i ? "," : "[", doc.ids[i]);
        buf_addstr(&b, doc.text ? ";" : doc.id_count ? "];" : "[];");
        rc = 0;
    }
    if (rc < 0) {
        char text[2048];
        assert_int_equal(-rc, e.code);
        buf_printf(&b, "!%s", err_format(&e, text, sizeof text));
    }
    dataset_close(d);
    return buf_str(&b);
}

static void plain(void **s)
{
    (void)s;
    add("b.txt", "two\nlines\n");
    add("a", "");
    assert_string_equal(all(NULL), "a:1=;b.txt:1=two\nlines\n;");
}

static void json_lines(void **s)
{
    (void)s;
    add("a.jsonl", "\xEF\xBB\xBF{\"text\": \"x\"}\r\n\n  \n\"y\"\n[1, 2]\n{\"text\":\"z\\u0000w\"}");
    static const char want[] = "a.jsonl:1=x;a.jsonl:4=y;a.jsonl:5=[1,2];a.jsonl:6=z\0w;";
    assert_memory_equal(all(NULL), want, sizeof want);
}

static void json_by_content(void **s)
{
    (void)s;
    add("a.json", "{\"text\":\"x\"}\n{\"text\":\"y\"}\n");
    add("b.json", " \n [ {\"text\":\"x\"}\n,\"y\" , [3],[] ]\n");
    add("c.json", "[]");
    add("d.json", "");
    assert_string_equal(all(NULL), "a.json:1=x;a.json:2=y;b.json:1=x;b.json:2=y;b.json:3=[3];b.json:4=[];");
}

static void fields(void **s)
{
    (void)s;
    add("a.jsonl", "{\"input_ids\":[5,6],\"content\":\"c\"}\n");
    assert_string_equal(all("input_ids"), "a.jsonl:1=[5,6];");
    assert_string_equal(all("content"), "a.jsonl:1=c;");
    assert_string_equal(all(NULL), "!a.jsonl:1:1: error: no field \"text\" (the first one is \"input_ids\")");
}

static void packed(void **s)
{
    (void)s;
    add_packed("a.jsonl.gz", "\"g\"\n", 0);
    add_packed("b.json.zst", "[\"z\"]", 0);
    add_packed("c.txt.xz", "x", 0);
    add_packed("d.txt.gz", "", 0);
    assert_string_equal(all(NULL), "a.jsonl.gz:1=g;b.json.zst:1=z;c.txt.xz:1=x;d.txt.gz:1=;");
}

static void long_lines(void **s)
{
    (void)s;
    struct buf b = BUF_INIT;
    size_t n = 3 << 20;
    buf_addstr(&b, "\"short\"\n\"");
    memset(buf_reserve(&b, n), 'a', n);
    buf_setlen(&b, b.len + n);
    buf_addstr(&b, "\"\n\"end\"\n");
    add_bytes("a.jsonl", b.data, b.len);
    const char *got = all(NULL);
    assert_int_equal(strlen(got), strlen("a.jsonl:1=short;a.jsonl:2=;a.jsonl:3=end;") + n);
    buf_release(&b);
}

static void line_limit(void **s)
{
    (void)s;
    struct buf b = BUF_INIT;
    size_t n = (64 << 20) + 1;
    memset(buf_reserve(&b, n), ' ', n);
    buf_setlen(&b, n);
    add_bytes("a.jsonl", b.data, b.len);
    assert_string_equal(all(NULL), "!a.jsonl:1:1: error: a line of more than 64 MiB");
    buf_release(&b);
}

static void broken(void **s)
{
    (void)s;
    static const struct {
        const char *name, *text, *want;
    } cases[] = {
        {"a.jsonl", "\"x\"\n{\"text\": 1,}\n", "a.jsonl:1=x;!a.jsonl:2:12: error: string or '}' expected near '}'"                         },
        {"a.jsonl", "{\"text\": 1}\n",         "!a.jsonl:1:1: error: a document must be a string, a list of ids or an object with \"text\""},
        {"a.jsonl", "[1, -1]\n",               "!a.jsonl:1:1: error: element 1 of the ids is no token id"                                  },
        {"a.jsonl", "{\"text\": [1]}\n",       "!a.jsonl:1:1: error: field \"text\" is a list; only \"input_ids\" may be one"              },
        {"a.json",  "[\"x\",\n {\"y\" 1}]",    "a.json:1=x;!a.json:2:7: error: item 2: ':' expected near '1'"                              },
        {"a.json",  "[\"x\"\n \"y\"]",         "a.json:1=x;!a.json:2:1: error: item 2: ',' or ']' expected before it"                      },
        {"a.json",  "[\"x\",]",                "a.json:1=x;!a.json:1:1: error: item 2: a comma before ]"                                   },
        {"a.json",  "[\"x\"",                  "a.json:1=x;!a.json:1:1: error: item 2: ',' or ']' expected before it"                      },
        {"a.json",  "[\"x\"] 1",               "a.json:1=x;!a.json:1:1: error: item 2: text behind the list"                               },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fileset_release(&files);
        add(cases[i].name, cases[i].text);
        assert_string_equal(all(NULL), cases[i].want);
    }
}

static void broken_packing(void **s)
{
    (void)s;
    add("a.txt.gz", "no gzip at all");
    assert_string_equal(all(NULL), "!gptqpipe: error: a.txt.gz: not gzip data, although its name says so");
    fileset_release(&files);
    struct buf b = BUF_INIT;
    for (int i = 0; i < 5000; i++)
        buf_printf(&b, "%d ", i * 7919 % 10007);
    add_packed("a.txt.gz", b.data, 3000);
    assert_non_null(strstr(all(NULL), "!gptqpipe: error: a.txt.gz: "));
    buf_release(&b);
}

static void missing(void **s)
{
    (void)s;
    fileset_add(&files, "a.txt", "build/no-such-file", NULL, 0);
    assert_string_equal(all(NULL), "!gptqpipe: error: a.txt: No such file or directory");
    fileset_release(&files);
    fileset_add(&files, "a.txt.gz", "build/no-such-file", NULL, 0);
    assert_non_null(strstr(all(NULL), "!gptqpipe: error: a.txt.gz: "));
}

static void parquet(void **s)
{
    (void)s;
    add("a.txt", "x");
    add("b.parquet", "PAR1");
    const char *got = all(NULL);
    assert_non_null(strstr(got, "b.parquet: Parquet is not read"));
    assert_non_null(strstr(got, "JSON lines"));
}

static void is_plain(void **s)
{
    (void)s;
    struct dataset *d = NULL;
    add("a.txt", "x");
    assert_int_equal(dataset_open(&files, NULL, &d, NULL), 0);
    assert_true(dataset_is_plain(d));
    dataset_close(d);
    add("b.json.gz", "x");
    assert_int_equal(dataset_open(&files, NULL, &d, NULL), 0);
    assert_false(dataset_is_plain(d));
    dataset_close(d);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, NULL, reset)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(plain),      T(json_lines), T(json_by_content), T(fields),  T(packed),  T(long_lines),
        T(line_limit), T(broken),     T(broken_packing),  T(missing), T(parquet), T(is_plain),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

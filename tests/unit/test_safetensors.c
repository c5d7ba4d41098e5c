#include "tests/unit/lm_test.h"

#include <math.h>

#include "kernels/half.h"
#include "stages/lm/safetensors.h"

static struct err err;

/* 8 bytes of length, then the header. */
static size_t image(unsigned char *out, const char *json)
{
    size_t n = strlen(json);
    for (int i = 0; i < 8; i++)
        out[i] = (unsigned char)((uint64_t)n >> 8 * i);
    memcpy(out + 8, json, n);
    return n + 8;
}

static void refuse(const char *json, uint64_t data_bytes, const char *piece)
{
    unsigned char bytes[4096];
    size_t n = image(bytes, json);
    struct st_set set = {0};
    FAILS(st_parse_header(&set, 0, bytes, n, n + data_bytes, "x.safetensors", &err), ERR_FORMAT, piece);
    st_close(&set);
}

#define T(name, dtype, shape, b, n) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #b "," #n "]}"

static void test_header_order(void **state)
{
    (void)state;
    unsigned char bytes[4096];
    size_t n = image(bytes, "{\"__metadata__\":{\"format\":\"pt\"}," T("b", "F16", "[3]", 8, 14) "," T("z", "I32", "[0,5]", 8, 8) "," T(
                                "a", "F32", "[2,1]", 0, 8) "," T("s", "U8", "[]", 14, 15) "}   ");
    struct st_set set = {0};
    OK(st_parse_header(&set, 0, bytes, n, n + 15, "x", &err));
    assert_int_equal(set.tensor_count, 4);
    const char *order[] = {"a", "z", "b", "s"};
    for (int i = 0; i < 4; i++)
        assert_string_equal(set.tensors[i].name, order[i]);
    const struct st_tensor *t = st_find(&set, "b");
    assert_int_equal(t->dtype, DT_F16);
    assert_int_equal(t->ndim, 1);
    assert_int_equal(t->offset, n + 8);
    assert_int_equal(t->bytes, 6);
    assert_int_equal(st_elems(st_find(&set, "s")), 1);
    assert_int_equal(st_elems(st_find(&set, "z")), 0);
    assert_null(st_find(&set, "c"));
    st_close(&set);
}

static void test_length(void **state)
{
    (void)state;
    unsigned char b[64] = {0};
    struct st_set set = {0};
    FAILS(st_parse_header(&set, 0, b, 7, 7, "x", &err), ERR_FORMAT, "x: 7 bytes are too few");
    b[0] = 57;
    FAILS(st_parse_header(&set, 0, b, 64, 64, "x", &err), ERR_FORMAT, "x: header of 57 bytes in a file of 64");
    b[0] = 56;
    FAILS(st_parse_header(&set, 0, b, 40, 64, "x", &err), ERR_FORMAT, "header of 56 bytes, of which only 32 are here");
    memset(b, 0xff, 8);
    FAILS(st_parse_header(&set, 0, b, 64, 64, "x", &err), ERR_FORMAT, "header of 18446744073709551615 bytes; at most 100000000");
    memset(b, 0, sizeof b);
    FAILS(st_parse_header(&set, 0, b, 64, 64, "x", &err), ERR_FORMAT, "");
}

static void test_refusals(void **state)
{
    (void)state;
    refuse("[]", 0, "x.safetensors: the header must be a JSON object");
    refuse("{\"a\":1", 0, "");
    refuse("{\"a\":1}", 0, "tensor 'a': its entry must be an object");
    refuse("{" T("a", "F32", "[1]", 0, 4) "," T("a", "F32", "[1]", 4, 8) "}", 8, "duplicate object key");
    refuse("{\"__metadata__\":{\"a\":1}}", 0, "\"__metadata__\": 'a' must be a string");
    refuse("{\"__metadata__\":[]}", 0, "\"__metadata__\" must be an object");
    refuse("{" T("a", "F8_E4M3", "[1]", 0, 1) "}", 1, "tensor 'a': dtype 'F8_E4M3' is not supported");
    refuse("{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, "9 dimensions; at most 8");
    refuse("{" T("a", "F32", "[-1]", 0, 4) "}", 4, "tensor 'a': dimension 0 is not a whole number");
    refuse("{" T("a", "F32", "[1.5]", 0, 4) "}", 4, "dimension 0 is not a whole number");
    refuse("{" T("a", "F32", "[4294967296,4294967296]", 0, 4) "}", 4, "tensor 'a': the product of its shape overflows");
    refuse("{" T("a", "F32", "[4611686018427387904]", 0, 4) "}", 4, "the product of its shape overflows");
    refuse("{" T("a", "F32", "[0,4294967296,4294967296]", 0, 0) "}", 0, "the product of its shape overflows");
    refuse("{" T("a", "F32", "[9223372036854775808]", 0, 4) "}", 4, "too big integer");
    refuse("{" T("a", "F32", "[2]", 0, 4) "}", 4, "tensor 'a': data_offsets [0, 4) hold 4 bytes, its dtype and shape need 8");
    refuse("{" T("a", "F32", "[2]", 0, 8) "}", 7, "tensor 'a': data_offsets [0, 8) reach beyond the file's 7 bytes of data");
    refuse("{" T("a", "F32", "[1]", 4, 0) "}", 8, "data_offsets [4, 0) end before they begin");
    refuse("{" T("a", "F32", "[1]", 0, -4) "}", 8, "\"data_offsets\" must be two whole numbers");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 8, "\"data_offsets\" must be two whole numbers");
    refuse("{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "\"dtype\" must be a string");
    refuse("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "\"shape\" must be a list");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "unknown field 'x'");
}

static void test_extents(void **state)
{
    (void)state;
    refuse("{" T("a", "F32", "[2]", 0, 8) "," T("b", "F32", "[2]", 4, 12) "}", 12, "tensor 'b': overlaps tensor 'a'");
    refuse("{" T("a", "F32", "[2]", 0, 8) "," T("b", "F32", "[2]", 0, 8) "}", 8, "tensor 'b': overlaps tensor 'a'");
    refuse("{" T("a", "F32", "[2]", 0, 8) "," T("b", "U8", "[1]", 9, 10) "}", 10, "tensor 'b': 1 bytes before it belong to no tensor");
    refuse("{" T("a", "F32", "[2]", 4, 12) "}", 12, "tensor 'a': 4 bytes before it belong to no tensor");
    refuse("{" T("a", "F32", "[2]", 0, 8) "}", 12, "x.safetensors: 4 bytes at its end belong to no tensor");
    refuse("{}", 1, "1 bytes at its end belong to no tensor");
}

/* Any part of a file is an error and no crash. */
static void test_truncated(void **state)
{
    (void)state;
    unsigned char bytes[4096];
    size_t n = image(bytes, "{" T("a", "F32", "[2]", 0, 8) "," T("b", "U8", "[1]", 8, 9) "}");
    for (size_t cut = 0; cut < n; cut++) {
        struct st_set set = {0};
        unsigned char *copy = malloc(cut + 1);
        memcpy(copy, bytes, cut);
        FAILS(st_parse_header(&set, 0, copy, cut, cut, "x", &err), ERR_FORMAT, "");
        st_close(&set);
        free(copy);
    }
}

static const int64_t shape_2x3[] = {2, 3}, shape_2[] = {2};
static const float six[] = {1, 2, 3, 4, 5, 6};

static void write_sample(const char *path)
{
    struct st_writer *w;
    const unsigned char two[] = {7, 9};
    OK(st_writer_open(path, true, &w, &err));
    st_writer_declare(w, "b\"\xc3\xa9", DT_F32, 2, shape_2x3);
    st_writer_declare(w, "a", DT_U8, 1, shape_2);
    FAILS(st_writer_put(w, "a", two, 2, &err), ERR_SHAPE, "tensor 'a' of 2 bytes is not what comes next ('b\"");
    OK(st_writer_put(w, "b\"\xc3\xa9", six, sizeof six, &err));
    OK(st_writer_put(w, "a", two, 2, &err));
    OK(st_writer_close(w, &err));
}

static void test_writer(void **state)
{
    (void)state;
    static const char want[] =
        "{\"__metadata__\":{\"format\":\"pt\"},\"b\\\"\xc3\xa9\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
        "\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[24,26]}}";
    struct buf b = BUF_INIT;
    dir_make();
    write_sample(dir_file("x.safetensors"));
    OK(io_read_file(dir_file("x.safetensors"), 1 << 20, &b, &err));
    assert_int_equal((b.len - 26) % 8, 0);
    assert_true(b.len > 8 + sizeof want && !memcmp(b.data + 8, want, sizeof want - 1));
    for (size_t i = 8 + sizeof want - 1; i < b.len - 26; i++)
        assert_int_equal(b.data[i], ' ');
    buf_release(&b);
    struct st_set set;
    OK(st_open_file(&set, dir_file("x.safetensors"), &err));
    assert_memory_equal(st_data(&set, st_find(&set, "b\"\xc3\xa9")), six, sizeof six);
    assert_int_equal(set.files[0].data_start % 8, 0);
    st_close(&set);

    struct st_writer *w;
    OK(st_writer_open(dir_file("y.safetensors"), false, &w, &err));
    st_writer_declare(w, "a", DT_U8, 1, shape_2);
    FAILS(st_writer_close(w, &err), ERR_SHAPE, "tensor 'a' was declared but not written");
    OK(st_writer_open(dir_file("z.safetensors"), false, &w, &err));
    OK(st_writer_close(w, &err));
    OK(st_open_file(&set, dir_file("z.safetensors"), &err));
    assert_int_equal(set.tensor_count, 0);
    st_close(&set);
    dir_remove();
}

/* A header whose length is odd: every tensor lies unaligned. */
static void test_unaligned(void **state)
{
    (void)state;
    unsigned char bytes[4096];
    size_t n = image(bytes, "{" T("a", "F32", "[2,3]", 0, 24) "," T("h", "F16", "[2]", 24, 28) "," T("g", "BF16", "[1]", 28, 30) "," T(
                                "n", "F32", "[2]", 30, 38) "} ");
    n += n % 2 ? 0 : 1;
    bytes[0] = (unsigned char)(n - 8);
    bytes[n - 1] = ' ';
    const uint16_t half[] = {0x3c00, 0xc000}, brain = 0x3f80;
    const float odd[] = {1, NAN};
    memcpy(bytes + n, six, 24);
    memcpy(bytes + n + 24, half, 4);
    memcpy(bytes + n + 28, &brain, 2);
    memcpy(bytes + n + 30, odd, 8);
    dir_make();
    dir_write("x.safetensors", bytes, n + 38);
    struct st_set set;
    float out[6];
    const void *p, *again;
    OK(st_open_file(&set, dir_file("x.safetensors"), &err));
    const struct st_tensor *a = st_find(&set, "a");
    assert_true((uintptr_t)st_data(&set, a) % 4 != 0);
    OK(st_copy_f32(&set, a, out, &err));
    assert_memory_equal(out, six, sizeof six);
    OK(st_data_aligned(&set, a, &p, &err));
    OK(st_data_aligned(&set, a, &again, &err));
    assert_true((uintptr_t)p % 4 == 0 && p == again);
    assert_memory_equal(p, six, sizeof six);
    st_drop(&set, a);
    OK(st_data_aligned(&set, a, &p, &err));
    assert_memory_equal(p, six, sizeof six);
    OK(st_copy_f32(&set, st_find(&set, "h"), out, &err));
    assert_true(out[0] == 1 && out[1] == -2);
    OK(st_copy_f32(&set, st_find(&set, "g"), out, &err));
    assert_true(out[0] == 1);
    FAILS(st_copy_f32(&set, st_find(&set, "n"), out, &err), ERR_NUMERIC, "tensor 'n': element 1 is NaN");
    st_close(&set);
    dir_remove();
}

static void shard(const char *name, const char *tensor, float value)
{
    struct st_writer *w;
    const int64_t one = 1;
    OK(st_writer_open(dir_file(name), true, &w, &err));
    st_writer_declare(w, tensor, DT_F32, 1, &one);
    OK(st_writer_put(w, tensor, &value, 4, &err));
    OK(st_writer_close(w, &err));
}

static int open_dir(struct st_set *set)
{
    struct fileset files = FILESET_INIT;
    assert_int_equal(fileset_from_path(&files, test_dir, NULL), 0);
    int rc = st_open(set, &files, &err);
    fileset_release(&files);
    return rc;
}

static void index_text(const char *json)
{
    dir_write("model.safetensors.index.json", json, strlen(json));
}

static void test_index(void **state)
{
    (void)state;
    struct st_set set;
    dir_make();
    FAILS(open_dir(&set), ERR_NOTFOUND, "neither model.safetensors nor model.safetensors.index.json");
    shard("m-2.safetensors", "a", 2);
    shard("m-1.safetensors", "b", 1);
    shard("m-3.safetensors", "a", 3);
    index_text("{\"weight_map\":{\"a\":\"m-2.safetensors\",\"b\":\"m-1.safetensors\"}}");
    OK(open_dir(&set));
    assert_int_equal(set.file_count, 2);
    float x;
    OK(st_copy_f32(&set, st_find(&set, "b"), &x, &err));
    assert_true(x == 1);
    OK(st_copy_f32(&set, st_find(&set, "a"), &x, &err));
    assert_true(x == 2);
    st_close(&set);
    index_text("{\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}}");
    FAILS(open_dir(&set), ERR_FORMAT, "tensor 'a' is in m-2.safetensors, not in m-1.safetensors");
    index_text("{\"weight_map\":{\"a\":\"m-2.safetensors\",\"c\":\"m-1.safetensors\"}}");
    FAILS(open_dir(&set), ERR_FORMAT, "tensor 'c' is not in m-1.safetensors");
    index_text("{\"weight_map\":{\"a\":\"m-4.safetensors\"}}");
    FAILS(open_dir(&set), ERR_NOTFOUND, "the shard 'm-4.safetensors' that it names is missing");
    index_text("{\"weight_map\":{\"a\":\"m-2.safetensors\",\"b\":\"m-3.safetensors\"}}");
    FAILS(open_dir(&set), ERR_FORMAT, "tensor 'a': is also in m-2.safetensors");
    index_text("{\"weight_map\":{\"a\":1}}");
    FAILS(open_dir(&set), ERR_FORMAT, "\"weight_map\": 'a' must name a file");
    index_text("{\"weight_map\":[]}");
    FAILS(open_dir(&set), ERR_FORMAT, "\"weight_map\" must be an object");
    dir_write("model.safetensors", "", 0);
    FAILS(open_dir(&set), ERR_FORMAT, "0 bytes are too few");
    dir_remove();
}

static void test_shared(void **state)
{
    (void)state;
    struct st_set one, many;
    struct fileset files = FILESET_INIT;
    NEED_SHARED(path, "models/TinyStories-656K");
    OK(fileset_from_path(&files, path, &err));
    OK(st_open(&one, &files, &err));
    fileset_release(&files);
    path = shared_path("models/TinyStories-656K-sharded");
    assert_non_null(path);
    OK(fileset_from_path(&files, path, &err));
    OK(st_open(&many, &files, &err));
    fileset_release(&files);
    assert_int_equal(many.file_count, 3);
    assert_int_equal(one.tensor_count, many.tensor_count);
    for (size_t i = 0; i < one.tensor_count; i++) {
        const struct st_tensor *a = &one.tensors[i], *b = st_find(&many, a->name);
        assert_non_null(b);
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(st_data(&one, a), st_data(&many, b), a->bytes);
    }
    st_close(&one);
    st_close(&many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header_order), cmocka_unit_test(test_length),    cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_extents),      cmocka_unit_test(test_truncated), cmocka_unit_test(test_writer),
        cmocka_unit_test(test_unaligned),    cmocka_unit_test(test_index),     cmocka_unit_test(test_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

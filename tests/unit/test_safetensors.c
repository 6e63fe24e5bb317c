/* Headers, files and indexes: what is refused, with which words; and that a header of 96,085 tensors is quick. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/safetensors.h"
#include "tests/support/fixtures.h"

static em_error err;

static int count_tensor(void *ctx, const em_st_tensor *t, em_error *e)
{
    ck_assert(t->name && t->data == NULL);
    ++*(int *)ctx;
    return 0;
}

static int parse(const char *json, uint64_t data_bytes, int *ret_n)
{
    *ret_n = 0;
    err.text[0] = '\0';
    char *copy = malloc(strlen(json) + 1); /* exact, so that a sanitizer sees reads beyond the end */
    memcpy(copy, json, strlen(json));
    int r = em_st_parse_header(copy, strlen(json), data_bytes, "f.safetensors", count_tensor, ret_n, &err);
    free(copy);
    return r;
}

#define T(name, dtype, shape, offsets)                                                                                 \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct {
    const char *json;
    uint64_t data;
    int n;
} good[] = {
    {"{}", 0, 0},
    {"{\"__metadata__\":{\"format\":\"pt\"}}   ", 0, 0},
    {"{" T("a", "F32", "[2,3]", "[0,24]") "}", 24, 1},
    {"{" T("b", "F32", "[2]", "[4,12]") "," T("a", "BF16", "[2]", "[0,4]") "}", 12, 2}, /* any order in the header */
    {"{" T("s", "F32", "[]", "[0,4]") "," T("z", "F8_E8M0", "[9,0]", "[4,4]") "," T("y", "U8", "[0]", "[0,0]") "}", 4,
     3},
    {"{" T("q", "F4", "[3,6]", "[0,9]") "," T("i", "I8", "[3]", "[9,12]") "}", 12, 2},
    {"{\"a\":{\"extra\":[{}],\"shape\":[1],\"data_offsets\":[0,1],\"dtype\":\"BOOL\"}}", 1, 1},
    {"{" T("a", "F32", "[4611686018427387904,0]", "[0,0]") "}", 0, 1},
    {"{\"\\u0061\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8.0]}}", 8, 1},
};

START_TEST(good_headers)
{
    int n;
    ck_assert_msg(parse(good[_i].json, good[_i].data, &n) == 0, "%s: %s", good[_i].json, err.text);
    ck_assert_int_eq(n, good[_i].n);
}
END_TEST

static const struct {
    const char *json;
    uint64_t data;
    const char *says;
} bad[] = {
    {"", 0, "not valid JSON"},
    {"[]", 0, "object"},
    {"{", 0, "not valid JSON"},
    {"{}{}", 0, "not valid JSON"},
    {"{\"a\":1}", 0, "tensor a"},
    {"{\"a\":{}}", 0, "dtype is missing"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets is missing"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "shape is missing"},
    {"{" T("a", "F99", "[1]", "[0,4]") "}", 4, "unknown dtype F99"},
    {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype must be a string"},
    {"{" T("a", "F32", "4", "[0,4]") "}", 4, "shape must be a list"},
    {"{" T("a", "F32", "[-1]", "[0,4]") "}", 4, "shape must hold"},
    {"{" T("a", "F32", "[1.5]", "[0,4]") "}", 4, "shape must hold"},
    {"{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "more than 8"},
    {"{" T("a", "F32", "[1]", "[0]") "}", 4, "data_offsets"},
    {"{" T("a", "F32", "[1]", "[0,4,8]") "}", 4, "data_offsets"},
    {"{" T("a", "F32", "[1]", "[-4,0]") "}", 4, "data_offsets"},
    {"{" T("a", "F32", "[1]", "\"x\"") "}", 4, "data_offsets"},
    {"{" T("a", "F32", "[1]", "[4,0]") "}", 4, "before it begins"},
    {"{" T("a", "F32", "[1]", "[0,4]") "}", 3, "truncated"},
    {"{" T("a", "F32", "[1]", "[9223372036854775803,9223372036854775807]") "}", 4, "truncated"},
    {"{" T("a", "F32", "[1]", "[0,18446744073709551616]") "}", 4, "data_offsets"},
    {"{" T("a", "F32", "[2]", "[0,4]") "}", 4, "ask for 8"},
    {"{" T("a", "F32", "[4294967296,4294967296]", "[0,4]") "}", 4, "impossible shape"},
    {"{" T("a", "F4", "[3]", "[0,2]") "}", 2, "impossible shape"},
    {"{" T("a", "F32", "[1]", "[0,4]") "," T("b", "F32", "[1]", "[2,6]") "}", 6, "overlap"},
    {"{" T("a", "F32", "[1]", "[0,4]") "," T("b", "F32", "[1]", "[0,4]") "}", 4, "overlap"},
    {"{" T("a", "U8", "[9]", "[0,9]") "," T("b", "U8", "[1]", "[3,4]") "," T("c", "U8", "[2]", "[4,6]") "}", 9,
     "overlap"},
    {"{" T("a", "F32", "[1]", "[4,8]") "}", 8, "belong to no tensor"},
    {"{" T("a", "F32", "[1]", "[0,4]") "," T("b", "F32", "[1]", "[8,12]") "}", 12, "belong to no tensor"},
    {"{" T("a", "F32", "[1]", "[0,4]") "}", 5, "last 1 bytes"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "twice"},
    {"{\"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "name is empty"},
    {"{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "NUL"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__"},
    {"{\"__metadata__\":[]}", 0, "__metadata__"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}}", 4,
     "nested too deeply"},
};

START_TEST(bad_headers)
{
    int n;
    ck_assert_msg(parse(bad[_i].json, bad[_i].data, &n) < 0, "accepted: %s", bad[_i].json);
    ck_assert_msg(strstr(err.text, bad[_i].says), "%s: %s", bad[_i].json, err.text);
    ck_assert(strstr(err.text, "f.safetensors"));
}
END_TEST

static int stop_at_two(void *ctx, const em_st_tensor *t, em_error *e)
{
    return ++*(int *)ctx == 2 ? em_error_set(e, -EPERM, "enough") : 0;
}

START_TEST(callback_stops)
{
    int n = 0;
    const char *json =
        "{" T("a", "U8", "[1]", "[0,1]") "," T("b", "U8", "[1]", "[1,2]") "," T("c", "U8", "[1]", "[2,3]") "}";
    ck_assert_int_eq(em_st_parse_header(json, strlen(json), 3, "f", stop_at_two, &n, &err), -EPERM);
    ck_assert_int_eq(n, 2);
    ck_assert_str_eq(err.text, "enough");
}
END_TEST

/* --- folders --------------------------------------------------------------------------------------------------- */

static char dir[64];

static void make_dir(void)
{
    strcpy(dir, "/tmp/em-st-XXXXXX");
    ck_assert(mkdtemp(dir));
}

static void remove_dir(void)
{
    char cmd[128];
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
    ck_assert_int_eq(system(cmd), 0);
}

static void put(const char *name, const void *data, size_t n)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    ck_assert(f && fwrite(data, 1, n, f) == n && fclose(f) == 0);
}

static void put_tensors(const char *name, const char *json, const char *data)
{
    char file[4096];
    uint64_t n = strlen(json);
    for (int i = 0; i < 8; i++)
        file[i] = (char)(n >> (8 * i));
    memcpy(file + 8, json, n);
    memcpy(file + 8 + n, data, strlen(data));
    put(name, file, 8 + n + strlen(data));
}

static void put_text(const char *name, const char *text)
{
    put(name, text, strlen(text));
}

static int open_dir(em_st_set **ret)
{
    err.text[0] = '\0';
    *ret = NULL;
    return em_st_open(dir, ret, &err);
}

static void refused(const char *says)
{
    em_st_set *set;
    ck_assert_int_lt(open_dir(&set), 0);
    ck_assert_ptr_null(set);
    ck_assert_msg(strstr(err.text, says), "%s, not: %s", says, err.text);
}

START_TEST(folders)
{
    em_st_set *set;
    make_dir();
    refused("has no *.safetensors file");
    put_tensors("b.safetensors", "{" T("y", "U8", "[2]", "[0,2]") "}", "yy");
    put_tensors("a.safetensors", "{" T("z", "U8", "[2]", "[0,2]") "," T("x", "U8", "[0,7]", "[2,2]") "}", "zz");
    put_text("notes.txt", "not a tensor file");
    ck_assert_msg(open_dir(&set) == 0, "%s", err.text);
    ck_assert_uint_eq(em_st_count(set), 3);
    ck_assert_str_eq(em_st_get(set, 0)->name, "x");
    ck_assert_ptr_null(em_st_get(set, 0)->data);
    ck_assert_str_eq(em_st_get(set, 2)->name, "z");
    const em_st_tensor *y = em_st_find(set, "y");
    ck_assert(y && y->file_idx == 1 && memcmp(y->data, "yy", 2) == 0 && strstr(em_st_path(set, 1), "b.safetensors"));
    char c[2];
    ck_assert(pread(em_st_fd(set, 1), c, 2, (off_t)y->file_offset) == 2 && c[0] == 'y');
    ck_assert_ptr_null(em_st_find(set, "w"));
    ck_assert_ptr_null(em_st_find(set, "yy"));
    em_st_close(set);

    put_tensors("c.safetensors", "{" T("z", "U8", "[1]", "[0,1]") "}", "z");
    refused("z appears twice");
    put_text("model.safetensors.index.json", "{\"metadata\":{\"total_size\":4},\"weight_map\":{\"x\":\"a.safetensors\","
                                             "\"y\":\"b.safetensors\",\"z\":\"a.safetensors\"}}");
    ck_assert_msg(open_dir(&set) == 0, "%s", err.text); /* c is not in the index: not opened */
    ck_assert_uint_eq(em_st_count(set), 3);
    em_st_close(set);
    put_tensors("model.safetensors", "{" T("only", "U8", "[1]", "[0,1]") "}", "1");
    ck_assert_int_eq(open_dir(&set), 0); /* the single file comes first */
    ck_assert_uint_eq(em_st_count(set), 1);
    em_st_close(set);
    put("model.safetensors", "\1\2\3", 3);
    refused("truncated");
    put("model.safetensors", "\x10\0\0\0\0\0\0\0{}", 10);
    refused("ends inside its header");
    put("model.safetensors", "PK\3\4\5\6\7\x08????", 12);
    refused("is it a safetensors file");
    remove_dir();
    ck_assert_int_eq(em_st_open("/nonexistent", &set, &err), -ENOENT);
    ck_assert(strstr(err.text, "/nonexistent"));
}
END_TEST

static const struct {
    const char *text, *says;
} bad_index[] = {
    {"", "not valid JSON"},
    {"[]", "no weight_map"},
    {"{}", "no weight_map"},
    {"{\"weight_map\":{}}", "no weight_map"},
    {"{\"weight_map\":3}", "weight_map must be one object"},
    {"{\"weight_map\":{\"x\":3}}", "file name for tensor x"},
    {"{\"weight_map\":{\"x\":\"a.safetensors\"},", "not valid JSON"},
    {"{\"weight_map\":{\"x\":\"../a.safetensors\"}}", "same folder"},
    {"{\"weight_map\":{\"x\":\"/etc/passwd\"}}", "same folder"},
    {"{\"weight_map\":{\"x\":\"a.bin\"}}", "same folder"},
    {"{\"weight_map\":{\"x\":\"missing.safetensors\"}}", "missing.safetensors"},
    {"{\"weight_map\":{\"x\":\"a.safetensors\"}}", "does not list"},
    {"{\"weight_map\":{\"x\":\"a.safetensors\",\"z\":\"a.safetensors\",\"q\":\"a.safetensors\"}}", "it is not there"},
    {"{\"weight_map\":{\"x\":\"a.safetensors\",\"z\":\"b.safetensors\",\"y\":\"b.safetensors\"}}", "but it is in"},
    {"{\"weight_map\":{\"x\":\"a.safetensors\",\"x\":\"a.safetensors\",\"z\":\"a.safetensors\"}}", "twice"},
};

START_TEST(bad_indexes)
{
    make_dir();
    put_tensors("b.safetensors", "{" T("y", "U8", "[2]", "[0,2]") "}", "yy");
    put_tensors("a.safetensors", "{" T("z", "U8", "[2]", "[0,2]") "," T("x", "U8", "[0,7]", "[2,2]") "}", "zz");
    put_text("model.safetensors.index.json", bad_index[_i].text);
    refused(bad_index[_i].says);
    remove_dir();
}
END_TEST

START_TEST(huge_header_is_quick)
{
    enum { N = 96085 };
    make_dir();
    char *file = malloc(N * 160 + 8), *p = file + 8;
    p += sprintf(p, "{");
    for (int i = 0; i < N; i++) { /* not in order, neither by name nor by place */
        int k = (int)((i * 48271LL) % N);
        p += sprintf(
            p, "%s\"layers.%d.ffn.experts.%d.w1.weight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
            i ? "," : "", k % 40, k, k, k + 1);
    }
    p += sprintf(p, "}");
    uint64_t n = (uint64_t)(p - file - 8);
    for (int i = 0; i < 8; i++)
        file[i] = (char)(n >> (8 * i));
    memset(p, 7, N);
    put("model.safetensors", file, 8 + n + N);
    free(file);
    em_st_set *set;
    uint64_t t0 = em_now_ns();
    ck_assert_msg(open_dir(&set) == 0, "%s", err.text);
    for (int k = 0; k < N; k++) {
        char name[64];
        snprintf(name, sizeof(name), "layers.%d.ffn.experts.%d.w1.weight", k % 40, k);
        if (!em_st_find(set, name))
            ck_abort_msg("%s is lost", name);
    }
    double seconds = (double)(em_now_ns() - t0) * 1e-9;
    printf("%d tensors opened and found in %.3f s\n", N, seconds);
    ck_assert_msg(seconds < 5, "%.3f s", seconds); /* quadratic work would take minutes */
    ck_assert_uint_eq(em_st_count(set), N);
    em_st_close(set);
    remove_dir();
}
END_TEST

START_TEST(mutated_headers_never_crash)
{
    uint64_t s = test_seed(77);
    static const char base[] = "{\"__metadata__\":{\"format\":\"pt\"}," T("a", "BF16", "[2,3]", "[0,12]") "," T(
        "b", "F4", "[4,2]", "[12,16]") "}";
    static const char alphabet[] = "{}[]\",:0123456789-.eF";
    for (int round = 0; round < 30000; round++) {
        char text[sizeof(base)];
        memcpy(text, base, sizeof(base));
        for (int k = 0; k < 2; k++) {
            s = s * 6364136223846793005u + 1442695040888963407u;
            text[(s >> 33) % (sizeof(base) - 1)] = alphabet[(s >> 50) % (sizeof(alphabet) - 1)];
        }
        int r = em_st_parse_header(text, sizeof(base) - 1, 16, "f", stop_at_two, &(int){-100}, &err);
        if (r < 0 && !err.text[0])
            ck_abort_msg("no sentence for %s", text);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("safetensors");
    TCase *c = tcase_create("safetensors");
    tcase_add_loop_test(c, good_headers, 0, sizeof(good) / sizeof(*good));
    tcase_add_loop_test(c, bad_headers, 0, sizeof(bad) / sizeof(*bad));
    tcase_add_test(c, callback_stops);
    tcase_add_test(c, folders);
    tcase_add_loop_test(c, bad_indexes, 0, sizeof(bad_index) / sizeof(*bad_index));
    tcase_add_test(c, huge_header_is_quick);
    tcase_add_test(c, mutated_headers_never_crash);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

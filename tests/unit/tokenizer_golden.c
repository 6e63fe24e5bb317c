/* Golden data: each folder under FIXTURES/tokenizer that has a tokenizer.json (that folder itself included) is loaded,
 * and every line of its texts.jsonl and decode.jsonl and all of its token_map.json must come out exactly. */
#include "tests/unit/tokenizer_golden.h"

#include <dirent.h>
#include <sys/stat.h>

#include "engine/detok.h"
#include "engine/token_map.h"
#include "engine/tokenizer.h"
#include "tests/support/fixtures.h"
#include "tests/support/golden_json.h"
#include "tests/support/sha256.h"

#define PATH_CAP 4096

typedef void (*folder_fn)(const char *dir, const em_tokenizer *tok);

static em_tokenizer *load(const char *dir)
{
    em_error err = {0};
    em_tokenizer *tok = NULL;
    ck_assert_msg(em_tokenizer_load(dir, &tok, &err) == 0, "%s", err.text);
    return tok;
}

static bool has_file(const char *dir, const char *name)
{
    char path[PATH_CAP];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    ck_assert_int_lt(n, PATH_CAP);
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* Golden files of any kind in dir, if it has a tokenizer; calls fn if the kind asked for is among them. */
static int visit_folder(const char *dir, const char *file, folder_fn fn)
{
    if (!has_file(dir, "tokenizer.json"))
        return 0;
    if (has_file(dir, file)) {
        em_tokenizer *tok = load(dir);
        fn(dir, tok);
        em_tokenizer_free(tok);
    }
    return has_file(dir, "texts.jsonl") + has_file(dir, "decode.jsonl") + has_file(dir, "token_map.json");
}

/* Calls fn for each folder that has a tokenizer.json and the file named. A set may lack that kind of file, but not all
 * kinds. */
static void each_folder(const char *file, folder_fn fn)
{
    char root[PATH_CAP / 2], dir[PATH_CAP];
    fixture_path(root, sizeof root, "tokenizer");
    DIR *d = opendir(root);
    ck_assert_msg(d, "%s cannot be read", root);
    int n = visit_folder(root, file, fn);
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        snprintf(dir, sizeof dir, "%s/%s", root, e->d_name);
        if (e->d_name[0] != '.')
            n += visit_folder(dir, file, fn);
    }
    closedir(d);
    ck_assert_msg(n > 0, "no golden data of a tokenizer under %s", root);
}

static golden_file open_in(const char *dir, const char *name)
{
    char path[PATH_CAP];
    golden_file f;
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    ck_assert_int_lt(n, PATH_CAP);
    ck_assert_msg(golden_open(path, &f), "%s cannot be read", path);
    return f;
}

/* --- texts.jsonl -------------------------------------------------------------------------------------------- */

static void expect_ids(const em_tokenizer *tok, const char *text, size_t len, bool special, const int32_t *want,
                       size_t n_want, const char *where, int line)
{
    em_ids got = {0};
    ck_assert_int_eq(em_tokenizer_encode(tok, text, len, special, 0, &got), 0);
    size_t same = 0;
    while (same < got.n && same < n_want && got.id[same] == want[same])
        same++;
    ck_assert_msg(got.n == n_want && same == n_want,
                  "%s/texts.jsonl line %d, special %d: %zu ids, not %zu; first other at %zu", where, line, special,
                  got.n, n_want, same);
    em_ids_done(&got);
}

static void check_text(const char *dir, const em_tokenizer *tok, const char *line, size_t len, int number)
{
    size_t text_len, n_ids, hex_len;
    em_json j;
    char *text = golden_member_text(line, len, "text", &text_len);
    if (golden_find(line, len, "text_hex", &j)) {
        char *hex = golden_text(&j, &hex_len);
        ck_assert_uint_eq(golden_unhex(hex, hex_len), text_len);
        ck_assert_mem_eq(hex, text, text_len);
        free(hex);
    }
    ck_assert(golden_find(line, len, "ids", &j));
    int32_t *ids = golden_ids(j, &n_ids);
    ck_assert(golden_find(line, len, "special", &j));
    bool special = j.type == EM_JSON_TRUE, spelled = false;
    expect_ids(tok, text, text_len, special, ids, n_ids, dir, number);
    for (size_t i = 0; i < n_ids; i++)
        spelled |= em_tokenizer_is_added(tok, ids[i]);
    if (special && !spelled) /* no such spelling in it: the same both ways */
        expect_ids(tok, text, text_len, false, ids, n_ids, dir, number);
    free(ids);
    free(text);
}

static void check_texts(const char *dir, const em_tokenizer *tok)
{
    golden_file f = open_in(dir, "texts.jsonl");
    const char *line;
    size_t len;
    int n = 0;
    for (; golden_line(&f, &line, &len); n++)
        check_text(dir, tok, line, len, f.line);
    printf("%s/texts.jsonl: %d lines\n", dir, n);
    ck_assert_int_gt(n, 0);
    free(f.data);
}

START_TEST(golden_texts)
{
    each_folder("texts.jsonl", check_texts);
}
END_TEST

/* --- decode.jsonl ------------------------------------------------------------------------------------------- */

/* The pieces as strings: those of stream_hex where the line has it. j must stand on the list. */
static char *next_piece(em_json *pieces, bool hex, size_t *ret_len)
{
    ck_assert_int_eq(em_json_next(pieces), EM_JSON_STRING);
    char *piece = golden_text(pieces, ret_len);
    if (hex)
        *ret_len = golden_unhex(piece, *ret_len);
    return piece;
}

static void expect_piece(em_detok *d, em_json *pieces, bool hex, const char *name, size_t i)
{
    size_t want_len, got_len;
    char *want = next_piece(pieces, hex, &want_len);
    const char *got = em_detok_take(d, &got_len);
    ck_assert_msg(got_len == want_len && memcmp(got, want, got_len) == 0,
                  "decode.jsonl %s: piece %zu is \"%.*s\", not \"%.*s\"", name, i, (int)got_len, got, (int)want_len,
                  want);
    free(want);
}

static void check_stream(const em_tokenizer *tok, const int32_t *ids, size_t n, const char *line, size_t len,
                         const char *name)
{
    em_json pieces;
    bool hex = golden_find(line, len, "stream_hex", &pieces);
    ck_assert(hex || golden_find(line, len, "stream", &pieces));
    em_detok *d = NULL;
    ck_assert_int_eq(em_detok_new(NULL, 0, &d), 0);
    for (size_t i = 0; i < n; i++) {
        size_t n_bytes;
        const uint8_t *bytes = em_tokenizer_bytes(tok, ids[i], &n_bytes);
        ck_assert_int_eq(em_detok_push(d, bytes, n_bytes), 0);
        expect_piece(d, &pieces, hex, name, i);
    }
    ck_assert_int_eq(em_detok_finish(d), 0);
    expect_piece(d, &pieces, hex, name, n);
    ck_assert_int_eq(em_json_next(&pieces), EM_JSON_ARRAY_END);
    em_detok_free(d);
}

static void check_decode(const em_tokenizer *tok, const char *line, size_t len)
{
    size_t name_len, n_want, n_ids, at = 0;
    em_json j;
    char *name = golden_member_text(line, len, "name", &name_len);
    char *want = golden_member_text(line, len, "bytes_hex", &n_want);
    n_want = golden_unhex(want, n_want);
    ck_assert(golden_find(line, len, "ids", &j));
    int32_t *ids = golden_ids(j, &n_ids);
    for (size_t i = 0; i < n_ids; i++) {
        size_t n_bytes;
        const uint8_t *bytes = em_tokenizer_bytes(tok, ids[i], &n_bytes);
        ck_assert_msg(at + n_bytes <= n_want && memcmp(bytes, want + at, n_bytes) == 0,
                      "decode.jsonl %s: other bytes at id number %zu", name, i);
        at += n_bytes;
    }
    ck_assert_uint_eq(at, n_want);
    check_stream(tok, ids, n_ids, line, len, name);
    free(ids);
    free(want);
    free(name);
}

static void check_decodes(const char *dir, const em_tokenizer *tok)
{
    golden_file f = open_in(dir, "decode.jsonl");
    const char *line;
    size_t len;
    int n = 0;
    for (; golden_line(&f, &line, &len); n++)
        check_decode(tok, line, len);
    printf("%s/decode.jsonl: %d lines\n", dir, n);
    ck_assert_int_gt(n, 0);
    free(f.data);
}

START_TEST(golden_decodes)
{
    each_folder("decode.jsonl", check_decodes);
}
END_TEST

/* --- token_map.json ----------------------------------------------------------------------------------------- */

static uint64_t fnv1a64(const uint8_t *p, size_t len)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/* The classes as int32 little-endian; caller frees. */
static uint8_t *map_bytes(const em_token_map *map)
{
    uint8_t *out = malloc(4 * (size_t)map->n_ids);
    ck_assert_ptr_nonnull(out);
    for (int32_t i = 0; i < map->n_ids; i++)
        for (int k = 0; k < 4; k++)
            out[4 * i + k] = (uint8_t)((uint32_t)map->class_of[i] >> 8 * k);
    return out;
}

/* The member, if it is there, must be the FNV-1a-64 of the first n classes. */
static void expect_fnv(const golden_file *f, const char *name, const uint8_t *bytes, size_t n)
{
    em_json j;
    size_t len;
    if (!golden_find(f->data, f->size, name, &j))
        return;
    char *want = golden_text(&j, &len), got[17];
    snprintf(got, sizeof got, "%016llx", (unsigned long long)fnv1a64(bytes, 4 * n));
    ck_assert_str_eq(got, want);
    free(want);
}

static void check_class_sizes(const golden_file *f, const em_token_map *map)
{
    int32_t *size = calloc((size_t)map->n_classes, sizeof *size), several = 0, largest = 0;
    ck_assert_ptr_nonnull(size);
    for (int32_t i = 0; i < map->n_ids; i++) {
        int32_t n = ++size[map->class_of[i]];
        several += n == 2;
        largest = n > largest ? n : largest;
    }
    free(size);
    ck_assert_int_eq(several, golden_member_i64(f->data, f->size, "classes_with_several_ids"));
    ck_assert_int_eq(largest, golden_member_i64(f->data, f->size, "largest_class"));
    int64_t pad = golden_member_i64(f->data, f->size, "pad_id");
    ck_assert_int_eq(map->class_of[pad], golden_member_i64(f->data, f->size, "pad_class"));
}

/* "samples" (id: class) and "map" (all classes), where the file has them. */
static void check_listed(const golden_file *f, const em_token_map *map)
{
    em_json j;
    if (golden_find(f->data, f->size, "samples", &j)) {
        while (em_json_next(&j) == EM_JSON_KEY) {
            char id[16];
            ck_assert_int_eq(em_json_string(&j, id, sizeof id, NULL), 0);
            em_json_next(&j);
            ck_assert_msg(map->class_of[atoi(id)] == golden_i64(&j), "id %s: class %d", id, map->class_of[atoi(id)]);
        }
    }
    if (golden_find(f->data, f->size, "map", &j)) {
        size_t n;
        int32_t *want = golden_ids(j, &n);
        ck_assert_uint_eq(n, (size_t)map->n_ids);
        for (size_t i = 0; i < n; i++)
            ck_assert_msg(map->class_of[i] == want[i], "id %zu: class %d, not %d", i, map->class_of[i], want[i]);
        free(want);
    }
}

static void check_map(const char *dir, const em_tokenizer *tok)
{
    golden_file f = open_in(dir, "token_map.json");
    em_token_map map;
    em_error err;
    em_json j;
    size_t len;
    ck_assert_int_eq(em_token_map_build(tok, &map, &err), 0);
    ck_assert_int_eq(map.n_ids, golden_member_i64(f.data, f.size, "ids"));
    ck_assert_int_eq(map.n_classes, golden_member_i64(f.data, f.size, "classes"));
    check_listed(&f, &map);
    check_class_sizes(&f, &map);
    uint8_t *bytes = map_bytes(&map);
    expect_fnv(&f, "fnv1a64", bytes, (size_t)map.n_ids);
    if (golden_find(f.data, f.size, "base_ids", &j))
        expect_fnv(&f, "fnv1a64_base", bytes, (size_t)golden_i64(&j));
    if (golden_find(f.data, f.size, "sha256", &j)) {
        char *want = golden_text(&j, &len), got[65];
        sha256_hex(bytes, 4 * (size_t)map.n_ids, got);
        ck_assert_str_eq(got, want);
        free(want);
    }
    printf("%s/token_map.json: %d classes\n", dir, map.n_classes);
    free(bytes);
    em_token_map_done(&map);
    free(f.data);
}

START_TEST(golden_token_maps)
{
    each_folder("token_map.json", check_map);
}
END_TEST

TCase *tokenizer_golden_cases(void)
{
    TCase *c = tcase_create("golden");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, golden_texts);
    tcase_add_test(c, golden_decodes);
    tcase_add_test(c, golden_token_maps);
    return c;
}

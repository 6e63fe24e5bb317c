/* Row ids of the golden models, from their expected token classes and what their config says. */
#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engram/engram.h"
#include "tests/support/fixtures.h"

typedef struct golden_model {
    char name[64];
    em_engram_spec spec; /* sizes alone; pad_class is found by golden_pad_class */
    em_engram_hash hash[EM_ENGRAM_MAX_TABLES];
} golden_model;

/* --- config.json and safetensors, read by searching: the files are our own -------------------------------------- */

static char *read_file(const char *rel, size_t *ret_bytes)
{
    char path[1024];
    FILE *in = fopen(fixture_path(path, sizeof path, rel), "rb");
    ck_assert_msg(in != NULL, "cannot open %s", path);
    fseek(in, 0, SEEK_END);
    long n = ftell(in);
    rewind(in);
    char *bytes = calloc(1, (size_t)n + 1);
    ck_assert_uint_eq(fread(bytes, 1, (size_t)n, in), (size_t)n);
    fclose(in);
    *ret_bytes = (size_t)n;
    return bytes;
}

/* The integers behind a key: one, or a list of at most cap. */
static int config_ints(const char *config, const char *key, int64_t *ret_int, int cap)
{
    char quoted[64];
    int n = 0;
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *at = strstr(config, quoted);
    if (!at)
        return 0;
    at = strchr(at, ':') + 1;
    at += strspn(at, " \n\t[");
    for (char *end; n < cap; at = end + strspn(end, " \n\t,")) { /* what follows a number's comma is no number */
        long long v = strtoll(at, &end, 10);
        if (end == at)
            break;
        ret_int[n++] = v;
    }
    return n;
}

typedef struct tensor_file {
    char *bytes;
    size_t n_bytes;
    char *header; /* NUL-terminated copy */
    const char *data;
} tensor_file;

static tensor_file read_tensors(const char *model_name)
{
    tensor_file f = {0};
    char rel[128];
    uint64_t header_bytes;
    snprintf(rel, sizeof rel, "models/%s/expected.safetensors", model_name);
    f.bytes = read_file(rel, &f.n_bytes);
    memcpy(&header_bytes, f.bytes, 8);
    ck_assert_uint_le(header_bytes, f.n_bytes - 8);
    f.header = calloc(1, header_bytes + 1);
    memcpy(f.header, f.bytes + 8, header_bytes);
    f.data = f.bytes + 8 + header_bytes;
    return f;
}

/* A tensor by name: its bytes, or NULL. */
static const void *find_tensor(const tensor_file *f, const char *name, const char *dtype, size_t *ret_bytes)
{
    char key[128], type[32];
    unsigned long long begin, end;
    snprintf(key, sizeof key, "\"%s\"", name);
    snprintf(type, sizeof type, "\"%s\"", dtype);
    const char *at = strstr(f->header, key);
    if (!at)
        return NULL;
    const char *close = strchr(at, '}'), *offsets = strstr(at, "\"data_offsets\""), *has_type = strstr(at, type);
    ck_assert(close && offsets && offsets < close && has_type && has_type < close);
    ck_assert_int_eq(sscanf(strchr(offsets, '[') + 1, " %llu , %llu", &begin, &end), 2);
    ck_assert(begin <= end && end <= f->n_bytes - (size_t)(f->data - f->bytes));
    *ret_bytes = (size_t)(end - begin);
    return f->data + begin;
}

/* --- the models ------------------------------------------------------------------------------------------------- */

/* False when the model has no Engram. */
static bool read_model(golden_model *m)
{
    char rel[128];
    size_t n_bytes;
    int64_t layer[EM_ENGRAM_MAX_TABLES], n_rows[EM_ENGRAM_MAX_TABLES], v[5];
    static const char *const key[] = {"engram_max_ngram_size", "engram_n_heads", "engram_head_dim", "engram_vocab_size",
                                      "engram_compressed_vocab_size"};
    snprintf(rel, sizeof rel, "models/%s/checkpoint/config.json", m->name);
    char *config = read_file(rel, &n_bytes);
    int n = config_ints(config, "engram_layer_ids", layer, EM_ENGRAM_MAX_TABLES);
    if (n) {
        ck_assert_int_eq(config_ints(config, "engram_num_embeddings", n_rows, EM_ENGRAM_MAX_TABLES), n);
        for (int i = 0; i < 5; i++)
            ck_assert_msg(config_ints(config, key[i], &v[i], 1) == 1, "%s of %s", key[i], m->name);
        m->spec = (em_engram_spec){.n_tables = n,
                                   .dtype = EM_ENGRAM_F32,
                                   .max_order = (int32_t)v[0],
                                   .n_heads = (int32_t)v[1],
                                   .head_dim = (int32_t)v[2],
                                   .prime_start = v[3],
                                   .n_classes = (int32_t)v[4]};
        for (int t = 0; t < n; t++)
            m->spec.table[t] = (em_engram_source){.layer = (int32_t)layer[t], .n_rows = n_rows[t]};
    }
    free(config);
    return n > 0;
}

static bool row_matches(const em_engram_hash *hash, const int32_t *classes, size_t pos, const char *want)
{
    int32_t suffix[EM_ENGRAM_MAX_ORDER];
    int64_t row[(EM_ENGRAM_MAX_ORDER - 1) * EM_ENGRAM_MAX_HEADS];
    em_engram_suffix(hash, classes, pos + 1, suffix);
    em_engram_row_ids(hash, suffix, row);
    return !memcmp(row, want + pos * (size_t)hash->n_cols * 8, (size_t)hash->n_cols * 8);
}

/* How many of the first n_check positions of a case have the expected rows in all tables. */
static size_t count_matches(const golden_model *m, const tensor_file *f, int case_idx, size_t n_check,
                            size_t *ret_tokens)
{
    char name[64];
    size_t n_bytes, n_classes_bytes, n_good = 0;
    snprintf(name, sizeof name, "%d.classes", case_idx);
    const void *at = find_tensor(f, name, "I32", &n_classes_bytes);
    *ret_tokens = at ? n_classes_bytes / 4 : 0;
    if (!at)
        return 0;
    int32_t *classes = malloc(n_classes_bytes);
    memcpy(classes, at, n_classes_bytes);
    bool good[4096];
    n_check = n_check < *ret_tokens ? n_check : *ret_tokens;
    ck_assert_uint_le(n_check, sizeof good);
    memset(good, true, sizeof good);
    for (int t = 0; t < m->spec.n_tables; t++) {
        snprintf(name, sizeof name, "%d.engram_rows.%d", case_idx, m->spec.table[t].layer);
        const char *want = find_tensor(f, name, "I64", &n_bytes);
        ck_assert_msg(want && n_bytes == *ret_tokens * (size_t)m->hash[t].n_cols * 8, "%s of %s", name, m->name);
        for (size_t pos = 0; pos < n_check; pos++)
            good[pos] &= row_matches(&m->hash[t], classes, pos, want);
    }
    for (size_t pos = 0; pos < n_check; pos++)
        n_good += good[pos];
    free(classes);
    return n_good;
}

/* The pad class is the tokenizer's matter: here it is the one class that explains the first rows of case 0. */
static void find_pad_class(golden_model *m, const tensor_file *f)
{
    int n_fit = 0;
    int32_t pad_class = 0;
    for (int32_t c = 0; c < m->spec.n_classes; c++) {
        size_t n_tokens;
        for (int t = 0; t < m->spec.n_tables; t++)
            m->hash[t].pad_class = c;
        if (count_matches(m, f, 0, 1, &n_tokens) == 1) {
            n_fit++;
            pad_class = c;
        }
    }
    ck_assert_msg(n_fit == 1, "%d pad classes fit %s", n_fit, m->name);
    m->spec.pad_class = pad_class;
    ck_assert_int_eq(em_engram_hash_init(&m->spec, m->hash, NULL, 0), 0);
}

static void check_model(golden_model *m)
{
    char err[256] = "";
    int n_cases = 0;
    tensor_file f = read_tensors(m->name);
    ck_assert_msg(em_engram_hash_init(&m->spec, m->hash, err, sizeof err) == 0, "%s: %s", m->name, err);
    find_pad_class(m, &f);
    for (;; n_cases++) {
        size_t n_tokens, n_good = count_matches(m, &f, n_cases, SIZE_MAX, &n_tokens);
        if (!n_tokens)
            break;
        ck_assert_msg(n_good == n_tokens, "%s, case %d: %zu of %zu positions", m->name, n_cases, n_good, n_tokens);
    }
    ck_assert_int_ge(n_cases, 1);
    printf("%s: pad class %d, %d cases\n", m->name, m->spec.pad_class, n_cases);
    free(f.header);
    free(f.bytes);
}

START_TEST(rows_of_the_golden_models)
{
    char path[1024];
    int n_models = 0;
    DIR *dir = opendir(fixture_path(path, sizeof path, "models"));
    ck_assert_msg(dir != NULL, "cannot open %s", path);
    golden_model *m = malloc(sizeof *m);
    for (struct dirent *entry; (entry = readdir(dir));) {
        char rel[400];
        snprintf(rel, sizeof rel, "models/%s/expected.safetensors", entry->d_name);
        if (access(fixture_path(path, sizeof path, rel), R_OK))
            continue;
        memset(m, 0, sizeof *m);
        snprintf(m->name, sizeof m->name, "%.63s", entry->d_name);
        if (!read_model(m))
            continue;
        check_model(m);
        n_models++;
    }
    closedir(dir);
    free(m);
    ck_assert_msg(n_models > 0, "no golden model has an Engram");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("engram-golden");
    TCase *t = tcase_create("golden");
    tcase_add_test(t, rows_of_the_golden_models);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

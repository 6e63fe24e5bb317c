/* A set of safetensors files as one sorted list of tensors. */
#include "engine/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "engine/base/json.h"

#define SINGLE_FILE "model.safetensors"
#define INDEX_FILE "model.safetensors.index.json"
#define MAX_INDEX_BYTES (256u << 20)
#define MAX_FILE_NAME 255

typedef struct tensor_file {
    char *path;
    em_map map;
} tensor_file;

typedef struct entry {
    em_st_tensor t;
    size_t name; /* offset in the set's names, until they stop moving */
} entry;

struct em_st_set {
    tensor_file *files;
    int32_t n_files;
    entry *entries; /* sorted by name */
    size_t n, cap;
    em_buf names; /* NUL-terminated, one behind the other */
};

/* --- which files ---------------------------------------------------------------------------------------------- */

/* File names without the folder, as they are found. */
typedef struct name_list {
    char **v;
    int32_t n;
} name_list;

static void names_free(name_list *l)
{
    for (int32_t i = 0; i < l->n; i++)
        free(l->v[i]);
    free(l->v);
    *l = (name_list){0};
}

static int names_add(name_list *l, const char *name, const char *where, em_error *err)
{
    if (l->n == EM_ST_MAX_FILES)
        return em_error_set(err, -EINVAL, "%s has more than %d tensor files", where, EM_ST_MAX_FILES);
    if (!l->v)
        l->v = calloc(EM_ST_MAX_FILES, sizeof(*l->v));
    char *copy = l->v ? strdup(name) : NULL;
    if (!copy)
        return em_error_set(err, -ENOMEM, "%s: out of memory", where);
    l->v[l->n++] = copy;
    return 0;
}

static bool has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n > m && strcmp(s + n - m, suffix) == 0;
}

static int by_string(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int list_folder(const char *dir, name_list *ret_names, em_error *err)
{
    DIR *d = opendir(dir);
    if (!d)
        return em_error_set(err, -errno, "cannot open the model folder %s: %m", dir);
    int r = 0;
    for (struct dirent *e; r == 0 && (e = readdir(d));)
        if (has_suffix(e->d_name, ".safetensors") && e->d_name[0] != '.')
            r = names_add(ret_names, e->d_name, dir, err);
    closedir(d);
    if (r == 0 && ret_names->n == 0)
        r = em_error_set(err, -ENOENT, "%s has no *.safetensors file", dir);
    if (r == 0)
        qsort(ret_names->v, (size_t)ret_names->n, sizeof(*ret_names->v), by_string);
    return r;
}

/* --- the index ------------------------------------------------------------------------------------------------ */

/* One line of weight_map. */
typedef struct index_line {
    size_t tensor;    /* offset in index.names */
    int32_t file_idx; /* in index.files, before they are sorted into the set: the order is kept */
} index_line;

typedef struct index_map {
    const char *path;
    name_list files;
    index_line *lines;
    size_t n, cap;
    em_buf names;
} index_map;

static void index_done(index_map *x)
{
    names_free(&x->files);
    free(x->lines);
    em_buf_done(&x->names);
}

/* File names of an index stay inside the folder: nothing from a download may make us open another path. */
static int index_file(index_map *x, const char *name, int32_t *ret_idx, em_error *err)
{
    if (strchr(name, '/') || name[0] == '.' || !has_suffix(name, ".safetensors"))
        return em_error_set(err, -EINVAL,
                            "%s names the file \"%s\"; only *.safetensors in the same folder are accepted", x->path,
                            name);
    /* lines of one file mostly follow each other, so the last name is tried first */
    for (int32_t i = x->files.n - 1; i >= 0; i--)
        if (strcmp(x->files.v[i], name) == 0) {
            *ret_idx = i;
            return 0;
        }
    int r = names_add(&x->files, name, x->path, err);
    if (r == 0)
        *ret_idx = x->files.n - 1;
    return r;
}

static int index_add(index_map *x, em_json *j, em_error *err)
{
    char file[MAX_FILE_NAME + 1], tensor[1024];
    if (j->has_nul || em_json_string(j, tensor, sizeof(tensor), NULL) < 0)
        return em_error_set(err, -EINVAL, "%s: a tensor name is longer than %zu bytes or holds a NUL", x->path,
                            sizeof(tensor) - 1);
    em_json_next(j);
    if (j->type != EM_JSON_STRING || j->has_nul || em_json_string(j, file, sizeof(file), NULL) < 0)
        return em_error_set(err, -EINVAL, "%s: weight_map must give a file name for tensor %s", x->path, tensor);
    if (x->n == x->cap) {
        size_t cap = x->cap ? 2 * x->cap : 1024;
        index_line *lines = realloc(x->lines, cap * sizeof(*lines));
        if (!lines)
            return em_error_set(err, -ENOMEM, "%s: out of memory", x->path);
        x->lines = lines;
        x->cap = cap;
    }
    index_line line = {.tensor = x->names.len};
    int r = index_file(x, file, &line.file_idx, err);
    if (r < 0)
        return r;
    x->lines[x->n++] = line;
    if (em_buf_append(&x->names, tensor, strlen(tensor) + 1) < 0)
        return em_error_set(err, -ENOMEM, "%s: out of memory", x->path);
    return 0;
}

static int index_malformed(const index_map *x, const em_json *j, em_error *err)
{
    return em_error_set(err, -EINVAL, "%s is not valid JSON: %s at byte %zu", x->path, em_json_error(j),
                        em_json_offset(j));
}

static int index_parse(index_map *x, const char *text, size_t len, em_error *err)
{
    em_json j;
    bool have_map = false;
    em_json_init(&j, text, len, 16);
    if (em_json_next(&j) == EM_JSON_ERROR)
        return index_malformed(x, &j, err);
    while (j.depth > 0 && em_json_next(&j) == EM_JSON_KEY) {
        bool is_map = em_json_is(&j, "weight_map");
        em_json_next(&j);
        if (is_map && (have_map || j.type != EM_JSON_OBJECT))
            return em_error_set(err, -EINVAL, "%s: weight_map must be one object", x->path);
        if (is_map) {
            have_map = true;
            while (em_json_next(&j) == EM_JSON_KEY) {
                int r = index_add(x, &j, err);
                if (r < 0)
                    return j.type == EM_JSON_ERROR ? index_malformed(x, &j, err) : r;
            }
        } else if (em_json_skip(&j) < 0) {
            break;
        }
    }
    if (j.type == EM_JSON_ERROR || em_json_next(&j) != EM_JSON_END)
        return index_malformed(x, &j, err);
    if (x->n == 0)
        return em_error_set(err, -EINVAL, "%s has no weight_map with tensors", x->path);
    return 0;
}

static int by_tensor(const void *a, const void *b, void *names)
{
    return strcmp((char *)names + ((const index_line *)a)->tensor, (char *)names + ((const index_line *)b)->tensor);
}

/* The index and its files must list the same tensors: a tensor that either of them lacks would be lost silently. */
static int index_compare(index_map *x, const em_st_set *set, em_error *err)
{
    qsort_r(x->lines, x->n, sizeof(*x->lines), by_tensor, x->names.data);
    for (size_t i = 0, k = 0; i < x->n || k < set->n;) {
        const char *listed = i < x->n ? x->names.data + x->lines[i].tensor : NULL;
        const em_st_tensor *t = k < set->n ? &set->entries[k].t : NULL;
        int c = !listed ? 1 : !t ? -1 : strcmp(listed, t->name);
        if (i > 0 && listed && strcmp(listed, x->names.data + x->lines[i - 1].tensor) == 0)
            return em_error_set(err, -EINVAL, "%s lists tensor %s twice", x->path, listed);
        if (c < 0)
            return em_error_set(err, -EINVAL, "%s lists tensor %s in %s, but it is not there", x->path, listed,
                                x->files.v[x->lines[i].file_idx]);
        if (c > 0)
            return em_error_set(err, -EINVAL, "%s holds tensor %s, which %s does not list",
                                set->files[t->file_idx].path, t->name, x->path);
        if (x->lines[i].file_idx != t->file_idx)
            return em_error_set(err, -EINVAL, "%s lists tensor %s in %s, but it is in %s", x->path, listed,
                                x->files.v[x->lines[i].file_idx], set->files[t->file_idx].path);
        i++;
        k++;
    }
    return 0;
}

/* --- the set -------------------------------------------------------------------------------------------------- */

typedef struct collect {
    em_st_set *set;
    int32_t file_idx;
    uint64_t data_offset; /* of the file's data section */
} collect;

static int add_tensor(void *ctx, const em_st_tensor *t, em_error *err)
{
    collect *c = ctx;
    em_st_set *set = c->set;
    const tensor_file *f = &set->files[c->file_idx];
    if (set->n == set->cap) {
        size_t cap = set->cap ? 2 * set->cap : 1024;
        entry *entries = realloc(set->entries, cap * sizeof(*entries));
        if (!entries)
            return em_error_set(err, -ENOMEM, "%s: out of memory reading the header", f->path);
        set->entries = entries;
        set->cap = cap;
    }
    entry *e = &set->entries[set->n++];
    *e = (entry){.t = *t, .name = set->names.len};
    e->t.name = NULL;
    e->t.file_idx = c->file_idx;
    e->t.file_offset = c->data_offset + t->file_offset;
    e->t.data = t->bytes ? f->map.data + e->t.file_offset : NULL;
    if (em_buf_append(&set->names, t->name, strlen(t->name) + 1) < 0)
        return em_error_set(err, -ENOMEM, "%s: out of memory reading the header", f->path);
    return 0;
}

static int read_file_header(em_st_set *set, int32_t file_idx, em_error *err)
{
    const tensor_file *f = &set->files[file_idx];
    uint64_t len = 0;
    if (f->map.size < 8)
        return em_error_set(err, -EINVAL, "%s has only %zu bytes; is the file truncated?", f->path, f->map.size);
    for (int i = 7; i >= 0; i--)
        len = len << 8 | f->map.data[i];
    if (len > EM_ST_MAX_HEADER)
        return em_error_set(err, -EINVAL,
                            "%s says its header has %llu bytes, at most %u are accepted; is it a safetensors file?",
                            f->path, (unsigned long long)len, EM_ST_MAX_HEADER);
    if (len > f->map.size - 8)
        return em_error_set(err, -EINVAL, "%s ends inside its header; is the file truncated?", f->path);
    collect c = {.set = set, .file_idx = file_idx, .data_offset = 8 + len};
    return em_st_parse_header((const char *)f->map.data + 8, len, f->map.size - 8 - len, f->path, add_tensor, &c, err);
}

static int open_files(em_st_set *set, const char *dir, const name_list *names, em_error *err)
{
    set->files = calloc((size_t)names->n, sizeof(*set->files));
    if (!set->files)
        return em_error_set(err, -ENOMEM, "%s: out of memory", dir);
    for (int32_t i = 0; i < names->n; i++) {
        tensor_file *f = &set->files[i];
        if (asprintf(&f->path, "%s/%s", dir, names->v[i]) < 0) {
            f->path = NULL;
            return em_error_set(err, -ENOMEM, "%s: out of memory", dir);
        }
        f->map.fd = -1;
        set->n_files = i + 1; /* from here on close takes care of it */
        int r = em_map_open(f->path, &f->map, err);
        if (r == 0)
            r = read_file_header(set, i, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->t.name, ((const entry *)b)->t.name);
}

static int sort_by_name(em_st_set *set, em_error *err)
{
    for (size_t i = 0; i < set->n; i++)
        set->entries[i].t.name = set->names.data + set->entries[i].name;
    if (set->n > 0)
        qsort(set->entries, set->n, sizeof(*set->entries), by_name);
    for (size_t i = 1; i < set->n; i++) {
        const em_st_tensor *a = &set->entries[i - 1].t, *b = &set->entries[i].t;
        if (strcmp(a->name, b->name) != 0)
            continue;
        const char *path = set->files[a->file_idx].path, *other = set->files[b->file_idx].path;
        if (a->file_idx == b->file_idx)
            return em_error_set(err, -EINVAL, "tensor %s appears twice in %s", a->name, path);
        return em_error_set(err, -EINVAL, "tensor %s appears twice: in %s and in %s", a->name, path, other);
    }
    return 0;
}

static int open_with_index(em_st_set *set, const char *dir, const char *path, em_error *err)
{
    char *text;
    size_t len;
    int r = em_file_read(path, MAX_INDEX_BYTES, &text, &len, err);
    if (r < 0)
        return r;
    index_map x = {.path = path};
    r = index_parse(&x, text, len, err);
    free(text);
    if (r == 0)
        r = open_files(set, dir, &x.files, err);
    if (r == 0)
        r = sort_by_name(set, err);
    if (r == 0)
        r = index_compare(&x, set, err);
    index_done(&x);
    return r;
}

static int open_without_index(em_st_set *set, const char *dir, bool single, em_error *err)
{
    name_list names = {0};
    int r = single ? names_add(&names, SINGLE_FILE, dir, err) : list_folder(dir, &names, err);
    if (r == 0)
        r = open_files(set, dir, &names, err);
    if (r == 0)
        r = sort_by_name(set, err);
    names_free(&names);
    return r;
}

int em_st_open(const char *dir, em_st_set **ret_set, em_error *err)
{
    char single[4096], index[4096];
    if (snprintf(single, sizeof(single), "%s/" SINGLE_FILE, dir) >= (int)sizeof(single) ||
        snprintf(index, sizeof(index), "%s/" INDEX_FILE, dir) >= (int)sizeof(index))
        return em_error_set(err, -ENAMETOOLONG, "the path of the model folder is too long");
    em_st_set *set = calloc(1, sizeof(*set));
    if (!set)
        return em_error_set(err, -ENOMEM, "%s: out of memory", dir);
    /* the order transformers uses: one file, else the index */
    bool has_single = access(single, F_OK) == 0, has_index = !has_single && access(index, F_OK) == 0;
    int r = has_index ? open_with_index(set, dir, index, err) : open_without_index(set, dir, has_single, err);
    if (r < 0) {
        em_st_close(set);
        return r;
    }
    *ret_set = set;
    return 0;
}

em_st_set *em_st_close(em_st_set *set)
{
    if (!set)
        return NULL;
    for (int32_t i = 0; i < set->n_files; i++) {
        em_map_done(&set->files[i].map);
        free(set->files[i].path);
    }
    free(set->files);
    free(set->entries);
    em_buf_done(&set->names);
    free(set);
    return NULL;
}

size_t em_st_count(const em_st_set *set)
{
    return set->n;
}

const em_st_tensor *em_st_get(const em_st_set *set, size_t i)
{
    return &set->entries[i].t;
}

const em_st_tensor *em_st_find(const em_st_set *set, const char *name)
{
    size_t lo = 0, hi = set->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strcmp(name, set->entries[mid].t.name);
        if (c == 0)
            return &set->entries[mid].t;
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

const char *em_st_path(const em_st_set *set, int32_t file_idx)
{
    return set->files[file_idx].path;
}

int em_st_fd(const em_st_set *set, int32_t file_idx)
{
    return set->files[file_idx].map.fd;
}

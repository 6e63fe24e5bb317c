/* The JSON header of one safetensors file: entries, sizes, and that the tensors tile the data section exactly. */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/json.h"
#include "engine/safetensors.h"

#define MAX_NAME 1024 /* bytes of a tensor's name */

static const struct {
    const char *name;
    uint8_t bits;
} dtype_info[] = {
    [EM_ST_F64] = {"F64", 64},        [EM_ST_F32] = {"F32", 32},        [EM_ST_F16] = {"F16", 16},
    [EM_ST_BF16] = {"BF16", 16},      [EM_ST_I64] = {"I64", 64},        [EM_ST_I32] = {"I32", 32},
    [EM_ST_I16] = {"I16", 16},        [EM_ST_I8] = {"I8", 8},           [EM_ST_U8] = {"U8", 8},
    [EM_ST_BOOL] = {"BOOL", 8},       [EM_ST_F8_E4M3] = {"F8_E4M3", 8}, [EM_ST_F8_E5M2] = {"F8_E5M2", 8},
    [EM_ST_F8_E8M0] = {"F8_E8M0", 8}, [EM_ST_F4] = {"F4", 4},           [EM_ST_U16] = {"U16", 16},
    [EM_ST_U32] = {"U32", 32},        [EM_ST_U64] = {"U64", 64},
};
#define N_DTYPES (sizeof(dtype_info) / sizeof(*dtype_info))

const char *em_st_dtype_name(em_st_dtype dtype)
{
    return (size_t)dtype < N_DTYPES ? dtype_info[dtype].name : "?";
}

/* Where each tensor's bytes lie, for the check at the end. */
typedef struct extent {
    uint64_t begin, end;
    size_t name; /* offset in header.names */
} extent;

typedef struct header {
    em_json j;
    const char *file; /* for sentences */
    em_error *err;
    uint64_t data_bytes;
    extent *extents;
    size_t n, cap;
    em_buf names; /* NUL-terminated, one behind the other */
} header;

static int malformed(header *h)
{
    return em_error_set(h->err, -EINVAL, "%s: the header is not valid JSON: %s at byte %zu", h->file,
                        em_json_error(&h->j), em_json_offset(&h->j));
}

static int bad_entry(header *h, const char *tensor, const char *what)
{
    if (h->j.type == EM_JSON_ERROR)
        return malformed(h);
    return em_error_set(h->err, -EINVAL, "%s: tensor %s: %s", h->file, tensor, what);
}

static int read_dtype(header *h, em_st_tensor *t)
{
    if (h->j.type != EM_JSON_STRING)
        return bad_entry(h, t->name, "dtype must be a string");
    for (size_t i = 0; i < N_DTYPES; i++)
        if (em_json_is(&h->j, dtype_info[i].name)) {
            t->dtype = (em_st_dtype)i;
            return 0;
        }
    return em_error_set(h->err, -EINVAL, "%s: tensor %s has the unknown dtype %.*s", h->file, t->name,
                        (int)(h->j.raw_len < 40 ? h->j.raw_len : 40), h->j.raw);
}

static int read_shape(header *h, em_st_tensor *t)
{
    if (h->j.type != EM_JSON_ARRAY)
        return bad_entry(h, t->name, "shape must be a list");
    t->n_dims = 0;
    while (em_json_next(&h->j) != EM_JSON_ARRAY_END) {
        int64_t v;
        if (t->n_dims == EM_ST_MAX_DIMS)
            return bad_entry(h, t->name, "shape has more than 8 dimensions");
        if (em_json_i64(&h->j, &v) < 0 || v < 0)
            return bad_entry(h, t->name, "shape must hold integers of at least 0");
        t->shape[t->n_dims++] = v;
    }
    return 0;
}

static int read_offsets(header *h, const em_st_tensor *t, uint64_t *ret_begin, uint64_t *ret_end)
{
    int64_t v[2] = {0};
    if (h->j.type != EM_JSON_ARRAY)
        return bad_entry(h, t->name, "data_offsets must be a list");
    for (int i = 0; i < 2; i++) {
        em_json_next(&h->j);
        if (em_json_i64(&h->j, &v[i]) < 0 || v[i] < 0)
            return bad_entry(h, t->name, "data_offsets must hold two integers of at least 0");
    }
    if (em_json_next(&h->j) != EM_JSON_ARRAY_END)
        return bad_entry(h, t->name, "data_offsets must hold two integers of at least 0");
    *ret_begin = (uint64_t)v[0];
    *ret_end = (uint64_t)v[1];
    return 0;
}

/* Bytes that dtype and shape ask for; false when they do not fit 63 bits or are no whole number of bytes. */
static bool shape_bytes(const em_st_tensor *t, uint64_t *ret)
{
    uint64_t n = 1;
    bool empty = false;
    for (int32_t i = 0; i < t->n_dims; i++)
        empty |= t->shape[i] == 0;
    for (int32_t i = 0; i < t->n_dims && !empty; i++)
        if (__builtin_mul_overflow(n, (uint64_t)t->shape[i], &n))
            return false;
    if (empty)
        n = 0;
    if (n > (uint64_t)INT64_MAX / 64 || n * dtype_info[t->dtype].bits % 8)
        return false;
    *ret = n * dtype_info[t->dtype].bits / 8;
    return true;
}

static int check_extent(header *h, const em_st_tensor *t, uint64_t begin, uint64_t end)
{
    uint64_t want;
    if (begin > end)
        return em_error_set(h->err, -EINVAL, "%s: tensor %s ends (%llu) before it begins (%llu)", h->file, t->name,
                            (unsigned long long)end, (unsigned long long)begin);
    if (end > h->data_bytes)
        return em_error_set(
            h->err, -EINVAL,
            "%s: tensor %s ends at byte %llu, but the file has only %llu bytes of data; is the file truncated?",
            h->file, t->name, (unsigned long long)end, (unsigned long long)h->data_bytes);
    if (!shape_bytes(t, &want))
        return em_error_set(h->err, -EINVAL, "%s: tensor %s has an impossible shape", h->file, t->name);
    if (want != end - begin)
        return em_error_set(h->err, -EINVAL, "%s: tensor %s has %llu bytes, but its dtype and shape ask for %llu",
                            h->file, t->name, (unsigned long long)(end - begin), (unsigned long long)want);
    return 0;
}

static int keep_extent(header *h, const char *name, uint64_t begin, uint64_t end)
{
    if (h->n == h->cap) {
        size_t cap = h->cap ? 2 * h->cap : 256;
        extent *e = realloc(h->extents, cap * sizeof(*e));
        if (!e)
            return em_error_set(h->err, -ENOMEM, "%s: out of memory reading the header", h->file);
        h->extents = e;
        h->cap = cap;
    }
    h->extents[h->n++] = (extent){begin, end, h->names.len};
    if (em_buf_append(&h->names, name, strlen(name) + 1) < 0)
        return em_error_set(h->err, -ENOMEM, "%s: out of memory reading the header", h->file);
    return 0;
}

/* One tensor: its name is known, its value token is current. */
static int read_entry(header *h, em_st_tensor *t)
{
    uint64_t begin = 0, end = 0;
    bool have_dtype = false, have_shape = false, have_offsets = false;
    if (h->j.type != EM_JSON_OBJECT)
        return bad_entry(h, t->name, "its entry must be an object");
    while (em_json_next(&h->j) == EM_JSON_KEY) {
        bool is_dtype = em_json_is(&h->j, "dtype"), is_shape = em_json_is(&h->j, "shape");
        bool is_offsets = em_json_is(&h->j, "data_offsets");
        if ((is_dtype && have_dtype) || (is_shape && have_shape) || (is_offsets && have_offsets))
            return bad_entry(h, t->name, "a member of its entry is given twice");
        have_dtype |= is_dtype;
        have_shape |= is_shape;
        have_offsets |= is_offsets;
        em_json_next(&h->j);
        int r = is_dtype     ? read_dtype(h, t)
                : is_shape   ? read_shape(h, t)
                : is_offsets ? read_offsets(h, t, &begin, &end)
                             : em_json_skip(&h->j);
        if (r < 0)
            return h->j.type == EM_JSON_ERROR ? malformed(h) : r;
    }
    if (h->j.type == EM_JSON_ERROR)
        return malformed(h);
    if (!have_dtype || !have_shape || !have_offsets)
        return bad_entry(h, t->name,
                         !have_dtype   ? "dtype is missing"
                         : !have_shape ? "shape is missing"
                                       : "data_offsets is missing");
    int r = check_extent(h, t, begin, end);
    if (r < 0)
        return r;
    t->bytes = end - begin;
    t->file_offset = begin;
    return keep_extent(h, t->name, begin, end);
}

/* __metadata__: names and strings, none of which we need. */
static int read_metadata(header *h)
{
    if (h->j.type != EM_JSON_OBJECT)
        return h->j.type == EM_JSON_ERROR
                   ? malformed(h)
                   : em_error_set(h->err, -EINVAL, "%s: __metadata__ must be an object", h->file);
    while (em_json_next(&h->j) == EM_JSON_KEY)
        if (em_json_next(&h->j) != EM_JSON_STRING)
            return h->j.type == EM_JSON_ERROR
                       ? malformed(h)
                       : em_error_set(h->err, -EINVAL, "%s: __metadata__ must hold strings only", h->file);
    return h->j.type == EM_JSON_ERROR ? malformed(h) : 0;
}

static int by_begin(const void *a, const void *b)
{
    const extent *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end; /* empty tensors first */
}

/* Sorted by place, each tensor begins where the one before ends; the last one ends with the file. */
static int check_tiling(header *h)
{
    if (h->n > 0)
        qsort(h->extents, h->n, sizeof(*h->extents), by_begin);
    uint64_t at = 0;
    for (size_t i = 0; i < h->n; i++) {
        const extent *e = &h->extents[i];
        if (e->begin < at && e->begin < e->end)
            return em_error_set(h->err, -EINVAL, "%s: tensors %s and %s overlap", h->file,
                                h->names.data + h->extents[i - 1].name, h->names.data + e->name);
        if (e->begin > at)
            return em_error_set(h->err, -EINVAL, "%s: %llu bytes before tensor %s belong to no tensor", h->file,
                                (unsigned long long)(e->begin - at), h->names.data + e->name);
        at = e->end > at ? e->end : at;
    }
    if (at != h->data_bytes)
        return em_error_set(h->err, -EINVAL, "%s: the last %llu bytes belong to no tensor", h->file,
                            (unsigned long long)(h->data_bytes - at));
    return 0;
}

static int read_entries(header *h, int (*on_tensor)(void *, const em_st_tensor *, em_error *), void *ctx)
{
    char name[MAX_NAME];
    if (em_json_next(&h->j) != EM_JSON_OBJECT)
        return h->j.type == EM_JSON_ERROR
                   ? malformed(h)
                   : em_error_set(h->err, -EINVAL, "%s: the header must be a JSON object", h->file);
    while (em_json_next(&h->j) == EM_JSON_KEY) {
        bool metadata = em_json_is(&h->j, "__metadata__");
        if (h->j.has_nul || h->j.raw_len == 0 || em_json_string(&h->j, name, sizeof(name), NULL) < 0)
            return em_error_set(h->err, -EINVAL, "%s: a tensor name is empty, longer than %d bytes, or holds a NUL",
                                h->file, MAX_NAME - 1);
        em_json_next(&h->j);
        em_st_tensor t = {.name = name};
        int r = metadata ? read_metadata(h) : read_entry(h, &t);
        if (r == 0 && !metadata)
            r = on_tensor(ctx, &t, h->err);
        if (r < 0)
            return r;
    }
    if (h->j.type == EM_JSON_ERROR || em_json_next(&h->j) != EM_JSON_END)
        return malformed(h);
    return check_tiling(h);
}

int em_st_parse_header(const char *json, size_t len, uint64_t data_bytes, const char *file,
                       int (*on_tensor)(void *ctx, const em_st_tensor *t, em_error *err), void *ctx, em_error *err)
{
    header h = {.file = file, .err = err, .data_bytes = data_bytes};
    em_json_init(&h.j, json, len, 16);
    int r = read_entries(&h, on_tensor, ctx);
    free(h.extents);
    em_buf_done(&h.names);
    return r;
}

/* Tensors by name, with every shape and dtype checked. */
#include "engine/weights_bind.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/formats.h"

#define BLOCK_BYTES (size_t)(1 << 20)
#define ALIGN (size_t)64

struct em_weights_arena {
    em_weights_arena *next;
    size_t used, cap; /* bytes behind this header */
};

/* The header takes one aligned unit, so that what follows it is aligned too. */
_Static_assert(sizeof(em_weights_arena) <= ALIGN, "the arena's header must fit before its first allocation");

void *em_weights_arena_alloc(em_weights_arena **arena, size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    em_weights_arena *a = *arena;
    if (!a || a->cap - a->used < bytes) {
        size_t cap = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        a = aligned_alloc(ALIGN, ALIGN + cap);
        if (!a)
            return NULL;
        *a = (em_weights_arena){.next = *arena, .cap = cap};
        *arena = a;
    }
    void *p = (char *)a + ALIGN + a->used;
    a->used += bytes;
    return memset(p, 0, bytes);
}

bool em_weights_arena_holds(const em_weights_arena *arena, const void *p)
{
    for (; arena; arena = arena->next)
        if ((uintptr_t)p - (uintptr_t)arena < ALIGN + arena->cap)
            return true;
    return false;
}

void em_weights_arena_free(em_weights_arena *arena)
{
    while (arena) {
        em_weights_arena *next = arena->next;
        free(arena);
        arena = next;
    }
}

/* --- names ---------------------------------------------------------------------------------------------------- */

static const char *canonical(const char *name)
{
    if (strncmp(name, "model.", 6) == 0)
        name += 6;
    return strcmp(name, "lm_head.weight") == 0 ? name + 3 : name; /* "head.weight" */
}

bool em_bind_is_foreign(const char *name)
{
    static const char *const families[] = {"mtp.", "vision.", "aligner.", "image_"};
    for (size_t i = 0; i < sizeof(families) / sizeof(*families); i++)
        if (strncmp(name, families[i], strlen(families[i])) == 0)
            return true;
    return false;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const em_bind_slot *)a)->name, ((const em_bind_slot *)b)->name);
}

int em_binder_init(em_binder *b, const em_model_config *cfg, const em_st_set *set, em_error *err)
{
    *b = (em_binder){.cfg = cfg, .set = set, .err = err, .n_slots = em_st_count(set)};
    b->slots = calloc(b->n_slots + 1, sizeof(*b->slots));
    if (!b->slots)
        return em_error_set(err, -ENOMEM, "out of memory for the list of tensors");
    for (size_t i = 0; i < b->n_slots; i++) {
        const em_st_tensor *t = em_st_get(set, i);
        b->slots[i] = (em_bind_slot){.name = canonical(t->name), .t = t};
    }
    qsort(b->slots, b->n_slots, sizeof(*b->slots), by_name);
    for (size_t i = 1; i < b->n_slots; i++)
        if (strcmp(b->slots[i - 1].name, b->slots[i].name) == 0) {
            int r = em_error_set(err, -EINVAL, "tensors %s and %s are the same tensor of the model; keep one",
                                 b->slots[i - 1].t->name, b->slots[i].t->name);
            em_binder_done(b);
            return r;
        }
    return 0;
}

void em_binder_done(em_binder *b)
{
    free(b->slots);
    b->slots = NULL;
}

const em_st_tensor *em_bind_find(em_binder *b, const char *name)
{
    em_bind_slot key = {.name = name};
    em_bind_slot *slot = b->n_slots ? bsearch(&key, b->slots, b->n_slots, sizeof(key), by_name) : NULL;
    if (!slot)
        return NULL;
    if (!slot->used)
        b->bytes += slot->t->bytes;
    slot->used = true;
    return slot->t;
}

int em_bind_check_left_over(em_binder *b)
{
    size_t n = 0;
    const em_bind_slot *first = NULL;
    for (size_t i = 0; i < b->n_slots; i++)
        if (!b->slots[i].used && !em_bind_is_foreign(b->slots[i].name)) {
            first = first ? first : &b->slots[i];
            n++;
        }
    if (!first)
        return 0;
    const char *path = em_st_path(b->set, first->t->file_idx);
    if (n == 1)
        return em_error_set(b->err, -EINVAL,
                            "%s: tensor %s is left over: a model of this config.json has no place for it", path,
                            first->t->name);
    return em_error_set(b->err, -EINVAL,
                        "%s: tensor %s and %zu more are left over: a model of this config.json has no place for them",
                        path, first->t->name, n - 1);
}

/* --- shapes --------------------------------------------------------------------------------------------------- */

static void print_shape(const int64_t *shape, int32_t n, char *out, size_t cap)
{
    size_t at = (size_t)snprintf(out, cap, "[");
    for (int32_t i = 0; i < n && at < cap; i++)
        at += (size_t)snprintf(out + at, cap - at, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (at < cap)
        snprintf(out + at, cap - at, "]");
}

int em_bind_check_shape(em_binder *b, const em_st_tensor *t, int32_t n_dims, const int64_t *shape)
{
    bool same = t->n_dims == n_dims;
    for (int32_t i = 0; same && i < n_dims; i++)
        same = t->shape[i] == shape[i];
    if (same)
        return 0;
    char has[192], want[192];
    print_shape(t->shape, t->n_dims, has, sizeof(has));
    print_shape(shape, n_dims, want, sizeof(want));
    return em_error_set(b->err, -EINVAL, "%s: tensor %s has shape %s, but config.json asks for %s",
                        em_st_path(b->set, t->file_idx), t->name, has, want);
}

static int bad_dtype(em_binder *b, const em_st_tensor *t, const char *want)
{
    return em_error_set(b->err, -EINVAL, "%s: tensor %s has dtype %s; %s is expected", em_st_path(b->set, t->file_idx),
                        t->name, em_st_dtype_name(t->dtype), want);
}

static int missing(em_binder *b, const char *name)
{
    return em_error_set(b->err, -EINVAL, "the checkpoint lacks tensor %s, which a model of its config.json has", name);
}

static int no_memory(em_binder *b)
{
    return em_error_set(b->err, -ENOMEM, "out of memory for the model's vectors");
}

/* --- floats --------------------------------------------------------------------------------------------------- */

static void widen(const em_st_tensor *t, float *out)
{
    if (t->dtype == EM_ST_F32) {
        if (t->bytes)
            memcpy(out, t->data, t->bytes);
        return;
    }
    for (uint64_t i = 0; i < t->bytes / 2; i++) {
        uint16_t v;
        memcpy(&v, t->data + 2 * i, 2);
        out[i] = em_bf16_to_f32(v);
    }
}

int em_bind_floats(em_binder *b, const char *name, int64_t rows, int64_t cols, float **ret)
{
    const em_st_tensor *t = em_bind_find(b, name);
    if (!t)
        return missing(b, name);
    int r = em_bind_check_shape(b, t, cols ? 2 : 1, (int64_t[]){rows, cols});
    if (r < 0)
        return r;
    if (t->dtype != EM_ST_F32 && t->dtype != EM_ST_BF16)
        return bad_dtype(b, t, "F32 or BF16");
    float *out = em_weights_arena_alloc(&b->arena, (size_t)(rows * (cols ? cols : 1)) * sizeof(float));
    if (!out)
        return no_memory(b);
    widen(t, out);
    *ret = out;
    return 0;
}

/* A float matrix stays in the mapping unless the file put it at an address that floats may not have. */
static int view_floats(em_binder *b, const em_st_tensor *t, int64_t rows, int64_t cols, em_matrix *ret)
{
    size_t size = t->dtype == EM_ST_F32 ? 4 : 2;
    const void *data = t->data;
    if ((uintptr_t)data % size) {
        void *copy = em_weights_arena_alloc(&b->arena, t->bytes);
        if (!copy)
            return no_memory(b);
        data = memcpy(copy, t->data, t->bytes);
    }
    *ret = (em_matrix){.dtype = size == 4 ? EM_DTYPE_F32 : EM_DTYPE_BF16, .rows = rows, .cols = cols, .data = data};
    return 0;
}

int em_bind_float_matrix(em_binder *b, const char *name, int64_t rows, int64_t cols, em_matrix *ret)
{
    const em_st_tensor *t = em_bind_find(b, name);
    if (!t)
        return missing(b, name);
    int r = em_bind_check_shape(b, t, 2, (int64_t[]){rows, cols});
    if (r < 0)
        return r;
    if (t->dtype != EM_ST_F32 && t->dtype != EM_ST_BF16)
        return bad_dtype(b, t, "F32 or BF16");
    return view_floats(b, t, rows, cols, ret);
}

/* --- quantised pairs ------------------------------------------------------------------------------------------ */

static int find_scale(em_binder *b, const em_st_tensor *weight, const char *prefix, const em_st_tensor **ret)
{
    char name[256];
    snprintf(name, sizeof(name), "%s.scale", prefix);
    const em_st_tensor *s = em_bind_find(b, name);
    if (!s)
        return em_error_set(b->err, -EINVAL, "%s: tensor %s is stored as %s but its scale %s is missing",
                            em_st_path(b->set, weight->file_idx), weight->name, em_st_dtype_name(weight->dtype), name);
    if (s->dtype != EM_ST_F8_E8M0 && s->dtype != EM_ST_U8)
        return bad_dtype(b, s, "F8_E8M0 or U8");
    if (s->n_dims != 2 || s->shape[0] < 1 || s->shape[1] < 1)
        return em_error_set(b->err, -EINVAL, "%s: scale %s must have two dimensions of at least 1",
                            em_st_path(b->set, s->file_idx), s->name);
    *ret = s;
    return 0;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

int64_t em_bind_tile_size(int64_t n, int64_t n_scales, int64_t configured, int64_t step)
{
    if (configured)
        return ceil_div(n, configured) == n_scales ? configured : 0;
    if (ceil_div(n, 32) == n_scales)
        return 32;
    int64_t size = ceil_div(ceil_div(n, n_scales), step) * step;
    return ceil_div(n, size) == n_scales ? size : 0;
}

static int bad_scale(em_binder *b, const em_st_tensor *s, const em_st_tensor *weight, const char *rule)
{
    char has[192], of[192];
    print_shape(s->shape, s->n_dims, has, sizeof(has));
    print_shape(weight->shape, weight->n_dims, of, sizeof(of));
    return em_error_set(b->err, -EINVAL, "%s: scale %s has shape %s, which fits no tile of %s %s%s",
                        em_st_path(b->set, s->file_idx), s->name, has, weight->name, of, rule);
}

static int bind_fp8(em_binder *b, const em_st_tensor *t, const char *prefix, int64_t rows, int64_t cols, em_matrix *ret)
{
    const em_st_tensor *s = NULL;
    int r = em_bind_check_shape(b, t, 2, (int64_t[]){rows, cols});
    if (r == 0)
        r = find_scale(b, t, prefix, &s);
    if (r < 0)
        return r;
    int64_t tile_rows = em_bind_tile_size(rows, s->shape[0], b->cfg->fp8_block_rows, 1);
    int64_t tile_cols = em_bind_tile_size(cols, s->shape[1], b->cfg->fp8_block_cols, 32);
    if (!tile_rows || !tile_cols)
        return bad_scale(b, s, t, b->cfg->fp8_block_rows ? " under quantization_config" : "");
    *ret = (em_matrix){.dtype = EM_DTYPE_FP8,
                       .rows = rows,
                       .cols = cols,
                       .data = t->data,
                       .scale = s->data,
                       .scale_rows = (int32_t)tile_rows,
                       .scale_cols = (int32_t)tile_cols,
                       .scale_stride = s->shape[1]};
    return 0;
}

/* I8 and U8 count bytes, two columns each; F4 counts columns. */
static int bind_fp4(em_binder *b, const em_st_tensor *t, const char *prefix, int64_t rows, int64_t cols, em_matrix *ret)
{
    const em_st_tensor *s = NULL;
    if (cols % 2)
        return em_error_set(b->err, -EINVAL,
                            "%s: tensor %s is packed FP4, but the model needs an odd number of columns (%lld) there",
                            em_st_path(b->set, t->file_idx), t->name, (long long)cols);
    int r = em_bind_check_shape(b, t, 2, (int64_t[]){rows, t->dtype == EM_ST_F4 ? cols : cols / 2});
    if (r == 0)
        r = find_scale(b, t, prefix, &s);
    if (r < 0)
        return r;
    int64_t group = em_bind_tile_size(cols, s->shape[1], 0, 32);
    if (s->shape[0] != rows || !group)
        return bad_scale(b, s, t, "");
    if (b->cfg->fp8_block_rows && !b->cfg->fp4_experts)
        return em_error_set(b->err, -EINVAL,
                            "%s: tensor %s is packed FP4, but quantization_config does not say expert_dtype fp4",
                            em_st_path(b->set, t->file_idx), t->name);
    *ret = (em_matrix){.dtype = EM_DTYPE_FP4,
                       .rows = rows,
                       .cols = cols,
                       .data = t->data,
                       .scale = s->data,
                       .scale_rows = 1,
                       .scale_cols = (int32_t)group,
                       .scale_stride = s->shape[1]};
    return 0;
}

int em_bind_matrix(em_binder *b, const char *prefix, em_bind_kind kind, int64_t rows, int64_t cols, em_matrix *ret)
{
    static const char *const expected[] = {
        [EM_BIND_FLOAT] = "F32 or BF16",
        [EM_BIND_LINEAR] = "F8_E4M3, F32 or BF16",
        [EM_BIND_EXPERT] = "packed FP4 (I8, U8 or F4), F8_E4M3, F32 or BF16",
    };
    char name[256];
    snprintf(name, sizeof(name), "%s.weight", prefix);
    const em_st_tensor *t = em_bind_find(b, name);
    if (!t)
        return missing(b, name);
    bool packed = t->dtype == EM_ST_I8 || t->dtype == EM_ST_U8 || t->dtype == EM_ST_F4;
    if (kind == EM_BIND_EXPERT && packed)
        return bind_fp4(b, t, prefix, rows, cols, ret);
    if (kind == EM_BIND_EXPERT && b->cfg->fp4_experts)
        return bad_dtype(b, t, "packed FP4, as expert_dtype of the config says,");
    if (kind != EM_BIND_FLOAT && t->dtype == EM_ST_F8_E4M3)
        return bind_fp8(b, t, prefix, rows, cols, ret);
    if (t->dtype != EM_ST_F32 && t->dtype != EM_ST_BF16)
        return bad_dtype(b, t, expected[kind]);
    int r = em_bind_check_shape(b, t, 2, (int64_t[]){rows, cols});
    return r < 0 ? r : view_floats(b, t, rows, cols, ret);
}

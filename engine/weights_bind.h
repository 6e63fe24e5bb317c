/* Inside the weights loader: finding tensors by canonical name, checking shape and dtype, widening vectors. Private to
 * weights*.c. One binder serves one load, on one thread. */
#ifndef EM_ENGINE_WEIGHTS_BIND_H
#define EM_ENGINE_WEIGHTS_BIND_H

#include <stdbool.h>

#include "engine/weights.h"

/* Memory that lives as long as the weights: blocks that never move. */
typedef struct em_weights_arena em_weights_arena;

/* 64-byte aligned, zeroed; NULL when out of memory. */
void *em_weights_arena_alloc(em_weights_arena **arena, size_t bytes);
void em_weights_arena_free(em_weights_arena *arena);
bool em_weights_arena_holds(const em_weights_arena *arena, const void *p);

/* A tensor under its canonical name: no "model.", lm_head.weight as head.weight. */
typedef struct em_bind_slot {
    const char *name; /* in the set's name */
    const em_st_tensor *t;
    bool used;
} em_bind_slot;

typedef struct em_binder {
    const em_model_config *cfg;
    const em_st_set *set;
    em_bind_slot *slots; /* sorted by canonical name */
    size_t n_slots;
    em_weights_arena *arena;
    uint64_t bytes; /* mapped bytes bound so far */
    em_error *err;
} em_binder;

/* Which storage a matrix may have. */
typedef enum em_bind_kind {
    EM_BIND_FLOAT,  /* F32 or BF16, without scale */
    EM_BIND_LINEAR, /* the same, or an FP8 pair */
    EM_BIND_EXPERT, /* the same, or an FP4 pair */
} em_bind_kind;

int em_binder_init(em_binder *b, const em_model_config *cfg, const em_st_set *set, em_error *err);
void em_binder_done(em_binder *b); /* leaves the arena to the caller */

/* The tensor of that name, marked as used; NULL without a sentence when there is none. */
const em_st_tensor *em_bind_find(em_binder *b, const char *name);

/* Refuses any other shape, naming the tensor. n_dims dimensions. */
int em_bind_check_shape(em_binder *b, const em_st_tensor *t, int32_t n_dims, const int64_t *shape);

/* A vector (or small matrix) of floats, widened to F32 in the arena. cols 0: one dimension. */
int em_bind_floats(em_binder *b, const char *name, int64_t rows, int64_t cols, float **ret);

/* PREFIX.weight [rows, cols] and, where the storage has one, PREFIX.scale. */
int em_bind_matrix(em_binder *b, const char *prefix, em_bind_kind kind, int64_t rows, int64_t cols, em_matrix *ret);

/* A float matrix whose name is not PREFIX.weight. */
int em_bind_float_matrix(em_binder *b, const char *name, int64_t rows, int64_t cols, em_matrix *ret);

/* How many of n elements one of n_scales covers (spec 2.4, rule 2). Several sizes can give the same count: the one of
 * quantization_config (0: none) decides, else 32, the size of the format, if it fits; else the smallest multiple of
 * `step` that does. 0: none fits. */
int64_t em_bind_tile_size(int64_t n, int64_t n_scales, int64_t configured, int64_t step);

/* Of a family that the text model leaves aside; by canonical name. */
bool em_bind_is_foreign(const char *name);

/* Every tensor was used or belongs to a foreign family. */
int em_bind_check_left_over(em_binder *b);

#endif

/* Arrays that grow, for this folder. */
#ifndef EM_ENGINE_GRAMMAR_GROW_H
#define EM_ENGINE_GRAMMAR_GROW_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* Room for `need` elements of `size` bytes behind *array, of which *cap are there. -ENOMEM: array and cap are as they
 * were. array: the address of the pointer. */
static inline int em_gr_grow(void *array, uint32_t *cap, size_t need, size_t size)
{
    if (need <= *cap)
        return 0;
    size_t want = *cap < 8 ? 16 : (size_t)*cap * 2;
    if (want < need)
        want = need;
    if (want > UINT32_MAX)
        return -ENOMEM;
    void *grown = realloc(*(void **)array, want * size);
    if (!grown)
        return -ENOMEM;
    *(void **)array = grown;
    *cap = (uint32_t)want;
    return 0;
}

/* An array of numbers, used as list and as stack. */
typedef struct em_gr_u32s {
    uint32_t *v;
    uint32_t n, cap;
} em_gr_u32s;

static inline int em_gr_push(em_gr_u32s *a, uint32_t x)
{
    int rc = em_gr_grow(&a->v, &a->cap, (size_t)a->n + 1, sizeof(*a->v));
    if (!rc)
        a->v[a->n++] = x;
    return rc;
}

/* Words mixed into a hash, for tables of this folder; the contents are made by the compiler, not chosen by a client. */
static inline uint64_t em_gr_mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ (h >> 29);
}

/* A set of numbers found by what they stand for: open addressing over indices that the user keeps elsewhere. */
typedef struct em_gr_index {
    uint32_t *slot; /* [cap], a power of two: element + 1, 0: empty */
    uint32_t cap, n;
} em_gr_index;

typedef bool (*em_gr_equal)(const void *ctx, uint32_t element, const void *key);
typedef uint64_t (*em_gr_hash)(const void *ctx, uint32_t element);

static inline void em_gr_index_place(em_gr_index *x, uint64_t hash, uint32_t element)
{
    uint32_t i = (uint32_t)(hash >> 16) & (x->cap - 1);
    while (x->slot[i])
        i = (i + 1) & (x->cap - 1);
    x->slot[i] = element + 1;
}

/* The element equal to key; UINT32_MAX: none. */
static inline uint32_t em_gr_index_find(const em_gr_index *x, uint64_t hash, const void *ctx, em_gr_equal equal,
                                        const void *key)
{
    if (!x->cap)
        return UINT32_MAX;
    for (uint32_t i = (uint32_t)(hash >> 16) & (x->cap - 1); x->slot[i]; i = (i + 1) & (x->cap - 1))
        if (equal(ctx, x->slot[i] - 1, key))
            return x->slot[i] - 1;
    return UINT32_MAX;
}

/* Adds an element that is not there. Growing asks `rehash` for the hashes. */
static inline int em_gr_index_add(em_gr_index *x, uint64_t hash, uint32_t element, const void *ctx, em_gr_hash rehash)
{
    if ((uint64_t)x->n * 2 >= x->cap) {
        em_gr_index grown = {.cap = x->cap ? x->cap * 2 : 64, .n = x->n};
        grown.slot = calloc(grown.cap, sizeof(*grown.slot));
        if (!grown.slot)
            return -ENOMEM;
        for (uint32_t i = 0; i < x->cap; i++)
            if (x->slot[i])
                em_gr_index_place(&grown, rehash(ctx, x->slot[i] - 1), x->slot[i] - 1);
        free(x->slot);
        *x = grown;
    }
    em_gr_index_place(x, hash, element);
    x->n++;
    return 0;
}

#endif

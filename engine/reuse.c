#include "engine/reuse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engram/engram.h"

#define FIRST_CAP 4096
#define LEAST_ROWS 32 /* of a cache on a sample: below, it says little about the whole one */
#define MAX_SHIFT 48

/* A bijection, so that keys which differ stay different. */
static uint64_t hash_of(uint64_t key)
{
    key = (key ^ key >> 30) * 0xbf58476d1ce4e5b9u;
    key = (key ^ key >> 27) * 0x94d049bb133111ebu;
    return key ^ key >> 31;
}

static bool is_kept(const em_reuse *r, uint64_t key)
{
    return (hash_of(key) >> (64 - MAX_SHIFT) & ((UINT64_C(1) << r->shift) - 1)) == 0;
}

/* Halves the share of keys until half of the room is free: all asks of the few busiest may well stay. */
static void thin_out(em_reuse *r)
{
    while (r->n > r->max / 2 && r->shift < MAX_SHIFT) {
        size_t n = 0;
        r->shift++;
        for (size_t i = 0; i < r->n; i++)
            if (is_kept(r, r->key[i]))
                r->key[n++] = r->key[i];
        r->n = n;
    }
}

static int make_room(em_reuse *r)
{
    if (r->n < r->cap)
        return 0;
    if (r->cap >= r->max) {
        thin_out(r);
        return 0;
    }
    size_t cap = r->cap ? 2 * r->cap : FIRST_CAP;
    cap = cap < r->max ? cap : r->max;
    uint64_t *grown = realloc(r->key, cap * sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    r->key = grown;
    r->cap = cap;
    return 0;
}

int em_reuse_add(em_reuse *r, uint64_t key)
{
    if (is_kept(r, key)) {
        int rc = make_room(r);
        if (rc < 0)
            return rc;
        if (r->n < r->cap && is_kept(r, key)) /* the share may just have become smaller */
            r->key[r->n++] = key;
    }
    r->n_asked++;
    return 0;
}

void em_reuse_done(em_reuse *r)
{
    free(r->key);
    *r = (em_reuse){.max = r->max};
}

/* --- distances --------------------------------------------------------------------------------------------------- */

/* Counts of marked places, each cell the sum of a stretch that ends there (a Fenwick tree). */
static void mark(uint32_t *tree, size_t n, size_t at, uint32_t by)
{
    for (size_t i = at + 1; i <= n; i += i & -i)
        tree[i - 1] += by;
}

static uint32_t marked_before(const uint32_t *tree, size_t at)
{
    uint32_t sum = 0;
    for (size_t i = at; i > 0; i -= i & -i)
        sum += tree[i - 1];
    return sum;
}

/* The slot of a key: that of its last ask + 1, or an empty one, which holds 0. */
static uint32_t *find_last(const em_reuse *r, uint32_t *last, size_t mask, uint64_t key)
{
    size_t i = hash_of(key) & mask;
    while (last[i] && r->key[last[i] - 1] != key)
        i = (i + 1) & mask;
    return &last[i];
}

/* Marks stand at the last ask of every key so far, so those behind a key's last ask are the other keys since. */
static void measure(const em_reuse *r, uint32_t *tree, uint32_t *last, size_t mask, uint32_t *distance)
{
    uint32_t n_keys = 0;
    for (size_t i = 0; i < r->n; i++) {
        uint32_t *slot = find_last(r, last, mask, r->key[i]);
        if (*slot) {
            size_t before = *slot - 1;
            distance[i] = n_keys - marked_before(tree, before + 1);
            mark(tree, r->n, before, UINT32_MAX); /* less one */
        } else {
            distance[i] = EM_REUSE_FIRST;
            n_keys++;
        }
        mark(tree, r->n, i, 1);
        *slot = (uint32_t)i + 1;
    }
}

int em_reuse_distances(const em_reuse *r, uint32_t **ret_distance)
{
    size_t n_slots = 16;
    while (n_slots < 2 * r->n)
        n_slots *= 2;
    if (r->n >= UINT32_MAX)
        return -ENOMEM;
    uint32_t *distance = malloc((r->n + 1) * sizeof(*distance)), *tree = calloc(r->n + 1, sizeof(*tree)),
             *last = calloc(n_slots, sizeof(*last));
    int rc = distance && tree && last ? 0 : -ENOMEM;
    if (rc == 0) {
        measure(r, tree, last, n_slots - 1, distance);
        *ret_distance = distance;
    } else {
        free(distance);
    }
    free(tree);
    free(last);
    return rc;
}

/* --- caches ------------------------------------------------------------------------------------------------------ */

static double share_of_hits(const em_reuse *r, uint64_t n_misses)
{
    double misses = (double)n_misses * (double)(UINT64_C(1) << r->shift);
    double share = r->n_asked ? 1 - misses / (double)r->n_asked : 0;
    return share > 0 ? share : 0;
}

uint64_t em_reuse_least_rows(const em_reuse *r)
{
    return r->shift ? (uint64_t)LEAST_ROWS << r->shift : 1;
}

double em_reuse_lru_hits(const em_reuse *r, const uint32_t *distance, uint64_t n_rows)
{
    uint64_t n_misses = 0, rows = n_rows >> r->shift;
    for (size_t i = 0; i < r->n; i++)
        n_misses += distance[i] == EM_REUSE_FIRST || distance[i] >= rows;
    return share_of_hits(r, n_misses);
}

int em_reuse_cache_hits(const em_reuse *r, uint64_t n_rows, double *ret_share)
{
    em_engram_cache_model *cache;
    uint64_t n_misses = 0, rows = n_rows >> r->shift;
    rows = rows <= r->n ? rows : r->n + 1; /* more than there are keys; else its memory would know no bounds */
    int rc = em_engram_cache_model_new(rows, &cache);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < r->n; i++)
        n_misses += !em_engram_cache_model_ask(cache, r->key[i]);
    em_engram_cache_model_free(cache);
    *ret_share = share_of_hits(r, n_misses);
    return 0;
}

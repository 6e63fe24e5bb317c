#include "engram/row_cache.h"
#include "engram/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX
#define MAX_ENTRIES (UINT32_MAX / 4)
#define MAX_USES 3
#define FRESH_PART 10 /* the short queue has one entry in so many */

static const em_engram_mem plain_memory = {.alloc = NULL};

static size_t bytes_per_row(size_t row_bytes)
{
    return row_bytes + sizeof(em_cache_entry) + 4 * sizeof(uint32_t); /* up to two buckets, each with a ghost */
}

uint64_t em_row_cache_rows(size_t row_bytes, uint64_t bytes)
{
    return bytes / bytes_per_row(row_bytes);
}

int em_row_cache_open(em_row_cache *cache, size_t row_bytes, uint64_t n)
{
    memset(cache, 0, sizeof *cache);
    cache->row_bytes = row_bytes;
    cache->fresh = cache->kept = (em_cache_queue){NONE, NONE, 0};
    pthread_mutex_init(&cache->lock, NULL);
    if (!n)
        return 0;
    if (n > MAX_ENTRIES) {
        em_row_cache_close(cache);
        return -ENOMEM;
    }
    cache->n_entries = (uint32_t)n;
    for (cache->n_buckets = 1; cache->n_buckets < cache->n_entries;)
        cache->n_buckets *= 2;
    if (row_bytes)
        cache->rows = em_memory_alloc(&plain_memory, (size_t)cache->n_entries * row_bytes, EM_PAGES_HUGE);
    cache->entry = calloc(cache->n_entries, sizeof *cache->entry);
    cache->bucket = malloc(cache->n_buckets * sizeof *cache->bucket);
    cache->ghost = calloc(cache->n_buckets, sizeof *cache->ghost);
    if ((row_bytes && !cache->rows) || !cache->entry || !cache->bucket || !cache->ghost) {
        em_row_cache_close(cache);
        return -ENOMEM;
    }
    memset(cache->bucket, 0xff, cache->n_buckets * sizeof *cache->bucket); /* NONE */
    return 0;
}

void em_row_cache_close(em_row_cache *cache)
{
    em_memory_free(&plain_memory, cache->rows, (size_t)cache->n_entries * cache->row_bytes);
    free(cache->entry);
    free(cache->bucket);
    free(cache->ghost);
    pthread_mutex_destroy(&cache->lock);
    memset(cache, 0, sizeof *cache);
}

uint64_t em_row_cache_bytes(const em_row_cache *cache)
{
    return (uint64_t)cache->n_entries * bytes_per_row(cache->row_bytes);
}

/* --- with the lock held -------------------------------------------------------------------------------------- */

static uint64_t hash_of(uint64_t key)
{
    key = (key ^ (key >> 32)) * 0x9e3779b97f4a7c15u;
    return key ^ (key >> 29);
}

static uint32_t *bucket_of(const em_row_cache *cache, uint64_t key)
{
    return &cache->bucket[hash_of(key) & (cache->n_buckets - 1)];
}

static uint32_t print_of(uint64_t key)
{
    return (uint32_t)(hash_of(key) >> 32) | 1;
}

static uint32_t *ghost_of(const em_row_cache *cache, uint64_t key)
{
    return &cache->ghost[hash_of(key) & (cache->n_buckets - 1)];
}

static uint32_t find(const em_row_cache *cache, uint64_t key)
{
    uint32_t i = *bucket_of(cache, key);
    while (i != NONE && cache->entry[i].key != key)
        i = cache->entry[i].next_in_bucket;
    return i;
}

static void push(em_row_cache *cache, em_cache_queue *queue, uint32_t i)
{
    cache->entry[i].next_in_queue = NONE;
    if (queue->n++)
        cache->entry[queue->last].next_in_queue = i;
    else
        queue->first = i;
    queue->last = i;
}

static uint32_t pop(em_row_cache *cache, em_cache_queue *queue)
{
    uint32_t i = queue->first;
    queue->first = cache->entry[i].next_in_queue;
    queue->n--;
    return i;
}

static void unlink_key(em_row_cache *cache, uint32_t i)
{
    uint32_t *at = bucket_of(cache, cache->entry[i].key);
    while (*at != i)
        at = &cache->entry[*at].next_in_bucket;
    *at = cache->entry[i].next_in_bucket;
}

/* Frees one entry. Each turn takes an entry out or uses up one of its uses, so it ends. */
static uint32_t evict(em_row_cache *cache)
{
    for (;;) {
        bool from_fresh = cache->fresh.n > cache->n_entries / FRESH_PART || !cache->kept.n;
        uint32_t i = pop(cache, from_fresh ? &cache->fresh : &cache->kept);
        em_cache_entry *entry = &cache->entry[i];
        if (!entry->n_uses) {
            unlink_key(cache, i);
            if (from_fresh)
                *ghost_of(cache, entry->key) = print_of(entry->key);
            return i;
        }
        entry->n_uses = from_fresh ? 0 : (uint8_t)(entry->n_uses - 1);
        push(cache, &cache->kept, i);
    }
}

bool em_row_cache_get(em_row_cache *cache, uint64_t key, uint8_t *to)
{
    if (!cache->n_entries)
        return false;
    pthread_mutex_lock(&cache->lock);
    uint32_t i = find(cache, key);
    if (i != NONE) {
        cache->entry[i].n_uses += cache->entry[i].n_uses < MAX_USES;
        if (cache->row_bytes)
            memcpy(to, cache->rows + (size_t)i * cache->row_bytes, cache->row_bytes);
    }
    pthread_mutex_unlock(&cache->lock);
    return i != NONE;
}

void em_row_cache_put(em_row_cache *cache, uint64_t key, const uint8_t *row)
{
    if (!cache->n_entries)
        return;
    pthread_mutex_lock(&cache->lock);
    if (find(cache, key) == NONE) { /* two threads may have read it at the same time */
        uint32_t i = cache->n_used < cache->n_entries ? cache->n_used++ : evict(cache);
        uint32_t *bucket = bucket_of(cache, key), *ghost = ghost_of(cache, key);
        bool known = *ghost == print_of(key);
        cache->entry[i] = (em_cache_entry){.key = key, .next_in_bucket = *bucket};
        *bucket = i;
        if (known)
            *ghost = 0;
        push(cache, known ? &cache->kept : &cache->fresh, i);
        if (cache->row_bytes)
            memcpy(cache->rows + (size_t)i * cache->row_bytes, row, cache->row_bytes);
    }
    pthread_mutex_unlock(&cache->lock);
}

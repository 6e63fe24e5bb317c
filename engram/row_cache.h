/* Rows read lately, in bounded memory, with the S3-FIFO policy: a new row goes through a short queue, and only one that
 * is asked for again there, or soon after it has left, gets into the long one. So rows that are met once, as a scan
 * through a prompt brings them by the thousand, push out nothing that is used. */
#ifndef EM_ENGRAM_ROW_CACHE_H
#define EM_ENGRAM_ROW_CACHE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct em_cache_entry {
    uint64_t key;
    uint32_t next_in_bucket; /* entry, or NONE */
    uint32_t next_in_queue;
    uint8_t n_uses; /* since it came into its queue; 3 at most */
} em_cache_entry;

typedef struct em_cache_queue {
    uint32_t first, last, n;
} em_cache_queue;

/* Any thread may call get and put; the lock is a leaf. */
typedef struct em_row_cache {
    pthread_mutex_t lock;
    uint32_t n_entries; /* 0: there is no cache, nothing is ever found */
    uint32_t n_used;
    size_t row_bytes;
    uint32_t n_buckets; /* a power of two */
    uint8_t *rows;      /* [n_entries, row_bytes] */
    em_cache_entry *entry;
    uint32_t *bucket;     /* [n_buckets] first entry of the chain */
    uint32_t *ghost;      /* [n_buckets] print of a key that left the short queue unused; 0: none */
    em_cache_queue fresh; /* the short queue: a tenth */
    em_cache_queue kept;
} em_row_cache;

/* How many rows fit into `bytes`, books included. */
uint64_t em_row_cache_rows(size_t row_bytes, uint64_t bytes);
/* A cache of so many rows; row_bytes 0: it keeps the keys alone. 0 or -ENOMEM. */
int em_row_cache_open(em_row_cache *cache, size_t row_bytes, uint64_t n_rows);
void em_row_cache_close(em_row_cache *cache);
uint64_t em_row_cache_bytes(const em_row_cache *cache);

/* Copies the row to `to` when it is there (NULL where rows have no bytes). */
bool em_row_cache_get(em_row_cache *cache, uint64_t key, uint8_t *to);
void em_row_cache_put(em_row_cache *cache, uint64_t key, const uint8_t *row);

#endif

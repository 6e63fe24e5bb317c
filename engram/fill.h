/* Copies arrays with several threads: one long array of bytes, cut into chunks that threads take from a counter. */
#ifndef EM_ENGRAM_FILL_H
#define EM_ENGRAM_FILL_H

#include "engram/internal.h"

#define EM_FILL_MAX_ARRAYS (2 * EM_ENGRAM_MAX_TABLES)

typedef struct em_fill {
    const uint8_t *from[EM_FILL_MAX_ARRAYS];
    uint8_t *to[EM_FILL_MAX_ARRAYS];
    size_t bytes[EM_FILL_MAX_ARRAYS];
    size_t first_chunk[EM_FILL_MAX_ARRAYS + 1]; /* of each array; the last entry is the number of chunks */
    uint64_t checksum[EM_FILL_MAX_ARRAYS];      /* atomic; out: of each array's bytes, when wanted */
    bool want_checksum;
    bool touch; /* where nothing is copied: read a byte of each page, so that all are in memory */
    int n_arrays;
    size_t next_chunk;   /* atomic */
    uint64_t done_bytes; /* atomic */
} em_fill;

/* to NULL: nothing is copied, only the checksum is wanted, or that pages are touched. */
void em_fill_add(em_fill *fill, const uint8_t *from, uint8_t *to, size_t bytes);

/* Copies all that was added. The calling thread works too and alone reports progress. */
void em_fill_run(em_fill *fill, const em_engram_opts *opts);

#endif

/* Tickets and the memory their rows land in: all of it made at open, nothing per ask. */
#ifndef EM_ENGRAM_STAGING_H
#define EM_ENGRAM_STAGING_H

#include "engram/internal.h"

#include <string.h>

typedef struct em_gather em_gather;

#define EM_NO_ROW UINT32_MAX

/* The rows of one table for one ticket. They are copied in chunks, claimed in order, finished in any order. */
typedef struct em_part {
    /* set at open; where the rows land */
    uint8_t *codes;  /* [max_tokens * n_cols, row_bytes] */
    uint8_t *scales; /* [max_tokens * n_cols, scale_bytes] or NULL */
    int64_t *row_id; /* [max_tokens * n_cols] */
    uint8_t *flags;  /* [max_tokens] EM_ENGRAM_ROW_* of each token; several threads may add to one */
    size_t row_bytes;
    int32_t n_cols;
    uint32_t *same;  /* nvme tier: the next place of the same row, or EM_NO_ROW; else NULL */
    uint32_t *ready; /* the consumer's word: 0, then EM_ENGRAM_READY or EM_ENGRAM_FAILED with release order; never back
                      * to 0 before the next ask */
    /* set by ask, then guarded by the gather's lock */
    int64_t n_rows;
    int64_t n_chunks;
    int64_t next_chunk; /* first one nobody has claimed */
    int64_t n_done;
    uint64_t ready_ns; /* when the last chunk was in place */
    int error;         /* of some row; 0: all are right */
    bool taken;
} em_part;

typedef enum em_ticket_state {
    EM_TICKET_FREE,     /* on the free list */
    EM_TICKET_OUT,      /* a caller has it */
    EM_TICKET_DRAINING, /* released while a thread copies into it; free as soon as that copy ends */
} em_ticket_state;

struct em_engram_ticket {
    em_gather *gather;
    void *block; /* from the em_engram_mem pair: all the parts' arrays */
    em_part part[EM_ENGRAM_MAX_TABLES];
    int32_t n_tokens;
    /* guarded by the gather's lock */
    em_ticket_state state;
    int64_t n_unclaimed;    /* chunks of all parts; in the queue while not 0 */
    int32_t n_running;      /* chunks being copied now */
    em_engram_ticket *next; /* in the queue, or on the free list */
    em_engram_ticket *prev; /* in the queue */
};

/* Some rows of a part, for one thread to bring: first_row, first_row + stride, ... In memory they lie side by side; of a
 * disk a chunk is a column, that is a bucket, so that a row wanted twice is wanted by the same chunk. */
typedef struct em_chunk {
    em_engram_ticket *ticket;
    int32_t table_idx;
    size_t first_row, n_rows, stride;
} em_chunk;

typedef struct em_staging {
    em_engram_ticket *ticket; /* [n_tickets] */
    uint32_t *same;           /* of all tickets' parts; NULL but in the nvme tier */
    int32_t n_tickets;
    size_t block_bytes; /* of one ticket */
    em_engram_mem mem;
} em_staging;

/* Marks the token of the row at a place; any thread that has claimed the place. */
static inline void em_part_flag(em_part *part, size_t at, uint8_t flag)
{
    __atomic_fetch_or(&part->flags[at / (size_t)part->n_cols], flag, __ATOMIC_RELAXED);
}

/* The row at a place is not to be had. */
static inline void em_part_lose(em_part *part, size_t at)
{
    memset(part->codes + at * part->row_bytes, 0, part->row_bytes);
    em_part_flag(part, at, EM_ENGRAM_ROW_LOST);
}

int em_staging_open(em_staging *staging, const em_engram_spec *spec, const em_engram_opts *opts, char *err,
                    size_t err_len);
void em_staging_close(em_staging *staging);

#endif

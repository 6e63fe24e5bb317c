/* The gather threads: tickets in, rows in place. All locking of this library is in gather.c. */
#ifndef EM_ENGRAM_GATHER_H
#define EM_ENGRAM_GATHER_H

#include "engram/reader.h"
#include "engram/staging.h"
#include "engram/table.h"
#include "engram/verify.h"

#include <pthread.h>

/* A gather thread of the nvme tier. */
typedef struct em_fetcher {
    em_gather *gather;
    em_reader reader;
} em_fetcher;

struct em_gather {
    em_tables *tables;
    em_verify verify;
    em_staging staging;
    int32_t n_cols;
    /* guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t work;     /* the queue has chunks to claim, or stop */
    pthread_cond_t done;     /* a part has become ready */
    pthread_cond_t drained;  /* a draining ticket has become free */
    em_engram_ticket *first; /* queue of tickets with unclaimed chunks, in the order they were asked */
    em_engram_ticket *last;
    em_engram_ticket *free; /* most recently used first: its staging is still in the cache */
    int32_t n_draining;
    int32_t n_idle;    /* threads that wait for work */
    int32_t n_waiting; /* takers that wait for done */
    bool stop;
    em_engram_stats stats; /* all but the byte counts of the tables */
    /* used by open and close alone */
    int32_t n_threads;
    pthread_t thread[EM_ENGRAM_MAX_THREADS];
    int32_t n_readers;
    em_fetcher *fetcher; /* [n_readers] of the nvme tier, one for each thread; else NULL */
};

/* `tables` must stay until close; on failure there is nothing to close. */
int em_gather_open(em_gather *gather, em_tables *tables, const em_engram_spec *spec, const em_engram_opts *opts,
                   char *err, size_t err_len);
void em_gather_close(em_gather *gather);

/* A ticket for the caller alone to fill (n_tokens and each part's row_id); NULL when all are out. */
em_engram_ticket *em_gather_reserve(em_gather *gather);
void em_gather_submit(em_gather *gather, em_engram_ticket *ticket);
int em_gather_wait(em_gather *gather, em_engram_ticket *ticket, int32_t table_idx);
void em_gather_release(em_gather *gather, em_engram_ticket *ticket);

void em_gather_get_stats(em_gather *gather, em_engram_stats *ret_stats);

#endif

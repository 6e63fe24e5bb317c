/* All of the library's locking, but for the row cache of the nvme tier, whose lock is a leaf, too, and never taken with
 * this one held.
 *
 * One mutex per gather, a leaf: nothing is called while it is held but the clock and the condition variables, so there
 * is no order to keep. It guards the queue, the free list and the counts of every ticket. What a ticket's arrays hold
 * is not under it: row ids are written by the asker before submit, rows by whoever has claimed their chunk, and both
 * become visible to others through the mutex (submit, finish) and, for consumers without it, through `ready`.
 *
 * A ticket goes free -> out (reserve) -> queued while chunks are unclaimed (submit) -> free (release), or draining ->
 * free when it is released under a running copy: release never waits. */
#include "engram/gather.h"
#include "engram/thread.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHUNK_ROWS 256  /* about 10 us of copying: long against the lock, short against a wait */
#define INLINE_ROWS 128 /* about 5 us of copying: no more than waking a thread takes */
#define RING_THREADS 2  /* by default: while one waits for its reads the other takes what is asked meanwhile */
#define READ_THREADS 48 /* without io_uring a thread has one read in flight; a token of the released model wants 48 */

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* --- lists; the lock is held --------------------------------------------------------------------------------- */

static void queue_push(em_gather *g, em_engram_ticket *t)
{
    t->next = NULL;
    t->prev = g->last;
    if (g->last)
        g->last->next = t;
    else
        g->first = t;
    g->last = t;
}

static void queue_remove(em_gather *g, em_engram_ticket *t)
{
    if (t->prev)
        t->prev->next = t->next;
    else
        g->first = t->next;
    if (t->next)
        t->next->prev = t->prev;
    else
        g->last = t->prev;
    t->next = t->prev = NULL;
}

static void free_push(em_gather *g, em_engram_ticket *t)
{
    t->state = EM_TICKET_FREE;
    t->next = g->free;
    g->free = t;
}

/* --- chunks; claim and finish with the lock held, copy without ------------------------------------------------- */

static bool by_columns(const em_gather *g)
{
    return g->tables->tier == EM_ENGRAM_TIER_NVME;
}

static bool claim_of_part(em_gather *g, em_engram_ticket *t, int32_t table_idx, em_chunk *ret_chunk)
{
    em_part *part = &t->part[table_idx];
    if (part->next_chunk == part->n_chunks)
        return false;

    if (by_columns(g)) {
        *ret_chunk = (em_chunk){t, table_idx, (size_t)part->next_chunk++, (size_t)t->n_tokens, (size_t)g->n_cols};
    } else {
        size_t first = (size_t)part->next_chunk++ * CHUNK_ROWS, rest = (size_t)part->n_rows - first;
        *ret_chunk = (em_chunk){t, table_idx, first, rest < CHUNK_ROWS ? rest : CHUNK_ROWS, 1};
    }
    t->n_running++;
    if (--t->n_unclaimed == 0)
        queue_remove(g, t);
    return true;
}

/* The oldest ticket first, in it the first layer first. */
static bool claim_next(em_gather *g, em_chunk *ret_chunk)
{
    for (int32_t i = 0; g->first && i < g->tables->n_tables; i++)
        if (claim_of_part(g, g->first, i, ret_chunk))
            return true;
    return false;
}

/* 0, or what verifying has found. */
static int copy_chunk(em_gather *g, const em_chunk *chunk)
{
    const em_part *part = &chunk->ticket->part[chunk->table_idx];
    const em_engram_table *view = &g->tables->view[chunk->table_idx];
    em_tables_copy_rows(g->tables, chunk->table_idx, part->row_id + chunk->first_row, chunk->n_rows,
                        part->codes + chunk->first_row * view->row_bytes,
                        part->scales ? part->scales + chunk->first_row * view->scale_bytes : NULL);
    return em_verify_chunk(&g->verify, chunk);
}

static void set_ready(em_gather *g, em_part *part)
{
    part->ready_ns = now_ns();
    g->stats.failed += part->error != 0;
    __atomic_store_n(part->ready, part->error ? EM_ENGRAM_FAILED : EM_ENGRAM_READY, __ATOMIC_RELEASE);
}

static void finish_chunk(em_gather *g, const em_chunk *chunk, int error)
{
    em_engram_ticket *t = chunk->ticket;
    em_part *part = &t->part[chunk->table_idx];

    if (error)
        part->error = error;
    if (++part->n_done == part->n_chunks) {
        set_ready(g, part);
        if (g->n_waiting)
            pthread_cond_broadcast(&g->done);
    }
    if (--t->n_running == 0 && t->state == EM_TICKET_DRAINING) {
        free_push(g, t);
        g->n_draining--;
        pthread_cond_broadcast(&g->drained); /* all: whoever finds it gone and none draining must give up */
    }
}

static void *gather_main(void *arg)
{
    em_gather *g = arg;
    em_chunk chunk;

    pthread_mutex_lock(&g->lock);
    while (!g->stop) {
        if (!claim_next(g, &chunk)) {
            g->n_idle++;
            pthread_cond_wait(&g->work, &g->lock);
            g->n_idle--;
            continue;
        }
        pthread_mutex_unlock(&g->lock);
        int error = copy_chunk(g, &chunk);
        pthread_mutex_lock(&g->lock);
        finish_chunk(g, &chunk, error);
    }
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

static void finish_fetched(em_gather *g, const em_fetched *fetched, int wrong)
{
    g->stats.rows_unique += fetched->n_unique;
    g->stats.rows_cached += fetched->n_cached;
    g->stats.rows_read += fetched->n_unique - fetched->n_cached;
    g->stats.read_bytes += fetched->read_bytes;
    g->stats.read_errors += fetched->error != 0;
    finish_chunk(g, &fetched->chunk, fetched->error ? fetched->error : wrong);
}

/* The nvme tier: chunks go into the reader as long as it has room, so that all rows of an ask are in flight together,
 * and come out in the order the disk likes. What has begun is brought to its end even when the thread shall stop. */
static void *fetch_main(void *arg)
{
    em_fetcher *fetcher = arg;
    em_gather *g = fetcher->gather;
    em_reader *reader = &fetcher->reader;
    em_fetched fetched;
    em_chunk chunk;

    pthread_mutex_lock(&g->lock);
    while (!g->stop || !em_reader_is_idle(reader)) {
        if (!g->stop && em_reader_has_room(reader) && claim_next(g, &chunk)) {
            pthread_mutex_unlock(&g->lock);
            em_reader_begin(reader, &chunk);
        } else if (em_reader_is_idle(reader)) {
            g->n_idle++;
            pthread_cond_wait(&g->work, &g->lock);
            g->n_idle--;
            continue;
        } else {
            pthread_mutex_unlock(&g->lock);
            em_reader_wait(reader);
        }
        while (em_reader_next(reader, &fetched)) {
            int wrong = em_verify_chunk(&g->verify, &fetched.chunk);
            pthread_mutex_lock(&g->lock);
            finish_fetched(g, &fetched, wrong);
            pthread_mutex_unlock(&g->lock);
        }
        pthread_mutex_lock(&g->lock);
    }
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

/* --- open and close ------------------------------------------------------------------------------------------ */

static void stop_threads(em_gather *g)
{
    pthread_mutex_lock(&g->lock);
    g->stop = true;
    pthread_cond_broadcast(&g->work);
    pthread_mutex_unlock(&g->lock);
    while (g->n_threads > 0)
        pthread_join(g->thread[--g->n_threads], NULL);
}

static void init_locks(em_gather *g)
{
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->work, NULL);
    pthread_cond_init(&g->done, NULL);
    pthread_cond_init(&g->drained, NULL);
}

void em_gather_close(em_gather *g)
{
    stop_threads(g);
    pthread_cond_destroy(&g->drained);
    pthread_cond_destroy(&g->done);
    pthread_cond_destroy(&g->work);
    pthread_mutex_destroy(&g->lock);
    while (g->n_readers > 0)
        em_reader_close(&g->fetcher[--g->n_readers].reader);
    free(g->fetcher);
    em_verify_close(&g->verify);
    em_staging_close(&g->staging);
}

static int open_readers(em_gather *g, int32_t n, int32_t max_tokens)
{
    g->fetcher = calloc((size_t)n, sizeof *g->fetcher);
    for (; g->fetcher && g->n_readers < n; g->n_readers++) {
        g->fetcher[g->n_readers].gather = g;
        if (em_reader_open(&g->fetcher[g->n_readers].reader, &g->tables->disk, max_tokens))
            break;
    }
    return g->n_readers < n ? ENOMEM : 0;
}

static int32_t threads_wanted(const em_gather *g, const em_engram_opts *opts)
{
    if (g->tables->tier != EM_ENGRAM_TIER_NVME)
        return opts->n_threads ? opts->n_threads : 1;
    if (g->tables->disk.ring_allowed)
        return opts->n_threads ? opts->n_threads : RING_THREADS;
    return opts->n_threads > READ_THREADS ? opts->n_threads : READ_THREADS;
}

/* 0 or a positive error number; those that have started are for close to stop. */
static int start_threads(em_gather *g, int32_t n, int32_t max_tokens)
{
    bool fetch = g->tables->tier == EM_ENGRAM_TIER_NVME;
    int rc = fetch ? open_readers(g, n, max_tokens) : 0;
    for (; !rc && g->n_threads < n; g->n_threads += !rc)
        rc = em_thread_start(&g->thread[g->n_threads], "em-engram", fetch ? fetch_main : gather_main,
                             fetch ? (void *)&g->fetcher[g->n_threads] : g);
    return rc;
}

int em_gather_open(em_gather *g, em_tables *tables, const em_engram_spec *spec, const em_engram_opts *opts, char *err,
                   size_t err_len)
{
    memset(g, 0, sizeof *g);
    g->tables = tables;
    g->stats.n_tables = spec->n_tables;
    for (int32_t i = 0; i < spec->n_tables; i++)
        g->stats.table[i].layer = spec->table[i].layer;
    g->stats.io_uring = tables->disk.ring_allowed;
    g->n_cols = (spec->max_order - 1) * spec->n_heads;
    int rc = em_verify_open(&g->verify, spec, opts, err, err_len);
    if (rc)
        return rc;
    rc = em_staging_open(&g->staging, spec, opts, err, err_len);
    if (rc) {
        em_verify_close(&g->verify);
        return rc;
    }
    for (int32_t i = g->staging.n_tickets - 1; i >= 0; i--) {
        g->staging.ticket[i].gather = g;
        free_push(g, &g->staging.ticket[i]);
    }

    init_locks(g);
    int32_t n_threads = threads_wanted(g, opts);
    rc = start_threads(g, n_threads, opts->max_tokens);
    if (rc) {
        em_gather_close(g);
        return em_engram_fail(err, err_len, -rc, "Engram: cannot start %d gather threads: %s", n_threads, strerror(rc));
    }
    return 0;
}

/* --- the life of a ticket ------------------------------------------------------------------------------------ */

em_engram_ticket *em_gather_reserve(em_gather *g)
{
    pthread_mutex_lock(&g->lock);
    while (!g->free && g->n_draining) /* given back already, so nobody may be told that all are out; microseconds */
        pthread_cond_wait(&g->drained, &g->lock);
    em_engram_ticket *t = g->free;
    if (t) {
        g->free = t->next;
        t->next = t->prev = NULL;
        t->state = EM_TICKET_OUT;
    }
    pthread_mutex_unlock(&g->lock);
    return t;
}

static void reset_parts(em_gather *g, em_engram_ticket *t, int64_t n_rows)
{
    for (int32_t i = 0; i < g->tables->n_tables; i++) {
        em_part *part = &t->part[i];
        part->n_rows = n_rows;
        part->n_chunks = by_columns(g) ? g->n_cols : (n_rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
        part->next_chunk = part->n_done = 0;
        part->error = 0;
        part->taken = false;
        memset(part->flags, 0, (size_t)t->n_tokens);
        __atomic_store_n(part->ready, 0, __ATOMIC_RELAXED);
    }
}

/* A step that decodes a token or two: its rows are here sooner than a thread that copies them would be, and no core
 * that computes is disturbed. Only where a row cannot be slow: a mapping may have to read it from a disk. */
static void copy_inline(em_gather *g, em_engram_ticket *t)
{
    for (int32_t i = 0; i < g->tables->n_tables; i++) {
        em_part *part = &t->part[i];
        part->error = copy_chunk(g, &(em_chunk){t, i, 0, (size_t)part->n_rows, 1});
        part->next_chunk = part->n_done = part->n_chunks;
    }
}

static void count_ask(em_gather *g, const em_engram_ticket *t, int64_t n_rows)
{
    g->stats.tokens += (uint64_t)t->n_tokens;
    for (int32_t i = 0; i < g->tables->n_tables; i++) {
        g->stats.rows += (uint64_t)n_rows;
        g->stats.table[i].rows += (uint64_t)n_rows;
        g->stats.bytes += (uint64_t)n_rows * (g->tables->view[i].row_bytes + g->tables->view[i].scale_bytes);
    }
}

void em_gather_submit(em_gather *g, em_engram_ticket *t)
{
    int64_t n_rows = (int64_t)t->n_tokens * g->n_cols, n_wake = 0;
    bool here = em_tables_in_memory(g->tables) && n_rows * g->tables->n_tables <= INLINE_ROWS;

    reset_parts(g, t, n_rows);
    if (here)
        copy_inline(g, t);
    pthread_mutex_lock(&g->lock);
    count_ask(g, t, n_rows);
    if (here) {
        for (int32_t i = 0; i < g->tables->n_tables; i++)
            set_ready(g, &t->part[i]);
    } else {
        t->n_unclaimed = t->part[0].n_chunks * g->tables->n_tables;
        queue_push(g, t);
        n_wake = t->n_unclaimed < g->n_idle ? t->n_unclaimed : g->n_idle;
    }
    pthread_mutex_unlock(&g->lock);
    while (n_wake-- > 0) /* after the lock, which each of them wants first */
        pthread_cond_signal(&g->work);
}

/* Which bucket of EM_ENGRAM_N_BUCKETS a time belongs to. */
static int bucket_of(uint64_t ns)
{
    int i = 0;
    while (i < EM_ENGRAM_N_BUCKETS - 1 && ns > EM_ENGRAM_BUCKET_NS(i))
        i++;
    return i;
}

static void count_wait(em_gather *g, int32_t table_idx, uint64_t ns)
{
    em_engram_table_stats *stats = &g->stats.table[table_idx];
    stats->waits++;
    stats->wait_ns += ns;
    stats->wait_bucket[bucket_of(ns)]++;
    g->stats.waits++;
    g->stats.wait_ns += ns;
}

static void count_lead(em_gather *g, int32_t table_idx, uint64_t ns)
{
    em_engram_table_stats *stats = &g->stats.table[table_idx];
    stats->wait_bucket[0]++;
    stats->lead_ns += ns;
    stats->lead_bucket[bucket_of(ns)]++;
    g->stats.lead_ns += ns;
}

int em_gather_wait(em_gather *g, em_engram_ticket *t, int32_t table_idx)
{
    em_part *part = &t->part[table_idx];
    em_chunk chunk;

    pthread_mutex_lock(&g->lock);
    if (part->n_done < part->n_chunks) {
        uint64_t begin_ns = now_ns();
        while (!by_columns(g) && claim_of_part(g, t, table_idx, &chunk)) {
            pthread_mutex_unlock(&g->lock);
            int error = copy_chunk(g, &chunk);
            pthread_mutex_lock(&g->lock);
            finish_chunk(g, &chunk, error);
        }
        g->n_waiting++;
        while (part->n_done < part->n_chunks)
            pthread_cond_wait(&g->done, &g->lock);
        g->n_waiting--;
        count_wait(g, table_idx, now_ns() - begin_ns);
    } else if (!part->taken) {
        count_lead(g, table_idx, now_ns() - part->ready_ns);
    }
    part->taken = true;
    int rc = part->error;
    pthread_mutex_unlock(&g->lock);
    return rc;
}

void em_gather_release(em_gather *g, em_engram_ticket *t)
{
    pthread_mutex_lock(&g->lock);
    if (t->n_unclaimed) {
        queue_remove(g, t);
        t->n_unclaimed = 0;
    }
    if (t->n_running) {
        t->state = EM_TICKET_DRAINING;
        g->n_draining++;
    } else {
        free_push(g, t);
    }
    pthread_mutex_unlock(&g->lock);
}

void em_gather_get_stats(em_gather *g, em_engram_stats *ret_stats)
{
    pthread_mutex_lock(&g->lock);
    *ret_stats = g->stats;
    ret_stats->staging_bytes = g->staging.block_bytes * (size_t)g->staging.n_tickets;
    ret_stats->most_in_flight = __atomic_load_n(&g->tables->disk.most_in_flight, __ATOMIC_RELAXED);
    ret_stats->rows_verified = __atomic_load_n(&g->verify.n_compared, __ATOMIC_RELAXED);
    ret_stats->rows_wrong = __atomic_load_n(&g->verify.n_wrong, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&g->lock);
}

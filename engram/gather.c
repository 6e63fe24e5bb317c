/* All of the library's locking.
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
#include <string.h>
#include <time.h>

#define CHUNK_ROWS 256  /* about 10 us of copying: long against the lock, short against a wait */
#define INLINE_ROWS 128 /* about 5 us of copying: no more than waking a thread takes */

typedef struct em_chunk {
    em_engram_ticket *ticket;
    int32_t table_idx;
    size_t first_row, n_rows;
} em_chunk;

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

static bool claim_of_part(em_gather *g, em_engram_ticket *t, int32_t table_idx, em_chunk *ret_chunk)
{
    em_part *part = &t->part[table_idx];
    if (part->next_chunk == part->n_chunks)
        return false;

    size_t first = (size_t)part->next_chunk++ * CHUNK_ROWS, rest = (size_t)part->n_rows - first;
    *ret_chunk = (em_chunk){t, table_idx, first, rest < CHUNK_ROWS ? rest : CHUNK_ROWS};
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

static void copy_chunk(const em_gather *g, const em_chunk *chunk)
{
    const em_part *part = &chunk->ticket->part[chunk->table_idx];
    const em_engram_table *view = &g->tables->view[chunk->table_idx];
    em_tables_copy_rows(g->tables, chunk->table_idx, part->row_id + chunk->first_row, chunk->n_rows,
                        part->codes + chunk->first_row * view->row_bytes,
                        part->scales ? part->scales + chunk->first_row * view->scale_bytes : NULL);
}

static void finish_chunk(em_gather *g, const em_chunk *chunk)
{
    em_engram_ticket *t = chunk->ticket;
    em_part *part = &t->part[chunk->table_idx];

    if (++part->n_done == part->n_chunks) {
        part->ready_ns = now_ns();
        __atomic_store_n(part->ready, 1, __ATOMIC_RELEASE);
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
        copy_chunk(g, &chunk);
        pthread_mutex_lock(&g->lock);
        finish_chunk(g, &chunk);
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
    em_staging_close(&g->staging);
}

int em_gather_open(em_gather *g, const em_tables *tables, const em_engram_spec *spec, const em_engram_opts *opts,
                   char *err, size_t err_len)
{
    int32_t n_threads = opts->n_threads ? opts->n_threads : 1;

    memset(g, 0, sizeof *g);
    g->tables = tables;
    g->n_cols = (spec->max_order - 1) * spec->n_heads;
    int rc = em_staging_open(&g->staging, spec, opts, err, err_len);
    if (rc)
        return rc;
    for (int32_t i = g->staging.n_tickets - 1; i >= 0; i--) {
        g->staging.ticket[i].gather = g;
        free_push(g, &g->staging.ticket[i]);
    }

    init_locks(g);
    for (; !rc && g->n_threads < n_threads; g->n_threads += !rc)
        rc = em_thread_start(&g->thread[g->n_threads], "em-engram", gather_main, g);
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
        part->n_chunks = (n_rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
        part->next_chunk = part->n_done = 0;
        part->taken = false;
        __atomic_store_n(part->ready, 0, __ATOMIC_RELAXED);
    }
}

/* A step that decodes a token or two: its rows are here sooner than a thread that copies them would be, and no core
 * that computes is disturbed. Only where a row cannot be slow: a mapping may have to read it from a disk. */
static void copy_inline(em_gather *g, em_engram_ticket *t)
{
    for (int32_t i = 0; i < g->tables->n_tables; i++) {
        em_part *part = &t->part[i];
        copy_chunk(g, &(em_chunk){t, i, 0, (size_t)part->n_rows});
        part->next_chunk = part->n_done = part->n_chunks;
        part->ready_ns = now_ns();
        __atomic_store_n(part->ready, 1, __ATOMIC_RELEASE);
    }
}

static void count_ask(em_gather *g, const em_engram_ticket *t, int64_t n_rows)
{
    g->stats.tokens += (uint64_t)t->n_tokens;
    for (int32_t i = 0; i < g->tables->n_tables; i++) {
        g->stats.rows += (uint64_t)n_rows;
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
    if (!here) {
        t->n_unclaimed = t->part[0].n_chunks * g->tables->n_tables;
        queue_push(g, t);
        n_wake = t->n_unclaimed < g->n_idle ? t->n_unclaimed : g->n_idle;
    }
    pthread_mutex_unlock(&g->lock);
    while (n_wake-- > 0) /* after the lock, which each of them wants first */
        pthread_cond_signal(&g->work);
}

void em_gather_wait(em_gather *g, em_engram_ticket *t, int32_t table_idx)
{
    em_part *part = &t->part[table_idx];
    em_chunk chunk;

    pthread_mutex_lock(&g->lock);
    if (part->n_done < part->n_chunks) {
        uint64_t begin_ns = now_ns();
        while (claim_of_part(g, t, table_idx, &chunk)) {
            pthread_mutex_unlock(&g->lock);
            copy_chunk(g, &chunk);
            pthread_mutex_lock(&g->lock);
            finish_chunk(g, &chunk);
        }
        g->n_waiting++;
        while (part->n_done < part->n_chunks)
            pthread_cond_wait(&g->done, &g->lock);
        g->n_waiting--;
        g->stats.waits++;
        g->stats.wait_ns += now_ns() - begin_ns;
    } else if (!part->taken) {
        g->stats.lead_ns += now_ns() - part->ready_ns;
    }
    part->taken = true;
    pthread_mutex_unlock(&g->lock);
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
    pthread_mutex_unlock(&g->lock);
}

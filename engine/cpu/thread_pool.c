/* The pool hands out items by a compare-and-swap on one word, the ticket: job number in the upper half, next item in
 * the lower. A worker that slept through a job cannot take anything of the next one by mistake, because the job
 * number it saw no longer matches. The caller therefore waits only for items that were taken, never for workers that
 * have not woken: with more threads than CPUs a job costs no more than the caller doing it alone.
 *
 * Lock order: none; `lock` guards the two condition variables and is never held while an item runs. */
#include "engine/cpu/thread_pool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

enum { SPINS = 2000 }; /* pauses before a thread sleeps: about 20 to 100 microseconds */

static const uint64_t CLOSED = UINT32_MAX; /* item number of a ticket with nothing to take */
static const int64_t MAX_JOB = INT32_MAX;  /* items of one job; longer runs are several jobs */

typedef struct pool_worker {
    em_pool *pool;
    pthread_t thread;
    int idx;
} pool_worker;

struct em_pool {
    int n_threads;
    int n_started; /* workers that exist: n_threads - 1 unless creation failed */
    int spins;
    pool_worker *workers;

    /* The job. The fields are written while the ticket is closed; they are atomic because a late worker may read them
     * then, and finds out from the ticket that what it read is void. */
    _Atomic(em_pool_fn) fn;
    _Atomic(void *) ctx;
    _Atomic int64_t first_item, n_items;
    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) _Atomic int64_t n_done;

    /* sleeping and waking */
    _Alignas(64) _Atomic int n_sleeping;
    _Atomic bool caller_sleeps;
    _Atomic bool stop;
    pthread_mutex_t lock;
    pthread_cond_t work; /* workers wait: a new job, or stop */
    pthread_cond_t done; /* the caller waits: n_done == n_items */
};

static void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Takes and runs items of the job of this moment until none is left. */
static void take_items(em_pool *pool, int worker)
{
    for (;;) {
        uint64_t t = atomic_load_explicit(&pool->ticket, memory_order_acquire);
        em_pool_fn fn = atomic_load_explicit(&pool->fn, memory_order_acquire);
        void *ctx = atomic_load_explicit(&pool->ctx, memory_order_acquire);
        int64_t first = atomic_load_explicit(&pool->first_item, memory_order_acquire);
        int64_t n = atomic_load_explicit(&pool->n_items, memory_order_acquire);
        uint64_t item = t & CLOSED;
        if (item == CLOSED || (int64_t)item >= n)
            return;
        if (!atomic_compare_exchange_strong_explicit(&pool->ticket, &t, t + 1, memory_order_acq_rel,
                                                     memory_order_relaxed))
            continue;
        fn(ctx, first + (int64_t)item, worker);
        if (atomic_fetch_add(&pool->n_done, 1) + 1 == n && atomic_load(&pool->caller_sleeps)) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->lock);
        }
    }
}

static bool news(em_pool *pool, uint64_t seen)
{
    return atomic_load(&pool->ticket) >> 32 != seen || atomic_load(&pool->stop);
}

/* Returns when the job number differs from `seen`, or the pool stops. */
static void wait_for_job(em_pool *pool, uint64_t seen)
{
    for (int i = 0; i < pool->spins; i++) {
        if (news(pool, seen))
            return;
        cpu_pause();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->n_sleeping, 1);
    while (!news(pool, seen))
        pthread_cond_wait(&pool->work, &pool->lock);
    atomic_fetch_sub(&pool->n_sleeping, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void *worker_main(void *arg)
{
    pool_worker *w = arg;
    uint64_t seen = 0;
    while (!atomic_load(&w->pool->stop)) {
        wait_for_job(w->pool, seen);
        seen = atomic_load(&w->pool->ticket) >> 32;
        take_items(w->pool, w->idx);
    }
    return NULL;
}

static void wake_workers(em_pool *pool, int64_t n_items)
{
    if (!atomic_load(&pool->n_sleeping))
        return;
    pthread_mutex_lock(&pool->lock);
    if (n_items >= pool->n_threads)
        pthread_cond_broadcast(&pool->work);
    else /* the caller takes one itself */
        for (int64_t i = 1; i < n_items; i++)
            pthread_cond_signal(&pool->work);
    pthread_mutex_unlock(&pool->lock);
}

static void wait_for_items(em_pool *pool, int64_t n_items)
{
    for (int i = 0; i < pool->spins; i++) {
        if (atomic_load(&pool->n_done) == n_items)
            return;
        cpu_pause();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&pool->n_done) != n_items)
        pthread_cond_wait(&pool->done, &pool->lock);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->lock);
}

static void run_job(em_pool *pool, em_pool_fn fn, void *ctx, int64_t first, int64_t n_items)
{
    uint64_t job = atomic_load(&pool->ticket) >> 32;
    /* Closed first, and seen closed by whoever sees a new field (release): a late worker's swap on the old ticket must
     * fail if it read any of them. */
    atomic_store(&pool->ticket, job << 32 | CLOSED);
    atomic_store_explicit(&pool->n_done, 0, memory_order_release);
    atomic_store_explicit(&pool->fn, fn, memory_order_release);
    atomic_store_explicit(&pool->ctx, ctx, memory_order_release);
    atomic_store_explicit(&pool->first_item, first, memory_order_release);
    atomic_store_explicit(&pool->n_items, n_items, memory_order_release);
    atomic_store(&pool->ticket, (job + 1) << 32);
    wake_workers(pool, n_items);
    take_items(pool, 0);
    wait_for_items(pool, n_items);
}

void em_pool_run(em_pool *pool, em_pool_fn fn, void *ctx, int64_t n_items)
{
    if (pool->n_threads == 1 || n_items == 1) {
        for (int64_t i = 0; i < n_items; i++)
            fn(ctx, i, 0);
        return;
    }
    for (int64_t first = 0; first < n_items; first += MAX_JOB)
        run_job(pool, fn, ctx, first, n_items - first < MAX_JOB ? n_items - first : MAX_JOB);
}

/* Signals belong to the threads of the program, not to workers: they are blocked while a worker is born. */
static int start_workers(em_pool *pool)
{
    sigset_t all, old;
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* a mapped page that cannot be read: blocked, it would end the process without a word */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = 0;
    for (int i = 0; i < pool->n_threads - 1 && r == 0; i++) {
        pool_worker *w = &pool->workers[i];
        *w = (pool_worker){.pool = pool, .idx = i + 1};
        r = pthread_create(&w->thread, NULL, worker_main, w);
        if (r == 0) {
            pthread_setname_np(w->thread, "em-worker");
            pool->n_started++;
        }
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -r;
}

int em_pool_new(int n_threads, em_pool **ret_pool)
{
    em_pool *pool = aligned_alloc(64, (sizeof(*pool) + 63) / 64 * 64);
    if (!pool)
        return -ENOMEM;
    *pool = (em_pool){.n_threads = n_threads};
    /* With fewer CPUs than threads a spinning thread keeps another one from its work. */
    pool->spins = n_threads <= em_cpu_count() ? SPINS : 0;
    atomic_init(&pool->ticket, CLOSED);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->workers = calloc((size_t)n_threads, sizeof(*pool->workers));
    int r = pool->workers ? start_workers(pool) : -ENOMEM;
    if (r < 0) {
        em_pool_free(pool);
        return r;
    }
    *ret_pool = pool;
    return 0;
}

em_pool *em_pool_free(em_pool *pool)
{
    if (!pool)
        return NULL;
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    free(pool->workers);
    free(pool);
    return NULL;
}

int em_pool_threads(const em_pool *pool)
{
    return pool->n_threads;
}

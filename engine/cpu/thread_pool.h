/* A fixed set of workers for one forward pass at a time. The caller is worker 0; the others spin briefly between
 * calls, then sleep. Items are handed out one by one (an atomic counter), so a slow core takes fewer of them; which
 * worker computes an item never changes its result. */
#ifndef EM_CPU_THREAD_POOL_H
#define EM_CPU_THREAD_POOL_H

#include <stdint.h>

typedef struct em_pool em_pool;

/* item: 0 .. n_items-1; worker: 0 .. n_threads-1, for scratch memory of the worker's own. */
typedef void (*em_pool_fn)(void *ctx, int64_t item, int worker);

/* n_threads >= 1, the caller included. -ENOMEM, -EAGAIN (no more threads). */
int em_pool_new(int n_threads, em_pool **ret_pool);
em_pool *em_pool_free(em_pool *pool); /* NULL is fine; joins; returns NULL */
int em_pool_threads(const em_pool *pool);

/* Runs fn for every item and returns when all are done; everything written by fn is visible to the caller. Only one
 * thread may call it at a time, and not from inside fn. With one thread or one item it is a plain loop. */
void em_pool_run(em_pool *pool, em_pool_fn fn, void *ctx, int64_t n_items);

/* Threads worth using: CPUs this process may run on, bounded by the cgroup's quota (rounded up). */
int em_cpu_count(void);

#endif

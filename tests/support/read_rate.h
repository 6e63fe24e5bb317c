/* The machine's read rate, the yardstick of every speed test: all threads of a pool read one buffer from end to end. */
#ifndef EM_TESTS_READ_RATE_H
#define EM_TESTS_READ_RATE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/base/clock.h"
#include "engine/cpu/thread_pool.h"

enum { READ_RATE_ITEM = 4 << 20 }; /* bytes a thread takes at a time */

typedef struct read_rate_job {
    const uint8_t *data;
    size_t n_bytes;
    uint64_t sum[1024]; /* by item, modulo: keeps the loads alive */
} read_rate_job;

static inline void read_rate_item(void *ctx, int64_t item, int worker)
{
    read_rate_job *job = ctx;
    size_t begin = (size_t)item * READ_RATE_ITEM;
    size_t end = begin + READ_RATE_ITEM < job->n_bytes ? begin + READ_RATE_ITEM : job->n_bytes;
    const uint64_t *p = (const uint64_t *)(const void *)(job->data + begin);
    uint64_t lanes[32] = {0};
    (void)worker;
    for (size_t i = 0; i + 32 <= (end - begin) / 8; i += 32)
        for (int j = 0; j < 32; j++)
            lanes[j] ^= p[i + j];
    for (int j = 1; j < 32; j++)
        lanes[0] += lanes[j];
    __atomic_fetch_add(&job->sum[item % 1024], lanes[0], __ATOMIC_RELAXED);
}

/* Bytes per second of one pass over data (8-byte aligned). */
static inline double read_rate_once(em_pool *pool, const void *data, size_t n_bytes)
{
    static read_rate_job job;
    job.data = data;
    job.n_bytes = n_bytes;
    uint64_t t = em_now_ns();
    em_pool_run(pool, read_rate_item, &job, (int64_t)((n_bytes + READ_RATE_ITEM - 1) / READ_RATE_ITEM));
    return (double)n_bytes * 1e9 / (double)(em_now_ns() - t);
}

/* Zeroed memory on 2 MiB pages where the system gives them. NULL: no memory. */
static inline void *huge_alloc(size_t n_bytes)
{
    n_bytes = (n_bytes + ((size_t)2 << 20) - 1) & ~(((size_t)2 << 20) - 1);
    void *p = aligned_alloc((size_t)2 << 20, n_bytes);
    if (p) {
        madvise(p, n_bytes, MADV_HUGEPAGE);
        memset(p, 0, n_bytes);
    }
    return p;
}

static inline int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts v. */
static inline double median_of(double *v, int n)
{
    qsort(v, (size_t)n, sizeof(*v), compare_doubles);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

#endif

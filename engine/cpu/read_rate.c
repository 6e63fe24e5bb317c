#include "engine/cpu/read_rate.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/base/clock.h"

enum { ITEM_BYTES = 4 << 20 }; /* that a thread takes at a time */
enum { LANES = 32 };           /* independent sums: four cache lines in flight, wide enough for any vector unit */
#define HUGE_PAGE ((size_t)2 << 20)

typedef struct read_job {
    const uint8_t *data;
    size_t n_bytes;
    uint64_t sum; /* keeps the loads alive */
} read_job;

static void read_item(void *ctx, int64_t item, int worker)
{
    read_job *job = ctx;
    size_t begin = (size_t)item * ITEM_BYTES;
    size_t end = begin + ITEM_BYTES < job->n_bytes ? begin + ITEM_BYTES : job->n_bytes;
    const uint64_t *p = (const uint64_t *)(const void *)(job->data + begin);
    uint64_t lanes[LANES] = {0};
    for (size_t i = 0; i + LANES <= (end - begin) / sizeof(*p); i += LANES)
        for (int j = 0; j < LANES; j++)
            lanes[j] ^= p[i + (size_t)j];
    for (int j = 1; j < LANES; j++)
        lanes[0] += lanes[j];
    __atomic_fetch_add(&job->sum, lanes[0], __ATOMIC_RELAXED);
}

double em_read_rate_once(em_pool *pool, const void *data, size_t n_bytes)
{
    read_job job = {.data = data, .n_bytes = n_bytes};
    uint64_t start_ns = em_now_ns();
    em_pool_run(pool, read_item, &job, (int64_t)((n_bytes + ITEM_BYTES - 1) / ITEM_BYTES));
    uint64_t ns = em_now_ns() - start_ns;
    return (double)n_bytes * 1e9 / (double)(ns ? ns : 1);
}

void *em_huge_alloc(size_t n_bytes)
{
    if (n_bytes > SIZE_MAX / 2)
        return NULL;
    n_bytes = (n_bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    void *p = aligned_alloc(HUGE_PAGE, n_bytes);
    if (p) {
        madvise(p, n_bytes, MADV_HUGEPAGE);
        memset(p, 0, n_bytes);
    }
    return p;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double em_median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof(*v), compare);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

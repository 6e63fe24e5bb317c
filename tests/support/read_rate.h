/* Short names for the yardstick of speed tests; the product has the one implementation. */
#ifndef EM_TESTS_READ_RATE_H
#define EM_TESTS_READ_RATE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/cpu/read_rate.h"

static inline double read_rate_once(em_pool *pool, const void *data, size_t n_bytes)
{
    return em_read_rate_once(pool, data, n_bytes);
}

static inline void *huge_alloc(size_t n_bytes)
{
    return em_huge_alloc(n_bytes);
}

static inline double median_of(double *v, int n)
{
    return em_median(v, n);
}

#endif

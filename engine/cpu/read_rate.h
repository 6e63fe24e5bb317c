/* The machine's read rate, the yardstick of every speed figure: all threads of a pool read one buffer from end to end. */
#ifndef EM_CPU_READ_RATE_H
#define EM_CPU_READ_RATE_H

#include <stddef.h>

#include "engine/cpu/thread_pool.h"

/* Zeroed memory on 2 MiB pages where the system gives them; NULL: there is none. Freed with free(). */
void *em_huge_alloc(size_t n_bytes);

/* Bytes per second of one pass over data (8-byte aligned). One caller at a time per pool. */
double em_read_rate_once(em_pool *pool, const void *data, size_t n_bytes);

/* Sorts v[n], n >= 1, and returns its middle. */
double em_median(double *v, int n);

#endif

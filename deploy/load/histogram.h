/* Durations counted in buckets of at most 1.6 % width, from a microsecond to an hour: constant memory, however long a run. */
#ifndef ENGRAMD_LOAD_HISTOGRAM_H
#define ENGRAMD_LOAD_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_SUB 64 /* buckets per power of two */
#define HISTOGRAM_BUCKETS (27 * HISTOGRAM_SUB)

typedef struct histogram {
    uint64_t count[HISTOGRAM_BUCKETS];
    uint64_t n;
    double sum_us, max_us;
} histogram;

void histogram_add(histogram *h, uint64_t ns);
/* Milliseconds below which the share q (0 to 1) of all samples lies; 0 without samples. */
double histogram_ms(const histogram *h, double q);
double histogram_mean_ms(const histogram *h);

#endif

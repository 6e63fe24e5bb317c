#include "histogram.h"

/* Up to HISTOGRAM_SUB microseconds each has its bucket; above, each power of two is cut into HISTOGRAM_SUB parts. */
static uint32_t bucket_of(uint64_t us)
{
    if (us < HISTOGRAM_SUB)
        return (uint32_t)us;
    uint32_t octave = 63 - (uint32_t)__builtin_clzll(us) - 6; /* us >> octave is in 64 .. 127 */
    uint64_t b = (uint64_t)(octave + 1) * HISTOGRAM_SUB + (us >> octave) - HISTOGRAM_SUB;
    return b < HISTOGRAM_BUCKETS ? (uint32_t)b : HISTOGRAM_BUCKETS - 1;
}

/* The middle of a bucket. */
static double middle_us(uint32_t b)
{
    if (b < HISTOGRAM_SUB)
        return (double)b;
    uint32_t octave = b / HISTOGRAM_SUB - 1;
    return ((double)(b % HISTOGRAM_SUB + HISTOGRAM_SUB) + 0.5) * (double)(UINT64_C(1) << octave);
}

void histogram_add(histogram *h, uint64_t ns)
{
    double us = (double)ns / 1e3;
    h->count[bucket_of(ns / 1000)]++;
    h->n++;
    h->sum_us += us;
    if (us > h->max_us)
        h->max_us = us;
}

double histogram_ms(const histogram *h, double q)
{
    uint64_t below = 0, want = (uint64_t)(q * (double)h->n);
    if (h->n == 0)
        return 0;
    if (want >= h->n)
        return h->max_us / 1e3;
    for (uint32_t b = 0; b < HISTOGRAM_BUCKETS; b++) {
        below += h->count[b];
        if (below > want)
            return (middle_us(b) < h->max_us ? middle_us(b) : h->max_us) / 1e3;
    }
    return h->max_us / 1e3;
}

double histogram_mean_ms(const histogram *h)
{
    return h->n ? h->sum_us / (double)h->n / 1e3 : 0;
}

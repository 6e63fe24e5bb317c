/* Counts of observations by size, in the form Prometheus wants. Plain data: one thread fills a histogram, readers get
 * copies of it. */
#ifndef EM_ENGINE_HISTOGRAM_H
#define EM_ENGINE_HISTOGRAM_H

#include <stdint.h>

#define EM_HISTOGRAM_MAX_BOUNDS 24

typedef struct em_histogram {
    const double *bounds; /* [n_bounds] upper limits, rising; never freed */
    int32_t n_bounds;     /* 0: nothing was ever observed (a zeroed struct) */
    /* [n_bounds + 1]: observations up to bounds[i] and above the bound before; the last: above all bounds. Not summed
     * up: Prometheus' bucket i is the sum of count[0 .. i]. */
    uint64_t count[EM_HISTOGRAM_MAX_BOUNDS + 1];
    double sum;
} em_histogram;

/* What is counted decides the buckets; they are those of vLLM 0.11 for the metric of the same meaning. */
typedef enum em_histogram_kind {
    EM_HISTOGRAM_FIRST_TOKEN, /* seconds, 0.001 .. 2560 */
    EM_HISTOGRAM_INTER_TOKEN, /* seconds, 0.01 .. 80 */
    EM_HISTOGRAM_REQUEST,     /* seconds, 0.3 .. 7680 */
    EM_HISTOGRAM_SCHEDULE,    /* seconds, 0.000001 .. 0.01; ours */
    EM_HISTOGRAM_ITERATION,   /* tokens of a step, 1 .. 16384 */
    EM_HISTOGRAM_LENGTH,      /* tokens of a sequence: 1, 2, 5, 10, ... up to `limit` */
} em_histogram_kind;

/* limit: the largest bound that is wanted, for EM_HISTOGRAM_LENGTH. */
void em_histogram_init(em_histogram *h, em_histogram_kind kind, double limit);
void em_histogram_add(em_histogram *h, double value);
/* All observations: Prometheus' _count and its +Inf bucket. */
uint64_t em_histogram_total(const em_histogram *h);
/* The value that the share p (0..1) of the observations does not exceed, as well as the buckets tell: between their
 * bounds it is taken to grow evenly. What lies above all bounds counts as the last one. 0 without observations. */
double em_histogram_quantile(const em_histogram *h, double p);

#endif

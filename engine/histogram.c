/* Histograms with fixed buckets. */
#include "engine/histogram.h"

static const double first_token[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                     1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
static const double inter_token[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                     0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
static const double request[] = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                 30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
static const double schedule[] = {1e-6,   2e-6, 3e-6,   5e-6, 7.5e-6, 1e-5, 1.5e-5, 2e-5, 3e-5, 4e-5, 5e-5,
                                  7.5e-5, 1e-4, 1.5e-4, 2e-4, 3e-4,   5e-4, 7.5e-4, 1e-3, 2e-3, 5e-3, 1e-2};
static const double iteration[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
static const double length[] = {1,    2,     5,     10,    20,     50,     100,    200,     500,     1000,   2000,
                                5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000, 2000000, 5000000};

#define N_OF(a) ((int32_t)(sizeof(a) / sizeof((a)[0])))

static const struct {
    const double *bounds;
    int32_t n;
} kinds[] = {
    [EM_HISTOGRAM_FIRST_TOKEN] = {first_token, N_OF(first_token)},
    [EM_HISTOGRAM_INTER_TOKEN] = {inter_token, N_OF(inter_token)},
    [EM_HISTOGRAM_REQUEST] = {request, N_OF(request)},
    [EM_HISTOGRAM_SCHEDULE] = {schedule, N_OF(schedule)},
    [EM_HISTOGRAM_ITERATION] = {iteration, N_OF(iteration)},
    [EM_HISTOGRAM_LENGTH] = {length, N_OF(length)},
};

void em_histogram_init(em_histogram *h, em_histogram_kind kind, double limit)
{
    *h = (em_histogram){.bounds = kinds[kind].bounds, .n_bounds = kinds[kind].n};
    while (kind == EM_HISTOGRAM_LENGTH && h->n_bounds > 1 && h->bounds[h->n_bounds - 1] > limit)
        h->n_bounds--;
}

void em_histogram_add(em_histogram *h, double value)
{
    int32_t i = 0;
    while (i < h->n_bounds && value > h->bounds[i])
        i++;
    h->count[i]++;
    h->sum += value;
}

double em_histogram_quantile(const em_histogram *h, double p)
{
    double want = p * (double)em_histogram_total(h), below = 0;
    for (int32_t i = 0; i < h->n_bounds; i++) {
        double n = (double)h->count[i], from = i ? h->bounds[i - 1] : 0;
        if (n > 0 && below + n >= want)
            return from + (h->bounds[i] - from) * (want - below) / n;
        below += n;
    }
    return h->n_bounds && below < want ? h->bounds[h->n_bounds - 1] : 0;
}

uint64_t em_histogram_total(const em_histogram *h)
{
    uint64_t n = 0;
    for (int32_t i = 0; i <= h->n_bounds; i++)
        n += h->count[i];
    return n;
}

/* Random data, guarded memory and comparisons of the kernel checker. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/kernels/kerncheck.h"

const int64_t check_sizes[] = {1,  2,  3,   15,  16,  17,  31,  32,  33,  63,   64,   65,   95,
                               96, 97, 127, 128, 129, 255, 257, 512, 769, 1536, 2304, 5120, 0};

/* ---- data ---- */

uint64_t rnd(check *c)
{
    uint64_t z = c->rng += 0x9E3779B97F4A7C15u; /* splitmix64 */
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

int64_t rnd_below(check *c, int64_t n)
{
    return (int64_t)(rnd(c) % (uint64_t)n);
}

float rnd_float(check *c)
{
    return (float)((double)(rnd(c) >> 11) * 0x1p-52 - 1.0);
}

void fill_floats(check *c, int kind, float *x, int64_t n)
{
    float level = 0.25f + fabsf(rnd_float(c)) * 8;
    int64_t spike = rnd_below(c, n);
    for (int64_t i = 0; i < n; i++) {
        float r = rnd_float(c);
        switch (kind) {
        case FILL_WIDE: x[i] = ldexpf(r, (int)rnd_below(c, 40) - 20); break;
        case FILL_ZERO: x[i] = rnd(c) & 1 ? -0.0f : 0.0f; break;
        case FILL_DENORMAL: x[i] = r * 0x1p-127f; break;
        case FILL_LARGE: x[i] = r * 0x1p60f; break;
        case FILL_EQUAL: x[i] = level; break;
        case FILL_ALTERNATE: x[i] = i % 2 ? -level : level; break;
        case FILL_SPIKE: x[i] = i == spike ? 0x1p12f : r * 0x1p-10f; break;
        default: x[i] = r * level; break;
        }
    }
}

/* ---- guarded memory ---- */

enum { STRIP = 64, MARK = 0xA5 };

/* Lies in front of the strip. */
typedef struct guard_head {
    void *map;
    size_t map_bytes;
} guard_head;

void *guarded_alloc(size_t n_bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t used = (sizeof(guard_head) + STRIP + n_bytes + page - 1) / page * page;
    uint8_t *map = mmap(NULL, used + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || mprotect(map + used, page, PROT_NONE) != 0) {
        fprintf(stderr, "kerncheck: no memory for %zu bytes\n", n_bytes);
        exit(1);
    }
    uint8_t *p = map + used - n_bytes;
    guard_head head = {map, used + page};
    memcpy(p - STRIP - sizeof(head), &head, sizeof(head));
    memset(p - STRIP, MARK, STRIP);
    return p;
}

bool guarded_intact(const void *p)
{
    for (int i = 1; i <= STRIP; i++)
        if (((const uint8_t *)p)[-i] != MARK)
            return false;
    return true;
}

void guarded_free(void *p)
{
    guard_head head;
    if (!p)
        return;
    memcpy(&head, (uint8_t *)p - STRIP - sizeof(head), sizeof(head));
    munmap(head.map, head.map_bytes);
}

/* ---- comparing ---- */

enum { MAX_SHOWN = 20 };

void set_args(check *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->args, sizeof(c->args), fmt, ap);
    va_end(ap);
}

static void failed(check *c, const char *fmt, ...)
{
    va_list ap;
    if (c->n_failed++ >= MAX_SHOWN)
        return;
    printf("  %s/%s (%s): ", c->tier->name, c->where, c->args);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
}

void expect_near(check *c, float got, float want, double tol, int64_t idx)
{
    c->n_compared++;
    if (got == want || (isnan(got) && isnan(want)) || fabs((double)got - (double)want) <= tol)
        return;
    failed(c, "[%lld] is %a (%g), not %a (%g); allowed %g", (long long)idx, (double)got, (double)got, (double)want,
           (double)want, tol);
}

void expect_bytes(check *c, const void *got, const void *want, size_t n_bytes, const char *what)
{
    const uint8_t *g = got, *w = want;
    c->n_compared++;
    if (memcmp(g, w, n_bytes) == 0)
        return;
    size_t i = 0;
    while (g[i] == w[i])
        i++;
    failed(c, "%s: byte %zu is %02x, not %02x", what, i, g[i], w[i]);
}

void expect_true(check *c, bool ok, const char *what)
{
    c->n_compared++;
    if (!ok)
        failed(c, "%s", what);
}

/* Float32 carries 2^-24 of relative error a rounding. */
double tolerance(enum check_tol op, int64_t n, double scale)
{
    static const struct {
        double per_value; /* roundings that do not depend on the number of terms */
        double per_term;  /* times n: with equal terms every addition of a partial sum errs the same way */
        double floor;     /* absolute, where results fall below the normal range */
    } table[] = {
        /* Both sides round each product and sum; the narrowest tier's partial sums take every eighth term, and are half
         * their final size on average. Tiers apply FP8 scales to x, 2^-8 below the plain C, so the smallest results
         * lose up to 8 more bits: at most 2^-140 a term. */
        [TOL_SUM] = {8, 1.0 / 8, 0x1p-140},     [TOL_FMA] = {2, 0, 0x1p-149}, /* one rounding saved by the fused form */
        [TOL_EXP] = {5, 0, 0x1p-148},           /* 1 ulp on each side, an ulp being up to 2^-23 */
        [TOL_EXP_SUM] = {9, 1.0 / 8, 0x1p-148}, /* the same, summed */
        [TOL_SWIGLU] = {12, 0, 0x1p-147},       /* exp, sum, quotient, two products on each side */
    };
    return scale * 0x1p-24 * (table[op].per_value + table[op].per_term * (double)n) + table[op].floor * (double)n;
}

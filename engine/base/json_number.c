/* Values of checked JSON numbers: exact integers, correctly rounded doubles. */
#include "engine/base/json.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A decimal number taken apart: digits d1 d2 ... dn of int_part and frac_part, times 10^exp10. */
typedef struct decimal {
    bool negative;
    const char *int_part, *frac_part;
    size_t n_int, n_frac;
    int64_t exp10; /* of the exponent field alone, saturated */
} decimal;

#define EXP_LIMIT INT64_C(1000000000000000) /* far beyond any text's length; still far from overflow */

static decimal take_apart(const char *p, size_t len)
{
    const char *end = p + len;
    decimal d = {0};
    if (*p == '-') {
        d.negative = true;
        p++;
    }
    d.int_part = p;
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    d.n_int = (size_t)(p - d.int_part);
    if (p < end && *p == '.') {
        d.frac_part = ++p;
        while (p < end && *p >= '0' && *p <= '9')
            p++;
        d.n_frac = (size_t)(p - d.frac_part);
    }
    if (p < end) { /* e or E */
        p++;
        bool minus = *p == '-';
        if (*p == '-' || *p == '+')
            p++;
        for (; p < end; p++)
            if (d.exp10 < EXP_LIMIT)
                d.exp10 = d.exp10 * 10 + (*p - '0');
        d.exp10 = d.exp10 > EXP_LIMIT ? EXP_LIMIT : d.exp10;
        d.exp10 = minus ? -d.exp10 : d.exp10;
    }
    return d;
}

static int digit_at(const decimal *d, size_t i)
{
    return (i < d->n_int ? d->int_part[i] : d->frac_part[i - d->n_int]) - '0';
}

/* First non-zero digit, and one past the last; both n when the number is zero. */
static void significant(const decimal *d, size_t *ret_first, size_t *ret_last)
{
    size_t n = d->n_int + d->n_frac, first = 0, last = n;
    while (first < n && digit_at(d, first) == 0)
        first++;
    while (last > first && digit_at(d, last - 1) == 0)
        last--;
    *ret_first = first;
    *ret_last = last;
}

int em_json_i64(const em_json *j, int64_t *ret)
{
    if (j->type != EM_JSON_NUMBER)
        return -EINVAL;
    decimal d = take_apart(j->raw, j->raw_len);
    size_t first, last;
    significant(&d, &first, &last);
    if (first == last) {
        *ret = 0;
        return 0;
    }
    /* value = the significant digits * 10^scale */
    int64_t scale = d.exp10 + (int64_t)d.n_int - (int64_t)last;
    if (scale < 0)
        return -EINVAL;
    if (scale > 18 || last - first > 19)
        return -ERANGE;
    uint64_t v = 0;
    for (size_t i = first; i < last; i++)
        if (__builtin_mul_overflow(v, UINT64_C(10), &v) || __builtin_add_overflow(v, (uint64_t)digit_at(&d, i), &v))
            return -ERANGE;
    for (; scale > 0; scale--)
        if (__builtin_mul_overflow(v, UINT64_C(10), &v))
            return -ERANGE;
    if (v > (uint64_t)INT64_MAX + d.negative)
        return -ERANGE;
    *ret = d.negative ? (int64_t)(0 - v) : (int64_t)v;
    return 0;
}

static locale_t c_locale;
static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;

static void make_c_locale(void)
{
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

#define MAX_DIGITS 800 /* a double's rounding never depends on a digit beyond the 768th, but on whether any follows */

/* Rewrites a long number as digits and exponent of bounded length with the same rounding. */
static void shorten(const char *raw, size_t len, char out[MAX_DIGITS + 64])
{
    decimal d = take_apart(raw, len);
    size_t first, last;
    significant(&d, &first, &last);
    int64_t exp10 = d.exp10 + (int64_t)d.n_int - (int64_t)last;
    size_t at = 0;
    if (d.negative)
        out[at++] = '-';
    size_t keep = last - first;
    if (keep > MAX_DIGITS) {
        exp10 += (int64_t)(keep - MAX_DIGITS);
        keep = MAX_DIGITS;
    }
    bool cut = keep < last - first;
    for (size_t i = 0; i < keep; i++)
        out[at++] = (char)('0' + digit_at(&d, first + i));
    if (keep == 0) {
        out[at++] = '0';
        exp10 = 0;
    }
    if (cut) { /* the last significant digit is not zero: something follows */
        out[at++] = '1';
        exp10--;
    }
    snprintf(out + at, 32, "e%lld", (long long)exp10);
}

int em_json_f64(const em_json *j, double *ret)
{
    if (j->type != EM_JSON_NUMBER)
        return -EINVAL;
    char text[MAX_DIGITS + 64];
    if (j->raw_len < sizeof(text)) {
        memcpy(text, j->raw, j->raw_len);
        text[j->raw_len] = '\0';
    } else {
        shorten(j->raw, j->raw_len, text);
    }
    pthread_once(&c_locale_once, make_c_locale);
    if (!c_locale)
        return -ENOMEM;
    double v = strtod_l(text, NULL, c_locale);
    if (!isfinite(v))
        return -ERANGE;
    *ret = v;
    return 0;
}

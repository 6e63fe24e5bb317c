#include "engram/primes.h"

#include <stddef.h>

static const uint8_t small_prime[] = {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37};
#define N_SMALL (sizeof small_prime / sizeof small_prime[0])

static uint64_t mul_mod(uint64_t a, uint64_t b, uint64_t m)
{
    return (uint64_t)((unsigned __int128)a * b % m);
}

static uint64_t pow_mod(uint64_t base, uint64_t exponent, uint64_t m)
{
    uint64_t v = 1;
    for (; exponent; exponent >>= 1) {
        if (exponent & 1)
            v = mul_mod(v, base, m);
        base = mul_mod(base, base, m);
    }
    return v;
}

/* n odd, n - 1 = odd << shift. True when `base` does not show n to be composite. */
static bool passes_witness(uint64_t n, uint64_t odd, int shift, uint64_t base)
{
    uint64_t v = pow_mod(base, odd, n);
    if (v == 1 || v == n - 1)
        return true;
    for (int i = 1; i < shift; i++) {
        v = mul_mod(v, v, n);
        if (v == n - 1)
            return true;
    }
    return false;
}

/* Miller-Rabin with the first twelve primes as bases decides every n below 3.3e24 (Sorenson and Webster), the first
 * four every n below 3,215,031,751 (Jaeschke). */
bool em_prime_test(uint64_t n)
{
    for (size_t i = 0; i < N_SMALL; i++)
        if (n % small_prime[i] == 0)
            return n == small_prime[i];
    if (n < (uint64_t)41 * 41)
        return n > 1;

    int shift = __builtin_ctzll(n - 1);
    size_t n_bases = n < 3215031751u ? 4 : N_SMALL;
    for (size_t i = 0; i < n_bases; i++)
        if (!passes_witness(n, (n - 1) >> shift, shift, small_prime[i]))
            return false;
    return true;
}

/* The widest gap between primes of 64 bits is 1550, so the walk is short from anywhere. */
uint64_t em_prime_from(uint64_t n)
{
    if (n <= 2)
        return 2;
    for (n |= 1; n <= INT64_MAX; n += 2)
        if (em_prime_test(n))
            return n;
    return 0;
}

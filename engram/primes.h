/* Exact primes of 64 bits: a table's buckets are consecutive primes, so one wrong prime moves every row behind it. */
#ifndef EM_ENGRAM_PRIMES_H
#define EM_ENGRAM_PRIMES_H

#include <stdbool.h>
#include <stdint.h>

bool em_prime_test(uint64_t n);

/* The smallest prime >= n, or 0 when no prime from n upward fits 63 bits. */
uint64_t em_prime_from(uint64_t n);

#endif

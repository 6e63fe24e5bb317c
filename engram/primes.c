typedef int em_empty_primes;

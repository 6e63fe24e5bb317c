/* The numbers of NumPy's default_rng(seed): SeedSequence feeding PCG64 (XSL-RR 128/64). A checkpoint's hash
 * multipliers are drawn from it, so every bit must be NumPy's, on every machine. */
#ifndef EM_ENGRAM_PCG64_H
#define EM_ENGRAM_PCG64_H

#include <stdbool.h>
#include <stdint.h>

typedef struct em_pcg64 {
    unsigned __int128 state;
    unsigned __int128 increment; /* odd */
    uint32_t spare;              /* upper half of the last 64-bit output that a 32-bit draw left over */
    bool has_spare;
} em_pcg64;

void em_pcg64_seed(em_pcg64 *rng, uint64_t seed);
uint64_t em_pcg64_next(em_pcg64 *rng);

/* Uniform in [0, bound), bound >= 1: what Generator.integers(bound, dtype=int64) draws next. */
uint64_t em_pcg64_below(em_pcg64 *rng, uint64_t bound);

#endif

/* Counter-based random numbers (Philox4x32-10, Salmon et al., SC'11): a pure function of (seed, choice, position), so
 * that batching, preemption or a restart cannot shift a sample. Pure; any thread. */
#ifndef EM_BASE_RNG_H
#define EM_BASE_RNG_H

#include <stdint.h>

/* The generator itself: a bijection of the 128-bit counter under a 64-bit key. */
void em_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t ret_out[4]);

/* 64 random bits for draw number `draw` of (seed, choice, position). */
uint64_t em_rng_u64(uint64_t seed, uint32_t choice, uint64_t position, uint32_t draw);

/* Uniform double in [0, 1) from the top 53 bits of the above. */
double em_rng_uniform(uint64_t seed, uint32_t choice, uint64_t position, uint32_t draw);

#endif

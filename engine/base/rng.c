/* Philox4x32-10: ten rounds of two 32x32->64 products over a 128-bit counter. */
#include "engine/base/rng.h"

#define PHILOX_M0 0xD2511F53u /* multipliers and key increments as published */
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_W0 0x9E3779B9u
#define PHILOX_W1 0xBB67AE85u
#define PHILOX_ROUNDS 10

void em_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t ret_out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t p0 = (uint64_t)PHILOX_M0 * c0, p1 = (uint64_t)PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    ret_out[0] = c0;
    ret_out[1] = c1;
    ret_out[2] = c2;
    ret_out[3] = c3;
}

uint64_t em_rng_u64(uint64_t seed, uint32_t choice, uint64_t position, uint32_t draw)
{
    const uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), choice, draw};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t out[4];
    em_philox4x32(counter, key, out);
    return (uint64_t)out[0] << 32 | out[1];
}

double em_rng_uniform(uint64_t seed, uint32_t choice, uint64_t position, uint32_t draw)
{
    return (double)(em_rng_u64(seed, choice, position, draw) >> 11) * 0x1p-53;
}

#include "engram/checksum.h"

#include <string.h>

/* Odd numbers of many bits: the golden ratio, and two of SplitMix64's finaliser. */
#define K0 0x9e3779b97f4a7c15u
#define K1 0xbf58476d1ce4e5b9u
#define K2 0x94d049bb133111ebu

/* Invertible, so a word that differs leads to a state that differs. */
static inline uint64_t absorb(uint64_t state, uint64_t word)
{
    state = (state ^ word) * K1;
    return state ^ (state >> 29);
}

static inline uint64_t word_at(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

uint64_t em_checksum(const void *bytes, size_t n, uint64_t seed)
{
    const uint8_t *p = bytes;
    uint64_t lane[4] = {seed + K0, seed + 2 * K0, seed + 3 * K0, seed + 4 * K0}; /* four, as a product takes cycles */
    uint64_t tail = 0, sum = n * K2;
    size_t rest = n;

    for (; rest >= 32; rest -= 32, p += 32)
        for (size_t i = 0; i < 4; i++)
            lane[i] = absorb(lane[i], word_at(p + 8 * i));
    for (; rest >= 8; rest -= 8, p += 8)
        lane[0] = absorb(lane[0], word_at(p));
    memcpy(&tail, p, rest);
    lane[1] = absorb(lane[1], tail);
    for (size_t i = 0; i < 4; i++)
        sum = absorb(sum, lane[i]);
    sum = (sum ^ (sum >> 31)) * K2;
    return sum ^ (sum >> 32);
}

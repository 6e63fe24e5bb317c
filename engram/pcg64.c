#include "engram/pcg64.h"

#define POOL_WORDS 4
#define SEED_WORDS 8

/* SeedSequence's scrambling step: the constant moves on with every word it has touched. */
static uint32_t hash_word(uint32_t v, uint32_t *constant, uint32_t factor)
{
    v ^= *constant;
    *constant *= factor;
    v *= *constant;
    return v ^ (v >> 16);
}

static uint32_t mix_words(uint32_t x, uint32_t y)
{
    uint32_t v = 0xca01f9ddu * x - 0x4973f715u * y;
    return v ^ (v >> 16);
}

/* A 64-bit seed is at most two entropy words, so the pool takes them all and no later mixing round exists. */
static void seed_words(uint64_t seed, uint32_t ret_words[SEED_WORDS])
{
    uint32_t pool[POOL_WORDS];
    uint32_t entropy[POOL_WORDS] = {(uint32_t)seed, (uint32_t)(seed >> 32), 0, 0};
    uint32_t constant = 0x43b0d7e5u;

    for (int i = 0; i < POOL_WORDS; i++)
        pool[i] = hash_word(entropy[i], &constant, 0x931e8875u);
    for (int src = 0; src < POOL_WORDS; src++)
        for (int dst = 0; dst < POOL_WORDS; dst++)
            if (src != dst)
                pool[dst] = mix_words(pool[dst], hash_word(pool[src], &constant, 0x931e8875u));

    constant = 0x8b51f9ddu;
    for (int i = 0; i < SEED_WORDS; i++)
        ret_words[i] = hash_word(pool[i % POOL_WORDS], &constant, 0x58f38dedu);
}

static void advance(em_pcg64 *rng)
{
    const unsigned __int128 multiplier = (unsigned __int128)2549297995355413924u << 64 | 4865540595714422341u;
    rng->state = rng->state * multiplier + rng->increment;
}

static unsigned __int128 join_words(const uint32_t *w)
{
    uint64_t high = (uint64_t)w[1] << 32 | w[0], low = (uint64_t)w[3] << 32 | w[2];
    return (unsigned __int128)high << 64 | low;
}

void em_pcg64_seed(em_pcg64 *rng, uint64_t seed)
{
    uint32_t words[SEED_WORDS];
    seed_words(seed, words);

    rng->increment = join_words(words + 4) << 1 | 1;
    rng->state = 0;
    advance(rng);
    rng->state += join_words(words);
    advance(rng);
    rng->spare = 0;
    rng->has_spare = false;
}

uint64_t em_pcg64_next(em_pcg64 *rng)
{
    advance(rng);
    uint64_t folded = (uint64_t)(rng->state >> 64) ^ (uint64_t)rng->state;
    unsigned turn = (unsigned)(rng->state >> 122);
    return folded >> turn | folded << (-turn & 63);
}

/* NumPy cuts a 64-bit output in two and gives out the lower half first. */
static uint32_t next_half(em_pcg64 *rng)
{
    if (rng->has_spare) {
        rng->has_spare = false;
        return rng->spare;
    }
    uint64_t v = em_pcg64_next(rng);
    rng->spare = (uint32_t)(v >> 32);
    rng->has_spare = true;
    return (uint32_t)v;
}

static uint32_t below_32(em_pcg64 *rng, uint32_t bound)
{
    uint64_t product = (uint64_t)next_half(rng) * bound;
    if ((uint32_t)product < bound) {
        uint32_t threshold = -bound % bound; /* 2^32 mod bound */
        while ((uint32_t)product < threshold)
            product = (uint64_t)next_half(rng) * bound;
    }
    return (uint32_t)(product >> 32);
}

/* Lemire's method. NumPy changes to 32-bit draws when bound - 1 fits 32 bits; that is the case for vocabularies of
 * 2^30 classes and more, where multipliers must be that small. */
uint64_t em_pcg64_below(em_pcg64 *rng, uint64_t bound)
{
    if (bound <= 1)
        return 0; /* one possible value: NumPy draws nothing */
    if (bound - 1 == UINT32_MAX)
        return next_half(rng);
    if (bound - 1 < UINT32_MAX)
        return below_32(rng, (uint32_t)bound);

    unsigned __int128 product = (unsigned __int128)em_pcg64_next(rng) * bound;
    if ((uint64_t)product < bound) {
        uint64_t threshold = -bound % bound; /* 2^64 mod bound */
        while ((uint64_t)product < threshold)
            product = (unsigned __int128)em_pcg64_next(rng) * bound;
    }
    return (uint64_t)(product >> 64);
}

/* Random numbers that are the same everywhere for one seed: splitmix64. */
#ifndef ENGRAMD_LOAD_DRAW_H
#define ENGRAMD_LOAD_DRAW_H

#include <math.h>
#include <stdint.h>

static inline uint64_t draw(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* 0 to below 1 */
static inline double draw_unit(uint64_t *state)
{
    return (double)(draw(state) >> 11) * 0x1p-53;
}

/* Exponential with that mean: the time to the next arrival of a Poisson stream. */
static inline double draw_exponential(uint64_t *state, double mean)
{
    return -log(1 - draw_unit(state)) * mean;
}

#endif

/* Where golden data and the bundled model lie. ENGRAMD_FIXTURES names another tree of the same shape. */
#ifndef EM_TESTS_FIXTURES_H
#define EM_TESTS_FIXTURES_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline const char *fixtures_dir(void)
{
    const char *dir = getenv("ENGRAMD_FIXTURES");
    if (dir && *dir)
        return dir;
    dir = getenv("ENGRAMD_GOLDEN_DEFAULT");
    return dir && *dir ? dir : EM_TESTS_GOLDEN_DIR; /* the last: set by meson */
}

/* "models/1-window" -> full path in buf. */
static inline const char *fixture_path(char *buf, size_t cap, const char *rel)
{
    snprintf(buf, cap, "%s/%s", fixtures_dir(), rel);
    return buf;
}

static inline const char *bundled_model_dir(void)
{
    const char *dir = getenv("ENGRAMD_BUNDLED_MODEL");
    return dir && *dir ? dir : EM_TESTS_BUNDLED_MODEL;
}

/* Seed of a randomised test: ENGRAMD_TEST_SEED, or the given one. Printed, so that a failure can be repeated. */
static inline unsigned long long test_seed(unsigned long long dflt)
{
    const char *s = getenv("ENGRAMD_TEST_SEED");
    unsigned long long seed = s && *s ? strtoull(s, NULL, 0) : dflt;
    printf("seed %llu\n", seed);
    return seed;
}

#endif

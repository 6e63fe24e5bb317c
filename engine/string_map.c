/* Open addressing with linear steps, at most half full. */
#include "engine/string_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "engine/base/clock.h"

uint64_t em_hash_seed(void)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) == (ssize_t)sizeof seed)
        return seed;
    return em_now_ns() * 0x9e3779b97f4a7c15u;
}

/* Both halves of the 128-bit product folded together: every bit of a and b reaches every bit of the result. */
static uint64_t fold(uint64_t a, uint64_t b)
{
    __extension__ unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

uint64_t em_hash_u64(uint64_t seed, uint64_t x)
{
    return fold(x ^ seed, 0x9e3779b97f4a7c15u ^ (seed << 1));
}

uint64_t em_hash_bytes(uint64_t seed, const void *data, size_t len)
{
    const uint8_t *p = data;
    uint64_t h = em_hash_u64(seed, len), word;
    for (; len >= sizeof word; len -= sizeof word, p += sizeof word) {
        memcpy(&word, p, sizeof word);
        h = fold(word ^ h, 0xd6e8feb86659fd93u ^ (seed << 1));
    }
    word = 0;
    memcpy(&word, p, len);
    return fold(word ^ h, 0xa0761d6478bd642fu ^ (seed << 1));
}

static int alloc_slots(em_string_map *map, size_t n_slots)
{
    map->slots = calloc(n_slots, sizeof *map->slots);
    map->n_slots = n_slots;
    return map->slots ? 0 : -ENOMEM;
}

int em_string_map_init(em_string_map *ret_map, size_t n)
{
    em_string_map map = {.seed = em_hash_seed()};
    size_t n_slots = 16;
    while (n_slots / 2 < n) {
        if (n_slots > SIZE_MAX / 4)
            return -ENOMEM;
        n_slots *= 2;
    }
    int r = alloc_slots(&map, n_slots);
    if (r == 0)
        *ret_map = map;
    return r;
}

void em_string_map_done(em_string_map *map)
{
    free(map->slots);
    *map = (em_string_map){0};
}

/* The slot that holds s, or the empty one where it belongs. */
static em_string_slot *find_slot(const em_string_map *map, const char *s, size_t len, uint32_t hash)
{
    size_t mask = map->n_slots - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        em_string_slot *slot = &map->slots[i];
        if (!slot->s || (slot->hash == hash && slot->len == len && memcmp(slot->s, s, len) == 0))
            return slot;
    }
}

int32_t em_string_map_get(const em_string_map *map, const char *s, size_t len)
{
    const em_string_slot *slot = find_slot(map, s, len, (uint32_t)em_hash_bytes(map->seed, s, len));
    return slot->s ? slot->value : -1;
}

static int grow(em_string_map *map)
{
    em_string_map old = *map;
    if (old.n_slots > SIZE_MAX / 4 || alloc_slots(map, old.n_slots * 2) < 0) {
        *map = old;
        return -ENOMEM;
    }
    for (size_t i = 0; i < old.n_slots; i++)
        if (old.slots[i].s)
            *find_slot(map, old.slots[i].s, old.slots[i].len, old.slots[i].hash) = old.slots[i];
    free(old.slots);
    return 0;
}

int32_t em_string_map_add(em_string_map *map, const char *s, size_t len, int32_t value)
{
    uint32_t hash = (uint32_t)em_hash_bytes(map->seed, s, len);
    em_string_slot *slot = find_slot(map, s, len, hash);
    if (slot->s)
        return slot->value;
    if (map->n + 1 > map->n_slots / 2) {
        if (grow(map) < 0)
            return -ENOMEM;
        slot = find_slot(map, s, len, hash);
    }
    *slot = (em_string_slot){.s = s, .len = (uint32_t)len, .hash = hash, .value = value};
    map->n++;
    return value;
}

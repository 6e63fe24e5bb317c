/* A dictionary from byte strings to non-negative numbers, and the hashes under it. Strings are not copied: they must
 * stay where they are. Not thread-safe while strings are added. */
#ifndef EM_ENGINE_STRING_MAP_H
#define EM_ENGINE_STRING_MAP_H

#include <stddef.h>
#include <stdint.h>

typedef struct em_string_slot {
    const char *s; /* NULL: empty slot */
    uint32_t len;
    uint32_t hash;
    int32_t value;
} em_string_slot;

typedef struct em_string_map {
    em_string_slot *slots; /* [n_slots], a power of two; open addressing */
    size_t n_slots, n;
    uint64_t seed;
} em_string_map;

/* Room for n strings without growing. -ENOMEM. */
int em_string_map_init(em_string_map *ret_map, size_t n);
void em_string_map_done(em_string_map *map); /* a zeroed one is fine */

/* The value of s; -1: not there. */
int32_t em_string_map_get(const em_string_map *map, const char *s, size_t len);

/* Adds s -> value unless s is there. Returns the value s has now (another than given: it was there), or -ENOMEM. */
int32_t em_string_map_add(em_string_map *map, const char *s, size_t len, int32_t value);

/* A number that differs from run to run, so that no file can be made whose strings all collide. */
uint64_t em_hash_seed(void);
uint64_t em_hash_bytes(uint64_t seed, const void *data, size_t len);
uint64_t em_hash_u64(uint64_t seed, uint64_t x);

#endif

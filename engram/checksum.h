/* A 64-bit checksum at the speed of memory. It finds damage, not malice. */
#ifndef EM_ENGRAM_CHECKSUM_H
#define EM_ENGRAM_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* Depends on every byte, on their order, on n and on the seed. */
uint64_t em_checksum(const void *p, size_t n, uint64_t seed);

#endif

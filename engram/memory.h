/* Large blocks: the caller's alloc/free pair where one was given, else anonymous memory in huge pages where the
 * system has them. */
#ifndef EM_ENGRAM_MEMORY_H
#define EM_ENGRAM_MEMORY_H

#include "engram/engram.h"

/* Aligned to at least 64 bytes, contents undefined, bytes >= 1; NULL when there is none. */
void *em_memory_alloc(const em_engram_mem *mem, size_t bytes);
void em_memory_free(const em_engram_mem *mem, void *p, size_t bytes); /* NULL is fine */

/* How many of these bytes of a mapping are in memory now; sampled when the range is long. */
uint64_t em_memory_resident(const void *p, size_t bytes);

/* Gives the kernel a hint (MADV_*) about the whole pages inside the range; what it answers does not matter. */
void em_memory_advise(const void *p, size_t bytes, int advice);

#endif

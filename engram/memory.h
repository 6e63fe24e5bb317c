/* Large blocks: the caller's alloc/free pair where one was given, else anonymous memory. */
#ifndef EM_ENGRAM_MEMORY_H
#define EM_ENGRAM_MEMORY_H

#include "engram/engram.h"

typedef enum em_page_size {
    EM_PAGES_SMALL, /* a page is there when it is touched: for what may stay unused in large part */
    EM_PAGES_HUGE,  /* where the system has them: for what is filled whole and read at random */
} em_page_size;

/* Aligned to at least 64 bytes, contents undefined, bytes >= 1; NULL when there is none. The page size is a wish for
 * memory of our own; the caller's pair decides for itself. */
void *em_memory_alloc(const em_engram_mem *mem, size_t bytes, em_page_size page_size);
void em_memory_free(const em_engram_mem *mem, void *p, size_t bytes); /* NULL is fine */

/* Spreads pages that nobody has touched yet over the machine's memory nodes, where it has several: every core reads
 * random rows of all of it. A wish. */
void em_memory_interleave(void *p, size_t bytes);

/* How many of these bytes of a mapping are in memory now; sampled when the range is long. */
uint64_t em_memory_resident(const void *p, size_t bytes);

/* Gives the kernel a hint (MADV_*) about the whole pages inside the range; what it answers does not matter. */
void em_memory_advise(const void *p, size_t bytes, int advice);

#endif

#include "engram/memory.h"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HUGE_BYTES ((size_t)2 << 20)
#define SAMPLE_PAGES 256 /* pages looked at in one mincore call */
#define MAX_SAMPLES 1024
#define MAX_NODES 1024 /* as many as any kernel is built for */

/* A huge page needs 2 MiB aligned memory: map more and give the ends back. */
static void *map_huge(size_t bytes)
{
    size_t padded;
    if (__builtin_add_overflow(bytes, HUGE_BYTES, &padded))
        return NULL;
    uint8_t *p = mmap(NULL, padded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    size_t head = -(uintptr_t)p & (HUGE_BYTES - 1);
    if (head)
        munmap(p, head);
    munmap(p + head + bytes, HUGE_BYTES - head);
    madvise(p + head, bytes, MADV_HUGEPAGE);
    em_memory_interleave(p + head, bytes);
    return p + head;
}

static size_t page_round(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return bytes > SIZE_MAX - page ? 0 : (bytes + page - 1) / page * page;
}

void em_memory_interleave(void *p, size_t bytes)
{
    unsigned long nodes[MAX_NODES / (8 * sizeof(unsigned long))] = {0};
    int n = 0;
    if (syscall(SYS_get_mempolicy, NULL, nodes, (unsigned long)MAX_NODES, NULL, (unsigned long)MPOL_F_MEMS_ALLOWED))
        return;
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++)
        n += __builtin_popcountl(nodes[i]);
    if (n > 1) /* the kernel takes one more than the number of bits it reads */
        syscall(SYS_mbind, p, bytes, (unsigned long)MPOL_INTERLEAVE, nodes, (unsigned long)MAX_NODES + 1, 0ul);
}

static void *map_plain(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void *em_memory_alloc(const em_engram_mem *mem, size_t bytes, em_page_size page_size)
{
    if (mem->alloc)
        return mem->alloc(mem->ctx, bytes);
    bytes = page_round(bytes);
    if (!bytes)
        return NULL;
    return page_size == EM_PAGES_HUGE && bytes >= HUGE_BYTES ? map_huge(bytes) : map_plain(bytes);
}

void em_memory_free(const em_engram_mem *mem, void *p, size_t bytes)
{
    if (!p)
        return;
    if (mem->alloc)
        mem->free(mem->ctx, p, bytes);
    else
        munmap(p, page_round(bytes));
}

uint64_t em_memory_resident(const void *p, size_t bytes)
{
    unsigned char state[SAMPLE_PAGES];
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)p / page * page, end = (uintptr_t)p + bytes;
    size_t n_pages = (end - begin + page - 1) / page;
    size_t stride = n_pages / MAX_SAMPLES, n_seen = 0, n_resident = 0;

    if (stride < SAMPLE_PAGES)
        stride = SAMPLE_PAGES;
    for (size_t at = 0; at < n_pages; at += stride) {
        size_t n = n_pages - at < SAMPLE_PAGES ? n_pages - at : SAMPLE_PAGES;
        if (mincore((void *)(begin + at * page), n * page, state))
            continue;
        for (size_t i = 0; i < n; i++)
            n_resident += state[i] & 1;
        n_seen += n;
    }
    return n_seen ? (uint64_t)((double)bytes * ((double)n_resident / (double)n_seen)) : 0;
}

void em_memory_advise(const void *p, size_t bytes, int advice)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)p + page - 1) / page * page, end = ((uintptr_t)p + bytes) / page * page;
    if (end > begin)
        madvise((void *)begin, end - begin, advice);
}

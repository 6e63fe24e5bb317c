/* Page-locked memory that the device reads: anonymous memory in huge pages where there are any, registered with the
 * driver piece by piece, exactly as many bytes as were asked for. */
#include "engine/cuda/cuda.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine/base/units.h"

#define HUGE_BYTES ((size_t)2 << 20)
#define PIECE ((size_t)1 << 30) /* registered at a time */

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* 2 MiB aligned, so that huge pages fit. */
static uint8_t *map_aligned(size_t bytes)
{
    uint8_t *p = mmap(NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    size_t head = -(uintptr_t)p & (HUGE_BYTES - 1);
    if (head)
        munmap(p, head);
    munmap(p + head + bytes, HUGE_BYTES - head);
    if (bytes >= HUGE_BYTES)
        madvise(p + head, bytes, MADV_HUGEPAGE);
    return p + head;
}

/* Registers p .. p + bytes; on failure nothing stays registered. */
static cudaError_t lock_pages(uint8_t *p, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += PIECE) {
        size_t n = bytes - at < PIECE ? bytes - at : PIECE;
        cudaError_t r = cudaHostRegister(p + at, n, cudaHostRegisterPortable | cudaHostRegisterMapped);
        if (r == cudaSuccess)
            continue;
        while (at > 0) {
            at -= PIECE;
            cudaHostUnregister(p + at);
        }
        cudaGetLastError();
        return r;
    }
    return cudaSuccess;
}

static void explain(size_t bytes, cudaError_t r, em_error *err)
{
    char want[EM_UNITS_TEXT], may[EM_UNITS_TEXT];
    struct rlimit limit = {.rlim_cur = RLIM_INFINITY};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    em_bytes_text(bytes, want);
    if (limit.rlim_cur < bytes)
        em_error_set(err, -ENOMEM,
                     "%s cannot be page-locked for the GPU: %s. This process may lock %s: raise the limit (ulimit -l, "
                     "LimitMEMLOCK=), or choose --engram-tier mmap",
                     want, cudaGetErrorString(r), em_bytes_text(limit.rlim_cur, may));
    else
        em_error_set(err, -ENOMEM,
                     "%s cannot be page-locked for the GPU: %s. Give the machine more free memory, or choose "
                     "--engram-tier mmap",
                     want, cudaGetErrorString(r));
}

void *em_cuda_pin(em_cuda *c, size_t bytes, em_error *err)
{
    em_cuda_pinned *block = calloc(1, sizeof(*block));
    size_t rounded = round_up(bytes ? bytes : 1, (size_t)sysconf(_SC_PAGESIZE));
    uint8_t *p = block ? map_aligned(rounded) : NULL;
    cudaError_t r = p ? lock_pages(p, rounded) : cudaErrorMemoryAllocation;
    if (r != cudaSuccess) {
        explain(bytes, r, err);
        if (p)
            munmap(p, rounded);
        free(block);
        return NULL;
    }
    *block = (em_cuda_pinned){.next = c->pinned, .p = p, .bytes = bytes, .map_bytes = rounded};
    c->pinned = block;
    return p;
}

void em_cuda_unpin(em_cuda *c, void *p)
{
    for (em_cuda_pinned **at = &c->pinned; p && *at; at = &(*at)->next) {
        em_cuda_pinned *block = *at;
        if (block->p != p)
            continue;
        *at = block->next;
        for (size_t done = 0; done < block->map_bytes; done += PIECE)
            cudaHostUnregister(block->p + done);
        munmap(block->p, block->map_bytes);
        free(block);
        return;
    }
}

bool em_cuda_is_pinned(const em_cuda *c, const void *p)
{
    for (const em_cuda_pinned *b = c->pinned; b; b = b->next)
        if ((const uint8_t *)p >= b->p && (const uint8_t *)p < b->p + b->bytes)
            return true;
    return false;
}

/* --- for the Engram service ------------------------------------------------------------------------------------- */

static void *engram_alloc(void *ctx, size_t bytes)
{
    em_cuda *c = ctx;
    return em_cuda_pin(c, bytes, &c->base.mem_error);
}

static void engram_free(void *ctx, void *p, size_t bytes)
{
    em_cuda *c = ctx;
    cudaStreamSynchronize(c->side); /* a step that failed may still read it */
    cudaStreamSynchronize(c->stream);
    em_cuda_unpin(c, p);
}

em_engram_mem em_cuda_engram_mem(em_cuda *c)
{
    return (em_engram_mem){.alloc = engram_alloc, .free = engram_free, .ctx = c};
}

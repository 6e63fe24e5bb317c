#include "engram/fill.h"
#include "engram/checksum.h"
#include "engram/memory.h"
#include "engram/thread.h"

#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK_BYTES ((size_t)4 << 20)
#define MAX_FILL_THREADS 16
#define PAGE_BYTES 4096 /* the smallest there is: reading more often does no harm */

void em_fill_add(em_fill *fill, const uint8_t *from, uint8_t *to, size_t bytes)
{
    int i = fill->n_arrays++;
    fill->from[i] = from;
    fill->to[i] = to;
    fill->bytes[i] = bytes;
    fill->first_chunk[i + 1] = fill->first_chunk[i] + (bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;
}

static void touch(const uint8_t *p, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += PAGE_BYTES)
        (void)*(const volatile uint8_t *)(p + at);
}

/* Does one chunk; false when none is left. Chunk sums are added up, so that their order does not matter. */
static bool fill_step(em_fill *fill)
{
    size_t chunk = __atomic_fetch_add(&fill->next_chunk, 1, __ATOMIC_RELAXED);
    int i = 0;
    if (chunk >= fill->first_chunk[fill->n_arrays])
        return false;
    while (chunk >= fill->first_chunk[i + 1])
        i++;

    size_t at = (chunk - fill->first_chunk[i]) * CHUNK_BYTES;
    size_t n = fill->bytes[i] - at < CHUNK_BYTES ? fill->bytes[i] - at : CHUNK_BYTES;
    if (fill->to[i])
        memcpy(fill->to[i] + at, fill->from[i] + at, n);
    else if (fill->touch)
        touch(fill->from[i] + at, n);
    if (fill->want_checksum) /* of what has arrived */
        __atomic_fetch_add(&fill->checksum[i], em_checksum((fill->to[i] ? fill->to[i] : fill->from[i]) + at, n, at),
                           __ATOMIC_RELAXED);
    __atomic_fetch_add(&fill->done_bytes, n, __ATOMIC_RELAXED);
    return true;
}

static void *fill_main(void *arg)
{
    while (fill_step(arg))
        ;
    return NULL;
}

static int n_fill_threads(const em_fill *fill)
{
    cpu_set_t cpus;
    int n = sched_getaffinity(0, sizeof cpus, &cpus) ? 1 : CPU_COUNT(&cpus);
    if (n > MAX_FILL_THREADS)
        n = MAX_FILL_THREADS;
    size_t n_chunks = fill->first_chunk[fill->n_arrays];
    return n_chunks < (size_t)n ? (int)n_chunks : n;
}

static void advise(const em_fill *fill, int advice)
{
    for (int i = 0; i < fill->n_arrays; i++)
        em_memory_advise(fill->from[i], fill->bytes[i], advice);
}

/* A thread that cannot be started is only a slower fill. */
void em_fill_run(em_fill *fill, const em_engram_opts *opts)
{
    pthread_t thread[MAX_FILL_THREADS];
    int n_threads = 0, n_wanted = n_fill_threads(fill) - 1;
    uint64_t total = 0;

    for (int i = 0; i < fill->n_arrays; i++)
        total += fill->bytes[i];
    advise(fill, MADV_SEQUENTIAL);
    while (n_threads < n_wanted && !em_thread_start(&thread[n_threads], "em-engram-fill", fill_main, fill))
        n_threads++;
    while (fill_step(fill))
        if (opts->on_progress) {
            uint64_t done = __atomic_load_n(&fill->done_bytes, __ATOMIC_RELAXED);
            if (done < total)
                opts->on_progress(opts->progress_ctx, done, total);
        }
    for (int i = 0; i < n_threads; i++)
        pthread_join(thread[i], NULL);
    advise(fill, MADV_NORMAL);
    if (opts->on_progress)
        opts->on_progress(opts->progress_ctx, total, total);
}

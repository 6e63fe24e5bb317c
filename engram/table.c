#include "engram/table.h"
#include "engram/memory.h"
#include "engram/rows.h"
#include "engram/thread.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#define AUTO_RAM_BYTES ((uint64_t)64 << 20) /* tables up to this size are copied: it costs nothing and frees the file */
#define FILL_CHUNK_BYTES ((size_t)4 << 20)
#define MAX_FILL_THREADS 16

static bool span_fits(int64_t n_rows, size_t row_bytes, size_t *ret_bytes)
{
    return !__builtin_mul_overflow((uint64_t)n_rows, row_bytes, ret_bytes) && *ret_bytes <= PTRDIFF_MAX;
}

static int view_source(em_tables *tables, const em_engram_spec *spec, int32_t table_idx, uint64_t *total, char *err,
                       size_t err_len)
{
    const em_engram_source *source = &spec->table[table_idx];
    em_engram_table *view = &tables->view[table_idx];
    size_t codes_bytes, scales_bytes;

    *view = (em_engram_table){source->codes, source->scales, source->n_rows, em_engram_row_bytes(spec),
                              em_engram_scale_bytes(spec)};
    if (!span_fits(view->n_rows, view->row_bytes, &codes_bytes) ||
        !span_fits(view->n_rows, view->scale_bytes, &scales_bytes) ||
        __builtin_add_overflow(*total, codes_bytes, total) || __builtin_add_overflow(*total, scales_bytes, total) ||
        *total > PTRDIFF_MAX)
        return em_engram_fail(err, err_len, -EINVAL,
                              "Engram: the table of layer %d has more bytes than can be addressed", source->layer);
    if (!view->codes)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: the table of layer %d has no rows in memory",
                              source->layer);
    if (view->scale_bytes && !view->scales)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: the %s table of layer %d has no scales",
                              spec->dtype == EM_ENGRAM_FP8 ? "FP8" : "INT8", source->layer);
    if (!view->scale_bytes && view->scales)
        return em_engram_fail(err, err_len, -EINVAL,
                              "Engram: the table of layer %d has scales, which only FP8 and INT8 rows can have",
                              source->layer);
    return 0;
}

/* --- filling the ram tier: one long array of bytes, cut into chunks that threads take from a counter ------------- */

typedef struct em_fill {
    const uint8_t *from[2 * EM_ENGRAM_MAX_TABLES];
    uint8_t *to[2 * EM_ENGRAM_MAX_TABLES];
    size_t bytes[2 * EM_ENGRAM_MAX_TABLES];
    size_t first_chunk[2 * EM_ENGRAM_MAX_TABLES + 1]; /* of each array; the last entry is the number of chunks */
    int n_arrays;
    size_t next_chunk;   /* atomic */
    uint64_t done_bytes; /* atomic */
} em_fill;

static void fill_add(em_fill *fill, const uint8_t *from, uint8_t *to, size_t bytes)
{
    int i = fill->n_arrays++;
    fill->from[i] = from;
    fill->to[i] = to;
    fill->bytes[i] = bytes;
    fill->first_chunk[i + 1] = fill->first_chunk[i] + (bytes + FILL_CHUNK_BYTES - 1) / FILL_CHUNK_BYTES;
}

/* Copies one chunk; false when none is left. */
static bool fill_step(em_fill *fill)
{
    size_t chunk = __atomic_fetch_add(&fill->next_chunk, 1, __ATOMIC_RELAXED);
    int i = 0;
    if (chunk >= fill->first_chunk[fill->n_arrays])
        return false;
    while (chunk >= fill->first_chunk[i + 1])
        i++;

    size_t at = (chunk - fill->first_chunk[i]) * FILL_CHUNK_BYTES;
    size_t n = fill->bytes[i] - at < FILL_CHUNK_BYTES ? fill->bytes[i] - at : FILL_CHUNK_BYTES;
    memcpy(fill->to[i] + at, fill->from[i] + at, n);
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

/* The calling thread works too and alone reports progress; a thread that cannot be started is only a slower fill. */
static void fill_run(em_fill *fill, const em_engram_opts *opts, uint64_t total_bytes)
{
    pthread_t thread[MAX_FILL_THREADS];
    int n_threads = 0, n_wanted = n_fill_threads(fill) - 1;

    for (int i = 0; i < fill->n_arrays; i++)
        em_memory_advise(fill->from[i], fill->bytes[i], MADV_SEQUENTIAL);
    while (n_threads < n_wanted && !em_thread_start(&thread[n_threads], "em-engram-fill", fill_main, fill))
        n_threads++;
    while (fill_step(fill))
        if (opts->on_progress) {
            uint64_t done = __atomic_load_n(&fill->done_bytes, __ATOMIC_RELAXED);
            if (done < total_bytes)
                opts->on_progress(opts->progress_ctx, done, total_bytes);
        }
    for (int i = 0; i < n_threads; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < fill->n_arrays; i++)
        em_memory_advise(fill->from[i], fill->bytes[i], MADV_NORMAL);
    if (opts->on_progress)
        opts->on_progress(opts->progress_ctx, total_bytes, total_bytes);
}

static bool own_array(const em_tables *tables, const uint8_t *from, size_t bytes, const uint8_t **ret_copy,
                      em_fill *fill)
{
    if (!bytes)
        return true;
    uint8_t *to = em_memory_alloc(&tables->mem, bytes, EM_PAGES_HUGE);
    if (!to)
        return false;
    *ret_copy = to;
    fill_add(fill, from, to, bytes);
    return true;
}

static int open_ram(em_tables *tables, const em_engram_opts *opts, uint64_t total_bytes, char *err, size_t err_len)
{
    em_fill fill = {.n_arrays = 0};

    for (int32_t t = 0; t < tables->n_tables; t++) {
        const em_engram_table *view = &tables->view[t];
        em_engram_table *own = &tables->owned[t];
        *own = *view;
        own->codes = own->scales = NULL;
        if (!own_array(tables, view->codes, (size_t)view->n_rows * view->row_bytes, &own->codes, &fill) ||
            !own_array(tables, view->scales, (size_t)view->n_rows * view->scale_bytes, &own->scales, &fill)) {
            em_tables_close(tables);
            return em_engram_fail(err, err_len, -ENOMEM,
                                  "Engram: no memory for tables of %llu bytes in the ram tier; use the mmap tier",
                                  (unsigned long long)total_bytes);
        }
    }
    fill_run(&fill, opts, total_bytes);
    for (int32_t t = 0; t < tables->n_tables; t++)
        tables->view[t] = tables->owned[t];
    return 0;
}

static void advise_views(const em_tables *tables, int advice)
{
    for (int32_t t = 0; t < tables->n_tables; t++) {
        const em_engram_table *view = &tables->view[t];
        em_memory_advise(view->codes, (size_t)view->n_rows * view->row_bytes, advice);
        if (view->scales)
            em_memory_advise(view->scales, (size_t)view->n_rows * view->scale_bytes, advice);
    }
}

em_engram_tier em_engram_resolve_tier(em_engram_tier tier, uint64_t table_bytes)
{
    if (tier != EM_ENGRAM_TIER_AUTO)
        return tier;
    return table_bytes <= AUTO_RAM_BYTES ? EM_ENGRAM_TIER_RAM : EM_ENGRAM_TIER_MMAP;
}

int em_tables_open(em_tables *tables, const em_engram_spec *spec, const em_engram_opts *opts, char *err, size_t err_len)
{
    uint64_t total_bytes = 0;
    int rc = 0;

    memset(tables, 0, sizeof *tables);
    tables->n_tables = spec->n_tables;
    tables->mem = opts->mem;
    for (int32_t t = 0; !rc && t < spec->n_tables; t++)
        rc = view_source(tables, spec, t, &total_bytes, err, err_len);
    if (rc)
        return rc;

    tables->tier = em_engram_resolve_tier(opts->tier, total_bytes);
    if (tables->tier == EM_ENGRAM_TIER_RAM)
        return open_ram(tables, opts, total_bytes, err, err_len);
    if (tables->tier != EM_ENGRAM_TIER_MMAP)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: unknown tier %d", (int)tables->tier);
    advise_views(tables, MADV_RANDOM);
    return 0;
}

void em_tables_close(em_tables *tables)
{
    if (tables->tier == EM_ENGRAM_TIER_MMAP)
        advise_views(tables, MADV_NORMAL);
    for (int32_t t = 0; t < tables->n_tables; t++) {
        em_engram_table *own = &tables->owned[t];
        em_memory_free(&tables->mem, (uint8_t *)own->codes, (size_t)own->n_rows * own->row_bytes);
        em_memory_free(&tables->mem, (uint8_t *)own->scales, (size_t)own->n_rows * own->scale_bytes);
    }
    memset(tables, 0, sizeof *tables);
}

void em_tables_copy_rows(const em_tables *tables, int32_t table_idx, const int64_t *row_id, size_t n, uint8_t *codes,
                         uint8_t *scales)
{
    em_rows_copy(&tables->view[table_idx], row_id, n, codes, scales);
}

uint64_t em_tables_bytes(const em_tables *tables)
{
    uint64_t bytes = 0;
    for (int32_t t = 0; t < tables->n_tables; t++)
        bytes += (uint64_t)tables->view[t].n_rows * (tables->view[t].row_bytes + tables->view[t].scale_bytes);
    return bytes;
}

uint64_t em_tables_resident_bytes(const em_tables *tables)
{
    uint64_t bytes = 0;
    if (tables->tier == EM_ENGRAM_TIER_RAM)
        return em_tables_bytes(tables);
    for (int32_t t = 0; t < tables->n_tables; t++) {
        const em_engram_table *view = &tables->view[t];
        bytes += em_memory_resident(view->codes, (size_t)view->n_rows * view->row_bytes);
        if (view->scales)
            bytes += em_memory_resident(view->scales, (size_t)view->n_rows * view->scale_bytes);
    }
    return bytes;
}

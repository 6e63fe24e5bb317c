#include "engram/table.h"
#include "engram/memory.h"
#include "engram/rows.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define AUTO_RAM_BYTES ((uint64_t)64 << 20) /* tables up to this size are copied: it costs nothing and frees the file */

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
    if (!view->codes && tables->tier != EM_ENGRAM_TIER_NVME)
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

/* --- the ram tier ------------------------------------------------------------------------------------------------ */

static bool own_array(const em_tables *tables, const uint8_t *from, size_t bytes, const uint8_t **ret_copy,
                      em_fill *fill)
{
    if (!bytes)
        return true;
    uint8_t *to = em_memory_alloc(&tables->mem, bytes, EM_PAGES_HUGE);
    if (!to)
        return false;
    *ret_copy = to;
    em_fill_add(fill, from, to, bytes);
    return true;
}

/* Locked as pages come, so that the threads of the fill bring them; the limit is checked here and now. */
static int lock_tables(const em_tables *tables, uint64_t total_bytes, char *err, size_t err_len)
{
    for (int32_t t = 0; t < tables->n_tables; t++) {
        const em_engram_table *own = &tables->owned[t];
        size_t codes_bytes = (size_t)own->n_rows * own->row_bytes,
               scales_bytes = (size_t)own->n_rows * own->scale_bytes;
        if (!mlock2(own->codes, codes_bytes, MLOCK_ONFAULT) &&
            (!own->scales || !mlock2(own->scales, scales_bytes, MLOCK_ONFAULT)))
            continue;
        int code = errno;
        struct rlimit limit = {0};
        getrlimit(RLIMIT_MEMLOCK, &limit);
        return em_engram_fail(err, err_len, -code,
                              "Engram: tables of %llu bytes cannot be locked in memory, of which this process may lock "
                              "%llu bytes (ulimit -l, LimitMEMLOCK=): raise that, or use the ram tier",
                              (unsigned long long)total_bytes, (unsigned long long)limit.rlim_cur);
    }
    return 0;
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
            return em_engram_fail(
                err, err_len, -ENOMEM, "Engram: no memory for tables of %llu bytes in the %s tier; use the mmap tier",
                (unsigned long long)total_bytes, tables->tier == EM_ENGRAM_TIER_RAM ? "ram" : "pinned");
        }
    }
    if (tables->tier == EM_ENGRAM_TIER_PINNED && !tables->mem.alloc) {
        int rc = lock_tables(tables, total_bytes, err, err_len);
        if (rc) {
            em_tables_close(tables);
            return rc;
        }
    }
    em_fill_run(&fill, opts);
    for (int32_t t = 0; t < tables->n_tables; t++)
        tables->view[t] = tables->owned[t];
    return 0;
}

/* Scales into memory of our own, codes stay where they are. */
static int open_nvme(em_tables *tables, const em_engram_spec *spec, const em_engram_opts *opts, char *err,
                     size_t err_len)
{
    em_fill fill = {.n_arrays = 0};
    int rc = em_disk_open(&tables->disk, spec, opts, err, err_len);

    for (int32_t t = 0; !rc && t < tables->n_tables; t++) {
        em_engram_table *view = &tables->view[t], *own = &tables->owned[t];
        *own = *view;
        own->codes = own->scales = NULL;
        if (!own_array(tables, view->scales, (size_t)view->n_rows * view->scale_bytes, &own->scales, &fill))
            rc = em_engram_fail(err, err_len, -ENOMEM, "Engram: no memory for the scales of the table of layer %d",
                                spec->table[t].layer);
        tables->disk.table[t].scales = own->scales;
    }
    if (rc) {
        em_tables_close(tables);
        return rc;
    }
    em_fill_run(&fill, opts);
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

static void prefault(const em_tables *tables, const em_engram_opts *opts)
{
    em_fill fill = {.touch = true};
    for (int32_t t = 0; t < tables->n_tables; t++) {
        const em_engram_table *view = &tables->view[t];
        em_fill_add(&fill, view->codes, NULL, (size_t)view->n_rows * view->row_bytes);
        if (view->scales)
            em_fill_add(&fill, view->scales, NULL, (size_t)view->n_rows * view->scale_bytes);
    }
    em_fill_run(&fill, opts);
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
    tables->tier = opts->tier;
    for (int32_t t = 0; !rc && t < spec->n_tables; t++)
        rc = view_source(tables, spec, t, &total_bytes, err, err_len);
    if (rc)
        return rc;

    tables->tier = em_engram_resolve_tier(opts->tier, total_bytes);
    if (tables->tier == EM_ENGRAM_TIER_RAM || tables->tier == EM_ENGRAM_TIER_PINNED)
        return open_ram(tables, opts, total_bytes, err, err_len);
    if (tables->tier == EM_ENGRAM_TIER_SHARED)
        return em_shared_open(&tables->shared, spec, opts, tables->view, err, err_len);
    if (tables->tier == EM_ENGRAM_TIER_NVME)
        return open_nvme(tables, spec, opts, err, err_len);
    if (tables->tier != EM_ENGRAM_TIER_MMAP)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: unknown tier %d", (int)tables->tier);
    if (opts->prefault)
        prefault(tables, opts);
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
    em_shared_close(&tables->shared);
    em_disk_close(&tables->disk);
    memset(tables, 0, sizeof *tables);
}

int em_tables_copy_rows(const em_tables *tables, int32_t table_idx, const int64_t *row_id, size_t n, uint8_t *codes,
                        uint8_t *scales)
{
    const em_engram_table *view = &tables->view[table_idx];
    int rc = 0;

    if (tables->tier != EM_ENGRAM_TIER_NVME) {
        em_rows_copy(view, row_id, n, codes, scales);
        return 0;
    }
    for (size_t i = 0; !rc && i < n; i++) {
        rc = em_disk_read_row(&tables->disk, table_idx, row_id[i], codes + i * view->row_bytes);
        if (view->scale_bytes)
            memcpy(scales + i * view->scale_bytes, view->scales + (size_t)row_id[i] * view->scale_bytes,
                   view->scale_bytes);
    }
    return rc;
}

bool em_tables_in_memory(const em_tables *tables)
{
    return tables->tier == EM_ENGRAM_TIER_RAM || tables->tier == EM_ENGRAM_TIER_PINNED ||
           tables->tier == EM_ENGRAM_TIER_SHARED;
}

uint64_t em_tables_bytes(const em_tables *tables, int32_t table_idx)
{
    const em_engram_table *view = &tables->view[table_idx];
    return (uint64_t)view->n_rows * (view->row_bytes + view->scale_bytes);
}

uint64_t em_tables_resident_bytes(const em_tables *tables, int32_t table_idx)
{
    const em_engram_table *view = &tables->view[table_idx];
    uint64_t bytes = 0;
    if (tables->tier == EM_ENGRAM_TIER_RAM || tables->tier == EM_ENGRAM_TIER_PINNED)
        return em_tables_bytes(tables, table_idx);
    if (view->codes)
        bytes += em_memory_resident(view->codes, (size_t)view->n_rows * view->row_bytes);
    if (view->scales)
        bytes += em_memory_resident(view->scales, (size_t)view->n_rows * view->scale_bytes);
    return bytes;
}

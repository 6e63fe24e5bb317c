#include "engram/disk.h"
#include "engram/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LARGEST_ALIGN 4096 /* what is read for one row should stay small; also where the kernel does not tell */

em_span em_disk_span(const em_disk *disk, int32_t table_idx, int64_t row_id)
{
    const em_disk_table *table = &disk->table[table_idx];
    uint64_t begin = table->offset + (uint64_t)row_id * disk->row_bytes, end = begin + disk->row_bytes;
    uint64_t first = begin / table->align * table->align;
    uint64_t last = (end + table->align - 1) / table->align * table->align;
    return (em_span){first, (uint32_t)(last - first), (uint32_t)(begin - first)};
}

size_t em_disk_span_bytes(const em_disk *disk)
{
    size_t bytes = 0;
    for (int32_t t = 0; t < disk->n_tables; t++) {
        size_t align = disk->table[t].align, n = (disk->row_bytes + 2 * (align - 1)) / align * align;
        bytes = n > bytes ? n : bytes;
    }
    return bytes;
}

/* All of a row, in as many reads as it takes. */
static int read_all(int fd, uint8_t *to, size_t bytes, uint64_t offset)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pread(fd, to + done, bytes - done, (off_t)(offset + done));
        if (n > 0)
            done += (size_t)n;
        else if (n == 0 || errno != EINTR)
            return -EIO;
    }
    return 0;
}

int em_disk_read_row(const em_disk *disk, int32_t table_idx, int64_t row_id, uint8_t *to)
{
    const em_disk_table *table = &disk->table[table_idx];
    return read_all(table->buffered_fd, to, disk->row_bytes, table->offset + (uint64_t)row_id * disk->row_bytes);
}

void em_disk_count_begin(em_disk *disk)
{
    uint32_t n = __atomic_add_fetch(&disk->n_in_flight, 1, __ATOMIC_RELAXED);
    uint32_t most = __atomic_load_n(&disk->most_in_flight, __ATOMIC_RELAXED);
    while (n > most &&
           !__atomic_compare_exchange_n(&disk->most_in_flight, &most, n, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

void em_disk_count_end(em_disk *disk)
{
    __atomic_sub_fetch(&disk->n_in_flight, 1, __ATOMIC_RELAXED);
}

/* --- opening ------------------------------------------------------------------------------------------------- */

/* Blocks that direct reads of this file must consist of; 0: it has none. */
static uint32_t direct_align(int fd)
{
#ifdef STATX_DIOALIGN
    struct statx sx;
    if (!statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) && sx.stx_mask & STATX_DIOALIGN)
        return sx.stx_dio_offset_align > sx.stx_dio_mem_align ? sx.stx_dio_offset_align : sx.stx_dio_mem_align;
#endif
    return LARGEST_ALIGN;
}

/* One block, as all reads will be: some file systems open for direct reads and refuse them later. */
static bool can_read_direct(const em_disk *disk, int32_t table_idx, int fd)
{
    em_span span = em_disk_span(disk, table_idx, 0);
    void *block =
        aligned_alloc(LARGEST_ALIGN, ((size_t)span.bytes + LARGEST_ALIGN - 1) / LARGEST_ALIGN * LARGEST_ALIGN);
    bool fine = block && pread(fd, block, span.bytes, (off_t)span.offset) >= (ssize_t)(span.row_at + disk->row_bytes);
    free(block);
    return fine;
}

/* A descriptor for direct reads of the very file that the caller has open, whatever its name means by now. */
static void open_direct(em_disk *disk, int32_t table_idx, int caller_fd)
{
    em_disk_table *table = &disk->table[table_idx];
    char path[40];

    snprintf(path, sizeof path, "/proc/self/fd/%d", caller_fd);
    int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (fd < 0)
        return;
    uint32_t align = direct_align(fd);
    if (align && align <= LARGEST_ALIGN && !(align & (align - 1))) {
        table->align = align;
        if (can_read_direct(disk, table_idx, fd)) {
            table->fd = fd;
            return;
        }
        table->align = 1;
    }
    close(fd);
}

static int open_table(em_disk *disk, const em_engram_source *source, int32_t table_idx, char *err, size_t err_len)
{
    em_disk_table *table = &disk->table[table_idx];
    struct stat st;
    uint64_t end;
    uint8_t *row;

    *table = (em_disk_table){-1, -1, 1, source->codes_offset, NULL};
    if (source->codes_fd <= 0)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: the nvme tier needs the file of the table of layer %d",
                              source->layer);
    if (fstat(source->codes_fd, &st))
        return em_engram_fail(err, err_len, -errno, "Engram: cannot look at the file of the table of layer %d: %s",
                              source->layer, strerror(errno));
    if (!S_ISREG(st.st_mode) || __builtin_mul_overflow((uint64_t)source->n_rows, disk->row_bytes, &end) ||
        __builtin_add_overflow(end, table->offset, &end) || end > (uint64_t)st.st_size ||
        source->n_rows > INT64_MAX / EM_ENGRAM_MAX_TABLES)
        return em_engram_fail(err, err_len, -EINVAL,
                              "Engram: the file of the table of layer %d has %lld bytes, too few for %lld rows at %llu",
                              source->layer, (long long)st.st_size, (long long)source->n_rows,
                              (unsigned long long)table->offset);
    table->buffered_fd = fcntl(source->codes_fd, F_DUPFD_CLOEXEC, 3);
    if (table->buffered_fd < 0)
        return em_engram_fail(err, err_len, -errno, "Engram: no descriptor for the table of layer %d: %s",
                              source->layer, strerror(errno));
    open_direct(disk, table_idx, source->codes_fd);
    if (table->fd < 0)
        table->fd = fcntl(source->codes_fd, F_DUPFD_CLOEXEC, 3);
    row = malloc(disk->row_bytes);
    int rc = table->fd < 0 || !row ? -ENOMEM : em_disk_read_row(disk, table_idx, 0, row);
    free(row);
    if (rc)
        return em_engram_fail(err, err_len, rc, "Engram: cannot read the table of layer %d: %s", source->layer,
                              strerror(-rc));
    return 0;
}

static bool try_ring(void)
{
    em_uring ring;
    uint8_t byte;
    bool fine = !em_uring_open(&ring, 1, &byte, 1);
    em_uring_close(&ring);
    return fine;
}

int em_disk_open(em_disk *disk, const em_engram_spec *spec, const em_engram_opts *opts, char *err, size_t err_len)
{
    int rc = 0;

    memset(disk, 0, sizeof *disk);
    disk->row_bytes = em_engram_row_bytes(spec);
    disk->scale_bytes = em_engram_scale_bytes(spec);
    for (int32_t t = 0; !rc && t < spec->n_tables; t++) {
        disk->n_tables = t + 1;
        rc = open_table(disk, &spec->table[t], t, err, err_len);
    }
    if (!rc && em_row_cache_open(&disk->cache, disk->row_bytes, em_row_cache_rows(disk->row_bytes, opts->cache_bytes)))
        rc = em_engram_fail(err, err_len, -ENOMEM, "Engram: no memory for a row cache of %llu bytes",
                            (unsigned long long)opts->cache_bytes);
    if (rc) {
        em_disk_close(disk);
        return rc;
    }
    disk->ring_allowed = try_ring();
    return 0;
}

void em_disk_close(em_disk *disk)
{
    if (!disk->n_tables)
        return;
    for (int32_t t = 0; t < disk->n_tables; t++) {
        if (disk->table[t].fd >= 0)
            close(disk->table[t].fd);
        if (disk->table[t].buffered_fd >= 0)
            close(disk->table[t].buffered_fd);
    }
    em_row_cache_close(&disk->cache);
    memset(disk, 0, sizeof *disk);
}

/* The nvme tier: codes stay in their files and are read row by row, past the page cache where the file system allows it;
 * rows read lately are kept in bounded memory. Scales are a fortieth of the codes and lie in memory. */
#ifndef EM_ENGRAM_DISK_H
#define EM_ENGRAM_DISK_H

#include "engram/internal.h"
#include "engram/row_cache.h"

typedef struct em_disk_table {
    int fd;                /* our own, for reads of whole blocks; -1: not open */
    int buffered_fd;       /* the same file through the page cache, for a row at a time */
    uint32_t align;        /* of offsets and sizes of reads through fd; 1: any */
    uint64_t offset;       /* of row 0 */
    const uint8_t *scales; /* [n_rows, scale_bytes] in memory; the caller sets it after open; NULL: no scales */
} em_disk_table;

typedef struct em_disk {
    int32_t n_tables; /* 0: not open */
    size_t row_bytes, scale_bytes;
    bool ring_allowed; /* io_uring works here; else threads that read */
    em_disk_table table[EM_ENGRAM_MAX_TABLES];
    em_row_cache cache;
    uint32_t n_in_flight, most_in_flight; /* reads, of all threads; atomic */
} em_disk;

/* Opens each table's file anew, checks that it holds all rows and can be read. -errno with a sentence; then there is
 * nothing to close. */
int em_disk_open(em_disk *disk, const em_engram_spec *spec, const em_engram_opts *opts, char *err, size_t err_len);
void em_disk_close(em_disk *disk);

/* A block of a file that holds a row: where it begins, its bytes, and where the row is in it. */
typedef struct em_span {
    uint64_t offset;
    uint32_t bytes;
    uint32_t row_at;
} em_span;

em_span em_disk_span(const em_disk *disk, int32_t table_idx, int64_t row_id);
size_t em_disk_span_bytes(const em_disk *disk); /* of the longest span of any table */

/* Reads one row on the calling thread. 0 or -EIO. */
int em_disk_read_row(const em_disk *disk, int32_t table_idx, int64_t row_id, uint8_t *to);

/* Called around each read. */
void em_disk_count_begin(em_disk *disk);
void em_disk_count_end(em_disk *disk);

static inline uint64_t em_disk_key(int32_t table_idx, int64_t row_id)
{
    return (uint64_t)row_id * EM_ENGRAM_MAX_TABLES + (uint64_t)table_idx;
}

#endif

/* The tables of a model in one tier. Rows that are in memory are asked for by id through em_tables_copy_rows, wherever
 * that memory comes from; rows on a disk are brought by the readers of gather.c, many at a time. */
#ifndef EM_ENGRAM_TABLE_H
#define EM_ENGRAM_TABLE_H

#include "engram/disk.h"
#include "engram/shared.h"

typedef struct em_tables {
    em_engram_tier tier; /* never AUTO */
    int32_t n_tables;
    em_engram_table view[EM_ENGRAM_MAX_TABLES];  /* what is read */
    em_engram_table owned[EM_ENGRAM_MAX_TABLES]; /* our own copy in the ram tier, else all zero */
    em_shared shared;                            /* the mapping of the shared tier */
    em_disk disk;                                /* the files of the nvme tier, whose views have no codes */
    em_engram_mem mem;
} em_tables;

/* Checks the sources and opens the tier; on failure there is nothing to close. */
int em_tables_open(em_tables *tables, const em_engram_spec *spec, const em_engram_opts *opts, char *err,
                   size_t err_len);
void em_tables_close(em_tables *tables);

/* Copies the rows row_id[0 .. n-1] side by side. codes: [n, row_bytes]; scales: [n, scale_bytes], NULL without
 * scales. 0, or -EIO from a disk. */
int em_tables_copy_rows(const em_tables *tables, int32_t table_idx, const int64_t *row_id, size_t n, uint8_t *codes,
                        uint8_t *scales);

/* No row can be slow: none has to come from a disk first. */
bool em_tables_in_memory(const em_tables *tables);

uint64_t em_tables_bytes(const em_tables *tables, int32_t table_idx);
uint64_t em_tables_resident_bytes(const em_tables *tables, int32_t table_idx); /* without the row cache */

#endif

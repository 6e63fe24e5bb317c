/* The checksum mode: every row that is given out is read once more from its file and compared. */
#ifndef EM_ENGRAM_VERIFY_H
#define EM_ENGRAM_VERIFY_H

#include "engram/staging.h"

/* A table's two arrays in their files. */
typedef struct em_verify_table {
    int codes_fd, scales_fd; /* our own; -1: not open */
    uint64_t codes_offset, scales_offset;
} em_verify_table;

typedef struct em_verify {
    int32_t n_tables; /* 0: the mode is off */
    size_t row_bytes, scale_bytes;
    em_verify_table table[EM_ENGRAM_MAX_TABLES];
    /* atomic: rows compared, and those that were not what the file holds, or whose file could not be read */
    uint64_t n_compared, n_wrong;
} em_verify;

/* On when opts->verify says so. -errno with a sentence where a table's file is not told; then nothing is open. */
int em_verify_open(em_verify *verify, const em_engram_spec *spec, const em_engram_opts *opts, char *err,
                   size_t err_len);
void em_verify_close(em_verify *verify);

/* 0: the rows of a chunk are those of the file, or the mode is off. -EBADMSG: some row is not, -EIO: the file cannot be
 * read; such rows are marked as lost. Any thread. */
int em_verify_chunk(em_verify *verify, const em_chunk *chunk);

#endif

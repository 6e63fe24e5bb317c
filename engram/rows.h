/* The gather kernel: rows from random places of a table, side by side. */
#ifndef EM_ENGRAM_ROWS_H
#define EM_ENGRAM_ROWS_H

#include "engram/engram.h"

/* codes: [n, table->row_bytes]; scales: [n, table->scale_bytes], not looked at when scale_bytes is 0. */
void em_rows_copy(const em_engram_table *table, const int64_t *row_id, size_t n, uint8_t *codes, uint8_t *scales);

#endif

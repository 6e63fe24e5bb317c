/* The whole of libengram on a page: a table, a question, the rows.
 *
 *   cc engram_lookup.c $(pkg-config --cflags --libs libengram) && ./a.out */
#include <engram/engram.h>

#include <stdio.h>
#include <stdlib.h>

enum { HEADS = 2, COLUMNS = 4, N_ROWS = 4000 };

/* A table that can be checked by eye: every number of row i is i. Real ones are mapped from a checkpoint. */
static float *make_table(void)
{
    float *table = malloc(sizeof(float) * N_ROWS * COLUMNS);
    for (int i = 0; table && i < N_ROWS * COLUMNS; i++)
        table[i] = (float)(i / COLUMNS);
    return table;
}

int main(void)
{
    float *table = make_table();
    em_engram_spec spec = {.n_tables = 1, .dtype = EM_ENGRAM_F32, .max_order = 3, .n_heads = HEADS,
                           .head_dim = COLUMNS, .prime_start = 900, .n_classes = 100, .pad_class = 0};
    em_engram_opts opts = {.tier = EM_ENGRAM_TIER_RAM, .max_tokens = 8, .max_tickets = 2};
    const int32_t classes[] = {17, 4, 63}; /* of three tokens: the text so far */
    int32_t suffix[3 * 3];
    em_engram *engram;
    em_engram_ticket *ticket;
    em_engram_rows rows;
    char err[256];

    spec.table[0] = (em_engram_source){.layer = 1, .n_rows = N_ROWS, .codes = (const uint8_t *)table};
    if (!table || em_engram_open(&spec, &opts, &engram, err, sizeof err)) {
        fprintf(stderr, "%s\n", table ? err : "out of memory");
        return 1;
    }
    for (size_t t = 0; t < 3; t++) /* what each token looks back to: itself, then older ones */
        em_engram_suffix(em_engram_table_hash(engram, 0), classes, t + 1, suffix + 3 * t);

    if (em_engram_ask(engram, suffix, 3, &ticket)) /* early: when the ids are known; other work goes here */
        return 1;
    if (em_engram_take(ticket, 0, &rows)) /* late: when the layer wants them */
        return 1;
    for (int32_t i = 0; i < rows.n_tokens * rows.n_cols; i++)
        printf("token %d, order %d, head %d: row %lld holds %g\n", i / rows.n_cols, 2 + i % rows.n_cols / HEADS,
               i % HEADS, (long long)rows.row_id[i], ((const float *)rows.codes)[i * COLUMNS]);
    em_engram_release(ticket);
    em_engram_close(engram);
    free(table);
    return 0;
}

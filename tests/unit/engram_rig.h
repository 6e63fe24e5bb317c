/* Random table models for the tests of engram/, and what must be true of the rows that come out. */
#ifndef EM_TESTS_ENGRAM_RIG_H
#define EM_TESTS_ENGRAM_RIG_H

#include <check.h>

#include "engram/engram.h"
#include "engram/pcg64.h"

typedef struct model {
    em_engram_spec spec;
    uint8_t *codes[EM_ENGRAM_MAX_TABLES]; /* as allocated; the table begins a few bytes in, as in a checkpoint */
    uint8_t *scales[EM_ENGRAM_MAX_TABLES];
    size_t row_bytes, scale_bytes;
    int fd; /* of the file that put_in_file made; 0: none */
} model;

uint64_t below(em_pcg64 *rng, uint64_t bound);

/* Tables of random bytes in memory, of a random number of orders, heads and classes. */
model make_model(em_pcg64 *rng, em_engram_dtype dtype, int32_t n_tables, int32_t head_dim, int64_t prime_start);
void free_model(model *m); /* closes its file, too */

/* Writes the tables into one file at odd places, as a checkpoint has them, and names it in the sources. The file has no
 * name any more when this returns. */
void put_in_file(model *m, const char *dir);

em_engram *open_model(const model *m, const em_engram_opts *opts);
void random_suffix(const model *m, em_pcg64 *rng, int32_t n_tokens, int32_t *suffix);

/* Every byte against the caller's table and the hash. No ck_assert in here: it runs in threads of the test too, and
 * writes to a pipe each time. */
bool rows_are_right(const model *m, const em_engram *g, int32_t table_idx, const int32_t *suffix, int32_t n_tokens,
                    const em_engram_rows *rows);
#define check_rows(...) ck_assert_msg(rows_are_right(__VA_ARGS__), "wrong rows")

void await_ready(const uint32_t *ready);

/* Random asks of up to max_tokens tokens, each taken and looked at. */
void check_asks(const model *m, em_engram *g, em_pcg64 *rng, int n_asks, int32_t max_tokens);

#endif

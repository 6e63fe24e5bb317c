/* The door: checks what comes from outside, then hashing, tables and gather threads do the work. */
#include "engram/gather.h"
#include "engram/row_ids.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct em_engram {
    em_engram_hash hash[EM_ENGRAM_MAX_TABLES];
    em_row_hasher hasher[EM_ENGRAM_MAX_TABLES];
    int32_t n_classes;
    int32_t max_tokens;
    em_tables tables;
    em_gather gather;
};

int em_engram_fail(char *err, size_t err_len, int code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (err_len)
        vsnprintf(err, err_len, fmt, args);
    va_end(args);
    return code;
}

static int check_opts(const em_engram_opts *opts, char *err, size_t err_len)
{
    if (opts->max_tokens < 1 || opts->max_tokens > EM_ENGRAM_MAX_ASK_TOKENS)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: %d tokens per ask given, 1 to %d are possible",
                              opts->max_tokens, EM_ENGRAM_MAX_ASK_TOKENS);
    if (opts->max_tickets < 1 || opts->max_tickets > EM_ENGRAM_MAX_TICKETS)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: %d tickets given, 1 to %d are possible",
                              opts->max_tickets, EM_ENGRAM_MAX_TICKETS);
    if (opts->n_threads < 0 || opts->n_threads > EM_ENGRAM_MAX_THREADS)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: %d gather threads given, 0 to %d are possible",
                              opts->n_threads, EM_ENGRAM_MAX_THREADS);
    if (!opts->mem.alloc != !opts->mem.free)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: memory functions come as a pair, one of them is missing");
    return 0;
}

int em_engram_open(const em_engram_spec *spec, const em_engram_opts *opts, em_engram **ret_engram, char *err,
                   size_t err_len)
{
    int rc = check_opts(opts, err, err_len);
    if (rc)
        return rc;
    em_engram *g = calloc(1, sizeof *g);
    if (!g)
        return em_engram_fail(err, err_len, -ENOMEM, "Engram: out of memory");

    g->n_classes = spec->n_classes;
    g->max_tokens = opts->max_tokens;
    rc = em_engram_hash_init(spec, g->hash, err, err_len);
    if (rc)
        goto fail;
    for (int32_t i = 0; i < spec->n_tables; i++)
        em_row_hasher_init(&g->hasher[i], &g->hash[i]);
    rc = em_tables_open(&g->tables, spec, opts, err, err_len);
    if (rc)
        goto fail;
    rc = em_gather_open(&g->gather, &g->tables, spec, opts, err, err_len);
    if (rc)
        goto fail_tables;
    *ret_engram = g;
    return 0;

fail_tables:
    em_tables_close(&g->tables);
fail:
    free(g);
    return rc;
}

em_engram *em_engram_close(em_engram *g)
{
    if (!g)
        return NULL;
    em_gather_close(&g->gather);
    em_tables_close(&g->tables);
    free(g);
    return NULL;
}

const em_engram_hash *em_engram_table_hash(const em_engram *g, int32_t table_idx)
{
    return table_idx >= 0 && table_idx < g->tables.n_tables ? &g->hash[table_idx] : NULL;
}

em_engram_tier em_engram_tier_of(const em_engram *g)
{
    return g->tables.tier;
}

int em_engram_copy_rows(const em_engram *g, int32_t table_idx, const int64_t *row_id, size_t n, uint8_t *codes,
                        uint8_t *scales)
{
    return em_tables_copy_rows(&g->tables, table_idx, row_id, n, codes, scales);
}

void em_engram_table_view(const em_engram *g, int32_t table_idx, em_engram_table *ret_table)
{
    if (table_idx >= 0 && table_idx < g->tables.n_tables)
        *ret_table = g->tables.view[table_idx];
    else
        memset(ret_table, 0, sizeof *ret_table);
}

static bool classes_in_range(const em_engram *g, const int32_t *suffix, size_t n)
{
    uint32_t limit = (uint32_t)g->n_classes;
    bool fine = true;
    for (size_t i = 0; i < n; i++)
        fine &= (uint32_t)suffix[i] < limit;
    return fine;
}

int em_engram_ask(em_engram *g, const int32_t *suffix, int32_t n_tokens, em_engram_ticket **ret_ticket)
{
    size_t depth = (size_t)g->hash[0].max_order;

    if (n_tokens < 1 || n_tokens > g->max_tokens || !classes_in_range(g, suffix, (size_t)n_tokens * depth))
        return -EINVAL;
    em_engram_ticket *t = em_gather_reserve(&g->gather);
    if (!t)
        return -EAGAIN;

    t->n_tokens = n_tokens;
    for (int32_t table = 0; table < g->tables.n_tables; table++)
        em_row_hasher_run(&g->hasher[table], suffix, (size_t)n_tokens, t->part[table].row_id);
    em_gather_submit(&g->gather, t);
    *ret_ticket = t;
    return 0;
}

void em_engram_peek(em_engram_ticket *t, int32_t table_idx, em_engram_rows *ret_rows)
{
    if (table_idx < 0 || table_idx >= t->gather->tables->n_tables) {
        memset(ret_rows, 0, sizeof *ret_rows);
        return;
    }
    const em_part *part = &t->part[table_idx];
    *ret_rows = (em_engram_rows){t->n_tokens,  t->gather->n_cols, part->codes, part->scales,
                                 part->row_id, part->ready,       part->flags};
}

int em_engram_take(em_engram_ticket *t, int32_t table_idx, em_engram_rows *ret_rows)
{
    if (table_idx < 0 || table_idx >= t->gather->tables->n_tables)
        return -EINVAL;
    int rc = em_gather_wait(t->gather, t, table_idx);
    em_engram_peek(t, table_idx, ret_rows);
    return rc;
}

em_engram_ticket *em_engram_release(em_engram_ticket *t)
{
    if (t)
        em_gather_release(t->gather, t);
    return NULL;
}

void em_engram_get_stats(em_engram *g, em_engram_stats *ret_stats)
{
    em_gather_get_stats(&g->gather, ret_stats);
    ret_stats->cache_bytes = em_row_cache_bytes(&g->tables.disk.cache);
    ret_stats->resident_bytes = ret_stats->cache_bytes;
    ret_stats->table_bytes = 0;
    for (int32_t i = 0; i < g->tables.n_tables; i++) {
        em_engram_table_stats *table = &ret_stats->table[i];
        table->table_bytes = em_tables_bytes(&g->tables, i);
        table->resident_bytes = em_tables_resident_bytes(&g->tables, i);
        ret_stats->table_bytes += table->table_bytes;
        ret_stats->resident_bytes += table->resident_bytes;
    }
}

#include "engram/staging.h"
#include "engram/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN ((size_t)256) /* what a device's copies and loads like best */

/* The arrays of one part, as offsets into a ticket's block. */
typedef struct em_layout {
    size_t codes, scales, row_id, ready, flags;
} em_layout;

static bool add_array(size_t *end, size_t n, size_t element_bytes, size_t *ret_at)
{
    size_t bytes;
    *ret_at = *end;
    if (__builtin_mul_overflow(n, element_bytes, &bytes) || bytes > PTRDIFF_MAX - ALIGN)
        return false;
    bytes = (bytes + ALIGN - 1) & ~(ALIGN - 1);
    return !__builtin_add_overflow(*end, bytes, end) && *end <= PTRDIFF_MAX;
}

static bool lay_out(const em_engram_spec *spec, int32_t max_tokens, em_layout *layout, size_t *ret_bytes)
{
    size_t n = (size_t)max_tokens * (size_t)(spec->max_order - 1) * (size_t)spec->n_heads;
    size_t end = 0;
    for (int32_t t = 0; t < spec->n_tables; t++)
        if (!add_array(&end, n, em_engram_row_bytes(spec), &layout[t].codes) ||
            !add_array(&end, n, em_engram_scale_bytes(spec), &layout[t].scales) ||
            !add_array(&end, n, sizeof(int64_t), &layout[t].row_id) ||
            !add_array(&end, 1, sizeof(uint32_t), &layout[t].ready) ||
            !add_array(&end, (size_t)max_tokens, 1, &layout[t].flags))
            return false;
    *ret_bytes = end;
    return true;
}

static void place_parts(em_engram_ticket *ticket, const em_engram_spec *spec, const em_layout *layout)
{
    uint8_t *block = ticket->block;
    for (int32_t t = 0; t < spec->n_tables; t++) {
        em_part *part = &ticket->part[t];
        part->codes = block + layout[t].codes;
        part->scales = em_engram_scale_bytes(spec) ? block + layout[t].scales : NULL;
        part->row_id = (int64_t *)(block + layout[t].row_id);
        part->ready = (uint32_t *)(block + layout[t].ready);
        *part->ready = 0;
        part->flags = block + layout[t].flags;
        part->row_bytes = em_engram_row_bytes(spec);
        part->n_cols = (spec->max_order - 1) * spec->n_heads;
    }
}

size_t em_engram_staging_bytes(const em_engram_spec *spec, int32_t max_tokens, int32_t max_tickets)
{
    em_layout layout[EM_ENGRAM_MAX_TABLES];
    size_t bytes, tickets, parts;
    if (!lay_out(spec, max_tokens, layout, &bytes) || __builtin_mul_overflow(bytes, (size_t)max_tickets, &bytes) ||
        __builtin_mul_overflow(sizeof(em_engram_ticket), (size_t)max_tickets, &tickets) ||
        __builtin_add_overflow(bytes, tickets, &parts))
        return 0;
    return parts;
}

static bool alloc_tickets(em_staging *staging, const em_engram_spec *spec, const em_engram_opts *opts,
                          const em_layout *layout)
{
    staging->ticket = calloc((size_t)opts->max_tickets, sizeof *staging->ticket);
    while (staging->ticket && staging->n_tickets < opts->max_tickets) {
        em_engram_ticket *ticket = &staging->ticket[staging->n_tickets];
        ticket->block = em_memory_alloc(&staging->mem, staging->block_bytes, EM_PAGES_SMALL);
        if (!ticket->block)
            return false;
        place_parts(ticket, spec, layout);
        staging->n_tickets++;
    }
    return staging->ticket;
}

/* Plain memory: no device looks at it. */
static bool alloc_chains(em_staging *staging, const em_engram_spec *spec, const em_engram_opts *opts)
{
    size_t n_rows = (size_t)opts->max_tokens * (size_t)(spec->max_order - 1) * (size_t)spec->n_heads;
    size_t n_parts = (size_t)opts->max_tickets * (size_t)spec->n_tables;

    if (n_rows >= EM_NO_ROW)
        return false;
    staging->same = calloc(n_parts, n_rows * sizeof *staging->same);
    for (size_t i = 0; staging->same && i < n_parts; i++)
        staging->ticket[i / (size_t)spec->n_tables].part[i % (size_t)spec->n_tables].same = staging->same + i * n_rows;
    return staging->same;
}

int em_staging_open(em_staging *staging, const em_engram_spec *spec, const em_engram_opts *opts, char *err,
                    size_t err_len)
{
    em_layout layout[EM_ENGRAM_MAX_TABLES];

    memset(staging, 0, sizeof *staging);
    staging->mem = opts->mem;
    if (!lay_out(spec, opts->max_tokens, layout, &staging->block_bytes))
        return em_engram_fail(err, err_len, -EINVAL,
                              "Engram: the rows of %d tokens have more bytes than can be addressed", opts->max_tokens);
    if (!alloc_tickets(staging, spec, opts, layout) ||
        (opts->tier == EM_ENGRAM_TIER_NVME && !alloc_chains(staging, spec, opts))) {
        em_staging_close(staging);
        return em_engram_fail(err, err_len, -ENOMEM,
                              "Engram: no memory for the rows in flight: %d tickets of %d tokens, %zu bytes each",
                              opts->max_tickets, opts->max_tokens, staging->block_bytes);
    }
    return 0;
}

void em_staging_close(em_staging *staging)
{
    for (int32_t i = 0; i < staging->n_tickets; i++)
        em_memory_free(&staging->mem, staging->ticket[i].block, staging->block_bytes);
    free(staging->ticket);
    free(staging->same);
    staging->ticket = NULL;
    staging->same = NULL;
    staging->n_tickets = 0;
}

/* What a model's Engram tables are: layout, hash parameters, files, and which tier they would get on this machine. Part of
 * the engine's door (engine/engine.h includes it). Reads config.json, tokenizer.json and the headers of the tensor files;
 * no row is touched. */
#ifndef EM_ENGINE_INSPECT_H
#define EM_ENGINE_INSPECT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/machine.h"
#include "engram/engram.h"

#define EM_INSPECT_MAX_TIERS 8

typedef struct em_inspect_table {
    int32_t layer;
    int64_t n_rows;      /* in the file; hash.n_rows of them can be addressed */
    uint64_t bytes;      /* codes and scales */
    em_engram_hash hash; /* buckets (primes, first rows) and multipliers */
} em_inspect_table;

/* What serving with these tables in a tier would take. */
typedef struct em_inspect_tier {
    const char *name;             /* "ram" */
    uint64_t own, locked, cached; /* bytes of the whole plan, see em_memory_plan; own holds locked, too */
    bool fits;
} em_inspect_tier;

typedef struct em_inspect {
    int32_t n_tables; /* 0: the model has no Engram layers, nothing below but the tiers' count of 0 means anything */
    int32_t max_order, n_heads, head_dim;
    int64_t prime_start;                        /* engram_vocab_size */
    int32_t n_ids, n_classes;                   /* of the tokenizer, of the compressed token map */
    int32_t pad_id, pad_class;                  /* a token, and what look-backs past the start become */
    const char *dtype, *scale_dtype;            /* "F8_E4M3", "F8_E8M0"; scale_dtype NULL: no scales */
    size_t row_bytes, scale_bytes;              /* of one row */
    uint64_t table_bytes;                       /* of all tables */
    const char *auto_tier;                      /* what `auto` takes */
    const char *why;                            /* a sentence */
    em_inspect_tier tier[EM_INSPECT_MAX_TIERS]; /* every one there is */
    int32_t n_tiers;
    em_inspect_table table[EM_ENGRAM_MAX_TABLES];
} em_inspect;

struct em_engine_opts; /* of engine/engine.h */
/* roots: where the machine is read; NULL: this machine. The struct is large: not for the stack. */
int em_engine_inspect(const struct em_engine_opts *opts, const em_machine_roots *roots, em_inspect *ret_inspect,
                      em_error *err);

#endif

/* The memory plan: what an engine would take, from config.json, the safetensors headers and the options alone, before
 * any of it is taken; and whether this machine has it. Part of the engine's door (engine/engine.h includes it).
 *
 * Counting is arithmetic on the numbers that opening uses itself: the shape, the CPU backend's list of buffers, the
 * Engram library's staging. Only em_engine_plan reads files; em_plan_count and em_plan_judge are pure. */
#ifndef EM_ENGINE_PLAN_H
#define EM_ENGINE_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/machine.h"

#define EM_PLAN_MAX_ITEMS 16
#define EM_PLAN_MAX_CHECKS 8

/* Where bytes lie, and what that means when memory is short. */
typedef enum em_plan_place {
    EM_PLACE_OWN,    /* the process's own memory: must fit, or the kernel kills the process */
    EM_PLACE_MAPPED, /* pages of files that every step reads: must stay in memory, or each step reads the disk */
    EM_PLACE_CACHED, /* pages of files read here and there: as many stay as there is room for */
    EM_PLACE_DEVICE, /* memory of the GPU */
    EM_PLACE_LOCKED, /* own memory that must not move: counts against RLIMIT_MEMLOCK, too */
} em_plan_place;

typedef struct em_plan_item {
    const char *name; /* "kv_blocks" */
    const char *what; /* for people: "compressed keys and values" */
    em_plan_place place;
    uint64_t bytes;
    bool estimated; /* not known before it is there */
} em_plan_item;

typedef struct em_plan_check {
    const char *name;     /* "cgroup", "free_memory", "locked_memory", "address_space", "device_memory" */
    uint64_t need, limit; /* bytes */
    bool known;           /* false: the machine does not say; counts as good */
    bool good;
} em_plan_check;

typedef struct em_memory_plan {
    /* the settings it was made for, defaults filled in */
    int32_t n_threads, max_len, max_seqs, max_batch_tokens, n_snapshots;
    int32_t block_tokens, n_blocks;
    const char *engram_tier; /* "ram", "mmap", ..., "none" */

    em_plan_item item[EM_PLAN_MAX_ITEMS];
    int32_t n_items;
    uint64_t own, mapped, cached, locked; /* sums by place; own holds locked, too */
    uint64_t device;                      /* one arena of the GPU's memory; 0: the CPU computes */
    uint64_t device_free;                 /* what the GPU had when it was asked */

    const char *backend;   /* "cpu", "cuda" */
    char device_name[96];  /* of the GPU that was planned for; empty: none */
    char backend_why[256]; /* why the GPU was not taken although it was allowed; empty otherwise */

    em_machine machine;
    em_plan_check check[EM_PLAN_MAX_CHECKS];
    int32_t n_checks;
    bool fits;
    char advice[512]; /* one sentence when it does not fit */
} em_memory_plan;

struct em_engine_opts; /* of engine/engine.h */
/* roots: where the machine is read; NULL: this machine. A plan that does not fit is no failure: see `fits`. */
int em_engine_plan(const struct em_engine_opts *opts, const em_machine_roots *roots, em_memory_plan *ret_plan,
                   em_error *err);

#endif

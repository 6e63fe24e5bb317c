/* What the command line, the environment and a file may say: one table of options, one struct.
 *
 * Sources, weakest first: defaults, the file of --config, the environment, flags. Every value is checked against the
 * table wherever it comes from. Used by one thread at start; read-only afterwards, so any thread may look. */
#ifndef EM_SERVER_CONFIG_H
#define EM_SERVER_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/base/error.h"

#define EM_CONFIG_MAX_OPTIONS 128
#define EM_CONFIG_MAX_LIST 64 /* values of one list option */
#define EM_CONFIG_MAX_FILE (1u << 20)

typedef enum em_command {
    EM_COMMAND_SERVE = 1,
    EM_COMMAND_GENERATE = 2,
    EM_COMMAND_PLAN = 4,
    EM_COMMAND_SCORE = 8,
    EM_COMMAND_BENCH = 16,
    EM_COMMAND_PROBE = 32,
    EM_COMMAND_ENGRAM_INSPECT = 64,
    EM_COMMAND_ENGRAM_TRACE = 128,
} em_command;

typedef struct em_strings {
    char **s;
    int n;
} em_strings;

/* One field per option of the table in options.c, in its order. Texts are owned by the struct. */
typedef struct em_config {
    /* the model */
    char *model; /* directory; empty: the one that comes with the program */
    em_strings served_model_name;
    int64_t max_model_len, max_num_seqs, max_num_batched_tokens;
    int64_t engram_cache_bytes, kv_cache_bytes, kv_block_tokens, prefix_snapshot_bytes;
    bool no_prefix_cache;
    bool engram_verify, engram_prefault;
    char *engram_tier, *engram_shared_dir, *backend, *cuda_module, *math;
    int64_t threads;

    /* where and for whom */
    char *host;
    int64_t port;
    em_strings allowed_host, cors_origin;
    char *api_key_file;
    bool public_metrics;
    bool no_page; /* nothing at / */
    char *default_thinking;
    bool ignore_unknown_fields;

    /* times, in nanoseconds */
    uint64_t request_timeout, drain_timeout, health_timeout, watchdog_timeout, keepalive_interval;
    uint64_t header_timeout, body_timeout, idle_timeout;

    /* limits of what a client can grow */
    int64_t max_connections, max_connections_per_address, max_header_bytes, max_body_bytes, max_total_body_bytes;
    int64_t max_output_bytes, max_reply_bytes;
    int64_t max_queue, max_prompts, max_choices, max_n, max_stops, max_stop_bytes, max_logprobs, max_json_depth;
    int64_t max_logit_bias;
    int64_t max_cache_salt_bytes;

    /* generate */
    int64_t max_tokens;
    double temperature, top_p;
    int64_t top_k, seed;
    bool ignore_eos;

    /* plan, score, bench, engram */
    bool json;
    em_strings batch, context, prompt_tokens;
    uint64_t seconds; /* in nanoseconds */
    int64_t read_bytes;
    char *svg;

    /* telling */
    char *log_format, *log_level, *config;

    const char *argument;                  /* the positional argument, borrowed from argv; NULL: none */
    const char *second_argument;           /* `engram trace` alone takes two; NULL: none */
    uint8_t source[EM_CONFIG_MAX_OPTIONS]; /* em_source of each option */
} em_config;

typedef enum em_source { EM_SOURCE_DEFAULT, EM_SOURCE_FILE, EM_SOURCE_ENVIRONMENT, EM_SOURCE_FLAG } em_source;

/* Reads all sources. argv[0] is the first word behind the subcommand; env is an environ-style list. -EINVAL with a
 * sentence on anything unknown or out of range, -ENOENT and the like for the file. */
int em_config_load(em_command command, int argc, char **argv, char **env, em_config **ret_config, em_error *err);
em_config *em_config_free(em_config *c); /* NULL is fine; returns NULL */

/* ENGRAMD_NAME, the variable of an option. */
void em_config_variable(const char *name, char *buf, size_t cap);
bool em_config_is_set(const em_config *c, const char *name); /* by any source but the defaults */

/* All values in effect that the command uses, a few log lines at the given level (an em_log_level). */
void em_config_log(const em_config *c, em_command command, int level);

/* The option part of `engramd COMMAND --help`. */
void em_config_help(FILE *out, em_command command);

#endif

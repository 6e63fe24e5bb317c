/* Counting what opening will take, and judging it against a machine. Everything here is arithmetic. */
#include "engine/plan_count.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DEFAULT_BLOCK_TOKENS 64
#define DEFAULT_KV_BYTES (INT64_C(1) << 30)
#define LOGITS_BYTES (INT64_C(32) << 20) /* of a step, unless the running sequences need more */

/* --- the shape -------------------------------------------------------------------------------------------------- */

static int32_t gcd(int32_t a, int32_t b)
{
    return b ? gcd(b, a % b) : a;
}

/* Positions that a block must be a multiple of. */
static int common_ratio(const em_model_config *cfg, const char *dir, int32_t *ret_lcm, em_error *err)
{
    int32_t lcm = 1;
    for (int32_t s = 0; s < cfg->n_kv_sources; s++) {
        int32_t ratio = cfg->role[cfg->kv_source_layer[s]].ratio;
        lcm = lcm / gcd(lcm, ratio) * ratio;
        if (lcm > 1 << 16)
            return em_error_set(err, -EINVAL, "%s/config.json: compress_ratios have no common block of positions", dir);
    }
    *ret_lcm = lcm;
    return 0;
}

static int check_opts(const em_model_opts *opts, em_error *err)
{
    if (opts->max_seqs < 1 || opts->max_seqs > 1 << 16)
        return em_error_set(err, -EINVAL, "--max-num-seqs %d is outside 1 .. 65536", opts->max_seqs);
    if (opts->max_snapshots < 0 || opts->max_snapshots > 1 << 20)
        return em_error_set(err, -EINVAL, "%d snapshots of sequences are outside 0 .. 1048576", opts->max_snapshots);
    if (opts->max_batch_tokens < 1 || opts->max_batch_tokens > 1 << 17)
        return em_error_set(err, -EINVAL, "--max-num-batched-tokens %d is outside 1 .. 131072", opts->max_batch_tokens);
    if (opts->n_threads < 0 || opts->n_threads > 1024)
        return em_error_set(err, -EINVAL, "--threads %d is outside 0 .. 1024", opts->n_threads);
    if (opts->kv_block_tokens < 0 || opts->kv_block_tokens > 1 << 16 || opts->kv_cache_bytes < 0)
        return em_error_set(err, -EINVAL, "--kv-block-tokens %d or --kv-cache-bytes %lld is out of range",
                            opts->kv_block_tokens, (long long)opts->kv_cache_bytes);
    return 0;
}

int em_model_shape(const em_model_config *cfg, const em_model_opts *opts, em_backend_shape *ret_shape, em_error *err)
{
    int32_t lcm = 1;
    int r = check_opts(opts, err);
    if (r < 0)
        return r;
    if (opts->max_len < 0 || opts->max_len > cfg->max_len)
        return em_error_set(err, -EINVAL, "--max-model-len %d is outside 1 .. %d, the model's length", opts->max_len,
                            cfg->max_len);
    if ((r = common_ratio(cfg, opts->dir, &lcm, err)) < 0)
        return r;
    int32_t want = opts->kv_block_tokens ? opts->kv_block_tokens : DEFAULT_BLOCK_TOKENS;
    em_backend_shape sh = {.max_len = opts->max_len ? opts->max_len : cfg->max_len,
                           .max_batch_tokens = opts->max_batch_tokens,
                           .n_slots = opts->max_seqs,
                           .n_snapshots = opts->max_snapshots,
                           .block_tokens = (want + lcm - 1) / lcm * lcm};
    int64_t per_seq = ((int64_t)sh.max_len + sh.block_tokens - 1) / sh.block_tokens;
    em_state_bytes state = em_cpu_state_bytes(cfg, sh.block_tokens);
    int64_t bytes = state.block, blocks = opts->kv_cache_bytes / bytes;
    if (opts->kv_cache_bytes == 0) {
        blocks = DEFAULT_KV_BYTES / bytes;
        blocks = blocks < per_seq ? per_seq : blocks;
        blocks = blocks > per_seq * sh.n_slots ? per_seq * sh.n_slots : blocks;
    } else if (blocks < 1) {
        return em_error_set(err, -EINVAL, "--kv-cache-bytes %lld is less than one block of %lld bytes",
                            (long long)opts->kv_cache_bytes, (long long)bytes);
    }
    sh.n_blocks = (int32_t)(blocks < INT32_MAX ? blocks : INT32_MAX);
    if (opts->snapshot_bytes) {
        int64_t snapshots = opts->snapshot_bytes / state.slot;
        snapshots = snapshots < sh.n_blocks ? snapshots : sh.n_blocks;
        sh.n_snapshots = snapshots < sh.n_snapshots ? (int32_t)snapshots : sh.n_snapshots;
    }
    *ret_shape = sh;
    return 0;
}

#define TENSOR_ALIGN 256 /* of the places that a device gives tensors */

void em_model_device_need(const em_weights_sizes *sizes, uint64_t n_tensors, const em_model_opts *opts,
                          const em_backend_shape *shape, em_device_need *ret_need)
{
    int64_t per_seq = ((int64_t)shape->max_len + shape->block_tokens - 1) / shape->block_tokens;
    int64_t most = per_seq * shape->n_slots;
    most = most < INT32_MAX ? most : INT32_MAX;
    *ret_need = (em_device_need){.weights = sizes->mapped - sizes->experts + sizes->owned + n_tensors * TENSOR_ALIGN,
                                 .experts = sizes->experts,
                                 .max_blocks =
                                     opts->kv_cache_bytes || most < shape->n_blocks ? shape->n_blocks : (int32_t)most};
}

int32_t em_model_logits_rows(const em_model_config *cfg, int32_t max_seqs, int32_t max_batch_tokens)
{
    int64_t rows = LOGITS_BYTES / ((int64_t)cfg->vocab_size * (int64_t)sizeof(float));
    rows = rows < max_batch_tokens ? rows : max_batch_tokens;
    return rows > max_seqs ? (int32_t)rows : max_seqs;
}

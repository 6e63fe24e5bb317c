/* Counting what opening will take. */
#include "engine/plan_count.h"

#include <string.h>

/* What cannot be counted before it is there, as measured: a tokenizer takes up to five times its file, a thread touches
 * little of its stack, and the program itself needs some. */
#define TOKENIZER_FACTOR 5
#define THREAD_BYTES (UINT64_C(128) << 10)
#define OTHER_THREADS 4 /* step, gather, HTTP, loader */
#define PROGRAM_BYTES (UINT64_C(8) << 20)
#define TENSOR_BYTES 256 /* of the list of tensors, names included */
#define SAMPLER_BYTES 12 /* for each token of the vocabulary */

static void add(em_memory_plan *p, const char *name, const char *what, em_plan_place place, uint64_t bytes,
                bool estimated)
{
    if (bytes == 0)
        return;
    p->item[p->n_items++] =
        (em_plan_item){.name = name, .what = what, .place = place, .bytes = bytes, .estimated = estimated};
    if (place == EM_PLACE_DEVICE)
        p->device += bytes;
    else if (place == EM_PLACE_MAPPED)
        p->mapped += bytes;
    else if (place == EM_PLACE_CACHED)
        p->cached += bytes;
    else
        p->own += bytes;
    if (place == EM_PLACE_LOCKED)
        p->locked += bytes;
}

/* Scales of FP8 rows: one byte for 32 columns, beside the rows; the nvme tier copies them into memory. */
static uint64_t scale_bytes(const em_plan_input *in)
{
    if (in->weights.table_dtype != EM_DTYPE_FP8)
        return 0;
    return in->weights.tables / 33; /* 32 bytes of codes and one of scale */
}

/* Memory that a device reads is page-locked. */
static em_plan_place own_place(const em_plan_input *in)
{
    return in->choice.module ? EM_PLACE_LOCKED : EM_PLACE_OWN;
}

/* Where the tables lie; AUTO has been resolved. */
static void add_tables(const em_plan_input *in, em_engram_tier tier, em_memory_plan *p)
{
    uint64_t bytes = in->weights.tables;
    switch (tier) {
    case EM_ENGRAM_TIER_AUTO: break;
    case EM_ENGRAM_TIER_RAM:
        p->engram_tier = "ram";
        add(p, "engram_tables", "Engram tables, copied into memory", own_place(in), bytes, false);
        break;
    case EM_ENGRAM_TIER_PINNED:
        p->engram_tier = "pinned";
        add(p, "engram_tables", "Engram tables, copied into locked memory", EM_PLACE_LOCKED, bytes, false);
        break;
    case EM_ENGRAM_TIER_SHARED:
        p->engram_tier = "shared";
        add(p, "engram_tables", "Engram tables, one copy for all processes", EM_PLACE_OWN, bytes, false);
        break;
    case EM_ENGRAM_TIER_MMAP:
        p->engram_tier = "mmap";
        add(p, "engram_tables", "Engram tables, rows read from the files", EM_PLACE_CACHED, bytes, false);
        break;
    case EM_ENGRAM_TIER_NVME:
        p->engram_tier = "nvme";
        add(p, "engram_tables", "Engram tables, rows read from the disk", EM_PLACE_CACHED, bytes, false);
        add(p, "engram_cache", "Engram rows read lately, and the tables' scales", EM_PLACE_OWN,
            (uint64_t)in->opts.engram_cache_bytes + scale_bytes(in), false);
        break;
    }
}

static void add_engram(const em_plan_input *in, em_memory_plan *p)
{
    const em_model_config *cfg = in->cfg;
    if (cfg->n_engram_layers == 0)
        return;
    em_engram_tier tier = em_engram_resolve_tier(in->opts.engram_tier, in->weights.tables);
    em_engram_spec spec = {.n_tables = cfg->n_engram_layers,
                           .dtype = em_engram_row_dtype(in->weights.table_dtype),
                           .max_order = cfg->engram_max_order,
                           .n_heads = cfg->engram_n_heads,
                           .head_dim = cfg->engram_head_dim};
    int32_t tickets = in->opts.max_tickets ? in->opts.max_tickets : EM_MODEL_TICKETS;
    add_tables(in, tier, p);
    add(p, "engram_staging", "Engram rows in flight, and the look-backs they are asked with", own_place(in),
        em_engram_staging_bytes(&spec, in->opts.max_batch_tokens, tickets) +
            (uint64_t)in->opts.max_batch_tokens * (uint64_t)cfg->engram_max_order * sizeof(int32_t),
        false);
}

/* Weights, state and buffers where the CPU computes. */
static void add_cpu(const em_plan_input *in, const em_backend_shape *sh, em_memory_plan *p)
{
    em_state_bytes state = em_cpu_state_bytes(in->cfg, sh->block_tokens);
    add(p, "weights", "weights, in the order of the kernels", EM_PLACE_OWN, in->weights.packed, false);
    add(p, "embeddings", "token embeddings, rows read from the files", EM_PLACE_MAPPED, in->weights.embed, false);
    add(p, "kv_blocks", "compressed keys and values of sequences", EM_PLACE_OWN,
        (uint64_t)state.block * (uint64_t)sh->n_blocks, false);
    add(p, "sequence_slots", "windows and open groups of running sequences", EM_PLACE_OWN,
        (uint64_t)state.slot * (uint64_t)sh->n_slots, false);
    add(p, "snapshots", "saved windows, where a prompt can resume", EM_PLACE_OWN,
        (uint64_t)state.slot * (uint64_t)sh->n_snapshots, false);
    add(p, "step_buffers", "activations of one step", EM_PLACE_OWN,
        (uint64_t)em_cpu_workspace_bytes(in->cfg, sh, in->opts.n_threads), false);
}

/* The same where a GPU does: its arena, and what it needs of the host. */
static void add_device(const em_plan_input *in, em_memory_plan *p)
{
    const em_device_plan *d = &in->choice.plan;
    add(p, "gpu_weights", "weights, without routed experts", EM_PLACE_DEVICE, d->weights, false);
    add(p, "gpu_experts", "routed experts", EM_PLACE_DEVICE, d->experts, false);
    add(p, "gpu_kv_blocks", "compressed keys and values of sequences", EM_PLACE_DEVICE, d->kv_blocks, false);
    add(p, "gpu_slots", "windows and open groups of sequences, saved ones too", EM_PLACE_DEVICE, d->slots, false);
    add(p, "gpu_step_buffers", "activations of one step", EM_PLACE_DEVICE, d->activations, false);
    add(p, "host_experts", "routed experts that the GPU reads over the bus: slow", EM_PLACE_LOCKED, d->host_experts,
        false);
    add(p, "host_buffers", "uploads and logits", EM_PLACE_LOCKED, d->host_buffers, false);
    add(p, "weight_files", "weights, read once", EM_PLACE_CACHED, in->weights.mapped, false);
}

int em_plan_count(const em_plan_input *in, em_memory_plan *ret_plan, em_error *err)
{
    const em_model_config *cfg = in->cfg;
    em_backend_shape sh;
    int r = em_model_shape(cfg, &in->opts, &sh, err);
    if (r < 0)
        return r;
    if (in->choice.module)
        sh.n_blocks = in->choice.plan.n_blocks;
    em_memory_plan p = {.n_threads = in->opts.n_threads,
                        .max_len = sh.max_len,
                        .max_seqs = sh.n_slots,
                        .max_batch_tokens = sh.max_batch_tokens,
                        .n_snapshots = sh.n_snapshots,
                        .block_tokens = sh.block_tokens,
                        .n_blocks = sh.n_blocks,
                        .engram_tier = "none",
                        .backend = in->choice.module ? in->choice.module->name : "cpu"};
    p.device_free = in->choice.device.free_bytes;
    memcpy(p.device_name, in->choice.device.name, sizeof(p.device_name));
    memcpy(p.backend_why, in->choice.why, sizeof(p.backend_why));
    uint64_t rows = (uint64_t)em_model_logits_rows(cfg, sh.n_slots, sh.max_batch_tokens),
             vocab = (uint64_t)cfg->vocab_size;
    if (in->choice.module)
        add_device(in, &p);
    else
        add_cpu(in, &sh, &p);
    add(&p, "vectors", "norms and biases as F32, lists of tensors", EM_PLACE_OWN,
        in->weights.owned + in->n_tensors * TENSOR_BYTES, true);
    add_engram(in, &p);
    add(&p, "logits", "scores of one step, and the sampler's scratch", EM_PLACE_OWN,
        rows * vocab * sizeof(float) + vocab * SAMPLER_BYTES, false);
    add(&p, "tokenizer", "vocabulary, merges and Engram's class map", EM_PLACE_OWN,
        in->tokenizer_bytes * TOKENIZER_FACTOR, true);
    add(&p, "threads", "stacks", EM_PLACE_OWN, (uint64_t)(in->opts.n_threads + OTHER_THREADS) * THREAD_BYTES, true);
    add(&p, "program", "the program itself", EM_PLACE_OWN, PROGRAM_BYTES, true);
    *ret_plan = p;
    return 0;
}

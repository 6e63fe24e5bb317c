/* The door: opens the model, starts the step thread, checks and hands over requests. */
#include "engine/engine.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine_open.h"
#include "engine/grammar_compiler.h"
#include "engine/request.h"
#include "engine/request_queue.h"
#include "engine/step.h"
#include "engine/token_map.h"

/* What 0 in em_engine_opts stands for. */
#define DEFAULT_MAX_SEQS 16
#define DEFAULT_MAX_BATCH_TOKENS 512
#define DEFAULT_SNAPSHOT_BYTES (INT64_C(256) << 20)

#define MAX_SNAPSHOTS 4096 /* the search for one to give up is linear */

struct em_engine {
    em_model *model;
    const em_tokenizer *tok; /* the model's; NULL: none */
    em_engine_info info;
    em_seq_rules rules;
    em_request_queue *queue;
    em_stepper *stepper;
    em_grammar_vocab *vocab;       /* NULL without a tokenizer */
    em_grammar_compiler *compiler; /* likewise */
    pthread_t thread;
    bool started;
};

/* --- opening ------------------------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    em_engram_tier tier;
} tier_names[] = {{"auto", EM_ENGRAM_TIER_AUTO},     {"ram", EM_ENGRAM_TIER_RAM},   {"pinned", EM_ENGRAM_TIER_PINNED},
                  {"shared", EM_ENGRAM_TIER_SHARED}, {"mmap", EM_ENGRAM_TIER_MMAP}, {"nvme", EM_ENGRAM_TIER_NVME}};

static int parse_tier(const char *name, em_engram_tier *ret_tier, em_error *err)
{
    for (size_t i = 0; i < sizeof(tier_names) / sizeof(tier_names[0]); i++) {
        if (strcmp(name ? name : "auto", tier_names[i].name) == 0) {
            *ret_tier = tier_names[i].tier;
            return 0;
        }
    }
    return em_error_set(err, -EINVAL, "engram tier '%s' is unknown: use auto, ram, pinned, shared, mmap or nvme.",
                        name);
}

static int parse_backend(const char *name, em_backend_kind *ret_kind, em_error *err)
{
    static const char *const names[] = {"auto", "cpu", "cuda"}; /* by em_backend_kind */
    for (int i = 0; i < 3; i++) {
        if (strcmp(name ? name : "auto", names[i]) == 0) {
            *ret_kind = (em_backend_kind)i;
            return 0;
        }
    }
    return em_error_set(err, -EINVAL, "backend '%s' is unknown: use auto, cpu or cuda.", name);
}

const char *em_engine_tier_name(em_engram_tier tier)
{
    for (size_t i = 0; i < sizeof(tier_names) / sizeof(tier_names[0]); i++) {
        if (tier_names[i].tier == tier)
            return tier_names[i].name;
    }
    return "none";
}

static int check_opts(const em_engine_opts *opts, em_error *err)
{
    const struct {
        const char *name;
        int64_t value;
    } sizes[] = {
        {"the number of threads", opts->n_threads},
        {"the model length", opts->max_len},
        {"the number of sequences", opts->max_seqs},
        {"the number of batched tokens", opts->max_batch_tokens},
        {"the size of the KV cache", opts->kv_cache_bytes},
        {"the size of a KV block", opts->kv_block_tokens},
        {"the length of the queue", opts->max_queue},
        {"the size of the snapshots", opts->snapshot_bytes},
        {"the size of the Engram cache", opts->engram_cache_bytes},
    };
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        if (sizes[i].value < 0)
            return em_error_set(err, -EINVAL, "%s is %lld: it must not be negative.", sizes[i].name,
                                (long long)sizes[i].value);
    }
    return 0;
}

int em_engine_model_opts(const em_engine_opts *opts, em_model_opts *ret_opts, em_error *err)
{
    int rc = check_opts(opts, err);
    if (rc)
        return rc;
    em_model_opts model_opts = {
        .dir = opts->model_dir,
        .n_threads = opts->n_threads,
        .max_len = opts->max_len,
        .max_seqs = opts->max_seqs ? opts->max_seqs : DEFAULT_MAX_SEQS,
        .max_batch_tokens = opts->max_batch_tokens ? opts->max_batch_tokens : DEFAULT_MAX_BATCH_TOKENS,
        .max_snapshots = opts->no_prefix_cache ? 0 : MAX_SNAPSHOTS,
        .snapshot_bytes = opts->snapshot_bytes ? opts->snapshot_bytes : DEFAULT_SNAPSHOT_BYTES,
        .kv_cache_bytes = opts->kv_cache_bytes,
        .kv_block_tokens = opts->kv_block_tokens,
        .engram_shared_dir = opts->engram_shared_dir,
        .engram_cache_bytes = opts->engram_cache_bytes,
        .engram_verify = opts->engram_verify,
        .engram_prefault = opts->engram_prefault,
        .cuda_module = opts->cuda_module && *opts->cuda_module ? opts->cuda_module : NULL,
        .cpu_flags_mask = ~0u,
        .on_progress = opts->on_progress,
        .progress_ctx = opts->progress_ctx,
    };
    /* every running sequence must find room in every step, or some would starve */
    if (model_opts.max_seqs > model_opts.max_batch_tokens)
        model_opts.max_seqs = model_opts.max_batch_tokens;
    rc = parse_backend(opts->backend, &model_opts.backend, err);
    if (!rc)
        rc = parse_tier(opts->engram_tier, &model_opts.engram_tier, err);
    if (rc)
        return rc;
    *ret_opts = model_opts;
    return 0;
}

static int take_model(em_engine *e, const em_engine_opts *opts, em_error *err)
{
    em_model_opts model_opts;
    int rc = em_engine_model_opts(opts, &model_opts, err);
    if (rc)
        return rc;
    e->tok = em_model_tokenizer(e->model);
    e->info.max_seqs = model_opts.max_seqs;
    int32_t vocab_size = em_model_get_config(e->model)->vocab_size;
    if (e->tok && em_tokenizer_size(e->tok) > vocab_size)
        return em_error_set(err, -EINVAL,
                            "%s: tokenizer.json has %d tokens, vocab_size is %d: these files do not belong together.",
                            opts->model_dir, em_tokenizer_size(e->tok), vocab_size);
    return 0;
}

static void fill_info(em_engine *e)
{
    const em_model_config *cfg = em_model_get_config(e->model);
    em_engine_info *info = &e->info;
    info->vocab_size = cfg->vocab_size;
    info->max_len = em_model_max_len(e->model);
    info->bos_id = e->tok && em_tokenizer_bos(e->tok) >= 0 ? em_tokenizer_bos(e->tok) : cfg->bos_id;
    info->eos_id = cfg->eos_id;
    info->has_tokenizer = e->tok;
    info->add_bos = e->tok && em_tokenizer_add_bos(e->tok) && info->bos_id >= 0;
    info->backend = em_model_backend_name(e->model);
    info->backend_why = em_model_backend_why(e->model);
    info->n_threads = em_model_n_threads(e->model);
    info->max_batch_tokens = em_model_max_batch_tokens(e->model);
    info->weight_bytes = em_model_weight_bytes(e->model);
    info->kv_bytes = em_model_kv_bytes(e->model);
    info->kv_block_tokens = em_kv_cache_block_tokens(em_model_kv_cache(e->model));
    info->n_engram_tables = cfg->n_engram_layers;
    info->insight = em_model_insight_shape(e->model);
    info->engram_layer = em_model_engram_layers(e->model);
    info->engram_tier = "none";
    em_engram *engram = em_model_engram(e->model);
    if (engram) {
        em_engram_stats stats;
        em_engram_get_stats(engram, &stats);
        info->table_bytes = stats.table_bytes;
        info->engram_tier = em_engine_tier_name(em_engram_tier_of(engram));
    }
    e->rules = (em_seq_rules){
        .tok = e->tok,
        .vocab_size = info->vocab_size,
        .max_len = info->max_len,
        .eos_id = info->eos_id,
        .insight = info->insight,
    };
}

/* Special tokens put no text into an answer, so they can have no place in a grammar; other added ones are text. */
static int make_vocab(const em_engine *e, em_grammar_vocab **ret_vocab)
{
    uint32_t n = (uint32_t)e->info.vocab_size;
    em_grammar_token *tokens = calloc(n, sizeof(*tokens));
    if (!tokens)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++) {
        int32_t id = (int32_t)i;
        size_t len = 0;
        tokens[i].kind = EM_GRAMMAR_TOKEN_NEVER;
        if (id == e->info.eos_id) {
            tokens[i].kind = EM_GRAMMAR_TOKEN_END;
        } else if (id < em_tokenizer_size(e->tok) && !em_tokenizer_is_special(e->tok, id)) {
            tokens[i].bytes = em_tokenizer_bytes(e->tok, id, &len);
            tokens[i].n_bytes = len <= EM_GRAMMAR_MAX_TOKEN_BYTES ? (uint32_t)len : 0;
            tokens[i].kind = EM_GRAMMAR_TOKEN_TEXT;
        }
    }
    int rc = em_grammar_vocab_new(tokens, n, ret_vocab);
    free(tokens);
    return rc;
}

static void on_compiled(void *ctx)
{
    em_request_queue_compiled(((em_engine *)ctx)->queue);
}

static int open_compiler(em_engine *e, em_error *err)
{
    if (!e->tok)
        return 0;
    int rc = make_vocab(e, &e->vocab);
    if (!rc)
        rc = em_grammar_compiler_new(e->vocab, on_compiled, e, &e->compiler);
    return rc ? em_error_set(err, rc, "the compiler of grammars cannot be started: %s.", strerror(-rc)) : 0;
}

static void *step_thread(void *arg)
{
    em_stepper_run(arg);
    return NULL;
}

/* Signals belong to the threads of the process's owner. */
static int start_thread(em_engine *e, em_error *err)
{
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* a mapped page that cannot be read: blocked, it would end the process without a word */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&e->thread, NULL, step_thread, e->stepper);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc)
        return em_error_set(err, -rc, "the step thread cannot be started: %s.", strerror(rc));
    e->started = true;
    return 0;
}

int em_engine_over(em_model *model, const em_engine_opts *opts, em_engine **ret_engine, em_error *err)
{
    em_engine *e = calloc(1, sizeof(*e));
    if (!e) {
        em_model_close(model);
        return em_error_set(err, -ENOMEM, "there is no memory for the engine.");
    }
    e->model = model;
    int rc = take_model(e, opts, err);
    if (rc)
        goto fail;
    fill_info(e);
    rc = em_request_queue_new(opts->max_queue, e->info.max_seqs, &e->queue);
    if (!rc)
        rc = em_stepper_new(e->model, e->queue, &e->rules, e->info.max_seqs, !opts->no_prefix_cache, &e->stepper);
    if (rc) {
        em_error_set(err, rc, "there is no memory for the logits of %d sequences: lower --max-num-seqs.",
                     e->info.max_seqs);
        goto fail;
    }
    rc = open_compiler(e, err);
    if (!rc)
        rc = start_thread(e, err);
    if (rc)
        goto fail;
    *ret_engine = e;
    return 0;
fail:
    em_engine_close(e);
    return rc;
}

int em_engine_open(const em_engine_opts *opts, em_engine **ret_engine, em_error *err)
{
    em_model_opts model_opts;
    em_model *model = NULL;
    int rc = em_engine_model_opts(opts, &model_opts, err);
    if (!rc)
        rc = em_model_open(&model_opts, &model, err);
    return rc ? rc : em_engine_over(model, opts, ret_engine, err);
}

em_engine *em_engine_close(em_engine *e)
{
    if (!e)
        return NULL;
    if (e->started) {
        em_request_queue_close(e->queue);
        pthread_join(e->thread, NULL);
    }
    em_stepper_free(e->stepper);
    em_grammar_compiler_free(e->compiler);
    em_grammar_vocab_free(e->vocab);
    em_request_queue_free(e->queue);
    em_model_close(e->model);
    free(e);
    return NULL;
}

void em_engine_get_info(const em_engine *e, em_engine_info *ret_info)
{
    *ret_info = e->info;
}

/* --- text and ids ------------------------------------------------------------------------------------------- */

int em_engine_tokenize(const em_engine *e, const char *text, size_t len, bool special, size_t max_ids, em_ids *ids)
{
    return e->tok ? em_tokenizer_encode(e->tok, text, len, special, max_ids, ids) : -ENOTSUP;
}

size_t em_engine_text_cut(const em_engine *e, const char *text, size_t len)
{
    return e->tok ? em_tokenizer_cut(e->tok, text, len) : 0;
}

const uint8_t *em_engine_token_bytes(const em_engine *e, int32_t id, size_t *ret_len)
{
    if (e->tok && id >= 0 && id < em_tokenizer_size(e->tok))
        return em_tokenizer_bytes(e->tok, id, ret_len);
    *ret_len = 0;
    return (const uint8_t *)"";
}

bool em_engine_token_is_special(const em_engine *e, int32_t id)
{
    return e->tok && id >= 0 && id < em_tokenizer_size(e->tok) && em_tokenizer_is_special(e->tok, id);
}

int em_engine_engram_text(const em_engine *e, int32_t id, em_buf *out)
{
    return e->tok && id >= 0 && id < em_tokenizer_size(e->tok) ? em_token_map_key(e->tok, id, out) : 0;
}

/* --- requests ----------------------------------------------------------------------------------------------- */

/* A choice must fit when it is alone: one that needs more blocks than there are could never end. */
static int check_fits(const em_engine *e, const em_request *r, em_error *err)
{
    const em_kv_cache *kv = em_model_kv_cache(e->model);
    for (int32_t i = 0; i < r->n_prompts; i++) {
        int32_t n_positions = em_request_positions(r, r->prompts[i].n_ids, e->info.max_len);
        int32_t n_blocks = em_kv_cache_blocks_for(kv, n_positions);
        if (n_blocks > em_kv_cache_blocks(kv))
            return em_error_set(err, -E2BIG,
                                "prompt %d and its answer need %d tokens of KV cache, but it holds %lld: shorten it, "
                                "lower max_tokens, or start with a larger --kv-cache-bytes.",
                                i, n_positions, (long long)em_kv_cache_blocks(kv) * em_kv_cache_block_tokens(kv));
    }
    return 0;
}

int em_engine_submit(em_engine *e, em_request *r, em_sink sink, uint64_t *ret_id, em_error *err)
{
    int rc = em_request_check(r, &e->info, err);
    if (!rc)
        rc = check_fits(e, r, err);
    if (rc)
        return rc;
    em_grammar_order *order = NULL;
    em_live *live = NULL;
    if (r->grammar)
        rc = em_grammar_compiler_ask(e->compiler, r->grammar, &order);
    if (!rc)
        rc = em_live_new(r, sink, &e->rules, &live);
    if (rc) {
        em_grammar_order_unref(order);
        return rc == -EBUSY ? em_error_set(err, -EAGAIN, "too many grammars wait to be compiled: try again later.")
                            : em_error_set(err, rc, "there is no memory for the request: try again later.");
    }
    live->order = order;
    rc = em_request_queue_push(e->queue, live, ret_id);
    if (!rc)
        return 0;
    live->request = NULL; /* stays the caller's */
    em_live_free(live);
    if (rc == -EBUSY)
        return em_error_set(err, rc, "too many requests are waiting: try again later.");
    return em_error_set(err, rc, "the server is shutting down: it takes no new requests.");
}

void em_engine_cancel(em_engine *e, uint64_t id)
{
    em_request_queue_cancel(e->queue, id);
}

void em_engine_stop_choice(em_engine *e, uint64_t id, int32_t choice)
{
    em_request_queue_stop_choice(e->queue, id, choice);
}

int32_t em_engine_retry_after_s(em_engine *e)
{
    return em_request_queue_wait_s(e->queue);
}

void em_engine_drain(em_engine *e)
{
    em_request_queue_drain(e->queue);
}

uint64_t em_engine_heartbeat_ns(em_engine *e)
{
    em_engine_stats stats;
    em_request_queue_get_stats(e->queue, &stats);
    return stats.heartbeat_ns;
}

static void fill_grammar_stats(em_grammar_compiler *c, em_engine_stats *stats)
{
    em_grammar_stats g;
    em_grammar_compiler_get_stats(c, &g);
    stats->grammars_asked = g.asked;
    stats->grammars_found = g.found;
    stats->grammars_compiled = g.compiled;
    stats->grammars_failed = g.failed;
    stats->grammar_compile_ns = g.compile_ns;
    stats->grammars_waiting = g.waiting;
    stats->grammars_kept = g.kept;
    stats->grammar_bytes = g.kept_bytes;
}

void em_engine_get_stats(em_engine *e, em_engine_stats *ret_stats)
{
    em_request_queue_get_stats(e->queue, ret_stats);
    if (e->compiler)
        fill_grammar_stats(e->compiler, ret_stats);
}

void em_engine_get_engram_stats(em_engine *e, em_engram_stats *ret_stats)
{
    em_engram *engram = em_model_engram(e->model);
    if (engram)
        em_engram_get_stats(engram, ret_stats);
    else
        *ret_stats = (em_engram_stats){0};
}

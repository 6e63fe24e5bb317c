/* The door of engine/: one loaded model and the thread that steps it.
 *
 * Threads. open and close: one thread. All other functions may be called by any thread. The step thread calls the
 * request's sink; a sink must not block and must not call the engine except em_engine_cancel and em_engine_stop_choice.
 *
 * Ownership. em_engine_submit takes the request when it returns 0. Each event belongs to the sink, which frees it with
 * em_event_free. Every accepted request gets exactly one event with `last` set, also after cancel, timeout, failure or
 * close; the sink is not called after it.
 *
 * Units. Positions, lengths and counts are tokens; times are nanoseconds of CLOCK_MONOTONIC; texts are UTF-8 with
 * explicit lengths in bytes. */
#ifndef EM_ENGINE_ENGINE_H
#define EM_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "engine/bench.h" /* em_engine_bench */
#include "engine/grammar/source.h"
#include "engine/histogram.h"
#include "engine/insight.h"
#include "engine/inspect.h" /* em_engine_inspect */
#include "engine/plan.h"    /* em_engine_plan */
#include "engine/logits.h"
#include "engine/sampler.h"
#include "engine/tokenizer.h" /* em_ids */
#include "engine/trace.h"     /* em_trace_open */

/* --- opening ------------------------------------------------------------------------------------------------ */

typedef struct em_engine_opts {
    const char *model_dir;
    const char *backend;           /* --backend: "auto", "cpu", "cuda"; NULL: auto */
    const char *cuda_module;       /* --cuda-module: file of the CUDA backend; NULL: searched beside the program */
    int32_t n_threads;             /* compute threads; 0: as many as the process may use */
    int32_t max_len;               /* --max-model-len; 0: the model's */
    int32_t max_seqs;              /* --max-num-seqs: sequences that share a step */
    int32_t max_batch_tokens;      /* --max-num-batched-tokens: tokens in one step */
    int64_t kv_cache_bytes;        /* --kv-cache-bytes; 0: default */
    int32_t kv_block_tokens;       /* --kv-block-tokens; 0: default */
    const char *engram_tier;       /* "auto", "ram", "pinned", "shared", "mmap", "nvme" */
    const char *engram_shared_dir; /* --engram-shared-dir: of the shared tier; NULL: /dev/shm */
    int64_t engram_cache_bytes;    /* --engram-cache-bytes: rows read lately, in the nvme tier; 0: none */
    bool engram_verify;            /* --engram-verify: every row is compared with its file before it is used */
    bool engram_prefault;          /* --engram-prefault: the mmap tier reads its tables once before it is ready */
    int32_t max_queue;             /* requests waiting at most; submit gives -EBUSY beyond */
    bool no_prefix_cache;          /* prompts share nothing, not even the samples of one request */
    int64_t snapshot_bytes;        /* for saved states at block boundaries, where a prompt can resume; 0: default */
    void (*on_progress)(void *ctx, const char *phase, double fraction); /* while opening; may be NULL */
    void *progress_ctx;
} em_engine_opts;

typedef struct em_engine em_engine;

int em_engine_open(const em_engine_opts *opts, em_engine **ret_engine, em_error *err);
/* Cancels what is left, joins the step thread. NULL is fine; returns NULL. */
em_engine *em_engine_close(em_engine *e);

/* Facts that do not change while the engine is open; strings belong to the engine. */
typedef struct em_engine_info {
    int32_t vocab_size, max_len;
    int32_t bos_id, eos_id;  /* -1: none */
    bool has_tokenizer;      /* false: prompts must be ids, answers have no text */
    bool add_bos;            /* tokenizer_config.json: add_bos_token */
    const char *backend;     /* "cpu/avx512" */
    const char *backend_why; /* why the GPU was not taken although it was allowed; empty otherwise */
    int32_t n_threads, max_seqs, max_batch_tokens;
    uint64_t weight_bytes, table_bytes, kv_bytes; /* memory by kind */
    int32_t kv_block_tokens;                      /* positions of one block of the KV cache */
    int32_t n_engram_tables;
    em_insight_shape insight;    /* what requests may be told about Engram; n_layers 0: nothing */
    const int32_t *engram_layer; /* [insight.n_layers] their layer numbers, ascending */
    const char *engram_tier;     /* "ram", "pinned", "shared", "mmap", "nvme"; "none" without tables */
} em_engine_info;
void em_engine_get_info(const em_engine *e, em_engine_info *ret_info);

/* --- text and ids ------------------------------------------------------------------------------------------- */

/* Appends ids of valid UTF-8 text; special: spellings of added tokens become ids. No BOS. -ENOTSUP without a tokenizer, -E2BIG
 * when more than max_ids (0: no limit), -ENOMEM. */
int em_engine_tokenize(const em_engine *e, const char *text, size_t len, bool special, size_t max_ids, em_ids *ids);

/* How many of the first bytes can be tokenised on their own: their ids, then those of what follows, are the ids of it
 * all, whatever follows. As many as possible; 0: no place to cut, or no tokenizer. */
size_t em_engine_text_cut(const em_engine *e, const char *text, size_t len);

/* Bytes of one id, as em_tokenizer_bytes; length 0 without a tokenizer. Owned by the engine. */
const uint8_t *em_engine_token_bytes(const em_engine *e, int32_t id, size_t *ret_len);
/* Marked special in tokenizer.json (BOS, EOS, ...): such tokens put no text into an answer. */
bool em_engine_token_is_special(const em_engine *e, int32_t id);

/* Appends the text of an id as Engram's hash sees it: in normal form, so that ids of the same class have the same text (UTF-8,
 * or single bytes of a broken character as the vocabulary spells them). Nothing for ids that it does not see. -ENOMEM. */
int em_engine_engram_text(const em_engine *e, int32_t id, em_buf *out);

/* --- requests ----------------------------------------------------------------------------------------------- */

typedef struct em_prompt {
    int32_t *ids; /* malloc'd; n_ids >= 1, all inside the vocabulary */
    int32_t n_ids;
} em_prompt;

typedef struct em_stop {
    char *text; /* malloc'd, len >= 1 bytes of UTF-8 */
    size_t len;
} em_stop;

#define EM_REQUEST_ID_MAX 64
#define EM_REQUEST_CLIENT_MAX 64
#define EM_REQUEST_MAX_SALT_BYTES 1024
#define EM_REQUEST_MAX_INSIGHT 32768 /* tokens that one request may be told about */

/* What a client asked, immutable after submit. Choices are numbered prompt * n + sample. */
typedef struct em_request {
    char id[EM_REQUEST_ID_MAX + 1]; /* for logs */
    em_prompt *prompts;             /* [n_prompts] malloc'd */
    int32_t n_prompts;              /* >= 1 */
    int32_t n;                      /* samples of each prompt, >= 1 */
    int32_t max_tokens;             /* of each choice, >= 0; cut to what fits behind each prompt */
    em_sampling sampling;           /* choice number feeds the draw, so samples differ */
    em_stop *stops;                 /* [n_stops] malloc'd: generated text ends before the first match */
    int32_t n_stops;
    bool ignore_eos;
    em_logit_rules logits; /* penalties and biases; a zeroed one changes nothing */
    int32_t min_tokens;    /* EOS and stop_ids may not come before that many generated tokens */
    int32_t *stop_ids; /* [n_stop_ids] malloc'd: drawing one of them ends the choice; its text stays in the answer */
    int32_t n_stop_ids;
    int32_t logprobs;     /* -1: none; else alternatives per token, 0..EM_MAX_LOGPROBS */
    bool prompt_logprobs; /* with logprobs >= 0: also for the prompt's tokens, as one EM_EVENT_PROMPT per choice */
    bool engram;          /* events tell what Engram did for each generated token; its text then comes a step later */
    bool prompt_engram;   /* with engram: also for the prompt's tokens, in the choice's EM_EVENT_PROMPT */
    uint64_t deadline_ns; /* 0: none; past it the request ends with EM_FINISH_TIMEOUT */
    int32_t priority;     /* lower first; any value */
    char client[EM_REQUEST_CLIENT_MAX + 1]; /* whose request it is: within a priority, clients share fairly */
    char *cache_salt; /* malloc'd, not terminated; NULL with length 0: none. Prompts share computed state only with
                           * prompts of equal salt */
    size_t cache_salt_len;
    em_grammar_source *grammar; /* what each answer must look like, as one malloc'd block; NULL: anything */
} em_request;

em_request *em_request_free(em_request *r); /* NULL and half-built are fine; returns NULL */

typedef enum em_finish {
    EM_FINISH_NONE,    /* still running */
    EM_FINISH_STOP,    /* EOS, a stop string, em_engine_stop_choice; with a grammar: the answer is complete */
    EM_FINISH_LENGTH,  /* max_tokens or the model's length */
    EM_FINISH_CANCEL,  /* em_engine_cancel or close */
    EM_FINISH_TIMEOUT, /* deadline_ns */
    EM_FINISH_ERROR,   /* error says why */
} em_finish;

/* One token of a prompt or an answer. */
typedef struct em_event_token {
    int32_t id;
    bool visible;     /* its text begins before the cut of a stop string: belongs into logprobs lists */
    bool has_logprob; /* false for the first prompt token, and when none were asked for */
    float logprob;
    int32_t text_offset; /* generated tokens: characters of the choice's generated text before this token's text */
    int32_t n_top;
    const em_top_logprob *top; /* [n_top] best first; the token itself is not added */
} em_event_token;

typedef enum em_event_kind {
    EM_EVENT_READY,  /* the request's grammar is compiled and kept to: comes first, and only with a grammar */
    EM_EVENT_PROMPT, /* what was asked about a choice's prompt: tokens are the prompt's; comes before any text */
    EM_EVENT_TEXT,   /* newly released text and tokens of a choice, perhaps with its finish */
} em_event_kind;

/* One message to the sink; a single malloc'd block. Text is complete UTF-8: characters and possible beginnings of stop
 * strings are held back until they are settled, and a token travels with the first event that releases its text. */
typedef struct em_event {
    struct em_event *next; /* for the receiver's list */
    em_event_kind kind;
    int32_t choice;
    const char *text; /* len bytes, NUL-terminated */
    size_t text_len;
    const em_event_token *tokens; /* [n_tokens] */
    int32_t n_tokens;
    em_insight insight;        /* of these tokens; gate NULL: not asked for. A failure may come before the last ones' */
    em_insight_shape shape;    /* of insight */
    em_finish finish;          /* of this choice */
    bool last;                 /* the request's final event: all choices have finished */
    int32_t prompt_tokens;     /* of this choice's prompt */
    int32_t completion_tokens; /* of this choice so far, EOS and stop tokens included */
    int32_t cached_tokens;     /* of the prompt, taken from the prefix cache */
    const char *error;         /* EM_FINISH_ERROR: one sentence; else NULL */
    bool refused;              /* EM_FINISH_ERROR: the request's grammar cannot be kept to; nothing was generated */
} em_event;
void em_event_free(em_event *ev);

typedef struct em_sink {
    void (*on_event)(void *ctx, em_event *ev); /* step thread; owns ev */
    void (*on_step_end)(void *ctx); /* step thread, once after a step that gave this sink events; may be NULL:
                                                * the moment to wake a reader. Not called after the event with `last`:
                                                * that one must wake the reader itself */
    void *ctx;                      /* must live until the event with `last` */
} em_sink;

/* A grammar is compiled on a thread of its own; meanwhile the request waits like any other: it can be cancelled, counts
 * as waiting, and its deadline runs. What is wrong with the grammar comes as its last event, `refused`.
 *
 * 0: the engine owns r, *ret_id names it. Otherwise the caller still owns r: -EBUSY the queue is full, -EAGAIN too many grammars
 * wait to be compiled, -ESHUTDOWN draining or
 * closing, -EINVAL a field breaks the rules above (err says which), -E2BIG a prompt can never fit the KV cache. */
int em_engine_submit(em_engine *e, em_request *r, em_sink sink, uint64_t *ret_id, em_error *err);

/* Idempotent, also after the end; the request ends at the next step. */
void em_engine_cancel(em_engine *e, uint64_t id);

/* The receiver has found the end of one choice in its text: it ends at the next step, with EM_FINISH_STOP and whatever it
 * has generated by then; the others go on. Idempotent, also after the end; an unknown choice is none. */
void em_engine_stop_choice(em_engine *e, uint64_t id, int32_t choice);

/* Seconds, at least 1, after which a refused request may find room: from the tokens that wait and the recent rate. */
int32_t em_engine_retry_after_s(em_engine *e);

/* No new requests from now on; what runs goes on. */
void em_engine_drain(em_engine *e);

#define EM_FINISH_REASONS (EM_FINISH_ERROR + 1)

/* What the choices that have ended needed. Seconds but where said. */
typedef struct em_latencies {
    em_histogram first_token;    /* arrival to first token */
    em_histogram inter_token;    /* between two tokens of a choice */
    em_histogram e2e;            /* arrival to end */
    em_histogram queue;          /* arrival to the first step it took part in */
    em_histogram inference;      /* that step to the end */
    em_histogram prefill;        /* that step to the first token */
    em_histogram decode;         /* first token to the end */
    em_histogram time_per_token; /* mean time between the tokens of a choice that has at least two */
    em_histogram step_tokens;    /* tokens of one step */
    em_histogram schedule;       /* planning a step: who takes part, with how many tokens */
    em_histogram prompt_len;     /* tokens of a choice's prompt */
    em_histogram generation_len; /* tokens of a choice's answer */
} em_latencies;

/* Counters since open; gauges now. */
typedef struct em_engine_stats {
    uint64_t steps, step_ns; /* finished steps and their total time */
    uint64_t heartbeat_ns;   /* em_now_ns() when the step thread last moved (it moves when idle, too) */
    uint64_t prompt_tokens, generation_tokens;
    uint64_t requests_ok, requests_cancelled, requests_failed;
    int32_t running, waiting;             /* sequences in steps, choices not yet admitted */
    int32_t kv_blocks, kv_blocks_free;    /* free: not used by a sequence, perhaps cached */
    int32_t kv_blocks_cached;             /* of the free ones: hold prefixes that may be hit */
    uint64_t preemptions;                 /* times a running sequence was put back to make room */
    uint64_t prefix_queries, prefix_hits; /* prompt tokens looked up in the prefix cache, found there */
    uint64_t finished[EM_FINISH_REASONS]; /* choices, by em_finish */
    double tokens_per_s;                  /* computed in recent steps, prompts' and answers' */
    em_latencies latencies;
    uint64_t grammars_asked, grammars_found; /* requests with a grammar; those for which it was there, or under way */
    uint64_t grammars_compiled, grammars_failed, grammar_compile_ns;
    int32_t grammars_waiting; /* for the compiler */
    int32_t grammars_kept;
    uint64_t grammar_bytes; /* of those kept, with their masks */
} em_engine_stats;
void em_engine_get_stats(em_engine *e, em_engine_stats *ret_stats);
/* What the Engram service counts; zeros without tables. What is resident is sampled: may take milliseconds. */
void em_engine_get_engram_stats(em_engine *e, em_engram_stats *ret_stats);
/* heartbeat_ns alone, which costs nothing: for those who ask often. */
uint64_t em_engine_heartbeat_ns(em_engine *e);

#endif

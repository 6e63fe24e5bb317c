/* Inside of the CPU backend: its activations, its per-sequence state, and the stages' helpers.
 *
 * T: tokens of the step. Every buffer is sized once at open for max_batch_tokens; a step allocates nothing. Work is cut
 * into items whose results do not depend on who computes them, so threads never change bits; and every token's
 * arithmetic is its own, so neither does the batch. */
#ifndef EM_CPU_CPU_H
#define EM_CPU_CPU_H

#include <stdbool.h>

#include "engine/backend.h"
#include "engine/cpu/kernels.h"
#include "engine/cpu/packed_weights.h"
#include "engine/cpu/thread_pool.h"
#include "engine/rope_frequencies.h"
#include "engine/state_layout.h"

#define EM_HEAD_GROUP 16   /* query heads of one attention item */
#define EM_KEY_BLOCK 64    /* index keys scored in one item */
#define EM_SCORE_TOKENS 16 /* queries that share one block of decoded keys */
#define EM_TOKEN_BLOCK 64  /* tokens of one product item: their inputs stay in the second-level cache */

/* Per-sequence state (engine/cpu/state.c). */
typedef struct em_cpu_state {
    em_state_layout at;
    uint8_t *blocks;                /* [n_blocks, block_bytes] */
    uint8_t *slots;                 /* [n_slots + n_snapshots, slot_bytes]: rings of all layers, then open groups */
    size_t blocks_size, slots_size; /* bytes of the two */
} em_cpu_state;

/* One (token, expert) pair of a step. */
typedef struct em_moe_entry {
    int32_t token;
    int32_t expert; /* n_experts: the shared one */
    float weight;
} em_moe_entry;

typedef struct em_cpu {
    em_backend base; /* first */
    const em_model_config *cfg;
    const em_weights *w; /* of packed */
    em_packed_weights *packed;
    em_backend_shape shape;
    em_kernels k;
    em_pool *pool;
    em_cpu_state state;

    /* the step */
    const em_batch *batch;
    int32_t n_tokens;   /* T */
    int32_t *pos;       /* [T] position of each token */
    int32_t *seq_of;    /* [T] index into batch->seqs */
    int32_t *run_start; /* [n_seqs] first token of each run in the flat batch */

    /* rotary tables, [T, rope_dim / 2]: cos then sin of main and compress (spec 4.5) */
    float *freq_main, *freq_comp; /* [rope_dim / 2] */
    float *cos_main, *sin_main, *cos_comp, *sin_comp;

    /* residual streams and mixing */
    float *streams, *streams2; /* [T, hc, H]; the second is where expand writes, then they swap */
    float *pre;                /* [T, hc] for the next collapse */
    float *mix;                /* [T, (2 + hc) * hc] raw mix values of the last site */
    float *post, *comb;        /* [T, hc], [T, hc, hc] of the last site */
    float *x, *y;              /* [T, H] sublayer in and out */

    /* Engram */
    float *engram_in;       /* [T, n_cols * head_dim] widened rows */
    float *engram_kv;       /* [T, (hc + 1) * H] keys, value */
    float *engram_gate;     /* [T, hc] */
    int32_t *insight_token; /* [T] tokens whose shares are told, ascending */
    float **insight_share;  /* [T] where the shares of each of them go: [orders] */

    /* attention */
    float *q_lat;                 /* [T, q_lora_rank] */
    float *q;                     /* [T, n_heads * D] queries, later outputs */
    float *kv;                    /* [T, D] window latent before storage */
    float *win;                   /* [T + n_seqs * (window - 1), D] decoded window rows: history, then the run */
    int32_t *win_off;             /* [n_seqs] first row of each run's history in win */
    int32_t *win_hist;            /* [n_seqs] rows of history */
    float *o_lat;                 /* [T, o_groups * o_lora_rank] */
    float *comp_kv, *comp_gate;   /* [T, D] compressor projections */
    float *latent;                /* [T, D] completed groups */
    float *index_key;             /* [T, index_head_dim] */
    int32_t *group_seq, *group_j; /* [T] run and number of each completed group */
    int32_t n_groups;
    float *index_q; /* [T, index_n_heads * index_head_dim] */
    float *index_w; /* [T, index_n_heads] */
    float *scores;  /* [score_cap] index scores of one tile of queries */
    int64_t score_cap;
    int64_t *score_off; /* [T] where a token's scores begin; only tokens of the current tile */
    uint64_t *cand;     /* [T, cand_words] kept candidate blocks */
    int64_t cand_words;
    int32_t *topk;   /* [T, topk_cap] selected positions, ascending */
    int32_t *topk_n; /* [T] */
    int32_t topk_cap;

    /* mixture of experts */
    float *router;                /* [T, n_experts] logits, then scores */
    int32_t *expert_id;           /* [T, k] chosen, best first */
    float *expert_w;              /* [T, k] */
    em_moe_entry *entry;          /* [T * (k + 1)] sorted by expert, then token */
    int32_t *entry_of;            /* [T, k + 1] a token's entries in ascending expert order, the shared one last */
    int32_t *expert_begin;        /* [n_experts + 2] */
    int32_t *entry_fill;          /* [T] entries of each token placed so far */
    float *moe_x;                 /* [T * k, H] gathered inputs */
    float *moe_g, *moe_u;         /* [T * (k + 1), moe_inter] */
    float *moe_y;                 /* [T * (k + 1), H] */
    struct em_moe_item *moe_item; /* work list of a product over the experts */
    int64_t moe_item_cap;

    float *last; /* [n_logits, H] input of the head */

    void *arena; /* all buffers of this struct, one mapping that costs memory once touched */
    size_t arena_bytes;
    float **scratch; /* [threads][scratch_floats] of each worker's own */
    int64_t scratch_floats;
    int64_t
        *scratch_tag; /* [threads] what the scratch holds: token + 1 whose compressed rows are decoded; 0: nothing */
} em_cpu;

/* --- linear.c: products over the pool */
typedef struct em_linear_job {
    const em_matrix *w;
    int64_t row_begin, row_end; /* rows of w to compute */
    const float *x;
    int64_t x_stride;
    float *y; /* y[m * y_stride + row] */
    int64_t y_stride;
    int64_t n_rows; /* M */
} em_linear_job;
#define EM_MAX_LINEAR_JOBS 80
/* Runs several independent products as one parallel region. */
void em_cpu_linear(em_cpu *c, const em_linear_job *jobs, int n_jobs);
/* The usual job: all rows of w over the step's tokens. */
em_linear_job em_cpu_job(const em_cpu *c, const em_matrix *w, const float *x, int64_t x_stride, float *y);
/* y = w * x / sqrt(mean(x^2) + eps), in place allowed. */
void em_cpu_rmsnorm(const em_cpu *c, float *y, const float *x, const float *w, int64_t n);
/* fn for every token of the step */
void em_cpu_each_token(em_cpu *c, em_pool_fn fn);

/* --- rope.c */
void em_rope_table(const float *freq, int32_t n_pairs, int64_t pos, float *ret_cos, float *ret_sin);
/* Rotates pairs (0,1), (2,3), ... of v[2 * n_pairs] in place; inverse uses -sin. */
void em_rope_apply(float *v, const float *cos, const float *sin, int32_t n_pairs, bool inverse);
void em_cpu_rope_begin(em_cpu *c); /* tables of the step's positions */

/* --- state.c */
int em_cpu_state_init(em_cpu_state *st, const em_model_config *cfg, const em_backend_shape *shape);
void em_cpu_state_done(em_cpu_state *st);
void em_cpu_copy_slot(em_backend *be, int32_t from, int32_t to);
void em_cpu_copy_block(em_backend *be, int32_t from, int32_t to);
uint8_t *em_cpu_ring_row(const em_cpu *c, int32_t slot, int32_t layer, int32_t pos);
float *em_cpu_open_group(const em_cpu *c, int32_t slot, int32_t source); /* kv [(r-1), D], gate [(r-1), D] */
uint8_t *em_cpu_comp_row(const em_cpu *c, const em_seq_kv *kv, int32_t source, int32_t j);
uint8_t *em_cpu_key_row(const em_cpu *c, const em_seq_kv *kv, int32_t source, int32_t j);
/* x [width] -> stored row, and back. width: D, D, index_head_dim. */
void em_cpu_store_window(const em_cpu *c, uint8_t *row, const float *x);
void em_cpu_load_window(const em_cpu *c, const uint8_t *row, float *x);
void em_cpu_store_comp(const em_cpu *c, uint8_t *row, const float *x);
void em_cpu_load_comp(const em_cpu *c, const uint8_t *row, float *x);
void em_cpu_store_key(const em_cpu *c, uint8_t *row, const float *x);
void em_cpu_load_key(const em_cpu *c, const uint8_t *row, float *x);

/* --- stages (one file each) */
void em_cpu_embed(em_backend *be);
void em_cpu_engram(em_backend *be, int32_t layer, const em_engram_rows *rows);
void em_cpu_insight(em_backend *be, int32_t layer, const em_engram_rows *rows);
void em_cpu_hc_pre(em_backend *be, int32_t layer, em_site site);
void em_cpu_hc_post(em_backend *be, int32_t layer, em_site site);
void em_cpu_attention(em_backend *be, int32_t layer);
void em_cpu_moe(em_backend *be, int32_t layer);
int em_cpu_head(em_backend *be, float *logits, em_error *err);

/* parts of attention */
void em_cpu_compress(em_cpu *c, int32_t layer);    /* comp_kv, comp_gate -> blocks; a KV source's new rows and keys */
void em_cpu_index_query(em_cpu *c, int32_t layer); /* index_q, after its product: rotate, quantise */
void em_cpu_select(em_cpu *c, int32_t layer);      /* scores, candidate blocks, top-k */

/* --- hyper.c: out [H] = sum over streams s of pre_s * stream_s of one token */
void em_cpu_collapse(const em_cpu *c, int64_t token, float *out);
/* One token's mix values -> pre, post, comb (spec 4.3; pure) */
void em_hc_split(const em_model_config *cfg, const float *mix, const float *base, const float *scale, float *ret_pre,
                 float *ret_post, float *ret_comb);

/* --- topk.c (pure): the k largest of score[n], ties by lowest index; -inf and NaN never. Writes them in ascending
 * index order; returns how many. */
int32_t em_topk_select(const float *score, int64_t n, int32_t k, int32_t *ret_idx);
/* The k <= n largest in descending order of score, ties by lowest index; n small. Overwrites score. */
void em_topk_sorted(float *score, int32_t n, int32_t k, int32_t *ret_idx);

#endif

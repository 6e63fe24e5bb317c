/* The CUDA kernels, one launcher each: the contract between the backend's host code (C) and the .cu files.
 *
 * A launcher checks nothing but what it needs to choose a kernel, enqueues on the stream and returns at once: 0, or the
 * runtime's error code of the launch (a cudaError_t). It allocates nothing, copies nothing, never waits and reads no
 * device memory, so that every one can be captured into a graph. The args struct is copied into the launch.
 *
 * Layouts are those of the CPU backend (engine/cpu/cpu.h): T tokens, row-major, float32 unless the type says else; state
 * bytes (rings, open groups, compressed rows, index keys) are equal byte for byte. All pointers are device pointers, or
 * device views of mapped host memory where the text says "may be mapped", aligned to 16 bytes; rows inside a buffer may
 * have any width. No two buffers of one struct may overlap unless the text allows it. T = 0 launches nothing.
 *
 * Determinism: the order of operations for each output element is fixed by the shapes of the model alone. It does not
 * depend on T, on other tokens or on the launch, so a request's bits are the same in every batch, chunk and graph
 * bucket. No floating-point atomics. Kernels are compiled without contraction: a fused multiply-add is where the source
 * says fmaf.
 *
 * Limits of a model: hidden state, experts and scores of any size, head_dim up to EM_CUDA_MAX_HEAD_DIM, index_head_dim up
 * to EM_CUDA_MAX_INDEX_DIM, experts up to EM_CUDA_MAX_EXPERTS, hc up to EM_MAX_HC; T up to EM_CUDA_MAX_TOKENS.
 *
 * Graph buckets: a launch covers what its args say. To pad a step, give each padding token a run of its own (one token,
 * position 0) with a slot and a block that nobody else uses. */
#ifndef EM_CUDA_KERNELS_H
#define EM_CUDA_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/matrix.h"

#ifdef __CUDACC__
#define EM_HOST_DEVICE __host__ __device__
#else
#define EM_HOST_DEVICE
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define EM_CUDA_MAX_TOKENS 65535
#define EM_CUDA_MAX_HEAD_DIM 1024
#define EM_CUDA_MAX_INDEX_DIM 256
#define EM_CUDA_MAX_EXPERTS 2048

typedef struct CUstream_st *em_cuda_stream; /* the runtime's cudaStream_t */

/* --- what many kernels read --------------------------------------------------------------------------------- */

/* The step (engine/batch.h, flattened). Arrays in device memory, written before the first kernel of the step. */
typedef struct em_cuda_step {
    int32_t n_tokens;           /* T */
    int32_t n_seqs;             /* runs */
    const int32_t *token;       /* [T] ids */
    const int32_t *pos;         /* [T] position of each token */
    const int32_t *seq_of;      /* [T] its run */
    const int32_t *run_start;   /* [n_seqs] first token of each run in the flat batch */
    const int32_t *run_pos;     /* [n_seqs] position of that token */
    const int32_t *run_len;     /* [n_seqs] tokens of the run, >= 1 */
    const int32_t *slot;        /* [n_seqs] */
    const int32_t *block_table; /* [n_seqs, block_stride] KV block ids in position order */
    int64_t block_stride;
} em_cuda_step;

/* Per-sequence state, laid out as em_cpu_state (engine/cpu/cpu.h, engine/cpu/state.c). */
typedef struct em_cuda_state {
    uint8_t *slots;  /* [n_slots + n_snapshots, slot_bytes]: rings [n_layers, window, window_row], then open groups */
    uint8_t *blocks; /* [n_blocks, block_bytes] */
    int64_t slot_bytes, block_bytes;
    int32_t window;                        /* rows of a ring */
    int32_t block_tokens;                  /* positions of a block */
    int32_t head_dim, index_head_dim;      /* widths of unpacked rows */
    int32_t window_row, comp_row, key_row; /* bytes */
    bool pack_window, pack_comp, pack_key; /* Q1, Q2, Q3/Q4 apply; else rows are F32 */
} em_cuda_state;

/* One KV source: where its rows lie in a block and in a slot. */
typedef struct em_cuda_source {
    int64_t comp_off, key_off; /* in a block */
    int64_t open_off;          /* in a slot: kv then gate, [(ratio - 1), D] F32 each */
    int32_t ratio;             /* tokens per compressed position, >= 1 */
} em_cuda_source;

/* Rotary tables of the step's positions, [T, n_pairs] each: of the main or of the compress frequencies. */
typedef struct em_cuda_rope {
    const float *cos, *sin;
    int32_t n_pairs; /* rope_dim / 2 */
} em_cuda_rope;

/* --- beginning of a step (rope.cu, embed.cu) ---------------------------------------------------------------- */

/* cos and sin of pos * freq, the product in float32 (spec 4.5), for both tables. */
typedef struct em_cuda_rope_table_args {
    em_cuda_step step;
    const float *freq_main, *freq_comp;               /* [n_pairs], from em_rope_frequencies */
    float *cos_main, *sin_main, *cos_comp, *sin_comp; /* [T, n_pairs] */
    int32_t n_pairs;
} em_cuda_rope_table_args;
int em_cuda_rope_table(em_cuda_stream s, const em_cuda_rope_table_args *a);

/* Embedding row of each token into all streams; pre = (1, 0, ...). */
typedef struct em_cuda_embed_args {
    em_cuda_step step;
    em_matrix embed; /* [vocab, H]; data and scale may be mapped */
    float *streams;  /* [T, hc, H] */
    float *pre;      /* [T, hc] */
    int32_t hc;
} em_cuda_embed_args;
int em_cuda_embed(em_cuda_stream s, const em_cuda_embed_args *a);

/* --- Engram (engram.cu; spec 5.4, 5.5) ---------------------------------------------------------------------- */

/* One table's hash constants, in device memory (the fields of em_engram_hash that the kernel needs). */
#define EM_CUDA_MAX_ORDER 8
#define EM_CUDA_MAX_COLS 448 /* (orders - 1) * heads at most */
typedef struct em_cuda_hash {
    int32_t max_order, n_heads, n_cols, pad_class;
    int64_t multiplier[EM_CUDA_MAX_ORDER];
    int64_t prime[EM_CUDA_MAX_COLS], offset[EM_CUDA_MAX_COLS];
} em_cuda_hash;

/* Row ids of every token and column. */
typedef struct em_cuda_engram_hash_args {
    const em_cuda_hash *hash;
    const int32_t *class_of; /* [n_ids] class of each token id */
    const int32_t *ids;      /* [T, ids_stride] the token and those before it, newest first; outside of 0 .. n_ids - 1:
                              * before the start, or no part of any text; it and all deeper ones read as the pad class */
    int64_t ids_stride;      /* >= max_order */
    int64_t *row_id;         /* [T, n_cols] */
    int32_t n_tokens, n_cols, n_ids;
} em_cuda_engram_hash_args;
int em_cuda_engram_hash(em_cuda_stream s, const em_cuda_engram_hash_args *a);

/* Rows -> F32, side by side: out [T, n_cols * head_dim]. With row_id the rows are fetched from the table (mapped host
 * memory: zero-copy loads, 16 bytes a lane); without, row c of token t is row t * n_cols + c (staged rows). */
typedef struct em_cuda_engram_rows_args {
    em_dtype dtype;        /* of the table: F32, BF16, FP8 */
    const uint8_t *codes;  /* [rows, head_dim] codes; may be mapped */
    const uint8_t *scales; /* [rows, head_dim / 32] UE8M0, FP8 only; may be mapped */
    const int64_t *row_id; /* [T, n_cols] or NULL */
    float *out;
    int32_t n_tokens, n_cols, head_dim; /* head_dim divides by 32 where dtype is FP8 */
} em_cuda_engram_rows_args;
int em_cuda_engram_rows(em_cuda_stream s, const em_cuda_engram_rows_args *a);

/* Gate of each stream, and streams += gate * value. */
typedef struct em_cuda_engram_gate_args {
    const float *kv;        /* [T, (hc + 1) * H] keys, then the value */
    const float *qk_weight; /* [hc, H] */
    float *streams;         /* [T, hc, H], updated */
    float *gate;            /* [T, hc] */
    int32_t n_tokens, hc, hidden;
    float norm_eps;
} em_cuda_engram_gate_args;
int em_cuda_engram_gate(em_cuda_stream s, const em_cuda_engram_gate_args *a);

/* --- hyper-connections (hyper.cu; spec 4.3) ----------------------------------------------------------------- */

/* The product with fn is cut into parts of a fixed number of columns; their sums are added in order by em_cuda_hc_pre.
 * Parts of one token: ceil(hc * H / EM_CUDA_HC_COLS). */
#define EM_CUDA_HC_COLS 512
typedef struct em_cuda_hc_mix_args {
    em_matrix fn;         /* [(2 + hc) * hc, hc * H] F32 or BF16 */
    const float *streams; /* [T, hc * H] */
    float *part;          /* [T, parts, (2 + hc) * hc] */
    double *part_sq;      /* [T, parts] sums of squares */
    int32_t n_tokens;
} em_cuda_hc_mix_args;
int em_cuda_hc_mix(em_cuda_stream s, const em_cuda_hc_mix_args *a);

/* Finishes a site: x = norm(collapse(streams, pre)); then pre (for the next site), post and comb of this one. */
typedef struct em_cuda_hc_pre_args {
    const float *part;
    const double *part_sq;
    const float *streams;      /* [T, hc, H] */
    const float *base, *scale; /* [(2 + hc) * hc], [3] */
    const float *norm;         /* [H] of the sublayer's input */
    float *pre;                /* [T, hc], read, then replaced */
    float *post, *comb;        /* [T, hc], [T, hc, hc] */
    float *x;                  /* [T, H] */
    int32_t n_tokens, hc, hidden, sinkhorn_iters;
    float hc_eps, norm_eps;
} em_cuda_hc_pre_args;
int em_cuda_hc_pre(em_cuda_stream s, const em_cuda_hc_pre_args *a);

/* Expand: streams'[k] = post_k y + sum_j comb[j][k] streams[j], in place. */
typedef struct em_cuda_hc_post_args {
    float *streams;           /* [T, hc, H], updated */
    const float *y;           /* [T, H] */
    const float *post, *comb; /* [T, hc], [T, hc, hc] */
    int32_t n_tokens, hc, hidden;
} em_cuda_hc_post_args;
int em_cuda_hc_post(em_cuda_stream s, const em_cuda_hc_post_args *a);

/* --- dense products (linear.cu) ----------------------------------------------------------------------------- */

/* y[m * y_stride + o] = sum over i of w[o][i] * x[m * x_stride + g * w.cols + i], for row_begin <= o < row_end, with
 * g = (o - row_begin) / rows_per_group: block-diagonal matrices like wo_a; rows_per_group = row_end - row_begin when
 * all rows read the same x. Any dtype, any shape. */
typedef struct em_cuda_linear_job {
    em_matrix w;
    int64_t row_begin, row_end;
    int64_t rows_per_group;
    const float *x;
    int64_t x_stride;
    float *y;
    int64_t y_stride;
    int32_t n_rows; /* M: rows of x and y */
} em_cuda_linear_job;
#define EM_CUDA_MAX_JOBS 6
/* How inputs of products are rounded (design: --math). */
typedef enum em_cuda_math { EM_CUDA_MATH_F32, EM_CUDA_MATH_BF16 } em_cuda_math;
/* Up to EM_CUDA_MAX_JOBS independent products in one launch; outputs must not be inputs of one another. */
int em_cuda_linear(em_cuda_stream s, const em_cuda_linear_job *jobs, int32_t n_jobs, em_cuda_math math);

/* y = w * x / sqrt(mean(x^2) + eps), row by row; in place allowed. w NULL: all ones. */
typedef struct em_cuda_rmsnorm_args {
    const float *x;
    float *y;
    const float *w;
    int64_t stride; /* of rows of x and y */
    int32_t n_rows, width;
    float eps;
} em_cuda_rmsnorm_args;
int em_cuda_rmsnorm(em_cuda_stream s, const em_cuda_rmsnorm_args *a);

/* --- attention (attention.cu, window.cu; spec 4.6) ---------------------------------------------------------- */

/* After the products with x: kv norm, rotation and Q1 of each token's window latent into win; norm of the query's
 * low-rank latent in place. */
typedef struct em_cuda_window_args {
    em_cuda_state state;
    em_cuda_rope rope; /* of the layer's table */
    const float *kv;   /* [T, D] product with wkv */
    const float *kv_norm;
    uint8_t *win; /* [T, window_row] rows as the ring stores them */
    float *q_lat; /* [T, q_rank], normalised in place */
    const float *q_norm;
    int32_t n_tokens, q_rank;
    float norm_eps;
} em_cuda_window_args;
int em_cuda_window(em_cuda_stream s, const em_cuda_window_args *a);

/* Rows of attention that are summed up together (engine/cuda/attention.cu). */
#define EM_CUDA_ATTEND_GROUP 64
static inline EM_HOST_DEVICE int64_t em_cuda_attend_groups(int64_t window, int64_t topk_stride)
{
    return (window + topk_stride + EM_CUDA_ATTEND_GROUP - 1) / EM_CUDA_ATTEND_GROUP;
}
/* Floats of em_cuda_attend_args.part for steps of up to n_tokens. */
static inline int64_t em_cuda_attend_part_floats(int64_t n_tokens, int64_t n_heads, int64_t head_dim, int64_t window,
                                                 int64_t topk_stride)
{
    return n_tokens * n_heads * em_cuda_attend_groups(window, topk_stride) * ((head_dim + 3) / 4 * 4 + 4);
}

/* Attention of every token and head: q is rotated, scored against the window (rows before the run from the ring, the
 * run's own from win) and the selected compressed rows, and replaced by the output, rotated back. The ring is not yet
 * written: em_cuda_window_store comes after. */
typedef struct em_cuda_attend_args {
    em_cuda_step step;
    em_cuda_state state;
    em_cuda_source source; /* of the layer's KV owner; ratio 0: window only, the three below are not read */
    const int32_t *topk;   /* [T, topk_stride] ascending compressed positions */
    const int32_t *topk_n; /* [T] */
    int64_t topk_stride;
    em_cuda_rope rope;
    const uint8_t *win;     /* [T, window_row] */
    const float *attn_sink; /* [n_heads] */
    float *q;               /* [T, n_heads, D] */
    /* Scratch of steps of up to part_tokens, whose rows are shared out to many blocks so that a few tokens fill the
     * device; the bits are the same without. NULL: none. */
    float *part;
    int32_t part_tokens;
    int32_t layer, n_heads;
} em_cuda_attend_args;
int em_cuda_attend(em_cuda_stream s, const em_cuda_attend_args *a);

/* The last `window` rows of each run into its ring. */
typedef struct em_cuda_window_store_args {
    em_cuda_step step;
    em_cuda_state state;
    const uint8_t *win;
    int32_t layer;
} em_cuda_window_store_args;
int em_cuda_window_store(em_cuda_stream s, const em_cuda_window_store_args *a);

/* --- compressor (compressor.cu; spec 4.7) ------------------------------------------------------------------- */

/* A token completes a group when (pos + 1) % ratio == 0; the group's latent stands in that token's row. Other rows of
 * latent become zeros, so that the product with index_wk may cover all T rows. */
typedef struct em_cuda_compress_args {
    em_cuda_step step;
    em_cuda_state state;
    em_cuda_source source;
    const float *comp_kv, *comp_gate; /* [T, D]; comp_gate is not read when ratio is 1 */
    const float *comp_norm;           /* [D] */
    float *latent;                    /* [T, D] */
    float norm_eps;
} em_cuda_compress_args;
int em_cuda_compress(em_cuda_stream s, const em_cuda_compress_args *a);

/* After index_key = index_wk * latent: norm, rotation and Q3 of the keys, rotation and Q2 of the latents, both into the
 * blocks; then the tokens behind the last complete group into the open group. Rotation is at the group's first
 * position. latent and index_key are left changed. */
typedef struct em_cuda_comp_store_args {
    em_cuda_step step;
    em_cuda_state state;
    em_cuda_source source;
    const float *freq_comp;           /* [n_pairs] */
    const float *comp_kv, *comp_gate; /* [T, D] */
    const float *index_k_norm;        /* [index_head_dim] */
    float *latent;                    /* [T, D] */
    float *index_key;                 /* [T, index_head_dim] */
    int32_t n_pairs;
    float norm_eps;
} em_cuda_comp_store_args;
int em_cuda_comp_store(em_cuda_stream s, const em_cuda_comp_store_args *a);

/* --- indexer (indexer.cu, topk.cu; spec 4.8, 4.9) ----------------------------------------------------------- */

/* Rotation and Q4 of the index queries in place. */
typedef struct em_cuda_index_query_args {
    em_cuda_state state;
    em_cuda_rope rope; /* compress table */
    float *index_q;    /* [T, n_heads, index_head_dim] */
    int32_t n_tokens, n_heads;
} em_cuda_index_query_args;
int em_cuda_index_query(em_cuda_stream s, const em_cuda_index_query_args *a);

/* Scores of tokens token_begin .. token_begin + n_rows - 1 against the keys of their sequences. Row i of scores belongs
 * to token token_begin + i; its first n(t) = (pos + 1) / ratio elements are written, no others. */
typedef struct em_cuda_index_scores_args {
    em_cuda_step step;
    em_cuda_state state;
    em_cuda_source source;
    const float *index_q; /* [T, n_heads, index_head_dim] */
    const float *index_w; /* [T, n_heads] */
    float *scores;        /* [n_rows, score_stride] */
    int64_t score_stride; /* >= n_keys */
    int32_t token_begin, n_rows;
    int32_t
        n_keys; /* at least n(t) of each of these tokens: what the grid covers (in a graph: the most there can be) */
    int32_t n_heads;
} em_cuda_index_scores_args;
int em_cuda_index_scores(em_cuda_stream s, const em_cuda_index_scores_args *a);

/* Level one for the same tokens: the bits of the kept candidate blocks. */
typedef struct em_cuda_candidates_args {
    em_cuda_step step;
    const float *scores; /* [n_rows, score_stride] */
    int64_t score_stride;
    float *block_score;   /* [n_rows, block_stride] scratch */
    int64_t block_stride; /* >= ceil(most n(t) / block_size) */
    uint64_t *cand;       /* [T, cand_words]: rows of these tokens are written whole */
    int64_t cand_words;   /* >= ceil(block_stride / 64) */
    int32_t token_begin, n_rows, ratio;
    int32_t block_size, topk_blocks;
} em_cuda_candidates_args;
int em_cuda_candidates(em_cuda_stream s, const em_cuda_candidates_args *a);

/* Top-k for the same tokens, ascending, ties to the lowest index, -inf and NaN never (engine/cpu/topk.c). */
typedef struct em_cuda_select_args {
    em_cuda_step step;
    const float *scores; /* [n_rows, score_stride] */
    int64_t score_stride;
    const uint64_t *cand; /* [T, cand_words] level two: only positions in kept blocks; NULL: all */
    int64_t cand_words;
    int32_t *topk;       /* [T, topk_stride] */
    int32_t *topk_n;     /* [T] */
    int64_t topk_stride; /* >= k */
    int32_t token_begin, n_rows, ratio;
    int32_t block_size; /* of candidates, >= 1 */
    int32_t k;
} em_cuda_select_args;
int em_cuda_select(em_cuda_stream s, const em_cuda_select_args *a);

/* --- mixture of experts (moe.cu; spec 4.10) ----------------------------------------------------------------- */

/* One (token, expert) pair: em_moe_entry. */
typedef struct em_cuda_entry {
    int32_t token;
    int32_t expert; /* n_experts: the shared one */
    float weight;
} em_cuda_entry;

/* Up to EM_CUDA_ITEM_TOKENS entries of one expert: what a block of the products works on. */
#define EM_CUDA_ITEM_TOKENS 8
typedef struct em_cuda_item {
    int32_t expert, entry, n;
} em_cuda_item;

/* Items of a step are at most this many. */
static inline int64_t em_cuda_item_cap(int64_t n_tokens, int64_t n_experts, int64_t per_token)
{
    int64_t pairs = n_tokens * per_token, used = pairs < n_experts ? pairs : n_experts;
    return used + pairs / EM_CUDA_ITEM_TOKENS + (n_tokens + EM_CUDA_ITEM_TOKENS - 1) / EM_CUDA_ITEM_TOKENS;
}

typedef enum em_cuda_scoring { EM_CUDA_SQRTSOFTPLUS, EM_CUDA_SOFTMAX, EM_CUDA_SIGMOID } em_cuda_scoring;

/* Router logits -> chosen experts (best first, ties to the lowest) and their weights. */
typedef struct em_cuda_route_args {
    float *router;      /* [T, E] logits, left as scores */
    const float *bias;  /* [E] */
    int32_t *expert_id; /* [T, k] */
    float *expert_w;    /* [T, k] */
    int32_t n_tokens, n_experts, k;
    em_cuda_scoring scoring;
    bool norm_topk_prob;
    float gate_temp, scaling;
} em_cuda_route_args;
int em_cuda_route(em_cuda_stream s, const em_cuda_route_args *a);

/* Pairs sorted by expert, then token, the shared expert's (all tokens) last; each token's entries in ascending expert
 * order; the list of items. */
typedef struct em_cuda_dispatch_args {
    const int32_t *expert_id;
    const float *expert_w;
    em_cuda_entry *entry;   /* [T * (k + 1)] */
    int32_t *entry_of;      /* [T, k + 1] */
    int32_t *expert_begin;  /* [E + 2] */
    em_cuda_item *item;     /* [em_cuda_item_cap] */
    int32_t *n_items;       /* [1] */
    uint64_t *experts_read; /* [1] grows by the number of routed experts in use; may be NULL */
    int32_t n_tokens, n_experts, k;
} em_cuda_dispatch_args;
int em_cuda_dispatch(em_cuda_stream s, const em_cuda_dispatch_args *a);

/* One expert's matrices, device pointers (or mapped). */
typedef struct em_cuda_expert {
    em_matrix w1, w3; /* [inter, H] */
    em_matrix w2;     /* [H, inter] */
} em_cuda_expert;

/* act[entry] = weight * silu(min(w1 x, limit)) * clamp(w3 x, -limit, limit); then y[entry] = w2 act[entry]; then the
 * sum of each token's entries in order. em_cuda_expert_up and _down take the items of em_cuda_dispatch. */
typedef struct em_cuda_moe_args {
    const em_cuda_expert *expert; /* [E + 1] in device memory, the shared one last */
    const em_cuda_entry *entry;
    const em_cuda_item *item;
    const int32_t *n_items;
    const int32_t *entry_of;
    const float *x; /* [T, H] */
    float *act;     /* [T * (k + 1), inter] */
    float *part;    /* [T * (k + 1), H] */
    float *y;       /* [T, H] */
    int32_t n_tokens, n_experts, k, hidden, inter;
    float swiglu_limit; /* <= 0: no clamp */
    em_cuda_math math;
} em_cuda_moe_args;
int em_cuda_expert_up(em_cuda_stream s, const em_cuda_moe_args *a);   /* x -> act */
int em_cuda_expert_down(em_cuda_stream s, const em_cuda_moe_args *a); /* act -> part */
int em_cuda_combine(em_cuda_stream s, const em_cuda_moe_args *a);     /* part -> y */

/* --- head (head.cu; spec 4.11) ------------------------------------------------------------------------------ */

/* last[i] = norm(collapse(streams, pre)) of token index[i]; the product with the vocabulary is em_cuda_linear. */
typedef struct em_cuda_head_args {
    const float *streams; /* [T, hc, H] */
    const float *pre;     /* [T, hc] */
    const int32_t *index; /* [n_logits] tokens whose logits are wanted */
    const float *norm;    /* [H] */
    float *last;          /* [n_logits, H] */
    int32_t n_logits, hc, hidden;
    float norm_eps;
} em_cuda_head_args;
int em_cuda_head(em_cuda_stream s, const em_cuda_head_args *a);

/* The index of each row's largest value, ties to the lowest index, NaN never; 0 when a row has nothing else. */
typedef struct em_cuda_argmax_args {
    const float *logits; /* [n_rows, vocab] */
    int32_t *id;         /* [n_rows] */
    int32_t n_rows, vocab;
} em_cuda_argmax_args;
int em_cuda_argmax(em_cuda_stream s, const em_cuda_argmax_args *a);

#ifdef __cplusplus
}
#endif
#endif

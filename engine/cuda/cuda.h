/* Inside of the CUDA backend: one arena of device memory, two streams, and what lies where.
 *
 * A stage enqueues kernels (engine/cuda/kernels.h) and never waits; head waits, once. The first thing that goes wrong is
 * kept in `fault`; later stages of the step do nothing, and head tells it.
 *
 * A decode step (one token of each sequence) is a CUDA graph: the first one of its size is recorded while its stages are
 * called, and launched in head; for later ones the stages do nothing and head launches what was recorded. So all
 * addresses are fixed at open, and what changes from step to step lies in buffers. Steps are padded to a bucket with
 * tokens that have a slot and a block of their own.
 *
 * T: tokens of a step, at most cap_tokens. R: sequences of a decode step, at most cap_runs. */
#ifndef EM_CUDA_CUDA_H
#define EM_CUDA_CUDA_H

#include <cuda_runtime_api.h>

#include "engine/backend_module.h"
#include "engine/cuda/kernels.h"
#include "engine/state_layout.h"

#define EM_CUDA_ALIGN ((size_t)256)          /* of every buffer in the arena */
#define EM_CUDA_MAX_GRAPHS 32                /* recorded decode steps kept, the longest unused one goes */
#define EM_CUDA_MIN_ARCH 80                  /* compute capability times ten */
#define EM_CUDA_RING_CHUNK ((size_t)4 << 20) /* of the upload ring */
#define EM_CUDA_RING_CHUNKS 4

/* What the stages of a step do. */
typedef enum em_cuda_mode {
    EM_CUDA_PLAIN,  /* enqueue */
    EM_CUDA_RECORD, /* enqueue into a graph */
    EM_CUDA_REPLAY, /* nothing: the graph is there */
} em_cuda_mode;

/* A recorded decode step. */
typedef struct em_cuda_graph {
    cudaGraphExec_t exec; /* NULL: free */
    int32_t runs;         /* bucket: sequences, padding included */
    int32_t reach;        /* bucket: positions of the longest sequence */
    uint32_t fetched;     /* bit per Engram table: the graph reads the table itself */
    uint64_t used;        /* step that used it last */
} em_cuda_graph;

/* The step in page-locked memory, copied to the device in one piece; same layout there. All int32. */
typedef struct em_cuda_step_arrays {
    int32_t *token, *pos, *seq_of, *logit;         /* [T] */
    int32_t *run_start, *run_pos, *run_len, *slot; /* [R] */
    int32_t *block_table;                          /* [R, block_stride], last */
} em_cuda_step_arrays;

/* Engram rows of one table on their way to the device. */
typedef struct em_cuda_rows {
    const uint8_t *codes, *scales; /* the whole table, if the device can read it where it is; else NULL */
    size_t row_bytes, scale_bytes;
    int64_t *host_ids, *ids;           /* [R, n_cols] page-locked, device */
    uint8_t *host_codes, *host_scales; /* [R, n_cols] rows of a decode step, page-locked */
    float *ahead;                      /* [R, n_cols * head_dim] rows fetched ahead by the second stream */
    cudaEvent_t ready;                 /* ahead is there */
    bool fetched;                      /* in this step */
} em_cuda_rows;

typedef struct em_cuda em_cuda;

/* Page-locked memory that was given out (pinned.c). */
typedef struct em_cuda_pinned {
    struct em_cuda_pinned *next;
    uint8_t *p;
    size_t bytes, map_bytes;
} em_cuda_pinned;

struct em_cuda {
    em_backend base; /* first */
    char name[112];
    const em_model_config *cfg;
    em_backend_shape shape;
    em_device_plan plan;
    int32_t cap_tokens, cap_runs; /* >= what the shape says: buckets are powers of two */
    int64_t block_stride;         /* blocks of the longest sequence */
    int64_t positions;            /* compressed ones of the longest sequence, any source; >= 1 */

    cudaStream_t stream, side;
    cudaEvent_t fork;
    uint8_t *arena;
    size_t arena_bytes;
    int status;       /* 0, or what `fault` is about */
    bool copy_failed; /* a copy of state did: the next step must not run */
    em_error fault;

    em_weights weights;            /* as the host's, with device pointers; layers and experts are owned */
    em_cuda_expert **expert_table; /* [n_layers] device: [E + 1] */
    uint8_t *host_experts;         /* page-locked; NULL: all are on the device */
    em_cuda_pinned *pinned;

    em_state_layout layout;
    em_cuda_state state;

    /* the step */
    em_cuda_mode mode;
    bool capturing;
    em_cuda_graph graph[EM_CUDA_MAX_GRAPHS], *current; /* current: to launch in this step */
    bool no_graphs;                                    /* logits of a bucket would not fit */
    uint64_t n_steps;
    const em_batch *batch;
    int32_t n_decode; /* sequences of a decode step; 0: some run has more tokens */
    int32_t reach;    /* positions that the longest sequence has after this step; in graphs the bucket */
    int32_t n_logits; /* rows of the head, padding included */
    em_cuda_step step;
    uint8_t *host_step, *dev_step;
    size_t step_bytes; /* without block tables */
    em_cuda_step_arrays host, dev;

    float *freq_main, *freq_comp;                     /* [rope_dim / 2] */
    float *cos_main, *sin_main, *cos_comp, *sin_comp; /* [T, rope_dim / 2] */
    float *streams;                                   /* [T, hc, H] */
    float *pre, *post, *comb;                         /* [T, hc], [T, hc], [T, hc, hc] */
    float *part;                                      /* [T, parts, (2 + hc) * hc] */
    double *part_sq;                                  /* [T, parts] */
    float *x, *y;                                     /* [T, H] */

    em_cuda_rows rows[EM_MAX_ENGRAM_LAYERS];
    int32_t n_cols;                  /* rows of a token in one table */
    uint8_t *row_codes, *row_scales; /* [T, n_cols] staged rows */
    float *engram_in;                /* [T, n_cols * head_dim] */
    float *engram_kv, *engram_gate;  /* [T, (hc + 1) * H], [T, hc] */

    float *q_lat, *q, *kv, *o_lat; /* [T, q_lora_rank], [T, n_heads * D], [T, D], [T, o_groups * o_lora_rank] */
    float *attend_part;            /* scratch of attention for steps of up to part_tokens */
    int32_t part_tokens;
    uint8_t *win;                                    /* [T, window_row] */
    float *comp_kv, *comp_gate, *latent, *index_key; /* [T, D] x 3, [T, index_head_dim] */
    float *index_q, *index_w;                        /* [T, index_n_heads * index_head_dim], [T, index_n_heads] */
    float *scores;                                   /* [score_cap] of one tile of queries */
    int64_t score_cap;
    float *block_score;
    int64_t block_score_cap;
    uint64_t *cand; /* [T, cand_words] */
    int64_t cand_words;
    int32_t *topk, *topk_n; /* [T, topk_cap], [T] */
    int32_t topk_cap;

    float *router;
    int32_t *expert_id; /* [T, k] */
    float *expert_w;    /* [T, k] */
    em_cuda_entry *entry;
    int32_t *entry_of, *expert_begin, *n_items;
    em_cuda_item *item;
    uint64_t *experts_read, *host_experts_read; /* [1] so far */
    float *act, *moe_part;                      /* [T * (k + 1), inter], [T * (k + 1), H] */

    float *last;                 /* [T, H] */
    float *logits, *host_logits; /* [logit_rows, vocab] */
    int32_t logit_rows;
};

/* --- module.c: errors. True when code is 0; otherwise the first fault of the step is kept. */
bool em_cuda_ok(em_cuda *c, int code, const char *what);

/* --- arena.c */
/* Bytes of the step's buffers; fills the sizes of c that follow from cfg and shape. Pure but for c. */
size_t em_cuda_activation_bytes(em_cuda *c);
size_t em_cuda_host_buffer_bytes(em_cuda *c);
void em_cuda_place(em_cuda *c, uint8_t *arena);    /* points the buffers into the arena's beginning */
int em_cuda_place_host(em_cuda *c, em_error *err); /* page-locked buffers */
int em_cuda_plan(const em_model_config *cfg, const em_backend_shape *shape, const em_device_need *need,
                 em_device_plan *ret_plan, em_error *err);

/* --- upload.c */
/* Puts the weights behind `at` (room bytes of the arena), experts that do not fit into page-locked memory. */
int em_cuda_upload(em_cuda *c, const em_weights *w, uint8_t *at, size_t room, const em_device_opts *opts,
                   em_error *err);
void em_cuda_weights_done(em_cuda *c);

/* --- pinned.c: page-locked memory that the device can read, huge pages where there are any */
void *em_cuda_pin(em_cuda *c, size_t bytes, em_error *err); /* NULL with a sentence */
void em_cuda_unpin(em_cuda *c, void *p);
bool em_cuda_is_pinned(const em_cuda *c, const void *p);
em_engram_mem em_cuda_engram_mem(em_cuda *c);

/* --- step.c */
int em_cuda_begin(em_backend *be, const em_batch *batch, em_error *err);
int em_cuda_finish(em_backend *be, float *logits, em_error *err); /* the head */
void em_cuda_copy_slot(em_backend *be, int32_t from, int32_t to);
void em_cuda_copy_block(em_backend *be, int32_t from, int32_t to);
/* False when the stages have nothing to enqueue: a fault, or a recorded step. */
bool em_cuda_active(const em_cuda *c);

/* --- graph.c */
/* Chooses how a decode step of `runs` (a bucket) is computed, and begins to record when it is new. */
void em_cuda_graph_begin(em_cuda *c, int32_t runs, int32_t reach);
void em_cuda_graph_launch(em_cuda *c);  /* ends the recording, if there is one */
void em_cuda_graph_abandon(em_cuda *c); /* of a step that did not come to its end */
void em_cuda_graphs_done(em_cuda *c);

/* --- stages: engram.c, attention.c, layers.c */
void em_cuda_table(em_backend *be, int32_t table_idx, const em_engram_table *table);
bool em_cuda_expect(em_backend *be, int32_t table_idx, const em_engram_rows *rows);
void em_cuda_engram(em_backend *be, int32_t layer, const em_engram_rows *rows);
void em_cuda_attention(em_backend *be, int32_t layer);
void em_cuda_embed_stage(em_backend *be);
void em_cuda_hc_pre_stage(em_backend *be, int32_t layer, em_site site);
void em_cuda_hc_post_stage(em_backend *be, int32_t layer, em_site site);
void em_cuda_moe(em_backend *be, int32_t layer);
/* Head rows first .. first + n - 1 of the step into c->logits. */
void em_cuda_head_rows(em_cuda *c, int32_t first, int32_t n);
/* All rows of w over the step's tokens. */
em_cuda_linear_job em_cuda_job(const em_cuda *c, const em_matrix *w, const float *x, int64_t x_stride, float *y);

#endif

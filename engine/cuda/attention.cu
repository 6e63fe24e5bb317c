/* Attention over the window and the selected compressed rows (spec 4.6). All heads share one row per position, which is
 * key and value. A warp has one head; the block decodes TILE rows at a time into shared memory for its eight heads.
 *
 * Rows are taken in groups of GROUP. A group's softmax sums start from nothing; groups are merged one after the other,
 * beginning with the sink, which only counts in the denominator. So a token's bits are the same whether one block walks
 * through all groups (prefill) or each group has a block of its own and another kernel merges (decode). */
#include "engine/cuda/compat.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/rope.cuh"
#include "engine/cuda/rows.cuh"

enum {
    HEADS = 8, /* warps of a block */
    GROUP = EM_CUDA_ATTEND_GROUP,
    CHUNK = 4 * WARP, /* channels of a warp's float4s */
};

/* Softmax sums of one head: largest score, sum of exponentials, weighted rows (the lane's channels). */
template <int NC> struct sums {
    float top, total;
    float4 o[NC];
};

template <int NC> static __device__ void clear(sums<NC> &s, float top, float total)
{
    s.top = top;
    s.total = total;
#pragma unroll
    for (int c = 0; c < NC; c++)
        s.o[c] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

static __device__ float4 scaled(float4 v, float by)
{
    return make_float4(v.x * by, v.y * by, v.z * by, v.w * by);
}

static __device__ float4 plus(float4 a, float4 b)
{
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

static __device__ float4 fused(float p, float4 v, float4 onto)
{
    return make_float4(fmaf(p, v.x, onto.x), fmaf(p, v.y, onto.y), fmaf(p, v.z, onto.z), fmaf(p, v.w, onto.w));
}

/* all += part */
template <int NC> static __device__ void merge(sums<NC> &all, const sums<NC> &part)
{
    float top = fmaxf(all.top, part.top), a = expf(all.top - top), b = expf(part.top - top);
    all.top = top;
    all.total = all.total * a + part.total * b;
#pragma unroll
    for (int c = 0; c < NC; c++)
        all.o[c] = plus(scaled(all.o[c], a), scaled(part.o[c], b));
}

/* What one block works on. */
typedef struct attend_place {
    int64_t token;
    int seq, head, n_win, n_comp, stride; /* head: of this warp; stride: floats of a row in shared memory */
    bool active;                          /* there is such a head */
} attend_place;

static __device__ attend_place place_of(const em_cuda_attend_args &a)
{
    attend_place p;
    p.token = blockIdx.x;
    p.seq = a.step.seq_of[p.token];
    p.head = (int)(blockIdx.y * HEADS + warp_id());
    p.active = p.head < a.n_heads;
    p.n_win = min(a.step.pos[p.token] + 1, a.state.window);
    p.n_comp = a.source.ratio ? a.topk_n[p.token] : 0;
    p.stride = (a.state.head_dim + 3) / 4 * 4;
    return p;
}

/* Row i of the token's list: window positions upward, then the selected ones. */
static __device__ const uint8_t *row_at(const em_cuda_attend_args &a, const attend_place &p, int i)
{
    if (i >= p.n_win)
        return comp_row(a.step, a.state, a.source, p.seq, a.topk[p.token * a.topk_stride + i - p.n_win]);
    int pos = a.step.pos[p.token] + 1 - p.n_win + i, ahead = pos - a.step.run_pos[p.seq];
    if (ahead >= 0)
        return a.win + (int64_t)(a.step.run_start[p.seq] + ahead) * a.state.window_row;
    return ring_row(a.state, a.step.slot[p.seq], a.layer, pos);
}

/* n rows from `first` on into shared memory, zeros behind each row's end. */
static __device__ void load_tile(const em_cuda_attend_args &a, const attend_place &p, int first, int n, float *tile)
{
    for (int r = (int)warp_id(); r < n; r += HEADS) {
        const uint8_t *row = row_at(a, p, first + r);
        bool window = first + r < p.n_win;
        for (int d = (int)lane_id(); d < p.stride; d += WARP) {
            float v = 0.0f;
            if (d < a.state.head_dim)
                v = window ? window_value(a.state, row, d) : comp_value(a.state, row, d);
            tile[r * p.stride + d] = v;
        }
    }
}

/* The head's query, rotated, into the lanes' registers; by way of shared memory. */
template <int NC> static __device__ void load_query(const em_cuda_attend_args &a, const attend_place &p, float *shared, float4 (&q)[NC])
{
    int D = a.state.head_dim, pairs = a.rope.n_pairs;
    float *mine = shared + warp_id() * p.stride;
    const float *from = a.q + (p.token * a.n_heads + p.head) * D;
    for (int d = (int)lane_id(); d < p.stride; d += WARP)
        mine[d] = d < D ? from[d] : 0.0f;
    __syncwarp();
    rotate_tail(mine, D, a.rope.cos + p.token * pairs, a.rope.sin + p.token * pairs, pairs, 1.0f, (int)lane_id(), WARP);
    __syncwarp();
#pragma unroll
    for (int c = 0; c < NC; c++) {
        int d = c * CHUNK + (int)lane_id() * 4;
        q[c] = d < p.stride ? *(float4 *)(mine + d) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
}

/* The output, divided by the total and rotated back, in the query's place; by way of shared memory. */
template <int NC>
static __device__ void store_output(const em_cuda_attend_args &a, const attend_place &p, float *shared, const sums<NC> &s)
{
    int D = a.state.head_dim, pairs = a.rope.n_pairs;
    float *mine = shared + warp_id() * p.stride, *to = a.q + (p.token * a.n_heads + p.head) * D;
#pragma unroll
    for (int c = 0; c < NC; c++) {
        int d = c * CHUNK + (int)lane_id() * 4;
        if (d < p.stride)
            *(float4 *)(mine + d) = make_float4(s.o[c].x / s.total, s.o[c].y / s.total, s.o[c].z / s.total, s.o[c].w / s.total);
    }
    __syncwarp();
    rotate_tail(mine, D, a.rope.cos + p.token * pairs, a.rope.sin + p.token * pairs, pairs, -1.0f, (int)lane_id(), WARP);
    __syncwarp();
    for (int d = (int)lane_id(); d < D; d += WARP)
        to[d] = mine[d];
}

/* Scores of the tile's rows: lane l gets the one of row l / (WARP / TILE). */
template <int NC, int TILE>
static __device__ float tile_scores(const float *tile, int stride, int n, const float4 (&q)[NC], float scale)
{
    float dot[TILE];
#pragma unroll
    for (int r = 0; r < TILE; r++) {
        dot[r] = 0.0f;
#pragma unroll
        for (int c = 0; c < NC; c++) {
            int d = c * CHUNK + (int)lane_id() * 4;
            if (r < n && d < stride) {
                float4 k = *(const float4 *)(tile + r * stride + d);
                dot[r] = fmaf(q[c].x, k.x, fmaf(q[c].y, k.y, fmaf(q[c].z, k.z, fmaf(q[c].w, k.w, dot[r]))));
            }
        }
    }
    float score = warp_sums<TILE>(dot) * scale;
    return (int)lane_id() / (WARP / TILE) < n ? score : -INFINITY;
}

/* n rows of the tile into the group's sums. */
template <int NC, int TILE>
static __device__ void attend_tile(const float *tile, int stride, int n, const float4 (&q)[NC], float scale, sums<NC> &s)
{
    float score = tile_scores<NC, TILE>(tile, stride, n, q, scale);
    float top = fmaxf(s.top, lanes_max(score, WARP)), old = expf(s.top - top);
    float p = expf(score - top), sum = p;
#pragma unroll
    for (int off = WARP / 2; off >= WARP / TILE; off /= 2) /* lanes with the same row count once */
        sum += __shfl_xor_sync(ALL_LANES, sum, off);
    s.top = top;
    s.total = s.total * old + sum;
#pragma unroll
    for (int c = 0; c < NC; c++)
        s.o[c] = scaled(s.o[c], old);
    for (int r = 0; r < n; r++) {
        float weight = __shfl_sync(ALL_LANES, p, r * (WARP / TILE));
#pragma unroll
        for (int c = 0; c < NC; c++) {
            int d = c * CHUNK + (int)lane_id() * 4;
            if (d < stride)
                s.o[c] = fused(weight, *(const float4 *)(tile + r * stride + d), s.o[c]);
        }
    }
}

/* All rows of one group. Every thread of the block takes part in the barriers. */
template <int NC, int TILE>
static __device__ void attend_group(const em_cuda_attend_args &a, const attend_place &p, int group, const float4 (&q)[NC],
                                    float *tile, sums<NC> &s)
{
    int end = min(p.n_win + p.n_comp, (group + 1) * GROUP);
    float scale = 1.0f / sqrtf((float)a.state.head_dim);
    clear(s, -INFINITY, 0.0f);
    for (int first = group * GROUP; first < end; first += TILE) {
        int n = min(end - first, TILE);
        __syncthreads(); /* nobody reads the last tile any more */
        load_tile(a, p, first, n, tile);
        __syncthreads();
        if (p.active)
            attend_tile<NC, TILE>(tile, p.stride, n, q, scale, s);
    }
}

/* Grid: (tokens, head blocks). */
template <int NC, int TILE> static __global__ void __launch_bounds__(HEADS *WARP) attend(const em_cuda_attend_args a)
{
    DYN_SHARED(float, tile);
    attend_place p = place_of(a);
    float4 q[NC];
    sums<NC> all, part;
    if (p.active) {
        load_query<NC>(a, p, tile, q);
        clear(all, a.attn_sink[p.head], 1.0f);
    }
    for (int g = 0; g * GROUP < p.n_win + p.n_comp; g++) {
        attend_group<NC, TILE>(a, p, g, q, tile, part);
        if (p.active)
            merge(all, part);
    }
    __syncthreads();
    if (p.active)
        store_output<NC>(a, p, tile, all);
}

/* Groups that a token can have at most. */
static __host__ __device__ int64_t most_groups(const em_cuda_attend_args &a)
{
    return em_cuda_attend_groups(a.state.window, a.source.ratio ? a.topk_stride : 0);
}

/* Where one group's sums of one head lie: its channels, then top and total. */
static __device__ float *part_of(const em_cuda_attend_args &a, const attend_place &p, int64_t group)
{
    int64_t groups = most_groups(a);
    return a.part + ((p.token * a.n_heads + p.head) * groups + group) * (p.stride + 4);
}

/* Grid: (tokens, head blocks, groups). */
template <int NC, int TILE> static __global__ void __launch_bounds__(HEADS *WARP) attend_part(const em_cuda_attend_args a)
{
    DYN_SHARED(float, tile);
    attend_place p = place_of(a);
    int group = (int)blockIdx.z;
    float4 q[NC];
    sums<NC> s;
    if (group * GROUP >= p.n_win + p.n_comp)
        return;
    if (p.active)
        load_query<NC>(a, p, tile, q);
    attend_group<NC, TILE>(a, p, group, q, tile, s);
    if (!p.active)
        return;
    float *to = part_of(a, p, group);
#pragma unroll
    for (int c = 0; c < NC; c++) {
        int d = c * CHUNK + (int)lane_id() * 4;
        if (d < p.stride)
            *(float4 *)(to + d) = s.o[c];
    }
    if (lane_id() == 0) {
        to[p.stride] = s.top;
        to[p.stride + 1] = s.total;
    }
}

/* Grid: (tokens, head blocks). No barriers: each warp merges its own head. */
template <int NC> static __global__ void __launch_bounds__(HEADS *WARP) attend_merge(const em_cuda_attend_args a)
{
    DYN_SHARED(float, shared);
    attend_place p = place_of(a);
    sums<NC> all, part;
    if (!p.active)
        return;
    clear(all, a.attn_sink[p.head], 1.0f);
    for (int g = 0; g * GROUP < p.n_win + p.n_comp; g++) {
        const float *from = part_of(a, p, g);
#pragma unroll
        for (int c = 0; c < NC; c++) {
            int d = c * CHUNK + (int)lane_id() * 4;
            part.o[c] = d < p.stride ? *(const float4 *)(from + d) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
        part.top = from[p.stride];
        part.total = from[p.stride + 1];
        merge(all, part);
    }
    store_output<NC>(a, p, shared, all);
}

template <int NC, int TILE> static int launch_attend(em_cuda_stream s, const em_cuda_attend_args *a)
{
    unsigned tokens = (unsigned)a->step.n_tokens, heads = blocks_for(a->n_heads, HEADS);
    size_t row = (size_t)(a->state.head_dim + 3) / 4 * 16;
    size_t shared = row * (TILE > HEADS ? TILE : HEADS);
    if (!a->part || a->step.n_tokens > a->part_tokens)
        return LAUNCH((attend<NC, TILE>), dim3(tokens, heads), HEADS * WARP, shared, s, *a);
    unsigned groups = (unsigned)most_groups(*a);
    int r = LAUNCH((attend_part<NC, TILE>), dim3(tokens, heads, groups), HEADS * WARP, shared, s, *a);
    return r ? r : LAUNCH((attend_merge<NC>), dim3(tokens, heads), HEADS * WARP, row * HEADS, s, *a);
}

int em_cuda_attend(em_cuda_stream s, const em_cuda_attend_args *a)
{
    int D = a->state.head_dim;
    if (a->step.n_tokens == 0)
        return 0;
    if (D <= 128)
        return launch_attend<1, 16>(s, a);
    if (D <= 256)
        return launch_attend<2, 16>(s, a);
    if (D <= 512)
        return launch_attend<4, 16>(s, a);
    return launch_attend<8, 8>(s, a);
}

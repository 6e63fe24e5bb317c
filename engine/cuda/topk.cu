/* Selection of the k largest scores, ties to the lowest index (engine/cpu/topk.c is the rule): candidate blocks and
 * top-k. One block of threads per token. Only counts are made with atomics, so nothing depends on an order. */
#include "engine/cuda/compat.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/reduce.cuh"

enum {
    THREADS = 512,
    WARPS = THREADS / WARP,
    BINS = 2048, /* of a digit: 11, 11 and 10 bits */
    BINS_OF_THREAD = BINS / THREADS,
};

/* Bits that order like the floats: larger key, larger score. NaN and -inf are never selected and map to 0. */
static __device__ unsigned score_key(float score)
{
    if (!(score > -INFINITY))
        return 0;
    if (score == 0.0f)
        score = 0.0f; /* -0 ties with +0 */
    unsigned bits = __float_as_uint(score);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* Scores of one token as the selection sees them. */
typedef struct score_list {
    const float *score;
    const uint64_t *cand; /* kept blocks, or NULL */
    int block_size;
    int n;
} score_list;

static __device__ unsigned key_at(const score_list &l, int i)
{
    if (l.cand) {
        int b = i / l.block_size;
        if (!(l.cand[b / 64] >> (b % 64) & 1))
            return 0;
    }
    return score_key(l.score[i]);
}

/* The digit with the k-th largest of the keys counted in bins, and how many are in larger digits. All threads call. */
static __device__ void find_digit(const unsigned *bins, unsigned k, unsigned *ret_digit, unsigned *ret_above)
{
    SHARED(unsigned, part, [THREADS]);
    SHARED(unsigned, found, [2]);
    unsigned mine = 0, above = 0, t = threadIdx.x;
    for (int i = 0; i < BINS_OF_THREAD; i++)
        mine += bins[t * BINS_OF_THREAD + i];
    part[t] = mine;
    __syncthreads();
    for (unsigned i = t + 1; i < THREADS; i++)
        above += part[i];
    if (above < k && above + mine >= k) { /* one thread only */
        unsigned d = t * BINS_OF_THREAD + BINS_OF_THREAD - 1;
        while (above + bins[d] < k)
            above += bins[d--];
        found[0] = d;
        found[1] = above;
    }
    __syncthreads();
    *ret_digit = found[0];
    *ret_above = found[1];
}

/* The k-th largest key, k <= number of non-zero keys; *ret_above: how many are larger. All threads call. */
static __device__ unsigned kth_key(const score_list &l, unsigned k, unsigned *ret_above)
{
    SHARED(unsigned, bins, [BINS]);
    const int shift[3] = {21, 10, 0}, width[3] = {11, 11, 10};
    unsigned prefix = 0, mask = 0, above = 0;
    for (int d = 0; d < 3; d++) {
        for (int i = (int)threadIdx.x; i < BINS; i += THREADS)
            bins[i] = 0;
        __syncthreads();
        for (int i = (int)threadIdx.x; i < l.n; i += THREADS) {
            unsigned key = key_at(l, i);
            if (key && (key & mask) == prefix)
                atomicAdd(&bins[key >> shift[d] & ((1u << width[d]) - 1)], 1u);
        }
        __syncthreads();
        unsigned digit, more;
        find_digit(bins, k - above, &digit, &more);
        above += more;
        prefix |= digit << shift[d];
        mask |= ((1u << width[d]) - 1) << shift[d];
        __syncthreads();
    }
    *ret_above = above;
    return prefix;
}

/* What is taken: keys above `threshold`, and the first `ties` equal to it. */
typedef struct cut {
    unsigned threshold, ties;
} cut;

/* All threads call. */
static __device__ cut cut_at(const score_list &l, unsigned k)
{
    unsigned mine = 0;
    for (int i = (int)threadIdx.x; i < l.n; i += THREADS)
        mine += key_at(l, i) != 0;
    unsigned valid = block_sum(mine);
    cut c = {1, 0xffffffffu}; /* every valid key is at least 1 */
    if (valid > k) {
        unsigned above;
        c.threshold = kth_key(l, k, &above);
        c.ties = k - above;
    }
    return c;
}

/* A warp's share of the list: whole runs of 32, one warp after the other. */
static __device__ void share_of(int n, unsigned warp, int *ret_begin, int *ret_end)
{
    int per_warp = ((n + WARPS - 1) / WARPS + WARP - 1) / WARP * WARP;
    *ret_begin = min((int)warp * per_warp, n);
    *ret_end = min(*ret_begin + per_warp, n);
}

/* Numbers of keys above and at the threshold in each warp's share. */
static __device__ void count_shares(const score_list &l, const cut &c, unsigned (&above)[WARPS], unsigned (&at)[WARPS])
{
    int begin, end;
    unsigned n_above = 0, n_at = 0;
    share_of(l.n, warp_id(), &begin, &end);
    for (int i = begin + (int)lane_id(); i < end; i += WARP) {
        unsigned key = key_at(l, i);
        n_above += key > c.threshold;
        n_at += key == c.threshold;
    }
    n_above = warp_sum(n_above);
    n_at = warp_sum(n_at);
    if (lane_id() == 0) {
        above[warp_id()] = n_above;
        at[warp_id()] = n_at;
    }
    __syncthreads();
}

/* Calls take(i, rank) for each selected index, rank counting upward with the index; returns how many. All threads. */
template <class Take> static __device__ unsigned select_block(const score_list &l, unsigned k, const Take &take)
{
    SHARED(unsigned, above, [WARPS]);
    SHARED(unsigned, at, [WARPS]);
    cut c = cut_at(l, k);
    count_shares(l, c, above, at);
    unsigned rank = 0, ties = 0, total = 0, all_ties = 0;
    for (unsigned w = 0; w < WARPS; w++) {
        if (w == warp_id()) {
            rank = total + min(all_ties, c.ties);
            ties = all_ties;
        }
        total += above[w];
        all_ties += at[w];
    }
    int begin, end;
    share_of(l.n, warp_id(), &begin, &end);
    unsigned before = (1u << lane_id()) - 1;
    for (int base = begin; base < end; base += WARP) {
        int i = base + (int)lane_id();
        unsigned key = i < end ? key_at(l, i) : 0;
        unsigned tied = __ballot_sync(ALL_LANES, key == c.threshold);
        bool mine = key > c.threshold || (key == c.threshold && ties + __popc(tied & before) < c.ties);
        unsigned taken = __ballot_sync(ALL_LANES, mine);
        if (mine)
            take(i, rank + __popc(taken & before));
        rank += __popc(taken);
        ties += __popc(tied);
    }
    return total + min(all_ties, c.ties);
}

struct keep_bit {
    uint64_t *bits;
    __device__ void operator()(int i, unsigned rank) const
    {
        (void)rank;
        atomicOr((unsigned long long *)&bits[i / 64], 1ull << (i % 64));
    }
};

/* Level one: the best blocks; the newest visible one is always in. */
static __global__ void __launch_bounds__(THREADS) candidates(const em_cuda_candidates_args a)
{
    int64_t row = blockIdx.x, token = a.token_begin + row;
    int n = (a.step.pos[token] + 1) / a.ratio, n_blocks = (n + a.block_size - 1) / a.block_size;
    const float *score = a.scores + row * a.score_stride;
    float *best = a.block_score + row * a.block_stride;
    uint64_t *bits = a.cand + token * a.cand_words;
    for (int64_t i = threadIdx.x; i < a.cand_words; i += THREADS)
        bits[i] = 0;
    for (int b = (int)threadIdx.x; b < n_blocks; b += THREADS) {
        float top = -INFINITY;
        for (int j = b * a.block_size; j < n && j < (b + 1) * a.block_size; j++)
            top = score[j] > top ? score[j] : top;
        best[b] = b == n_blocks - 1 ? INFINITY : top;
    }
    __syncthreads();
    score_list list = {best, NULL, 1, n_blocks};
    keep_bit keep = {bits};
    select_block(list, (unsigned)a.topk_blocks, keep);
}

int em_cuda_candidates(em_cuda_stream s, const em_cuda_candidates_args *a)
{
    return a->n_rows ? LAUNCH(candidates, (unsigned)a->n_rows, THREADS, 0, s, *a) : 0;
}

struct write_index {
    int32_t *to;
    __device__ void operator()(int i, unsigned rank) const
    {
        to[rank] = i;
    }
};

static __global__ void __launch_bounds__(THREADS) select_topk(const em_cuda_select_args a)
{
    int64_t row = blockIdx.x, token = a.token_begin + row;
    int n = (a.step.pos[token] + 1) / a.ratio;
    score_list list = {a.scores + row * a.score_stride, a.cand ? a.cand + token * a.cand_words : NULL, a.block_size, n};
    write_index write = {a.topk + token * a.topk_stride};
    unsigned taken = select_block(list, (unsigned)a.k, write);
    if (threadIdx.x == 0)
        a.topk_n[token] = (int32_t)taken;
}

int em_cuda_select(em_cuda_stream s, const em_cuda_select_args *a)
{
    return a->n_rows ? LAUNCH(select_topk, (unsigned)a->n_rows, THREADS, 0, s, *a) : 0;
}

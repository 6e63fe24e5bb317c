/* Kernels without a model: sizes, values and layouts that tiny random models do not have. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/tiers.h"
#include "engine/formats.h"
#include "tests/cuda/kernels/twin.h"

static float rnd_float(model_rng *r)
{
    return (float)((double)(model_rng_next(r) >> 11) * 0x1p-52 - 1.0);
}

static float *rnd_floats(model_rng *r, int64_t n)
{
    float *p = dev_floats(n);
    for (int64_t i = 0; i < n; i++)
        p[i] = rnd_float(r);
    return p;
}

/* ---- products ---- */

static em_matrix rnd_matrix(model_rng *r, em_dtype dtype, int64_t rows, int64_t cols)
{
    em_matrix w = {.dtype = dtype, .rows = rows, .cols = cols};
    size_t bytes = (size_t)rows * em_matrix_row_bytes(&w);
    uint8_t *data = dev_alloc(bytes);
    for (int64_t i = 0; i < rows * cols; i++) {
        float v = rnd_float(r);
        uint16_t half = em_f32_to_bf16(v);
        if (dtype == EM_DTYPE_F32)
            memcpy(data + i * 4, &v, 4);
        else if (dtype == EM_DTYPE_BF16)
            memcpy(data + i * 2, &half, 2);
        else if (dtype == EM_DTYPE_FP8)
            data[i] = em_f32_to_e4m3(v * 400);
        else if (i % 2 == 0)
            data[i / 2] = (uint8_t)model_rng_next(r);
    }
    w.data = data;
    if (dtype != EM_DTYPE_FP8 && dtype != EM_DTYPE_FP4)
        return w;
    w.scale_rows = dtype == EM_DTYPE_FP4 ? 1 : model_rng_range(r, 0, 1) ? 32 : 5;
    w.scale_cols = model_rng_range(r, 0, 3) ? 32 : 96;
    w.scale_stride = (cols + w.scale_cols - 1) / w.scale_cols;
    int64_t n_scales = (rows + w.scale_rows - 1) / w.scale_rows * w.scale_stride;
    uint8_t *scale = dev_alloc((size_t)n_scales);
    for (int64_t i = 0; i < n_scales; i++)
        scale[i] = (uint8_t)(118 + model_rng_range(r, 0, 11));
    w.scale = scale;
    return w;
}

static void free_matrix(em_matrix *w)
{
    dev_free((void *)w->data);
    dev_free((void *)w->scale);
}

/* One element in double, from the weights as the plain C widens them; and what float sums in any order may be off. */
static double exact_element(const em_cuda_linear_job *j, int64_t m, int64_t o, const float *row, double *ret_tolerance)
{
    const float *x = j->x + m * j->x_stride + (o - j->row_begin) / j->rows_per_group * j->w.cols;
    double sum = 0, magnitude = 0;
    for (int64_t i = 0; i < j->w.cols; i++) {
        sum += (double)row[i] * (double)x[i];
        magnitude += fabs((double)row[i] * (double)x[i]);
    }
    *ret_tolerance = 1e-6 * magnitude;
    return sum;
}

/* One job with row ranges, groups and strides of its own. */
static em_cuda_linear_job rnd_job(model_rng *r, em_dtype dtype, int64_t cols, int32_t n_rows)
{
    int64_t rows = model_rng_range(r, 1, 70), groups;
    em_cuda_linear_job j = {.w = rnd_matrix(r, dtype, rows, cols), .n_rows = n_rows};
    j.row_begin = model_rng_range(r, 0, 1) ? 0 : model_rng_range(r, 0, (int)rows - 1);
    j.row_end = model_rng_range(r, 0, 1) ? rows : model_rng_range(r, (int)j.row_begin + 1, (int)rows);
    j.rows_per_group =
        model_rng_range(r, 0, 1) ? j.row_end - j.row_begin : model_rng_range(r, 1, (int)(j.row_end - j.row_begin));
    groups = (j.row_end - j.row_begin + j.rows_per_group - 1) / j.rows_per_group;
    j.x_stride = groups * cols + model_rng_range(r, 0, 2) * 2;
    j.y_stride = rows + model_rng_range(r, 0, 3);
    j.x = rnd_floats(r, n_rows * j.x_stride);
    j.y = dev_floats(n_rows * j.y_stride);
    return j;
}

static void free_job(em_cuda_linear_job *j)
{
    free_matrix(&j->w);
    dev_free((void *)j->x);
    dev_free(j->y);
}

/* What was not asked for must be as it was. */
static void expect_product(const em_cuda_linear_job *j)
{
    float *row = dev_floats(j->w.cols);
    for (int64_t o = 0; o < j->y_stride; o++) {
        bool asked = o >= j->row_begin && o < j->row_end;
        if (asked)
            em_ref_row_f32(&j->w, o, row);
        for (int64_t m = 0; m < j->n_rows; m++) {
            double got = (double)j->y[m * j->y_stride + o], allowed, want;
            if (!asked) {
                ck_assert_msg(isnan(got), "column %lld was written", (long long)o);
                continue;
            }
            want = exact_element(j, m, o, row, &allowed);
            ck_assert_msg(fabs(got - want) <= allowed, "row %lld of input %lld is %g, not %g", (long long)o,
                          (long long)m, got, want);
        }
    }
    dev_free(row);
}

void check_products(uint64_t seed)
{
    static const int cols[] = {2, 6, 8, 24, 32, 62, 64, 96, 248, 256, 264, 510, 512, 1024, 0};
    model_rng r = model_rng_init(seed, "products");
    for (int dtype = EM_DTYPE_F32; dtype <= EM_DTYPE_FP4; dtype++) {
        for (const int *c = cols; *c; c++) {
            em_cuda_linear_job jobs[EM_CUDA_MAX_JOBS];
            int n = model_rng_range(&r, 1, 3), m = model_rng_range(&r, 1, 3) == 1 ? 1 : model_rng_range(&r, 1, 19);
            set_context("dtype %d, %d columns, %d inputs", dtype, *c, m);
            next_order();
            for (int i = 0; i < n; i++)
                jobs[i] = rnd_job(&r, (em_dtype)dtype, *c - (dtype != EM_DTYPE_FP4 && i == 2), m);
            ck_assert_int_eq(em_cuda_linear(NULL, jobs, n, EM_CUDA_MATH_F32), 0);
            for (int i = 0; i < n; i++) {
                expect_product(&jobs[i]);
                free_job(&jobs[i]);
            }
        }
    }
}

/* The bits of one input's product are the same among others; bf16 mode is the product with rounded inputs. */
void check_product_bits(uint64_t seed)
{
    enum { MAX_M = 21 };
    model_rng r = model_rng_init(seed, "bits");
    for (int dtype = EM_DTYPE_F32; dtype <= EM_DTYPE_FP4; dtype++) {
        for (int wide = 0; wide < 2; wide++) {
            int64_t rows = 19, cols = wide ? 576 : 582;
            em_cuda_linear_job j = {.w = rnd_matrix(&r, (em_dtype)dtype, rows, cols),
                                    .row_end = rows,
                                    .rows_per_group = rows,
                                    .x = rnd_floats(&r, MAX_M * cols),
                                    .x_stride = cols,
                                    .y = dev_floats(MAX_M * rows),
                                    .y_stride = rows};
            float *alone = dev_floats(MAX_M * rows), *rounded = dev_copy_floats(j.x, MAX_M * cols);
            set_context("dtype %d, %d columns", dtype, (int)cols);
            for (int m = 0; m < MAX_M; m++) {
                em_cuda_linear_job one = j;
                one.x = j.x + m * cols;
                one.y = alone + m * rows;
                one.n_rows = 1;
                ck_assert_int_eq(em_cuda_linear(NULL, &one, 1, EM_CUDA_MATH_F32), 0);
            }
            for (j.n_rows = 2; j.n_rows <= MAX_M; j.n_rows += j.n_rows / 3 + 1) {
                next_order();
                ck_assert_int_eq(em_cuda_linear(NULL, &j, 1, EM_CUDA_MATH_F32), 0);
                expect_bits(j.y, alone, (size_t)(j.n_rows * rows) * 4, "a product among others");
            }
            j.n_rows = MAX_M;
            ck_assert_int_eq(em_cuda_linear(NULL, &j, 1, EM_CUDA_MATH_BF16), 0);
            for (int64_t i = 0; i < MAX_M * cols; i++)
                rounded[i] = em_bf16_to_f32(em_f32_to_bf16(rounded[i]));
            dev_free((void *)j.x);
            j.x = rounded;
            float *bf16 = j.y;
            j.y = alone;
            ck_assert_int_eq(em_cuda_linear(NULL, &j, 1, EM_CUDA_MATH_F32), 0);
            expect_bits(bf16, alone, (size_t)(MAX_M * rows) * 4, "a product with rounded inputs");
            dev_free(bf16);
            free_job(&j);
        }
    }
}

/* ---- selection ---- */

/* Scores with many ties, some of them infinite or no numbers. */
static void fill_scores(model_rng *r, float *score, int n)
{
    int kind = model_rng_range(r, 0, 4);
    for (int i = 0; i < n; i++) {
        float v = rnd_float(r);
        switch (kind) {
        case 0: v = floorf(v * 4); break;
        case 1: v = v < 0.9f ? 0.0f * v : v; break;
        case 2: v = ldexpf(v, model_rng_range(r, -100, 100)); break;
        case 3: v = model_rng_range(r, 0, 3) ? -INFINITY : model_rng_range(r, 0, 1) ? v : NAN; break;
        default: break;
        }
        score[i] = v;
    }
}

static em_cuda_step step_of(int32_t n_tokens, const int32_t *pos)
{
    return (em_cuda_step){.n_tokens = n_tokens, .pos = dev_copy(pos, (size_t)n_tokens * 4)};
}

void check_selection(uint64_t seed)
{
    static const int sizes[] = {0, 1, 2, 31, 32, 33, 511, 512, 513, 700, 3000};
    enum { ROWS = sizeof sizes / sizeof *sizes, STRIDE = 3007, SIZE = 8, WORDS = STRIDE / SIZE / 64 + 1 };
    model_rng r = model_rng_init(seed, "selection");
    for (int round = 0; round < 12; round++) {
        int k = round % 3 == 0 ? 512 : model_rng_range(&r, 1, 40);
        int32_t pos[ROWS], want[STRIDE];
        float *scores = dev_floats(ROWS * STRIDE);
        uint64_t *cand = round % 2 ? dev_alloc(ROWS * WORDS * 8) : NULL;
        for (int i = 0; i < ROWS; i++) {
            pos[i] = sizes[i] - 1;
            fill_scores(&r, scores + i * STRIDE, sizes[i]);
        }
        for (int i = 0; cand && i < ROWS * WORDS; i++)
            cand[i] = model_rng_next(&r);
        em_cuda_select_args a = {.step = step_of(ROWS, pos),
                                 .scores = scores,
                                 .score_stride = STRIDE,
                                 .cand = cand,
                                 .cand_words = WORDS,
                                 .topk = dev_alloc((size_t)(ROWS * k) * 4),
                                 .topk_n = dev_alloc(ROWS * 4),
                                 .topk_stride = k,
                                 .n_rows = ROWS,
                                 .ratio = 1,
                                 .block_size = SIZE,
                                 .k = k};
        next_order();
        ck_assert_int_eq(em_cuda_select(NULL, &a), 0);
        for (int i = 0; i < ROWS; i++) {
            float *row = scores + i * STRIDE;
            for (int j = 0; cand && j < sizes[i]; j++)
                row[j] = cand[i * WORDS + j / SIZE / 64] >> (j / SIZE % 64) & 1 ? row[j] : -INFINITY;
            int32_t n = em_topk_select(row, sizes[i], k, want);
            ck_assert_int_eq(a.topk_n[i], n);
            set_context("round %d, %d scores, k %d", round, sizes[i], k);
            expect_bits(a.topk + i * k, want, (size_t)n * 4, "selection");
        }
        dev_free((void *)a.step.pos);
        dev_free(scores);
        dev_free(cand);
        dev_free(a.topk);
        dev_free(a.topk_n);
    }
}

void check_argmax(uint64_t seed)
{
    static const int sizes[] = {1, 31, 1000, 1024, 1025, 5000};
    model_rng r = model_rng_init(seed, "argmax");
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int n = sizes[s], rows = 5;
        float *logits = rnd_floats(&r, (int64_t)rows * n);
        int32_t *id = dev_alloc((size_t)rows * 4);
        for (int i = 0; i < n; i++) {
            logits[n + i] = floorf(logits[n + i] * 3); /* ties */
            logits[2 * n + i] = NAN;
            logits[3 * n + i] = i == n / 2 ? -1e30f : -INFINITY;
        }
        em_cuda_argmax_args a = {.logits = logits, .id = id, .n_rows = rows, .vocab = n};
        next_order();
        ck_assert_int_eq(em_cuda_argmax(NULL, &a), 0);
        for (int row = 0; row < rows; row++) {
            int want = 0;
            float best = -INFINITY;
            for (int i = 0; i < n; i++) {
                if (logits[row * n + i] > best) {
                    best = logits[row * n + i];
                    want = i;
                }
            }
            ck_assert_int_eq(id[row], want);
        }
        dev_free(logits);
        dev_free(id);
    }
}

/* ---- attention ---- */

enum { WINDOW = 7, TOPK = 140, HEADS = 11, PAIRS = 4, TOKENS = 3, RATIO = 2, BLOCK_TOKENS = 8, N_BLOCKS = 80 };

/* A sequence that has `pos` tokens and gets TOKENS more; all state random codes. */
static em_cuda_attend_args attend_case(model_rng *r, int D, int32_t pos, bool packed)
{
    int64_t comp_row = packed ? D / 2 + D / 16 : D * 4, window_row = packed ? D + D / 32 : D * 4;
    int32_t rows = BLOCK_TOKENS / RATIO, n_pos[TOKENS], zero[TOKENS] = {0}, one = 1, len = TOKENS;
    em_cuda_state st = {.slot_bytes = WINDOW * window_row * 2,
                        .block_bytes = rows * comp_row,
                        .window = WINDOW,
                        .block_tokens = BLOCK_TOKENS,
                        .head_dim = D,
                        .index_head_dim = 32,
                        .window_row = (int32_t)window_row,
                        .comp_row = (int32_t)comp_row,
                        .pack_window = packed,
                        .pack_comp = packed};
    int32_t *topk = dev_alloc(TOKENS * TOPK * 4), *topk_n = dev_alloc(TOKENS * 4);
    em_cuda_attend_args a = {.topk = topk,
                             .topk_n = topk_n,
                             .topk_stride = TOPK,
                             .attn_sink = rnd_floats(r, HEADS),
                             .q = rnd_floats(r, (int64_t)TOKENS * HEADS * D),
                             .layer = 1,
                             .n_heads = HEADS,
                             .source = {.ratio = RATIO}};
    float *cos = rnd_floats(r, TOKENS * PAIRS), *sin = rnd_floats(r, TOKENS * PAIRS), *row = dev_floats(D);
    st.slots = dev_alloc((size_t)st.slot_bytes * 2);
    st.blocks = dev_alloc((size_t)st.block_bytes * N_BLOCKS);
    uint8_t *win = dev_alloc((size_t)(TOKENS * window_row));
    for (int64_t i = 0; i < 4 * WINDOW + TOKENS + N_BLOCKS * rows; i++) {
        uint8_t *to = i < 4 * WINDOW            ? st.slots + i * window_row
                      : i < 4 * WINDOW + TOKENS ? win + (i - 4 * WINDOW) * window_row
                                                : st.blocks + (i - 4 * WINDOW - TOKENS) * comp_row;
        for (int d = 0; d < D; d++)
            row[d] = rnd_float(r);
        if (!packed)
            memcpy(to, row, (size_t)D * 4);
        else if (i < 4 * WINDOW + TOKENS)
            em_ref_enc_e4m3_b32(row, D, to, to + D);
        else
            em_ref_enc_e2m1_b16(row, D, to, to + D / 2);
    }
    int32_t *table = dev_alloc(N_BLOCKS * 4);
    for (int i = 0; i < N_BLOCKS; i++)
        table[i] = (i * 7 + 3) % N_BLOCKS;
    for (int t = 0; t < TOKENS; t++) {
        n_pos[t] = pos + t;
        int32_t n = 0;
        for (int32_t j = 0; j < (pos + t + 1) / RATIO && n < TOPK - t; j++)
            if (model_rng_range(r, 0, 5))
                topk[t * TOPK + n++] = j;
        topk_n[t] = n;
    }
    a.step = (em_cuda_step){.n_tokens = TOKENS,
                            .n_seqs = 1,
                            .pos = dev_copy(n_pos, sizeof n_pos),
                            .seq_of = dev_copy(zero, sizeof zero),
                            .run_start = dev_copy(zero, 4),
                            .run_pos = dev_copy(&pos, 4),
                            .run_len = dev_copy(&len, 4),
                            .slot = dev_copy(&one, 4),
                            .block_table = table,
                            .block_stride = N_BLOCKS};
    a.state = st;
    a.win = win;
    a.rope = (em_cuda_rope){cos, sin, PAIRS};
    dev_free(row);
    return a;
}

/* Row i of a token's list. */
static void row_values(const em_cuda_attend_args *a, int token, int32_t i, int32_t n_win, float *x)
{
    const em_cuda_state *st = &a->state;
    int32_t D = st->head_dim, pos = a->step.pos[token] + 1 - n_win + i, rows = BLOCK_TOKENS / RATIO;
    const uint8_t *row;
    if (i < n_win) {
        row = pos >= a->step.run_pos[0] ? a->win + (pos - a->step.run_pos[0]) * st->window_row
                                        : st->slots + st->slot_bytes + (WINDOW + pos % WINDOW) * st->window_row;
    } else {
        int32_t j = a->topk[token * TOPK + i - n_win];
        row = st->blocks + a->step.block_table[j / rows] * st->block_bytes + j % rows * st->comp_row;
    }
    if (!st->pack_window)
        memcpy(x, row, (size_t)D * 4);
    else if (i < n_win)
        em_ref_dec_e4m3_b32(row, row + D, D, x);
    else
        em_ref_dec_e2m1_b16(row, row + D / 2, D, x);
}

/* One head in double: the definition. */
static void plain_attention(const em_cuda_attend_args *a, const float *q_in, int token, int head, float *out)
{
    int32_t D = a->state.head_dim, n_win = a->step.pos[token] + 1 < WINDOW ? a->step.pos[token] + 1 : WINDOW;
    int32_t n = n_win + a->topk_n[token];
    float *q = dev_copy_floats(q_in, D), *x = dev_floats(D);
    double *o = calloc((size_t)D, sizeof *o), *score = calloc((size_t)n, sizeof *score), top = a->attn_sink[head], sum;
    em_rope_apply(q + D - 2 * PAIRS, a->rope.cos + token * PAIRS, a->rope.sin + token * PAIRS, PAIRS, false);
    for (int32_t i = 0; i < n; i++) {
        row_values(a, token, i, n_win, x);
        for (int32_t d = 0; d < D; d++)
            score[i] += (double)q[d] * (double)x[d] / sqrt(D);
        top = score[i] > top ? score[i] : top;
    }
    sum = exp(a->attn_sink[head] - top);
    for (int32_t i = 0; i < n; i++) {
        double p = exp(score[i] - top);
        sum += p;
        row_values(a, token, i, n_win, x);
        for (int32_t d = 0; d < D; d++)
            o[d] += p * (double)x[d];
    }
    for (int32_t d = 0; d < D; d++)
        out[d] = (float)(o[d] / sum);
    em_rope_apply(out + D - 2 * PAIRS, a->rope.cos + token * PAIRS, a->rope.sin + token * PAIRS, PAIRS, true);
    free(o);
    free(score);
    dev_free(q);
    dev_free(x);
}

static void attend_once(em_cuda_attend_args *a)
{
    int32_t D = a->state.head_dim;
    int64_t n = (int64_t)TOKENS * HEADS * D;
    float *q = dev_copy_floats(a->q, n), *want = dev_floats(D);
    next_order();
    ck_assert_int_eq(em_cuda_attend(NULL, a), 0);
    for (int t = 0; t < TOKENS; t++) {
        for (int h = 0; h < HEADS; h++) {
            plain_attention(a, q + (t * HEADS + h) * D, t, h, want);
            expect_floats(a->q + (t * HEADS + h) * D, want, D, 2e-5, "attention");
        }
    }
    float *whole = a->q;
    a->q = q;
    a->part = dev_floats(em_cuda_attend_part_floats(TOKENS, HEADS, D, WINDOW, TOPK));
    a->part_tokens = TOKENS;
    next_order();
    ck_assert_int_eq(em_cuda_attend(NULL, a), 0);
    expect_bits(a->q, whole, (size_t)n * 4, "attention in parts");
    dev_free(whole);
    dev_free(want);
}

void check_attention(uint64_t seed)
{
    static const struct {
        int D;
        int32_t pos;
        bool packed;
    } cases[] = {{64, 0, true},    {512, 500, true}, {256, 3, true},    {1024, 60, true},
                 {34, 300, false}, {130, 40, false}, {510, 120, false}, {1000, 7, false}};
    model_rng r = model_rng_init(seed, "attention");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        set_context("head_dim %d, position %d", cases[i].D, cases[i].pos);
        em_cuda_attend_args a = attend_case(&r, cases[i].D, cases[i].pos, cases[i].packed);
        attend_once(&a);
        const void *all[] = {a.topk,
                             a.topk_n,
                             a.attn_sink,
                             a.q,
                             a.part,
                             a.rope.cos,
                             a.rope.sin,
                             a.win,
                             a.state.slots,
                             a.state.blocks,
                             a.step.pos,
                             a.step.seq_of,
                             a.step.run_start,
                             a.step.run_pos,
                             a.step.run_len,
                             a.step.slot,
                             a.step.block_table};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++)
            dev_free((void *)all[j]);
    }
}

/* ---- quantisers ---- */

/* Blocks of all kinds of values, among them infinities and no numbers. */
static void fill_rows(model_rng *r, float *x, int64_t n)
{
    for (int64_t b = 0; b < n; b += 16) {
        int kind = model_rng_range(r, 0, 9), e = model_rng_range(r, -60, 60);
        for (int64_t i = b; i < b + 16 && i < n; i++) {
            float v = rnd_float(r);
            x[i] = kind == 0   ? 0.0f * v
                   : kind == 1 ? ldexpf(v, e)
                   : kind == 2 ? (float)model_rng_range(r, -12, 12) * 0.25f
                   : kind == 3 ? v * 0x1p-127f
                   : kind == 4 ? (model_rng_range(r, 0, 7) ? v : NAN)
                   : kind == 5 ? (model_rng_range(r, 0, 15) ? v : INFINITY)
                   : kind == 6 ? v * 0x1p-9f
                               : v * 3;
        }
    }
}

/* No norm (weights and statistic of one are applied on the CPU first), no rotation: rows as they are. */
static void window_rows(model_rng *r, int D)
{
    enum { N = 9 };
    int row = D + D / 32;
    em_cuda_state st = {.head_dim = D, .window_row = row, .pack_window = true};
    float *kv = rnd_floats(r, N * D), *lat = rnd_floats(r, N * 3), *x = dev_floats(D);
    float *norm = dev_floats(D);
    em_cuda_window_args a = {.state = st,
                             .kv = kv,
                             .kv_norm = norm,
                             .win = dev_alloc((size_t)(N * row)),
                             .q_lat = lat,
                             .n_tokens = N,
                             .q_rank = 3,
                             .norm_eps = 1e-20f};
    fill_rows(r, norm, D); /* the weights carry the values: x / rms is near one */
    next_order();
    ck_assert_int_eq(em_cuda_window(NULL, &a), 0);
    uint8_t *want = dev_alloc((size_t)row);
    for (int i = 0; i < N; i++) {
        float mean = em_ref_sum_sq(kv + i * D, D) / (float)D;
        em_ref_scale_mul(x, kv + i * D, norm, 1.0f / sqrtf(mean + 1e-20f), D);
        em_ref_enc_e4m3_b32(x, D, want, want + D);
        count_codes(a.win + i * row, want, (size_t)row);
    }
    dev_free(kv);
    dev_free(lat);
    dev_free(x);
    dev_free(norm);
    dev_free(a.win);
    dev_free(want);
}

/* Index queries go to the grid and back, bit for bit. */
static void query_rows(model_rng *r, int width)
{
    enum { N = 40 };
    float *q = dev_floats(N * width), *want = dev_floats(width);
    uint8_t *codes = dev_alloc((size_t)width);
    fill_rows(r, q, N * width);
    float *got = dev_copy_floats(q, N * width);
    em_cuda_index_query_args a = {
        .state = {.index_head_dim = width, .pack_key = true}, .index_q = got, .n_tokens = N / 4, .n_heads = 4};
    next_order();
    ck_assert_int_eq(em_cuda_index_query(NULL, &a), 0);
    for (int i = 0; i < N; i++) {
        em_ref_enc_e2m1_b32(q + i * width, width, codes, codes + width / 2);
        em_ref_dec_e2m1_b32(codes, codes + width / 2, width, want);
        expect_floats(got + i * width, want, width, 0, "index query");
    }
    dev_free(q);
    dev_free(want);
    dev_free(codes);
    dev_free(got);
}

/* Compressed rows and keys: one token, one group, weights that carry the values. */
static void stored_rows(model_rng *r, int D, int I)
{
    int32_t zero = 0, one = 1;
    int comp = D / 2 + D / 16, key = I / 2 + I / 32;
    em_cuda_state st = {.block_bytes = comp + key,
                        .block_tokens = 1,
                        .head_dim = D,
                        .index_head_dim = I,
                        .comp_row = comp,
                        .key_row = key,
                        .pack_comp = true,
                        .pack_key = true};
    st.blocks = dev_alloc((size_t)(comp + key));
    float *latent = dev_floats(D), *index_key = dev_floats(I), *norm = dev_floats(I), *x = dev_floats(I);
    fill_rows(r, latent, D);
    fill_rows(r, norm, I);
    for (int i = 0; i < I; i++)
        index_key[i] = i % 2 ? 1.0f : -1.0f; /* its norm is exactly one */
    uint8_t *want = dev_alloc((size_t)(comp + key));
    em_ref_enc_e2m1_b16(latent, D, want, want + D / 2);
    for (int i = 0; i < I; i++)
        x[i] = norm[i] * index_key[i];
    em_ref_enc_e2m1_b32(x, I, want + comp, want + comp + I / 2);
    em_cuda_comp_store_args a = {.step = {.n_tokens = 1,
                                          .n_seqs = 1,
                                          .pos = &zero,
                                          .seq_of = &zero,
                                          .run_start = &zero,
                                          .run_pos = &zero,
                                          .run_len = &one,
                                          .slot = &zero,
                                          .block_table = &zero},
                                 .state = st,
                                 .source = {.key_off = comp, .ratio = 1},
                                 .index_k_norm = norm,
                                 .latent = latent,
                                 .index_key = index_key,
                                 .norm_eps = 0};
    next_order();
    ck_assert_int_eq(em_cuda_comp_store(NULL, &a), 0);
    expect_bits(st.blocks, want, (size_t)(comp + key), "compressed row and key");
    dev_free(st.blocks);
    dev_free(latent);
    dev_free(index_key);
    dev_free(norm);
    dev_free(x);
    dev_free(want);
}

void check_quantisers(uint64_t seed)
{
    static const int widths[] = {32, 96, 512, 544};
    model_rng r = model_rng_init(seed, "quantisers");
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        set_context("rows of %d", widths[i]);
        window_rows(&r, widths[i]);
        query_rows(&r, widths[i]);
        for (int n = 0; n < 10; n++)
            stored_rows(&r, widths[i] + 16 * (n % 2), 32 + 32 * (n % 5));
    }
}

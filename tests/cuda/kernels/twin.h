/* Kernels beside the CPU backend: a stage is computed by both from the same inputs, and everything it leaves is compared.
 *
 * Device memory is plain memory here: exact in size, so that the address sanitizer sees every access outside, and with
 * known bytes behind it, so that a build without it sees writes. */
#ifndef EM_TESTS_CUDA_TWIN_H
#define EM_TESTS_CUDA_TWIN_H

#include <stddef.h>

#include "engine/cuda/kernels.h"
#include "tests/cuda/emu/grid.h"
#include "tests/model/rig.h"
#include "tests/tools/model_writer.h"

/* ---- memory ---- */

void *dev_alloc(size_t bytes);               /* filled with 0xff: NaN */
void *dev_copy(const void *p, size_t bytes); /* of host data */
void *dev_free(void *p);                     /* fails the test when something behind was written; NULL is fine */

static inline float *dev_floats(int64_t n)
{
    return dev_alloc((size_t)n * sizeof(float));
}

static inline float *dev_copy_floats(const float *p, int64_t n)
{
    return dev_copy(p, (size_t)n * sizeof(float));
}

/* ---- comparing: the test fails with a line that names what, where and the model ---- */

void set_context(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* |got - want| <= rel * the largest magnitude of want + 1e-7. */
void expect_floats(const float *got, const float *want, int64_t n, double rel, const char *what);
void expect_bits(const void *got, const void *want, size_t bytes, const char *what);
/* Packed codes: at most one in a thousand may differ, by a rounding that went the other way; counted over the run. */
void count_codes(const uint8_t *got, const uint8_t *want, size_t bytes);
void check_codes_counted(void);

/* ---- one model, one step ---- */

typedef struct twin {
    rig r;
    em_cuda_step step; /* of the CPU's batch */
    em_cuda_state state;
    em_cuda_rope rope_main, rope_comp;
    int32_t *token, *run_len, *run_pos, *slot, *table; /* owned by step */
    uint8_t *slots, *blocks;                           /* the kernels' copy of the state */
} twin;

/* The step that begin was called with; its rotary tables are compared with the CPU's. */
void twin_begin(twin *t, const em_batch *batch);
void twin_end(twin *t);
/* The kernels' state becomes the CPU's. */
void twin_take_state(twin *t);
/* The other way round: compares it with the CPU's. */
void twin_compare_state(twin *t);
em_cuda_source twin_source(const twin *t, int32_t source); /* -1: ratio 0 */

/* As the CPU wants it (engine/cpu/pack.h); the caller frees data. */
em_matrix pack_matrix(const em_matrix *w);
/* Job over all rows and tokens. */
em_cuda_linear_job twin_job(const twin *t, const em_matrix *w, const float *x, int64_t x_stride, float *y);
/* The same product on the CPU into dst (one of its buffers), then here from its input; compares. */
void twin_linear(twin *t, const em_matrix *w, const float *x, int64_t x_stride, float *dst, int64_t n_rows,
                 const char *what);

/* ---- stages: each calls the CPU backend's and compares ---- */

void twin_embed(twin *t);
void twin_engram(twin *t, int32_t layer, const em_engram_rows *rows);
void twin_hc_pre(twin *t, int32_t layer, em_site site);
void twin_hc_post(twin *t, int32_t layer, em_site site);
void twin_attention(twin *t, int32_t layer);
void twin_moe(twin *t, int32_t layer);
void twin_head(twin *t);

/* ---- checks without a model ---- */

void check_products(uint64_t seed);
void check_product_bits(uint64_t seed);
void check_selection(uint64_t seed);
void check_argmax(uint64_t seed);
void check_attention(uint64_t seed);
void check_quantisers(uint64_t seed);

/* One order of threads and blocks after the other. */
void next_order(void);

#endif

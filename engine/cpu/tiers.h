/* What the files of the kernel library show each other: the plain C kernels and the functions that overwrite a table
 * with one tier. Everyone else uses the table (kernels.h). */
#ifndef EM_CPU_TIERS_H
#define EM_CPU_TIERS_H

#include "engine/cpu/kernels.h"

void em_ref_gemm(const em_matrix *w, int64_t row_begin, int64_t row_end, const float *x, int64_t x_stride,
                 int64_t n_rows, float *y, int64_t y_stride);
void em_ref_gemm_rows(const em_matrix *w, int64_t row_begin, int64_t row_end, const float *x, int64_t x_stride,
                      int64_t n_rows, float *y, int64_t y_stride);
float em_ref_dot(const float *a, const float *b, int64_t n);
void em_ref_axpy(float *y, float a, const float *x, int64_t n);
void em_ref_add_rows(float *y, const float *a, const float *rows, int64_t n_rows, int64_t n);
float em_ref_sum_sq(const float *x, int64_t n);
void em_ref_scale_mul(float *y, const float *x, const float *w, float s, int64_t n);
void em_ref_swiglu(float *out, const float *g, const float *u, float limit, float weight, int64_t n);
float em_ref_exp_sum(float *x, float max, int64_t n);
float em_ref_max(const float *x, int64_t n);
void em_ref_row_f32(const em_matrix *w, int64_t row, float *y);
void em_ref_enc_e4m3_b32(const float *x, int64_t n, uint8_t *codes, uint8_t *scales);
void em_ref_dec_e4m3_b32(const uint8_t *codes, const uint8_t *scales, int64_t n, float *y);
void em_ref_enc_e2m1_b32(const float *x, int64_t n, uint8_t *codes, uint8_t *scales);
void em_ref_dec_e2m1_b32(const uint8_t *codes, const uint8_t *scales, int64_t n, float *y);
void em_ref_enc_e2m1_b16(const float *x, int64_t n, uint8_t *codes, uint8_t *scales);
void em_ref_dec_e2m1_b16(const uint8_t *codes, const uint8_t *scales, int64_t n, float *y);

extern const float em_e8m0_table[256];      /* em_e8m0_to_f32 of every code */
extern const float em_e4m3_table[256];      /* em_e4m3_to_f32 of every code */
extern const float em_e2m1_scaled[256][16]; /* E2M1 value of a code times each of those; 64-byte aligned */

/* Each overwrites what it does better and sets the table's name. */
void em_kernels_init_avx2(em_kernels *k);
void em_kernels_init_avx512(em_kernels *k);

#endif

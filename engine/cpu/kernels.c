/* The kernel table: plain C first, then overwritten by what the flags allow. */
#include "engine/cpu/kernels.h"

#include "engine/cpu/tiers.h"

static const em_kernels plain_c = {
    .name = "c",
    .gemm = {em_ref_gemm, em_ref_gemm, em_ref_gemm, em_ref_gemm},
    .gemm_rows = em_ref_gemm_rows,
    .dot = em_ref_dot,
    .axpy = em_ref_axpy,
    .add_rows = em_ref_add_rows,
    .sum_sq = em_ref_sum_sq,
    .scale_mul = em_ref_scale_mul,
    .swiglu = em_ref_swiglu,
    .exp_sum = em_ref_exp_sum,
    .max = em_ref_max,
    .row_f32 = em_ref_row_f32,
    .enc_e4m3_b32 = em_ref_enc_e4m3_b32,
    .dec_e4m3_b32 = em_ref_dec_e4m3_b32,
    .enc_e2m1_b32 = em_ref_enc_e2m1_b32,
    .dec_e2m1_b32 = em_ref_dec_e2m1_b32,
    .enc_e2m1_b16 = em_ref_enc_e2m1_b16,
    .dec_e2m1_b16 = em_ref_dec_e2m1_b16,
};

void em_kernels_init(em_kernels *k, unsigned flags)
{
    *k = plain_c;
#ifdef EM_HAVE_X86_TIERS
    if (flags & EM_CPU_AVX2)
        em_kernels_init_avx2(k);
    if (flags & EM_CPU_AVX512)
        em_kernels_init_avx512(k);
#endif
}

/* The AVX2 tier's table. */
#include "engine/cpu/avx2.h"

void em_kernels_init_avx2(em_kernels *k)
{
    k->name = "avx2";
    em_avx2_gemm_init(k);
    em_avx2_strips_init(k);
    em_avx2_vec_init(k);
    em_avx2_codes_init(k);
}
